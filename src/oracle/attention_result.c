#include "oracle/attention_result.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/plain.h"
#include "oracle/verdict.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- the yardstick ---------------------------------------------------------------------------- */

fb_status fb_attention_plain(const void *context, fb_dtype precision, float *result) {
    const fb_attention_result *c = context;
    const fb_attention_problem *p = c->problem;
    size_t other_count = c->lse ? fb_attention_problem_values(p) : fb_attention_problem_rows(p);
    float *other = NULL;
    FB_TRY(fb_alloc(other_count, sizeof *other, "plain attention", &other));
    fb_status status = c->lse ? fb_attention_problem_plain(p, precision, other, result)
                              : fb_attention_problem_plain(p, precision, result, other);
    fb_free(other);
    return status;
}

/* --- names ------------------------------------------------------------------------------------ */

/* A row, from the flat index of one of its elements. */
typedef struct row_index {
    size_t b, query, head, kv_head;
} row_index;

static row_index row_of(const fb_attention_result *c, size_t index) {
    const fb_attention_problem *p = c->problem;
    size_t row = c->lse ? index : index / p->head_dim;
    row_index r = {.b = row / (p->queries * p->heads)};
    bool by_head = c->lse && !p->lse_by_token;
    r.query = by_head ? row % p->queries : row / p->heads % p->queries;
    r.head = by_head ? row / p->queries % p->heads : row % p->heads;
    r.kv_head = r.head / (p->heads / p->kv_heads);
    return r;
}

/* Some queries of one entry of the batch, and their values, which are the caller's to free. */
static fb_status cut(const fb_attention_result *c, size_t b, size_t first, size_t tokens,
                     const float *values, fb_attention_problem *part, float **cut_values) {
    const fb_attention_problem *p = c->problem;
    size_t width = c->lse ? 1 : p->head_dim, row = p->heads * width;
    const float *entry = values + b * p->queries * row;
    *part = fb_attention_problem_cut(p, b, first, tokens);
    FB_TRY(fb_alloc(tokens * row, sizeof **cut_values, "cut result", cut_values));
    if (!c->lse || p->lse_by_token)
        memcpy(*cut_values, entry + first * row, tokens * row * sizeof *entry);
    else
        for (size_t h = 0; h < p->heads; h++)
            memcpy(*cut_values + h * tokens, entry + h * p->queries + first,
                   tokens * sizeof *entry);
    return FB_OK;
}

static fb_status name_values(const fb_attention_result *c, const fb_attention_problem *p,
                             const float *values, fb_dtype precision, char *words, size_t size) {
    const fb_dims shape = FB_DIMS(fb_attention_problem_rows(p), c->lse ? 1 : p->head_dim);
    fb_candidate *candidate = NULL;
    fb_trial *trial = NULL;
    FB_TRY(fb_candidate_of_values(c->lse ? "lse" : "out", precision, &shape, values, &candidate));
    fb_status status = fb_trial_of_attention(p, "out", "lse", candidate, &trial);
    if (status == FB_OK)
        status = fb_trial_name(trial, fb_candidate_arithmetic(candidate), words, size);
    fb_trial_free(trial);
    fb_candidate_close(candidate);
    return status;
}

fb_status fb_attention_name(const void *context, const float *values, const fb_finding *finding,
                            char *words, size_t size) {
    const fb_attention_result *c = context;
    const fb_attention_problem *p = c->problem;
    if (fb_attention_problem_values(p) < FB_TRIAL_MAX_VALUES)
        return name_values(c, p, values, finding->precision, words, size);
    size_t count = fb_dims_count(&finding->shape), worst = finding->errors.worst;
    row_index row = row_of(c, worst < count ? worst : 0);
    size_t tokens = fb_trial_tokens(p->keys, p->heads * p->head_dim);
    tokens = tokens < p->queries ? tokens : p->queries;
    size_t first = row.query + tokens <= p->queries ? row.query : p->queries - tokens;
    fb_attention_problem part;
    float *cut_values = NULL;
    FB_TRY(cut(c, row.b, first, tokens, values, &part, &cut_values));
    fb_status status = name_values(c, &part, cut_values, finding->precision, words, size);
    fb_free(cut_values);
    return status;
}

/* --- details ---------------------------------------------------------------------------------- */

/* The scores of a row in double precision, summed up. */
typedef struct row_scores {
    double first[3], max, sum; /* sum of exp(score - max) */
    size_t seen, best;
} row_scores;

static double score_of(const fb_attention_problem *p, const row_index *r, size_t key) {
    size_t q_row = (r->b * p->queries + r->query) * p->heads + r->head;
    size_t k_row = (r->b * p->keys + key) * p->kv_heads + r->kv_head;
    const float *q = p->q + q_row * p->head_dim, *k = p->k + k_row * p->head_dim;
    double sum = 0.0;
    for (size_t d = 0; d < p->head_dim; d++)
        sum += (double)q[d] * (double)k[d];
    return sum * p->scale;
}

static row_scores scores_of(const fb_attention_problem *p, const row_index *r) {
    row_scores s = {.max = -INFINITY};
    for (size_t key = 0; key < fb_attention_problem_keys(p, r->b); key++) {
        if (!fb_plain_sees(&p->mask, r->query, key))
            continue;
        double score = score_of(p, r, key);
        if (s.seen < 3)
            s.first[s.seen] = score;
        s.seen++;
        if (score > s.max) { /* the sum so far shrinks */
            s.sum = s.sum > 0.0 ? s.sum * exp(s.max - score) : 0.0;
            s.max = score;
            s.best = key;
        }
        s.sum += exp(score - s.max);
    }
    return s;
}

fb_status fb_attention_explain(const void *context, size_t index, char *text, size_t size) {
    const fb_attention_result *c = context;
    row_index r = row_of(c, index);
    row_scores s = scores_of(c->problem, &r);
    int used = snprintf(text, size, "batch %zu, query %zu, head %zu, KV head %zu", r.b, r.query,
                        r.head, r.kv_head);
    if (used < 0 || (size_t)used >= size)
        return FB_OK;
    text += used;
    size -= (size_t)used;
    if (s.seen == 0)
        snprintf(text, size, ": sees no key, LSE -inf");
    else
        snprintf(text, size,
                 ": scores %.9g, %.9g, %.9g, ... of %zu keys; maximum %.9g at key %zu; row sum of "
                 "exp(score - maximum) %.9g; LSE %.9g",
                 s.first[0], s.first[1], s.first[2], s.seen, s.max, s.best, s.sum,
                 s.max + log(s.sum));
    return FB_OK;
}

#include "oracle/attention_mistakes.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/plain.h"

#include <math.h>
#include <stdio.h>

static fb_status varied(const fb_attention_result *context, const fb_attention_variation *v,
                        double *result, size_t count) {
    const fb_attention_problem *p = context->problem;
    size_t other_count =
        context->lse ? fb_attention_problem_values(p) : fb_attention_problem_rows(p);
    double *other = NULL;
    (void)count;
    FB_TRY(fb_alloc(other_count, sizeof *other, "attention truth", &other));
    fb_status status = context->lse ? fb_attention_problem_vary(p, v, other, result)
                                    : fb_attention_problem_vary(p, v, result, other);
    fb_free(other);
    return status;
}

static fb_status scale_twice(const void *context, double *result, size_t count) {
    const fb_attention_result *c = context;
    fb_attention_variation v = fb_attention_problem_right(c->problem);
    v.scale *= v.scale;
    return varied(c, &v, result, count);
}

static fb_status no_scale(const void *context, double *result, size_t count) {
    const fb_attention_result *c = context;
    fb_attention_variation v = fb_attention_problem_right(c->problem);
    v.scale = 1.0;
    return varied(c, &v, result, count);
}

static fb_status wrong_kv_head(const void *context, double *result, size_t count) {
    const fb_attention_result *c = context;
    const fb_attention_problem *p = c->problem;
    if (p->kv_heads == 1 || p->kv_heads == p->heads)
        return FB_ERROR_UNSUPPORTED;
    fb_attention_variation v = fb_attention_problem_right(p);
    v.wrong_heads = true;
    return varied(c, &v, result, count);
}

static fb_status causal_top_left(const void *context, double *result, size_t count) {
    const fb_attention_result *c = context;
    fb_attention_variation v = fb_attention_problem_right(c->problem);
    if (v.mask.kind != FB_MASK_NONE)
        return FB_ERROR_UNSUPPORTED;
    v.mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, 1, 0, 0};
    return varied(c, &v, result, count);
}

static fb_status causal_bottom_right(const void *context, double *result, size_t count) {
    const fb_attention_result *c = context;
    const fb_attention_problem *p = c->problem;
    fb_attention_variation v = fb_attention_problem_right(p);
    if (v.mask.kind != FB_MASK_NONE || p->queries == 1 || p->queries > p->keys)
        return FB_ERROR_UNSUPPORTED;
    v.mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, 1, p->keys - p->queries, 0};
    return varied(c, &v, result, count);
}

static fb_status not_masked(const void *context, double *result, size_t count) {
    const fb_attention_result *c = context;
    fb_attention_variation v = fb_attention_problem_right(c->problem);
    if (v.mask.kind == FB_MASK_NONE)
        return FB_ERROR_UNSUPPORTED;
    v.mask.kind = FB_MASK_NONE;
    return varied(c, &v, result, count);
}

static fb_status causal_in_block(const void *context, double *result, size_t count) {
    const fb_attention_result *c = context;
    fb_attention_variation v = fb_attention_problem_right(c->problem);
    if (v.mask.kind == FB_MASK_NONE || v.mask.block_size == 1)
        return FB_ERROR_UNSUPPORTED;
    v.mask.block_size = 1;
    return varied(c, &v, result, count);
}

static fb_status own_block_masked(const void *context, double *result, size_t count) {
    const fb_attention_result *c = context;
    fb_attention_variation v = fb_attention_problem_right(c->problem);
    if (v.mask.kind == FB_MASK_NONE)
        return FB_ERROR_UNSUPPORTED;
    v.mask.first_key += v.mask.block_size;
    return varied(c, &v, result, count);
}

static fb_status last_key_missing(const void *context, double *result, size_t count) {
    const fb_attention_result *c = context;
    fb_attention_variation v = fb_attention_problem_right(c->problem);
    if (v.last_key == 0)
        return FB_ERROR_UNSUPPORTED;
    v.last_key--;
    return varied(c, &v, result, count);
}

static fb_status tail_missing(const void *context, double *result, size_t count) {
    const fb_attention_result *c = context;
    fb_attention_variation v = fb_attention_problem_right(c->problem);
    if (v.last_key % 64 == 0 || v.last_key < 64)
        return FB_ERROR_UNSUPPORTED;
    v.last_key -= v.last_key % 64;
    return varied(c, &v, result, count);
}

static fb_status current_block_missing(const void *context, double *result, size_t count) {
    const fb_attention_result *c = context;
    fb_attention_variation v = fb_attention_problem_right(c->problem);
    if (v.last_key <= c->problem->queries)
        return FB_ERROR_UNSUPPORTED;
    v.last_key -= c->problem->queries;
    return varied(c, &v, result, count);
}

/* O before the division by the row sum. */
static fb_status not_normalised(const void *context, double *result, size_t count) {
    const fb_attention_result *c = context;
    const fb_attention_problem *p = c->problem;
    if (c->lse)
        return FB_ERROR_UNSUPPORTED;
    double *lse = NULL;
    FB_TRY(fb_alloc(fb_attention_problem_rows(p), sizeof *lse, "attention truth", &lse));
    fb_attention_variation v = fb_attention_problem_right(p);
    fb_status status = fb_attention_problem_vary(p, &v, result, lse);
    for (size_t i = 0; i < count && status == FB_OK; i++) {
        size_t row = i / p->head_dim, b = row / (p->queries * p->heads);
        size_t query = row / p->heads % p->queries, head = row % p->heads;
        result[i] *= exp(lse[fb_attention_problem_lse(p, b, query, head)]);
    }
    fb_free(lse);
    return status;
}

const fb_mistake fb_attention_mistakes[] = {
    {"the scale is applied twice (to the queries and to the scores, say)", scale_twice},
    {"the scores are not scaled", no_scale},
    {"the wrong KV head is read: query head h reads h mod num_kv_heads, not h / (num_heads / "
     "num_kv_heads)",
     wrong_kv_head},
    {"a causal mask is applied (aligned bottom right): a block sees all of itself",
     causal_bottom_right},
    {"a causal mask is applied (aligned top left): a block sees all of itself", causal_top_left},
    {"the block mask is not applied", not_masked},
    {"the mask is causal, token by token, not block by block", causal_in_block},
    {"a block does not see itself, only the ones before", own_block_masked},
    {"the last key is left out", last_key_missing},
    {"the keys after the last whole tile of 64 are left out", tail_missing},
    {"the block's own keys are left out", current_block_missing},
    {"the output is not divided by the row sum", not_normalised},
};
const size_t fb_num_attention_mistakes =
    sizeof fb_attention_mistakes / sizeof fb_attention_mistakes[0];

/* --- the yardstick, and details --------------------------------------------------------------- */

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

#include "oracle/attention_problem.h"

#include "base/memory.h"
#include "oracle/plain.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_SIZE = 1 << 24 };

fb_status fb_attention_problem_sizes(fb_case *c, fb_attention_problem *problem) {
    FB_TRY(fb_case_size(c, "B", 1, MAX_SIZE, &problem->batch));
    FB_TRY(fb_case_size(c, "H", 1, MAX_SIZE, &problem->heads));
    FB_TRY(fb_case_size(c, "Hk", 1, MAX_SIZE, &problem->kv_heads));
    FB_TRY(fb_case_size(c, "D", 1, 65536, &problem->head_dim));
    if (problem->heads % problem->kv_heads != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: %zu heads are no multiple of %zu KV heads",
                       fb_case_path(c), problem->heads, problem->kv_heads);
    return FB_OK;
}

fb_status fb_attention_problem_scale(fb_case *c, fb_attention_problem *problem) {
    double scale = 0.0;
    FB_TRY(fb_case_real_or(c, "softmax_scale", 1.0 / sqrt((double)problem->head_dim), &scale));
    if (!(fabs(scale) >= 1e-30 && fabs(scale) <= 1e30))
        return fb_fail(FB_ERROR_FORMAT, "%s: params.softmax_scale is %g", fb_case_path(c), scale);
    problem->scale = scale;
    return FB_OK;
}

size_t fb_attention_problem_rows(const fb_attention_problem *problem) {
    return problem->batch * problem->queries * problem->heads;
}

size_t fb_attention_problem_values(const fb_attention_problem *problem) {
    return fb_attention_problem_rows(problem) * problem->head_dim;
}

/* The problem of one batch entry as the library's types; `all` outlives the view. */
typedef struct entry {
    fb_queries queries;
    fb_kv kv;
    fb_range all;
    fb_view view;
} entry;

static void entry_of(const fb_attention_problem *p, size_t b, entry *e) {
    size_t q_size = p->queries * p->heads * p->head_dim, kv_size = p->kv_heads * p->head_dim;
    e->queries = fb_queries_rows(p->q + b * q_size, p->queries, p->heads, p->head_dim);
    e->kv = fb_kv_rows(FB_F32, p->k + b * p->keys * kv_size, p->v + b * p->keys * kv_size, p->keys,
                       p->kv_heads, p->head_dim);
    e->all = (fb_range){0, p->keys};
    e->view = (fb_view){&e->kv, &e->all, 1};
}

fb_status fb_attention_problem_attend(const fb_attention_problem *p, float *out, float *lse) {
    size_t rows = p->queries * p->heads;
    for (size_t b = 0; b < p->batch; b++) {
        entry e;
        entry_of(p, b, &e);
        fb_part part =
            fb_part_rows(out + b * rows * p->head_dim, lse + b * rows, p->heads, p->head_dim);
        if (!p->lse_by_token) {
            part.lse_token_stride = 1;
            part.lse_head_stride = (ptrdiff_t)p->queries;
        }
        FB_TRY(fb_attend(&e.queries, &e.view, &p->mask, (float)p->scale, &part));
    }
    return FB_OK;
}

/* Where the LSE of a row is. */
static size_t lse_index(const fb_attention_problem *p, size_t b, size_t query, size_t head) {
    return b * p->queries * p->heads +
           (p->lse_by_token ? query * p->heads + head : head * p->queries + query);
}

/* What may be wrong about a computation in double precision. */
typedef struct variation {
    double scale;
    bool wrong_heads; /* query head h reads KV head h mod num_kv_heads */
    fb_mask mask;     /* causal: block_size 1 */
    size_t last_key;  /* the keys after it are not seen */
} variation;

static variation right(const fb_attention_problem *p) {
    return (variation){.scale = p->scale, .mask = p->mask, .last_key = p->keys};
}

/* Queries whose heads are ordered so that the library's h / group is h mod kv_heads. */
static void reorder_heads(const fb_attention_problem *p, const float *q, float *reordered) {
    size_t group = p->heads / p->kv_heads;
    for (size_t i = 0; i < p->queries; i++)
        for (size_t h = 0; h < p->heads; h++)
            memcpy(reordered +
                       (i * p->heads + h % p->kv_heads * group + h / p->kv_heads) * p->head_dim,
                   q + (i * p->heads + h) * p->head_dim, p->head_dim * sizeof *q);
}

/* scratch: q [queries, heads, head_dim] floats; out and lse of one entry as doubles */
static fb_status vary_entry(const fb_attention_problem *p, size_t b, const variation *v, float *q,
                            double *scratch, double *out, double *lse) {
    size_t rows = p->queries * p->heads, group = p->heads / p->kv_heads;
    double *entry_out = scratch, *entry_lse = scratch + rows * p->head_dim;
    entry e;
    entry_of(p, b, &e);
    e.all = (fb_range){0, v->last_key};
    if (v->wrong_heads) {
        reorder_heads(p, e.queries.q, q);
        e.queries.q = q;
    }
    FB_TRY(fb_attend_reference(&e.queries, &e.view, &v->mask, v->scale, entry_out, entry_lse));
    for (size_t i = 0; i < p->queries; i++)
        for (size_t h = 0; h < p->heads; h++) {
            size_t from = v->wrong_heads ? h % p->kv_heads * group + h / p->kv_heads : h;
            memcpy(out + ((b * p->queries + i) * p->heads + h) * p->head_dim,
                   entry_out + (i * p->heads + from) * p->head_dim, p->head_dim * sizeof *out);
            lse[lse_index(p, b, i, h)] = entry_lse[i * p->heads + from];
        }
    return FB_OK;
}

static fb_status vary(const fb_attention_problem *p, const variation *v, double *out, double *lse) {
    size_t rows = p->queries * p->heads;
    double *scratch = NULL;
    float *q = NULL;
    FB_TRY(fb_alloc(rows * (p->head_dim + 1), sizeof *scratch, "attention truth", &scratch));
    fb_status status = fb_alloc(rows * p->head_dim, sizeof *q, "attention truth", &q);
    for (size_t b = 0; b < p->batch && status == FB_OK; b++)
        status = vary_entry(p, b, v, q, scratch, out, lse);
    fb_free(scratch);
    fb_free(q);
    return status;
}

fb_status fb_attention_problem_truth(const fb_attention_problem *p, double *out, double *lse) {
    variation v = right(p);
    return vary(p, &v, out, lse);
}

/* --- mistakes --------------------------------------------------------------------------------- */

/* The context of a claim: which of the two tensors it is about. */
typedef struct claim_context {
    const fb_attention_problem *problem;
    bool lse;
} claim_context;

static fb_status varied(const claim_context *context, const variation *v, double *result,
                        size_t count) {
    const fb_attention_problem *p = context->problem;
    size_t other_count =
        context->lse ? fb_attention_problem_values(p) : fb_attention_problem_rows(p);
    double *other = NULL;
    (void)count;
    FB_TRY(fb_alloc(other_count, sizeof *other, "attention truth", &other));
    fb_status status = context->lse ? vary(p, v, other, result) : vary(p, v, result, other);
    fb_free(other);
    return status;
}

static fb_status scale_twice(const void *context, double *result, size_t count) {
    const claim_context *c = context;
    variation v = right(c->problem);
    v.scale *= v.scale;
    return varied(c, &v, result, count);
}

static fb_status no_scale(const void *context, double *result, size_t count) {
    const claim_context *c = context;
    variation v = right(c->problem);
    v.scale = 1.0;
    return varied(c, &v, result, count);
}

static fb_status wrong_kv_head(const void *context, double *result, size_t count) {
    const claim_context *c = context;
    const fb_attention_problem *p = c->problem;
    if (p->kv_heads == 1 || p->kv_heads == p->heads)
        return FB_ERROR_UNSUPPORTED;
    variation v = right(p);
    v.wrong_heads = true;
    return varied(c, &v, result, count);
}

static fb_status causal_top_left(const void *context, double *result, size_t count) {
    const claim_context *c = context;
    variation v = right(c->problem);
    if (v.mask.kind != FB_MASK_NONE)
        return FB_ERROR_UNSUPPORTED;
    v.mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, 1, 0, 0};
    return varied(c, &v, result, count);
}

static fb_status causal_bottom_right(const void *context, double *result, size_t count) {
    const claim_context *c = context;
    const fb_attention_problem *p = c->problem;
    variation v = right(p);
    if (v.mask.kind != FB_MASK_NONE || p->queries == 1 || p->queries > p->keys)
        return FB_ERROR_UNSUPPORTED;
    v.mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, 1, p->keys - p->queries, 0};
    return varied(c, &v, result, count);
}

static fb_status not_masked(const void *context, double *result, size_t count) {
    const claim_context *c = context;
    variation v = right(c->problem);
    if (v.mask.kind == FB_MASK_NONE)
        return FB_ERROR_UNSUPPORTED;
    v.mask.kind = FB_MASK_NONE;
    return varied(c, &v, result, count);
}

static fb_status causal_in_block(const void *context, double *result, size_t count) {
    const claim_context *c = context;
    variation v = right(c->problem);
    if (v.mask.kind == FB_MASK_NONE || v.mask.block_size == 1)
        return FB_ERROR_UNSUPPORTED;
    v.mask.block_size = 1;
    return varied(c, &v, result, count);
}

static fb_status own_block_masked(const void *context, double *result, size_t count) {
    const claim_context *c = context;
    variation v = right(c->problem);
    if (v.mask.kind == FB_MASK_NONE)
        return FB_ERROR_UNSUPPORTED;
    v.mask.first_key += v.mask.block_size;
    return varied(c, &v, result, count);
}

static fb_status last_key_missing(const void *context, double *result, size_t count) {
    const claim_context *c = context;
    variation v = right(c->problem);
    if (v.last_key == 0)
        return FB_ERROR_UNSUPPORTED;
    v.last_key--;
    return varied(c, &v, result, count);
}

static fb_status tail_missing(const void *context, double *result, size_t count) {
    const claim_context *c = context;
    variation v = right(c->problem);
    if (v.last_key % 64 == 0 || v.last_key < 64)
        return FB_ERROR_UNSUPPORTED;
    v.last_key -= v.last_key % 64;
    return varied(c, &v, result, count);
}

static fb_status current_block_missing(const void *context, double *result, size_t count) {
    const claim_context *c = context;
    variation v = right(c->problem);
    if (v.last_key <= c->problem->queries)
        return FB_ERROR_UNSUPPORTED;
    v.last_key -= c->problem->queries;
    return varied(c, &v, result, count);
}

/* O before the division by the row sum. */
static fb_status not_normalised(const void *context, double *result, size_t count) {
    const claim_context *c = context;
    const fb_attention_problem *p = c->problem;
    if (c->lse)
        return FB_ERROR_UNSUPPORTED;
    double *lse = NULL;
    FB_TRY(fb_alloc(fb_attention_problem_rows(p), sizeof *lse, "attention truth", &lse));
    variation v = right(p);
    fb_status status = vary(p, &v, result, lse);
    for (size_t i = 0; i < count && status == FB_OK; i++) {
        size_t row = i / p->head_dim, b = row / (p->queries * p->heads);
        size_t query = row / p->heads % p->queries, head = row % p->heads;
        result[i] *= exp(lse[lse_index(p, b, query, head)]);
    }
    fb_free(lse);
    return status;
}

static const fb_mistake mistakes[] = {
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

/* out and lse of a plain implementation. */
static fb_status plain(const void *context, fb_dtype precision, float *result) {
    const claim_context *c = context;
    const fb_attention_problem *p = c->problem;
    size_t rows = p->queries * p->heads;
    float *scratch = NULL;
    FB_TRY(fb_alloc(rows * (p->head_dim + 1), sizeof *scratch, "plain attention", &scratch));
    float *out = scratch, *lse = scratch + rows * p->head_dim;
    fb_status status = FB_OK;
    for (size_t b = 0; b < p->batch && status == FB_OK; b++) {
        entry e;
        entry_of(p, b, &e);
        status =
            fb_plain_attention(&e.queries, &e.view, &p->mask, (float)p->scale, precision, out, lse);
        if (c->lse)
            for (size_t row = 0; row < rows; row++)
                result[lse_index(p, b, row / p->heads, row % p->heads)] = lse[row];
        else
            memcpy(result + b * rows * p->head_dim, out, rows * p->head_dim * sizeof *out);
    }
    fb_free(scratch);
    return status;
}

/* A row, from the flat index of one of its elements. */
typedef struct row_index {
    size_t b, query, head, kv_head;
} row_index;

static row_index row_of(const claim_context *c, size_t index) {
    const fb_attention_problem *p = c->problem;
    size_t row = c->lse ? index : index / p->head_dim;
    row_index r = {.b = row / (p->queries * p->heads)};
    bool by_head = c->lse && !p->lse_by_token;
    r.query = by_head ? row % p->queries : row / p->heads % p->queries;
    r.head = by_head ? row / p->queries % p->heads : row % p->heads;
    r.kv_head = r.head / (p->heads / p->kv_heads);
    return r;
}

/* Scores of a row in double precision: what is asked of them. */
typedef struct row_scores {
    double first[3], max, sum; /* sum of exp(score - max) */
    size_t seen, best;
} row_scores;

static double score_of(const fb_attention_problem *p, const entry *e, const row_index *r,
                       size_t key) {
    const float *q = e->queries.q + (r->query * p->heads + r->head) * p->head_dim;
    const float *k = (const float *)e->kv.k + (key * p->kv_heads + r->kv_head) * p->head_dim;
    double sum = 0.0;
    for (size_t d = 0; d < p->head_dim; d++)
        sum += (double)q[d] * (double)k[d];
    return sum * p->scale;
}

static row_scores scores_of(const fb_attention_problem *p, const row_index *r) {
    row_scores s = {.max = -INFINITY};
    entry e;
    entry_of(p, r->b, &e);
    for (size_t key = 0; key < p->keys; key++) {
        if (!fb_plain_sees(&p->mask, r->query, key))
            continue;
        double score = score_of(p, &e, r, key);
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

fb_status fb_attention_problem_plain_error(const fb_attention_problem *p, const double *truth,
                                           double *error) {
    claim_context context = {p, false};
    float *out = NULL;
    FB_TRY(fb_alloc(fb_attention_problem_values(p), sizeof *out, "plain attention", &out));
    fb_status status = plain(&context, FB_F32, out);
    if (status == FB_OK)
        *error = fb_errors_measure(out, truth, fb_attention_problem_values(p)).max_abs;
    fb_free(out);
    return status;
}

/* What led to an element: the row's first scores, its largest one, the sum of exponentials. */
static fb_status explain(const void *context, size_t index, char *text, size_t size) {
    const claim_context *c = context;
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

/* --- claims ----------------------------------------------------------------------------------- */

/* This build's results, and the truth. */
typedef struct answers {
    float *out, *lse;
    double *true_out, *true_lse;
} answers;

static fb_claim claim_of(const fb_attention_claims *claims) {
    return (fb_claim){
        .file_precision = claims->file_precision,
        .plain = plain,
        .mistakes = mistakes,
        .num_mistakes = sizeof mistakes / sizeof mistakes[0],
        .explain = explain,
    };
}

static fb_status claim_out(fb_report *report, const fb_attention_problem *p,
                           const fb_attention_claims *claims, const answers *a) {
    claim_context context = {p, false};
    fb_claim claim = claim_of(claims);
    claim.tensor = claims->out_name;
    claim.shape = FB_DIMS(p->batch, p->queries, p->heads, p->head_dim);
    claim.token_axis = 1;
    claim.head_axis = 2;
    claim.ours = a->out;
    claim.file = claims->file_out;
    claim.truth = a->true_out;
    claim.context = &context;
    claim.score_effect = fb_score_effect(a->true_lse, fb_attention_problem_rows(p), p->v,
                                         p->batch * p->keys * p->kv_heads * p->head_dim);
    return fb_report_claim(report, &claim);
}

static fb_status claim_lse(fb_report *report, const fb_attention_problem *p,
                           const fb_attention_claims *claims, const answers *a) {
    claim_context context = {p, true};
    fb_claim claim = claim_of(claims);
    claim.tensor = claims->lse_name;
    claim.shape = p->lse_by_token ? FB_DIMS(p->batch, p->queries, p->heads)
                                  : FB_DIMS(p->batch, p->heads, p->queries);
    claim.token_axis = p->lse_by_token ? 1 : 2;
    claim.head_axis = p->lse_by_token ? 2 : 1;
    claim.is_lse = true;
    claim.ours = a->lse;
    claim.file = claims->file_lse;
    claim.truth = a->true_lse;
    claim.context = &context;
    return fb_report_claim(report, &claim);
}

/* What the file states as the truth must be it. */
static fb_status check_stated(const fb_attention_problem *p, const fb_attention_claims *claims,
                              const answers *a) {
    if (claims->truth_out)
        FB_TRY(fb_errors_check_truth(claims->truth_out, a->true_out, fb_attention_problem_values(p),
                                     claims->path, "out64"));
    if (claims->truth_lse)
        FB_TRY(fb_errors_check_truth(claims->truth_lse, a->true_lse, fb_attention_problem_rows(p),
                                     claims->path, "lse64"));
    return FB_OK;
}

static fb_status claim_both(fb_report *report, const fb_attention_problem *p,
                            const fb_attention_claims *claims, answers *a) {
    size_t rows = fb_attention_problem_rows(p), values = fb_attention_problem_values(p);
    FB_TRY(fb_alloc(values, sizeof *a->out, "attention", &a->out));
    FB_TRY(fb_alloc(rows, sizeof *a->lse, "attention", &a->lse));
    FB_TRY(fb_alloc(values, sizeof *a->true_out, "attention truth", &a->true_out));
    FB_TRY(fb_alloc(rows, sizeof *a->true_lse, "attention truth", &a->true_lse));
    FB_TRY(fb_attention_problem_attend(p, a->out, a->lse));
    FB_TRY(fb_attention_problem_truth(p, a->true_out, a->true_lse));
    FB_TRY(check_stated(p, claims, a));
    FB_TRY(claim_out(report, p, claims, a));
    return claim_lse(report, p, claims, a);
}

fb_status fb_claim_attention(fb_report *report, const fb_attention_problem *p,
                             const fb_attention_claims *claims) {
    answers a = {0};
    fb_status status = claim_both(report, p, claims, &a);
    fb_free(a.out);
    fb_free(a.lse);
    fb_free(a.true_out);
    fb_free(a.true_lse);
    return status;
}

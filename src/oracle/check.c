/* fb_check_attention. */
#include "base/error.h"
#include "base/memory.h"
#include "base/point.h"
#include "base/sized.h"
#include "oracle/attention_claims.h"

#include <flashblock/runtime.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

FB_SIZED_ENDS_WITH(fb_attention_check, key_lengths);

void fb_attention_check_init_sized(fb_attention_check *check, size_t struct_size) {
    const fb_attention_check defaults = {.batch = 1};
    fb_sized_init(check, struct_size, &defaults, sizeof defaults);
}

/* --- arguments -------------------------------------------------------------------------------- */

static fb_status check_size(const char *name, size_t value, size_t min, size_t max) {
    if (value < min || value > max)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is %zu, expected %zu to %zu", name, value, min, max);
    return FB_OK;
}

static fb_status check_sizes(const fb_attention_check *c) {
    FB_TRY(check_size("batch", c->batch, 1, FB_ATTENTION_MAX_SIZE));
    FB_TRY(check_size("num_queries", c->num_queries, 0, FB_ATTENTION_MAX_SIZE));
    FB_TRY(check_size("num_keys", c->num_keys, 0, FB_ATTENTION_MAX_SIZE));
    FB_TRY(check_size("num_heads", c->num_heads, 1, FB_ATTENTION_MAX_SIZE));
    FB_TRY(check_size("num_kv_heads", c->num_kv_heads, 1, FB_ATTENTION_MAX_SIZE));
    FB_TRY(check_size("head_dim", c->head_dim, 1, FB_ATTENTION_MAX_HEAD_DIM));
    if (c->num_heads % c->num_kv_heads != 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "num_heads is %zu, expected a multiple of num_kv_heads, %zu", c->num_heads,
                       c->num_kv_heads);
    return FB_OK;
}

static fb_status check_mask(const fb_mask *mask) {
    if (mask->kind == FB_MASK_NONE)
        return FB_OK;
    if (mask->kind != FB_MASK_BLOCK_CAUSAL)
        return fb_fail(FB_ERROR_ARGUMENT, "mask.kind is %d", (int)mask->kind);
    return check_size("mask.block_size", mask->block_size, 1, FB_ATTENTION_MAX_SIZE);
}

static fb_status check_key_lengths(const fb_attention_check *c) {
    for (size_t b = 0; c->key_lengths && b < c->batch; b++)
        if (c->key_lengths[b] > c->num_keys)
            return fb_fail(FB_ERROR_ARGUMENT, "key_lengths[%zu] is %zu, num_keys is %zu", b,
                           c->key_lengths[b], c->num_keys);
    return FB_OK;
}

static fb_status check_arguments(const fb_attention_check *c) {
    if (c->unused)
        return fb_fail(FB_ERROR_ARGUMENT, "check.unused is set: the program needs a later version");
    FB_TRY(check_sizes(c));
    FB_TRY(check_mask(&c->mask));
    FB_TRY(check_key_lengths(c));
    if (!isfinite(c->scale))
        return fb_fail(FB_ERROR_ARGUMENT, "scale is %g", c->scale);
    if (!c->out.data && !c->lse.data)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "out.data and lse.data are NULL: nothing is to be judged");
    if (c->has_precision && fb_dtype_size(c->precision) == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "precision is %d, no dtype", (int)c->precision);
    return FB_OK;
}

/* --- tensors ---------------------------------------------------------------------------------- */

/* A tensor of the caller, its sizes, and the order that it is to have: [batch, heads, tokens] or
 * [batch, tokens, heads], rows of `width`. */
typedef struct layout {
    const char *name;
    const fb_check_tensor *tensor;
    size_t batch, tokens, heads, width;
    bool by_head;
} layout;

static fb_status count_elements(const layout *l, size_t *rows, size_t *count) {
    if (!fb_size_mul(l->batch, l->tokens, rows) || !fb_size_mul(*rows, l->heads, rows) ||
        !fb_size_mul(*rows, l->width, count))
        return fb_fail(FB_ERROR_MEMORY, "%s is too large", l->name);
    return FB_OK;
}

/* The strides that are given, or those of the dense tensor. */
static fb_check_tensor with_strides(const layout *l) {
    fb_check_tensor t = *l->tensor;
    if (t.has_strides || t.batch_stride || t.token_stride || t.head_stride)
        return t;
    t.head_stride = (ptrdiff_t)(l->by_head ? l->tokens * l->width : l->width);
    t.token_stride = (ptrdiff_t)(l->by_head ? l->width : l->heads * l->width);
    t.batch_stride = (ptrdiff_t)(l->tokens * l->heads * l->width);
    return t;
}

/* Copies the elements as they are, densely. */
static void copy_rows(const layout *l, char *to) {
    fb_check_tensor t = with_strides(l);
    size_t size = fb_dtype_size(t.dtype), row_size = l->width * size;
    size_t outer = l->by_head ? l->heads : l->tokens, inner = l->by_head ? l->tokens : l->heads;
    ptrdiff_t outer_stride = l->by_head ? t.head_stride : t.token_stride;
    ptrdiff_t inner_stride = l->by_head ? t.token_stride : t.head_stride;
    for (size_t b = 0; b < l->batch; b++)
        for (size_t i = 0; i < outer; i++)
            for (size_t j = 0; j < inner; j++) {
                ptrdiff_t at = (ptrdiff_t)b * t.batch_stride + (ptrdiff_t)i * outer_stride +
                               (ptrdiff_t)j * inner_stride;
                memcpy(to + ((b * outer + i) * inner + j) * row_size,
                       (const char *)t.data + at * (ptrdiff_t)size, row_size);
            }
}

static fb_status check_tensor(const layout *l, size_t count) {
    if (fb_dtype_size(l->tensor->dtype) == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "%s.dtype is %d", l->name, (int)l->tensor->dtype);
    if (!l->tensor->data && count > 0)
        return fb_fail(FB_ERROR_ARGUMENT, "%s.data is NULL", l->name);
    return FB_OK;
}

/* The tensor as it is stored, dense; fb_free. */
static fb_status gather(const layout *l, void **dense, size_t *count) {
    size_t rows = 0;
    FB_TRY(count_elements(l, &rows, count));
    FB_TRY(check_tensor(l, *count));
    FB_TRY(fb_alloc(*count, fb_dtype_size(l->tensor->dtype), l->name, dense));
    if (*count)
        copy_rows(l, *dense);
    return FB_OK;
}

/* The same as floats. */
static fb_status gather_f32(const layout *l, float **values) {
    void *dense = NULL;
    size_t count = 0;
    FB_TRY(gather(l, &dense, &count));
    fb_status status = fb_alloc(count, sizeof **values, l->name, values);
    if (status == FB_OK)
        status = fb_to_f32(l->tensor->dtype, dense, *values, count);
    fb_free(dense);
    return status;
}

/* --- the check -------------------------------------------------------------------------------- */

static fb_status add_out(const fb_attention_check *c, fb_candidate *candidate) {
    const size_t shape[] = {c->batch, c->num_queries, c->num_heads, c->head_dim};
    const layout l = {"out", &c->out, c->batch, c->num_queries, c->num_heads, c->head_dim, false};
    void *dense = NULL;
    size_t count = 0;
    FB_TRY(gather(&l, &dense, &count));
    fb_status status = fb_candidate_add(candidate, "out", c->out.dtype, 4, shape, dense);
    fb_free(dense);
    return status;
}

static fb_status add_lse(const fb_attention_check *c, fb_candidate *candidate) {
    const size_t shape[] = {c->batch, c->lse_by_token ? c->num_queries : c->num_heads,
                            c->lse_by_token ? c->num_heads : c->num_queries};
    const layout l = {"lse", &c->lse, c->batch, c->num_queries, c->num_heads, 1, !c->lse_by_token};
    void *dense = NULL;
    size_t count = 0;
    FB_TRY(gather(&l, &dense, &count));
    fb_status status = fb_candidate_add(candidate, "lse", c->lse.dtype, 3, shape, dense);
    fb_free(dense);
    return status;
}

static fb_status add_results(const fb_attention_check *c, fb_candidate *candidate) {
    if (c->out.data)
        FB_TRY(add_out(c, candidate));
    if (c->lse.data)
        FB_TRY(add_lse(c, candidate));
    if (c->has_precision)
        fb_candidate_set_precision(candidate, c->precision);
    if (c->arithmetic != FB_ARITHMETIC_AUTO)
        fb_candidate_set_arithmetic(candidate, c->arithmetic);
    return FB_OK;
}

static fb_status claim(const fb_attention_check *c, const float *q, const float *k, const float *v,
                       fb_report *report) {
    const fb_attention_problem problem = {
        .batch = c->batch,
        .queries = c->num_queries,
        .keys = c->num_keys,
        .heads = c->num_heads,
        .kv_heads = c->num_kv_heads,
        .head_dim = c->head_dim,
        .scale = c->scale != 0.0 ? c->scale : 1.0 / sqrt((double)c->head_dim),
        .mask = c->mask,
        .key_lengths = c->key_lengths,
        .q = q,
        .k = k,
        .v = v,
        .lse_by_token = c->lse_by_token,
    };
    const fb_attention_claims claims = {.out_name = "out", .lse_name = "lse"};
    return fb_claim_attention(report, &problem, &claims);
}

static fb_status judge(const fb_attention_check *c, fb_report *report) {
    const layout query = {"q", &c->q, c->batch, c->num_queries, c->num_heads, c->head_dim, false};
    const layout key = {"k", &c->k, c->batch, c->num_keys, c->num_kv_heads, c->head_dim, false};
    layout value = key;
    float *q = NULL, *k = NULL, *v = NULL;
    value.name = "v";
    value.tensor = &c->v;
    fb_status status = gather_f32(&query, &q);
    if (status == FB_OK)
        status = gather_f32(&key, &k);
    if (status == FB_OK)
        status = gather_f32(&value, &v);
    if (status == FB_OK)
        status = claim(c, q, k, v, report);
    fb_free(q);
    fb_free(k);
    fb_free(v);
    return status;
}

static fb_status fill(const fb_attention_check *c, fb_candidate *candidate, fb_report *report) {
    fb_isa isa;
    FB_TRY(add_results(c, candidate));
    FB_TRY(fb_isa_current(&isa));
    report->isa = fb_isa_name(isa);
    report->candidate = candidate;
    report->of_candidate = true;
    report->partial = true; /* what is to be judged is what is there */
    snprintf(report->kind, sizeof report->kind, "attention");
    snprintf(report->name, sizeof report->name, "check");
    FB_TRY(judge(c, report));
    return fb_report_end_candidate(report);
}

static fb_status check_attention(const fb_attention_check *check, fb_report **report) {
    fb_attention_check own = {.batch = 1};
    fb_candidate *candidate = NULL;
    fb_report *made = NULL;
    FB_TRY(fb_sized_read(&own, sizeof own, check, "check"));
    FB_TRY(check_arguments(&own));
    FB_TRY(fb_candidate_create(&candidate));
    fb_status status = fb_alloc_zeroed(1, sizeof *made, "report", &made);
    if (status == FB_OK)
        status = fill(&own, candidate, made);
    fb_candidate_close(candidate);
    if (status == FB_OK)
        *report = made;
    else
        fb_report_destroy(made);
    return status;
}

fb_status fb_check_attention(const fb_attention_check *check, fb_report **report) {
    fb_point before = fb_point_begin();
    fb_status status = check_attention(check, report);
    fb_point_end(before);
    return status;
}

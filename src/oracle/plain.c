#include "oracle/plain.h"

#include "base/error.h"
#include "base/half.h"
#include "base/memory.h"

#include <math.h>
#include <string.h>

static float rounded(fb_dtype precision, float value) {
    switch (precision) {
    case FB_BF16:
        return fb_bf16_to_f32(fb_f32_to_bf16(value));
    case FB_F16:
        return fb_f16_to_f32(fb_f32_to_f16(value));
    case FB_F32:
    case FB_INT8: /* of KV caches only */
        break;
    }
    return value;
}

double fb_plain_roundoff(fb_dtype precision) {
    return precision == FB_BF16 ? 0x1p-8 : precision == FB_F16 ? 0x1p-11 : 0x1p-24;
}

void fb_plain_round(fb_dtype precision, float *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        values[i] = rounded(precision, values[i]);
}

/* Key or value row `token` of a dense fb_kv, as floats. */
static void read_row(const fb_kv *kv, const void *base, ptrdiff_t at, float *row) {
    (void)fb_to_f32(kv->dtype, (const char *)base + at * (ptrdiff_t)fb_dtype_size(kv->dtype), row,
                    kv->head_dim);
}

bool fb_plain_sees(const fb_mask *mask, size_t query, size_t key) {
    return !mask || mask->kind == FB_MASK_NONE ||
           (mask->first_key + key) / mask->block_size <=
               (mask->first_query + query) / mask->block_size;
}

/* One call, and its memory. */
typedef struct plain_call {
    const fb_view *view;
    const fb_mask *mask;
    float scale;
    fb_dtype precision;
    float *p;     /* [keys] scores, then weights */
    float *row;   /* [head_dim] a key or value row */
    float *q_row; /* [head_dim] */
} plain_call;

/* Fills in the scores of a query row; returns their maximum. */
static float score_keys(const plain_call *c, const float *q, size_t query, size_t kv_head) {
    const fb_kv *kv = c->view->kv;
    float max = -INFINITY;
    size_t key = 0;
    for (size_t d = 0; d < kv->head_dim; d++)
        c->q_row[d] = rounded(c->precision, q[d]);
    for (size_t r = 0; r < c->view->num_ranges; r++)
        for (size_t t = c->view->ranges[r].begin; t < c->view->ranges[r].end; t++, key++) {
            float dot = 0.0f;
            read_row(kv, kv->k,
                     (ptrdiff_t)t * kv->k_token_stride + (ptrdiff_t)kv_head * kv->k_head_stride,
                     c->row);
            for (size_t d = 0; d < kv->head_dim; d++)
                dot += c->q_row[d] * rounded(c->precision, c->row[d]);
            c->p[key] = fb_plain_sees(c->mask, query, key) ? rounded(c->precision, dot * c->scale)
                                                           : -INFINITY;
            max = c->p[key] > max ? c->p[key] : max;
        }
    return max;
}

/* out = the sum of the weighted value rows; `sum` is that of the exponentials in p. */
static void add_values(const plain_call *c, size_t query, size_t kv_head, float sum, float *out) {
    const fb_kv *kv = c->view->kv;
    size_t key = 0;
    memset(out, 0, kv->head_dim * sizeof *out);
    for (size_t r = 0; r < c->view->num_ranges; r++)
        for (size_t t = c->view->ranges[r].begin; t < c->view->ranges[r].end; t++, key++) {
            if (!fb_plain_sees(c->mask, query, key))
                continue;
            float weight = rounded(c->precision, c->p[key] / sum);
            read_row(kv, kv->v,
                     (ptrdiff_t)t * kv->v_token_stride + (ptrdiff_t)kv_head * kv->v_head_stride,
                     c->row);
            for (size_t d = 0; d < kv->head_dim; d++)
                out[d] += weight * rounded(c->precision, c->row[d]);
        }
}

static void plain_row(const plain_call *c, const float *q, size_t query, size_t kv_head,
                      size_t keys, float *out, float *lse) {
    float max = score_keys(c, q, query, kv_head), sum = 0.0f;
    for (size_t i = 0; i < keys; i++)
        sum += c->p[i] = max == -INFINITY ? 0.0f : expf(c->p[i] - max);
    add_values(c, query, kv_head, sum, out);
    *lse = sum > 0.0f ? max + logf(sum) : -INFINITY;
    for (size_t d = 0; d < c->view->kv->head_dim; d++)
        out[d] = sum > 0.0f ? rounded(c->precision, out[d]) : 0.0f;
}

fb_status fb_plain_attention(const fb_queries *queries, const fb_view *view, const fb_mask *mask,
                             float scale, fb_dtype precision, float *out, float *lse) {
    const fb_kv *kv = view->kv;
    plain_call c = {.view = view, .mask = mask, .scale = scale, .precision = precision};
    size_t keys = 0, group = queries->num_heads / kv->num_kv_heads;
    for (size_t r = 0; r < view->num_ranges; r++)
        keys += view->ranges[r].end - view->ranges[r].begin;
    FB_TRY(fb_alloc(keys + 2 * kv->head_dim, sizeof *c.p, "plain attention", &c.p));
    c.row = c.p + keys;
    c.q_row = c.row + kv->head_dim;
    if (scale == 0.0f)
        c.scale = (float)(1.0 / sqrt((double)kv->head_dim));
    for (size_t i = 0; i < queries->num_queries; i++)
        for (size_t h = 0; h < queries->num_heads; h++) {
            const float *q = queries->q + (ptrdiff_t)i * queries->token_stride +
                             (ptrdiff_t)h * queries->head_stride;
            size_t row = i * queries->num_heads + h;
            plain_row(&c, q, i, h / group, keys, out + row * kv->head_dim, lse + row);
        }
    fb_free(c.p);
    return FB_OK;
}

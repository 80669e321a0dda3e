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

/* scratch: p [keys], row [head_dim], q_row [head_dim] */
static void plain_row(const fb_view *view, const fb_mask *mask, const float *q, size_t query,
                      size_t kv_head, float scale, fb_dtype precision, size_t keys, float *scratch,
                      float *out, float *lse) {
    const fb_kv *kv = view->kv;
    float *p = scratch, *row = p + keys, *q_row = row + kv->head_dim;
    float max = -INFINITY, sum = 0.0f;
    size_t key = 0;
    for (size_t d = 0; d < kv->head_dim; d++)
        q_row[d] = rounded(precision, q[d]);
    for (size_t r = 0; r < view->num_ranges; r++)
        for (size_t t = view->ranges[r].begin; t < view->ranges[r].end; t++, key++) {
            float dot = 0.0f;
            read_row(kv, kv->k,
                     (ptrdiff_t)t * kv->k_token_stride + (ptrdiff_t)kv_head * kv->k_head_stride,
                     row);
            for (size_t d = 0; d < kv->head_dim; d++)
                dot += q_row[d] * rounded(precision, row[d]);
            p[key] = fb_plain_sees(mask, query, key) ? rounded(precision, dot * scale) : -INFINITY;
            max = p[key] > max ? p[key] : max;
        }
    for (size_t i = 0; i < keys; i++)
        sum += p[i] = max == -INFINITY ? 0.0f : expf(p[i] - max);
    memset(out, 0, kv->head_dim * sizeof *out);
    key = 0;
    for (size_t r = 0; r < view->num_ranges; r++)
        for (size_t t = view->ranges[r].begin; t < view->ranges[r].end; t++, key++) {
            if (!fb_plain_sees(mask, query, key))
                continue;
            float weight = rounded(precision, p[key] / sum);
            read_row(kv, kv->v,
                     (ptrdiff_t)t * kv->v_token_stride + (ptrdiff_t)kv_head * kv->v_head_stride,
                     row);
            for (size_t d = 0; d < kv->head_dim; d++)
                out[d] += weight * rounded(precision, row[d]);
        }
    *lse = sum > 0.0f ? max + logf(sum) : -INFINITY;
    for (size_t d = 0; d < kv->head_dim; d++)
        out[d] = sum > 0.0f ? rounded(precision, out[d]) : 0.0f;
}

fb_status fb_plain_attention(const fb_queries *queries, const fb_view *view, const fb_mask *mask,
                             float scale, fb_dtype precision, float *out, float *lse) {
    const fb_kv *kv = view->kv;
    size_t keys = 0;
    for (size_t r = 0; r < view->num_ranges; r++)
        keys += view->ranges[r].end - view->ranges[r].begin;
    float *scratch = NULL;
    FB_TRY(fb_alloc(keys + 2 * kv->head_dim, sizeof *scratch, "plain attention", &scratch));
    if (scale == 0.0f)
        scale = (float)(1.0 / sqrt((double)kv->head_dim));
    size_t group = queries->num_heads / kv->num_kv_heads;
    for (size_t i = 0; i < queries->num_queries; i++)
        for (size_t h = 0; h < queries->num_heads; h++) {
            const float *q = queries->q + (ptrdiff_t)i * queries->token_stride +
                             (ptrdiff_t)h * queries->head_stride;
            size_t row = i * queries->num_heads + h;
            plain_row(view, mask, q, i, h / group, scale, precision, keys, scratch,
                      out + row * kv->head_dim, lse + row);
        }
    fb_free(scratch);
    return FB_OK;
}

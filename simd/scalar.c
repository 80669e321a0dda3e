/* The kernels in plain C: the definition of every bit, and the twin of each SIMD kernel. */
#include "kernels.h"
#include "scalar_math.h"

#include <flashblock/attention.h>

#include <string.h>

/* a . b as the sum of chains of at most 16 fused multiply-adds, each from +0. */
static float product(const float *a, const float *b, ptrdiff_t b_stride, size_t length) {
    float sum = 0.0f;
    for (size_t first = 0; first < length; first += FB_SEGMENT) {
        size_t end = first + FB_SEGMENT < length ? first + FB_SEGMENT : length;
        float chain = 0.0f;
        for (size_t i = first; i < end; i++)
            chain = fmaf(a[i], b[(ptrdiff_t)i * b_stride], chain);
        sum = first == 0 ? chain : sum + chain;
    }
    return sum;
}

static void scores(const float *q, size_t rows, size_t head_dim, const float *keys, float scale,
                   float *s) {
    for (size_t row = 0; row < rows; row++)
        for (size_t lane = 0; lane < FB_GROUP_KEYS; lane++)
            s[row * FB_SCORE_STRIDE + lane] =
                scale * product(q + row * head_dim, keys + lane, FB_GROUP_KEYS, head_dim);
}

static void softmax_row(const float *s, size_t count, float *max, float *sums, float *p,
                        float *alpha) {
    float old_max = *max, new_max = old_max;
    for (size_t j = 0; j < count; j++)
        new_max = s[j] > new_max ? s[j] : new_max; /* a NaN is never the maximum */
    /* While every score is -inf there is no maximum to subtract: exp(-inf - 0) = 0. */
    float subtract = new_max == -INFINITY ? 0.0f : new_max;
    *alpha = new_max == old_max ? 1.0f : fb_exp_value(old_max - subtract);
    *max = new_max;
    for (size_t lane = 0; lane < FB_GROUP_KEYS; lane++)
        sums[lane] *= *alpha;
    for (size_t j = 0; j < FB_TILE_KEYS; j++) {
        p[j] = j < count ? fb_exp_value(s[j] - subtract) : 0.0f;
        sums[j % FB_GROUP_KEYS] += p[j];
    }
}

static void softmax(const float *s, size_t rows, const size_t *counts, float *max, float *sums,
                    float *p, float *alpha) {
    for (size_t row = 0; row < rows; row++)
        softmax_row(s + row * FB_SCORE_STRIDE, counts[row], max + row, sums + row * FB_GROUP_KEYS,
                    p + row * FB_TILE_KEYS, alpha + row);
}

static void values(const float *p, size_t rows, size_t num_keys, const float *v, ptrdiff_t v_stride,
                   size_t head_dim, const float *alpha, float *o) {
    for (size_t row = 0; row < rows; row++)
        for (size_t d = 0; d < head_dim; d++)
            o[row * head_dim + d] =
                fmaf(o[row * head_dim + d], alpha[row],
                     product(p + row * FB_TILE_KEYS, v + d, v_stride, num_keys));
}

static void merge_row(const float *big, const float *small, float weight, size_t head_dim,
                      float *o) {
    float total = 1.0f + weight;
    for (size_t d = 0; d < head_dim; d++)
        o[d] = fmaf(weight, small[d], big[d]) / total;
}

static void widen_bf16(const uint16_t *from, float *to, size_t count) {
    for (size_t i = 0; i < count; i++)
        to[i] = fb_bf16_to_f32(from[i]);
}

static void widen_f16(const uint16_t *from, float *to, size_t count) {
    for (size_t i = 0; i < count; i++)
        to[i] = fb_f16_to_f32(from[i]);
}

static void exp_values(const float *x, float *out, size_t count) {
    for (size_t i = 0; i < count; i++)
        out[i] = fb_exp_value(x[i]);
}

const fb_kernels fb_kernels_scalar = {
    .isa = FB_ISA_SCALAR,
    .scores = scores,
    .softmax = softmax,
    .values = values,
    .merge_row = merge_row,
    .widen_bf16 = widen_bf16,
    .widen_f16 = widen_f16,
    .exp = exp_values,
};

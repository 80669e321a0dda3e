/* The kernels in plain C: the definition of every bit, and the twin of each SIMD kernel. */
#include "scalar_math.h"
#include "table.h"

#include <flashblock/attention.h>

#include <string.h>

/* a . b as the sum of chains of at most 16 products, the first rounded, the others fused.
 * a is a row of blocks of 16, FB_ROWS_BLOCK apart. */
static float product(const float *a, const float *b, size_t b_stride, size_t length) {
    float sum = 0.0f;
    for (size_t first = 0; first < length; first += FB_SEGMENT, a += FB_ROWS_BLOCK) {
        size_t left = length - first, count = left < FB_SEGMENT ? left : FB_SEGMENT;
        float chain = a[0] * b[first * b_stride];
        for (size_t i = 1; i < count; i++)
            chain = fmaf(a[i], b[(first + i) * b_stride], chain);
        sum = first == 0 ? chain : sum + chain;
    }
    return sum;
}

static void widen_bf16(const uint16_t *from, float *to, size_t count) {
    for (size_t i = 0; i < count; i++)
        to[i] = fb_bf16_to_f32(from[i]);
}

static void widen_f16(const uint16_t *from, float *to, size_t count) {
    for (size_t i = 0; i < count; i++)
        to[i] = fb_f16_to_f32(from[i]);
}

/* `count` elements from `first` on as floats: where they are, or widened into `wide`. */
static const float *as_floats(fb_dtype dtype, const void *elements, size_t first, size_t count,
                              float *wide) {
    if (dtype == FB_F32)
        return (const float *)elements + first;
    (dtype == FB_BF16 ? widen_bf16 : widen_f16)((const uint16_t *)elements + first, wide, count);
    return wide;
}

static void scores(fb_dtype dtype, const float *q, size_t rows, size_t head_dim,
                   const void *const *groups, size_t num_groups, float scale, float *wide,
                   const void *const *next, float *s) {
    (void)next; /* nothing to fetch ahead for */
    for (size_t group = 0; group < num_groups; group++) {
        /* keys  [head_dim][16] */
        const float *keys = as_floats(dtype, groups[group], 0, head_dim * FB_GROUP_KEYS, wide);
        for (size_t row = 0; row < rows; row++)
            for (size_t key = 0; key < FB_GROUP_KEYS; key++)
                s[row * FB_SCORE_STRIDE + group * FB_GROUP_KEYS + key] =
                    scale * product(q + row * FB_SEGMENT, keys + key, FB_GROUP_KEYS, head_dim);
    }
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
        float weight = j < count ? fb_exp_value(s[j] - subtract) : 0.0f;
        p[j / FB_SEGMENT * FB_ROWS_BLOCK + j % FB_SEGMENT] = weight;
        sums[j % FB_GROUP_KEYS] += weight;
    }
}

static void softmax(const float *s, size_t rows, const size_t *counts, float *max, float *sums,
                    float *p, float *alpha) {
    for (size_t row = 0; row < rows; row++)
        softmax_row(s + row * FB_SCORE_STRIDE, counts[row], max + row, sums + row * FB_GROUP_KEYS,
                    p + row * FB_SEGMENT, alpha + row);
}

static void values(fb_dtype dtype, const float *p, size_t rows, size_t num_keys,
                   const void *const *groups, size_t head_dim, const float *alpha, float *wide,
                   const void *const *next, float *o) {
    (void)next;
    size_t stride = fb_padded_dim(head_dim), block = FB_GROUP_KEYS * FB_PANEL_DIMS;
    for (size_t d = 0; d < stride; d += FB_PANEL_DIMS) {
        float v[FB_TILE_KEYS * FB_PANEL_DIMS]; /* the panel of the tile  [num_keys][16] */
        for (size_t key = 0; key < num_keys; key += FB_GROUP_KEYS) {
            size_t left = num_keys - key, keys = left < FB_GROUP_KEYS ? left : FB_GROUP_KEYS;
            size_t panel = d / FB_PANEL_DIMS;
            memcpy(v + key * FB_PANEL_DIMS,
                   as_floats(dtype, groups[key / FB_GROUP_KEYS], panel * block,
                             keys * FB_PANEL_DIMS, wide),
                   keys * FB_PANEL_DIMS * sizeof *v);
        }
        for (size_t row = 0; row < rows; row++)
            for (size_t i = 0; i < FB_PANEL_DIMS; i++) {
                float *out = o + row * stride + d + i;
                *out = fmaf(*out, alpha[row],
                            product(p + row * FB_SEGMENT, v + i, FB_PANEL_DIMS, num_keys));
            }
    }
}

/* The chains of one dot product, and their sum. */
static float dot(const float *x, const float *weights, size_t columns) {
    enum { CHAINS = 8 };
    float c[CHAINS] = {0};
    for (size_t i = 0; i < columns; i++)
        c[i % CHAINS] = fmaf(x[i], weights[i], c[i % CHAINS]);
    return ((c[0] + c[4]) + (c[2] + c[6])) + ((c[1] + c[5]) + (c[3] + c[7]));
}

enum { DOT_TILE_OUTPUTS = 1 };

static void dots(fb_dtype dtype, const float *x, size_t rows, const void *const *weights,
                 size_t outputs, size_t columns, float *wide, const void *const *next,
                 float *sums) {
    (void)next;
    for (size_t output = 0; output < outputs; output++) {
        const float *w = as_floats(dtype, weights[output], 0, columns, wide);
        for (size_t row = 0; row < rows; row++)
            sums[output * fb_dot_stride(rows) + row] += dot(x + row * FB_DOT_COLUMNS, w, columns);
    }
}

/* x / y; if that is NaN, the library's one. */
static float quotient(float x, float y) {
    float result = x / y;
    return isnan(result) ? fb_bits_to_f32(FB_NAN_BITS) : result;
}

static void merge_row(const float *big, const float *small, float weight, size_t head_dim,
                      float *o) {
    for (size_t d = 0; d < head_dim; d++)
        o[d] = quotient(fmaf(weight, small[d], big[d]), 1.0f + weight);
}

static void divide_row(float sum, size_t head_dim, float *o) {
    for (size_t d = 0; d < head_dim; d++)
        o[d] = quotient(o[d], sum);
}

static void exp_values(const float *x, float *out, size_t count) {
    for (size_t i = 0; i < count; i++)
        out[i] = fb_exp_value(x[i]);
}

FB_KERNEL_TABLE(fb_kernels_scalar, FB_ISA_SCALAR)

/* The kernels in plain C. They define every bit; checkasm compares each SIMD kernel with its twin
 * here. */
#include "simd/kernels.h"
#include "simd/scalar_integers.h"
#include "simd/scalar_math.h"

#include <flashblock/attention.h>

#include <string.h>

enum { BLOCK = FB_SEGMENT * 16 }; /* elements: 16 lines of 16 */

/* The product of `rows` rows of A, [rows][16], with a block of up to 16 lines. Each element is a
 * chain: its first product is rounded, the others are fused. sums = or += the product, by `first`;
 * they are [rows][16], rows `stride` floats apart. */
static void add_product(const float *a, size_t rows, const float *block, size_t lines, bool first,
                        float *sums, size_t stride) {
    for (size_t row = 0; row < rows; row++, a += FB_SEGMENT, sums += stride)
        for (size_t column = 0; column < 16; column++) {
            float chain = a[0] * block[column];
            for (size_t line = 1; line < lines; line++)
                chain = fmaf(a[line], block[line * 16 + column], chain);
            sums[column] = first ? chain : sums[column] + chain;
        }
}

static void widen_bf16(const uint16_t *from, float *to, size_t count) {
    for (size_t i = 0; i < count; i++)
        to[i] = fb_bf16_to_f32(from[i]);
}

static void widen_f16(const uint16_t *from, float *to, size_t count) {
    for (size_t i = 0; i < count; i++)
        to[i] = fb_f16_to_f32(from[i]);
}

/* `count` elements from `first` on as floats: in their place, or widened into `wide`. */
static const float *as_floats(fb_dtype dtype, const void *elements, size_t first, size_t count,
                              float *wide) {
    if (dtype == FB_F32)
        return (const float *)elements + first;
    (dtype == FB_BF16 ? widen_bf16 : widen_f16)((const uint16_t *)elements + first, wide, count);
    return wide;
}

/* One group of one stream. */
static void scores_of_group(fb_dtype dtype, const float *q, size_t rows, size_t head_dim,
                            const void *group, float scale, float *s) {
    float wide[BLOCK];
    for (size_t d = 0; d < head_dim; d += FB_SEGMENT) {
        size_t left = head_dim - d, lines = left < FB_SEGMENT ? left : FB_SEGMENT;
        const float *keys = as_floats(dtype, group, d * FB_GROUP_KEYS, lines * FB_GROUP_KEYS,
                                      wide); /* [lines][16] */
        add_product(q + d / FB_SEGMENT * FB_ROWS_BLOCK, rows, keys, lines, d == 0, s,
                    FB_SCORE_STRIDE);
    }
    for (size_t row = 0; row < rows; row++)
        for (size_t key = 0; key < FB_GROUP_KEYS; key++)
            s[row * FB_SCORE_STRIDE + key] *= scale;
}

static void scores(fb_dtype dtype, const fb_scores_call *call) {
    const void *const *groups = call->groups;
    float *s = call->s;
    for (size_t stream = 0; stream < call->streams; stream++, s += call->rows * FB_SCORE_STRIDE)
        for (size_t group = 0; group < call->num_groups; group++)
            scores_of_group(dtype, call->q, call->rows, call->head_dim, *groups++, call->scale,
                            s + group * FB_GROUP_KEYS);
}

FB_BY_DTYPE(scores)

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

static void softmax(const fb_softmax_call *call) {
    for (size_t row = 0; row < call->rows; row++)
        softmax_row(call->s + row * FB_SCORE_STRIDE, call->counts[row], call->max + row,
                    call->sums + row * FB_GROUP_KEYS, call->p + row * FB_SEGMENT,
                    call->alpha + row);
}

/* One stream. */
static void add_values(fb_dtype dtype, const fb_values_call *call, size_t stream) {
    size_t rows = call->rows, stride = fb_padded_dim(call->head_dim);
    const float *p = call->p + stream * rows * FB_SEGMENT, *alpha = call->alpha + stream * rows;
    const void *const *groups =
        call->groups + stream * ((call->num_keys + FB_GROUP_KEYS - 1) / FB_GROUP_KEYS);
    float *o = call->o + stream * rows * stride;
    float wide[BLOCK], sums[FB_MAX_ROWS][FB_PANEL_DIMS];
    for (size_t panel = 0; panel < stride / FB_PANEL_DIMS; panel++, o += FB_PANEL_DIMS) {
        for (size_t key = 0; key < call->num_keys; key += FB_GROUP_KEYS) {
            size_t left = call->num_keys - key, lines = left < FB_GROUP_KEYS ? left : FB_GROUP_KEYS;
            const float *v = as_floats(dtype, groups[key / FB_GROUP_KEYS], panel * BLOCK,
                                       lines * FB_PANEL_DIMS, wide); /* [lines][16] */
            add_product(p + key / FB_GROUP_KEYS * FB_ROWS_BLOCK, rows, v, lines, key == 0, sums[0],
                        FB_PANEL_DIMS);
        }
        for (size_t row = 0; row < rows; row++)
            for (size_t i = 0; i < FB_PANEL_DIMS; i++)
                o[row * stride + i] = fmaf(o[row * stride + i], alpha[row], sums[row][i]);
    }
}

static void values(fb_dtype dtype, const fb_values_call *call) {
    for (size_t stream = 0; stream < call->streams; stream++)
        add_values(dtype, call, stream);
}

FB_BY_DTYPE(values)

static void transpose(fb_dtype dtype, const fb_transpose_call *call) {
    float wide[FB_GROUP_KEYS];
    for (size_t d = 0; d < fb_padded_dim(call->head_dim); d++) {
        float *to = call->to + d / FB_PANEL_DIMS * BLOCK + d % FB_PANEL_DIMS;
        const float *line = NULL; /* the keys' dimension d */
        if (d < call->head_dim)
            line = as_floats(dtype, call->keys, d * FB_GROUP_KEYS, FB_GROUP_KEYS, wide);
        for (size_t key = 0; key < FB_GROUP_KEYS; key++)
            to[key * FB_PANEL_DIMS] = line ? line[key] : 0.0f;
    }
}

FB_BY_DTYPE(transpose)

/* The chains of one dot product, and their sum. */
static float dot(const float *x, const float *weights, size_t columns) {
    enum { CHAINS = 8 };
    float c[CHAINS] = {0};
    for (size_t i = 0; i < columns; i++)
        c[i % CHAINS] = fmaf(x[i], weights[i], c[i % CHAINS]);
    return ((c[0] + c[4]) + (c[2] + c[6])) + ((c[1] + c[5]) + (c[3] + c[7]));
}

static void dots(fb_dtype dtype, const fb_dots_call *call) {
    for (size_t output = 0; output < call->outputs; output++) {
        const float *w = as_floats(dtype, call->weights[output], 0, call->columns, call->wide);
        float *sums = call->sums + output * fb_dot_stride(call->rows);
        for (size_t row = 0; row < call->rows; row++)
            sums[row] += dot(call->x + row * FB_DOT_COLUMNS, w, call->columns);
    }
}

FB_BY_DTYPE(dots)

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

const fb_kernels fb_kernels_scalar = {
    .scores = {scores_f32, scores_bf16, scores_f16},
    .values = {values_f32, values_bf16, values_f16},
    .int_scores = int_scores,
    .int_values = int_values,
    .dots = {dots_f32, dots_bf16, dots_f16},
    .dot_outputs = 1,
    .quantize = quantize,
    .int_dots = int_dots,
    .int_outputs = 1,
    .transpose = {transpose_f32, transpose_bf16, transpose_f16},
    .softmax = softmax,
    .merge_row = merge_row,
    .divide_row = divide_row,
    .widen_bf16 = widen_bf16,
    .widen_f16 = widen_f16,
    .exp = exp_values,
};

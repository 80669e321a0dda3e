/* Products with weights of 8 and 4 bits in plain C (contract C13); scalar.c includes this. Here
 * fb_int_row.values are the integers in their order, and its sums are not used. */
#ifndef FB_SIMD_SCALAR_INTEGERS_H
#define FB_SIMD_SCALAR_INTEGERS_H

#include "base/half.h"
#include "simd/integers.h"
#include "simd/kernels.h"

#include <flashblock/attention.h>

#include <math.h>
#include <string.h>

static void quantize(const fb_quantize_call *call) {
    size_t whole = fb_int_whole_columns(call->columns);
    memset(call->to->values, 0, whole);
    for (size_t first = 0, group = 0; first < whole; first += call->group, group++) {
        size_t left = first < call->columns ? call->columns - first : 0;
        size_t count = left < call->group ? left : call->group;
        call->to->scales[group] =
            fb_int_quantize(call->x + (count ? first : 0), count, call->to->values + first);
    }
}

/* The integer of a column. */
static int int_weight(const fb_int_dots_call *call, size_t output, size_t column, int zero) {
    const uint8_t *bytes = call->weights[output];
    if (call->bits == 8)
        return ((const int8_t *)bytes)[column];
    return (bytes[column / 2] >> (column % 2 * 4) & 15) - zero;
}

/* c_0 .. c_7 of a segment, folded. */
static float int_dot(const fb_int_dots_call *call, size_t output, const fb_int_row *x) {
    float c[FB_INT_LANES] = {0};
    for (size_t group = 0; group * call->group < call->columns; group++) {
        size_t scale = group >> call->scale_shift, first = group * call->group;
        int zero = call->zero_points ? call->zero_points[output][scale] : 8;
        float factor = x->scales[group] * call->scales[output][scale];
        int32_t n[FB_INT_LANES] = {0};
        bool has[FB_INT_LANES] = {false};
        for (size_t column = first; column < first + call->group; column++) {
            size_t byte = call->bits == 8 ? column : column / 2, lane = byte / 4 % FB_INT_LANES;
            n[lane] += x->values[column] * int_weight(call, output, column, zero);
            has[lane] = true;
        }
        for (size_t lane = 0; lane < FB_INT_LANES; lane++)
            if (has[lane])
                c[lane] = fmaf((float)n[lane], factor, c[lane]);
    }
    return ((c[0] + c[4]) + (c[2] + c[6])) + ((c[1] + c[5]) + (c[3] + c[7]));
}

/* One group of keys of 8 bits (contract C14.3). */
static void int_scores_of_group(const fb_int_scores_call *call, const int8_t *keys, float *s) {
    float scales[FB_GROUP_KEYS];
    memcpy(scales, keys + fb_int_keys_bytes(call->head_dim), sizeof scales);
    for (size_t row = 0; row < call->rows; row++, s += FB_SCORE_STRIDE) {
        const int8_t *q = call->q + row * fb_padded_dim(call->head_dim);
        for (size_t key = 0; key < FB_GROUP_KEYS; key++) {
            int32_t n = 0;
            for (size_t d = 0; d < call->head_dim; d++)
                n += q[d] * keys[fb_int_key_index(d, key)];
            s[key] = (float)n * scales[key] * call->factors[row];
        }
    }
}

static void int_scores(const fb_int_scores_call *call) {
    const void *const *groups = call->groups;
    float *s = call->s;
    for (size_t stream = 0; stream < call->streams; stream++, s += call->rows * FB_SCORE_STRIDE)
        for (size_t group = 0; group < call->num_groups; group++)
            int_scores_of_group(call, *groups++, s + group * FB_GROUP_KEYS);
}

/* Weights of one row and a group of keys, of which `keys` are there; returns their scale. */
static float int_weights(const float *p, const float *scales, size_t keys, int *u) {
    float w[FB_GROUP_KEYS] = {0};
    uint32_t largest = 0;
    for (size_t key = 0; key < keys; key++) {
        w[key] = p[key] * scales[key];
        uint32_t magnitude = fb_f32_to_bits(w[key]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
    }
    fb_int_scale scale = fb_int_scale_to(largest, fb_int_weight_steps);
    for (size_t key = 0; key < FB_GROUP_KEYS; key++)
        u[key] = scale.reciprocal > 0.0f ? fb_int_round(w[key] * scale.reciprocal) : 0;
    return scale.scale;
}

/* One row of values of 8 bits (contract C14.4). */
static void int_values_of_row(const fb_values_call *call, const void *const *groups, const float *p,
                              float alpha, float *o) {
    const size_t dims = fb_padded_dim(call->head_dim);
    int u[FB_TILE_KEYS / FB_GROUP_KEYS][FB_GROUP_KEYS];
    float factors[FB_TILE_KEYS / FB_GROUP_KEYS], scales[FB_GROUP_KEYS];
    const size_t num_groups = (call->num_keys + FB_GROUP_KEYS - 1) / FB_GROUP_KEYS;
    for (size_t group = 0; group < num_groups; group++) {
        size_t left = call->num_keys - group * FB_GROUP_KEYS;
        memcpy(scales, (const int8_t *)groups[group] + fb_int_values_bytes(call->head_dim),
               sizeof scales);
        factors[group] = int_weights(p + group * FB_ROWS_BLOCK, scales,
                                     left < FB_GROUP_KEYS ? left : FB_GROUP_KEYS, u[group]);
    }
    for (size_t d = 0; d < dims; d++) {
        float t = 0.0f;
        for (size_t group = 0; group < num_groups; group++) {
            const int8_t *v = groups[group];
            int32_t n = 0;
            for (size_t key = 0; key < FB_GROUP_KEYS; key++)
                n += u[group][key] * v[fb_int_value_index(d, key)];
            t = fmaf((float)n, factors[group], t);
        }
        o[d] = fmaf(o[d], alpha, t);
    }
}

static void int_values(const fb_values_call *call) {
    const size_t num_groups = (call->num_keys + FB_GROUP_KEYS - 1) / FB_GROUP_KEYS;
    for (size_t row = 0; row < call->streams * call->rows; row++)
        int_values_of_row(call, call->groups + row / call->rows * num_groups,
                          call->p + row * FB_SEGMENT, call->alpha[row],
                          call->o + row * fb_padded_dim(call->head_dim));
}

static void int_dots(const fb_int_dots_call *call) {
    for (size_t output = 0; output < call->outputs; output++)
        for (size_t row = 0; row < call->rows; row++)
            call->sums[output * fb_dot_stride(call->rows) + row] +=
                int_dot(call, output, &call->x[row]);
}

#endif

/* Products with weights of 8 and 4 bits in plain C (contract C13); scalar.c includes this. Here
 * fb_int_row.values are the integers in their order, and its sums are not used. */
#ifndef FB_SIMD_SCALAR_INTEGERS_H
#define FB_SIMD_SCALAR_INTEGERS_H

#include "base/half.h"
#include "simd/integers.h"
#include "simd/kernels.h"

#include <math.h>
#include <string.h>

static void quantize(const fb_quantize_call *call) {
    size_t whole = fb_int_whole_columns(call->columns);
    memset(call->to->values, 0, whole);
    for (size_t first = 0, group = 0; first < whole; first += call->group, group++) {
        size_t left = first < call->columns ? call->columns - first : 0;
        size_t count = left < call->group ? left : call->group;
        uint32_t largest = 0; /* of the bits of |x|: a NaN is above infinity */
        for (size_t i = 0; i < count; i++) {
            uint32_t magnitude = fb_f32_to_bits(call->x[first + i]) & 0x7fffffffu;
            largest = magnitude > largest ? magnitude : largest;
        }
        fb_int_scale scale = fb_int_scale_of(largest);
        call->to->scales[group] = scale.scale;
        for (size_t i = 0; i < count && scale.reciprocal > 0.0f; i++)
            call->to->values[first + i] =
                (int8_t)fb_int_round(call->x[first + i] * scale.reciprocal);
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

static void int_dots(const fb_int_dots_call *call) {
    for (size_t output = 0; output < call->outputs; output++)
        for (size_t row = 0; row < call->rows; row++)
            call->sums[output * fb_dot_stride(call->rows) + row] +=
                int_dot(call, output, &call->x[row]);
}

#endif

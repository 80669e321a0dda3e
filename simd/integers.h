/* What all instruction sets share of products with weights of 8 and 4 bits. */
#ifndef FB_SIMD_INTEGERS_H
#define FB_SIMD_INTEGERS_H

#include "base/half.h"
#include "simd/constants.h"
#include "simd/kernels.h"

/* Columns of a segment, continued with zeros. */
static inline size_t fb_int_whole_columns(size_t columns) {
    return (columns + FB_INT_STEP - 1) / FB_INT_STEP * FB_INT_STEP;
}

/* To quantise a group of x: integers are x * reciprocal, rounded; all 0 where reciprocal is 0. */
typedef struct fb_int_scale {
    float scale, reciprocal;
} fb_int_scale;

/* From the bits of the group's largest |x|, which becomes the integer `steps` (contract C13.3). */
static inline fb_int_scale fb_int_scale_to(uint32_t largest, float steps) {
    float max = fb_bits_to_f32(largest);
    if (largest >= 0x7f800000u)
        return (fb_int_scale){fb_bits_to_f32(FB_NAN_BITS), 0.0f};
    if (max < 0x1p-100f)
        return (fb_int_scale){0.0f, 0.0f};
    return (fb_int_scale){max / steps, steps / max};
}

static inline fb_int_scale fb_int_scale_of(uint32_t largest) {
    return fb_int_scale_to(largest, 127.0f);
}

/* Of weights of values (contract C14.4). */
static const float fb_int_weight_steps = 255.0f;

/* To nearest, ties to even, of |x| < 2^22: in the sum one unit is the last bit. */
static inline int fb_int_round(float x) {
    const float round = 0x1.8p+23f;
    return (int)fb_f32_to_bits(x + round) - (int)fb_f32_to_bits(round);
}

/* The scale of a group, and one of its integers. */
static inline fb_int_scale fb_int_scale_of_group(const float *x, size_t count) {
    uint32_t largest = 0; /* of the bits of |x|: a NaN is above infinity */
    for (size_t i = 0; i < count; i++) {
        uint32_t magnitude = fb_f32_to_bits(x[i]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
    }
    return fb_int_scale_of(largest);
}

static inline int8_t fb_int_of(fb_int_scale scale, float x) {
    return scale.reciprocal > 0.0f ? (int8_t)fb_int_round(x * scale.reciprocal) : 0;
}

/* Quantises a group; returns its scale (contract C13.3). */
static inline float fb_int_quantize(const float *x, size_t count, int8_t *to) {
    fb_int_scale scale = fb_int_scale_of_group(x, count);
    for (size_t i = 0; i < count; i++)
        to[i] = fb_int_of(scale, x[i]);
    return scale.scale;
}

#endif

/* Products with weights of 8 and 4 bits on NEON, plain and with DotProd (kernels.h, contract C13).
 * Two registers are the 8 sums of one output. See int_dots.h; the file that includes this one has
 * defined
 *
 *   add_products(int32x4_t sums, int8x16_t w, int8x16_t x)
 *              sums + the products of 16 bytes, by fours
 *
 * Weights of 4 bits become signed bytes, -15 to 15: sums of x are not needed. */
#ifndef FB_SIMD_INT_DOTS_NEON_H
#define FB_SIMD_INT_DOTS_NEON_H

#include "simd/integers.h"
#include "simd/tiles.h"

#include <arm_neon.h>
#include <string.h>

#define INT_TILE_ROWS          4
#define INT_VECTORS            1
#define INT_PER_VECTOR         1
#define int_in_register(value) ((void)0)

typedef float32x4x2_t int_floats;
typedef int32x4x2_t int_sums;
typedef int8x16x2_t int_weights, int_x, int_zeros;

INLINE int_floats int_no_floats(void) {
    return (int_floats){{vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}};
}

INLINE int_x int_load_x(const int BITS, const fb_int_row *x, size_t half) {
    (void)BITS;
    return (int_x){{vld1q_s8(x->values + half * 32), vld1q_s8(x->values + half * 32 + 16)}};
}

/* What is subtracted from the weights of the first four sums, and of the others. */
INLINE int_zeros int_load_zeros(const bool MIXED, const uint8_t *const *zeros, size_t first,
                                size_t second) {
    int8x16_t zero = vdupq_n_s8(zeros ? (int8_t)zeros[0][first] : 8);
    if (!MIXED || !zeros)
        return (int_zeros){{zero, zero}};
    return (int_zeros){{zero, vdupq_n_s8((int8_t)zeros[0][second])}};
}

INLINE int_weights int_load_weights(const int BITS, const void *const *weights, size_t byte,
                                    const bool ODD, int_zeros zeros) {
    if (BITS == 8) {
        const int8_t *w = (const int8_t *)weights[0] + byte;
        return (int_weights){{vld1q_s8(w), vld1q_s8(w + 16)}};
    }
    const uint8_t *w = (const uint8_t *)weights[0] + byte;
    uint8x16_t low = vld1q_u8(w), high = vld1q_u8(w + 16);
    low = ODD ? vshrq_n_u8(low, 4) : vandq_u8(low, vdupq_n_u8(15));
    high = ODD ? vshrq_n_u8(high, 4) : vandq_u8(high, vdupq_n_u8(15));
    return (int_weights){{vsubq_s8(vreinterpretq_s8_u8(low), zeros.val[0]),
                          vsubq_s8(vreinterpretq_s8_u8(high), zeros.val[1])}};
}

INLINE int_floats int_load_scales(const bool MIXED, const float *const *scales, size_t first,
                                  size_t second) {
    float32x4_t scale = vdupq_n_f32(scales[0][first]);
    return (int_floats){{scale, MIXED ? vdupq_n_f32(scales[0][second]) : scale}};
}

INLINE int_floats int_x_scales(const bool MIXED, const float *scales) {
    float32x4_t scale = vdupq_n_f32(scales[0]);
    return (int_floats){{scale, MIXED ? vdupq_n_f32(scales[1]) : scale}};
}

INLINE int_sums int_begin(const int BITS, const int32_t *x_sums, const bool HAS_ZEROS,
                          int_zeros zeros) {
    (void)BITS;
    (void)x_sums;
    (void)HAS_ZEROS;
    (void)zeros;
    return (int_sums){{vdupq_n_s32(0), vdupq_n_s32(0)}};
}

INLINE int_sums int_start(const int BITS, int_sums begun) {
    (void)BITS;
    return begun;
}

INLINE int_sums int_dot(const int BITS, int_sums sums, int_weights w, int_x x) {
    (void)BITS;
    return (int_sums){{add_products(sums.val[0], w.val[0], x.val[0]),
                       add_products(sums.val[1], w.val[1], x.val[1])}};
}

INLINE int_sums int_end(const int BITS, int_sums begun, int_sums sums) {
    (void)BITS;
    (void)begun;
    return sums;
}

INLINE int_floats int_add(int_sums sums, int_floats scales, int_floats x_scales, int_floats c) {
    UNROLLED
    for (int i = 0; i < 2; i++)
        c.val[i] = vfmaq_f32(c.val[i], vcvtq_f32_s32(sums.val[i]),
                             vmulq_f32(x_scales.val[i], scales.val[i]));
    return c;
}

/* ((c_0 + c_4) + (c_2 + c_6)) + ((c_1 + c_5) + (c_3 + c_7)) */
INLINE void int_fold(const int ROWS, int_floats c[INT_VECTORS][INT_TILE_ROWS], float *sums,
                     size_t stride) {
    (void)stride;
    UNROLLED
    for (int row = 0; row < ROWS; row++) {
        float32x4_t four = vaddq_f32(c[0][row].val[0], c[0][row].val[1]);
        float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
        sums[row] += vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
    }
}

#include "simd/int_dots.h"

/* ---- quantising ---- */

INLINE uint32_t largest_magnitude(const float *x, size_t count) {
    uint32x4_t largest_x4 = vdupq_n_u32(0);
    for (size_t i = 0; i < count; i += 4)
        largest_x4 = vmaxq_u32(largest_x4, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)),
                                                     vdupq_n_u32(0x7fffffff)));
    return vmaxvq_u32(largest_x4);
}

INLINE int16x4_t rounded_x4(const float *x, float reciprocal) {
    return vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), reciprocal)));
}

INLINE int8x16_t quantized_x16(const float *x, float reciprocal) {
    if (reciprocal == 0.0f)
        return vdupq_n_s8(0);
    int16x8_t low = vcombine_s16(rounded_x4(x, reciprocal), rounded_x4(x + 4, reciprocal));
    int16x8_t high = vcombine_s16(rounded_x4(x + 8, reciprocal), rounded_x4(x + 12, reciprocal));
    return vcombine_s8(vmovn_s16(low), vmovn_s16(high));
}

/* FB_INT_STEP columns, all of them there. For weights of 4 bits, 64 columns are stored as the even
 * ones and the odd ones. */
INLINE void quantize_step(const fb_quantize_call *call, const float *x, size_t first) {
    int8_t integers[FB_INT_STEP], *to = call->to->values + first;
    for (size_t i = 0; i < FB_INT_STEP; i += call->group) {
        fb_int_scale scale = fb_int_scale_of(largest_magnitude(x + i, call->group));
        call->to->scales[(first + i) / call->group] = scale.scale;
        for (size_t j = i; j < i + call->group; j += 16)
            vst1q_s8(integers + j, quantized_x16(x + j, scale.reciprocal));
    }
    if (call->bits == 8) {
        memcpy(to, integers, sizeof integers);
        return;
    }
    for (size_t i = 0; i < FB_INT_STEP; i += 32) {
        int8x16x2_t split = vld2q_s8(integers + i);
        int8_t *at = to + i / 64 * 64 + i % 64 / 2;
        vst1q_s8(at, split.val[0]);
        vst1q_s8(at + 32, split.val[1]);
    }
}

static void quantize(const fb_quantize_call *call) {
    size_t whole = call->columns / FB_INT_STEP * FB_INT_STEP, left = call->columns - whole;
    for (size_t first = 0; first < whole; first += FB_INT_STEP)
        quantize_step(call, call->x + first, first);
    if (left > 0) {
        float rest[FB_INT_STEP] = {0};
        memcpy(rest, call->x + whole, left * sizeof *rest);
        quantize_step(call, rest, whole);
    }
}

#endif

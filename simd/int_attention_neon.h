/* Scores and values of 8 bits on NEON, plain and with DotProd (int_scores.h, int_values.h, contract
 * C14). The file that includes this one has defined:
 *
 *   SCORE_ROWS, VALUE_ROWS
 *   UNSIGNED_LANES    32-bit lanes that the unsigned sum of a dimension is in: 1 or 2
 *   unsigned_sums     the sums of 8 dimensions
 *   add_four(sums, keys, four)
 *                     sums + the products of 16 signed bytes with the 4 at `four`, repeated
 *   add_unsigned_four(sums, values, four)
 *                     the same of 32 unsigned bytes
 *   whole_sums(sums)  sums in one lane a dimension
 *
 * Weights are unsigned and values signed, and no instruction multiplies one with the other. So
 * values are increased by 128, and sums start from what this adds, with the opposite sign. */
#ifndef FB_SIMD_INT_ATTENTION_NEON_H
#define FB_SIMD_INT_ATTENTION_NEON_H

#define SCORE_KEYS 8

typedef int32x4x2_t score_sums;
typedef int8x16x2_t score_keys;

INLINE score_keys score_load(const char *from) {
    const int8_t *keys = (const int8_t *)from;
    return (score_keys){{vld1q_s8(keys), vld1q_s8(keys + 16)}};
}

INLINE score_sums score_begin(int32_t sum) {
    (void)sum;
    return (score_sums){{vdupq_n_s32(0), vdupq_n_s32(0)}};
}

INLINE score_sums score_dot(score_sums sums, score_keys keys, const int8_t *q) {
    return (score_sums){
        {add_four(sums.val[0], keys.val[0], q), add_four(sums.val[1], keys.val[1], q)}};
}

INLINE void score_store(float *to, score_sums sums, const float *scales, float factor) {
    UNROLLED
    for (int i = 0; i < 2; i++) {
        float32x4_t s = vmulq_f32(vcvtq_f32_s32(sums.val[i]), vld1q_f32(scales + 4 * i));
        vst1q_f32(to + 4 * i, vmulq_n_f32(s, factor));
    }
}

#include "simd/int_scores.h"

#define VALUE_VECTORS 1
#define VALUE_DIMS    8
#define VALUE_BYTES   4
#include "simd/int_weights.h"

typedef unsigned_sums value_sums;
typedef uint8x16x2_t value_keys;
typedef float32x4x2_t value_floats;

INLINE value_keys value_load(const char *from) {
    const uint8_t *values = (const uint8_t *)from;
    const uint8x16_t sign = vdupq_n_u8(0x80);
    return (value_keys){{veorq_u8(vld1q_u8(values), sign), veorq_u8(vld1q_u8(values + 16), sign)}};
}

INLINE value_floats value_no_floats(void) {
    return (value_floats){{vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}};
}

INLINE value_sums value_begin(const uint32_t *begin) {
    value_sums sums;
    UNROLLED
    for (int i = 0; i < 2 * UNSIGNED_LANES; i++)
        sums.val[i] = vdupq_n_u32(*begin);
    return sums;
}

INLINE value_sums value_dot(value_sums sums, value_keys values, const uint8_t *u) {
    return add_unsigned_four(sums, values, u);
}

INLINE value_floats value_add(value_floats t, value_sums sums, const float *factor) {
    const uint32x4x2_t whole = whole_sums(sums);
    UNROLLED
    for (int i = 0; i < 2; i++)
        t.val[i] =
            vfmaq_n_f32(t.val[i], vcvtq_f32_s32(vreinterpretq_s32_u32(whole.val[i])), *factor);
    return t;
}

INLINE void value_store(float *o, const float *alpha, value_floats t) {
    UNROLLED
    for (int i = 0; i < 2; i++)
        vst1q_f32(o + 4 * i, vfmaq_n_f32(t.val[i], vld1q_f32(o + 4 * i), *alpha));
}

/* A tile's groups of keys, and the scales of the keys that are there. */
typedef struct weigh_plan {
    size_t num_groups, keys_of_last;
    float scales[TILE_GROUPS][FB_GROUP_KEYS];
} weigh_plan;

/* w = p times the scales of a group; the bits of the largest, in one lane of four or another. */
INLINE uint32x4_t weigh_group(const float *p, const float *scales, float *w) {
    uint32x4_t largest = vdupq_n_u32(0);
    for (size_t i = 0; i < FB_GROUP_KEYS; i += 4) {
        float32x4_t w_x4 = vmulq_f32(vld1q_f32(p + i), vld1q_f32(scales + i));
        largest = vmaxq_u32(largest, vreinterpretq_u32_f32(vabsq_f32(w_x4)));
        vst1q_f32(w + i, w_x4);
    }
    return largest;
}

/* The scales of weights whose largest have these bits: fb_int_scale_to. */
INLINE float32x4_t scales_to(uint32x4_t largest, float32x4_t *reciprocal) {
    const float32x4_t steps = vdupq_n_f32(fb_int_weight_steps);
    const float32x4_t max = vreinterpretq_f32_u32(largest);
    uint32x4_t is_bad = vcgeq_u32(largest, vdupq_n_u32(0x7f800000));
    uint32x4_t is_large = vcgeq_f32(max, vdupq_n_f32(0x1p-100f));
    uint32x4_t of_steps = vreinterpretq_u32_f32(vdivq_f32(steps, max));
    uint32x4_t scale = vandq_u32(is_large, vreinterpretq_u32_f32(vdivq_f32(max, steps)));
    *reciprocal = vreinterpretq_f32_u32(vandq_u32(is_large, of_steps));
    return vreinterpretq_f32_u32(vbslq_u32(is_bad, vdupq_n_u32(FB_NAN_BITS), scale));
}

/* The integer of a NaN is 0. */
INLINE uint16x4_t weights_x4(const float *w, float reciprocal) {
    return vmovn_u32(vcvtnq_u32_f32(vmulq_n_f32(vld1q_f32(w), reciprocal)));
}

INLINE void store_weights(const float *w, float reciprocal, uint8_t *u, uint32_t *begin) {
    uint16x8_t low = vcombine_u16(weights_x4(w, reciprocal), weights_x4(w + 4, reciprocal));
    uint16x8_t high = vcombine_u16(weights_x4(w + 8, reciprocal), weights_x4(w + 12, reciprocal));
    uint8x16_t u_x16 = vcombine_u8(vmovn_u16(low), vmovn_u16(high));
    vst1q_u8(u, u_x16);
    *begin = 0u - 128 / UNSIGNED_LANES * (uint32_t)vaddlvq_u8(u_x16);
}

/* `p` is of the row's first group. */
INLINE void weigh_row(const float *p, const weigh_plan *plan, uint8_t *u, float *factors,
                      uint32_t *begins) {
    float w[TILE_GROUPS][FB_GROUP_KEYS], reciprocals[TILE_GROUPS];
    uint32x4_t largest[TILE_GROUPS];
    for (size_t group = 0; group < TILE_GROUPS; group++) {
        float some[FB_GROUP_KEYS] = {0}; /* behind the last key memory may end */
        const float *all = p + group * FB_ROWS_BLOCK;
        largest[group] = vdupq_n_u32(0);
        if (group + 1 == plan->num_groups && plan->keys_of_last < FB_GROUP_KEYS)
            all = memcpy(some, all, plan->keys_of_last * sizeof *some);
        if (group < plan->num_groups)
            largest[group] = weigh_group(all, plan->scales[group], w[group]);
    }
    float32x4_t reciprocal;
    vst1q_f32(factors, scales_to(vpmaxq_u32(vpmaxq_u32(largest[0], largest[1]),
                                            vpmaxq_u32(largest[2], largest[3])),
                                 &reciprocal));
    vst1q_f32(reciprocals, reciprocal);
    for (size_t group = 0; group < plan->num_groups; group++)
        store_weights(w[group], reciprocals[group], u + group * FB_GROUP_KEYS, begins + group);
}

static __attribute__((noinline)) void value_weigh(const fb_values_call *call, size_t stream,
                                                  int_weights_of_rows *weights) {
    weigh_plan plan = {.num_groups = groups_of(call)};
    plan.keys_of_last = call->num_keys - (plan.num_groups - 1) * FB_GROUP_KEYS;
    for (size_t group = 0; group < plan.num_groups; group++) {
        bool is_last = group + 1 == plan.num_groups;
        memcpy(plan.scales[group], scales_of(call, stream, group),
               (is_last ? plan.keys_of_last : FB_GROUP_KEYS) * sizeof(float));
    }
    const float *p = call->p + stream * call->rows * FB_SEGMENT;
    for (size_t row = 0; row < call->rows; row++, p += FB_SEGMENT)
        weigh_row(p, &plan, weights->u[row], weights->factors[row], weights->begins[row]);
}

#include "simd/int_values.h"

#endif

/* Values of 8 bits on x86-64 with registers of 32 bytes: what their kernels share (int_values.h).
 * The file that includes this one has defined VALUE_BYTES:
 *
 *   4  the weights of 4 keys are 4 bytes
 *   8  they are of 16 bits, in the order 0, 2, 1, 3
 */
#ifndef FB_SIMD_INT_VALUES_AVX2_H
#define FB_SIMD_INT_VALUES_AVX2_H

#include "simd/int_weights.h"

#include <immintrin.h>
#include <string.h>

#define VALUE_DIMS 8

typedef __m256i value_sums;
typedef __m256 value_floats;

INLINE value_sums value_begin(const uint32_t *begin) {
    (void)begin;
    return _mm256_setzero_si256();
}

INLINE value_floats value_no_floats(void) {
    return _mm256_setzero_ps();
}

INLINE __m256i value_four(const uint8_t *u) {
    int32_t four;
    memcpy(&four, u, sizeof four);
    return _mm256_set1_epi32(four);
}

INLINE value_floats value_add(value_floats t, value_sums sums, const float *factor) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), _mm256_broadcast_ss(factor), t);
}

INLINE void value_store(float *o, const float *alpha, value_floats t) {
    _mm256_storeu_ps(o, _mm256_fmadd_ps(_mm256_loadu_ps(o), _mm256_broadcast_ss(alpha), t));
}

/* Which keys of a tile are there, and their scales; 8 keys each. */
typedef struct weigh_plan {
    __m256i present[2 * TILE_GROUPS];
    __m256 scales[2 * TILE_GROUPS];
} weigh_plan;

/* The weights of 8 keys as floats. */
INLINE __m256 weights_x8(const float *p, const weigh_plan *plan, size_t eight) {
    const float *at = p + eight / 2 * FB_ROWS_BLOCK + eight % 2 * 8;
    return _mm256_mul_ps(_mm256_maskload_ps(at, plan->present[eight]), plan->scales[eight]);
}

/* The bits of the largest weight of each group of a row. */
INLINE __m128i largest_weights(const float *p, const weigh_plan *plan) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m128i of_group[TILE_GROUPS];
    UNROLLED
    for (size_t group = 0; group < TILE_GROUPS; group++) {
        __m256i low = _mm256_castps_si256(weights_x8(p, plan, 2 * group));
        __m256i high = _mm256_castps_si256(weights_x8(p, plan, 2 * group + 1));
        low = _mm256_max_epu32(_mm256_and_si256(low, magnitude), _mm256_and_si256(high, magnitude));
        of_group[group] =
            _mm_max_epu32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    }
    __m128i first = _mm_max_epu32(_mm_unpacklo_epi32(of_group[0], of_group[1]),
                                  _mm_unpackhi_epi32(of_group[0], of_group[1]));
    __m128i second = _mm_max_epu32(_mm_unpacklo_epi32(of_group[2], of_group[3]),
                                   _mm_unpackhi_epi32(of_group[2], of_group[3]));
    return _mm_max_epu32(_mm_unpacklo_epi64(first, second), _mm_unpackhi_epi64(first, second));
}

/* The scales of weights whose largest have these bits: fb_int_scale_to. */
INLINE __m256 scales_to(__m256i largest, __m256 *reciprocal) {
    const __m256 steps = _mm256_set1_ps(fb_int_weight_steps), max = _mm256_castsi256_ps(largest);
    const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(FB_NAN_BITS));
    __m256 is_bad = _mm256_castsi256_ps(_mm256_cmpgt_epi32(largest, _mm256_set1_epi32(0x7f7fffff)));
    __m256 is_large = _mm256_cmp_ps(max, _mm256_set1_ps(0x1p-100f), _CMP_GE_OQ);
    *reciprocal = _mm256_and_ps(_mm256_andnot_ps(is_bad, is_large), _mm256_div_ps(steps, max));
    __m256 scale = _mm256_and_ps(is_large, _mm256_div_ps(max, steps));
    return _mm256_blendv_ps(scale, nan, is_bad);
}

/* The integers of a group. Of an infinity or a NaN times 0 the integer is INT_MIN, which becomes 0.
 */
INLINE void store_weights(__m256 low, __m256 high, __m256 reciprocal, uint8_t *u) {
    __m256i low_x8 = _mm256_cvtps_epi32(_mm256_mul_ps(low, reciprocal));
    __m256i high_x8 = _mm256_cvtps_epi32(_mm256_mul_ps(high, reciprocal));
    __m256i x16 = _mm256_packus_epi32(low_x8, high_x8); /* keys 0-3, 8-11, 4-7, 12-15 */
    if (VALUE_BYTES == 4) {
        __m256i bytes = _mm256_packus_epi16(x16, x16);
        __m128i in_order =
            _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
        _mm_store_si128((__m128i *)(void *)u, in_order);
        return;
    }
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0,
                                           1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    x16 = _mm256_shuffle_epi8(_mm256_permute4x64_epi64(x16, 0xd8), order);
    _mm256_store_si256((__m256i *)(void *)u, x16);
}

/* Two rows, number `row` and `second`, which may be the same. */
INLINE void weigh_two_rows(const float *p, const weigh_plan *plan, size_t row, size_t second,
                           int_weights_of_rows *weights) {
    const size_t rows[2] = {row, second};
    float reciprocals[2 * TILE_GROUPS];
    __m256 reciprocal;
    __m256i largest = _mm256_setr_m128i(largest_weights(p + row * FB_SEGMENT, plan),
                                        largest_weights(p + second * FB_SEGMENT, plan));
    _mm256_storeu_ps(weights->factors[row], scales_to(largest, &reciprocal));
    _mm256_storeu_ps(reciprocals, reciprocal);
    for (size_t i = 0; i < 2; i++) {
        const float *its_p = p + rows[i] * FB_SEGMENT;
        UNROLLED
        for (size_t group = 0; group < TILE_GROUPS; group++)
            store_weights(weights_x8(its_p, plan, 2 * group),
                          weights_x8(its_p, plan, 2 * group + 1),
                          _mm256_broadcast_ss(reciprocals + i * TILE_GROUPS + group),
                          weights->u[rows[i]] + group * FB_GROUP_KEYS * VALUE_BYTES / FB_INT_QUAD);
    }
}

static __attribute__((noinline)) void value_weigh(const fb_values_call *call, size_t stream,
                                                  int_weights_of_rows *weights) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const size_t num_groups = groups_of(call);
    weigh_plan plan;
    for (size_t i = 0; i < 2 * TILE_GROUPS; i++) {
        int left = (int)call->num_keys - (int)i * 8;
        plan.present[i] = _mm256_cmpgt_epi32(_mm256_set1_epi32(left), index);
        plan.scales[i] = _mm256_setzero_ps();
        if (i / 2 < num_groups)
            plan.scales[i] =
                _mm256_maskload_ps(scales_of(call, stream, i / 2) + i % 2 * 8, plan.present[i]);
    }
    const float *p = call->p + stream * call->rows * FB_SEGMENT;
    for (size_t row = 0; row < call->rows; row += 2)
        weigh_two_rows(p, &plan, row, row + 1 < call->rows ? row + 1 : row, weights);
}

#endif

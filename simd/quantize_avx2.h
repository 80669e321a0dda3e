/* Quantising rows of x with AVX2 (kernels.h, contract C13.3), for the sets of x86-64.
 *
 * For weights of 4 bits, 64 columns are stored as the 32 even ones and the 32 odd ones, and sums
 * are those of x with the opposite sign. For weights of 8 bits the file that includes this one says
 * how:
 *
 *   QUANTIZE_BYTES  1: 32 columns are 32 bytes, and sums are -128 times those of x
 *                   0: they are the 16 even ones and the 16 odd ones in 16 bits each, without sums
 */
#ifndef FB_SIMD_QUANTIZE_AVX2_H
#define FB_SIMD_QUANTIZE_AVX2_H

#include "simd/integers.h"
#include "simd/tiles.h"

#include <immintrin.h>
#include <string.h>

/* 8 sums, each of 4 neighbouring integers. */
INLINE __m256i sums_of_four(__m256i x_x32) {
    __m256i pairs_x16 = _mm256_maddubs_epi16(_mm256_set1_epi8(1), x_x32);
    return _mm256_madd_epi16(pairs_x16, _mm256_set1_epi16(1));
}

/* The bits of the largest |x|. */
INLINE uint32_t largest_magnitude(const float *x, size_t count) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i largest_x8 = _mm256_setzero_si256();
    for (size_t i = 0; i < count; i += 8) {
        __m256i bits_x8 = _mm256_loadu_si256((const __m256i *)(const void *)(x + i));
        largest_x8 = _mm256_max_epu32(largest_x8, _mm256_and_si256(bits_x8, magnitude));
    }
    __m128i largest_x4 =
        _mm_max_epu32(_mm256_castsi256_si128(largest_x8), _mm256_extracti128_si256(largest_x8, 1));
    largest_x4 = _mm_max_epu32(largest_x4, _mm_shuffle_epi32(largest_x4, 0x4e));
    largest_x4 = _mm_max_epu32(largest_x4, _mm_shuffle_epi32(largest_x4, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(largest_x4);
}

INLINE __m256i rounded_x8(const float *x, __m256 reciprocal_x8) {
    return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), reciprocal_x8));
}

/* 32 columns as integers. */
INLINE __m256i quantized_x32(const float *x, float reciprocal) {
    const __m256 reciprocal_x8 = _mm256_set1_ps(reciprocal);
    if (reciprocal == 0.0f)
        return _mm256_setzero_si256();
    __m256i low_x16 =
        _mm256_packs_epi32(rounded_x8(x, reciprocal_x8), rounded_x8(x + 8, reciprocal_x8));
    __m256i high_x16 =
        _mm256_packs_epi32(rounded_x8(x + 16, reciprocal_x8), rounded_x8(x + 24, reciprocal_x8));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low_x16, high_x16), order);
}

INLINE __m256i even_columns(__m256i x_x32) {
    return _mm256_srai_epi16(_mm256_slli_epi16(x_x32, 8), 8);
}

INLINE __m256i odd_columns(__m256i x_x32) {
    return _mm256_srai_epi16(x_x32, 8);
}

/* The lower bytes of 32 elements of 16 bits. */
INLINE __m256i joined(__m256i first_x16, __m256i second_x16) {
    return _mm256_permute4x64_epi64(_mm256_packs_epi16(first_x16, second_x16), 0xd8);
}

INLINE void store_half(int8_t *values, size_t half, __m256i x_x32) {
    _mm256_store_si256((__m256i *)(void *)(values + half * 32), x_x32);
}

INLINE void add_sums(int32_t *sums, __m256i more_x8) {
    __m256i *at = (__m256i *)(void *)sums;
    _mm256_store_si256(at, _mm256_add_epi32(_mm256_load_si256(at), more_x8));
}

/* 64 columns, for weights of 4 bits; the sums are those of unit number `unit`. */
INLINE void quantize_for_4_bits(const float *x, const float reciprocals[2], size_t half,
                                size_t unit, fb_int_row *to) {
    __m256i first_x32 = quantized_x32(x, reciprocals[0]);
    __m256i second_x32 = quantized_x32(x + 32, reciprocals[1]);
    __m256i even_x32 = joined(even_columns(first_x32), even_columns(second_x32));
    __m256i odd_x32 = joined(odd_columns(first_x32), odd_columns(second_x32));
    store_half(to->values, half, even_x32);
    store_half(to->values, half + 1, odd_x32);
    __m256i sums_x8 = _mm256_add_epi32(sums_of_four(even_x32), sums_of_four(odd_x32));
    add_sums(to->sums[unit], _mm256_sub_epi32(_mm256_setzero_si256(), sums_x8));
}

INLINE void quantize_for_8_bits(const float *x, float reciprocal, size_t half, size_t unit,
                                fb_int_row *to) {
    __m256i x_x32 = quantized_x32(x, reciprocal);
    if (QUANTIZE_BYTES) {
        store_half(to->values, half, x_x32);
        add_sums(to->sums[unit], _mm256_sub_epi32(_mm256_setzero_si256(),
                                                  _mm256_slli_epi32(sums_of_four(x_x32), 7)));
    } else {
        store_half(to->values, 2 * half, even_columns(x_x32));
        store_half(to->values, 2 * half + 1, odd_columns(x_x32));
    }
}

/* FB_INT_STEP columns, all of them there; number first / FB_INT_STEP of the row. */
INLINE void quantize_step(const fb_quantize_call *call, const float *x, size_t first) {
    const size_t of_step = FB_INT_STEP / call->group, group = first / call->group;
    const bool is_mixed = call->bits == 4 && call->group == 32;
    float reciprocals[FB_INT_STEP / 32];
    for (size_t i = 0; i < of_step; i++) {
        fb_int_scale scale = fb_int_scale_of(largest_magnitude(x + i * call->group, call->group));
        call->to->scales[group + i] = scale.scale;
        for (size_t part = 0; part < call->group / 32; part++)
            reciprocals[i * (call->group / 32) + part] = scale.reciprocal;
    }
    size_t unit_columns = is_mixed ? 64 : call->group;
    size_t unit = first / unit_columns;
    memset(call->to->sums[unit], 0, FB_INT_STEP / unit_columns * sizeof call->to->sums[0]);
    for (size_t i = 0; i < FB_INT_STEP; i += call->bits == 8 ? 32 : 64) {
        size_t half = (first + i) / 32, its_unit = unit + i / unit_columns;
        if (call->bits == 8)
            quantize_for_8_bits(x + i, reciprocals[i / 32], half, its_unit, call->to);
        else
            quantize_for_4_bits(x + i, reciprocals + i / 32, half, its_unit, call->to);
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

/* Dot products on AVX-512: a register is 8 columns of two outputs. See dots.h; avx512.c includes
 * this. 24 accumulators, 3 registers of weights, 1 of x. */
#ifndef FB_SIMD_DOTS_AVX512_H
#define FB_SIMD_DOTS_AVX512_H

#include "simd/folds_avx512.h"
#include "simd/tiles.h"

#include <immintrin.h>

#define DOT_TILE_ROWS          8
#define DOT_PER_VECTOR         2
#define dot_in_register(value) __asm__("" : "+v"(value))
#define dot_in_turn(sum)       ((void)0)

typedef __m512 dot_vector;

INLINE dot_vector dot_zero(void) {
    return _mm512_setzero_ps();
}

INLINE dot_vector dot_x(const float *x) {
    return _mm512_broadcast_f32x8(_mm256_loadu_ps(x));
}

INLINE dot_vector dot_weights(const fb_dtype DTYPE, const void *const *weights, size_t index) {
    if (DTYPE == FB_F32) {
        __m256 first = _mm256_loadu_ps((const float *)weights[0] + index);
        __m256 second = _mm256_loadu_ps((const float *)weights[1] + index);
        return _mm512_insertf32x8(_mm512_castps256_ps512(first), second, 1);
    }
    const uint16_t *first = (const uint16_t *)weights[0] + index;
    const uint16_t *second = (const uint16_t *)weights[1] + index;
    __m256i half_x16 =
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)first));
    half_x16 = _mm256_inserti128_si256(half_x16,
                                       _mm_loadu_si128((const __m128i *)(const void *)second), 1);
    if (DTYPE == FB_F16)
        return widen_x16(DTYPE, half_x16);
    /* One shuffle into the upper halves of zeros, see dots_avx2.h. */
    const __m512i place = _mm512_setr_epi32(0 << 16, 1 << 16, 2 << 16, 3 << 16, 4 << 16, 5 << 16,
                                            6 << 16, 7 << 16, 8 << 16, 9 << 16, 10 << 16, 11 << 16,
                                            12 << 16, 13 << 16, 14 << 16, 15 << 16);
    return _mm512_castsi512_ps(
        _mm512_maskz_permutexvar_epi16(0xaaaaaaaau, place, _mm512_castsi256_si512(half_x16)));
}

INLINE void dot_store(dot_vector w, float *to) {
    _mm512_storeu_ps(to, w);
}

INLINE dot_vector dot_load(const float *from) {
    return _mm512_loadu_ps(from);
}

INLINE dot_vector dot_fma(dot_vector x, dot_vector w, dot_vector sum) {
    return _mm512_fmadd_ps(x, w, sum);
}

INLINE void dot_fold(const int ROWS, const int FIRST, dot_vector chains[3][DOT_TILE_ROWS],
                     float *sums, size_t stride) {
    __m512 third = dot_quarters(ROWS, chains[2] + FIRST);
    __m512 first_four =
        dot_sums(dot_quarters(ROWS, chains[0] + FIRST), dot_quarters(ROWS, chains[1] + FIRST));
    __m512 last_two = dot_sums(third, third);
    dot_add(ROWS, _mm512_castps512_ps128(first_four), sums);
    dot_add(ROWS, _mm512_extractf32x4_ps(first_four, 1), sums + stride);
    dot_add(ROWS, _mm512_extractf32x4_ps(first_four, 2), sums + 2 * stride);
    dot_add(ROWS, _mm512_extractf32x4_ps(first_four, 3), sums + 3 * stride);
    dot_add(ROWS, _mm512_castps512_ps128(last_two), sums + 4 * stride);
    dot_add(ROWS, _mm512_extractf32x4_ps(last_two, 1), sums + 5 * stride);
}

#include "simd/dots.h"

#endif

/* Dot products on AVX-512: a register is 8 columns of two outputs. See dots.h; avx512.c includes
 * this. 24 accumulators, 3 registers of weights, 1 of x. */
#ifndef FB_SIMD_DOTS_AVX512_H
#define FB_SIMD_DOTS_AVX512_H

#include "simd/tiles.h"

#include <immintrin.h>

#define DOT_TILE_ROWS          8
#define DOT_PER_VECTOR         2
#define dot_in_register(value) __asm__("" : "+v"(value))

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

INLINE void dot_widened(dot_vector w, float *wide) {
    _mm256_storeu_ps(wide, _mm512_castps512_ps256(w));
    _mm256_storeu_ps(wide + FB_DOT_COLUMNS, _mm512_extractf32x8_ps(w, 1));
}

INLINE dot_vector dot_fma(dot_vector x, dot_vector w, dot_vector sum) {
    return _mm512_fmadd_ps(x, w, sum);
}

/* c_i + c_(i+4), i < 4, of two rows. The four parts of the result are: first row of the first
 * output and of the second, second row of the first and of the second. */
INLINE __m512 dot_halves(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* c_0 + c_4 + c_2 + c_6 and c_1 + c_5 + c_3 + c_7 of four rows: in each part those of rows 0, 2 or
 * 1, 3. */
INLINE __m512 dot_quarters(const int ROWS, const dot_vector *chains) {
    const __m512 zero = _mm512_setzero_ps();
    __m512 ab = dot_halves(chains[0], ROWS > 1 ? chains[1] : zero);
    __m512 cd = ROWS > 2 ? dot_halves(chains[2], ROWS > 3 ? chains[3] : zero) : zero;
    return _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
}

/* The last addition, for two vectors of outputs: four outputs, of each four rows. */
INLINE __m512 dot_sums(__m512 first, __m512 second) {
    const __m512i by_output =
        _mm512_setr_epi32(0, 8, 1, 9, 4, 12, 5, 13, 2, 10, 3, 11, 6, 14, 7, 15);
    __m512 sums = _mm512_add_ps(_mm512_shuffle_ps(first, second, 0x88),
                                _mm512_shuffle_ps(first, second, 0xdd));
    return _mm512_permutexvar_ps(by_output, sums);
}

INLINE void dot_add(const int ROWS, __m128 sum, float *to) {
    const __mmask8 rows = (__mmask8)((1 << ROWS) - 1);
    if (ROWS == 4)
        _mm_storeu_ps(to, _mm_add_ps(_mm_loadu_ps(to), sum));
    else
        _mm_mask_storeu_ps(to, rows, _mm_add_ps(_mm_maskz_loadu_ps(rows, to), sum));
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

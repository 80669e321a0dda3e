/* Products with weights of 8 and 4 bits on AVX2; avx2.c includes this. See int_dots.h.
 *
 * 8 bits: bytes are widened to 16 bits, the even and the odd ones of each 32, and multiplied by
 * pmaddwd, which sums them by twos. (pmaddubsw sums products of bytes in 16 bits, which 2 * 255 *
 * 127 does not fit.) 4 bits: pmaddubsw, as 4 * 2 * 15 * 127, the sum over a unit, fits 16 bits. */
#ifndef FB_SIMD_INT_DOTS_AVX2_H
#define FB_SIMD_INT_DOTS_AVX2_H

#include "simd/int_dots_x8.h"

#define QUANTIZE_BYTES 0
#include "simd/quantize_avx2.h"

/* 8 bits: the even and the odd columns. 4 bits: the first one only. */
typedef struct int_weights {
    __m256i even, odd;
} int_weights;

/* x stays in memory: its place. */
typedef const __m256i *int_x;

INLINE int_weights int_load_weights(const int BITS, const void *const *weights, size_t byte,
                                    const bool ODD, int_zeros zeros) {
    (void)zeros;
    if (BITS == 4)
        return (int_weights){load_4_bits(weights[0], byte, ODD), _mm256_setzero_si256()};
    __m256i w = load_bytes((const char *)weights[0] + byte);
    return (int_weights){even_columns(w), odd_columns(w)};
}

INLINE int_x int_load_x(const int BITS, const fb_int_row *x, size_t half) {
    return (const __m256i *)(const void *)(x->values + half * (BITS == 8 ? 64 : 32));
}

INLINE int_sums int_begin(const int BITS, const int32_t *x_sums, const bool HAS_ZEROS,
                          int_zeros zeros) {
    return BITS == 8 ? _mm256_setzero_si256() : begin_4_bits(x_sums, HAS_ZEROS, zeros);
}

/* Of 4 bits: sums of 16 bits. */
INLINE int_sums int_start(const int BITS, int_sums begun) {
    (void)BITS;
    (void)begun;
    return _mm256_setzero_si256();
}

INLINE int_sums int_dot(const int BITS, int_sums sums, int_weights w, int_x x) {
    if (BITS == 4)
        return _mm256_add_epi16(sums, _mm256_maddubs_epi16(w.even, _mm256_load_si256(x)));
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(w.even, _mm256_load_si256(x)));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(w.odd, _mm256_load_si256(x + 1)));
}

INLINE int_sums int_end(const int BITS, int_sums begun, int_sums sums) {
    if (BITS == 8)
        return sums;
    return _mm256_add_epi32(begun, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)));
}

#include "simd/int_dots.h"

#endif

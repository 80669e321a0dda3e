/* What the sets of x86-64 with registers of 32 bytes share of the products with weights of 8 and 4
 * bits (int_dots.h): a register holds the 8 sums of one output. The file that includes this one has
 * defined how integers are multiplied:
 *
 *   int_weights, int_x, int_load_weights, int_load_x, int_begin, int_start, int_dot, int_end */
#ifndef FB_SIMD_INT_DOTS_X8_H
#define FB_SIMD_INT_DOTS_X8_H

#include "simd/folds_avx2.h"
#include "simd/tiles.h"

#include <immintrin.h>
#include <string.h>

#define INT_TILE_ROWS          4
#define INT_VECTORS            1
#define INT_PER_VECTOR         1
#define int_in_register(value) __asm__("" : "+x"(value))

typedef __m256 int_floats;
typedef __m256i int_sums, int_zeros;

INLINE __m256i load_bytes(const void *from) {
    return _mm256_loadu_si256((const __m256i *)from);
}

/* The integers of 4 bits of 64 columns: the even ones, or the odd ones. */
INLINE __m256i load_4_bits(const void *weights, size_t byte, const bool ODD) {
    __m256i w = load_bytes((const char *)weights + byte);
    if (ODD)
        w = _mm256_srli_epi16(w, 4);
    return _mm256_and_si256(w, _mm256_set1_epi8(15));
}

INLINE int_floats int_no_floats(void) {
    return _mm256_setzero_ps();
}

INLINE int_zeros int_load_zeros(const bool MIXED, const uint8_t *const *zeros, size_t first,
                                size_t second) {
    if (!zeros)
        return _mm256_setzero_si256();
    __m256i zeros_x8 = _mm256_set1_epi32(zeros[0][first]);
    if (!MIXED)
        return zeros_x8;
    return _mm256_inserti128_si256(zeros_x8, _mm_set1_epi32(zeros[0][second]), 1);
}

INLINE int_floats int_load_scales(const bool MIXED, const float *const *scales, size_t first,
                                  size_t second) {
    __m256 scales_x8 = _mm256_broadcast_ss(scales[0] + first);
    if (!MIXED)
        return scales_x8;
    return _mm256_insertf128_ps(scales_x8, _mm_broadcast_ss(scales[0] + second), 1);
}

INLINE int_floats int_x_scales(const bool MIXED, const float *scales) {
    __m256 scales_x8 = _mm256_broadcast_ss(scales);
    if (!MIXED)
        return scales_x8;
    return _mm256_insertf128_ps(scales_x8, _mm_broadcast_ss(scales + 1), 1);
}

/* Of 4 bits: what is taken off every integer of the weights, times those of x. */
INLINE int_sums begin_4_bits(const int32_t *x_sums, const bool HAS_ZEROS, int_zeros zeros) {
    __m256i sums_x8 = load_bytes(x_sums);
    return HAS_ZEROS ? _mm256_mullo_epi32(sums_x8, zeros) : _mm256_slli_epi32(sums_x8, 3);
}

INLINE int_floats int_add(int_sums sums, int_floats scales, int_floats x_scales, int_floats c) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), _mm256_mul_ps(x_scales, scales), c);
}

INLINE void int_fold(const int ROWS, int_floats c[INT_VECTORS][INT_TILE_ROWS], float *sums,
                     size_t stride) {
    (void)stride;
    dot_fold_rows(ROWS, c[0], sums);
}

#endif

/* Dot products on AVX2: a register is 8 columns of one output. See dots.h; avx2.c includes this. */
#ifndef FB_SIMD_DOTS_AVX2_H
#define FB_SIMD_DOTS_AVX2_H

#include "simd/tiles.h"

#include <immintrin.h>

#define DOT_TILE_ROWS          4
#define DOT_PER_VECTOR         1
#define dot_in_register(value) __asm__("" : "+x"(value))

typedef __m256 dot_vector;

INLINE dot_vector dot_zero(void) {
    return _mm256_setzero_ps();
}

INLINE dot_vector dot_x(const float *x) {
    return _mm256_loadu_ps(x);
}

/* To the upper halves of 8 floats, and zeros to the lower ones. */
static const _Alignas(32) uint8_t upper_halves[32] = {
    0x80, 0x80, 0, 1, 0x80, 0x80, 2,  3,  0x80, 0x80, 4,  5,  0x80, 0x80, 6,  7,
    0x80, 0x80, 8, 9, 0x80, 0x80, 10, 11, 0x80, 0x80, 12, 13, 0x80, 0x80, 14, 15,
};

/* bf16 is widened by one shuffle of 8 elements that are in both halves of a register: products wait
 * for the execution units, and this takes one operation less than load() does. In assembly, as
 * there is no register left for the shuffle's pattern, and compilers would make room for it. */
INLINE dot_vector dot_weights(const fb_dtype DTYPE, const void *const *weights, size_t index) {
    if (DTYPE != FB_BF16)
        return load(DTYPE, weights[0], index);
    const uint16_t *from = (const uint16_t *)weights[0] + index;
    __m256i half_x8 =
        _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)from));
    __m256 wide;
    __asm__("vpshufb %2, %1, %0" : "=x"(wide) : "x"(half_x8), "m"(upper_halves));
    return wide;
}

INLINE void dot_widened(dot_vector w, float *wide) {
    _mm256_storeu_ps(wide, w);
}

INLINE dot_vector dot_fma(dot_vector x, dot_vector w, dot_vector sum) {
    return _mm256_fmadd_ps(x, w, sum);
}

/* Two rows' c_i + c_(i+4), i < 4, side by side. */
INLINE __m256 dot_halves(__m256 a, __m256 b) {
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

/* sums[row] += the sum of chains[row], for ROWS (1 to 4) rows. */
INLINE void dot_fold_rows(const int ROWS, const __m256 *chains, float *sums) {
    const __m256 zero = _mm256_setzero_ps();
    __m256 ab = dot_halves(chains[0], ROWS > 1 ? chains[1] : zero);
    __m256 cd = dot_halves(ROWS > 2 ? chains[2] : zero, ROWS > 3 ? chains[3] : zero);
    __m256 pairs = _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
    __m256 sum = _mm256_add_ps(_mm256_shuffle_ps(pairs, pairs, 0x88),
                               _mm256_shuffle_ps(pairs, pairs, 0xdd)); /* a c a c | b d b d */
    __m128 abcd = _mm_unpacklo_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
    if (ROWS == 4) {
        _mm_storeu_ps(sums, _mm_add_ps(_mm_loadu_ps(sums), abcd));
        return;
    }
    float folded[4];
    _mm_storeu_ps(folded, abcd);
    for (int row = 0; row < ROWS; row++)
        sums[row] += folded[row];
}

INLINE void dot_fold(const int ROWS, const int FIRST, dot_vector chains[3][DOT_TILE_ROWS],
                     float *sums, size_t stride) {
    dot_fold_rows(ROWS, chains[0] + FIRST, sums);
    dot_fold_rows(ROWS, chains[1] + FIRST, sums + stride);
    dot_fold_rows(ROWS, chains[2] + FIRST, sums + 2 * stride);
}

#include "simd/dots.h"

#endif

/* Dot products on AVX2: a register is 8 columns of one output. See dots.h; avx2.c includes this. */
#ifndef FB_SIMD_DOTS_AVX2_H
#define FB_SIMD_DOTS_AVX2_H

#include "simd/folds_avx2.h"
#include "simd/tiles.h"

#include <immintrin.h>

#define DOT_TILE_ROWS          4
#define DOT_PER_VECTOR         1
#define dot_in_register(value) __asm__("" : "+x"(value))
#define dot_in_turn(sum)       ((void)0)

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

INLINE void dot_store(dot_vector w, float *to) {
    _mm256_storeu_ps(to, w);
}

INLINE dot_vector dot_load(const float *from) {
    return _mm256_loadu_ps(from);
}

INLINE dot_vector dot_fma(dot_vector x, dot_vector w, dot_vector sum) {
    return _mm256_fmadd_ps(x, w, sum);
}

INLINE void dot_fold(const int ROWS, const int FIRST, dot_vector chains[3][DOT_TILE_ROWS],
                     float *sums, size_t stride) {
    dot_fold_rows(ROWS, chains[0] + FIRST, sums);
    dot_fold_rows(ROWS, chains[1] + FIRST, sums + stride);
    dot_fold_rows(ROWS, chains[2] + FIRST, sums + 2 * stride);
}

#include "simd/dots.h"

#endif

/* Dot products on AVX2: a register is 8 columns of one output. See dots.h; avx2.c includes this. */
#ifndef FB_SIMD_DOTS_AVX2_H
#define FB_SIMD_DOTS_AVX2_H

#include "simd/dots_x86.h"

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

INLINE dot_vector dot_weights(const fb_dtype DTYPE, const void *const *weights, size_t index) {
    return load(DTYPE, weights[0], index);
}

INLINE void dot_widened(dot_vector w, float *wide) {
    _mm256_storeu_ps(wide, w);
}

INLINE dot_vector dot_fma(dot_vector x, dot_vector w, dot_vector sum) {
    return _mm256_fmadd_ps(x, w, sum);
}

INLINE void dot_fold(const int ROWS, const dot_vector *chains, float *sums, size_t stride) {
    (void)stride; /* there is one output */
    dot_fold_rows(ROWS, chains, sums);
}

#include "simd/dots.h"

#endif

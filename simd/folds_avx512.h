/* The sums of 8 chains each (contract C9.1, C13.5) on AVX-512, where a register holds the chains of
 * two outputs. */
#ifndef FB_SIMD_FOLDS_AVX512_H
#define FB_SIMD_FOLDS_AVX512_H

#include "simd/tiles.h"

#include <immintrin.h>

/* c_i + c_(i+4), i < 4, of two rows. The four parts of the result are: first row of the first
 * output and of the second, second row of the first and of the second. */
INLINE __m512 dot_halves(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* c_0 + c_4 + c_2 + c_6 and c_1 + c_5 + c_3 + c_7 of four rows: in each part those of rows 0, 2 or
 * 1, 3. */
INLINE __m512 dot_quarters(const int ROWS, const __m512 *chains) {
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

#endif

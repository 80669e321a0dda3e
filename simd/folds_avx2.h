/* The sums of 8 chains each (contract C9.1, C13.5) on AVX2, where a register holds the chains of
 * one output. */
#ifndef FB_SIMD_FOLDS_AVX2_H
#define FB_SIMD_FOLDS_AVX2_H

#include "simd/tiles.h"

#include <immintrin.h>

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

#endif

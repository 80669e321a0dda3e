/* Scores and values of 8 bits with AVX2, whose instruction multiplies unsigned with signed bytes
 * and adds the products by twos, in 16 bits. The sign of a key goes to the other factor: 2 * 127 *
 * 127 is below 2^15, where (127 + 128) * 127 would not be. */
#ifndef FB_SIMD_INT_SCORES_AVX2_H
#define FB_SIMD_INT_SCORES_AVX2_H

#include "simd/tiles.h"

#include <immintrin.h>
#include <string.h>

#define SCORE_ROWS 4
#define SCORE_KEYS 8

typedef __m256i score_sums, score_keys;

INLINE score_keys score_load(const char *from) {
    return _mm256_loadu_si256((const __m256i *)(const void *)from);
}

INLINE score_sums score_begin(int32_t sum) {
    (void)sum;
    return _mm256_setzero_si256();
}

INLINE score_sums score_dot(score_sums sums, score_keys keys, const int8_t *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    __m256i signed_q = _mm256_sign_epi8(_mm256_set1_epi32(four), keys);
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(keys), signed_q);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

INLINE void score_store(float *to, score_sums sums, const float *scales, float factor) {
    __m256 s = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_loadu_ps(scales));
    _mm256_storeu_ps(to, _mm256_mul_ps(s, _mm256_set1_ps(factor)));
}

#include "simd/int_scores.h"

/* Values: both factors are widened to 16 bits, keys by twos. */
#define VALUE_ROWS    4
#define VALUE_VECTORS 1
#define VALUE_BYTES   8
#include "simd/int_values_avx2.h"

typedef struct value_keys {
    __m256i even, odd;
} value_keys;

INLINE value_keys value_load(const char *from) {
    __m256i keys = _mm256_loadu_si256((const __m256i *)(const void *)from);
    return (value_keys){_mm256_srai_epi16(_mm256_slli_epi16(keys, 8), 8),
                        _mm256_srai_epi16(keys, 8)};
}

INLINE value_sums value_dot(value_sums sums, value_keys keys, const uint8_t *u) {
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(keys.even, value_four(u)));
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(keys.odd, value_four(u + 4)));
    __asm__("" : "+x"(sums)); /* or gcc would first make all products, and add them at last */
    return sums;
}

#include "simd/int_values.h"

#endif

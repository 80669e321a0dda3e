/* The kernels for AVX2 with AVX-VNNI, whose instruction multiplies 32 bytes with 32 bytes and adds
 * the products by fours. See avx512vnni.c, of which this is the half. */
#if !defined(__AVX2__) || (!defined(__AVXVNNI__) && !defined(FB_EVEX))
#error "compile simd/avxvnni.c with -mavxvnni and the options of simd/avx2.c"
#endif

#include "simd/int_dots_x8.h"

#define QUANTIZE_BYTES 1
#include "simd/quantize_avx2.h"

#include <string.h>

typedef __m256i int_weights, int_x;

INLINE int_weights int_load_weights(const int BITS, const void *const *weights, size_t byte,
                                    const bool ODD, int_zeros zeros) {
    (void)zeros;
    if (BITS == 4)
        return load_4_bits(weights[0], byte, ODD);
    return _mm256_xor_si256(load_bytes((const char *)weights[0] + byte),
                            _mm256_set1_epi8((char)0x80));
}

INLINE int_x int_load_x(const int BITS, const fb_int_row *x, size_t half) {
    (void)BITS;
    return load_bytes(x->values + half * 32);
}

INLINE int_sums int_begin(const int BITS, const int32_t *x_sums, const bool HAS_ZEROS,
                          int_zeros zeros) {
    return BITS == 8 ? load_bytes(x_sums) : begin_4_bits(x_sums, HAS_ZEROS, zeros);
}

INLINE int_sums int_start(const int BITS, int_sums begun) {
    (void)BITS;
    return begun;
}

/* FB_EVEX: for a test on CPUs that have the same instruction in AVX-512 only. */
INLINE int_sums int_dot(const int BITS, int_sums sums, int_weights w, int_x x) {
    (void)BITS;
#ifdef FB_EVEX
    return _mm256_dpbusd_epi32(sums, w, x);
#else
    return _mm256_dpbusd_avx_epi32(sums, w, x);
#endif
}

INLINE int_sums int_end(const int BITS, int_sums begun, int_sums sums) {
    (void)BITS;
    (void)begun;
    return sums;
}

#include "simd/int_dots.h"

#define SCORE_ROWS 4
#define SCORE_KEYS 8

typedef __m256i score_sums, score_keys;

/* Keys + 128: the unsigned factor. */
INLINE score_keys score_load(const char *from) {
    return _mm256_xor_si256(load_bytes(from), _mm256_set1_epi8((char)0x80));
}

INLINE score_sums score_begin(int32_t sum) {
    return _mm256_set1_epi32(-128 * sum);
}

INLINE score_sums score_dot(score_sums sums, score_keys keys, const int8_t *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return int_dot(8, sums, keys, _mm256_set1_epi32(four));
}

INLINE void score_store(float *to, score_sums sums, const float *scales, float factor) {
    __m256 s = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_loadu_ps(scales));
    _mm256_storeu_ps(to, _mm256_mul_ps(s, _mm256_set1_ps(factor)));
}

#include "simd/int_scores.h"

#define VALUE_ROWS    6
#define VALUE_VECTORS 1
#define VALUE_BYTES   4
#include "simd/int_values_avx2.h"

typedef __m256i value_keys;

INLINE value_keys value_load(const char *from) {
    return load_bytes(from);
}

INLINE value_sums value_dot(value_sums sums, value_keys keys, const uint8_t *u) {
    return int_dot(8, sums, value_four(u), keys);
}

#include "simd/int_values.h"

#ifdef FB_EVEX
#define INIT fb_kernels_init_evex
#else
#define INIT fb_kernels_init_avxvnni
#endif

void INIT(fb_kernels *kernels) {
    kernels->quantize = quantize;
    kernels->int_dots = int_dots;
    kernels->int_outputs = INT_OUTPUTS;
    kernels->int_scores = int_scores;
    kernels->int_values = int_values;
}

/* The kernels for AVX-512 with VNNI, whose instruction multiplies 64 bytes with 64 bytes and adds
 * the products by fours. A register holds 8 sums of two outputs.
 *
 * One factor is unsigned: weights are increased by 128 (8 bits) or left as they are stored (4
 * bits). The sums of a unit start from what this adds, with the opposite sign. */
#if !defined(__AVX512VNNI__) || !defined(__AVX512BW__) || !defined(__AVX512VL__) ||                \
    !defined(__AVX512DQ__)
#error "compile simd/avx512vnni.c with -mavx512vnni and the options of simd/avx512.c"
#endif

#define QUANTIZE_BYTES 1

#include "simd/folds_avx512.h"
#include "simd/quantize_avx2.h"
#include "simd/tiles.h"

#include <immintrin.h>

#define INT_TILE_ROWS          4
#define INT_VECTORS            2
#define INT_PER_VECTOR         2
#define int_in_register(value) __asm__("" : "+v"(value))
#define INT_MIXED_INDEX        _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)

typedef __m512 int_floats;
typedef __m512i int_sums, int_weights, int_x, int_zeros;

INLINE int_floats int_no_floats(void) {
    return _mm512_setzero_ps();
}

INLINE __m256i load_bytes(const void *from) {
    return _mm256_loadu_si256((const __m256i *)from);
}

INLINE int_weights int_load_weights(const int BITS, const void *const *weights, size_t half,
                                    const bool ODD, int_zeros zeros) {
    (void)zeros;
    const size_t byte = BITS == 8 ? half * 32 : half / 2 * 32;
    __m512i w =
        _mm512_inserti64x4(_mm512_castsi256_si512(load_bytes((const char *)weights[0] + byte)),
                           load_bytes((const char *)weights[1] + byte), 1);
    if (BITS == 8)
        return _mm512_xor_si512(w, _mm512_set1_epi8((char)0x80));
    if (ODD)
        w = _mm512_srli_epi16(w, 4);
    return _mm512_and_si512(w, _mm512_set1_epi8(15));
}

INLINE int_x int_load_x(const int BITS, const fb_int_row *x, size_t half) {
    (void)BITS;
    return _mm512_broadcast_i64x4(load_bytes(x->values + half * 32));
}

/* What belongs to four groups, two of each output, to the groups' sums; or to two groups. */
INLINE __m512i spread(const bool MIXED, int32_t a, int32_t b, int32_t c, int32_t d) {
    if (MIXED)
        return _mm512_permutexvar_epi32(INT_MIXED_INDEX,
                                        _mm512_castsi128_si512(_mm_setr_epi32(a, b, c, d)));
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set1_epi32(a)), _mm256_set1_epi32(c),
                              1);
}

INLINE int_zeros int_load_zeros(const bool MIXED, const uint8_t *const *zeros, size_t first,
                                size_t second) {
    if (!zeros)
        return _mm512_setzero_si512();
    return spread(MIXED, zeros[0][first], MIXED ? zeros[0][second] : 0, zeros[1][first],
                  MIXED ? zeros[1][second] : 0);
}

INLINE int_floats int_load_scales(const bool MIXED, const float *const *scales, size_t first,
                                  size_t second) {
    if (!MIXED)
        return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_broadcast_ss(scales[0] + first)),
                                  _mm256_broadcast_ss(scales[1] + first), 1);
    __m128 each =
        _mm_setr_ps(scales[0][first], scales[0][second], scales[1][first], scales[1][second]);
    return _mm512_permutexvar_ps(INT_MIXED_INDEX, _mm512_castps128_ps512(each));
}

INLINE int_floats int_x_scales(const bool MIXED, const float *scales) {
    if (!MIXED)
        return _mm512_set1_ps(*scales);
    const __m512i index = _mm512_and_si512(INT_MIXED_INDEX, _mm512_set1_epi32(1));
    __m128 both = _mm_castpd_ps(_mm_load_sd((const double *)(const void *)scales));
    return _mm512_permutexvar_ps(index, _mm512_castps128_ps512(both));
}

INLINE int_sums int_begin(const int BITS, const int32_t *x_sums, const bool HAS_ZEROS,
                          int_zeros zeros) {
    __m512i sums = _mm512_broadcast_i64x4(load_bytes(x_sums));
    if (BITS == 8)
        return sums;
    return HAS_ZEROS ? _mm512_mullo_epi32(sums, zeros) : _mm512_slli_epi32(sums, 3);
}

INLINE int_sums int_start(const int BITS, int_sums begun) {
    (void)BITS;
    return begun;
}

INLINE int_sums int_dot(const int BITS, int_sums sums, int_weights w, int_x x) {
    (void)BITS;
    return _mm512_dpbusd_epi32(sums, w, x);
}

INLINE int_sums int_end(const int BITS, int_sums begun, int_sums sums) {
    (void)BITS;
    (void)begun;
    return sums;
}

INLINE int_floats int_add(int_sums sums, int_floats scales, int_floats x_scales, int_floats c) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_mul_ps(x_scales, scales), c);
}

INLINE void int_fold(const int ROWS, int_floats c[INT_VECTORS][INT_TILE_ROWS], float *sums,
                     size_t stride) {
    __m512 four = dot_sums(dot_quarters(ROWS, c[0]), dot_quarters(ROWS, c[1]));
    dot_add(ROWS, _mm512_castps512_ps128(four), sums);
    dot_add(ROWS, _mm512_extractf32x4_ps(four, 1), sums + stride);
    dot_add(ROWS, _mm512_extractf32x4_ps(four, 2), sums + 2 * stride);
    dot_add(ROWS, _mm512_extractf32x4_ps(four, 3), sums + 3 * stride);
}

#include "simd/int_dots.h"

void fb_kernels_init_avx512vnni(fb_kernels *kernels) {
    kernels->quantize = quantize;
    kernels->int_dots = int_dots;
    kernels->int_outputs = INT_OUTPUTS;
}

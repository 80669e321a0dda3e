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
#include <string.h>

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

INLINE int_weights int_load_weights(const int BITS, const void *const *weights, size_t byte,
                                    const bool ODD, int_zeros zeros) {
    (void)zeros;
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

#define SCORE_ROWS 6
#define SCORE_KEYS 16

typedef __m512i score_sums, score_keys;

/* Keys + 128: the unsigned factor. */
INLINE score_keys score_load(const char *from) {
    return _mm512_xor_si512(_mm512_loadu_si512(from), _mm512_set1_epi8((char)0x80));
}

INLINE score_sums score_begin(int32_t sum) {
    return _mm512_set1_epi32(-128 * sum);
}

INLINE score_sums score_dot(score_sums sums, score_keys keys, const int8_t *q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_dpbusd_epi32(sums, keys, _mm512_set1_epi32(four));
}

INLINE void score_store(float *to, score_sums sums, const float *scales, float factor) {
    __m512 s = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(scales));
    _mm512_storeu_ps(to, _mm512_mul_ps(s, _mm512_set1_ps(factor)));
}

#include "simd/int_scores.h"

#define VALUE_ROWS    6
#define VALUE_VECTORS 2
#define VALUE_DIMS    16
#define VALUE_BYTES   4
#include "simd/int_weights.h"

typedef __m512i value_sums, value_keys;
typedef __m512 value_floats;

INLINE value_keys value_load(const char *from) {
    return _mm512_loadu_si512(from);
}

INLINE value_sums value_begin(const uint32_t *begin) {
    (void)begin;
    return _mm512_setzero_si512();
}

INLINE value_floats value_no_floats(void) {
    return _mm512_setzero_ps();
}

INLINE value_sums value_dot(value_sums sums, value_keys keys, const uint8_t *u) {
    int32_t four;
    memcpy(&four, u, sizeof four);
    return _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(four), keys);
}

INLINE value_floats value_add(value_floats t, value_sums sums, const float *factor) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(*factor), t);
}

INLINE void value_store(float *o, const float *alpha, value_floats t) {
    _mm512_storeu_ps(o, _mm512_fmadd_ps(_mm512_loadu_ps(o), _mm512_set1_ps(*alpha), t));
}

/* Lane i: the largest of the lanes of rows[i]; see fold_maxima in avx512.c. */
INLINE __m512i fold_largest(__m512i rows[16]) {
    __m512i halves[8], quarters[4], pairs[2];
    UNROLLED
    for (int i = 0; i < 8; i++)
        halves[i] = _mm512_max_epu32(_mm512_shuffle_i32x4(rows[i], rows[i + 8], 0x44),
                                     _mm512_shuffle_i32x4(rows[i], rows[i + 8], 0xee));
    UNROLLED
    for (int i = 0; i < 4; i++)
        quarters[i] = _mm512_max_epu32(_mm512_shuffle_i32x4(halves[i], halves[i + 4], 0x88),
                                       _mm512_shuffle_i32x4(halves[i], halves[i + 4], 0xdd));
    UNROLLED
    for (int i = 0; i < 2; i++)
        pairs[i] = _mm512_max_epu32(_mm512_unpacklo_epi32(quarters[i], quarters[i + 2]),
                                    _mm512_unpackhi_epi32(quarters[i], quarters[i + 2]));
    __m512i folded = _mm512_max_epu32(_mm512_unpacklo_epi32(pairs[0], pairs[1]),
                                      _mm512_unpackhi_epi32(pairs[0], pairs[1]));
    return _mm512_shuffle_i32x4(folded, folded, 0xd8);
}

/* The scales of weights whose largest have these bits: fb_int_scale_to. */
INLINE __m512 scales_to(__m512i largest, __m512 *reciprocal) {
    const __m512 steps = _mm512_set1_ps(fb_int_weight_steps), max = _mm512_castsi512_ps(largest);
    __mmask16 is_bad = _mm512_cmpge_epu32_mask(largest, _mm512_set1_epi32(0x7f800000));
    __mmask16 is_large = _mm512_cmp_ps_mask(max, _mm512_set1_ps(0x1p-100f), _CMP_GE_OQ);
    *reciprocal = _mm512_maskz_div_ps(is_large & (__mmask16)~is_bad, steps, max);
    __m512 scale = _mm512_maskz_div_ps(is_large, max, steps);
    return _mm512_castsi512_ps(
        _mm512_mask_set1_epi32(_mm512_castps_si512(scale), is_bad, FB_NAN_BITS));
}

/* Four rows of a stream, or those of them that are there. Of an infinity or a NaN times 0 the
 * integer is INT_MIN, whose low byte is 0. */
INLINE void weigh_rows(const float *p, size_t rows, const __mmask16 present[TILE_GROUPS],
                       const __m512 scales[TILE_GROUPS], size_t row, int_weights_of_rows *weights) {
    enum { ROWS = 4 };
    __m512i largest[ROWS * TILE_GROUPS];
    float reciprocals[ROWS * TILE_GROUPS];
    UNROLLED
    for (size_t i = 0; i < ROWS * TILE_GROUPS; i++) {
        size_t group = i % TILE_GROUPS;
        __mmask16 lanes = i / TILE_GROUPS < rows ? present[group] : 0;
        __m512 w = _mm512_mul_ps(
            _mm512_maskz_loadu_ps(lanes, p + i / TILE_GROUPS * FB_SEGMENT + group * FB_ROWS_BLOCK),
            scales[group]);
        largest[i] = _mm512_and_si512(_mm512_castps_si512(w), _mm512_set1_epi32(0x7fffffff));
    }
    __m512 reciprocal;
    _mm512_storeu_ps(weights->factors[row], scales_to(fold_largest(largest), &reciprocal));
    _mm512_storeu_ps(reciprocals, reciprocal);
    for (size_t i = 0; i < rows; i++)
        UNROLLED for (size_t group = 0; group < TILE_GROUPS; group++) {
            __m512 w = _mm512_mul_ps(
                _mm512_maskz_loadu_ps(present[group], p + i * FB_SEGMENT + group * FB_ROWS_BLOCK),
                scales[group]);
            __m512i u = _mm512_cvtps_epi32(
                _mm512_mul_ps(w, _mm512_set1_ps(reciprocals[i * TILE_GROUPS + group])));
            _mm_store_si128((__m128i *)(void *)(weights->u[row + i] + group * FB_GROUP_KEYS),
                            _mm512_cvtepi32_epi8(u));
        }
}

static __attribute__((noinline)) void value_weigh(const fb_values_call *call, size_t stream,
                                                  int_weights_of_rows *weights) {
    __mmask16 present[TILE_GROUPS];
    __m512 scales[TILE_GROUPS];
    const size_t num_groups = groups_of(call);
    for (size_t group = 0; group < TILE_GROUPS; group++) {
        size_t first = group * FB_GROUP_KEYS;
        size_t left = call->num_keys > first ? call->num_keys - first : 0;
        present[group] = (__mmask16)(left < FB_GROUP_KEYS ? (1u << left) - 1u : 0xffffu);
        scales[group] = _mm512_setzero_ps();
        if (group < num_groups)
            scales[group] = _mm512_maskz_loadu_ps(present[group], scales_of(call, stream, group));
    }
    const float *p = call->p + stream * call->rows * FB_SEGMENT;
    for (size_t row = 0; row < call->rows; row += 4, p += 4 * FB_SEGMENT)
        weigh_rows(p, call->rows - row < 4 ? call->rows - row : 4, present, scales, row, weights);
}

#include "simd/int_values.h"

void fb_kernels_init_avx512vnni(fb_kernels *kernels) {
    kernels->quantize = quantize;
    kernels->int_dots = int_dots;
    kernels->int_outputs = INT_OUTPUTS;
    kernels->int_scores = int_scores;
    kernels->int_values = int_values;
}

/* The kernels for AVX-512 F, BW, VL and DQ: 16 lanes, 32 registers.
 *
 * Each lane computes one chain of the scalar kernel, operation by operation. So the bits are the
 * same. Tails are masked: they compute what the body computes, and touch nothing outside.
 */
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VL__) ||                   \
    !defined(__AVX512DQ__)
#error "compile simd/avx512.c with -mavx512f -mavx512bw -mavx512vl -mavx512dq"
#endif

#include "simd/constants.h"
#include "simd/tiles.h"

#include <flashblock/attention.h>

#include <immintrin.h>
#include <math.h>

enum {
    LANES = 16,
    TILE_REGISTERS = FB_TILE_KEYS / LANES, /* of a row's scores */
};

/* The first `count` of 16 lanes. */
INLINE __mmask16 first_lanes(size_t count) {
    unsigned mask = count < LANES ? (1u << count) - 1u : 0xffffu;
    return (__mmask16)mask;
}

/* ---- widening ---- */

INLINE __m512 widen_x16(const fb_dtype DTYPE, __m256i half_x16) {
    if (DTYPE == FB_F16)
        return _mm512_cvtph_ps(half_x16);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half_x16), 16));
}

INLINE void widen(const fb_dtype DTYPE, const uint16_t *from, float *to, size_t count) {
    for (size_t i = 0; i < count; i += LANES) {
        __mmask16 lanes = first_lanes(count - i);
        __m256i half_x16 = _mm256_maskz_loadu_epi16(lanes, from + i);
        _mm512_mask_storeu_ps(to + i, lanes, widen_x16(DTYPE, half_x16));
    }
}

static void widen_bf16(const uint16_t *from, float *to, size_t count) {
    widen(FB_BF16, from, to, count);
}

static void widen_f16(const uint16_t *from, float *to, size_t count) {
    widen(FB_F16, from, to, count);
}

/* ---- products ---- */

#include "simd/products_avx512.h"

/* ---- exponentials ---- */

/* fb_exp_value of scalar_math.h for COUNT registers side by side, step by step. One exponential is
 * a chain of 14 operations; the four registers of a row's tile hide each other's latencies. */
INLINE void exponentials(const int COUNT, __m512 *x) {
    const __m512 round = _mm512_set1_ps(FB_EXP_ROUND), one = _mm512_set1_ps(1.0f);
    __m512 rounded[TILE_REGISTERS], n[TILE_REGISTERS], r[TILE_REGISTERS], p[TILE_REGISTERS];
#define EACH UNROLLED for (int i = 0; i < COUNT; i++)
    /* max returns its second operand when either is NaN: NaN stays. */
    EACH x[i] = _mm512_max_ps(_mm512_set1_ps(FB_EXP_LOWEST), x[i]);
    EACH rounded[i] = _mm512_fmadd_ps(x[i], _mm512_set1_ps(FB_LOG2E), round);
    EACH n[i] = _mm512_sub_ps(rounded[i], round);
    EACH r[i] = _mm512_fmadd_ps(n[i], _mm512_set1_ps(-FB_LN2_HIGH), x[i]);
    EACH r[i] = _mm512_fmadd_ps(n[i], _mm512_set1_ps(-FB_LN2_LOW), r[i]);
    EACH p[i] = _mm512_fmadd_ps(_mm512_set1_ps(FB_EXP_C6), r[i], _mm512_set1_ps(FB_EXP_C5));
    EACH p[i] = _mm512_fmadd_ps(p[i], r[i], _mm512_set1_ps(FB_EXP_C4));
    EACH p[i] = _mm512_fmadd_ps(p[i], r[i], _mm512_set1_ps(FB_EXP_C3));
    EACH p[i] = _mm512_fmadd_ps(p[i], r[i], _mm512_set1_ps(FB_EXP_C2));
    EACH p[i] = _mm512_fmadd_ps(p[i], r[i], one);
    EACH p[i] = _mm512_fmadd_ps(p[i], r[i], one);
    /* p * 2^n, rounded once: the scalar function's two products, of which one is exact */
    EACH x[i] = _mm512_scalef_ps(p[i], n[i]);
#undef EACH
}

INLINE __m512 exp_x16(__m512 x) {
    exponentials(1, &x);
    return x;
}

/* A bit for each of the first `count` keys of a tile. */
INLINE uint64_t first_keys(size_t count) {
    return count < FB_TILE_KEYS ? (UINT64_C(1) << count) - 1u : UINT64_MAX;
}

/* A row's scores number first .. first + 15, -inf where there is no key. WHOLE: all are there. */
INLINE __m512 score_x16(const bool WHOLE, const float *s, size_t first, uint64_t keys) {
    if (WHOLE)
        return _mm512_loadu_ps(s + first);
    __mmask16 present = (__mmask16)(keys >> first & 0xffff);
    return _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), present, s + first);
}

/* The largest of a row's scores, -inf when there is none, in any of the lanes. The maximum of a set
 * is the same in any order; -0 and +0 differ in no result. As max(s, m) gives m when s is NaN, it
 * is never NaN. */
INLINE __m512 largest_scores(const bool WHOLE, const float *s, uint64_t keys) {
    __m512 largest = _mm512_set1_ps(-INFINITY);
    UNROLLED
    for (size_t i = 0; i < FB_TILE_KEYS; i += LANES)
        largest = _mm512_max_ps(score_x16(WHOLE, s, i, keys), largest);
    return largest;
}

/* Lane i: the largest of the lanes of rows[i]. Registers are folded in pairs, so that each step
 * halves their number. */
INLINE __m512 fold_maxima(__m512 rows[LANES]) {
    __m512 halves[8], quarters[4], pairs[2];
    UNROLLED
    for (int i = 0; i < 8; i++) /* 128-bit parts: of row i twice, of row i + 8 twice */
        halves[i] = _mm512_max_ps(_mm512_shuffle_f32x4(rows[i], rows[i + 8], 0x44),
                                  _mm512_shuffle_f32x4(rows[i], rows[i + 8], 0xee));
    UNROLLED
    for (int i = 0; i < 4; i++) /* of rows i, i + 8, i + 4, i + 12 */
        quarters[i] = _mm512_max_ps(_mm512_shuffle_f32x4(halves[i], halves[i + 4], 0x88),
                                    _mm512_shuffle_f32x4(halves[i], halves[i + 4], 0xdd));
    UNROLLED
    for (int i = 0; i < 2; i++) /* in each part, of rows i, i + 2, i, i + 2 */
        pairs[i] = _mm512_max_ps(_mm512_unpacklo_ps(quarters[i], quarters[i + 2]),
                                 _mm512_unpackhi_ps(quarters[i], quarters[i + 2]));
    __m512 folded = _mm512_max_ps(_mm512_unpacklo_ps(pairs[0], pairs[1]),
                                  _mm512_unpackhi_ps(pairs[0], pairs[1]));
    return _mm512_shuffle_f32x4(folded, folded, 0xd8); /* parts 0, 2, 1, 3 */
}

/* The number to subtract from scores: their maximum, or 0 while every score is -inf. */
INLINE __m512 subtrahend(__m512 max) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(max, _mm512_set1_ps(-INFINITY), _CMP_NEQ_OQ),
                               max);
}

/* p = exp(s - subtract), and sums = sums * alpha + p. The 16 row sums are one register. */
INLINE void weigh_row(const bool WHOLE, const float *s, uint64_t keys, float subtract, float alpha,
                      float *sums, float *p) {
    const __m512 subtract_x16 = _mm512_set1_ps(subtract);
    __m512 x[TILE_REGISTERS];
    UNROLLED
    for (size_t i = 0; i < TILE_REGISTERS; i++)
        /* An absent key is -inf here, and its exponential exactly +0. */
        x[i] = _mm512_sub_ps(score_x16(WHOLE, s, i * LANES, keys), subtract_x16);
    exponentials(TILE_REGISTERS, x);
    __m512 sums_x16 = _mm512_mul_ps(_mm512_loadu_ps(sums), _mm512_set1_ps(alpha));
    UNROLLED
    for (size_t i = 0; i < TILE_REGISTERS; i++) {
        _mm512_storeu_ps(p + i * FB_ROWS_BLOCK, x[i]);
        sums_x16 = _mm512_add_ps(sums_x16, x[i]);
    }
    _mm512_storeu_ps(sums, sums_x16);
}

/* Up to 16 rows: their maxima, then their factors, one register of each, then their weights. Row
 * by row, each step would wait for the step before. */
INLINE void softmax_rows(const bool WHOLE, const fb_softmax_call *call, size_t first, size_t rows) {
    const float *s = call->s + first * FB_SCORE_STRIDE;
    const size_t *counts = call->counts + first;
    float *max = call->max + first, *alpha = call->alpha + first;
    float *sums = call->sums + first * FB_GROUP_KEYS, *p = call->p + first * FB_SEGMENT;
    __m512 largest[LANES];
    __mmask16 present = first_lanes(rows);
    if (rows == LANES) {
        UNROLLED
        for (size_t row = 0; row < LANES; row++)
            largest[row] =
                largest_scores(WHOLE, s + row * FB_SCORE_STRIDE, first_keys(counts[row]));
    } else {
        for (size_t row = 0; row < LANES; row++)
            largest[row] = row < rows ? largest_scores(WHOLE, s + row * FB_SCORE_STRIDE,
                                                       first_keys(counts[row]))
                                      : _mm512_setzero_ps();
    }
    __m512 old_max = _mm512_maskz_loadu_ps(present, max);
    __m512 new_max = _mm512_max_ps(fold_maxima(largest), old_max);
    __mmask16 stays = _mm512_cmp_ps_mask(new_max, old_max, _CMP_EQ_OQ);
    __m512 subtract_x16 = subtrahend(new_max);
    __m512 alpha_x16 = exp_x16(_mm512_sub_ps(old_max, subtract_x16));
    float subtract[LANES];
    alpha_x16 = _mm512_mask_mov_ps(alpha_x16, stays, _mm512_set1_ps(1.0f));
    _mm512_mask_storeu_ps(max, present, new_max);
    _mm512_mask_storeu_ps(alpha, present, alpha_x16);
    _mm512_storeu_ps(subtract, subtract_x16);
    for (size_t row = 0; row < rows; row++)
        weigh_row(WHOLE, s + row * FB_SCORE_STRIDE, first_keys(counts[row]), subtract[row],
                  alpha[row], sums + row * FB_GROUP_KEYS, p + row * FB_SEGMENT);
}

/* On their own: in one function compilers would keep constants of the exponentials on the stack. */
static __attribute__((noinline)) void softmax_whole_rows(const fb_softmax_call *call, size_t first,
                                                         size_t rows) {
    softmax_rows(true, call, first, rows);
}

static __attribute__((noinline)) void softmax_short_rows(const fb_softmax_call *call, size_t first,
                                                         size_t rows) {
    softmax_rows(false, call, first, rows);
}

static bool are_whole(const size_t *counts, size_t rows) {
    size_t all = FB_TILE_KEYS;
    for (size_t row = 0; row < rows; row++)
        all = counts[row] < all ? counts[row] : all;
    return all == FB_TILE_KEYS;
}

static void softmax(const fb_softmax_call *call) {
    const bool are_all_whole = are_whole(call->counts, call->rows);
    for (size_t row = 0; row < call->rows; row += LANES) {
        size_t rows = call->rows - row < LANES ? call->rows - row : LANES;
        if (are_all_whole)
            softmax_whole_rows(call, row, rows);
        else
            softmax_short_rows(call, row, rows);
    }
}

/* x / y; each NaN becomes the library's. */
INLINE __m512 quotient(__m512 x, __m512 y) {
    __m512 result = _mm512_div_ps(x, y);
    __mmask16 is_nan = _mm512_cmp_ps_mask(result, result, _CMP_UNORD_Q);
    return _mm512_castsi512_ps(
        _mm512_mask_set1_epi32(_mm512_castps_si512(result), is_nan, FB_NAN_BITS));
}

static void merge_row(const float *big, const float *small, float weight, size_t head_dim,
                      float *o) {
    const __m512 weight_x16 = _mm512_set1_ps(weight);
    const __m512 total_x16 = _mm512_set1_ps(1.0f + weight);
    for (size_t d = 0; d < head_dim; d += LANES) {
        __mmask16 lanes = first_lanes(head_dim - d);
        __m512 sum = _mm512_fmadd_ps(weight_x16, _mm512_maskz_loadu_ps(lanes, small + d),
                                     _mm512_maskz_loadu_ps(lanes, big + d));
        _mm512_mask_storeu_ps(o + d, lanes, quotient(sum, total_x16));
    }
}

static void divide_row(float sum, size_t head_dim, float *o) {
    const __m512 sum_x16 = _mm512_set1_ps(sum);
    for (size_t d = 0; d < head_dim; d += LANES) {
        __mmask16 lanes = first_lanes(head_dim - d);
        _mm512_mask_storeu_ps(o + d, lanes, quotient(_mm512_maskz_loadu_ps(lanes, o + d), sum_x16));
    }
}

static void exp_values(const float *x, float *out, size_t count) {
    for (size_t i = 0; i < count; i += LANES) {
        __mmask16 lanes = first_lanes(count - i);
        _mm512_mask_storeu_ps(out + i, lanes, exp_x16(_mm512_maskz_loadu_ps(lanes, x + i)));
    }
}

#include "simd/dots_avx512.h"

/* transpose stays AVX2's: it takes a small part of any call's time. */
void fb_kernels_init_avx512(fb_kernels *kernels) {
    for (size_t dtype = 0; dtype < FB_NUM_DTYPES; dtype++) { /* AVX2's so far */
        streamed_scores[dtype] = kernels->scores[dtype];
        streamed_values[dtype] = kernels->values[dtype];
    }
    kernels->scores[FB_F32] = scores_f32;
    kernels->scores[FB_BF16] = scores_bf16;
    kernels->scores[FB_F16] = scores_f16;
    kernels->values[FB_F32] = values_f32;
    kernels->values[FB_BF16] = values_bf16;
    kernels->values[FB_F16] = values_f16;
    kernels->dots[FB_F32] = dots_f32;
    kernels->dots[FB_BF16] = dots_bf16;
    kernels->dots[FB_F16] = dots_f16;
    kernels->dot_outputs = DOT_TILE_OUTPUTS;
    kernels->softmax = softmax;
    kernels->merge_row = merge_row;
    kernels->divide_row = divide_row;
    kernels->widen_bf16 = widen_bf16;
    kernels->widen_f16 = widen_f16;
    kernels->exp = exp_values;
}

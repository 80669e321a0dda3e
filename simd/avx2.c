/* The kernels for AVX2 + FMA + F16C: 8 lanes, 16 registers.
 *
 * Scores and values share one register tile, 6 rows x 16 columns: 12 accumulators, 2 registers of
 * keys (or values) and 1 broadcast coordinate, 15 in all.
 *
 * A tile runs 16 coordinates (or keys) long, then its accumulators are added to what came before.
 *
 *              keys 0-7   keys 8-15          For each d: load two registers of the group's
 *     row 0  [  acc00   |  acc01  ]          d-th line, broadcast q[row][d], 12 fma.
 *      ...        ...        ...             12 independent chains hide an fma's 4 cycles at 2 a
 *     row 5  [  acc50   |  acc51  ]          cycle (8 needed); 8 loads feed 12 fma.
 *
 * Each lane is one of the scalar kernel's chains, operation for operation: hence the same bits.
 */
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "compile simd/avx2.c with -mavx2 -mfma -mf16c"
#endif

#include "constants.h"
#include "kernels.h"

#include <flashblock/attention.h>

#include <immintrin.h>
#include <math.h>

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 8, TILE_ROWS = 6 };

/* ROWS is a constant wherever this is inlined, so that `acc` is registers. The sum of the segments
 * so far waits in `s`: there is no register for it. */
INLINE void scores_tile(const int ROWS, const float *q, size_t head_dim, const float *keys,
                        __m256 scale, float *s) {
    for (size_t first = 0; first < head_dim; first += FB_SEGMENT) {
        size_t end = first + FB_SEGMENT < head_dim ? first + FB_SEGMENT : head_dim;
        __m256 acc[TILE_ROWS][2];
#pragma GCC unroll 6
        for (int row = 0; row < ROWS; row++)
            acc[row][0] = acc[row][1] = _mm256_setzero_ps();
        for (size_t d = first; d < end; d++) {
            __m256 k0 = _mm256_loadu_ps(keys + d * FB_GROUP_KEYS);
            __m256 k1 = _mm256_loadu_ps(keys + d * FB_GROUP_KEYS + LANES);
#pragma GCC unroll 6
            for (int row = 0; row < ROWS; row++) {
                __m256 q_d = _mm256_broadcast_ss(q + (size_t)row * head_dim + d);
                acc[row][0] = _mm256_fmadd_ps(q_d, k0, acc[row][0]);
                acc[row][1] = _mm256_fmadd_ps(q_d, k1, acc[row][1]);
            }
        }
#pragma GCC unroll 6
        for (int row = 0; row < ROWS; row++) {
            float *out = s + (size_t)row * FB_SCORE_STRIDE;
            __m256 sum0 = acc[row][0], sum1 = acc[row][1];
            if (first) {
                sum0 = _mm256_add_ps(_mm256_loadu_ps(out), sum0);
                sum1 = _mm256_add_ps(_mm256_loadu_ps(out + LANES), sum1);
            }
            if (end == head_dim) {
                sum0 = _mm256_mul_ps(scale, sum0);
                sum1 = _mm256_mul_ps(scale, sum1);
            }
            _mm256_storeu_ps(out, sum0);
            _mm256_storeu_ps(out + LANES, sum1);
        }
    }
}

static void scores(const float *q, size_t rows, size_t head_dim, const float *keys, float scale,
                   float *s) {
    const __m256 scale_x8 = _mm256_set1_ps(scale);
    while (rows >= TILE_ROWS) {
        scores_tile(TILE_ROWS, q, head_dim, keys, scale_x8, s);
        q += TILE_ROWS * head_dim;
        s += TILE_ROWS * FB_SCORE_STRIDE;
        rows -= TILE_ROWS;
    }
    switch (rows) {
    case 5:
        scores_tile(5, q, head_dim, keys, scale_x8, s);
        break;
    case 4:
        scores_tile(4, q, head_dim, keys, scale_x8, s);
        break;
    case 3:
        scores_tile(3, q, head_dim, keys, scale_x8, s);
        break;
    case 2:
        scores_tile(2, q, head_dim, keys, scale_x8, s);
        break;
    case 1:
        scores_tile(1, q, head_dim, keys, scale_x8, s);
        break;
    default:
        break;
    }
}

/* fb_exp_value of scalar_math.h, eight at a time. */
INLINE __m256 exp_x8(__m256 x) {
    /* max returns its second operand when either is NaN: NaN stays. */
    x = _mm256_max_ps(_mm256_set1_ps(FB_EXP_LOWEST), x);
    const __m256 round = _mm256_set1_ps(FB_EXP_ROUND);
    const __m256 one = _mm256_set1_ps(1.0f);
    __m256 rounded = _mm256_fmadd_ps(x, _mm256_set1_ps(FB_LOG2E), round);
    __m256 n = _mm256_sub_ps(rounded, round);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-FB_LN2_HIGH), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-FB_LN2_LOW), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(FB_EXP_C6), r, _mm256_set1_ps(FB_EXP_C5));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FB_EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FB_EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FB_EXP_C2));
    p = _mm256_fmadd_ps(p, r, one);
    p = _mm256_fmadd_ps(p, r, one);
    __m256 power = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(rounded), 23));
    return _mm256_mul_ps(_mm256_mul_ps(p, power), _mm256_set1_ps(FB_EXP_UNSCALE));
}

/* Lanes whose key index first .. first+7 is below count. */
INLINE __m256 lanes_below(size_t first, size_t count) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i limit = _mm256_set1_epi32((int)count - (int)first);
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(limit, index));
}

INLINE float max_of_lanes(__m256 x) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    m = _mm_max_ss(m, _mm_shuffle_ps(m, m, 1));
    return _mm_cvtss_f32(m);
}

static void softmax_row(const float *s, size_t count, float *max, float *sums, float *p,
                        float *alpha) {
    const __m256 minus_inf = _mm256_set1_ps(-INFINITY);
    __m256 scores_x8[FB_TILE_KEYS / LANES];
    __m256 max_x8 = _mm256_set1_ps(*max);
    /* The maximum of a set is the same in any order; -0 and +0 differ in no result. As max(s, m)
     * gives m when s is NaN, the running maximum is never NaN. */
    if (count == FB_TILE_KEYS) {
#pragma GCC unroll 8
        for (size_t i = 0; i < FB_TILE_KEYS / LANES; i++) {
            scores_x8[i] = _mm256_loadu_ps(s + i * LANES);
            max_x8 = _mm256_max_ps(scores_x8[i], max_x8);
        }
    } else {
#pragma GCC unroll 8
        for (size_t i = 0; i < FB_TILE_KEYS / LANES; i++) {
            __m256 present = lanes_below(i * LANES, count);
            scores_x8[i] = _mm256_blendv_ps(minus_inf, _mm256_loadu_ps(s + i * LANES), present);
            max_x8 = _mm256_max_ps(scores_x8[i], max_x8);
        }
    }
    float old_max = *max, new_max = max_of_lanes(max_x8);
    float subtract = new_max == -INFINITY ? 0.0f : new_max;
    __m256 alpha_x8 = _mm256_set1_ps(1.0f);
    if (new_max != old_max)
        alpha_x8 = exp_x8(_mm256_set1_ps(old_max - subtract));
    *alpha = _mm256_cvtss_f32(alpha_x8);
    *max = new_max;
    __m256 sums0 = _mm256_mul_ps(_mm256_loadu_ps(sums), alpha_x8);
    __m256 sums1 = _mm256_mul_ps(_mm256_loadu_ps(sums + LANES), alpha_x8);
    const __m256 subtract_x8 = _mm256_set1_ps(subtract);
#pragma GCC unroll 4
    for (size_t i = 0; i < FB_TILE_KEYS / LANES; i += 2) {
        /* An absent key is -inf here, and its exponential exactly +0. */
        __m256 p0 = exp_x8(_mm256_sub_ps(scores_x8[i], subtract_x8));
        __m256 p1 = exp_x8(_mm256_sub_ps(scores_x8[i + 1], subtract_x8));
        _mm256_storeu_ps(p + i * LANES, p0);
        _mm256_storeu_ps(p + (i + 1) * LANES, p1);
        sums0 = _mm256_add_ps(sums0, p0);
        sums1 = _mm256_add_ps(sums1, p1);
    }
    _mm256_storeu_ps(sums, sums0);
    _mm256_storeu_ps(sums + LANES, sums1);
}

static void softmax(const float *s, size_t rows, const size_t *counts, float *max, float *sums,
                    float *p, float *alpha) {
    for (size_t row = 0; row < rows; row++)
        softmax_row(s + row * FB_SCORE_STRIDE, counts[row], max + row, sums + row * FB_GROUP_KEYS,
                    p + row * FB_TILE_KEYS, alpha + row);
}

/* ROWS x COLUMNS registers of outputs; constants where inlined. */
INLINE void values_tile(const int ROWS, const int COLUMNS, const float *p, size_t num_keys,
                        const float *v, ptrdiff_t v_stride, const float *alpha, float *o,
                        size_t o_stride) {
    __m256 sums[TILE_ROWS][2] = {{{0}}}; /* of the segments so far; no registers left for them */
    for (size_t first = 0; first < num_keys; first += FB_SEGMENT) {
        size_t end = first + FB_SEGMENT < num_keys ? first + FB_SEGMENT : num_keys;
        __m256 acc[TILE_ROWS][2];
#pragma GCC unroll 6
        for (int row = 0; row < ROWS; row++)
            acc[row][0] = acc[row][1] = _mm256_setzero_ps();
        for (size_t j = first; j < end; j++) {
            __m256 v_j[2];
#pragma GCC unroll 2
            for (int column = 0; column < COLUMNS; column++)
                v_j[column] = _mm256_loadu_ps(v + (ptrdiff_t)j * v_stride + column * LANES);
#pragma GCC unroll 6
            for (int row = 0; row < ROWS; row++) {
                __m256 p_j = _mm256_broadcast_ss(p + (size_t)row * FB_TILE_KEYS + j);
#pragma GCC unroll 2
                for (int column = 0; column < COLUMNS; column++)
                    acc[row][column] = _mm256_fmadd_ps(p_j, v_j[column], acc[row][column]);
            }
        }
#pragma GCC unroll 6
        for (int row = 0; row < ROWS; row++) {
            __m256 alpha_row = _mm256_broadcast_ss(alpha + row);
#pragma GCC unroll 2
            for (int column = 0; column < COLUMNS; column++) {
                __m256 sum = acc[row][column];
                if (first)
                    sum = _mm256_add_ps(sums[row][column], sum);
                sums[row][column] = sum;
                if (end == num_keys) {
                    float *out = o + (size_t)row * o_stride + column * LANES;
                    sum = _mm256_fmadd_ps(_mm256_loadu_ps(out), alpha_row, sum);
                    _mm256_storeu_ps(out, sum);
                }
            }
        }
    }
}

/* All rows of one panel of 8 * COLUMNS output dimensions. */
INLINE void values_panel(const int COLUMNS, const float *p, size_t rows, size_t num_keys,
                         const float *v, ptrdiff_t v_stride, size_t head_dim, const float *alpha,
                         float *o) {
    while (rows >= TILE_ROWS) {
        values_tile(TILE_ROWS, COLUMNS, p, num_keys, v, v_stride, alpha, o, head_dim);
        p += TILE_ROWS * FB_TILE_KEYS;
        o += TILE_ROWS * head_dim;
        alpha += TILE_ROWS;
        rows -= TILE_ROWS;
    }
    switch (rows) {
    case 5:
        values_tile(5, COLUMNS, p, num_keys, v, v_stride, alpha, o, head_dim);
        break;
    case 4:
        values_tile(4, COLUMNS, p, num_keys, v, v_stride, alpha, o, head_dim);
        break;
    case 3:
        values_tile(3, COLUMNS, p, num_keys, v, v_stride, alpha, o, head_dim);
        break;
    case 2:
        values_tile(2, COLUMNS, p, num_keys, v, v_stride, alpha, o, head_dim);
        break;
    case 1:
        values_tile(1, COLUMNS, p, num_keys, v, v_stride, alpha, o, head_dim);
        break;
    default:
        break;
    }
}

static void values(const float *p, size_t rows, size_t num_keys, const float *v, ptrdiff_t v_stride,
                   size_t head_dim, const float *alpha, float *o) {
    size_t d = 0;
    for (; d + 2 * LANES <= head_dim; d += 2 * LANES)
        values_panel(2, p, rows, num_keys, v + d, v_stride, head_dim, alpha, o + d);
    if (d < head_dim)
        values_panel(1, p, rows, num_keys, v + d, v_stride, head_dim, alpha, o + d);
}

static void merge_row(const float *big, const float *small, float weight, size_t head_dim,
                      float *o) {
    const __m256 weight_x8 = _mm256_set1_ps(weight);
    const __m256 total_x8 = _mm256_set1_ps(1.0f + weight);
    for (size_t d = 0; d < head_dim; d += LANES) {
        __m256 sum =
            _mm256_fmadd_ps(weight_x8, _mm256_loadu_ps(small + d), _mm256_loadu_ps(big + d));
        _mm256_storeu_ps(o + d, _mm256_div_ps(sum, total_x8));
    }
}

static void widen_bf16(const uint16_t *from, float *to, size_t count) {
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        __m128i half = _mm_loadu_si128((const __m128i *)(const void *)(from + i));
        __m256i wide = _mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16);
        _mm256_storeu_ps(to + i, _mm256_castsi256_ps(wide));
    }
    fb_kernels_scalar.widen_bf16(from + i, to + i, count - i);
}

static void widen_f16(const uint16_t *from, float *to, size_t count) {
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        __m128i half = _mm_loadu_si128((const __m128i *)(const void *)(from + i));
        _mm256_storeu_ps(to + i, _mm256_cvtph_ps(half));
    }
    fb_kernels_scalar.widen_f16(from + i, to + i, count - i);
}

static void exp_values(const float *x, float *out, size_t count) {
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        _mm256_storeu_ps(out + i, exp_x8(_mm256_loadu_ps(x + i)));
    fb_kernels_scalar.exp(x + i, out + i, count - i);
}

const fb_kernels fb_kernels_avx2 = {
    .isa = FB_ISA_AVX2,
    .scores = scores,
    .softmax = softmax,
    .values = values,
    .merge_row = merge_row,
    .widen_bf16 = widen_bf16,
    .widen_f16 = widen_f16,
    .exp = exp_values,
};

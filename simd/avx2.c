/* The kernels for AVX2 + FMA + F16C: 8 lanes, 16 registers.
 *
 * Scores and values are the same product (kernels.h): rows of A against blocks of 16 lines of 16
 * elements. The register tile is 6 rows x 16 columns: 12 accumulators, 2 registers of the block's
 * line, 1 broadcast element of A; 15 in all.
 *
 *               columns 0-7  columns 8-15     For each line: load two registers, broadcast an
 *     row 0   [   acc[0][0] | acc[0][1]   ]   element of each row, 12 fma. 12 independent chains
 *      ...         ...          ...           hide an fma's 4 cycles at 2 a cycle (8 needed), and
 *     row 5   [   acc[5][0] | acc[5][1]   ]   8 loads feed 12 fma.
 *
 * A block is one chain long. Its first line multiplies instead of adding to zero: on Zen 3 twelve
 * zeroed accumulators for every 16 lines cost 15 % of the speed. The sum of the blocks so far waits
 * in memory, in the L1 cache: there is no register for it.
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
#include <stdbool.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* Loops over the tile's rows and lines must go, or its accumulators are no registers. */
#ifdef __clang__
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

enum {
    LANES = 8,
    TILE_ROWS = 6,
    TILE_COLUMNS = 2, /* registers: 16 columns */
    BLOCK = 16 * 16,  /* elements */
    CACHE_LINE = 64,
    EXPONENTIALS = 4, /* registers at a time */
};

INLINE size_t block_bytes(fb_dtype dtype) {
    return BLOCK * (dtype == FB_F32 ? sizeof(float) : sizeof(uint16_t));
}

/* 8 elements, widened. */
INLINE __m256 load(const fb_dtype DTYPE, const void *elements, size_t index) {
    if (DTYPE == FB_F32)
        return _mm256_loadu_ps((const float *)elements + index);
    const uint16_t *halves = (const uint16_t *)elements + index;
    __m128i half_x8 = _mm_loadu_si128((const __m128i *)(const void *)halves);
    if (DTYPE == FB_F16)
        return _mm256_cvtph_ps(half_x8);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half_x8), 16));
}

/* What a product of some rows with some blocks works on. DTYPE and ROWS are constants wherever
 * these functions are inlined. */
typedef struct block {
    const void *lines; /* [16][16] elements */
    float *wide;       /* [16][16], written when DTYPE is a 16-bit type */
} block;

/* acc = or += one line's products, for all rows. */
INLINE void multiply_line(const int ROWS, const fb_dtype DTYPE, const float *a, block b,
                          size_t line, bool first, __m256 acc[TILE_ROWS][TILE_COLUMNS]) {
    __m256 b_x8[TILE_COLUMNS];
    UNROLLED
    for (int column = 0; column < TILE_COLUMNS; column++) {
        size_t index = line * FB_GROUP_KEYS + (size_t)column * LANES;
        b_x8[column] = load(DTYPE, b.lines, index);
        if (DTYPE != FB_F32)
            _mm256_storeu_ps(b.wide + index, b_x8[column]);
    }
    UNROLLED
    for (int row = 0; row < ROWS; row++) {
        __m256 a_x8 = _mm256_broadcast_ss(a + row * FB_SEGMENT + line);
        UNROLLED
        for (int column = 0; column < TILE_COLUMNS; column++)
            acc[row][column] = first ? _mm256_mul_ps(a_x8, b_x8[column])
                                     : _mm256_fmadd_ps(a_x8, b_x8[column], acc[row][column]);
    }
}

/* acc = a . b, one chain: over all 16 lines of a block, or over the last, shorter one. */
INLINE void multiply_block(const int ROWS, const fb_dtype DTYPE, const float *a, block b,
                           size_t lines, __m256 acc[TILE_ROWS][TILE_COLUMNS]) {
    multiply_line(ROWS, DTYPE, a, b, 0, true, acc);
    if (lines == FB_SEGMENT) {
        UNROLLED
        for (size_t line = 1; line < FB_SEGMENT; line++)
            multiply_line(ROWS, DTYPE, a, b, line, false, acc);
    } else {
        for (size_t line = 1; line < lines; line++)
            multiply_line(ROWS, DTYPE, a, b, line, false, acc);
    }
}

/* Cache lines begin .. end-1 of every block are one row tile's to prefetch. */
typedef struct fetch_share {
    size_t begin, end;
} fetch_share;

INLINE void prefetch(const void *next, fetch_share share) {
    for (size_t line = share.begin; line < share.end; line++)
        _mm_prefetch((const char *)next + line * CACHE_LINE, _MM_HINT_T1);
}

/* Rows of a call, cut evenly into tiles of at most 6: 16 rows are 6 + 5 + 5, not 6 + 6 + 4. */
typedef struct row_tiles {
    size_t count, base, longer; /* the first `longer` tiles have base + 1 rows, the others base */
} row_tiles;

INLINE row_tiles cut_rows(size_t rows) {
    size_t count = (rows + TILE_ROWS - 1) / TILE_ROWS;
    return (row_tiles){count, rows / count, rows % count};
}

INLINE fetch_share share_of_tile(row_tiles tiles, size_t tile, fb_dtype dtype) {
    size_t lines = block_bytes(dtype) / CACHE_LINE;
    return (fetch_share){tile * lines / tiles.count, (tile + 1) * lines / tiles.count};
}

/* One row tile of the scores of one group. */
typedef struct scores_job {
    const float *q; /* the tile's first row */
    size_t head_dim;
    const void *group; /* [head_dim][16] */
    float *wide;       /* [head_dim][16] */
    float scale;
    const void *next;
    fetch_share share;
    float *s; /* [ROWS] at stride FB_SCORE_STRIDE */
} scores_job;

INLINE void scores_tile(const int ROWS, const fb_dtype DTYPE, const scores_job *job) {
    const float *q = job->q;
    block keys = {job->group, job->wide};
    const char *next = job->next;
    for (size_t first = 0; first < job->head_dim; first += FB_SEGMENT) {
        size_t left = job->head_dim - first;
        __m256 acc[TILE_ROWS][TILE_COLUMNS];
        prefetch(next, job->share);
        multiply_block(ROWS, DTYPE, q, keys, left < FB_SEGMENT ? left : FB_SEGMENT, acc);
        UNROLLED
        for (int row = 0; row < ROWS; row++) {
            UNROLLED
            for (int column = 0; column < TILE_COLUMNS; column++) {
                float *s = job->s + row * FB_SCORE_STRIDE + column * LANES;
                __m256 sum = acc[row][column];
                if (first)
                    sum = _mm256_add_ps(_mm256_loadu_ps(s), sum);
                if (left <= FB_SEGMENT)
                    sum = _mm256_mul_ps(_mm256_broadcast_ss(&job->scale), sum);
                _mm256_storeu_ps(s, sum);
            }
        }
        q += FB_ROWS_BLOCK;
        keys.lines = (const char *)keys.lines + block_bytes(DTYPE);
        keys.wide += BLOCK;
        next += block_bytes(DTYPE);
    }
}

/* One row tile of the values of one panel. */
typedef struct values_job {
    const float *p; /* the tile's first row */
    size_t num_keys;
    const void *blocks[FB_TILE_KEYS / FB_GROUP_KEYS]; /* the panel's, each [16 keys][16] */
    float *wide;                                      /* [64][16] */
    const float *alpha;
    const void *next[FB_TILE_KEYS / FB_GROUP_KEYS];
    fetch_share share;
    float *sums; /* [ROWS][16] of scratch */
    float *o;    /* [ROWS][16] at stride o_stride */
    size_t o_stride;
} values_job;

INLINE void values_tile(const int ROWS, const fb_dtype DTYPE, const values_job *job) {
    const float *p = job->p;
    for (size_t first = 0; first < job->num_keys; first += FB_SEGMENT) {
        size_t left = job->num_keys - first, group = first / FB_GROUP_KEYS;
        block v = {job->blocks[group], job->wide + group * BLOCK};
        __m256 acc[TILE_ROWS][TILE_COLUMNS];
        prefetch(job->next[group], job->share);
        multiply_block(ROWS, DTYPE, p + group * FB_ROWS_BLOCK, v,
                       left < FB_SEGMENT ? left : FB_SEGMENT, acc);
        UNROLLED
        for (int row = 0; row < ROWS; row++) {
            __m256 alpha_x8 = _mm256_broadcast_ss(job->alpha + row);
            UNROLLED
            for (int column = 0; column < TILE_COLUMNS; column++) {
                float *sums = job->sums + row * FB_PANEL_DIMS + column * LANES;
                float *o = job->o + (size_t)row * job->o_stride + column * LANES;
                __m256 sum = acc[row][column];
                if (first)
                    sum = _mm256_add_ps(_mm256_loadu_ps(sums), sum);
                if (left > FB_SEGMENT)
                    _mm256_storeu_ps(sums, sum);
                else
                    _mm256_storeu_ps(o, _mm256_fmadd_ps(_mm256_loadu_ps(o), alpha_x8, sum));
            }
        }
    }
}

typedef void scores_tile_fn(const scores_job *job);
typedef void values_tile_fn(const values_job *job);

/* KIND_NAME[rows - 1]: the tile for each number of rows. */
#define TILES(KIND, NAME, DTYPE)                                                                   \
    static void KIND##_##NAME##_1(const KIND##_job *job) {                                         \
        KIND##_tile(1, DTYPE, job);                                                                \
    }                                                                                              \
    static void KIND##_##NAME##_2(const KIND##_job *job) {                                         \
        KIND##_tile(2, DTYPE, job);                                                                \
    }                                                                                              \
    static void KIND##_##NAME##_3(const KIND##_job *job) {                                         \
        KIND##_tile(3, DTYPE, job);                                                                \
    }                                                                                              \
    static void KIND##_##NAME##_4(const KIND##_job *job) {                                         \
        KIND##_tile(4, DTYPE, job);                                                                \
    }                                                                                              \
    static void KIND##_##NAME##_5(const KIND##_job *job) {                                         \
        KIND##_tile(5, DTYPE, job);                                                                \
    }                                                                                              \
    static void KIND##_##NAME##_6(const KIND##_job *job) {                                         \
        KIND##_tile(6, DTYPE, job);                                                                \
    }                                                                                              \
    static KIND##_tile_fn *const KIND##_##NAME[TILE_ROWS] = {                                      \
        KIND##_##NAME##_1, KIND##_##NAME##_2, KIND##_##NAME##_3,                                   \
        KIND##_##NAME##_4, KIND##_##NAME##_5, KIND##_##NAME##_6,                                   \
    };

TILES(scores, f32, FB_F32)
TILES(scores, bf16, FB_BF16)
TILES(scores, f16, FB_F16)
TILES(values, f32, FB_F32)
TILES(values, bf16, FB_BF16)
TILES(values, f16, FB_F16)

static scores_tile_fn *const *const scores_tiles[FB_NUM_DTYPES] = {scores_f32, scores_bf16,
                                                                   scores_f16};
static values_tile_fn *const *const values_tiles[FB_NUM_DTYPES] = {values_f32, values_bf16,
                                                                   values_f16};

/* One group stays in the L1 cache while all rows pass by. */
static void scores(fb_dtype dtype, const float *q, size_t rows, size_t head_dim,
                   const void *const *groups, size_t num_groups, float scale, float *wide,
                   const void *const *next, float *s) {
    row_tiles tiles = cut_rows(rows);
    for (size_t group = 0; group < num_groups; group++) {
        scores_job job = {
            .q = q,
            .head_dim = head_dim,
            .group = groups[group],
            .wide = wide,
            .scale = scale,
            .next = next[group],
            .s = s + group * FB_GROUP_KEYS,
        };
        fb_dtype stored = dtype; /* the first tile of rows widens for the others */
        for (size_t tile = 0; tile < tiles.count; tile++) {
            size_t tile_rows = tiles.base + (tile < tiles.longer);
            job.share = share_of_tile(tiles, tile, dtype);
            scores_tiles[stored][tile_rows - 1](&job);
            if (stored != FB_F32) {
                stored = FB_F32;
                job.group = wide;
            }
            job.q += tile_rows * FB_SEGMENT;
            job.s += tile_rows * FB_SCORE_STRIDE;
        }
    }
}

/* One panel of the tile's values stays in the L1 cache while all rows pass by. */
static void values(fb_dtype dtype, const float *p, size_t rows, size_t num_keys,
                   const void *const *groups, size_t head_dim, const float *alpha, float *wide,
                   const void *const *next, float *o) {
    row_tiles tiles = cut_rows(rows);
    size_t num_groups = (num_keys + FB_GROUP_KEYS - 1) / FB_GROUP_KEYS;
    size_t panels = fb_padded_dim(head_dim) / FB_PANEL_DIMS;
    float sums[TILE_ROWS * FB_PANEL_DIMS];
    for (size_t panel = 0; panel < panels; panel++) {
        values_job job = {
            .p = p,
            .num_keys = num_keys,
            .wide = wide,
            .alpha = alpha,
            .sums = sums,
            .o = o + panel * FB_PANEL_DIMS,
            .o_stride = panels * FB_PANEL_DIMS,
        };
        for (size_t group = 0; group < num_groups; group++) {
            job.blocks[group] = (const char *)groups[group] + panel * block_bytes(dtype);
            job.next[group] = (const char *)next[group] + panel * block_bytes(dtype);
        }
        fb_dtype stored = dtype;
        for (size_t tile = 0; tile < tiles.count; tile++) {
            size_t tile_rows = tiles.base + (tile < tiles.longer);
            job.share = share_of_tile(tiles, tile, dtype);
            values_tiles[stored][tile_rows - 1](&job);
            if (stored != FB_F32) {
                stored = FB_F32;
                for (size_t group = 0; group < num_groups; group++)
                    job.blocks[group] = wide + group * BLOCK;
            }
            job.p += tile_rows * FB_SEGMENT;
            job.alpha += tile_rows;
            job.o += tile_rows * job.o_stride;
        }
    }
}

/* fb_exp_value of scalar_math.h for COUNT registers, step by step side by side: one exponential is
 * a chain of 17 operations, and several chains one after the other would not fit the scheduler. */
INLINE void exponentials(const int COUNT, __m256 *x) {
    const __m256 round = _mm256_set1_ps(FB_EXP_ROUND), one = _mm256_set1_ps(1.0f);
    __m256 rounded[EXPONENTIALS], r[EXPONENTIALS], p[EXPONENTIALS];
#define EACH UNROLLED for (int i = 0; i < COUNT; i++)
    /* max returns its second operand when either is NaN: NaN stays. */
    EACH x[i] = _mm256_max_ps(_mm256_set1_ps(FB_EXP_LOWEST), x[i]);
    EACH rounded[i] = _mm256_fmadd_ps(x[i], _mm256_set1_ps(FB_LOG2E), round);
    EACH p[i] = _mm256_sub_ps(rounded[i], round); /* n */
    EACH r[i] = _mm256_fmadd_ps(p[i], _mm256_set1_ps(-FB_LN2_HIGH), x[i]);
    EACH r[i] = _mm256_fmadd_ps(p[i], _mm256_set1_ps(-FB_LN2_LOW), r[i]);
    EACH p[i] = _mm256_fmadd_ps(_mm256_set1_ps(FB_EXP_C6), r[i], _mm256_set1_ps(FB_EXP_C5));
    EACH p[i] = _mm256_fmadd_ps(p[i], r[i], _mm256_set1_ps(FB_EXP_C4));
    EACH p[i] = _mm256_fmadd_ps(p[i], r[i], _mm256_set1_ps(FB_EXP_C3));
    EACH p[i] = _mm256_fmadd_ps(p[i], r[i], _mm256_set1_ps(FB_EXP_C2));
    EACH p[i] = _mm256_fmadd_ps(p[i], r[i], one);
    EACH p[i] = _mm256_fmadd_ps(p[i], r[i], one);
    EACH r[i] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(rounded[i]), 23));
    EACH p[i] = _mm256_mul_ps(p[i], r[i]);
    EACH x[i] = _mm256_mul_ps(p[i], _mm256_set1_ps(FB_EXP_UNSCALE));
#undef EACH
}

INLINE __m256 exp_x8(__m256 x) {
    exponentials(1, &x);
    return x;
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

/* The row's scores, -inf where there is no key. */
INLINE __m256 score_x8(const float *s, size_t first, size_t count) {
    __m256 score = _mm256_loadu_ps(s + first);
    if (count == FB_TILE_KEYS)
        return score;
    return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), score, lanes_below(first, count));
}

/* The maximum of a set is the same in any order; -0 and +0 differ in no result. As max(s, m) gives
 * m when s is NaN, the maximum is never NaN. */
INLINE float raised_max(const float *s, size_t count, float max) {
    __m256 max0 = _mm256_set1_ps(max), max1 = max0;
    UNROLLED
    for (size_t i = 0; i < FB_TILE_KEYS; i += 2 * LANES) {
        max0 = _mm256_max_ps(score_x8(s, i, count), max0);
        max1 = _mm256_max_ps(score_x8(s, i + LANES, count), max1);
    }
    return max_of_lanes(_mm256_max_ps(max0, max1));
}

/* p = exp(s - subtract), and sums = sums * alpha + p. */
INLINE void weigh_row(const float *s, size_t count, float subtract, float alpha, float *sums,
                      float *p) {
    const __m256 subtract_x8 = _mm256_set1_ps(subtract), alpha_x8 = _mm256_set1_ps(alpha);
    __m256 sums0 = _mm256_mul_ps(_mm256_loadu_ps(sums), alpha_x8);
    __m256 sums1 = _mm256_mul_ps(_mm256_loadu_ps(sums + LANES), alpha_x8);
    UNROLLED
    for (size_t i = 0; i < FB_TILE_KEYS; i += EXPONENTIALS * LANES) {
        __m256 x[EXPONENTIALS];
        /* An absent key is -inf here, and its exponential exactly +0. */
        UNROLLED
        for (size_t j = 0; j < EXPONENTIALS; j++)
            x[j] = _mm256_sub_ps(score_x8(s, i + j * LANES, count), subtract_x8);
        exponentials(EXPONENTIALS, x);
        UNROLLED
        for (size_t j = 0; j < EXPONENTIALS; j += 2) {
            float *weights = p + (i / LANES + j) / 2 * FB_ROWS_BLOCK;
            _mm256_storeu_ps(weights, x[j]);
            _mm256_storeu_ps(weights + LANES, x[j + 1]);
            sums0 = _mm256_add_ps(sums0, x[j]);
            sums1 = _mm256_add_ps(sums1, x[j + 1]);
        }
    }
    _mm256_storeu_ps(sums, sums0);
    _mm256_storeu_ps(sums + LANES, sums1);
}

/* Maxima of all rows, then factors of all rows, then weights: within a row each waits for the one
 * before, and one row alone would leave the multipliers idle meanwhile. */
static void softmax(const float *s, size_t rows, const size_t *counts, float *max, float *sums,
                    float *p, float *alpha) {
    float subtract[FB_MAX_ROWS], change[FB_MAX_ROWS + LANES];
    for (size_t row = 0; row < rows; row++) {
        float new_max = raised_max(s + row * FB_SCORE_STRIDE, counts[row], max[row]);
        subtract[row] = new_max == -INFINITY ? 0.0f : new_max;
        /* exp(0) is exactly 1 */
        change[row] = new_max == max[row] ? 0.0f : max[row] - subtract[row];
        max[row] = new_max;
    }
    for (size_t row = 0; row < rows; row += LANES)
        _mm256_storeu_ps(change + row, exp_x8(_mm256_loadu_ps(change + row)));
    memcpy(alpha, change, rows * sizeof *alpha);
    for (size_t row = 0; row < rows; row++) {
        const float *row_s = s + row * FB_SCORE_STRIDE;
        if (counts[row] == FB_TILE_KEYS)
            weigh_row(row_s, FB_TILE_KEYS, subtract[row], alpha[row], sums + row * FB_GROUP_KEYS,
                      p + row * FB_SEGMENT);
        else
            weigh_row(row_s, counts[row], subtract[row], alpha[row], sums + row * FB_GROUP_KEYS,
                      p + row * FB_SEGMENT);
    }
}

static void merge_row(const float *big, const float *small, float weight, size_t head_dim,
                      float *o) {
    const __m256 weight_x8 = _mm256_set1_ps(weight);
    const __m256 total_x8 = _mm256_set1_ps(1.0f + weight);
    size_t d = 0;
    for (; d + LANES <= head_dim; d += LANES) {
        __m256 sum =
            _mm256_fmadd_ps(weight_x8, _mm256_loadu_ps(small + d), _mm256_loadu_ps(big + d));
        _mm256_storeu_ps(o + d, _mm256_div_ps(sum, total_x8));
    }
    fb_kernels_scalar.merge_row(big + d, small + d, weight, head_dim - d, o + d);
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

/* One function for each type of keys and values. */
#define SCORES_AND_VALUES(NAME, DTYPE)                                                             \
    static void all_scores_##NAME(const float *q, size_t rows, size_t head_dim,                    \
                                  const void *const *groups, size_t num_groups, float scale,       \
                                  float *wide, const void *const *next, float *s) {                \
        scores(DTYPE, q, rows, head_dim, groups, num_groups, scale, wide, next, s);                \
    }                                                                                              \
    static void all_values_##NAME(const float *p, size_t rows, size_t num_keys,                    \
                                  const void *const *groups, size_t head_dim, const float *alpha,  \
                                  float *wide, const void *const *next, float *o) {                \
        values(DTYPE, p, rows, num_keys, groups, head_dim, alpha, wide, next, o);                  \
    }

SCORES_AND_VALUES(f32, FB_F32)
SCORES_AND_VALUES(bf16, FB_BF16)
SCORES_AND_VALUES(f16, FB_F16)

const fb_kernels fb_kernels_avx2 = {
    .isa = FB_ISA_AVX2,
    .scores = {all_scores_f32, all_scores_bf16, all_scores_f16},
    .values = {all_values_f32, all_values_bf16, all_values_f16},
    .softmax = softmax,
    .merge_row = merge_row,
    .widen_bf16 = widen_bf16,
    .widen_f16 = widen_f16,
    .exp = exp_values,
};

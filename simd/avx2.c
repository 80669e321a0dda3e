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
#include "table.h"
#include "tiles.h"

#include <flashblock/attention.h>

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    LANES = 8,
    TILE_ROWS = 6,
    TILE_COLUMNS = 2,   /* registers: 16 columns */
    EXPONENTIALS = 4,   /* registers at a time */
    STREAM_PANELS = 16, /* see values_stream */
};

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

/* acc = a . b, one chain: over all 16 lines of a block, or over fewer where it is not WHOLE. */
INLINE void multiply_block(const int ROWS, const fb_dtype DTYPE, const bool WHOLE, const float *a,
                           block b, size_t lines, __m256 acc[TILE_ROWS][TILE_COLUMNS]) {
    multiply_line(ROWS, DTYPE, a, b, 0, true, acc);
    if (WHOLE) {
        UNROLLED
        for (size_t line = 1; line < FB_SEGMENT; line++)
            multiply_line(ROWS, DTYPE, a, b, line, false, acc);
    } else {
        for (size_t line = 1; line < lines; line++)
            multiply_line(ROWS, DTYPE, a, b, line, false, acc);
    }
}

/* to [ROWS] at `stride` := what it holds, if ADD, + acc. */
INLINE void add_block(const int ROWS, const bool ADD, __m256 acc[TILE_ROWS][TILE_COLUMNS],
                      float *to, size_t stride) {
    UNROLLED
    for (int row = 0; row < ROWS; row++)
        UNROLLED
    for (int column = 0; column < TILE_COLUMNS; column++) {
        float *at = to + (size_t)row * stride + column * LANES;
        __m256 sum = acc[row][column];
        _mm256_storeu_ps(at, ADD ? _mm256_add_ps(_mm256_loadu_ps(at), sum) : sum);
    }
}

/* Of the cache lines behind `next` for every block, each row tile prefetches its share. */
typedef struct fetch_share {
    size_t begin, lines, total;
} fetch_share;

INLINE void prefetch(const void *next, fetch_share share) {
    for (size_t line = share.begin; line < share.begin + share.lines; line++)
        _mm_prefetch((const char *)next + line * CACHE_LINE, _MM_HINT_T1);
}

/* A call with one row tile alone waits for memory. Of 16-bit types it prefetches everything, and a
 * loop would cost time; float32, twice as long, is read in order and faster without (Zen 3). */
INLINE void prefetch_alone(const fb_dtype DTYPE, const void *next) {
    if (DTYPE == FB_F32)
        return;
    UNROLLED
    for (size_t line = 0; line < block_bytes(DTYPE) / CACHE_LINE; line++)
        _mm_prefetch((const char *)next + line * CACHE_LINE, _MM_HINT_T1);
}

/* The first tile's; next_share gives the others'. */
INLINE fetch_share first_share(row_tiles tiles, fb_dtype dtype) {
    size_t total = block_bytes(dtype) / CACHE_LINE;
    return (fetch_share){0, (total + tiles.count - 1) / tiles.count, total};
}

INLINE fetch_share next_share(fetch_share share) {
    share.begin += share.lines;
    size_t left = share.total - share.begin;
    share.lines = share.lines < left ? share.lines : left;
    return share;
}

/* A call of the scores kernel. */
typedef struct scores_call {
    row_tiles tiles;
    const float *q;
    size_t head_dim;
    const void *const *groups, *const *next;
    size_t num_groups;
    float scale;
    float *wide; /* [head_dim][16] */
    float *s;    /* at stride FB_SCORE_STRIDE */
} scores_call;

/* One of its row tiles against one of its groups. */
typedef struct scores_job {
    const float *q;    /* the tile's first row */
    const void *group; /* [head_dim][16] */
    const void *next;
    fetch_share share;
    float *s; /* at stride FB_SCORE_STRIDE */
} scores_job;

/* s := scale * (what it holds, if ADD, + acc) */
INLINE void finish_scores(const int ROWS, const bool ADD, __m256 acc[TILE_ROWS][TILE_COLUMNS],
                          const float *scale, float *s) {
    const __m256 scale_x8 = _mm256_broadcast_ss(scale);
    UNROLLED
    for (int row = 0; row < ROWS; row++)
        UNROLLED
    for (int column = 0; column < TILE_COLUMNS; column++) {
        float *at = s + row * FB_SCORE_STRIDE + column * LANES;
        __m256 sum = acc[row][column];
        if (ADD)
            sum = _mm256_add_ps(_mm256_loadu_ps(at), sum);
        _mm256_storeu_ps(at, _mm256_mul_ps(scale_x8, sum));
    }
}

INLINE void scores_tile(const int ROWS, const fb_dtype DTYPE, const bool WHOLE,
                        const scores_call *call, const scores_job *job) {
    block keys = {job->group, call->wide};
    const float *q = job->q;
    const char *next = job->next;
    const fetch_share share = job->share;
    float *s = job->s;
    __m256 acc[TILE_ROWS][TILE_COLUMNS];
    size_t left = call->head_dim;
    bool is_first = true;
    for (;; left -= FB_SEGMENT) {
        if (call->tiles.count == 1)
            prefetch_alone(DTYPE, next);
        else
            prefetch(next, share);
        multiply_block(ROWS, DTYPE, WHOLE, q, keys, left < FB_SEGMENT ? left : FB_SEGMENT, acc);
        if (left <= FB_SEGMENT)
            break;
        if (is_first)
            add_block(ROWS, false, acc, s, FB_SCORE_STRIDE);
        else
            add_block(ROWS, true, acc, s, FB_SCORE_STRIDE);
        is_first = false;
        q += FB_ROWS_BLOCK;
        keys.lines = (const char *)keys.lines + block_bytes(DTYPE);
        keys.wide += BLOCK;
        next += block_bytes(DTYPE);
    }
    if (is_first)
        finish_scores(ROWS, false, acc, &call->scale, s);
    else
        finish_scores(ROWS, true, acc, &call->scale, s);
}

/* A call of the values kernel. */
typedef struct values_call {
    row_tiles tiles;
    const float *p;
    size_t num_keys, panels;
    const void *const *groups, *const *next;
    const float *alpha;
    float *wide; /* [64][16] */
    float *sums; /* [STREAM_PANELS][TILE_ROWS][16] of scratch */
    float *o;    /* [rows][panels][16] */
} values_call;

/* One of its row tiles against one of its panels. */
typedef struct values_job {
    const float *p;
    const void *blocks[FB_TILE_KEYS / FB_GROUP_KEYS];
    const void *next[FB_TILE_KEYS / FB_GROUP_KEYS];
    fetch_share share;
    const float *alpha;
    float *o; /* [16] at stride panels * 16 */
} values_job;

/* o := fma(o, alpha, sums, if ADD, + acc) */
INLINE void finish_values(const int ROWS, const bool ADD, __m256 acc[TILE_ROWS][TILE_COLUMNS],
                          const float *sums, const float *alpha, float *o, size_t o_stride) {
    UNROLLED
    for (int row = 0; row < ROWS; row++) {
        __m256 alpha_x8 = _mm256_broadcast_ss(alpha + row);
        UNROLLED
        for (int column = 0; column < TILE_COLUMNS; column++) {
            const float *sum_at = sums + row * FB_PANEL_DIMS + column * LANES;
            float *at = o + (size_t)row * o_stride + column * LANES;
            __m256 sum = acc[row][column];
            if (ADD)
                sum = _mm256_add_ps(_mm256_loadu_ps(sum_at), sum);
            _mm256_storeu_ps(at, _mm256_fmadd_ps(_mm256_loadu_ps(at), alpha_x8, sum));
        }
    }
}

INLINE void values_tile(const int ROWS, const fb_dtype DTYPE, const bool WHOLE,
                        const values_call *call, const values_job *job) {
    const float *p = job->p;
    const fetch_share share = job->share;
    const void *const *blocks = job->blocks, *const *next = job->next;
    float *wide = call->wide, *sums = call->sums;
    const size_t o_stride = call->panels * FB_PANEL_DIMS;
    __m256 acc[TILE_ROWS][TILE_COLUMNS];
    size_t left = call->num_keys;
    bool is_first = true;
    for (;; left -= FB_SEGMENT) {
        prefetch(*next++, share);
        multiply_block(ROWS, DTYPE, WHOLE, p, (block){*blocks++, wide},
                       left < FB_SEGMENT ? left : FB_SEGMENT, acc);
        if (left <= FB_SEGMENT)
            break;
        if (is_first)
            add_block(ROWS, false, acc, sums, FB_PANEL_DIMS);
        else
            add_block(ROWS, true, acc, sums, FB_PANEL_DIMS);
        is_first = false;
        p += FB_ROWS_BLOCK;
        wide += BLOCK;
    }
    if (is_first)
        finish_values(ROWS, false, acc, sums, job->alpha, job->o, o_stride);
    else
        finish_values(ROWS, true, acc, sums, job->alpha, job->o, o_stride);
}

/* The values of one row tile alone: groups one after the other, as they are in memory, with the
 * sums of all panels, at most STREAM_PANELS, in the L1 cache. */
INLINE void values_stream(const int ROWS, const fb_dtype DTYPE, const values_call *call) {
    for (size_t group = 0; group * FB_SEGMENT < call->num_keys; group++) {
        const char *lines = call->groups[group], *next = call->next[group];
        float *sums = call->sums;
        for (size_t panel = 0; panel < call->panels; panel++) {
            __m256 acc[TILE_ROWS][TILE_COLUMNS];
            const float *p = call->p + group * FB_ROWS_BLOCK;
            __asm__("" : "+r"(p)); /* or gcc would copy all of p to the stack, once a group */
            prefetch_alone(DTYPE, next);
            multiply_block(ROWS, DTYPE, true, p, (block){lines, call->wide}, FB_SEGMENT, acc);
            if (group == 0)
                add_block(ROWS, false, acc, sums, FB_PANEL_DIMS);
            else
                add_block(ROWS, true, acc, sums, FB_PANEL_DIMS);
            lines += block_bytes(DTYPE);
            next += block_bytes(DTYPE);
            sums += ROWS * FB_PANEL_DIMS;
        }
    }
    for (int row = 0; row < ROWS; row++) {
        const float *sums = call->sums + (size_t)row * FB_PANEL_DIMS;
        float *o = call->o + (size_t)row * call->panels * FB_PANEL_DIMS;
        const __m256 alpha_x8 = _mm256_broadcast_ss(call->alpha + row);
        for (size_t d = 0; d < call->panels * FB_PANEL_DIMS; d += LANES) {
            size_t panel = d / FB_PANEL_DIMS * FB_PANEL_DIMS;
            __m256 sum = _mm256_loadu_ps(sums + panel * (size_t)ROWS + d % FB_PANEL_DIMS);
            _mm256_storeu_ps(o + d, _mm256_fmadd_ps(_mm256_loadu_ps(o + d), alpha_x8, sum));
        }
    }
}

/* `count` tiles of ROWS rows; *job is then at the row behind them. */
INLINE void scores_tiles(const int ROWS, const fb_dtype DTYPE, const bool WHOLE, size_t count,
                         const scores_call *call, scores_job *job) {
    for (size_t tile = 0; tile < count; tile++) {
        scores_tile(ROWS, DTYPE, WHOLE, call, job);
        job->q += ROWS * FB_SEGMENT;
        job->s += ROWS * FB_SCORE_STRIDE;
        job->share = next_share(job->share);
    }
}

INLINE void values_tiles(const int ROWS, const fb_dtype DTYPE, const bool WHOLE, size_t count,
                         const values_call *call, values_job *job) {
    for (size_t tile = 0; tile < count; tile++) {
        values_tile(ROWS, DTYPE, WHOLE, call, job);
        job->p += ROWS * FB_SEGMENT;
        job->alpha += ROWS;
        job->o += (size_t)ROWS * call->panels * FB_PANEL_DIMS;
        job->share = next_share(job->share);
    }
}

/* Tiles of a call, the longer ones having ROWS rows and the others one less. One group stays in the
 * L1 cache while all rows pass by; of a 16-bit type, the first tile of rows widens for the
 * others. */
INLINE void scores_groups(const int ROWS, const fb_dtype DTYPE, const bool WHOLE,
                          const scores_call *call) {
    for (size_t group = 0; group < call->num_groups; group++) {
        scores_job job = {
            .q = call->q,
            .group = call->groups[group],
            .next = call->next[group],
            .share = first_share(call->tiles, DTYPE),
            .s = call->s + group * FB_GROUP_KEYS,
        };
        size_t longer = call->tiles.longer, shorter = call->tiles.count - longer;
        if (DTYPE != FB_F32) {
            scores_tiles(ROWS, DTYPE, WHOLE, 1, call, &job);
            job.group = call->wide;
            longer--;
        }
        scores_tiles(ROWS, FB_F32, WHOLE, longer, call, &job);
        if (ROWS > 1)
            scores_tiles(ROWS - 1, FB_F32, WHOLE, shorter, call, &job);
    }
}

/* The same for values: one panel of the tile's values stays in the L1 cache. */
INLINE void values_panels(const int ROWS, const fb_dtype DTYPE, const bool WHOLE,
                          const values_call *call) {
    if (WHOLE && call->tiles.count == 1 && call->panels <= STREAM_PANELS) {
        values_stream(ROWS, DTYPE, call);
        return;
    }
    for (size_t panel = 0; panel < call->panels; panel++) {
        values_job job = {
            .p = call->p,
            .share = first_share(call->tiles, DTYPE),
            .alpha = call->alpha,
            .o = call->o + panel * FB_PANEL_DIMS,
        };
        size_t num_groups = (call->num_keys + FB_GROUP_KEYS - 1) / FB_GROUP_KEYS;
        for (size_t group = 0; group < num_groups; group++) {
            job.blocks[group] = (const char *)call->groups[group] + panel * block_bytes(DTYPE);
            job.next[group] = (const char *)call->next[group] + panel * block_bytes(DTYPE);
        }
        size_t longer = call->tiles.longer, shorter = call->tiles.count - longer;
        if (DTYPE != FB_F32) {
            values_tiles(ROWS, DTYPE, WHOLE, 1, call, &job);
            for (size_t group = 0; group < num_groups; group++)
                job.blocks[group] = call->wide + group * BLOCK;
            longer--;
        }
        values_tiles(ROWS, FB_F32, WHOLE, longer, call, &job);
        if (ROWS > 1)
            values_tiles(ROWS - 1, FB_F32, WHOLE, shorter, call, &job);
    }
}

typedef void scores_rows_fn(const scores_call *call);
typedef void values_rows_fn(const values_call *call);

/* KIND_NAME[rows - 1]: the function for calls whose longer tiles have so many rows. Products whose
 * length is no multiple of 16 have functions of their own, compact rather than fast: a branch
 * between a whole block and a shorter one would cost registers in the former. */
#define ROWS_FUNCTION(KIND, PARTS, NAME, ROWS, DTYPE, WHOLE)                                       \
    static void KIND##_##NAME##_##ROWS(const KIND##_call *call) {                                  \
        KIND##_##PARTS(ROWS, DTYPE, WHOLE, call);                                                  \
    }
#define TILES(KIND, PARTS, NAME, DTYPE, WHOLE)                                                     \
    ROWS_FUNCTION(KIND, PARTS, NAME, 1, DTYPE, WHOLE)                                              \
    ROWS_FUNCTION(KIND, PARTS, NAME, 2, DTYPE, WHOLE)                                              \
    ROWS_FUNCTION(KIND, PARTS, NAME, 3, DTYPE, WHOLE)                                              \
    ROWS_FUNCTION(KIND, PARTS, NAME, 4, DTYPE, WHOLE)                                              \
    ROWS_FUNCTION(KIND, PARTS, NAME, 5, DTYPE, WHOLE)                                              \
    ROWS_FUNCTION(KIND, PARTS, NAME, 6, DTYPE, WHOLE)                                              \
    static KIND##_rows_fn *const KIND##_##NAME[TILE_ROWS] = {                                      \
        KIND##_##NAME##_1, KIND##_##NAME##_2, KIND##_##NAME##_3,                                   \
        KIND##_##NAME##_4, KIND##_##NAME##_5, KIND##_##NAME##_6,                                   \
    };

TILES(scores, groups, f32, FB_F32, true)
TILES(scores, groups, f32_short, FB_F32, false)
TILES(scores, groups, bf16, FB_BF16, true)
TILES(scores, groups, bf16_short, FB_BF16, false)
TILES(scores, groups, f16, FB_F16, true)
TILES(scores, groups, f16_short, FB_F16, false)
TILES(values, panels, f32, FB_F32, true)
TILES(values, panels, f32_short, FB_F32, false)
TILES(values, panels, bf16, FB_BF16, true)
TILES(values, panels, bf16_short, FB_BF16, false)
TILES(values, panels, f16, FB_F16, true)
TILES(values, panels, f16_short, FB_F16, false)

/* By type, and whether the length is a multiple of 16. */
static scores_rows_fn *const *const scores_by_type[FB_NUM_DTYPES][2] = {
    {scores_f32_short, scores_f32},
    {scores_bf16_short, scores_bf16},
    {scores_f16_short, scores_f16}};
static values_rows_fn *const *const values_by_type[FB_NUM_DTYPES][2] = {
    {values_f32_short, values_f32},
    {values_bf16_short, values_bf16},
    {values_f16_short, values_f16}};

/* Tiles of equal rows are all "longer" ones here. */
INLINE row_tiles cut_call(size_t rows) {
    row_tiles tiles = cut_rows(rows, TILE_ROWS);
    if (tiles.longer == 0)
        return (row_tiles){tiles.count, tiles.base - 1, tiles.count};
    return tiles;
}

static void scores(fb_dtype dtype, const float *q, size_t rows, size_t head_dim,
                   const void *const *groups, size_t num_groups, float scale, float *wide,
                   const void *const *next, float *s) {
    scores_call call = {cut_call(rows), q, head_dim, groups, next, num_groups, scale, wide, s};
    scores_by_type[dtype][head_dim % FB_SEGMENT == 0][call.tiles.base](&call);
}

static void values(fb_dtype dtype, const float *p, size_t rows, size_t num_keys,
                   const void *const *groups, size_t head_dim, const float *alpha, float *wide,
                   const void *const *next, float *o) {
    size_t panels = fb_padded_dim(head_dim) / FB_PANEL_DIMS;
    _Alignas(CACHE_LINE) float sums[STREAM_PANELS * TILE_ROWS * FB_PANEL_DIMS];
    values_call call = {cut_call(rows), p, num_keys, panels, groups, next, alpha, wide, sums, o};
    values_by_type[dtype][num_keys % FB_SEGMENT == 0][call.tiles.base](&call);
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

/* p = exp(s - subtract), and sums = sums * alpha + p. Two functions on their own: in a loop over
 * rows compilers would keep the constants of the exponentials on the stack. */
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

static __attribute__((noinline)) void weigh_whole_row(const float *s, float subtract, float alpha,
                                                      float *sums, float *p) {
    weigh_row(s, FB_TILE_KEYS, subtract, alpha, sums, p);
}

static __attribute__((noinline)) void weigh_short_row(const float *s, size_t count, float subtract,
                                                      float alpha, float *sums, float *p) {
    weigh_row(s, count, subtract, alpha, sums, p);
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
        float *row_sums = sums + row * FB_GROUP_KEYS, *row_p = p + row * FB_SEGMENT;
        if (counts[row] == FB_TILE_KEYS)
            weigh_whole_row(row_s, subtract[row], alpha[row], row_sums, row_p);
        else
            weigh_short_row(row_s, counts[row], subtract[row], alpha[row], row_sums, row_p);
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

#include "dots_avx2.h"

FB_KERNEL_TABLE(fb_kernels_avx2, FB_ISA_AVX2)

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
 * zeroed accumulators for every 16 lines cost 15 % of the speed. The sum of the blocks so far stays
 * in memory, in the L1 cache: there is no register left for it.
 *
 * Each lane computes one chain of the scalar kernel, operation by operation. So the bits are the
 * same.
 */
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#error "compile simd/avx2.c with -mavx2 -mfma -mf16c"
#endif

#include "simd/constants.h"
#include "simd/tiles.h"

#include <flashblock/attention.h>

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    LANES = 8,
    TILE_ROWS = 6,
    TILE_COLUMNS = 2,  /* registers: 16 columns */
    EXPONENTIALS = 4,  /* registers at a time */
    LINES_A_FETCH = 2, /* of a block, for each cache line that is prefetched */
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

/* HOW a row tile is multiplied with a block. HOW, ROWS and DTYPE are constants wherever these
 * functions are inlined. */
enum {
    WHOLE = 1,    /* the block has all of its 16 lines */
    FETCH = 2,    /* prefetches */
    KEEP = 4,     /* leaves the lines, widened, for the tiles after it */
    EVEN_ODD = 8, /* lines are their elements 0, 2, ..., 14, then 1, 3, ..., 15 */
    FEW = 16,     /* the call has at most FB_STREAM_ROWS rows, and maybe several streams */
};

/* Two bf16 elements are a 32-bit word. So, without shuffles, the even elements of a line become one
 * register and the odd elements the other. Sums keep this order until they are complete. */
INLINE int order_of(const fb_dtype DTYPE) {
    return DTYPE == FB_BF16 ? EVEN_ODD : 0;
}

INLINE __m256i odd_elements(__m256i pairs) {
    static const _Alignas(__m256i) uint32_t upper[LANES] = {
        0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u,
        0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u,
    };
    __m256i odd; /* compilers would give the mask a register, and no register is left */
    __asm__("vpand %2, %1, %0" : "=x"(odd) : "x"(pairs), "m"(*(const __m256i *)upper));
    return odd;
}

INLINE void load_line(const fb_dtype DTYPE, const void *lines, size_t line,
                      __m256 b_x8[TILE_COLUMNS]) {
    if (DTYPE != FB_BF16) {
        b_x8[0] = load(DTYPE, lines, line * FB_GROUP_KEYS);
        b_x8[1] = load(DTYPE, lines, line * FB_GROUP_KEYS + LANES);
        return;
    }
    __m256i pairs = _mm256_loadu_si256((const __m256i *)lines + line);
    b_x8[0] = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    b_x8[1] = _mm256_castsi256_ps(odd_elements(pairs));
}

/* A row's 16 sums in the order of its elements. */
INLINE void interleave(__m256 row[TILE_COLUMNS]) {
    __m256 low = _mm256_unpacklo_ps(row[0], row[1]), high = _mm256_unpackhi_ps(row[0], row[1]);
    row[0] = _mm256_permute2f128_ps(low, high, 0x20);
    row[1] = _mm256_permute2f128_ps(low, high, 0x31);
}

/* A row tile and the block it is multiplied with. */
typedef struct tile_job {
    const float *a;    /* [ROWS][16] */
    const void *lines; /* the block's, [16][16] elements */
    float *wide;       /* [16][16], to KEEP them in */
    const char *next;  /* memory to prefetch: 16 lines of a block take 8 cache lines of it */
    float *sums;       /* [ROWS][16] at stride sums_stride */
    size_t sums_stride;
    float *o; /* [ROWS][16] at stride o_stride, where the values kernel's sums go at last */
    size_t o_stride;
    const float *alpha; /* [ROWS] */
} tile_job;

/* acc = or += one line's products, for all rows. */
INLINE void multiply_line(const int ROWS, const fb_dtype DTYPE, const int HOW, const tile_job *job,
                          size_t line, bool first, __m256 acc[TILE_ROWS][TILE_COLUMNS]) {
    __m256 b_x8[TILE_COLUMNS];
    /* Into the L2 cache: on a Zen 4 float32 from memory was 5 to 12 % slower when it was fetched
     * into the L1 cache, which has few places for lines that are on their way. */
    if (HOW & FETCH && line % LINES_A_FETCH == 0)
        _mm_prefetch(job->next + line / LINES_A_FETCH * CACHE_LINE, _MM_HINT_T1);
    load_line(DTYPE, job->lines, line, b_x8);
    if (HOW & KEEP) {
        _mm256_storeu_ps(job->wide + line * FB_GROUP_KEYS, b_x8[0]);
        _mm256_storeu_ps(job->wide + line * FB_GROUP_KEYS + LANES, b_x8[1]);
    }
    UNROLLED
    for (int i = 0; i < ROWS * TILE_COLUMNS; i++) { /* clang 14 keeps two loops of one row */
        int row = i / TILE_COLUMNS, column = i % TILE_COLUMNS;
        __m256 a_x8 = _mm256_broadcast_ss(job->a + row * FB_SEGMENT + line);
        acc[row][column] = first ? _mm256_mul_ps(a_x8, b_x8[column])
                                 : _mm256_fmadd_ps(a_x8, b_x8[column], acc[row][column]);
    }
}

/* acc = a . b, one chain: over all 16 lines of a block, or over fewer where it is not WHOLE. */
INLINE void multiply_block(const int ROWS, const fb_dtype DTYPE, const int HOW, const tile_job *job,
                           size_t lines, __m256 acc[TILE_ROWS][TILE_COLUMNS]) {
    multiply_line(ROWS, DTYPE, HOW, job, 0, true, acc);
    if (HOW & WHOLE) {
        UNROLLED
        for (size_t line = 1; line < FB_SEGMENT; line++)
            multiply_line(ROWS, DTYPE, HOW, job, line, false, acc);
    } else {
        for (size_t line = 1; line < lines; line++)
            multiply_line(ROWS, DTYPE, HOW, job, line, false, acc);
    }
}

/* Where the product of a block goes. */
typedef enum destination {
    FIRST_SUM,    /* sums = acc */
    NEXT_SUM,     /* sums += acc */
    SCALED_FIRST, /* sums = scale * acc */
    SCALED_LAST,  /* sums = scale * (sums + acc) */
    OUTPUT_FIRST, /* o = o * alpha + acc */
    OUTPUT_LAST,  /* o = o * alpha + (sums + acc) */
} destination;

INLINE void store_sums(const int ROWS, const int HOW, const bool ADD, const float *scale,
                       const tile_job *job, __m256 acc[TILE_ROWS][TILE_COLUMNS]) {
    UNROLLED
    for (int row = 0; row < ROWS; row++) {
        float *at = job->sums + (size_t)row * job->sums_stride;
        __m256 *sums = acc[row];
        if (ADD) {
            sums[0] = _mm256_add_ps(_mm256_loadu_ps(at), sums[0]);
            sums[1] = _mm256_add_ps(_mm256_loadu_ps(at + LANES), sums[1]);
        }
        if (scale) {
            sums[0] = _mm256_mul_ps(_mm256_broadcast_ss(scale), sums[0]);
            sums[1] = _mm256_mul_ps(_mm256_broadcast_ss(scale), sums[1]);
            if (HOW & EVEN_ODD)
                interleave(sums);
        }
        _mm256_storeu_ps(at, sums[0]);
        _mm256_storeu_ps(at + LANES, sums[1]);
    }
}

INLINE void add_to_output(const int ROWS, const int HOW, const bool ADD, const tile_job *job,
                          __m256 acc[TILE_ROWS][TILE_COLUMNS]) {
    UNROLLED
    for (int row = 0; row < ROWS; row++) {
        const float *at = job->sums + (size_t)row * job->sums_stride;
        float *o = job->o + (size_t)row * job->o_stride;
        const __m256 alpha = _mm256_broadcast_ss(job->alpha + row);
        __m256 *sums = acc[row];
        if (ADD) {
            sums[0] = _mm256_add_ps(_mm256_loadu_ps(at), sums[0]);
            sums[1] = _mm256_add_ps(_mm256_loadu_ps(at + LANES), sums[1]);
        }
        if (HOW & EVEN_ODD)
            interleave(sums);
        _mm256_storeu_ps(o, _mm256_fmadd_ps(_mm256_loadu_ps(o), alpha, sums[0]));
        _mm256_storeu_ps(o + LANES, _mm256_fmadd_ps(_mm256_loadu_ps(o + LANES), alpha, sums[1]));
    }
}

INLINE void multiply_tile(const int ROWS, const fb_dtype DTYPE, const int HOW, const tile_job *job,
                          size_t lines, destination to, const float *scale) {
    __m256 acc[TILE_ROWS][TILE_COLUMNS];
    multiply_block(ROWS, DTYPE, HOW, job, lines, acc);
    switch (to) {
    case FIRST_SUM:
        store_sums(ROWS, HOW, false, NULL, job, acc);
        break;
    case NEXT_SUM:
        store_sums(ROWS, HOW, true, NULL, job, acc);
        break;
    case SCALED_FIRST:
        store_sums(ROWS, HOW, false, scale, job, acc);
        break;
    case SCALED_LAST:
        store_sums(ROWS, HOW, true, scale, job, acc);
        break;
    case OUTPUT_FIRST:
        add_to_output(ROWS, HOW, false, job, acc);
        break;
    case OUTPUT_LAST:
        add_to_output(ROWS, HOW, true, job, acc);
        break;
    }
}

/* The row tiles of a call share the prefetching for a block: tile t fetches the lines from t * step
 * on. A float32 call of one tile waits for memory, and so does a call of several streams: there the
 * hardware reads ahead faster if the kernel does not prefetch (Zen 3). */
typedef struct fetch_plan {
    bool any;
    size_t step; /* bytes */
} fetch_plan;

INLINE fetch_plan plan_fetches(const fb_dtype DTYPE, size_t tiles, size_t streams) {
    size_t lines = block_bytes(DTYPE) / CACHE_LINE;
    return (fetch_plan){
        .any = streams == 1 && (DTYPE != FB_F32 || tiles > 1),
        .step = (lines + tiles - 1) / tiles * CACHE_LINE,
    };
}

/* Goes on to the next tile, after a tile of ROWS rows. */
INLINE void next_tile(const int ROWS, fetch_plan plan, tile_job *job) {
    job->a += ROWS * FB_SEGMENT;
    job->sums += (size_t)ROWS * job->sums_stride;
    job->next += plan.step;
    job->o += (size_t)ROWS * job->o_stride;
    job->alpha += ROWS;
}

/* Multiplies all row tiles of a call with one block. The longer tiles have ROWS rows, the others
 * one row less. With a 16-bit type the first tile widens, and fetches, for the others. `job` is the
 * first tile's. */
INLINE void multiply_rows(const int ROWS, const fb_dtype DTYPE, const int HOW, row_tiles tiles,
                          fetch_plan plan, tile_job job, size_t lines, destination to,
                          const float *scale) {
    const int OTHERS = HOW | (DTYPE == FB_F32 ? FETCH : 0); /* the tiles after the first */
    size_t longer = tiles.longer, shorter = tiles.count - longer;
    __asm__("" : "+r"(job.a)); /* or gcc would copy all of a, or its addresses, to the stack */
    if (HOW & FEW && (2 * ROWS != FB_STREAM_ROWS || tiles.count == 1)) {
        multiply_tile(ROWS, DTYPE, HOW, &job, lines, to, scale);
        return;
    }
    if (HOW & FEW && !plan.any)
        job.next = (const char *)job.a; /* these lines are in the cache anyway */
    if (DTYPE != FB_F32) {
        multiply_tile(ROWS, DTYPE, HOW | FETCH | KEEP, &job, lines, to, scale);
        next_tile(ROWS, plan, &job);
        job.lines = job.wide;
        longer--;
    }
    for (; longer > 0; longer--) {
        multiply_tile(ROWS, FB_F32, OTHERS, &job, lines, to, scale);
        next_tile(ROWS, plan, &job);
    }
    for (; ROWS > 1 && shorter > 0; shorter--) {
        multiply_tile(ROWS - 1, FB_F32, OTHERS, &job, lines, to, scale);
        next_tile(ROWS - 1, plan, &job);
    }
}

/* A call of the scores kernel, and the memory that it works with. */
typedef struct scores_job {
    fb_scores_call call;
    row_tiles tiles;
    const void *const *fetches; /* what to prefetch while each of a stream's groups is at work */
    float *wide;                /* [16][16] */
} scores_job;

/* One block of a group, in every stream; `tile` is the first stream's. */
INLINE void scores_block(const int ROWS, const fb_dtype DTYPE, const int HOW, const scores_job *job,
                         fetch_plan plan, tile_job tile, size_t group, size_t block, size_t lines,
                         destination to) {
    const fb_scores_call *call = &job->call;
    for (size_t stream = 1;; stream++) {
        multiply_rows(ROWS, DTYPE, HOW, job->tiles, plan, tile, lines, to, &call->scale);
        if (!(HOW & FEW) || stream >= call->streams)
            break;
        tile.lines = (const char *)call->groups[stream * call->num_groups + group] +
                     block * block_bytes(DTYPE);
        tile.sums += call->rows * FB_SCORE_STRIDE;
    }
}

INLINE void scores_groups(const int ROWS, const fb_dtype DTYPE, const int HOW,
                          const scores_job *job) {
    const fb_scores_call *call = &job->call;
    const fetch_plan plan = plan_fetches(DTYPE, job->tiles.count, call->streams);
    for (size_t group = 0; group < call->num_groups; group++) {
        tile_job tile = {
            .a = call->q,
            .lines = call->groups[group],
            .wide = job->wide,
            .next = job->fetches[group],
            .sums = call->s + group * FB_GROUP_KEYS,
            .sums_stride = FB_SCORE_STRIDE,
        };
        size_t left = call->head_dim;
        for (size_t block = 0;; block++, left -= FB_SEGMENT) {
            bool first = block == 0, last = left <= FB_SEGMENT;
            destination to = last    ? first ? SCALED_FIRST : SCALED_LAST
                             : first ? FIRST_SUM
                                     : NEXT_SUM;
            scores_block(ROWS, DTYPE, HOW, job, plan, tile, group, block, last ? left : FB_SEGMENT,
                         to);
            if (last)
                break;
            tile.a += FB_ROWS_BLOCK;
            tile.lines = (const char *)tile.lines + block_bytes(DTYPE);
            tile.next += block_bytes(DTYPE);
        }
    }
}

/* A call of the values kernel, and the memory that it works with. */
typedef struct values_job {
    fb_values_call call;
    row_tiles tiles;
    const void *const *fetches; /* what to prefetch while each of a stream's groups is at work */
    size_t num_groups;          /* of a stream */
    size_t first_panel, num_panels; /* the ones to compute */
    float *wide;                    /* [16][16] */
    float *sums;                    /* [num_panels][streams][rows][16] */
} values_job;

/* One block of a group, in every stream; `tile` is the first stream's. */
INLINE void values_block(const int ROWS, const fb_dtype DTYPE, const int HOW, const values_job *job,
                         fetch_plan plan, tile_job tile, size_t group, size_t panel, size_t lines) {
    const fb_values_call *call = &job->call;
    const bool last = group + 1 == job->num_groups;
    const destination to = group == 0 ? last ? OUTPUT_FIRST : FIRST_SUM
                           : last     ? OUTPUT_LAST
                                      : NEXT_SUM;
    for (size_t stream = 1;; stream++) {
        multiply_rows(ROWS, DTYPE, HOW, job->tiles, plan, tile, lines, to, NULL);
        if (!(HOW & FEW) || stream >= call->streams)
            break;
        tile.a += call->rows * FB_SEGMENT;
        tile.lines = (const char *)call->groups[stream * job->num_groups + group] +
                     (job->first_panel + panel) * block_bytes(DTYPE);
        tile.sums += call->rows * FB_PANEL_DIMS;
        tile.o += call->rows * tile.o_stride;
        tile.alpha += call->rows;
    }
}

/* o = fma(o, alpha, p . v), groups one after the other, as they are in memory. */
INLINE void values_groups(const int ROWS, const fb_dtype DTYPE, const int HOW,
                          const values_job *job) {
    const fb_values_call *call = &job->call;
    const fetch_plan plan = plan_fetches(DTYPE, job->tiles.count, call->streams);
    const size_t offset = job->first_panel * block_bytes(DTYPE);
    for (size_t group = 0; group < job->num_groups; group++) {
        size_t left = call->num_keys - group * FB_SEGMENT;
        tile_job tile = {
            .a = call->p + group * FB_ROWS_BLOCK,
            .lines = (const char *)call->groups[group] + offset,
            .wide = job->wide,
            .next = (const char *)job->fetches[group] + offset,
            .sums = job->sums,
            .sums_stride = FB_PANEL_DIMS,
            .o = call->o + job->first_panel * FB_PANEL_DIMS,
            .o_stride = fb_padded_dim(call->head_dim),
            .alpha = call->alpha,
        };
        for (size_t panel = 0; panel < job->num_panels; panel++) {
            values_block(ROWS, DTYPE, HOW, job, plan, tile, group, panel,
                         left < FB_SEGMENT ? left : FB_SEGMENT);
            tile.lines = (const char *)tile.lines + block_bytes(DTYPE);
            tile.next += block_bytes(DTYPE);
            tile.sums += call->streams * call->rows * FB_PANEL_DIMS;
            tile.o += FB_PANEL_DIMS;
        }
    }
}

typedef void scores_rows_fn(const scores_job *job);
typedef void values_rows_fn(const values_job *job);

/* KIND_rows_NAME: the functions of a product, by the number of rows of a call's longer tiles. The
 * first six are for calls of few rows: one tile, or two tiles of 4 rows. The last two are for more
 * rows, where the longer tiles have 5 or 6 rows. Products whose length is not a multiple of 16 have
 * functions of their own, which are compact rather than fast: a branch between a whole block and a
 * shorter block would cost registers in the whole block. */
#define ROWS_FUNCTION(KIND, NAME, ROWS, DTYPE, HOW)                                                \
    static void KIND##_##NAME(const KIND##_job *job) {                                             \
        KIND##_groups(ROWS, DTYPE, order_of(DTYPE) | HOW, job);                                    \
    }
#define TILES(KIND, NAME, DTYPE, HOW)                                                              \
    ROWS_FUNCTION(KIND, NAME##_1, 1, DTYPE, HOW | FEW)                                             \
    ROWS_FUNCTION(KIND, NAME##_2, 2, DTYPE, HOW | FEW)                                             \
    ROWS_FUNCTION(KIND, NAME##_3, 3, DTYPE, HOW | FEW)                                             \
    ROWS_FUNCTION(KIND, NAME##_4, 4, DTYPE, HOW | FEW)                                             \
    ROWS_FUNCTION(KIND, NAME##_5, 5, DTYPE, HOW | FEW)                                             \
    ROWS_FUNCTION(KIND, NAME##_6, 6, DTYPE, HOW | FEW)                                             \
    ROWS_FUNCTION(KIND, NAME##_5s, 5, DTYPE, HOW)                                                  \
    ROWS_FUNCTION(KIND, NAME##_6s, 6, DTYPE, HOW)                                                  \
    static KIND##_rows_fn *const KIND##_rows_##NAME[] = {                                          \
        KIND##_##NAME##_1, KIND##_##NAME##_2, KIND##_##NAME##_3,  KIND##_##NAME##_4,               \
        KIND##_##NAME##_5, KIND##_##NAME##_6, KIND##_##NAME##_5s, KIND##_##NAME##_6s,              \
    };

TILES(scores, f32, FB_F32, WHOLE)
TILES(scores, f32_short, FB_F32, 0)
TILES(scores, bf16, FB_BF16, WHOLE)
TILES(scores, bf16_short, FB_BF16, 0)
TILES(scores, f16, FB_F16, WHOLE)
TILES(scores, f16_short, FB_F16, 0)
TILES(values, f32, FB_F32, WHOLE)
TILES(values, f32_short, FB_F32, 0)
TILES(values, bf16, FB_BF16, WHOLE)
TILES(values, bf16_short, FB_BF16, 0)
TILES(values, f16, FB_F16, WHOLE)
TILES(values, f16_short, FB_F16, 0)

/* By type, and whether the length is a multiple of 16. */
static scores_rows_fn *const *const scores_by_type[FB_NUM_DTYPES][2] = {
    {scores_rows_f32_short, scores_rows_f32},
    {scores_rows_bf16_short, scores_rows_bf16},
    {scores_rows_f16_short, scores_rows_f16}};
static values_rows_fn *const *const values_by_type[FB_NUM_DTYPES][2] = {
    {values_rows_f32_short, values_rows_f32},
    {values_rows_bf16_short, values_rows_bf16},
    {values_rows_f16_short, values_rows_f16}};

/* cut_rows, but if all tiles have the same number of rows, all of them are "longer" ones. */
INLINE row_tiles cut_call(size_t rows) {
    row_tiles tiles = cut_rows(rows, TILE_ROWS);
    if (tiles.longer == 0)
        return (row_tiles){tiles.count, tiles.base - 1, tiles.count};
    return tiles;
}

/* The place of a call's function in the tables. */
INLINE size_t function_of(size_t rows, row_tiles tiles) {
    return rows <= FB_STREAM_ROWS ? tiles.base : tiles.base + 2;
}

/* Lists the memory to prefetch while the kernel works on each group. To choose it in the loops
 * above would take registers there. */
INLINE void list_fetches(const void *const *groups, size_t num_groups, const void *next,
                         const void *fetches[FB_TILE_GROUPS]) {
    for (size_t group = 0; group < num_groups; group++)
        fetches[group] = group_after(groups, num_groups, group, next);
}

static void scores(fb_dtype dtype, const fb_scores_call *call) {
    _Alignas(CACHE_LINE) float wide[BLOCK];
    const void *fetches[FB_TILE_GROUPS];
    list_fetches(call->groups, call->num_groups, call->next, fetches);
    const scores_job job = {
        .call = *call,
        .tiles = cut_call(call->rows),
        .fetches = fetches,
        .wide = wide,
    };
    bool whole = call->head_dim % FB_SEGMENT == 0;
    scores_by_type[dtype][whole][function_of(call->rows, job.tiles)](&job);
}

FB_BY_DTYPE(scores)

static void values(fb_dtype dtype, const fb_values_call *call) {
    _Alignas(CACHE_LINE) float sums[SUM_FLOATS];
    _Alignas(CACHE_LINE) float wide[BLOCK];
    const void *fetches[FB_TILE_GROUPS];
    values_job job = {
        .call = *call,
        .tiles = cut_call(call->rows),
        .fetches = fetches,
        .num_groups = (call->num_keys + FB_GROUP_KEYS - 1) / FB_GROUP_KEYS,
        .wide = wide,
        .sums = sums,
    };
    list_fetches(call->groups, job.num_groups, call->next, fetches);
    size_t panels = fb_padded_dim(call->head_dim) / FB_PANEL_DIMS;
    bool whole = call->num_keys % FB_SEGMENT == 0;
    for (; job.first_panel < panels; job.first_panel += job.num_panels) {
        job.num_panels = panels_at_once(call->streams * call->rows, panels - job.first_panel);
        values_by_type[dtype][whole][function_of(call->rows, job.tiles)](&job);
    }
}

FB_BY_DTYPE(values)

/* 8 x 8 floats: line[d][key] becomes line[key][d]. */
INLINE void transpose_8x8(__m256 line[LANES]) {
    __m256 pairs[LANES], fours[LANES];
    UNROLLED
    for (int i = 0; i < LANES; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(line[i], line[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(line[i], line[i + 1]);
    }
    UNROLLED
    for (int i = 0; i < LANES; i += 4) {
        fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
        fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
    UNROLLED
    for (int i = 0; i < LANES / 2; i++) {
        line[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
        line[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
    }
}

/* A panel, of whose 16 dimensions the first `dims` are there: four squares of 8 x 8. */
INLINE void transpose_panel(const fb_dtype DTYPE, const fb_transpose_call *call, size_t panel,
                            size_t dims) {
    for (size_t key = 0; key < FB_GROUP_KEYS; key += LANES)
        for (size_t d = 0; d < FB_PANEL_DIMS; d += LANES) {
            size_t from = (panel * FB_PANEL_DIMS + d) * FB_GROUP_KEYS + key;
            float *to = call->to + panel * BLOCK + key * FB_PANEL_DIMS + d;
            __m256 line[LANES];
            UNROLLED
            for (size_t i = 0; i < LANES; i++)
                line[i] = d + i < dims ? load(DTYPE, call->keys, from + i * FB_GROUP_KEYS)
                                       : _mm256_setzero_ps();
            transpose_8x8(line);
            UNROLLED
            for (size_t i = 0; i < LANES; i++)
                _mm256_storeu_ps(to + i * FB_PANEL_DIMS, line[i]);
        }
}

INLINE void transpose(const fb_dtype DTYPE, const fb_transpose_call *call) {
    size_t panel = 0, left = call->head_dim;
    for (; left >= FB_PANEL_DIMS; left -= FB_PANEL_DIMS)
        transpose_panel(DTYPE, call, panel++, FB_PANEL_DIMS);
    if (left > 0)
        transpose_panel(DTYPE, call, panel, left);
}

FB_BY_DTYPE(transpose)

/* fb_exp_value of scalar_math.h for COUNT registers side by side, step by step. One exponential is
 * a chain of 17 operations, and the CPU's scheduler has no room for several chains in a row. */
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

/* The maxima of all rows, then the factors of all rows, then the weights of all rows. Row by row
 * each step would wait for the step before, and the multipliers would be idle. */
static void softmax(const fb_softmax_call *call) {
    float subtract[FB_MAX_ROWS], change[FB_MAX_ROWS + LANES];
    const size_t rows = call->rows;
    for (size_t row = 0; row < rows; row++) {
        float *max = call->max + row;
        float new_max = raised_max(call->s + row * FB_SCORE_STRIDE, call->counts[row], *max);
        subtract[row] = new_max == -INFINITY ? 0.0f : new_max;
        /* exp(0) is exactly 1 */
        change[row] = new_max == *max ? 0.0f : *max - subtract[row];
        *max = new_max;
    }
    for (size_t row = 0; row < rows; row += LANES)
        _mm256_storeu_ps(change + row, exp_x8(_mm256_loadu_ps(change + row)));
    memcpy(call->alpha, change, rows * sizeof *change);
    for (size_t row = 0; row < rows; row++) {
        const float *s = call->s + row * FB_SCORE_STRIDE;
        float *sums = call->sums + row * FB_GROUP_KEYS, *p = call->p + row * FB_SEGMENT;
        if (call->counts[row] == FB_TILE_KEYS)
            weigh_whole_row(s, subtract[row], change[row], sums, p);
        else
            weigh_short_row(s, call->counts[row], subtract[row], change[row], sums, p);
    }
}

/* x / y; each NaN becomes the library's. */
INLINE __m256 quotient(__m256 x, __m256 y) {
    const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(FB_NAN_BITS));
    __m256 result = _mm256_div_ps(x, y);
    return _mm256_blendv_ps(result, nan, _mm256_cmp_ps(result, result, _CMP_UNORD_Q));
}

static void merge_row(const float *big, const float *small, float weight, size_t head_dim,
                      float *o) {
    const __m256 weight_x8 = _mm256_set1_ps(weight);
    const __m256 total_x8 = _mm256_set1_ps(1.0f + weight);
    size_t d = 0;
    for (; d + LANES <= head_dim; d += LANES) {
        __m256 sum =
            _mm256_fmadd_ps(weight_x8, _mm256_loadu_ps(small + d), _mm256_loadu_ps(big + d));
        _mm256_storeu_ps(o + d, quotient(sum, total_x8));
    }
    fb_kernels_scalar.merge_row(big + d, small + d, weight, head_dim - d, o + d);
}

static void divide_row(float sum, size_t head_dim, float *o) {
    const __m256 sum_x8 = _mm256_set1_ps(sum);
    size_t d = 0;
    for (; d + LANES <= head_dim; d += LANES)
        _mm256_storeu_ps(o + d, quotient(_mm256_loadu_ps(o + d), sum_x8));
    fb_kernels_scalar.divide_row(sum, head_dim - d, o + d);
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

#include "simd/dots_avx2.h"
#include "simd/int_dots_avx2.h"
#include "simd/int_scores_avx2.h"

void fb_kernels_init_avx2(fb_kernels *kernels) {
    kernels->scores[FB_F32] = scores_f32;
    kernels->scores[FB_BF16] = scores_bf16;
    kernels->scores[FB_F16] = scores_f16;
    kernels->values[FB_F32] = values_f32;
    kernels->values[FB_BF16] = values_bf16;
    kernels->values[FB_F16] = values_f16;
    kernels->int_scores = int_scores;
    kernels->int_values = int_values;
    kernels->dots[FB_F32] = dots_f32;
    kernels->dots[FB_BF16] = dots_bf16;
    kernels->dots[FB_F16] = dots_f16;
    kernels->dot_outputs = DOT_TILE_OUTPUTS;
    kernels->quantize = quantize;
    kernels->int_dots = int_dots;
    kernels->int_outputs = INT_OUTPUTS;
    kernels->transpose[FB_F32] = transpose_f32;
    kernels->transpose[FB_BF16] = transpose_bf16;
    kernels->transpose[FB_F16] = transpose_f16;
    kernels->softmax = softmax;
    kernels->merge_row = merge_row;
    kernels->divide_row = divide_row;
    kernels->widen_bf16 = widen_bf16;
    kernels->widen_f16 = widen_f16;
    kernels->exp = exp_values;
}

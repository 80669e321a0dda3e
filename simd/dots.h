/* The dot products of linear layers (kernels.h), for every SIMD instruction set.
 *
 * The file that includes this one has defined the operations on 8 neighbouring columns:
 *
 *   DOT_TILE_ROWS        4 or 8
 *   DOT_PER_VECTOR       outputs in a vector: 1 or 2
 *   dot_vector           8 columns, or 8 chains, of DOT_PER_VECTOR outputs
 *   dot_zero()           all +0
 *   dot_x(x)             x[0..7], for each of the outputs
 *   dot_weights(DTYPE, const void *const *weights, index)
 *                        weights[output][index .. index + 7], widened
 *   dot_store(w, float *to), dot_load(const float *from)
 *                        a vector as it is
 *   dot_fma(x, w, sum)
 *   dot_fold(ROWS, FIRST, chains, float *sums, size_t stride)
 *                        adds the sums of the chains of ROWS (at most 4) rows from FIRST on, of
 *                        chains [DOT_VECTORS][DOT_TILE_ROWS], to sums [outputs] a stride apart
 *   dot_in_register(vector)
 *                        keeps compilers from loading a vector again in every fma that uses it
 *   dot_in_turn(sum)     keeps compilers from taking up the next row earlier, or does nothing
 *
 * The register tile is DOT_TILE_ROWS rows x 3 vectors. On AVX2 that is 4 x 3: 12 accumulators, 3
 * registers of weights, 1 of x; 7 loads feed 12 fma, and 12 independent chains hide their latency.
 * The loads of one row of weights are of neighbours, and each weight is loaded once for four rows.
 */
#ifndef FB_SIMD_DOTS_H
#define FB_SIMD_DOTS_H

#include "simd/tiles.h"

#include <stdbool.h>

enum {
    DOT_LANES = 8,
    DOT_VECTORS = 3,
    DOT_TILE_OUTPUTS = DOT_VECTORS * DOT_PER_VECTOR,
    DOT_FOLD_ROWS = 4,
};

/* Where a tile has its weights from; a constant wherever these functions are inlined. */
typedef enum dots_source {
    IN_PLACE, /* rows of weights */
    WIDEN,    /* the same, and it leaves them in `wide` for the tiles after it */
    WIDENED,  /* what another tile has left in `wide`, vector by vector */
} dots_source;

typedef struct dots_job {
    const float *x;             /* the tile's first row */
    const void *const *weights; /* [DOT_TILE_OUTPUTS] */
    size_t columns;
    float *wide;             /* [DOT_VECTORS][FB_DOT_COLUMNS / 8][8 * DOT_PER_VECTOR] */
    const void *const *next; /* [DOT_TILE_OUTPUTS], or NULL */
    size_t element;          /* bytes of an element that is fetched */
    size_t turn,
        turns;   /* this tile fetches for every turns-th step over the columns, from `turn` on */
    float *sums; /* [DOT_TILE_OUTPUTS] at this stride */
    size_t stride;
} dots_job;

/* Fetches the cache lines that a step over the columns will read, of all rows of weights. */
INLINE void dots_fetch(const void *const *next, size_t element, size_t column) {
    for (size_t output = 0; output < DOT_TILE_OUTPUTS; output++)
        for (size_t byte = 0; byte < FB_DOT_STEP * element; byte += CACHE_LINE)
            __builtin_prefetch((const char *)next[output] + column * element + byte, 0, 2);
}

/* 8 columns. */
INLINE void dots_columns(const int ROWS, const fb_dtype DTYPE, const dots_source SOURCE,
                         const float *x, const void *const *weights, float *wide, size_t column,
                         dot_vector chains[DOT_VECTORS][DOT_TILE_ROWS]) {
    dot_vector w[DOT_VECTORS];
    UNROLLED
    for (int i = 0; i < DOT_VECTORS; i++) {
        float *kept = wide + ((size_t)i * FB_DOT_COLUMNS + column) * DOT_PER_VECTOR;
        w[i] = SOURCE == WIDENED ? dot_load(kept)
                                 : dot_weights(DTYPE, weights + i * DOT_PER_VECTOR, column);
        dot_in_register(w[i]);
        if (SOURCE == WIDEN)
            dot_store(w[i], kept);
    }
    UNROLLED
    for (int row = 0; row < ROWS; row++) {
        dot_vector x_values = dot_x(x + row * FB_DOT_COLUMNS + column);
        dot_in_register(x_values);
        UNROLLED
        for (int i = 0; i < DOT_VECTORS; i++)
            chains[i][row] = dot_fma(x_values, w[i], chains[i][row]);
        UNROLLED
        for (int i = 0; i < DOT_VECTORS; i++)
            dot_in_turn(chains[i][row]);
    }
}

INLINE void dots_fold(const int ROWS, dot_vector chains[DOT_VECTORS][DOT_TILE_ROWS], float *sums,
                      size_t stride) {
    dot_fold(ROWS < DOT_FOLD_ROWS ? ROWS : DOT_FOLD_ROWS, 0, chains, sums, stride);
    if (ROWS == DOT_FOLD_ROWS + 1) /* clang 14 left all chains in memory when 1 was a difference */
        dot_fold(1, DOT_FOLD_ROWS, chains, sums + DOT_FOLD_ROWS, stride);
    else if (ROWS > DOT_FOLD_ROWS)
        dot_fold(ROWS - DOT_FOLD_ROWS, DOT_FOLD_ROWS, chains, sums + DOT_FOLD_ROWS, stride);
}

INLINE void dots_tile(const int ROWS, const fb_dtype DTYPE, const dots_source SOURCE,
                      const dots_job *job) {
    const void *weights[DOT_TILE_OUTPUTS];
    UNROLLED
    for (int output = 0; output < DOT_TILE_OUTPUTS; output++)
        weights[output] = job->weights[output];
    dot_vector chains[DOT_VECTORS][DOT_TILE_ROWS];
    UNROLLED
    for (int i = 0; i < DOT_VECTORS; i++) {
        UNROLLED
        for (int row = 0; row < ROWS; row++)
            chains[i][row] = dot_zero();
    }
    const float *x = job->x;
    float *wide = job->wide;
    size_t columns = job->columns, fetch = job->next ? job->turn * FB_DOT_STEP : SIZE_MAX;
    for (size_t column = 0; column < columns; column += FB_DOT_STEP) {
        if (column == fetch) {
            dots_fetch(job->next, job->element, column);
            fetch += job->turns * FB_DOT_STEP;
        }
        ROLLED
        for (size_t step = 0; step < FB_DOT_STEP; step += DOT_LANES)
            dots_columns(ROWS, DTYPE, SOURCE, x, weights, wide, column + step, chains);
    }
    dots_fold(ROWS, chains, job->sums, job->stride);
}

typedef void dots_tile_fn(const dots_job *job);

#define DOTS_TILE(ROWS, NAME, DTYPE, SOURCE)                                                       \
    static void dots_##NAME##_##ROWS(const dots_job *job) {                                        \
        dots_tile(ROWS, DTYPE, SOURCE, job);                                                       \
    }
#define DOTS_TILES(ROWS)                                                                           \
    DOTS_TILE(ROWS, f32, FB_F32, IN_PLACE)                                                         \
    DOTS_TILE(ROWS, f32_widened, FB_F32, WIDEN)                                                    \
    DOTS_TILE(ROWS, bf16, FB_BF16, IN_PLACE)                                                       \
    DOTS_TILE(ROWS, bf16_widened, FB_BF16, WIDEN)                                                  \
    DOTS_TILE(ROWS, f16, FB_F16, IN_PLACE)                                                         \
    DOTS_TILE(ROWS, f16_widened, FB_F16, WIDEN)                                                    \
    DOTS_TILE(ROWS, wide, FB_F32, WIDENED)
#define DOTS_OF(ROWS)                                                                              \
    {                                                                                              \
        {dots_f32_##ROWS, dots_f32_widened_##ROWS, dots_wide_##ROWS},                              \
            {dots_bf16_##ROWS, dots_bf16_widened_##ROWS, dots_wide_##ROWS}, {                      \
            dots_f16_##ROWS, dots_f16_widened_##ROWS, dots_wide_##ROWS                             \
        }                                                                                          \
    }

DOTS_TILES(1)
DOTS_TILES(2)
DOTS_TILES(3)
DOTS_TILES(4)
#if DOT_TILE_ROWS == 8
DOTS_TILES(5)
DOTS_TILES(6)
DOTS_TILES(7)
DOTS_TILES(8)
#endif

/* [rows - 1][type][dots_source] */
static dots_tile_fn *const dots_tiles[DOT_TILE_ROWS][FB_NUM_DTYPES][WIDENED + 1] = {
    DOTS_OF(1), DOTS_OF(2), DOTS_OF(3), DOTS_OF(4),
#if DOT_TILE_ROWS == 8
    DOTS_OF(5), DOTS_OF(6), DOTS_OF(7), DOTS_OF(8),
#endif
};

/* The first tile of rows leaves 16-bit weights as floats in `wide`, where the other tiles find them
 * in the L1 cache. If there are many rows it does so with f32 weights, too: in their own place rows
 * of weights often lie a power of two apart, in few sets of that cache. While the other tiles read
 * from the cache, memory would be idle, so each tile fetches its share of the next weights. With
 * few tiles f32 weights are read from memory nearly all the time, and then the hardware's own
 * prefetching is faster. */
static void dots(fb_dtype dtype, const fb_dots_call *call) {
    const row_tiles tiles = cut_rows(call->rows, DOT_TILE_ROWS);
    const bool widens = tiles.count > (dtype == FB_F32 ? 4 : 1);
    dots_source source = widens ? WIDEN : IN_PLACE;
    dots_job job = {
        .x = call->x,
        .columns = call->columns,
        .element = dtype == FB_F32 ? sizeof(float) : sizeof(uint16_t),
        .turns = tiles.count,
        .stride = fb_dot_stride(call->rows),
    };
    size_t first_row = 0;
    for (; job.turn < job.turns; job.turn++) {
        size_t tile_rows = tiles.base + (job.turn < tiles.longer);
        dots_tile_fn *tile = dots_tiles[tile_rows - 1][dtype][source];
        for (size_t output = 0; output < call->outputs; output += DOT_TILE_OUTPUTS) {
            job.weights = call->weights + output;
            job.wide = call->wide + output * FB_DOT_COLUMNS;
            job.next = call->next && (widens || dtype != FB_F32) ? call->next + output : NULL;
            job.sums = call->sums + output * job.stride + first_row;
            tile(&job);
        }
        job.x += tile_rows * FB_DOT_COLUMNS;
        first_row += tile_rows;
        source = widens ? WIDENED : IN_PLACE;
    }
}

FB_BY_DTYPE(dots)

#endif

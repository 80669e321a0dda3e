/* Products with weights of 8 and 4 bits (kernels.h, contract C13), for every SIMD instruction set.
 *
 * Integers are taken 32 at a time, a *half*: one vector of a row of weights, 4 neighbouring bytes
 * to each of its 8 sums. Two halves are 64 columns. Of 8 bits they are the first 32 columns and the
 * others; of 4 bits they are the even columns and the odd ones, the lower and the upper halves of
 * the same 32 bytes. x is in the same order (quantize).
 *
 * A *unit* is the halves that have a scale in common: 4, 2 or 1 for groups of 128, 64 or 32. But
 * with 4 bits and groups of 32, two halves hold two groups, the first one in the first four sums:
 * that unit is MIXED, of 2 halves with two scales.
 *
 * The file that includes this one has defined
 *
 *   INT_TILE_ROWS     rows of x of a register tile
 *   INT_VECTORS       vectors of outputs of a tile
 *   INT_PER_VECTOR    outputs in a vector
 *   int_floats        8 floats of each output of a vector
 *   int_sums          8 integer sums of each
 *   int_weights, int_x, int_zeros
 *                     a half of the weights; a half of x; zero points
 *   int_no_floats()   all +0
 *   int_load_weights(BITS, const void *const *weights, byte, ODD, zeros)
 *   int_load_x(BITS, const fb_int_row *x, half)
 *   int_load_zeros(MIXED, const uint8_t *const *zeros, first, second)
 *                     of the groups' numbers, second only if MIXED; zeros may be NULL: 8
 *   int_load_scales(MIXED, const float *const *scales, first, second)
 *   int_in_register(sums)
 *                     keeps compilers from adding in another order, for which they make all the
 *                     products first and keep them in memory
 *   int_begin(BITS, sums, HAS_ZEROS, zeros)
 *                     the integer sums of a unit before its first half; `sums` are those of x
 *   int_start(BITS, begun)
 *                     what int_dot adds to first
 *   int_dot(BITS, sums, weights, x)
 *                     sums + the products
 *   int_end(BITS, begun, sums)
 *                     the integer sums of the unit: if int_start did not take what was begun, it is
 *                     added here
 *   int_x_scales(MIXED, const float *scales)
 *   int_add(sums, scales, x_scales, c)
 *                     fma((float)sums, x_scales * scales, c)
 *   int_fold(ROWS, c, float *sums, stride)
 *                     adds what c [INT_VECTORS][INT_TILE_ROWS] fold to
 */
#ifndef FB_SIMD_INT_DOTS_H
#define FB_SIMD_INT_DOTS_H

#include "simd/tiles.h"

#include <stdbool.h>

enum {
    INT_OUTPUTS = INT_VECTORS * INT_PER_VECTOR,
    INT_HALF = 32,
};

typedef struct int_job {
    const fb_int_row *x; /* the tile's first row */
    const void *weights[INT_OUTPUTS];
    const float *scales[INT_OUTPUTS];
    const uint8_t *zeros[INT_OUTPUTS];
    bool has_zeros;
    unsigned shift;
    size_t columns;
    const void *const *next; /* [INT_OUTPUTS], or NULL */
    size_t turn, turns;      /* this tile fetches for every turns-th unit, from `turn` on */
    float *sums;             /* [INT_OUTPUTS] at this stride */
    size_t stride;
} int_job;

/* Fetches the weights that a unit will read. */
INLINE void int_fetch(const void *const *next, size_t first, size_t bytes) {
    for (size_t output = 0; output < INT_OUTPUTS; output++)
        for (size_t byte = 0; byte < bytes; byte += CACHE_LINE)
            __builtin_prefetch((const char *)next[output] + first + byte, 0, 2);
}

INLINE void int_unit(const int ROWS, const int BITS, const int HALVES, const bool MIXED,
                     const bool HAS_ZEROS, const int_job *job, size_t unit,
                     int_floats c[INT_VECTORS][INT_TILE_ROWS]) {
    const size_t group = MIXED ? 2 * unit : unit;
    const size_t first = group >> job->shift, second = (group + 1) >> job->shift;
    /* In a loop of its own, zero points of MIXED units leave too few registers. */
    const bool has_zeros = BITS == 4 && MIXED ? job->has_zeros : HAS_ZEROS;
    int_zeros zeros[INT_VECTORS];
    int_sums begun[INT_VECTORS][INT_TILE_ROWS], sums[INT_VECTORS][INT_TILE_ROWS];
    UNROLLED
    for (int i = 0; i < INT_VECTORS; i++) {
        zeros[i] = int_load_zeros(MIXED, has_zeros ? job->zeros + i * INT_PER_VECTOR : NULL, first,
                                  second);
        if (has_zeros) {
            UNROLLED
            for (int row = 0; row < ROWS; row++)
                begun[i][ROW_OF(ROWS, row)] =
                    int_begin(BITS, job->x[row].sums[unit], true, zeros[i]);
        } else {
            UNROLLED
            for (int row = 0; row < ROWS; row++)
                begun[i][ROW_OF(ROWS, row)] =
                    int_begin(BITS, job->x[row].sums[unit], false, zeros[i]);
        }
        UNROLLED
        for (int row = 0; row < ROWS; row++)
            sums[i][ROW_OF(ROWS, row)] = int_start(BITS, begun[i][ROW_OF(ROWS, row)]);
    }
    UNROLLED
    for (int h = 0; h < HALVES; h++) {
        const size_t half = unit * (size_t)HALVES + (size_t)h;
        const size_t byte = unit * (size_t)(HALVES * INT_HALF * BITS / 8) +
                            (size_t)((BITS == 8 ? h : h / 2) * INT_HALF);
        int_weights w[INT_VECTORS];
        UNROLLED
        for (int i = 0; i < INT_VECTORS; i++)
            w[i] = int_load_weights(BITS, job->weights + i * INT_PER_VECTOR, byte, h % 2 == 1,
                                    zeros[i]);
        UNROLLED
        for (int row = 0; row < ROWS; row++) {
            int_x x = int_load_x(BITS, &job->x[row], half);
            UNROLLED
            for (int i = 0; i < INT_VECTORS; i++) {
                sums[i][ROW_OF(ROWS, row)] = int_dot(BITS, sums[i][ROW_OF(ROWS, row)], w[i], x);
                int_in_register(sums[i][ROW_OF(ROWS, row)]);
            }
        }
    }
    UNROLLED
    for (int i = 0; i < INT_VECTORS; i++) {
        int_floats scales = int_load_scales(MIXED, job->scales + i * INT_PER_VECTOR, first, second);
        UNROLLED
        for (int row = 0; row < ROWS; row++)
            c[i][ROW_OF(ROWS, row)] = int_add(
                int_end(BITS, begun[i][ROW_OF(ROWS, row)], sums[i][ROW_OF(ROWS, row)]), scales,
                int_x_scales(MIXED, &job->x[row].scales[group]), c[i][ROW_OF(ROWS, row)]);
    }
}

INLINE void int_tile_of(const int ROWS, const int BITS, const int HALVES, const bool MIXED,
                        const bool HAS_ZEROS, const int_job *job) {
    int_floats c[INT_VECTORS][INT_TILE_ROWS];
    UNROLLED
    for (int i = 0; i < INT_VECTORS; i++) {
        UNROLLED
        for (int row = 0; row < ROWS; row++)
            c[i][ROW_OF(ROWS, row)] = int_no_floats();
    }
    const size_t units = job->columns / (size_t)(HALVES * INT_HALF);
    const size_t bytes = (size_t)(HALVES * INT_HALF * BITS / 8);
    size_t fetch = job->next ? job->turn : SIZE_MAX;
    for (size_t unit = 0; unit < units; unit++) {
        if (unit == fetch) {
            int_fetch(job->next, unit * bytes, bytes);
            fetch += job->turns;
        }
        int_unit(ROWS, BITS, HALVES, MIXED, HAS_ZEROS, job, unit, c);
    }
    int_fold(ROWS, c, job->sums, job->stride);
}

INLINE void int_tile(const int ROWS, const int BITS, const int HALVES, const bool MIXED,
                     const int_job *job) {
    if (BITS == 4 && !MIXED && job->has_zeros)
        int_tile_of(ROWS, BITS, HALVES, MIXED, true, job);
    else
        int_tile_of(ROWS, BITS, HALVES, MIXED, false, job);
}

typedef void int_tile_fn(const int_job *job);

#define INT_TILE(ROWS, NAME, BITS, HALVES, MIXED)                                                  \
    static void int_dots_##NAME##_##ROWS(const int_job *job) {                                     \
        int_tile(ROWS, BITS, HALVES, MIXED, job);                                                  \
    }
#define INT_TILES(ROWS)                                                                            \
    INT_TILE(ROWS, w8_128, 8, 4, false)                                                            \
    INT_TILE(ROWS, w8_64, 8, 2, false)                                                             \
    INT_TILE(ROWS, w8_32, 8, 1, false)                                                             \
    INT_TILE(ROWS, w4_128, 4, 4, false)                                                            \
    INT_TILE(ROWS, w4_64, 4, 2, false)                                                             \
    INT_TILE(ROWS, w4_32, 4, 2, true)
#define INT_TILES_OF(NAME)                                                                         \
    { int_dots_##NAME##_1, int_dots_##NAME##_2, int_dots_##NAME##_3, int_dots_##NAME##_4 }

INT_TILES(1)
INT_TILES(2)
INT_TILES(3)
INT_TILES(4)

_Static_assert(INT_TILE_ROWS == 4, "tiles of 1 to 4 rows");

/* [4 bits][group 32, 64, 128][rows - 1] */
static int_tile_fn *const int_tiles[2][3][INT_TILE_ROWS] = {
    {INT_TILES_OF(w8_32), INT_TILES_OF(w8_64), INT_TILES_OF(w8_128)},
    {INT_TILES_OF(w4_32), INT_TILES_OF(w4_64), INT_TILES_OF(w4_128)},
};

static void int_dots(const fb_int_dots_call *call) {
    const row_tiles tiles = cut_rows(call->rows, INT_TILE_ROWS);
    int_tile_fn *const *tile_of_rows =
        int_tiles[call->bits == 4][call->group == 128 ? 2 : call->group / 64];
    size_t first_row = 0;
    for (size_t turn = 0; turn < tiles.count; turn++) {
        size_t tile_rows = tiles.base + (turn < tiles.longer);
        for (size_t output = 0; output < call->outputs; output += INT_OUTPUTS) {
            int_job job = {
                .x = call->x + first_row,
                .has_zeros = call->zero_points,
                .shift = call->scale_shift,
                .columns = call->columns,
                .next = call->next ? call->next + output : NULL,
                .turn = turn,
                .turns = tiles.count,
                .stride = fb_dot_stride(call->rows),
            };
            for (size_t i = 0; i < INT_OUTPUTS; i++) {
                job.weights[i] = call->weights[output + i];
                job.scales[i] = call->scales[output + i];
                job.zeros[i] = call->zero_points ? call->zero_points[output + i] : NULL;
            }
            job.sums = call->sums + output * job.stride + first_row;
            tile_of_rows[tile_rows - 1](&job);
        }
        first_row += tile_rows;
    }
}

#endif

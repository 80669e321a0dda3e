/* What the files of the SIMD instruction sets share about their register tiles. */
#ifndef FB_SIMD_TILES_H
#define FB_SIMD_TILES_H

#include "simd/kernels.h"

#include <stdbool.h>

#define INLINE static inline __attribute__((always_inline))

/* Loops over a tile's rows, columns and lines must go, or its accumulators are no registers; ROLLED
 * ones must stay. */
#ifdef __clang__
#define UNROLLED _Pragma("clang loop unroll(full)")
#define ROLLED   _Pragma("clang loop unroll(disable)")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#define ROLLED   _Pragma("GCC unroll 1")
#endif

enum {
    BLOCK = FB_SEGMENT * 16, /* elements: 16 lines of 16 */
    CACHE_LINE = 64,
    SUM_FLOATS = FB_MAX_ROWS * 128, /* the values kernels have room for so many sums */
};

INLINE size_t block_bytes(fb_dtype dtype) {
    return BLOCK * (dtype == FB_F32 ? sizeof(float) : sizeof(uint16_t));
}

/* What to prefetch while group number `group` is at work. */
INLINE const char *group_after(const void *const *groups, size_t num_groups, size_t group,
                               const void *next) {
    return group + 1 < num_groups ? groups[group + 1] : next;
}

/* Rows of a call, cut evenly into tiles: 16 rows in tiles of at most 6 are 6 + 5 + 5, not 6 + 6 +
 * 4, as a tile of few rows has too few chains to keep the multipliers busy. */
typedef struct row_tiles {
    size_t count, base, longer; /* the first `longer` tiles have base + 1 rows, the others base */
} row_tiles;

INLINE row_tiles cut_rows(size_t rows, size_t most) {
    size_t count = (rows + most - 1) / most;
    return (row_tiles){count, rows / count, rows % count};
}

/* Of the panels left, as many as have room for their sums. */
INLINE size_t panels_at_once(size_t rows, size_t left) {
    size_t most = SUM_FLOATS / FB_PANEL_DIMS / rows;
    return left < most ? left : most;
}

/* The product of a row tile with one block, or with two side by side: for sets whose tiles are
 * functions of their own (products.h). */
typedef struct product_job {
    const float *a;    /* [rows][16], of which `lines` elements are there */
    const float *b[2]; /* each [lines][16] */
    size_t lines;
    const char *next[2]; /* for each, `fetched` cache lines to prefetch */
    size_t fetched;
    float *sums; /* [rows][16 or 32] at stride sums_stride */
    size_t sums_stride;
    bool first;         /* sums = a . b, else sums += a . b */
    const float *scale; /* by which those are multiplied then; NULL: they are not */
} product_job;

typedef void product_tile_fn(const product_job *job);

INLINE void prefetch(const product_job *job, size_t blocks) {
    for (size_t block = 0; block < blocks; block++)
        for (size_t line = 0; line < job->fetched; line++)
            __builtin_prefetch(job->next[block] + line * CACHE_LINE);
}

#endif

/* Register tiles: the definitions that the files of the SIMD instruction sets share. */
#ifndef FB_SIMD_TILES_H
#define FB_SIMD_TILES_H

#include "simd/kernels.h"

#include <stdbool.h>

#define INLINE static inline __attribute__((always_inline))

/* Compilers must unroll the loops over a tile's rows, columns and lines, or they keep the
 * accumulators in memory. They must not unroll ROLLED loops. */
#ifdef __clang__
#define UNROLLED _Pragma("clang loop unroll(full)")
#define ROLLED   _Pragma("clang loop unroll(disable)")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#define ROLLED   _Pragma("GCC unroll 1")
#endif

/* The number of a row in the arrays of a tile of ROWS rows. clang 14 learns too late that the only
 * row is number 0, and would keep its accumulators in memory. */
#define ROW_OF(ROWS, row) ((ROWS) == 1 ? 0 : (row))

enum {
    BLOCK = FB_SEGMENT * 16, /* elements: 16 lines of 16 */
    CACHE_LINE = 64,
    SUM_FLOATS = FB_MAX_ROWS * 128, /* sums for which the values kernels have room */
};

INLINE size_t block_bytes(fb_dtype dtype) {
    return BLOCK * (dtype == FB_F32 ? sizeof(float) : sizeof(uint16_t));
}

/* The memory to prefetch while a kernel works on group number `group`. */
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

/* How many of the panels left a kernel takes at once: as many as have room for their sums. */
INLINE size_t panels_at_once(size_t rows, size_t left) {
    size_t most = SUM_FLOATS / FB_PANEL_DIMS / rows;
    return left < most ? left : most;
}

/* The product of a row tile with one block, or with two blocks side by side. Sets whose tiles are
 * functions of their own use it (products.h). */
typedef struct product_job {
    const float *a;    /* [rows][16], the first `lines` elements of each row are there */
    const float *b[2]; /* each [lines][16] */
    size_t lines;
    const char *next[2]; /* for each, `fetched` cache lines to prefetch */
    size_t fetched;
    float *sums; /* [rows][16 or 32] at stride sums_stride */
    size_t sums_stride;
    bool first;         /* sums = a . b, else sums += a . b */
    const float *scale; /* then sums = *scale * sums; NULL: they stay */
} product_job;

typedef void product_tile_fn(const product_job *job);

INLINE void prefetch(const product_job *job, size_t blocks) {
    for (size_t block = 0; block < blocks; block++)
        for (size_t line = 0; line < job->fetched; line++)
            __builtin_prefetch(job->next[block] + line * CACHE_LINE);
}

#endif

/* What the files of the SIMD instruction sets share about their register tiles. */
#ifndef FB_SIMD_TILES_H
#define FB_SIMD_TILES_H

#include "kernels.h"

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
};

INLINE size_t block_bytes(fb_dtype dtype) {
    return BLOCK * (dtype == FB_F32 ? sizeof(float) : sizeof(uint16_t));
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

#endif

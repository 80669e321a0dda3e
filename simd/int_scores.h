/* Scores of keys of 8 bits (contract C14.3), for the sets whose instructions add integer products
 * by fours. A tile is a few rows and two vectors of keys: those of one group, or of two groups.
 * The sum of a key is a lane of its own, so nothing is folded.
 *
 * The file that includes this one has defined:
 *
 *   SCORE_ROWS        rows of a tile, at most: 4 or 6
 *   SCORE_KEYS        keys of a vector: 8 or 16
 *   score_sums        a vector of 32-bit sums
 *   score_keys        a vector of keys, 4 dimensions of each
 *   score_load(from)  loads one
 *   score_begin(sum)  sums before the first product, from the sum of the row's integers
 *   score_dot(sums, keys, q)
 *                     adds the products with the 4 integers at q
 *   score_store(to, sums, scales, factor)
 *                     to = ((float)sums * scales) * factor
 */
#ifndef FB_SIMD_INT_SCORES_H
#define FB_SIMD_INT_SCORES_H

#include "simd/tiles.h"

enum {
    SCORE_VECTORS = 2,
    GROUP_VECTORS = FB_GROUP_KEYS / SCORE_KEYS,
    SCORE_GROUPS = SCORE_VECTORS / GROUP_VECTORS, /* of a tile */
    QUAD_BYTES = FB_INT_QUAD * FB_GROUP_KEYS,     /* of a group: 4 dimensions of all keys */
    SCALES_BYTES = FB_GROUP_KEYS * sizeof(float),
};

/* Rows of a call, and the vectors of keys that they are multiplied with. */
typedef struct score_tile {
    const int8_t *q; /* of the first row */
    const float *factors;
    const int32_t *sums;
    size_t stride, quads;
    const char *keys[SCORE_VECTORS];
    const float *scales[SCORE_VECTORS];
    const char *next[SCORE_VECTORS]; /* for each line of keys, then their scales, one to prefetch */
    float *s[SCORE_VECTORS];         /* of the first row, at stride FB_SCORE_STRIDE */
} score_tile;

INLINE void score_rows(const int ROWS, const int VECTORS, const score_tile *tile) {
    score_sums acc[SCORE_ROWS][SCORE_VECTORS];
    UNROLLED
    for (int row = 0; row < ROWS; row++)
        UNROLLED for (int i = 0; i < VECTORS; i++) acc[row][i] = score_begin(tile->sums[row]);
    const size_t stride = tile->stride, end = tile->quads * QUAD_BYTES;
    const int8_t *q = tile->q;
    UNROLLED
    for (int i = 0; i < VECTORS; i += GROUP_VECTORS)
        __builtin_prefetch(tile->next[i] + end);
    ROLLED
    for (size_t at = 0; at < end; at += QUAD_BYTES, q += FB_INT_QUAD) {
        score_keys keys[SCORE_VECTORS];
        UNROLLED
        for (int i = 0; i < VECTORS; i++) {
            keys[i] = score_load(tile->keys[i] + at);
            if (i % GROUP_VECTORS == 0)
                __builtin_prefetch(tile->next[i] + at);
        }
        UNROLLED
        for (int row = 0; row < ROWS; row++)
            UNROLLED for (int i = 0; i < VECTORS; i++) acc[row][i] =
                score_dot(acc[row][i], keys[i], q + (size_t)row * stride);
    }
    UNROLLED
    for (int row = 0; row < ROWS; row++)
        UNROLLED for (int i = 0; i < VECTORS; i++) score_store(
            tile->s[i] + row * FB_SCORE_STRIDE, acc[row][i], tile->scales[i], tile->factors[row]);
}

typedef void score_rows_fn(const score_tile *tile);

#define SCORE_TILE(ROWS)                                                                           \
    static void score_##ROWS##x1(const score_tile *tile) {                                         \
        score_rows(ROWS, 1, tile);                                                                 \
    }                                                                                              \
    static void score_##ROWS##x2(const score_tile *tile) {                                         \
        score_rows(ROWS, 2, tile);                                                                 \
    }

SCORE_TILE(1)
SCORE_TILE(2)
SCORE_TILE(3)
SCORE_TILE(4)
#if SCORE_ROWS > 4
SCORE_TILE(5)
SCORE_TILE(6)
#endif

/* [vectors - 1][rows - 1] */
static score_rows_fn *const score_tiles[SCORE_VECTORS][SCORE_ROWS] = {
#if SCORE_ROWS > 4
    {score_1x1, score_2x1, score_3x1, score_4x1, score_5x1, score_6x1},
    {score_1x2, score_2x2, score_3x2, score_4x2, score_5x2, score_6x2},
#else
    {score_1x1, score_2x1, score_3x1, score_4x1},
    {score_1x2, score_2x2, score_3x2, score_4x2},
#endif
};

/* All rows with `groups` groups of a stream, from number `group` on. */
INLINE void score_groups(const fb_int_scores_call *call, row_tiles tiles, size_t stream,
                         size_t group, size_t groups) {
    const void *const *all = call->groups + stream * call->num_groups;
    const size_t bytes = fb_int_keys_bytes(call->head_dim);
    score_tile tile = {
        .q = call->q,
        .factors = call->factors,
        .sums = call->sums,
        .stride = fb_padded_dim(call->head_dim),
        .quads = bytes / QUAD_BYTES,
    };
    const size_t vectors = groups * GROUP_VECTORS;
    for (size_t i = 0; i < vectors; i++) {
        const size_t at = group + i / GROUP_VECTORS, first = i % GROUP_VECTORS * SCORE_KEYS;
        const char *keys = all[at];
        tile.keys[i] = keys + first * FB_INT_QUAD;
        tile.scales[i] = (const float *)(const void *)(keys + bytes) + first;
        tile.s[i] = call->s + stream * call->rows * FB_SCORE_STRIDE + at * FB_GROUP_KEYS + first;
        /* The values kernel has fetched these keys. Their values, whose groups are as large but for
         * padding, lie one after the other. */
        tile.next[i] =
            call->streams > 1 ? keys : (const char *)call->next + at * (bytes + SCALES_BYTES);
    }
    for (size_t t = 0; t < tiles.count; t++) {
        const size_t rows = tiles.base + (t < tiles.longer);
        score_tiles[vectors - 1][rows - 1](&tile);
        tile.q += rows * tile.stride;
        tile.factors += rows;
        tile.sums += rows;
        for (size_t i = 0; i < vectors; i++) {
            tile.s[i] += rows * FB_SCORE_STRIDE;
            tile.next[i] = tile.keys[i]; /* the first tile has fetched for all */
        }
    }
}

static void int_scores(const fb_int_scores_call *call) {
    const row_tiles tiles = cut_rows(call->rows, SCORE_ROWS);
    for (size_t group = 0; group < call->num_groups; group += SCORE_GROUPS) {
        const size_t left = call->num_groups - group;
        for (size_t stream = 0; stream < call->streams; stream++)
            score_groups(call, tiles, stream, group, left < SCORE_GROUPS ? left : SCORE_GROUPS);
    }
}

#endif

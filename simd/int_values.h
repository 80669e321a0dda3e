/* Values of 8 bits (contract C14.4), for the sets with integer products of 4 neighbours. First the
 * weights of all rows are quantised. Then a tile is a few rows and two vectors of dimensions: a
 * group of 16 keys is four products, whose sums are exact, and one multiply-add of floats.
 *
 * The file that includes this one has defined:
 *
 *   VALUE_ROWS        rows of a tile, at most: 4 or 6
 *   VALUE_VECTORS     vectors of a tile, at most: 1, or 2 with 6 rows
 *   VALUE_DIMS        dimensions of a vector: 8 or 16
 *   VALUE_BYTES       of the weights of 4 keys: 4 or 8
 *   value_sums        a vector of 32-bit sums
 *   value_floats      as many floats
 *   value_keys        a vector of values, 4 keys of each dimension
 *   value_load(from)  loads one
 *   value_no_floats() a vector of zeros
 *   value_begin(begin)
 *                     sums before the first product, from what value_weigh has put there, if it has
 *   value_dot(sums, keys, u)
 *                     adds the products with the 4 weights at u
 *   value_add(t, sums, factor)
 *                     fma((float)sums, *factor, t)
 *   value_store(o, alpha, t)
 *                     o = fma(o, *alpha, t)
 *   value_weigh(call, stream, weights)
 *                     quantises the weights of a stream's rows
 */
#ifndef FB_SIMD_INT_VALUES_H
#define FB_SIMD_INT_VALUES_H

#include "simd/int_weights.h"

enum {
    LINE_VECTORS = FB_PANEL_DIMS / VALUE_DIMS, /* of a line: 4 keys of a panel */
    LINE_BYTES = FB_PANEL_DIMS * FB_INT_QUAD,
    PANEL_BYTES = FB_GROUP_KEYS * FB_PANEL_DIMS,
};

/* Rows of a stream, and the vectors of values that they are multiplied with. */
typedef struct value_tile {
    const uint8_t *u;     /* of the first row, at stride TILE_WEIGHTS * VALUE_BYTES / 4 */
    const float *factors; /* of the first row, at stride TILE_GROUPS */
    const uint32_t *begins;
    const float *alpha;
    size_t num_groups;
    const char *values[TILE_GROUPS]; /* the first vector of each group */
    const char *next;                /* memory to prefetch, */
    size_t next_group;               /* and from there to that of the next group */
    float *o;                        /* of the first row */
    size_t stride;
} value_tile;

/* From a panel's first vector to its vector number i: in the same line, or in the next panel. */
#define VECTOR_BYTES(i)                                                                            \
    ((size_t)(i) / LINE_VECTORS * PANEL_BYTES + (size_t)(i) % LINE_VECTORS * VALUE_DIMS * 4)

INLINE void value_rows(const int ROWS, const int VECTORS, const value_tile *tile) {
    value_floats t[VALUE_ROWS][VALUE_VECTORS];
    UNROLLED
    for (int row = 0; row < ROWS; row++)
        UNROLLED for (int i = 0; i < VECTORS; i++) t[row][i] = value_no_floats();
    const uint8_t *u = tile->u;
    const float *factors = tile->factors;
    const uint32_t *begins = tile->begins;
    const char *next = tile->next;
    const size_t end = tile->num_groups, next_group = tile->next_group;
    ROLLED
    for (size_t group = 0; group < end; group++) {
        const char *values = tile->values[group];
        value_sums acc[VALUE_ROWS][VALUE_VECTORS];
        UNROLLED
        for (int row = 0; row < ROWS; row++)
            UNROLLED for (int i = 0; i < VECTORS; i++) acc[row][i] =
                value_begin(begins + row * TILE_GROUPS);
        UNROLLED
        for (size_t line = 0; line < FB_GROUP_KEYS / FB_INT_QUAD; line++) {
            value_keys keys[VALUE_VECTORS];
            UNROLLED
            for (int i = 0; i < VECTORS; i++) {
                keys[i] = value_load(values + line * LINE_BYTES + VECTOR_BYTES(i));
                if (i % LINE_VECTORS == 0)
                    __builtin_prefetch(next + line * LINE_BYTES + VECTOR_BYTES(i));
            }
            UNROLLED
            for (int row = 0; row < ROWS; row++)
                UNROLLED for (int i = 0; i < VECTORS; i++) acc[row][i] = value_dot(
                    acc[row][i], keys[i],
                    u + (size_t)row * FB_TILE_KEYS * VALUE_BYTES / 4 + line * VALUE_BYTES);
        }
        UNROLLED
        for (int row = 0; row < ROWS; row++)
            UNROLLED for (int i = 0; i < VECTORS; i++) t[row][i] =
                value_add(t[row][i], acc[row][i], factors + row * TILE_GROUPS);
        u += FB_GROUP_KEYS * VALUE_BYTES / 4;
        factors++;
        begins++;
        next += next_group;
    }
    UNROLLED
    for (int row = 0; row < ROWS; row++)
        UNROLLED for (int i = 0; i < VECTORS; i++) value_store(
            tile->o + (size_t)row * tile->stride + i * VALUE_DIMS, tile->alpha + row, t[row][i]);
}

typedef void value_rows_fn(const value_tile *tile);

#define VALUE_TILE(ROWS, VECTORS)                                                                  \
    static void value_##ROWS##x##VECTORS(const value_tile *tile) {                                 \
        value_rows(ROWS, VECTORS, tile);                                                           \
    }

VALUE_TILE(1, 1)
VALUE_TILE(2, 1)
VALUE_TILE(3, 1)
VALUE_TILE(4, 1)
#if VALUE_ROWS > 4
VALUE_TILE(5, 1)
VALUE_TILE(6, 1)
#endif
#if VALUE_VECTORS > 1
VALUE_TILE(1, 2)
VALUE_TILE(2, 2)
VALUE_TILE(3, 2)
VALUE_TILE(4, 2)
VALUE_TILE(5, 2)
VALUE_TILE(6, 2)
#endif

/* [vectors - 1][rows - 1] */
static value_rows_fn *const value_tiles[VALUE_VECTORS][VALUE_ROWS] = {
#if VALUE_ROWS > 4
    {value_1x1, value_2x1, value_3x1, value_4x1, value_5x1, value_6x1},
#if VALUE_VECTORS > 1
    {value_1x2, value_2x2, value_3x2, value_4x2, value_5x2, value_6x2},
#endif
#else
    {value_1x1, value_2x1, value_3x1, value_4x1},
#endif
};

/* All rows of a stream with `vectors` vectors from number `first` on. */
INLINE void value_vectors(const fb_values_call *call, size_t stream, row_tiles tiles,
                          const int_weights_of_rows *weights, size_t first, size_t vectors) {
    const size_t num_groups = groups_of(call);
    const size_t at = VECTOR_BYTES(first), bytes = fb_int_values_bytes(call->head_dim);
    value_tile tile = {
        .u = weights->u[0],
        .factors = weights->factors[0],
        .begins = weights->begins[0],
        .alpha = call->alpha + stream * call->rows,
        .num_groups = num_groups,
        .stride = fb_padded_dim(call->head_dim),
    };
    tile.o = call->o + stream * call->rows * tile.stride + first * VALUE_DIMS;
    for (size_t group = 0; group < num_groups; group++)
        tile.values[group] = (const char *)call->groups[stream * num_groups + group] + at;
    const bool fetches = call->streams == 1;
    tile.next = fetches ? (const char *)call->next + at : tile.values[0];
    tile.next_group = fetches ? bytes + FB_GROUP_KEYS * sizeof(float) : 0;
    for (size_t i = 0; i < tiles.count; i++) {
        const size_t rows = tiles.base + (i < tiles.longer);
        value_tiles[vectors - 1][rows - 1](&tile);
        tile.u += rows * sizeof weights->u[0];
        tile.factors += rows * TILE_GROUPS;
        tile.begins += rows * TILE_GROUPS;
        tile.alpha += rows;
        tile.o += rows * tile.stride;
        tile.next = tile.values[0]; /* the first tile has fetched for all */
        tile.next_group = 0;
    }
}

static void int_values(const fb_values_call *call) {
    int_weights_of_rows weights;
    const row_tiles tiles = cut_rows(call->rows, VALUE_ROWS);
    const size_t vectors = fb_padded_dim(call->head_dim) / VALUE_DIMS;
    for (size_t stream = 0; stream < call->streams; stream++) {
        value_weigh(call, stream, &weights);
        for (size_t i = 0; i < vectors; i += VALUE_VECTORS)
            value_vectors(call, stream, tiles, &weights, i,
                          vectors - i < VALUE_VECTORS ? vectors - i : VALUE_VECTORS);
    }
}

#endif

/* Scores and values (kernels.h) of the sets whose register tiles are functions of their own. Blocks
 * are taken in the order in which they lie in memory, and all rows meet one before the next comes.
 *
 * The file that includes this one has defined:
 *
 *   TILE_ROWS    rows of a tile, at most
 *   TILE_BLOCKS  blocks side by side in a tile, at most: 1 or 2
 *   product_tiles[blocks - 1][rows - 1]
 *                the product_tile_fn for so many blocks and rows
 *   widen_bf16, widen_f16
 *   scale_and_add(o, alpha, sums, count)
 *                o = fma(o, alpha, sums) for a multiple of 16 floats
 */
#ifndef FB_SIMD_PRODUCTS_H
#define FB_SIMD_PRODUCTS_H

#include "tiles.h"

/* `lines` lines of a block as floats: where they are, or widened into `wide`, [16][16]. */
INLINE const float *as_floats(fb_dtype dtype, const void *block, size_t lines, float *wide) {
    if (dtype == FB_F32)
        return block;
    (dtype == FB_BF16 ? widen_bf16 : widen_f16)(block, wide, lines * 16);
    return wide;
}

INLINE size_t at_most(size_t limit, size_t count) {
    return count < limit ? count : limit;
}

/* Of a block's cache lines, how many each row tile has to prefetch; rounded up, as the lines behind
 * are the next block's. */
INLINE size_t fetches_per_tile(fb_dtype dtype, row_tiles tiles) {
    return (block_bytes(dtype) / CACHE_LINE + tiles.count - 1) / tiles.count;
}

/* All rows of a call, tile by tile, from the first tile's job on. */
INLINE void multiply_rows(row_tiles tiles, size_t blocks, product_job *job) {
    for (size_t tile = 0; tile < tiles.count; tile++) {
        size_t rows = tiles.base + (tile < tiles.longer);
        product_tiles[blocks - 1][rows - 1](job);
        job->a += rows * FB_SEGMENT;
        job->sums += rows * job->sums_stride;
        for (size_t i = 0; i < blocks; i++)
            job->next[i] += job->fetched * CACHE_LINE;
    }
}

/* Groups are taken TILE_BLOCKS at a time, and so are those to prefetch: `next` twice at the end. */
static void scores(fb_dtype dtype, const float *q, size_t rows, size_t head_dim,
                   const void *const *groups, size_t num_groups, float scale, const void *next,
                   float *s) {
    row_tiles tiles = cut_rows(rows, TILE_ROWS);
    _Alignas(CACHE_LINE) float wide[TILE_BLOCKS][BLOCK];
    product_job job = {.fetched = fetches_per_tile(dtype, tiles), .sums_stride = FB_SCORE_STRIDE};
    for (size_t group = 0; group < num_groups; group += TILE_BLOCKS) {
        size_t blocks = at_most(TILE_BLOCKS, num_groups - group);
        for (size_t block = 0; block * FB_SEGMENT < head_dim; block++) {
            size_t left = head_dim - block * FB_SEGMENT, offset = block * block_bytes(dtype);
            job.a = q + block * FB_ROWS_BLOCK;
            job.lines = at_most(FB_SEGMENT, left);
            for (size_t i = 0; i < blocks; i++) {
                const char *keys = groups[group + i];
                job.b[i] = as_floats(dtype, keys + offset, job.lines, wide[i]);
                job.next[i] =
                    group_after(groups, num_groups, group + TILE_BLOCKS - 1 + i, next) + offset;
            }
            job.sums = s + group * FB_GROUP_KEYS;
            job.first = block == 0;
            job.scale = left <= FB_SEGMENT ? &scale : NULL;
            multiply_rows(tiles, blocks, &job);
        }
    }
}

/* A call of the values kernel, or the panels of one that are computed at a time. */
typedef struct values_call {
    const float *p;
    size_t rows, num_keys;
    const void *const *groups;
    const void *next;
    size_t first_panel, num_panels;
} values_call;

/* sums = p . v,  [rows][num_panels][16] */
INLINE void sum_values(fb_dtype dtype, const values_call *call, float *sums) {
    row_tiles tiles = cut_rows(call->rows, TILE_ROWS);
    size_t num_groups = (call->num_keys + FB_GROUP_KEYS - 1) / FB_GROUP_KEYS;
    _Alignas(CACHE_LINE) float wide[TILE_BLOCKS][BLOCK];
    product_job job = {.fetched = fetches_per_tile(dtype, tiles),
                       .sums_stride = call->num_panels * FB_PANEL_DIMS};
    for (size_t group = 0; group < num_groups; group++) {
        const char *v = call->groups[group];
        const char *next = group_after(call->groups, num_groups, group, call->next);
        job.lines = at_most(FB_GROUP_KEYS, call->num_keys - group * FB_GROUP_KEYS);
        job.first = group == 0;
        for (size_t panel = 0; panel < call->num_panels; panel += TILE_BLOCKS) {
            size_t blocks = at_most(TILE_BLOCKS, call->num_panels - panel);
            job.a = call->p + group * FB_ROWS_BLOCK;
            for (size_t i = 0; i < blocks; i++) {
                size_t offset = (call->first_panel + panel + i) * block_bytes(dtype);
                job.b[i] = as_floats(dtype, v + offset, job.lines, wide[i]);
                job.next[i] = next + offset;
            }
            job.sums = sums + panel * FB_PANEL_DIMS;
            multiply_rows(tiles, blocks, &job);
        }
    }
}

/* o = fma(o, alpha, sums) for the panels of a call; one function for all types. */
static __attribute__((noinline)) void add_sums(const values_call *call, const float *sums,
                                               const float *alpha, size_t o_stride, float *o) {
    size_t count = call->num_panels * FB_PANEL_DIMS;
    o += call->first_panel * FB_PANEL_DIMS;
    for (size_t row = 0; row < call->rows; row++, o += o_stride, sums += count)
        scale_and_add(o, alpha[row], sums, count);
}

static void values(fb_dtype dtype, const float *p, size_t rows, size_t num_keys,
                   const void *const *groups, size_t head_dim, const float *alpha, const void *next,
                   float *o) {
    _Alignas(CACHE_LINE) float sums[SUM_FLOATS];
    size_t panels = fb_padded_dim(head_dim) / FB_PANEL_DIMS;
    values_call call = {p, rows, num_keys, groups, next, 0, 0};
    for (; call.first_panel < panels; call.first_panel += call.num_panels) {
        call.num_panels = panels_at_once(rows, panels - call.first_panel);
        sum_values(dtype, &call, sums);
        add_sums(&call, sums, alpha, panels * FB_PANEL_DIMS, o);
    }
}

#endif

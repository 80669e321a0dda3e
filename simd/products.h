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

#include "simd/tiles.h"

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
 * are the next block's. Of several streams, none. */
INLINE size_t fetches_per_tile(fb_dtype dtype, row_tiles tiles, size_t streams) {
    if (streams > 1)
        return 0;
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

/* A call of the scores kernel. */
typedef struct scores_call {
    row_tiles tiles;
    const float *q;
    size_t rows, head_dim, streams;
    const void *const *groups;
    size_t num_groups;
    const float *scale;
    const void *next;
    float *s;
} scores_call;

/* Block number `block` of `blocks` groups, side by side, in every stream. */
INLINE void scores_blocks(fb_dtype dtype, const scores_call *call, size_t group, size_t blocks,
                          size_t block) {
    _Alignas(CACHE_LINE) float wide[TILE_BLOCKS][BLOCK];
    size_t left = call->head_dim - block * FB_SEGMENT, offset = block * block_bytes(dtype);
    for (size_t stream = 0; stream < call->streams; stream++) {
        const void *const *groups = call->groups + stream * call->num_groups;
        product_job job = {
            .a = call->q + block * FB_ROWS_BLOCK,
            .lines = at_most(FB_SEGMENT, left),
            .fetched = fetches_per_tile(dtype, call->tiles, call->streams),
            .sums = call->s + stream * call->rows * FB_SCORE_STRIDE + group * FB_GROUP_KEYS,
            .sums_stride = FB_SCORE_STRIDE,
            .first = block == 0,
            .scale = left <= FB_SEGMENT ? call->scale : NULL,
        };
        for (size_t i = 0; i < blocks; i++) {
            const char *keys = groups[group + i];
            job.b[i] = as_floats(dtype, keys + offset, job.lines, wide[i]);
            job.next[i] =
                group_after(groups, call->num_groups, group + TILE_BLOCKS - 1 + i, call->next) +
                offset;
        }
        multiply_rows(call->tiles, blocks, &job);
    }
}

/* Groups are taken TILE_BLOCKS at a time, and so are those to prefetch: `next` twice at the end. */
static void scores(fb_dtype dtype, const float *q, size_t rows, size_t head_dim, size_t streams,
                   const void *const *groups, size_t num_groups, float scale, const void *next,
                   float *s) {
    const scores_call call = {
        .tiles = cut_rows(rows, TILE_ROWS),
        .q = q,
        .rows = rows,
        .head_dim = head_dim,
        .streams = streams,
        .groups = groups,
        .num_groups = num_groups,
        .scale = &scale,
        .next = next,
        .s = s,
    };
    for (size_t group = 0; group < num_groups; group += TILE_BLOCKS)
        for (size_t block = 0; block * FB_SEGMENT < head_dim; block++)
            scores_blocks(dtype, &call, group, at_most(TILE_BLOCKS, num_groups - group), block);
}

/* A call of the values kernel, or the panels of one that are computed at a time. */
typedef struct values_call {
    row_tiles tiles;
    const float *p;
    size_t rows, num_keys, streams;
    const void *const *groups;
    size_t num_groups;
    const void *next;
    size_t first_panel, num_panels;
    float *sums; /* [streams][rows][num_panels][16] */
} values_call;

/* Panels number panel .. panel + blocks - 1 of those to compute, of a group in every stream. */
INLINE void values_blocks(fb_dtype dtype, const values_call *call, size_t group, size_t panel,
                          size_t blocks) {
    _Alignas(CACHE_LINE) float wide[TILE_BLOCKS][BLOCK];
    const size_t stride = call->num_panels * FB_PANEL_DIMS;
    for (size_t stream = 0; stream < call->streams; stream++) {
        const void *const *groups = call->groups + stream * call->num_groups;
        const char *v = groups[group];
        const char *next = group_after(groups, call->num_groups, group, call->next);
        product_job job = {
            .a = call->p + group * FB_ROWS_BLOCK + stream * call->rows * FB_SEGMENT,
            .lines = at_most(FB_GROUP_KEYS, call->num_keys - group * FB_GROUP_KEYS),
            .fetched = fetches_per_tile(dtype, call->tiles, call->streams),
            .sums = call->sums + stream * call->rows * stride + panel * FB_PANEL_DIMS,
            .sums_stride = stride,
            .first = group == 0,
        };
        for (size_t i = 0; i < blocks; i++) {
            size_t offset = (call->first_panel + panel + i) * block_bytes(dtype);
            job.b[i] = as_floats(dtype, v + offset, job.lines, wide[i]);
            job.next[i] = next + offset;
        }
        multiply_rows(call->tiles, blocks, &job);
    }
}

/* sums = p . v */
INLINE void sum_values(fb_dtype dtype, const values_call *call) {
    for (size_t group = 0; group < call->num_groups; group++)
        for (size_t panel = 0; panel < call->num_panels; panel += TILE_BLOCKS)
            values_blocks(dtype, call, group, panel,
                          at_most(TILE_BLOCKS, call->num_panels - panel));
}

/* o = fma(o, alpha, sums) for the panels of a call; one function for all types. */
static __attribute__((noinline)) void add_sums(const values_call *call, const float *alpha,
                                               size_t o_stride, float *o) {
    const float *sums = call->sums;
    size_t count = call->num_panels * FB_PANEL_DIMS;
    o += call->first_panel * FB_PANEL_DIMS;
    for (size_t row = 0; row < call->streams * call->rows; row++, o += o_stride, sums += count)
        scale_and_add(o, alpha[row], sums, count);
}

static void values(fb_dtype dtype, const float *p, size_t rows, size_t num_keys, size_t streams,
                   const void *const *groups, size_t head_dim, const float *alpha, const void *next,
                   float *o) {
    _Alignas(CACHE_LINE) float sums[SUM_FLOATS];
    size_t panels = fb_padded_dim(head_dim) / FB_PANEL_DIMS;
    values_call call = {
        .tiles = cut_rows(rows, TILE_ROWS),
        .p = p,
        .rows = rows,
        .num_keys = num_keys,
        .streams = streams,
        .groups = groups,
        .num_groups = (num_keys + FB_GROUP_KEYS - 1) / FB_GROUP_KEYS,
        .next = next,
        .sums = sums,
    };
    for (; call.first_panel < panels; call.first_panel += call.num_panels) {
        call.num_panels = panels_at_once(streams * rows, panels - call.first_panel);
        sum_values(dtype, &call);
        add_sums(&call, alpha, panels * FB_PANEL_DIMS, o);
    }
}

#endif

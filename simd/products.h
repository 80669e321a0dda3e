/* Scores and values (kernels.h) of the sets whose register tiles are functions of their own. They
 * take blocks in the order in which they lie in memory, and multiply all rows with a block before
 * they take the next block.
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

/* How many of a block's cache lines each row tile prefetches. Rounded up: the lines after a block
 * are the next block's. A call of several streams prefetches nothing. */
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

/* A copy of a call of the scores kernel, and how its rows are cut. No tile gets an address inside
 * this copy, or compilers would read all of it again after every tile: `scale` points to the
 * original. */
typedef struct scores_job {
    fb_scores_call call;
    row_tiles tiles;
    const float *scale;
} scores_job;

/* Block number `block` of `blocks` groups, side by side, in every stream. */
INLINE void scores_blocks(fb_dtype dtype, const scores_job *job, size_t group, size_t blocks,
                          size_t block) {
    _Alignas(CACHE_LINE) float wide[TILE_BLOCKS][BLOCK];
    const fb_scores_call *call = &job->call;
    size_t left = call->head_dim - block * FB_SEGMENT, offset = block * block_bytes(dtype);
    for (size_t stream = 0; stream < call->streams; stream++) {
        const void *const *groups = call->groups + stream * call->num_groups;
        product_job product = {
            .a = call->q + block * FB_ROWS_BLOCK,
            .lines = at_most(FB_SEGMENT, left),
            .fetched = fetches_per_tile(dtype, job->tiles, call->streams),
            .sums = call->s + stream * call->rows * FB_SCORE_STRIDE + group * FB_GROUP_KEYS,
            .sums_stride = FB_SCORE_STRIDE,
            .first = block == 0,
            .scale = left <= FB_SEGMENT ? job->scale : NULL,
        };
        for (size_t i = 0; i < blocks; i++) {
            const char *keys = groups[group + i];
            product.b[i] = as_floats(dtype, keys + offset, product.lines, wide[i]);
            product.next[i] =
                group_after(groups, call->num_groups, group + TILE_BLOCKS - 1 + i, call->next) +
                offset;
        }
        multiply_rows(job->tiles, blocks, &product);
    }
}

/* It takes TILE_BLOCKS groups at a time, and prefetches as many: at the end `next` twice. */
static void scores(fb_dtype dtype, const fb_scores_call *call) {
    const scores_job job = {*call, cut_rows(call->rows, TILE_ROWS), &call->scale};
    for (size_t group = 0; group < job.call.num_groups; group += TILE_BLOCKS)
        for (size_t block = 0; block * FB_SEGMENT < job.call.head_dim; block++)
            scores_blocks(dtype, &job, group, at_most(TILE_BLOCKS, job.call.num_groups - group),
                          block);
}

FB_BY_DTYPE(scores)

/* A call of the values kernel, and the panels of it that are computed at a time. */
typedef struct values_job {
    fb_values_call call;
    row_tiles tiles;
    size_t num_groups; /* of a stream */
    size_t first_panel, num_panels;
    float *sums; /* [streams][rows][num_panels][16] */
} values_job;

/* Panels number panel .. panel + blocks - 1 of those to compute, of a group in every stream. */
INLINE void values_blocks(fb_dtype dtype, const values_job *job, size_t group, size_t panel,
                          size_t blocks) {
    _Alignas(CACHE_LINE) float wide[TILE_BLOCKS][BLOCK];
    const fb_values_call *call = &job->call;
    const size_t stride = job->num_panels * FB_PANEL_DIMS;
    for (size_t stream = 0; stream < call->streams; stream++) {
        const void *const *groups = call->groups + stream * job->num_groups;
        const char *v = groups[group];
        const char *next = group_after(groups, job->num_groups, group, call->next);
        product_job product = {
            .a = call->p + group * FB_ROWS_BLOCK + stream * call->rows * FB_SEGMENT,
            .lines = at_most(FB_GROUP_KEYS, call->num_keys - group * FB_GROUP_KEYS),
            .fetched = fetches_per_tile(dtype, job->tiles, call->streams),
            .sums = job->sums + stream * call->rows * stride + panel * FB_PANEL_DIMS,
            .sums_stride = stride,
            .first = group == 0,
        };
        for (size_t i = 0; i < blocks; i++) {
            size_t offset = (job->first_panel + panel + i) * block_bytes(dtype);
            product.b[i] = as_floats(dtype, v + offset, product.lines, wide[i]);
            product.next[i] = next + offset;
        }
        multiply_rows(job->tiles, blocks, &product);
    }
}

/* sums = p . v */
INLINE void sum_values(fb_dtype dtype, const values_job *job) {
    for (size_t group = 0; group < job->num_groups; group++)
        for (size_t panel = 0; panel < job->num_panels; panel += TILE_BLOCKS)
            values_blocks(dtype, job, group, panel, at_most(TILE_BLOCKS, job->num_panels - panel));
}

/* o = fma(o, alpha, sums) for the panels of a job; one function for all types. */
static __attribute__((noinline)) void add_sums(const values_job *job) {
    const fb_values_call *call = &job->call;
    const float *sums = job->sums;
    size_t count = job->num_panels * FB_PANEL_DIMS, stride = fb_padded_dim(call->head_dim);
    float *o = call->o + job->first_panel * FB_PANEL_DIMS;
    for (size_t row = 0; row < call->streams * call->rows; row++, o += stride, sums += count)
        scale_and_add(o, call->alpha[row], sums, count);
}

static void values(fb_dtype dtype, const fb_values_call *call) {
    _Alignas(CACHE_LINE) float sums[SUM_FLOATS];
    size_t panels = fb_padded_dim(call->head_dim) / FB_PANEL_DIMS;
    values_job job = {
        .call = *call,
        .tiles = cut_rows(call->rows, TILE_ROWS),
        .num_groups = (call->num_keys + FB_GROUP_KEYS - 1) / FB_GROUP_KEYS,
        .sums = sums,
    };
    for (; job.first_panel < panels; job.first_panel += job.num_panels) {
        job.num_panels = panels_at_once(call->streams * call->rows, panels - job.first_panel);
        sum_values(dtype, &job);
        const values_job summed = job; /* no address inside `job` leaves, as above */
        add_sums(&summed);
    }
}

FB_BY_DTYPE(values)

#endif

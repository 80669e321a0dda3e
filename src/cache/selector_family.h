/* Shared by the selectors of this folder: how each is made, how they read queries and keys, and the
 * statistics of keys that they keep. */
#ifndef FB_CACHE_SELECTOR_FAMILY_H
#define FB_CACHE_SELECTOR_FAMILY_H

#include <flashblock/experimental/selector.h>

#include <stddef.h>
#include <stdint.h>

/* Makes one selector. The options have been checked; `state` is freed by ops->destroy. */
typedef fb_status fb_selector_maker(const fb_selector_options *options, fb_selector_ops *ops,
                                    void **state);

fb_selector_maker fb_make_sink_window, fb_make_given, fb_make_quest, fb_make_moba,
    fb_make_multipole, fb_make_sparsed, fb_make_mage, fb_make_bfla, fb_make_ba_att;

/* --- numbers ---------------------------------------------------------------------------------- */

/* exp(x) of base/exp.h for x <= 0 and NaN; 0 below -708. */
double fb_exp_weight(double x);

/* The `count` blocks of the largest scores, best first; ties: the lower index; NaN is -inf. */
void fb_order_blocks(const double *scores, size_t num_blocks, size_t *order, size_t count);

/* Ascending. */
void fb_sort_blocks(size_t *blocks, size_t count);

/* Turns scores into softmax probabilities, in place. All -inf gives all 0. */
void fb_softmax_double(double *scores, size_t count);

/* --- queries and keys ------------------------------------------------------------------------- */

/* The sizes of one call. */
typedef struct fb_selector_shape {
    size_t num_keys, block_keys, num_blocks; /* of the context */
    size_t num_queries, num_heads, num_kv_heads, head_dim;
    size_t group; /* query heads that share a KV head */
    double scale;
} fb_selector_shape;

fb_selector_shape fb_selector_shape_of(const fb_selector_input *input, size_t block_keys);

/* Keys of a block. */
static inline size_t fb_block_size_of(const fb_selector_shape *shape, size_t block) {
    size_t begin = block * shape->block_keys, rest = shape->num_keys - begin;
    return rest < shape->block_keys ? rest : shape->block_keys;
}

/* The query vector of a head: head_dim floats. */
static inline const float *fb_query_of(const fb_queries *queries, size_t query, size_t head) {
    return queries->q + (ptrdiff_t)query * queries->token_stride +
           (ptrdiff_t)head * queries->head_stride;
}

/* The mean of a head's queries: mean [head_dim]. */
void fb_mean_query(const fb_selector_input *input, size_t head, double *mean);

/* Keys first .. first + count - 1, count <= 16, first a multiple of 16: tile [head_dim][16], the
 * other columns 0. Values likewise, but rows [16][head_dim]. */
enum { FB_TILE_LANES = 16 };
void fb_read_key_tile(const fb_kv *kv, size_t head, size_t first, size_t count, double *tile);
void fb_read_value_rows(const fb_kv *kv, size_t head, size_t first, size_t count, double *rows);

/* dots[lane] = sum over d of vector[d] * tile[d][lane], in order of d. */
void fb_tile_dots(const double *vector, const double *tile, size_t head_dim, double *dots);

/* --- exact attention mass --------------------------------------------------------------------- */

/* For each head and key block from first_block on: the softmax probability that the queries give to
 * the block's keys, summed over the queries, where the softmax is over the keys from first_block's
 * first on.
 *   masses  [num_heads, num_blocks]; blocks below first_block are left as they are */
fb_status fb_block_masses(const fb_selector_input *input, const fb_selector_shape *shape,
                          size_t first_block, double scale, double *masses);

/* --- statistics of key blocks ----------------------------------------------------------------- */

typedef enum fb_stats_kind {
    FB_STATS_BOUNDS,  /* smallest and largest value of each dimension */
    FB_STATS_MOMENTS, /* sums of values and of squares */
} fb_stats_kind;

/* Two vectors for each key block of one layer. Folded in as the context grows: a block's keys are
 * taken in order, so that growing by any steps gives the bits of starting anew. */
typedef struct fb_block_stats {
    uint64_t history;
    size_t num_keys; /* folded in so far */
    size_t num_kv_heads, head_dim;
    size_t capacity; /* blocks */
    double *values;  /* [blocks, num_kv_heads, 2, head_dim] */
} fb_block_stats;

/* Makes `stats` those of the input's context. */
fb_status fb_block_stats_update(fb_block_stats *stats, fb_stats_kind kind,
                                const fb_selector_input *input, const fb_selector_shape *shape);

static inline const double *fb_block_stats_of(const fb_block_stats *stats, size_t block,
                                              size_t kv_head) {
    return stats->values + (block * stats->num_kv_heads + kv_head) * 2 * stats->head_dim;
}

/* A selector that keeps the options and statistics of every layer, and nothing else. */
typedef struct fb_stats_selector {
    fb_selector_options options;
    fb_block_stats *layers; /* [options.num_layers] */
} fb_stats_selector;

fb_status fb_stats_selector_create(const fb_selector_options *options, fb_stats_selector **created);
void fb_stats_selector_reset(void *state);
void fb_stats_selector_destroy(void *state);

/* --- a selection that is kept ----------------------------------------------------------------- */

/* The selection that one layer keeps from one step to the next, and its context. */
typedef struct fb_kept_selection {
    fb_selection selection; /* no lists: nothing is kept */
    uint64_t history;
    size_t block;
    double density;
} fb_kept_selection;

/* Whether the kept selection is of this query block, context, density and number of lists. */
bool fb_kept_is_of(const fb_kept_selection *kept, const fb_selector_input *input, size_t num_lists);

/* Keeps a copy. */
fb_status fb_keep_selection(fb_kept_selection *kept, const fb_selector_input *input,
                            const fb_selection *selection);

typedef struct fb_keeping_selector {
    fb_selector_options options;
    fb_kept_selection *layers; /* [options.num_layers] */
} fb_keeping_selector;

fb_status fb_keeping_selector_create(const fb_selector_options *options,
                                     fb_keeping_selector **created);
void fb_keeping_selector_reset(void *state);
void fb_keeping_selector_destroy(void *state);

#endif

/* The store of parts, as the ways of fb_block_attend use it: A_out and L_out of the paper,
 * residuals, the parts of single heads. They differ in their *origin*, which a cache notes for
 * every head of every layer. */
#ifndef FB_CACHE_PART_CACHE_H
#define FB_CACHE_PART_CACHE_H

#include <flashblock/reuse.h>

#include <stdint.h>

typedef enum fb_part_kind {
    FB_PART_NONE = 0,
    FB_PART_EXTERNAL, /* over all committed tokens */
    FB_PART_RESIDUAL, /* over the committed tokens that a selection leaves out */
    FB_PART_OF_HEADS, /* of single heads, over the views that the caller gives */
} fb_part_kind;

/* The keys that a part was computed from. */
typedef struct fb_part_origin {
    fb_part_kind kind;
    uint64_t state;     /* the epoch of the KV cache; FB_PART_OF_HEADS: the caller's context */
    uint64_t selection; /* FB_PART_RESIDUAL: its fb_selection_id */
    size_t rows;        /* how many were computed */
    size_t tokens;      /* how many keys there were to attend to: for messages */
} fb_part_origin;

/* FB_ERROR_ARGUMENT unless the cache has this layer, and room for parts of these queries. */
fb_status fb_part_cache_check(const fb_part_cache *cache, size_t layer, const fb_queries *queries);

/* FB_ERROR_STALE unless the heads of `layer` hold parts of this origin, of as many rows or more.
 * Heads that are true in `except` [num_heads] are not looked at; NULL: all are. */
fb_status fb_part_cache_expect(const fb_part_cache *cache, size_t layer, const bool *except,
                               const fb_part_origin *origin);

/* Notes the origin of the parts that heads hold now: of those that are true in `heads`, or with
 * NULL of all. */
void fb_part_cache_note(fb_part_cache *cache, size_t layer, const bool *heads,
                        const fb_part_origin *origin);

/* The memory of a layer: rows of [block_size, num_heads, head_dim]. */
fb_part fb_part_cache_slot(const fb_part_cache *cache, size_t layer);

/* Whether rows come with their query and mean key, see fb_part_cache_enable_correction. */
bool fb_part_cache_corrects(const fb_part_cache *cache);

/* The queries that the slot's rows were computed for, shaped as its outputs; NULL unless the cache
 * corrects. */
float *fb_part_cache_queries(const fb_part_cache *cache, size_t layer);

#endif

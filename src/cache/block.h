/* The ways of fb_block_attend, and the functions that they share. fb_block_attend has read the
 * call, so that all of its members are there, and has found no contradiction. */
#ifndef FB_CACHE_BLOCK_H
#define FB_CACHE_BLOCK_H

#include <flashblock/experimental/head_reuse.h>
#include <flashblock/experimental/sparse.h>
#include <flashblock/reuse.h>

/* Every committed key: block_plain.c. */
fb_status fb_block_attend_plain(const fb_block_call *call, const fb_part *result);

/* The key blocks of call->selection: block_selected.c. Their residual is the cache's, if there is
 * one, or else what `approximate` writes, if that is not NULL. */
typedef fb_status fb_approximate_fn(void *user, const fb_part *residual);
fb_status fb_block_attend_selected(const fb_block_call *call, fb_approximate_fn *approximate,
                                   void *user, const fb_part *result);

/* The key blocks that the selector of call->sparse chooses: sparse.c. */
fb_status fb_block_attend_sparse(const fb_block_call *call, const fb_part *result);

/* Views of each head's, call->heads: block_heads.c. */
fb_status fb_block_attend_heads(const fb_block_call *call, const fb_part *result);

/* --- shared ----------------------------------------------------------------------------------- */

/* The keys and values of a call's layer: committed tokens, then the block's. FB_ERROR_ARGUMENT
 * unless the block is there. */
typedef struct fb_block_keys {
    fb_kv kv;
    size_t length; /* committed tokens */
} fb_block_keys;

fb_status fb_block_keys_of(const fb_block_call *call, fb_block_keys *keys);

/* The part over tokens begin .. end - 1. */
fb_status fb_block_attend_range(const fb_queries *queries, const fb_kv *kv, size_t begin,
                                size_t end, float scale, const fb_part *part);

/* `count` dense parts for the queries, without mean keys, in one piece of scratch memory, which the
 * caller releases. */
fb_status fb_block_scratch(const fb_queries *queries, size_t count, fb_part *parts, void **memory);

#endif

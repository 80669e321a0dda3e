/* What the ways of fb_block_attend share: the keys that a call is about, the part over a range of
 * them, and room for parts. */
#ifndef FB_CACHE_BLOCK_KEYS_H
#define FB_CACHE_BLOCK_KEYS_H

#include <flashblock/reuse.h>

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

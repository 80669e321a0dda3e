/* The KV cache of one sequence: keys (with their positions already applied) and values of every
 * layer. It grows by committed blocks.
 *
 * Tokens 0 .. length-1 are *committed*: the block-external context. Writes at positions from
 * `length` on are the *current block*: a denoising step writes its keys and values there, the
 * next step overwrites them, and only fb_kv_cache_commit makes them history. (The paper's engine
 * does the same: JetEngine, ModelRunner and BlockManager.)
 *
 * Every change of committed content (commit, truncate, a write below `length`) gives the cache a
 * new *epoch*: parts computed before it are stale afterwards, see reuse.h.
 *
 * Layout: pages of 256 tokens, cut into groups of 16 tokens. A page holds keys as
 * [kv_head][group][head_dim][16 tokens] and values as
 * [kv_head][group][head_dim / 16][16 tokens][16], the last 16 dimensions padded with zeros. So
 * attention reads whole cache lines in order, and no step transposes anything.
 *
 * FB_INT8: a key of one KV head is head_dim integers of 8 bits and a float32 scale, and so is a
 * value. Queries are rounded to 8 bits, too, and scores are exact sums of integers (contract C14).
 * Keys lie as [kv_head][group][head_dim / 4][16 tokens][4 dimensions]; behind each group are its 16
 * scales. So a key of 128 dimensions takes 132 bytes, where bf16 takes 256.
 *
 * Threads: writes need the cache to themselves; reads may be concurrent. A write
 * (fb_kv_cache_write, _commit, _truncate) during another one is FB_ERROR_ARGUMENT.
 */
#ifndef FLASHBLOCK_KV_CACHE_H
#define FLASHBLOCK_KV_CACHE_H

#include <flashblock/attention.h>
#include <flashblock/status.h>
#include <flashblock/types.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fb_kv_cache fb_kv_cache;

/* The struct never grows. */
typedef struct fb_kv_cache_config {
    size_t num_layers, num_kv_heads, head_dim; /* each at least 1 */
    fb_dtype dtype; /* how keys and values are stored: any, FB_INT8 too */
} fb_kv_cache_config;

/* The inverse of fb_dtype_name for the types that a KV cache stores: "f32", "bf16", "f16", "int8".
 * FB_ERROR_ARGUMENT for any other name. */
FB_API fb_status fb_kv_dtype_parse(const char *name, fb_dtype *dtype);

/* Bytes that attention reads for one key, or one value, of one KV head: head_dim elements, with
 * FB_INT8 and their scale. 0 for a dtype that a KV cache cannot have. */
FB_API size_t fb_kv_row_bytes(fb_dtype dtype, size_t head_dim);

/* An empty cache. Pages are allocated as tokens are written. The caller owns *cache. */
FB_API fb_status fb_kv_cache_create(const fb_kv_cache_config *config, fb_kv_cache **cache);

/* NULL is allowed. */
FB_API void fb_kv_cache_destroy(fb_kv_cache *cache);

/* Owned by the cache. */
FB_API const fb_kv_cache_config *fb_kv_cache_config_of(const fb_kv_cache *cache);

/* Writes the keys and values of one layer at positions first .. first + num_tokens - 1:
 *   k, v  [num_tokens, num_kv_heads, head_dim] float32, dense; rounded to the cache's dtype
 * (contract C1.4; FB_INT8: C14.1).
 * `first` may be at most the number of tokens that this layer already holds (no holes). */
FB_API fb_status fb_kv_cache_write(fb_kv_cache *cache, size_t layer, size_t first,
                                   size_t num_tokens, const float *k, const float *v);

/* Makes the next num_tokens positions committed. Every layer must have been written up to there. */
FB_API fb_status fb_kv_cache_commit(fb_kv_cache *cache, size_t num_tokens);

/* Forgets committed tokens from `length` on, and the current block. */
FB_API fb_status fb_kv_cache_truncate(fb_kv_cache *cache, size_t length);

/* Committed tokens; the epoch, a number from 1 on that no other state of any KV cache of the
 * process has; bytes of all pages. */
FB_API size_t fb_kv_cache_length(const fb_kv_cache *cache);
FB_API uint64_t fb_kv_cache_epoch(const fb_kv_cache *cache);
FB_API size_t fb_kv_cache_bytes(const fb_kv_cache *cache);

/* A number, unique in the process. It stays the same while the cache only grows, and changes with
 * every other change of committed content (truncate, a write below `length`). So of two states with
 * the same history, the shorter is the beginning of the longer, and what was derived from its
 * tokens still holds. */
FB_API uint64_t fb_kv_cache_history(const fb_kv_cache *cache);

/* The keys and values of one layer as fb_attend takes them; kv->num_tokens counts the current
 * block too. Valid until the next write, truncate or destroy. */
FB_API fb_status fb_kv_cache_layer(const fb_kv_cache *cache, size_t layer, fb_kv *kv);

/* Copies stored keys and values back, widened (FB_INT8: each integer times its scale, rounded): k,
 * v [num_tokens, num_kv_heads, head_dim]. Either may be NULL. */
FB_API fb_status fb_kv_cache_read(const fb_kv_cache *cache, size_t layer, size_t first,
                                  size_t num_tokens, float *k, float *v);

#ifdef __cplusplus
}
#endif

#endif

/* The KV cache of causal video diffusion: the first frames of the clip (the *sink*) and a window of
 * the latest ones, made block by block, a block being a few frames.
 *
 *     fb_video_cache_begin   where the block of the coming pass is; evicts what no longer fits
 *     fb_video_cache_write   keys and values of the block, layer by layer
 *     fb_video_cache_views   what its queries see: block-external and block-internal keys
 *
 * Every pass over a block, each denoising step and at the end the pass over the clean frames,
 * writes its keys and values over those of the pass before, so that those of the last pass stay.
 * The paper's code (CausalWanSelfAttention, CausalWanModel._apply_cache_updates) does the same.
 *
 * Tokens have logical places 0 .. held-1: sink, then window, oldest first. A block stays where it
 * was written. Evicting frames only shortens the list of pieces, so a view is a list of token
 * ranges and nothing is ever copied. Blocks start at multiples of 64 tokens in memory.
 *
 * A block may be computed again, the last one or an earlier one that is still in the window.
 *
 * FB_COMPAT_RELEASED follows the paper's code where the two differ:
 *   - a sink longer than a block: until the sink is full, its empty places are attended as keys and
 *     values of zero, and the last keys of that list count as block-internal instead of the block;
 *     only the first pass over a block writes to the sink, which so keeps that pass's noisy keys;
 *   - no sink: nothing is block-external, FlashBlock is off.
 * FB_COMPAT_PAPER attends only to tokens that are held, and every pass rewrites the block wherever
 * it is.
 *
 * Threads: begin, write and reset need the cache to themselves; reads may be concurrent.
 */
#ifndef FLASHBLOCK_EXPERIMENTAL_VIDEO_CACHE_H
#define FLASHBLOCK_EXPERIMENTAL_VIDEO_CACHE_H

#include <flashblock/attention.h>
#include <flashblock/reuse.h>
#include <flashblock/status.h>
#include <flashblock/types.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fb_video_cache fb_video_cache;

typedef struct fb_video_cache_config {
    size_t num_layers, num_heads, head_dim; /* each at least 1 */
    size_t frame_tokens;                    /* tokens of a frame */
    size_t block_frames;                    /* frames of a block, at most */
    size_t sink_frames;                     /* may be 0 */
    size_t window_frames;   /* frames that the cache holds, sink and block included: at least
                               sink_frames + block_frames (the paper's local_attn_size) */
    size_t attended_frames; /* frames that a block sees, sink and itself included; 0: all that are
                               held (the paper's max_attention_size, in frames) */
    fb_dtype dtype;         /* how keys and values are stored */
    fb_compat compat;
} fb_video_cache_config;

/* An empty cache. Memory is taken as frames are written. The caller owns *cache. */
FB_API fb_status fb_video_cache_create(const fb_video_cache_config *config, fb_video_cache **cache);
FB_API void fb_video_cache_destroy(fb_video_cache *cache); /* NULL is allowed */
FB_API const fb_video_cache_config *fb_video_cache_config_of(const fb_video_cache *cache);

/* Forgets the clip. The memory stays. */
FB_API void fb_video_cache_reset(fb_video_cache *cache);

/* How fb_video_cache_begin placed a block; numbers are tokens. */
typedef struct fb_video_placement {
    bool rolled;              /* the oldest tokens after the sink were evicted to make room */
    bool recomputes;          /* the cache holds an earlier pass over this block; false for the
                                 first block of a clip, which starts at token 0 */
    size_t end_before, end;   /* tokens of the clip so far, before and now */
    size_t held_before, held; /* tokens in the cache */
    size_t begin_at, end_at;  /* the block's logical places */
    size_t write_from;        /* where writing begins; >= end_at: nothing is written */
    size_t evicted;           /* if it rolled */
    size_t kept_after_sink;   /* if it rolled: tokens after the sink that were not evicted */
} fb_video_placement;

/* The coming pass is over frames first_frame .. first_frame + num_frames - 1: the next ones of the
 * clip, or frames that were computed before and are still held. */
FB_API fb_status fb_video_cache_begin(fb_video_cache *cache, size_t first_frame, size_t num_frames);

/* Of the last fb_video_cache_begin. */
FB_API const fb_video_placement *fb_video_cache_placement(const fb_video_cache *cache);

/* A number that stands for the block-external tokens of the current block: parts that were computed
 * under another number are stale. Passes over the same block share it. 0 before the first
 * fb_video_cache_begin, never 0 after it. */
FB_API uint64_t fb_video_cache_context(const fb_video_cache *cache);

/* Whether the current block has block-external keys, whose part can be reused. */
FB_API bool fb_video_cache_has_history(const fb_video_cache *cache);

/* Keys of other blocks, and of itself, that a query of the current block sees. */
FB_API size_t fb_video_cache_num_external(const fb_video_cache *cache);
FB_API size_t fb_video_cache_num_internal(const fb_video_cache *cache);

/* Keys (with their positions applied) and values of the current block in one layer:
 *   k, v  [num_frames * frame_tokens, num_heads, head_dim] float32, dense */
FB_API fb_status fb_video_cache_write(fb_video_cache *cache, size_t layer, const float *k,
                                      const float *v);

/* The keys that the current block sees in one layer, head by head. Each head is a KV of its own:
 *   kvs, external, internal  [num_heads], filled in; the views point into kvs and the cache
 * Valid until the next begin, write, reset or destroy. */
FB_API fb_status fb_video_cache_views(const fb_video_cache *cache, size_t layer, fb_kv *kvs,
                                      fb_view *external, fb_view *internal);

/* Tokens that are held, and their keys and values in logical order, widened:
 *   k, v  [fb_video_cache_held, num_heads, head_dim] */
FB_API size_t fb_video_cache_held(const fb_video_cache *cache);
FB_API fb_status fb_video_cache_read(const fb_video_cache *cache, size_t layer, float *k, float *v);

#ifdef __cplusplus
}
#endif

#endif

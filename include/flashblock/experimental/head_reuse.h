/* Head-wise reuse: at each step some heads of a layer compute their block-external part anew and
 * keep it, the others merge the one that they kept. One call does a layer; a head that reuses reads
 * no external key. Which heads refresh at which step is what calibration.h finds out.
 *
 * A head that refreshes is bitwise dense attention over its external, then its internal keys.
 */
#ifndef FLASHBLOCK_EXPERIMENTAL_HEAD_REUSE_H
#define FLASHBLOCK_EXPERIMENTAL_HEAD_REUSE_H

#include <flashblock/attention.h>
#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a block's queries see: for each KV head a view of its own, over a fb_kv of one head.
 * fb_video_cache_views fills this in; fb_kv_heads makes one head of any other fb_kv. */
typedef struct fb_head_views {
    const fb_view *external, *internal; /* [num_kv_heads] */
    size_t num_kv_heads;
} fb_head_views;

/* The block-external parts that the heads of each layer keep. */
typedef struct fb_head_parts fb_head_parts;

/* For blocks of up to `rows` tokens. Caller owns *parts. */
FB_API fb_status fb_head_parts_create(size_t num_layers, size_t rows, size_t num_heads,
                                      size_t head_dim, fb_head_parts **parts);
FB_API void fb_head_parts_destroy(fb_head_parts *parts); /* NULL is allowed */

/* Makes every part stale. */
FB_API void fb_head_parts_invalidate(fb_head_parts *parts);

/* One layer's attention of a block at one step.
 *
 *   parts     where external parts are kept; NULL: all heads refresh, nothing is kept
 *   layer     below the num_layers of `parts`
 *   context   what is external to the block, as a number (fb_video_cache_context); at least 1
 *   queries   q [rows, num_heads, head_dim], rows at most those of `parts`
 *   views     the block's external and internal keys; query head h sees views
 *             h / (num_heads / num_kv_heads)
 *   refresh   [num_heads], true: the head refreshes, false: it reuses; NULL: all
 *             refresh
 *   scale     0 means 1/sqrt(head_dim)
 *   internal  NULL, or where the internal parts of all heads are to be written, too
 *   result    merge(external part, internal part) of all heads
 *
 * FB_ERROR_STALE when a head is to reuse a part that was kept in another context, or for fewer
 * rows. */
FB_API fb_status fb_head_attend(fb_head_parts *parts, size_t layer, uint64_t context,
                                const fb_queries *queries, const fb_head_views *views,
                                const bool *refresh, float scale, const fb_part *internal,
                                const fb_part *result);

/* What the heads of a layer hold, stale or not: out [rows, num_heads, head_dim], lse [rows,
 * num_heads], by strides. It may be written to. */
FB_API fb_status fb_head_parts_layer(fb_head_parts *parts, size_t layer, fb_part *part);

#ifdef __cplusplus
}
#endif

#endif

/* Head-wise reuse: at each step some heads of a layer compute their block-external part anew and
 * keep it, and the others merge the part that they kept. One call does a layer. A head that reuses
 * reads no external key. calibration.h finds out which heads refresh at which step.
 *
 * The result of a head that refreshes is bitwise dense attention over its external keys, then its
 * internal keys.
 */
#ifndef FLASHBLOCK_EXPERIMENTAL_HEAD_REUSE_H
#define FLASHBLOCK_EXPERIMENTAL_HEAD_REUSE_H

#include <flashblock/attention.h>
#include <flashblock/reuse.h>
#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The keys that the heads of a block see, and what each head does: fb_block_call.heads.
 *
 *   action                context and parts   refresh      the external part of a head is
 *   FB_REFRESH_ONLY       not looked at       NULL         computed
 *   FB_REFRESH_AND_STORE  needed              NULL         computed and kept
 *   FB_REUSE              needed              NULL         taken from `parts`
 *   FB_REFRESH_HEADS      needed              [num_heads]  computed and kept where refresh is true,
 *                                                          else taken from `parts`
 *
 * FB_ERROR_STALE when a head is to reuse a part that was kept in another context, or for fewer
 * rows. */
typedef struct fb_block_heads {
    /* For each KV head a view of its own, over a fb_kv of one head: query head h sees views
     * h / (num_heads / num_kv_heads). fb_video_cache_views fills this in; fb_kv_heads makes one
     * head of any other fb_kv. */
    const fb_view *external, *internal; /* [num_kv_heads] */
    size_t num_kv_heads;
    uint64_t context;             /* a number, at least 1, that stands for the external keys: parts
                                     of another context are stale (fb_video_cache_context) */
    const bool *refresh;          /* [num_heads] */
    const fb_part *internal_part; /* where the internal parts of all heads are written, too; or
                                     NULL */
} fb_block_heads;

/* The slot of `layer`, stale or not: out [block_size, num_heads, head_dim], lse
 * [block_size, num_heads]. It may be written to. */
FB_API fb_status fb_part_cache_layer(fb_part_cache *cache, size_t layer, fb_part *part);

#ifdef __cplusplus
}
#endif

#endif

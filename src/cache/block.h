/* The ways of fb_block_attend. fb_block_attend has read the call, so that all of its members are
 * there, and has found no contradiction. */
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

#endif

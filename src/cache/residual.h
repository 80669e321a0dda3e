/* Where the residual of a sparse step comes from: the cache, or a function that computes it. */
#ifndef FB_CACHE_RESIDUAL_H
#define FB_CACHE_RESIDUAL_H

#include <flashblock/experimental/sparse.h>

/* At most one of them; {0} is no residual. */
typedef struct fb_residual_source {
    fb_residual_cache *cache;
    fb_status (*compute)(void *context, const fb_part *residual);
    void *context;
} fb_residual_source;

/* fb_sparse_attend with any of these sources. */
fb_status fb_sparse_attend_with(const fb_queries *queries, const fb_kv_cache *kv, size_t layer,
                                const fb_selection *selection, fb_reuse_action action,
                                const fb_residual_source *source, float scale,
                                const fb_part *result);

#endif

/* A_out and L_out, which FlashBlock keeps, and the rule that says when they are computed anew. */
#include "base/error.h"
#include "base/memory.h"
#include "cache/reference_cache.h"

#include <string.h>

/* The first step of a block must refresh: the queries and the context are new. The commit refreshes
 * because its keys and values stay. Between them each accepted token changes the queries, and so
 * their attention to the context; below tau such changes the kept part is still used. A part that
 * no later step could use is not kept. */
fb_reuse_action fb_reuse_decide_reference(const fb_reference_cache *cache,
                                          const fb_reference_step *step) {
    if (cache->tau == 0)
        return FB_REFRESH_ONLY;
    if (step->number > 0 && !step->commit && cache->dirty < cache->tau)
        return FB_REUSE;
    bool last = step->commit || step->number + 1 >= step->limit || step->masked <= 1 ||
                step->masked <= step->budget;
    return last ? FB_REFRESH_ONLY : FB_REFRESH_AND_STORE;
}

static fb_status attend_all(const fb_queries *queries, const fb_kv *kv, double scale, double *out,
                            double *lse) {
    const fb_range all = {0, kv->num_tokens};
    const fb_view view = {kv, &all, 1};
    return fb_attend_reference(queries, &view, NULL, scale, out, lse);
}

fb_status fb_block_attend_reference(fb_reference_cache *cache, fb_reuse_action action,
                                    const fb_queries *queries, const fb_kv *context,
                                    const fb_kv *block, double scale, double *out, double *lse) {
    size_t rows = queries->num_queries * queries->num_heads, values = rows * queries->head_dim;
    double *memory = NULL;
    FB_TRY(fb_alloc(2 * (values + rows), sizeof *memory, "reference parts", &memory));
    double *a_out = memory, *l_out = a_out + values, *a_in = l_out + rows, *l_in = a_in + values;

    fb_status status = FB_OK;
    if (action == FB_REUSE) { /* context->k and context->v are not looked at */
        memcpy(a_out, cache->a_out, values * sizeof *a_out);
        memcpy(l_out, cache->l_out, rows * sizeof *l_out);
    } else {
        status = attend_all(queries, context, scale, a_out, l_out);
    }
    if (status == FB_OK && action == FB_REFRESH_AND_STORE) {
        memcpy(cache->a_out, a_out, values * sizeof *a_out);
        memcpy(cache->l_out, l_out, rows * sizeof *l_out);
    }
    if (status == FB_OK)
        status = attend_all(queries, block, scale, a_in, l_in);
    if (status == FB_OK)
        fb_merge_reference(a_out, l_out, a_in, l_in, rows, queries->head_dim, out, lse);
    fb_free(memory);
    return status;
}

/* The tokens that a refreshing step accepts count, too: its queries are older than they. */
void fb_reference_cache_accept(fb_reference_cache *cache, fb_reuse_action action, size_t count) {
    if (action != FB_REUSE)
        cache->dirty = 0;
    cache->dirty += count;
}

/* A block whose heads have views of their own: some heads compute their external part and keep it,
 * the others take the part that they kept. */
#include "attention/check.h"
#include "base/error.h"
#include "base/scratch.h"
#include "cache/block.h"
#include "cache/block_keys.h"
#include "cache/part_cache.h"

/* One call. */
typedef struct heads_pass {
    const fb_block_call *call;
    const fb_queries *queries;
    const fb_block_heads *heads;
    size_t heads_per_kv;
    fb_part external, internal;
} heads_pass;

static bool computes(const heads_pass *pass, size_t head) {
    if (pass->call->action == FB_REFRESH_HEADS)
        return pass->heads->refresh[head];
    return pass->call->action != FB_REUSE;
}

/* `count` heads from `head` on. */
static fb_status attend_run(const heads_pass *pass, const fb_view *view, size_t head, size_t count,
                            const fb_part *to) {
    fb_queries queries = *pass->queries;
    queries.q += (ptrdiff_t)head * queries.head_stride;
    queries.num_heads = count;
    fb_part part = *to;
    part.out += (ptrdiff_t)head * to->out_head_stride;
    part.lse += (ptrdiff_t)head * to->lse_head_stride;
    return fb_attend(&queries, view, NULL, pass->call->scale, &part);
}

/* The heads that share KV head `kv`: all internal parts and, in runs of heads that compute them,
 * the external ones. */
static fb_status attend_group(const heads_pass *pass, size_t kv) {
    size_t first = kv * pass->heads_per_kv, end = first + pass->heads_per_kv;
    FB_TRY(
        attend_run(pass, &pass->heads->internal[kv], first, pass->heads_per_kv, &pass->internal));
    for (size_t head = first; head < end;) {
        size_t run = 0;
        while (head + run < end && computes(pass, head + run))
            run++;
        if (run > 0)
            FB_TRY(attend_run(pass, &pass->heads->external[kv], head, run, &pass->external));
        head += run > 0 ? run : 1;
    }
    return FB_OK;
}

static fb_status check_views(const fb_queries *queries, const fb_block_heads *heads) {
    if (!heads->external || !heads->internal || heads->num_kv_heads == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "heads.%s is missing",
                       !heads->external   ? "external"
                       : !heads->internal ? "internal"
                                          : "num_kv_heads");
    if (queries->num_heads == 0 || queries->num_heads % heads->num_kv_heads != 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "queries.num_heads is %zu, expected a multiple of heads.num_kv_heads, %zu",
                       queries->num_heads, heads->num_kv_heads);
    for (size_t i = 0; i < 2 * heads->num_kv_heads; i++) {
        const fb_view *view = i % 2 ? &heads->internal[i / 2] : &heads->external[i / 2];
        if (!view->kv || view->kv->num_kv_heads != 1)
            return fb_fail(FB_ERROR_ARGUMENT, "the view of KV head %zu is not over one head",
                           i / 2);
    }
    return FB_OK;
}

static fb_status check_heads(const fb_block_call *call, const fb_part_origin *origin) {
    const fb_block_heads *heads = call->heads;
    if ((call->action == FB_REFRESH_HEADS) != (heads->refresh != NULL))
        return fb_fail(FB_ERROR_ARGUMENT, "action is %s, and heads.refresh is %s",
                       fb_reuse_action_name(call->action), heads->refresh ? "given" : "NULL");
    FB_TRY(check_views(call->queries, heads));
    if (call->action == FB_REFRESH_ONLY)
        return FB_OK;
    if (heads->context == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "heads.context is 0, expected at least 1");
    FB_TRY(fb_part_cache_check(call->parts, call->layer, call->queries));
    if (call->action == FB_REFRESH_AND_STORE)
        return FB_OK;
    return fb_part_cache_expect(call->parts, call->layer, heads->refresh, origin);
}

static fb_status attend_and_merge(const heads_pass *pass, const fb_part_origin *origin,
                                  const fb_part *result) {
    const fb_block_call *call = pass->call;
    const fb_queries *queries = pass->queries;
    for (size_t kv = 0; kv < pass->heads->num_kv_heads; kv++)
        FB_TRY(attend_group(pass, kv));
    if (call->action == FB_REFRESH_AND_STORE || call->action == FB_REFRESH_HEADS)
        fb_part_cache_note(call->parts, call->layer, pass->heads->refresh, origin);
    return fb_merge(&pass->external, &pass->internal, queries->num_queries, queries->num_heads,
                    queries->head_dim, result);
}

fb_status fb_block_attend_heads(const fb_block_call *call, const fb_part *result) {
    const fb_queries *queries = call->queries;
    const fb_part_origin origin = {
        .kind = FB_PART_OF_HEADS, .state = call->heads->context, .rows = queries->num_queries};
    FB_TRY(check_heads(call, &origin));
    FB_TRY(fb_check_part(result, "result", queries->num_queries, queries->num_heads,
                         queries->head_dim));
    heads_pass pass = {.call = call,
                       .queries = queries,
                       .heads = call->heads,
                       .heads_per_kv = queries->num_heads / call->heads->num_kv_heads};
    fb_part scratch[2];
    void *memory = NULL;
    FB_TRY(fb_block_scratch(queries, 2, scratch, &memory));
    pass.internal = call->heads->internal_part ? *call->heads->internal_part : scratch[0];
    pass.external =
        call->action == FB_REFRESH_ONLY ? scratch[1] : fb_part_cache_slot(call->parts, call->layer);
    fb_status status = attend_and_merge(&pass, &origin, result);
    fb_scratch_release(memory);
    return status;
}

/* Cached block-external parts by head, and the call that refreshes some and reuses the others. */
#include "attention/check.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/scratch.h"

#include <flashblock/experimental/head_reuse.h>

#include <string.h>

/* What a head's part was computed from. */
typedef struct head_origin {
    uint64_t context; /* 0: nothing */
    size_t rows;
} head_origin;

struct fb_head_parts {
    size_t num_layers, rows, num_heads, head_dim;
    float *out;           /* [num_layers, num_heads, rows, head_dim] */
    float *lse;           /* [num_layers, num_heads, rows] */
    head_origin *origins; /* [num_layers, num_heads] */
};

/* --- memory ----------------------------------------------------------------------------------- */

static fb_status allocate(fb_head_parts *parts, size_t lses, size_t values) {
    FB_TRY(fb_alloc_zeroed(values, sizeof *parts->out, "cached outputs", &parts->out));
    FB_TRY(fb_alloc_zeroed(lses, sizeof *parts->lse, "cached LSEs", &parts->lse));
    return fb_alloc_zeroed(parts->num_layers * parts->num_heads, sizeof *parts->origins,
                           "cached origins", &parts->origins);
}

fb_status fb_head_parts_create(size_t num_layers, size_t rows, size_t num_heads, size_t head_dim,
                               fb_head_parts **parts) {
    size_t lses = 0, values = 0;
    if (num_layers == 0 || rows == 0 || num_heads == 0 || head_dim == 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "head parts of %zu layers x %zu rows x %zu heads x %zu values, expected at "
                       "least 1 of each",
                       num_layers, rows, num_heads, head_dim);
    if (!parts)
        return fb_fail(FB_ERROR_ARGUMENT, "parts is NULL");
    if (!fb_size_mul(num_layers, num_heads, &lses) || !fb_size_mul(lses, rows, &lses) ||
        !fb_size_mul(lses, head_dim, &values))
        return fb_fail(FB_ERROR_MEMORY, "head parts: %zu x %zu x %zu x %zu values overflow",
                       num_layers, rows, num_heads, head_dim);
    fb_head_parts *created = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *created, "head parts", &created));
    *created = (fb_head_parts){
        .num_layers = num_layers, .rows = rows, .num_heads = num_heads, .head_dim = head_dim};
    fb_status status = allocate(created, lses, values);
    if (status != FB_OK) {
        fb_head_parts_destroy(created);
        return status;
    }
    *parts = created;
    return FB_OK;
}

void fb_head_parts_destroy(fb_head_parts *parts) {
    if (!parts)
        return;
    fb_free(parts->out);
    fb_free(parts->lse);
    fb_free(parts->origins);
    fb_free(parts);
}

void fb_head_parts_invalidate(fb_head_parts *parts) {
    memset(parts->origins, 0, parts->num_layers * parts->num_heads * sizeof *parts->origins);
}

fb_status fb_head_parts_layer(fb_head_parts *parts, size_t layer, fb_part *part) {
    if (!parts || !part)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", parts ? "part" : "parts");
    if (layer >= parts->num_layers)
        return fb_fail(FB_ERROR_ARGUMENT, "layer is %zu, expected below the %zu of the parts",
                       layer, parts->num_layers);
    size_t lses = layer * parts->num_heads * parts->rows;
    *part = (fb_part){.out = parts->out + lses * parts->head_dim,
                      .out_token_stride = (ptrdiff_t)parts->head_dim,
                      .out_head_stride = (ptrdiff_t)(parts->rows * parts->head_dim),
                      .lse = parts->lse + lses,
                      .lse_token_stride = 1,
                      .lse_head_stride = (ptrdiff_t)parts->rows};
    return FB_OK;
}

/* --- one layer, one step ---------------------------------------------------------------------- */

/* A call, its arguments checked. */
typedef struct head_call {
    const fb_queries *queries;
    const fb_head_views *views;
    const bool *refresh;
    float scale;
    size_t heads_per_kv;
    fb_part external, internal;
} head_call;

static bool refreshes(const head_call *call, size_t head) {
    return !call->refresh || call->refresh[head];
}

static fb_queries head_queries(const fb_queries *queries, size_t head, size_t count) {
    fb_queries some = *queries;
    some.q = queries->q + (ptrdiff_t)head * queries->head_stride;
    some.num_heads = count;
    return some;
}

static fb_part part_heads(const fb_part *part, size_t head) {
    fb_part some = *part;
    some.out += (ptrdiff_t)head * part->out_head_stride;
    some.lse += (ptrdiff_t)head * part->lse_head_stride;
    return some;
}

static fb_status attend_heads(const head_call *call, const fb_view *view, size_t head, size_t count,
                              const fb_part *to) {
    fb_queries queries = head_queries(call->queries, head, count);
    fb_part part = part_heads(to, head);
    return fb_attend(&queries, view, NULL, call->scale, &part);
}

/* The heads that share KV head `kv`: all internal parts, and in runs of heads that refresh, the
 * external ones. */
static fb_status attend_group(const head_call *call, size_t kv) {
    size_t first = kv * call->heads_per_kv, end = first + call->heads_per_kv;
    FB_TRY(
        attend_heads(call, &call->views->internal[kv], first, call->heads_per_kv, &call->internal));
    for (size_t head = first; head < end;) {
        size_t run = 0;
        while (head + run < end && refreshes(call, head + run))
            run++;
        if (run > 0)
            FB_TRY(attend_heads(call, &call->views->external[kv], head, run, &call->external));
        head += run > 0 ? run : 1;
    }
    return FB_OK;
}

static fb_status check_call(const fb_head_parts *parts, size_t layer, uint64_t context,
                            const fb_queries *queries, const fb_head_views *views) {
    if (!queries || !views)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", queries ? "views" : "queries");
    if (!views->external || !views->internal || views->num_kv_heads == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "views.%s is missing",
                       !views->external   ? "external"
                       : !views->internal ? "internal"
                                          : "num_kv_heads");
    if (queries->num_heads == 0 || queries->num_heads % views->num_kv_heads != 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "queries.num_heads is %zu, expected a multiple of views.num_kv_heads, %zu",
                       queries->num_heads, views->num_kv_heads);
    for (size_t kv = 0; kv < 2 * views->num_kv_heads; kv++) {
        const fb_view *view = kv % 2 ? &views->internal[kv / 2] : &views->external[kv / 2];
        if (!view->kv || view->kv->num_kv_heads != 1)
            return fb_fail(FB_ERROR_ARGUMENT, "the view of KV head %zu is not over one head",
                           kv / 2);
    }
    if (!parts)
        return FB_OK;
    if (layer >= parts->num_layers)
        return fb_fail(FB_ERROR_ARGUMENT, "layer is %zu, expected below the %zu of the parts",
                       layer, parts->num_layers);
    if (context == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "context is 0, expected at least 1");
    if (queries->num_queries > parts->rows || queries->num_heads != parts->num_heads ||
        queries->head_dim != parts->head_dim)
        return fb_fail(FB_ERROR_ARGUMENT, "queries are %zu x %zu x %zu, the parts %zu x %zu x %zu",
                       queries->num_queries, queries->num_heads, queries->head_dim, parts->rows,
                       parts->num_heads, parts->head_dim);
    return FB_OK;
}

static fb_status check_reused(const fb_head_parts *parts, size_t layer, uint64_t context,
                              const bool *refresh, size_t num_heads, size_t rows) {
    for (size_t head = 0; refresh && head < num_heads; head++) {
        if (refresh[head])
            continue;
        if (!parts)
            return fb_fail(FB_ERROR_ARGUMENT, "head %zu is to reuse, but there are no parts", head);
        const head_origin *origin = &parts->origins[layer * parts->num_heads + head];
        if (origin->context != context || origin->rows < rows)
            return fb_fail(FB_ERROR_STALE,
                           "layer %zu, head %zu: the cached part is of %zu rows in context %llu, "
                           "not of %zu in context %llu",
                           layer, head, origin->rows, (unsigned long long)origin->context, rows,
                           (unsigned long long)context);
    }
    return FB_OK;
}

static void mark(fb_head_parts *parts, size_t layer, uint64_t context, const head_call *call) {
    for (size_t head = 0; parts && head < parts->num_heads; head++)
        if (refreshes(call, head))
            parts->origins[layer * parts->num_heads + head] =
                (head_origin){context, call->queries->num_queries};
}

static fb_status run(fb_head_parts *parts, size_t layer, uint64_t context, const head_call *call,
                     const fb_part *result) {
    const fb_queries *queries = call->queries;
    for (size_t kv = 0; kv < call->views->num_kv_heads; kv++)
        FB_TRY(attend_group(call, kv));
    mark(parts, layer, context, call);
    return fb_merge(&call->external, &call->internal, queries->num_queries, queries->num_heads,
                    queries->head_dim, result);
}

fb_status fb_head_attend(fb_head_parts *parts, size_t layer, uint64_t context,
                         const fb_queries *queries, const fb_head_views *views, const bool *refresh,
                         float scale, const fb_part *internal, const fb_part *result) {
    FB_TRY(check_call(parts, layer, context, queries, views));
    FB_TRY(check_reused(parts, layer, context, refresh, queries->num_heads, queries->num_queries));
    FB_TRY(fb_check_part(result, "result", queries->num_queries, queries->num_heads,
                         queries->head_dim));
    size_t rows = 0, values = 0, floats = 0;
    if (!fb_size_mul(queries->num_queries, queries->num_heads, &rows) ||
        !fb_size_mul(rows, queries->head_dim, &values) || !fb_size_add(values, rows, &floats) ||
        !fb_size_mul(floats, 2 * sizeof(float), &floats))
        return fb_fail(FB_ERROR_ARGUMENT, "queries: %zu x %zu x %zu values overflow",
                       queries->num_queries, queries->num_heads, queries->head_dim);
    void *memory = NULL;
    FB_TRY(fb_scratch_acquire(floats, &memory));
    float *scratch = memory;
    head_call call = {.queries = queries,
                      .views = views,
                      .refresh = refresh,
                      .scale = scale,
                      .heads_per_kv = queries->num_heads / views->num_kv_heads};
    call.internal = internal ? *internal
                             : fb_part_rows(scratch, scratch + 2 * values, queries->num_heads,
                                            queries->head_dim);
    call.external = fb_part_rows(scratch + values, scratch + 2 * values + rows, queries->num_heads,
                                 queries->head_dim);
    fb_status status = parts ? fb_head_parts_layer(parts, layer, &call.external) : FB_OK;
    if (status == FB_OK)
        status = run(parts, layer, context, &call, result);
    fb_scratch_release(memory);
    return status;
}

#include "attention/check.h"

#include "attention/kv_access.h"
#include "base/error.h"
#include "base/memory.h"

#include <stdint.h>

/* |(count_a - 1) * stride_a| + |(count_b - 1) * stride_b| + inner elements, in bytes, fit
 * ptrdiff_t: then no address computed from them wraps. */
static bool extent_fits(size_t count_a, ptrdiff_t stride_a, size_t count_b, ptrdiff_t stride_b,
                        size_t inner, size_t element_size) {
    if (count_a == 0 || count_b == 0)
        return true;
    if (stride_a == PTRDIFF_MIN || stride_b == PTRDIFF_MIN)
        return false;
    size_t step_a = (size_t)(stride_a < 0 ? -stride_a : stride_a);
    size_t step_b = (size_t)(stride_b < 0 ? -stride_b : stride_b);
    size_t span_a = 0, span_b = 0, total = 0;
    return fb_size_mul(count_a - 1, step_a, &span_a) && fb_size_mul(count_b - 1, step_b, &span_b) &&
           fb_size_add(span_a, span_b, &total) && fb_size_add(total, inner, &total) &&
           fb_size_mul(total, element_size, &total) && total <= (size_t)PTRDIFF_MAX;
}

static fb_status check_kv(const fb_kv *kv) {
    size_t element = fb_dtype_size(kv->dtype);
    if (element == 0 && !(kv->dtype == FB_INT8 && kv->pages))
        return fb_fail(FB_ERROR_ARGUMENT, "kv.dtype is %d, expected f32, bf16 or f16",
                       (int)kv->dtype);
    if (kv->num_kv_heads == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "kv.num_kv_heads is 0, expected at least 1");
    if (kv->head_dim == 0 || kv->head_dim > FB_MAX_HEAD_DIM)
        return fb_fail(FB_ERROR_ARGUMENT, "kv.head_dim is %zu, expected 1 to %d", kv->head_dim,
                       FB_MAX_HEAD_DIM);
    if (kv->pages && (kv->first_kv_head > kv->pages->num_kv_heads ||
                      kv->num_kv_heads > kv->pages->num_kv_heads - kv->first_kv_head))
        return fb_fail(FB_ERROR_ARGUMENT, "kv: %zu KV heads from number %zu on, the pages have %zu",
                       kv->num_kv_heads, kv->first_kv_head, kv->pages->num_kv_heads);
    if (kv->pages || kv->num_tokens == 0)
        return FB_OK;
    if (!kv->k || !kv->v)
        return fb_fail(FB_ERROR_ARGUMENT, "kv.%s is NULL with %zu tokens", kv->k ? "v" : "k",
                       kv->num_tokens);
    if (!extent_fits(kv->num_tokens, kv->k_token_stride, kv->num_kv_heads, kv->k_head_stride,
                     kv->head_dim, element) ||
        !extent_fits(kv->num_tokens, kv->v_token_stride, kv->num_kv_heads, kv->v_head_stride,
                     kv->head_dim, element))
        return fb_fail(FB_ERROR_ARGUMENT,
                       "kv: %zu tokens x %zu heads at these strides do not fit the address space",
                       kv->num_tokens, kv->num_kv_heads);
    return FB_OK;
}

fb_status fb_check_view(const fb_view *view, size_t *num_keys) {
    if (!view)
        return fb_fail(FB_ERROR_ARGUMENT, "view is NULL");
    if (!view->kv)
        return fb_fail(FB_ERROR_ARGUMENT, "view.kv is NULL");
    if (view->num_ranges > 0 && !view->ranges)
        return fb_fail(FB_ERROR_ARGUMENT, "view.ranges is NULL with %zu ranges", view->num_ranges);
    FB_TRY(check_kv(view->kv));
    size_t total = 0;
    for (size_t i = 0; i < view->num_ranges; i++) {
        fb_range range = view->ranges[i];
        if (range.begin > range.end || range.end > view->kv->num_tokens)
            return fb_fail(FB_ERROR_ARGUMENT,
                           "view.ranges[%zu] is [%zu, %zu), expected inside the %zu tokens", i,
                           range.begin, range.end, view->kv->num_tokens);
        if (!fb_size_add(total, range.end - range.begin, &total))
            return fb_fail(FB_ERROR_ARGUMENT, "view.ranges hold more keys than size_t counts");
    }
    *num_keys = total;
    return FB_OK;
}

fb_status fb_check_queries(const fb_queries *queries, const fb_view *view) {
    if (!queries)
        return fb_fail(FB_ERROR_ARGUMENT, "queries is NULL");
    const fb_kv *kv = view->kv;
    if (queries->head_dim != kv->head_dim)
        return fb_fail(FB_ERROR_ARGUMENT, "queries.head_dim is %zu, expected kv.head_dim, %zu",
                       queries->head_dim, kv->head_dim);
    if (queries->num_heads == 0 || queries->num_heads % kv->num_kv_heads != 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "queries.num_heads is %zu, expected a multiple of kv.num_kv_heads, %zu",
                       queries->num_heads, kv->num_kv_heads);
    if (queries->num_queries == 0)
        return FB_OK;
    if (!queries->q)
        return fb_fail(FB_ERROR_ARGUMENT, "queries.q is NULL with %zu queries",
                       queries->num_queries);
    if (!extent_fits(queries->num_queries, queries->token_stride, queries->num_heads,
                     queries->head_stride, queries->head_dim, sizeof(float)))
        return fb_fail(FB_ERROR_ARGUMENT,
                       "queries: %zu x %zu rows at strides %td, %td do not fit the address space",
                       queries->num_queries, queries->num_heads, queries->token_stride,
                       queries->head_stride);
    return FB_OK;
}

fb_status fb_check_mask(const fb_mask *mask) {
    if (!mask || mask->kind == FB_MASK_NONE)
        return FB_OK;
    if (mask->kind != FB_MASK_BLOCK_CAUSAL)
        return fb_fail(FB_ERROR_ARGUMENT, "mask.kind is %d, expected none or block-causal",
                       (int)mask->kind);
    if (mask->block_size == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "mask.block_size is 0, expected at least 1");
    return FB_OK;
}

fb_status fb_check_part(const fb_part *part, const char *name, size_t num_queries, size_t num_heads,
                        size_t head_dim) {
    if (!part)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", name);
    if (num_queries == 0 || num_heads == 0)
        return FB_OK;
    if (!part->out || !part->lse)
        return fb_fail(FB_ERROR_ARGUMENT, "%s.%s is NULL", name, part->out ? "lse" : "out");
    if (!extent_fits(num_queries, part->out_token_stride, num_heads, part->out_head_stride,
                     head_dim, sizeof(float)) ||
        !extent_fits(num_queries, part->lse_token_stride, num_heads, part->lse_head_stride, 1,
                     sizeof(float)))
        return fb_fail(FB_ERROR_ARGUMENT,
                       "%s: %zu x %zu rows at these strides do not fit the address space", name,
                       num_queries, num_heads);
    return FB_OK;
}

#include "cache/block_keys.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/scratch.h"

fb_status fb_block_keys_of(const fb_block_call *call, fb_block_keys *keys) {
    FB_TRY(fb_kv_cache_layer(call->kv, call->layer, &keys->kv));
    keys->length = fb_kv_cache_length(call->kv);
    if (keys->kv.num_tokens - keys->length < call->queries->num_queries)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "layer %zu holds %zu tokens of the current block, expected %zu", call->layer,
                       keys->kv.num_tokens - keys->length, call->queries->num_queries);
    return FB_OK;
}

fb_status fb_block_attend_range(const fb_queries *queries, const fb_kv *kv, size_t begin,
                                size_t end, float scale, const fb_part *part) {
    fb_range range = {begin, end};
    fb_view view = {kv, &range, 1};
    return fb_attend(queries, &view, NULL, scale, part);
}

fb_status fb_block_scratch(const fb_queries *queries, size_t count, fb_part *parts, void **memory) {
    size_t rows = 0, values = 0, floats = 0, bytes = 0;
    if (!fb_size_mul(queries->num_queries, queries->num_heads, &rows) ||
        !fb_size_mul(rows, queries->head_dim, &values) || !fb_size_add(values, rows, &floats) ||
        !fb_size_mul(floats, count * sizeof(float), &bytes))
        return fb_fail(FB_ERROR_ARGUMENT, "queries: %zu x %zu x %zu values overflow",
                       queries->num_queries, queries->num_heads, queries->head_dim);
    FB_TRY(fb_scratch_acquire(bytes, memory));
    float *outs = *memory, *lses = outs + count * values;
    for (size_t i = 0; i < count; i++)
        parts[i] =
            fb_part_rows(outs + i * values, lses + i * rows, queries->num_heads, queries->head_dim);
    return FB_OK;
}

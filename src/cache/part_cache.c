/* A_out and L_out of the paper: the cached block-external part, and the merge that uses it. */
#include "error.h"
#include "memory.h"
#include "scratch.h"

#include <flashblock/reuse.h>

#include <stdint.h>
#include <string.h>

/* What a slot was computed from. An epoch names one state of one KV cache; 0 names none. */
typedef struct part_origin {
    uint64_t epoch;
    size_t length, rows;
} part_origin;

struct fb_part_cache {
    size_t num_layers, block_size, num_heads, head_dim;
    float *out;           /* [num_layers, block_size, num_heads, head_dim] */
    float *lse;           /* [num_layers, block_size, num_heads] */
    part_origin *origins; /* [num_layers] */
};

fb_status fb_part_cache_create(size_t num_layers, size_t block_size, size_t num_heads,
                               size_t head_dim, fb_part_cache **cache) {
    if (num_layers == 0 || block_size == 0 || num_heads == 0 || head_dim == 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "part cache of %zu layers x %zu rows x %zu heads x %zu values, expected at "
                       "least 1 of each",
                       num_layers, block_size, num_heads, head_dim);
    if (!cache)
        return fb_fail(FB_ERROR_ARGUMENT, "cache is NULL");
    size_t rows = 0, values = 0;
    if (!fb_size_mul(num_layers, block_size, &rows) || !fb_size_mul(rows, num_heads, &rows) ||
        !fb_size_mul(rows, head_dim, &values))
        return fb_fail(FB_ERROR_MEMORY, "part cache: %zu x %zu x %zu x %zu values overflow",
                       num_layers, block_size, num_heads, head_dim);
    fb_part_cache *created = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *created, "part cache", &created));
    *created = (fb_part_cache){.num_layers = num_layers,
                               .block_size = block_size,
                               .num_heads = num_heads,
                               .head_dim = head_dim};
    fb_status status =
        fb_alloc_zeroed(values, sizeof *created->out, "cached outputs", &created->out);
    if (status == FB_OK)
        status = fb_alloc_zeroed(rows, sizeof *created->lse, "cached LSEs", &created->lse);
    if (status == FB_OK)
        status = fb_alloc_zeroed(num_layers, sizeof *created->origins, "cached origins",
                                 &created->origins);
    if (status != FB_OK) {
        fb_part_cache_destroy(created);
        return status;
    }
    *cache = created;
    return FB_OK;
}

void fb_part_cache_destroy(fb_part_cache *cache) {
    if (!cache)
        return;
    fb_free(cache->out);
    fb_free(cache->lse);
    fb_free(cache->origins);
    fb_free(cache);
}

void fb_part_cache_invalidate(fb_part_cache *cache) {
    memset(cache->origins, 0, cache->num_layers * sizeof *cache->origins);
}

bool fb_part_cache_is_fresh(const fb_part_cache *cache, size_t layer, const fb_kv_cache *kv) {
    if (!cache || !kv || layer >= cache->num_layers)
        return false;
    return cache->origins[layer].epoch == fb_kv_cache_epoch(kv);
}

static fb_part slot(const fb_part_cache *cache, size_t layer) {
    size_t rows = layer * cache->block_size * cache->num_heads;
    return fb_part_rows(cache->out + rows * cache->head_dim, cache->lse + rows, cache->num_heads,
                        cache->head_dim);
}

static fb_status check_layer(const fb_part_cache *cache, size_t layer) {
    if (!cache)
        return fb_fail(FB_ERROR_ARGUMENT, "parts is NULL");
    if (layer >= cache->num_layers)
        return fb_fail(FB_ERROR_ARGUMENT, "layer is %zu, expected below the part cache's %zu",
                       layer, cache->num_layers);
    return FB_OK;
}

fb_status fb_part_cache_load(const fb_part_cache *cache, size_t layer, const fb_kv_cache *kv,
                             fb_compat compat, fb_part *part) {
    FB_TRY(check_layer(cache, layer));
    if (!kv || !part)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", kv ? "part" : "kv");
    if (compat != FB_COMPAT_RELEASED && !fb_part_cache_is_fresh(cache, layer, kv)) {
        const part_origin *origin = &cache->origins[layer];
        if (origin->epoch == 0)
            return fb_fail(FB_ERROR_STALE, "layer %zu: no part has been stored", layer);
        return fb_fail(FB_ERROR_STALE,
                       "layer %zu: the cached part belongs to %zu tokens at epoch %llu, the KV "
                       "cache holds %zu at epoch %llu",
                       layer, origin->length, (unsigned long long)origin->epoch,
                       fb_kv_cache_length(kv), (unsigned long long)fb_kv_cache_epoch(kv));
    }
    *part = slot(cache, layer);
    return FB_OK;
}

static fb_status check_block(const fb_queries *queries, const fb_kv_cache *kv, size_t layer,
                             fb_reuse_action action, const fb_part_cache *parts) {
    if (!queries || !kv)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", queries ? "kv" : "queries");
    if (action != FB_REFRESH_AND_STORE && action != FB_REFRESH_ONLY && action != FB_REUSE)
        return fb_fail(FB_ERROR_ARGUMENT, "action is %d, expected a reuse action", (int)action);
    if (action == FB_REFRESH_ONLY)
        return FB_OK;
    FB_TRY(check_layer(parts, layer));
    if (queries->num_queries > parts->block_size || queries->num_heads != parts->num_heads ||
        queries->head_dim != parts->head_dim)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "queries are %zu x %zu x %zu, the part cache holds %zu x %zu x %zu",
                       queries->num_queries, queries->num_heads, queries->head_dim,
                       parts->block_size, parts->num_heads, parts->head_dim);
    return FB_OK;
}

/* The committed tokens, and the current block's. */
static fb_status attend_range(const fb_queries *queries, const fb_kv *kv, size_t begin, size_t end,
                              float scale, const fb_part *result) {
    fb_range range = {begin, end};
    fb_view view = {kv, &range, 1};
    return fb_attend(queries, &view, NULL, scale, result);
}

/* The external part: from the cache, or computed into its slot or into `scratch`. */
static fb_status external_part(const fb_queries *queries, const fb_kv_cache *cache, size_t layer,
                               const fb_kv *kv, fb_reuse_action action, fb_compat compat,
                               fb_part_cache *parts, float scale, const fb_part *scratch,
                               fb_part *external) {
    if (action == FB_REUSE) {
        FB_TRY(fb_part_cache_load(parts, layer, cache, compat, external));
        if (compat != FB_COMPAT_RELEASED && parts->origins[layer].rows < queries->num_queries)
            return fb_fail(FB_ERROR_STALE, "layer %zu: the cached part has %zu rows, not %zu",
                           layer, parts->origins[layer].rows, queries->num_queries);
        return FB_OK;
    }
    size_t length = fb_kv_cache_length(cache);
    *external = action == FB_REFRESH_AND_STORE ? slot(parts, layer) : *scratch;
    FB_TRY(attend_range(queries, kv, 0, length, scale, external));
    if (action == FB_REFRESH_AND_STORE)
        parts->origins[layer] =
            (part_origin){fb_kv_cache_epoch(cache), length, queries->num_queries};
    return FB_OK;
}

fb_status fb_block_attend(const fb_queries *queries, const fb_kv_cache *kv_cache, size_t layer,
                          fb_reuse_action action, fb_compat compat, fb_part_cache *parts,
                          float scale, const fb_part *result) {
    FB_TRY(check_block(queries, kv_cache, layer, action, parts));
    fb_kv kv;
    FB_TRY(fb_kv_cache_layer(kv_cache, layer, &kv));
    size_t length = fb_kv_cache_length(kv_cache), rows = queries->num_queries;
    if (kv.num_tokens - length < rows)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "layer %zu holds %zu tokens of the current block, expected %zu", layer,
                       kv.num_tokens - length, rows);
    size_t part_rows = 0, values = 0, floats = 0;
    if (!fb_size_mul(rows, queries->num_heads, &part_rows) ||
        !fb_size_mul(part_rows, queries->head_dim, &values) ||
        !fb_size_add(values, part_rows, &floats) || !fb_size_mul(floats, 2, &floats) ||
        !fb_size_mul(floats, sizeof(float), &floats))
        return fb_fail(FB_ERROR_ARGUMENT, "queries: %zu x %zu x %zu values overflow", rows,
                       queries->num_heads, queries->head_dim);
    void *memory = NULL;
    FB_TRY(fb_scratch_acquire(floats, &memory));
    float *scratch = memory; /* outputs and LSEs: internal, then external */
    fb_part internal =
        fb_part_rows(scratch, scratch + 2 * values, queries->num_heads, queries->head_dim);
    fb_part unstored = fb_part_rows(scratch + values, scratch + 2 * values + part_rows,
                                    queries->num_heads, queries->head_dim);
    fb_part external;
    fb_status status = external_part(queries, kv_cache, layer, &kv, action, compat, parts, scale,
                                     &unstored, &external);
    if (status == FB_OK)
        status = attend_range(queries, &kv, length, length + rows, scale, &internal);
    if (status == FB_OK)
        status =
            fb_merge(&external, &internal, rows, queries->num_heads, queries->head_dim, result);
    fb_scratch_release(memory);
    return status;
}

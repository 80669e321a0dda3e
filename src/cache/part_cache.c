/* A_out and L_out of the paper: the cached block-external part, and the merge that uses it. */
#include "base/error.h"
#include "base/memory.h"
#include "base/scratch.h"

#include <flashblock/experimental/rows.h>
#include <flashblock/reuse.h>

#include <math.h>
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
    float *query;         /* shaped as out: what a row was computed for, and its mean key; */
    float *mean_key;      /* both NULL unless the cache corrects */
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
    fb_free(cache->query);
    fb_free(cache->mean_key);
    fb_free(cache->origins);
    fb_free(cache);
}

fb_status fb_part_cache_enable_correction(fb_part_cache *cache) {
    if (!cache)
        return fb_fail(FB_ERROR_ARGUMENT, "cache is NULL");
    if (cache->query)
        return FB_OK;
    size_t values = cache->num_layers * cache->block_size * cache->num_heads * cache->head_dim;
    float *query = NULL, *mean_key = NULL;
    FB_TRY(fb_alloc_zeroed(values, sizeof *query, "cached queries", &query));
    fb_status status = fb_alloc_zeroed(values, sizeof *mean_key, "cached mean keys", &mean_key);
    if (status != FB_OK) {
        fb_free(query);
        return status;
    }
    cache->query = query;
    cache->mean_key = mean_key;
    fb_part_cache_invalidate(cache);
    return FB_OK;
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
    fb_part part = fb_part_rows(cache->out + rows * cache->head_dim, cache->lse + rows,
                                cache->num_heads, cache->head_dim);
    if (cache->mean_key)
        part.mean_key = cache->mean_key + rows * cache->head_dim;
    return part;
}

/* The queries of a slot's rows  [block_size, num_heads, head_dim]; corrected caches only. */
static float *slot_queries(const fb_part_cache *cache, size_t layer) {
    return cache->query + layer * cache->block_size * cache->num_heads * cache->head_dim;
}

static const float *query_of(const fb_queries *queries, size_t row, size_t head) {
    return queries->q + (ptrdiff_t)row * queries->token_stride +
           (ptrdiff_t)head * queries->head_stride;
}

/* One row's queries of all heads, dense. */
static void copy_query(const fb_queries *queries, size_t row, float *to) {
    for (size_t head = 0; head < queries->num_heads; head++)
        memcpy(to + head * queries->head_dim, query_of(queries, row, head),
               queries->head_dim * sizeof *to);
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
    if (action != FB_REFRESH_AND_STORE && action != FB_REFRESH_ONLY && action != FB_REUSE &&
        action != FB_REFRESH_ROWS)
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

/* --- the first-order correction --------------------------------------------------------------- */

/* (q - q0) . k in double precision: 16 sums (sum number = d mod 16), folded 8-4-2-1. The same bits
 * everywhere: nothing is fused, and the order is fixed. */
static double moved_score(const float *q, const float *q0, const float *k, size_t head_dim) {
    double sums[16] = {0};
    for (size_t d = 0; d < head_dim; d += 16) {
        size_t left = head_dim - d, count = left < 16 ? left : 16;
        for (size_t i = 0; i < count; i++)
            sums[i] += ((double)q[d + i] - (double)q0[d + i]) * (double)k[d + i];
    }
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            sums[i] += sums[i + half];
    return sums[0];
}

/* lse [rows, num_heads] := the slot's LSEs, those of rows that are not in `fresh` (NULL: all) as
 * L(q0) + scale (q - q0) . k. An infinite key can make a mean key NaN whose weight is 0, and then
 * there is no correction. */
static void correct_lses(const fb_part_cache *cache, size_t layer, const fb_queries *queries,
                         const bool *fresh, float scale, float *lse) {
    fb_part part = slot(cache, layer);
    const float *q0 = slot_queries(cache, layer);
    size_t heads = cache->num_heads, dim = cache->head_dim;
    double factor = scale != 0.0f ? (double)scale : (double)(float)(1.0 / sqrt((double)dim));
    memcpy(lse, part.lse, queries->num_queries * heads * sizeof *lse);
    for (size_t row = 0; row < queries->num_queries; row++)
        for (size_t head = 0; head < heads && !(fresh && fresh[row]); head++) {
            size_t i = row * heads + head;
            double change = factor * moved_score(query_of(queries, row, head), q0 + i * dim,
                                                 part.mean_key + i * dim, dim);
            if (isfinite(change))
                lse[i] = (float)((double)lse[i] + change);
        }
}

/* --- the external part ------------------------------------------------------------------------ */

/* What fb_block_attend and fb_block_attend_rows have in common. */
typedef struct block_pass {
    const fb_queries *queries;
    const fb_kv_cache *cache;
    fb_kv kv; /* of the layer */
    size_t layer, length;
    fb_reuse_action action;
    fb_compat compat;
    const bool *refresh_rows; /* FB_REFRESH_ROWS */
    fb_part_cache *parts;
    float scale;
    float *lse;       /* [rows, num_heads] scratch: corrected */
    float *gathered;  /* FB_REFRESH_ROWS: [rows, num_heads, head_dim] scratch, queries */
    fb_part computed; /* scratch: a part that is not kept, or the rows to be scattered */
} block_pass;

static fb_status check_rows_fresh(const block_pass *pass) {
    const part_origin *origin = &pass->parts->origins[pass->layer];
    if (pass->compat != FB_COMPAT_RELEASED && origin->rows < pass->queries->num_queries)
        return fb_fail(FB_ERROR_STALE, "layer %zu: the cached part has %zu rows, not %zu",
                       pass->layer, origin->rows, pass->queries->num_queries);
    return FB_OK;
}

/* Kept rows as they are merged. */
static void correct(const block_pass *pass, fb_part *external) {
    if (!pass->parts->query)
        return;
    correct_lses(pass->parts, pass->layer, pass->queries, pass->refresh_rows, pass->scale,
                 pass->lse);
    external->lse = pass->lse;
    external->lse_token_stride = (ptrdiff_t)pass->queries->num_heads;
    external->lse_head_stride = 1;
}

static fb_status reuse(const block_pass *pass, fb_part *external) {
    FB_TRY(fb_part_cache_load(pass->parts, pass->layer, pass->cache, pass->compat, external));
    FB_TRY(check_rows_fresh(pass));
    correct(pass, external);
    return FB_OK;
}

/* Notes what the slot holds now. */
static void stored(const block_pass *pass) {
    pass->parts->origins[pass->layer] =
        (part_origin){fb_kv_cache_epoch(pass->cache), pass->length, pass->queries->num_queries};
}

static fb_status refresh(const block_pass *pass, fb_part *external) {
    bool store = pass->action == FB_REFRESH_AND_STORE;
    *external = store ? slot(pass->parts, pass->layer) : pass->computed;
    FB_TRY(attend_range(pass->queries, &pass->kv, 0, pass->length, pass->scale, external));
    if (!store)
        return FB_OK;
    size_t row_values = pass->queries->num_heads * pass->queries->head_dim;
    for (size_t row = 0; row < pass->queries->num_queries && pass->parts->query; row++)
        copy_query(pass->queries, row, slot_queries(pass->parts, pass->layer) + row * row_values);
    stored(pass);
    return FB_OK;
}

/* Row `from` of the pass's computed rows becomes row `to` of the slot. */
static void store_row(const block_pass *pass, size_t from, size_t to) {
    size_t heads = pass->queries->num_heads, values = heads * pass->queries->head_dim;
    fb_part part = slot(pass->parts, pass->layer);
    memcpy(part.out + to * values, pass->computed.out + from * values, values * sizeof *part.out);
    memcpy(part.lse + to * heads, pass->computed.lse + from * heads, heads * sizeof *part.lse);
    if (!part.mean_key)
        return;
    memcpy(part.mean_key + to * values, pass->computed.mean_key + from * values,
           values * sizeof *part.mean_key);
    memcpy(slot_queries(pass->parts, pass->layer) + to * values, pass->gathered + from * values,
           values * sizeof *pass->gathered);
}

/* The rows are gathered, so that keys and values are read once for all of them. */
static fb_status refresh_some(const block_pass *pass, fb_part *external) {
    size_t rows = pass->queries->num_queries, count = 0;
    size_t heads = pass->queries->num_heads, dim = pass->queries->head_dim;
    for (size_t row = 0; row < rows; row++)
        if (pass->refresh_rows[row])
            copy_query(pass->queries, row, pass->gathered + count++ * heads * dim);
    if (count < rows) {
        FB_TRY(fb_part_cache_load(pass->parts, pass->layer, pass->cache, pass->compat, external));
        FB_TRY(check_rows_fresh(pass));
    }
    fb_queries gathered = fb_queries_rows(pass->gathered, count, heads, dim);
    FB_TRY(attend_range(&gathered, &pass->kv, 0, pass->length, pass->scale, &pass->computed));
    for (size_t row = 0, from = 0; row < rows; row++)
        if (pass->refresh_rows[row])
            store_row(pass, from++, row);
    if (count == rows)
        stored(pass);
    *external = slot(pass->parts, pass->layer);
    correct(pass, external);
    return FB_OK;
}

static fb_status external_part(const block_pass *pass, fb_part *external) {
    if (pass->action == FB_REUSE)
        return reuse(pass, external);
    return pass->action == FB_REFRESH_ROWS ? refresh_some(pass, external) : refresh(pass, external);
}

/* --- the whole -------------------------------------------------------------------------------- */

/* Floats of scratch: outputs of four parts at most (internal; external; its mean keys; queries),
 * LSEs of three. */
static fb_status scratch_bytes(const fb_queries *queries, size_t *values, size_t *part_rows,
                               size_t *bytes) {
    size_t lses = 0, floats = 0;
    if (!fb_size_mul(queries->num_queries, queries->num_heads, part_rows) ||
        !fb_size_mul(*part_rows, queries->head_dim, values) || !fb_size_mul(*values, 4, &floats) ||
        !fb_size_mul(*part_rows, 3, &lses) || !fb_size_add(floats, lses, &floats) ||
        !fb_size_mul(floats, sizeof(float), bytes))
        return fb_fail(FB_ERROR_ARGUMENT, "queries: %zu x %zu x %zu values overflow",
                       queries->num_queries, queries->num_heads, queries->head_dim);
    return FB_OK;
}

/* dense = merge(external part, internal part), whatever the external one is. */
static fb_status attend_block(block_pass *pass, const fb_part *result) {
    const fb_queries *queries = pass->queries;
    FB_TRY(check_block(queries, pass->cache, pass->layer, pass->action, pass->parts));
    FB_TRY(fb_kv_cache_layer(pass->cache, pass->layer, &pass->kv));
    size_t rows = queries->num_queries, heads = queries->num_heads, dim = queries->head_dim;
    size_t values = 0, part_rows = 0, bytes = 0;
    pass->length = fb_kv_cache_length(pass->cache);
    if (pass->kv.num_tokens - pass->length < rows)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "layer %zu holds %zu tokens of the current block, expected %zu", pass->layer,
                       pass->kv.num_tokens - pass->length, rows);
    FB_TRY(scratch_bytes(queries, &values, &part_rows, &bytes));
    void *memory = NULL;
    FB_TRY(fb_scratch_acquire(bytes, &memory));
    float *outs = memory, *lses = outs + 4 * values;
    fb_part internal = fb_part_rows(outs, lses, heads, dim), external;
    pass->computed = fb_part_rows(outs + values, lses + part_rows, heads, dim);
    if (pass->action == FB_REFRESH_ROWS && pass->parts->query)
        pass->computed.mean_key = outs + 2 * values;
    pass->gathered = outs + 3 * values;
    pass->lse = lses + 2 * part_rows;
    fb_status status = external_part(pass, &external);
    if (status == FB_OK)
        status = attend_range(queries, &pass->kv, pass->length, pass->length + rows, pass->scale,
                              &internal);
    if (status == FB_OK)
        status = fb_merge(&external, &internal, rows, heads, dim, result);
    fb_scratch_release(memory);
    return status;
}

fb_status fb_block_attend(const fb_queries *queries, const fb_kv_cache *kv, size_t layer,
                          fb_reuse_action action, fb_compat compat, fb_part_cache *parts,
                          float scale, const fb_part *result) {
    if (action == FB_REFRESH_ROWS)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "action is refresh rows: fb_block_attend_rows takes the rows");
    block_pass pass = {.queries = queries,
                       .cache = kv,
                       .layer = layer,
                       .action = action,
                       .compat = compat,
                       .parts = parts,
                       .scale = scale};
    return attend_block(&pass, result);
}

fb_status fb_block_attend_rows(const fb_queries *queries, const fb_kv_cache *kv, size_t layer,
                               const bool *refresh_rows, fb_part_cache *parts, float scale,
                               const fb_part *result) {
    if (!refresh_rows)
        return fb_fail(FB_ERROR_ARGUMENT, "refresh_rows is NULL");
    block_pass pass = {.queries = queries,
                       .cache = kv,
                       .layer = layer,
                       .action = FB_REFRESH_ROWS,
                       .refresh_rows = refresh_rows,
                       .parts = parts,
                       .scale = scale};
    return attend_block(&pass, result);
}

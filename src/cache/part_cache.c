#include "cache/part_cache.h"

#include "base/error.h"
#include "base/memory.h"

#include <flashblock/experimental/head_reuse.h>
#include <flashblock/experimental/rows.h>
#include <flashblock/experimental/sparse.h>

#include <stdio.h>
#include <string.h>

struct fb_part_cache {
    size_t num_layers, block_size, num_heads, head_dim;
    float *out;              /* A_out: [num_layers, block_size, num_heads, head_dim] */
    float *lse;              /* L_out: [num_layers, block_size, num_heads] */
    float *query;            /* shaped as out: a row's query, and its mean key; */
    float *mean_key;         /* both NULL unless the cache corrects */
    fb_part_origin *origins; /* [num_layers, num_heads] */
};

/* --- life ------------------------------------------------------------------------------------- */

static size_t num_values(const fb_part_cache *cache) {
    return cache->num_layers * cache->block_size * cache->num_heads * cache->head_dim;
}

static fb_status allocate(fb_part_cache *cache) {
    size_t values = num_values(cache), heads = cache->num_layers * cache->num_heads;
    FB_TRY(fb_alloc_zeroed(values, sizeof *cache->out, "cached outputs", &cache->out));
    FB_TRY(
        fb_alloc_zeroed(heads * cache->block_size, sizeof *cache->lse, "cached LSEs", &cache->lse));
    return fb_alloc_zeroed(heads, sizeof *cache->origins, "cached origins", &cache->origins);
}

fb_status fb_part_cache_create(size_t num_layers, size_t block_size, size_t num_heads,
                               size_t head_dim, fb_part_cache **cache) {
    if (num_layers == 0 || block_size == 0 || num_heads == 0 || head_dim == 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "part cache of %zu layers x %zu rows x %zu heads x %zu values, expected at "
                       "least 1 of each",
                       num_layers, block_size, num_heads, head_dim);
    if (!cache)
        return fb_fail(FB_ERROR_ARGUMENT, "cache is NULL");
    size_t values = 0;
    if (!fb_size_mul(num_layers, block_size, &values) || !fb_size_mul(values, num_heads, &values) ||
        !fb_size_mul(values, head_dim, &values))
        return fb_fail(FB_ERROR_MEMORY, "part cache: %zu x %zu x %zu x %zu values overflow",
                       num_layers, block_size, num_heads, head_dim);
    fb_part_cache *created = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *created, "part cache", &created));
    *created = (fb_part_cache){.num_layers = num_layers,
                               .block_size = block_size,
                               .num_heads = num_heads,
                               .head_dim = head_dim};
    fb_status status = allocate(created);
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
    float *query = NULL, *mean_key = NULL;
    FB_TRY(fb_alloc_zeroed(num_values(cache), sizeof *query, "cached queries", &query));
    fb_status status =
        fb_alloc_zeroed(num_values(cache), sizeof *mean_key, "cached mean keys", &mean_key);
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
    memset(cache->origins, 0, cache->num_layers * cache->num_heads * sizeof *cache->origins);
}

/* --- slots ------------------------------------------------------------------------------------ */

static fb_status check_layer(const fb_part_cache *cache, size_t layer) {
    if (!cache)
        return fb_fail(FB_ERROR_ARGUMENT, "parts is NULL");
    if (layer >= cache->num_layers)
        return fb_fail(FB_ERROR_ARGUMENT, "layer is %zu, expected below the part cache's %zu",
                       layer, cache->num_layers);
    return FB_OK;
}

fb_status fb_part_cache_check(const fb_part_cache *cache, size_t layer, const fb_queries *queries) {
    FB_TRY(check_layer(cache, layer));
    if (queries->num_queries > cache->block_size || queries->num_heads != cache->num_heads ||
        queries->head_dim != cache->head_dim)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "queries are %zu x %zu x %zu, the part cache holds %zu x %zu x %zu",
                       queries->num_queries, queries->num_heads, queries->head_dim,
                       cache->block_size, cache->num_heads, cache->head_dim);
    return FB_OK;
}

fb_part fb_part_cache_slot(const fb_part_cache *cache, size_t layer) {
    size_t rows = layer * cache->block_size * cache->num_heads;
    fb_part part = fb_part_rows(cache->out + rows * cache->head_dim, cache->lse + rows,
                                cache->num_heads, cache->head_dim);
    if (cache->mean_key)
        part.mean_key = cache->mean_key + rows * cache->head_dim;
    return part;
}

bool fb_part_cache_corrects(const fb_part_cache *cache) {
    return cache->query != NULL;
}

float *fb_part_cache_queries(const fb_part_cache *cache, size_t layer) {
    size_t values = cache->block_size * cache->num_heads * cache->head_dim;
    return cache->query ? cache->query + layer * values : NULL;
}

fb_status fb_part_cache_layer(fb_part_cache *cache, size_t layer, fb_part *part) {
    FB_TRY(check_layer(cache, layer));
    if (!part)
        return fb_fail(FB_ERROR_ARGUMENT, "part is NULL");
    *part = fb_part_cache_slot(cache, layer);
    return FB_OK;
}

/* --- origins ---------------------------------------------------------------------------------- */

static const char *const kinds[] = {
    [FB_PART_NONE] = "none that was stored",
    [FB_PART_EXTERNAL] = "over all committed tokens",
    [FB_PART_RESIDUAL] = "a residual",
    [FB_PART_OF_HEADS] = "over a head's own view",
};

static bool is_of(const fb_part_origin *held, const fb_part_origin *origin) {
    return held->kind == origin->kind && held->state == origin->state &&
           held->selection == origin->selection && held->rows >= origin->rows;
}

/* The first head that holds another part; num_heads: none does. */
static size_t first_stale(const fb_part_cache *cache, size_t layer, const bool *except,
                          const fb_part_origin *origin) {
    size_t head = 0;
    while (head < cache->num_heads &&
           ((except && except[head]) ||
            is_of(&cache->origins[layer * cache->num_heads + head], origin)))
        head++;
    return head;
}

/* Says in words how the two differ. */
static void describe(const fb_part_origin *held, const fb_part_origin *origin, char *why,
                     size_t size) {
    if (held->kind != origin->kind)
        snprintf(why, size, "is %s, not %s", kinds[held->kind], kinds[origin->kind]);
    else if (held->state != origin->state)
        snprintf(why, size, "belongs to %zu tokens at %s %llu, not to %zu at %llu", held->tokens,
                 held->kind == FB_PART_OF_HEADS ? "context" : "epoch",
                 (unsigned long long)held->state, origin->tokens,
                 (unsigned long long)origin->state);
    else if (held->selection != origin->selection)
        snprintf(why, size, "belongs to selection %016llx, not to %016llx",
                 (unsigned long long)held->selection, (unsigned long long)origin->selection);
    else
        snprintf(why, size, "has %zu rows, not %zu", held->rows, origin->rows);
}

fb_status fb_part_cache_expect(const fb_part_cache *cache, size_t layer, const bool *except,
                               const fb_part_origin *origin) {
    size_t head = first_stale(cache, layer, except, origin);
    if (head == cache->num_heads)
        return FB_OK;
    char why[128];
    describe(&cache->origins[layer * cache->num_heads + head], origin, why, sizeof why);
    return fb_fail(FB_ERROR_STALE, "layer %zu, head %zu: the cached part %s", layer, head, why);
}

void fb_part_cache_note(fb_part_cache *cache, size_t layer, const bool *heads,
                        const fb_part_origin *origin) {
    for (size_t head = 0; head < cache->num_heads; head++)
        if (!heads || heads[head])
            cache->origins[layer * cache->num_heads + head] = *origin;
}

static bool holds(const fb_part_cache *cache, size_t layer, const fb_part_origin *origin) {
    return layer < cache->num_layers && first_stale(cache, layer, NULL, origin) == cache->num_heads;
}

bool fb_part_cache_is_fresh(const fb_part_cache *cache, size_t layer, const fb_kv_cache *kv) {
    return cache && kv &&
           holds(cache, layer,
                 &(fb_part_origin){.kind = FB_PART_EXTERNAL, .state = fb_kv_cache_epoch(kv)});
}

bool fb_residual_is_fresh(const fb_part_cache *cache, size_t layer, const fb_kv_cache *kv,
                          const fb_selection *selection) {
    return cache && kv && selection &&
           holds(cache, layer,
                 &(fb_part_origin){.kind = FB_PART_RESIDUAL,
                                   .state = fb_kv_cache_epoch(kv),
                                   .selection = fb_selection_id(selection)});
}

fb_status fb_part_cache_load(const fb_part_cache *cache, size_t layer, const fb_kv_cache *kv,
                             fb_compat compat, fb_part *part) {
    FB_TRY(check_layer(cache, layer));
    if (!kv || !part)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", kv ? "part" : "kv");
    if (compat != FB_COMPAT_RELEASED)
        FB_TRY(fb_part_cache_expect(cache, layer, NULL,
                                    &(fb_part_origin){.kind = FB_PART_EXTERNAL,
                                                      .state = fb_kv_cache_epoch(kv),
                                                      .tokens = fb_kv_cache_length(kv)}));
    *part = fb_part_cache_slot(cache, layer);
    return FB_OK;
}

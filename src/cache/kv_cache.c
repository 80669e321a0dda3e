#include "attention/check.h"
#include "attention/kv_access.h"
#include "base/busy.h"
#include "base/error.h"
#include "base/memory.h"
#include "simd/integers.h"

#include <flashblock/kv_cache.h>

#include <stdatomic.h>
#include <string.h>

struct fb_kv_cache {
    fb_kv_cache_config config;
    size_t page_bytes;
    size_t slab_pages; /* pages of one allocation, see reserve */
    size_t length;     /* committed tokens */
    fb_busy busy;      /* being written */
    uint64_t epoch, history;
    struct fb_kv_pages *layers; /* [num_layers] */
};

/* One number for each state of each KV cache of the process, so that a part stored from a cache
 * that is gone fits no later one. */
static uint64_t next_epoch(void) {
    static atomic_uint_fast64_t last;
    return atomic_fetch_add(&last, 1) + 1;
}

/* keys and values of one page; values are padded, see kv_access.h */
static fb_status page_size(const fb_kv_cache_config *config, size_t *bytes) {
    size_t groups = fb_key_group_bytes(config->dtype, config->head_dim) +
                    fb_value_group_bytes(config->dtype, config->head_dim);
    if (!fb_size_mul(config->num_kv_heads, groups * FB_PAGE_GROUPS, bytes))
        return fb_fail(FB_ERROR_ARGUMENT, "%zu KV heads of %zu values overflow a page",
                       config->num_kv_heads, config->head_dim);
    return FB_OK;
}

/* Pages of a slab: so many that it fills huge pages and wastes at most an eighth of them. */
static size_t pages_of_slab(size_t page_bytes) {
    size_t pages = 1, most = 64 * FB_HUGE_PAGE / page_bytes;
    for (; pages < most; pages++) {
        size_t bytes = pages * page_bytes, over = bytes % FB_HUGE_PAGE;
        if (bytes >= FB_HUGE_PAGE && (over == 0 || FB_HUGE_PAGE - over <= bytes / 8))
            break;
    }
    return pages;
}

size_t fb_kv_row_bytes(fb_dtype dtype, size_t head_dim) {
    return dtype == FB_INT8 ? head_dim + sizeof(float) : head_dim * fb_dtype_size(dtype);
}

fb_status fb_kv_dtype_parse(const char *name, fb_dtype *dtype) {
    for (fb_dtype candidate = FB_F32; candidate <= FB_INT8; candidate++)
        if (name && strcmp(name, fb_dtype_name(candidate)) == 0) {
            *dtype = candidate;
            return FB_OK;
        }
    return fb_fail(FB_ERROR_ARGUMENT, "dtype is '%s', expected f32, bf16, f16 or int8",
                   name ? name : "(null)");
}

static fb_status check_config(const fb_kv_cache_config *config) {
    if (!config)
        return fb_fail(FB_ERROR_ARGUMENT, "config is NULL");
    if (config->num_layers == 0 || config->num_kv_heads == 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "config has %zu layers and %zu KV heads, expected at least 1 of each",
                       config->num_layers, config->num_kv_heads);
    if (config->head_dim == 0 || config->head_dim > FB_MAX_HEAD_DIM)
        return fb_fail(FB_ERROR_ARGUMENT, "config.head_dim is %zu, expected 1 to %d",
                       config->head_dim, FB_MAX_HEAD_DIM);
    if (fb_kv_row_bytes(config->dtype, config->head_dim) == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "config.dtype is %d, expected f32, bf16, f16 or int8",
                       (int)config->dtype);
    return FB_OK;
}

fb_status fb_kv_cache_create(const fb_kv_cache_config *config, fb_kv_cache **cache) {
    FB_TRY(check_config(config));
    if (!cache)
        return fb_fail(FB_ERROR_ARGUMENT, "cache is NULL");
    size_t bytes = 0;
    FB_TRY(page_size(config, &bytes));
    fb_kv_cache *created = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *created, "KV cache", &created));
    created->config = *config;
    created->page_bytes = bytes;
    created->slab_pages = pages_of_slab(bytes);
    created->epoch = created->history = next_epoch();
    fb_status status = fb_alloc_zeroed(config->num_layers, sizeof *created->layers,
                                       "KV cache layers", &created->layers);
    if (status != FB_OK) {
        fb_free(created);
        return status;
    }
    for (size_t layer = 0; layer < config->num_layers; layer++)
        created->layers[layer].num_kv_heads = config->num_kv_heads;
    *cache = created;
    return FB_OK;
}

/* Pages of the allocation that begins with `page`: one each in a small cache, then slabs. */
static size_t slab_at(const fb_kv_cache *cache, size_t page) {
    return page < cache->slab_pages ? 1 : cache->slab_pages;
}

void fb_kv_cache_destroy(fb_kv_cache *cache) {
    if (!cache)
        return;
    for (size_t layer = 0; layer < cache->config.num_layers; layer++) {
        for (size_t page = 0; page < cache->layers[layer].num_pages; page += slab_at(cache, page))
            fb_free(cache->layers[layer].pages[page]);
        fb_free(cache->layers[layer].pages);
    }
    fb_free(cache->layers);
    fb_free(cache);
}

const fb_kv_cache_config *fb_kv_cache_config_of(const fb_kv_cache *cache) {
    return &cache->config;
}

size_t fb_kv_cache_length(const fb_kv_cache *cache) {
    return cache->length;
}

uint64_t fb_kv_cache_epoch(const fb_kv_cache *cache) {
    return cache->epoch;
}

uint64_t fb_kv_cache_history(const fb_kv_cache *cache) {
    return cache->history;
}

size_t fb_kv_cache_bytes(const fb_kv_cache *cache) {
    size_t bytes = 0;
    for (size_t layer = 0; layer < cache->config.num_layers; layer++)
        bytes += cache->layers[layer].num_pages * cache->page_bytes;
    return bytes;
}

/* Room for `pages` pointers to pages; it grows by powers of two. */
static fb_status reserve_pointers(struct fb_kv_pages *layer, size_t pages) {
    size_t room = layer->room ? layer->room : 1;
    while (room < pages)
        room *= 2;
    if (room == layer->room)
        return FB_OK;
    void **grown = NULL;
    FB_TRY(fb_alloc(room, sizeof *grown, "KV cache pages", &grown));
    if (layer->num_pages)
        memcpy(grown, layer->pages, layer->num_pages * sizeof *grown);
    fb_free(layer->pages);
    layer->pages = grown;
    layer->room = room;
    return FB_OK;
}

/* Pages for at least `tokens` tokens; pages never move. A fresh page is zeroed: lanes that no token
 * has filled are read, and thrown away. */
static fb_status reserve(fb_kv_cache *cache, struct fb_kv_pages *layer, size_t tokens) {
    size_t needed = tokens / FB_PAGE_TOKENS + (tokens % FB_PAGE_TOKENS != 0);
    while (layer->num_pages < needed) {
        size_t count = slab_at(cache, layer->num_pages);
        FB_TRY(reserve_pointers(layer, layer->num_pages + count));
        char *slab = NULL;
        FB_TRY(fb_alloc_zeroed(count, cache->page_bytes, "KV cache page", &slab));
        for (size_t page = 0; page < count; page++)
            layer->pages[layer->num_pages++] = slab + page * cache->page_bytes;
    }
    return FB_OK;
}

static fb_status check_layer(const fb_kv_cache *cache, size_t layer) {
    if (!cache)
        return fb_fail(FB_ERROR_ARGUMENT, "cache is NULL");
    if (layer >= cache->config.num_layers)
        return fb_fail(FB_ERROR_ARGUMENT, "layer is %zu, expected below %zu", layer,
                       cache->config.num_layers);
    return FB_OK;
}

/* Elements rounded at a time. */
enum { ROUNDED = 64 };

/* Every 16th of `to`: a key's lane of a packed group. */
static void scatter(const void *from, size_t size, size_t count, char *to) {
    if (size == sizeof(float)) {
        for (size_t i = 0; i < count; i++)
            memcpy(to + i * FB_GROUP_KEYS * sizeof(float), (const float *)from + i, sizeof(float));
        return;
    }
    for (size_t i = 0; i < count; i++)
        memcpy(to + i * FB_GROUP_KEYS * sizeof(uint16_t), (const uint16_t *)from + i,
               sizeof(uint16_t));
}

/* Rounds a key's floats into its lane of a packed group. */
static void store_key(const fb_kv *kv, const float *from, size_t head, size_t token) {
    /* fb_key and fb_value read; the cache owns the memory they point into */
    char *key = (char *)(uintptr_t)fb_key(kv, head, token);
    size_t size = fb_dtype_size(kv->dtype);
    for (size_t d = 0; d < kv->head_dim; d += ROUNDED) {
        float rounded[ROUNDED];
        size_t left = kv->head_dim - d, count = left < ROUNDED ? left : ROUNDED;
        (void)fb_from_f32(kv->dtype, from + d, rounded, count);
        scatter(rounded, size, count, key + fb_key_index(kv, d) * size);
    }
}

/* Elements of panel number d / 16. */
static size_t panel_dims(const fb_kv *kv, size_t d) {
    size_t left = kv->head_dim - d;
    return left < FB_PANEL_DIMS ? left : FB_PANEL_DIMS;
}

static void store_value(const fb_kv *kv, const float *from, size_t head, size_t token) {
    char *value = (char *)(uintptr_t)fb_value(kv, head, token);
    size_t size = fb_dtype_size(kv->dtype);
    for (size_t d = 0; d < kv->head_dim; d += FB_PANEL_DIMS)
        (void)fb_from_f32(kv->dtype, from + d, value + fb_value_index(kv, d) * size,
                          panel_dims(kv, d));
}

/* Quantises a key into its lane of a packed group (contract C14.1). */
static void store_int_key(const fb_kv *kv, const float *from, size_t head, size_t token) {
    int8_t *group = (int8_t *)(uintptr_t)fb_key_group(kv, head, token);
    size_t lane = token % FB_GROUP_KEYS;
    fb_int_scale scale = fb_int_scale_of_group(from, kv->head_dim);
    ((float *)(uintptr_t)fb_key_scales(group, kv->head_dim))[lane] = scale.scale;
    for (size_t d = 0; d < kv->head_dim; d++)
        group[fb_int_key_index(d, lane)] = fb_int_of(scale, from[d]);
}

static void store_int_value(const fb_kv *kv, const float *from, size_t head, size_t token) {
    int8_t *group = (int8_t *)(uintptr_t)fb_value_group(kv, head, token);
    size_t lane = token % FB_GROUP_KEYS;
    fb_int_scale scale = fb_int_scale_of_group(from, kv->head_dim);
    ((float *)(uintptr_t)fb_value_scales(group, kv->head_dim))[lane] = scale.scale;
    for (size_t d = 0; d < kv->head_dim; d++)
        group[fb_int_value_index(d, lane)] = fb_int_of(scale, from[d]);
}

static fb_status write_rows(fb_kv_cache *cache, size_t layer, size_t first, size_t num_tokens,
                            const float *k, const float *v) {
    struct fb_kv_pages *pages = &cache->layers[layer];
    size_t end = 0;
    if (first > pages->num_tokens || !fb_size_add(first, num_tokens, &end))
        return fb_fail(FB_ERROR_ARGUMENT,
                       "first is %zu, expected at most the %zu tokens of layer %zu", first,
                       pages->num_tokens, layer);
    if (num_tokens == 0)
        return FB_OK;
    if (!k || !v)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL with %zu tokens", k ? "v" : "k", num_tokens);
    FB_TRY(reserve(cache, pages, end));
    if (first < cache->length)
        cache->epoch = cache->history = next_epoch();
    pages->num_tokens = end > pages->num_tokens ? end : pages->num_tokens;
    fb_kv kv;
    FB_TRY(fb_kv_cache_layer(cache, layer, &kv));
    size_t head_dim = kv.head_dim;
    bool ints = kv.dtype == FB_INT8;
    for (size_t token = 0; token < num_tokens; token++)
        for (size_t head = 0; head < kv.num_kv_heads; head++) {
            size_t row = (token * kv.num_kv_heads + head) * head_dim;
            (ints ? store_int_key : store_key)(&kv, k + row, head, first + token);
            (ints ? store_int_value : store_value)(&kv, v + row, head, first + token);
        }
    return FB_OK;
}

static fb_status commit(fb_kv_cache *cache, size_t num_tokens) {
    size_t length = 0;
    if (!fb_size_add(cache->length, num_tokens, &length))
        return fb_fail(FB_ERROR_ARGUMENT, "num_tokens is %zu, which overflows the length",
                       num_tokens);
    for (size_t layer = 0; layer < cache->config.num_layers; layer++)
        if (cache->layers[layer].num_tokens < length)
            return fb_fail(FB_ERROR_ARGUMENT,
                           "num_tokens is %zu, but layer %zu holds %zu tokens after the %zu "
                           "committed ones",
                           num_tokens, layer, cache->layers[layer].num_tokens - cache->length,
                           cache->length);
    cache->length = length;
    cache->epoch = next_epoch();
    return FB_OK;
}

static fb_status truncate_to(fb_kv_cache *cache, size_t length) {
    if (length > cache->length)
        return fb_fail(FB_ERROR_ARGUMENT, "length is %zu, expected at most %zu", length,
                       cache->length);
    for (size_t layer = 0; layer < cache->config.num_layers; layer++)
        cache->layers[layer].num_tokens = length;
    cache->length = length;
    cache->epoch = cache->history = next_epoch();
    return FB_OK;
}

static const char what[] = "the KV cache";

fb_status fb_kv_cache_write(fb_kv_cache *cache, size_t layer, size_t first, size_t num_tokens,
                            const float *k, const float *v) {
    FB_TRY(check_layer(cache, layer));
    FB_TRY(fb_busy_begin(&cache->busy, what));
    fb_status status = write_rows(cache, layer, first, num_tokens, k, v);
    fb_busy_end(&cache->busy);
    return status;
}

fb_status fb_kv_cache_commit(fb_kv_cache *cache, size_t num_tokens) {
    FB_TRY(check_layer(cache, 0));
    FB_TRY(fb_busy_begin(&cache->busy, what));
    fb_status status = commit(cache, num_tokens);
    fb_busy_end(&cache->busy);
    return status;
}

fb_status fb_kv_cache_truncate(fb_kv_cache *cache, size_t length) {
    FB_TRY(check_layer(cache, 0));
    FB_TRY(fb_busy_begin(&cache->busy, what));
    fb_status status = truncate_to(cache, length);
    fb_busy_end(&cache->busy);
    return status;
}

fb_status fb_kv_cache_layer(const fb_kv_cache *cache, size_t layer, fb_kv *kv) {
    FB_TRY(check_layer(cache, layer));
    *kv = (fb_kv){
        .dtype = cache->config.dtype,
        .num_tokens = cache->layers[layer].num_tokens,
        .num_kv_heads = cache->config.num_kv_heads,
        .head_dim = cache->config.head_dim,
        .pages = &cache->layers[layer],
    };
    return FB_OK;
}

fb_status fb_kv_cache_read(const fb_kv_cache *cache, size_t layer, size_t first, size_t num_tokens,
                           float *k, float *v) {
    fb_kv kv;
    FB_TRY(fb_kv_cache_layer(cache, layer, &kv));
    if (first > kv.num_tokens || num_tokens > kv.num_tokens - first)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "tokens [%zu, %zu + %zu) are not inside the %zu of layer "
                       "%zu",
                       first, first, num_tokens, kv.num_tokens, layer);
    for (size_t token = 0; token < num_tokens; token++)
        for (size_t head = 0; head < kv.num_kv_heads; head++) {
            size_t row = (token * kv.num_kv_heads + head) * kv.head_dim;
            if (k)
                fb_read_key(&kv, head, first + token, k + row);
            if (v)
                fb_read_value(&kv, head, first + token, v + row);
        }
    return FB_OK;
}

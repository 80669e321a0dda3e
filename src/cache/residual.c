/* Attention to a selection, and the cached part of the keys that it leaves out. */
#include "cache/residual.h"

#include "attention/check.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/scratch.h"

#include <flashblock/runtime.h>

#include <omp.h>
#include <stdint.h>
#include <string.h>

/* --- attention to a selection ----------------------------------------------------------------- */

static fb_status check_selection(const fb_queries *queries, const fb_kv *kv,
                                 const fb_selection *selection) {
    if (!selection)
        return fb_fail(FB_ERROR_ARGUMENT, "selection is NULL");
    if (selection->num_keys > kv->num_tokens)
        return fb_fail(FB_ERROR_ARGUMENT, "selection is of %zu keys, kv holds %zu tokens",
                       selection->num_keys, kv->num_tokens);
    if (selection->num_lists == 0 || queries->num_heads % selection->num_lists != 0 ||
        selection->num_lists % kv->num_kv_heads != 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "selection has %zu lists, expected a divisor of the %zu heads and a "
                       "multiple of the %zu KV heads",
                       selection->num_lists, queries->num_heads, kv->num_kv_heads);
    return FB_OK;
}

static bool lists_are_equal(const fb_selection *selection) {
    const size_t *first = selection->blocks;
    for (size_t list = 1; list < selection->num_lists; list++)
        if (selection->counts[list] != selection->counts[0] ||
            memcmp(selection->blocks + list * selection->num_blocks, first,
                   selection->counts[0] * sizeof *first) != 0)
            return false;
    return true;
}

/* The heads of lists first .. first + count - 1, all of which follow list `first`. */
static fb_status attend_lists(const fb_queries *queries, const fb_kv *kv,
                              const fb_selection *selection, size_t first, size_t count,
                              float scale, const fb_part *result) {
    void *memory = NULL;
    FB_TRY(fb_scratch_acquire((selection->counts[first] + 1) * sizeof(fb_range), &memory));
    size_t heads = queries->num_heads / selection->num_lists, head = first * heads;
    size_t lists_per_kv = selection->num_lists / kv->num_kv_heads;
    fb_kv own =
        fb_kv_heads(kv, first / lists_per_kv, count < lists_per_kv ? 1 : count / lists_per_kv);
    fb_view view = {&own, memory, fb_selection_ranges(selection, first, memory)};
    fb_queries rows = *queries;
    rows.num_heads = heads * count;
    rows.q += (ptrdiff_t)head * queries->head_stride;
    fb_part part = *result;
    part.out += (ptrdiff_t)head * result->out_head_stride;
    part.lse += (ptrdiff_t)head * result->lse_head_stride;
    if (part.mean_key)
        part.mean_key += (ptrdiff_t)head * result->out_head_stride;
    fb_status status = fb_attend_gathered(&rows, &view, NULL, scale, &part);
    fb_scratch_release(memory);
    return status;
}

/* Threads take lists where there are enough of them; otherwise they share the keys of one. */
static fb_status attend_each_list(const fb_queries *queries, const fb_kv *kv,
                                  const fb_selection *selection, float scale,
                                  const fb_part *result) {
    size_t threads = (size_t)fb_num_threads();
    int several = selection->num_lists >= threads && threads > 1;
    fb_status failed = FB_OK;
#pragma omp parallel for schedule(dynamic) num_threads((int)threads) if (several)
    for (size_t list = 0; list < selection->num_lists; list++) {
        fb_status status = attend_lists(queries, kv, selection, list, 1, scale, result);
        if (status != FB_OK) {
#pragma omp atomic write
            failed = status;
        }
    }
    return failed == FB_OK ? FB_OK : fb_fail(failed, "attention to a selection failed");
}

fb_status fb_selection_attend(const fb_queries *queries, const fb_kv *kv,
                              const fb_selection *selection, float scale, const fb_part *result) {
    fb_view none = {kv, NULL, 0};
    size_t num_keys = 0;
    FB_TRY(fb_check_view(&none, &num_keys));
    FB_TRY(fb_check_queries(queries, &none));
    FB_TRY(fb_check_part(result, "result", queries->num_queries, queries->num_heads,
                         queries->head_dim));
    FB_TRY(check_selection(queries, kv, selection));
    if (queries->num_queries == 0)
        return FB_OK;
    if (lists_are_equal(selection))
        return attend_lists(queries, kv, selection, 0, selection->num_lists, scale, result);
    return attend_each_list(queries, kv, selection, scale, result);
}

/* --- residuals -------------------------------------------------------------------------------- */

/* What a residual belongs to. An epoch names one state of one KV cache; 0 names none. */
typedef struct residual_origin {
    uint64_t epoch, selection;
    size_t rows;
} residual_origin;

struct fb_residual_cache {
    size_t num_layers, block_size, num_heads, head_dim;
    float *out;               /* [num_layers, block_size, num_heads, head_dim] */
    float *lse;               /* [num_layers, block_size, num_heads] */
    residual_origin *origins; /* [num_layers] */
    fb_selection unselected;  /* scratch */
};

fb_status fb_residual_cache_create(size_t num_layers, size_t block_size, size_t num_heads,
                                   size_t head_dim, fb_residual_cache **cache) {
    if (num_layers == 0 || block_size == 0 || num_heads == 0 || head_dim == 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "residual cache of %zu layers x %zu rows x %zu heads x %zu values, expected "
                       "at least 1 of each",
                       num_layers, block_size, num_heads, head_dim);
    if (!cache)
        return fb_fail(FB_ERROR_ARGUMENT, "cache is NULL");
    size_t rows = 0, values = 0;
    if (!fb_size_mul(num_layers, block_size, &rows) || !fb_size_mul(rows, num_heads, &rows) ||
        !fb_size_mul(rows, head_dim, &values))
        return fb_fail(FB_ERROR_MEMORY, "residual cache: %zu x %zu x %zu x %zu values overflow",
                       num_layers, block_size, num_heads, head_dim);
    fb_residual_cache *created = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *created, "residual cache", &created));
    created->num_layers = num_layers;
    created->block_size = block_size;
    created->num_heads = num_heads;
    created->head_dim = head_dim;
    fb_status status =
        fb_alloc_zeroed(values, sizeof *created->out, "residual outputs", &created->out);
    if (status == FB_OK)
        status = fb_alloc_zeroed(rows, sizeof *created->lse, "residual LSEs", &created->lse);
    if (status == FB_OK)
        status = fb_alloc_zeroed(num_layers, sizeof *created->origins, "residual origins",
                                 &created->origins);
    if (status != FB_OK) {
        fb_residual_cache_destroy(created);
        return status;
    }
    *cache = created;
    return FB_OK;
}

void fb_residual_cache_destroy(fb_residual_cache *cache) {
    if (!cache)
        return;
    fb_free(cache->out);
    fb_free(cache->lse);
    fb_free(cache->origins);
    fb_selection_release(&cache->unselected);
    fb_free(cache);
}

void fb_residual_cache_invalidate(fb_residual_cache *cache) {
    memset(cache->origins, 0, cache->num_layers * sizeof *cache->origins);
}

bool fb_residual_cache_is_fresh(const fb_residual_cache *cache, size_t layer, const fb_kv_cache *kv,
                                const fb_selection *selection) {
    if (!cache || !kv || !selection || layer >= cache->num_layers)
        return false;
    const residual_origin *origin = &cache->origins[layer];
    return origin->epoch == fb_kv_cache_epoch(kv) &&
           origin->selection == fb_selection_id(selection);
}

static fb_part slot(const fb_residual_cache *cache, size_t layer) {
    size_t rows = layer * cache->block_size * cache->num_heads;
    return fb_part_rows(cache->out + rows * cache->head_dim, cache->lse + rows, cache->num_heads,
                        cache->head_dim);
}

static fb_status check_fresh(const fb_residual_cache *cache, size_t layer, const fb_kv_cache *kv,
                             const fb_selection *selection, size_t rows) {
    const residual_origin *origin = &cache->origins[layer];
    if (origin->epoch == 0)
        return fb_fail(FB_ERROR_STALE, "layer %zu: no residual has been stored", layer);
    if (origin->epoch != fb_kv_cache_epoch(kv))
        return fb_fail(FB_ERROR_STALE,
                       "layer %zu: the residual belongs to epoch %llu, the KV cache is at %llu",
                       layer, (unsigned long long)origin->epoch,
                       (unsigned long long)fb_kv_cache_epoch(kv));
    if (origin->selection != fb_selection_id(selection))
        return fb_fail(FB_ERROR_STALE,
                       "layer %zu: the residual belongs to selection %016llx, not to %016llx",
                       layer, (unsigned long long)origin->selection,
                       (unsigned long long)fb_selection_id(selection));
    if (origin->rows < rows)
        return fb_fail(FB_ERROR_STALE, "layer %zu: the residual has %zu rows, not %zu", layer,
                       origin->rows, rows);
    return FB_OK;
}

/* The residual: from the cache, or computed into its slot or into `scratch`. */
static fb_status residual_part(const fb_queries *queries, const fb_kv_cache *kv_cache,
                               const fb_kv *kv, size_t layer, const fb_selection *selection,
                               fb_reuse_action action, fb_residual_cache *cache, float scale,
                               const fb_part *scratch, fb_part *residual) {
    if (action == FB_REUSE) {
        FB_TRY(check_fresh(cache, layer, kv_cache, selection, queries->num_queries));
        *residual = slot(cache, layer);
        return FB_OK;
    }
    FB_TRY(fb_selection_complement(selection, &cache->unselected));
    *residual = *scratch;
    if (action == FB_REFRESH_AND_STORE) {
        *residual = slot(cache, layer);
        cache->origins[layer] = (residual_origin){0};
    }
    FB_TRY(fb_selection_attend(queries, kv, &cache->unselected, scale, residual));
    if (action == FB_REFRESH_AND_STORE)
        cache->origins[layer] = (residual_origin){fb_kv_cache_epoch(kv_cache),
                                                  fb_selection_id(selection), queries->num_queries};
    return FB_OK;
}

static fb_status check_cache(const fb_queries *queries, const fb_residual_cache *cache,
                             size_t layer, fb_reuse_action action) {
    if (action != FB_REFRESH_AND_STORE && action != FB_REFRESH_ONLY && action != FB_REUSE)
        return fb_fail(FB_ERROR_ARGUMENT, "action is %d, expected a reuse action", (int)action);
    if (layer >= cache->num_layers)
        return fb_fail(FB_ERROR_ARGUMENT, "layer is %zu, expected below the residual cache's %zu",
                       layer, cache->num_layers);
    if (queries->num_queries > cache->block_size || queries->num_heads != cache->num_heads ||
        queries->head_dim != cache->head_dim)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "queries are %zu x %zu x %zu, the residual cache holds %zu x %zu x %zu",
                       queries->num_queries, queries->num_heads, queries->head_dim,
                       cache->block_size, cache->num_heads, cache->head_dim);
    return FB_OK;
}

/* --- a block ---------------------------------------------------------------------------------- */

/* The block's own keys, behind `length` committed ones. */
static fb_status internal_part(const fb_queries *queries, const fb_kv *kv, size_t length,
                               float scale, const fb_part *internal) {
    fb_range own = {length, length + queries->num_queries};
    fb_view view = {kv, &own, 1};
    return fb_attend(queries, &view, NULL, scale, internal);
}

static fb_status check_block(const fb_queries *queries, const fb_kv_cache *kv_cache,
                             const fb_selection *selection, const fb_kv *kv, size_t layer) {
    size_t length = fb_kv_cache_length(kv_cache);
    FB_TRY(check_selection(queries, kv, selection));
    if (selection->num_keys != length)
        return fb_fail(FB_ERROR_ARGUMENT, "selection is of %zu keys, %zu tokens are committed",
                       selection->num_keys, length);
    if (kv->num_tokens - length < queries->num_queries)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "layer %zu holds %zu tokens of the current block, expected %zu", layer,
                       kv->num_tokens - length, queries->num_queries);
    return FB_OK;
}

/* Floats of a part of these queries, outputs first. */
static fb_status part_floats(const fb_queries *queries, size_t *values, size_t *floats) {
    size_t rows = 0;
    if (!fb_size_mul(queries->num_queries, queries->num_heads, &rows) ||
        !fb_size_mul(rows, queries->head_dim, values) || !fb_size_add(*values, rows, floats))
        return fb_fail(FB_ERROR_ARGUMENT, "queries: %zu x %zu x %zu values overflow",
                       queries->num_queries, queries->num_heads, queries->head_dim);
    return FB_OK;
}

static fb_status merge(const fb_queries *queries, const fb_part *a, const fb_part *b,
                       const fb_part *result) {
    return fb_merge(a, b, queries->num_queries, queries->num_heads, queries->head_dim, result);
}

/* selected := part(selected), merged with the residual if there is one. `spare` is scratch. */
static fb_status external_part(const fb_queries *queries, const fb_kv_cache *kv_cache,
                               const fb_kv *kv, size_t layer, const fb_selection *selection,
                               fb_reuse_action action, const fb_residual_source *source,
                               float scale, const fb_part *spare, const fb_part *selected) {
    fb_part residual = *spare;
    FB_TRY(fb_selection_attend(queries, kv, selection, scale, selected));
    if (!source->cache && !source->compute)
        return FB_OK;
    if (source->cache)
        FB_TRY(residual_part(queries, kv_cache, kv, layer, selection, action, source->cache, scale,
                             spare, &residual));
    else
        FB_TRY(source->compute(source->context, &residual));
    return merge(queries, selected, &residual, selected);
}

fb_status fb_sparse_attend_with(const fb_queries *queries, const fb_kv_cache *kv_cache,
                                size_t layer, const fb_selection *selection, fb_reuse_action action,
                                const fb_residual_source *source, float scale,
                                const fb_part *result) {
    if (!queries || !kv_cache)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", queries ? "kv" : "queries");
    fb_kv kv;
    FB_TRY(fb_kv_cache_layer(kv_cache, layer, &kv));
    fb_view none = {&kv, NULL, 0};
    FB_TRY(fb_check_queries(queries, &none));
    FB_TRY(fb_check_part(result, "result", queries->num_queries, queries->num_heads,
                         queries->head_dim));
    FB_TRY(check_block(queries, kv_cache, selection, &kv, layer));
    if (source->cache)
        FB_TRY(check_cache(queries, source->cache, layer, action));
    size_t values = 0, floats = 0, bytes = 0;
    FB_TRY(part_floats(queries, &values, &floats));
    if (!fb_size_mul(floats, 3 * sizeof(float), &bytes))
        return fb_fail(FB_ERROR_ARGUMENT, "queries: %zu values overflow", values);
    void *memory = NULL;
    FB_TRY(fb_scratch_acquire(bytes, &memory));
    fb_part parts[3]; /* selected, spare, internal */
    for (size_t i = 0; i < 3; i++)
        parts[i] = fb_part_rows((float *)memory + i * floats, (float *)memory + i * floats + values,
                                queries->num_heads, queries->head_dim);
    fb_status status = external_part(queries, kv_cache, &kv, layer, selection, action, source,
                                     scale, &parts[1], &parts[0]);
    if (status == FB_OK)
        status = internal_part(queries, &kv, fb_kv_cache_length(kv_cache), scale, &parts[2]);
    if (status == FB_OK)
        status = merge(queries, &parts[0], &parts[2], result);
    fb_scratch_release(memory);
    return status;
}

fb_status fb_sparse_attend(const fb_queries *queries, const fb_kv_cache *kv, size_t layer,
                           const fb_selection *selection, fb_reuse_action action,
                           fb_residual_cache *residuals, float scale, const fb_part *result) {
    fb_residual_source source = {.cache = residuals};
    return fb_sparse_attend_with(queries, kv, layer, selection, action, &source, scale, result);
}

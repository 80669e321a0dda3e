/* The causal video cache: a list of pieces of blocks, in slots of a KV cache that has one "layer"
 * for each head of each layer, so that heads can be attended to one by one. */
#include "base/error.h"
#include "base/memory.h"
#include "base/scratch.h"

#include <flashblock/experimental/video_cache.h>
#include <flashblock/kv_cache.h>

#include <stdatomic.h>
#include <string.h>

/* Tokens that lie together: a block, or what eviction left of it. */
typedef struct piece {
    size_t begin, tokens; /* in memory */
} piece;

struct fb_video_cache {
    fb_video_cache_config config;
    size_t sink, capacity, attended, block; /* of the configuration, in tokens */
    size_t slot_tokens;                     /* a block's, up to a multiple of the tile */
    size_t first_slot; /* tokens before the slots: the zeros of an empty sink */
    fb_kv_cache *kv;   /* layer * num_heads + head, one KV head each */
    piece *pieces;     /* in logical order; [max_pieces] */
    size_t num_pieces, max_pieces;
    fb_video_placement placement;
    size_t first_frame, num_frames; /* of the current block */
    uint64_t context;
    fb_range *ranges; /* [max_pieces + 3]: external, then internal */
    size_t num_external, num_internal;
    fb_range *writes; /* [max_pieces]: where the current block is written */
    size_t num_writes;
};

/* One number for each state of each cache of the process. */
static uint64_t next_context(void) {
    static atomic_uint_fast64_t last;
    return atomic_fetch_add(&last, 1) + 1;
}

/* --- creation --------------------------------------------------------------------------------- */

static fb_status check_frames(const fb_video_cache_config *config) {
    size_t least = 0;
    if (config->frame_tokens == 0 || config->block_frames == 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "config has frames of %zu tokens and blocks of %zu frames, expected at "
                       "least 1",
                       config->frame_tokens, config->block_frames);
    if (config->window_frames < config->block_frames)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "config.window_frames is %zu, less than a block of %zu frames",
                       config->window_frames, config->block_frames);
    if (config->sink_frames > config->window_frames)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "config.sink_frames is %zu, more than the window of %zu frames",
                       config->sink_frames, config->window_frames);
    if (!fb_size_add(config->sink_frames, config->block_frames, &least) ||
        config->window_frames < least)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "config.window_frames is %zu, expected at least the %zu of the sink and "
                       "the %zu of a block",
                       config->window_frames, config->sink_frames, config->block_frames);
    if (config->attended_frames != 0 &&
        (config->attended_frames < least || config->attended_frames > config->window_frames))
        return fb_fail(FB_ERROR_ARGUMENT,
                       "config.attended_frames is %zu, expected %zu to %zu, or 0 for all",
                       config->attended_frames, least, config->window_frames);
    return FB_OK;
}

static fb_status check_config(const fb_video_cache_config *config) {
    if (!config)
        return fb_fail(FB_ERROR_ARGUMENT, "config is NULL");
    if (config->num_layers == 0 || config->num_heads == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "config has %zu layers of %zu heads, expected at least 1",
                       config->num_layers, config->num_heads);
    if (config->compat != FB_COMPAT_PAPER && config->compat != FB_COMPAT_RELEASED)
        return fb_fail(FB_ERROR_ARGUMENT, "config.compat is %d, expected paper or released",
                       (int)config->compat);
    return check_frames(config);
}

static size_t tiles(size_t tokens) {
    return (tokens + FB_TILE_KEYS - 1) / FB_TILE_KEYS * FB_TILE_KEYS;
}

static fb_status set_sizes(fb_video_cache *cache) {
    const fb_video_cache_config *config = &cache->config;
    size_t frame = config->frame_tokens, total = 0;
    size_t attended = config->attended_frames ? config->attended_frames : config->window_frames;
    cache->max_pieces = config->window_frames + 1; /* a piece has a frame at least */
    if (!fb_size_mul(config->window_frames + 2, frame + FB_TILE_KEYS, &total) ||
        !fb_size_mul(total, config->block_frames, &total) || total > SIZE_MAX / 4096)
        return fb_fail(FB_ERROR_ARGUMENT, "config: %zu frames of %zu tokens overflow",
                       config->window_frames, frame);
    cache->sink = config->sink_frames * frame;
    cache->capacity = config->window_frames * frame;
    cache->attended = attended * frame;
    cache->block = config->block_frames * frame;
    cache->slot_tokens = tiles(cache->block);
    bool empty_sink =
        config->compat == FB_COMPAT_RELEASED && config->sink_frames > config->block_frames;
    cache->first_slot = empty_sink ? tiles(cache->sink) : 0;
    return FB_OK;
}

static fb_status allocate(fb_video_cache *cache) {
    const fb_video_cache_config *config = &cache->config;
    fb_kv_cache_config kv = {
        .num_kv_heads = 1, .head_dim = config->head_dim, .dtype = config->dtype};
    if (!fb_size_mul(config->num_layers, config->num_heads, &kv.num_layers))
        return fb_fail(FB_ERROR_ARGUMENT, "config: %zu layers of %zu heads overflow",
                       config->num_layers, config->num_heads);
    FB_TRY(fb_kv_cache_create(&kv, &cache->kv));
    FB_TRY(fb_alloc_zeroed(cache->max_pieces, sizeof *cache->pieces, "video cache pieces",
                           &cache->pieces));
    FB_TRY(fb_alloc_zeroed(cache->max_pieces, sizeof *cache->writes, "video cache ranges",
                           &cache->writes));
    return fb_alloc_zeroed(cache->max_pieces + 3, sizeof *cache->ranges, "video cache ranges",
                           &cache->ranges);
}

fb_status fb_video_cache_create(const fb_video_cache_config *config, fb_video_cache **cache) {
    FB_TRY(check_config(config));
    if (!cache)
        return fb_fail(FB_ERROR_ARGUMENT, "cache is NULL");
    fb_video_cache *created = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *created, "video cache", &created));
    created->config = *config;
    fb_status status = set_sizes(created);
    if (status == FB_OK)
        status = allocate(created);
    if (status != FB_OK) {
        fb_video_cache_destroy(created);
        return status;
    }
    *cache = created;
    return FB_OK;
}

void fb_video_cache_destroy(fb_video_cache *cache) {
    if (!cache)
        return;
    fb_kv_cache_destroy(cache->kv);
    fb_free(cache->pieces);
    fb_free(cache->ranges);
    fb_free(cache->writes);
    fb_free(cache);
}

const fb_video_cache_config *fb_video_cache_config_of(const fb_video_cache *cache) {
    return &cache->config;
}

void fb_video_cache_reset(fb_video_cache *cache) {
    cache->num_pieces = 0;
    cache->num_external = cache->num_internal = 0;
    cache->placement = (fb_video_placement){0};
    cache->num_frames = 0;
    cache->context = 0;
}

/* --- pieces ----------------------------------------------------------------------------------- */

/* Appends the memory of logical tokens begin .. end-1 to the ranges. */
static void add_ranges(const fb_video_cache *cache, size_t begin, size_t end, fb_range *ranges,
                       size_t *count) {
    size_t at = 0;
    for (size_t i = 0; i < cache->num_pieces; i++) {
        const piece *p = &cache->pieces[i];
        size_t from = begin > at ? begin - at : 0;
        size_t to = end > at ? end - at : 0;
        to = to < p->tokens ? to : p->tokens;
        if (from < to)
            ranges[(*count)++] = (fb_range){p->begin + from, p->begin + to};
        at += p->tokens;
    }
}

/* Takes `count` logical tokens from `begin` on out of the list; at most one piece is split. */
static void evict(fb_video_cache *cache, size_t begin, size_t count) {
    piece kept[2];
    size_t at = 0, end = begin + count, n = 0, total = cache->num_pieces;
    for (size_t i = 0; i < total; i++) {
        piece p = cache->pieces[i];
        size_t last = at + p.tokens, pieces = 0;
        if (at < begin)
            kept[pieces++] = (piece){p.begin, (last < begin ? last : begin) - at};
        if (last > end) {
            size_t skipped = end > at ? end - at : 0;
            kept[pieces++] = (piece){p.begin + skipped, p.tokens - skipped};
        }
        if (pieces == 2) { /* the eviction is inside this piece: make room */
            memmove(cache->pieces + i + 1, cache->pieces + i, (total - i) * sizeof p);
            total++;
            i++;
        }
        memcpy(cache->pieces + n, kept, pieces * sizeof p);
        n += pieces;
        at = last;
    }
    cache->num_pieces = n;
}

/* The first slot that no piece lies in. There are never more pieces than max_pieces. */
static size_t free_slot(const fb_video_cache *cache) {
    for (size_t slot = 0;; slot++) {
        size_t begin = cache->first_slot + slot * cache->slot_tokens;
        size_t i = 0;
        while (i < cache->num_pieces && (cache->pieces[i].begin < begin ||
                                         cache->pieces[i].begin >= begin + cache->slot_tokens))
            i++;
        if (i == cache->num_pieces)
            return begin;
    }
}

/* --- placing a block -------------------------------------------------------------------------- */

static fb_status check_block(const fb_video_cache *cache, size_t first_frame, size_t num_frames,
                             size_t *begin, size_t *end) {
    size_t frame = cache->config.frame_tokens, end_frame = 0;
    if (num_frames == 0 || num_frames > cache->config.block_frames)
        return fb_fail(FB_ERROR_ARGUMENT, "num_frames is %zu, expected 1 to a block's %zu",
                       num_frames, cache->config.block_frames);
    if (!fb_size_add(first_frame, num_frames, &end_frame) || !fb_size_mul(end_frame, frame, end))
        return fb_fail(FB_ERROR_ARGUMENT, "first_frame is %zu, which overflows", first_frame);
    *begin = first_frame * frame;
    const fb_video_placement *now = &cache->placement;
    if (*begin > now->end || (*begin<now->end && * end> now->end))
        return fb_fail(FB_ERROR_ARGUMENT,
                       "frames %zu to %zu neither follow the %zu frames of the clip nor are among "
                       "them",
                       first_frame, end_frame - 1, now->end / frame);
    size_t evicted = now->end - now->held; /* altogether; they came after the sink */
    if (*end <= now->end && evicted > 0 && *begin < cache->sink + evicted)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "frames %zu to %zu cannot be computed again: the window begins at frame %zu",
                       first_frame, end_frame - 1, (cache->sink + evicted) / frame);
    return FB_OK;
}

/* The list of keys, [0, sink) and the window's end, cut before its last `tokens`. */
static void place_views(fb_video_cache *cache, size_t tokens) {
    size_t end = cache->placement.end_at, sink = cache->sink, seen = 0;
    size_t window = cache->attended - sink;
    size_t from = end > window ? end - window : 0;
    from = from > sink ? from : sink;
    fb_range *ranges = cache->ranges;
    size_t count = 0;
    add_ranges(cache, 0, end < sink ? end : sink, ranges, &count);
    if (end < sink && cache->config.compat == FB_COMPAT_RELEASED)
        ranges[count++] = (fb_range){0, sink - end}; /* places that are zero still */
    if (end > sink)
        add_ranges(cache, from, end, ranges, &count);
    for (size_t i = 0; i < count; i++)
        seen += ranges[i].end - ranges[i].begin;
    size_t left = seen - tokens, i = 0; /* external tokens not counted yet */
    for (; i < count && left >= ranges[i].end - ranges[i].begin; i++)
        left -= ranges[i].end - ranges[i].begin;
    cache->num_external = i;
    if (left > 0) { /* the cut is inside a range */
        memmove(ranges + i + 1, ranges + i, (count - i) * sizeof *ranges);
        ranges[i].end = ranges[i].begin + left;
        ranges[i + 1].begin = ranges[i].end;
        cache->num_external++;
        count++;
    }
    cache->num_internal = count - cache->num_external;
}

fb_status fb_video_cache_begin(fb_video_cache *cache, size_t first_frame, size_t num_frames) {
    if (!cache)
        return fb_fail(FB_ERROR_ARGUMENT, "cache is NULL");
    size_t begin = 0, end = 0;
    FB_TRY(check_block(cache, first_frame, num_frames, &begin, &end));
    const fb_video_placement before = cache->placement;
    size_t tokens = end - begin;
    fb_video_placement now = {.end_before = before.end, .held_before = before.held};
    now.recomputes = end <= before.end && begin > 0;
    now.end = end > before.end ? end : before.end;
    now.held = before.held;
    if (end > before.end) {
        if (before.held + tokens > cache->capacity) {
            now.rolled = true;
            now.evicted = before.held + tokens - cache->capacity;
            now.kept_after_sink = before.held - now.evicted - cache->sink;
            evict(cache, cache->sink, now.evicted);
        }
        cache->pieces[cache->num_pieces++] = (piece){free_slot(cache), tokens};
        now.held = before.held - now.evicted + tokens;
    }
    now.end_at = now.held - (now.end - end);
    now.begin_at = now.end_at - tokens;
    now.write_from = now.begin_at;
    if (now.recomputes && cache->config.compat == FB_COMPAT_RELEASED &&
        now.write_from < cache->sink)
        now.write_from = cache->sink;
    if (first_frame != cache->first_frame || num_frames != cache->num_frames || !cache->context)
        cache->context = next_context();
    cache->first_frame = first_frame;
    cache->num_frames = num_frames;
    cache->placement = now;
    cache->num_writes = 0;
    if (now.write_from < now.end_at)
        add_ranges(cache, now.write_from, now.end_at, cache->writes, &cache->num_writes);
    place_views(cache, tokens);
    return FB_OK;
}

const fb_video_placement *fb_video_cache_placement(const fb_video_cache *cache) {
    return &cache->placement;
}

uint64_t fb_video_cache_context(const fb_video_cache *cache) {
    return cache->context;
}

bool fb_video_cache_has_history(const fb_video_cache *cache) {
    bool off = cache->config.compat == FB_COMPAT_RELEASED && cache->sink == 0;
    return cache->num_external > 0 && !off;
}

static size_t count_keys(const fb_range *ranges, size_t count) {
    size_t keys = 0;
    for (size_t i = 0; i < count; i++)
        keys += ranges[i].end - ranges[i].begin;
    return keys;
}

size_t fb_video_cache_num_external(const fb_video_cache *cache) {
    return count_keys(cache->ranges, cache->num_external);
}

size_t fb_video_cache_num_internal(const fb_video_cache *cache) {
    return count_keys(cache->ranges + cache->num_external, cache->num_internal);
}

size_t fb_video_cache_held(const fb_video_cache *cache) {
    return cache->placement.held;
}

/* --- keys and values -------------------------------------------------------------------------- */

static fb_status check_layer(const fb_video_cache *cache, size_t layer) {
    if (!cache)
        return fb_fail(FB_ERROR_ARGUMENT, "cache is NULL");
    if (layer >= cache->config.num_layers)
        return fb_fail(FB_ERROR_ARGUMENT, "layer is %zu, expected below %zu", layer,
                       cache->config.num_layers);
    if (cache->num_frames == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "no block has begun");
    return FB_OK;
}

/* One head's rows of [tokens, num_heads, head_dim]. */
static void gather_head(const fb_video_cache *cache, const float *from, size_t head, size_t tokens,
                        float *to) {
    size_t dim = cache->config.head_dim, row = cache->config.num_heads * dim;
    for (size_t t = 0; t < tokens; t++)
        memcpy(to + t * dim, from + t * row + head * dim, dim * sizeof *to);
}

/* Zeros up to token `end` of a head that holds fewer: gaps between slots, and an empty sink. */
static fb_status fill(fb_video_cache *cache, size_t index, size_t end, float *zeros,
                      size_t num_zeros) {
    fb_kv kv;
    FB_TRY(fb_kv_cache_layer(cache->kv, index, &kv));
    for (size_t held = kv.num_tokens; held < end;) {
        size_t count = end - held < num_zeros ? end - held : num_zeros;
        FB_TRY(fb_kv_cache_write(cache->kv, index, held, count, zeros, zeros));
        held += count;
    }
    return FB_OK;
}

/* scratch: keys and values of one head, [slot_tokens, head_dim] each */
static fb_status write_head(fb_video_cache *cache, size_t layer, size_t head, const float *k,
                            const float *v, float *scratch) {
    const fb_video_placement *at = &cache->placement;
    size_t index = layer * cache->config.num_heads + head, dim = cache->config.head_dim;
    size_t tokens = at->end_at - at->begin_at, row = at->write_from - at->begin_at;
    float *keys = scratch, *values = scratch + cache->slot_tokens * dim;
    memset(keys, 0, cache->slot_tokens * dim * sizeof *keys);
    for (size_t i = 0; i < cache->num_writes; i++)
        FB_TRY(fill(cache, index, cache->writes[i].begin, keys, cache->slot_tokens));
    gather_head(cache, k, head, tokens, keys);
    gather_head(cache, v, head, tokens, values);
    for (size_t i = 0; i < cache->num_writes; i++) {
        fb_range range = cache->writes[i];
        FB_TRY(fb_kv_cache_write(cache->kv, index, range.begin, range.end - range.begin,
                                 keys + row * dim, values + row * dim));
        row += range.end - range.begin;
    }
    return FB_OK;
}

fb_status fb_video_cache_write(fb_video_cache *cache, size_t layer, const float *k,
                               const float *v) {
    FB_TRY(check_layer(cache, layer));
    if (!k || !v)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", k ? "v" : "k");
    size_t bytes = 0;
    if (!fb_size_mul(2 * cache->slot_tokens, cache->config.head_dim * sizeof(float), &bytes))
        return fb_fail(FB_ERROR_MEMORY, "a block of %zu tokens overflows", cache->block);
    void *scratch = NULL;
    FB_TRY(fb_scratch_acquire(bytes, &scratch));
    fb_status status = FB_OK;
    for (size_t head = 0; head < cache->config.num_heads && status == FB_OK; head++)
        status = write_head(cache, layer, head, k, v, scratch);
    fb_scratch_release(scratch);
    return status;
}

fb_status fb_video_cache_views(const fb_video_cache *cache, size_t layer, fb_kv *kvs,
                               fb_view *external, fb_view *internal) {
    FB_TRY(check_layer(cache, layer));
    if (!kvs || !external || !internal)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL",
                       !kvs       ? "kvs"
                       : external ? "internal"
                                  : "external");
    for (size_t head = 0; head < cache->config.num_heads; head++) {
        FB_TRY(fb_kv_cache_layer(cache->kv, layer * cache->config.num_heads + head, &kvs[head]));
        external[head] = (fb_view){&kvs[head], cache->ranges, cache->num_external};
        internal[head] =
            (fb_view){&kvs[head], cache->ranges + cache->num_external, cache->num_internal};
    }
    return FB_OK;
}

/* One head's logical tokens, into rows of [held, num_heads, head_dim]; scratch [slot_tokens,
 * head_dim]. */
static fb_status read_head(const fb_video_cache *cache, size_t layer, size_t head, bool values,
                           float *scratch, float *to) {
    size_t index = layer * cache->config.num_heads + head, dim = cache->config.head_dim;
    size_t row = 0;
    for (size_t i = 0; i < cache->num_pieces; i++) {
        const piece *p = &cache->pieces[i];
        FB_TRY(fb_kv_cache_read(cache->kv, index, p->begin, p->tokens, values ? NULL : scratch,
                                values ? scratch : NULL));
        for (size_t t = 0; t < p->tokens; t++, row++)
            memcpy(to + (row * cache->config.num_heads + head) * dim, scratch + t * dim,
                   dim * sizeof *to);
    }
    return FB_OK;
}

fb_status fb_video_cache_read(const fb_video_cache *cache, size_t layer, float *k, float *v) {
    FB_TRY(check_layer(cache, layer));
    void *scratch = NULL;
    FB_TRY(
        fb_scratch_acquire(cache->slot_tokens * cache->config.head_dim * sizeof(float), &scratch));
    fb_status status = FB_OK;
    for (size_t head = 0; head < cache->config.num_heads && status == FB_OK; head++) {
        if (k)
            status = read_head(cache, layer, head, false, scratch, k);
        if (v && status == FB_OK)
            status = read_head(cache, layer, head, true, scratch, v);
    }
    fb_scratch_release(scratch);
    return status;
}

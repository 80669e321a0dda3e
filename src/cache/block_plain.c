/* A block that attends to every committed key: A_out and L_out of the paper, computed and kept or
 * taken from the cache, and the merge that uses them. */
#include "base/error.h"
#include "base/scratch.h"
#include "cache/block.h"
#include "cache/block_keys.h"
#include "cache/part_cache.h"

#include <math.h>
#include <string.h>

/* One call. */
typedef struct plain_pass {
    const fb_block_call *call;
    const fb_queries *queries;
    fb_block_keys keys;
    fb_part_origin origin; /* of a part that is computed now */
    fb_part computed;      /* scratch: a part that is not kept, or the rows to be scattered */
    float *gathered;       /* scratch [rows, num_heads, head_dim]: queries of those rows */
    float *lse;            /* scratch [rows, num_heads]: corrected */
} plain_pass;

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

/* pass->lse := the slot's LSEs, those of rows that were not computed now as
 * L(q0) + scale (q - q0) . k. An infinite key of weight 0 makes a mean key NaN; the row is then not
 * corrected. */
static void correct_lses(const plain_pass *pass, const float *q0, const fb_part *slot) {
    const bool *fresh = pass->call->refresh_rows;
    size_t heads = pass->queries->num_heads, dim = pass->queries->head_dim;
    float scale = pass->call->scale;
    double factor = scale != 0.0f ? (double)scale : (double)(float)(1.0 / sqrt((double)dim));
    memcpy(pass->lse, slot->lse, pass->queries->num_queries * heads * sizeof *pass->lse);
    for (size_t row = 0; row < pass->queries->num_queries; row++)
        for (size_t head = 0; head < heads && !(fresh && fresh[row]); head++) {
            size_t i = row * heads + head;
            double change = factor * moved_score(query_of(pass->queries, row, head), q0 + i * dim,
                                                 slot->mean_key + i * dim, dim);
            if (isfinite(change))
                pass->lse[i] = (float)((double)pass->lse[i] + change);
        }
}

/* The slot as it is merged. */
static fb_part kept_part(const plain_pass *pass) {
    fb_part kept = fb_part_cache_slot(pass->call->parts, pass->call->layer);
    const float *q0 = fb_part_cache_queries(pass->call->parts, pass->call->layer);
    if (!q0)
        return kept;
    correct_lses(pass, q0, &kept);
    kept.lse = pass->lse;
    return kept;
}

/* --- the external part ------------------------------------------------------------------------ */

static fb_status expect_fresh(const plain_pass *pass) {
    if (pass->call->compat == FB_COMPAT_RELEASED)
        return FB_OK;
    return fb_part_cache_expect(pass->call->parts, pass->call->layer, NULL, &pass->origin);
}

static fb_status attend_external(const plain_pass *pass, const fb_queries *queries,
                                 const fb_part *part) {
    return fb_block_attend_range(queries, &pass->keys.kv, 0, pass->keys.length, pass->call->scale,
                                 part);
}

static fb_status reuse(const plain_pass *pass, fb_part *external) {
    FB_TRY(expect_fresh(pass));
    *external = kept_part(pass);
    return FB_OK;
}

static fb_status refresh_and_store(const plain_pass *pass, fb_part *external) {
    const fb_queries *queries = pass->queries;
    fb_part_cache *parts = pass->call->parts;
    size_t layer = pass->call->layer, row_values = queries->num_heads * queries->head_dim;
    *external = fb_part_cache_slot(parts, layer);
    FB_TRY(attend_external(pass, queries, external));
    float *kept_queries = fb_part_cache_queries(parts, layer);
    for (size_t row = 0; kept_queries && row < queries->num_queries; row++)
        copy_query(queries, row, kept_queries + row * row_values);
    fb_part_cache_note(parts, layer, NULL, &pass->origin);
    return FB_OK;
}

/* Row `from` of the pass's computed rows becomes row `to` of the slot. */
static void store_row(const plain_pass *pass, size_t from, size_t to) {
    size_t heads = pass->queries->num_heads, values = heads * pass->queries->head_dim;
    fb_part slot = fb_part_cache_slot(pass->call->parts, pass->call->layer);
    memcpy(slot.out + to * values, pass->computed.out + from * values, values * sizeof *slot.out);
    memcpy(slot.lse + to * heads, pass->computed.lse + from * heads, heads * sizeof *slot.lse);
    if (!slot.mean_key)
        return;
    float *kept_queries = fb_part_cache_queries(pass->call->parts, pass->call->layer);
    memcpy(slot.mean_key + to * values, pass->computed.mean_key + from * values,
           values * sizeof *slot.mean_key);
    memcpy(kept_queries + to * values, pass->gathered + from * values,
           values * sizeof *pass->gathered);
}

/* The rows are gathered, so that keys and values are read once for all of them. */
static fb_status refresh_rows(const plain_pass *pass, fb_part *external) {
    const bool *refresh = pass->call->refresh_rows;
    size_t rows = pass->queries->num_queries, count = 0;
    size_t heads = pass->queries->num_heads, dim = pass->queries->head_dim;
    for (size_t row = 0; row < rows; row++)
        if (refresh[row])
            copy_query(pass->queries, row, pass->gathered + count++ * heads * dim);
    if (count < rows)
        FB_TRY(expect_fresh(pass));
    fb_queries gathered = fb_queries_rows(pass->gathered, count, heads, dim);
    FB_TRY(attend_external(pass, &gathered, &pass->computed));
    for (size_t row = 0, from = 0; row < rows; row++)
        if (refresh[row])
            store_row(pass, from++, row);
    if (count == rows)
        fb_part_cache_note(pass->call->parts, pass->call->layer, NULL, &pass->origin);
    *external = kept_part(pass);
    return FB_OK;
}

static fb_status external_part(const plain_pass *pass, fb_part *external) {
    switch (pass->call->action) {
    case FB_REUSE:
        return reuse(pass, external);
    case FB_REFRESH_ROWS:
        return refresh_rows(pass, external);
    case FB_REFRESH_AND_STORE:
        return refresh_and_store(pass, external);
    default:
        *external = pass->computed;
        return attend_external(pass, pass->queries, external);
    }
}

/* dense = merge(external part, internal part), whatever the external one is. */
fb_status fb_block_attend_plain(const fb_block_call *call, const fb_part *result) {
    const fb_queries *queries = call->queries;
    plain_pass pass = {.call = call, .queries = queries};
    if (call->action != FB_REFRESH_ONLY)
        FB_TRY(fb_part_cache_check(call->parts, call->layer, queries));
    FB_TRY(fb_block_keys_of(call, &pass.keys));
    pass.origin = (fb_part_origin){.kind = FB_PART_EXTERNAL,
                                   .state = fb_kv_cache_epoch(call->kv),
                                   .rows = queries->num_queries,
                                   .tokens = pass.keys.length};
    fb_part scratch[4], external; /* internal, computed, its mean keys and new LSEs, queries */
    void *memory = NULL;
    FB_TRY(fb_block_scratch(queries, 4, scratch, &memory));
    pass.computed = scratch[1];
    if (call->action == FB_REFRESH_ROWS && fb_part_cache_corrects(call->parts))
        pass.computed.mean_key = scratch[2].out;
    pass.lse = scratch[2].lse;
    pass.gathered = scratch[3].out;
    fb_status status = external_part(&pass, &external);
    if (status == FB_OK)
        status = fb_block_attend_range(queries, &pass.keys.kv, pass.keys.length,
                                       pass.keys.length + queries->num_queries, call->scale,
                                       &scratch[0]);
    if (status == FB_OK)
        status = fb_merge(&external, &scratch[0], queries->num_queries, queries->num_heads,
                          queries->head_dim, result);
    fb_scratch_release(memory);
    return status;
}

#include "oracle/hash_rows.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/inputs.h"

#include <flashblock/experimental/rows.h>
#include <flashblock/kv_cache.h>
#include <flashblock/reuse.h>

#include <string.h>

typedef struct rows_case {
    const fb_hash_case *c;
    uint64_t seed;
    size_t rows, values; /* of a part: queries x heads, and those x head_dim */
    fb_kv_cache *kv;
    fb_part_cache *parts;
    float *q, *first_q, *moves; /* [queries, heads, D] */
    float *k, *v;               /* [keys or queries, kv_heads, D] */
    bool *refresh;              /* [queries] */
} rows_case;

static void free_case(rows_case *r) {
    fb_kv_cache_destroy(r->kv);
    fb_part_cache_destroy(r->parts);
    fb_free(r->q);
    fb_free(r->first_q);
    fb_free(r->moves);
    fb_free(r->k);
    fb_free(r->v);
    fb_free(r->refresh);
}

/* Writes keys and values of `count` tokens after the committed ones, from the streams of these
 * names. */
static fb_status write_tokens(rows_case *r, size_t count, const char *k, const char *v) {
    size_t values = count * r->c->kv_heads * r->c->head_dim;
    fb_input_normals(r->seed, k, 1.0f, r->k, values);
    fb_input_normals(r->seed, v, 1.0f, r->v, values);
    return fb_kv_cache_write(r->kv, 0, fb_kv_cache_length(r->kv), count, r->k, r->v);
}

static fb_status prepare(rows_case *r) {
    const fb_hash_case *c = r->c;
    const fb_kv_cache_config config = {1, c->kv_heads, c->head_dim, c->dtype};
    size_t tokens = c->keys > c->queries ? c->keys : c->queries;
    size_t kv_values = tokens * c->kv_heads * c->head_dim;
    FB_TRY(fb_kv_cache_create(&config, &r->kv));
    FB_TRY(fb_part_cache_create(1, c->queries, c->heads, c->head_dim, &r->parts));
    if (c->corrected)
        FB_TRY(fb_part_cache_enable_correction(r->parts));
    FB_TRY(fb_alloc(r->values, sizeof *r->q, "selftest", &r->q));
    FB_TRY(fb_alloc(r->values, sizeof *r->q, "selftest", &r->first_q));
    FB_TRY(fb_alloc(r->values, sizeof *r->q, "selftest", &r->moves));
    FB_TRY(fb_alloc(kv_values, sizeof *r->k, "selftest", &r->k));
    FB_TRY(fb_alloc(kv_values, sizeof *r->v, "selftest", &r->v));
    FB_TRY(fb_alloc_zeroed(c->queries, sizeof *r->refresh, "selftest", &r->refresh));
    fb_input_normals(r->seed, "q", 1.0f, r->first_q, r->values);
    FB_TRY(write_tokens(r, c->keys, "k", "v"));
    return fb_kv_cache_commit(r->kv, c->keys);
}

/* Pass 0 computes all rows, pass s row s - 1 and each third one from there, the last pass none.
 * Queries move by a quarter of what they are, keys and values of the block are new in each pass. */
static fb_status run_pass(rows_case *r, size_t pass, const fb_part *result) {
    const fb_hash_case *c = r->c;
    static const char *const names[][3] = {{"moves 0", "own k 0", "own v 0"},
                                           {"moves 1", "own k 1", "own v 1"},
                                           {"moves 2", "own k 2", "own v 2"},
                                           {"moves 3", "own k 3", "own v 3"}};
    const char *const *name = names[pass % 4];
    fb_input_normals(r->seed, name[0], 0.25f, r->moves, r->values);
    for (size_t i = 0; i < r->values; i++)
        r->q[i] = pass == 0 ? r->first_q[i] : r->first_q[i] + r->moves[i];
    FB_TRY(write_tokens(r, c->queries, name[1], name[2]));
    fb_queries queries = fb_queries_rows(r->q, c->queries, c->heads, c->head_dim);
    for (size_t row = 0; row < c->queries; row++)
        r->refresh[row] = row + 1 >= pass && (row + 1 - pass) % 3 == 0 && pass + 1 < c->steps;
    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = &queries;
    call.kv = r->kv;
    call.action = pass == 0 ? FB_REFRESH_AND_STORE : FB_REFRESH_ROWS;
    call.parts = r->parts;
    call.refresh_rows = pass == 0 ? NULL : r->refresh;
    call.scale = c->scale;
    return fb_block_attend(&call, result);
}

/* Every pass's result, then what the cache holds: outputs, mean keys if there are any, LSEs. */
static fb_status run(rows_case *r, fb_hash_result *result) {
    const fb_hash_case *c = r->c;
    size_t outs = c->steps + 1 + (c->corrected ? 1 : 0);
    FB_TRY(prepare(r));
    FB_TRY(fb_hash_result_alloc(result, outs * r->values, (c->steps + 1) * r->rows));
    for (size_t pass = 0; pass < c->steps; pass++) {
        fb_part part = fb_part_rows(result->out + pass * r->values, result->lse + pass * r->rows,
                                    c->heads, c->head_dim);
        FB_TRY(run_pass(r, pass, &part));
    }
    fb_part kept;
    FB_TRY(fb_part_cache_load(r->parts, 0, r->kv, FB_COMPAT_PAPER, &kept));
    float *out = result->out + c->steps * r->values;
    memcpy(out, kept.out, r->values * sizeof *out);
    memcpy(result->lse + c->steps * r->rows, kept.lse, r->rows * sizeof *kept.lse);
    if (kept.mean_key)
        memcpy(out + r->values, kept.mean_key, r->values * sizeof *out);
    return FB_OK;
}

fb_status fb_hash_rows_compute(const fb_hash_case *c, uint64_t seed, fb_hash_result *result) {
    rows_case r = {.c = c, .seed = seed, .rows = c->queries * c->heads};
    r.values = r.rows * c->head_dim;
    fb_status status = run(&r, result);
    free_case(&r);
    return status;
}

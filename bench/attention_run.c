#include "bench/attention_run.h"

#include "base/error.h"
#include "base/memory.h"
#include "bench/block_script.h"
#include "oracle/inputs.h"

#include <flashblock/experimental/rows.h>

#include <string.h>

/* POOL_TOKENS tokens of random numbers are made once. Every chunk takes them from another place.
 * The time of attention does not depend on the values of the keys. */
enum { POOL_TOKENS = 4 * FB_CHUNK_KEYS, STRIDE_TOKENS = 977, SEED = 1 };

static size_t token_values(const fb_bench_shape *shape) {
    return shape->num_kv_heads * shape->head_dim;
}

void fb_attention_run_kv(const fb_attention_run *data, size_t first, const float **k,
                         const float **v) {
    size_t chunk = first / FB_CHUNK_KEYS, places = POOL_TOKENS - FB_CHUNK_KEYS;
    *k = data->rows + chunk * STRIDE_TOKENS % places * token_values(&data->shape);
    *v = data->rows + (chunk + 1) * STRIDE_TOKENS % places * token_values(&data->shape);
}

static fb_status fill_cache(fb_attention_run *data) {
    size_t tokens = data->shape.context + data->shape.num_queries;
    for (size_t first = 0; first < tokens; first += FB_CHUNK_KEYS) {
        size_t left = tokens - first;
        const float *k, *v;
        fb_attention_run_kv(data, first, &k, &v);
        FB_TRY(fb_kv_cache_write(data->cache, 0, first, left < FB_CHUNK_KEYS ? left : FB_CHUNK_KEYS,
                                 k, v));
    }
    FB_TRY(fb_kv_cache_commit(data->cache, data->shape.context));
    return fb_kv_cache_layer(data->cache, 0, &data->kv);
}

fb_status fb_attention_run_prepare(fb_attention_run *data, const fb_bench_shape *shape,
                                   size_t steps) {
    data->shape = *shape;
    data->steps = steps;
    size_t rows = shape->num_queries * shape->num_heads;
    FB_TRY(fb_alloc(rows, shape->head_dim * sizeof(float), "queries", &data->q));
    FB_TRY(fb_alloc(rows, shape->head_dim * sizeof(float), "output", &data->out));
    FB_TRY(fb_alloc(rows, sizeof(float), "log-sum-exps", &data->lse));
    FB_TRY(fb_alloc(POOL_TOKENS, token_values(shape) * sizeof(float), "keys", &data->rows));
    fb_input_normals(SEED, "queries", 1, data->q, rows * shape->head_dim);
    fb_input_normals(SEED, "keys", 1, data->rows, POOL_TOKENS * token_values(shape));
    fb_kv_cache_config config = {1, shape->num_kv_heads, shape->head_dim, shape->dtype};
    FB_TRY(fb_kv_cache_create(&config, &data->cache));
    FB_TRY(fill_cache(data));
    FB_TRY(fb_alloc_zeroed(shape->num_queries, sizeof(bool), "rows", &data->refresh_rows));
    FB_TRY(fb_part_cache_create(1, shape->num_queries, shape->num_heads, shape->head_dim,
                                &data->parts));
    FB_TRY(fb_part_cache_create(1, shape->num_queries, shape->num_heads, shape->head_dim,
                                &data->corrected));
    return fb_part_cache_enable_correction(data->corrected);
}

void fb_attention_run_free(fb_attention_run *data) {
    fb_part_cache_destroy(data->parts);
    fb_part_cache_destroy(data->corrected);
    fb_free(data->refresh_rows);
    fb_kv_cache_destroy(data->cache);
    fb_free(data->rows);
    fb_free(data->q);
    fb_free(data->out);
    fb_free(data->lse);
    *data = (fb_attention_run){0};
}

/* --- what is timed ---------------------------------------------------------------------------- */

static fb_queries queries_of(const fb_attention_run *data) {
    const fb_bench_shape *shape = &data->shape;
    return fb_queries_rows(data->q, shape->num_queries, shape->num_heads, shape->head_dim);
}

static fb_part result_of(const fb_attention_run *data) {
    return fb_part_rows(data->out, data->lse, data->shape.num_heads, data->shape.head_dim);
}

static fb_status attend(const fb_attention_run *data, size_t begin, size_t end) {
    fb_range range = {begin, end};
    fb_view view = {&data->kv, &range, 1};
    fb_queries queries = queries_of(data);
    fb_part result = result_of(data);
    return fb_attend(&queries, &view, NULL, 0, &result);
}

fb_status fb_attention_run_external(void *context) {
    const fb_attention_run *data = context;
    return attend(data, 0, data->shape.context);
}

fb_status fb_attention_run_internal(void *context) {
    const fb_attention_run *data = context;
    size_t begin = data->shape.context;
    return attend(data, begin, begin + data->shape.num_queries);
}

static fb_status step_with(const fb_attention_run *data, fb_reuse_action action,
                           fb_part_cache *parts) {
    fb_queries queries = queries_of(data);
    fb_part result = result_of(data);
    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = &queries;
    call.kv = data->cache;
    call.action = action;
    call.parts = parts;
    call.refresh_rows = action == FB_REFRESH_ROWS ? data->refresh_rows : NULL;
    return fb_block_attend(&call, &result);
}

static fb_status step(const fb_attention_run *data, fb_reuse_action action) {
    return step_with(data, action, data->parts);
}

static fb_status refresh_rows(const fb_attention_run *data, size_t first, size_t count,
                              fb_part_cache *parts) {
    for (size_t row = 0; row < data->shape.num_queries; row++)
        data->refresh_rows[row] = row >= first && row < first + count;
    return step_with(data, FB_REFRESH_ROWS, parts);
}

fb_status fb_attention_run_dense_step(void *data) {
    return step(data, FB_REFRESH_ONLY);
}

fb_status fb_attention_run_refresh(void *data) {
    return step(data, FB_REFRESH_AND_STORE);
}

fb_status fb_attention_run_reuse(void *data) {
    return step(data, FB_REUSE);
}

fb_status fb_attention_run_block(void *context) {
    const fb_attention_block *run = context;
    fb_block_script script = {
        .tokens = run->data->shape.num_queries,
        .steps = run->data->steps,
        .tau = run->tau,
        .rows = run->rows,
    };
    fb_part_cache *parts = run->corrected ? run->data->corrected : run->data->parts;
    fb_reuse_action action;
    while (fb_block_script_next(&script, &action))
        if (action == FB_REFRESH_ROWS)
            FB_TRY(refresh_rows(run->data, script.first_row, script.num_rows, parts));
        else
            FB_TRY(step_with(run->data, action, parts));
    return FB_OK;
}

/* --- a share of the keys ---------------------------------------------------------------------- */

enum { SELECTED_BLOCK_KEYS = 64 };

/* Selects the blocks with the largest of some random numbers. */
static fb_status draw_lists(fb_selection *selection, double *scores, float *numbers, double share) {
    size_t blocks = selection->num_blocks, count = fb_selection_budget(blocks, share);
    for (size_t list = 0; list < selection->num_lists; list++) {
        fb_input_normals(SEED + list, "selection", 1, numbers, blocks);
        for (size_t i = 0; i < blocks; i++)
            scores[i] = (double)numbers[i];
        FB_TRY(fb_selection_set_top(selection, list, scores, count));
    }
    return FB_OK;
}

fb_status fb_attention_selected_prepare(fb_attention_selected *run, const fb_attention_run *data,
                                        size_t percent) {
    run->data = data;
    FB_TRY(fb_selection_begin(&run->selection, SELECTED_BLOCK_KEYS, data->shape.context,
                              data->shape.num_kv_heads));
    double *scores = NULL;
    float *numbers = NULL;
    fb_status status = fb_alloc(run->selection.num_blocks, sizeof *scores, "scores", &scores);
    if (status == FB_OK)
        status = fb_alloc(run->selection.num_blocks, sizeof *numbers, "scores", &numbers);
    if (status == FB_OK)
        status = draw_lists(&run->selection, scores, numbers, (double)percent / 100.0);
    fb_free(scores);
    fb_free(numbers);
    return status;
}

void fb_attention_selected_free(fb_attention_selected *run) {
    fb_selection_release(&run->selection);
}

fb_status fb_attention_run_selected(void *context) {
    const fb_attention_selected *run = context;
    fb_queries queries = queries_of(run->data);
    fb_part result = result_of(run->data);
    return fb_selection_attend(&queries, &run->data->kv, &run->selection, 0, &result);
}

fb_status fb_attention_run_refresh_corrected(void *context) {
    const fb_attention_run *data = context;
    return step_with(data, FB_REFRESH_AND_STORE, data->corrected);
}

fb_status fb_attention_run_reuse_corrected(void *context) {
    const fb_attention_run *data = context;
    return step_with(data, FB_REUSE, data->corrected);
}

fb_status fb_attention_run_refresh_row(void *context) {
    const fb_attention_run *data = context;
    return refresh_rows(data, 0, 1, data->parts);
}

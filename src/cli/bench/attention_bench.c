#include "cli/bench/attention_bench.h"

#include "base/error.h"
#include "bench/block_script.h"
#include "cli/progress.h"

#include <stdio.h>
#include <string.h>

/* Adds a trial that attends to this many keys. It runs with the data, unless the caller gives the
 * trial another context. */
static fb_trial *add_trial(fb_attention_bench *b, size_t threads, fb_status (*run)(void *),
                           double keys, const char *name) {
    const fb_bench_shape *shape = &b->data.shape;
    fb_attention_entry *e = &b->entries[b->count];
    snprintf(e->implementation, sizeof e->implementation, "%s", name);
    e->flops = keys * fb_bench_shape_flops(shape, 1);
    e->bytes = keys * fb_bench_shape_kv_bytes(shape, 1);
    fb_trial *trial = &b->trials[b->count++];
    *trial = (fb_trial){.run = run, .context = &b->data, .threads = threads};
    return trial;
}

static size_t block_reuses(const fb_attention_bench *b, size_t tau) {
    return fb_block_script_reuses(b->data.shape.num_queries, b->data.steps, tau);
}

static void add_block(fb_attention_bench *b, size_t threads, size_t tau) {
    const fb_bench_shape *shape = &b->data.shape;
    fb_attention_entry *e = &b->entries[b->count];
    e->block = (fb_attention_block){.data = &b->data, .tau = tau};
    size_t passes = b->data.steps + 1, refreshes = passes - block_reuses(b, tau);
    double keys =
        (double)refreshes * (double)shape->context + (double)passes * (double)shape->num_queries;
    char name[48];
    snprintf(name, sizeof name, "flashblock block, tau %zu", tau);
    add_trial(b, threads, fb_attention_run_block, keys, name)->context = &e->block;
}

/* Every row is computed twice, and after the first step keys and values are read once a pass. */
static void add_block_by_rows(fb_attention_bench *b, size_t threads, bool corrected) {
    const fb_bench_shape *shape = &b->data.shape;
    fb_attention_entry *e = &b->entries[b->count];
    e->by_rows =
        (fb_attention_block){.data = &b->data, .tau = 1, .rows = true, .corrected = corrected};
    double passes = (double)(b->data.steps + 1), context = (double)shape->context;
    double own = passes * (double)shape->num_queries;
    add_trial(b, threads, fb_attention_run_block, 2 * context + own,
              corrected ? "flashblock rows, corrected" : "flashblock block, rows")
        ->context = &e->by_rows;
    e->bytes = (passes * context + own) * fb_bench_shape_kv_bytes(shape, 1);
}

/* The refresh of one row reads as much as the refresh of all rows. */
static void add_row_refresh(fb_attention_bench *b, size_t threads) {
    const fb_bench_shape *shape = &b->data.shape;
    double context = (double)shape->context, block = (double)shape->num_queries;
    add_trial(b, threads, fb_attention_run_refresh_corrected, context + block,
              "flashblock refresh, corrected");
    add_trial(b, threads, fb_attention_run_reuse_corrected, block, "flashblock reuse, corrected");
    fb_attention_entry *e = &b->entries[b->count];
    add_trial(b, threads, fb_attention_run_refresh_row, context + block,
              "flashblock refresh, one row");
    e->flops = (context / block + block) * fb_bench_shape_flops(shape, 1);
    add_block_by_rows(b, threads, false);
    add_block_by_rows(b, threads, true);
}

/* A peer that cannot do this shape is left out with a note; where it was asked for by name, that is
 * an error. */
static fb_status add_peer(fb_attention_bench *b, size_t threads, const fb_peer *peer) {
    fb_composed *composed = &b->composed[b->num_composed++];
    FB_TRY(fb_composed_prepare(composed, peer, &b->matrices, threads));
    b->entries[b->count].composed = composed;
    add_trial(b, threads, fb_composed_run, (double)b->data.shape.context, peer->name)->context =
        composed;
    return FB_OK;
}

static bool is_wanted(const fb_attention_settings *chosen, const char *name) {
    bool wanted = chosen->all_peers;
    for (size_t i = 0; i < chosen->named_peers.count; i++)
        wanted = wanted || strcmp(chosen->named_peers.values[i].text, name) == 0;
    return wanted;
}

/* Opens a peer. What they multiply are matrices of floats. */
static fb_status open_peer(const fb_attention_bench *b, const char *name, const fb_peer **peer) {
    if (b->data.shape.dtype == FB_INT8)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s is not measured with int8", name);
    return fb_peer_open(name, peer);
}

static fb_status add_peers(fb_attention_bench *b, size_t threads) {
    for (size_t i = 0; i < FB_NUM_PEERS && b->data.shape.context > 0; i++) {
        const fb_peer *peer = NULL;
        if (!is_wanted(b->chosen, fb_peer_name(i)))
            continue;
        if (!b->matrices.data && b->data.shape.dtype != FB_INT8)
            FB_TRY(fb_composed_matrices_prepare(&b->matrices, &b->data));
        FB_TRY(fb_machine_use_threads(&b->bench->machine, threads));
        fb_status status = open_peer(b, fb_peer_name(i), &peer);
        if (status == FB_OK)
            status = add_peer(b, threads, peer);
        if (status == FB_ERROR_UNSUPPORTED && b->chosen->all_peers)
            fb_progress_note("%s; left out", fb_error_message());
        else
            FB_TRY(status);
    }
    return FB_OK;
}

static size_t selected_keys(const fb_selection *selection) {
    size_t keys = 0;
    for (size_t list = 0; list < selection->num_lists; list++)
        keys += fb_selection_tokens(selection, list);
    return keys / selection->num_lists;
}

static void add_selected(fb_attention_bench *b, size_t threads) {
    for (size_t i = 0; i < b->chosen->percents.count; i++) {
        size_t keys = selected_keys(&b->selected[i].selection);
        if (keys == 0)
            continue;
        char name[48];
        snprintf(name, sizeof name, "flashblock, %zu %% of keys", b->chosen->percents.values[i]);
        b->entries[b->count].selected_keys = keys;
        add_trial(b, threads, fb_attention_run_selected, (double)keys, name)->context =
            &b->selected[i];
    }
}

static fb_status prepare_selected(fb_attention_bench *b) {
    for (size_t i = 0; i < b->chosen->percents.count; i++)
        FB_TRY(fb_attention_selected_prepare(&b->selected[i], &b->data,
                                             b->chosen->percents.values[i]));
    return FB_OK;
}

static void add_trials(fb_attention_bench *b, size_t threads) {
    const fb_bench_shape *shape = &b->data.shape;
    double context = (double)shape->context, block = (double)shape->num_queries;
    if (shape->context > 0)
        add_trial(b, threads, fb_attention_run_external, context, "flashblock");
    add_selected(b, threads);
    if (b->chosen->no_steps)
        return;
    /* The first run of the reuse needs a refresh before it: trials run in this order. */
    add_trial(b, threads, fb_attention_run_dense_step, context + block, "flashblock dense step");
    add_trial(b, threads, fb_attention_run_refresh, context + block, "flashblock refresh");
    add_trial(b, threads, fb_attention_run_reuse, block, "flashblock reuse");
    add_trial(b, threads, fb_attention_run_internal, block, "flashblock block alone");
    for (size_t i = 0; i < b->chosen->taus.count; i++)
        add_block(b, threads, b->chosen->taus.values[i]);
    if (b->chosen->row_refresh)
        add_row_refresh(b, threads);
}

static fb_status run_trials(fb_attention_bench *b) {
    const fb_number_list *threads = &b->chosen->common.threads;
    for (size_t i = 0; i < threads->count; i++)
        FB_TRY(add_peers(b, threads->values[i]));
    FB_TRY(prepare_selected(b));
    for (size_t i = 0; i < threads->count; i++)
        add_trials(b, threads->values[i]);
    char what[128];
    snprintf(what, sizeof what, "%s, %s", b->data.shape.name, fb_dtype_name(b->data.shape.dtype));
    fb_rounds rounds = fb_bench_rounds(b->bench, what);
    return fb_rounds_run(&rounds, &b->bench->limits, b->trials, b->count);
}

fb_status fb_attention_bench_run(fb_attention_bench *b, fb_bench *bench,
                                 const fb_attention_settings *settings,
                                 const fb_bench_shape *shape) {
    b->bench = bench;
    b->chosen = settings;
    FB_TRY(fb_attention_run_prepare(&b->data, shape,
                                    fb_attention_settings_steps(settings, shape->num_queries)));
    return run_trials(b);
}

void fb_attention_bench_free(fb_attention_bench *b) {
    for (size_t i = 0; i < b->count; i++)
        fb_samples_free(&b->trials[i].seconds);
    for (size_t i = 0; i < b->num_composed; i++)
        fb_composed_free(&b->composed[i]);
    for (size_t i = 0; i < FB_NUMBER_LIST_MAX; i++)
        fb_attention_selected_free(&b->selected[i]);
    fb_composed_matrices_free(&b->matrices);
    fb_attention_run_free(&b->data);
}

/* --- results ---------------------------------------------------------------------------------- */

fb_bench_case fb_attention_bench_case(const fb_attention_bench *b, size_t i) {
    return (fb_bench_case){
        .name = b->data.shape.name,
        .dtype = fb_dtype_name(b->data.shape.dtype),
        .implementation = b->entries[i].implementation,
        .threads = b->trials[i].threads,
        .flops = b->entries[i].flops,
        .bytes = b->entries[i].bytes,
        .median = fb_samples_median(&b->trials[i].seconds, 0),
        .min = fb_samples_min(&b->trials[i].seconds),
    };
}

/* The samples of a trial by its name; NULL when there is none. */
static const fb_samples *samples_of(const fb_attention_bench *b, size_t threads, const char *name) {
    for (size_t i = 0; i < b->count; i++)
        if (b->trials[i].threads == threads && strcmp(b->entries[i].implementation, name) == 0)
            return &b->trials[i].seconds;
    return NULL;
}

fb_attention_reuse fb_attention_bench_reuse(const fb_attention_bench *b, size_t threads) {
    const fb_samples *reuse = samples_of(b, threads, "flashblock reuse");
    return (fb_attention_reuse){
        fb_samples_median_ratio(reuse, samples_of(b, threads, "flashblock dense step")),
        fb_samples_median_ratio(reuse, samples_of(b, threads, "flashblock block alone")),
    };
}

bool fb_attention_bench_block(const fb_attention_bench *b, size_t i, size_t threads,
                              fb_attention_block_result *result) {
    if (!b->entries[i].block.data || b->trials[i].threads != threads)
        return false;
    const fb_samples *dense = samples_of(b, threads, "flashblock dense step");
    size_t tau = b->entries[i].block.tau, passes = b->data.steps + 1;
    *result = (fb_attention_block_result){
        .tau = tau,
        .passes = passes,
        .refreshes = passes - block_reuses(b, tau),
        .dense_steps = fb_samples_median_ratio(&b->trials[i].seconds, dense),
    };
    return true;
}

double fb_attention_bench_scaling(const fb_attention_bench *b, size_t i) {
    size_t first = b->chosen->common.threads.values[0];
    if (b->trials[i].threads == first)
        return 0;
    return fb_samples_median_ratio(samples_of(b, first, b->entries[i].implementation),
                                   &b->trials[i].seconds);
}

double fb_attention_bench_selected_speed(const fb_attention_bench *b, size_t i) {
    double keys = (double)b->entries[i].selected_keys;
    if (keys == 0.0)
        return 0.0;
    const fb_samples *dense = samples_of(b, b->trials[i].threads, "flashblock");
    return fb_samples_median_ratio(dense, &b->trials[i].seconds) * keys /
           (double)b->data.shape.context;
}

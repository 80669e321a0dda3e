/* flashblock bench attention: attention of given shapes, and the steps of a block. */
#include "base/error.h"
#include "base/memory.h"
#include "bench/attention_run.h"
#include "bench/block_script.h"
#include "bench/composed.h"
#include "bench/peers.h"
#include "cli/bench/bench.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/progress.h"

#include <stdio.h>
#include <string.h>

/* What the command line says. A number that is not given is the preset's. */
typedef struct settings {
    fb_bench_settings common;
    const fb_bench_preset *preset; /* NULL: not given */
    fb_bench_family custom;
    size_t queries, steps; /* 0: not given */
    fb_number_list contexts, taus, percents;
    bool row_refresh;
    const char *dtypes;
    bool no_steps, all_peers;
    fb_option_list named_peers;
} settings;

static fb_status parse_preset(const char *text, void *target) {
    return fb_bench_preset_find(text, target);
}

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option options[] = {
    {.kind = FB_OPTION_GROUP, .help = "Shape"},
    {.kind = FB_OPTION_PARSED,
     .name = "preset",
     .argument = "NAME",
     TARGET(preset),
     .parse = parse_preset,
     .help = "trado-8b (32 heads, 8 KV heads of 128, 4 queries; contexts of 1k, 4k, 16k, 32k), "
             "trado-8b-q32 (the same with 32 queries; 4k, 16k), video (12 heads of 128, 4680 "
             "queries; 18720), small (4 heads of 64, 32 queries; 2k), goals (all of these)"},
    {.kind = FB_OPTION_SIZE,
     .name = "heads",
     .argument = "N",
     TARGET(custom.num_heads),
     .min = 1,
     .max = 4096,
     .otherwise = "32",
     .help = "query heads, where no preset is given; a multiple of --kv-heads"},
    {.kind = FB_OPTION_SIZE,
     .name = "kv-heads",
     .argument = "N",
     TARGET(custom.num_kv_heads),
     .min = 1,
     .max = 4096,
     .otherwise = "8",
     .help = "heads of keys and values"},
    {.kind = FB_OPTION_SIZE,
     .name = "head-dim",
     .argument = "N",
     TARGET(custom.head_dim),
     .min = 1,
     .max = 65536,
     .otherwise = "128",
     .help = "numbers of a head's query, key or value"},
    {.kind = FB_OPTION_SIZE,
     .name = "queries",
     .argument = "N",
     TARGET(queries),
     .min = 1,
     .max = 1 << 20,
     .help = "tokens of the block (default: the preset's, or 4)"},
    {.kind = FB_OPTION_PARSED,
     .name = "context",
     .argument = "LIST",
     TARGET(contexts),
     .parse = fb_number_list_parse,
     .help = "tokens before the block, such as 4k,16k (default: the preset's, or 4k)"},
    {.kind = FB_OPTION_STRING,
     .name = "dtype",
     .argument = "LIST",
     TARGET(dtypes),
     .otherwise = "f32",
     .help = "how keys and values are stored: f32, bf16, f16, or several, such as f32,bf16"},

    {.kind = FB_OPTION_GROUP, .help = "What is measured"},
    {.kind = FB_OPTION_PARSED,
     .name = "tau",
     .argument = "LIST",
     TARGET(taus),
     .parse = fb_number_list_parse,
     .otherwise = "2",
     .help = "whole blocks are measured with each of these, in tokens"},
    {.kind = FB_OPTION_FLAG,
     .name = "row-refresh",
     TARGET(row_refresh),
     .help = "also the refresh of one row, steps with the first-order correction, and whole blocks "
             "refreshed by rows, with and without it"},
    {.kind = FB_OPTION_SIZE,
     .name = "steps",
     .argument = "N",
     TARGET(steps),
     .min = 1,
     .max = 1 << 20,
     .help = "denoising steps of a block, at most its tokens (default: one for each token, 4 where "
             "these are more than 32)"},
    {.kind = FB_OPTION_PARSED,
     .name = "density",
     .argument = "LIST",
     TARGET(percents),
     .parse = fb_number_list_parse,
     .help = "also attention to this share of the context, in percent, such as 10,25: scattered "
             "key blocks of 64 tokens, other ones for each KV head"},
    {.kind = FB_OPTION_FLAG,
     .name = "peers",
     TARGET(all_peers),
     .help = "also what a user would otherwise compose, where this build has it: matrix products "
             "of OpenBLAS, BLIS and oneDNN with a vectorised softmax between them, the query heads "
             "of one KV head folded into rows"},
    {.kind = FB_OPTION_LIST,
     .name = "peer",
     .argument = "NAME",
     TARGET(named_peers),
     .help = "one of these peers: openblas, blis or onednn; may be given several times"},
    {.kind = FB_OPTION_FLAG,
     .name = "no-steps",
     TARGET(no_steps),
     .help = "attention to the context only: no refresh, no reuse, no blocks"},

    {.kind = FB_OPTION_GROUP, .help = "How it is measured"},
    FB_BENCH_TIMING_OPTIONS(settings, "7", "1"),

    {.kind = FB_OPTION_GROUP, .help = "Output"},
    FB_BENCH_JSON_OPTION(settings),
};

static const fb_option_table table = {
    .usage = "bench attention [OPTION]...",
    .summary =
        "Times attention of a block's queries to its context, and the steps of a block: dense,\n"
        "refresh, reuse, whole blocks. Everything is measured in turn, round after round, "
        "together\n"
        "with the multiply-adds that the cores can do and the bandwidth of memory.",
    FB_TABLE_OPTIONS(options),
};

/* --- one shape ---------------------------------------------------------------------------------
 */

enum {
    MAX_PEER_TRIALS = FB_MAX_THREAD_COUNTS * FB_NUM_PEERS,
    MAX_TRIALS = FB_MAX_THREAD_COUNTS * (2 * FB_NUMBER_LIST_MAX + 16) + MAX_PEER_TRIALS,
};

/* What a trial is called, and what it does at least. */
typedef struct entry {
    char implementation[48];
    double flops, bytes;
    fb_attention_block block;   /* of trials that run whole blocks by tau */
    fb_attention_block by_rows; /* the same by rows */
    fb_composed *composed;      /* of a peer's trials, else NULL */
    size_t selected_keys;       /* of trials of a share of the context, a KV head's average */
} entry;

typedef struct shape_bench {
    fb_bench *bench;
    const settings *chosen;
    fb_attention_run data;
    fb_composed_matrices matrices; /* the peers' */
    fb_composed composed[MAX_PEER_TRIALS];
    size_t num_composed;
    fb_attention_selected selected[FB_NUMBER_LIST_MAX]; /* of chosen->percents */
    entry entries[MAX_TRIALS];
    fb_trial trials[MAX_TRIALS];
    size_t count;
} shape_bench;

/* A trial over this many keys; its context is the data unless the caller changes it. */
static fb_trial *add_trial(shape_bench *b, size_t threads, fb_status (*run)(void *), double keys,
                           const char *name) {
    const fb_bench_shape *shape = &b->data.shape;
    entry *e = &b->entries[b->count];
    snprintf(e->implementation, sizeof e->implementation, "%s", name);
    e->flops = keys * fb_bench_shape_flops(shape, 1);
    e->bytes = keys * fb_bench_shape_kv_bytes(shape, 1);
    fb_trial *trial = &b->trials[b->count++];
    *trial = (fb_trial){.run = run, .context = &b->data, .threads = threads};
    return trial;
}

static size_t block_reuses(const shape_bench *b, size_t tau) {
    return fb_block_script_reuses(b->data.shape.num_queries, b->data.steps, tau);
}

static void add_block(shape_bench *b, size_t threads, size_t tau) {
    const fb_bench_shape *shape = &b->data.shape;
    entry *e = &b->entries[b->count];
    e->block = (fb_attention_block){.data = &b->data, .tau = tau};
    size_t passes = b->data.steps + 1, refreshes = passes - block_reuses(b, tau);
    double keys =
        (double)refreshes * (double)shape->context + (double)passes * (double)shape->num_queries;
    char name[48];
    snprintf(name, sizeof name, "flashblock block, tau %zu", tau);
    add_trial(b, threads, fb_attention_run_block, keys, name)->context = &e->block;
}

/* Every row is computed twice, and after the first step keys and values are read once a pass. */
static void add_block_by_rows(shape_bench *b, size_t threads, bool corrected) {
    const fb_bench_shape *shape = &b->data.shape;
    entry *e = &b->entries[b->count];
    e->by_rows =
        (fb_attention_block){.data = &b->data, .tau = 1, .rows = true, .corrected = corrected};
    double passes = (double)(b->data.steps + 1), context = (double)shape->context;
    double own = passes * (double)shape->num_queries;
    add_trial(b, threads, fb_attention_run_block, 2 * context + own,
              corrected ? "flashblock rows, corrected" : "flashblock block, rows")
        ->context = &e->by_rows;
    e->bytes = (passes * context + own) * fb_bench_shape_kv_bytes(shape, 1);
}

/* The refresh of one row reads as much as that of all. */
static void add_row_refresh(shape_bench *b, size_t threads) {
    const fb_bench_shape *shape = &b->data.shape;
    double context = (double)shape->context, block = (double)shape->num_queries;
    add_trial(b, threads, fb_attention_run_refresh_corrected, context + block,
              "flashblock refresh, corrected");
    add_trial(b, threads, fb_attention_run_reuse_corrected, block, "flashblock reuse, corrected");
    entry *e = &b->entries[b->count];
    add_trial(b, threads, fb_attention_run_refresh_row, context + block,
              "flashblock refresh, one row");
    e->flops = (context / block + block) * fb_bench_shape_flops(shape, 1);
    add_block_by_rows(b, threads, false);
    add_block_by_rows(b, threads, true);
}

/* A peer that cannot do this shape is told about, and an error only if it was asked for by name. */
static fb_status add_peer(shape_bench *b, size_t threads, const fb_peer *peer) {
    fb_composed *composed = &b->composed[b->num_composed++];
    FB_TRY(fb_composed_prepare(composed, peer, &b->matrices, threads));
    b->entries[b->count].composed = composed;
    add_trial(b, threads, fb_composed_run, (double)b->data.shape.context, peer->name)->context =
        composed;
    return FB_OK;
}

static bool is_wanted(const settings *chosen, const char *name) {
    bool wanted = chosen->all_peers;
    for (size_t i = 0; i < chosen->named_peers.count; i++)
        wanted = wanted || strcmp(chosen->named_peers.values[i].text, name) == 0;
    return wanted;
}

static fb_status add_peers(shape_bench *b, size_t threads) {
    for (size_t i = 0; i < FB_NUM_PEERS && b->data.shape.context > 0; i++) {
        const fb_peer *peer = NULL;
        if (!is_wanted(b->chosen, fb_peer_name(i)))
            continue;
        if (!b->matrices.data)
            FB_TRY(fb_composed_matrices_prepare(&b->matrices, &b->data));
        FB_TRY(fb_machine_use_threads(&b->bench->machine, threads));
        fb_status status = fb_peer_open(fb_peer_name(i), &peer);
        if (status == FB_OK)
            status = add_peer(b, threads, peer);
        if (status == FB_ERROR_UNSUPPORTED && b->chosen->all_peers)
            fb_progress("%s; left out", fb_error_message());
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

static void add_selected(shape_bench *b, size_t threads) {
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

static fb_status prepare_selected(shape_bench *b) {
    for (size_t i = 0; i < b->chosen->percents.count; i++)
        FB_TRY(fb_attention_selected_prepare(&b->selected[i], &b->data,
                                             b->chosen->percents.values[i]));
    return FB_OK;
}

static void add_trials(shape_bench *b, size_t threads) {
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

static fb_bench_case case_of(const shape_bench *b, size_t i) {
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
static const fb_samples *samples_of(const shape_bench *b, size_t threads, const char *name) {
    for (size_t i = 0; i < b->count; i++)
        if (b->trials[i].threads == threads && strcmp(b->entries[i].implementation, name) == 0)
            return &b->trials[i].seconds;
    return NULL;
}

static void print_case(const shape_bench *b, size_t i) {
    fb_bench_case c = case_of(b, i);
    printf("%7zu  %-26s%12.4f%12.4f%10.1f%9.3f%10.1f%10.3f", c.threads, c.implementation,
           1e3 * c.median, 1e3 * c.min, fb_bench_case_gflops(&c),
           fb_bench_case_peak_fraction(b->bench, &c), fb_bench_case_gbs(&c),
           fb_bench_case_roofline_fraction(b->bench, &c));
    if (b->entries[i].composed)
        printf("%10.3f", fb_composed_softmax_share(b->entries[i].composed));
    printf("\n");
}

/* What FlashBlock makes of the dense step with a number of threads. All are medians of ratios
 * within a round. */
typedef struct reuse_ratios {
    double dense, alone; /* a reuse by a dense step, and by the block alone */
} reuse_ratios;

static reuse_ratios reuse_of(const shape_bench *b, size_t threads) {
    const fb_samples *reuse = samples_of(b, threads, "flashblock reuse");
    return (reuse_ratios){
        fb_samples_median_ratio(reuse, samples_of(b, threads, "flashblock dense step")),
        fb_samples_median_ratio(reuse, samples_of(b, threads, "flashblock block alone")),
    };
}

/* A trial that runs whole blocks: its time by that of a dense step. */
static double dense_steps_of(const shape_bench *b, size_t i) {
    const fb_samples *dense = samples_of(b, b->trials[i].threads, "flashblock dense step");
    return fb_samples_median_ratio(&b->trials[i].seconds, dense);
}

static bool is_block(const shape_bench *b, size_t i, size_t threads) {
    return b->entries[i].block.data && b->trials[i].threads == threads;
}

static void print_reuse(const shape_bench *b, size_t threads) {
    reuse_ratios ratios = reuse_of(b, threads);
    printf("%7zu  a reuse takes %.3f %% of a dense step, and %.2f times the block alone\n", threads,
           100 * ratios.dense, ratios.alone);
    for (size_t i = 0; i < b->count; i++) {
        if (!is_block(b, i, threads))
            continue;
        size_t tau = b->entries[i].block.tau, passes = b->data.steps + 1;
        size_t refreshes = passes - block_reuses(b, tau);
        double steps = dense_steps_of(b, i);
        printf("%7zu  a block with tau %zu takes %.4f times its %zu refreshes of %zu passes; "
               "%.3f times faster than dense\n",
               threads, tau, steps / (double)refreshes, refreshes, passes, (double)passes / steps);
    }
}

/* How much faster trial i is than the same on the first number of threads; 0: it is that. */
static double scaling_of(const shape_bench *b, size_t i) {
    size_t first = b->chosen->common.threads.values[0];
    if (b->trials[i].threads == first)
        return 0;
    return fb_samples_median_ratio(samples_of(b, first, b->entries[i].implementation),
                                   &b->trials[i].seconds);
}

/* The speed a key of a trial over a share of the context, by that of dense attention to all of it;
 * 0: it is none. */
static double speed_of_selected(const shape_bench *b, size_t i) {
    double keys = (double)b->entries[i].selected_keys;
    if (keys == 0.0)
        return 0.0;
    const fb_samples *dense = samples_of(b, b->trials[i].threads, "flashblock");
    return fb_samples_median_ratio(dense, &b->trials[i].seconds) * keys /
           (double)b->data.shape.context;
}

static void print_selected(const shape_bench *b) {
    for (size_t i = 0; i < b->count; i++)
        if (b->entries[i].selected_keys > 0)
            printf("%7zu  %s: %zu of %zu, at %.3f times the dense speed a key\n",
                   b->trials[i].threads, b->entries[i].implementation, b->entries[i].selected_keys,
                   b->data.shape.context, speed_of_selected(b, i));
}

static void print_scaling(const shape_bench *b) {
    for (size_t i = 0; i < b->count; i++)
        if (strcmp(b->entries[i].implementation, "flashblock") == 0 && scaling_of(b, i) > 0)
            printf("%7zu  flashblock is %.3f times faster than with %zu\n", b->trials[i].threads,
                   scaling_of(b, i), b->chosen->common.threads.values[0]);
}

static void print_shape(const shape_bench *b) {
    const fb_bench_shape *shape = &b->data.shape;
    fb_progress("%s", "");
    printf("\n%s, %s: %zu heads, %zu KV heads of %zu, %zu queries, %zu keys (%.1f MB, %.1f FLOP a "
           "byte); %s, %zu rounds\n",
           shape->name, fb_dtype_name(shape->dtype), shape->num_heads, shape->num_kv_heads,
           shape->head_dim, shape->num_queries, shape->context,
           1e-6 * fb_bench_shape_kv_bytes(shape, shape->context),
           fb_bench_shape_flops(shape, 1) / fb_bench_shape_kv_bytes(shape, 1),
           b->bench->settings->cold ? "cold" : "warm", b->trials[0].seconds.count);
    printf("%7s  %-26s%12s%12s%10s%9s%10s%10s%s\n", "threads", "implementation", "median ms",
           "min ms", "GFLOP/s", "of peak", "K/V GB/s", "of roof",
           b->num_composed ? "   softmax" : "");
    for (size_t i = 0; i < b->count; i++)
        print_case(b, i);
    const fb_number_list *threads = &b->chosen->common.threads;
    for (size_t i = 0; i < threads->count && !b->chosen->no_steps; i++)
        print_reuse(b, threads->values[i]);
    print_selected(b);
    print_scaling(b);
}

/* What the shape is. */
static fb_status add_shape(const shape_bench *b) {
    const fb_bench_shape *shape = &b->data.shape;
    return fb_bench_add(
        b->bench, "shapes",
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:f}", "name", shape->name, "dtype",
                  fb_dtype_name(shape->dtype), "num_heads", (json_int_t)shape->num_heads,
                  "num_kv_heads", (json_int_t)shape->num_kv_heads, "head_dim",
                  (json_int_t)shape->head_dim, "num_queries", (json_int_t)shape->num_queries,
                  "context", (json_int_t)shape->context, "flops_per_byte",
                  fb_bench_shape_flops(shape, 1) / fb_bench_shape_kv_bytes(shape, 1)));
}

/* The steps of its blocks with a number of threads. */
static fb_status add_steps(const shape_bench *b, size_t threads) {
    json_t *blocks = json_array();
    for (size_t i = 0; i < b->count; i++) {
        if (!is_block(b, i, threads))
            continue;
        size_t tau = b->entries[i].block.tau, passes = b->data.steps + 1;
        size_t reuses = block_reuses(b, tau);
        double steps = dense_steps_of(b, i);
        json_array_append_new(blocks,
                              json_pack("{s:I, s:I, s:I, s:f, s:f}", "tau", (json_int_t)tau,
                                        "passes", (json_int_t)passes, "reuses", (json_int_t)reuses,
                                        "by_refreshes", steps / (double)(passes - reuses),
                                        "times_faster_than_dense", (double)passes / steps));
    }
    reuse_ratios ratios = reuse_of(b, threads);
    return fb_bench_add(b->bench, "steps",
                        json_pack("{s:s, s:s, s:I, s:f, s:f, s:o}", "name", b->data.shape.name,
                                  "dtype", fb_dtype_name(b->data.shape.dtype), "threads",
                                  (json_int_t)threads, "reuse_by_dense", ratios.dense,
                                  "reuse_by_block_alone", ratios.alone, "blocks", blocks));
}

static fb_status add_scaling(const shape_bench *b, size_t i) {
    double scaling = scaling_of(b, i);
    if (scaling == 0)
        return FB_OK;
    return fb_bench_add(
        b->bench, "scaling",
        json_pack("{s:s, s:s, s:I, s:s, s:I, s:f}", "name", b->data.shape.name, "dtype",
                  fb_dtype_name(b->data.shape.dtype), "threads", (json_int_t)b->trials[i].threads,
                  "implementation", b->entries[i].implementation, "first_threads",
                  (json_int_t)b->chosen->common.threads.values[0], "times_faster", scaling));
}

static fb_status add_density(const shape_bench *b, size_t i) {
    if (b->entries[i].selected_keys == 0)
        return FB_OK;
    return fb_bench_add(b->bench, "density",
                        json_pack("{s:s, s:s, s:I, s:s, s:I, s:f}", "name", b->data.shape.name,
                                  "dtype", fb_dtype_name(b->data.shape.dtype), "threads",
                                  (json_int_t)b->trials[i].threads, "implementation",
                                  b->entries[i].implementation, "keys",
                                  (json_int_t)b->entries[i].selected_keys, "speed_by_dense",
                                  speed_of_selected(b, i)));
}

static fb_status add_case(const shape_bench *b, size_t i) {
    fb_bench_case c = case_of(b, i);
    const fb_composed *composed = b->entries[i].composed;
    FB_TRY(fb_bench_add_case(b->bench, &c));
    if (!composed)
        return FB_OK;
    FB_TRY(fb_composed_check(composed));
    char version[256] = "";
    composed->peer->version(version, sizeof version);
    return fb_bench_add(b->bench, "peers",
                        json_pack("{s:s, s:s, s:I, s:s, s:s, s:s, s:f}", "name", c.name, "dtype",
                                  c.dtype, "threads", (json_int_t)c.threads, "implementation",
                                  c.implementation, "version", version, "keys",
                                  composed->keys_as_rows ? "rows" : "columns", "softmax_share",
                                  fb_composed_softmax_share(composed)));
}

static fb_status run_trials(shape_bench *b) {
    const fb_number_list *threads = &b->chosen->common.threads;
    for (size_t i = 0; i < threads->count; i++)
        FB_TRY(add_peers(b, threads->values[i]));
    FB_TRY(prepare_selected(b));
    for (size_t i = 0; i < threads->count; i++)
        add_trials(b, threads->values[i]);
    char what[128];
    snprintf(what, sizeof what, "%s, %s", b->data.shape.name, fb_dtype_name(b->data.shape.dtype));
    fb_rounds rounds = fb_bench_rounds(b->bench, what);
    FB_TRY(fb_rounds_run(&rounds, &b->bench->limits, b->trials, b->count));
    FB_TRY(add_shape(b));
    for (size_t i = 0; i < threads->count && !b->chosen->no_steps; i++)
        FB_TRY(add_steps(b, threads->values[i]));
    for (size_t i = 0; i < b->count; i++) {
        FB_TRY(add_scaling(b, i));
        FB_TRY(add_density(b, i));
        FB_TRY(add_case(b, i));
    }
    if (!b->bench->quiet)
        print_shape(b);
    return FB_OK;
}

static size_t steps_of(const settings *chosen, size_t queries) {
    if (chosen->steps)
        return chosen->steps;
    return queries > 32 ? 4 : queries;
}

static fb_status bench_shape(fb_bench *bench, const settings *chosen, const fb_bench_shape *shape) {
    shape_bench *b = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *b, "trials", &b));
    b->bench = bench;
    b->chosen = chosen;
    fb_status status =
        fb_attention_run_prepare(&b->data, shape, steps_of(chosen, shape->num_queries));
    if (status == FB_OK)
        status = run_trials(b);
    for (size_t i = 0; i < b->count; i++)
        fb_samples_free(&b->trials[i].seconds);
    for (size_t i = 0; i < b->num_composed; i++)
        fb_composed_free(&b->composed[i]);
    for (size_t i = 0; i < FB_NUMBER_LIST_MAX; i++)
        fb_attention_selected_free(&b->selected[i]);
    fb_composed_matrices_free(&b->matrices);
    fb_attention_run_free(&b->data);
    fb_free(b);
    return status;
}

/* --- all shapes --------------------------------------------------------------------------------
 */

static fb_status parse_dtypes(const char *text, fb_dtype *dtypes, size_t *count) {
    for (const char *at = text; *count < 3; at++) {
        char name[16];
        size_t length = strcspn(at, ",");
        snprintf(name, sizeof name, "%.*s", (int)(length < 15 ? length : 15), at);
        fb_status status = fb_dtype_parse(name, &dtypes[(*count)++]);
        if (status != FB_OK)
            return fb_fail_in(status, "--dtype");
        at += length;
        if (*at == '\0')
            return FB_OK;
    }
    return fb_fail(FB_ERROR_ARGUMENT, "--dtype: '%s' names more than three types", text);
}

/* A family of shapes with what the command line changes in it. */
static fb_bench_family adapted(const settings *chosen, const fb_bench_family *family) {
    fb_bench_family result = *family;
    if (chosen->queries)
        result.num_queries = chosen->queries;
    if (chosen->contexts.count) {
        result.num_contexts = chosen->contexts.count;
        memcpy(result.contexts, chosen->contexts.values, sizeof result.contexts);
    }
    return result;
}

/* The families of the command line, one after the other; NULL behind the last. */
static const fb_bench_family *family_at(const settings *chosen, size_t i) {
    if (!chosen->preset)
        return i == 0 ? &chosen->custom : NULL;
    return i < chosen->preset->num_families ? &chosen->preset->families[i] : NULL;
}

static fb_status bench_family(fb_bench *bench, const settings *chosen,
                              const fb_bench_family *family) {
    fb_dtype dtypes[3];
    size_t num_dtypes = 0;
    FB_TRY(parse_dtypes(chosen->dtypes, dtypes, &num_dtypes));
    for (size_t i = 0; i < family->num_contexts; i++)
        for (size_t j = 0; j < num_dtypes; j++) {
            fb_bench_shape shape = fb_bench_shape_of(family, family->contexts[i], dtypes[j]);
            FB_TRY(bench_shape(bench, chosen, &shape));
        }
    return FB_OK;
}

static fb_status bench_all(fb_bench *bench, const settings *chosen) {
    const fb_bench_family *family;
    for (size_t i = 0; (family = family_at(chosen, i)); i++) {
        fb_bench_family changed = adapted(chosen, family);
        FB_TRY(bench_family(bench, chosen, &changed));
    }
    return FB_OK;
}

/* What can be said before anything is measured. */

static fb_status check_peers(const settings *chosen) {
    for (size_t i = 0; i < chosen->named_peers.count; i++) {
        const fb_peer *peer = NULL;
        fb_status status = fb_peer_open(chosen->named_peers.values[i].text, &peer);
        if (status != FB_OK)
            return fb_fail_in(status, "--peer");
    }
    return FB_OK;
}

static fb_status check_family(const settings *chosen, const fb_bench_family *family) {
    if (family->num_heads % family->num_kv_heads != 0)
        return fb_fail(FB_ERROR_ARGUMENT, "--heads: %zu is no multiple of --kv-heads, %zu",
                       family->num_heads, family->num_kv_heads);
    if (chosen->steps > family->num_queries)
        return fb_fail(FB_ERROR_ARGUMENT, "--steps: %zu are more than the block's %zu tokens",
                       chosen->steps, family->num_queries);
    for (size_t i = 0; i < family->num_contexts; i++)
        if (chosen->no_steps && family->contexts[i] == 0)
            return fb_fail(FB_ERROR_ARGUMENT, "--context: with --no-steps, 0 leaves nothing to do");
    return FB_OK;
}

static fb_status check(const settings *chosen) {
    fb_dtype dtypes[3];
    size_t num_dtypes = 0;
    const fb_bench_family *family;
    FB_TRY(parse_dtypes(chosen->dtypes, dtypes, &num_dtypes));
    FB_TRY(fb_number_list_check(&chosen->percents, "density", 0, 100));
    FB_TRY(check_peers(chosen));
    for (size_t i = 0; (family = family_at(chosen, i)); i++) {
        fb_bench_family changed = adapted(chosen, family);
        FB_TRY(check_family(chosen, &changed));
    }
    return FB_OK;
}

/* A shape of the command line: "h32-kv8-d128". */
static void complete_custom(fb_bench_family *custom, char *name, size_t size) {
    snprintf(name, size, "h%zu-kv%zu-d%zu", custom->num_heads, custom->num_kv_heads,
             custom->head_dim);
    custom->name = name;
    custom->num_queries = 4;
    custom->contexts[0] = 4096;
    custom->num_contexts = 1;
}

static fb_status run(settings *chosen) {
    char name[64];
    complete_custom(&chosen->custom, name, sizeof name);
    FB_TRY(check(chosen));
    fb_bench bench = {0};
    fb_status status = fb_bench_begin(&bench, &chosen->common);
    if (status == FB_OK && !bench.quiet)
        fb_bench_print_limits(&bench);
    if (status == FB_OK)
        status = bench_all(&bench, chosen);
    return fb_bench_finish(&bench, status);
}

int fb_command_bench_attention(int argc, char **argv) {
    settings chosen = {.common.isa = FB_ISA_CHOICE_CURRENT};
    int exit_status;
    if (fb_options_parse(&table, argc, argv, &chosen, &exit_status))
        exit_status = fb_report_status(run(&chosen));
    fb_option_list_free(&chosen.named_peers);
    return exit_status;
}

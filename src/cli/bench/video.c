/* flashblock bench video: a block's passes through a video model's self-attention, dense and with
 * the head-wise reuse that a calibration allows. */
#include "base/error.h"
#include "base/memory.h"
#include "cli/bench/bench.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "oracle/inputs.h"

#include <flashblock/experimental/calibration.h>
#include <flashblock/experimental/head_reuse.h>
#include <flashblock/experimental/video_cache.h>

#include <stdio.h>
#include <string.h>

enum { MAX_STEPS = 16, MAX_HEADS = 256 };

typedef struct settings {
    fb_bench_settings common;
    const char *calibration;
    fb_number_list reused_heads;
    size_t heads, head_dim, frame_tokens, block_frames, window_frames, sink_frames, rows;
} settings;

#define SIZE_OPTION(field, option, default_value, least, text)                                     \
    {                                                                                              \
        .kind = FB_OPTION_SIZE, .name = (option), .argument = "N",                                 \
        .target = offsetof(settings, field), .min = (least), .max = 1 << 16,                       \
        .otherwise = (default_value), .help = (text)                                               \
    }

static const fb_option options[] = {
    SIZE_OPTION(heads, "heads", "12", 1, "heads of a layer"),
    SIZE_OPTION(head_dim, "head-dim", "128", 1, "numbers of a head"),
    SIZE_OPTION(frame_tokens, "frame-tokens", "1560", 1, "tokens of a frame"),
    SIZE_OPTION(block_frames, "block-frames", "3", 1, "frames of a block"),
    SIZE_OPTION(window_frames, "window-frames", "12", 1,
                "frames that a block sees, sink and itself included"),
    SIZE_OPTION(sink_frames, "sink-frames", "3", 0, "first frames of the clip that stay"),
    SIZE_OPTION(rows, "rows", "192", 1,
                "queries of a block that are timed, at most all of them (4680): each costs the "
                "same"),
    {.kind = FB_OPTION_STRING,
     .name = "calibration",
     .argument = "FILE",
     .target = offsetof(settings, calibration),
     .help = "heads that refresh, for each step and layer (flashblock calibrate); each layer is "
             "timed"},
    {.kind = FB_OPTION_PARSED,
     .name = "reused-heads",
     .needs = "!calibration",
     .argument = "LIST",
     .target = offsetof(settings, reused_heads),
     .parse = fb_number_list_parse,
     .otherwise = "7,8,7,8",
     .help = "without a calibration: how many heads reuse at each step after the first. At 12 "
             "heads and this geometry, 7,8,7,8 allow the 1.60x that the paper reports"},
    FB_BENCH_TIMING_OPTIONS(settings, "5", "0"),
    FB_BENCH_JSON_OPTION(settings),
};

static const fb_option_table table = {
    .usage = "bench video [OPTION]...",
    .summary =
        "Times self-attention over all passes of a block (4 denoising steps and the one over the\n"
        "clean frames): dense, and with head-wise reuse; and sets the ratio of the two beside the\n"
        "ratio of work, pairs of query and key. The window is full. Defaults: LongLive-1.3B.",
    FB_TABLE_OPTIONS(options),
};

/* One layer's cache stands for all; queries are a block's first rows. */
typedef struct video_bench {
    const settings *chosen;
    size_t num_layers, num_steps;
    bool *refresh; /* [num_layers, num_steps, heads] */
    fb_video_cache *cache;
    fb_part_cache *parts;
    fb_kv kvs[MAX_HEADS];
    fb_view external[MAX_HEADS], internal[MAX_HEADS];
    float *q, *out, *lse;                      /* [rows, heads, head_dim], [rows, heads] */
    double external_keys, internal_keys;       /* that a query sees */
    double work, dense_work;                   /* pairs, over all layers, steps and heads */
    fb_trial trials[2 * FB_MAX_THREAD_COUNTS]; /* dense, with reuse, for each number of threads */
} video_bench;

/* --- setting up ------------------------------------------------------------------------------- */

static fb_status from_calibration(video_bench *b, fb_calibration *calibration) {
    const fb_calibration_config *config = fb_calibration_config_of(calibration);
    size_t heads = b->chosen->heads;
    if (config->num_heads != heads)
        return fb_fail(FB_ERROR_ARGUMENT, "%s: it is of %zu heads, --heads says %zu",
                       b->chosen->calibration, config->num_heads, heads);
    b->num_layers = config->num_layers;
    b->num_steps = config->num_steps;
    FB_TRY(fb_alloc(b->num_layers * b->num_steps, heads, "heads that refresh", &b->refresh));
    for (size_t i = 0; i < b->num_layers * b->num_steps; i++)
        memcpy(b->refresh + i * heads,
               fb_calibration_refresh(calibration, i / b->num_steps, i % b->num_steps), heads);
    return FB_OK;
}

/* The first heads of each step reuse. */
static fb_status from_list(video_bench *b) {
    const fb_number_list *reused = &b->chosen->reused_heads;
    size_t heads = b->chosen->heads;
    FB_TRY(fb_number_list_check(reused, "reused-heads", 0, heads));
    b->num_layers = 1;
    b->num_steps = reused->count + 1;
    FB_TRY(fb_alloc(b->num_steps, heads, "heads that refresh", &b->refresh));
    memset(b->refresh, 1, b->num_steps * heads);
    for (size_t step = 1; step < b->num_steps; step++)
        memset(b->refresh + step * heads, 0, reused->values[step - 1]);
    return FB_OK;
}

static fb_status choose_heads(video_bench *b) {
    fb_calibration *calibration = NULL;
    if (!b->chosen->calibration)
        return from_list(b);
    FB_TRY(fb_calibration_load(b->chosen->calibration, &calibration));
    fb_status status = from_calibration(b, calibration);
    fb_calibration_destroy(calibration);
    return status;
}

/* Blocks until the window is full, and one more. */
static fb_status fill_cache(video_bench *b) {
    const settings *s = b->chosen;
    size_t tokens = s->block_frames * s->frame_tokens, values = tokens * s->heads * s->head_dim;
    size_t blocks = s->window_frames / s->block_frames + 1;
    float *k = NULL, *v = NULL;
    FB_TRY(fb_alloc(values, sizeof *k, "keys", &k));
    fb_status status = fb_alloc(values, sizeof *v, "values", &v);
    for (size_t i = 0; i < blocks && status == FB_OK; i++) {
        fb_input_normals(i + 1, "k", 1, k, values);
        fb_input_normals(i + 1, "v", 1, v, values);
        status = fb_video_cache_begin(b->cache, i * s->block_frames, s->block_frames);
        if (status == FB_OK)
            status = fb_video_cache_write(b->cache, 0, k, v);
    }
    fb_free(k);
    fb_free(v);
    return status;
}

static void count_work(video_bench *b) {
    size_t count = b->num_layers * b->num_steps * b->chosen->heads;
    double rows = (double)b->chosen->rows;
    b->external_keys = (double)fb_video_cache_num_external(b->cache);
    b->internal_keys = (double)fb_video_cache_num_internal(b->cache);
    for (size_t i = 0; i < count; i++)
        b->work += rows * (b->internal_keys + (b->refresh[i] ? b->external_keys : 0.0));
    b->dense_work = rows * (double)count * (b->internal_keys + b->external_keys);
}

static fb_status prepare(video_bench *b) {
    const settings *s = b->chosen;
    if (s->heads > MAX_HEADS)
        return fb_fail(FB_ERROR_ARGUMENT, "--heads: %zu, expected at most %d", s->heads, MAX_HEADS);
    if (s->rows > s->block_frames * s->frame_tokens)
        return fb_fail(FB_ERROR_ARGUMENT, "--rows: %zu, expected at most a block's %zu", s->rows,
                       s->block_frames * s->frame_tokens);
    fb_video_cache_config config = {.num_layers = 1,
                                    .num_heads = s->heads,
                                    .head_dim = s->head_dim,
                                    .frame_tokens = s->frame_tokens,
                                    .block_frames = s->block_frames,
                                    .sink_frames = s->sink_frames,
                                    .window_frames = s->window_frames};
    size_t rows = s->rows * s->heads;
    FB_TRY(choose_heads(b));
    FB_TRY(fb_video_cache_create(&config, &b->cache));
    FB_TRY(fb_part_cache_create(b->num_layers, s->rows, s->heads, s->head_dim, &b->parts));
    FB_TRY(fb_alloc(rows, s->head_dim * sizeof(float), "queries", &b->q));
    FB_TRY(fb_alloc(rows, s->head_dim * sizeof(float), "outputs", &b->out));
    FB_TRY(fb_alloc(rows, sizeof(float), "log-sum-exps", &b->lse));
    fb_input_normals(1, "q", 1, b->q, rows * s->head_dim);
    FB_TRY(fill_cache(b));
    FB_TRY(fb_video_cache_views(b->cache, 0, b->kvs, b->external, b->internal));
    count_work(b);
    return FB_OK;
}

static void clean_up(video_bench *b) {
    fb_video_cache_destroy(b->cache);
    fb_part_cache_destroy(b->parts);
    fb_free(b->refresh);
    fb_free(b->q);
    fb_free(b->out);
    fb_free(b->lse);
    for (size_t i = 0; i < 2 * FB_MAX_THREAD_COUNTS; i++)
        fb_samples_free(&b->trials[i].seconds);
}

/* --- what is timed ---------------------------------------------------------------------------- */

static fb_status attend(const video_bench *b, size_t layer, fb_reuse_action action,
                        const bool *refresh) {
    const settings *s = b->chosen;
    fb_queries queries = fb_queries_rows(b->q, s->rows, s->heads, s->head_dim);
    fb_part result = fb_part_rows(b->out, b->lse, s->heads, s->head_dim);
    fb_block_heads views = {.external = b->external,
                            .internal = b->internal,
                            .num_kv_heads = s->heads,
                            .context = 1,
                            .refresh = action == FB_REFRESH_HEADS ? refresh : NULL};
    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = &queries;
    call.layer = layer;
    call.action = action;
    call.parts = b->parts;
    call.heads = &views;
    return fb_block_attend(&call, &result);
}

/* All passes of a block in all layers; dense keeps no part. */
static fb_status run_block(const video_bench *b, bool reuses) {
    const settings *s = b->chosen;
    for (size_t layer = 0; layer < b->num_layers; layer++)
        for (size_t step = 0; step < b->num_steps; step++) {
            const bool *refresh = b->refresh + (layer * b->num_steps + step) * s->heads;
            FB_TRY(attend(b, layer,
                          !reuses    ? FB_REFRESH_ONLY
                          : step > 0 ? FB_REFRESH_HEADS
                                     : FB_REFRESH_AND_STORE,
                          refresh));
        }
    return FB_OK;
}

static fb_status run_dense(void *context) {
    return run_block(context, false);
}

static fb_status run_reuse(void *context) {
    return run_block(context, true);
}

/* --- results ---------------------------------------------------------------------------------- */

static fb_bench_case case_of(const video_bench *b, const fb_trial *trial, bool reuses,
                             const char *name) {
    const settings *s = b->chosen;
    double pairs = reuses ? b->work : b->dense_work;
    double keys = b->external_keys + b->internal_keys;
    return (fb_bench_case){
        .name = name,
        .dtype = "f32",
        .implementation = reuses ? "flashblock" : "dense",
        .threads = trial->threads,
        .flops = 4 * pairs * (double)s->head_dim,
        .bytes = 2 * keys * (double)(s->heads * s->head_dim) * (double)sizeof(float),
        .median = fb_samples_median(&trial->seconds, 0),
        .min = fb_samples_min(&trial->seconds),
    };
}

static fb_status report(fb_bench *bench, const video_bench *b, const fb_trial *pair,
                        const char *name) {
    double allowed = b->dense_work / b->work;
    double ratio = fb_samples_median_ratio(&pair[0].seconds, &pair[1].seconds);
    for (int reuses = 0; reuses < 2; reuses++) {
        fb_bench_case c = case_of(b, &pair[reuses], reuses, name);
        FB_TRY(fb_bench_add_case(bench, &c));
        if (!bench->quiet)
            printf("%-12s%8zu%14.1f%14.1f%12.1f%10.3f\n", c.implementation, c.threads,
                   1e3 * c.median, 1e3 * c.min, fb_bench_case_gflops(&c),
                   fb_bench_case_peak_fraction(bench, &c));
    }
    if (!bench->quiet)
        printf("attention time: %.3fx less; the calibration allows %.3fx; that is %.1f %% of it\n",
               ratio, allowed, 100.0 * ratio / allowed);
    fb_json_writer *w = fb_bench_items(bench, FB_BENCH_VIDEO);
    fb_json_open_object(w, NULL);
    fb_json_put_size(w, "threads", pair->threads);
    fb_json_put_size(w, "layers", b->num_layers);
    fb_json_put_size(w, "passes", b->num_steps);
    fb_json_put_size(w, "rows", b->chosen->rows);
    fb_json_put_double(w, "time_ratio", ratio);
    fb_json_put_double(w, "work_ratio", allowed);
    fb_json_close_object(w);
    return fb_json_finish(w);
}

static fb_status run_trials(fb_bench *bench, video_bench *b) {
    const settings *s = b->chosen;
    const fb_number_list *threads = &s->common.threads;
    char name[96];
    snprintf(name, sizeof name, "video-h%zu-d%zu-b%zu-w%zu", s->heads, s->head_dim,
             s->block_frames * s->frame_tokens, s->window_frames * s->frame_tokens);
    for (size_t i = 0; i < threads->count; i++) {
        b->trials[2 * i] =
            (fb_trial){.run = run_dense, .context = b, .threads = threads->values[i]};
        b->trials[2 * i + 1] =
            (fb_trial){.run = run_reuse, .context = b, .threads = threads->values[i]};
    }
    fb_rounds rounds = fb_bench_rounds(bench, name);
    FB_TRY(fb_rounds_run(&rounds, &bench->limits, b->trials, 2 * threads->count));
    fb_progress_end();
    if (!bench->quiet) {
        fb_bench_print_limits(bench);
        printf("\n%zu heads of %zu, block of %zu tokens, %.0f keys outside it, %zu passes, %zu "
               "layer%s, %zu queries\n",
               s->heads, s->head_dim, s->block_frames * s->frame_tokens, b->external_keys,
               b->num_steps, b->num_layers, b->num_layers == 1 ? "" : "s", s->rows);
        printf("%-12s%8s%14s%14s%12s%10s\n", "attention", "threads", "median ms", "min ms",
               "GFLOP/s", "of peak");
    }
    for (size_t i = 0; i < threads->count; i++)
        FB_TRY(report(bench, b, &b->trials[2 * i], name));
    return FB_OK;
}

static fb_status run(fb_bench *bench, const settings *chosen) {
    video_bench *b = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *b, "benchmark", &b));
    b->chosen = chosen;
    fb_status status = prepare(b);
    if (status == FB_OK)
        status = fb_bench_begin(bench, &chosen->common);
    if (status == FB_OK)
        status = run_trials(bench, b);
    status = bench->settings ? fb_bench_finish(bench, status) : status;
    clean_up(b);
    fb_free(b);
    return status;
}

int fb_command_bench_video(int argc, char **argv) {
    settings chosen = {.common.isa = FB_ISA_CHOICE_CURRENT};
    int exit_status;
    if (!fb_options_parse(&table, argc, argv, &chosen, &exit_status))
        return exit_status;
    fb_bench bench = {0};
    return fb_report_status(run(&bench, &chosen));
}

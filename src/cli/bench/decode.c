/* flashblock bench decode: blocks of a model after contexts of given lengths. */
#include "base/error.h"
#include "base/memory.h"
#include "bench/block_script.h"
#include "bench/decode_run.h"
#include "cli/bench/bench.h"
#include "cli/commands.h"
#include "cli/options/common_options.h"
#include "cli/output.h"
#include "cli/progress.h"

#include <stdio.h>
#include <string.h>

typedef struct settings {
    fb_bench_settings common;
    const char *model, *like;
    size_t layers;
    fb_number_list contexts, taus;
    bool row_refresh, breakdown;
    size_t block_size, steps; /* 0: not given */
    fb_weight_bits weights;
    bool float_activations;
    fb_dtype kv_dtype;
} settings;

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option options[] = {
    {.kind = FB_OPTION_STRING,
     .name = "model",
     .letter = 'm',
     .argument = "DIR",
     TARGET(model),
     .help = "a Hugging Face directory: config.json, model.safetensors (or its shards)"},
    {.kind = FB_OPTION_STRING,
     .name = "like",
     .needs = "!model",
     .argument = "NAME",
     TARGET(like),
     .help = "in place of a directory, random weights of this shape: llada2-mini, llada2-flash, "
             "sdar-30b-a3b, fast-dllm-v2-7b or fast-dllm-v2-1.5b; layers share a gigabyte of "
             "memory, in bf16 or as --weights says"},
    {.kind = FB_OPTION_SIZE,
     .name = "layers",
     .needs = "like",
     .argument = "N",
     TARGET(layers),
     .min = 1,
     .max = 1 << 10,
     .help = "other than the published number of layers"},
    {.kind = FB_OPTION_PARSED,
     .name = "context",
     .argument = "LIST",
     TARGET(contexts),
     .parse = fb_number_list_parse,
     .otherwise = "1k,4k,16k",
     .help = "tokens before the block; the model's own limit does not matter here"},
    {.kind = FB_OPTION_PARSED,
     .name = "tau",
     .argument = "LIST",
     TARGET(taus),
     .parse = fb_number_list_parse,
     .otherwise = "0,2,3",
     .help = "0 is dense attention"},
    {.kind = FB_OPTION_FLAG,
     .name = "row-refresh",
     TARGET(row_refresh),
     .help = "also blocks refreshed by rows, with and without the first-order correction"},
    {.kind = FB_OPTION_FLAG,
     .name = "breakdown",
     TARGET(breakdown),
     .help = "also what the parts beside attention and linear layers cost"},
    FB_BLOCK_SIZE_OPTION(settings, block_size),
    {.kind = FB_OPTION_SIZE,
     .name = "steps",
     .argument = "N",
     TARGET(steps),
     .min = 1,
     .max = 1 << 16,
     .help = "denoising steps of a block, at most its tokens (default: one for each)"},
    {.kind = FB_OPTION_PARSED,
     .name = "weights",
     .argument = "TYPE",
     TARGET(weights),
     .parse = fb_weight_bits_parse,
     .otherwise = "stored",
     .help = "stored; w8: rounded to 8 bits, a scale a row; w4: to 4 bits in groups of 128, "
             "embedding and head to 8"},
    FB_ACTIVATIONS_OPTION(settings, float_activations),
    FB_KV_DTYPE_OPTION(settings, kv_dtype),
    FB_BENCH_TIMING_OPTIONS(settings, "7", "1"),
    FB_BENCH_JSON_OPTION(settings),
};

static const fb_option_table table = {
    .usage = "bench decode (--model DIR | --like NAME) [OPTION]...",
    .summary =
        "Times the forward passes of blocks, dense and with FlashBlock: denoising steps that each\n"
        "accept their share of the block's tokens, and the commit. The context is random keys and\n"
        "values, whatever its length; no text is written.",
    FB_TABLE_OPTIONS(options),
};

/* --- one context -------------------------------------------------------------------------------
 */

enum { MAX_TRIALS = FB_MAX_THREAD_COUNTS * (FB_NUMBER_LIST_MAX + 2) };

typedef struct decode_bench {
    fb_bench *bench;
    const settings *chosen;
    fb_decode_run data;
    char model[32]; /* the directory's name, or --like */
    size_t context;
    fb_decode_block runs[MAX_TRIALS];
    fb_trial trials[MAX_TRIALS];
    size_t count;
} decode_bench;

/* The result of one trial. */
typedef struct result {
    double block_seconds, passes_per_second, tokens_per_second;
    double attention, linear, other; /* parts of the time */
    double read_ratio; /* time in linear layers, by that of reading their weights once a pass */
    double roof_ratio; /* or, if that takes longer, of their multiply-adds at the peak */
} result;

/* Seconds for reading the weights of a block's passes, from the innermost cache that holds them. */
static double read_seconds(const decode_bench *b, size_t threads) {
    const fb_limits *limits = &b->bench->limits;
    size_t bytes = fb_model_num_bytes(b->data.model);
    size_t level =
        b->bench->settings->cold ? FB_LEVEL_MEMORY : fb_limits_level_of(limits, threads, bytes);
    return 1e-9 * fb_decode_run_weight_bytes(&b->data) / fb_limits_read(limits, threads, level);
}

/* Seconds of a block's passes in linear layers, if only multiply-adds took time. */
static double multiply_seconds(const decode_bench *b, size_t threads) {
    return 1e-9 * fb_decode_run_weight_flops(&b->data) / fb_limits_fma(&b->bench->limits, threads);
}

static result result_of(const decode_bench *b, size_t i) {
    const fb_decode_block *run = &b->runs[i];
    double block = fb_samples_median(&b->trials[i].seconds, 0);
    double attention = run->times.attention / run->seconds;
    double linear = run->times.linear / run->seconds;
    double reading = read_seconds(b, b->trials[i].threads);
    double multiplying = multiply_seconds(b, b->trials[i].threads);
    return (result){
        .block_seconds = block,
        .passes_per_second = (double)(b->data.steps + 1) / block,
        .tokens_per_second = (double)b->data.block_size / block,
        .attention = attention,
        .linear = linear,
        .other = 1 - attention - linear,
        .read_ratio = linear * block / reading,
        .roof_ratio = linear * block / (reading > multiplying ? reading : multiplying),
    };
}

static void print_result(const decode_bench *b, size_t i) {
    result r = result_of(b, i);
    char policy[16];
    snprintf(policy, sizeof policy, "%zu", b->runs[i].tau);
    if (b->runs[i].rows)
        snprintf(policy, sizeof policy, b->runs[i].corrected ? "rows+c" : "rows");
    printf("%8zu%8zu%8s%11.3f%11.2f%11.2f%10.1f%%%9.1f%%%9.1f%%%12.2f%12.2f\n", b->context,
           b->trials[i].threads, policy, 1e3 / r.passes_per_second, r.passes_per_second,
           r.tokens_per_second, 100 * r.attention, 100 * r.linear, 100 * r.other, r.read_ratio,
           r.roof_ratio);
}

/* The parts of "other". What their sum leaves out is the time between them. */
enum { NUM_PARTS = 8 };
static const char *const part_names[NUM_PARTS] = {
    "embedding", "norms", "positions", "kv_write", "swiglu", "residual", "routing", "proposals"};

static void part_shares(const fb_decode_block *run, double shares[NUM_PARTS]) {
    const fb_small_times *small = &run->small;
    const double seconds[NUM_PARTS] = {small->embedding, small->norms,  small->positions,
                                       small->kv_write,  small->swiglu, small->residual,
                                       small->routing,   run->proposals};
    for (size_t i = 0; i < NUM_PARTS; i++)
        shares[i] = seconds[i] / run->seconds;
}

static void print_breakdown(const decode_bench *b, size_t i) {
    double shares[NUM_PARTS], pass = 1 / result_of(b, i).passes_per_second;
    part_shares(&b->runs[i], shares);
    for (size_t part = 0; part < NUM_PARTS; part++)
        printf("%34s%8.3f ms/pass%9.2f%%\n", part_names[part], 1e3 * pass * shares[part],
               100 * shares[part]);
}

/* Attention of all layers to this many keys, over a whole block. */
static void attention_work(const decode_bench *b, const fb_decode_block *run, double *flops,
                           double *bytes) {
    const fb_model_config *config = fb_model_config_of(b->data.model);
    double passes = (double)(b->data.steps + 1), block = (double)b->data.block_size;
    double reads = run->rows ? passes
                             : passes - (double)fb_block_script_reuses(b->data.block_size,
                                                                       b->data.steps, run->tau);
    double refreshes = run->rows ? 2 : reads; /* of as many rows as a block has */
    double context = (double)b->context;
    double values = (double)config->num_hidden_layers * (double)config->head_dim;
    double rows = (double)config->num_hidden_layers * /* of all layers, in bytes */
                  (double)fb_kv_row_bytes(b->chosen->kv_dtype, config->head_dim);
    *flops = 4 * (double)config->num_attention_heads * block * values *
             (refreshes * context + passes * block);
    *bytes = 2 * (double)config->num_key_value_heads * rows * (reads * context + passes * block);
}

static fb_status add_result(decode_bench *b, size_t i) {
    char name[96], implementation[48];
    double flops, bytes;
    size_t tau = b->runs[i].tau;
    attention_work(b, &b->runs[i], &flops, &bytes);
    bool stored = b->chosen->weights == FB_WEIGHTS_STORED;
    snprintf(name, sizeof name, "decode-%s%s%s%s-b%zu-c%zu", b->model, stored ? "" : "-",
             stored ? "" : fb_weight_bits_name(b->chosen->weights),
             b->chosen->float_activations ? "-f32" : "", b->data.block_size, b->context);
    snprintf(implementation, sizeof implementation, tau ? "flashblock, tau %zu" : "dense", tau);
    if (b->runs[i].rows)
        snprintf(implementation, sizeof implementation, "flashblock, rows%s",
                 b->runs[i].corrected ? ", corrected" : "");
    fb_bench_case c = {
        .name = name,
        .dtype = fb_dtype_name(b->chosen->kv_dtype),
        .implementation = implementation,
        .threads = b->trials[i].threads,
        .flops = flops + fb_decode_run_weight_flops(&b->data),
        .bytes = bytes + fb_decode_run_weight_bytes(&b->data),
        .median = fb_samples_median(&b->trials[i].seconds, 0),
        .min = fb_samples_min(&b->trials[i].seconds),
    };
    result r = result_of(b, i);
    fb_json_writer *w = fb_bench_items(b->bench, FB_BENCH_DECODE);
    fb_json_open_object(w, NULL);
    fb_json_put_text(w, "name", name);
    fb_json_put_bool(w, "rows", b->runs[i].rows);
    fb_json_put_bool(w, "correction", b->runs[i].corrected);
    fb_json_put_string(w, "dtype", c.dtype);
    fb_json_put_string(w, "implementation", implementation);
    fb_json_put_size(w, "threads", c.threads);
    fb_json_put_size(w, "context", b->context);
    fb_json_put_size(w, "tau", tau);
    fb_json_put_size(w, "block_size", b->data.block_size);
    fb_json_put_size(w, "passes", b->data.steps + 1);
    fb_json_put_double(w, "passes_per_second", r.passes_per_second);
    fb_json_put_double(w, "tokens_per_second", r.tokens_per_second);
    fb_json_put_double(w, "attention_share", r.attention);
    fb_json_put_double(w, "linear_share", r.linear);
    fb_json_put_double(w, "other_share", r.other);
    double shares[NUM_PARTS];
    part_shares(&b->runs[i], shares);
    fb_json_open_object(w, "other_shares");
    for (size_t part = 0; part < NUM_PARTS; part++)
        fb_json_put_double(w, part_names[part], shares[part]);
    fb_json_close_object(w);
    fb_json_put_double(w, "experts_per_layer", fb_decode_run_experts(&b->data));
    fb_json_put_double(w, "weight_bytes_per_pass",
                       fb_decode_run_weight_bytes(&b->data) / (double)(b->data.steps + 1));
    fb_json_put_double(w, "linear_by_weight_reading", r.read_ratio);
    fb_json_put_double(w, "linear_by_roofline", r.roof_ratio);
    fb_json_close_object(w);
    FB_TRY(fb_json_finish(w));
    return fb_bench_add_case(b->bench, &c);
}

static fb_status run_context(decode_bench *b, size_t context) {
    const fb_number_list *threads = &b->chosen->common.threads, *taus = &b->chosen->taus;
    b->context = context;
    b->count = 0;
    char what[96];
    snprintf(what, sizeof what, "%s, %zu tokens", b->model, context);
    fb_rounds rounds = fb_bench_rounds(b->bench, what);
    FB_TRY(fb_decode_run_set_context(&b->data, context));
    for (size_t i = 0; i < threads->count; i++)
        for (size_t j = 0; j < taus->count; j++) {
            b->runs[b->count] = (fb_decode_block){.data = &b->data, .tau = taus->values[j]};
            b->trials[b->count] = (fb_trial){.run = fb_decode_run_block,
                                             .context = &b->runs[b->count],
                                             .threads = threads->values[i]};
            b->count++;
        }
    for (size_t i = 0; i < threads->count && b->chosen->row_refresh; i++)
        for (int corrected = 0; corrected < 2; corrected++) {
            b->runs[b->count] = (fb_decode_block){
                .data = &b->data, .tau = 1, .rows = true, .corrected = corrected != 0};
            b->trials[b->count] = (fb_trial){.run = fb_decode_run_block,
                                             .context = &b->runs[b->count],
                                             .threads = threads->values[i]};
            b->count++;
        }
    FB_TRY(fb_rounds_run(&rounds, &b->bench->limits, b->trials, b->count));
    fb_progress_end();
    for (size_t i = 0; i < b->count; i++) {
        FB_TRY(add_result(b, i));
        if (!b->bench->quiet)
            print_result(b, i);
        if (!b->bench->quiet && b->chosen->breakdown)
            print_breakdown(b, i);
    }
    return FB_OK;
}

/* --- all contexts ------------------------------------------------------------------------------
 */

static void name_model(decode_bench *b, const char *directory) {
    size_t end = strlen(directory);
    while (end > 1 && directory[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && directory[begin - 1] != '/')
        begin--;
    snprintf(b->model, sizeof b->model, "%.*s", (int)(end - begin < 31 ? end - begin : 31),
             directory + begin);
}

static void print_heading(const decode_bench *b) {
    fb_bench_print_limits(b->bench);
    printf("\n%s: %.1f MB of weights (%s), blocks of %zu tokens in %zu steps and a commit; K/V in "
           "%s\n",
           b->model, 1e-6 * (double)fb_model_num_bytes(b->data.model),
           fb_weight_bits_name(b->chosen->weights), b->data.block_size, b->data.steps,
           fb_dtype_name(b->chosen->kv_dtype));
    const fb_model_config *config = fb_model_config_of(b->data.model);
    if (config->num_experts > 0)
        printf("a pass reads %.1f of a layer's %zu experts; all that it reads is %.1f MB\n",
               fb_decode_run_experts(&b->data), config->num_experts,
               1e-6 * fb_decode_run_weight_bytes(&b->data) / (double)(b->data.steps + 1));
    for (size_t i = 0; i < b->bench->limits.count; i++) {
        size_t threads = b->bench->limits.limits[i].threads;
        printf("reading them once a pass takes %.3f ms with %zu threads\n",
               1e3 * read_seconds(b, threads) / (double)(b->data.steps + 1), threads);
    }
    printf("\n%8s%8s%8s%11s%11s%11s%11s%10s%10s%12s%12s\n", "context", "threads", "tau", "ms/pass",
           "passes/s", "tokens/s", "attention", "linear", "other", "linear/read", "linear/roof");
}

static fb_status run_contexts(decode_bench *b) {
    fb_status status = FB_OK;
    for (size_t i = 0; i < b->chosen->contexts.count && status == FB_OK; i++) {
        status = run_context(b, b->chosen->contexts.values[i]);
        for (size_t j = 0; j < b->count; j++)
            fb_samples_free(&b->trials[j].seconds);
    }
    return status;
}

static fb_status run(const settings *chosen, fb_bench *bench, decode_bench *b) {
    b->bench = bench;
    b->chosen = chosen;
    name_model(b, chosen->model ? chosen->model : chosen->like);
    fb_decode_settings decode = {.directory = chosen->model,
                                 .like = chosen->like,
                                 .layers = chosen->layers,
                                 .weights = chosen->weights,
                                 .float_activations = chosen->float_activations,
                                 .kv_dtype = chosen->kv_dtype,
                                 .block_size = chosen->block_size,
                                 .steps = chosen->steps};
    FB_TRY(fb_decode_run_prepare(&b->data, &decode));
    fb_print_model_warnings(b->data.model);
    FB_TRY(fb_bench_begin(bench, &chosen->common));
    if (!bench->quiet)
        print_heading(b);
    return run_contexts(b);
}

int fb_command_bench_decode(int argc, char **argv) {
    settings chosen = {.common.isa = FB_ISA_CHOICE_CURRENT};
    int exit_status;
    if (!fb_options_parse(&table, argc, argv, &chosen, &exit_status))
        return exit_status;
    if (!chosen.model && !chosen.like) {
        fb_print_error("--model DIR or --like NAME is missing; see flashblock bench decode --help");
        return FB_EXIT_USAGE;
    }
    fb_bench bench = {0};
    decode_bench *b = NULL;
    fb_status status = fb_alloc_zeroed(1, sizeof *b, "trials", &b);
    if (status != FB_OK)
        return fb_report_status(status);
    status = run(&chosen, &bench, b);
    fb_decode_run_free(&b->data);
    fb_free(b);
    return fb_report_status(fb_bench_finish(&bench, status));
}

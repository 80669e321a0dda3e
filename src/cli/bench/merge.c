/* flashblock bench merge: the log-space merge of two parts. */
#include "base/error.h"
#include "base/memory.h"
#include "cli/bench/bench.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "oracle/inputs.h"

#include <flashblock/attention.h>

#include <stdio.h>

typedef struct settings {
    fb_bench_settings common;
    fb_number_list rows;
    size_t head_dim;
} settings;

static const fb_option options[] = {
    {.kind = FB_OPTION_PARSED,
     .name = "rows",
     .argument = "LIST",
     .target = offsetof(settings, rows),
     .parse = fb_number_list_parse,
     .otherwise = "128,1k,56160",
     .help = "rows of a part, query by query and head by head"},
    {.kind = FB_OPTION_SIZE,
     .name = "head-dim",
     .argument = "N",
     .target = offsetof(settings, head_dim),
     .min = 1,
     .max = 65536,
     .otherwise = "128",
     .help = "numbers of a row"},
    FB_BENCH_TIMING_OPTIONS(settings, "20", "0.5"),
    FB_BENCH_JSON_OPTION(settings),
};

static const fb_option_table table = {
    .usage = "bench merge [OPTION]...",
    .summary =
        "Times the merge of two parts into the first of them. Bytes are those of two parts read\n"
        "and one written; the roofline is the time in which as many are read.",
    FB_TABLE_OPTIONS(options),
};

typedef struct merge_bench {
    size_t rows, head_dim;
    float *out[2], *lse[2];
    fb_trial trials[FB_MAX_THREAD_COUNTS];
} merge_bench;

static fb_status prepare(merge_bench *b) {
    for (int i = 0; i < 2; i++) {
        FB_TRY(fb_alloc(b->rows, b->head_dim * sizeof(float), "outputs", &b->out[i]));
        FB_TRY(fb_alloc(b->rows, sizeof(float), "log-sum-exps", &b->lse[i]));
        fb_input_normals(1, i ? "b" : "a", 1, b->out[i], b->rows * b->head_dim);
        fb_input_normals(1, i ? "lse of b" : "lse of a", 1, b->lse[i], b->rows);
    }
    return FB_OK;
}

static fb_status run_merge(void *context) {
    const merge_bench *b = context;
    fb_part one = fb_part_rows(b->out[0], b->lse[0], 1, b->head_dim);
    fb_part other = fb_part_rows(b->out[1], b->lse[1], 1, b->head_dim);
    return fb_merge(&one, &other, b->rows, 1, b->head_dim, &one);
}

static fb_bench_case case_of(const merge_bench *b, const fb_trial *trial, const char *name) {
    double values = (double)b->rows * (double)b->head_dim;
    return (fb_bench_case){
        .name = name,
        .dtype = "f32",
        .implementation = "flashblock",
        .threads = trial->threads,
        .flops = 3 * values, /* a multiply-add and a division */
        .bytes = 3 * (values + (double)b->rows) * (double)sizeof(float),
        .median = fb_samples_median(&trial->seconds, 0),
        .min = fb_samples_min(&trial->seconds),
    };
}

static void print_case(const fb_bench *bench, const fb_bench_case *c) {
    printf("%-20s%8zu%14.5f%12.5f%10.1f%10.3f\n", c->name, c->threads, 1e3 * c->median,
           1e3 * c->min, fb_bench_case_gbs(c), fb_bench_case_roofline_fraction(bench, c));
}

static fb_status run_trials(fb_bench *bench, merge_bench *b) {
    const fb_number_list *threads = &bench->settings->threads;
    char name[64];
    snprintf(name, sizeof name, "merge-r%zu-d%zu", b->rows, b->head_dim);
    for (size_t i = 0; i < threads->count; i++)
        b->trials[i] = (fb_trial){.run = run_merge, .context = b, .threads = threads->values[i]};
    fb_rounds rounds = fb_bench_rounds(bench, name);
    FB_TRY(fb_rounds_run(&rounds, &bench->limits, b->trials, threads->count));
    fb_progress_end();
    for (size_t i = 0; i < threads->count; i++) {
        fb_bench_case c = case_of(b, &b->trials[i], name);
        FB_TRY(fb_bench_add_case(bench, &c));
        if (!bench->quiet)
            print_case(bench, &c);
    }
    return FB_OK;
}

static fb_status bench_rows(fb_bench *bench, size_t rows, size_t head_dim) {
    merge_bench b = {.rows = rows, .head_dim = head_dim};
    fb_status status = prepare(&b);
    if (status == FB_OK)
        status = run_trials(bench, &b);
    for (int i = 0; i < 2; i++) {
        fb_free(b.out[i]);
        fb_free(b.lse[i]);
    }
    for (size_t i = 0; i < FB_MAX_THREAD_COUNTS; i++)
        fb_samples_free(&b.trials[i].seconds);
    return status;
}

static fb_status bench_all(fb_bench *bench, const settings *chosen) {
    if (!bench->quiet) {
        fb_bench_print_limits(bench);
        printf("\n%-20s%8s%14s%12s%10s%10s\n", "rows, head_dim", "threads", "median ms", "min ms",
               "GB/s", "of roof");
    }
    for (size_t i = 0; i < chosen->rows.count; i++)
        FB_TRY(bench_rows(bench, chosen->rows.values[i], chosen->head_dim));
    return FB_OK;
}

int fb_command_bench_merge(int argc, char **argv) {
    settings chosen = {.common.isa = FB_ISA_CHOICE_CURRENT};
    int exit_status;
    if (!fb_options_parse(&table, argc, argv, &chosen, &exit_status))
        return exit_status;
    fb_bench bench = {0};
    fb_status status = fb_number_list_check(&chosen.rows, "rows", 1, (size_t)1 << 28);
    if (status != FB_OK)
        return fb_report_status(status);
    status = fb_bench_begin(&bench, &chosen.common);
    if (status == FB_OK)
        status = bench_all(&bench, &chosen);
    return fb_report_status(fb_bench_finish(&bench, status));
}

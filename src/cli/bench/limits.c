/* flashblock bench limits: the best that this machine can do. */
#include "base/error.h"
#include "cli/bench/bench.h"
#include "cli/commands.h"
#include "cli/output.h"

typedef struct settings {
    fb_bench_settings common;
} settings;

static const fb_option options[] = {
    FB_BENCH_THREADS_OPTION(settings),
    FB_BENCH_REPEATS_OPTION(settings, "20"),
    FB_BENCH_JSON_OPTION(settings),
};

static const fb_option_table table = {
    .usage = "bench limits [OPTION]...",
    .summary =
        "Measures how many float32 multiply-adds this machine can do, and how fast it reads from\n"
        "memory and from each of its caches: on one core, on all of them, and for every number of\n"
        "threads given. Every other benchmark does the same in its own run.",
    FB_TABLE_OPTIONS(options),
};

int fb_command_bench_limits(int argc, char **argv) {
    settings chosen = {.common.isa = FB_ISA_CHOICE_CURRENT};
    int exit_status;
    if (!fb_options_parse(&table, argc, argv, &chosen, &exit_status))
        return exit_status;
    fb_bench bench = {0};
    fb_status status = fb_bench_begin(&bench, &chosen.common);
    if (status == FB_OK)
        status = fb_limits_measure(&bench.limits, chosen.common.repeats);
    if (status == FB_OK && !bench.quiet)
        fb_bench_print_limits(&bench);
    return fb_report_status(fb_bench_finish(&bench, status));
}

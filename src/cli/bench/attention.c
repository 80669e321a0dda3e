/* flashblock bench attention: attention of given shapes, and the steps of a block. */
#include "base/error.h"
#include "base/memory.h"
#include "cli/bench/attention_bench.h"
#include "cli/bench/attention_output.h"
#include "cli/bench/attention_settings.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/progress.h"

static fb_status bench_shape(fb_bench *bench, const fb_attention_settings *settings,
                             const fb_bench_shape *shape) {
    fb_attention_bench *b = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *b, "trials", &b));
    fb_status status = fb_attention_bench_run(b, bench, settings, shape);
    if (status == FB_OK)
        status = fb_attention_output_add(b);
    fb_progress_end();
    if (status == FB_OK && !bench->quiet)
        fb_attention_output_print(b);
    fb_attention_bench_free(b);
    fb_free(b);
    return status;
}

static fb_status bench_family(fb_bench *bench, const fb_attention_settings *settings,
                              const fb_bench_family *family) {
    const fb_dtype_list *dtypes = &settings->dtypes;
    for (size_t i = 0; i < family->num_contexts; i++)
        for (size_t j = 0; j < dtypes->count; j++) {
            fb_bench_shape shape =
                fb_bench_shape_of(family, family->contexts[i], dtypes->values[j]);
            FB_TRY(bench_shape(bench, settings, &shape));
        }
    return FB_OK;
}

static fb_status bench_all(fb_bench *bench, const fb_attention_settings *settings) {
    fb_bench_family family;
    for (size_t i = 0; fb_attention_settings_family(settings, i, &family); i++)
        FB_TRY(bench_family(bench, settings, &family));
    return FB_OK;
}

static fb_status run(fb_attention_settings *settings) {
    FB_TRY(fb_attention_settings_check(settings));
    fb_bench bench = {0};
    fb_status status = fb_bench_begin(&bench, &settings->common);
    if (status == FB_OK && !bench.quiet)
        fb_bench_print_limits(&bench);
    if (status == FB_OK)
        status = bench_all(&bench, settings);
    return fb_bench_finish(&bench, status);
}

int fb_command_bench_attention(int argc, char **argv) {
    fb_attention_settings settings = {.common.isa = FB_ISA_CHOICE_CURRENT};
    int exit_status;
    if (fb_options_parse(&fb_attention_settings_table, argc, argv, &settings, &exit_status))
        exit_status = fb_report_status(run(&settings));
    fb_option_list_free(&settings.named_peers);
    return exit_status;
}

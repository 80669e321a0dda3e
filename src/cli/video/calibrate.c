/* flashblock calibrate: which heads of a video model may reuse, at which steps. */
#include "base/error.h"
#include "cli/commands.h"
#include "cli/gnuplot.h"
#include "cli/options/common_options.h"
#include "cli/options/isa_choice.h"
#include "cli/options/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/video/calibration_plot.h"
#include "cli/video/video_session.h"
#include "study/calibration_step.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The command line. */
typedef struct settings {
    bool no_mmap;
    const char *model, *prompts, *output, *plot, *json;
    fb_option_list step_thresholds;
    size_t samples, frames, threads;
    uint64_t seed;
    double similarity_threshold, lse_threshold;
    fb_dtype kv_dtype;
    fb_compat compat;
    int isa;
} settings;

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option options[] = {
    FB_VIDEO_MODEL_OPTION(settings),
    FB_NO_MMAP_OPTION(settings, no_mmap),
    {.kind = FB_OPTION_OUTPUT,
     .name = "output",
     .letter = 'o',
     .argument = "FILE.json",
     TARGET(output),
     .required = true,
     .help = "the calibration, for flashblock video --reuse"},
    FB_COUNT_OPTION(settings, samples, "samples", 4096, "8",
                    "clips that are made together, for the first N prompts"),
    FB_VIDEO_PROMPTS_OPTION(settings),
    FB_VIDEO_FRAMES_OPTION(settings, "frames of a clip; blocks after the first count"),
    FB_SEED_OPTION(settings, seed, "0", "of the noise"),
    {.kind = FB_OPTION_DOUBLE,
     .name = "similarity-threshold",
     .argument = "C",
     TARGET(similarity_threshold),
     .min = -1,
     .max = 1,
     .otherwise = "0.85",
     .help = "a head refreshes where its external output's cosine similarity is below C"},
    {.kind = FB_OPTION_LIST,
     .name = "step-threshold",
     .argument = "STEP=C",
     TARGET(step_thresholds),
     .help = "the same for one step only; may be given several times"},
    {.kind = FB_OPTION_DOUBLE,
     .name = "lse-threshold",
     .argument = "X",
     TARGET(lse_threshold),
     .otherwise = "0.05",
     .help = "a head refreshes where its LSE changes by more than X on average"},
    FB_VIDEO_COMPAT_OPTIONS(settings),
    FB_PLOT_OPTION(settings, plot,
                   "heat maps of the similarities: layers and heads at each step, "
                   "external parts above internal ones"),
    FB_ONE_ISA_OPTION(settings, isa),
    FB_THREADS_OPTION(settings, threads, "threads; they change nothing of the result"),
    FB_JSON_OPTION(settings, json, "write the summary as JSON to FILE, or to standard output"),
};

static const fb_option_table table = {
    .usage = "calibrate --model DIR [OPTION]... -o FILE.json",
    .summary = "Makes sample clips densely, compares each head's attention to earlier frames from\n"
               "step to step, and writes down which heads must compute it anew and which may\n"
               "reuse it.",
    FB_TABLE_OPTIONS(options),
};

/* "STEP=C" */
static fb_status read_step_threshold(const char *text, fb_calibration_config *config) {
    char *end = NULL;
    unsigned long step = strtoul(text, &end, 10);
    if (end == text || *end != '=' || step < 1 || step >= config->num_steps)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "--step-threshold: '%s' is not STEP=C with a step from 1 to %zu", text,
                       config->num_steps - 1);
    const char *number = end + 1;
    double threshold = strtod(number, &end);
    if (end == number || *end || !(threshold >= -1.0 && threshold <= 1.0))
        return fb_fail(FB_ERROR_ARGUMENT, "--step-threshold: '%s' is not a number from -1 to 1",
                       number);
    config->step_thresholds[step] = threshold;
    return FB_OK;
}

static fb_status make_calibration(const settings *given, const fb_video_config *model,
                                  fb_calibration **calibration) {
    fb_calibration_config config;
    fb_calibration_config_init(&config);
    config.num_layers = model->num_layers;
    config.num_heads = model->num_heads;
    config.num_steps = model->num_denoising_steps + 1;
    config.similarity_threshold = given->similarity_threshold;
    config.lse_threshold = given->lse_threshold;
    config.compat = given->compat;
    for (size_t i = 0; i < given->step_thresholds.count; i++)
        FB_TRY(read_step_threshold(given->step_thresholds.values[i].text, &config));
    return fb_calibration_create(&config, calibration);
}

/* --- output ----------------------------------------------------------------------------------- */

static void print(fb_calibration *c, FILE *to) {
    size_t steps = fb_calibration_config_of(c)->num_steps;
    fprintf(to, "%zu blocks with a history\n", fb_calibration_blocks(c));
    fprintf(to, "step  similarity: external  internal  LSE change  heads that refresh\n");
    for (size_t step = 1; step < steps; step++) {
        fb_calibration_step s = fb_calibration_step_of(c, step);
        fprintf(to, "%4zu  %20.3f  %8.3f  %10.3f  %zu of %zu%s\n", step, s.external, s.internal,
                s.lse_change, s.refreshing, s.heads, step + 1 == steps ? " (clean frames)" : "");
    }
    fprintf(to, "%.1f %% of the heads may reuse after a block's first step\n",
            100.0 * fb_calibration_reused_share(c));
}

static void put_step(fb_json_writer *w, fb_calibration *c, size_t step) {
    fb_calibration_step s = fb_calibration_step_of(c, step);
    fb_json_open_object(w, NULL);
    fb_json_put_size(w, "step", step);
    fb_json_put_double(w, "similarity", s.external);
    fb_json_put_double(w, "internal_similarity", s.internal);
    fb_json_put_double(w, "lse_change", s.lse_change);
    fb_json_put_size(w, "refreshing_heads", s.refreshing);
    fb_json_put_size(w, "heads", s.heads);
    fb_json_close_object(w);
}

static fb_status write_json(fb_calibration *c, const settings *given) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_json_open_object(&w, NULL);
    fb_json_put_text(&w, "model", given->model);
    fb_json_put_text(&w, "file", given->output);
    fb_json_put_size(&w, "blocks", fb_calibration_blocks(c));
    fb_json_put_double(&w, "reused_share", fb_calibration_reused_share(c));
    fb_json_open_array(&w, "steps");
    for (size_t step = 1; step < fb_calibration_config_of(c)->num_steps; step++)
        put_step(&w, c, step);
    fb_json_close_array(&w);
    fb_json_close_object(&w);
    return fb_write_json(&w, given->json);
}

/* A plot may go to standard output, too. */
static FILE *text_stream(const settings *given) {
    FILE *to = fb_text_stream(given->output);
    return given->plot && to == stdout ? fb_text_stream(given->plot) : to;
}

/* --- the whole -------------------------------------------------------------------------------- */

static fb_status write_results(fb_calibration *c, const settings *given) {
    FB_TRY(fb_calibration_save(c, fb_output_path(given->output)));
    if (given->plot)
        FB_TRY(fb_calibration_plot(c, fb_output_path(given->plot)));
    if (!fb_is_stdout(given->json))
        print(c, text_stream(given));
    return given->json ? write_json(c, given) : FB_OK;
}

static fb_status calibrate(fb_video_session *session, const settings *given,
                           fb_calibration **calibration) {
    if (given->plot)
        FB_TRY(fb_gnuplot_check(given->plot, "--plot"));
    FB_TRY(fb_isa_choice_set(given->threads, given->isa));
    FB_TRY(fb_video_session_load(session, given->model, given->no_mmap));
    if (given->frames <= session->config->block_frames)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "--frames: %zu frames are one block, and the first has no history",
                       given->frames);
    FB_TRY(make_calibration(given, session->config, calibration));
    FB_TRY(
        fb_video_session_prompts(session, given->model, NULL, given->prompts, 0, given->samples));
    FB_TRY(fb_video_session_clips(session, given->frames, given->seed));
    fb_video_options how;
    fb_video_options_init(&how);
    how.num_frames = given->frames;
    how.kv_dtype = given->kv_dtype;
    how.compat = given->compat;
    how.on_pass = fb_video_session_show_pass;
    FB_TRY(fb_video_calibrate(session->model, session->clips, session->num_clips, &how,
                              *calibration, NULL));
    fb_progress_end();
    return write_results(*calibration, given);
}

static int run(const settings *given) {
    fb_video_session session = {0};
    fb_calibration *calibration = NULL;
    fb_status status = calibrate(&session, given, &calibration);
    fb_calibration_destroy(calibration);
    fb_video_session_free(&session);
    return fb_report_status(status);
}

int fb_command_calibrate(int argc, char **argv) {
    settings given = {.isa = FB_ISA_CHOICE_CURRENT};
    int exit_status;
    if (fb_options_parse(&table, argc, argv, &given, &exit_status))
        exit_status = run(&given);
    fb_option_list_free(&given.step_thresholds);
    return exit_status;
}

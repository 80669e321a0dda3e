/* flashblock eval video: thresholds of calibrations, against dense clips and against the prompts.
 */
#include "base/error.h"
#include "base/memory.h"
#include "cli/commands.h"
#include "cli/eval/threshold_list.h"
#include "cli/eval/video_plot.h"
#include "cli/gnuplot.h"
#include "cli/options/common_options.h"
#include "cli/options/isa_choice.h"
#include "cli/options/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/video/video_session.h"
#include "study/video_trial.h"

#include <flashblock/experimental/calibration.h>
#include <flashblock/runtime.h>
#include <flashblock/version.h>

#include <math.h>
#include <stdio.h>

enum { BATCH = 8 }; /* clips that are made together */

typedef struct settings {
    bool no_mmap;
    const char *model, *prompts, *plot, *json;
    fb_threshold_list thresholds;
    size_t samples, skip, clips, frames, threads;
    uint64_t seed;
    fb_dtype kv_dtype;
    fb_compat compat;
    int isa;
} settings;

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option options[] = {
    FB_VIDEO_MODEL_OPTION(settings),
    FB_NO_MMAP_OPTION(settings, no_mmap),
    FB_LIST_OPTION(
        settings, thresholds, "thresholds", fb_threshold_list_parse,
        "0.85:0.02,0.85:0.05,0.85:0.1,0.85:0.2,0.85:0.5,0.85:1,0.85:inf,-1:inf",
        "pairs SIMILARITY:LSE: a head refreshes where its external output's similarity is "
        "below the one, or its LSE changes by more than the other (inf: any)"),
    FB_COUNT_OPTION(settings, clips, "clips", 1 << 16, "200",
                    "clips to compare, for the prompts after those of the samples"),
    FB_COUNT_OPTION(settings, samples, "samples", 4096, "8",
                    "clips of each calibration, for the first N prompts"),
    {.kind = FB_OPTION_SIZE,
     .name = "skip",
     .argument = "N",
     TARGET(skip),
     .max = 1 << 16,
     .help = "clips left out before the first: runs that make parts of a set have the same "
             "calibrations, prompts and seeds as one that makes all of it"},
    FB_VIDEO_PROMPTS_OPTION(settings),
    FB_VIDEO_FRAMES_OPTION(settings, "frames of a clip"),
    FB_SEED_OPTION(settings, seed, "0", "of the noise; clip i has the seed N + i"),
    FB_VIDEO_COMPAT_OPTIONS(settings),
    FB_PLOT_OPTION(settings, plot,
                   "right clips and PSNR against the pairs of query and key that are left"),
    FB_ONE_ISA_OPTION(settings, isa),
    FB_THREADS_OPTION(settings, threads, "threads; they change no pixel"),
    FB_JSON_OPTION(settings, json,
                   "write what was measured as JSON to FILE; without FILE, or with \"-\", to "
                   "standard output instead of the table"),
};

static const fb_option_table table = {
    .usage = "eval video --model DIR [OPTION]...",
    .summary =
        "Calibrates a video model with each pair of thresholds, makes the same clips densely and\n"
        "with the heads reusing that each calibration allows, and says how many clips show what\n"
        "their prompts ask for (for prompts like those of golden/demo-video), how far they are\n"
        "from the dense ones, and how long attention took.",
    FB_TABLE_OPTIONS(options),
};

typedef struct evaluation {
    const settings *given;
    fb_video_session session;                            /* samples, then clips */
    fb_calibration *calibrations[FB_THRESHOLD_LIST_MAX]; /* [thresholds.count] */
    fb_scene *scenes;                                    /* [clips] */
    bool checked;
    fb_video_options how;
    fb_video_trial trial;                                   /* of the batch at hand */
    fb_video_trial_score scores[FB_THRESHOLD_LIST_MAX + 1]; /* dense, then each calibration */
} evaluation;

/* --- setting up ------------------------------------------------------------------------------- */

/* Samples, clips left out and clips follow one another in the session. */
static size_t first_clip(const evaluation *e) {
    return e->given->samples + e->given->skip;
}

static void read_scenes(evaluation *e) {
    const fb_video_config *c = e->session.config;
    e->checked =
        c->out_dim == 3 && c->frame_height == FB_SCENE_SIZE && c->frame_width == FB_SCENE_SIZE;
    for (size_t i = 0; i < e->given->clips; i++)
        e->checked &= fb_scene_parse(e->session.prompts[first_clip(e) + i], &e->scenes[i]);
}

static fb_status prepare(evaluation *e) {
    const settings *given = e->given;
    if (given->plot)
        FB_TRY(fb_gnuplot_check(given->plot, "--plot"));
    FB_TRY(fb_isa_choice_set(given->threads, given->isa));
    FB_TRY(fb_video_session_load(&e->session, given->model, given->no_mmap));
    if (given->frames <= e->session.config->block_frames)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "--frames: %zu frames are one block, and the first has no history",
                       given->frames);
    FB_TRY(fb_video_session_prompts(&e->session, given->model, NULL, given->prompts, 0,
                                    first_clip(e) + given->clips));
    FB_TRY(fb_video_session_clips(&e->session, given->frames, given->seed));
    FB_TRY(fb_alloc_zeroed(given->clips, sizeof *e->scenes, "scenes", &e->scenes));
    read_scenes(e);
    fb_video_options_init(&e->how);
    e->how.num_frames = given->frames;
    e->how.kv_dtype = given->kv_dtype;
    e->how.compat = given->compat;
    e->how.on_pass = fb_video_session_show_pass;
    return FB_OK;
}

static fb_status calibrate(evaluation *e, size_t index) {
    const fb_video_config *model = e->session.config;
    const fb_thresholds *thresholds = &e->given->thresholds.values[index];
    fb_calibration_config config;
    fb_calibration_config_init(&config);
    config.num_layers = model->num_layers;
    config.num_heads = model->num_heads;
    config.num_steps = model->num_denoising_steps + 1;
    config.similarity_threshold = thresholds->similarity;
    config.lse_threshold = thresholds->lse;
    config.compat = e->given->compat;
    FB_TRY(fb_calibration_create(&config, &e->calibrations[index]));
    fb_progress("calibration %zu of %zu", index + 1, e->given->thresholds.count);
    return fb_video_calibrate(e->session.model, e->session.clips, e->given->samples, &e->how,
                              e->calibrations[index], NULL);
}

/* --- running ---------------------------------------------------------------------------------- */

static fb_status run_batch(evaluation *e, size_t first, size_t count) {
    e->trial.clips = e->session.clips + first_clip(e) + first;
    e->trial.scenes = e->checked ? e->scenes + first : NULL;
    FB_TRY(fb_video_trial_run(&e->trial, NULL, &e->scores[0]));
    for (size_t i = 0; i < e->given->thresholds.count; i++)
        FB_TRY(fb_video_trial_run(&e->trial, e->calibrations[i], &e->scores[i + 1]));
    fb_progress("%zu of %zu clips", first + count, e->given->clips);
    return FB_OK;
}

static fb_status run_clips(evaluation *e) {
    for (size_t first = 0; first < e->given->clips; first += BATCH) {
        size_t left = e->given->clips - first, count = left < BATCH ? left : BATCH;
        FB_TRY(fb_video_trial_create(e->session.model, count, &e->how, &e->trial));
        FB_TRY(run_batch(e, first, count));
        fb_video_trial_free(&e->trial);
    }
    fb_progress_end();
    return FB_OK;
}

/* --- results ---------------------------------------------------------------------------------- */

static void put_percent(size_t part, size_t whole, int width) {
    printf("%*.1f%%", width, 100.0 * (double)part / (double)whole);
}

static void print_row(const evaluation *e, const char *name, const fb_video_trial_score *score) {
    fb_video_trial_result r = fb_video_trial_result_of(score, &e->scores[0]);
    printf("%-12s%7.1f%%", name, 100.0 * r.reused);
    if (e->checked) {
        put_percent(score->right, score->clips, 7);
        printf("%5.1f", 100.0 * r.right_error);
        const size_t parts[] = {score->colour, score->form, score->place, score->motion};
        for (size_t i = 0; i < 4; i++)
            put_percent(parts[i], score->clips, 7);
        printf("%6zu%6zu", score->lost, score->won);
    }
    if (isnan(r.psnr))
        printf("%9s%6s", "equal", "");
    else
        printf("%9.2f%6.2f", r.psnr, isnan(r.psnr_error) ? 0.0 : r.psnr_error);
    printf("%9.2f s%9.3f%9.3f\n", score->attention_seconds, r.attention, r.work);
}

static void print(const evaluation *e) {
    printf("%zu clips of %zu frames, calibrated on %zu others%s\n", e->given->clips,
           e->given->frames, e->given->samples,
           e->checked ? "" : "; clips cannot be checked against these prompts");
    printf("%-12s%8s", "thresholds", "reuse");
    if (e->checked)
        printf("%8s%5s%8s%8s%8s%8s%6s%6s", "right", "+-", "colour", "form", "place", "motion",
               "lost", "won");
    printf("%9s%6s%11s%9s%9s\n", "PSNR dB", "+-", "attention", "of dense", "its work");
    print_row(e, "dense", &e->scores[0]);
    for (size_t i = 0; i < e->given->thresholds.count; i++) {
        const fb_thresholds *t = &e->given->thresholds.values[i];
        char name[64];
        snprintf(name, sizeof name, "%g:%g", t->similarity, t->lse);
        print_row(e, name, &e->scores[i + 1]);
    }
}

/* How a score came about: densely, or with these thresholds. */
static void put_score(fb_json_writer *w, const evaluation *e, const fb_thresholds *t,
                      const fb_video_trial_score *score) {
    fb_video_trial_result r = fb_video_trial_result_of(score, &e->scores[0]);
    fb_json_open_object(w, NULL);
    fb_json_put_bool(w, "dense", !t);
    if (t) {
        fb_json_put_double(w, "similarity_threshold", t->similarity);
        fb_json_put_double(w, "lse_threshold", t->lse); /* null: infinite */
    }
    fb_json_put_double(w, "heads_reused", r.reused);
    fb_json_put_size(w, "clips", score->clips);
    if (e->checked) {
        fb_json_put_size(w, "right", score->right);
        fb_json_put_double(w, "right_standard_error", r.right_error);
        fb_json_put_size(w, "right_colour", score->colour);
        fb_json_put_size(w, "right_form", score->form);
        fb_json_put_size(w, "right_place", score->place);
        fb_json_put_size(w, "right_motion", score->motion);
        fb_json_put_size(w, "lost", score->lost);
        fb_json_put_size(w, "won", score->won);
    }
    fb_json_put_size(w, "equal_to_dense", score->equal);
    fb_json_put_double(w, "psnr_db", r.psnr); /* null: all are equal */
    fb_json_put_double(w, "psnr_standard_error", r.psnr_error);
    fb_json_put_double(w, "attention_seconds", score->attention_seconds);
    fb_json_put_double(w, "attention_by_dense", r.attention);
    fb_json_put_double(w, "total_seconds", score->total_seconds);
    fb_json_put_double(w, "work_by_dense", r.work);
    fb_json_close_object(w);
}

static fb_status write_json(const evaluation *e) {
    const settings *given = e->given;
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_isa isa;
    FB_TRY(fb_isa_current(&isa));
    fb_json_open_object(&w, NULL);
    fb_json_put_string(&w, "version", fb_version());
    fb_json_put_text(&w, "model", given->model);
    fb_json_put_string(&w, "instruction_set", fb_isa_name(isa));
    fb_json_put_int64(&w, "threads", fb_num_threads());
    fb_json_put_size(&w, "frames", given->frames);
    fb_json_put_size(&w, "samples", given->samples);
    fb_json_put_size(&w, "skipped", given->skip);
    fb_json_put_uint64(&w, "seed", given->seed);
    fb_json_put_string(&w, "kv_dtype", fb_dtype_name(given->kv_dtype));
    fb_json_put_bool(&w, "checked", e->checked);
    fb_json_open_array(&w, "ways");
    put_score(&w, e, NULL, &e->scores[0]);
    for (size_t i = 0; i < given->thresholds.count; i++)
        put_score(&w, e, &given->thresholds.values[i], &e->scores[i + 1]);
    fb_json_close_array(&w);
    fb_json_close_object(&w);
    return fb_write_json(&w, given->json);
}

static fb_status evaluate(evaluation *e) {
    const settings *given = e->given;
    FB_TRY(prepare(e));
    for (size_t i = 0; i < given->thresholds.count; i++)
        FB_TRY(calibrate(e, i));
    FB_TRY(run_clips(e));
    if (given->plot) {
        fb_video_plot plot = {&given->thresholds, e->scores, e->checked};
        FB_TRY(fb_video_plot_draw(&plot, fb_output_path(given->plot)));
    }
    if (!fb_is_stdout(given->json) && !fb_is_stdout(given->plot))
        print(e);
    return given->json ? write_json(e) : FB_OK;
}

static void free_evaluation(evaluation *e) {
    for (size_t i = 0; i < FB_THRESHOLD_LIST_MAX; i++)
        fb_calibration_destroy(e->calibrations[i]);
    fb_video_trial_free(&e->trial);
    fb_video_session_free(&e->session);
    fb_free(e->scenes);
}

int fb_command_eval_video(int argc, char **argv) {
    settings given = {.isa = FB_ISA_CHOICE_CURRENT};
    int exit_status;
    if (!fb_options_parse(&table, argc, argv, &given, &exit_status))
        return exit_status;
    evaluation e = {.given = &given};
    exit_status = fb_report_status(evaluate(&e));
    free_evaluation(&e);
    return exit_status;
}

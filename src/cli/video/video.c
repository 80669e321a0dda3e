/* flashblock video: clips from a video diffusion model, densely and with head-wise reuse. */
#include "base/error.h"
#include "base/memory.h"
#include "cli/commands.h"
#include "cli/options/common_options.h"
#include "cli/options/isa_choice.h"
#include "cli/options/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/video/clip_set.h"
#include "cli/video/video_session.h"
#include "study/measures.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The command line. */
typedef struct settings {
    bool no_mmap;
    const char *model, *reuse, *output, *sheet, *json;
    fb_option_list prompts;
    size_t frames, clips, scale, fps, threads;
    uint64_t seed;
    fb_dtype kv_dtype;
    fb_compat compat;
    int isa;
} settings;

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option options[] = {
    FB_VIDEO_MODEL_OPTION(settings),
    FB_NO_MMAP_OPTION(settings, no_mmap),
    {.kind = FB_OPTION_LIST,
     .name = "prompt",
     .letter = 'p',
     .argument = "TEXT",
     TARGET(prompts),
     .help = "words of the model, phrases separated by commas; given several times: a clip each"},
    {.kind = FB_OPTION_SIZE,
     .name = "clips",
     .needs = "!prompt",
     .argument = "N",
     TARGET(clips),
     .min = 1,
     .max = 256,
     .otherwise = "1",
     .help = "without --prompt: prompts from the model's prompts.txt, from line SEED + 1 on"},
    FB_VIDEO_FRAMES_OPTION(settings, "frames of a clip"),
    FB_SEED_OPTION(settings, seed, "0", "of the noise; clip i has the seed N + i"),
    {.kind = FB_OPTION_STRING,
     .name = "reuse",
     .argument = "FILE",
     TARGET(reuse),
     .help = "a calibration of this model (flashblock calibrate): the clips are made densely, and "
             "again with the heads reusing that it allows"},
    FB_VIDEO_COMPAT_OPTIONS(settings),
    {.kind = FB_OPTION_OUTPUT,
     .name = "output",
     .letter = 'o',
     .argument = "FILE.y4m",
     TARGET(output),
     .required = true,
     .help = "the clips side by side, each dense and then with reuse, as YUV4MPEG2"},
    {.kind = FB_OPTION_OUTPUT,
     .name = "sheet",
     .argument = "FILE.png",
     TARGET(sheet),
     .help = "the same as a contact sheet: a row a clip, a column a frame"},
    FB_COUNT_OPTION(settings, scale, "scale", 64, "4",
                    "pixels of the files for each of the model's"),
    FB_COUNT_OPTION(settings, fps, "fps", 1000, "8", "frames a second"),
    FB_ONE_ISA_OPTION(settings, isa),
    FB_THREADS_OPTION(settings, threads, "threads; they change no pixel"),
    FB_JSON_OPTION(settings, json, "write what was done as JSON to FILE, or to standard output"),
};

static const fb_option_table table = {
    .usage = "video --model DIR [OPTION]... -o FILE.y4m",
    .summary = "Makes clips with a causal video diffusion model, block by block. With --reuse it\n"
               "makes each of them twice and says how far apart the two are, and how much time\n"
               "attention took.",
    FB_TABLE_OPTIONS(options),
};

/* Clips made densely and, if that is asked for, with reuse. */
typedef struct comparison {
    const settings *given;
    fb_video_session session;
    fb_calibration *calibration; /* NULL: dense only */
    float *dense;                /* [num_clips, num_frames, frame_values] */
    fb_video_stats dense_stats, stats;
} comparison;

static fb_status generate(comparison *c, fb_calibration *calibration, fb_video_stats *stats) {
    fb_video_options how;
    fb_video_options_init(&how);
    how.num_frames = c->given->frames;
    how.calibration = calibration;
    how.kv_dtype = c->given->kv_dtype;
    how.compat = c->given->compat;
    how.on_pass = fb_video_session_show_pass;
    fb_status status =
        fb_video_generate(c->session.model, c->session.clips, c->session.num_clips, &how, stats);
    fb_progress_end();
    return status;
}

/* How near the clip with reuse is to the dense one, in decibels. */
static double psnr(const comparison *c, size_t clip) {
    size_t values = c->session.num_frames * c->session.frame_values;
    return fb_measure_psnr(c->dense + clip * values, c->session.clips[clip].frames, values);
}

static fb_status write_files(const comparison *c) {
    const fb_video_session *s = &c->session;
    size_t values = s->num_frames * s->frame_values, runs = c->calibration ? 2 : 1;
    const float **clips = NULL;
    if (s->config->out_dim != 3)
        return fb_fail(FB_ERROR_UNSUPPORTED,
                       "the model makes latents of %zu channels, not pictures: no decoder for them "
                       "is here",
                       s->config->out_dim);
    FB_TRY(fb_alloc(runs * s->num_clips, sizeof *clips, "clips", &clips));
    for (size_t i = 0; i < s->num_clips; i++) {
        clips[runs * i] = c->dense + i * values;
        clips[runs * i + runs - 1] = s->clips[i].frames;
    }
    fb_clip_set set = {clips,
                       runs * s->num_clips,
                       s->num_frames,
                       s->config->frame_height,
                       s->config->frame_width,
                       c->given->scale};
    fb_status status = c->given->output ? fb_clip_set_write_y4m(&set, c->given->fps,
                                                                fb_output_path(c->given->output))
                                        : FB_OK;
    if (status == FB_OK && c->given->sheet)
        status = fb_clip_set_write_sheet(&set, fb_output_path(c->given->sheet));
    fb_free((void *)clips);
    return status;
}

/* --- output ----------------------------------------------------------------------------------- */

static double reused_share(const fb_video_stats *stats) {
    double total = (double)(stats->heads_reused + stats->heads_refreshed);
    return total > 0.0 ? (double)stats->heads_reused / total : 0.0;
}

static void print(const comparison *c, FILE *to) {
    const fb_video_session *s = &c->session;
    fprintf(to, "%zu frames in blocks of %zu, %zu passes a block\n", s->num_frames,
            s->config->block_frames, s->config->num_denoising_steps + 1);
    for (size_t i = 0; i < s->num_clips; i++) {
        fprintf(to, "clip %zu: %s", i, s->prompts[i]);
        if (c->calibration)
            fprintf(to, "; PSNR %.1f dB", psnr(c, i));
        fputc('\n', to);
    }
    fprintf(to, "dense   attention %8.3f s, total %8.3f s\n", c->dense_stats.times.attention,
            c->dense_stats.times.total);
    if (!c->calibration)
        return;
    fprintf(to, "reuse   attention %8.3f s, total %8.3f s\n", c->stats.times.attention,
            c->stats.times.total);
    fprintf(to,
            "attention time %.2fx, work %.2fx; %.1f %% of the heads reused after a block's first "
            "step\n",
            c->dense_stats.times.attention / c->stats.times.attention,
            c->stats.dense_work / c->stats.work, 100.0 * reused_share(&c->stats));
}

static void put_times(fb_json_writer *w, const char *key, const fb_video_stats *stats) {
    fb_json_open_object(w, key);
    fb_json_put_double(w, "attention_seconds", stats->times.attention);
    fb_json_put_double(w, "total_seconds", stats->times.total);
    fb_json_put_size(w, "passes", stats->passes);
    fb_json_put_double(w, "query_key_pairs", stats->work);
    fb_json_close_object(w);
}

static void put_clip(fb_json_writer *w, const comparison *c, size_t i) {
    const fb_video_session *s = &c->session;
    fb_json_open_object(w, NULL);
    fb_json_put_text(w, "prompt", s->prompts[i]);
    fb_json_put_uint64(w, "seed", s->clips[i].seed);
    if (c->calibration) /* null, which stands for infinity: equal clips */
        fb_json_put_double(w, "psnr_db", psnr(c, i));
    fb_json_close_object(w);
}

static fb_status write_json(const comparison *c) {
    const fb_video_session *s = &c->session;
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_json_open_object(&w, NULL);
    fb_json_put_text(&w, "model", c->given->model);
    fb_json_put_size(&w, "frames", s->num_frames);
    fb_json_open_array(&w, "clips");
    for (size_t i = 0; i < s->num_clips; i++)
        put_clip(&w, c, i);
    fb_json_close_array(&w);
    put_times(&w, "dense", &c->dense_stats);
    if (c->calibration) {
        put_times(&w, "reuse", &c->stats);
        fb_json_put_double(&w, "heads_reused", reused_share(&c->stats));
        fb_json_put_double(&w, "attention_time_ratio",
                           c->dense_stats.times.attention / c->stats.times.attention);
        fb_json_put_double(&w, "work_ratio", c->stats.dense_work / c->stats.work);
    }
    fb_json_close_object(&w);
    return fb_write_json(&w, c->given->json);
}

/* A sheet may go to standard output, too. */
static FILE *text_stream(const settings *given) {
    FILE *to = fb_text_stream(given->output);
    return given->sheet && to == stdout ? fb_text_stream(given->sheet) : to;
}

/* --- the whole -------------------------------------------------------------------------------- */

static fb_status prepare(comparison *c) {
    const settings *given = c->given;
    FB_TRY(fb_isa_choice_set(given->threads, given->isa));
    FB_TRY(fb_video_session_load(&c->session, given->model, given->no_mmap));
    if (given->reuse)
        FB_TRY(fb_calibration_load(given->reuse, &c->calibration));
    FB_TRY(fb_video_session_prompts(&c->session, given->model, &given->prompts, NULL,
                                    (size_t)(given->seed % (1 << 20)), given->clips));
    FB_TRY(fb_video_session_clips(&c->session, given->frames, given->seed));
    size_t values = c->session.num_frames * c->session.frame_values;
    return fb_alloc(c->session.num_clips, values * sizeof *c->dense, "frames", &c->dense);
}

static fb_status compare(comparison *c) {
    FB_TRY(prepare(c));
    size_t values = c->session.num_clips * c->session.num_frames * c->session.frame_values;
    if (c->calibration) /* first, as this run checks whether the calibration fits the model */
        FB_TRY(generate(c, c->calibration, &c->stats));
    float *reused = NULL;
    FB_TRY(fb_alloc(values, sizeof *reused, "frames", &reused));
    memcpy(reused, c->session.frames, values * sizeof *reused);
    fb_status status = generate(c, NULL, &c->dense_stats);
    memcpy(c->dense, c->session.frames, values * sizeof *c->dense);
    if (c->calibration)
        memcpy(c->session.frames, reused, values * sizeof *reused);
    fb_free(reused);
    FB_TRY(status);
    FB_TRY(write_files(c));
    if (!fb_is_stdout(c->given->json))
        print(c, text_stream(c->given));
    return c->given->json ? write_json(c) : FB_OK;
}

static int run(const settings *given) {
    comparison c = {.given = given};
    fb_status status = compare(&c);
    fb_calibration_destroy(c.calibration);
    fb_video_session_free(&c.session);
    fb_free(c.dense);
    return fb_report_status(status);
}

int fb_command_video(int argc, char **argv) {
    settings given = {.isa = FB_ISA_CHOICE_CURRENT};
    int exit_status;
    if (fb_options_parse(&table, argc, argv, &given, &exit_status))
        exit_status = run(&given);
    fb_option_list_free(&given.prompts);
    return exit_status;
}

/* pipeline: the paper's whole pipeline with a small video model: a calibration over a batch of
 * prompts, then one clip, once densely and once with head-wise reuse. Weights and text are in the
 * file that the metadata `weights_file` names, beside this one. */
#include "decode/flow_schedule.h"
#include "model/video_state.h"
#include "oracle/kinds.h"

#include <flashblock/experimental/calibration.h>
#include <flashblock/experimental/video.h>
#include <flashblock/experimental/video_model.h>
#include <flashblock/flashblock.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_BATCH = 16, MAX_SIZE = 1 << 14, MAX_NAME = 64 };

/* Flows and latents of two float32 implementations, of magnitude 5; cosines and changes of LSEs. */
static const double tolerance = 1e-5, numbers_tolerance = 2e-6;

typedef struct pipeline {
    fb_case *c, *weights;
    fb_report *report;
    fb_video_config config;
    fb_video_model *model;
    fb_calibration *calibration;
    size_t frames, calib_frames, batch;
    size_t frame_values, block_values;
    const char *prefix;    /* of the recorded passes: "reuse", "dense"; NULL: none were recorded */
    fb_status pass_status; /* of a claim made after a pass */
} pipeline;

/* --- setting up ------------------------------------------------------------------------------- */

static fb_status read_steps(pipeline *p) {
    fb_video_config *config = &p->config;
    const char *path = fb_case_path(p->c);
    const fb_json *steps = NULL, *sparse = NULL;
    FB_TRY(fb_case_array(p->c, "steps", &steps));
    FB_TRY(fb_case_array(p->c, "sparsity_steps", &sparse));
    config->num_denoising_steps = fb_json_array_size(steps);
    if (config->num_denoising_steps > FB_VIDEO_MAX_STEPS)
        return fb_fail(FB_ERROR_FORMAT, "%s: %zu steps", path, config->num_denoising_steps);
    for (size_t i = 0; i < config->num_denoising_steps; i++) {
        size_t own = 0;
        FB_TRY(fb_json_size(fb_json_array_get(steps, i), path, "steps", 1, 1000,
                            &config->denoising_steps[i]));
        FB_TRY(
            fb_json_size(fb_json_array_get(sparse, i), path, "sparsity_steps", i + 1, i + 1, &own));
    }
    return FB_OK;
}

static fb_status read_patch(pipeline *p) {
    const fb_json *patch = NULL;
    FB_TRY(fb_case_array(p->c, "patch_size", &patch));
    for (size_t i = 0; i < 3; i++) {
        FB_TRY(fb_json_size(fb_json_array_get(patch, i), fb_case_path(p->c), "patch_size", 1,
                            i == 0 ? 1 : 64,
                            i == 1 ? &p->config.patch_height : &p->config.patch_width));
    }
    return FB_OK;
}

static fb_status read_config(pipeline *p) {
    fb_video_config *config = &p->config;
    const struct {
        const char *key;
        size_t min, max, *value;
    } fields[] = {
        {"dim", 2, MAX_SIZE, &config->dim},           {"ffn", 1, MAX_SIZE, &config->ffn_dim},
        {"freq", 2, MAX_SIZE, &config->freq_dim},     {"C", 1, 256, &config->in_dim},
        {"heads", 1, 256, &config->num_heads},        {"layers", 1, 256, &config->num_layers},
        {"text_len", 1, MAX_SIZE, &config->text_len}, {"text_dim", 1, MAX_SIZE, &config->text_dim},
        {"H", 1, 1024, &config->frame_height},        {"W", 1, 1024, &config->frame_width},
        {"fpb", 1, 256, &config->block_frames},       {"local", 1, 256, &config->window_frames},
        {"sink", 0, 256, &config->sink_frames},       {"frames", 1, 256, &p->frames},
        {"cframes", 1, 256, &p->calib_frames},        {"cB", 1, MAX_BATCH, &p->batch},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        FB_TRY(fb_case_size(p->c, fields[i].key, fields[i].min, fields[i].max, fields[i].value));
    FB_TRY(read_patch(p));
    FB_TRY(fb_case_real(p->c, "eps", &config->eps));
    FB_TRY(fb_case_real(p->c, "timestep_shift", &config->timestep_shift));
    FB_TRY(fb_case_real(p->c, "context_noise", &config->context_noise));
    FB_TRY(fb_case_bool_or(p->c, "qk_norm", true, &config->qk_norm));
    FB_TRY(fb_case_bool_or(p->c, "cross_attn_norm", true, &config->cross_attn_norm));
    config->out_dim = config->in_dim;
    config->warp_denoising_steps = true;
    if (p->frames % config->block_frames != 0 || p->calib_frames % config->block_frames != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: the frames are not whole blocks", fb_case_path(p->c));
    FB_TRY(fb_case_expect_size(p->c, "head_dim", config->dim / config->num_heads));
    FB_TRY(fb_case_expect_size(p->c, "frame_seqlen",
                               (config->frame_height / config->patch_height) *
                                   (config->frame_width / config->patch_width)));
    return read_steps(p);
}

static const fb_tensor_view *find_weight(const void *file, const char *name) {
    char full[160];
    snprintf(full, sizeof full, "w.%s", name);
    return fb_safetensors_find(file, full);
}

static fb_status set_up(pipeline *p) {
    const char *weights_file = fb_case_text(p->c, "weights_file");
    if (!weights_file)
        return fb_fail(FB_ERROR_FORMAT, "%s: the metadata have no weights_file",
                       fb_case_path(p->c));
    FB_TRY(fb_case_open_beside(p->c, weights_file, &p->weights));
    FB_TRY(read_config(p));
    FB_TRY(fb_video_model_bind(&p->config, find_weight, fb_case_file(p->weights),
                               fb_case_path(p->weights), NULL, &p->model));
    p->frame_values = p->config.in_dim * p->config.frame_height * p->config.frame_width;
    p->block_values = p->config.block_frames * p->frame_values;
    fb_calibration_config config;
    fb_calibration_config_init(&config);
    config.num_layers = p->config.num_layers;
    config.num_heads = p->config.num_heads;
    config.num_steps = p->config.num_denoising_steps + 1;
    FB_TRY(fb_case_real(p->c, "th", &config.similarity_threshold));
    FB_TRY(fb_case_real(p->c, "lth", &config.lse_threshold));
    return fb_calibration_create(&config, &p->calibration);
}

/* --- claims ----------------------------------------------------------------------------------- */

static fb_dims frames_shape(const pipeline *p, size_t batch, size_t frames) {
    return FB_DIMS(batch, frames, p->config.in_dim, p->config.frame_height, p->config.frame_width);
}

static fb_status claim(pipeline *p, const char *tensor, fb_dims shape, const float *ours,
                       double within) {
    fb_claim claim = {.tensor = tensor,
                      .shape = shape,
                      .ours = ours,
                      .rule = FB_BOUND_ABSOLUTE,
                      .tolerance = within};
    FB_TRY(fb_case_f32(p->c, &claim.file, shape, "%s", tensor));
    return fb_report_claim(p->report, &claim);
}

static fb_status claim_pass_tensor(pipeline *p, const fb_video_pass_event *pass, const char *what,
                                   const float *ours) {
    char name[MAX_NAME];
    snprintf(name, sizeof name, "%s.%s.b%zus%zu", p->prefix, what, pass->block, pass->step);
    if (!fb_case_has(p->c, "%s", name))
        return FB_OK;
    return claim(p, name, frames_shape(p, 1, p->config.block_frames), ours, tolerance);
}

static void on_pass(void *user, const fb_video_pass_event *pass) {
    pipeline *p = user;
    if (!p->prefix || p->pass_status != FB_OK)
        return;
    p->pass_status = claim_pass_tensor(p, pass, "in", pass->input);
    if (p->pass_status == FB_OK)
        p->pass_status = claim_pass_tensor(p, pass, "flow", pass->flow);
}

/* final.*  [steps, layers, heads] */
static fb_status claim_calibration(pipeline *p) {
    size_t steps = p->config.num_denoising_steps, layers = p->config.num_layers;
    size_t heads = p->config.num_heads;
    fb_dims shape = FB_DIMS(steps, layers, heads);
    size_t count = fb_dims_count(&shape);
    float *numbers = NULL;
    int32_t *mask = NULL;
    const int32_t *file = NULL;
    FB_TRY(fb_case_alloc(p->c, 2 * count, sizeof *numbers, &numbers));
    FB_TRY(fb_case_alloc(p->c, count, sizeof *mask, &mask));
    for (size_t i = 0; i < count; i++) {
        size_t step = 1 + i / heads / layers, layer = i / heads % layers, head = i % heads;
        numbers[i] = (float)fb_calibration_similarity(p->calibration, layer, step, head);
        numbers[count + i] = (float)fb_calibration_lse_change(p->calibration, layer, step, head);
        mask[i] = fb_calibration_refresh(p->calibration, layer, step)[head];
    }
    FB_TRY(claim(p, "final.cos_mean", shape, numbers, numbers_tolerance));
    FB_TRY(claim(p, "final.lse_mean", shape, numbers + count, numbers_tolerance));
    FB_TRY(fb_case_i32(p->c, &file, shape, "final.head_mask"));
    return fb_report_decisions(p->report, "final.head_mask", shape, mask, file);
}

static fb_status claim_schedule(pipeline *p) {
    fb_flow_schedule *schedule = NULL;
    size_t steps = p->config.num_denoising_steps;
    float list[FB_VIDEO_MAX_STEPS];
    FB_TRY(fb_case_alloc(p->c, 1, sizeof *schedule, &schedule));
    fb_flow_schedule_make(p->config.timestep_shift, schedule);
    for (size_t i = 0; i < steps; i++)
        list[i] = (float)fb_flow_warp(schedule, p->config.denoising_steps[i]);
    return claim(p, "denoising_step_list", FB_DIMS(steps), list, 0x1p-12);
}

/* --- runs ------------------------------------------------------------------------------------- */

static fb_video_options options_of(pipeline *p, size_t frames, fb_calibration *calibration) {
    fb_video_options options;
    fb_video_options_init(&options);
    options.num_frames = frames;
    options.calibration = calibration;
    options.compat = FB_COMPAT_RELEASED;
    options.on_pass = on_pass;
    options.user = p;
    return options;
}

/* calib_renoise holds the samples of a batch side by side: [draws, batch * block frames]. */
static fb_status split_renoise(pipeline *p, size_t draws, float **renoise) {
    const float *together = NULL;
    FB_TRY(fb_case_f32(p->c, &together, frames_shape(p, draws, p->batch * p->config.block_frames),
                       "calib_renoise"));
    FB_TRY(fb_case_alloc(p->c, p->batch * draws * p->block_values, sizeof **renoise, renoise));
    for (size_t i = 0; i < draws * p->batch; i++) {
        size_t draw = i / p->batch, sample = i % p->batch;
        memcpy(*renoise + (sample * draws + draw) * p->block_values, together + i * p->block_values,
               p->block_values * sizeof **renoise);
    }
    return FB_OK;
}

static fb_status calibrate(pipeline *p) {
    const fb_video_config *c = &p->config;
    size_t draws = p->calib_frames / c->block_frames * (c->num_denoising_steps - 1);
    fb_dims shape = frames_shape(p, p->batch, p->calib_frames);
    size_t values = p->calib_frames * p->frame_values, text = c->text_len * c->text_dim;
    const float *noise = NULL, *context = NULL;
    float *renoise = NULL, *frames = NULL;
    fb_video_clip clips[MAX_BATCH] = {0};
    FB_TRY(fb_case_f32(p->c, &noise, shape, "calib_noise"));
    FB_TRY(fb_case_f32(p->weights, &context, FB_DIMS(p->batch, c->text_len, c->text_dim),
                       "calib_context"));
    FB_TRY(split_renoise(p, draws, &renoise));
    FB_TRY(fb_case_alloc(p->c, p->batch * values, sizeof *frames, &frames));
    for (size_t b = 0; b < p->batch; b++)
        clips[b] = (fb_video_clip){.text = context + b * text,
                                   .noise = noise + b * values,
                                   .renoise = renoise + b * draws * p->block_values,
                                   .frames = frames + b * values};
    fb_video_options options = options_of(p, p->calib_frames, NULL);
    FB_TRY(fb_video_calibrate(p->model, clips, p->batch, &options, p->calibration, NULL));
    FB_TRY(claim(p, "calib_latents", shape, frames, tolerance));
    return claim_calibration(p);
}

static fb_status generate(pipeline *p, const char *prefix, fb_calibration *calibration) {
    const fb_video_config *c = &p->config;
    size_t draws = p->frames / c->block_frames * (c->num_denoising_steps - 1);
    fb_dims shape = frames_shape(p, 1, p->frames);
    fb_video_clip clip = {0};
    char name[MAX_NAME];
    FB_TRY(fb_case_f32(p->c, &clip.noise, shape, "noise"));
    FB_TRY(fb_case_f32(p->c, &clip.renoise, frames_shape(p, draws, c->block_frames), "renoise"));
    FB_TRY(fb_case_f32(p->weights, &clip.text, FB_DIMS(1, c->text_len, c->text_dim), "context"));
    FB_TRY(fb_case_alloc(p->c, p->frames * p->frame_values, sizeof *clip.frames, &clip.frames));
    fb_video_options options = options_of(p, p->frames, calibration);
    p->prefix = prefix;
    FB_TRY(fb_video_generate(p->model, &clip, 1, &options, NULL));
    p->prefix = NULL;
    FB_TRY(p->pass_status);
    snprintf(name, sizeof name, "latents_%s", prefix);
    return claim(p, name, shape, clip.frames, tolerance);
}

static fb_status run(pipeline *p) {
    FB_TRY(set_up(p));
    FB_TRY(claim_schedule(p));
    FB_TRY(calibrate(p));
    FB_TRY(generate(p, "dense", NULL));
    return generate(p, "reuse", p->calibration);
}

fb_status fb_recompute_pipeline(fb_case *c, fb_report *report) {
    pipeline p = {.c = c, .report = report};
    fb_status status = run(&p);
    fb_calibration_destroy(p.calibration);
    fb_video_model_destroy(p.model);
    return status;
}

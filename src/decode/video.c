/* The causal denoising loop. */
#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/sized.h"
#include "decode/flow_schedule.h"

#include <flashblock/experimental/video.h>

#include <math.h>
#include <string.h>

static const double two_pi = 6.283185307179586;

/* A call: its clips, and for each of them caches and a block of frames. */
typedef struct generation {
    fb_video_model *model;
    const fb_video_config *config;
    const fb_video_clip *clips; /* [count] */
    size_t count;
    const fb_video_options *options;
    fb_video_plan plan; /* of the pass */
    bool observes;
    fb_calibration *calibration;
    fb_flow_schedule schedule;
    size_t frame_values, block_values, num_blocks;
    size_t input_values;          /* of a block as the model takes it; 0: as it is */
    fb_video_cache **caches;      /* [count] */
    fb_part_cache **parts;        /* [count] */
    fb_video_forward_call *calls; /* [count] */
    float *x, *flow, *noise;      /* [count, block_values] twice, [block_values] */
    float *inputs;                /* [count, input_values] */
    fb_video_stats stats;
} generation;

/* The block that is being made. */
typedef struct block {
    size_t index, first_frame, num_frames, values;
} block;

void fb_video_options_init_sized(fb_video_options *options, size_t size) {
    fb_sized_init(options, size, &(fb_video_options){.num_frames = 21}, sizeof *options);
}

/* --- noise ------------------------------------------------------------------------------------ */

/* Normal numbers for a block: those of `step` 0 are its start, those of step s the noise before
 * pass s. */
static void draw(uint64_t seed, size_t block_index, size_t step, size_t count, float *noise) {
    for (size_t i = 0; i < count; i += 2) {
        uint32_t pair = (uint32_t)(i / 2), b = (uint32_t)block_index, s = (uint32_t)step;
        double radius = sqrt(-2.0 * log(1.0 - fb_random_uniform(seed, pair, b, s, 0)));
        double angle = two_pi * fb_random_uniform(seed, pair, b, s, 1);
        noise[i] = (float)(radius * cos(angle));
        if (i + 1 < count)
            noise[i + 1] = (float)(radius * sin(angle));
    }
}

static void start_from_noise(const generation *g, const block *b, size_t clip, float *x) {
    const fb_video_clip *of = &g->clips[clip];
    if (of->noise)
        memcpy(x, of->noise + b->first_frame * g->frame_values, b->values * sizeof *x);
    else
        draw(of->seed, b->index, 0, b->values, x);
}

/* The noise before pass `step`, at least 1. */
static const float *fresh_noise(const generation *g, const block *b, size_t clip, size_t step) {
    const fb_video_clip *of = &g->clips[clip];
    size_t steps = g->config->num_denoising_steps;
    if (of->renoise)
        return of->renoise + (b->index * (steps - 1) + step - 1) * g->block_values;
    draw(of->seed, b->index, step, b->values, g->noise);
    return g->noise;
}

/* --- passes ----------------------------------------------------------------------------------- */

static double timestep_of(const generation *g, size_t step) {
    size_t of_list = g->config->denoising_steps[step];
    return g->config->warp_denoising_steps ? fb_flow_warp(&g->schedule, of_list) : (double)of_list;
}

/* Heads and pairs of a pass of one clip that has been made. */
static void count_work(generation *g, const fb_video_cache *cache, size_t queries) {
    const fb_video_config *c = g->config;
    double external = (double)fb_video_cache_num_external(cache);
    double internal = (double)fb_video_cache_num_internal(cache);
    bool reuses = g->plan.calibration && !g->plan.observes && g->plan.step > 0 &&
                  fb_video_cache_has_history(cache);
    for (size_t layer = 0; layer < c->num_layers; layer++) {
        const bool *refresh =
            reuses ? fb_calibration_refresh(g->plan.calibration, layer, g->plan.step) : NULL;
        for (size_t head = 0; head < c->num_heads; head++) {
            bool fresh = !refresh || refresh[head];
            g->stats.heads_refreshed += reuses && fresh;
            g->stats.heads_reused += !fresh;
            g->stats.work += (double)queries * (internal + (fresh ? external : 0.0));
            g->stats.dense_work += (double)queries * (internal + external);
        }
    }
}

static float coordinate(size_t at, size_t size) {
    return size > 1 ? (float)(2.0 * (double)at / (double)(size - 1) - 1.0) : 0.0f;
}

/* The block with two more channels in each frame; the block itself where the model wants none. */
static const float *input_of(const generation *g, const block *b, size_t clip) {
    const fb_video_config *c = g->config;
    const float *x = g->x + clip * g->block_values;
    if (g->input_values == 0)
        return x;
    size_t pixels = c->frame_height * c->frame_width;
    float *to = g->inputs + clip * g->input_values;
    for (size_t frame = 0; frame < b->num_frames; frame++, x += g->frame_values) {
        memcpy(to, x, g->frame_values * sizeof *to);
        to += g->frame_values;
        for (size_t i = 0; i < pixels; i++) {
            to[i] = coordinate(i % c->frame_width, c->frame_width);
            to[pixels + i] = coordinate(i / c->frame_width, c->frame_height);
        }
        to += 2 * pixels;
    }
    return g->inputs + clip * g->input_values;
}

static fb_status run_pass(generation *g, const block *b, size_t step, double timestep) {
    const fb_video_config *c = g->config;
    g->plan = (fb_video_plan){g->calibration, step, g->observes};
    for (size_t i = 0; i < g->count; i++)
        g->calls[i] = (fb_video_forward_call){
            .latents = input_of(g, b, i),
            .first_frame = b->first_frame,
            .num_frames = b->num_frames,
            .timestep = timestep,
            .text = g->clips[i].text,
            .cache = g->caches[i],
            .parts = g->parts[i],
            .flow = g->flow + i * g->block_values,
        };
    FB_TRY(fb_video_forward(g->model, g->calls, g->count, &g->plan, &g->stats.times));
    size_t frame = c->frame_height / c->patch_height * (c->frame_width / c->patch_width);
    for (size_t i = 0; i < g->count; i++) {
        count_work(g, g->caches[i], b->num_frames * frame);
        fb_video_pass_event pass = {b->index,
                                    step,
                                    g->num_blocks,
                                    c->num_denoising_steps + 1,
                                    i,
                                    g->x + i * g->block_values,
                                    g->calls[i].flow};
        if (g->options->on_pass)
            g->options->on_pass(g->options->user, &pass);
    }
    g->stats.passes++;
    return FB_OK;
}

/* x := the clean frames that the flow means. */
static fb_status denoise(generation *g, const block *b, size_t step) {
    double timestep = timestep_of(g, step);
    float sigma = fb_flow_sigma(&g->schedule, timestep);
    FB_TRY(run_pass(g, b, step, timestep));
    for (size_t i = 0; i < g->count; i++) {
        float *x = g->x + i * g->block_values;
        fb_flow_clean(x, g->flow + i * g->block_values, sigma, b->values, x);
    }
    return FB_OK;
}

static fb_status make_block(generation *g, const block *b) {
    size_t steps = g->config->num_denoising_steps;
    for (size_t i = 0; i < g->count; i++)
        start_from_noise(g, b, i, g->x + i * g->block_values);
    for (size_t step = 0; step < steps; step++) {
        FB_TRY(denoise(g, b, step));
        if (step + 1 == steps)
            break;
        float sigma = fb_flow_sigma(&g->schedule, timestep_of(g, step + 1));
        for (size_t i = 0; i < g->count; i++) {
            float *x = g->x + i * g->block_values;
            fb_flow_add_noise(x, fresh_noise(g, b, i, step + 1), sigma, b->values, x);
        }
    }
    for (size_t i = 0; i < g->count; i++)
        memcpy(g->clips[i].frames + b->first_frame * g->frame_values, g->x + i * g->block_values,
               b->values * sizeof *g->x);
    return run_pass(g, b, steps, g->config->context_noise);
}

/* --- the whole -------------------------------------------------------------------------------- */

static fb_status check(const generation *g) {
    FB_TRY(fb_sized_same(g->options->struct_size, sizeof *g->options, "options"));
    if (g->options->num_frames == 0 || g->options->num_frames > 1 << 20)
        return fb_fail(FB_ERROR_ARGUMENT, "num_frames is %zu, expected 1 to %d",
                       g->options->num_frames, 1 << 20);
    if (g->config->in_dim != g->config->out_dim + g->config->coordinate_channels)
        return fb_fail(FB_ERROR_UNSUPPORTED,
                       "the model takes %zu channels, %zu of them coordinates, and gives %zu",
                       g->config->in_dim, g->config->coordinate_channels, g->config->out_dim);
    for (size_t i = 0; i < g->count; i++)
        if (!g->clips[i].text || !g->clips[i].frames)
            return fb_fail(FB_ERROR_ARGUMENT, "clips[%zu].%s is NULL", i,
                           g->clips[i].text ? "frames" : "text");
    return FB_OK;
}

static fb_status prepare(generation *g) {
    const fb_video_config *c = g->config;
    size_t values = 0;
    FB_TRY(check(g));
    fb_flow_schedule_make(c->timestep_shift, &g->schedule);
    g->frame_values = c->out_dim * c->frame_height * c->frame_width;
    g->block_values = c->block_frames * g->frame_values;
    if (c->coordinate_channels > 0)
        g->input_values = c->block_frames * c->in_dim * c->frame_height * c->frame_width;
    g->num_blocks = (g->options->num_frames + c->block_frames - 1) / c->block_frames;
    if (!fb_size_mul(g->count, g->block_values, &values))
        return fb_fail(FB_ERROR_MEMORY, "%zu clips overflow", g->count);
    FB_TRY(fb_alloc(values, sizeof *g->x, "frames", &g->x));
    FB_TRY(fb_alloc(values, sizeof *g->flow, "frames", &g->flow));
    FB_TRY(fb_alloc(g->count, g->input_values * sizeof *g->inputs, "inputs", &g->inputs));
    FB_TRY(fb_alloc(g->block_values, sizeof *g->noise, "noise", &g->noise));
    FB_TRY(fb_alloc_zeroed(g->count, sizeof *g->calls, "clips", &g->calls));
    FB_TRY(fb_alloc_zeroed(g->count, sizeof *g->caches, "clips", &g->caches));
    FB_TRY(fb_alloc_zeroed(g->count, sizeof *g->parts, "clips", &g->parts));
    for (size_t i = 0; i < g->count; i++) {
        FB_TRY(fb_video_model_new_cache(g->model, g->options->kv_dtype, g->options->compat,
                                        &g->caches[i]));
        if (g->calibration)
            FB_TRY(fb_video_model_new_parts(g->model, &g->parts[i]));
    }
    return FB_OK;
}

static void clean_up(generation *g) {
    for (size_t i = 0; i < g->count; i++) {
        if (g->caches)
            fb_video_cache_destroy(g->caches[i]);
        if (g->parts)
            fb_part_cache_destroy(g->parts[i]);
    }
    fb_free(g->caches);
    fb_free(g->parts);
    fb_free(g->calls);
    fb_free(g->x);
    fb_free(g->flow);
    fb_free(g->noise);
    fb_free(g->inputs);
}

static fb_status make_blocks(generation *g) {
    FB_TRY(prepare(g));
    for (size_t i = 0; i < g->num_blocks; i++) {
        size_t first = i * g->config->block_frames, left = g->options->num_frames - first;
        size_t frames = left < g->config->block_frames ? left : g->config->block_frames;
        block b = {i, first, frames, frames * g->frame_values};
        FB_TRY(make_block(g, &b));
    }
    return FB_OK;
}

static fb_status run(generation *g, fb_video_stats *stats) {
    if (!g->model || !g->options || (!g->clips && g->count > 0))
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL",
                       !g->model     ? "model"
                       : !g->options ? "options"
                                     : "clips");
    g->config = fb_video_config_of(g->model);
    fb_status status = g->count ? make_blocks(g) : FB_OK;
    clean_up(g);
    if (status == FB_OK && stats)
        *stats = g->stats;
    return status;
}

fb_status fb_video_generate(fb_video_model *model, const fb_video_clip *clips, size_t count,
                            const fb_video_options *options, fb_video_stats *stats) {
    generation g = {.model = model, .clips = clips, .count = count, .options = options};
    g.calibration = options ? options->calibration : NULL;
    return run(&g, stats);
}

fb_status fb_video_calibrate(fb_video_model *model, const fb_video_clip *clips, size_t count,
                             const fb_video_options *options, fb_calibration *calibration,
                             fb_video_stats *stats) {
    generation g = {.model = model, .clips = clips, .count = count, .options = options};
    if (!calibration)
        return fb_fail(FB_ERROR_ARGUMENT, "calibration is NULL");
    g.calibration = calibration;
    g.observes = true;
    return run(&g, stats);
}

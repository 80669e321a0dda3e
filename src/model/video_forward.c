/* The forward pass of a video model, in the order in which it happens. */
#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "model/layers.h"
#include "model/video_layers.h"
#include "model/video_state.h"

#include <flashblock/attention.h>

#include <string.h>

/* One clip's part of a pass. */
typedef struct clip_pass {
    const fb_video_forward_call *call;
    fb_video_grid grid;
    size_t tokens;
    float *x;         /* [tokens, dim]: the residual stream */
    float *time;      /* [dim]: the embedded time */
    float *times;     /* [6, dim]: its projection */
    float *text;      /* [text_len, dim] */
    fb_part internal; /* where internal parts go, if the calibration observes */
} clip_pass;

typedef struct video_pass {
    fb_video_model *model;
    const fb_video_config *config;
    const fb_video_plan *plan;
    clip_pass *clips;              /* [count] */
    fb_part *external, *internals; /* [count], of the calibration */
    size_t count, max_tokens;
    float *y;      /* [max_tokens, max(dim, patch values)]: input of a sublayer */
    float *middle; /* [max_tokens, max(dim, ffn_dim)] */
    float *kv;     /* [2, text_len, dim] */
    double attention;
} video_pass;

static size_t threads_for(size_t rows) {
    return rows < 1024 ? 1 : fb_parallel_threads(); /* a small model would only wake threads */
}

static fb_status linear(video_pass *p, const fb_matrix *matrix, const float *x, size_t rows,
                        float *y) {
    fb_linear_input input = {x, rows};
    fb_linear_output output = {matrix, y};
    return fb_linear(&p->model->linear, &input, &output, 1);
}

/* --- patches, time, text ---------------------------------------------------------------------- */

/* Where pixel (py, px) of token `token`'s patch is in [frames, channels, height, width]. */
static size_t pixel_at(const fb_video_config *c, const fb_video_grid *grid, size_t channels,
                       size_t token, size_t channel, size_t py, size_t px) {
    size_t column = token % grid->columns, row = token / grid->columns % grid->rows;
    size_t frame = token / grid->columns / grid->rows;
    return ((frame * channels + channel) * c->frame_height + row * c->patch_height + py) *
               c->frame_width +
           column * c->patch_width + px;
}

/* x = patch embedding of the latents; a patch is [in_dim, patch_height, patch_width]. */
static fb_status embed_patches(video_pass *p, clip_pass *clip) {
    const fb_video_config *c = p->config;
    float *to = p->y;
    for (size_t token = 0; token < clip->tokens; token++)
        for (size_t channel = 0; channel < c->in_dim; channel++)
            for (size_t py = 0; py < c->patch_height; py++)
                for (size_t px = 0; px < c->patch_width; px++)
                    *to++ =
                        clip->call
                            ->latents[pixel_at(c, &clip->grid, c->in_dim, token, channel, py, px)];
    return linear(p, &p->model->patch, p->y, clip->tokens, clip->x);
}

/* time = W silu(W' sinusoid(t)), times = W'' silu(time) */
static fb_status embed_time(video_pass *p, clip_pass *clip) {
    const fb_video_config *c = p->config;
    double *sinusoid = NULL;
    FB_TRY(fb_alloc(c->freq_dim, sizeof *sinusoid, "time embedding", &sinusoid));
    fb_time_embedding(clip->call->timestep, c->freq_dim, sinusoid);
    for (size_t i = 0; i < c->freq_dim; i++)
        p->y[i] = (float)sinusoid[i];
    fb_free(sinusoid);
    FB_TRY(linear(p, &p->model->time_in, p->y, 1, p->middle));
    fb_silu(p->middle, c->dim);
    FB_TRY(linear(p, &p->model->time_out, p->middle, 1, clip->time));
    memcpy(p->middle, clip->time, c->dim * sizeof *p->middle);
    fb_silu(p->middle, c->dim);
    return linear(p, &p->model->time_projection, p->middle, 1, clip->times);
}

static fb_status embed_text(video_pass *p, clip_pass *clip) {
    const fb_video_config *c = p->config;
    FB_TRY(linear(p, &p->model->text_in, clip->call->text, c->text_len, p->kv));
    fb_gelu_tanh(p->kv, c->text_len * c->dim);
    return linear(p, &p->model->text_out, p->kv, c->text_len, clip->text);
}

/* --- a layer ---------------------------------------------------------------------------------- */

typedef struct modulate_call {
    const float *x, *rows; /* rows: shift, scale */
    double eps;
    size_t dim;
    float *y;
} modulate_call;

static void modulate_rows(void *context, size_t first, size_t end, size_t worker) {
    const modulate_call *c = context;
    size_t dim = c->dim;
    (void)worker;
    for (size_t row = first; row < end; row++) {
        fb_layer_norm(c->x + row * dim, NULL, NULL, c->eps, dim, c->y + row * dim);
        fb_modulate(c->rows, c->rows + dim, dim, c->y + row * dim);
    }
}

/* y = norm(x) * (1 + scale) + shift; row `first` of modulation and time is shift, the next scale.
 */
static fb_status modulated(video_pass *p, const clip_pass *clip, const float *modulation,
                           const float *time, size_t time_stride, float *y) {
    size_t dim = p->config->dim;
    float *rows = NULL; /* shift, scale */
    FB_TRY(fb_alloc(2 * dim, sizeof *rows, "modulation", &rows));
    for (size_t i = 0; i < 2 * dim; i++)
        rows[i] = modulation[i] + time[i / dim * time_stride + i % dim];
    modulate_call call = {clip->x, rows, p->config->eps, dim, y};
    fb_parallel_for(clip->tokens, 0, threads_for(clip->tokens), modulate_rows, &call);
    fb_free(rows);
    return FB_OK;
}

/* x += y * gate */
static fb_status add_gated(video_pass *p, clip_pass *clip, const float *modulation,
                           const float *time, const float *y) {
    size_t dim = p->config->dim;
    float *gate = NULL;
    FB_TRY(fb_alloc(dim, sizeof *gate, "gate", &gate));
    for (size_t i = 0; i < dim; i++)
        gate[i] = modulation[i] + time[i];
    for (size_t row = 0; row < clip->tokens; row++)
        fb_add_gated(y + row * dim, gate, dim, clip->x + row * dim);
    fb_free(gate);
    return FB_OK;
}

static fb_status self_attention(video_pass *p, clip_pass *clip, size_t index) {
    const fb_video_layer *layer = &p->model->layers[index];
    const fb_video_plan *plan = p->plan;
    size_t dim = p->config->dim;
    bool reuses = plan->calibration && !plan->observes && plan->step > 0;
    fb_video_attention_pass pass = {
        .cache = clip->call->cache,
        .layer = index,
        .grid = clip->grid,
        .first_frame = clip->call->first_frame,
        .parts = clip->call->parts,
        .refresh = reuses ? fb_calibration_refresh(plan->calibration, index, plan->step) : NULL,
        .internal = plan->observes ? &clip->internal : NULL,
        .seconds = &p->attention,
    };
    FB_TRY(modulated(p, clip, layer->modulation, clip->times, dim, p->y));
    FB_TRY(fb_video_attention_run(&layer->self, &pass, &p->model->linear, p->y, p->middle));
    return add_gated(p, clip, layer->modulation + 2 * dim, clip->times + 2 * dim, p->middle);
}

static void norm_rows(const video_pass *p, const float *weight, float *rows, size_t count) {
    size_t dim = p->config->dim;
    for (size_t row = 0; weight && row < count; row++)
        fb_rms_norm(rows + row * dim, weight, p->config->eps, dim, rows + row * dim);
}

/* out = attention of q [tokens, dim] over the text; `lse` is scratch. */
static fb_status attend_text(video_pass *p, const clip_pass *clip, const float *q, float *out,
                             float *lse) {
    size_t heads = p->config->num_heads, dim = p->config->dim, head_dim = dim / heads;
    size_t tokens = p->config->text_len;
    fb_kv kv = fb_kv_rows(FB_F32, p->kv, p->kv + tokens * dim, tokens, heads, head_dim);
    fb_range range = {0, tokens};
    fb_view view = {&kv, &range, 1};
    fb_queries queries = fb_queries_rows(q, clip->tokens, heads, head_dim);
    fb_part result = fb_part_rows(out, lse, heads, head_dim);
    return fb_attend(&queries, &view, NULL, 0.0f, &result);
}

static fb_status cross_attention(video_pass *p, clip_pass *clip, const fb_video_layer *layer) {
    const fb_video_attention *a = &layer->cross;
    size_t dim = p->config->dim, text_len = p->config->text_len;
    void *memory = NULL;
    FB_TRY(fb_scratch_acquire(2 * clip->tokens * dim * sizeof(float), &memory));
    float *q = memory, *lse = q + clip->tokens * dim;
    for (size_t row = 0; row < clip->tokens; row++) {
        const float *x = clip->x + row * dim;
        if (layer->norm3_weight)
            fb_layer_norm(x, layer->norm3_weight, layer->norm3_bias, p->config->eps, dim,
                          p->y + row * dim);
        else
            memcpy(p->y + row * dim, x, dim * sizeof *x);
    }
    fb_status status = linear(p, &a->q, p->y, clip->tokens, q);
    if (status == FB_OK)
        status = linear(p, &a->k, clip->text, text_len, p->kv);
    if (status == FB_OK)
        status = linear(p, &a->v, clip->text, text_len, p->kv + text_len * dim);
    if (status == FB_OK) {
        norm_rows(p, a->norm_q, q, clip->tokens);
        norm_rows(p, a->norm_k, p->kv, text_len);
        status = attend_text(p, clip, q, p->y, lse);
    }
    if (status == FB_OK)
        status = linear(p, &a->o, p->y, clip->tokens, p->middle);
    fb_scratch_release(memory);
    for (size_t i = 0; status == FB_OK && i < clip->tokens * dim; i++)
        clip->x[i] += p->middle[i];
    return status;
}

static void gelu_rows(void *context, size_t first, size_t end, size_t worker) {
    const video_pass *p = context;
    size_t middle = p->config->ffn_dim;
    (void)worker;
    for (size_t row = first; row < end; row++)
        fb_gelu_tanh(p->middle + row * middle, middle);
}

static fb_status feed_forward(video_pass *p, clip_pass *clip, const fb_video_layer *layer) {
    size_t dim = p->config->dim;
    FB_TRY(modulated(p, clip, layer->modulation + 3 * dim, clip->times + 3 * dim, dim, p->y));
    FB_TRY(linear(p, &layer->ffn_in, p->y, clip->tokens, p->middle));
    fb_parallel_for(clip->tokens, 0, threads_for(clip->tokens), gelu_rows, p);
    FB_TRY(linear(p, &layer->ffn_out, p->middle, clip->tokens, p->y));
    return add_gated(p, clip, layer->modulation + 5 * dim, clip->times + 5 * dim, p->y);
}

/* The calibration looks at a layer of all clips at once. */
static fb_status calibrate_layer(video_pass *p, size_t layer) {
    if (!p->plan->observes || !fb_video_cache_has_history(p->clips[0].call->cache))
        return FB_OK;
    for (size_t i = 0; i < p->count; i++) {
        FB_TRY(fb_part_cache_layer(p->clips[i].call->parts, layer, &p->external[i]));
        p->internals[i] = p->clips[i].internal;
    }
    return fb_calibration_observe(p->plan->calibration, layer, p->plan->step, p->external,
                                  p->internals, p->count, p->clips[0].tokens,
                                  p->config->dim / p->config->num_heads, NULL);
}

static fb_status run_layer(video_pass *p, size_t index) {
    for (size_t i = 0; i < p->count; i++) {
        FB_TRY(self_attention(p, &p->clips[i], index));
        FB_TRY(cross_attention(p, &p->clips[i], &p->model->layers[index]));
        FB_TRY(feed_forward(p, &p->clips[i], &p->model->layers[index]));
    }
    return calibrate_layer(p, index);
}

/* --- results ---------------------------------------------------------------------------------- */

/* flow = head(norm(x) * (1 + scale) + shift); a token's values are [patch_height, patch_width,
 * out_dim]. Both rows of the modulation take the same time. */
static fb_status read_out(video_pass *p, const clip_pass *clip) {
    const fb_video_config *c = p->config;
    FB_TRY(modulated(p, clip, p->model->head_modulation, clip->time, 0, p->y));
    FB_TRY(linear(p, &p->model->head, p->y, clip->tokens, p->middle));
    const float *from = p->middle;
    for (size_t token = 0; token < clip->tokens; token++)
        for (size_t py = 0; py < c->patch_height; py++)
            for (size_t px = 0; px < c->patch_width; px++)
                for (size_t channel = 0; channel < c->out_dim; channel++)
                    clip->call->flow[pixel_at(c, &clip->grid, c->out_dim, token, channel, py, px)] =
                        *from++;
    return FB_OK;
}

/* --- arguments, memory, the whole ------------------------------------------------------------- */

static fb_status check_call(const fb_video_config *c, const fb_video_forward_call *calls,
                            size_t index, const fb_video_plan *plan) {
    const fb_video_forward_call *call = &calls[index];
    if (!call->latents || !call->text || !call->cache || !call->flow)
        return fb_fail(FB_ERROR_ARGUMENT, "clip %zu: latents, text, cache or flow is NULL", index);
    if (!(call->timestep >= 0.0 && call->timestep <= 1000.0))
        return fb_fail(FB_ERROR_ARGUMENT, "clip %zu: timestep is %g, expected 0 to 1000", index,
                       call->timestep);
    const fb_video_cache_config *cache = fb_video_cache_config_of(call->cache);
    size_t frame = c->frame_height / c->patch_height * (c->frame_width / c->patch_width);
    if (cache->num_layers != c->num_layers || cache->num_heads != c->num_heads ||
        cache->head_dim != c->dim / c->num_heads || cache->frame_tokens != frame)
        return fb_fail(FB_ERROR_ARGUMENT, "clip %zu: the cache is of another model", index);
    if (plan->calibration && !call->parts)
        return fb_fail(FB_ERROR_ARGUMENT, "clip %zu: parts is NULL, but there is a calibration",
                       index);
    if (plan->observes && call->num_frames != calls[0].num_frames)
        return fb_fail(FB_ERROR_ARGUMENT, "clip %zu has %zu frames, clip 0 %zu", index,
                       call->num_frames, calls[0].num_frames);
    for (size_t i = 0; i < index; i++)
        if (calls[i].cache == call->cache || (call->parts && calls[i].parts == call->parts))
            return fb_fail(FB_ERROR_ARGUMENT, "clips %zu and %zu share a cache", i, index);
    return FB_OK;
}

static fb_status check_plan(const fb_video_config *c, const fb_video_plan *plan) {
    if (!plan->calibration)
        return plan->observes ? fb_fail(FB_ERROR_ARGUMENT, "plan: there is no calibration") : FB_OK;
    const fb_calibration_config *of = fb_calibration_config_of(plan->calibration);
    if (of->num_layers != c->num_layers || of->num_heads != c->num_heads ||
        of->num_steps != c->num_denoising_steps + 1)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "the calibration is of %zu layers, %zu heads and %zu passes a block, the "
                       "model has %zu, %zu and %zu",
                       of->num_layers, of->num_heads, of->num_steps, c->num_layers, c->num_heads,
                       c->num_denoising_steps + 1);
    if (plan->step >= of->num_steps)
        return fb_fail(FB_ERROR_ARGUMENT, "plan: step is %zu, expected below %zu", plan->step,
                       of->num_steps);
    return FB_OK;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* All arrays, in one block of scratch. */
static fb_status lay_out(video_pass *p, void **memory) {
    const fb_video_config *c = p->config;
    size_t dim = c->dim, patch = c->patch_height * c->patch_width;
    size_t wide_y = larger(larger(dim, c->in_dim * patch), larger(c->freq_dim, c->ffn_dim));
    size_t wide_middle = larger(larger(dim, c->ffn_dim), c->out_dim * patch);
    size_t rows = p->max_tokens, observed = p->plan->observes ? rows * (dim + c->num_heads) : 0;
    size_t own = rows * dim + 7 * dim + c->text_len * dim + observed;
    size_t floats = 0, bytes = 0;
    size_t tables = p->count * (sizeof(clip_pass) + 2 * sizeof(fb_part));
    if (!fb_size_mul(p->count, own, &floats) ||
        !fb_size_add(floats, rows * (wide_y + wide_middle) + 2 * c->text_len * dim, &floats) ||
        !fb_size_mul(floats, sizeof(float), &bytes) || !fb_size_add(bytes, tables, &bytes))
        return fb_fail(FB_ERROR_MEMORY, "%zu clips of %zu tokens overflow", p->count, rows);
    FB_TRY(fb_scratch_acquire(bytes, memory));
    p->clips = *memory;
    p->external = (fb_part *)(void *)(p->clips + p->count);
    p->internals = p->external + p->count;
    float *at = (float *)(void *)(p->internals + p->count);
    p->y = at;
    p->middle = p->y + rows * wide_y;
    p->kv = p->middle + rows * wide_middle;
    at = p->kv + 2 * c->text_len * dim;
    for (size_t i = 0; i < p->count; i++, at += own) {
        clip_pass *clip = &p->clips[i];
        clip->x = at;
        clip->time = clip->x + rows * dim;
        clip->times = clip->time + dim;
        clip->text = clip->times + 6 * dim;
        float *internal = clip->text + c->text_len * dim;
        clip->internal =
            fb_part_rows(internal, internal + rows * dim, c->num_heads, dim / c->num_heads);
    }
    return FB_OK;
}

static fb_status run(video_pass *p, const fb_video_forward_call *calls) {
    const fb_video_config *c = p->config;
    for (size_t i = 0; i < p->count; i++) {
        clip_pass *clip = &p->clips[i];
        clip->call = &calls[i];
        clip->grid = (fb_video_grid){calls[i].num_frames, c->frame_height / c->patch_height,
                                     c->frame_width / c->patch_width};
        clip->tokens = clip->grid.frames * clip->grid.rows * clip->grid.columns;
        FB_TRY(fb_video_cache_begin(calls[i].cache, calls[i].first_frame, calls[i].num_frames));
        FB_TRY(embed_time(p, clip));
        FB_TRY(embed_text(p, clip));
        FB_TRY(embed_patches(p, clip));
    }
    for (size_t layer = 0; layer < c->num_layers; layer++)
        FB_TRY(run_layer(p, layer));
    for (size_t i = 0; i < p->count; i++)
        FB_TRY(read_out(p, &p->clips[i]));
    return FB_OK;
}

fb_status fb_video_forward(fb_video_model *model, const fb_video_forward_call *calls, size_t count,
                           const fb_video_plan *plan, fb_video_times *times) {
    static const fb_video_plan dense = {0};
    if (!model || (!calls && count > 0))
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", model ? "calls" : "model");
    if (count == 0)
        return FB_OK;
    double start = fb_seconds();
    const fb_video_config *c = &model->config;
    video_pass p = {.model = model, .config = c, .plan = plan ? plan : &dense, .count = count};
    size_t frame = c->frame_height / c->patch_height * (c->frame_width / c->patch_width);
    FB_TRY(check_plan(c, p.plan));
    for (size_t i = 0; i < count; i++) {
        FB_TRY(check_call(c, calls, i, p.plan));
        if (calls[i].num_frames == 0 || calls[i].num_frames > c->block_frames)
            return fb_fail(FB_ERROR_ARGUMENT, "clip %zu: num_frames is %zu, expected 1 to %zu", i,
                           calls[i].num_frames, c->block_frames);
        p.max_tokens = larger(p.max_tokens, calls[i].num_frames * frame);
    }
    void *memory = NULL;
    FB_TRY(lay_out(&p, &memory));
    fb_status status = fb_busy_begin(&model->busy, "the video model");
    if (status == FB_OK) {
        status = run(&p, calls);
        fb_busy_end(&model->busy);
    }
    fb_scratch_release(memory);
    if (status == FB_OK && times) {
        times->attention += p.attention;
        times->total += fb_seconds() - start;
    }
    return status;
}

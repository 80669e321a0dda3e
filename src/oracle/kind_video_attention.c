/* video_attention: the paper's video self-attention over several blocks and steps: a calibration on
 * its own clips, then a dense run and a run with head-wise reuse. Outputs, similarities, changes of
 * LSEs, head masks, kept parts, the cache and its bookkeeping are checked. Weights and inputs are
 * in the file that the metadata `inputs_file` names, beside this one. */
#include "model/video_attention.h"
#include "oracle/kinds.h"

#include <flashblock/experimental/calibration.h>
#include <flashblock/experimental/head_reuse.h>
#include <flashblock/experimental/video_cache.h>
#include <flashblock/flashblock.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_BATCH = 16, MAX_SIZE = 1 << 14, MAX_BLOCKS = 256, MAX_STEPS = 32, STEP_FIELDS = 14 };

/* Differences of two float32 implementations (outputs of magnitude 3), and of two that round every
 * intermediate result to bf16. */
static const double f32_tolerance = 5e-6, bf16_spacings = 4.0;

typedef struct video_layer {
    fb_case *c, *inputs;
    fb_report *report;
    size_t heads, head_dim, dim, block_tokens, blocks, calib_blocks, batch, steps;
    fb_video_grid grid;
    fb_video_cache_config cache_config;
    fb_video_attention attention;
    fb_linear_scratch linear;
    fb_dtype activations;
    fb_calibration *calibration;
    fb_video_cache *caches[MAX_BATCH];
    fb_part_cache *parts[MAX_BATCH];
} video_layer;

/* --- setting up ------------------------------------------------------------------------------- */

static fb_status projection(video_layer *l, const char *name, fb_matrix *matrix) {
    const fb_tensor_view *weight = NULL;
    const float *bias = NULL;
    FB_TRY(fb_case_tensor(l->inputs, &weight, FB_DIMS(l->dim, l->dim), "w.%s.weight", name));
    FB_TRY(fb_case_f32(l->inputs, &bias, FB_DIMS(l->dim), "w.%s.bias", name));
    float *copy = NULL;
    FB_TRY(fb_case_alloc(l->c, l->dim, sizeof *copy, &copy));
    memcpy(copy, bias, l->dim * sizeof *copy);
    fb_round_values(l->activations, copy, l->dim);
    *matrix = (fb_matrix){.rows = l->dim, .columns = l->dim, .bias = copy};
    if (l->activations == FB_F32) {
        matrix->data = weight->data;
        return fb_tensor_storage(weight, &matrix->dtype);
    }
    float *rounded = NULL;
    FB_TRY(fb_case_alloc(l->c, l->dim * l->dim, sizeof *rounded, &rounded));
    FB_TRY(fb_tensor_read_f32(weight, 0, l->dim * l->dim, rounded));
    fb_round_values(l->activations, rounded, l->dim * l->dim);
    matrix->data = rounded;
    matrix->dtype = FB_F32;
    return FB_OK;
}

static fb_status read_weights(video_layer *l) {
    FB_TRY(projection(l, "q", &l->attention.q));
    FB_TRY(projection(l, "k", &l->attention.k));
    FB_TRY(projection(l, "v", &l->attention.v));
    FB_TRY(projection(l, "o", &l->attention.o));
    const float *norms[2];
    float *copies[2];
    for (size_t i = 0; i < 2; i++) {
        FB_TRY(
            fb_case_f32(l->inputs, &norms[i], FB_DIMS(l->dim), "w.norm_%c.weight", i ? 'k' : 'q'));
        FB_TRY(fb_case_alloc(l->c, l->dim, sizeof(float), &copies[i]));
        memcpy(copies[i], norms[i], l->dim * sizeof(float));
        fb_round_values(l->activations, copies[i], l->dim);
    }
    l->attention.norm_q = copies[0];
    l->attention.norm_k = copies[1];
    l->attention.num_heads = l->heads;
    l->attention.head_dim = l->head_dim;
    return fb_case_real(l->c, "eps", &l->attention.eps);
}

static fb_status read_dtype(video_layer *l) {
    const char *name = NULL;
    FB_TRY(fb_case_string(l->c, "dtype", &name));
    l->activations = strcmp(name, "torch.bfloat16") == 0 ? FB_BF16 : FB_F32;
    if (l->activations == FB_F32 && strcmp(name, "torch.float32") != 0)
        return fb_fail(FB_ERROR_UNSUPPORTED,
                       "%s: dtype is '%s', expected torch.float32 or torch.bfloat16",
                       fb_case_path(l->c), name);
    return FB_OK;
}

/* window, attended: in tokens */
static fb_status set_cache(video_layer *l, size_t window, size_t attended) {
    fb_video_cache_config *cache = &l->cache_config;
    size_t frame = l->grid.rows * l->grid.columns;
    if (l->head_dim % 2 != 0 || l->dim > MAX_SIZE || window % frame != 0 || attended % frame != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: %zu heads of %zu, frames of %zu tokens, %zu held",
                       fb_case_path(l->c), l->heads, l->head_dim, frame, window);
    cache->num_layers = 1;
    cache->num_heads = l->heads;
    cache->head_dim = l->head_dim;
    cache->frame_tokens = frame;
    cache->block_frames = l->grid.frames;
    cache->window_frames = window / frame;
    cache->attended_frames = attended / frame;
    cache->compat = FB_COMPAT_RELEASED;
    return FB_OK;
}

/* What the sizes imply. */
static fb_status check_sizes(const video_layer *l) {
    size_t frame = l->grid.rows * l->grid.columns;
    FB_TRY(fb_case_expect_size(l->c, "dim", l->dim));
    FB_TRY(fb_case_expect_size(l->c, "frame_seqlen", frame));
    FB_TRY(fb_case_expect_size(l->c, "block_tokens", l->block_tokens));
    FB_TRY(fb_case_expect_size(l->c, "sink_tokens", l->cache_config.sink_frames * frame));
    FB_TRY(fb_case_expect_size(l->c, "clean_pass_step_index", l->steps - 1));
    return fb_case_expect_scale(l->c, "scale", l->head_dim);
}

static fb_status read_sizes(video_layer *l) {
    fb_case *c = l->c;
    size_t window = 0, attended = 0;
    FB_TRY(fb_case_size(c, "num_heads", 1, 4096, &l->heads));
    FB_TRY(fb_case_size(c, "head_dim", 2, 4096, &l->head_dim));
    FB_TRY(fb_case_size(c, "frames_per_block", 1, 256, &l->grid.frames));
    FB_TRY(fb_case_size(c, "h", 1, 512, &l->grid.rows));
    FB_TRY(fb_case_size(c, "w", 1, 512, &l->grid.columns));
    FB_TRY(fb_case_size(c, "kv_cache_tokens", 1, 1 << 24, &window));
    FB_TRY(fb_case_size(c, "max_attention_size", 1, 1 << 24, &attended));
    FB_TRY(fb_case_size(c, "sink_size", 0, 1 << 16, &l->cache_config.sink_frames));
    FB_TRY(fb_case_size(c, "blocks", 1, MAX_BLOCKS, &l->blocks));
    FB_TRY(fb_case_size(c, "calib_blocks", 0, MAX_BLOCKS, &l->calib_blocks));
    FB_TRY(fb_case_size(c, "calib_batch", 1, MAX_BATCH, &l->batch));
    FB_TRY(fb_case_size(c, "denoise_steps", 1, MAX_STEPS - 1, &l->steps));
    l->steps++; /* the pass over the clean frames */
    l->dim = l->heads * l->head_dim;
    l->block_tokens = l->grid.frames * l->grid.rows * l->grid.columns;
    FB_TRY(set_cache(l, window, attended));
    FB_TRY(check_sizes(l));
    return read_dtype(l);
}

/* sparsity_steps: every step after the first; other rules are not known here. */
static fb_status check_steps(video_layer *l) {
    const fb_json *steps = NULL;
    FB_TRY(fb_case_array(l->c, "sparsity_steps", &steps));
    int64_t step = 0;
    bool all = fb_json_array_size(steps) == l->steps - 1;
    for (size_t i = 0; all && i < l->steps - 1; i++)
        all = fb_json_is_int64(fb_json_array_get(steps, i), &step) && step == (int64_t)i + 1;
    return all ? FB_OK
               : fb_fail(FB_ERROR_UNSUPPORTED, "%s: sparsity_steps is not every step from 1 to %zu",
                         fb_case_path(l->c), l->steps - 1);
}

/* head_sim_th, head_sim_th_by_step {"1": 0.98}, head_lse_th */
static fb_status read_thresholds(video_layer *l) {
    fb_calibration_config config;
    fb_calibration_config_init(&config);
    config.num_layers = 1;
    config.num_heads = l->heads;
    config.num_steps = l->steps;
    FB_TRY(fb_case_real(l->c, "head_sim_th", &config.similarity_threshold));
    FB_TRY(fb_case_real(l->c, "head_lse_th", &config.lse_threshold));
    const fb_json *by_step = NULL;
    FB_TRY(fb_case_param(l->c, "head_sim_th_by_step", &by_step));
    size_t used = 0;
    for (size_t step = 1; step < l->steps; step++) {
        char key[32];
        snprintf(key, sizeof key, "%zu", step);
        const fb_json *own = fb_json_object_get(by_step, key);
        used += own != NULL;
        if (own && !fb_json_is_null(own))
            FB_TRY(fb_json_double(own, fb_case_path(l->c), "head_sim_th_by_step",
                                  &config.step_thresholds[step]));
    }
    if (!fb_json_is_object(by_step) || used != fb_json_object_size(by_step))
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: params.head_sim_th_by_step is not an object of steps from 1 to %zu",
                       fb_case_path(l->c), l->steps - 1);
    /* LSEs are rounded where the code runs in bf16, and only there */
    config.compat = l->activations == FB_F32 ? FB_COMPAT_PAPER : FB_COMPAT_RELEASED;
    return fb_calibration_create(&config, &l->calibration);
}

static fb_status set_up(video_layer *l) {
    const char *inputs_file = fb_case_text(l->c, "inputs_file");
    if (!inputs_file)
        return fb_fail(FB_ERROR_FORMAT, "%s: the metadata have no inputs_file", fb_case_path(l->c));
    FB_TRY(fb_case_open_beside(l->c, inputs_file, &l->inputs));
    FB_TRY(read_sizes(l));
    FB_TRY(check_steps(l));
    FB_TRY(read_thresholds(l));
    FB_TRY(read_weights(l));
    for (size_t b = 0; b < l->batch; b++) {
        FB_TRY(fb_video_cache_create(&l->cache_config, &l->caches[b]));
        FB_TRY(fb_part_cache_create(1, l->block_tokens, l->heads, l->head_dim, &l->parts[b]));
    }
    return FB_OK;
}

static void tear_down(video_layer *l) {
    for (size_t b = 0; b < MAX_BATCH; b++) {
        fb_video_cache_destroy(l->caches[b]);
        fb_part_cache_destroy(l->parts[b]);
    }
    fb_calibration_destroy(l->calibration);
    fb_linear_scratch_free(&l->linear);
}

/* --- claims ----------------------------------------------------------------------------------- */

/* A tensor of the layer: outputs, parts, keys. */
static fb_status claim(video_layer *l, const char *tensor, fb_dims shape, const float *ours) {
    fb_claim claim = {.tensor = tensor,
                      .shape = shape,
                      .ours = ours,
                      .rule = FB_BOUND_ABSOLUTE,
                      .tolerance = f32_tolerance};
    FB_TRY(fb_case_f32(l->c, &claim.file, shape, "%s", tensor));
    if (l->activations == FB_BF16)
        claim.tolerance = bf16_spacings * 0x1p-7 *
                          fmax(1.0, fb_largest_magnitude(claim.file, fb_dims_count(&shape)));
    return fb_report_claim(l->report, &claim);
}

/* Averages of the calibration: cosines and changes of LSEs. */
static fb_status claim_numbers(video_layer *l, const char *tensor, fb_dims shape,
                               const float *ours) {
    fb_claim claim = {.tensor = tensor,
                      .shape = shape,
                      .ours = ours,
                      .rule = FB_BOUND_ABSOLUTE,
                      .tolerance = l->activations == FB_F32 ? 2e-6 : 0x1p-7};
    FB_TRY(fb_case_f32(l->c, &claim.file, shape, "%s", tensor));
    return fb_report_claim(l->report, &claim);
}

static fb_status claim_mask(video_layer *l, const char *tensor, fb_dims shape,
                            const int32_t *ours) {
    const int32_t *file = NULL;
    FB_TRY(fb_case_i32(l->c, &file, shape, "%s", tensor));
    return fb_report_decisions(l->report, tensor, shape, ours, file);
}

/* --- one pass --------------------------------------------------------------------------------- */

/* The input `name`.b<block>s<step>  [batch, block_tokens, dim], in the case's precision. */
static fb_status input_of(video_layer *l, const char *name, size_t batch, size_t block, size_t step,
                          float **x) {
    const float *read = NULL;
    size_t count = batch * l->block_tokens * l->dim;
    FB_TRY(fb_case_f32(l->inputs, &read, FB_DIMS(batch, l->block_tokens, l->dim), "%s.b%zus%zu",
                       name, block, step));
    FB_TRY(fb_case_alloc(l->inputs, count, sizeof **x, x));
    memcpy(*x, read, count * sizeof **x);
    fb_round_values(l->activations, *x, count);
    return FB_OK;
}

static fb_status run_pass(video_layer *l, size_t sample, size_t block, const float *x,
                          fb_part_cache *parts, const bool *refresh, const fb_part *internal,
                          float *out) {
    fb_video_attention_pass pass = {.cache = l->caches[sample],
                                    .grid = l->grid,
                                    .first_frame = block * l->grid.frames,
                                    .parts = parts,
                                    .refresh = refresh,
                                    .internal = internal,
                                    .activations = l->activations};
    FB_TRY(fb_video_cache_begin(pass.cache, pass.first_frame, l->grid.frames));
    return fb_video_attention_run(&l->attention, &pass, &l->linear, x, out);
}

/* --- calibration ------------------------------------------------------------------------------ */

/* Rows of calib.*: one for each step from 1 on of each block that has a history. */
typedef struct calibration_rows {
    size_t count;
    int32_t *block_step, *mask;            /* [count, 2], [count, heads] */
    float *similarity, *change, *internal; /* [count, heads] */
} calibration_rows;

static fb_status observe(video_layer *l, size_t block, size_t step, const fb_part *external,
                         const fb_part *internal, calibration_rows *rows) {
    double numbers[3][MAX_SIZE];
    bool mask[MAX_SIZE];
    fb_head_changes changes = {numbers[0], numbers[1], numbers[2], mask};
    FB_TRY(fb_calibration_observe(l->calibration, 0, step, external, internal, l->batch,
                                  l->block_tokens, l->head_dim, &changes));
    if (step == 0)
        return FB_OK;
    int32_t *at = rows->block_step + 2 * rows->count;
    at[0] = (int32_t)block;
    at[1] = (int32_t)step;
    for (size_t head = 0; head < l->heads; head++) {
        size_t i = rows->count * l->heads + head;
        rows->similarity[i] = (float)changes.similarity[head];
        rows->change[i] = (float)changes.lse_change[head];
        rows->internal[i] = (float)changes.internal_similarity[head];
        rows->mask[i] = changes.refresh[head];
    }
    rows->count++;
    return FB_OK;
}

/* One step of one block, all samples. `memory`: internal parts, and a layer's output, [batch] of
 * each. */
static fb_status calibrate_step(video_layer *l, size_t block, size_t step, float *memory,
                                calibration_rows *rows) {
    size_t values = l->block_tokens * l->dim, lses = l->block_tokens * l->heads;
    fb_part external[MAX_BATCH], internal[MAX_BATCH];
    float *x = NULL;
    FB_TRY(input_of(l, "calib_x", l->batch, block, step, &x));
    for (size_t b = 0; b < l->batch; b++) {
        float *own = memory + b * (2 * values + lses);
        internal[b] = fb_part_rows(own, own + 2 * values, l->heads, l->head_dim);
        FB_TRY(
            run_pass(l, b, block, x + b * values, l->parts[b], NULL, &internal[b], own + values));
        FB_TRY(fb_part_cache_layer(l->parts[b], 0, &external[b]));
        fb_round_values(l->activations, own, values);
    }
    if (!fb_video_cache_has_history(l->caches[0]))
        return FB_OK;
    return observe(l, block, step, external, internal, rows);
}

static fb_status claim_calibration(video_layer *l, const calibration_rows *rows) {
    fb_dims each = FB_DIMS(rows->count, l->heads), means = FB_DIMS(l->steps - 1, l->heads);
    size_t count = fb_dims_count(&means);
    float *similarity = NULL, *change = NULL;
    int32_t *mask = NULL;
    FB_TRY(fb_case_alloc(l->c, count, sizeof(float), &similarity));
    FB_TRY(fb_case_alloc(l->c, count, sizeof(float), &change));
    FB_TRY(fb_case_alloc(l->c, count, sizeof(int32_t), &mask));
    for (size_t i = 0; i < count; i++) {
        size_t step = 1 + i / l->heads, head = i % l->heads;
        similarity[i] = (float)fb_calibration_similarity(l->calibration, 0, step, head);
        change[i] = (float)fb_calibration_lse_change(l->calibration, 0, step, head);
        mask[i] = fb_calibration_refresh(l->calibration, 0, step)[head];
    }
    FB_TRY(claim_mask(l, "calib.block_step", FB_DIMS(rows->count, 2), rows->block_step));
    FB_TRY(claim_numbers(l, "calib.cos", each, rows->similarity));
    FB_TRY(claim_numbers(l, "calib.lse_delta", each, rows->change));
    FB_TRY(claim_mask(l, "calib.inst_head_mask", each, rows->mask));
    FB_TRY(claim_numbers(l, "calib.cos_in", each, rows->internal));
    FB_TRY(claim_numbers(l, "final.cos_mean", means, similarity));
    FB_TRY(claim_numbers(l, "final.lse_mean", means, change));
    return claim_mask(l, "final.head_mask", means, mask);
}

static fb_status calibrate(video_layer *l) {
    calibration_rows rows = {0};
    size_t most = l->calib_blocks * l->steps, numbers = most * l->heads;
    float *memory = NULL;
    if (l->calib_blocks == 0)
        return FB_OK;
    FB_TRY(fb_case_alloc(l->c, 2 * most, sizeof(int32_t), &rows.block_step));
    FB_TRY(fb_case_alloc(l->c, numbers, sizeof(int32_t), &rows.mask));
    FB_TRY(fb_case_alloc(l->c, numbers, sizeof(float), &rows.similarity));
    FB_TRY(fb_case_alloc(l->c, numbers, sizeof(float), &rows.change));
    FB_TRY(fb_case_alloc(l->c, numbers, sizeof(float), &rows.internal));
    FB_TRY(fb_case_alloc(l->c, l->batch * l->block_tokens * (2 * l->dim + l->heads), sizeof(float),
                         &memory));
    for (size_t block = 0; block < l->calib_blocks; block++)
        for (size_t step = 0; step < l->steps; step++)
            FB_TRY(calibrate_step(l, block, step, memory, &rows));
    return claim_calibration(l, &rows);
}

/* --- runs ------------------------------------------------------------------------------------- */

/* What the paper's code records about the cache in a pass. */
static void describe(const fb_video_placement *p, size_t block, size_t step, int32_t *line) {
    const size_t fields[STEP_FIELDS] = {
        block,       step,      p->rolled,     p->recomputes, p->end_before, p->held_before,
        p->begin_at, p->end_at, p->write_from, p->end_at,     p->evicted,    p->kept_after_sink,
        p->end,      p->held};
    for (size_t i = 0; i < STEP_FIELDS; i++)
        line[i] = (int32_t)fields[i];
}

/* hist_out.b.s [1, tokens, heads, head_dim], hist_lse.b.s [heads, tokens]: the parts that are kept.
 */
static fb_status claim_kept(video_layer *l, size_t block, size_t step) {
    char name[64];
    snprintf(name, sizeof name, "hist_out.b%zus%zu", block, step);
    if (!fb_case_has(l->c, "%s", name))
        return FB_OK;
    fb_part kept;
    FB_TRY(fb_part_cache_layer(l->parts[0], 0, &kept));
    float *out = NULL, *lse = NULL;
    FB_TRY(fb_case_alloc(l->c, l->block_tokens * l->dim, sizeof *out, &out));
    FB_TRY(fb_case_alloc(l->c, l->block_tokens * l->heads, sizeof *lse, &lse));
    for (size_t i = 0; i < l->block_tokens * l->heads; i++) {
        size_t token = i / l->heads, head = i % l->heads;
        memcpy(out + i * l->head_dim,
               kept.out + (ptrdiff_t)token * kept.out_token_stride +
                   (ptrdiff_t)head * kept.out_head_stride,
               l->head_dim * sizeof *out);
        lse[head * l->block_tokens + token] = kept.lse[(ptrdiff_t)token * kept.lse_token_stride +
                                                       (ptrdiff_t)head * kept.lse_head_stride];
    }
    FB_TRY(claim(l, name, FB_DIMS(1, l->block_tokens, l->heads, l->head_dim), out));
    snprintf(name, sizeof name, "hist_lse.b%zus%zu", block, step);
    return claim(l, name, FB_DIMS(l->heads, l->block_tokens), lse);
}

/* kv.k.b, kv.v.b  [1, kv_cache_tokens, heads, head_dim]: unused places are zero. */
static fb_status claim_cache(video_layer *l, size_t block) {
    size_t tokens = l->cache_config.window_frames * l->cache_config.frame_tokens;
    fb_dims shape = FB_DIMS(1, tokens, l->heads, l->head_dim);
    char name[64];
    snprintf(name, sizeof name, "kv.k.b%zu", block);
    if (!fb_case_has(l->c, "%s", name))
        return FB_OK;
    float *k = NULL, *v = NULL;
    FB_TRY(fb_case_alloc(l->c, tokens * l->dim, sizeof *k, &k));
    FB_TRY(fb_case_alloc(l->c, tokens * l->dim, sizeof *v, &v));
    FB_TRY(fb_video_cache_read(l->caches[0], 0, k, v));
    FB_TRY(claim(l, name, shape, k));
    snprintf(name, sizeof name, "kv.v.b%zu", block);
    return claim(l, name, shape, v);
}

/* All blocks and steps; `prefix` is "out" or "dense_out". */
static fb_status run_blocks(video_layer *l, const char *prefix, bool reuses, int32_t *lines) {
    float *out = NULL;
    FB_TRY(fb_case_alloc(l->c, l->block_tokens * l->dim, sizeof *out, &out));
    fb_video_cache_reset(l->caches[0]);
    fb_part_cache_invalidate(l->parts[0]);
    for (size_t block = 0; block < l->blocks; block++) {
        for (size_t step = 0; step < l->steps; step++) {
            float *x = NULL;
            char name[64];
            const bool *refresh =
                step > 0 && reuses ? fb_calibration_refresh(l->calibration, 0, step) : NULL;
            FB_TRY(input_of(l, "x", 1, block, step, &x));
            FB_TRY(run_pass(l, 0, block, x, reuses ? l->parts[0] : NULL, refresh, NULL, out));
            describe(fb_video_cache_placement(l->caches[0]), block, step, lines);
            lines += STEP_FIELDS;
            snprintf(name, sizeof name, "%s.b%zus%zu", prefix, block, step);
            FB_TRY(claim(l, name, FB_DIMS(1, l->block_tokens, l->dim), out));
            if (reuses)
                FB_TRY(claim_kept(l, block, step));
        }
        if (reuses)
            FB_TRY(claim_cache(l, block));
    }
    return FB_OK;
}

static fb_status run(video_layer *l) {
    int32_t *lines = NULL;
    fb_dims shape = FB_DIMS(l->blocks * l->steps, STEP_FIELDS);
    FB_TRY(calibrate(l));
    FB_TRY(fb_case_alloc(l->c, fb_dims_count(&shape), sizeof *lines, &lines));
    if (fb_case_has(l->c, "dense_out.b0s0"))
        FB_TRY(run_blocks(l, "dense_out", false, lines));
    FB_TRY(run_blocks(l, "out", true, lines));
    return claim_mask(l, "steps", shape, lines);
}

fb_status fb_recompute_video_attention(fb_case *c, fb_report *report) {
    video_layer l = {.c = c, .report = report};
    fb_status status = set_up(&l);
    if (status == FB_OK)
        status = run(&l);
    tear_down(&l);
    return status;
}

/* sdar_attention: the paper's attention layer over scripted blocks: projections, norms, rotary
 * positions, KV cache, refreshes and reuses, output projection. Weights and hidden states are in
 * the file that the metadata `inputs_file` names, beside this one.
 *
 * The class decides for the whole batch by its first row, and it forgets its history part after one
 * reuse. The program that made the files put the part back, as the engine does. */
#include "model/layers.h"
#include "model/linear.h"
#include "model/rope.h"
#include "oracle/kinds.h"

#include <flashblock/flashblock.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_BATCH = 64, MAX_SIZE = 1 << 16, PREFILL = 0, DENOISE, COMMIT };

/* Layer outputs of two float32 implementations, for values of magnitude 3. */
static const double tolerance = 5e-6;

typedef struct layer {
    fb_case *c, *inputs;
    fb_report *report;
    size_t batch, block, prefix, hidden, heads, kv_heads, head_dim, tau;
    double eps;
    fb_matrix q, k, v, o;
    const float *q_norm, *k_norm;
    float *inv_freq; /* [head_dim / 2] */
    fb_linear_scratch scratch;
    fb_kv_cache *kv[MAX_BATCH];
    fb_part_cache *parts[MAX_BATCH];
    size_t dirty;
} layer;

/* --- setting up ------------------------------------------------------------------------------- */

static fb_status projection(layer *l, const char *name, size_t rows, size_t columns,
                            fb_matrix *matrix) {
    const fb_tensor_view *weight = NULL;
    FB_TRY(
        fb_case_tensor(l->inputs, &weight, FB_DIMS(rows, columns), "w.self_attn.%s.weight", name));
    *matrix = (fb_matrix){.data = weight->data, .rows = rows, .columns = columns};
    FB_TRY(fb_tensor_storage(weight, &matrix->dtype));
    if (!fb_case_has(l->inputs, "w.self_attn.%s.bias", name))
        return FB_OK;
    const float *bias = NULL;
    float *copy = NULL;
    FB_TRY(fb_case_f32(l->inputs, &bias, FB_DIMS(rows), "w.self_attn.%s.bias", name));
    FB_TRY(fb_case_alloc(l->inputs, rows, sizeof *copy, &copy));
    memcpy(copy, bias, rows * sizeof *copy);
    matrix->bias = copy;
    return FB_OK;
}

static fb_status read_sizes(layer *l) {
    fb_case *c = l->c;
    FB_TRY(fb_case_size(c, "B", 1, MAX_BATCH, &l->batch));
    FB_TRY(fb_case_size(c, "L", 1, MAX_SIZE, &l->block));
    FB_TRY(fb_case_size(c, "P", 0, MAX_SIZE, &l->prefix));
    FB_TRY(fb_case_size(c, "hidden", 1, MAX_SIZE, &l->hidden));
    FB_TRY(fb_case_size(c, "num_heads", 1, 4096, &l->heads));
    FB_TRY(fb_case_size(c, "num_kv_heads", 1, 4096, &l->kv_heads));
    FB_TRY(fb_case_size(c, "head_dim", 2, 4096, &l->head_dim));
    FB_TRY(fb_case_size(c, "tau", 0, MAX_SIZE, &l->tau));
    FB_TRY(fb_case_real(c, "rms_norm_eps", &l->eps));
    if (l->head_dim % 2 != 0 || l->heads % l->kv_heads != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: %zu heads, %zu KV heads, head_dim %zu",
                       fb_case_path(c), l->heads, l->kv_heads, l->head_dim);
    return fb_case_expect_scale(c, "scale", l->head_dim);
}

static fb_status set_up(layer *l) {
    double theta = 0.0;
    const char *inputs_file = fb_case_text(l->c, "inputs_file");
    if (!inputs_file)
        return fb_fail(FB_ERROR_FORMAT, "%s: the metadata have no inputs_file", fb_case_path(l->c));
    FB_TRY(read_sizes(l));
    FB_TRY(fb_case_positive(l->c, "rope_theta", &theta));
    FB_TRY(fb_case_open_beside(l->c, inputs_file, &l->inputs));
    size_t q_width = l->heads * l->head_dim, kv_width = l->kv_heads * l->head_dim;
    FB_TRY(projection(l, "q_proj", q_width, l->hidden, &l->q));
    FB_TRY(projection(l, "k_proj", kv_width, l->hidden, &l->k));
    FB_TRY(projection(l, "v_proj", kv_width, l->hidden, &l->v));
    FB_TRY(projection(l, "o_proj", l->hidden, q_width, &l->o));
    FB_TRY(fb_case_f32(l->inputs, &l->q_norm, FB_DIMS(l->head_dim), "w.self_attn.q_norm.weight"));
    FB_TRY(fb_case_f32(l->inputs, &l->k_norm, FB_DIMS(l->head_dim), "w.self_attn.k_norm.weight"));
    FB_TRY(fb_case_alloc(l->c, l->head_dim / 2, sizeof(float), &l->inv_freq));
    fb_rope_frequencies(l->head_dim, theta, l->inv_freq);
    fb_kv_cache_config config = {1, l->kv_heads, l->head_dim, FB_F32};
    for (size_t b = 0; b < l->batch; b++) {
        FB_TRY(fb_kv_cache_create(&config, &l->kv[b]));
        FB_TRY(fb_part_cache_create(1, l->block, l->heads, l->head_dim, &l->parts[b]));
    }
    return FB_OK;
}

static void tear_down(layer *l) {
    for (size_t b = 0; b < l->batch; b++) {
        fb_kv_cache_destroy(l->kv[b]);
        fb_part_cache_destroy(l->parts[b]);
    }
    fb_linear_scratch_free(&l->scratch);
}

/* --- one call of the class -------------------------------------------------------------------- */

typedef struct layer_call {
    size_t index, num_tokens, first; /* first: position of the first token */
    bool prefill;
    fb_reuse_action action;
    const float *hidden; /* [B, num_tokens, hidden] */
    float *out;          /* [B, num_tokens, hidden] */
} layer_call;

/* Heads [num_tokens, heads, head_dim], each normalised and rotated to its position. */
static fb_status place(layer *l, const layer_call *call, float *x, size_t heads,
                       const float *weight) {
    size_t dim = l->head_dim, half = dim / 2;
    float *angles = NULL;
    FB_TRY(fb_case_alloc(l->c, dim, sizeof *angles, &angles));
    for (size_t i = 0; i < call->num_tokens; i++) {
        fb_rope_angles(l->inv_freq, half, call->first + i, angles, angles + half);
        for (size_t h = 0; h < heads; h++) {
            float *head = x + (i * heads + h) * dim;
            fb_rms_norm(head, weight, l->eps, dim, head);
            fb_rope_rotate(angles, angles + half, half, head);
        }
    }
    return FB_OK;
}

static fb_status attend(layer *l, const layer_call *call, size_t b, const fb_queries *queries,
                        const fb_part *result) {
    if (!call->prefill) {
        fb_block_call block;
        fb_block_call_init(&block);
        block.queries = queries;
        block.kv = l->kv[b];
        block.action = call->action;
        block.parts = l->parts[b];
        return fb_block_attend(&block, result);
    }
    fb_kv kv;
    FB_TRY(fb_kv_cache_layer(l->kv[b], 0, &kv));
    fb_range range = {0, call->num_tokens};
    fb_view view = {&kv, &range, 1};
    fb_mask mask = {FB_MASK_BLOCK_CAUSAL, l->block, 0, 0};
    return fb_attend(queries, &view, &mask, 0.0f, result);
}

/* One batch row: hidden states in, layer output out. */
static fb_status run_row(layer *l, const layer_call *call, size_t b) {
    size_t n = call->num_tokens, q_width = l->heads * l->head_dim,
           kv_width = l->kv_heads * l->head_dim;
    float *q = NULL, *k = NULL, *v = NULL, *attended = NULL, *lse = NULL;
    FB_TRY(fb_case_alloc(l->c, n * q_width, sizeof *q, &q));
    FB_TRY(fb_case_alloc(l->c, n * kv_width, sizeof *k, &k));
    FB_TRY(fb_case_alloc(l->c, n * kv_width, sizeof *v, &v));
    FB_TRY(fb_case_alloc(l->c, n * q_width, sizeof *attended, &attended));
    FB_TRY(fb_case_alloc(l->c, n * l->heads, sizeof *lse, &lse));
    if (n == 0)
        return FB_OK;
    fb_linear_input input = {call->hidden + b * n * l->hidden, n};
    fb_linear_output qkv[] = {{&l->q, q}, {&l->k, k}, {&l->v, v}};
    FB_TRY(fb_linear(&l->scratch, &input, qkv, 3));
    FB_TRY(place(l, call, q, l->heads, l->q_norm));
    FB_TRY(place(l, call, k, l->kv_heads, l->k_norm));
    FB_TRY(fb_kv_cache_write(l->kv[b], 0, call->first, n, k, v));
    fb_queries queries = fb_queries_rows(q, n, l->heads, l->head_dim);
    fb_part result = fb_part_rows(attended, lse, l->heads, l->head_dim);
    FB_TRY(attend(l, call, b, &queries, &result));
    fb_linear_input merged = {attended, n};
    fb_linear_output out = {&l->o, call->out + b * n * l->hidden};
    return fb_linear(&l->scratch, &merged, &out, 1);
}

/* --- claims ----------------------------------------------------------------------------------- */

static fb_status claim(layer *l, const char *tensor, fb_dims shape, const float *ours) {
    fb_claim claim = {.tensor = tensor,
                      .shape = shape,
                      .ours = ours,
                      .rule = FB_BOUND_ABSOLUTE,
                      .tolerance = tolerance};
    FB_TRY(fb_case_f32(l->c, &claim.file, shape, "%s", tensor));
    return fb_report_claim(l->report, &claim);
}

/* callNN.past_out, callNN.past_lse: the part that a refresh keeps. Without a history the LSE of the
 * class is +inf: such a part is left out. */
static fb_status claim_part(layer *l, const layer_call *call) {
    char name[64];
    snprintf(name, sizeof name, "call%02zu.past_out", call->index);
    if (call->first == 0 || call->action != FB_REFRESH_AND_STORE || !fb_case_has(l->c, "%s", name))
        return FB_OK;
    size_t rows = call->num_tokens * l->heads, values = rows * l->head_dim;
    float *out = NULL, *lse = NULL;
    FB_TRY(fb_case_alloc(l->c, l->batch * values, sizeof *out, &out));
    FB_TRY(fb_case_alloc(l->c, l->batch * rows, sizeof *lse, &lse));
    for (size_t b = 0; b < l->batch; b++) {
        fb_part part;
        FB_TRY(fb_part_cache_load(l->parts[b], 0, l->kv[b], FB_COMPAT_PAPER, &part));
        memcpy(out + b * values, part.out, values * sizeof *out);
        memcpy(lse + b * rows, part.lse, rows * sizeof *lse);
    }
    FB_TRY(claim(l, name, FB_DIMS(l->batch, call->num_tokens, l->heads, l->head_dim), out));
    snprintf(name, sizeof name, "call%02zu.past_lse", call->index);
    return claim(l, name, FB_DIMS(l->batch, call->num_tokens, l->heads, 1), lse);
}

/* kv.k, kv.v  [B, kv_heads, S, head_dim] of the committed tokens. */
static fb_status claim_kv(layer *l) {
    size_t tokens = fb_kv_cache_length(l->kv[0]), dim = l->head_dim, heads = l->kv_heads;
    size_t values = tokens * heads * dim;
    float *read[2], *turned[2];
    for (size_t i = 0; i < 2; i++) {
        FB_TRY(fb_case_alloc(l->c, values, sizeof(float), &read[i]));
        FB_TRY(fb_case_alloc(l->c, l->batch * values, sizeof(float), &turned[i]));
    }
    for (size_t b = 0; b < l->batch; b++) {
        FB_TRY(fb_kv_cache_read(l->kv[b], 0, 0, tokens, read[0], read[1]));
        for (size_t i = 0; i < 2 * tokens * heads; i++) {
            size_t which = i % 2, token = i / 2 % tokens, head = i / 2 / tokens;
            memcpy(turned[which] + ((b * heads + head) * tokens + token) * dim,
                   read[which] + (token * heads + head) * dim, dim * sizeof(float));
        }
    }
    fb_dims shape = FB_DIMS(l->batch, heads, tokens, dim);
    FB_TRY(claim(l, "kv.k", shape, turned[0]));
    return claim(l, "kv.v", shape, turned[1]);
}

/* --- the script ------------------------------------------------------------------------------- */

/* A line of `calls`: kind, block, step, need_update (-1: no decision), dirty tokens before. */
enum { KIND = 0, BLOCK, STEP, NEED_UPDATE, DIRTY, LINE };

static fb_status hidden_of(layer *l, const int32_t *line, const layer_call *call,
                           const float **hidden) {
    fb_dims shape = FB_DIMS(l->batch, call->num_tokens, l->hidden);
    if (line[KIND] == PREFILL)
        return fb_case_f32(l->inputs, hidden, shape, "hidden.prefill");
    if (line[KIND] == COMMIT)
        return fb_case_f32(l->inputs, hidden, shape, "hidden.b%dcommit", (int)line[BLOCK]);
    return fb_case_f32(l->inputs, hidden, shape, "hidden.b%ds%d", (int)line[BLOCK],
                       (int)line[STEP]);
}

/* Decides by the rule, notes the decision that the class should have made, counts dirty tokens. */
static fb_status decide(layer *l, const int32_t *line, int32_t *decided, fb_reuse_action *action) {
    memcpy(decided, line, LINE * sizeof *decided);
    *action = FB_REFRESH_ONLY;
    if (line[KIND] != DENOISE)
        return FB_OK;
    if (line[STEP] == 0)
        l->dirty = 0;
    fb_reuse_policy policy = {.tau = l->tau};
    fb_reuse_step step = {.denoising_step = (size_t)line[STEP],
                          .denoising_steps = SIZE_MAX,
                          .dirty_tokens = l->dirty,
                          .masked_tokens = SIZE_MAX,
                          .budget = 1};
    *action = fb_reuse_decide(&policy, &step);
    decided[DIRTY] = (int32_t)l->dirty;
    if (line[NEED_UPDATE] >= 0)
        decided[NEED_UPDATE] = *action != FB_REUSE;
    if (*action != FB_REUSE)
        l->dirty = 0;
    const fb_json *accepted = NULL;
    FB_TRY(fb_case_array(l->c, "accepted", &accepted));
    const fb_json *block = fb_json_array_get(accepted, (size_t)line[BLOCK]);
    const fb_json *positions = fb_json_array_get(block, (size_t)line[STEP]);
    if (!fb_json_is_array(positions))
        return fb_fail(FB_ERROR_FORMAT, "%s: params.accepted has no array for step %d of block %d",
                       fb_case_path(l->c), (int)line[STEP], (int)line[BLOCK]);
    l->dirty += fb_json_array_size(positions);
    return FB_OK;
}

static fb_status run_line(layer *l, size_t index, const int32_t *line, int32_t *decided) {
    bool denoises = line[KIND] == DENOISE;
    if (line[KIND] < PREFILL || line[KIND] > COMMIT || (denoises && line[BLOCK] < 0) ||
        (denoises && line[STEP] < 0))
        return fb_fail(FB_ERROR_FORMAT, "%s: calls[%zu] is malformed", fb_case_path(l->c), index);
    layer_call call = {.index = index, .prefill = line[KIND] == PREFILL};
    call.num_tokens = call.prefill ? l->prefix : l->block;
    call.first = fb_kv_cache_length(l->kv[0]);
    FB_TRY(decide(l, line, decided, &call.action));
    FB_TRY(hidden_of(l, line, &call, &call.hidden));
    FB_TRY(fb_case_alloc(l->c, l->batch * call.num_tokens * l->hidden, sizeof(float), &call.out));
    for (size_t b = 0; b < l->batch; b++)
        FB_TRY(run_row(l, &call, b));
    char name[64];
    snprintf(name, sizeof name, "call%02zu.out", index);
    FB_TRY(claim(l, name, FB_DIMS(l->batch, call.num_tokens, l->hidden), call.out));
    FB_TRY(claim_part(l, &call));
    for (size_t b = 0; b < l->batch && line[KIND] != DENOISE; b++)
        FB_TRY(fb_kv_cache_commit(l->kv[b], call.num_tokens));
    return FB_OK;
}

static fb_status run_script(layer *l) {
    const fb_tensor_view *tensor = NULL;
    const int32_t *calls = NULL;
    int32_t *decided = NULL;
    FB_TRY(fb_safetensors_get(fb_case_file(l->c), "calls", &tensor));
    fb_dims shape = FB_DIMS(tensor->ndim == 2 ? tensor->shape[0] : 0, LINE);
    FB_TRY(fb_case_i32(l->c, &calls, shape, "calls"));
    FB_TRY(fb_case_alloc(l->c, fb_dims_count(&shape), sizeof *decided, &decided));
    for (size_t i = 0; i < shape.sizes[0]; i++)
        FB_TRY(run_line(l, i, calls + i * LINE, decided + i * LINE));
    FB_TRY(fb_report_decisions(l->report, "calls", shape, decided, calls));
    return claim_kv(l);
}

fb_status fb_recompute_sdar_attention(fb_case *c, fb_report *report) {
    layer l = {.c = c, .report = report};
    fb_status status = set_up(&l);
    if (status == FB_OK)
        status = run_script(&l);
    tear_down(&l);
    return status;
}

/* model_forward: forward passes of a model by its own published code: the layers' results, a
 * router's choices, logits, keys and values. */
#include "model/model_config.h"
#include "oracle/case_model.h"
#include "oracle/kinds.h"

#include <stdio.h>
#include <string.h>

static const double logits_tolerance = 5e-5, hidden_tolerance = 2e-5, kv_tolerance = 1e-5,
                    weight_tolerance = 2e-6;

typedef struct forward_run {
    fb_case *c;
    fb_report *report;
    fb_model *model;
    const fb_model_config *config;
    fb_kv_cache *kv;
    size_t context, block, shift;
} forward_run;

/* What one pass gave. */
typedef struct forward_result {
    forward_run *r;
    size_t num_tokens;
    float *logits;         /* [num_tokens, vocab_size] */
    float *inputs;         /* [num_hidden_layers + 1, num_tokens, hidden_size] of each layer */
    float *hidden;         /* [num_hidden_layers, num_tokens, hidden_size] after each layer */
    float *sublayers[2];   /* as hidden: of attention, of MLPs */
    float *router_logits;  /* [num_hidden_layers, num_tokens, num_experts] */
    int32_t *experts;      /* [num_hidden_layers, num_tokens, num_experts_per_tok] */
    float *expert_weights; /* as experts */
} forward_result;

static fb_status allocate(forward_run *r, size_t num_tokens, forward_result *result) {
    const fb_model_config *config = r->config;
    size_t rows = config->num_hidden_layers * num_tokens, hidden = rows * config->hidden_size;
    size_t chosen = rows * config->num_experts_per_tok;
    *result = (forward_result){.r = r, .num_tokens = num_tokens};
    FB_TRY(fb_case_alloc(r->c, num_tokens * config->vocab_size, sizeof(float), &result->logits));
    FB_TRY(fb_case_alloc(r->c, hidden, sizeof(float), &result->hidden));
    for (size_t i = 0; i < 2; i++)
        FB_TRY(fb_case_alloc(r->c, hidden, sizeof(float), &result->sublayers[i]));
    FB_TRY(
        fb_case_alloc(r->c, rows * config->num_experts + 1, sizeof(float), &result->router_logits));
    FB_TRY(fb_case_alloc(r->c, chosen + 1, sizeof(int32_t), &result->experts));
    return fb_case_alloc(r->c, chosen + 1, sizeof(float), &result->expert_weights);
}

/* A row's experts in ascending order, with their weights: the order of equal scores is nobody's. */
static void sort_experts(size_t count, int32_t *experts, float *weights) {
    for (size_t i = 1; i < count; i++) {
        int32_t expert = experts[i];
        float weight = weights[i];
        size_t j = i;
        for (; j > 0 && experts[j - 1] > expert; j--) {
            experts[j] = experts[j - 1];
            weights[j] = weights[j - 1];
        }
        experts[j] = expert;
        weights[j] = weight;
    }
}

static void take_sublayer(void *user, const fb_sublayer_event *event) {
    forward_result *result = user;
    const fb_model_config *config = result->r->config;
    size_t rows = result->num_tokens, values = rows * config->hidden_size;
    size_t experts = config->num_experts, chosen = config->num_experts_per_tok;
    memcpy(result->sublayers[event->mlp] + event->layer * values, event->result,
           values * sizeof(float));
    if (!event->experts)
        return;
    memcpy(result->router_logits + event->layer * rows * experts, event->router_logits,
           rows * experts * sizeof(float));
    int32_t *to = result->experts + event->layer * rows * chosen;
    float *weights = result->expert_weights + event->layer * rows * chosen;
    memcpy(to, event->experts, rows * chosen * sizeof *to);
    memcpy(weights, event->expert_weights, rows * chosen * sizeof *weights);
    for (size_t row = 0; row < rows; row++)
        sort_experts(chosen, to + row * chosen, weights + row * chosen);
}

/* Runs the tokens. The residual stream after each layer is the one before plus its sublayers. */
static fb_status forward(forward_run *r, const int32_t *tokens, size_t num_tokens, bool prefill,
                         forward_result *result) {
    size_t values = num_tokens * r->config->hidden_size, layers = r->config->num_hidden_layers;
    FB_TRY(allocate(r, num_tokens, result));
    FB_TRY(fb_case_alloc(r->c, (layers + 1) * values, sizeof(float), &result->inputs));
    fb_forward pass;
    fb_forward_init(&pass);
    pass.tokens = tokens;
    pass.num_tokens = num_tokens;
    pass.kv = r->kv;
    pass.prefill_block = prefill ? r->block : 0;
    pass.prefill_shift = prefill ? r->shift : 0;
    pass.action = FB_REFRESH_ONLY;
    pass.logits = result->logits;
    pass.hidden = result->inputs;
    pass.on_sublayer = take_sublayer;
    pass.user = result;
    FB_TRY(fb_model_forward(r->model, &pass, 1, NULL));
    for (size_t i = 0; i < layers * values; i++)
        result->hidden[i] = (result->inputs[i] + result->sublayers[0][i]) + result->sublayers[1][i];
    return FB_OK;
}

/* --- claims ----------------------------------------------------------------------------------- */

static fb_status claim(forward_run *r, const char *tensor, fb_dims shape, const float *ours,
                       double tolerance) {
    fb_claim claim = {.tensor = tensor,
                      .shape = shape,
                      .ours = ours,
                      .rule = FB_BOUND_ABSOLUTE,
                      .tolerance = tolerance};
    if (!fb_case_has(r->c, "%s", tensor))
        return FB_OK;
    FB_TRY(fb_case_f32(r->c, &claim.file, shape, "%s", tensor));
    return fb_report_claim(r->report, &claim);
}

/* Claims `prefix``name`.`layer`, or without a layer for SIZE_MAX. */
static fb_status claim_named(forward_run *r, const char *prefix, const char *name, size_t layer,
                             fb_dims shape, const float *ours, double tolerance) {
    char tensor[96];
    if (layer == SIZE_MAX)
        snprintf(tensor, sizeof tensor, "%s%s", prefix, name);
    else
        snprintf(tensor, sizeof tensor, "%s%s.%zu", prefix, name, layer);
    return claim(r, tensor, shape, ours, tolerance);
}

static fb_status claim_router(const forward_result *result, size_t layer) {
    forward_run *r = result->r;
    const fb_model_config *config = r->config;
    size_t rows = result->num_tokens, chosen = config->num_experts_per_tok;
    fb_dims shape = FB_DIMS(rows, chosen);
    char name[64];
    const int32_t *file_index = NULL;
    const float *file_weight = NULL;
    int32_t *index = NULL;
    float *weight = NULL;
    if (!fb_case_has(r->c, "router_index.%zu", layer))
        return FB_OK;
    if (!fb_model_config_is_mixture(config, layer))
        return fb_fail(FB_ERROR_FORMAT, "%s: router_index.%zu of a dense layer", fb_case_path(r->c),
                       layer);
    FB_TRY(fb_case_i32(r->c, &file_index, shape, "router_index.%zu", layer));
    FB_TRY(fb_case_f32(r->c, &file_weight, shape, "router_weight.%zu", layer));
    FB_TRY(fb_case_alloc(r->c, rows * chosen, sizeof *index, &index));
    FB_TRY(fb_case_alloc(r->c, rows * chosen, sizeof *weight, &weight));
    memcpy(index, file_index, rows * chosen * sizeof *index);
    memcpy(weight, file_weight, rows * chosen * sizeof *weight);
    for (size_t row = 0; row < rows; row++)
        sort_experts(chosen, index + row * chosen, weight + row * chosen);
    FB_TRY(claim_named(r, "", "router_logits", layer, FB_DIMS(rows, config->num_experts),
                       result->router_logits + layer * rows * config->num_experts,
                       hidden_tolerance));
    snprintf(name, sizeof name, "router_index.%zu", layer);
    FB_TRY(fb_report_decisions(r->report, name, shape, result->experts + layer * rows * chosen,
                               index));
    snprintf(name, sizeof name, "router_weight.%zu", layer);
    fb_claim claim = {.tensor = name,
                      .shape = shape,
                      .ours = result->expert_weights + layer * rows * chosen,
                      .file = weight,
                      .rule = FB_BOUND_ABSOLUTE,
                      .tolerance = weight_tolerance};
    return fb_report_claim(r->report, &claim);
}

/* All that a pass can be compared in. */
static fb_status claim_pass(const forward_result *result, const char *prefix, bool routers) {
    forward_run *r = result->r;
    size_t rows = result->num_tokens, values = rows * r->config->hidden_size;
    fb_dims shape = FB_DIMS(rows, r->config->hidden_size);
    for (size_t i = 0; i < r->config->num_hidden_layers; i++) {
        FB_TRY(claim_named(r, prefix, "attention_out", i, shape, result->sublayers[0] + i * values,
                           hidden_tolerance));
        FB_TRY(claim_named(r, prefix, "mlp_out", i, shape, result->sublayers[1] + i * values,
                           hidden_tolerance));
        FB_TRY(claim_named(r, prefix, "hidden", i, shape, result->hidden + i * values,
                           hidden_tolerance));
        if (routers)
            FB_TRY(claim_router(result, i));
    }
    return claim_named(r, prefix, "logits", SIZE_MAX, FB_DIMS(rows, r->config->vocab_size),
                       result->logits, logits_tolerance);
}

/* kv.k, kv.v  [layers, kv_heads, tokens, head_dim] */
static fb_status claim_kv(forward_run *r) {
    const fb_tensor_view *tensor = NULL;
    size_t heads = r->config->num_key_value_heads, dim = r->config->head_dim;
    size_t layers = r->config->num_hidden_layers;
    if (!fb_case_has(r->c, "kv.k"))
        return FB_OK;
    FB_TRY(fb_safetensors_get(fb_case_file(r->c), "kv.k", &tensor));
    size_t tokens = tensor->ndim == 4 ? tensor->shape[2] : 0;
    if (tokens == 0 || tokens > fb_kv_cache_length(r->kv))
        return fb_fail(FB_ERROR_FORMAT, "%s: kv.k has %zu tokens, the passes have %zu",
                       fb_case_path(r->c), tokens, fb_kv_cache_length(r->kv));
    fb_dims shape = FB_DIMS(layers, heads, tokens, dim);
    float *read[2], *turned[2];
    for (size_t i = 0; i < 2; i++) {
        FB_TRY(fb_case_alloc(r->c, tokens * heads * dim, sizeof(float), &read[i]));
        FB_TRY(fb_case_alloc(r->c, layers * tokens * heads * dim, sizeof(float), &turned[i]));
    }
    for (size_t layer = 0; layer < layers; layer++) {
        FB_TRY(fb_kv_cache_read(r->kv, layer, 0, tokens, read[0], read[1]));
        for (size_t i = 0; i < 2 * heads * tokens; i++) {
            size_t which = i % 2, token = i / 2 % tokens, head = i / 2 / tokens;
            memcpy(turned[which] + ((layer * heads + head) * tokens + token) * dim,
                   read[which] + (token * heads + head) * dim, dim * sizeof(float));
        }
    }
    FB_TRY(claim(r, "kv.k", shape, turned[0], kv_tolerance));
    return claim(r, "kv.v", shape, turned[1], kv_tolerance);
}

/* --- passes ----------------------------------------------------------------------------------- */

/* Context and block in one prefill. */
static fb_status check_whole(forward_run *r, const int32_t *ids) {
    forward_result result;
    size_t tokens = r->context + r->block;
    FB_TRY(forward(r, ids, tokens, true, &result));
    FB_TRY(claim(r, "embedding", FB_DIMS(tokens, r->config->hidden_size), result.inputs, 0.0));
    return claim_pass(&result, "", true);
}

/* The context, then the block over its keys and values. */
static fb_status check_cached(forward_run *r, const int32_t *ids, const int32_t *block_ids) {
    forward_result prefill, block;
    FB_TRY(forward(r, ids, r->context, true, &prefill));
    if (fb_case_has(r->c, "prefill_logits"))
        FB_TRY(claim_pass(&prefill, "prefill_", true));
    FB_TRY(fb_kv_cache_commit(r->kv, r->context));
    FB_TRY(forward(r, block_ids, r->block, false, &block));
    FB_TRY(claim_pass(&block, "block_", false));
    FB_TRY(claim_pass(&block, "cached_block_", false));
    FB_TRY(fb_kv_cache_commit(r->kv, r->block));
    return claim_kv(r);
}

static fb_status run(forward_run *r) {
    const int32_t *ids = NULL, *block_ids = NULL;
    FB_TRY(fb_case_size(r->c, "context", 1, 1 << 20, &r->context));
    FB_TRY(fb_case_size(r->c, "block", 1, 1 << 12, &r->block));
    FB_TRY(fb_case_size_or(r->c, "left_pad", 0, r->block - 1, 0, &r->shift));
    bool apart = fb_case_has(r->c, "block_ids");
    FB_TRY(fb_case_i32(r->c, &ids, FB_DIMS(r->context + (apart ? 0 : r->block)), "ids"));
    if (apart)
        FB_TRY(fb_case_i32(r->c, &block_ids, FB_DIMS(r->block), "block_ids"));
    FB_TRY(fb_case_load_model(r->c, &r->model));
    r->config = fb_model_config_of(r->model);
    FB_TRY(fb_model_new_kv_cache(r->model, FB_F32, &r->kv));
    if (fb_case_has(r->c, "logits"))
        FB_TRY(check_whole(r, ids));
    return check_cached(r, ids, apart ? block_ids : ids + r->context);
}

fb_status fb_recompute_model_forward(fb_case *c, fb_report *report) {
    forward_run r = {.c = c, .report = report};
    fb_status status = run(&r);
    fb_kv_cache_destroy(r.kv);
    fb_model_destroy(r.model);
    return status;
}

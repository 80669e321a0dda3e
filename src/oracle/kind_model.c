/* model_logits: the prefill of a model, the steps of one block (dense, refreshed, reused), and its
 * commit. */
#include "oracle/case_model.h"
#include "oracle/kinds.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* For logits of standard deviation 4.5; hidden states, keys and parts of magnitude 10. */
static const double logits_tolerance = 3e-4, hidden_tolerance = 5e-5;

typedef struct logits_run {
    fb_case *c;
    fb_report *report;
    fb_model *model;
    const fb_model_config *config;
    fb_kv_cache *kv;
    fb_part_cache *parts;
    size_t prompt, block; /* tokens */
} logits_run;

static fb_status claim(logits_run *r, const char *tensor, fb_dims shape, const float *ours,
                       double tolerance) {
    fb_claim claim = {.tensor = tensor,
                      .shape = shape,
                      .ours = ours,
                      .rule = FB_BOUND_ABSOLUTE,
                      .tolerance = tolerance};
    FB_TRY(fb_case_f32(r->c, &claim.file, shape, "%s", tensor));
    return fb_report_claim(r->report, &claim);
}

/* Runs tokens `name` and claims the logits. hidden may be NULL. */
static fb_status forward(logits_run *r, const char *tokens_name, size_t num_tokens, bool prefill,
                         fb_reuse_action action, const char *logits_name, float *hidden) {
    const int32_t *tokens = NULL;
    float *logits = NULL;
    FB_TRY(fb_case_i32(r->c, &tokens, FB_DIMS(1, num_tokens), "%s", tokens_name));
    FB_TRY(fb_case_alloc(r->c, num_tokens * r->config->vocab_size, sizeof *logits, &logits));
    fb_forward pass = {.struct_size = sizeof(fb_forward),
                       .tokens = tokens,
                       .num_tokens = num_tokens,
                       .kv = r->kv,
                       .prefill_block = prefill ? r->block : 0,
                       .action = action,
                       .parts = r->parts,
                       .logits = logits,
                       .hidden = hidden};
    FB_TRY(fb_model_forward(r->model, &pass, 1, NULL));
    return claim(r, logits_name, FB_DIMS(1, num_tokens, r->config->vocab_size), logits,
                 logits_tolerance);
}

static fb_status check_prefill(logits_run *r) {
    size_t layers = r->config->num_hidden_layers, values = r->prompt * r->config->hidden_size;
    float *hidden = NULL;
    FB_TRY(fb_case_alloc(r->c, (layers + 1) * values, sizeof *hidden, &hidden));
    FB_TRY(forward(r, "prompt", r->prompt, true, FB_REFRESH_ONLY, "prefill_logits", hidden));
    for (size_t i = 0; i <= layers; i++) {
        char name[64];
        snprintf(name, sizeof name, "prefill_hidden.%zu", i);
        FB_TRY(claim(r, name, FB_DIMS(1, r->prompt, r->config->hidden_size), hidden + i * values,
                     hidden_tolerance));
    }
    return fb_kv_cache_commit(r->kv, r->prompt);
}

/* hist_out [layers, 1, L, heads, head_dim], hist_lse [layers, 1, L, heads, 1] */
static fb_status check_parts(logits_run *r) {
    size_t layers = r->config->num_hidden_layers, heads = r->config->num_attention_heads;
    size_t rows = r->block * heads, dim = r->config->head_dim;
    float *out = NULL, *lse = NULL;
    FB_TRY(fb_case_alloc(r->c, layers * rows * dim, sizeof *out, &out));
    FB_TRY(fb_case_alloc(r->c, layers * rows, sizeof *lse, &lse));
    for (size_t i = 0; i < layers; i++) {
        fb_part part;
        FB_TRY(fb_part_cache_load(r->parts, i, r->kv, FB_COMPAT_PAPER, &part));
        memcpy(out + i * rows * dim, part.out, rows * dim * sizeof *out);
        memcpy(lse + i * rows, part.lse, rows * sizeof *lse);
    }
    FB_TRY(claim(r, "hist_out", FB_DIMS(layers, 1, r->block, heads, dim), out, hidden_tolerance));
    return claim(r, "hist_lse", FB_DIMS(layers, 1, r->block, heads, 1), lse, hidden_tolerance);
}

/* A step: dense first, then with a refresh (the first step) or a reuse. */
static fb_status check_step(logits_run *r, size_t step) {
    char tokens[64], name[64];
    snprintf(tokens, sizeof tokens, "step%zu.tokens", step);
    snprintf(name, sizeof name, "step%zu.logits_dense", step);
    FB_TRY(forward(r, tokens, r->block, false, FB_REFRESH_ONLY, name, NULL));
    snprintf(name, sizeof name, "step%zu.logits_%s", step, step == 0 ? "refresh" : "reuse");
    FB_TRY(forward(r, tokens, r->block, false, step == 0 ? FB_REFRESH_AND_STORE : FB_REUSE, name,
                   NULL));
    return step == 0 ? check_parts(r) : FB_OK;
}

/* kv.k, kv.v  [layers, kv_heads, P + L, head_dim] */
static fb_status check_kv(logits_run *r) {
    size_t tokens = r->prompt + r->block, heads = r->config->num_key_value_heads;
    size_t dim = r->config->head_dim, layers = r->config->num_hidden_layers;
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
    fb_dims shape = FB_DIMS(layers, heads, tokens, dim);
    FB_TRY(claim(r, "kv.k", shape, turned[0], hidden_tolerance));
    return claim(r, "kv.v", shape, turned[1], hidden_tolerance);
}

/* The file has as many tokens as its parameters say, before memory is taken for them. */
static fb_status read_sizes(logits_run *r) {
    const int32_t *tokens = NULL;
    FB_TRY(fb_case_size(r->c, "P", 1, 1 << 20, &r->prompt));
    FB_TRY(fb_case_size(r->c, "L", 1, 1 << 16, &r->block));
    FB_TRY(fb_case_i32(r->c, &tokens, FB_DIMS(1, r->prompt), "prompt"));
    return fb_case_i32(r->c, &tokens, FB_DIMS(1, r->block), "block_tokens");
}

static fb_status run(logits_run *r) {
    FB_TRY(read_sizes(r));
    FB_TRY(fb_case_load_model(r->c, &r->model));
    r->config = fb_model_config_of(r->model);
    FB_TRY(fb_model_new_kv_cache(r->model, FB_F32, &r->kv));
    FB_TRY(fb_model_new_part_cache(r->model, r->block, &r->parts));
    FB_TRY(check_prefill(r));
    for (size_t step = 0; fb_case_has(r->c, "step%zu.tokens", step); step++)
        FB_TRY(check_step(r, step));
    FB_TRY(forward(r, "block_tokens", r->block, false, FB_REFRESH_ONLY, "commit_logits", NULL));
    FB_TRY(fb_kv_cache_commit(r->kv, r->block));
    return check_kv(r);
}

fb_status fb_recompute_model_logits(fb_case *c, fb_report *report) {
    logits_run r = {.c = c, .report = report};
    fb_status status = run(&r);
    fb_part_cache_destroy(r.parts);
    fb_kv_cache_destroy(r.kv);
    fb_model_destroy(r.model);
    return status;
}

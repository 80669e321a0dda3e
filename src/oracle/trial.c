#include "oracle/trial.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/truth_cache.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

fb_status fb_trial_take(fb_trial *trial, size_t count, size_t size, void *result) {
    void **grown = NULL, *block = NULL;
    FB_TRY(fb_alloc(trial->num_memory + 1, sizeof *grown, "trial", &grown));
    fb_status status = fb_alloc_zeroed(count ? count : 1, size, "trial", &block);
    if (status != FB_OK) {
        fb_free(grown);
        return status;
    }
    if (trial->num_memory)
        memcpy(grown, trial->memory, trial->num_memory * sizeof *grown);
    fb_free(trial->memory);
    trial->memory = grown;
    trial->memory[trial->num_memory++] = block;
    memcpy(result, &block, sizeof block);
    return FB_OK;
}

void fb_trial_free(fb_trial *trial) {
    if (!trial)
        return;
    for (size_t i = 0; i < trial->num_parts; i++) {
        fb_moments_free(&trial->parts[i].m);
        fb_free(trial->parts[i].queries);
    }
    if (trial->truths)
        fb_truth_cache_release(trial->truths);
    for (size_t i = 0; i < trial->num_inputs; i++)
        fb_free(trial->inputs[i].rounded);
    for (size_t i = 0; i < trial->num_memory; i++)
        fb_free(trial->memory[i]);
    fb_free(trial->memory);
    fb_free(trial);
}

bool fb_trial_uses(const fb_trial *trial, size_t part, unsigned which) {
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if ((t->value || t->aside) && (((which & FB_EXTERNAL) && t->external == part) ||
                                       ((which & FB_INTERNAL) && t->internal == part)))
            return true;
    }
    return false;
}

bool fb_trial_has_merges(const fb_trial *trial) {
    for (size_t i = 0; i < trial->num_tensors; i++)
        if (trial->tensors[i].value && trial->tensors[i].internal != FB_NO_PART)
            return true;
    return false;
}

/* --- building --------------------------------------------------------------------------------- */

static fb_status begin(size_t parts, size_t tensors, const fb_attention_problem *shape,
                       fb_trial **trial) {
    FB_TRY(fb_alloc_zeroed(1, sizeof **trial, "trial", trial));
    fb_trial *t = *trial;
    t->batch = shape->batch;
    t->tokens = shape->queries;
    t->heads = shape->heads;
    t->dim = shape->head_dim;
    t->rows = shape->batch * shape->queries * shape->heads;
    FB_TRY(fb_trial_take(t, parts, sizeof *t->parts, &t->parts));
    FB_TRY(fb_trial_take(t, 2 * parts * FB_NUM_ROUNDINGS, sizeof *t->inputs, &t->inputs));
    return fb_trial_take(t, tensors, sizeof *t->tensors, &t->tensors);
}

/* A candidate's values in the order of the rows. */
static fb_status read_values(fb_trial *trial, fb_trial_tensor *t) {
    float *values = NULL;
    FB_TRY(fb_trial_take(trial, t->count, sizeof *t->value, &t->value));
    FB_TRY(fb_alloc(t->count, sizeof *values, "candidate", &values));
    fb_status status = fb_tensor_read_f32(t->view, 0, t->count, values);
    for (size_t i = 0; i < t->count && status == FB_OK; i++) {
        size_t b = i / (trial->tokens * trial->heads), token = i / trial->heads % trial->tokens;
        size_t from =
            t->by_head ? (b * trial->heads + i % trial->heads) * trial->tokens + token : i;
        t->value[i] = (double)values[from];
    }
    fb_free(values);
    return status;
}

static fb_status add_tensor(fb_trial *trial, fb_trial_tensor tensor, fb_candidate *candidate) {
    fb_trial_tensor *t = &trial->tensors[trial->num_tensors++];
    *t = tensor;
    t->count = tensor.lse ? trial->rows : trial->rows * trial->dim;
    const fb_tensor_view *view = fb_candidate_find(candidate, tensor.name);
    if (!view)
        return FB_OK;
    t->view = view;
    t->stored = fb_tensor_precision(view);
    t->wrong_size = view->count != t->count;
    return t->wrong_size ? FB_OK : read_values(trial, t);
}

static fb_status build_attention(fb_trial *t, const fb_attention_problem *problem,
                                 const char *out_name, const char *lse_name,
                                 fb_candidate *candidate) {
    t->parts[0].right = *problem;
    t->num_parts = 1;
    fb_trial_tensor out = {
        .required = true,
        .internal = FB_NO_PART,
        .shape = FB_DIMS(problem->batch, problem->queries, problem->heads, problem->head_dim),
    };
    snprintf(out.name, sizeof out.name, "%s", out_name);
    FB_TRY(add_tensor(t, out, candidate));
    fb_trial_tensor lse = {.lse = true, .internal = FB_NO_PART, .by_head = !problem->lse_by_token};
    lse.shape = lse.by_head ? FB_DIMS(problem->batch, problem->heads, problem->queries)
                            : FB_DIMS(problem->batch, problem->queries, problem->heads);
    snprintf(lse.name, sizeof lse.name, "%s", lse_name);
    return add_tensor(t, lse, candidate);
}

fb_status fb_trial_of_attention(const fb_attention_problem *problem, const char *out_name,
                                const char *lse_name, fb_candidate *candidate, fb_trial **trial) {
    *trial = NULL;
    fb_status status = begin(1, 2, problem, trial);
    if (status == FB_OK)
        status = build_attention(*trial, problem, out_name, lse_name, candidate);
    if (status != FB_OK) {
        fb_trial_free(*trial);
        *trial = NULL;
    }
    return status;
}

static fb_attention_problem problem_of(const fb_script *s, const float *q, const float *k,
                                       const float *v, size_t keys) {
    const fb_script_config *c = &s->config;
    return (fb_attention_problem){.batch = 1,
                                  .queries = c->block_size,
                                  .keys = keys,
                                  .heads = c->num_heads,
                                  .kv_heads = c->num_kv_heads,
                                  .head_dim = c->head_dim,
                                  .scale = c->scale,
                                  .q = q,
                                  .k = k,
                                  .v = v,
                                  .lse_by_token = true};
}

/* The external part of a pass' own queries, and its internal part. The external part is that of the
 * pass if it refreshes. For a pass that reuses it is only needed for mistakes. */
static void add_parts(fb_trial *t, size_t pass) {
    const fb_script *s = t->script;
    const fb_script_pass *p = &s->passes[pass];
    const float *q = p->source == pass ? p->external_q : p->q;
    t->external_of[pass] = t->num_parts;
    t->parts[t->num_parts++].right =
        problem_of(s, q, s->k_context, s->v_context, s->config.context_length);
    t->internal_of[pass] = t->num_parts;
    t->parts[t->num_parts++].right = problem_of(s, p->q, p->k, p->v, s->config.block_size);
}

static fb_status add_pass(fb_trial *t, size_t pass, fb_candidate *candidate) {
    const fb_script *s = t->script;
    const fb_script_config *c = &s->config;
    const fb_script_pass *p = &s->passes[pass];
    fb_dims out = FB_DIMS(c->block_size, c->num_heads, c->head_dim);
    fb_dims lse = FB_DIMS(c->block_size, c->num_heads);
    double *shift = NULL;
    if (c->correction && p->q != s->passes[p->source].external_q) {
        FB_TRY(fb_trial_take(t, t->rows, sizeof *shift, &shift));
        FB_TRY(fb_script_corrections(s, p->q, s->passes[p->source].external_q, shift));
    }
    for (size_t kind = 0; kind < 4; kind++) {
        static const char *const names[] = {"out", "lse", "external_out", "external_lse"};
        if (kind >= 2 && !fb_script_stores(p))
            break;
        fb_trial_tensor made = {
            .lse = kind % 2 == 1,
            .required = kind == 0,
            .pass = pass,
            .external = t->external_of[p->source],
            .internal = kind < 2 ? t->internal_of[pass] : FB_NO_PART,
            .shift = kind < 2 ? shift : NULL,
            .shape = kind % 2 ? lse : out,
        };
        snprintf(made.name, sizeof made.name, "step%02zu.%s", pass, names[kind]);
        FB_TRY(add_tensor(t, made, candidate));
    }
    return FB_OK;
}

static fb_status build_script(fb_trial *t, const fb_script *s, fb_candidate *candidate) {
    t->script = s;
    FB_TRY(fb_trial_take(t, s->num_passes, sizeof *t->external_of, &t->external_of));
    FB_TRY(fb_trial_take(t, s->num_passes, sizeof *t->internal_of, &t->internal_of));
    for (size_t i = 0; i < s->num_passes; i++)
        add_parts(t, i);
    for (size_t i = 0; i < s->num_passes; i++)
        FB_TRY(add_pass(t, i, candidate));
    return FB_OK;
}

fb_status fb_trial_of_script(const fb_script *s, fb_candidate *candidate, fb_trial **trial) {
    *trial = NULL;
    fb_attention_problem shape = problem_of(s, NULL, NULL, NULL, 0);
    fb_status status = begin(2 * s->num_passes, 4 * s->num_passes, &shape, trial);
    if (status == FB_OK)
        status = build_script(*trial, s, candidate);
    if (status != FB_OK) {
        fb_trial_free(*trial);
        *trial = NULL;
    }
    return status;
}

/* --- a sample --------------------------------------------------------------------------------- */

/* The pass of the first given tensor: one is enough. */
static size_t first_pass(const fb_trial *trial) {
    for (size_t i = 0; i < trial->num_tensors; i++)
        if (trial->tensors[i].value)
            return trial->tensors[i].pass;
    return 0;
}

/* The entry of the batch that has the most keys. */
static size_t longest(const fb_attention_problem *p) {
    size_t best = 0;
    for (size_t b = 1; b < p->batch; b++)
        if (fb_attention_problem_keys(p, b) > fb_attention_problem_keys(p, best))
            best = b;
    return best;
}

static fb_status build_sample(const fb_trial *from, fb_trial *t) {
    const fb_attention_problem *p = &from->parts[0].right;
    /* with a mask, the last tokens see the most keys */
    size_t b = longest(p), first = p->mask.kind == FB_MASK_NONE ? 0 : from->tokens - t->tokens;
    size_t row = (b * from->tokens + first) * from->heads;
    for (size_t i = 0; i < from->num_parts; i++) {
        t->parts[i].right = fb_attention_problem_cut(&from->parts[i].right, b, first, t->tokens);
    }
    t->num_parts = from->num_parts;
    t->script = from->script; /* no mask: `first` is 0 */
    t->external_of = from->external_of;
    t->internal_of = from->internal_of;
    for (size_t i = 0; i < from->num_tensors; i++) {
        fb_trial_tensor *tensor = &t->tensors[i];
        *tensor = from->tensors[i];
        tensor->count = tensor->lse ? t->rows : t->rows * t->dim;
        if (tensor->pass != first_pass(from))
            tensor->value = NULL;
        if (tensor->value)
            tensor->value += tensor->lse ? row : row * t->dim;
        tensor->truth = tensor->error = tensor->sigma = tensor->weight = NULL;
        tensor->usable = NULL;
        tensor->noise = (fb_noise){0};
    }
    t->num_tensors = from->num_tensors;
    return FB_OK;
}

fb_status fb_trial_sample(const fb_trial *from, size_t tokens, fb_trial **sample) {
    fb_attention_problem shape = {.batch = 1,
                                  .queries = tokens < from->tokens ? tokens : from->tokens,
                                  .heads = from->heads,
                                  .head_dim = from->dim};
    *sample = NULL;
    fb_status status = begin(from->num_parts, from->num_tensors, &shape, sample);
    if (status == FB_OK)
        status = build_sample(from, *sample);
    if (status != FB_OK) {
        fb_trial_free(*sample);
        *sample = NULL;
    }
    return status;
}

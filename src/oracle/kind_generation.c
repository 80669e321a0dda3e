/* generation: a recorded run of the paper's engine, repeated with a model and compat = released.
 * Decisions and tokens must be equal; logits and cached parts have tolerances. */
#include "decode/remask.h"
#include "oracle/case_model.h"
#include "oracle/engine_trace.h"
#include "oracle/kinds.h"

#include <flashblock/generate.h>

#include <math.h>
#include <string.h>

/* For the logits of tiny-model (standard deviation 4.5), for attention, for probabilities. */
static const double logits_tolerance = 3e-4, history_tolerance = 5e-5, confidence_tolerance = 1e-4;

typedef struct generation_run {
    fb_case *c;
    fb_report *report;
    fb_engine_trace trace;
    fb_model *model;
    const fb_model_config *config;
    fb_generate_options options;
    size_t steps_seen, t; /* t: the step of the current event */
    fb_status status;     /* of an event */
    const float *file_conf, *file_logits, *file_out, *file_lse;
    float *conf, *logits, *out, *lse; /* the recorded values, then this build's in their place */
} generation_run;

static fb_status read_options(generation_run *r) {
    fb_case *c = r->c;
    const char *name = NULL;
    size_t mask = 0;
    fb_generate_options *o = &r->options;
    fb_generate_options_init(o);
    o->compat = FB_COMPAT_RELEASED;
    o->greedy = true; /* the engine's multinomial was replaced by argmax */
    o->block_size = r->trace.block;
    o->stop_tokens = r->trace.stop_tokens;
    o->num_stop_tokens = r->trace.num_stop_tokens;
    FB_TRY(fb_case_size(c, "tau", 0, SIZE_MAX >> 1, &o->reuse.tau));
    FB_TRY(fb_case_size(c, "denoising_steps", 1, FB_ENGINE_TRACE_MAX_STEPS, &o->denoising_steps));
    FB_TRY(fb_case_size(c, "max_tokens", 1, FB_ENGINE_TRACE_MAX_STEPS, &o->max_tokens));
    FB_TRY(fb_case_size(c, "max_active", 1, FB_ENGINE_TRACE_MAX_PROMPTS, &o->max_active));
    FB_TRY(fb_case_real(c, "dynamic_threshold", &o->confidence_threshold));
    FB_TRY(fb_case_real(c, "temperature", &o->temperature));
    FB_TRY(fb_case_size(c, "top_k", 0, SIZE_MAX >> 1, &o->top_k));
    FB_TRY(fb_case_real(c, "top_p", &o->top_p));
    FB_TRY(fb_case_size(c, "mask_id", 0, INT32_MAX, &mask));
    FB_TRY(fb_case_string(c, "remasking", &name));
    o->mask_token_id = (int32_t)mask;
    return fb_remasking_parse(name, &o->remasking);
}

/* A recorded tensor, and a copy of it. This build writes the numbers that it computes into the
 * copy. */
static fb_status read_copy(fb_case *c, const char *name, fb_dims shape, const float **file,
                           float **copy) {
    FB_TRY(fb_case_f32(c, file, shape, "%s", name));
    FB_TRY(fb_case_alloc(c, fb_dims_count(&shape), sizeof **copy, copy));
    memcpy(*copy, *file, fb_dims_count(&shape) * sizeof **copy);
    return FB_OK;
}

/* Shapes of the optional tensors. */
static fb_dims logits_shape(const generation_run *r) {
    return FB_DIMS(r->trace.steps, r->trace.rows * r->trace.block, r->config->vocab_size);
}

static fb_dims history_shape(const generation_run *r, size_t last) {
    return FB_DIMS(r->trace.steps, r->config->num_hidden_layers, r->trace.rows, r->trace.block,
                   r->config->num_attention_heads, last);
}

static fb_status read_recorded(generation_run *r) {
    const fb_engine_trace *t = &r->trace;
    FB_TRY(read_copy(r->c, "trace.conf", FB_DIMS(t->steps, t->rows, t->block), &r->file_conf,
                     &r->conf));
    if (fb_case_has(r->c, "logits"))
        FB_TRY(read_copy(r->c, "logits", logits_shape(r), &r->file_logits, &r->logits));
    if (fb_case_has(r->c, "hist_out")) {
        FB_TRY(read_copy(r->c, "hist_out", history_shape(r, r->config->head_dim), &r->file_out,
                         &r->out));
        FB_TRY(read_copy(r->c, "hist_lse", history_shape(r, 1), &r->file_lse, &r->lse));
    }
    return FB_OK;
}

/* --- events ----------------------------------------------------------------------------------- */

/* At a position that was not accepted, another token may be almost as probable as the best one. The
 * recorded token is taken there. */
static void take_proposals(generation_run *r, const fb_step_event *event, size_t row) {
    size_t at = (r->t * r->trace.rows + row) * r->trace.block;
    const int32_t *recorded = fb_engine_trace_block(&r->trace, FB_ENGINE_TRACE_X0, r->t, row);
    int32_t *acc = r->trace.decided[FB_ENGINE_TRACE_ACC] + at,
            *x0 = r->trace.decided[FB_ENGINE_TRACE_X0] + at;
    for (size_t i = 0; i < r->trace.block; i++) {
        bool accepted = !event->commit && event->accepted[i];
        acc[i] = accepted;
        x0[i] = accepted ? event->proposed[i] : recorded[i];
        if (accepted)
            r->conf[at + i] = event->confidence[i];
    }
}

static void take_numbers(generation_run *r, const fb_step_event *event, size_t row) {
    fb_engine_trace *trace = &r->trace;
    size_t t = r->t;
    bool masks = false, reuse = event->action == FB_REUSE;
    for (size_t i = 0; i < trace->block; i++)
        masks = masks || event->masked_after[i];
    size_t next = masks && event->denoising_step + 1 < r->options.denoising_steps ? 2 : 3;
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_SEQ, t, row, event->sequence);
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_STATUS, t, row, event->commit ? 3 : 2);
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_STEP, t, row, event->denoising_step);
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_CTX_TRUE, t, row, event->context_length);
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_UPDATE, t, row, !reuse);
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_REUSE, t, row, reuse);
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_STORE, t, row,
                        event->action == FB_REFRESH_AND_STORE);
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_DIRTY, t, row, event->dirty_before);
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_DIRTY_AFTER, t, row, event->dirty_after);
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_STATUS_AFTER, t, row,
                        event->finished ? 4
                        : event->commit ? 2
                                        : next);
    fb_engine_trace_set_block(trace, FB_ENGINE_TRACE_BEFORE, t, row, event->before);
    if (!event->commit)
        fb_engine_trace_set_block(trace, FB_ENGINE_TRACE_AFTER, t, row, event->after);
    else /* the next block, which the event does not show */
        fb_engine_trace_set_block(trace, FB_ENGINE_TRACE_AFTER, t, row,
                                  fb_engine_trace_block(trace, FB_ENGINE_TRACE_AFTER, t, row));
}

static fb_status take_history(generation_run *r, const fb_step_event *event, size_t row) {
    size_t heads = r->config->num_attention_heads, dim = r->config->head_dim;
    size_t rows = r->trace.block * heads;
    for (size_t layer = 0; layer < r->config->num_hidden_layers; layer++) {
        size_t index = (r->t * r->config->num_hidden_layers + layer) * r->trace.rows + row;
        fb_part part;
        FB_TRY(fb_part_cache_load(event->parts, layer, event->kv, FB_COMPAT_RELEASED, &part));
        memcpy(r->out + index * rows * dim, part.out, rows * dim * sizeof *r->out);
        memcpy(r->lse + index * rows, part.lse, rows * sizeof *r->lse);
    }
    return FB_OK;
}

/* Returns false to end the run: after an error, or if there are more passes than were recorded. */
static bool take_event(void *user, const fb_step_event *event) {
    generation_run *r = user;
    size_t row = event->slot, values = r->trace.block * r->config->vocab_size;
    r->t = row == 0 ? r->steps_seen++ : r->t;
    if (r->t >= r->trace.steps || row >= r->trace.rows)
        return false;
    take_numbers(r, event, row);
    take_proposals(r, event, row);
    if (r->logits && !event->commit)
        memcpy(r->logits + (r->t * r->trace.rows + row) * values, event->logits,
               values * sizeof *r->logits);
    if (r->out && event->parts)
        r->status = take_history(r, event, row);
    return r->status == FB_OK;
}

/* --- claims ----------------------------------------------------------------------------------- */

static fb_status claim(generation_run *r, const char *tensor, fb_dims shape, const float *ours,
                       const float *file, double tolerance) {
    fb_claim claim = {.tensor = tensor,
                      .shape = shape,
                      .ours = ours,
                      .file = file,
                      .rule = FB_BOUND_ABSOLUTE,
                      .tolerance = tolerance};
    return ours ? fb_report_claim(r->report, &claim) : FB_OK;
}

static fb_status make_claims(generation_run *r, const fb_generation *generation) {
    const fb_engine_trace *t = &r->trace;
    int32_t ours = (int32_t)r->steps_seen, file = (int32_t)t->steps;
    /* the fields that events do not have */
    unsigned unknown = 1u << FB_ENGINE_TRACE_CTX_KERNEL | 1u << FB_ENGINE_TRACE_DMASK |
                       1u << FB_ENGINE_TRACE_DMASK_AFTER | 1u << FB_ENGINE_TRACE_NTR |
                       1u << FB_ENGINE_TRACE_NTOK_AFTER;
    FB_TRY(fb_report_decisions(r->report, "passes", FB_DIMS(1), &ours, &file));
    FB_TRY(fb_engine_trace_report(t, r->report, unknown));
    for (size_t i = 0; i < t->num_prompts; i++) {
        const fb_generate_result *result = fb_generation_result(generation, i);
        FB_TRY(fb_engine_trace_report_output(t, r->report, i, result->tokens, result->unmask_step,
                                             result->num_tokens));
    }
    FB_TRY(claim(r, "trace.conf", FB_DIMS(t->steps, t->rows, t->block), r->conf, r->file_conf,
                 confidence_tolerance));
    FB_TRY(claim(r, "logits", logits_shape(r), r->logits, r->file_logits, logits_tolerance));
    FB_TRY(claim(r, "hist_out", history_shape(r, r->config->head_dim), r->out, r->file_out,
                 history_tolerance));
    return claim(r, "hist_lse", history_shape(r, 1), r->lse, r->file_lse, history_tolerance);
}

static fb_status run(generation_run *r) {
    FB_TRY(fb_engine_trace_open(r->c, &r->trace));
    FB_TRY(read_options(r));
    FB_TRY(fb_case_load_model(r->c, &r->model));
    r->config = fb_model_config_of(r->model);
    FB_TRY(read_recorded(r));
    r->options.on_step = take_event;
    r->options.user = r;
    fb_generation *generation = NULL;
    FB_TRY(fb_generate(r->model, r->trace.prompts, r->trace.num_prompts, &r->options, &generation));
    fb_status status = r->status;
    if (status == FB_OK)
        status = make_claims(r, generation);
    fb_generation_destroy(generation);
    return status;
}

fb_status fb_recompute_generation(fb_case *c, fb_report *report) {
    generation_run *r = NULL;
    FB_TRY(fb_case_alloc(c, 1, sizeof *r, &r));
    r->c = c;
    r->report = report;
    fb_status status = run(r);
    fb_model_destroy(r->model);
    return status;
}

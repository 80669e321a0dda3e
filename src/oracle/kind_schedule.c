/* scheduler_trace: the engine's scheduler without a model. The proposed tokens, their confidences
 * and probabilities are inputs; this build makes every decision, with compat = released. */
#include "decode/remask.h"
#include "decode/schedule.h"
#include "decode/slots.h"
#include "oracle/engine_trace.h"
#include "oracle/kinds.h"

#include <math.h>
#include <string.h>

enum { MAX_SLOTS = 256 };

/* A stored history belongs to a sequence and a block. */
typedef struct history_tag {
    const fb_part_cache *slot;
    size_t prompt, context_length;
} history_tag;

typedef struct replay {
    fb_case *c;
    fb_report *report;
    fb_engine_trace trace;
    fb_schedule schedule;
    fb_slots slots;
    size_t next_prompt; /* the first that has not had a slot */
    size_t vocab;
    const float *conf, *probs; /* [T, Bmax, L], [T, Bmax * L, V] */
    history_tag tags[MAX_SLOTS];
    size_t history_reads, history_mismatches;
    float *entropy;   /* [L] */
    bool *accepted;   /* [L] */
    int32_t *numbers; /* [L] scratch */
} replay;

/* Environment variables are "1" or not there. */
static bool is_on(const fb_json *value) {
    return fb_json_is_string(value) && strcmp(fb_json_string(value), "1") == 0;
}

/* Environment variables of the paper's engine. */
static const fb_field env_fields[] = {
    {"TRADO_FORCE_DENOISE_NO_UPDATE", FB_FIELD_USED, NULL, NULL},
    {"TRADO_NO_FORCE_UPDATE_ON_SAVE", FB_FIELD_USED, NULL, NULL},
    {"TRADO_GPU_POST_SCHED_OPS", FB_FIELD_USED, NULL, NULL},
    {NULL, FB_FIELD_USED, NULL, NULL},
};

static fb_status check_env(const fb_case *c, const fb_json *env) {
    if (!fb_json_is_object(env))
        return fb_fail(FB_ERROR_FORMAT, "%s: params.env is not an object", fb_case_path(c));
    for (size_t i = 0; i < fb_json_object_size(env); i++)
        if (!is_on(fb_json_object_at(env, i)))
            return fb_fail(FB_ERROR_FORMAT, "%s: params.env: %s is not \"1\"", fb_case_path(c),
                           fb_json_object_key(env, i));
    fb_status status = fb_fields_check_all(env, "params.env", env_fields);
    return status == FB_OK ? FB_OK : fb_fail_in(status, "%s", fb_case_path(c));
}

static fb_status read_schedule(replay *r) {
    fb_case *c = r->c;
    const fb_json *env = NULL;
    bool consistent = false, ignore = false;
    const char *name = NULL;
    size_t mask = 0;
    fb_schedule *s = &r->schedule;
    FB_TRY(fb_case_param(c, "env", &env));
    FB_TRY(check_env(c, env));
    FB_TRY(fb_case_bool(c, "consistent_sampling_params", &consistent));
    FB_TRY(fb_case_bool(c, "ignore_eos", &ignore));
    FB_TRY(fb_case_string(c, "remasking", &name));
    FB_TRY(fb_case_size(c, "mask_id", 0, INT32_MAX, &mask));
    *s = (fb_schedule){
        .compat = FB_COMPAT_RELEASED,
        .reuse = {.reuse_always = is_on(fb_json_object_get(env, "TRADO_FORCE_DENOISE_NO_UPDATE")),
                  .reuse_at_commit =
                      is_on(fb_json_object_get(env, "TRADO_NO_FORCE_UPDATE_ON_SAVE"))},
        .block_size = r->trace.block,
        .overwrite_decided =
            is_on(fb_json_object_get(env, "TRADO_GPU_POST_SCHED_OPS")) || !consistent,
        .mask_token = (int32_t)mask,
        .stop_tokens = r->trace.stop_tokens,
        .num_stop_tokens = r->trace.num_stop_tokens,
        .ignore_stop = ignore,
    };
    FB_TRY(fb_case_size(c, "tau", 0, SIZE_MAX >> 1, &s->reuse.tau));
    FB_TRY(fb_case_size(c, "denoising_steps", 1, FB_ENGINE_TRACE_MAX_STEPS, &s->denoising_steps));
    FB_TRY(fb_case_size(c, "max_tokens", 1, FB_ENGINE_TRACE_MAX_STEPS, &s->max_tokens));
    FB_TRY(fb_case_real(c, "dynamic_threshold", &s->confidence_threshold));
    FB_TRY(fb_case_real_or(c, "eb_threshold", 0.35, &s->entropy_bound));
    return fb_remasking_parse(name, &s->remasking);
}

static fb_status read_inputs(replay *r) {
    const fb_engine_trace *t = &r->trace;
    const fb_tensor_view *probs = NULL;
    FB_TRY(fb_safetensors_get(fb_case_file(r->c), "probs", &probs));
    r->vocab = probs->ndim == 3 ? probs->shape[2] : 0;
    FB_TRY(fb_case_f32(r->c, &r->probs, FB_DIMS(t->steps, t->rows * t->block, r->vocab), "probs"));
    FB_TRY(fb_case_f32(r->c, &r->conf, FB_DIMS(t->steps, t->rows, t->block), "trace.conf"));
    FB_TRY(fb_case_alloc(r->c, t->block, sizeof *r->entropy, &r->entropy));
    FB_TRY(fb_case_alloc(r->c, t->block, sizeof *r->accepted, &r->accepted));
    return fb_case_alloc(r->c, t->block, sizeof *r->numbers, &r->numbers);
}

static fb_status make_slots(replay *r) {
    size_t num_slots = 0;
    FB_TRY(fb_case_size(r->c, "max_active", 1, MAX_SLOTS, &num_slots));
    FB_TRY(fb_slots_create(num_slots, &r->slots));
    for (size_t i = 0; i < num_slots; i++) {
        fb_slot *slot = &r->slots.slots[i];
        FB_TRY(fb_part_cache_create(1, r->schedule.block_size, 1, 8, &slot->parts));
        r->tags[i] = (history_tag){.slot = slot->parts, .prompt = SIZE_MAX};
    }
    return FB_OK;
}

/* --- one row of one step ---------------------------------------------------------------------- */

static size_t status_number(const fb_sequence *sequence) {
    switch (sequence->status) {
    case FB_SEQUENCE_DENOISING:
        return 2;
    case FB_SEQUENCE_COMMIT:
        return 3;
    case FB_SEQUENCE_FINISHED:
        return 4;
    case FB_SEQUENCE_PREFILL:
        break;
    }
    return 1;
}

static size_t dirty_bits(const fb_sequence *sequence) {
    size_t bits = 0;
    for (size_t i = 0; i < sequence->schedule->block_size && i < 31; i++)
        bits |= (size_t)sequence->dirty[i] << i;
    return bits;
}

static void follow_history(replay *r, const fb_slot *slot, fb_reuse_action action) {
    history_tag *tag = r->tags;
    while (tag->slot != slot->parts)
        tag++;
    size_t context_length = slot->sequence->num_tokens;
    if (action == FB_REUSE) {
        r->history_reads++;
        r->history_mismatches +=
            tag->prompt != slot->prompt || tag->context_length != context_length;
    } else if (action == FB_REFRESH_AND_STORE) {
        tag->prompt = slot->prompt;
        tag->context_length = context_length;
    }
}

static void plan(replay *r, fb_slot *slot, size_t t, size_t row) {
    fb_sequence *sequence = slot->sequence;
    fb_engine_trace *trace = &r->trace;
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_SEQ, t, row, slot->prompt);
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_STATUS, t, row, status_number(sequence));
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_STEP, t, row, sequence->denoising_step);
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_CTX_TRUE, t, row, sequence->num_tokens);
    fb_engine_trace_set_block(trace, FB_ENGINE_TRACE_BEFORE, t, row, sequence->block);
    fb_plan next = fb_sequence_plan(sequence);
    bool reuse = next.action == FB_REUSE;
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_UPDATE, t, row, !reuse);
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_REUSE, t, row, reuse);
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_STORE, t, row, next.action == FB_REFRESH_AND_STORE);
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_DIRTY, t, row, sequence->dirty_tokens);
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_DMASK, t, row, dirty_bits(sequence));
    /* on a reuse the engine hides the context from the kernel, except in the commit pass */
    fb_engine_trace_set(trace, FB_ENGINE_TRACE_CTX_KERNEL, t, row,
                        reuse && !next.commit ? 0 : sequence->num_tokens);
    follow_history(r, slot, next.action);
}

/* -sum p ln p over the recorded probabilities of each position. */
static void recorded_entropies(replay *r, size_t t, size_t row) {
    for (size_t i = 0; i < r->trace.block; i++) {
        size_t position = (t * r->trace.rows + row) * r->trace.block + i;
        const float *p = r->probs + position * r->vocab;
        double sum = 0.0;
        for (size_t token = 0; token < r->vocab; token++) {
            double clamped = p[token] > 1e-12f ? (double)p[token] : 1e-12;
            sum -= clamped * log(clamped);
        }
        r->entropy[i] = (float)sum;
    }
}

/* The trace counts a proposed mask token as accepted only where dirty tokens are counted. */
static void set_accepted(replay *r, size_t t, size_t row, const int32_t *before,
                         const int32_t *x0) {
    const fb_schedule *s = &r->schedule;
    bool dirty_counted = s->reuse.tau > 0 && s->remasking == FB_LOW_CONFIDENCE_DYNAMIC;
    for (size_t i = 0; i < s->block_size; i++) {
        bool replaced = r->accepted[i] && x0[i] != s->mask_token && before[i] == s->mask_token;
        r->numbers[i] = dirty_counted ? r->accepted[i] : replaced;
    }
    fb_engine_trace_set_block(&r->trace, FB_ENGINE_TRACE_ACC, t, row, r->numbers);
}

static fb_status denoise(replay *r, fb_sequence *sequence, size_t t, size_t row) {
    const fb_schedule *s = &r->schedule;
    const int32_t *x0 = fb_engine_trace_block(&r->trace, FB_ENGINE_TRACE_X0, t, row);
    const int32_t *before =
        r->trace.decided[FB_ENGINE_TRACE_BEFORE] + (t * r->trace.rows + row) * r->trace.block;
    const float *conf = r->conf + (t * r->trace.rows + row) * r->trace.block;
    for (size_t i = 0; i < s->block_size; i++)
        if (x0[i] < 0 || isnan(conf[i]))
            return fb_fail(FB_ERROR_FORMAT,
                           "%s: step %zu, row %zu has no proposal where this "
                           "build denoises",
                           fb_case_path(r->c), t, row);
    recorded_entropies(r, t, row);
    size_t budget = fb_remask_budget(s->block_size, s->denoising_steps, sequence->denoising_step);
    size_t count = fb_sequence_accept(sequence, x0, conf, r->entropy, r->accepted);
    set_accepted(r, t, row, before, x0);
    /* num_to_transfer: the budget, or the number that the strategy took instead */
    bool counted = (s->remasking == FB_LOW_CONFIDENCE_DYNAMIC && count > 0) ||
                   s->remasking == FB_ENTROPY_BOUNDED;
    fb_engine_trace_set(&r->trace, FB_ENGINE_TRACE_NTR, t, row, counted ? count : budget);
    fb_engine_trace_set_block(&r->trace, FB_ENGINE_TRACE_AFTER, t, row, sequence->block);
    return FB_OK;
}

/* After a commit the trace shows the next block, or nothing if the sequence ended. acc is 0. */
static void commit(replay *r, fb_sequence *sequence, size_t t, size_t row) {
    fb_sequence_commit(sequence);
    fb_engine_trace_set(&r->trace, FB_ENGINE_TRACE_NTR, t, row, 0);
    memset(r->numbers, 0, r->trace.block * sizeof *r->numbers);
    fb_engine_trace_set_block(&r->trace, FB_ENGINE_TRACE_ACC, t, row, r->numbers);
    if (sequence->status != FB_SEQUENCE_FINISHED)
        fb_engine_trace_set_block(&r->trace, FB_ENGINE_TRACE_AFTER, t, row, sequence->block);
}

static fb_status replay_row(replay *r, fb_slot *slot, size_t t, size_t row) {
    fb_sequence *sequence = slot->sequence;
    plan(r, slot, t, row);
    if (sequence->status == FB_SEQUENCE_COMMIT)
        commit(r, sequence, t, row);
    else
        FB_TRY(denoise(r, sequence, t, row));
    fb_engine_trace_set(&r->trace, FB_ENGINE_TRACE_STATUS_AFTER, t, row, status_number(sequence));
    fb_engine_trace_set(&r->trace, FB_ENGINE_TRACE_DIRTY_AFTER, t, row, sequence->dirty_tokens);
    fb_engine_trace_set(&r->trace, FB_ENGINE_TRACE_DMASK_AFTER, t, row, dirty_bits(sequence));
    fb_engine_trace_set(&r->trace, FB_ENGINE_TRACE_NTOK_AFTER, t, row, sequence->num_tokens);
    if (sequence->status != FB_SEQUENCE_FINISHED)
        return FB_OK;
    return fb_engine_trace_report_output(
        &r->trace, r->report, slot->prompt, sequence->tokens + sequence->num_prompt_tokens,
        sequence->unmask_step, fb_sequence_num_completion(sequence));
}

/* --- the whole -------------------------------------------------------------------------------- */

static fb_status admit(replay *r) {
    while (r->slots.num_active < r->slots.num_slots && r->next_prompt < r->trace.num_prompts) {
        size_t i = r->next_prompt++;
        FB_TRY(fb_slots_admit(&r->slots, &r->schedule, &r->trace.prompts[i], i));
    }
    return FB_OK;
}

static fb_status replay_step(replay *r, size_t t) {
    FB_TRY(admit(r));
    if (r->slots.num_active > r->trace.rows)
        return fb_fail(FB_ERROR_FORMAT, "%s: step %zu has %zu rows, expected %zu",
                       fb_case_path(r->c), t, r->trace.rows, r->slots.num_active);
    for (size_t i = 0; i < r->slots.num_active; i++) {
        fb_sequence *sequence = r->slots.slots[i].sequence;
        size_t left = fb_sequence_prefill_left(sequence);
        if (left > 0)
            fb_sequence_prefilled(sequence, left);
    }
    for (size_t row = 0; row < r->slots.num_active; row++)
        FB_TRY(replay_row(r, &r->slots.slots[row], t, row));
    fb_slots_retire(&r->slots);
    return FB_OK;
}

/* Compares a number of this build with one of the metadata. */
static fb_status check_number(replay *r, const char *key, size_t value) {
    const fb_json *recorded = NULL;
    if (!fb_case_text(r->c, key))
        return FB_OK;
    FB_TRY(fb_case_json(r->c, key, &recorded));
    int64_t number = 0;
    FB_TRY(fb_json_int64(recorded, fb_case_path(r->c), key, INT32_MIN, INT32_MAX, &number));
    int32_t ours = (int32_t)value, file = (int32_t)number;
    return fb_report_decisions(r->report, key, FB_DIMS(1), &ours, &file);
}

static fb_status run(replay *r) {
    FB_TRY(fb_engine_trace_open(r->c, &r->trace));
    FB_TRY(read_schedule(r));
    FB_TRY(read_inputs(r));
    FB_TRY(make_slots(r));
    for (size_t t = 0; t < r->trace.steps; t++)
        FB_TRY(replay_step(r, t));
    FB_TRY(fb_engine_trace_report(&r->trace, r->report, 1u << FB_ENGINE_TRACE_X0));
    int32_t left = (int32_t)(r->slots.num_active + r->trace.num_prompts - r->next_prompt);
    int32_t none = 0;
    FB_TRY(fb_report_decisions(r->report, "sequences left", FB_DIMS(1), &left, &none));
    FB_TRY(check_number(r, "history_slot_reads", r->history_reads));
    return check_number(r, "history_slot_mismatches", r->history_mismatches);
}

fb_status fb_recompute_scheduler_trace(fb_case *c, fb_report *report) {
    replay *r = NULL;
    FB_TRY(fb_case_alloc(c, 1, sizeof *r, &r));
    r->c = c;
    r->report = report;
    fb_status status = run(r);
    fb_slots_destroy(&r->slots);
    return status;
}

/* Scripted sequences in memory: fb_scripted of the public header. */
#include "oracle/scripted.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/point.h"
#include "base/sized.h"
#include "oracle/trial.h"

#include <flashblock/runtime.h>

#include <stdio.h>
#include <string.h>

/* Inputs of a pass as the port gets them: in the sequence's dtype. */
typedef struct stored_pass {
    void *q, *k, *v;
    float *widened_q; /* what the truth is computed from */
} stored_pass;

struct fb_scripted {
    fb_scripted_options options;
    fb_script *script;
    void *context_k, *context_v;
    stored_pass *passes;
    bool has_truth;
};

/* --- options ---------------------------------------------------------------------------------- */

static fb_scripted_options options_of(const fb_script_config *c) {
    return (fb_scripted_options){
        .num_heads = c->num_heads,
        .num_kv_heads = c->num_kv_heads,
        .head_dim = c->head_dim,
        .block_size = c->block_size,
        .context_length = c->context_length,
        .tau = c->tau,
        .steps = c->steps,
        .dtype = c->dtype,
        .scale = c->scale,
        .seed = c->seed,
        .rows = c->rows,
        .correction = c->correction,
    };
}

static fb_script_config config_of(const fb_scripted_options *options) {
    return (fb_script_config){
        .preset = "sequence",
        .num_heads = options->num_heads,
        .num_kv_heads = options->num_kv_heads,
        .head_dim = options->head_dim,
        .block_size = options->block_size,
        .context_length = options->context_length,
        .tau = options->tau,
        .steps = options->steps,
        .dtype = options->dtype,
        .scale = options->scale,
        .seed = options->seed,
        .rows = options->rows,
        .correction = options->correction,
    };
}

FB_SIZED_ENDS_WITH(fb_scripted_options, unused);

void fb_scripted_options_init_sized(fb_scripted_options *options, size_t struct_size) {
    fb_scripted_options defaults = {0};
    fb_script_config config;
    if (fb_script_preset("tiny", &config) == FB_OK)
        defaults = options_of(&config);
    fb_sized_init(options, struct_size, &defaults, sizeof defaults);
}

const char *fb_scripted_preset_name(size_t index) {
    return index < fb_num_script_presets ? fb_script_presets[index].preset : NULL;
}

fb_status fb_scripted_preset(const char *name, fb_scripted_options *options) {
    fb_script_config config;
    fb_scripted_options own = {0};
    FB_TRY(fb_sized_read(&own, sizeof own, options, "options"));
    FB_TRY(fb_script_preset(name, &config));
    const fb_scripted_options defaults = options_of(&config);
    fb_sized_init(options, options->struct_size, &defaults, sizeof defaults);
    return FB_OK;
}

/* --- inputs ----------------------------------------------------------------------------------- */

static fb_status store(fb_dtype dtype, const float *values, size_t count, void **stored) {
    FB_TRY(fb_alloc(count, fb_dtype_size(dtype), "sequence", stored));
    return count ? fb_from_f32(dtype, values, *stored, count) : FB_OK;
}

static fb_status store_pass(const fb_script *s, fb_script_pass *pass, stored_pass *stored) {
    size_t count = fb_script_values(s), kv_count = fb_script_kv_values(s);
    fb_dtype dtype = s->config.dtype;
    FB_TRY(store(dtype, pass->q, count, &stored->q));
    FB_TRY(store(dtype, pass->k, kv_count, &stored->k));
    FB_TRY(store(dtype, pass->v, kv_count, &stored->v));
    FB_TRY(fb_alloc(count, sizeof *stored->widened_q, "sequence", &stored->widened_q));
    FB_TRY(fb_to_f32(dtype, stored->q, stored->widened_q, count));
    pass->q = stored->widened_q;
    return FB_OK;
}

static fb_status fill(fb_scripted *sequence) {
    const fb_script_config config = config_of(&sequence->options);
    FB_TRY(fb_script_create(&config, &sequence->script));
    fb_script *s = sequence->script;
    sequence->options.scale = s->config.scale;
    FB_TRY(fb_script_generate(s));
    size_t count = config.context_length * config.num_kv_heads * config.head_dim;
    FB_TRY(store(config.dtype, s->k_context, count, &sequence->context_k));
    FB_TRY(store(config.dtype, s->v_context, count, &sequence->context_v));
    FB_TRY(fb_alloc_zeroed(s->num_passes, sizeof *sequence->passes, "sequence", &sequence->passes));
    for (size_t i = 0; i < s->num_passes; i++)
        FB_TRY(store_pass(s, &s->passes[i], &sequence->passes[i]));
    return fb_script_run(s);
}

fb_status fb_scripted_create(const fb_scripted_options *options, fb_scripted **sequence) {
    fb_scripted_options own;
    fb_scripted *made = NULL;
    fb_scripted_options_init(&own);
    FB_TRY(fb_sized_read(&own, sizeof own, options, "options"));
    FB_TRY(fb_sized_unused(own.unused, sizeof own.unused, "options"));
    if (fb_dtype_size(own.dtype) == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "dtype is %d", (int)own.dtype);
    if (own.head_dim == 0 || own.head_dim > 65536)
        return fb_fail(FB_ERROR_ARGUMENT, "head_dim is %zu, expected 1 to 65536", own.head_dim);
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "sequence", &made));
    made->options = own;
    made->options.struct_size = sizeof own;
    fb_status status = fill(made);
    if (status != FB_OK) {
        fb_scripted_destroy(made);
        return status;
    }
    *sequence = made;
    return FB_OK;
}

void fb_scripted_destroy(fb_scripted *sequence) {
    if (!sequence)
        return;
    for (size_t i = 0; sequence->passes && i < sequence->script->num_passes; i++) {
        stored_pass *pass = &sequence->passes[i];
        fb_free(pass->q);
        fb_free(pass->k);
        fb_free(pass->v);
        fb_free(pass->widened_q);
    }
    fb_free(sequence->passes);
    fb_free(sequence->context_k);
    fb_free(sequence->context_v);
    fb_script_free(sequence->script);
    fb_free(sequence);
}

/* --- accessors -------------------------------------------------------------------------------- */

const fb_scripted_options *fb_scripted_options_of(const fb_scripted *sequence) {
    return &sequence->options;
}

size_t fb_scripted_num_passes(const fb_scripted *sequence) {
    return sequence->script->num_passes;
}

static const fb_script_pass *pass_of(const fb_scripted *sequence, size_t pass) {
    return pass < sequence->script->num_passes ? &sequence->script->passes[pass] : NULL;
}

static const stored_pass *inputs_of(const fb_scripted *sequence, size_t pass) {
    return pass < sequence->script->num_passes ? &sequence->passes[pass] : NULL;
}

fb_reuse_action fb_scripted_action(const fb_scripted *sequence, size_t pass) {
    const fb_script_pass *found = pass_of(sequence, pass);
    return found ? (fb_reuse_action)found->action : FB_REFRESH_AND_STORE;
}

size_t fb_scripted_dirty(const fb_scripted *sequence, size_t pass) {
    const fb_script_pass *found = pass_of(sequence, pass);
    return found ? (size_t)found->dirty : 0;
}

bool fb_scripted_accepts(const fb_scripted *sequence, size_t pass, size_t token) {
    const fb_script_pass *found = pass_of(sequence, pass);
    return found && token < sequence->options.block_size && found->accepted[token] != 0;
}

bool fb_scripted_refreshes(const fb_scripted *sequence, size_t pass, size_t token) {
    const fb_script_pass *found = pass_of(sequence, pass);
    if (!found || token >= sequence->options.block_size || found->action == FB_REUSE)
        return false;
    return found->action != FB_REFRESH_ROWS || found->refresh_rows[token];
}

const void *fb_scripted_context_k(const fb_scripted *sequence) {
    return sequence->context_k;
}

const void *fb_scripted_context_v(const fb_scripted *sequence) {
    return sequence->context_v;
}

const void *fb_scripted_q(const fb_scripted *sequence, size_t pass) {
    const stored_pass *inputs = inputs_of(sequence, pass);
    return inputs ? inputs->q : NULL;
}

const void *fb_scripted_k(const fb_scripted *sequence, size_t pass) {
    const stored_pass *inputs = inputs_of(sequence, pass);
    return inputs ? inputs->k : NULL;
}

const void *fb_scripted_v(const fb_scripted *sequence, size_t pass) {
    const stored_pass *inputs = inputs_of(sequence, pass);
    return inputs ? inputs->v : NULL;
}

/* --- the verdict ------------------------------------------------------------------------------ */

static fb_status need_truth(fb_scripted *sequence) {
    if (!sequence->has_truth)
        FB_TRY(fb_script_find_truth(sequence->script, NULL, NULL));
    sequence->has_truth = true;
    return FB_OK;
}

static fb_status judge(fb_scripted *sequence, const fb_verify_options *options, fb_report *report) {
    fb_isa isa;
    FB_TRY(fb_isa_current(&isa));
    report->isa = fb_isa_name(isa);
    report->verbose = options->details;
    report->partial = options->partial;
    report->candidate = options->candidate;
    report->of_candidate = true;
    snprintf(report->kind, sizeof report->kind, "denoising_sequence");
    snprintf(report->name, sizeof report->name, "sequence");
    if ((double)fb_script_values(sequence->script) * (double)sequence->script->num_passes >
        (double)FB_TRIAL_MAX_VALUES)
        FB_TRY(need_truth(sequence));
    FB_TRY(fb_claim_script(report, sequence->script));
    if (report->num_findings == 0) {
        report->outcome = FB_FAILED;
        snprintf(report->reason, sizeof report->reason,
                 "none of the candidate's tensors has the name of a result of the sequence");
    }
    return fb_report_end_candidate(report);
}

static fb_status judge_sequence(fb_scripted *sequence, const fb_verify_options *options,
                                fb_report **report) {
    fb_verify_options own = {0};
    fb_report *made = NULL;
    FB_TRY(fb_sized_read(&own, sizeof own, options, "options"));
    FB_TRY(fb_sized_unused(own.unused, sizeof own.unused, "options"));
    if (!own.candidate)
        return fb_fail(FB_ERROR_ARGUMENT, "options.candidate is NULL: nothing is to be judged");
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "report", &made));
    fb_status status = judge(sequence, &own, made);
    if (status != FB_OK) {
        fb_report_destroy(made);
        return status;
    }
    *report = made;
    return FB_OK;
}

fb_status fb_scripted_judge(fb_scripted *sequence, const fb_verify_options *options,
                            fb_report **report) {
    fb_point before = fb_point_begin();
    fb_status status = judge_sequence(sequence, options, report);
    fb_point_end(before);
    return status;
}

fb_status fb_scripted_write(fb_scripted *sequence, const char *path) {
    FB_TRY(need_truth(sequence));
    return fb_script_write(sequence->script, path);
}

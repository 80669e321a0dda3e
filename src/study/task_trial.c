#include "study/task_trial.h"

#include "base/error.h"
#include "base/memory.h"
#include "decode/generate_options.h"
#include "decode/schedule.h"

#include <flashblock/experimental/rows.h>

#include <string.h>

fb_status fb_task_trial_create(fb_model *model, const fb_generate_options *options,
                               fb_task_trial *trial) {
    fb_generate_options resolved = *options;
    resolved.loop = FB_LOOP_SDAR; /* other loops' blocks are not of one length */
    *trial = (fb_task_trial){0};
    resolved.reuse = (fb_reuse_policy){0};
    FB_TRY(fb_generate_options_resolve(fb_model_config_of(model), &resolved));
    FB_TRY(fb_decoding_init(model, &resolved, &trial->decoding));
    FB_TRY(fb_model_new_part_cache(model, resolved.block_size, &trial->parts));
    FB_TRY(fb_model_new_part_cache(model, resolved.block_size, &trial->corrected));
    return fb_part_cache_enable_correction(trial->corrected);
}

void fb_task_trial_free(fb_task_trial *trial) {
    fb_decoding_free(&trial->decoding);
    fb_part_cache_destroy(trial->parts);
    fb_part_cache_destroy(trial->corrected);
    fb_free(trial->prompt);
    *trial = (fb_task_trial){0};
}

fb_status fb_task_trial_read(fb_task_trial *trial, const int32_t *tokens, size_t num_tokens) {
    size_t block = trial->decoding.options.block_size, shared = 0;
    while (shared < trial->num_read && shared < num_tokens &&
           trial->prompt[shared] == tokens[shared])
        shared++;
    size_t kept = shared / block * block, whole = num_tokens / block * block;
    int32_t *prompt = NULL;
    FB_TRY(fb_alloc(num_tokens, sizeof *prompt, "a prompt", &prompt));
    memcpy(prompt, tokens, num_tokens * sizeof *prompt);
    fb_free(trial->prompt);
    trial->prompt = prompt;
    trial->num_prompt = num_tokens;
    trial->num_read = 0;
    FB_TRY(fb_kv_cache_truncate(trial->decoding.kv, kept));
    FB_TRY(fb_decoding_read(&trial->decoding, prompt + kept, whole - kept));
    trial->num_read = whole;
    return FB_OK;
}

/* --- one policy ------------------------------------------------------------------------------- */

/* What a run holds: at most one of `parts` and `sparse` is not NULL. */
typedef struct run {
    fb_task_trial *trial;
    const fb_task_policy *policy;
    fb_task_outcome *outcome;
    fb_schedule schedule;
    fb_sequence *sequence;
    fb_part_cache *parts;
    fb_sparse *sparse; /* the policy's */
    fb_sparse *alone;  /* the same selector without a residual, for policy.sparse_first */
} run;

static fb_status new_sparse(const run *r, fb_residual residual, fb_sparse **sparse) {
    fb_sparse_options options = *r->policy->sparse;
    const fb_decoding *d = &r->trial->decoding;
    options.residual = residual;
    return fb_model_new_sparse(d->model, &options, d->options.block_size, sparse);
}

static fb_status set_up(run *r) {
    fb_task_trial *trial = r->trial;
    const fb_decoding *d = &trial->decoding;
    const fb_task_policy *policy = r->policy;
    r->schedule = fb_generate_schedule(fb_model_config_of(d->model), &d->options);
    r->schedule.reuse = policy->reuse;
    if (policy->sparse) {
        if (policy->sparse->residual != FB_RESIDUAL_CACHED)
            r->schedule.reuse = (fb_reuse_policy){0};
        FB_TRY(new_sparse(r, policy->sparse->residual, &r->sparse));
        if (policy->sparse_first)
            FB_TRY(new_sparse(r, FB_RESIDUAL_NONE, &r->alone));
    } else if (policy->reuse.tau > 0) {
        r->parts = policy->reuse.correction ? trial->corrected : trial->parts;
        fb_part_cache_invalidate(r->parts);
    }
    fb_prompt prompt = {trial->prompt, trial->num_prompt};
    FB_TRY(fb_sequence_create(&r->schedule, &prompt, &r->sequence));
    if (trial->num_read > 0)
        fb_sequence_prefilled(r->sequence, trial->num_read);
    return FB_OK;
}

static void clean_up(run *r) {
    fb_sequence_destroy(r->sequence);
    fb_sparse_destroy(r->sparse);
    fb_sparse_destroy(r->alone);
}

/* One forward pass of the block. `sparse` is one of the run's, or NULL for every key. */
static fb_status pass(run *r, const fb_plan *plan, fb_sparse *sparse, bool predicts) {
    const fb_decoding *d = &r->trial->decoding;
    fb_sparse_step step = {.prompt_length = r->sequence->num_prompt_tokens,
                           .block = r->sequence->num_blocks,
                           .denoising_step = r->sequence->denoising_step,
                           .denoising_steps = r->schedule.denoising_steps};
    fb_forward forward = {.struct_size = sizeof(fb_forward),
                          .tokens = r->sequence->block,
                          .num_tokens = d->options.block_size,
                          .kv = d->kv,
                          .action = plan->action,
                          .refresh_rows = plan->refresh_rows,
                          .parts = r->parts,
                          .sparse = sparse,
                          .logits = predicts ? d->logits : NULL};
    fb_forward_times times = {0};
    if (sparse)
        fb_sparse_begin(sparse, &step);
    else if (plan->external_rows > 0)
        r->outcome->keys += (double)fb_kv_cache_length(d->kv);
    FB_TRY(fb_model_forward(d->model, &forward, 1, &times));
    r->outcome->seconds += times.attention;
    return FB_OK;
}

/* The pass that the plan wants. */
static fb_status planned_pass(run *r, const fb_plan *plan) {
    bool first = r->sequence->denoising_step == 0 && !plan->commit;
    if (first && r->policy->exact_first)
        return pass(r, plan, NULL, true);
    if (first && r->alone) {
        FB_TRY(pass(r, plan, r->sparse, false));
        return pass(r, plan, r->alone, true);
    }
    return pass(r, plan, r->sparse, !plan->commit);
}

static fb_status decode(run *r) {
    fb_decoding *d = &r->trial->decoding;
    while (r->sequence->status != FB_SEQUENCE_FINISHED) {
        fb_plan plan = fb_sequence_plan(r->sequence);
        r->outcome->passes++;
        r->outcome->external_rows += r->sparse ? 0 : plan.external_rows;
        FB_TRY(planned_pass(r, &plan));
        if (plan.commit) {
            FB_TRY(fb_kv_cache_commit(d->kv, d->options.block_size));
            fb_sequence_commit(r->sequence);
            continue;
        }
        r->outcome->steps++;
        r->outcome->reuses += plan.action == FB_REUSE;
        FB_TRY(fb_decoding_propose(d, d->logits));
        fb_sequence_accept(r->sequence, d->proposed, d->confidence, d->entropy, d->accepted);
    }
    return FB_OK;
}

static void take_result(const run *r) {
    fb_task_outcome *outcome = r->outcome;
    const fb_sequence *s = r->sequence;
    size_t count = fb_sequence_num_completion(s);
    if (count > 0 && s->finish_reason == FB_FINISH_STOP)
        count--;
    memcpy(outcome->tokens, s->tokens + s->num_prompt_tokens, count * sizeof *outcome->tokens);
    outcome->num_tokens = count;
    const fb_sparse *both[] = {r->sparse, r->alone};
    for (size_t i = 0; i < 2; i++) {
        if (!both[i])
            continue;
        const fb_sparse_counts *counts = fb_sparse_counts_of(both[i]);
        double layers = (double)fb_model_config_of(r->trial->decoding.model)->num_hidden_layers;
        outcome->keys += (counts->keys_selected + counts->keys_residual) / layers;
    }
}

fb_status fb_task_trial_run(fb_task_trial *trial, const fb_task_policy *policy,
                            fb_task_outcome *outcome) {
    *outcome = (fb_task_outcome){.tokens = outcome->tokens};
    run r = {.trial = trial, .policy = policy, .outcome = outcome};
    fb_status status = fb_kv_cache_truncate(trial->decoding.kv, trial->num_read);
    if (status == FB_OK)
        status = set_up(&r);
    if (status == FB_OK)
        status = decode(&r);
    if (status == FB_OK)
        take_result(&r);
    clean_up(&r);
    return status;
}

#include "study/reuse_trial.h"

#include "base/error.h"
#include "base/memory.h"
#include "decode/generate_options.h"
#include "decode/schedule.h"
#include "study/measures.h"

#include <flashblock/experimental/rows.h>

#include <math.h>
#include <string.h>

fb_status fb_reuse_trial_create(fb_model *model, const fb_generate_options *options,
                                fb_reuse_trial *trial) {
    const fb_model_config *config = fb_model_config_of(model);
    fb_generate_options resolved = *options;
    resolved.loop = FB_LOOP_SDAR; /* other loops' blocks are not of one length */
    resolved.ignore_stop = true;
    resolved.reuse = (fb_reuse_policy){0};
    *trial = (fb_reuse_trial){0};
    FB_TRY(fb_generate_options_resolve(config, &resolved));
    fb_status status = fb_decoding_init(model, &resolved, &trial->decoding);
    if (status == FB_OK)
        status = fb_model_new_part_cache(model, resolved.block_size, &trial->parts);
    if (status == FB_OK)
        status = fb_model_new_part_cache(model, resolved.block_size, &trial->corrected);
    if (status == FB_OK)
        status = fb_part_cache_enable_correction(trial->corrected);
    if (status == FB_OK)
        status = fb_alloc(resolved.block_size, config->vocab_size * sizeof(float), "logits",
                          &trial->dense);
    if (status != FB_OK)
        fb_reuse_trial_free(trial);
    return status;
}

void fb_reuse_trial_free(fb_reuse_trial *trial) {
    fb_decoding_free(&trial->decoding);
    fb_part_cache_destroy(trial->parts);
    fb_part_cache_destroy(trial->corrected);
    fb_free(trial->dense);
    *trial = (fb_reuse_trial){0};
}

fb_status fb_reuse_trial_prefill(fb_reuse_trial *trial, const int32_t *tokens, size_t num_tokens) {
    FB_TRY(fb_kv_cache_truncate(trial->decoding.kv, 0));
    FB_TRY(fb_decoding_read(&trial->decoding, tokens, num_tokens));
    trial->context = num_tokens;
    return FB_OK;
}

/* --- one trial -------------------------------------------------------------------------------- */

/* The policy's pass; then, unless it is a commit, the dense one. The dense pass overwrites the
 * block's keys and values, and the next pass overwrites them again. */
static fb_status run_pass(fb_reuse_trial *trial, const fb_sequence *sequence, const fb_plan *plan,
                          fb_part_cache *parts, fb_reuse_trial_score *score) {
    const fb_decoding *d = &trial->decoding;
    fb_forward forward = {
        .struct_size = sizeof(fb_forward),
        .tokens = sequence->block,
        .num_tokens = d->options.block_size,
        .kv = d->kv,
        .action = plan->action,
        .refresh_rows = plan->refresh_rows,
        .parts = parts,
        .logits = plan->commit ? NULL : d->logits,
    };
    fb_forward_times times = {0};
    FB_TRY(fb_model_forward(d->model, &forward, 1, &times));
    score->attention_seconds += times.attention;
    if (plan->commit)
        return FB_OK;
    forward.action = FB_REFRESH_ONLY;
    forward.refresh_rows = NULL;
    forward.parts = NULL;
    forward.logits = trial->dense;
    FB_TRY(fb_model_forward(d->model, &forward, 1, NULL));
    for (size_t i = 0; i < d->options.block_size; i++)
        if (sequence->masked[i]) {
            size_t row = i * d->vocab_size;
            score->kl += fb_measure_divergence(trial->dense + row, d->logits + row, d->vocab_size,
                                               (size_t)d->options.mask_token_id);
            score->kl_tokens++;
        }
    return FB_OK;
}

static fb_status propose(fb_reuse_trial *trial, const int32_t *text, size_t num_text) {
    fb_decoding *d = &trial->decoding;
    FB_TRY(fb_decoding_propose(d, trial->teacher ? trial->dense : d->logits));
    for (size_t i = 0; trial->teacher && i < d->options.block_size && i < num_text; i++)
        d->proposed[i] = text[i];
    return FB_OK;
}

/* Keys and values that a pass's attention reads: the block's own, and all committed ones if any
 * row's external part is computed. */
static double pass_bytes(const fb_decoding *d, const fb_plan *plan) {
    const fb_model_config *config = fb_model_config_of(d->model);
    size_t tokens = d->options.block_size;
    if (plan->external_rows > 0)
        tokens += fb_kv_cache_length(d->kv);
    return 2.0 * (double)(config->num_hidden_layers * config->num_key_value_heads) *
           (double)fb_kv_row_bytes(d->options.kv_dtype, config->head_dim) * (double)tokens;
}

static fb_status decode(fb_reuse_trial *trial, const fb_schedule *schedule, fb_sequence *sequence,
                        const int32_t *text, fb_reuse_trial_score *score) {
    fb_decoding *d = &trial->decoding;
    size_t end = trial->context + schedule->max_tokens;
    fb_part_cache *parts = schedule->reuse.tau == 0     ? NULL
                           : schedule->reuse.correction ? trial->corrected
                                                        : trial->parts;
    while (sequence->status != FB_SEQUENCE_FINISHED) {
        fb_plan plan = fb_sequence_plan(sequence);
        score->passes++;
        score->external_rows += plan.external_rows;
        score->kv_bytes += pass_bytes(d, &plan);
        FB_TRY(run_pass(trial, sequence, &plan, parts, score));
        if (plan.commit) {
            FB_TRY(fb_kv_cache_commit(d->kv, d->options.block_size));
            fb_sequence_commit(sequence);
            continue;
        }
        score->steps++;
        FB_TRY(propose(trial, text + sequence->num_tokens, end - sequence->num_tokens));
        fb_sequence_accept(sequence, d->proposed, d->confidence, d->entropy, d->accepted);
    }
    return FB_OK;
}

static size_t count_equal(const int32_t *a, const int32_t *b, size_t count) {
    size_t equal = 0;
    for (size_t i = 0; i < count; i++)
        equal += a[i] == b[i];
    return equal;
}

fb_status fb_reuse_trial_run(fb_reuse_trial *trial, const fb_reuse_policy *policy,
                             const int32_t *text, size_t num_tokens, const int32_t *dense,
                             int32_t *written, fb_reuse_trial_score *score) {
    fb_decoding *d = &trial->decoding;
    FB_TRY(fb_kv_cache_truncate(d->kv, trial->context));
    d->options.max_tokens = num_tokens;
    fb_schedule schedule = fb_generate_schedule(fb_model_config_of(d->model), &d->options);
    schedule.reuse = *policy;
    fb_prompt prompt = {text, trial->context};
    fb_sequence *sequence = NULL;
    FB_TRY(fb_sequence_create(&schedule, &prompt, &sequence));
    if (trial->context > 0)
        fb_sequence_prefilled(sequence, trial->context);
    *score = (fb_reuse_trial_score){.trials = 1, .tokens = num_tokens};
    fb_status status = decode(trial, &schedule, sequence, text, score);
    if (status == FB_OK && fb_sequence_num_completion(sequence) < num_tokens)
        status = fb_fail(FB_ERROR_ARGUMENT, "%zu tokens do not fit the model's context after %zu",
                         num_tokens, trial->context);
    if (status == FB_OK) {
        memcpy(written, sequence->tokens + trial->context, num_tokens * sizeof *written);
        score->equal = count_equal(written, dense, num_tokens);
        score->correct = count_equal(written, text + trial->context, num_tokens);
        score->mean_kl = score->kl / (double)score->kl_tokens;
        score->mean_kl_squared = score->mean_kl * score->mean_kl;
    }
    fb_sequence_destroy(sequence);
    return status;
}

void fb_reuse_trial_score_add(fb_reuse_trial_score *sum, const fb_reuse_trial_score *score) {
    sum->trials += score->trials;
    sum->tokens += score->tokens;
    sum->equal += score->equal;
    sum->correct += score->correct;
    sum->steps += score->steps;
    sum->passes += score->passes;
    sum->kl += score->kl;
    sum->kl_tokens += score->kl_tokens;
    sum->mean_kl += score->mean_kl;
    sum->mean_kl_squared += score->mean_kl_squared;
    sum->external_rows += score->external_rows;
    sum->kv_bytes += score->kv_bytes;
    sum->attention_seconds += score->attention_seconds;
}

fb_reuse_trial_result fb_reuse_trial_result_of(const fb_reuse_trial_score *score,
                                               const fb_reuse_trial_score *dense) {
    double n = (double)score->trials, mean = score->mean_kl / n;
    double variance = score->mean_kl_squared / n - mean * mean;
    return (fb_reuse_trial_result){
        .agreement = (double)score->equal / (double)score->tokens,
        .accuracy = (double)score->correct / (double)score->tokens,
        .kl = score->kl / (double)score->kl_tokens,
        .kl_error = n > 1 && variance > 0 ? sqrt(variance / (n - 1)) : 0,
        .rows = (double)score->external_rows / (double)dense->external_rows,
        .bytes = score->kv_bytes / dense->kv_bytes,
        .attention = score->attention_seconds / dense->attention_seconds,
    };
}

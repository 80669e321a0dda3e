#include "study/reuse_trial.h"

#include "base/error.h"
#include "base/memory.h"
#include "decode/generate_options.h"

#include <flashblock/experimental/rows.h>

#include <math.h>
#include <string.h>

static fb_status allocate(fb_reuse_trial *b) {
    size_t size = b->options.block_size, vocab = b->vocab_size;
    FB_TRY(fb_model_new_kv_cache(b->model, b->options.kv_dtype, &b->kv));
    FB_TRY(fb_model_new_part_cache(b->model, size, &b->parts));
    FB_TRY(fb_model_new_part_cache(b->model, size, &b->corrected));
    FB_TRY(fb_part_cache_enable_correction(b->corrected));
    FB_TRY(fb_alloc(size, vocab * sizeof(float), "logits", &b->logits));
    FB_TRY(fb_alloc(size, vocab * sizeof(float), "logits", &b->dense));
    FB_TRY(fb_alloc(vocab, sizeof(float), "probabilities", &b->probabilities));
    FB_TRY(fb_alloc(vocab, sizeof(uint32_t), "token order", &b->order));
    FB_TRY(fb_alloc(size, sizeof(int32_t), "proposals", &b->proposed));
    FB_TRY(fb_alloc(size, sizeof(float), "confidences", &b->confidence));
    FB_TRY(fb_alloc(size, sizeof(float), "entropies", &b->entropy));
    return fb_alloc(size, sizeof(bool), "acceptances", &b->accepted);
}

fb_status fb_reuse_trial_create(fb_model *model, const fb_generate_options *options,
                                fb_reuse_trial *bench) {
    const fb_model_config *config = fb_model_config_of(model);
    *bench =
        (fb_reuse_trial){.model = model, .options = *options, .vocab_size = config->vocab_size};
    bench->options.ignore_stop = true;
    bench->options.reuse = (fb_reuse_policy){0};
    FB_TRY(fb_generate_options_resolve(config, &bench->options));
    fb_status status = allocate(bench);
    if (status != FB_OK)
        fb_reuse_trial_free(bench);
    return status;
}

void fb_reuse_trial_free(fb_reuse_trial *b) {
    fb_kv_cache_destroy(b->kv);
    fb_part_cache_destroy(b->parts);
    fb_part_cache_destroy(b->corrected);
    void *arrays[] = {b->logits,   b->dense,      b->probabilities, b->order,
                      b->proposed, b->confidence, b->entropy,       b->accepted};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        fb_free(arrays[i]);
    *b = (fb_reuse_trial){0};
}

fb_status fb_reuse_trial_prefill(fb_reuse_trial *b, const int32_t *tokens, size_t num_tokens) {
    FB_TRY(fb_kv_cache_truncate(b->kv, 0));
    for (size_t done = 0; done < num_tokens;) {
        size_t left = num_tokens - done, chunk = b->options.prefill_chunk;
        fb_forward forward = {
            .tokens = tokens + done,
            .num_tokens = left < chunk ? left : chunk,
            .kv = b->kv,
            .prefill_block = b->options.block_size,
            .action = FB_REFRESH_ONLY,
        };
        FB_TRY(fb_model_forward(b->model, &forward, 1, NULL));
        FB_TRY(fb_kv_cache_commit(b->kv, forward.num_tokens));
        done += forward.num_tokens;
    }
    b->context = num_tokens;
    return FB_OK;
}

/* --- KL divergence ---------------------------------------------------------------------------- */

/* ln sum exp of a row's logits without the mask token, which is never sampled. */
static double log_sum(const fb_reuse_trial *b, const float *logits) {
    size_t mask = (size_t)b->options.mask_token_id;
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < b->vocab_size; i++)
        max = i != mask && (double)logits[i] > max ? (double)logits[i] : max;
    for (size_t i = 0; i < b->vocab_size; i++)
        sum += i != mask ? exp((double)logits[i] - max) : 0;
    return max + log(sum);
}

/* sum p ln(p / q), p dense, q the policy's: of one position, nats. */
static double divergence(const fb_reuse_trial *b, size_t position) {
    const float *p = b->dense + position * b->vocab_size, *q = b->logits + position * b->vocab_size;
    double log_p = log_sum(b, p), log_q = log_sum(b, q), sum = 0;
    for (size_t i = 0; i < b->vocab_size; i++) {
        double ln_p = (double)p[i] - log_p, ln_q = (double)q[i] - log_q;
        sum += i != (size_t)b->options.mask_token_id ? exp(ln_p) * (ln_p - ln_q) : 0;
    }
    return sum;
}

/* --- one trial -------------------------------------------------------------------------------- */

/* The policy's pass; then, unless it is a commit, the dense one: it leaves the block's keys and
 * values as dense attention has them, which the next pass writes anew. */
static fb_status run_pass(fb_reuse_trial *b, const fb_sequence *sequence, const fb_plan *plan,
                          fb_part_cache *parts, fb_reuse_trial_score *score) {
    fb_forward forward = {
        .tokens = sequence->block,
        .num_tokens = b->options.block_size,
        .kv = b->kv,
        .action = plan->action,
        .refresh_rows = plan->refresh_rows,
        .parts = parts,
        .logits = plan->commit ? NULL : b->logits,
    };
    fb_forward_times times = {0};
    FB_TRY(fb_model_forward(b->model, &forward, 1, &times));
    score->attention_seconds += times.attention;
    if (plan->commit)
        return FB_OK;
    forward.action = FB_REFRESH_ONLY;
    forward.refresh_rows = NULL;
    forward.parts = NULL;
    forward.logits = b->dense;
    FB_TRY(fb_model_forward(b->model, &forward, 1, NULL));
    for (size_t i = 0; i < b->options.block_size; i++)
        if (sequence->masked[i]) {
            score->kl += divergence(b, i);
            score->kl_tokens++;
        }
    return FB_OK;
}

static fb_status propose(fb_reuse_trial *b, const fb_sampler *sampler, const int32_t *text,
                         size_t num_text) {
    const float *logits = b->teacher ? b->dense : b->logits;
    for (size_t i = 0; i < b->options.block_size; i++) {
        fb_proposal proposal;
        FB_TRY(fb_sampler_propose(sampler, logits + i * b->vocab_size, b->vocab_size, 0.0, b->order,
                                  b->probabilities, &proposal));
        b->proposed[i] = b->teacher && i < num_text ? text[i] : proposal.token;
        b->confidence[i] = proposal.confidence;
        b->entropy[i] = proposal.entropy;
    }
    return FB_OK;
}

/* Keys and values that a pass's attention reads: the block's own, and all committed ones if any
 * row's external part is computed. */
static double pass_bytes(const fb_reuse_trial *b, const fb_plan *plan) {
    const fb_model_config *config = fb_model_config_of(b->model);
    size_t tokens = b->options.block_size;
    if (plan->external_rows > 0)
        tokens += fb_kv_cache_length(b->kv);
    return 2.0 * (double)(config->num_hidden_layers * config->num_key_value_heads) *
           (double)(config->head_dim * fb_dtype_size(b->options.kv_dtype)) * (double)tokens;
}

static fb_status decode(fb_reuse_trial *b, const fb_schedule *schedule, fb_sequence *sequence,
                        const int32_t *text, fb_reuse_trial_score *score) {
    fb_sampler sampler = fb_generate_sampler(&b->options);
    size_t end = b->context + schedule->max_tokens;
    fb_part_cache *parts = schedule->reuse.tau == 0     ? NULL
                           : schedule->reuse.correction ? b->corrected
                                                        : b->parts;
    while (sequence->status != FB_SEQUENCE_FINISHED) {
        fb_plan plan = fb_sequence_plan(sequence);
        score->passes++;
        score->external_rows += plan.external_rows;
        score->kv_bytes += pass_bytes(b, &plan);
        FB_TRY(run_pass(b, sequence, &plan, parts, score));
        if (plan.commit) {
            FB_TRY(fb_kv_cache_commit(b->kv, b->options.block_size));
            fb_sequence_commit(sequence);
            continue;
        }
        score->steps++;
        FB_TRY(propose(b, &sampler, text + sequence->num_tokens, end - sequence->num_tokens));
        fb_sequence_accept(sequence, b->proposed, b->confidence, b->entropy, b->accepted);
    }
    return FB_OK;
}

fb_status fb_reuse_trial_run(fb_reuse_trial *b, const fb_reuse_policy *policy, const int32_t *text,
                             size_t num_tokens, int32_t *written, fb_reuse_trial_score *score) {
    FB_TRY(fb_kv_cache_truncate(b->kv, b->context));
    b->options.max_tokens = num_tokens;
    fb_schedule schedule = fb_generate_schedule(fb_model_config_of(b->model), &b->options);
    schedule.reuse = *policy;
    fb_prompt prompt = {text, b->context};
    fb_sequence *sequence = NULL;
    FB_TRY(fb_sequence_create(&schedule, &prompt, &sequence));
    if (b->context > 0)
        fb_sequence_prefilled(sequence, b->context);
    *score = (fb_reuse_trial_score){.trials = 1, .tokens = num_tokens};
    fb_status status = decode(b, &schedule, sequence, text, score);
    if (status == FB_OK && fb_sequence_num_completion(sequence) < num_tokens)
        status = fb_fail(FB_ERROR_ARGUMENT, "%zu tokens do not fit the model's context behind %zu",
                         num_tokens, b->context);
    if (status == FB_OK) {
        memcpy(written, sequence->tokens + b->context, num_tokens * sizeof *written);
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

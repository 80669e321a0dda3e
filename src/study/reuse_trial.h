/* Real decoding under a policy of reuse. Each of its denoising steps is followed by a dense pass on
 * the same state, so that the error of one step is measured apart from the path that the policy
 * took. */
#ifndef FB_STUDY_REUSE_TRIAL_H
#define FB_STUDY_REUSE_TRIAL_H

#include "study/decoding.h"

#include <flashblock/generate.h>
#include <flashblock/model.h>

#include <stddef.h>
#include <stdint.h>

/* One model, one block size: caches and buffers, kept from trial to trial. Starts as {0}. */
typedef struct fb_reuse_trial {
    fb_decoding decoding; /* its logits are the policy's */
    size_t context;
    bool teacher; /* accepted tokens are the text's, in the order of the dense confidences: all
                     policies then go through the same states */
    fb_part_cache *parts, *corrected;
    float *dense; /* [block_size, vocab_size] logits of the dense passes */
} fb_reuse_trial;

/* Sums over trials. */
typedef struct fb_reuse_trial_score {
    size_t trials, tokens;
    size_t equal;     /* tokens that dense decoding wrote at the same place */
    size_t correct;   /* tokens that the text has there */
    size_t steps;     /* denoising steps */
    size_t passes;    /* those and commits */
    double kl;        /* nats, dense against the policy, over all masked tokens of all steps */
    size_t kl_tokens; /* those */
    double mean_kl, mean_kl_squared; /* a trial's mean, and its square, over all trials */
    size_t external_rows;
    double kv_bytes; /* of keys and values that attention reads */
    double attention_seconds;
} fb_reuse_trial_score;

void fb_reuse_trial_score_add(fb_reuse_trial_score *sum, const fb_reuse_trial_score *score);

/* What a policy's sums come to. */
typedef struct fb_reuse_trial_result {
    double agreement, accuracy;    /* shares of the tokens: equal, correct */
    double kl, kl_error;           /* its mean, and the standard error of that, over trials */
    double rows, bytes, attention; /* by dense */
} fb_reuse_trial_result;

fb_reuse_trial_result fb_reuse_trial_result_of(const fb_reuse_trial_score *score,
                                               const fb_reuse_trial_score *dense);

/* Takes block_size, denoising_steps, remasking with its numbers, and kv_dtype from `options`, and
 * sets the rest. */
fb_status fb_reuse_trial_create(fb_model *model, const fb_generate_options *options,
                                fb_reuse_trial *trial);
void fb_reuse_trial_free(fb_reuse_trial *trial);

/* Prefills the context, from the first token on. */
fb_status fb_reuse_trial_prefill(fb_reuse_trial *trial, const int32_t *tokens, size_t num_tokens);

/* Decodes num_tokens tokens after the context into written [num_tokens].
 *   text   the context and the num_tokens tokens that follow it
 *   dense  [num_tokens] the tokens of dense decoding; `written` itself where this is dense decoding
 */
fb_status fb_reuse_trial_run(fb_reuse_trial *trial, const fb_reuse_policy *policy,
                             const int32_t *text, size_t num_tokens, const int32_t *dense,
                             int32_t *written, fb_reuse_trial_score *score);

#endif

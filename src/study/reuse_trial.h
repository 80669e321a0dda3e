/* Real decoding under a policy of reuse, and beside each of its denoising steps a dense pass on the
 * very same state: what the policy makes of the step's distributions, apart from where it led. */
#ifndef FB_STUDY_REUSE_TRIAL_H
#define FB_STUDY_REUSE_TRIAL_H

#include "decode/sampler.h"
#include "decode/schedule.h"

#include <flashblock/generate.h>
#include <flashblock/model.h>

#include <stddef.h>
#include <stdint.h>

/* One model, one block size: caches and buffers, kept from trial to trial. Starts as {0}. */
typedef struct fb_reuse_trial {
    fb_model *model;             /* borrowed */
    fb_generate_options options; /* resolved */
    size_t vocab_size, context;
    bool teacher; /* accepted tokens are the text's, in the order of the dense confidences: all
                     policies then go through the same states */
    fb_kv_cache *kv;
    fb_part_cache *parts, *corrected;
    float *logits, *dense; /* [block_size, vocab_size] */
    float *probabilities;  /* [vocab_size] scratch of the sampler, as is order */
    uint32_t *order;
    int32_t *proposed; /* [block_size], as all that follow */
    float *confidence, *entropy;
    bool *accepted;
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

/* `options`: block_size, denoising_steps, remasking and its numbers, kv_dtype; the rest is set
 * here. */
fb_status fb_reuse_trial_create(fb_model *model, const fb_generate_options *options,
                                fb_reuse_trial *bench);
void fb_reuse_trial_free(fb_reuse_trial *bench);

/* Prefills the context, from the first token on. */
fb_status fb_reuse_trial_prefill(fb_reuse_trial *bench, const int32_t *tokens, size_t num_tokens);

/* Decodes num_tokens tokens behind the context into written [num_tokens], and counts all but equal
 * and correct. `text` goes on behind the context with num_tokens tokens. */
fb_status fb_reuse_trial_run(fb_reuse_trial *bench, const fb_reuse_policy *policy,
                             const int32_t *text, size_t num_tokens, int32_t *written,
                             fb_reuse_trial_score *score);

#endif

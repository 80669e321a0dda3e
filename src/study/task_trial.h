/* One problem, solved with many policies: the prompt is read once, and each policy writes on from
 * there as `flashblock generate` would. */
#ifndef FB_STUDY_TASK_TRIAL_H
#define FB_STUDY_TASK_TRIAL_H

#include "study/decoding.h"

#include <flashblock/experimental/sparse.h>
#include <flashblock/generate.h>
#include <flashblock/model.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A way to attend to earlier tokens. {0} is dense attention.
 *
 * A cached residual helps in two ways: the first step of a block, which computes it, attends to
 * every key; and later steps merge it. The last two members separate them. */
typedef struct fb_task_policy {
    fb_reuse_policy reuse;
    const fb_sparse_options *sparse; /* borrowed; NULL: every key */
    bool exact_first;  /* a selector without a residual: the first step of a block attends to every
                          key all the same */
    bool sparse_first; /* with a cached residual: it is computed as ever, but the predictions of a
                          block's first step are those of the selected keys alone */
} fb_task_policy;

/* What a policy wrote, and what that took: denoising steps and commit passes together, unless said
 * otherwise. */
typedef struct fb_task_outcome {
    int32_t *tokens; /* [max_tokens] the caller's memory: what was written */
    size_t num_tokens;
    size_t steps, reuses; /* denoising steps, and those of them that reused */
    size_t passes;
    size_t external_rows; /* rows whose external part was computed; 0 with selected keys */
    double keys;          /* external keys attended by a head, in every pass: mean of layers */
    double seconds;       /* of attention */
} fb_task_outcome;

/* One model and block size: caches and buffers, kept from problem to problem. Starts as {0}. */
typedef struct fb_task_trial {
    fb_decoding decoding;
    int32_t *prompt; /* [num_prompt] whose whole blocks are in the KV cache */
    size_t num_prompt, num_read;
    fb_part_cache *parts, *corrected;
} fb_task_trial;

/* Options are not resolved: block_size, denoising_steps, remasking with its numbers, kv_dtype,
 * max_tokens count. fb_task_trial_free must follow, also after a failure. */
fb_status fb_task_trial_create(fb_model *model, const fb_generate_options *options,
                               fb_task_trial *trial);
void fb_task_trial_free(fb_task_trial *trial);

/* Reads a prompt densely. Whole blocks that it shares with the one before, at its beginning, are
 * not read again. */
fb_status fb_task_trial_read(fb_task_trial *trial, const int32_t *tokens, size_t num_tokens);

/* Writes on after the prompt that was read, up to a stop token (which is not among the outcome's)
 * or max_tokens tokens. */
fb_status fb_task_trial_run(fb_task_trial *trial, const fb_task_policy *policy,
                            fb_task_outcome *outcome);

#endif

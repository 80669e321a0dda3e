/* A pass of a record again, with a mistake made on purpose: in the cache that it reads, in its
 * action, or in its attention. What it then gives is held against the record. */
#ifndef FB_ORACLE_TRAJECTORY_TRIAL_H
#define FB_ORACLE_TRAJECTORY_TRIAL_H

#include "oracle/trajectory_judgement.h"

/* A copy of parts, of all layers: [layers, block, heads, head_dim], [layers, block, heads]. */
typedef struct fb_trajectory_parts {
    float *out, *lse;
    bool there;
} fb_trajectory_parts;

typedef struct fb_trajectory_trial {
    const fb_trajectory_judgement *j;
    fb_model *model;
    fb_trajectory_replay replay; /* stands before the pass in question */
    fb_trajectory_scratch scratch;
    const fb_trajectory_step *wrong; /* what the judgement measured of the pass */
    float *k, *v;                    /* of the block before, of its last denoising step: [layers,
                                        block, KV heads, head_dim] */
    float *reused_k, *reused_v;      /* of its commit, if that reused; shapes as above */
    float *own_k, *own_v;            /* of its commit */
    bool has_block, has_reused;
    fb_part_cache *of_commit; /* the external part of the commit before; NULL: tau is 0 */
    bool has_part;
    fb_trajectory_parts last, older; /* what the last refresh, and the one before it, computed */
    fb_kv_cache *other;              /* a KV cache with a mistake in it */
    float *row, *row_v;              /* [tokens, KV heads, head_dim] */
    float *part_out, *part_lse;      /* one layer's: [block, heads, head_dim], [block, heads] */
    float *inner_out, *inner_lse;
    fb_status status; /* of the attention that was altered */
} fb_trajectory_trial;

/* Stands before pass `index`. Takes a zeroed trial with j and model set; fb_trajectory_trial_end
 * it, after a failure, too. */
fb_status fb_trajectory_trial_begin(fb_trajectory_trial *trial, size_t index);
void fb_trajectory_trial_end(fb_trajectory_trial *trial);

/* --- caches with a mistake, in trial->other --------------------------------------------------- */

/* Which keys and values the last committed block has in the copy. */
typedef enum fb_trajectory_block_copy {
    FB_COPY_AS_IT_IS = 0,
    FB_COPY_OF_LAST_STEP, /* of its last denoising step */
    FB_COPY_OF_REUSE,     /* of a commit that reused */
    FB_COPY_ZEROS,        /* never written */
    FB_COPY_ALL_ZEROS,    /* nor is any other */
} fb_trajectory_block_copy;

/* A copy of the first `tokens` tokens of the context. Its keys are turned by `positions`, as if the
 * block stood so much further from them. */
fb_status fb_trajectory_trial_copy(fb_trajectory_trial *trial, size_t tokens, long positions,
                                   fb_trajectory_block_copy last);

/* Wrong masks of the prompt. */
typedef enum fb_trajectory_prefill {
    FB_PREFILL_CAUSAL = 0,   /* a token sees those before it */
    FB_PREFILL_FULL,         /* a token sees the whole prompt */
    FB_PREFILL_FROM_THE_END, /* the incomplete block is the prompt's first, not its last */
} fb_trajectory_prefill;

/* The context computed anew, the prompt under that mask. */
fb_status fb_trajectory_trial_prefill(fb_trajectory_trial *trial, fb_trajectory_prefill how);

/* --- the pass --------------------------------------------------------------------------------- */

/* The root mean square of error / noise of what the pass gives: of hidden states, of logits, or of
 * confidences and tokens. */
fb_status fb_trajectory_trial_run(fb_trajectory_trial *trial, fb_forward *forward, double *misfit);

/* How many numbers that was. */
size_t fb_trajectory_trial_evidence(const fb_trajectory_trial *trial);

#endif

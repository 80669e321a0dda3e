/* One sequence on its way from prompt to completion, without any model: which tokens the current
 * block holds, which pass comes next, what a pass's proposals change. A state machine:
 *
 *     PREFILL --prefilled--> DENOISING --accept--> DENOISING ... --accept--> COMMIT
 *                                ^                                             |
 *                                +----------------- commit ------------------- + --> FINISHED
 *
 * Before each denoising or commit pass: fb_sequence_plan; after it: fb_sequence_accept or
 * fb_sequence_commit. (The engine's Scheduler.schedule, Scheduler.postprocess, Sequence.)
 *
 * Differences of FB_COMPAT_PAPER and FB_COMPAT_RELEASED: reuse.h and generate.h list them. */
#ifndef FB_DECODE_SCHEDULE_H
#define FB_DECODE_SCHEDULE_H

#include <flashblock/generate.h>
#include <flashblock/reuse.h>
#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Loops other than sdar differ where loop.h says so. Settings that all sequences of a run share. */
typedef struct fb_schedule {
    fb_compat compat;
    fb_reuse_policy reuse;
    size_t block_size, denoising_steps; /* each at least 1 */
    size_t max_tokens;                  /* at least 1 */
    size_t max_positions;               /* of the model; 0: no limit */
    fb_remasking remasking;
    bool overwrite_decided; /* FB_COMPAT_RELEASED only */
    double confidence_threshold, entropy_bound;
    int32_t mask_token;
    const int32_t *stop_tokens; /* [num_stop_tokens] */
    size_t num_stop_tokens;
    bool ignore_stop;

    /* see loop.h; what follows is of loops other than sdar */
    fb_decoding_loop loop; /* FB_LOOP_MODEL: sdar */
    size_t num_to_transfer, max_post_steps, max_block_steps, small_block;
    double editing_threshold;
    bool early_stop, block_cache;
    bool draws;        /* a step may change something although the one before did not */
    int32_t pad_token; /* bd3lm; -1: none */
} fb_schedule;

typedef enum fb_sequence_status {
    FB_SEQUENCE_PREFILL = 0,
    FB_SEQUENCE_DENOISING,
    FB_SEQUENCE_COMMIT,
    FB_SEQUENCE_FINISHED,
} fb_sequence_status;

/* Others read it; only the functions below write it. */
typedef struct fb_sequence {
    const fb_schedule *schedule;
    fb_sequence_status status;
    fb_finish_reason finish_reason; /* when FINISHED */

    int32_t *tokens;   /* [capacity] the prompt, then the completion */
    size_t num_tokens; /* committed of them: the position of the current block's first token */
    size_t num_prompt_tokens;
    int32_t *unmask_step; /* [capacity] of each completion token, see generate.h */

    size_t num_blocks;          /* blocks before the current one that were denoised */
    int32_t *block;             /* [block_size] current block */
    bool *masked;               /* [block_size] */
    bool *dirty;                /* [block_size] accepted since, and including, the last refresh */
    int32_t *block_unmask_step; /* [block_size] */
    size_t dirty_tokens;        /* acceptances since then; a position may count twice (RELEASED) */
    size_t denoising_step;      /* of this block, from 0 */
    size_t sequence_step;       /* over all blocks */
    size_t steps_since_full;    /* since, and including, the last pass that computed the external */
    size_t accepted_since_full; /* part of all rows; and tokens accepted since then */
    bool stored;                /* a pass of this block stored its block-external part */
    fb_reuse_action action;     /* of the planned pass */
    size_t external_rows;       /* of the planned pass, see fb_plan */
    size_t *order;              /* [block_size] scratch */

    /* Of loops other than sdar, see loop.h. */
    size_t block_length;   /* tokens of the current block; block_size with sdar */
    size_t num_known;      /* of `tokens`: the prompt, and a token that a commit gave */
    size_t num_given;      /* tokens of the current block that were known when it began */
    size_t num_completion; /* tokens of the result so far */
    size_t blocks_left;    /* the current one included */
    bool padded;           /* bd3lm: tokens of the prompt are padding */
    size_t post_steps;     /* of the current block, without masks */
    bool *edited;          /* [block_size] by the last step */
    size_t num_edited;
    size_t *transfers;                 /* [block_size] bd3lm: tokens that each step accepts */
    size_t num_transfers;              /* steps of the block */
    size_t first_decided, num_decided; /* positions that the next step may decide */
    bool block_cached;                 /* fast-dllm-v2: the block's keys and values are there */
    bool whole_pass;                   /* the next pass computes all rows of the block */
    int32_t *commit_tokens; /* [block_size] what a commit pass runs, or a padded prefill */
    size_t num_commit_tokens;

    fb_generate_counts counts;
} fb_sequence;

/* The next pass. */
typedef struct fb_plan {
    fb_reuse_action action;
    bool commit;
    size_t masked_tokens;
    size_t budget; /* tokens that the remasking strategy accepts at least (its "budget") */
    const bool *refresh_rows; /* FB_REFRESH_ROWS: [block_size], valid until the pass is over */
    size_t external_rows;     /* rows whose external part the pass computes */
} fb_plan;

/* A sequence for `prompt`, a copy of which is kept. The first num_tokens / block_size blocks of it
 * are to be prefilled; the rest starts the first block, which must fit max_positions. `schedule` is
 * borrowed. */
fb_status fb_sequence_create(const fb_schedule *schedule, const fb_prompt *prompt,
                             fb_sequence **sequence);
void fb_sequence_destroy(fb_sequence *sequence);

/* PREFILL: num_tokens more tokens, a multiple of block_size, are in the KV cache. */
size_t fb_sequence_prefill_left(const fb_sequence *sequence);
void fb_sequence_prefilled(fb_sequence *sequence, size_t num_tokens);

/* A new sequence: the KV cache holds its first num_tokens tokens, whole blocks of those that are to
 * be prefilled. */
void fb_sequence_keep(fb_sequence *sequence, size_t num_tokens);

/* DENOISING or COMMIT: decides about the next pass. Counts it. */
fb_plan fb_sequence_plan(fb_sequence *sequence);

/* DENOISING, after the planned pass: the proposals of every position,
 *   proposed, confidence [block_size], entropy [block_size] or NULL unless entropy_bounded
 * Sets accepted[block_size]; returns the number of accepted positions. */
size_t fb_sequence_accept(fb_sequence *sequence, const int32_t *proposed, const float *confidence,
                          const float *entropy, bool *accepted);

/* Loops whose commit gives the next token (fb_loop_wants_next): before fb_sequence_commit. */
void fb_sequence_set_next(fb_sequence *sequence, int32_t token);

/* COMMIT, after the planned pass: the block joins the committed tokens up to where the completion
 * ends; if it does not end, the next block begins. Returns the completion tokens that it added. */
size_t fb_sequence_commit(fb_sequence *sequence);

/* --- decisions that were made elsewhere --------------------------------------------------------
 *
 * A replay of another decoder's run takes its decisions, and compares them with the rule:
 *
 *     fb_plan rule = fb_sequence_rule(sequence);
 *     fb_plan plan = fb_sequence_plan_as(sequence, its_action);
 *     ...the pass...
 *     size_t count = fb_sequence_choose(sequence, confidence, NULL, positions);
 *     fb_sequence_accept_as(sequence, its_tokens, its_accepted);
 *
 * fb_sequence_plan and fb_sequence_accept are these with the rule's own decisions. */

/* What the rule says of the next pass, without its rows. Counts nothing. */
fb_plan fb_sequence_rule(fb_sequence *sequence);

/* fb_sequence_plan with another action. A reuse may find no part of this block. */
fb_plan fb_sequence_plan_as(fb_sequence *sequence, fb_reuse_action action);

/* The positions that the remasking strategy accepts, as fb_remask gives them; positions
 * [block_size]. Changes nothing. */
size_t fb_sequence_choose(const fb_sequence *sequence, const float *confidence,
                          const float *entropy, size_t *positions);

/* fb_sequence_accept with other decisions: tokens [block_size] are read where accepted
 * [block_size] is set. */
void fb_sequence_accept_as(fb_sequence *sequence, const int32_t *tokens, const bool *accepted);

/* Ends the sequence with its committed tokens. */
void fb_sequence_cancel(fb_sequence *sequence);

/* Committed tokens after the prompt. */
size_t fb_sequence_num_completion(const fb_sequence *sequence);

#endif

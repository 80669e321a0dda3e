/* What the decoding loops of other models do differently from the paper's (schedule.h): which
 * tokens a block begins with, what a step accepts or rewrites, when a block and when the completion
 * ends. generate.h says what each loop does; names in brackets are those of its published code. */
#ifndef FB_DECODE_LOOP_H
#define FB_DECODE_LOOP_H

#include "decode/schedule.h"

/* Whether the schedule is one of these. */
static inline bool fb_loop_is_other(const fb_schedule *schedule) {
    return schedule->loop != FB_LOOP_MODEL && schedule->loop != FB_LOOP_SDAR;
}

/* Whether row i of the logits decides position i + 1, and a commit the next block's first token. */
static inline bool fb_loop_wants_next(const fb_schedule *schedule) {
    return schedule->loop == FB_LOOP_FAST_DLLM_V2;
}

/* Tokens that prompt and completion can have, whole blocks. False: it overflows. */
bool fb_loop_capacity(const fb_schedule *schedule, size_t prompt, size_t *capacity);

/* Tokens of the prompt that are prefilled. */
size_t fb_loop_prefill(const fb_schedule *schedule, size_t prompt);

/* bd3lm: how far the blocks are shifted, see fb_forward.prefill_shift; 0 otherwise. */
size_t fb_loop_prefill_shift(const fb_schedule *schedule, size_t prompt);

/* A sequence with padding in its prompt (bd3lm) is prefilled a block at a time: sets commit_tokens
 * to what is not padding of the next num_tokens tokens, a block at most; returns their number. */
size_t fb_loop_plan_prefill(fb_sequence *sequence, size_t num_tokens);

/* Fills transfers with the tokens that each of at most `steps` steps accepts of `masks` masks;
 * returns the number of steps, `masks` at most. [get_num_transfer_tokens, linear schedule] */
size_t fb_loop_transfers(size_t masks, size_t steps, size_t *transfers);

/* The parts of the functions of schedule.h: a new sequence, a new block (which may end the
 * sequence), the budget of the next step, what the reuse rule sees of it, its rows, a step, a
 * commit. */
void fb_loop_begin(fb_sequence *sequence);
void fb_loop_start_block(fb_sequence *sequence);
size_t fb_loop_budget(const fb_sequence *sequence);
void fb_loop_reuse_step(const fb_sequence *sequence, fb_reuse_step *step);
void fb_loop_plan_rows(fb_sequence *sequence);
size_t fb_loop_accept(fb_sequence *sequence, const int32_t *proposed, const float *confidence,
                      bool *accepted);
void fb_loop_commit(fb_sequence *sequence);

#endif

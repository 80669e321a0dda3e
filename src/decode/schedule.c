#include "decode/schedule.h"

#include "base/error.h"
#include "base/memory.h"
#include "decode/loop.h"
#include "decode/remask.h"

#include <string.h>

static bool is_other(const fb_sequence *sequence) {
    return fb_loop_is_other(sequence->schedule);
}

/* The paper's engine, which has one loop. */
static bool released(const fb_sequence *sequence) {
    return sequence->schedule->compat == FB_COMPAT_RELEASED && !is_other(sequence);
}

size_t fb_sequence_num_completion(const fb_sequence *sequence) {
    if (is_other(sequence))
        return sequence->num_completion;
    return sequence->num_tokens > sequence->num_prompt_tokens
               ? sequence->num_tokens - sequence->num_prompt_tokens
               : 0;
}

static size_t count_masked(const fb_sequence *sequence) {
    size_t count = 0;
    for (size_t i = 0; i < sequence->block_length; i++)
        count += sequence->masked[i] ? 1 : 0;
    return count;
}

static void finish(fb_sequence *sequence, fb_finish_reason reason) {
    sequence->status = FB_SEQUENCE_FINISHED;
    sequence->finish_reason = reason;
    sequence->counts.completion_tokens = fb_sequence_num_completion(sequence);
}

/* The engine knows masked positions by their token. */
static void find_masks(fb_sequence *sequence) {
    for (size_t i = 0; i < sequence->schedule->block_size; i++)
        sequence->masked[i] = sequence->block[i] == sequence->schedule->mask_token;
}

/* A new block: prompt tokens that are not committed yet, then mask tokens. */
static void start_block(fb_sequence *sequence) {
    size_t block_size = sequence->schedule->block_size;
    if (is_other(sequence)) {
        fb_loop_start_block(sequence);
        return;
    }
    for (size_t i = 0; i < block_size; i++) {
        bool prompt = sequence->num_tokens + i < sequence->num_prompt_tokens;
        sequence->masked[i] = !prompt;
        sequence->block[i] =
            prompt ? sequence->tokens[sequence->num_tokens + i] : sequence->schedule->mask_token;
        sequence->block_unmask_step[i] = 0;
    }
    if (released(sequence))
        find_masks(sequence);
    sequence->denoising_step = 0;
    sequence->stored = false;
    sequence->status = FB_SEQUENCE_DENOISING;
}

/* Tokens that prompt and completion can have together: in the engine a stop token may follow the
 * max_tokens-th one. */
static fb_status token_capacity(const fb_schedule *schedule, size_t prompt, size_t *capacity) {
    if (fb_loop_is_other(schedule))
        return fb_loop_capacity(schedule, prompt, capacity)
                   ? FB_OK
                   : fb_fail(FB_ERROR_ARGUMENT, "max_tokens is %zu, more than fits memory",
                             schedule->max_tokens);
    if (!fb_size_add(prompt, 1, capacity) ||
        !fb_size_add(*capacity, schedule->max_tokens, capacity))
        return fb_fail(FB_ERROR_ARGUMENT, "max_tokens is %zu, more than fits memory",
                       schedule->max_tokens);
    if (schedule->max_positions > 0 && *capacity > schedule->max_positions)
        *capacity = schedule->max_positions;
    return FB_OK;
}

static fb_status allocate(fb_sequence *sequence, size_t capacity) {
    size_t size = sequence->schedule->block_size;
    FB_TRY(fb_alloc(capacity, sizeof(int32_t), "tokens", &sequence->tokens));
    FB_TRY(fb_alloc(capacity, sizeof(int32_t), "unmask steps", &sequence->unmask_step));
    FB_TRY(fb_alloc(size, sizeof(int32_t), "block", &sequence->block));
    FB_TRY(fb_alloc(size, sizeof(int32_t), "block", &sequence->block_unmask_step));
    FB_TRY(fb_alloc_zeroed(size, sizeof(bool), "masked positions", &sequence->masked));
    FB_TRY(fb_alloc_zeroed(size, sizeof(bool), "dirty positions", &sequence->dirty));
    FB_TRY(fb_alloc_zeroed(size, sizeof(bool), "edited positions", &sequence->edited));
    FB_TRY(fb_alloc(size, sizeof(size_t), "budgets", &sequence->transfers));
    FB_TRY(fb_alloc(size, sizeof(int32_t), "block", &sequence->commit_tokens));
    return fb_alloc(size, sizeof(size_t), "positions", &sequence->order);
}

fb_status fb_sequence_create(const fb_schedule *schedule, const fb_prompt *prompt,
                             fb_sequence **sequence) {
    size_t capacity;
    FB_TRY(token_capacity(schedule, prompt->num_tokens, &capacity));
    fb_sequence *new;
    FB_TRY(fb_alloc_zeroed(1, sizeof *new, "sequence", &new));
    new->schedule = schedule;
    fb_status status = allocate(new, capacity);
    if (status != FB_OK) {
        fb_sequence_destroy(new);
        return status;
    }
    if (prompt->num_tokens > 0)
        memcpy(new->tokens, prompt->tokens, prompt->num_tokens * sizeof *prompt->tokens);
    new->num_prompt_tokens = prompt->num_tokens;
    new->block_length = schedule->block_size;
    if (is_other(new))
        fb_loop_begin(new);
    if (fb_sequence_prefill_left(new) > 0)
        new->status = FB_SEQUENCE_PREFILL;
    else
        start_block(new);
    *sequence = new;
    return FB_OK;
}

void fb_sequence_destroy(fb_sequence *sequence) {
    if (sequence == NULL)
        return;
    fb_free(sequence->tokens);
    fb_free(sequence->unmask_step);
    fb_free(sequence->block);
    fb_free(sequence->block_unmask_step);
    fb_free(sequence->masked);
    fb_free(sequence->dirty);
    fb_free(sequence->order);
    fb_free(sequence->edited);
    fb_free(sequence->transfers);
    fb_free(sequence->commit_tokens);
    fb_free(sequence);
}

size_t fb_sequence_prefill_left(const fb_sequence *sequence) {
    size_t prompt = sequence->num_prompt_tokens;
    size_t whole = prompt - prompt % sequence->schedule->block_size;
    if (is_other(sequence))
        whole = fb_loop_prefill(sequence->schedule, prompt);
    return whole > sequence->num_tokens ? whole - sequence->num_tokens : 0;
}

void fb_sequence_keep(fb_sequence *sequence, size_t num_tokens) {
    sequence->num_tokens += num_tokens;
    if (num_tokens > 0 && fb_sequence_prefill_left(sequence) == 0)
        start_block(sequence);
}

void fb_sequence_prefilled(fb_sequence *sequence, size_t num_tokens) {
    sequence->counts.prefill_tokens += num_tokens;
    fb_sequence_keep(sequence, num_tokens);
}

void fb_sequence_set_next(fb_sequence *sequence, int32_t token) {
    size_t position = sequence->num_tokens;
    if (sequence->status == FB_SEQUENCE_COMMIT)
        position += sequence->block_length;
    sequence->tokens[position] = token;
    sequence->unmask_step[position - sequence->num_prompt_tokens] =
        (int32_t)sequence->sequence_step;
    sequence->num_known = position + 1;
}

static void clear_dirty(fb_sequence *sequence) {
    sequence->dirty_tokens = 0;
    memset(sequence->dirty, 0, sequence->schedule->block_size * sizeof(bool));
}

/* A reuse must find a part of this block in the cache. With reuse_at_commit, the commit pass of a
 * block that was expected to finish at its first step would otherwise find an earlier block's. */
static fb_reuse_action decide(const fb_sequence *sequence, const fb_plan *plan) {
    const fb_schedule *schedule = sequence->schedule;
    fb_reuse_step step = {
        .denoising_step = sequence->denoising_step,
        .denoising_steps = schedule->denoising_steps,
        .dirty_tokens = sequence->dirty_tokens,
        .masked_tokens = plan->masked_tokens,
        .budget = plan->budget,
        .commit = plan->commit,
        .steps_since_full = sequence->steps_since_full,
        .accepted_since_full = sequence->accepted_since_full,
    };
    if (is_other(sequence))
        fb_loop_reuse_step(sequence, &step);
    fb_reuse_action action = fb_reuse_decide(&schedule->reuse, &step);
    if (action == FB_REUSE && !sequence->stored && !released(sequence))
        action = plan->commit ? FB_REFRESH_ONLY : FB_REFRESH_AND_STORE;
    return action;
}

static bool is_full(fb_reuse_action action) {
    return action == FB_REFRESH_AND_STORE || action == FB_REFRESH_ONLY;
}

/* The rows that a pass computes: all, the dirty ones, or none. */
static void plan_rows(fb_sequence *sequence, fb_plan *plan) {
    if (is_full(plan->action)) {
        plan->external_rows = sequence->block_length;
        sequence->steps_since_full = 0;
        sequence->accepted_since_full = 0;
    } else if (plan->action == FB_REFRESH_ROWS) {
        plan->refresh_rows = sequence->dirty;
        plan->external_rows = sequence->dirty_tokens;
    }
    sequence->external_rows = plan->external_rows;
}

static void count_pass(fb_sequence *sequence, const fb_plan *plan) {
    fb_generate_counts *counts = &sequence->counts;
    counts->external_rows += plan->external_rows;
    if (plan->commit) {
        counts->commits++;
        return;
    }
    counts->denoising_steps++;
    counts->reuses += plan->action == FB_REUSE ? 1 : 0;
    counts->row_refreshes += plan->action == FB_REFRESH_ROWS ? 1 : 0;
    counts->refreshes += is_full(plan->action) ? 1 : 0;
    counts->stores += plan->action == FB_REFRESH_AND_STORE ? 1 : 0;
}

fb_plan fb_sequence_rule(fb_sequence *sequence) {
    const fb_schedule *schedule = sequence->schedule;
    if (sequence->denoising_step == 0)
        clear_dirty(sequence);
    fb_plan plan = {
        .commit = sequence->status == FB_SEQUENCE_COMMIT,
        .masked_tokens = count_masked(sequence),
        .budget = fb_remask_budget(schedule->block_size, schedule->denoising_steps,
                                   sequence->denoising_step),
    };
    if (is_other(sequence))
        plan.budget = fb_loop_budget(sequence);
    plan.action = decide(sequence, &plan);
    return plan;
}

fb_plan fb_sequence_plan_as(fb_sequence *sequence, fb_reuse_action action) {
    fb_plan plan = fb_sequence_rule(sequence);
    plan.action = action;
    sequence->action = action;
    sequence->stored = sequence->stored || action == FB_REFRESH_AND_STORE;
    plan_rows(sequence, &plan);
    if (is_other(sequence))
        fb_loop_plan_rows(sequence);
    count_pass(sequence, &plan);
    return plan;
}

fb_plan fb_sequence_plan(fb_sequence *sequence) {
    return fb_sequence_plan_as(sequence, fb_sequence_rule(sequence).action);
}

/* The engine counts dirty tokens under one strategy, and only where it may need them. */
static bool counts_dirty(const fb_sequence *sequence) {
    const fb_schedule *schedule = sequence->schedule;
    return !released(sequence) ||
           (schedule->remasking == FB_LOW_CONFIDENCE_DYNAMIC && schedule->reuse.tau > 0);
}

static void mark_dirty(fb_sequence *sequence, size_t num_accepted) {
    if (!counts_dirty(sequence))
        return;
    if (sequence->action != FB_REUSE)
        clear_dirty(sequence);
    for (size_t i = 0; i < num_accepted; i++)
        sequence->dirty[sequence->order[i]] = true;
    sequence->dirty_tokens += num_accepted;
}

/* Which of the engine's two code paths; only the tensor one can run entropy_bounded. */
static fb_budget_rule budget_rule(const fb_schedule *schedule) {
    bool tensor = schedule->overwrite_decided || schedule->remasking == FB_ENTROPY_BOUNDED;
    return schedule->compat == FB_COMPAT_RELEASED && tensor ? FB_BUDGET_FLOOR_TENSOR
                                                            : FB_BUDGET_FLOOR;
}

static void write_block(fb_sequence *sequence, const int32_t *proposed, size_t num_accepted) {
    for (size_t i = 0; i < num_accepted; i++) {
        size_t position = sequence->order[i];
        sequence->block[position] = proposed[position];
        sequence->masked[position] = false;
        if (sequence->block_unmask_step[position] == 0)
            sequence->block_unmask_step[position] = (int32_t)(sequence->sequence_step + 1);
    }
    if (released(sequence))
        find_masks(sequence);
}

size_t fb_sequence_choose(const fb_sequence *sequence, const float *confidence,
                          const float *entropy, size_t *positions) {
    const fb_schedule *schedule = sequence->schedule;
    fb_remask_step step = {
        .strategy = schedule->remasking,
        .rule = budget_rule(schedule),
        .block_size = schedule->block_size,
        .budget = fb_remask_budget(schedule->block_size, schedule->denoising_steps,
                                   sequence->denoising_step),
        .masked = sequence->masked,
        .confidence = confidence,
        .entropy = entropy,
        .confidence_threshold = schedule->confidence_threshold,
        .entropy_bound = schedule->entropy_bound,
    };
    return fb_remask(&step, positions);
}

/* The first num_accepted positions of sequence->order keep their proposals. */
static void end_step(fb_sequence *sequence, const int32_t *proposed, size_t num_accepted) {
    mark_dirty(sequence, num_accepted);
    write_block(sequence, proposed, num_accepted);
    sequence->counts.accepted_tokens += num_accepted;
    sequence->denoising_step++;
    sequence->sequence_step++;
    sequence->steps_since_full++;
    sequence->accepted_since_full += num_accepted;
    if (count_masked(sequence) == 0 ||
        sequence->denoising_step >= sequence->schedule->denoising_steps)
        sequence->status = FB_SEQUENCE_COMMIT;
}

size_t fb_sequence_accept(fb_sequence *sequence, const int32_t *proposed, const float *confidence,
                          const float *entropy, bool *accepted) {
    if (is_other(sequence))
        return fb_loop_accept(sequence, proposed, confidence, accepted);
    size_t num_accepted = fb_sequence_choose(sequence, confidence, entropy, sequence->order);
    memset(accepted, 0, sequence->schedule->block_size * sizeof(bool));
    for (size_t i = 0; i < num_accepted; i++)
        accepted[sequence->order[i]] = true;
    end_step(sequence, proposed, num_accepted);
    return num_accepted;
}

void fb_sequence_accept_as(fb_sequence *sequence, const int32_t *tokens, const bool *accepted) {
    size_t num_accepted = 0;
    for (size_t i = 0; i < sequence->schedule->block_size; i++)
        if (accepted[i])
            sequence->order[num_accepted++] = i;
    end_step(sequence, tokens, num_accepted);
}

static bool is_stop_token(const fb_schedule *schedule, int32_t token) {
    for (size_t i = 0; i < schedule->num_stop_tokens && !schedule->ignore_stop; i++)
        if (token == schedule->stop_tokens[i])
            return true;
    return false;
}

/* Commits the block's tokens one by one; false when the completion ends here. */
static bool commit_token(fb_sequence *sequence, size_t position) {
    const fb_schedule *schedule = sequence->schedule;
    int32_t token = sequence->block[position];
    bool prompt = sequence->num_tokens < sequence->num_prompt_tokens;
    bool stop = is_stop_token(schedule, token) && (!prompt || released(sequence));
    bool full = !prompt && fb_sequence_num_completion(sequence) >= schedule->max_tokens;
    if (full && !(stop && released(sequence))) {
        finish(sequence, FB_FINISH_LENGTH);
        return false;
    }
    if (!prompt)
        sequence->unmask_step[fb_sequence_num_completion(sequence)] =
            sequence->block_unmask_step[position];
    sequence->tokens[sequence->num_tokens++] = token;
    if (stop)
        finish(sequence, FB_FINISH_STOP);
    return !stop;
}

size_t fb_sequence_commit(fb_sequence *sequence) {
    const fb_schedule *schedule = sequence->schedule;
    size_t before = fb_sequence_num_completion(sequence);
    if (is_other(sequence)) {
        fb_loop_commit(sequence);
        return sequence->num_completion > before ? sequence->num_completion - before : 0;
    }
    for (size_t i = 0; i < schedule->block_size; i++)
        if (!commit_token(sequence, i))
            break;
    sequence->num_blocks++;
    size_t completion = fb_sequence_num_completion(sequence), next;
    if (sequence->status == FB_SEQUENCE_FINISHED)
        return completion - before;
    if (completion >= schedule->max_tokens)
        finish(sequence, FB_FINISH_LENGTH);
    else if (schedule->max_positions > 0 &&
             (!fb_size_add(sequence->num_tokens, schedule->block_size, &next) ||
              next > schedule->max_positions))
        finish(sequence, FB_FINISH_CONTEXT);
    else
        start_block(sequence);
    return completion - before;
}

void fb_sequence_cancel(fb_sequence *sequence) {
    finish(sequence, FB_FINISH_CANCELLED);
}

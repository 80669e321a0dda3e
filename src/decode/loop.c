#include "decode/loop.h"

#include "base/memory.h"
#include "decode/remask.h"

#include <math.h>
#include <string.h>

/* --- sizes ------------------------------------------------------------------------------------ */

static size_t divide_up(size_t a, size_t b) {
    return a / b + (a % b > 0 ? 1 : 0);
}

/* [BD3LMSampler: tokens equal to the pad token are not attended and take no position] */
static bool is_padding(const fb_schedule *schedule, int32_t token) {
    return schedule->loop == FB_LOOP_BD3LM && token == schedule->pad_token;
}

bool fb_loop_capacity(const fb_schedule *schedule, size_t prompt, size_t *capacity) {
    return fb_size_add(prompt, schedule->max_tokens, capacity) &&
           fb_size_add(*capacity, 2 * schedule->block_size + 1, capacity);
}

size_t fb_loop_prefill(const fb_schedule *schedule, size_t prompt) {
    size_t whole = prompt - prompt % schedule->block_size;
    if (schedule->loop == FB_LOOP_BD3LM)
        return prompt;
    bool unread = schedule->loop == FB_LOOP_FAST_DLLM_V2 &&
                  schedule->compat == FB_COMPAT_RELEASED && prompt == schedule->block_size;
    return unread ? 0 : whole;
}

/* bd3lm: the prompt holds tokens that are taken for padding. */
static bool has_padding(const fb_sequence *sequence) {
    bool found = false;
    for (size_t i = 0; i < sequence->num_prompt_tokens; i++)
        found = found || is_padding(sequence->schedule, sequence->tokens[i]);
    return found;
}

size_t fb_loop_plan_prefill(fb_sequence *sequence, size_t num_tokens) {
    sequence->num_commit_tokens = 0;
    for (size_t i = 0; i < num_tokens; i++) {
        int32_t token = sequence->tokens[sequence->num_tokens + i];
        if (!is_padding(sequence->schedule, token))
            sequence->commit_tokens[sequence->num_commit_tokens++] = token;
    }
    return sequence->num_commit_tokens;
}

size_t fb_loop_prefill_shift(const fb_schedule *schedule, size_t prompt) {
    size_t tail = prompt % schedule->block_size;
    return schedule->loop == FB_LOOP_BD3LM && tail > 0 ? schedule->block_size - tail : 0;
}

static size_t num_blocks(const fb_schedule *schedule, size_t prompt) {
    size_t size = schedule->block_size;
    switch (schedule->loop) {
    case FB_LOOP_BD3LM:
        return divide_up(schedule->max_tokens, size);
    case FB_LOOP_FAST_DLLM_V2:
        return schedule->max_tokens / size;
    default:
        return divide_up(prompt + schedule->max_tokens, size) - prompt / size;
    }
}

/* 1 - t is rounded to float32, then 1 - that, as in the published code: the rounding decides
 * between 2, 3 and 3, 2. */
static double kept_share(size_t step, size_t steps) {
    float t = (float)((double)(steps - step) / (double)steps);
    float s = (float)((double)(steps - 1 - step) / (double)steps);
    float alpha_t = 1.0f - t, alpha_s = 1.0f - s;
    return (double)((1.0f - alpha_s) / (1.0f - alpha_t));
}

size_t fb_loop_transfers(size_t masks, size_t steps, size_t *transfers) {
    size_t count = 0, left = masks;
    for (size_t step = 0; step < steps && left > 0; step++) {
        double exact = (double)left * (1.0 - kept_share(step, steps));
        size_t number = (size_t)nearbyint(exact); /* halves to even */
        number = number < left ? number : left;
        if (number > 0)
            transfers[count++] = number;
        left -= number;
    }
    return count;
}

/* --- the result so far ------------------------------------------------------------------------ */

static bool is_stop(const fb_schedule *schedule, int32_t token) {
    for (size_t i = 0; i < schedule->num_stop_tokens && !schedule->ignore_stop; i++)
        if (token == schedule->stop_tokens[i])
            return true;
    return false;
}

/* The position of the first stop token in [first, end) of the sequence, or end. */
static size_t find_stop(const fb_sequence *sequence, size_t first, size_t end) {
    while (first < end && !is_stop(sequence->schedule, sequence->tokens[first]))
        first++;
    return first;
}

static size_t at_most(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Tokens up to `end` are there: the completion is what is behind the prompt, up to the first stop
 * token. */
static void set_completion(fb_sequence *sequence, size_t end) {
    size_t prompt = sequence->num_prompt_tokens;
    if (sequence->schedule->loop != FB_LOOP_FAST_DLLM_V2)
        end = at_most(end, prompt + sequence->schedule->max_tokens);
    size_t stop = find_stop(sequence, at_most(prompt, end), end);
    end = stop < end ? stop + 1 : end;
    sequence->num_completion = end > prompt ? end - prompt : 0;
}

static int32_t last_of_completion(const fb_sequence *sequence) {
    return sequence->tokens[sequence->num_prompt_tokens + sequence->num_completion - 1];
}

static void finish(fb_sequence *sequence, fb_finish_reason reason) {
    size_t count = sequence->num_completion;
    bool stopped = count > 0 && is_stop(sequence->schedule, last_of_completion(sequence));
    sequence->status = FB_SEQUENCE_FINISHED;
    sequence->finish_reason = stopped ? FB_FINISH_STOP : reason;
    sequence->counts.completion_tokens = count;
}

/* The current block becomes part of `tokens`. */
static void append_block(fb_sequence *sequence) {
    size_t first = sequence->num_tokens, prompt = sequence->num_prompt_tokens;
    for (size_t i = 0; i < sequence->block_length; i++) {
        sequence->tokens[first + i] = sequence->block[i];
        if (first + i >= prompt)
            sequence->unmask_step[first + i - prompt] = sequence->block_unmask_step[i];
    }
}

/* --- blocks ----------------------------------------------------------------------------------- */

static size_t count_masks(const fb_sequence *sequence, size_t first, size_t end) {
    size_t count = 0;
    for (size_t i = first; i < end; i++)
        count += sequence->masked[i] ? 1 : 0;
    return count;
}

static size_t block_length(const fb_sequence *sequence) {
    const fb_schedule *schedule = sequence->schedule;
    size_t size = schedule->block_size;
    if (schedule->loop != FB_LOOP_BD3LM)
        return size;
    return at_most(size, sequence->num_prompt_tokens + schedule->max_tokens - sequence->num_tokens);
}

/* The first sub-block from the left that holds a mask; the block's end if there is none. */
static void find_small_block(fb_sequence *sequence) {
    size_t size = sequence->schedule->small_block, first = 0;
    while (first < sequence->block_length && count_masks(sequence, first, first + size) == 0)
        first += size;
    sequence->first_decided = first;
    sequence->num_decided = size;
}

/* fast-dllm-v2, before each pass: a stop token behind what was given, without a mask before it,
 * ends the completion. */
static bool stops_within(fb_sequence *sequence) {
    for (size_t i = sequence->num_given; i < sequence->block_length; i++) {
        if (sequence->masked[i])
            return false;
        if (is_stop(sequence->schedule, sequence->block[i]))
            return true;
    }
    return false;
}

void fb_loop_begin(fb_sequence *sequence) {
    sequence->num_known = sequence->num_prompt_tokens;
    sequence->padded = has_padding(sequence);
    sequence->blocks_left = num_blocks(sequence->schedule, sequence->num_prompt_tokens);
    if (fb_loop_prefill(sequence->schedule, sequence->num_prompt_tokens) == 0)
        sequence->num_tokens = /* the prompt of one block that is not read */
            sequence->schedule->loop == FB_LOOP_FAST_DLLM_V2 &&
                    sequence->num_prompt_tokens == sequence->schedule->block_size
                ? sequence->num_prompt_tokens
                : 0;
}

/* The next block would not fit the model's positions. */
static bool is_full(const fb_sequence *sequence) {
    size_t max = sequence->schedule->max_positions;
    return max > 0 && sequence->num_tokens + block_length(sequence) > max;
}

void fb_loop_start_block(fb_sequence *sequence) {
    const fb_schedule *schedule = sequence->schedule;
    size_t first = sequence->num_tokens;
    set_completion(sequence, sequence->num_known > first ? sequence->num_known : first);
    if (fb_loop_wants_next(schedule) && sequence->num_completion > 0 &&
        is_stop(schedule, last_of_completion(sequence))) {
        finish(sequence, FB_FINISH_STOP);
        return;
    }
    if (sequence->blocks_left == 0 || is_full(sequence)) {
        finish(sequence, sequence->blocks_left == 0 ? FB_FINISH_LENGTH : FB_FINISH_CONTEXT);
        return;
    }
    sequence->block_length = block_length(sequence);
    sequence->num_given = sequence->num_known > first ? sequence->num_known - first : 0;
    for (size_t i = 0; i < sequence->block_length; i++) {
        bool given = i < sequence->num_given;
        sequence->block[i] = given ? sequence->tokens[first + i] : schedule->mask_token;
        sequence->masked[i] = sequence->block[i] == schedule->mask_token;
        sequence->block_unmask_step[i] = 0;
        if (given && first + i >= sequence->num_prompt_tokens)
            sequence->block_unmask_step[i] =
                sequence->unmask_step[first + i - sequence->num_prompt_tokens];
    }
    sequence->denoising_step = sequence->post_steps = 0;
    sequence->stored = sequence->block_cached = false;
    sequence->first_decided = 0;
    sequence->num_decided = sequence->block_length;
    sequence->status = FB_SEQUENCE_DENOISING;
    if (schedule->loop == FB_LOOP_BD3LM)
        sequence->num_transfers = fb_loop_transfers(sequence->block_length,
                                                    schedule->denoising_steps, sequence->transfers);
    if (schedule->loop == FB_LOOP_FAST_DLLM_V2)
        find_small_block(sequence);
}

/* --- passes ----------------------------------------------------------------------------------- */

size_t fb_loop_budget(const fb_sequence *sequence) {
    const fb_schedule *schedule = sequence->schedule;
    size_t step = sequence->denoising_step;
    switch (schedule->loop) {
    case FB_LOOP_LLADA2:
        return fb_remask_budget(schedule->block_size, schedule->denoising_steps, step);
    case FB_LOOP_LLADA2_EDITING:
        return schedule->num_to_transfer;
    case FB_LOOP_BD3LM:
        return step < sequence->num_transfers ? sequence->transfers[step] : 0;
    default:
        return 1;
    }
}

/* How many steps a block may take, and whether the next one can be its last. */
void fb_loop_reuse_step(const fb_sequence *sequence, fb_reuse_step *step) {
    switch (sequence->schedule->loop) {
    case FB_LOOP_LLADA2_EDITING: /* edits may follow the last mask */
        step->denoising_steps = sequence->schedule->max_block_steps;
        step->masked_tokens = SIZE_MAX;
        break;
    case FB_LOOP_BD3LM:
        step->denoising_steps = sequence->num_transfers;
        break;
    case FB_LOOP_FAST_DLLM_V2:
        step->denoising_steps = sequence->schedule->max_block_steps;
        break;
    default:
        break;
    }
}

/* Padding is left out of what later blocks see. */
static void plan_commit(fb_sequence *sequence) {
    sequence->num_commit_tokens = 0;
    for (size_t i = 0; i < sequence->block_length; i++)
        if (!is_padding(sequence->schedule, sequence->block[i]))
            sequence->commit_tokens[sequence->num_commit_tokens++] = sequence->block[i];
}

void fb_loop_plan_rows(fb_sequence *sequence) {
    const fb_schedule *schedule = sequence->schedule;
    sequence->whole_pass = true;
    if (sequence->status == FB_SEQUENCE_COMMIT) {
        plan_commit(sequence);
        return;
    }
    if (!schedule->block_cache)
        return;
    sequence->whole_pass = !sequence->block_cached || sequence->masked[sequence->first_decided];
    sequence->block_cached = true;
}

/* The masked positions whose proposals stay, in `order`. */
static size_t choose(fb_sequence *sequence, const float *confidence) {
    const fb_schedule *schedule = sequence->schedule;
    size_t first = sequence->first_decided, budget = fb_loop_budget(sequence);
    fb_remask_step step = {
        .strategy =
            schedule->loop == FB_LOOP_BD3LM ? FB_LOW_CONFIDENCE_STATIC : FB_LOW_CONFIDENCE_DYNAMIC,
        .rule = FB_BUDGET_FLOOR,
        .block_size = sequence->num_decided,
        .budget = at_most(budget, sequence->num_decided),
        .masked = sequence->masked + first,
        .confidence = confidence + first,
        .confidence_threshold = schedule->confidence_threshold,
    };
    size_t count = fb_remask(&step, sequence->order);
    for (size_t i = 0; i < count; i++)
        sequence->order[i] += first;
    return count;
}

/* Positions that are rewritten: not masked before the step, not given, above the threshold. They
 * are written together with those that are accepted. */
static void find_edits(fb_sequence *sequence, const int32_t *proposed, const float *confidence) {
    double threshold = sequence->schedule->editing_threshold;
    sequence->num_edited = 0;
    for (size_t i = 0; i < sequence->block_length; i++) {
        sequence->edited[i] = i >= sequence->num_given && !sequence->masked[i] &&
                              proposed[i] != sequence->block[i] &&
                              (double)confidence[i] > threshold;
        sequence->num_edited += sequence->edited[i] ? 1 : 0;
    }
}

static void clear_dirty(fb_sequence *sequence) {
    sequence->dirty_tokens = 0;
    memset(sequence->dirty, 0, sequence->schedule->block_size * sizeof(bool));
}

/* A token that changed is dirty, again if it was before. */
static void write(fb_sequence *sequence, size_t position, int32_t token) {
    bool mask = token == sequence->schedule->mask_token;
    if (token != sequence->block[position]) {
        sequence->dirty[position] = true;
        sequence->dirty_tokens++;
        sequence->accepted_since_full++;
    }
    sequence->block[position] = token;
    sequence->masked[position] = mask;
    sequence->block_unmask_step[position] = mask ? 0 : (int32_t)(sequence->sequence_step + 1);
}

/* llada2 with early_stop, in a step that accepted a stop token: if no mask is before the first one,
 * the completion ends there. [The published code looks for it in the prompt, too: the result is
 * then empty.] With FB_COMPAT_RELEASED it may be longer than max_tokens. */
static bool stops_early(fb_sequence *sequence, const int32_t *proposed, size_t count) {
    const fb_schedule *schedule = sequence->schedule;
    bool accepted_stop = false;
    for (size_t i = 0; i < count; i++)
        accepted_stop = accepted_stop || is_stop(schedule, proposed[sequence->order[i]]);
    if (!schedule->early_stop || !accepted_stop)
        return false;
    append_block(sequence);
    bool released = schedule->compat == FB_COMPAT_RELEASED;
    size_t prompt = sequence->num_prompt_tokens;
    size_t end = sequence->num_tokens + sequence->block_length;
    size_t stop = find_stop(sequence, released ? 0 : prompt, end);
    for (size_t i = prompt; i < stop; i++)
        if (sequence->tokens[i] == schedule->mask_token)
            return false;
    set_completion(sequence, stop < end ? stop + 1 : end);
    if (released && stop < end && stop >= prompt) /* which the published code does not cut */
        sequence->num_completion = stop + 1 - prompt;
    return stop < end;
}

/* Whether the block is left after a step that began with `masks` and changed `changed` tokens. The
 * published code goes on after a step that proposed nothing but the mask token. */
static bool leaves_editing(fb_sequence *sequence, size_t masks, size_t changed) {
    const fb_schedule *schedule = sequence->schedule;
    bool masks_left = count_masks(sequence, 0, sequence->block_length) > 0;
    bool settled = changed == 0 && !schedule->draws && schedule->compat != FB_COMPAT_RELEASED;
    if (settled || sequence->denoising_step >= schedule->max_block_steps)
        return true;
    if (masks == 0 && sequence->num_edited == 0)
        return true;
    return !masks_left && ++sequence->post_steps > schedule->max_post_steps;
}

static void end_step(fb_sequence *sequence, size_t masks, size_t changed) {
    const fb_schedule *schedule = sequence->schedule;
    bool leaves = count_masks(sequence, 0, sequence->block_length) == 0;
    switch (schedule->loop) {
    case FB_LOOP_LLADA2:
        leaves = leaves || sequence->denoising_step >= schedule->denoising_steps;
        break;
    case FB_LOOP_LLADA2_EDITING:
        leaves = leaves_editing(sequence, masks, changed);
        break;
    case FB_LOOP_BD3LM:
        leaves = leaves || sequence->denoising_step >= sequence->num_transfers;
        break;
    default:
        leaves = leaves || (changed == 0 && !schedule->draws) || /* it would be so for ever */
                 sequence->denoising_step >= schedule->max_block_steps;
        find_small_block(sequence);
    }
    if (leaves)
        sequence->status = FB_SEQUENCE_COMMIT;
}

size_t fb_loop_accept(fb_sequence *sequence, const int32_t *proposed, const float *confidence,
                      bool *accepted) {
    const fb_schedule *schedule = sequence->schedule;
    size_t masks = count_masks(sequence, 0, sequence->block_length), before, kept = 0;
    size_t count = masks > 0 ? choose(sequence, confidence) : 0;
    memset(accepted, 0, schedule->block_size * sizeof *accepted);
    if (schedule->loop == FB_LOOP_LLADA2_EDITING)
        find_edits(sequence, proposed, confidence);
    if (sequence->action != FB_REUSE)
        clear_dirty(sequence);
    before = sequence->accepted_since_full;
    for (size_t i = 0; i < count; i++) {
        size_t position = sequence->order[i];
        write(sequence, position, proposed[position]);
        accepted[position] = !sequence->masked[position];
        kept += accepted[position] ? 1 : 0;
    }
    for (size_t i = 0; i < sequence->block_length && sequence->num_edited > 0; i++)
        if (sequence->edited[i])
            write(sequence, i, proposed[i]);
    sequence->counts.accepted_tokens += kept;
    sequence->counts.edited_tokens += sequence->num_edited;
    sequence->denoising_step++;
    sequence->sequence_step++;
    sequence->steps_since_full++;
    if (schedule->loop == FB_LOOP_LLADA2 && stops_early(sequence, proposed, count)) {
        finish(sequence, FB_FINISH_STOP);
        return kept;
    }
    end_step(sequence, masks, sequence->accepted_since_full - before);
    if (schedule->loop == FB_LOOP_FAST_DLLM_V2 && stops_within(sequence)) {
        append_block(sequence);
        set_completion(sequence, sequence->num_tokens + sequence->block_length);
        finish(sequence, FB_FINISH_STOP);
    }
    return kept;
}

/* Whether what was generated ends the completion after a block of tokens first .. num_tokens - 1.
 */
static bool stops_after_block(const fb_sequence *sequence, size_t first) {
    const fb_schedule *schedule = sequence->schedule;
    size_t prompt = sequence->num_prompt_tokens, end = sequence->num_known;
    bool stop = find_stop(sequence, prompt, end) < end;
    switch (schedule->loop) {
    case FB_LOOP_LLADA2_EDITING:
        for (size_t i = prompt; i < end; i++)
            stop = stop && sequence->tokens[i] != schedule->mask_token;
        return stop && schedule->early_stop;
    case FB_LOOP_BD3LM:
        return find_stop(sequence, first, end) < end;
    default:
        return stop;
    }
}

void fb_loop_commit(fb_sequence *sequence) {
    size_t first = sequence->num_tokens;
    bool next = sequence->num_known > first + sequence->block_length; /* fb_sequence_set_next */
    append_block(sequence);
    sequence->num_tokens += sequence->block_length;
    if (!next)
        sequence->num_known = sequence->num_tokens;
    sequence->num_blocks++;
    sequence->blocks_left--;
    if (!stops_after_block(sequence, first)) {
        fb_loop_start_block(sequence);
        return;
    }
    set_completion(sequence, sequence->num_known);
    finish(sequence, FB_FINISH_STOP);
}

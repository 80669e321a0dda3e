/* The decoding loop: slots, forward passes, proposals; what each pass means is in schedule.c. */
#include "decode/batch.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "decode/generate_options.h"
#include "decode/generation.h"
#include "decode/loop.h"
#include "decode/proposals.h"
#include "decode/schedule.h"

#include <flashblock/experimental/rows.h>
#include <flashblock/experimental/sparse.h>

#include <stdio.h>
#include <string.h>

struct fb_batch {
    fb_model *model;
    size_t vocab_size;
    bool together, cancelled;
    fb_slots slots;
    fb_forward *forwards; /* [num_slots] */
    size_t *pass_slots;   /* [num_slots] of each forward pass */
    size_t block_size;    /* that there is room for; of a block: */
    fb_proposals proposals;
    int32_t *proposed; /* [block_size], as all that follow */
    float *confidence, *entropy;
    bool *accepted, *masked_before, *masked_after;
    int32_t *before, *after;
    fb_batch_times times;
    fb_sparse_counts sparse; /* of caches that slots have no more */
};

static void free_block(fb_batch *g) {
    fb_proposals_free(&g->proposals);
    fb_free(g->proposed);
    fb_free(g->confidence);
    fb_free(g->entropy);
    fb_free(g->accepted);
    fb_free(g->masked_before);
    fb_free(g->masked_after);
    fb_free(g->before);
    fb_free(g->after);
    g->proposed = g->before = g->after = NULL;
    g->confidence = g->entropy = NULL;
    g->accepted = g->masked_before = g->masked_after = NULL;
    g->block_size = 0;
}

/* Room for a block of so many tokens. */
static fb_status reserve(fb_batch *g, size_t size) {
    if (size <= g->block_size)
        return FB_OK;
    free_block(g);
    g->proposals = (fb_proposals){0};
    FB_TRY(fb_proposals_create(size, g->vocab_size, &g->proposals));
    FB_TRY(fb_alloc(size, sizeof(int32_t), "proposals", &g->proposed));
    FB_TRY(fb_alloc(size, sizeof(float), "confidences", &g->confidence));
    FB_TRY(fb_alloc(size, sizeof(float), "entropies", &g->entropy));
    FB_TRY(fb_alloc_zeroed(size, sizeof(bool), "acceptances", &g->accepted));
    FB_TRY(fb_alloc_zeroed(size, sizeof(bool), "masks", &g->masked_before));
    FB_TRY(fb_alloc_zeroed(size, sizeof(bool), "masks", &g->masked_after));
    FB_TRY(fb_alloc(size, sizeof(int32_t), "block", &g->before));
    FB_TRY(fb_alloc(size, sizeof(int32_t), "block", &g->after));
    g->block_size = size;
    return FB_OK;
}

static fb_status create(fb_batch *g, size_t num_slots) {
    FB_TRY(fb_slots_create(num_slots, &g->slots));
    FB_TRY(fb_alloc_zeroed(num_slots, sizeof *g->forwards, "forward passes", &g->forwards));
    return fb_alloc(num_slots, sizeof *g->pass_slots, "forward passes", &g->pass_slots);
}

fb_status fb_batch_create(fb_model *model, size_t num_slots, bool together, fb_batch **batch) {
    fb_batch *created;
    FB_TRY(fb_alloc_zeroed(1, sizeof *created, "batch", &created));
    created->model = model;
    created->vocab_size = fb_model_config_of(model)->vocab_size;
    created->together = together;
    fb_status status = create(created, num_slots);
    if (status != FB_OK) {
        fb_batch_destroy(created);
        return status;
    }
    *batch = created;
    return FB_OK;
}

void fb_batch_destroy(fb_batch *g) {
    if (g == NULL)
        return;
    fb_slots_destroy(&g->slots);
    fb_free(g->forwards);
    fb_free(g->pass_slots);
    free_block(g);
    fb_free(g);
}

/* The KV cache of a slot's new sequence: the one that was given for its prompt, or the slot's own,
 * which is made at its first sequence and emptied at later ones. */
static fb_status prepare_kv(fb_batch *g, fb_slot *slot, fb_kv_cache *given) {
    fb_dtype dtype = slot->settings->options.kv_dtype;
    if (given != NULL) {
        slot->kv = given;
        fb_sequence_keep(slot->sequence, fb_kv_cache_length(given));
        return FB_OK;
    }
    if (slot->own_kv != NULL && fb_kv_cache_config_of(slot->own_kv)->dtype != dtype) {
        fb_kv_cache_destroy(slot->own_kv);
        slot->own_kv = NULL;
    }
    if (slot->own_kv == NULL)
        FB_TRY(fb_model_new_kv_cache(g->model, dtype, &slot->own_kv));
    slot->kv = slot->own_kv;
    return fb_kv_cache_truncate(slot->kv, 0);
}

static fb_status make_reuse_caches(fb_batch *g, fb_slot *slot) {
    const fb_generate_options *options = &slot->settings->options;
    if (options->sparse != NULL)
        return fb_model_new_sparse(g->model, options->sparse, options->block_size, &slot->sparse);
    if (options->reuse.tau > 0)
        FB_TRY(fb_model_new_part_cache(g->model, options->block_size, &slot->parts));
    if (options->reuse.correction)
        return fb_part_cache_enable_correction(slot->parts);
    return FB_OK;
}

/* Whether the slot's reuse caches are as its new sequence wants them; notes that they are. */
static bool take_shape(fb_slot *slot) {
    const fb_generate_options *options = &slot->settings->options;
    fb_slot_shape before = slot->shape;
    slot->shape = (fb_slot_shape){
        .block_size = options->block_size,
        .sparse = options->sparse,
        .parts = options->reuse.tau > 0,
        .correction = options->reuse.correction,
    };
    return before.block_size == slot->shape.block_size && before.sparse == slot->shape.sparse &&
           before.parts == slot->shape.parts && before.correction == slot->shape.correction;
}

/* In the engine the block-external part of the sequence before stays. */
static fb_status prepare_reuse(fb_batch *g, fb_slot *slot) {
    if (take_shape(slot)) {
        if (slot->parts != NULL && slot->settings->compat == FB_COMPAT_PAPER)
            fb_part_cache_invalidate(slot->parts);
        if (slot->sparse != NULL)
            fb_sparse_reset(slot->sparse);
        return FB_OK;
    }
    if (slot->sparse != NULL)
        fb_sparse_counts_add(&g->sparse, fb_sparse_counts_of(slot->sparse));
    fb_part_cache_destroy(slot->parts);
    fb_sparse_destroy(slot->sparse);
    slot->parts = NULL;
    slot->sparse = NULL;
    fb_status status = make_reuse_caches(g, slot);
    if (status != FB_OK)
        slot->shape = (fb_slot_shape){0};
    return status;
}

static fb_status prepare_logits(const fb_batch *g, fb_slot *slot) {
    size_t rows, bytes;
    if (!fb_size_mul(slot->settings->options.block_size, sizeof(float), &rows) ||
        !fb_size_mul(rows, g->vocab_size, &bytes))
        return fb_fail(FB_ERROR_ARGUMENT, "block_size is %zu, more than fits memory",
                       slot->settings->options.block_size);
    if (bytes <= slot->logits_size)
        return FB_OK;
    fb_free(slot->logits);
    slot->logits = NULL;
    slot->logits_size = 0;
    FB_TRY(fb_alloc(rows, g->vocab_size, "logits", &slot->logits));
    slot->logits_size = bytes;
    return FB_OK;
}

static fb_status prepare(fb_batch *g, fb_slot *slot, fb_kv_cache *given) {
    FB_TRY(prepare_logits(g, slot));
    FB_TRY(prepare_reuse(g, slot));
    return prepare_kv(g, slot, given);
}

fb_status fb_batch_join(fb_batch *g, const fb_batch_request *request) {
    const fb_model_config *config = fb_model_config_of(g->model);
    fb_slot_settings *settings;
    FB_TRY(reserve(g, request->options->block_size));
    FB_TRY(fb_alloc_zeroed(1, sizeof *settings, "sequence", &settings));
    settings->options = *request->options;
    settings->schedule = fb_generate_schedule(config, &settings->options);
    settings->sampler = fb_generate_sampler(&settings->options);
    settings->compat =
        fb_loop_is_other(&settings->schedule) ? FB_COMPAT_PAPER : settings->options.compat;
    settings->seed = request->seed;
    fb_status status =
        fb_slots_admit(&g->slots, &settings->schedule, &request->prompt, request->number);
    if (status != FB_OK) {
        fb_free(settings);
        return status;
    }
    fb_slot *slot = &g->slots.slots[g->slots.num_active - 1];
    slot->settings = settings;
    status = prepare(g, slot, request->kv);
    if (status != FB_OK)
        fb_slots_dismiss(&g->slots);
    return status;
}

/* Tokens of one pass of a prompt, `left` of which are not read: whole blocks, `room` tokens at most
 * but at least one block. A loop that wants the last row's logits reads the last block alone. */
static size_t prefill_size(const fb_sequence *sequence, size_t shift, size_t left, size_t room) {
    size_t size = sequence->schedule->block_size;
    if (fb_loop_wants_next(sequence->schedule))
        left = left > size ? left - size : left;
    if (left <= room)
        return left;
    size_t end = (sequence->num_tokens + shift + room) / size * size;
    size_t begin = sequence->num_tokens + shift;
    return end > begin ? end - begin : size - begin % size;
}

/* Tokens of the next pass of a prompt with padding: to the end of a block, padding included. */
static size_t padded_prefill_size(const fb_sequence *sequence) {
    size_t size = sequence->schedule->block_size;
    size_t shift = fb_loop_prefill_shift(sequence->schedule, sequence->num_prompt_tokens);
    return size - (sequence->num_tokens + shift) % size;
}

/* Plans that pass. Blocks of nothing but padding need none. Returns how many tokens it runs, 0 if
 * there is no pass left. */
static size_t plan_padded_prefill(fb_sequence *sequence) {
    size_t count = 0;
    while (count == 0 && fb_sequence_prefill_left(sequence) > 0) {
        size_t num_tokens = padded_prefill_size(sequence);
        count = fb_loop_plan_prefill(sequence, num_tokens);
        if (count == 0)
            fb_sequence_prefilled(sequence, num_tokens);
    }
    return count;
}

/* The token behind a prompt of whole blocks, or behind a block that was committed: the most
 * probable by the last row of the pass. */
static fb_status take_next(fb_batch *g, size_t index, size_t num_rows) {
    fb_slot *slot = &g->slots.slots[index];
    const fb_sampler greedy = {.top_p = 1.0, .banned_token = -1};
    fb_proposal next;
    const float *row = g->slots.slots[index].logits + (num_rows - 1) * g->vocab_size;
    fb_status status = fb_sampler_propose(&greedy, row, g->vocab_size, 0.0, NULL, NULL, &next);
    if (status != FB_OK)
        return fb_fail_in(status, "prompt %zu, the token behind position %zu", slot->prompt,
                          slot->sequence->num_tokens);
    fb_sequence_set_next(slot->sequence, next.token);
    return FB_OK;
}

/* A sequence that fails ends; the others go on. */
static void keep_failure(fb_batch *g, size_t index, fb_status status) {
    fb_slot *slot = &g->slots.slots[index];
    if (status == FB_OK)
        return;
    slot->failure = status;
    snprintf(slot->message, sizeof slot->message, "%s", fb_error_message());
    fb_sequence_cancel(slot->sequence);
}

static fb_status finish_prefill(fb_batch *g, size_t index, size_t num_tokens) {
    fb_slot *slot = &g->slots.slots[index];
    fb_sequence *sequence = slot->sequence;
    FB_TRY(fb_kv_cache_commit(slot->kv, num_tokens));
    if (sequence->padded)
        num_tokens = padded_prefill_size(sequence);
    bool last = fb_sequence_prefill_left(sequence) == num_tokens;
    bool whole = sequence->num_tokens + num_tokens == sequence->num_prompt_tokens;
    if (last && whole && fb_loop_wants_next(sequence->schedule)) {
        sequence->num_tokens += num_tokens; /* where the next token goes */
        fb_status status = take_next(g, index, num_tokens);
        sequence->num_tokens -= num_tokens;
        FB_TRY(status);
    }
    fb_sequence_prefilled(sequence, num_tokens);
    return FB_OK;
}

/* The next whole blocks of a slot's prompt, `room` tokens if there is room for a block. Returns
 * their number, 0 where the prompt is read. */
static size_t plan_prefill(fb_batch *g, size_t index, size_t room, size_t count) {
    const fb_slot *slot = &g->slots.slots[index];
    const fb_schedule *schedule = slot->sequence->schedule;
    size_t left = fb_sequence_prefill_left(slot->sequence);
    if (left == 0 || slot->sequence->status == FB_SEQUENCE_FINISHED)
        return 0;
    size_t shift = fb_loop_prefill_shift(schedule, slot->sequence->num_prompt_tokens);
    bool wants_next = fb_loop_wants_next(schedule), padded = slot->sequence->padded;
    size_t num_tokens = padded ? plan_padded_prefill(slot->sequence)
                               : prefill_size(slot->sequence, shift, left, room);
    if (num_tokens == 0)
        return 0;
    g->pass_slots[count] = index;
    g->forwards[count] = (fb_forward){
        .struct_size = sizeof(fb_forward),
        .tokens = padded ? slot->sequence->commit_tokens
                         : slot->sequence->tokens + slot->sequence->num_tokens,
        .num_tokens = num_tokens,
        .kv = slot->kv,
        .prefill_block = padded ? 0 : schedule->block_size,
        .prefill_shift = padded ? 0 : shift,
        .action = FB_REFRESH_ONLY,
        .compat = slot->settings->compat,
        .logits = wants_next && num_tokens == left ? slot->logits : NULL,
    };
    return num_tokens;
}

fb_status fb_batch_prefill(fb_batch *g, size_t room, bool *done) {
    size_t count = 0;
    for (size_t i = 0; i < g->slots.num_active && room > 0; i++) {
        size_t num_tokens = plan_prefill(g, i, room, count);
        count += num_tokens > 0;
        room -= num_tokens < room ? num_tokens : room;
    }
    *done = count == 0;
    if (count == 0)
        return FB_OK;
    FB_TRY(fb_model_forward(g->model, g->forwards, count, &g->times.prefill));
    g->times.prefill_passes++;
    for (size_t pass = 0; pass < count; pass++)
        keep_failure(g, g->pass_slots[pass],
                     finish_prefill(g, g->pass_slots[pass], g->forwards[pass].num_tokens));
    return FB_OK;
}

/* Subtracts repeat_penalty from the logit of the token to the left. */
static void penalise(const fb_batch *g, const fb_slot *slot, float *logits) {
    const fb_sequence *sequence = slot->sequence;
    float penalty = (float)slot->settings->options.repeat_penalty;
    for (size_t i = 1; i < sequence->block_length && penalty != 0.0f; i++)
        logits[i * g->vocab_size + (size_t)sequence->block[i - 1]] -= penalty;
}

/* The row of the pass's logits that decides position i of the block. */
static size_t row_of(const fb_sequence *sequence, size_t position) {
    size_t first = sequence->whole_pass ? 0 : sequence->first_decided;
    bool shifted = fb_loop_wants_next(sequence->schedule) && position > first;
    return position - first - (shifted ? 1 : 0);
}

/* Proposals of the positions of a slot's block that this step decides. */
static fb_status propose(fb_batch *g, size_t index) {
    const fb_slot *slot = &g->slots.slots[index];
    const fb_sequence *sequence = slot->sequence;
    size_t size = sequence->schedule->block_size;
    size_t first = sequence->first_decided, count = sequence->num_decided;
    if (!fb_loop_is_other(sequence->schedule)) {
        first = 0;
        count = size;
    }
    float *logits = g->slots.slots[index].logits;
    penalise(g, slot, logits);
    for (size_t i = 0; i < size; i++) {
        g->proposals.uniform[i] =
            fb_random_uniform(slot->settings->seed, 0, (uint32_t)sequence->num_blocks,
                              (uint32_t)sequence->denoising_step, (uint32_t)i);
        g->proposed[i] = sequence->block[i];
        g->confidence[i] = g->entropy[i] = 0.0f;
    }
    size_t failed = 0, from = row_of(sequence, first);
    size_t rows = row_of(sequence, first + count - 1) - from + 1;
    g->proposals.num_rows = rows;
    fb_status status = fb_proposals_make(&g->proposals, &slot->settings->sampler,
                                         logits + from * g->vocab_size, &failed);
    if (status != FB_OK)
        return fb_fail_in(status, "prompt %zu, position %zu", slot->prompt,
                          sequence->num_tokens + first + failed);
    for (size_t i = first; i < first + count; i++) {
        const fb_proposal *row = &g->proposals.rows[row_of(sequence, i) - from];
        g->proposed[i] = row->token;
        g->confidence[i] = row->confidence;
        g->entropy[i] = row->entropy;
    }
    return FB_OK;
}

/* The event of a pass, as far as it is known before the result changes the sequence. */
static fb_step_event begin_event(fb_batch *g, size_t index) {
    const fb_slot *slot = &g->slots.slots[index];
    const fb_sequence *sequence = slot->sequence;
    size_t size = sequence->block_length;
    bool other = fb_loop_is_other(sequence->schedule), part = other && !sequence->whole_pass;
    memcpy(g->before, sequence->block, size * sizeof *g->before);
    memcpy(g->masked_before, sequence->masked, size * sizeof *g->masked_before);
    return (fb_step_event){
        .sequence = slot->prompt,
        .slot = index,
        .block = sequence->num_blocks,
        .context_length = sequence->num_tokens,
        .commit = sequence->status == FB_SEQUENCE_COMMIT,
        .denoising_step = sequence->denoising_step,
        .sequence_step = sequence->sequence_step,
        .action = sequence->action,
        .dirty_before = sequence->dirty_tokens,
        .external_rows = sequence->external_rows,
        .block_size = size,
        .before = g->before,
        .after = g->after,
        .masked_before = g->masked_before,
        .masked_after = g->masked_after,
        .accepted = g->accepted,
        .kv = slot->kv,
        .parts = slot->parts,
        .sparse = slot->sparse,
        .edited = sequence->edited,
        .first_row = part ? sequence->first_decided : 0,
        .num_rows = part ? sequence->num_decided : size,
        .first_decided = other ? sequence->first_decided : 0,
        .num_decided = other ? sequence->num_decided : size,
    };
}

static void report(fb_batch *g, size_t index, fb_step_event *event) {
    const fb_generate_options *options = &g->slots.slots[index].settings->options;
    fb_sequence *sequence = g->slots.slots[index].sequence;
    event->dirty_after = sequence->dirty_tokens;
    event->completion = sequence->tokens + sequence->num_prompt_tokens;
    event->num_completion = fb_sequence_num_completion(sequence);
    event->finished = sequence->status == FB_SEQUENCE_FINISHED;
    event->finish_reason = sequence->finish_reason;
    if (options->on_step == NULL || options->on_step(options->user, event))
        return;
    if (g->together)
        g->cancelled = true;
    else if (!event->finished)
        fb_sequence_cancel(sequence);
}

static fb_status finish_denoising(fb_batch *g, size_t index) {
    fb_sequence *sequence = g->slots.slots[index].sequence;
    const fb_sampler *sampler = &g->slots.slots[index].settings->sampler;
    size_t size = sequence->block_length, before = fb_sequence_num_completion(sequence);
    fb_step_event event = begin_event(g, index);
    FB_TRY(propose(g, index));
    event.num_accepted =
        fb_sequence_accept(sequence, g->proposed, g->confidence, g->entropy, g->accepted);
    memcpy(g->after, sequence->block, size * sizeof *g->after);
    memcpy(g->masked_after, sequence->masked, size * sizeof *g->masked_after);
    size_t completion = fb_sequence_num_completion(sequence);
    event.num_new = completion > before ? completion - before : 0;
    event.num_edited = sequence->num_edited;
    event.proposed = g->proposed;
    event.confidence = g->confidence;
    event.logits = g->slots.slots[index].logits;
    event.entropy = sampler->with_entropy ? g->entropy : NULL;
    event.uniform = fb_sampler_draws(sampler) ? g->proposals.uniform : NULL;
    report(g, index, &event);
    return FB_OK;
}

static fb_status finish_commit(fb_batch *g, size_t index) {
    fb_slot *slot = &g->slots.slots[index];
    fb_sequence *sequence = slot->sequence;
    size_t size = sequence->block_length, committed = size;
    memset(sequence->edited, 0, sequence->schedule->block_size * sizeof *sequence->edited);
    fb_step_event event = begin_event(g, index);
    memcpy(g->after, g->before, size * sizeof *g->after);
    memcpy(g->masked_after, g->masked_before, size * sizeof *g->masked_after);
    memset(g->accepted, 0, size * sizeof *g->accepted);
    if (fb_loop_is_other(sequence->schedule))
        committed = sequence->num_commit_tokens;
    if (fb_loop_wants_next(sequence->schedule))
        FB_TRY(take_next(g, index, size));
    FB_TRY(fb_kv_cache_commit(slot->kv, committed));
    event.num_new = fb_sequence_commit(sequence);
    report(g, index, &event);
    return FB_OK;
}

/* fb_forward.on_attention: says which block and step it is. Forward passes of a decode pass are in
 * the order of slots. */
static void show_attention(void *user, const fb_attention_event *attention) {
    const fb_batch *g = user;
    size_t index = g->pass_slots[attention->sequence];
    const fb_slot *slot = &g->slots.slots[index];
    const fb_sequence *sequence = slot->sequence;
    const fb_generate_options *options = &slot->settings->options;
    fb_generate_attention_event event = {
        .sequence = slot->prompt,
        .slot = index,
        .block = sequence->num_blocks,
        .context_length = sequence->num_tokens,
        .commit = sequence->status == FB_SEQUENCE_COMMIT,
        .denoising_step = sequence->denoising_step,
        .attention = attention,
    };
    options->on_attention(options->user, &event);
}

/* What loops of other models run: whole blocks of their own length, a sub-block, what is not
 * padding of a finished block. False: there is nothing to run. */
static bool change_pass(const fb_batch *g, size_t index, const fb_plan *plan, fb_forward *forward) {
    const fb_sequence *sequence = g->slots.slots[index].sequence;
    forward->num_tokens = sequence->block_length;
    if (plan->commit) {
        forward->tokens = sequence->commit_tokens;
        forward->num_tokens = sequence->num_commit_tokens;
        if (fb_loop_wants_next(sequence->schedule))
            forward->logits = g->slots.slots[index].logits;
    } else if (!sequence->whole_pass) {
        forward->tokens += sequence->first_decided;
        forward->num_tokens = sequence->num_decided;
        forward->block_first = sequence->first_decided;
        forward->block_length = sequence->block_length;
    }
    return forward->num_tokens > 0;
}

/* Adds the pass of a slot to the `count` ones that there are. */
static void plan_pass(fb_batch *g, size_t index, size_t *count) {
    fb_slot *slot = &g->slots.slots[index];
    const fb_generate_options *options = &slot->settings->options;
    fb_plan plan = fb_sequence_plan(slot->sequence);
    if (slot->sparse != NULL) {
        fb_sparse_step step = {
            .prompt_length = slot->sequence->num_prompt_tokens,
            .block = slot->sequence->num_blocks,
            .denoising_step = slot->sequence->denoising_step,
            .denoising_steps = options->denoising_steps,
        };
        fb_sparse_begin(slot->sparse, &step);
    }
    fb_forward *forward = &g->forwards[*count];
    *forward = (fb_forward){
        .struct_size = sizeof(fb_forward),
        .tokens = slot->sequence->block,
        .num_tokens = options->block_size,
        .kv = slot->kv,
        .action = plan.action,
        .refresh_rows = plan.refresh_rows,
        .compat = slot->settings->compat,
        .parts = slot->parts,
        .sparse = slot->sparse,
        .logits = plan.commit ? NULL : g->slots.slots[index].logits,
        .on_attention = options->on_attention ? show_attention : NULL,
        .user = g,
    };
    if (fb_loop_is_other(&slot->settings->schedule) && !change_pass(g, index, &plan, forward))
        return;
    g->pass_slots[(*count)++] = index;
}

/* Whether the next pass decodes the slot's sequence. It may have finished before its first block,
 * and its prompt may not be read yet. */
static bool is_decoding(const fb_batch *g, size_t index) {
    fb_sequence_status status = g->slots.slots[index].sequence->status;
    return status == FB_SEQUENCE_DENOISING || status == FB_SEQUENCE_COMMIT;
}

static fb_status finish(fb_batch *g, size_t index) {
    bool commit = g->slots.slots[index].sequence->status == FB_SEQUENCE_COMMIT;
    return commit ? finish_commit(g, index) : finish_denoising(g, index);
}

fb_status fb_batch_decode(fb_batch *g) {
    size_t count = 0;
    for (size_t i = 0; i < g->slots.num_active; i++)
        if (is_decoding(g, i))
            plan_pass(g, i, &count);
    if (count > 0) {
        FB_TRY(fb_model_forward(g->model, g->forwards, count, &g->times.decode));
        g->times.decode_passes++;
    }
    for (size_t i = 0; i < g->slots.num_active && !g->cancelled; i++)
        if (is_decoding(g, i))
            keep_failure(g, i, finish(g, i));
    return FB_OK;
}

/* --- who is in it ----------------------------------------------------------------------------- */

size_t fb_batch_num_free(const fb_batch *g) {
    return g->slots.num_slots - g->slots.num_active;
}

size_t fb_batch_num_active(const fb_batch *g) {
    return g->slots.num_active;
}

const fb_slot *fb_batch_slot(const fb_batch *g, size_t index) {
    return &g->slots.slots[index];
}

void fb_batch_cancel(fb_batch *g, size_t index) {
    fb_sequence *sequence = g->slots.slots[index].sequence;
    if (sequence->status != FB_SEQUENCE_FINISHED)
        fb_sequence_cancel(sequence);
}

bool fb_batch_is_cancelled(const fb_batch *g) {
    return g->cancelled;
}

void fb_batch_retire(fb_batch *g) {
    fb_slots_retire(&g->slots);
}

const fb_batch_times *fb_batch_times_of(const fb_batch *g) {
    return &g->times;
}

void fb_batch_add_sparse(const fb_batch *g, fb_sparse_counts *sum) {
    fb_sparse_counts_add(sum, &g->sparse);
    for (size_t i = 0; i < g->slots.num_slots; i++)
        if (g->slots.slots[i].sparse != NULL)
            fb_sparse_counts_add(sum, fb_sparse_counts_of(g->slots.slots[i].sparse));
}

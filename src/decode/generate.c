/* The decoding loop: slots, forward passes, proposals; what each pass means is in schedule.c. */
#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/sized.h"
#include "decode/generate_options.h"
#include "decode/generation.h"
#include "decode/loop.h"
#include "decode/proposals.h"
#include "decode/schedule.h"
#include "decode/slots.h"

#include <flashblock/experimental/rows.h>
#include <flashblock/experimental/sparse.h>

#include <string.h>

/* Buffers of one call of fb_generate. Rows of different slots are block_size apart. */
typedef struct generator {
    fb_model *model;
    size_t vocab_size;
    fb_generate_options options; /* zeros replaced by what they stand for */
    fb_schedule schedule;
    fb_sampler sampler;
    fb_slots slots;
    fb_compat compat;       /* the paper's, for other models' loops */
    fb_forward *forwards;   /* [max_active] */
    size_t *pass_slots;     /* [max_active] of each forward pass */
    float *logits;          /* [max_active, block_size, vocab_size] */
    fb_proposals proposals; /* of a block */
    int32_t *proposed;      /* [block_size], as all that follow */
    float *confidence, *entropy;
    bool *accepted, *masked_before, *masked_after;
    int32_t *before, *after;
    fb_generation *generation;
    bool cancelled;
} generator;

static fb_status allocate_buffers(generator *g, size_t num_slots) {
    size_t size = g->options.block_size, rows;
    if (!fb_size_mul(num_slots, size, &rows) || !fb_size_mul(rows, sizeof(float), &rows))
        return fb_fail(FB_ERROR_ARGUMENT, "block_size is %zu, more than fits memory", size);
    FB_TRY(fb_slots_create(num_slots, &g->slots));
    FB_TRY(fb_alloc_zeroed(num_slots, sizeof *g->forwards, "forward passes", &g->forwards));
    FB_TRY(fb_alloc(num_slots, sizeof *g->pass_slots, "forward passes", &g->pass_slots));
    FB_TRY(fb_alloc(rows, g->vocab_size, "logits", &g->logits));
    FB_TRY(fb_proposals_create(size, g->vocab_size, &g->proposals));
    FB_TRY(fb_alloc(size, sizeof(int32_t), "proposals", &g->proposed));
    FB_TRY(fb_alloc(size, sizeof(float), "confidences", &g->confidence));
    FB_TRY(fb_alloc(size, sizeof(float), "entropies", &g->entropy));
    FB_TRY(fb_alloc_zeroed(size, sizeof(bool), "acceptances", &g->accepted));
    FB_TRY(fb_alloc_zeroed(size, sizeof(bool), "masks", &g->masked_before));
    FB_TRY(fb_alloc_zeroed(size, sizeof(bool), "masks", &g->masked_after));
    FB_TRY(fb_alloc(size, sizeof(int32_t), "block", &g->before));
    return fb_alloc(size, sizeof(int32_t), "block", &g->after);
}

static void free_buffers(generator *g) {
    fb_slots_destroy(&g->slots);
    fb_free(g->forwards);
    fb_free(g->pass_slots);
    fb_free(g->logits);
    fb_proposals_free(&g->proposals);
    fb_free(g->proposed);
    fb_free(g->confidence);
    fb_free(g->entropy);
    fb_free(g->accepted);
    fb_free(g->masked_before);
    fb_free(g->masked_after);
    fb_free(g->before);
    fb_free(g->after);
}

/* The KV cache of a slot's new sequence: the one that was given for its prompt, or the slot's own,
 * which is made at its first sequence and emptied at later ones. */
static fb_status prepare_kv(generator *g, fb_slot *slot) {
    fb_kv_cache *given = g->options.kv_caches ? g->options.kv_caches[slot->prompt] : NULL;
    if (given != NULL) {
        slot->kv = given;
        fb_sequence_keep(slot->sequence, fb_kv_cache_length(given));
        return FB_OK;
    }
    if (slot->own_kv == NULL)
        FB_TRY(fb_model_new_kv_cache(g->model, g->options.kv_dtype, &slot->own_kv));
    slot->kv = slot->own_kv;
    return fb_kv_cache_truncate(slot->kv, 0);
}

static fb_status make_reuse_caches(generator *g, fb_slot *slot) {
    if (g->options.sparse != NULL)
        return fb_model_new_sparse(g->model, g->options.sparse, g->options.block_size,
                                   &slot->sparse);
    if (g->options.reuse.tau > 0)
        FB_TRY(fb_model_new_part_cache(g->model, g->options.block_size, &slot->parts));
    if (g->options.reuse.correction)
        return fb_part_cache_enable_correction(slot->parts);
    return FB_OK;
}

/* Caches of a slot that a new sequence takes. In the engine the block-external part of the one
 * before stays. */
static fb_status prepare_caches(generator *g, fb_slot *slot) {
    FB_TRY(prepare_kv(g, slot));
    if (slot->parts == NULL && slot->sparse == NULL)
        return make_reuse_caches(g, slot);
    if (slot->parts != NULL && g->compat == FB_COMPAT_PAPER)
        fb_part_cache_invalidate(slot->parts);
    if (slot->sparse != NULL)
        fb_sparse_reset(slot->sparse);
    return FB_OK;
}

static fb_status admit(generator *g, const fb_prompt *prompts, size_t num_prompts) {
    size_t first = g->slots.num_active;
    FB_TRY(fb_slots_admit(&g->slots, &g->schedule, prompts, num_prompts));
    for (size_t i = first; i < g->slots.num_active; i++)
        FB_TRY(prepare_caches(g, &g->slots.slots[i]));
    return FB_OK;
}

static float *slot_logits(const generator *g, size_t slot) {
    return g->logits + slot * g->options.block_size * g->vocab_size;
}

/* Tokens of one pass of a prompt, `left` of which are not read: whole blocks, `room` tokens at most
 * but at least one block. A loop that wants the last row's logits reads the last block alone. */
static size_t prefill_size(const generator *g, const fb_sequence *sequence, size_t shift,
                           size_t left, size_t room) {
    size_t size = g->options.block_size;
    if (fb_loop_wants_next(&g->schedule))
        left = left > size ? left - size : left;
    if (left <= room)
        return left;
    size_t end = (sequence->num_tokens + shift + room) / size * size;
    size_t begin = sequence->num_tokens + shift;
    return end > begin ? end - begin : size - begin % size;
}

/* The token behind a prompt of whole blocks, or behind a block that was committed: the most
 * probable by the last row of the pass. */
static fb_status take_next(generator *g, size_t index, size_t num_rows) {
    fb_slot *slot = &g->slots.slots[index];
    const fb_sampler greedy = {.top_p = 1.0, .banned_token = -1};
    fb_proposal next;
    const float *row = slot_logits(g, index) + (num_rows - 1) * g->vocab_size;
    fb_status status = fb_sampler_propose(&greedy, row, g->vocab_size, 0.0, NULL, NULL, &next);
    if (status != FB_OK)
        return fb_fail_in(status, "prompt %zu, the token behind position %zu", slot->prompt,
                          slot->sequence->num_tokens);
    fb_sequence_set_next(slot->sequence, next.token);
    return FB_OK;
}

static fb_status finish_prefill(generator *g, size_t index, size_t num_tokens) {
    fb_slot *slot = &g->slots.slots[index];
    fb_sequence *sequence = slot->sequence;
    FB_TRY(fb_kv_cache_commit(slot->kv, num_tokens));
    bool last = fb_sequence_prefill_left(sequence) == num_tokens;
    bool whole = sequence->num_tokens + num_tokens == sequence->num_prompt_tokens;
    if (last && whole && fb_loop_wants_next(&g->schedule)) {
        sequence->num_tokens += num_tokens; /* where the next token goes */
        fb_status status = take_next(g, index, num_tokens);
        sequence->num_tokens -= num_tokens;
        FB_TRY(status);
    }
    fb_sequence_prefilled(sequence, num_tokens);
    return FB_OK;
}

/* One forward pass over as many whole blocks of waiting prompts as prefill_chunk allows. Sets
 * *done when no prompt is waiting. */
static fb_status prefill_pass(generator *g, bool *done) {
    size_t room = g->options.prefill_chunk, count = 0;
    bool wants_next = fb_loop_wants_next(&g->schedule);
    for (size_t i = 0; i < g->slots.num_active && room > 0; i++) {
        fb_slot *slot = &g->slots.slots[i];
        size_t left = fb_sequence_prefill_left(slot->sequence);
        if (left == 0)
            continue;
        size_t shift = fb_loop_prefill_shift(&g->schedule, slot->sequence->num_prompt_tokens);
        size_t num_tokens = prefill_size(g, slot->sequence, shift, left, room);
        g->pass_slots[count] = i;
        g->forwards[count++] = (fb_forward){
            .struct_size = sizeof(fb_forward),
            .tokens = slot->sequence->tokens + slot->sequence->num_tokens,
            .num_tokens = num_tokens,
            .kv = slot->kv,
            .prefill_block = g->options.block_size,
            .prefill_shift = shift,
            .action = FB_REFRESH_ONLY,
            .compat = g->compat,
            .logits = wants_next && num_tokens == left ? slot_logits(g, i) : NULL,
        };
        room -= num_tokens < room ? num_tokens : room;
    }
    *done = count == 0;
    if (count == 0)
        return FB_OK;
    FB_TRY(fb_model_forward(g->model, g->forwards, count, &g->generation->stats.prefill));
    g->generation->stats.prefill_passes++;
    for (size_t pass = 0; pass < count; pass++)
        FB_TRY(finish_prefill(g, g->pass_slots[pass], g->forwards[pass].num_tokens));
    return FB_OK;
}

/* Subtracts repeat_penalty from the logit of the token to the left. */
static void penalise(generator *g, const fb_sequence *sequence, float *logits) {
    float penalty = (float)g->options.repeat_penalty;
    for (size_t i = 1; i < sequence->block_length && penalty != 0.0f; i++)
        logits[i * g->vocab_size + (size_t)sequence->block[i - 1]] -= penalty;
}

/* The row of the pass's logits that decides position i of the block. */
static size_t row_of(const generator *g, const fb_sequence *sequence, size_t position) {
    size_t first = sequence->whole_pass ? 0 : sequence->first_decided;
    bool shifted = fb_loop_wants_next(&g->schedule) && position > first;
    return position - first - (shifted ? 1 : 0);
}

/* Proposals of the positions of a slot's block that this step decides. */
static fb_status propose(generator *g, size_t index) {
    const fb_slot *slot = &g->slots.slots[index];
    const fb_sequence *sequence = slot->sequence;
    uint64_t seed = g->options.seeds ? g->options.seeds[slot->prompt] : g->options.seed;
    size_t first = sequence->first_decided, count = sequence->num_decided;
    if (!fb_loop_is_other(&g->schedule)) {
        first = 0;
        count = g->options.block_size;
    }
    float *logits = slot_logits(g, index);
    penalise(g, sequence, logits);
    for (size_t i = 0; i < g->options.block_size; i++) {
        g->proposals.uniform[i] =
            fb_random_uniform(seed, 0, (uint32_t)sequence->num_blocks,
                              (uint32_t)sequence->denoising_step, (uint32_t)i);
        g->proposed[i] = sequence->block[i];
        g->confidence[i] = g->entropy[i] = 0.0f;
    }
    size_t failed = 0, from = row_of(g, sequence, first);
    size_t rows = row_of(g, sequence, first + count - 1) - from + 1;
    g->proposals.num_rows = rows;
    fb_status status =
        fb_proposals_make(&g->proposals, &g->sampler, logits + from * g->vocab_size, &failed);
    if (status != FB_OK)
        return fb_fail_in(status, "prompt %zu, position %zu", slot->prompt,
                          sequence->num_tokens + first + failed);
    for (size_t i = first; i < first + count; i++) {
        const fb_proposal *row = &g->proposals.rows[row_of(g, sequence, i) - from];
        g->proposed[i] = row->token;
        g->confidence[i] = row->confidence;
        g->entropy[i] = row->entropy;
    }
    return FB_OK;
}

/* The event of a pass, as far as it is known before the result changes the sequence. */
static fb_step_event begin_event(generator *g, size_t index) {
    const fb_slot *slot = &g->slots.slots[index];
    const fb_sequence *sequence = slot->sequence;
    size_t size = sequence->block_length;
    bool other = fb_loop_is_other(&g->schedule), part = other && !sequence->whole_pass;
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

static void report(generator *g, size_t index, fb_step_event *event) {
    const fb_sequence *sequence = g->slots.slots[index].sequence;
    event->dirty_after = sequence->dirty_tokens;
    event->completion = sequence->tokens + sequence->num_prompt_tokens;
    event->num_completion = fb_sequence_num_completion(sequence);
    event->finished = sequence->status == FB_SEQUENCE_FINISHED;
    event->finish_reason = sequence->finish_reason;
    if (g->options.on_step != NULL && !g->options.on_step(g->options.user, event))
        g->cancelled = true;
}

static fb_status finish_denoising(generator *g, size_t index) {
    fb_sequence *sequence = g->slots.slots[index].sequence;
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
    event.logits = slot_logits(g, index);
    event.entropy = g->sampler.with_entropy ? g->entropy : NULL;
    event.uniform = fb_sampler_draws(&g->sampler) ? g->proposals.uniform : NULL;
    report(g, index, &event);
    return FB_OK;
}

static fb_status finish_commit(generator *g, size_t index) {
    fb_slot *slot = &g->slots.slots[index];
    fb_sequence *sequence = slot->sequence;
    size_t size = sequence->block_length, committed = size;
    memset(sequence->edited, 0, g->options.block_size * sizeof *sequence->edited);
    fb_step_event event = begin_event(g, index);
    memcpy(g->after, g->before, size * sizeof *g->after);
    memcpy(g->masked_after, g->masked_before, size * sizeof *g->masked_after);
    memset(g->accepted, 0, size * sizeof *g->accepted);
    if (fb_loop_is_other(&g->schedule))
        committed = sequence->num_commit_tokens;
    if (fb_loop_wants_next(&g->schedule))
        FB_TRY(take_next(g, index, size));
    FB_TRY(fb_kv_cache_commit(slot->kv, committed));
    event.num_new = fb_sequence_commit(sequence);
    report(g, index, &event);
    return FB_OK;
}

/* fb_forward.on_attention: says which block and step it is. Forward passes of a decode pass are in
 * the order of slots. */
static void show_attention(void *user, const fb_attention_event *attention) {
    const generator *g = user;
    size_t index = g->pass_slots[attention->sequence];
    const fb_slot *slot = &g->slots.slots[index];
    const fb_sequence *sequence = slot->sequence;
    fb_generate_attention_event event = {
        .sequence = slot->prompt,
        .slot = index,
        .block = sequence->num_blocks,
        .context_length = sequence->num_tokens,
        .commit = sequence->status == FB_SEQUENCE_COMMIT,
        .denoising_step = sequence->denoising_step,
        .attention = attention,
    };
    g->options.on_attention(g->options.user, &event);
}

/* What loops of other models run: whole blocks of their own length, a sub-block, what is not
 * padding of a finished block. False: there is nothing to run. */
static bool change_pass(const generator *g, size_t index, const fb_plan *plan,
                        fb_forward *forward) {
    const fb_sequence *sequence = g->slots.slots[index].sequence;
    forward->num_tokens = sequence->block_length;
    if (plan->commit) {
        forward->tokens = sequence->commit_tokens;
        forward->num_tokens = sequence->num_commit_tokens;
        if (fb_loop_wants_next(&g->schedule))
            forward->logits = slot_logits(g, index);
    } else if (!sequence->whole_pass) {
        forward->tokens += sequence->first_decided;
        forward->num_tokens = sequence->num_decided;
        forward->block_first = sequence->first_decided;
        forward->block_length = sequence->block_length;
    }
    return forward->num_tokens > 0;
}

/* Adds the pass of a slot to the `count` ones that there are. */
static void plan_pass(generator *g, size_t index, size_t *count) {
    fb_slot *slot = &g->slots.slots[index];
    fb_plan plan = fb_sequence_plan(slot->sequence);
    if (slot->sparse != NULL) {
        fb_sparse_step step = {
            .prompt_length = slot->sequence->num_prompt_tokens,
            .block = slot->sequence->num_blocks,
            .denoising_step = slot->sequence->denoising_step,
            .denoising_steps = g->options.denoising_steps,
        };
        fb_sparse_begin(slot->sparse, &step);
    }
    fb_forward *forward = &g->forwards[*count];
    *forward = (fb_forward){
        .struct_size = sizeof(fb_forward),
        .tokens = slot->sequence->block,
        .num_tokens = g->options.block_size,
        .kv = slot->kv,
        .action = plan.action,
        .refresh_rows = plan.refresh_rows,
        .compat = g->compat,
        .parts = slot->parts,
        .sparse = slot->sparse,
        .logits = plan.commit ? NULL : slot_logits(g, index),
        .on_attention = g->options.on_attention ? show_attention : NULL,
        .user = g,
    };
    if (fb_loop_is_other(&g->schedule) && !change_pass(g, index, &plan, forward))
        return;
    g->pass_slots[(*count)++] = index;
}

static bool is_finished(const generator *g, size_t index) {
    return g->slots.slots[index].sequence->status == FB_SEQUENCE_FINISHED;
}

/* One forward pass over the blocks of all active sequences, and what follows from it. A sequence
 * may have finished before its first block. */
static fb_status decode_pass(generator *g) {
    size_t count = 0;
    for (size_t i = 0; i < g->slots.num_active; i++)
        if (!is_finished(g, i))
            plan_pass(g, i, &count);
    if (count > 0) {
        FB_TRY(fb_model_forward(g->model, g->forwards, count, &g->generation->stats.decode));
        g->generation->stats.decode_passes++;
    }
    for (size_t i = 0; i < g->slots.num_active && !g->cancelled; i++) {
        if (is_finished(g, i))
            continue;
        if (g->slots.slots[i].sequence->status == FB_SEQUENCE_COMMIT)
            FB_TRY(finish_commit(g, i));
        else
            FB_TRY(finish_denoising(g, i));
    }
    return FB_OK;
}

/* The results of finished sequences. */
static fb_status collect(generator *g) {
    for (size_t i = 0; i < g->slots.num_active; i++) {
        const fb_slot *slot = &g->slots.slots[i];
        const fb_sequence *sequence = slot->sequence;
        if (sequence->status != FB_SEQUENCE_FINISHED)
            continue;
        FB_TRY(fb_generation_take(g->generation, slot->prompt,
                                  sequence->tokens + sequence->num_prompt_tokens,
                                  sequence->unmask_step, fb_sequence_num_completion(sequence),
                                  sequence->finish_reason, &sequence->counts));
    }
    return FB_OK;
}

/* Sequences that are running end where they are; the rest keeps its empty result. */
static void cancel(generator *g) {
    for (size_t i = 0; i < g->slots.num_active; i++)
        if (g->slots.slots[i].sequence->status != FB_SEQUENCE_FINISHED)
            fb_sequence_cancel(g->slots.slots[i].sequence);
}

static bool goes_on(generator *g) {
    if (!g->cancelled && g->options.is_cancelled != NULL)
        g->cancelled = g->options.is_cancelled(g->options.user);
    return !g->cancelled;
}

static fb_status run(generator *g, const fb_prompt *prompts, size_t num_prompts) {
    for (;;) {
        FB_TRY(admit(g, prompts, num_prompts));
        if (g->slots.num_active == 0)
            return FB_OK;
        for (bool done = false; !done && goes_on(g);)
            FB_TRY(prefill_pass(g, &done));
        if (goes_on(g))
            FB_TRY(decode_pass(g));
        if (g->cancelled)
            cancel(g);
        FB_TRY(collect(g));
        if (g->cancelled)
            return FB_OK;
        fb_slots_retire(&g->slots);
    }
}

static fb_status generate(generator *g, const fb_prompt *prompts, size_t num_prompts) {
    size_t max_active = g->options.max_active;
    FB_TRY(fb_generation_create(num_prompts, &g->generation));
    FB_TRY(allocate_buffers(g, max_active < num_prompts ? max_active : num_prompts));
    return run(g, prompts, num_prompts);
}

fb_status fb_generate(fb_model *model, const fb_prompt *prompts, size_t num_prompts,
                      const fb_generate_options *options, fb_generation **generation) {
    if (model == NULL || options == NULL || generation == NULL)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL",
                       model == NULL     ? "model"
                       : options == NULL ? "options"
                                         : "generation");
    double start = fb_seconds();
    const fb_model_config *config = fb_model_config_of(model);
    generator g = {.model = model, .vocab_size = config->vocab_size};
    fb_generate_options_init(&g.options);
    FB_TRY(fb_sized_read(&g.options, sizeof g.options, options, "options"));
    FB_TRY(fb_generate_options_resolve(config, &g.options));
    fb_prompt *checked;
    FB_TRY(fb_generate_prompts(config, &g.options, prompts, num_prompts, &checked));
    g.schedule = fb_generate_schedule(config, &g.options);
    g.sampler = fb_generate_sampler(&g.options);
    g.compat = fb_loop_is_other(&g.schedule) ? FB_COMPAT_PAPER : g.options.compat;
    fb_status status = fb_generate_kv_caches(config, &g.options, checked, num_prompts);
    if (status == FB_OK)
        status = generate(&g, checked, num_prompts);
    for (size_t i = 0; i < g.slots.num_slots && status == FB_OK; i++)
        if (g.slots.slots[i].sparse != NULL) {
            fb_generation_add_sparse(g.generation, fb_sparse_counts_of(g.slots.slots[i].sparse));
        }
    free_buffers(&g);
    fb_free(checked);
    if (status != FB_OK) {
        fb_generation_destroy(g.generation);
        return status;
    }
    g.generation->stats.seconds = fb_seconds() - start;
    *generation = g.generation;
    return FB_OK;
}

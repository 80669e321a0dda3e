/* The schedule without a model. Replays every trace of the engine's scheduler (golden/paper/sched:
 * proposals and confidences are inputs, decisions are compared one by one), and runs random scripts
 * against what must hold for any. */
#include "golden_case.h"
#include "golden_list.h"
#include "numbers.h"
#include "schedule.h"
#include "slots.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <string.h>

enum { MAX_BLOCK = 32, MAX_SLOTS = 8, MAX_PROMPTS = 8, MAX_STOPS = 8 };

/* --- golden traces ---------------------------------------------------------------------------- */

/* A recorded history belongs to a sequence and a block. */
typedef struct history_tag {
    const fb_part_cache *slot;
    size_t prompt, context_length;
} history_tag;

typedef struct replay {
    golden_case *c;
    fb_schedule schedule;
    fb_slots slots;
    int32_t stops[MAX_STOPS];
    fb_prompt prompts[MAX_PROMPTS];
    size_t num_prompts, num_rows, num_tokens; /* rows of the batch; vocabulary */
    size_t t, row;                            /* where the comparison is */
    history_tag tags[MAX_SLOTS];
    size_t history_reads, history_mismatches;
    const float *conf, *probs;
} replay;

static int32_t trace(replay *r, const char *field) {
    const int32_t *values = golden_i32(r->c, "trace.%s", field);
    return values[r->t * r->num_rows + r->row];
}

static const int32_t *trace_block(replay *r, const char *field) {
    const int32_t *values = golden_i32(r->c, "trace.%s", field);
    return values + (r->t * r->num_rows + r->row) * r->schedule.block_size;
}

static void expect(replay *r, const char *field, size_t value) {
    cr_assert_eq(trace(r, field), (int32_t)value, "%s: step %zu, row %zu: %s is %zu, recorded %d",
                 golden_name(r->c), r->t, r->row, field, value, trace(r, field));
}

static void expect_tokens(replay *r, const char *field, const int32_t *tokens) {
    const int32_t *recorded = trace_block(r, field);
    for (size_t i = 0; i < r->schedule.block_size; i++)
        cr_assert_eq(tokens[i], recorded[i], "%s: step %zu, row %zu: %s[%zu] is %d, recorded %d",
                     golden_name(r->c), r->t, r->row, field, i, tokens[i], recorded[i]);
}

static bool param_flag(golden_case *c, const char *object, const char *key) {
    json_t *value =
        json_object_get(object ? golden_param(c, object) : golden_json(c, "params"), key);
    return json_is_true(value) ||
           (json_is_string(value) && strcmp(json_string_value(value), "1") == 0);
}

static void read_schedule(replay *r) {
    golden_case *c = r->c;
    json_t *stop_words = golden_param(c, "stop_words");
    cr_assert_lt(json_array_size(stop_words), MAX_STOPS);
    r->stops[0] = (int32_t)json_integer_value(golden_param(c, "eos_id"));
    for (size_t i = 0; i < json_array_size(stop_words); i++)
        r->stops[i + 1] = (int32_t)json_integer_value(json_array_get(stop_words, i));
    r->schedule = (fb_schedule){
        .compat = FB_COMPAT_RELEASED,
        .reuse = {.tau = golden_size(c, "tau"),
                  .reuse_always = param_flag(c, "env", "TRADO_FORCE_DENOISE_NO_UPDATE"),
                  .reuse_at_commit = param_flag(c, "env", "TRADO_NO_FORCE_UPDATE_ON_SAVE")},
        .block_size = golden_size(c, "block_length"),
        .denoising_steps = golden_size(c, "denoising_steps"),
        .max_tokens = golden_size(c, "max_tokens"),
        .overwrite_decided = param_flag(c, "env", "TRADO_GPU_POST_SCHED_OPS") ||
                             !param_flag(c, NULL, "consistent_sampling_params"),
        .confidence_threshold = golden_real(c, "dynamic_threshold"),
        .entropy_bound = golden_real(c, "eb_threshold"),
        .mask_token = (int32_t)golden_size(c, "mask_id"),
        .stop_tokens = r->stops,
        .num_stop_tokens = 1 + json_array_size(stop_words),
        .ignore_stop = param_flag(c, NULL, "ignore_eos"),
    };
    cr_assert_leq(r->schedule.block_size, MAX_BLOCK);
    const char *name = json_string_value(golden_param(c, "remasking"));
    cr_assert_eq(fb_remasking_parse(name, &r->schedule.remasking), FB_OK, "%s", fb_error_message());
}

static void read_inputs(replay *r) {
    r->num_prompts = golden_size(r->c, "n_prompts");
    cr_assert_leq(r->num_prompts, MAX_PROMPTS);
    for (size_t i = 0; i < r->num_prompts; i++)
        r->prompts[i] = (fb_prompt){golden_i32(r->c, "prompt.%zu", i),
                                    golden_tensor(r->c, "prompt.%zu", i)->count};
    r->num_rows = golden_tensor(r->c, "trace.seq")->shape[1];
    r->num_tokens = golden_tensor(r->c, "probs")->shape[2];
    r->conf = golden_f32(r->c, "trace.conf");
    r->probs = golden_f32(r->c, "probs");
}

static void make_slots(replay *r) {
    size_t num_slots = golden_size(r->c, "max_active");
    cr_assert_leq(num_slots, MAX_SLOTS);
    cr_assert_eq(fb_slots_create(num_slots, &r->slots), FB_OK);
    for (size_t i = 0; i < num_slots; i++) {
        fb_slot *slot = &r->slots.slots[i];
        cr_assert_eq(fb_part_cache_create(1, r->schedule.block_size, 1, 8, &slot->parts), FB_OK);
        r->tags[i] = (history_tag){.slot = slot->parts, .prompt = SIZE_MAX};
    }
}

/* -sum p ln p over the recorded probabilities of the row's block. */
static void recorded_entropies(const replay *r, float *entropy) {
    size_t block = r->schedule.block_size;
    for (size_t i = 0; i < block; i++) {
        const float *p = r->probs + ((r->t * r->num_rows + r->row) * block + i) * r->num_tokens;
        double sum = 0.0;
        for (size_t token = 0; token < r->num_tokens; token++) {
            double clamped = p[token] > 1e-12f ? (double)p[token] : 1e-12;
            sum -= clamped * log(clamped);
        }
        entropy[i] = (float)sum;
    }
}

static void follow_history(replay *r, const fb_slot *slot, fb_reuse_action action) {
    history_tag *tag = r->tags;
    while (tag->slot != slot->parts)
        tag++;
    size_t context_length = slot->sequence->num_tokens;
    if (action == FB_REUSE) {
        r->history_reads++;
        r->history_mismatches +=
            tag->prompt != slot->prompt || tag->context_length != context_length;
    } else if (action == FB_REFRESH_AND_STORE) {
        tag->prompt = slot->prompt;
        tag->context_length = context_length;
    }
}

/* The engine's status numbers. */
static size_t status_number(const fb_sequence *sequence) {
    switch (sequence->status) {
    case FB_SEQUENCE_DENOISING:
        return 2;
    case FB_SEQUENCE_COMMIT:
        return 3;
    case FB_SEQUENCE_FINISHED:
        return 4;
    case FB_SEQUENCE_PREFILL:
        break;
    }
    return 1;
}

static size_t dirty_bits(const fb_sequence *sequence) {
    size_t bits = 0;
    for (size_t i = 0; i < sequence->schedule->block_size; i++)
        bits |= (size_t)sequence->dirty[i] << i;
    return bits;
}

static void check_plan(replay *r, fb_slot *slot) {
    fb_sequence *sequence = slot->sequence;
    expect(r, "seq", slot->prompt);
    expect(r, "status", status_number(sequence));
    expect(r, "step", sequence->denoising_step);
    expect(r, "ctx_true", sequence->num_tokens);
    expect_tokens(r, "before", sequence->block);
    fb_plan plan = fb_sequence_plan(sequence);
    expect(r, "update", plan.action != FB_REUSE);
    expect(r, "reuse", plan.action == FB_REUSE);
    expect(r, "store", plan.action == FB_REFRESH_AND_STORE);
    expect(r, "dirty", sequence->dirty_tokens);
    expect(r, "dmask", dirty_bits(sequence));
    /* On a reuse the engine hides the context from the kernel, except in the commit pass. */
    expect(r, "ctx_kernel", plan.action == FB_REUSE && !plan.commit ? 0 : sequence->num_tokens);
    follow_history(r, slot, plan.action);
}

/* The recorded acceptances count a proposed mask token only where dirty tokens are counted. */
static void check_accepted(replay *r, const bool *accepted, size_t count, size_t budget) {
    const fb_schedule *s = &r->schedule;
    const int32_t *recorded = trace_block(r, "acc"), *x0 = trace_block(r, "x0");
    const int32_t *before = trace_block(r, "before");
    bool dynamic = s->remasking == FB_LOW_CONFIDENCE_DYNAMIC;
    for (size_t i = 0; i < s->block_size; i++) {
        bool replaced = accepted[i] && x0[i] != s->mask_token && before[i] == s->mask_token;
        bool expected = s->reuse.tau > 0 && dynamic ? accepted[i] : replaced;
        cr_assert_eq(recorded[i] != 0, expected, "%s: step %zu, row %zu: accepted %zu: %d not %d",
                     golden_name(r->c), r->t, r->row, i, (int)expected, recorded[i]);
    }
    /* The engine's num_to_transfer: the budget, unless the strategy replaces it by what it took. */
    bool counted = (dynamic && count > 0) || s->remasking == FB_ENTROPY_BOUNDED;
    expect(r, "ntr", counted ? count : budget);
}

static void denoise(replay *r, fb_sequence *sequence) {
    bool accepted[MAX_BLOCK];
    float entropy[MAX_BLOCK];
    size_t block = r->schedule.block_size;
    recorded_entropies(r, entropy);
    size_t budget = (size_t)golden_i32(r->c, "budget")[sequence->denoising_step];
    size_t count =
        fb_sequence_accept(sequence, trace_block(r, "x0"),
                           r->conf + (r->t * r->num_rows + r->row) * block, entropy, accepted);
    check_accepted(r, accepted, count, budget);
    expect_tokens(r, "after", sequence->block);
}

static void commit(replay *r, fb_sequence *sequence) {
    fb_sequence_commit(sequence);
    expect(r, "ntr", 0);
    const int32_t *after = trace_block(r, "after");
    for (size_t i = 0; i < r->schedule.block_size; i++)
        cr_assert_eq(after[i], sequence->status == FB_SEQUENCE_FINISHED ? -1 : sequence->block[i],
                     "%s: step %zu, row %zu: next block", golden_name(r->c), r->t, r->row);
}

static void check_output(replay *r, const fb_slot *slot) {
    const fb_sequence *sequence = slot->sequence;
    size_t count = fb_sequence_num_completion(sequence);
    const int32_t *output = golden_i32(r->c, "output.%zu", slot->prompt);
    const int32_t *unmask = golden_i32(r->c, "unmask_step.%zu", slot->prompt);
    cr_assert_eq(count, golden_tensor(r->c, "output.%zu", slot->prompt)->count,
                 "%s: prompt %zu: %zu tokens", golden_name(r->c), slot->prompt, count);
    for (size_t i = 0; i < count; i++) {
        cr_assert_eq(sequence->tokens[sequence->num_prompt_tokens + i], output[i],
                     "%s: prompt %zu: token %zu", golden_name(r->c), slot->prompt, i);
        cr_assert_eq(sequence->unmask_step[i], unmask[i],
                     "%s: prompt %zu: unmask step %zu is %d, recorded %d", golden_name(r->c),
                     slot->prompt, i, sequence->unmask_step[i], unmask[i]);
    }
}

static void replay_step(replay *r) {
    for (size_t i = 0; i < r->slots.num_active; i++) {
        fb_sequence *sequence = r->slots.slots[i].sequence;
        size_t left = fb_sequence_prefill_left(sequence);
        if (left > 0)
            fb_sequence_prefilled(sequence, left);
    }
    for (r->row = 0; r->row < r->num_rows; r->row++) {
        if (r->row >= r->slots.num_active) {
            expect(r, "seq", (size_t)-1);
            continue;
        }
        fb_slot *slot = &r->slots.slots[r->row];
        check_plan(r, slot);
        if (slot->sequence->status == FB_SEQUENCE_COMMIT)
            commit(r, slot->sequence);
        else
            denoise(r, slot->sequence);
        expect(r, "status_after", status_number(slot->sequence));
        expect(r, "dirty_after", slot->sequence->dirty_tokens);
        expect(r, "dmask_after", dirty_bits(slot->sequence));
        expect(r, "ntok_after", slot->sequence->num_tokens);
        if (slot->sequence->status == FB_SEQUENCE_FINISHED)
            check_output(r, slot);
    }
    fb_slots_retire(&r->slots);
}

static void expect_metadata(replay *r, const char *key, size_t value) {
    cr_assert_eq((size_t)json_integer_value(golden_json(r->c, key)), value, "%s: %s is %zu, not %s",
                 golden_name(r->c), key, value, golden_text(r->c, key));
}

GOLDEN_TEST(schedule, trace, "sched", "") {
    replay r = {.c = c};
    read_schedule(&r);
    read_inputs(&r);
    make_slots(&r);
    size_t num_steps = golden_tensor(r.c, "trace.seq")->shape[0];
    cr_assert_gt(num_steps, 0);
    for (r.t = 0; r.t < num_steps; r.t++) {
        cr_assert_eq(fb_slots_admit(&r.slots, &r.schedule, r.prompts, r.num_prompts), FB_OK);
        replay_step(&r);
    }
    cr_assert_eq(r.slots.num_active, 0, "%s: sequences are left", golden_name(r.c));
    cr_assert_eq(r.slots.next_prompt, r.num_prompts, "%s: prompts are left", golden_name(r.c));
    expect_metadata(&r, "history_slot_reads", r.history_reads);
    expect_metadata(&r, "history_slot_mismatches", r.history_mismatches);
    fb_slots_destroy(&r.slots);
}

Test(schedule, there_are_golden_cases) {
    cr_assert_geq(golden_count("sched", ""), 28);
}

/* --- what the default does differently
 * ----------------------------------------------------- */

static const int32_t stop_7[1] = {7};

static fb_schedule small_schedule(fb_compat compat) {
    return (fb_schedule){.compat = compat,
                         .reuse = {.tau = 2},
                         .block_size = 4,
                         .denoising_steps = 4,
                         .max_tokens = 8,
                         .confidence_threshold = 2.0,
                         .mask_token = 9,
                         .stop_tokens = stop_7,
                         .num_stop_tokens = 1};
}

static fb_sequence *start(const fb_schedule *schedule, const int32_t *tokens, size_t num_tokens) {
    fb_sequence *sequence = NULL;
    fb_prompt prompt = {tokens, num_tokens};
    cr_assert_eq(fb_sequence_create(schedule, &prompt, &sequence), FB_OK, "%s", fb_error_message());
    if (fb_sequence_prefill_left(sequence) > 0)
        fb_sequence_prefilled(sequence, fb_sequence_prefill_left(sequence));
    return sequence;
}

/* Denoises a block with proposals that are the same at every step, then commits it. */
static size_t run_block(fb_sequence *sequence, const int32_t proposed[4]) {
    const float confidence[4] = {0.4f, 0.3f, 0.2f, 0.1f}, entropy[4] = {0.1f, 0.2f, 0.3f, 0.4f};
    bool accepted[4];
    while (sequence->status == FB_SEQUENCE_DENOISING) {
        fb_sequence_plan(sequence);
        fb_sequence_accept(sequence, proposed, confidence, entropy, accepted);
    }
    fb_sequence_plan(sequence);
    return fb_sequence_commit(sequence);
}

Test(schedule, mask_token_in_the_prompt_is_text) {
    const int32_t prompt[6] = {1, 2, 3, 4, 9, 5}, proposed[4] = {1, 1, 1, 1};
    fb_schedule paper = small_schedule(FB_COMPAT_PAPER);
    fb_sequence *sequence = start(&paper, prompt, 6);
    cr_assert_not(sequence->masked[0]);
    cr_assert_eq(run_block(sequence, proposed), 2);
    cr_assert_eq(sequence->tokens[4], 9);
    fb_sequence_destroy(sequence);

    fb_schedule engine = small_schedule(FB_COMPAT_RELEASED);
    sequence = start(&engine, prompt, 6);
    cr_assert(sequence->masked[0]);
    run_block(sequence, proposed);
    cr_assert_eq(sequence->tokens[4], 1);
    fb_sequence_destroy(sequence);
}

Test(schedule, stop_token_in_the_prompt_is_text) {
    const int32_t prompt[5] = {1, 2, 3, 4, 7}, proposed[4] = {1, 1, 1, 1};
    fb_schedule paper = small_schedule(FB_COMPAT_PAPER);
    fb_sequence *sequence = start(&paper, prompt, 5);
    cr_assert_eq(run_block(sequence, proposed), 3);
    cr_assert_eq(sequence->status, FB_SEQUENCE_DENOISING);
    fb_sequence_destroy(sequence);

    fb_schedule engine = small_schedule(FB_COMPAT_RELEASED);
    sequence = start(&engine, prompt, 5);
    cr_assert_eq(run_block(sequence, proposed), 0);
    cr_assert_eq(sequence->status, FB_SEQUENCE_FINISHED);
    cr_assert_eq(sequence->finish_reason, FB_FINISH_STOP);
    fb_sequence_destroy(sequence);
}

Test(schedule, no_token_follows_the_last) {
    const int32_t proposed[4] = {1, 1, 7, 1};
    fb_schedule paper = small_schedule(FB_COMPAT_PAPER);
    paper.max_tokens = 2;
    fb_sequence *sequence = start(&paper, NULL, 0);
    cr_assert_eq(run_block(sequence, proposed), 2);
    cr_assert_eq(sequence->finish_reason, FB_FINISH_LENGTH);
    fb_sequence_destroy(sequence);

    fb_schedule engine = paper;
    engine.compat = FB_COMPAT_RELEASED;
    sequence = start(&engine, NULL, 0);
    cr_assert_eq(run_block(sequence, proposed), 3);
    cr_assert_eq(sequence->finish_reason, FB_FINISH_STOP);
    fb_sequence_destroy(sequence);
}

Test(schedule, every_strategy_counts_dirty_tokens) {
    const int32_t proposed[4] = {1, 1, 1, 1};
    for (int strategy = 0; strategy <= (int)FB_ENTROPY_BOUNDED; strategy++) {
        fb_schedule schedule = small_schedule(FB_COMPAT_PAPER);
        schedule.remasking = (fb_remasking)strategy;
        fb_sequence *sequence = start(&schedule, NULL, 0);
        run_block(sequence, proposed);
        const fb_generate_counts *counts = &sequence->counts;
        cr_assert_eq(counts->denoising_steps, 4);
        cr_assert_eq(counts->reuses, 2, "%s: %zu reuses", fb_remasking_name(schedule.remasking),
                     counts->reuses);
        cr_assert_eq(counts->refreshes, 2);
        fb_sequence_destroy(sequence);
    }
}

/* With one mask in the first block, its only denoising step stores nothing. */
Test(schedule, commit_reuses_only_what_its_block_stored) {
    const int32_t prompt[7] = {1, 2, 3, 4, 5, 6, 1}, proposed[4] = {1, 1, 1, 1};
    const float confidence[4] = {0.5f, 0.5f, 0.5f, 0.5f};
    bool accepted[4];
    for (int compat = 0; compat < 2; compat++) {
        fb_schedule schedule = small_schedule((fb_compat)compat);
        schedule.reuse.reuse_at_commit = true;
        fb_sequence *sequence = start(&schedule, prompt, 7);
        cr_assert_eq(fb_sequence_plan(sequence).action, FB_REFRESH_ONLY);
        fb_sequence_accept(sequence, proposed, confidence, NULL, accepted);
        cr_assert_eq(sequence->status, FB_SEQUENCE_COMMIT);
        cr_assert_eq(fb_sequence_plan(sequence).action,
                     schedule.compat == FB_COMPAT_PAPER ? FB_REFRESH_ONLY : FB_REUSE);
        fb_sequence_destroy(sequence);
    }
}

Test(schedule, ends_where_the_positions_end) {
    const int32_t prompt[5] = {1, 2, 3, 4, 5}, proposed[4] = {1, 1, 1, 1};
    fb_schedule schedule = small_schedule(FB_COMPAT_PAPER);
    schedule.max_positions = 11;
    schedule.max_tokens = (size_t)1 << 40; /* no memory is taken for what cannot be reached */
    fb_sequence *sequence = start(&schedule, prompt, 5);
    cr_assert_eq(run_block(sequence, proposed), 3);
    cr_assert_eq(sequence->status, FB_SEQUENCE_FINISHED);
    cr_assert_eq(sequence->finish_reason, FB_FINISH_CONTEXT);
    fb_sequence_destroy(sequence);
    schedule.max_positions = 12; /* the next block just fits */
    sequence = start(&schedule, prompt, 5);
    cr_assert_eq(run_block(sequence, proposed), 3);
    cr_assert_eq(sequence->status, FB_SEQUENCE_DENOISING);
    cr_assert_eq(run_block(sequence, proposed), 4);
    cr_assert_eq(sequence->finish_reason, FB_FINISH_CONTEXT);
    fb_sequence_destroy(sequence);
}

/* One mask is left, the budget is two. */
Test(schedule, released_overwrites_decided_tokens_on_request) {
    const int32_t prompt[3] = {1, 2, 3}, proposed[4] = {8, 8, 8, 8};
    const float confidence[4] = {0.5f, 0.5f, 0.5f, 0.5f};
    bool accepted[4];
    for (int overwrite = 0; overwrite < 2; overwrite++) {
        fb_schedule schedule = small_schedule(FB_COMPAT_RELEASED);
        schedule.denoising_steps = 2;
        schedule.overwrite_decided = overwrite;
        fb_sequence *sequence = start(&schedule, prompt, 3);
        fb_sequence_plan(sequence);
        size_t count = fb_sequence_accept(sequence, proposed, confidence, NULL, accepted);
        cr_assert_eq(count, overwrite ? 2 : 1);
        cr_assert_eq(sequence->dirty_tokens, count);
        cr_assert(accepted[3]);
        size_t rewritten = 0;
        for (size_t i = 0; i < 3; i++)
            rewritten += sequence->block[i] == 8;
        cr_assert_eq(rewritten, count - 1);
        fb_sequence_destroy(sequence);
    }
}

Test(schedule, huge_max_tokens_is_an_error) {
    fb_schedule schedule = small_schedule(FB_COMPAT_PAPER);
    schedule.max_tokens = SIZE_MAX;
    fb_sequence *sequence = NULL;
    fb_prompt prompt = {NULL, 0};
    cr_assert_eq(fb_sequence_create(&schedule, &prompt, &sequence), FB_ERROR_ARGUMENT);
    schedule.max_tokens = SIZE_MAX / 2;
    cr_assert_eq(fb_sequence_create(&schedule, &prompt, &sequence), FB_ERROR_MEMORY);
    cr_assert_null(sequence);
}

/* --- slots
 * --------------------------------------------------------------------------------- */

Test(schedule, finished_slots_go_behind_all_others) {
    fb_schedule schedule = small_schedule(FB_COMPAT_RELEASED);
    fb_prompt prompts[5] = {{NULL, 0}};
    fb_slots slots;
    cr_assert_eq(fb_slots_create(4, &slots), FB_OK);
    cr_assert_eq(fb_slots_admit(&slots, &schedule, prompts, 4), FB_OK);
    fb_sequence_cancel(slots.slots[0].sequence);
    fb_sequence_cancel(slots.slots[2].sequence);
    fb_slots_retire(&slots);
    const size_t order[4] = {1, 3, 0, 2};
    cr_assert_eq(slots.num_active, 2);
    for (size_t i = 0; i < 4; i++)
        cr_assert_eq(slots.slots[i].prompt, order[i]);
    cr_assert_eq(fb_slots_admit(&slots, &schedule, prompts, 5), FB_OK);
    cr_assert_eq(slots.slots[2].prompt, 4);
    cr_assert_eq(slots.num_active, 3);
    fb_slots_destroy(&slots);
}

/* --- random scripts
 * ------------------------------------------------------------------------ */

typedef struct script {
    random_stream random;
    fb_schedule schedule;
    fb_sequence *sequence;
    size_t since_refresh; /* acceptances, counted independently */
    bool stored;          /* in this block */
} script;

static void random_schedule(script *s, fb_compat compat) {
    random_stream *random = &s->random;
    s->schedule = (fb_schedule){
        .compat = compat,
        .reuse = {.tau = random_between(random, 0, 6),
                  .reuse_always = random_between(random, 0, 9) == 0,
                  .reuse_at_commit = random_between(random, 0, 4) == 0},
        .block_size = random_between(random, 1, 16),
        .denoising_steps = random_between(random, 1, 20),
        .max_tokens = random_between(random, 1, 60),
        .max_positions = random_between(random, 0, 1) * 100,
        .remasking = (fb_remasking)random_between(random, 0, 3),
        .overwrite_decided = compat == FB_COMPAT_RELEASED && random_between(random, 0, 1) == 1,
        .confidence_threshold = random_uniform(random) * 1.1,
        .entropy_bound = random_uniform(random) * 2.0,
        .mask_token = 9,
        .stop_tokens = stop_7,
        .num_stop_tokens = 1,
        .ignore_stop = random_between(random, 0, 1) == 1,
    };
}

/* Tokens 0 .. 12: stop and mask tokens among them. */
static void start_script(script *s) {
    int32_t tokens[40];
    size_t count = random_between(&s->random, 0, 40);
    for (size_t i = 0; i < count; i++)
        tokens[i] = (int32_t)random_between(&s->random, 0, 12);
    s->sequence = start(&s->schedule, tokens, count);
}

static size_t count_true(const bool *flags, size_t count) {
    size_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += flags[i];
    return sum;
}

static void check_random_plan(script *s, const fb_plan *plan, uint64_t name) {
    const fb_schedule *schedule = &s->schedule;
    const fb_sequence *sequence = s->sequence;
    if (sequence->denoising_step == 0) {
        s->stored = false;
        s->since_refresh = 0;
        cr_assert_neq(plan->action, FB_REUSE, "script %zu: reuse at step 0", (size_t)name);
    }
    if (schedule->reuse.tau == 0)
        cr_assert_eq(plan->action, FB_REFRESH_ONLY, "script %zu: not dense", (size_t)name);
    if (plan->commit && !schedule->reuse.reuse_at_commit)
        cr_assert_eq(plan->action, FB_REFRESH_ONLY, "script %zu: commit", (size_t)name);
    bool paper = schedule->compat == FB_COMPAT_PAPER;
    if (paper && plan->action == FB_REUSE) {
        cr_assert(s->stored, "script %zu: reuse of what the block did not store", (size_t)name);
        cr_assert(s->since_refresh < schedule->reuse.tau || schedule->reuse.reuse_always,
                  "script %zu: reuse with %zu dirty tokens, tau %zu", (size_t)name,
                  s->since_refresh, schedule->reuse.tau);
    }
    s->stored = s->stored || plan->action == FB_REFRESH_AND_STORE;
    if (plan->action != FB_REUSE)
        s->since_refresh = 0;
}

static void random_step(script *s, const fb_plan *plan, uint64_t name) {
    fb_sequence *sequence = s->sequence;
    size_t block = s->schedule.block_size;
    int32_t proposed[MAX_BLOCK] = {0};
    float confidence[MAX_BLOCK] = {0}, entropy[MAX_BLOCK] = {0};
    bool accepted[MAX_BLOCK];
    bool paper = s->schedule.compat == FB_COMPAT_PAPER;
    for (size_t i = 0; i < block; i++) {
        proposed[i] = (int32_t)random_between(&s->random, 0, 12);
        if (paper && proposed[i] == s->schedule.mask_token)
            proposed[i] = 0; /* the sampler never draws it */
        confidence[i] = (float)random_between(&s->random, 0, 10) / 10.0f;
        entropy[i] = (float)random_uniform(&s->random);
    }
    size_t masks = count_true(sequence->masked, block), step = sequence->denoising_step;
    size_t count = fb_sequence_accept(sequence, proposed, confidence, entropy, accepted);
    size_t left = count_true(sequence->masked, block);
    s->since_refresh += count;
    cr_assert_eq(count, count_true(accepted, block), "script %zu", (size_t)name);
    cr_assert_eq(sequence->denoising_step, step + 1);
    if (!paper)
        return;
    cr_assert_eq(masks - left, count, "script %zu: %zu of %zu masks left, %zu accepted",
                 (size_t)name, left, masks, count);
    cr_assert_geq(count, plan->budget < masks ? plan->budget : masks, "script %zu: %zu accepted",
                  (size_t)name, count);
    cr_assert_eq(sequence->dirty_tokens, s->since_refresh, "script %zu: dirty tokens",
                 (size_t)name);
    cr_assert(sequence->status == FB_SEQUENCE_DENOISING || left == 0,
              "script %zu: %zu masks to be committed", (size_t)name, left);
}

static void run_script(uint64_t name, fb_compat compat) {
    script s = {.random = random_named((uint32_t)name)};
    random_schedule(&s, compat);
    start_script(&s);
    fb_sequence *sequence = s.sequence;
    size_t prompt = sequence->num_prompt_tokens, passes = 0;
    while (sequence->status != FB_SEQUENCE_FINISHED) {
        cr_assert_lt(passes++, 10000, "script %zu does not end", (size_t)name);
        fb_plan plan = fb_sequence_plan(sequence);
        check_random_plan(&s, &plan, name);
        cr_assert_leq(plan.masked_tokens, s.schedule.block_size);
        if (plan.commit)
            fb_sequence_commit(sequence);
        else
            random_step(&s, &plan, name);
    }
    const fb_generate_counts *counts = &sequence->counts;
    size_t completion = fb_sequence_num_completion(sequence);
    cr_assert_leq(completion, s.schedule.max_tokens + (compat == FB_COMPAT_RELEASED ? 1 : 0),
                  "script %zu: %zu tokens", (size_t)name, completion);
    cr_assert_eq(counts->completion_tokens, completion);
    cr_assert_eq(counts->denoising_steps, counts->refreshes + counts->reuses);
    cr_assert_leq(counts->denoising_steps + counts->commits, passes);
    if (sequence->finish_reason == FB_FINISH_STOP && completion > 0)
        cr_assert_eq(sequence->tokens[prompt + completion - 1], 7, "script %zu", (size_t)name);
    if (sequence->finish_reason == FB_FINISH_LENGTH)
        cr_assert_eq(completion, s.schedule.max_tokens, "script %zu", (size_t)name);
    if (s.schedule.max_positions > 0)
        cr_assert_leq(prompt + completion, s.schedule.max_positions);
    fb_sequence_destroy(sequence);
}

Test(schedule, random_scripts_with_the_paper_rules) {
    for (uint64_t name = 0; name < 20000; name++)
        run_script(name, FB_COMPAT_PAPER);
}

Test(schedule, random_scripts_with_the_released_rules) {
    for (uint64_t name = 0; name < 20000; name++)
        run_script(name, FB_COMPAT_RELEASED);
}

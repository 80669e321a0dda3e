/* The schedule without a model: differences between the default and the released engine, and random
 * scripts against rules that hold for every script. (test_golden.c compares with traces of the
 * engine.) */
#include "decode/schedule.h"
#include "decode/slots.h"
#include "tests/golden_case.h"
#include "tests/golden_list.h"
#include "tests/numbers.h"

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <string.h>

enum { MAX_BLOCK = 32, MAX_SLOTS = 8, MAX_PROMPTS = 8, MAX_STOPS = 8 };

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

/* The rows that the passes of a block compute when it accepts one token at each step. */
static fb_generate_counts counts_of(fb_reuse_policy reuse, size_t block_size) {
    float confidence[MAX_BLOCK], entropy[MAX_BLOCK] = {0};
    int32_t proposed[MAX_BLOCK];
    bool accepted[MAX_BLOCK];
    for (size_t i = 0; i < block_size; i++) {
        confidence[i] = 0.5f - 0.01f * (float)((i * 5) % block_size);
        proposed[i] = 1;
    }
    fb_schedule schedule = small_schedule(FB_COMPAT_PAPER);
    schedule.reuse = reuse;
    schedule.block_size = schedule.denoising_steps = schedule.max_tokens = block_size;
    fb_sequence *sequence = start(&schedule, NULL, 0);
    size_t last = block_size;
    while (sequence->status != FB_SEQUENCE_FINISHED) {
        fb_plan plan = fb_sequence_plan(sequence);
        if (plan.action == FB_REFRESH_ROWS) /* the row that the step before accepted */
            cr_assert(plan.refresh_rows[last] && plan.external_rows >= 1);
        if (plan.commit) {
            fb_sequence_commit(sequence);
            continue;
        }
        cr_assert_eq(fb_sequence_accept(sequence, proposed, confidence, entropy, accepted), 1);
        for (size_t i = 0; i < block_size; i++)
            last = accepted[i] ? i : last;
    }
    fb_generate_counts counts = sequence->counts;
    fb_sequence_destroy(sequence);
    return counts;
}

/* For every B: B rows at first, and then each row once more. The paper's rule and dense attention
 * compute all rows at every refresh. */
Test(schedule, rows_are_computed_twice) {
    for (size_t size = 2; size <= 32; size *= 2) {
        fb_reuse_policy rows = {.tau = 1, .rows = true};
        fb_generate_counts counts = counts_of(rows, size);
        cr_assert_eq(counts.external_rows, 2 * size, "%zu rows", counts.external_rows);
        cr_assert_eq(counts.refreshes, 1);
        cr_assert_eq(counts.row_refreshes, size - 1);
        cr_assert_eq(counts.denoising_steps,
                     counts.refreshes + counts.row_refreshes + counts.reuses);
        cr_assert_eq(counts_of((fb_reuse_policy){0}, size).external_rows, size * (size + 1));
        cr_assert_eq(counts_of((fb_reuse_policy){.tau = 2}, size).external_rows,
                     size * (size / 2 + 1));
        rows.refresh_commit = true;
        cr_assert_eq(counts_of(rows, size).external_rows, 3 * size - 1);
        rows.refresh_every = 1;
        cr_assert_eq(counts_of(rows, size).external_rows, size * (size + 1));
        rows = (fb_reuse_policy){.tau = 2, .rows = true};
        cr_assert_eq(counts_of(rows, size).external_rows, 2 * size, "they wait for each other");
        cr_assert_eq(counts_of(rows, size).reuses, size / 2);
    }
    fb_reuse_policy rows = {.tau = 1, .rows = true, .refresh_dirty = 3};
    cr_assert_eq(counts_of(rows, 8).refreshes, 3, "steps 0, 3 and 6");
    rows.refresh_dirty = 0;
    rows.refresh_every = 4;
    cr_assert_eq(counts_of(rows, 8).refreshes, 2, "steps 0 and 4");
}

Test(schedule, ends_where_the_positions_end) {
    const int32_t prompt[5] = {1, 2, 3, 4, 5}, proposed[4] = {1, 1, 1, 1};
    fb_schedule schedule = small_schedule(FB_COMPAT_PAPER);
    schedule.max_positions = 11;
    /* no memory is allocated for positions that cannot be reached */
    schedule.max_tokens = (size_t)1 << 40;
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

Test(schedule, finished_slots_go_after_all_others) {
    fb_schedule schedule = small_schedule(FB_COMPAT_RELEASED);
    fb_prompt prompts[5] = {{NULL, 0}};
    fb_slots slots;
    cr_assert_eq(fb_slots_create(4, &slots), FB_OK);
    for (size_t i = 0; i < 4; i++)
        cr_assert_eq(fb_slots_admit(&slots, &schedule, &prompts[i], i), FB_OK);
    fb_sequence_cancel(slots.slots[0].sequence);
    fb_sequence_cancel(slots.slots[2].sequence);
    fb_slots_retire(&slots);
    const size_t order[4] = {1, 3, 0, 2};
    cr_assert_eq(slots.num_active, 2);
    for (size_t i = 0; i < 4; i++)
        cr_assert_eq(slots.slots[i].prompt, order[i]);
    cr_assert_eq(fb_slots_admit(&slots, &schedule, &prompts[4], 4), FB_OK);
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

/* Tokens 0 .. 12; the stop and mask tokens are among them. */
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

/* Sequences that join and leave a batch between passes, each with its own options, write what they
 * write alone. */
#include "decode/batch.h"
#include "decode/generate_options.h"
#include "tests/golden_case.h"
#include "tests/numbers.h"

#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT_OK(call) cr_assert_eq((call), FB_OK, "%s", fb_error_message())

enum { MASK = 95, NUM_SEQUENCES = 40, NUM_SLOTS = 5, MAX_PROMPT = 60, SEED = 41 };

/* A sequence: what it asks for, and how it came out alone. */
typedef struct sequence {
    int32_t tokens[MAX_PROMPT];
    fb_batch_request request;
    fb_generate_options options;
    fb_generation *alone;
    size_t passes; /* that its on_step has seen */
    size_t most;   /* after which it cancels itself; 0: never */
} sequence;

static fb_model *load(const char *name) {
    char path[256];
    fb_model *model = NULL;
    snprintf(path, sizeof path, "golden/models/%s", name);
    EXPECT_OK(fb_model_load(golden_source_path(path), &model));
    return model;
}

static bool count_pass(void *user, const fb_step_event *event) {
    sequence *s = user;
    cr_assert_eq(event->sequence, s->alone ? s->request.number : 0);
    return ++s->passes != s->most;
}

/* Options of any kind that the loop takes. */
static void draw(sequence *s, const fb_model *model, fb_decoding_loop loop, random_stream *random) {
    fb_generate_options *o = &s->options;
    fb_generate_options_init(o);
    o->loop = loop;
    o->block_size = (size_t)8 << random_between(random, 0, 1);
    o->max_tokens = (size_t)random_between(random, 16, 40);
    o->mask_token_id = MASK;
    o->reuse.tau = (size_t)random_between(random, 0, 4);
    o->reuse.correction = o->reuse.tau > 0 && random_between(random, 0, 3) == 0;
    o->ignore_stop = random_between(random, 0, 1) == 0;
    o->temperature = random_between(random, 0, 1) == 0 ? 0.0 : 0.9;
    o->top_k = (size_t)random_between(random, 0, 20);
    o->kv_dtype = random_between(random, 0, 2) == 0 ? FB_BF16 : FB_F32;
    o->seed = (uint64_t)random_between(random, 0, 1000);
    if (loop != FB_LOOP_BD3LM)
        o->confidence_threshold = 0.1 * (double)random_between(random, 3, 9);
    if (loop == FB_LOOP_SDAR && random_between(random, 0, 2) == 0)
        o->remasking = FB_ENTROPY_BOUNDED;
    EXPECT_OK(fb_generate_options_resolve(fb_model_config_of(model), o));
}

static void make(sequence *s, size_t number, fb_model *model, fb_decoding_loop loop,
                 random_stream *random) {
    size_t length = (size_t)random_between(random, 0, MAX_PROMPT);
    for (size_t i = 0; i < length; i++)
        s->tokens[i] = (int32_t)random_between(random, 0, 89);
    draw(s, model, loop, random);
    s->most = random_between(random, 0, 3) == 0 ? (size_t)random_between(random, 1, 20) : 0;
    s->request = (fb_batch_request){
        .prompt = {s->tokens, length},
        .options = &s->options,
        .seed = s->options.seed,
        .number = number,
    };
    s->options.on_step = count_pass;
    s->options.user = s;
    EXPECT_OK(fb_generate(model, &s->request.prompt, 1, &s->options, &s->alone));
    s->passes = 0;
}

static void expect_same(const char *what, const fb_slot *slot, const sequence *s) {
    const fb_generate_result *alone = fb_generation_result(s->alone, 0);
    const fb_sequence *ours = slot->sequence;
    size_t count = fb_sequence_num_completion(ours);
    cr_assert_eq(slot->failure, FB_OK, "%s", slot->message);
    cr_assert_eq(count, alone->num_tokens, "%s, %zu: %zu tokens, alone %zu", what, slot->prompt,
                 count, alone->num_tokens);
    for (size_t i = 0; i < count; i++)
        cr_assert(ours->tokens[ours->num_prompt_tokens + i] == alone->tokens[i] &&
                      ours->unmask_step[i] == alone->unmask_step[i],
                  "%s, %zu: token %zu", what, slot->prompt, i);
    cr_assert_eq(ours->finish_reason, alone->finish_reason, "%s, %zu", what, slot->prompt);
    cr_assert_eq(memcmp(&ours->counts, alone->counts, sizeof ours->counts), 0, "%s, %zu: counts",
                 what, slot->prompt);
}

/* Takes the results of those that finished; returns their number. */
static size_t leave(const char *what, fb_batch *batch, const sequence *all) {
    size_t count = 0;
    for (size_t i = 0; i < fb_batch_num_active(batch); i++) {
        const fb_slot *slot = fb_batch_slot(batch, i);
        if (slot->sequence->status != FB_SEQUENCE_FINISHED)
            continue;
        expect_same(what, slot, &all[slot->prompt]);
        count++;
    }
    fb_batch_retire(batch);
    return count;
}

/* Sequences join when it pleases them; a pass is over prompts or over blocks. */
static void run(const char *what, fb_model *model, sequence *all, random_stream *random) {
    fb_batch *batch = NULL;
    size_t next = 0, done = 0, together = 0;
    EXPECT_OK(fb_batch_create(model, NUM_SLOTS, false, &batch));
    while (done < NUM_SEQUENCES) {
        while (next < NUM_SEQUENCES && fb_batch_num_free(batch) > 0 &&
               random_between(random, 0, 2) > 0)
            EXPECT_OK(fb_batch_join(batch, &all[next++].request));
        bool none = true;
        if (random_between(random, 0, 1) == 0)
            EXPECT_OK(fb_batch_prefill(batch, (size_t)random_between(random, 1, 64), &none));
        if (none || random_between(random, 0, 1) == 0)
            EXPECT_OK(fb_batch_decode(batch));
        together = fb_batch_num_active(batch) > together ? fb_batch_num_active(batch) : together;
        done += leave(what, batch, all);
    }
    cr_assert_eq(together, NUM_SLOTS);
    cr_assert_eq(fb_batch_num_active(batch), 0);
    fb_batch_destroy(batch);
}

Test(batch, each_sequence_is_as_it_would_be_alone) {
    static const struct {
        const char *model;
        fb_decoding_loop loop;
    } loops[] = {
        {"sdar_moe", FB_LOOP_SDAR},
        {"llada20", FB_LOOP_LLADA2},
        {"llada21", FB_LOOP_LLADA2_EDITING},
        {"qwen3_bd3lm", FB_LOOP_BD3LM},
        {"fast_dllm_v2", FB_LOOP_FAST_DLLM_V2},
    };
    random_stream random = random_named(SEED);
    sequence *all = calloc(NUM_SEQUENCES, sizeof *all);
    cr_assert_not_null(all);
    for (size_t loop = 0; loop < sizeof loops / sizeof loops[0]; loop++) {
        fb_model *model = load(loops[loop].model);
        memset(all, 0, NUM_SEQUENCES * sizeof *all);
        for (size_t i = 0; i < NUM_SEQUENCES; i++)
            make(&all[i], i, model, loops[loop].loop, &random);
        run(loops[loop].model, model, all, &random);
        for (size_t i = 0; i < NUM_SEQUENCES; i++)
            fb_generation_destroy(all[i].alone);
        fb_model_destroy(model);
    }
    free(all);
}

Test(batch, one_that_is_cancelled_leaves_the_others_alone) {
    random_stream random = random_named(SEED + 1);
    fb_model *model = load("sdar_moe");
    sequence *all = calloc(NUM_SLOTS, sizeof *all);
    cr_assert_not_null(all);
    fb_batch *batch = NULL;
    EXPECT_OK(fb_batch_create(model, NUM_SLOTS, false, &batch));
    for (size_t i = 0; i < NUM_SLOTS; i++) {
        make(&all[i], i, model, FB_LOOP_SDAR, &random);
        EXPECT_OK(fb_batch_join(batch, &all[i].request));
    }
    fb_batch_cancel(batch, 2); /* before its prompt is read */
    cr_assert_eq(fb_batch_slot(batch, 2)->sequence->finish_reason, FB_FINISH_CANCELLED);
    fb_batch_retire(batch);
    cr_assert_eq(fb_batch_num_free(batch), 1);
    for (size_t left = NUM_SLOTS - 1; left > 0;) {
        bool none;
        EXPECT_OK(fb_batch_prefill(batch, 512, &none));
        EXPECT_OK(fb_batch_decode(batch));
        left -= leave("beside one that was cancelled", batch, all);
    }
    cr_assert_eq(all[2].passes, 0);
    for (size_t i = 0; i < NUM_SLOTS; i++)
        fb_generation_destroy(all[i].alone);
    fb_batch_destroy(batch);
    fb_model_destroy(model);
    free(all);
}

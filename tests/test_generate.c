/* Generation with the golden models and the default options: the promises of generate.h. */
#include "base/half.h"
#include "base/rng.h"
#include "decode/sampler.h"
#include "tests/golden_case.h"
#include "tests/golden_list.h"
#include "tests/json_edit.h"
#include "tests/numbers.h"
#include "tests/temporary.h"

#include <flashblock/generate.h>
#include <flashblock/runtime.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PROMPTS = 8 };

static fb_generation *generate(fb_model *model, const fb_prompt *prompts, size_t num_prompts,
                               const fb_generate_options *options) {
    fb_generation *generation = NULL;
    cr_assert_eq(fb_generate(model, prompts, num_prompts, options, &generation), FB_OK, "%s",
                 fb_error_message());
    return generation;
}

/* Prompts of ordinary tokens of m1 (vocabulary 512, special tokens from 508 on) and m2 (320, 317).
 */
typedef struct prompts {
    fb_prompt list[MAX_PROMPTS];
    int32_t tokens[MAX_PROMPTS][64];
} prompts;

static void random_prompts(prompts *p, const size_t *lengths, size_t count, uint32_t name) {
    random_stream random = random_named(name);
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < lengths[i]; j++)
            p->tokens[i][j] = (int32_t)random_between(&random, 0, 299);
        p->list[i] = (fb_prompt){p->tokens[i], lengths[i]};
    }
}

static const fb_generate_counts *counts_of(const fb_generation *generation) {
    return fb_generation_stats(generation)->counts;
}

static fb_generate_options small_options(size_t tau) {
    fb_generate_options options;
    fb_generate_options_init(&options);
    options.reuse.tau = tau;
    options.max_tokens = 24;
    options.confidence_threshold = 0.5;
    options.ignore_stop = true;
    return options;
}

static void expect_same_results(const char *what, const fb_generate_result *a,
                                const fb_generate_result *b) {
    cr_assert_eq(a->num_tokens, b->num_tokens, "%s: %zu tokens, %zu", what, a->num_tokens,
                 b->num_tokens);
    for (size_t i = 0; i < a->num_tokens; i++)
        cr_assert(a->tokens[i] == b->tokens[i] && a->unmask_step[i] == b->unmask_step[i],
                  "%s: token %zu is %d at step %d, %d at step %d", what, i, a->tokens[i],
                  a->unmask_step[i], b->tokens[i], b->unmask_step[i]);
    cr_assert_eq(a->finish_reason, b->finish_reason, "%s", what);
}

/* All logits of a run, FNV-1a over their bits. */
typedef struct logits_hash {
    uint64_t hash;
    size_t vocab_size;
} logits_hash;

static bool hash_logits(void *user, const fb_step_event *event) {
    logits_hash *h = user;
    for (size_t i = 0; event->logits && i < event->block_size * h->vocab_size; i++)
        h->hash = (h->hash ^ fb_f32_to_bits(event->logits[i])) * 1099511628211u;
    return true;
}

static void expect_dense(const char *name, fb_remasking remasking, double temperature) {
    static const size_t lengths[3] = {21, 8, 3};
    prompts p;
    random_prompts(&p, lengths, 3, 1);
    fb_model *model = golden_model(name);
    size_t vocab_size = fb_model_config_of(model)->vocab_size;
    logits_hash hashes[2] = {{0, vocab_size}, {0, vocab_size}};
    fb_generation *runs[2];
    for (size_t tau = 0; tau < 2; tau++) {
        fb_generate_options options = small_options(tau);
        options.remasking = remasking;
        options.temperature = temperature;
        options.on_step = hash_logits;
        options.user = &hashes[tau];
        runs[tau] = generate(model, p.list, 3, &options);
    }
    cr_assert_eq(counts_of(runs[1])->reuses, 0);
    cr_assert_gt(counts_of(runs[1])->stores, 0);
    cr_assert_eq(counts_of(runs[0])->stores, 0);
    for (size_t i = 0; i < 3; i++)
        expect_same_results(name, fb_generation_result(runs[0], i),
                            fb_generation_result(runs[1], i));
    cr_assert_eq(hashes[0].hash, hashes[1].hash, "%s, %s: logits of tau 0 and tau 1 differ", name,
                 fb_remasking_name(remasking));
    fb_generation_destroy(runs[0]);
    fb_generation_destroy(runs[1]);
    fb_model_destroy(model);
}

Test(generate, tau_one_is_dense_bit_for_bit) {
    for (int remasking = 0; remasking <= (int)FB_ENTROPY_BOUNDED; remasking++) {
        expect_dense("model/m1", (fb_remasking)remasking, 0.0);
        expect_dense("model/m2", (fb_remasking)remasking, 0.8);
    }
}

Test(generate, batch_does_not_change_decisions) {
    static const size_t lengths[3] = {21, 8, 3};
    prompts p;
    random_prompts(&p, lengths, 3, 2);
    fb_model *model = golden_model("model/m1");
    fb_generate_options options = small_options(3);
    fb_generation *together = generate(model, p.list, 3, &options);
    cr_assert_gt(counts_of(together)->reuses, 0);
    for (size_t i = 0; i < 3; i++) {
        fb_generation *alone = generate(model, &p.list[i], 1, &options);
        expect_same_results("alone", fb_generation_result(together, i),
                            fb_generation_result(alone, 0));
        cr_assert_eq(memcmp(fb_generation_result(together, i)->counts,
                            fb_generation_result(alone, 0)->counts, sizeof(fb_generate_counts)),
                     0, "prompt %zu: counts", i);
        fb_generation_destroy(alone);
    }
    fb_generation_destroy(together);
    fb_model_destroy(model);
}

/* Refresh by rows, corrected or not, gives the same tokens for a prompt alone and in a batch. If
 * each step computes all rows, they are the tokens of dense attention. */
Test(generate, rows_in_a_batch_and_rows_that_are_dense) {
    static const size_t lengths[3] = {21, 8, 3};
    prompts p;
    random_prompts(&p, lengths, 3, 11);
    fb_model *model = golden_model("model/m1");
    for (int corrected = 0; corrected < 2; corrected++) {
        fb_generate_options options = small_options(1);
        options.reuse.rows = true;
        options.reuse.correction = corrected;
        fb_generation *together = generate(model, p.list, 3, &options);
        cr_assert_gt(counts_of(together)->row_refreshes, 0);
        for (size_t i = 0; i < 3; i++) {
            fb_generation *alone = generate(model, &p.list[i], 1, &options);
            expect_same_results("rows", fb_generation_result(alone, 0),
                                fb_generation_result(together, i));
            fb_generation_destroy(alone);
        }
        fb_generation_destroy(together);
        options.reuse.refresh_every = 1;
        options.reuse.refresh_commit = true;
        fb_generation *full = generate(model, p.list, 3, &options);
        options.reuse = (fb_reuse_policy){0};
        fb_generation *dense = generate(model, p.list, 3, &options);
        cr_assert_eq(counts_of(full)->external_rows, counts_of(dense)->external_rows);
        for (size_t i = 0; i < 3; i++)
            expect_same_results("dense", fb_generation_result(dense, i),
                                fb_generation_result(full, i));
        fb_generation_destroy(full);
        fb_generation_destroy(dense);
    }
    fb_model_destroy(model);
}

/* Sampling with one, two and all prompts active, and with prompts prefilled in small chunks. */
Test(generate, draws_depend_only_on_the_seed) {
    static const size_t lengths[5] = {21, 8, 3, 30, 14};
    prompts p;
    random_prompts(&p, lengths, 5, 3);
    fb_model *model = golden_model("model/m1");
    fb_generate_options options = small_options(2);
    options.temperature = 1.0;
    options.seed = 12345678901234u;
    fb_generation *first = generate(model, p.list, 5, &options);
    for (size_t active = 1; active <= 2; active++) {
        options.max_active = active;
        options.prefill_chunk = 5 * active;
        fb_generation *other = generate(model, p.list, 5, &options);
        for (size_t i = 0; i < 5; i++)
            expect_same_results("other batch", fb_generation_result(first, i),
                                fb_generation_result(other, i));
        fb_generation_destroy(other);
    }
    options.seed++;
    fb_generation *other = generate(model, p.list, 5, &options);
    cr_assert_neq(memcmp(fb_generation_result(first, 0)->tokens,
                         fb_generation_result(other, 0)->tokens, 24 * sizeof(int32_t)),
                  0);
    fb_generation_destroy(other);
    fb_generation_destroy(first);
    fb_model_destroy(model);
}

/* A prompt's place in the list, its batch and the prompts beside it change nothing, sampled or not,
 * whatever is reused; with seeds of their own, equal prompts differ, and each is what its seed
 * alone gives. */
Test(generate, each_prompt_is_as_it_would_be_alone) {
    static const size_t lengths[4] = {21, 8, 30, 14};
    static const uint64_t seeds[4] = {5, 6, UINT64_MAX, 5};
    prompts p;
    random_prompts(&p, lengths, 4, 3);
    fb_model *model = golden_model("model/m1");
    for (int kind = 0; kind < 8; kind++) {
        fb_generate_options options = small_options(2);
        options.temperature = kind % 2 ? 1.0 : 0.0;
        options.reuse.rows = kind / 2 == 1;
        options.reuse.tau = kind / 2 == 1 ? 1 : 2;
        options.kv_dtype = kind / 2 == 2 ? FB_BF16 : kind / 2 == 1 ? FB_INT8 : FB_F32;
        options.seeds = kind / 2 == 3 ? seeds : NULL;
        fb_generation *together = generate(model, p.list, 4, &options);
        for (size_t i = 0; i < 4; i++) {
            fb_generate_options own = options;
            own.seed = options.seeds ? seeds[i] : options.seed;
            own.seeds = NULL;
            fb_generation *one = generate(model, &p.list[i], 1, &own);
            expect_same_results("alone", fb_generation_result(together, i),
                                fb_generation_result(one, 0));
            fb_generation_destroy(one);
        }
        fb_generation_destroy(together);
    }
    const fb_prompt copies[3] = {p.list[0], p.list[0], p.list[0]};
    static const uint64_t own_seeds[3] = {7, 8, 7};
    fb_generate_options options = small_options(2);
    options.temperature = 1.0;
    options.seeds = own_seeds;
    fb_generation *samples = generate(model, copies, 3, &options);
    const fb_generate_result *first = fb_generation_result(samples, 0);
    expect_same_results("the same seed", first, fb_generation_result(samples, 2));
    cr_expect_neq(
        memcmp(first->tokens, fb_generation_result(samples, 1)->tokens, 24 * sizeof(int32_t)), 0);
    fb_generation_destroy(samples);
    fb_model_destroy(model);
}

/* Keys and values of 8 bits, dense, reused and by rows: one answer on every instruction set, with
 * any number of threads. docs/contract.md C7, C14. */
Test(generate, with_a_kv_cache_of_8_bits_one_answer_everywhere) {
    static const size_t lengths[2] = {21, 30};
    prompts p;
    random_prompts(&p, lengths, 2, 13);
    fb_model *model = golden_model("model/m1");
    for (int kind = 0; kind < 3; kind++) {
        fb_generate_options options = small_options(2);
        options.kv_dtype = FB_INT8;
        options.temperature = 1.0;
        options.reuse.tau = kind == 0 ? 0 : 2;
        options.reuse.rows = kind == 2;
        if (kind == 2)
            options.reuse.tau = 1;
        cr_assert_eq(fb_isa_select(FB_ISA_SCALAR), FB_OK);
        cr_assert_eq(fb_set_num_threads(1), FB_OK);
        fb_generation *first = generate(model, p.list, 2, &options);
        for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++)
            for (int threads = 1; threads <= 3; threads++) {
                if (!fb_isa_built(isa) || !fb_isa_supported(isa))
                    continue;
                cr_assert_eq(fb_isa_select(isa), FB_OK);
                cr_assert_eq(fb_set_num_threads(threads), FB_OK);
                fb_generation *other = generate(model, p.list, 2, &options);
                for (size_t i = 0; i < 2; i++)
                    expect_same_results(fb_isa_name(isa), fb_generation_result(first, i),
                                        fb_generation_result(other, i));
                fb_generation_destroy(other);
            }
        fb_generation_destroy(first);
    }
    fb_model_destroy(model);
}

/* Recomputes every proposal from the logits of the event and the random number of its
 * coordinates. */
static bool draw_again(void *user, const fb_step_event *event) {
    static const fb_sampler sampler = {
        .temperature = 1.5, .top_k = 20, .top_p = 0.9, .banned_token = 511};
    float probabilities[512];
    uint32_t order[512];
    for (size_t i = 0; event->proposed && i < event->block_size; i++) {
        fb_proposal proposal;
        double uniform = fb_random_uniform(77, 0, (uint32_t)event->block,
                                           (uint32_t)event->denoising_step, (uint32_t)i);
        cr_assert_eq(fb_sampler_propose(&sampler, event->logits + i * 512, 512, uniform, order,
                                        probabilities, &proposal),
                     FB_OK);
        cr_assert_eq(event->proposed[i], proposal.token);
        cr_assert_eq(event->confidence[i], proposal.confidence);
    }
    *(size_t *)user += 1;
    return true;
}

Test(generate, every_draw_has_its_own_number) {
    static const size_t lengths[2] = {9, 6};
    prompts p;
    random_prompts(&p, lengths, 2, 10);
    fb_model *model = golden_model("model/m1");
    size_t events = 0;
    fb_generate_options options = small_options(2);
    options.temperature = 1.5;
    options.top_k = 20;
    options.top_p = 0.9;
    options.seed = 77;
    options.on_step = draw_again;
    options.user = &events;
    fb_generation *generation = generate(model, p.list, 2, &options);
    cr_assert_eq(events, counts_of(generation)->denoising_steps + counts_of(generation)->commits);
    fb_generation_destroy(generation);
    fb_model_destroy(model);
}

/* Draws are nearly uniform over 512 tokens. The mask token is among them only with the rules of the
 * engine. */
static bool find_mask(void *user, const fb_step_event *event) {
    for (size_t i = 0; event->proposed && i < event->block_size; i++)
        *(size_t *)user += event->proposed[i] == 511;
    return true;
}

Test(generate, mask_token_is_drawn_only_in_the_engine) {
    static const size_t length = 8;
    prompts p;
    random_prompts(&p, &length, 1, 11);
    fb_model *model = golden_model("model/m1");
    for (int compat = 0; compat < 2; compat++) {
        size_t masks = 0;
        fb_generate_options options = small_options(2);
        options.compat = (fb_compat)compat;
        options.temperature = 1000.0;
        options.max_tokens = 400;
        options.on_step = find_mask;
        options.user = &masks;
        fb_generation_destroy(generate(model, p.list, 1, &options));
        cr_assert_eq(masks > 0, options.compat == FB_COMPAT_RELEASED, "%zu masks", masks);
    }
    fb_model_destroy(model);
}

/* The engine takes a prompt that holds a pad token (509) for left-padded. */
Test(generate, engine_cuts_padding) {
    static const size_t length = 20;
    prompts p;
    random_prompts(&p, &length, 1, 12);
    p.tokens[0][6] = 509;
    fb_prompt cut = {p.tokens[0] + 7, 13};
    fb_model *model = golden_model("model/m1");
    fb_generate_options options = small_options(2);
    fb_generation *paper = generate(model, p.list, 1, &options);
    cr_assert_eq(counts_of(paper)->prefill_tokens, 20);
    options.compat = FB_COMPAT_RELEASED;
    fb_generation *whole = generate(model, p.list, 1, &options);
    fb_generation *after = generate(model, &cut, 1, &options);
    cr_assert_eq(counts_of(whole)->prefill_tokens, 12);
    expect_same_results("cut prompt", fb_generation_result(whole, 0),
                        fb_generation_result(after, 0));
    fb_generation_destroy(paper);
    fb_generation_destroy(whole);
    fb_generation_destroy(after);
    fb_model_destroy(model);
}

/* With a bound below every entropy, one token is accepted at each step; with a bound above all, all
 * at once. */
Test(generate, entropy_bound_is_obeyed) {
    static const size_t length = 8;
    prompts p;
    random_prompts(&p, &length, 1, 13);
    fb_model *model = golden_model("model/m1");
    fb_generate_options options = small_options(2);
    options.remasking = FB_ENTROPY_BOUNDED;
    options.entropy_bound = 1e-9;
    fb_generation *slow = generate(model, p.list, 1, &options);
    cr_assert_eq(counts_of(slow)->denoising_steps, 24);
    options.entropy_bound = 1e9;
    fb_generation *fast = generate(model, p.list, 1, &options);
    cr_assert_eq(counts_of(fast)->denoising_steps, 6);
    fb_generation_destroy(slow);
    fb_generation_destroy(fast);
    fb_model_destroy(model);
}

/* Checks that hold for every pass. */
typedef struct observer {
    size_t events, stop_after; /* 0: never */
    size_t reuses, commits, new_tokens;
    int32_t mask_token;
    const prompts *prompts;
} observer;

static bool observe(void *user, const fb_step_event *event) {
    observer *o = user;
    for (size_t i = 0; i < event->block_size; i++) {
        cr_assert(!event->accepted[i] || event->masked_before[i]);
        cr_assert_eq(event->masked_after[i], event->masked_before[i] && !event->accepted[i]);
        cr_assert(event->masked_before[i] || event->before[i] == event->after[i]);
        if (event->proposed)
            cr_assert_neq(event->proposed[i], o->mask_token);
        size_t position = event->context_length + i;
        const fb_prompt *prompt = &o->prompts->list[event->sequence];
        if (position < prompt->num_tokens)
            cr_assert_eq(event->after[i], prompt->tokens[position]);
    }
    if (event->commit && event->finished)
        cr_assert_lt(event->finish_reason, FB_FINISH_CANCELLED);
    o->reuses += event->action == FB_REUSE;
    o->commits += event->commit;
    o->new_tokens += event->num_new;
    return ++o->events != o->stop_after;
}

Test(generate, prompts_of_every_length) {
    fb_model *model = golden_model("model/m1");
    for (size_t length = 0; length <= 9; length++) {
        prompts p;
        random_prompts(&p, &length, 1, 4);
        for (size_t max_tokens = 1; max_tokens <= 9; max_tokens += 2) {
            observer o = {.mask_token = 511, .prompts = &p};
            fb_generate_options options = small_options(2);
            options.max_tokens = max_tokens;
            options.on_step = observe;
            options.user = &o;
            fb_generation *generation = generate(model, p.list, 1, &options);
            const fb_generate_result *result = fb_generation_result(generation, 0);
            cr_assert_eq(result->num_tokens, max_tokens, "prompt of %zu: %zu tokens, not %zu",
                         length, result->num_tokens, max_tokens);
            cr_assert_eq(result->finish_reason, FB_FINISH_LENGTH);
            cr_assert_eq(o.new_tokens, max_tokens);
            cr_assert_eq(result->counts->prefill_tokens, length - length % 4);
            cr_assert_eq(o.reuses, result->counts->reuses);
            cr_assert_eq(o.commits, (length % 4 + max_tokens + 3) / 4);
            fb_generation_destroy(generation);
        }
    }
    fb_model_destroy(model);
}

/* The literal mask token in the prompt, in prefilled blocks and in the incomplete one. */
Test(generate, mask_token_in_the_prompt_is_not_denoised) {
    static const size_t length = 11;
    prompts p;
    random_prompts(&p, &length, 1, 5);
    p.tokens[0][2] = p.tokens[0][9] = p.tokens[0][10] = 511;
    fb_model *model = golden_model("model/m1");
    observer o = {.mask_token = 511, .prompts = &p};
    fb_generate_options options = small_options(2);
    options.on_step = observe;
    options.user = &o;
    fb_generation *generation = generate(model, p.list, 1, &options);
    cr_assert_eq(counts_of(generation)->accepted_tokens, 25); /* 24, and one to fill the block */
    fb_generation_destroy(generation);
    fb_model_destroy(model);
}

Test(generate, stops_at_a_stop_token) {
    static const size_t length = 10;
    prompts p;
    random_prompts(&p, &length, 1, 6);
    fb_model *model = golden_model("model/m1");
    fb_generate_options options = small_options(2);
    fb_generation *whole = generate(model, p.list, 1, &options);
    int32_t stop = fb_generation_result(whole, 0)->tokens[9];
    size_t first = 0;
    while (fb_generation_result(whole, 0)->tokens[first] != stop)
        first++;
    options.stop_tokens = &stop;
    options.num_stop_tokens = 1;
    options.ignore_stop = false;
    fb_generation *stopped = generate(model, p.list, 1, &options);
    cr_assert_eq(fb_generation_result(stopped, 0)->finish_reason, FB_FINISH_STOP);
    cr_assert_eq(fb_generation_result(stopped, 0)->num_tokens, first + 1);
    cr_assert_eq(fb_generation_result(stopped, 0)->tokens[first], stop);
    fb_generation_destroy(stopped);
    fb_generation_destroy(whole);
    fb_model_destroy(model);
}

Test(generate, cancelling_keeps_what_is_committed) {
    static const size_t lengths[4] = {10, 5, 9, 7};
    prompts p;
    random_prompts(&p, lengths, 4, 7);
    fb_model *model = golden_model("model/m1");
    for (size_t stop_after = 1; stop_after < 40; stop_after += 3) {
        observer o = {.mask_token = 511, .prompts = &p, .stop_after = stop_after};
        fb_generate_options options = small_options(2);
        options.max_tokens = 200;
        options.max_active = 2;
        options.on_step = observe;
        options.user = &o;
        fb_generation *generation = generate(model, p.list, 4, &options);
        cr_assert_eq(o.events, stop_after);
        size_t tokens = 0;
        for (size_t i = 0; i < 4; i++) {
            cr_assert_eq(fb_generation_result(generation, i)->finish_reason, FB_FINISH_CANCELLED);
            tokens += fb_generation_result(generation, i)->num_tokens;
        }
        cr_assert_eq(tokens, o.new_tokens);
        cr_assert_eq(fb_generation_result(generation, 3)->num_tokens, 0);
        fb_generation_destroy(generation);
    }
    fb_model_destroy(model);
}

/* m2 with fewer positions, in a folder of the test. */
static fb_model *load_short(size_t positions) {
    char from[4096 + 256];
    size_t size = 0;
    const char *folder = temporary_make();
    snprintf(from, sizeof from, "%s/model/m2/config.json", golden_folder());
    const fb_json *fields = NULL;
    fb_buffer text = {0};
    fb_json_writer w = fb_json_writer_to(&text, FB_JSON_COMPACT);
    cr_assert_eq(fb_json_load(from, SIZE_MAX, &fields), FB_OK, "%s", fb_error_message());
    fb_json_open_object(&w, NULL);
    put_other_members(&w, fields, "max_position_embeddings");
    fb_json_put_size(&w, "max_position_embeddings", positions);
    fb_json_close_object(&w);
    cr_assert_eq(fb_json_finish(&w), FB_OK);
    temporary_write("config.json", (const char *)text.data, text.size);
    fb_buffer_free(&text);
    fb_json_free(fields);
    snprintf(from, sizeof from, "%s/model/m2/model.safetensors", golden_folder());
    char *weights = read_whole(from, &size);
    temporary_write("model.safetensors", weights, size);
    free(weights);
    fb_model *model = NULL;
    cr_assert_eq(fb_model_load(folder, &model), FB_OK, "%s", fb_error_message());
    temporary_remove(); /* the weights are mapped */
    return model;
}

Test(generate, ends_with_the_positions_of_the_model) {
    static const size_t length = 53;
    prompts p;
    random_prompts(&p, &length, 1, 9);
    fb_model *model = load_short(64); /* 6 blocks of 8 prefilled, one of 5 + 3, one more */
    fb_generate_options options = small_options(2);
    options.kv_dtype = FB_BF16;
    fb_generation *generation = generate(model, p.list, 1, &options);
    cr_assert_eq(fb_generation_result(generation, 0)->finish_reason, FB_FINISH_CONTEXT);
    cr_assert_eq(fb_generation_result(generation, 0)->num_tokens, 11);
    fb_generation_destroy(generation);
    options.max_tokens = 11;
    generation = generate(model, p.list, 1, &options);
    cr_assert_eq(fb_generation_result(generation, 0)->finish_reason, FB_FINISH_LENGTH);
    fb_generation_destroy(generation);
    fb_model_destroy(model);

    model = load_short(56); /* the block that the prompt begins just fits */
    generation = generate(model, p.list, 1, &options);
    cr_assert_eq(fb_generation_result(generation, 0)->finish_reason, FB_FINISH_CONTEXT);
    cr_assert_eq(fb_generation_result(generation, 0)->num_tokens, 3);
    fb_generation_destroy(generation);
    fb_model_destroy(model);

    model = load_short(55);
    cr_assert_eq(fb_generate(model, p.list, 1, &options, &generation), FB_ERROR_ARGUMENT);
    cr_assert_not_null(strstr(fb_error_message(), "no room"), "%s", fb_error_message());
    fb_model_destroy(model);
}

Test(generate, counts_add_up) {
    static const size_t lengths[3] = {21, 8, 3};
    prompts p;
    random_prompts(&p, lengths, 3, 8);
    fb_model *model = golden_model("model/m1");
    fb_generate_options options = small_options(4);
    fb_generation *generation = generate(model, p.list, 3, &options);
    const fb_generate_counts *sum = counts_of(generation);
    fb_generate_counts parts = {0};
    for (size_t i = 0; i < 3; i++) {
        const fb_generate_counts *counts = fb_generation_result(generation, i)->counts;
        cr_assert_eq(counts->denoising_steps, counts->refreshes + counts->reuses);
        cr_assert_leq(counts->stores, counts->refreshes);
        cr_assert_eq(counts->completion_tokens, fb_generation_result(generation, i)->num_tokens);
        parts.denoising_steps += counts->denoising_steps;
        parts.commits += counts->commits;
        parts.prefill_tokens += counts->prefill_tokens;
        parts.completion_tokens += counts->completion_tokens;
    }
    cr_assert_eq(sum->denoising_steps, parts.denoising_steps);
    cr_assert_eq(sum->commits, parts.commits);
    cr_assert_eq(sum->prefill_tokens, parts.prefill_tokens);
    cr_assert_eq(sum->completion_tokens, 72);
    cr_assert_gt(sum->reuses, 0);
    cr_assert_eq(fb_generation_stats(generation)->prefill_passes, 1);
    cr_assert_geq(sum->denoising_steps + sum->commits,
                  fb_generation_stats(generation)->decode_passes);
    cr_assert_gt(fb_generation_stats(generation)->decode.attention, 0.0);
    cr_assert_geq(fb_generation_stats(generation)->decode.total,
                  fb_generation_stats(generation)->decode.attention +
                      fb_generation_stats(generation)->decode.linear);
    cr_assert_geq(fb_generation_stats(generation)->seconds,
                  fb_generation_stats(generation)->prefill.total +
                      fb_generation_stats(generation)->decode.total);
    fb_generation_destroy(generation);
    fb_model_destroy(model);
}

/* Whole blocks of the prompts: 20 tokens, 8 and none; chunks of 8: 8, 8, 4 + 4, 4. */
Test(generate, prompts_share_prefill_chunks) {
    static const size_t lengths[3] = {21, 8, 3};
    prompts p;
    random_prompts(&p, lengths, 3, 8);
    fb_model *model = golden_model("model/m1");
    fb_generate_options options = small_options(2);
    options.max_tokens = 4;
    options.prefill_chunk = 11;
    fb_generation *generation = generate(model, p.list, 3, &options);
    cr_assert_eq(counts_of(generation)->prefill_tokens, 28);
    cr_assert_eq(fb_generation_stats(generation)->prefill_passes, 4);
    fb_generation_destroy(generation);
    fb_model_destroy(model);
}

Test(generate, no_prompts_no_results) {
    fb_model *model = golden_model("model/m1");
    fb_generate_options options = small_options(2);
    fb_generation *generation = generate(model, NULL, 0, &options);
    cr_assert_eq(fb_generation_num_results(generation), 0);
    fb_generation_destroy(generation);
    fb_generation_destroy(NULL);
    fb_model_destroy(model);
}

/* --- bad input
 * ----------------------------------------------------------------------------- */

static void expect_error(fb_model *model, const fb_prompt *prompts_, size_t num_prompts,
                         const fb_generate_options *options, const char *named) {
    fb_generation *generation = NULL;
    cr_assert_eq(fb_generate(model, prompts_, num_prompts, options, &generation), FB_ERROR_ARGUMENT,
                 "%s is accepted", named);
    cr_assert_null(generation);
    cr_assert_not_null(strstr(fb_error_message(), named), "\"%s\" does not name %s",
                       fb_error_message(), named);
    cr_assert_null(strchr(fb_error_message(), '\n'));
}

Test(generate, bad_options_are_named) {
    fb_model *model = golden_model("model/m1");
    const int32_t tokens[2] = {1, 2};
    const fb_prompt prompt = {tokens, 2};
#define EXPECT_BAD(field, value, named)                                                            \
    do {                                                                                           \
        fb_generate_options options_ = small_options(2);                                           \
        options_.field = value;                                                                    \
        expect_error(model, &prompt, 1, &options_, named);                                         \
    } while (0)
    EXPECT_BAD(struct_size, 0, "options.struct_size is 0");
    EXPECT_BAD(max_tokens, 0, "max_tokens");
    EXPECT_BAD(block_size, 5000, "block_size");
    EXPECT_BAD(compat, (fb_compat)7, "compat");
    EXPECT_BAD(overwrite_decided, true, "overwrite_decided");
    EXPECT_BAD(remasking, (fb_remasking)9, "remasking");
    EXPECT_BAD(confidence_threshold, NAN, "confidence_threshold");
    EXPECT_BAD(entropy_bound, -0.5, "entropy_bound");
    EXPECT_BAD(temperature, -1.0, "temperature");
    EXPECT_BAD(temperature, (double)INFINITY, "temperature");
    EXPECT_BAD(top_p, 0.0, "top_p");
    EXPECT_BAD(top_p, 1.5, "top_p");
    EXPECT_BAD(num_stop_tokens, 1, "stop_tokens");
    EXPECT_BAD(mask_token_id, 512, "mask_token_id");
    EXPECT_BAD(mask_token_id, -2, "mask_token_id");
    EXPECT_BAD(kv_dtype, (fb_dtype)9, "kv_dtype");
    EXPECT_BAD(reuse, ((fb_reuse_policy){.rows = true}), "reuse.rows is set with tau 0");
    EXPECT_BAD(reuse, ((fb_reuse_policy){.correction = true}), "reuse.correction");
    EXPECT_BAD(reuse, ((fb_reuse_policy){.tau = 2, .refresh_every = 2}), "reuse.refresh_every");
    EXPECT_BAD(reuse, ((fb_reuse_policy){.tau = 2, .refresh_dirty = 2}), "reuse.refresh_dirty");
    EXPECT_BAD(reuse, ((fb_reuse_policy){.tau = 2, .refresh_commit = true}),
               "reuse.refresh_commit");
#undef EXPECT_BAD
    fb_generate_options released = small_options(2);
    released.compat = FB_COMPAT_RELEASED;
    released.reuse.rows = true;
    expect_error(model, &prompt, 1, &released, "reuse.rows is set with compat released");
    fb_model_destroy(model);
}

Test(generate, bad_prompts_are_named) {
    fb_model *model = golden_model("model/m1");
    const int32_t bad[2][3] = {{1, 512, 2}, {1, 2, -1}};
    fb_generate_options options = small_options(2);
    fb_prompt list[2] = {{bad[0], 1}, {bad[0], 3}};
    expect_error(model, list, 2, &options, "prompt 1: token 1 is 512");
    list[1] = (fb_prompt){bad[1], 3};
    expect_error(model, list, 2, &options, "prompt 1: token 2 is -1");
    list[1] = (fb_prompt){NULL, 3};
    expect_error(model, list, 2, &options, "prompt 1: tokens is NULL");
    expect_error(model, NULL, 2, &options, "prompts is NULL");
    expect_error(NULL, list, 1, &options, "model is NULL");
    expect_error(model, list, 1, NULL, "options is NULL");
    fb_model_destroy(model);
}

/* --- the observer of attention ---------------------------------------------------------------- */

/* For each slot, the calls of on_attention in the pass that on_step reports next. */
typedef struct attention_watch {
    fb_generate_attention_event last[MAX_PROMPTS];
    fb_reuse_action action[MAX_PROMPTS];
    size_t layers[MAX_PROMPTS]; /* seen since the last on_step */
    size_t num_layers, passes;
} attention_watch;

/* A refresh is dense attention, bit for bit. Results of fb_model_forward are dense rows. */
static void expect_dense_result(const fb_attention_event *event) {
    const fb_queries *q = event->queries;
    size_t rows = q->num_queries * q->num_heads;
    float *out = calloc(rows * (q->head_dim + 1), sizeof *out), *lse = out + rows * q->head_dim;
    fb_part dense = fb_part_rows(out, lse, q->num_heads, q->head_dim);
    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = q;
    call.kv = event->kv;
    call.layer = event->layer;
    call.action = FB_REFRESH_ONLY;
    cr_assert_eq(fb_block_attend(&call, &dense), FB_OK, "%s", fb_error_message());
    expect_same_bits("out", out, event->result->out, rows * q->head_dim);
    expect_same_bits("lse", lse, event->result->lse, rows);
    free(out);
}

static void watch_attention(void *user, const fb_generate_attention_event *event) {
    attention_watch *seen = user;
    cr_assert_eq(event->attention->layer, seen->layers[event->slot]);
    cr_assert_eq(fb_kv_cache_length(event->attention->kv), event->context_length);
    seen->last[event->slot] = *event;
    seen->action[event->slot] = event->attention->action;
    seen->layers[event->slot]++;
    if (event->attention->action != FB_REUSE)
        expect_dense_result(event->attention);
}

static bool watch_step(void *user, const fb_step_event *event) {
    attention_watch *seen = user;
    const fb_generate_attention_event *last = &seen->last[event->slot];
    cr_assert_eq(seen->layers[event->slot], seen->num_layers);
    cr_assert(last->sequence == event->sequence && last->block == event->block &&
              last->context_length == event->context_length && last->commit == event->commit &&
              last->denoising_step == event->denoising_step &&
              seen->action[event->slot] == event->action);
    seen->layers[event->slot] = 0;
    seen->passes++;
    return true;
}

Test(generate, attention_is_shown_before_each_step) {
    static const size_t lengths[3] = {21, 8, 3};
    prompts p;
    random_prompts(&p, lengths, 3, 23);
    fb_model *model = golden_model("model/m1");
    fb_generate_options options = small_options(3);
    options.max_active = 2;
    fb_generation *plain = generate(model, p.list, 3, &options);
    attention_watch seen = {.num_layers = fb_model_config_of(model)->num_hidden_layers};
    options.on_attention = watch_attention;
    options.on_step = watch_step;
    options.user = &seen;
    fb_generation *watched = generate(model, p.list, 3, &options);
    cr_assert_eq(seen.passes, counts_of(watched)->denoising_steps + counts_of(watched)->commits);
    cr_assert_gt(counts_of(watched)->reuses, 0);
    for (size_t i = 0; i < 3; i++)
        expect_same_results("watched", fb_generation_result(watched, i),
                            fb_generation_result(plain, i));
    fb_generation_destroy(plain);
    fb_generation_destroy(watched);
    fb_model_destroy(model);
}

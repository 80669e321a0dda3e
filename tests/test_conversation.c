/* What a conversation keeps changes no token: turns are as they are when everything is read anew,
 * for every loop, however a turn ended. */
#include "decode/conversation.h"
#include "decode/generate_options.h"
#include "tests/golden_case.h"
#include "tests/numbers.h"

#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#define EXPECT_OK(call) cr_assert_eq((call), FB_OK, "%s", fb_error_message())

enum { MASK = 95, MAX_TOKENS = 400, SEED = 23 };

/* Each loop with its tiny model, in blocks of 8. */
typedef struct loop_case {
    const char *model;
    fb_decoding_loop loop;
} loop_case;
static const loop_case loops[] = {
    {"sdar_moe", FB_LOOP_SDAR},
    {"llada20", FB_LOOP_LLADA2},
    {"llada21", FB_LOOP_LLADA2_EDITING},
    {"qwen3_bd3lm", FB_LOOP_BD3LM},
    {"fast_dllm_v2", FB_LOOP_FAST_DLLM_V2},
};
enum { NUM_LOOPS = sizeof loops / sizeof loops[0] };

static fb_model *load(const char *name) {
    char path[256];
    fb_model *model = NULL;
    snprintf(path, sizeof path, "golden/models/%s", name);
    EXPECT_OK(fb_model_load(golden_source_path(path), &model));
    return model;
}

static fb_generate_options options_of(const fb_model *model, const loop_case *c, size_t tau) {
    fb_generate_options o;
    fb_generate_options_init(&o);
    o.loop = c->loop;
    o.block_size = 8;
    o.max_tokens = 24;
    o.mask_token_id = MASK;
    o.reuse.tau = tau;
    o.ignore_stop = true;
    o.confidence_threshold = c->loop == FB_LOOP_BD3LM ? -1.0 : 0.6;
    if (c->loop == FB_LOOP_FAST_DLLM_V2)
        o.small_block = 4;
    EXPECT_OK(fb_generate_options_resolve(fb_model_config_of(model), &o));
    return o;
}

/* The tokens of a conversation so far. */
typedef struct text {
    int32_t tokens[MAX_TOKENS];
    size_t count;
} text;

static void append_random(text *to, random_stream *random, size_t count) {
    for (size_t i = 0; i < count; i++)
        to->tokens[to->count++] = (int32_t)random_between(random, 0, 89);
}

static void append_result(text *to, const fb_generate_result *result) {
    for (size_t i = 0; i < result->num_tokens; i++)
        to->tokens[to->count++] = result->tokens[i];
}

static void expect_same(const char *what, const fb_generate_result *a,
                        const fb_generate_result *b) {
    cr_assert_eq(a->num_tokens, b->num_tokens, "%s: %zu tokens, %zu", what, a->num_tokens,
                 b->num_tokens);
    for (size_t i = 0; i < a->num_tokens; i++)
        cr_assert(a->tokens[i] == b->tokens[i] && a->unmask_step[i] == b->unmask_step[i],
                  "%s: token %zu is %d at step %d, %d at step %d", what, i, a->tokens[i],
                  a->unmask_step[i], b->tokens[i], b->unmask_step[i]);
    cr_assert_eq(a->finish_reason, b->finish_reason, "%s", what);
}

/* A turn with what is kept, beside one that reads everything; returns the tokens that were kept. */
static size_t turn(fb_conversation *conversation, fb_model *model, const char *what, text *t,
                   const fb_generate_options *options) {
    fb_prompt prompt = {t->tokens, t->count};
    fb_generation *with = NULL, *without = NULL;
    size_t kept = 0;
    EXPECT_OK(fb_conversation_generate(conversation, &prompt, options, &kept, &with));
    EXPECT_OK(fb_generate(model, &prompt, 1, options, &without));
    const fb_generate_result *a = fb_generation_result(with, 0);
    const fb_generate_result *b = fb_generation_result(without, 0);
    expect_same(what, a, b);
    cr_assert_eq(kept % options->block_size, 0, "%s", what);
    cr_assert_eq(kept + a->counts->prefill_tokens, b->counts->prefill_tokens, "%s: %zu kept", what,
                 kept);
    append_result(t, a);
    fb_generation_destroy(with);
    fb_generation_destroy(without);
    return kept;
}

Test(conversation, turns_are_as_without_what_is_kept) {
    static const size_t lengths[] = {13, 8, 3, 16, 1};
    random_stream random = random_named(SEED);
    for (size_t loop = 0; loop < NUM_LOOPS; loop++) {
        fb_model *model = load(loops[loop].model);
        for (size_t tau = 0; tau < 4; tau += 3) {
            fb_generate_options options = options_of(model, &loops[loop], tau);
            fb_conversation *conversation = NULL;
            text t = {.count = 0};
            EXPECT_OK(fb_conversation_create(model, options.kv_dtype, &conversation));
            for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
                size_t before = t.count;
                append_random(&t, &random, lengths[i]);
                options.max_tokens = 16 + 3 * i;
                size_t kept = turn(conversation, model, loops[loop].model, &t, &options);
                bool none = loops[loop].loop == FB_LOOP_BD3LM;
                cr_assert(none ? kept == 0 : kept + 16 > before, "%s, turn %zu: %zu of %zu kept",
                          loops[loop].model, i, kept, before);
            }
            fb_conversation_destroy(conversation);
        }
        fb_model_destroy(model);
    }
}

static bool stop_at(void *user) {
    size_t *left = user;
    return (*left)-- == 0;
}

Test(conversation, a_turn_that_is_cancelled_at_any_pass) {
    random_stream random = random_named(SEED + 1);
    fb_model *model = load("sdar_moe");
    fb_generate_options options = options_of(model, &loops[0], 3);
    options.prefill_chunk = 8;
    fb_conversation *conversation = NULL;
    EXPECT_OK(fb_conversation_create(model, options.kv_dtype, &conversation));
    for (size_t passes = 0; passes < 14; passes++) {
        text t = {.count = 0};
        append_random(&t, &random, 29);
        size_t left = passes, kept;
        fb_generate_options cancelled = options;
        cancelled.is_cancelled = stop_at;
        cancelled.user = &left;
        fb_prompt prompt = {t.tokens, t.count};
        fb_generation *generation = NULL;
        EXPECT_OK(fb_conversation_generate(conversation, &prompt, &cancelled, &kept, &generation));
        cr_assert_eq(kept, 0);
        const fb_generate_result *result = fb_generation_result(generation, 0);
        cr_assert_eq(result->finish_reason, FB_FINISH_CANCELLED);
        append_result(&t, result);
        fb_generation_destroy(generation);
        append_random(&t, &random, 5);
        turn(conversation, model, "after a cancelled turn", &t, &options);
    }
    fb_conversation_destroy(conversation);
    fb_model_destroy(model);
}

Test(conversation, another_beginning_keeps_what_is_common) {
    random_stream random = random_named(SEED + 2);
    fb_model *model = load("llada20");
    fb_generate_options options = options_of(model, &loops[1], 3);
    fb_conversation *conversation = NULL;
    EXPECT_OK(fb_conversation_create(model, options.kv_dtype, &conversation));
    text t = {.count = 0};
    append_random(&t, &random, 40);
    text other = t;
    cr_assert_eq(turn(conversation, model, "the first", &t, &options), 0);
    other.tokens[21] ^= 1;
    text again = other;
    cr_assert_eq(turn(conversation, model, "the second", &other, &options), 16);
    options = options_of(model, &loops[1], 3);
    options.block_size = 16;
    cr_assert_eq(turn(conversation, model, "larger blocks", &again, &options), 0);
    EXPECT_OK(fb_conversation_forget(conversation));
    cr_assert_eq(turn(conversation, model, "forgotten", &again, &options), 0);
    cr_assert_gt(fb_conversation_bytes(conversation), 0);
    fb_conversation_destroy(conversation);
    fb_model_destroy(model);
}

/* What fb_generate says of caches that a prompt cannot go on with. */
static void expect_refused(fb_model *model, const fb_generate_options *options,
                           const fb_prompt *prompts, size_t count, const char *word) {
    fb_generation *generation = NULL;
    cr_assert_eq(fb_generate(model, prompts, count, options, &generation), FB_ERROR_ARGUMENT);
    cr_assert_not_null(strstr(fb_error_message(), word), "%s is not in: %s", word,
                       fb_error_message());
}

Test(conversation, caches_that_do_not_fit_are_refused) {
    random_stream random = random_named(SEED + 3);
    fb_model *model = load("sdar_moe");
    fb_generate_options options = options_of(model, &loops[0], 3);
    text t = {.count = 0};
    append_random(&t, &random, 20);
    fb_kv_cache *cache = NULL, *half = NULL;
    EXPECT_OK(fb_model_new_kv_cache(model, FB_F32, &cache));
    EXPECT_OK(fb_model_new_kv_cache(model, FB_BF16, &half));
    fb_prompt prompts[2] = {{t.tokens, 20}, {t.tokens, 20}};
    fb_kv_cache *list[2] = {cache, cache};
    options.kv_caches = list;
    expect_refused(model, &options, prompts, 2, "the same cache");
    list[1] = NULL;
    fb_generation *generation = NULL;
    EXPECT_OK(fb_generate(model, prompts, 2, &options, &generation));
    expect_same("a prompt with its own cache", fb_generation_result(generation, 0),
                fb_generation_result(generation, 1));
    fb_generation_destroy(generation);
    expect_refused(model, &options, prompts, 1, "whole blocks"); /* it holds the completion, too */
    EXPECT_OK(fb_kv_cache_truncate(cache, 12));
    expect_refused(model, &options, prompts, 1, "whole blocks");
    list[0] = half;
    expect_refused(model, &options, prompts, 1, "kv_dtype");
    list[0] = cache;
    EXPECT_OK(fb_kv_cache_truncate(cache, 8));
    options.compat = FB_COMPAT_RELEASED;
    expect_refused(model, &options, prompts, 1, "released");
    fb_kv_cache_destroy(cache);
    fb_kv_cache_destroy(half);
    fb_model_destroy(model);
}

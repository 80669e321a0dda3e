/* Things that must not change a bit of the logits of a model, and its errors for wrong arguments.
 * (test_golden.c compares with the paper's SDARForCausalLM.) */
#include "model/model_state.h"
#include "tests/golden_case.h"
#include "tests/numbers.h"
#include "tests/tiny_model.h"

#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPECT_OK(call) cr_assert_eq((call), FB_OK, "%s", fb_error_message())

static float *floats(size_t count) {
    float *values = calloc(count, sizeof *values);
    cr_assert_not_null(values);
    return values;
}

static fb_model *load(const char *directory) {
    fb_model *model = NULL;
    EXPECT_OK(fb_model_load(directory, &model));
    return model;
}

/* --- what must not change a bit --------------------------------------------------------------- */

enum { PROMPT = 48, BLOCK = 4 };

/* Sequences of a batch, each with a prompt of its own. */
typedef struct batch {
    fb_model *model;
    size_t count, vocab;
    fb_kv_cache *kv[4];
    fb_part_cache *parts[4];
    float *logits; /* [count, BLOCK, vocab] */
} batch;

static int32_t token_of(const batch *b, size_t name, size_t position) {
    return (int32_t)((name * 7919 + position * 104729 + position * position) % b->vocab);
}

/* Sequence i of the batch is the one called first_name + i: prefilled (longer ones by a block for
 * each name), then refreshed or reused as `last` says. */
static batch run_batch(fb_model *model, size_t first_name, size_t count, fb_reuse_action last) {
    batch b = {.model = model, .count = count, .vocab = fb_model_config_of(model)->vocab_size};
    b.logits = floats(count * BLOCK * b.vocab);
    int32_t tokens[4][PROMPT + 4 * BLOCK];
    fb_forward forwards[4];
    for (size_t i = 0; i < count; i++) {
        EXPECT_OK(fb_model_new_kv_cache(model, FB_F32, &b.kv[i]));
        EXPECT_OK(fb_model_new_part_cache(model, BLOCK, &b.parts[i]));
        size_t num_tokens = PROMPT + BLOCK * (first_name + i);
        for (size_t t = 0; t < num_tokens; t++)
            tokens[i][t] = token_of(&b, first_name + i, t);
        forwards[i] = (fb_forward){.struct_size = sizeof(fb_forward),
                                   .tokens = tokens[i],
                                   .num_tokens = num_tokens,
                                   .kv = b.kv[i],
                                   .prefill_block = BLOCK};
    }
    EXPECT_OK(fb_model_forward(model, forwards, count, NULL));
    for (size_t i = 0; i < count; i++) {
        EXPECT_OK(fb_kv_cache_commit(b.kv[i], forwards[i].num_tokens));
        forwards[i].num_tokens = BLOCK;
        forwards[i].prefill_block = 0;
        forwards[i].action = FB_REFRESH_AND_STORE;
        forwards[i].parts = b.parts[i];
        forwards[i].logits = b.logits + i * BLOCK * b.vocab;
    }
    EXPECT_OK(fb_model_forward(model, forwards, count, NULL));
    for (size_t i = 0; i < count; i++) {
        tokens[i][1] = tokens[i][2];
        forwards[i].action = last;
    }
    EXPECT_OK(fb_model_forward(model, forwards, count, NULL));
    return b;
}

static void free_batch(batch *b) {
    for (size_t i = 0; i < b->count; i++) {
        fb_kv_cache_destroy(b->kv[i]);
        fb_part_cache_destroy(b->parts[i]);
    }
    free(b->logits);
}

static void expect_same_logits(const char *what, fb_model *model, size_t count,
                               fb_reuse_action last, const batch *expected) {
    batch b = run_batch(model, 0, count, last);
    expect_same_bits(what, b.logits, expected->logits, count * BLOCK * b.vocab);
    free_batch(&b);
}

Test(model, threads_change_no_bit) {
    fb_model *model = load(tiny_model_write(&tiny_model_large));
    static const fb_reuse_action actions[] = {FB_REFRESH_ONLY, FB_REUSE};
    for (size_t i = 0; i < 2; i++) {
        EXPECT_OK(fb_set_num_threads(1));
        batch expected = run_batch(model, 0, 2, actions[i]);
        for (int threads = 2; threads <= 3; threads++) {
            EXPECT_OK(fb_set_num_threads(threads));
            expect_same_logits("threads", model, 2, actions[i], &expected);
        }
        free_batch(&expected);
    }
    fb_model_destroy(model);
    tiny_model_remove();
}

Test(model, instruction_sets_change_no_bit) {
    fb_model *model = load(tiny_model_write(&tiny_model_large));
    EXPECT_OK(fb_isa_select(FB_ISA_SCALAR));
    batch expected = run_batch(model, 0, 2, FB_REUSE);
    for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++)
        if (fb_isa_built(isa) && fb_isa_supported(isa)) {
            EXPECT_OK(fb_isa_select(isa));
            expect_same_logits(fb_isa_name(isa), model, 2, FB_REUSE, &expected);
        }
    free_batch(&expected);
    fb_model_destroy(model);
    tiny_model_remove();
}

Test(model, storing_changes_no_bit) {
    fb_model *model = load(tiny_model_write(&tiny_model_large));
    batch expected = run_batch(model, 0, 2, FB_REFRESH_ONLY);
    expect_same_logits("refresh and store", model, 2, FB_REFRESH_AND_STORE, &expected);
    free_batch(&expected);
    fb_model_destroy(model);
    tiny_model_remove();
}

/* A sequence's logits do not depend on what else is in the batch. */
Test(model, the_batch_changes_no_bit) {
    fb_model *model = load(tiny_model_write(&tiny_model_large));
    batch together = run_batch(model, 0, 3, FB_REUSE);
    for (size_t i = 0; i < 3; i++) {
        batch alone = run_batch(model, i, 1, FB_REUSE);
        expect_same_bits("alone", alone.logits, together.logits + i * BLOCK * alone.vocab,
                         BLOCK * alone.vocab);
        free_batch(&alone);
    }
    free_batch(&together);
    fb_model_destroy(model);
    tiny_model_remove();
}

/* Only the second of three sequences asks for logits, and gets its own. */
/* Logits of a model's only pass. */
static float *logits_of(fb_model *model) {
    const int32_t tokens[4] = {4, 3, 2, 1};
    float *logits = floats(4 * fb_model_config_of(model)->vocab_size);
    fb_kv_cache *kv = NULL;
    EXPECT_OK(fb_model_new_kv_cache(model, FB_F32, &kv));
    fb_forward forward;
    fb_forward_init(&forward);
    forward.tokens = tokens;
    forward.num_tokens = 4;
    forward.kv = kv;
    forward.action = FB_REFRESH_ONLY;
    forward.logits = logits;
    EXPECT_OK(fb_model_forward(model, &forward, 1, NULL));
    fb_kv_cache_destroy(kv);
    return logits;
}

Test(model, weights_that_were_read_do_not_need_their_file) {
    const char *directory = tiny_model_write(&tiny_model_small);
    char path[4096];
    fb_model *mapped = load(directory), *read = NULL;
    fb_model_options options;
    fb_model_options_init(&options);
    options.read_weights = true;
    EXPECT_OK(fb_model_load_with(directory, &options, &read));
    float *expected = logits_of(mapped);
    fb_model_destroy(mapped);
    snprintf(path, sizeof path, "%s/model.safetensors", directory);
    cr_assert_eq(truncate(path, 0), 0);
    float *found = logits_of(read);
    cr_assert_arr_eq(found, expected, 4 * fb_model_config_of(read)->vocab_size * sizeof *expected);
    fb_model_destroy(read);
    options.struct_size = 0;
    cr_assert_eq(fb_model_load_with(directory, &options, &read), FB_ERROR_ARGUMENT);
    fb_model_options_init(&options);
    options.unused[0] = true; /* as a program that was compiled against a later header */
    cr_assert_eq(fb_model_load_with(directory, &options, &read), FB_ERROR_ARGUMENT);
    free(expected);
    free(found);
    tiny_model_remove();
}

static void *run_shared(void *context) {
    batch *b = context;
    *b = run_batch(b->model, 0, 2, FB_REUSE);
    return NULL;
}

Test(model, models_that_share_weights_run_at_once) {
    fb_model *model = load(tiny_model_write(&tiny_model_large)), *other = NULL;
    batch expected = run_batch(model, 0, 2, FB_REUSE);
    EXPECT_OK(fb_model_share(model, &other));
    batch found = {.model = other};
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, run_shared, &found), 0);
    for (int i = 0; i < 3; i++)
        expect_same_logits("the owner of the weights", model, 2, FB_REUSE, &expected);
    pthread_join(thread, NULL);
    expect_same_bits("shared weights", found.logits, expected.logits, 2 * BLOCK * expected.vocab);
    free_batch(&found);
    fb_model_destroy(other);
    expect_same_logits("afterwards", model, 2, FB_REUSE, &expected);
    free_batch(&expected);
    fb_model_destroy(model);
    tiny_model_remove();
}

/* A pass that another thread, or a callback, would make while one is being made. */
typedef struct second_pass {
    fb_model *model;
    fb_kv_cache *kv;
    int refused, others;
} second_pass;

static void *try_second_pass(void *context) {
    second_pass *s = context;
    const int32_t tokens[4] = {1, 2, 3, 4};
    fb_forward forward;
    fb_forward_init(&forward);
    forward.tokens = tokens;
    forward.num_tokens = 4;
    forward.kv = s->kv;
    forward.action = FB_REFRESH_ONLY;
    fb_status status = fb_model_forward(s->model, &forward, 1, NULL);
    if (status == FB_ERROR_ARGUMENT && strstr(fb_error_message(), "in use"))
        s->refused++;
    else
        s->others++;
    return NULL;
}

static void during_a_pass(void *user, const fb_attention_event *event) {
    pthread_t thread;
    (void)event;
    try_second_pass(user);
    cr_assert_eq(pthread_create(&thread, NULL, try_second_pass, user), 0);
    pthread_join(thread, NULL);
}

Test(model, serves_one_pass_at_a_time) {
    fb_model *model = load(tiny_model_write(&tiny_model_small));
    second_pass second = {.model = model};
    const int32_t tokens[4] = {4, 3, 2, 1};
    size_t values = 4 * fb_model_config_of(model)->vocab_size;
    float *alone = floats(values), *logits = floats(values);
    fb_kv_cache *kv = NULL;
    EXPECT_OK(fb_model_new_kv_cache(model, FB_F32, &kv));
    EXPECT_OK(fb_model_new_kv_cache(model, FB_F32, &second.kv));
    fb_forward forward;
    fb_forward_init(&forward);
    forward.tokens = tokens;
    forward.num_tokens = 4;
    forward.kv = kv;
    forward.action = FB_REFRESH_ONLY;
    forward.logits = alone;
    EXPECT_OK(fb_model_forward(model, &forward, 1, NULL));
    forward.logits = logits;
    forward.on_attention = during_a_pass;
    forward.user = &second;
    EXPECT_OK(fb_model_forward(model, &forward, 1, NULL));
    cr_assert_gt(second.refused, 1);
    cr_assert_eq(second.others, 0, "%s", fb_error_message());
    cr_assert_arr_eq(logits, alone, values * sizeof *logits);
    try_second_pass(&second); /* the model is free again */
    cr_assert_eq(second.others, 1);
    free(alone);
    free(logits);
    fb_kv_cache_destroy(kv);
    fb_kv_cache_destroy(second.kv);
    fb_model_destroy(model);
    tiny_model_remove();
}

Test(model, logits_of_some_sequences) {
    fb_model *model = load(tiny_model_write(&tiny_model_large));
    batch b = run_batch(model, 0, 3, FB_REFRESH_ONLY);
    size_t count = BLOCK * b.vocab;
    int32_t tokens[BLOCK];
    fb_forward forwards[3];
    float *logits[3] = {floats(count), floats(count), floats(count)};
    for (size_t i = 0; i < BLOCK; i++)
        tokens[i] = (int32_t)i;
    for (size_t mask = 1; mask < 8; mask++) {
        for (size_t i = 0; i < 3; i++) {
            memset(logits[i], 0, count * sizeof *logits[i]);
            forwards[i] = (fb_forward){.struct_size = sizeof(fb_forward),
                                       .tokens = tokens,
                                       .num_tokens = BLOCK,
                                       .kv = b.kv[i]};
            forwards[i].action = FB_REFRESH_ONLY;
            forwards[i].logits = mask & (1u << i) ? logits[i] : NULL;
        }
        EXPECT_OK(fb_model_forward(model, forwards, 3, NULL));
        for (size_t i = 0; i < 3; i++) {
            float *alone = floats(count);
            forwards[i].logits = alone;
            EXPECT_OK(fb_model_forward(model, &forwards[i], 1, NULL));
            if (mask & (1u << i))
                expect_same_bits("wanted", logits[i], alone, count);
            free(alone);
        }
    }
    for (size_t i = 0; i < 3; i++)
        free(logits[i]);
    free_batch(&b);
    fb_model_destroy(model);
    tiny_model_remove();
}

/* Positions and masks are right when a prompt comes in chunks. (Attention merges its parts in
 * another order, so bits may differ.) */
Test(model, prefill_in_chunks) {
    fb_model *model = load(tiny_model_write(&tiny_model_large));
    size_t vocab = fb_model_config_of(model)->vocab_size;
    int32_t tokens[PROMPT];
    for (size_t t = 0; t < PROMPT; t++)
        tokens[t] = (int32_t)((t * t + 3) % vocab);
    float *whole = floats(PROMPT * vocab), *chunks = floats(PROMPT * vocab);
    fb_kv_cache *kv = NULL;
    EXPECT_OK(fb_model_new_kv_cache(model, FB_F32, &kv));
    fb_forward all = {.struct_size = sizeof(fb_forward),
                      .tokens = tokens,
                      .num_tokens = PROMPT,
                      .kv = kv,
                      .prefill_block = BLOCK};
    all.logits = whole;
    EXPECT_OK(fb_model_forward(model, &all, 1, NULL));
    for (size_t done = 0, size = BLOCK; done < PROMPT; done += size) {
        size = done % 3 ? 2 * BLOCK : BLOCK;
        size = size < PROMPT - done ? size : PROMPT - done;
        fb_forward chunk = {.struct_size = sizeof(fb_forward),
                            .tokens = tokens + done,
                            .num_tokens = size,
                            .kv = kv};
        chunk.prefill_block = BLOCK;
        chunk.logits = chunks + done * vocab;
        EXPECT_OK(fb_model_forward(model, &chunk, 1, NULL));
        EXPECT_OK(fb_kv_cache_commit(kv, size));
    }
    golden_expect_close("chunks", chunks, whole, PROMPT * vocab, 3e-4);
    free(whole);
    free(chunks);
    fb_kv_cache_destroy(kv);
    fb_model_destroy(model);
    tiny_model_remove();
}

Test(model, times_add_up) {
    fb_model *model = load(tiny_model_write(&tiny_model_large));
    batch b = run_batch(model, 0, 1, FB_REFRESH_ONLY);
    int32_t tokens[BLOCK] = {1, 2, 3, 4};
    fb_forward forward = {
        .struct_size = sizeof(fb_forward), .tokens = tokens, .num_tokens = BLOCK, .kv = b.kv[0]};
    forward.action = FB_REFRESH_ONLY;
    fb_forward_times times = {1.0, 2.0, 3.0};
    EXPECT_OK(fb_model_forward(model, &forward, 1, &times));
    cr_assert(times.attention > 1.0 && times.linear > 2.0 && times.total > 3.0);
    cr_assert_lt(times.attention - 1.0 + times.linear - 2.0, times.total - 3.0);
    free_batch(&b);
    fb_model_destroy(model);
    tiny_model_remove();
}

/* --- arguments -------------------------------------------------------------------------------- */

static void expect_failure(fb_model *model, const fb_forward *forwards, size_t count,
                           fb_status status, const char *words) {
    fb_forward_times times = {1.0, 1.0, 1.0};
    cr_assert_eq(fb_model_forward(model, forwards, count, &times), status, "%s", words);
    cr_assert(strstr(fb_error_message(), words), "'%s' does not say '%s'", fb_error_message(),
              words);
    cr_assert(times.attention == 1.0 && times.linear == 1.0 && times.total == 1.0);
    for (size_t i = 0; forwards && i < count; i++)
        cr_assert(!forwards[i].logits || forwards[i].logits[0] == 42.0f, "%s", words);
}

Test(model, bad_arguments) {
    fb_model *model = load(tiny_model_write(&tiny_model_small));
    size_t vocab = fb_model_config_of(model)->vocab_size;
    batch b = run_batch(model, 0, 2, FB_REFRESH_ONLY);
    int32_t tokens[BLOCK] = {1, 2, 3, 4}, high[2] = {1, (int32_t)vocab}, low[2] = {1, -1};
    float *logits = floats(BLOCK * vocab);
    logits[0] = 42.0f;
    fb_forward good = {.struct_size = sizeof(fb_forward),
                       .tokens = tokens,
                       .num_tokens = BLOCK,
                       .kv = b.kv[0],
                       .logits = logits};
    good.action = FB_REFRESH_ONLY;
    fb_forward f = good;
    expect_failure(NULL, &f, 1, FB_ERROR_ARGUMENT, "model is NULL");
    expect_failure(model, NULL, 1, FB_ERROR_ARGUMENT, "sequences is NULL");
    f.tokens = NULL;
    expect_failure(model, &f, 1, FB_ERROR_ARGUMENT, "tokens is NULL");
    f = good;
    f.num_tokens = 0;
    expect_failure(model, &f, 1, FB_ERROR_ARGUMENT, "num_tokens is 0");
    f = good;
    f.num_tokens = 2;
    f.tokens = high;
    expect_failure(model, &f, 1, FB_ERROR_ARGUMENT, "tokens[1] is 67");
    f.tokens = low;
    expect_failure(model, &f, 1, FB_ERROR_ARGUMENT, "tokens[1] is -1");
    f = good;
    f.kv = NULL;
    expect_failure(model, &f, 1, FB_ERROR_ARGUMENT, "kv is NULL");
    f = good;
    f.action = FB_REUSE;
    expect_failure(model, &f, 1, FB_ERROR_ARGUMENT, "parts is NULL");
    f.action = FB_REFRESH_ROWS;
    f.parts = b.parts[0];
    expect_failure(model, &f, 1, FB_ERROR_ARGUMENT, "refresh_rows is NULL");
    f = good;
    f.prefill_block = 5;
    expect_failure(model, &f, 1, FB_ERROR_ARGUMENT, "inside a block of 5");
    fb_forward twice[2] = {good, good};
    expect_failure(model, twice, 2, FB_ERROR_ARGUMENT, "share a cache");
    twice[1].struct_size -= sizeof(void *);
    expect_failure(model, twice, 2, FB_ERROR_ARGUMENT, "sequence 1 has struct_size");
    f = good;
    f.struct_size = 0;
    expect_failure(model, &f, 1, FB_ERROR_ARGUMENT, "sequence.struct_size is 0");
    EXPECT_OK(fb_model_forward(model, NULL, 0, NULL));
    free(logits);
    free_batch(&b);
    fb_model_destroy(model);
    tiny_model_remove();
}

Test(model, stale_parts_and_foreign_caches) {
    fb_model *model = load(tiny_model_write(&tiny_model_small));
    batch b = run_batch(model, 0, 1, FB_REUSE);
    int32_t tokens[BLOCK] = {1, 2, 3, 4};
    fb_forward f = {.struct_size = sizeof(fb_forward),
                    .tokens = tokens,
                    .num_tokens = BLOCK,
                    .kv = b.kv[0],
                    .parts = b.parts[0]};
    f.action = FB_REUSE;
    EXPECT_OK(fb_model_forward(model, &f, 1, NULL));
    EXPECT_OK(fb_kv_cache_commit(b.kv[0], BLOCK));
    expect_failure(model, &f, 1, FB_ERROR_STALE, "layer 0");
    f.compat = FB_COMPAT_RELEASED;
    EXPECT_OK(fb_model_forward(model, &f, 1, NULL));
    fb_kv_cache *foreign = NULL;
    EXPECT_OK(fb_kv_cache_create(&(fb_kv_cache_config){1, 1, 8, FB_F32}, &foreign));
    f.kv = foreign;
    expect_failure(model, &f, 1, FB_ERROR_ARGUMENT, "kv has 1 layers of 1 x 8");
    fb_kv_cache_destroy(foreign);
    free_batch(&b);
    fb_model_destroy(model);
    tiny_model_remove();
}

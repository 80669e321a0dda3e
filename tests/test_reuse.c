/* The KV cache, the cached parts, and the rule of reuse. */
#include "numbers.h"

#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 2, KV_HEADS = 2, HEADS = 6, DIM = 32, BLOCK = 4 };
enum { KV_ROW = KV_HEADS * DIM, Q_ROW = HEADS * DIM };

static fb_kv_cache *cache_new(fb_dtype dtype) {
    fb_kv_cache_config config = {LAYERS, KV_HEADS, DIM, dtype};
    fb_kv_cache *cache = NULL;
    cr_assert_eq(fb_kv_cache_create(&config, &cache), FB_OK, "%s", fb_error_message());
    return cache;
}

/* Writes random tokens behind the committed ones, in every layer. */
static void write_tokens(fb_kv_cache *cache, random_stream *random, size_t count) {
    for (size_t layer = 0; layer < LAYERS; layer++) {
        float *k = random_floats(random, count * KV_ROW, 1.0f);
        float *v = random_floats(random, count * KV_ROW, 1.0f);
        cr_assert_eq(fb_kv_cache_write(cache, layer, fb_kv_cache_length(cache), count, k, v), FB_OK,
                     "%s", fb_error_message());
        free(k), free(v);
    }
}

static void commit_tokens(fb_kv_cache *cache, random_stream *random, size_t count) {
    write_tokens(cache, random, count);
    cr_assert_eq(fb_kv_cache_commit(cache, count), FB_OK, "%s", fb_error_message());
}

Test(kv_cache, gives_back_what_was_written) {
    random_stream random = random_named(30);
    for (fb_dtype dtype = FB_F32; dtype <= FB_F16; dtype++) {
        fb_kv_cache *cache = cache_new(dtype);
        size_t written = 0;
        float *k = random_floats(&random, 700 * KV_ROW, 1.0f);
        float *v = random_floats(&random, 700 * KV_ROW, 1.0f);
        while (written < 700) {
            size_t count = random_between(&random, 1, 90);
            count = count < 700 - written ? count : 700 - written;
            cr_assert_eq(fb_kv_cache_write(cache, 1, written, count, k + written * KV_ROW,
                                           v + written * KV_ROW),
                         FB_OK);
            written += count;
        }
        float *read_k = calloc(700 * KV_ROW, sizeof *k), *read_v = calloc(700 * KV_ROW, sizeof *v);
        cr_assert_eq(fb_kv_cache_read(cache, 1, 13, 600, read_k, read_v), FB_OK);
        char *half = malloc(700 * KV_ROW * sizeof *k);
        float *inputs[2] = {k, v};
        for (size_t i = 0; i < 2; i++) { /* rounded to dtype once */
            cr_assert_eq(fb_from_f32(dtype, inputs[i], half, 700 * KV_ROW), FB_OK);
            cr_assert_eq(fb_to_f32(dtype, half, inputs[i], 700 * KV_ROW), FB_OK);
        }
        expect_same_bits("k", k + 13 * KV_ROW, read_k, 600 * KV_ROW);
        expect_same_bits("v", v + 13 * KV_ROW, read_v, 600 * KV_ROW);
        cr_assert_eq(fb_kv_cache_bytes(cache), 3u * 256 * 2 * KV_ROW * fb_dtype_size(dtype));
        free(k), free(v), free(read_k), free(read_v), free(half);
        fb_kv_cache_destroy(cache);
    }
}

Test(kv_cache, grows_by_committed_blocks) {
    random_stream random = random_named(31);
    fb_kv_cache *cache = cache_new(FB_F32);
    uint64_t epoch = fb_kv_cache_epoch(cache);
    write_tokens(cache, &random, BLOCK);
    cr_assert_eq(fb_kv_cache_length(cache), 0);
    cr_assert_eq(fb_kv_cache_epoch(cache), epoch, "the current block is not committed content");
    cr_assert_eq(fb_kv_cache_commit(cache, BLOCK), FB_OK);
    cr_assert_eq(fb_kv_cache_length(cache), BLOCK);
    cr_assert_neq(fb_kv_cache_epoch(cache), epoch);
    epoch = fb_kv_cache_epoch(cache);
    cr_assert_eq(fb_kv_cache_commit(cache, 1), FB_ERROR_ARGUMENT, "nothing was written");
    float row[KV_ROW] = {0};
    cr_assert_eq(fb_kv_cache_write(cache, 0, BLOCK + 1, 1, row, row), FB_ERROR_ARGUMENT, "a hole");
    cr_assert_eq(fb_kv_cache_write(cache, LAYERS, BLOCK, 1, row, row), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_kv_cache_write(cache, 0, 2, 1, row, row), FB_OK);
    cr_assert_neq(fb_kv_cache_epoch(cache), epoch, "committed content was overwritten");
    cr_assert_eq(fb_kv_cache_truncate(cache, 2), FB_OK);
    cr_assert_eq(fb_kv_cache_length(cache), 2);
    cr_assert_eq(fb_kv_cache_truncate(cache, 3), FB_ERROR_ARGUMENT);
    fb_kv_cache_destroy(cache);
    fb_kv_cache_destroy(NULL);
}

Test(kv_cache, history_is_that_of_growing) {
    random_stream random = random_named(39);
    fb_kv_cache *cache = cache_new(FB_F32), *other = cache_new(FB_F32);
    uint64_t history = fb_kv_cache_history(cache);
    cr_assert_neq(history, fb_kv_cache_history(other));
    commit_tokens(cache, &random, 3);
    write_tokens(cache, &random, BLOCK);
    commit_tokens(cache, &random, BLOCK);
    cr_assert_eq(fb_kv_cache_history(cache), history, "it has only grown");
    float row[KV_ROW] = {0};
    cr_assert_eq(fb_kv_cache_write(cache, 0, 2, 1, row, row), FB_OK);
    cr_assert_neq(fb_kv_cache_history(cache), history, "committed content was overwritten");
    history = fb_kv_cache_history(cache);
    cr_assert_eq(fb_kv_cache_truncate(cache, 2), FB_OK);
    cr_assert_neq(fb_kv_cache_history(cache), history, "and cut off");
    cr_assert_neq(fb_kv_cache_history(cache), fb_kv_cache_history(other));
    fb_kv_cache_destroy(cache);
    fb_kv_cache_destroy(other);
}

Test(kv_cache, rejects_impossible_sizes) {
    fb_kv_cache *cache = NULL;
    fb_kv_cache_config none = {1, 0, 8, FB_F32}, wide = {1, SIZE_MAX / 4, 64, FB_F32},
                       typeless = {1, 1, 8, (fb_dtype)9};
    cr_assert_eq(fb_kv_cache_create(&none, &cache), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_kv_cache_create(&wide, &cache), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_kv_cache_create(&typeless, &cache), FB_ERROR_ARGUMENT);
    cr_assert_null(cache);
    fb_part_cache *parts = NULL;
    cr_assert_eq(fb_part_cache_create(SIZE_MAX / 2, 8, 8, 8, &parts), FB_ERROR_MEMORY);
    cr_assert_eq(fb_part_cache_create(1, 0, 8, 8, &parts), FB_ERROR_ARGUMENT);
    cr_assert_null(parts);
}

static void expect_action(fb_reuse_policy policy, fb_reuse_step step, fb_reuse_action expected) {
    fb_reuse_action action = fb_reuse_decide(&policy, &step);
    cr_assert_eq(action, expected, "tau %zu, step %zu, %zu dirty: %s, expected %s", policy.tau,
                 step.denoising_step, step.dirty_tokens, fb_reuse_action_name(action),
                 fb_reuse_action_name(expected));
}

/* One token a step: tau 2 alternates, tau 3 reuses twice (spec of the engine's scheduler). */
Test(reuse, rule) {
    for (size_t tau = 0; tau <= 5; tau++) {
        fb_reuse_policy policy = {.tau = tau};
        size_t dirty = 0;
        for (size_t step = 0; step < 8; step++) {
            fb_reuse_step now = {.denoising_step = step,
                                 .denoising_steps = 100,
                                 .dirty_tokens = dirty,
                                 .masked_tokens = 50,
                                 .budget = 1};
            bool reuses = tau > 1 && step % tau != 0;
            expect_action(policy, now,
                          reuses     ? FB_REUSE
                          : tau == 0 ? FB_REFRESH_ONLY
                                     : FB_REFRESH_AND_STORE);
            dirty = reuses ? dirty + 1 : 1;
        }
    }
}

Test(reuse, a_part_that_no_step_will_use_is_not_stored) {
    fb_reuse_policy policy = {.tau = 2};
    fb_reuse_step step = {.denoising_step = 2,
                          .denoising_steps = 8,
                          .dirty_tokens = 2,
                          .masked_tokens = 3,
                          .budget = 2};
    expect_action(policy, step, FB_REFRESH_AND_STORE);
    step.masked_tokens = 2; /* this step takes them all */
    expect_action(policy, step, FB_REFRESH_ONLY);
    step.budget = 0; /* counts as 1 */
    expect_action(policy, step, FB_REFRESH_AND_STORE);
    step.masked_tokens = 1;
    expect_action(policy, step, FB_REFRESH_ONLY);
    step.masked_tokens = 4;
    step.denoising_steps = 3; /* the last one */
    expect_action(policy, step, FB_REFRESH_ONLY);
    step.denoising_steps = 8;
    step.commit = true;
    step.dirty_tokens = 0; /* even so */
    expect_action(policy, step, FB_REFRESH_ONLY);
    policy.reuse_at_commit = true;
    expect_action(policy, step, FB_REUSE);
    policy = (fb_reuse_policy){.tau = 1, .reuse_always = true};
    step.dirty_tokens = 9;
    expect_action(policy, step, FB_REFRESH_ONLY);
    step.commit = false;
    expect_action(policy, step, FB_REUSE);
    step.denoising_step = 0;
    expect_action(policy, step, FB_REFRESH_AND_STORE);
}

typedef struct block {
    float *q, out[BLOCK * Q_ROW], lse[BLOCK * HEADS];
    fb_queries queries;
    fb_part part;
} block;

static block *block_new(random_stream *random) {
    block *b = calloc(1, sizeof *b);
    b->q = random_floats(random, BLOCK * Q_ROW, 1.0f);
    b->queries = fb_queries_rows(b->q, BLOCK, HEADS, DIM);
    b->part = fb_part_rows(b->out, b->lse, HEADS, DIM);
    return b;
}

static void block_free(block *b) {
    free(b->q);
    free(b);
}

static fb_status step(block *b, fb_kv_cache *kv, fb_reuse_action action, fb_part_cache *parts) {
    return fb_block_attend(&b->queries, kv, 1, action, FB_COMPAT_PAPER, parts, 0.0f, &b->part);
}

/* A refresh is dense attention, bit for bit: storing or not. And dense attention is what one call
 * over both ranges gives. */
Test(reuse, a_refresh_is_dense) {
    random_stream random = random_named(32);
    for (size_t context = 0; context < 2600; context += 1 + context / 3) {
        fb_kv_cache *kv = cache_new(FB_BF16);
        fb_part_cache *parts = NULL;
        cr_assert_eq(fb_part_cache_create(LAYERS, BLOCK, HEADS, DIM, &parts), FB_OK);
        commit_tokens(kv, &random, context);
        write_tokens(kv, &random, BLOCK);
        block *dense = block_new(&random), *refresh = block_new(&random);
        memcpy(refresh->q, dense->q, BLOCK * Q_ROW * sizeof(float));
        fb_kv layer;
        cr_assert_eq(fb_kv_cache_layer(kv, 1, &layer), FB_OK);
        fb_range ranges[2] = {{0, context}, {context, context + BLOCK}};
        fb_view view = {&layer, ranges, 2};
        cr_assert_eq(fb_attend(&dense->queries, &view, NULL, 0.0f, &dense->part), FB_OK);
        for (int action = FB_REFRESH_AND_STORE; action <= FB_REFRESH_ONLY; action++) {
            cr_assert_eq(step(refresh, kv, (fb_reuse_action)action, parts), FB_OK, "%s",
                         fb_error_message());
            expect_same_bits("out", dense->out, refresh->out, BLOCK * Q_ROW);
            expect_same_bits("lse", dense->lse, refresh->lse, BLOCK * HEADS);
        }
        /* the same queries again, from the cache: the same bits too */
        cr_assert_eq(step(refresh, kv, FB_REUSE, parts), FB_OK);
        expect_same_bits("out", dense->out, refresh->out, BLOCK * Q_ROW);
        block_free(dense), block_free(refresh);
        fb_part_cache_destroy(parts);
        fb_kv_cache_destroy(kv);
    }
}

/* A reuse merges the stored part with the fresh internal one, and reads no committed key or value:
 * here they all turn to NaN, behind the cache's back. */
Test(reuse, a_reuse_reads_the_block_alone) {
    random_stream random = random_named(33);
    fb_kv_cache *kv = cache_new(FB_F32);
    fb_part_cache *parts = NULL;
    cr_assert_eq(fb_part_cache_create(LAYERS, BLOCK, HEADS, DIM, &parts), FB_OK);
    commit_tokens(kv, &random, 512); /* two whole pages */
    write_tokens(kv, &random, BLOCK);
    block *first = block_new(&random), *second = block_new(&random), *expected = block_new(&random);
    cr_assert_eq(step(first, kv, FB_REFRESH_AND_STORE, parts), FB_OK);
    fb_part external;
    cr_assert_eq(fb_part_cache_load(parts, 1, kv, FB_COMPAT_PAPER, &external), FB_OK);
    write_tokens(kv, &random, BLOCK); /* the block changes, as it does at every step */
    fb_kv layer;
    cr_assert_eq(fb_kv_cache_layer(kv, 1, &layer), FB_OK);
    fb_range own = {512, 512 + BLOCK};
    fb_view view = {&layer, &own, 1};
    cr_assert_eq(fb_attend(&second->queries, &view, NULL, 0.0f, &expected->part), FB_OK);
    cr_assert_eq(fb_merge(&external, &expected->part, BLOCK, HEADS, DIM, &expected->part), FB_OK);
    float *nan_rows = malloc(512 * KV_ROW * sizeof *nan_rows);
    for (size_t i = 0; i < 512 * KV_ROW; i++)
        nan_rows[i] = NAN;
    uint64_t epoch = fb_kv_cache_epoch(kv);
    cr_assert_eq(fb_kv_cache_write(kv, 1, 0, 512, nan_rows, nan_rows), FB_OK);
    cr_assert_neq(fb_kv_cache_epoch(kv), epoch);
    cr_assert_eq(fb_block_attend(&second->queries, kv, 1, FB_REUSE, FB_COMPAT_RELEASED, parts, 0.0f,
                                 &second->part),
                 FB_OK);
    expect_same_bits("out", expected->out, second->out, BLOCK * Q_ROW);
    expect_same_bits("lse", expected->lse, second->lse, BLOCK * HEADS);
    block_free(first), block_free(second), block_free(expected);
    free(nan_rows);
    fb_part_cache_destroy(parts);
    fb_kv_cache_destroy(kv);
}

static void expect_stale(block *b, fb_kv_cache *kv, fb_part_cache *parts, const char *why) {
    cr_assert(!fb_part_cache_is_fresh(parts, 1, kv), "%s", why);
    memset(b->out, 0, sizeof b->out);
    cr_assert_eq(step(b, kv, FB_REUSE, parts), FB_ERROR_STALE, "%s", why);
    cr_assert(strstr(fb_error_message(), "layer 1"), "%s", fb_error_message());
    for (size_t i = 0; i < BLOCK * Q_ROW; i++)
        cr_assert_eq(b->out[i], 0.0f, "%s: output touched", why);
}

/* A part belongs to one state of one KV cache: using it after that is an error. */
Test(reuse, stale_parts_are_errors) {
    random_stream random = random_named(34);
    fb_kv_cache *kv = cache_new(FB_F32), *other = cache_new(FB_F32);
    fb_part_cache *parts = NULL;
    cr_assert_eq(fb_part_cache_create(LAYERS, BLOCK, HEADS, DIM, &parts), FB_OK);
    commit_tokens(kv, &random, 8);
    commit_tokens(other, &random, 8);
    write_tokens(kv, &random, BLOCK);
    write_tokens(other, &random, BLOCK);
    block *b = block_new(&random);
    expect_stale(b, kv, parts, "nothing stored yet");
    cr_assert_eq(step(b, kv, FB_REFRESH_AND_STORE, parts), FB_OK);
    cr_assert(fb_part_cache_is_fresh(parts, 1, kv) && !fb_part_cache_is_fresh(parts, 0, kv));
    expect_stale(b, other, parts, "another KV cache of the same length");
    cr_assert_eq(step(b, kv, FB_REUSE, parts), FB_OK);
    cr_assert_eq(fb_kv_cache_commit(kv, BLOCK), FB_OK);
    write_tokens(kv, &random, BLOCK);
    expect_stale(b, kv, parts, "a block was committed");
    cr_assert_eq(step(b, kv, FB_REFRESH_AND_STORE, parts), FB_OK);
    float row[KV_ROW] = {0};
    cr_assert_eq(fb_kv_cache_write(kv, 0, 3, 1, row, row), FB_OK);
    expect_stale(b, kv, parts, "history was overwritten");
    cr_assert_eq(step(b, kv, FB_REFRESH_AND_STORE, parts), FB_OK);
    fb_part_cache_invalidate(parts);
    expect_stale(b, kv, parts, "invalidated");
    /* fewer rows were stored than are asked for */
    fb_queries two = fb_queries_rows(b->q, 2, HEADS, DIM);
    cr_assert_eq(
        fb_block_attend(&two, kv, 1, FB_REFRESH_AND_STORE, FB_COMPAT_PAPER, parts, 0.0f, &b->part),
        FB_OK);
    cr_assert_eq(step(b, kv, FB_REUSE, parts), FB_ERROR_STALE);
    block_free(b);
    fb_part_cache_destroy(parts);
    fb_kv_cache_destroy(kv);
    fb_kv_cache_destroy(other);
}

/* The released engine reads whatever the slot holds; at first O = 0 with L = 0. */
Test(reuse, the_released_engine_takes_what_is_there) {
    random_stream random = random_named(35);
    fb_kv_cache *kv = cache_new(FB_F32);
    fb_part_cache *parts = NULL;
    cr_assert_eq(fb_part_cache_create(LAYERS, BLOCK, HEADS, DIM, &parts), FB_OK);
    write_tokens(kv, &random, BLOCK);
    block *b = block_new(&random), *own = block_new(&random);
    memcpy(own->q, b->q, BLOCK * Q_ROW * sizeof(float));
    cr_assert_eq(step(own, kv, FB_REFRESH_ONLY, NULL), FB_OK);
    cr_assert_eq(
        fb_block_attend(&b->queries, kv, 1, FB_REUSE, FB_COMPAT_RELEASED, parts, 0.0f, &b->part),
        FB_OK);
    for (size_t row = 0; row < BLOCK * HEADS; row++) {
        double share = 1.0 / (1.0 + exp(-(double)own->lse[row]));
        for (size_t d = 0; d < DIM; d++)
            cr_assert_float_eq(b->out[row * DIM + d], share * (double)own->out[row * DIM + d],
                               1e-6);
    }
    block_free(b), block_free(own);
    fb_part_cache_destroy(parts);
    fb_kv_cache_destroy(kv);
}

Test(reuse, wrong_arguments) {
    random_stream random = random_named(36);
    fb_kv_cache *kv = cache_new(FB_F32);
    fb_part_cache *parts = NULL;
    cr_assert_eq(fb_part_cache_create(LAYERS, BLOCK - 1, HEADS, DIM, &parts), FB_OK);
    block *b = block_new(&random);
    cr_assert_eq(step(b, kv, FB_REFRESH_ONLY, NULL), FB_ERROR_ARGUMENT);
    cr_assert(strstr(fb_error_message(), "holds 0 tokens"), "%s", fb_error_message());
    write_tokens(kv, &random, BLOCK);
    cr_assert_eq(step(b, kv, FB_REFRESH_AND_STORE, parts), FB_ERROR_ARGUMENT, "too many rows");
    cr_assert_eq(step(b, kv, FB_REUSE, NULL), FB_ERROR_ARGUMENT);
    cr_assert(strstr(fb_error_message(), "parts is NULL"), "%s", fb_error_message());
    cr_assert_eq(step(b, kv, (fb_reuse_action)7, parts), FB_ERROR_ARGUMENT);
    block_free(b);
    fb_part_cache_destroy(parts);
    fb_kv_cache_destroy(kv);
}

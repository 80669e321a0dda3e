/* The KV cache, the cached parts, and the rule of reuse. */
#include "tests/numbers.h"

#include <flashblock/experimental/head_reuse.h>
#include <flashblock/experimental/rows.h>
#include <flashblock/experimental/selector.h>
#include <flashblock/experimental/sparse.h>
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

/* Writes random tokens after the committed ones, in every layer. */
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

/* docs/contract.md C13.3, of one group. */
static void quantize_and_read_back(float *x, size_t count) {
    float largest = 0.0f;
    bool finite = true;
    for (size_t i = 0; i < count; i++) {
        largest = fmaxf(largest, fabsf(x[i]));
        finite = finite && isfinite(x[i]);
    }
    float scale = largest / 127.0f, reciprocal = 127.0f / largest;
    for (size_t i = 0; i < count; i++)
        x[i] = !finite ? NAN : largest < 0x1p-100f ? 0.0f : nearbyintf(x[i] * reciprocal) * scale;
}

/* docs/contract.md C14.1, C14.2; numbers of all sizes, and some that have none. */
Test(kv_cache, gives_back_integers_of_8_bits) {
    enum { TOKENS = 700, COUNT = TOKENS * KV_ROW };
    random_stream random = random_named(300);
    fb_kv_cache *cache = cache_new(FB_INT8);
    float *rows[2], *read[2];
    for (size_t i = 0; i < 2; i++) {
        rows[i] = random_floats(&random, COUNT, 1.0f);
        read[i] = calloc(COUNT, sizeof **read);
        for (size_t row = 0; row < COUNT / DIM; row++) {
            float factor = ldexpf(1.0f, (int)random_between(&random, 0, 240) - 120);
            for (size_t d = 0; d < DIM; d++)
                rows[i][row * DIM + d] *= factor;
        }
        memset(rows[i] + 20 * DIM, 0, DIM * sizeof **rows);
        rows[i][(50 + i) * DIM + 3] = NAN;
        rows[i][(60 + i) * DIM] = -INFINITY;
    }
    cr_assert_eq(fb_kv_cache_write(cache, 1, 0, 333, rows[0], rows[1]), FB_OK);
    cr_assert_eq(fb_kv_cache_write(cache, 1, 333, TOKENS - 333, rows[0] + 333 * KV_ROW,
                                   rows[1] + 333 * KV_ROW),
                 FB_OK);
    cr_assert_eq(fb_kv_cache_read(cache, 1, 0, TOKENS, read[0], read[1]), FB_OK);
    for (size_t i = 0; i < 2; i++)
        for (size_t row = 0; row < COUNT / DIM; row++) {
            float *expected = rows[i] + row * DIM, *got = read[i] + row * DIM;
            quantize_and_read_back(expected, DIM);
            for (size_t d = 0; d < DIM; d++)
                cr_assert(isnan(expected[d]) ? isnan(got[d]) : got[d] == expected[d],
                          "row %zu, dimension %zu: %a, expected %a", row, d, (double)got[d],
                          (double)expected[d]);
        }
    size_t row_bytes = fb_kv_row_bytes(FB_INT8, DIM);
    cr_assert_eq(row_bytes, DIM + 4);
    cr_assert_eq(fb_kv_cache_bytes(cache), 3u * 256 * 2 * KV_HEADS * row_bytes);
    for (size_t i = 0; i < 2; i++)
        free(rows[i]), free(read[i]);
    fb_kv_cache_destroy(cache);
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
    fb_dtype dtype = FB_F32;
    cr_assert_eq(fb_dtype_parse("int8", &dtype), FB_ERROR_ARGUMENT, "no type of elements");
    cr_assert_eq(fb_kv_dtype_parse("int9", &dtype), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_kv_dtype_parse("int8", &dtype), FB_OK);
    cr_assert_eq(dtype, FB_INT8);
    cr_assert_eq(fb_kv_row_bytes((fb_dtype)9, 8), 0);
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

/* 250 times the same 4,000 tokens: attention as over 4,000, with an LSE that is ln 250 larger. */
Test(kv_cache, a_million_tokens, .timeout = 300) {
    enum { PERIOD = 4000, PERIODS = 250, WIDTH = 64, QUERIES = 4, GROUP = 4, ROWS = 16 };
    random_stream random = random_named(33);
    fb_kv_cache_config config = {1, 1, WIDTH, FB_BF16};
    fb_kv_cache *cache = NULL;
    cr_assert_eq(fb_kv_cache_create(&config, &cache), FB_OK, "%s", fb_error_message());
    float *k = random_floats(&random, PERIOD * WIDTH, 1.0f);
    float *v = random_floats(&random, PERIOD * WIDTH, 1.0f);
    float *q = random_floats(&random, ROWS * WIDTH, 1.0f);
    for (size_t i = 0; i < PERIODS; i++)
        cr_assert_eq(fb_kv_cache_write(cache, 0, i * PERIOD, PERIOD, k, v), FB_OK, "%s",
                     fb_error_message());
    cr_assert_eq(fb_kv_cache_commit(cache, (size_t)PERIOD * PERIODS), FB_OK);
    fb_kv kv;
    cr_assert_eq(fb_kv_cache_layer(cache, 0, &kv), FB_OK);
    fb_queries queries = fb_queries_rows(q, QUERIES, GROUP, WIDTH);
    fb_range all = {0, (size_t)PERIOD * PERIODS}, once = {0, PERIOD};
    double out64[ROWS * WIDTH], lse64[ROWS];
    cr_assert_eq(fb_attend_reference(&queries, &(fb_view){&kv, &once, 1}, NULL, 0.0, out64, lse64),
                 FB_OK);
    float out[2][ROWS * WIDTH], lse[2][ROWS];
    for (int threads = 1; threads <= 2; threads++) {
        fb_part part = fb_part_rows(out[threads - 1], lse[threads - 1], GROUP, WIDTH);
        cr_assert_eq(fb_set_num_threads(threads), FB_OK);
        cr_assert_eq(fb_attend(&queries, &(fb_view){&kv, &all, 1}, NULL, 0.0f, &part), FB_OK);
    }
    expect_same_bits("out", out[0], out[1], ROWS * WIDTH);
    expect_same_bits("lse", lse[0], lse[1], ROWS);
    /* Each of 976 merges rounds outputs of up to 0.1: by 4e-9 at most, 4e-6 if all went one way. */
    for (size_t i = 0; i < ROWS * WIDTH; i++)
        cr_assert(fabs((double)out[0][i] - out64[i]) <= 1e-6, "out[%zu] is %.9g, expected %.9g", i,
                  (double)out[0][i], out64[i]);
    for (size_t i = 0; i < ROWS; i++)
        cr_assert(fabs((double)lse[0][i] - lse64[i] - log(PERIODS)) <= 1e-6,
                  "lse[%zu] is %.9g, expected %.9g", i, (double)lse[0][i], lse64[i] + log(PERIODS));
    free(k), free(v), free(q);
    fb_kv_cache_destroy(cache);
}

/* With one token at each step, tau 2 alternates and tau 3 reuses twice, as the engine's scheduler
 * does. */
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

static fb_block_call call_of(const block *b, const fb_kv_cache *kv, fb_reuse_action action,
                             fb_part_cache *parts) {
    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = &b->queries;
    call.kv = kv;
    call.layer = 1;
    call.action = action;
    call.parts = parts;
    return call;
}

static fb_status step(block *b, fb_kv_cache *kv, fb_reuse_action action, fb_part_cache *parts) {
    fb_block_call call = call_of(b, kv, action, parts);
    return fb_block_attend(&call, &b->part);
}

/* A reuse as the released engine makes it. */
static fb_status released_reuse(block *b, fb_kv_cache *kv, fb_part_cache *parts) {
    fb_block_call call = call_of(b, kv, FB_REUSE, parts);
    call.compat = FB_COMPAT_RELEASED;
    return fb_block_attend(&call, &b->part);
}

/* A refresh, storing or not, is dense attention, bit for bit. Dense attention is one call over both
 * ranges. docs/contract.md C8.2. */
Test(reuse, a_refresh_is_dense) {
    random_stream random = random_named(32);
    for (size_t context = 0; context < 2600; context += 1 + context / 3) {
        fb_kv_cache *kv = cache_new(context % 2 ? FB_BF16 : FB_INT8);
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

/* A reuse merges the stored part with the fresh internal part, and reads no committed key or value:
 * here they all become NaN, and the cache does not know it. docs/contract.md C8.3. */
Test(reuse, a_reuse_reads_only_the_block) {
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
    cr_assert_eq(released_reuse(second, kv, parts), FB_OK);
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

/* A part belongs to one state of one KV cache. Using it in another state is an error.
 * docs/contract.md C8.5. */
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
    fb_block_call fewer = call_of(b, kv, FB_REFRESH_AND_STORE, parts);
    fewer.queries = &two;
    cr_assert_eq(fb_block_attend(&fewer, &b->part), FB_OK);
    cr_assert_eq(step(b, kv, FB_REUSE, parts), FB_ERROR_STALE);
    block_free(b);
    fb_part_cache_destroy(parts);
    fb_kv_cache_destroy(kv);
    fb_kv_cache_destroy(other);
}

/* The released engine reads the slot without a check. At first it holds O = 0 with L = 0. */
Test(reuse, the_released_engine_takes_what_is_there) {
    random_stream random = random_named(35);
    fb_kv_cache *kv = cache_new(FB_F32);
    fb_part_cache *parts = NULL;
    cr_assert_eq(fb_part_cache_create(LAYERS, BLOCK, HEADS, DIM, &parts), FB_OK);
    write_tokens(kv, &random, BLOCK);
    block *b = block_new(&random), *own = block_new(&random);
    memcpy(own->q, b->q, BLOCK * Q_ROW * sizeof(float));
    cr_assert_eq(step(own, kv, FB_REFRESH_ONLY, NULL), FB_OK);
    cr_assert_eq(released_reuse(b, kv, parts), FB_OK);
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

/* --- calls that contradict themselves --------------------------------------------------------- */

/* What a call may hold beside its queries. */
enum {
    KV = 1,
    PARTS = 2,
    ROWS = 4,
    SELECTION = 8,
    SPARSE = 16,
    HEAD_VIEWS = 32,
    RELEASED = 64,
    NOTHING_SET = 128, /* struct_size is 0 */
    CORRECTS = 256,    /* parts with correction */
};

/* A call of all zeros but these members, none of which is looked at before it is refused. */
static void expect_refused(unsigned members, fb_reuse_action action, const char *words) {
    static const bool rows[1];
    static char opaque[64];
    fb_queries queries = fb_queries_rows(NULL, 0, HEADS, DIM);
    fb_part_cache *parts = NULL;
    fb_kv_cache *kv = cache_new(FB_F32);
    cr_assert_eq(fb_part_cache_create(LAYERS, BLOCK, HEADS, DIM, &parts), FB_OK);
    if (members & CORRECTS)
        cr_assert_eq(fb_part_cache_enable_correction(parts), FB_OK);
    fb_block_heads views = {0};
    fb_selection selection = {0};
    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = &queries;
    call.action = action;
    call.kv = members & KV ? kv : NULL;
    call.parts = members & PARTS ? parts : NULL;
    call.refresh_rows = members & ROWS ? rows : NULL;
    call.selection = members & SELECTION ? &selection : NULL;
    call.sparse = members & SPARSE ? (fb_sparse *)(void *)opaque : NULL;
    call.heads = members & HEAD_VIEWS ? &views : NULL;
    call.compat = members & RELEASED ? FB_COMPAT_RELEASED : FB_COMPAT_PAPER;
    call.struct_size = members & NOTHING_SET ? 0 : call.struct_size;
    float lse = 7.0f;
    fb_part result = fb_part_rows(&lse, &lse, HEADS, DIM);
    cr_expect_eq(fb_block_attend(&call, &result), FB_ERROR_ARGUMENT, "%s", words);
    cr_expect(strstr(fb_error_message(), words), "'%s' does not say '%s'", fb_error_message(),
              words);
    cr_expect_eq(lse, 7.0f);
    fb_part_cache_destroy(parts);
    fb_kv_cache_destroy(kv);
}

Test(reuse, a_call_does_not_contradict_itself) {
    expect_refused(KV | NOTHING_SET, FB_REFRESH_ONLY, "call.struct_size is 0");
    expect_refused(0, FB_REFRESH_ONLY, "kv is NULL");
    expect_refused(KV | HEAD_VIEWS, FB_REFRESH_ONLY, "kv is given, and heads is given");
    expect_refused(KV | SELECTION | SPARSE, FB_REFRESH_ONLY, "2 of selection, sparse and heads");
    expect_refused(SELECTION | SPARSE | HEAD_VIEWS, FB_REFRESH_ONLY, "3 of selection");
    expect_refused(KV | SPARSE | PARTS, FB_REUSE, "sparse keeps its own");
    expect_refused(KV, FB_REFRESH_AND_STORE, "parts is NULL, but the action is refresh+store");
    expect_refused(KV | SELECTION, FB_REUSE, "parts is NULL, but the action is reuse");
    expect_refused(HEAD_VIEWS, FB_REUSE, "parts is NULL, but the action is reuse");
    expect_refused(KV | PARTS, FB_REFRESH_ROWS, "action is refresh rows, and refresh_rows is NULL");
    expect_refused(KV | PARTS | ROWS, FB_REUSE, "action is reuse, and refresh_rows is given");
    expect_refused(KV | PARTS, FB_REFRESH_HEADS, "action is refresh heads, and heads is NULL");
    expect_refused(HEAD_VIEWS | PARTS, FB_REFRESH_HEADS, "heads.refresh is NULL");
    expect_refused(KV | PARTS | ROWS | SELECTION, FB_REFRESH_ROWS, "keys are selected");
    expect_refused(KV | PARTS | ROWS | RELEASED, FB_REFRESH_ROWS, "compat is released");
    expect_refused(KV | PARTS | SELECTION | RELEASED, FB_REUSE, "compat is released");
    expect_refused(KV | PARTS | SELECTION | CORRECTS, FB_REUSE, "parts corrects LSEs");
}

/* A longer struct, of a later version, is taken where all that this one does not know is zero. */
Test(reuse, a_call_of_a_later_version) {
    random_stream random = random_named(38);
    fb_kv_cache *kv = cache_new(FB_F32);
    write_tokens(kv, &random, BLOCK);
    block *b = block_new(&random);
    struct {
        fb_block_call known;
        const void *unknown;
    } later;
    static const size_t no_sizes[] = {0, 1, sizeof(size_t) - 1, 4097, SIZE_MAX};
    for (size_t i = 0; i < sizeof no_sizes / sizeof *no_sizes; i++) {
        memset(&later, 0xab, sizeof later);
        fb_block_call_init_sized(&later.known, no_sizes[i]);
        cr_assert_eq(later.known.struct_size, 0);
        cr_assert_eq(((const char *)&later)[sizeof(size_t)], (char)0xab);
        later.known.struct_size = no_sizes[i]; /* and nothing is looked at after it */
        cr_assert_eq(fb_block_attend(&later.known, &b->part), FB_ERROR_ARGUMENT);
        cr_assert(strstr(fb_error_message(), "struct_size"), "%s", fb_error_message());
    }
    fb_block_call_init_sized(&later.known, sizeof later);
    cr_assert_eq(later.known.struct_size, sizeof later);
    cr_assert_null(later.unknown);
    later.known.queries = &b->queries;
    later.known.kv = kv;
    later.known.layer = 1;
    later.known.action = FB_REFRESH_ONLY;
    cr_assert_eq(fb_block_attend(&later.known, &b->part), FB_OK, "%s", fb_error_message());
    later.unknown = &later;
    cr_assert_eq(fb_block_attend(&later.known, &b->part), FB_ERROR_ARGUMENT);
    cr_assert(strstr(fb_error_message(), "later version"), "%s", fb_error_message());
    block_free(b);
    fb_kv_cache_destroy(kv);
}

/* --- refresh by rows -------------------------------------------------------------------------- */

static void expect_rows_action(fb_reuse_policy policy, fb_reuse_step step, const char *what,
                               fb_reuse_action expected) {
    fb_reuse_action action = fb_reuse_decide(&policy, &step);
    cr_assert_eq(action, expected, "%s: %s, expected %s", what, fb_reuse_action_name(action),
                 fb_reuse_action_name(expected));
}

Test(rows, rule) {
    const fb_reuse_policy rows = {.tau = 1, .rows = true};
    fb_reuse_policy policy = rows;
    fb_reuse_step first = {.denoising_steps = 4, .masked_tokens = 1, .budget = 1};
    expect_rows_action(policy, first, "stores even if the block may end", FB_REFRESH_AND_STORE);
    fb_reuse_step step = {.denoising_step = 2,
                          .denoising_steps = 8,
                          .dirty_tokens = 1,
                          .masked_tokens = 3,
                          .budget = 1,
                          .steps_since_full = 2,
                          .accepted_since_full = 2};
    fb_reuse_step clean = step, commit = step;
    clean.dirty_tokens = 0;
    commit.commit = true;
    expect_rows_action(policy, step, "a dirty row", FB_REFRESH_ROWS);
    expect_rows_action(policy, clean, "no dirty row", FB_REUSE);
    expect_rows_action(policy, commit, "commit", FB_REFRESH_ROWS);
    policy.tau = 2;
    expect_rows_action(policy, step, "one dirty row, tau 2", FB_REUSE);
    expect_rows_action(policy, commit, "commit, whatever tau", FB_REFRESH_ROWS);
    policy.reuse_at_commit = true;
    expect_rows_action(policy, commit, "commit by the rule", FB_REUSE);
    step.dirty_tokens = 2;
    expect_rows_action(policy, step, "two dirty rows, tau 2", FB_REFRESH_ROWS);
    policy = rows;
    policy.refresh_every = 2;
    expect_rows_action(policy, step, "two steps", FB_REFRESH_AND_STORE);
    expect_rows_action(policy, clean, "two steps, clean", FB_REFRESH_AND_STORE);
    expect_rows_action(policy, commit, "two steps, commit", FB_REFRESH_ROWS);
    policy.refresh_every = 3;
    expect_rows_action(policy, step, "not yet three steps", FB_REFRESH_ROWS);
    policy.refresh_dirty = 2;
    expect_rows_action(policy, step, "two tokens", FB_REFRESH_AND_STORE);
    policy = rows;
    policy.refresh_commit = true;
    expect_rows_action(policy, commit, "full commit", FB_REFRESH_ONLY);
    policy.tau = 0;
    expect_rows_action(policy, step, "tau 0 is dense", FB_REFRESH_ONLY);
}

/* A context, a part cache with the external parts of the first queries, a block that has changed
 * since, and other queries. There are two of everything except the caches. */
typedef struct rows_case {
    fb_kv_cache *kv;
    fb_part_cache *parts;
    block *first, *now, *dense;
} rows_case;

static rows_case rows_case_new(random_stream *random, size_t context, bool corrected,
                               float distance) {
    rows_case c = {.kv = cache_new(context % 4 < 2 ? FB_BF16 : FB_INT8),
                   .first = block_new(random),
                   .now = block_new(random),
                   .dense = block_new(random)};
    cr_assert_eq(fb_part_cache_create(LAYERS, BLOCK, HEADS, DIM, &c.parts), FB_OK);
    if (corrected)
        cr_assert_eq(fb_part_cache_enable_correction(c.parts), FB_OK);
    commit_tokens(c.kv, random, context);
    write_tokens(c.kv, random, BLOCK);
    cr_assert_eq(step(c.first, c.kv, FB_REFRESH_AND_STORE, c.parts), FB_OK);
    write_tokens(c.kv, random, BLOCK);
    for (size_t i = 0; i < BLOCK * Q_ROW; i++)
        c.now->q[i] = c.dense->q[i] = c.first->q[i] + distance * random_normal(random);
    cr_assert_eq(step(c.dense, c.kv, FB_REFRESH_ONLY, NULL), FB_OK);
    return c;
}

static void rows_case_free(rows_case *c) {
    block_free(c->first), block_free(c->now), block_free(c->dense);
    fb_part_cache_destroy(c->parts);
    fb_kv_cache_destroy(c->kv);
}

static fb_status refresh_some(rows_case *c, const bool *rows) {
    fb_block_call call = call_of(c->now, c->kv, FB_REFRESH_ROWS, c->parts);
    call.refresh_rows = rows;
    return fb_block_attend(&call, &c->now->part);
}

static void same_row(const char *what, const block *a, const block *b, size_t row) {
    expect_same_bits(what, a->out + row * Q_ROW, b->out + row * Q_ROW, Q_ROW);
    expect_same_bits(what, a->lse + row * HEADS, b->lse + row * HEADS, HEADS);
}

/* For every set of rows: the computed rows are dense, bit for bit, and the others are those of a
 * reuse. Later steps find the rows that were kept. docs/contract.md C8.4. */
Test(rows, refreshed_rows_are_dense_and_the_others_reused) {
    random_stream random = random_named(70);
    for (size_t set = 0; set < 1 << BLOCK; set++) {
        bool rows[BLOCK], all[BLOCK] = {true, true, true, true}, corrected = set % 2;
        for (size_t row = 0; row < BLOCK; row++)
            rows[row] = set >> row & 1;
        rows_case c = rows_case_new(&random, 100 + 90 * set, corrected, 0.2f);
        block *reused = block_new(&random);
        memcpy(reused->q, c.now->q, BLOCK * Q_ROW * sizeof(float));
        cr_assert_eq(step(reused, c.kv, FB_REUSE, c.parts), FB_OK);
        cr_assert_eq(refresh_some(&c, rows), FB_OK, "%s", fb_error_message());
        for (size_t row = 0; row < BLOCK; row++)
            same_row(rows[row] ? "refreshed" : "kept", rows[row] ? c.dense : reused, c.now, row);
        memset(c.now->out, 0, sizeof c.now->out);
        cr_assert_eq(step(c.now, c.kv, FB_REUSE, c.parts), FB_OK);
        for (size_t row = 0; row < BLOCK; row++)
            same_row("afterwards", rows[row] ? c.dense : reused, c.now, row);
        cr_assert_eq(refresh_some(&c, all), FB_OK);
        expect_same_bits("all rows", c.dense->out, c.now->out, BLOCK * Q_ROW);
        expect_same_bits("all rows", c.dense->lse, c.now->lse, BLOCK * HEADS);
        block_free(reused);
        rows_case_free(&c);
    }
}

/* With the correction too, every instruction set and number of threads gives the same bits. */
Test(rows, one_answer_everywhere) {
    const bool rows[BLOCK] = {false, true, false, true};
    float out[BLOCK * Q_ROW] = {0}, lse[BLOCK * HEADS] = {0}, mean[BLOCK * Q_ROW] = {0};
    for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++)
        for (int threads = 1; threads <= 3; threads++) {
            if (!fb_isa_built(isa) || !fb_isa_supported(isa))
                continue;
            cr_assert_eq(fb_isa_select(isa), FB_OK);
            cr_assert_eq(fb_set_num_threads(threads), FB_OK);
            random_stream random = random_named(71);
            rows_case c = rows_case_new(&random, 1500, true, 0.3f);
            cr_assert_eq(refresh_some(&c, rows), FB_OK);
            fb_part part;
            cr_assert_eq(fb_part_cache_load(c.parts, 1, c.kv, FB_COMPAT_PAPER, &part), FB_OK);
            if (isa == FB_ISA_SCALAR && threads == 1) {
                memcpy(out, c.now->out, sizeof out);
                memcpy(lse, c.now->lse, sizeof lse);
                memcpy(mean, part.mean_key, sizeof mean);
            }
            expect_same_bits("out", out, c.now->out, BLOCK * Q_ROW);
            expect_same_bits("lse", lse, c.now->lse, BLOCK * HEADS);
            expect_same_bits("mean_key", mean, part.mean_key, BLOCK * Q_ROW);
            rows_case_free(&c);
        }
}

/* Kept rows must belong to the present state of the KV cache. Computing all rows is always
 * allowed. */
Test(rows, stale_rows_are_errors) {
    random_stream random = random_named(72);
    const bool one[BLOCK] = {true}, all[BLOCK] = {true, true, true, true}, none[BLOCK] = {false};
    rows_case c = rows_case_new(&random, 40, true, 0.1f);
    cr_assert_eq(refresh_some(&c, one), FB_OK);
    cr_assert_eq(fb_kv_cache_truncate(c.kv, 36), FB_OK);
    write_tokens(c.kv, &random, BLOCK);
    memset(c.now->out, 0, sizeof c.now->out);
    cr_assert_eq(refresh_some(&c, one), FB_ERROR_STALE, "truncated");
    cr_assert(strstr(fb_error_message(), "belongs to 40 tokens"), "%s", fb_error_message());
    cr_assert_eq(refresh_some(&c, none), FB_ERROR_STALE);
    for (size_t i = 0; i < BLOCK * Q_ROW; i++)
        cr_assert_eq(c.now->out[i], 0.0f, "output touched");
    cr_assert_eq(refresh_some(&c, all), FB_OK);
    cr_assert_eq(refresh_some(&c, one), FB_OK, "all rows were computed");
    cr_assert_eq(fb_kv_cache_commit(c.kv, BLOCK), FB_OK);
    write_tokens(c.kv, &random, BLOCK);
    cr_assert_eq(refresh_some(&c, one), FB_ERROR_STALE, "a block was committed");
    fb_queries two = fb_queries_rows(c.now->q, 2, HEADS, DIM);
    fb_block_call call = call_of(c.now, c.kv, FB_REFRESH_ROWS, c.parts);
    call.queries = &two;
    call.refresh_rows = all;
    cr_assert_eq(fb_block_attend(&call, &c.now->part), FB_OK);
    cr_assert_eq(refresh_some(&c, one), FB_ERROR_STALE, "two rows were computed");
    cr_assert(strstr(fb_error_message(), "has 2 rows, not 4"), "%s", fb_error_message());
    cr_assert_eq(refresh_some(&c, NULL), FB_ERROR_ARGUMENT);
    cr_assert_eq(step(c.now, c.kv, FB_REFRESH_ROWS, c.parts), FB_ERROR_ARGUMENT);
    call.parts = NULL;
    cr_assert_eq(fb_block_attend(&call, &c.now->part), FB_ERROR_ARGUMENT);
    cr_assert_eq(fb_part_cache_enable_correction(NULL), FB_ERROR_ARGUMENT);
    rows_case_free(&c);
}

/* --- the first-order correction --------------------------------------------------------------- */

/* The external LSEs of a block's queries in double precision, and mean keys where wanted: the
 * output of attention whose values are the keys. */
static void true_external(const rows_case *c, const float *q, double *lse, double *mean_key) {
    size_t length = fb_kv_cache_length(c->kv);
    float *k = malloc(length * KV_ROW * sizeof *k);
    double ignored[BLOCK * Q_ROW];
    cr_assert_eq(fb_kv_cache_read(c->kv, 1, 0, length, k, NULL), FB_OK);
    fb_kv kv = fb_kv_rows(FB_F32, k, k, length, KV_HEADS, DIM);
    fb_range range = {0, length};
    fb_view view = {&kv, &range, 1};
    fb_queries queries = fb_queries_rows(q, BLOCK, HEADS, DIM);
    cr_assert_eq(
        fb_attend_reference(&queries, &view, NULL, 0.0, mean_key ? mean_key : ignored, lse), FB_OK);
    free(k);
}

/* A kept row is merged with the LSE L(q0) + scale (q - q0) . k, here in double precision, and with
 * the kept output. docs/contract.md C8.6. */
Test(correction, is_what_the_formula_says) {
    random_stream random = random_named(73);
    rows_case c = rows_case_new(&random, 333, true, 0.2f);
    double lse[BLOCK * HEADS], mean[BLOCK * Q_ROW], scale = 1.0 / sqrt((double)DIM);
    true_external(&c, c.first->q, lse, mean);
    for (size_t i = 0; i < BLOCK * Q_ROW; i++)
        lse[i / DIM] += scale * ((double)c.now->q[i] - (double)c.first->q[i]) * mean[i];
    fb_part part;
    cr_assert_eq(fb_part_cache_load(c.parts, 1, c.kv, FB_COMPAT_PAPER, &part), FB_OK);
    fb_kv kv;
    cr_assert_eq(fb_kv_cache_layer(c.kv, 1, &kv), FB_OK);
    fb_range own = {333, 333 + BLOCK};
    fb_view view = {&kv, &own, 1};
    double own_out[BLOCK * Q_ROW], own_lse[BLOCK * HEADS], kept[BLOCK * Q_ROW];
    cr_assert_eq(fb_attend_reference(&c.now->queries, &view, NULL, 0.0, own_out, own_lse), FB_OK);
    for (size_t i = 0; i < BLOCK * Q_ROW; i++)
        kept[i] = (double)part.out[i];
    fb_merge_reference(kept, lse, own_out, own_lse, BLOCK * HEADS, DIM, own_out, own_lse);
    cr_assert_eq(step(c.now, c.kv, FB_REUSE, c.parts), FB_OK);
    for (size_t i = 0; i < BLOCK * Q_ROW; i++)
        cr_assert_float_eq((double)c.now->out[i], own_out[i], 2e-6, "out[%zu]", i);
    for (size_t i = 0; i < BLOCK * HEADS; i++)
        cr_assert_float_eq((double)c.now->lse[i], own_lse[i], 2e-6, "lse[%zu]", i);
    rows_case_free(&c);
}

/* The largest error of the merged LSEs against dense attention, for queries at a given distance. */
static double lse_error(bool corrected, float distance) {
    random_stream random = random_named(74);
    rows_case c = rows_case_new(&random, 400, corrected, distance);
    double largest = 0;
    cr_assert_eq(step(c.now, c.kv, FB_REUSE, c.parts), FB_OK);
    for (size_t i = 0; i < BLOCK * HEADS; i++) {
        double off = fabs((double)c.now->lse[i] - (double)c.dense->lse[i]);
        largest = off > largest ? off : largest;
    }
    rows_case_free(&c);
    return largest;
}

/* At half the distance the error is half without the correction, and a quarter with it. */
Test(correction, leaves_the_second_order) {
    double plain = lse_error(false, 0.02f) / lse_error(false, 0.01f);
    double corrected = lse_error(true, 0.2f) / lse_error(true, 0.1f);
    cr_assert(plain > 1.8 && plain < 2.2, "%g", plain);
    cr_assert(corrected > 3.4 && corrected < 4.6, "%g", corrected);
    cr_assert_lt(lse_error(true, 0.1f), 0.2 * lse_error(false, 0.1f));
}

/* An infinite key with weight 0 in every row makes the mean key NaN, but not the result. */
Test(correction, of_a_mean_key_that_is_not_a_number) {
    random_stream random = random_named(75);
    fb_kv_cache *kv = cache_new(FB_F32);
    fb_part_cache *parts = NULL;
    cr_assert_eq(fb_part_cache_create(LAYERS, BLOCK, HEADS, DIM, &parts), FB_OK);
    cr_assert_eq(fb_part_cache_enable_correction(parts), FB_OK);
    commit_tokens(kv, &random, 20);
    float row[KV_ROW] = {0}, values[KV_ROW] = {0};
    row[0] = row[DIM] = -INFINITY;
    cr_assert_eq(fb_kv_cache_write(kv, 1, 7, 1, row, values), FB_OK);
    write_tokens(kv, &random, BLOCK);
    block *b = block_new(&random);
    for (size_t i = 0; i < BLOCK * HEADS; i++)
        b->q[i * DIM] = 1.0f;
    cr_assert_eq(step(b, kv, FB_REFRESH_AND_STORE, parts), FB_OK);
    fb_part part;
    cr_assert_eq(fb_part_cache_load(parts, 1, kv, FB_COMPAT_PAPER, &part), FB_OK);
    cr_assert(isnan(part.mean_key[0]));
    block *again = block_new(&random);
    memcpy(again->q, b->q, BLOCK * Q_ROW * sizeof(float));
    again->q[1] += 0.25f;
    cr_assert_eq(step(again, kv, FB_REUSE, parts), FB_OK);
    for (size_t i = 0; i < BLOCK * Q_ROW; i++)
        cr_assert(isfinite(again->out[i]), "out[%zu]", i);
    block_free(b), block_free(again);
    fb_part_cache_destroy(parts);
    fb_kv_cache_destroy(kv);
}

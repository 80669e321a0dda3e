/* Sparse attention of a block and residual reuse: the identities, bit for bit, and what is stale.
 */
#include "tests/numbers.h"

#include <flashblock/experimental/selector.h>
#include <flashblock/experimental/sparse.h>
#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 2, KV_HEADS = 2, HEADS = 6, DIM = 32, BLOCK = 4, BLOCK_KEYS = 32 };
enum { KV_ROW = KV_HEADS * DIM, Q_ROW = HEADS * DIM, VALUES = BLOCK * Q_ROW, ROWS = BLOCK * HEADS };

/* A KV cache with a committed context and a block after it, and everything that attends to it. */
typedef struct bench {
    fb_kv_cache *kv;
    fb_part_cache *parts;
    fb_part_cache *residuals;
    fb_selection selection;
    float *q;
    fb_queries queries;
} bench;

typedef struct outcome {
    float out[VALUES], lse[ROWS];
} outcome;

static void write_block(bench *b, random_stream *random, size_t count) {
    for (size_t layer = 0; layer < LAYERS; layer++) {
        float *k = random_floats(random, count * KV_ROW, 1.0f);
        float *v = random_floats(random, count * KV_ROW, 1.0f);
        cr_assert_eq(fb_kv_cache_write(b->kv, layer, fb_kv_cache_length(b->kv), count, k, v), FB_OK,
                     "%s", fb_error_message());
        free(k), free(v);
    }
}

static bench bench_new(random_stream *random, size_t context, fb_dtype dtype) {
    bench b = {0};
    fb_kv_cache_config config = {LAYERS, KV_HEADS, DIM, dtype};
    cr_assert_eq(fb_kv_cache_create(&config, &b.kv), FB_OK);
    cr_assert_eq(fb_part_cache_create(LAYERS, BLOCK, HEADS, DIM, &b.parts), FB_OK);
    cr_assert_eq(fb_part_cache_create(LAYERS, BLOCK, HEADS, DIM, &b.residuals), FB_OK);
    write_block(&b, random, context);
    cr_assert_eq(fb_kv_cache_commit(b.kv, context), FB_OK);
    write_block(&b, random, BLOCK);
    b.q = random_floats(random, VALUES, 1.0f);
    b.queries = fb_queries_rows(b.q, BLOCK, HEADS, DIM);
    return b;
}

static void bench_free(bench *b) {
    fb_kv_cache_destroy(b->kv);
    fb_part_cache_destroy(b->parts);
    fb_part_cache_destroy(b->residuals);
    fb_selection_release(&b->selection);
    free(b->q);
}

/* The block's queries and keys change, as they do from step to step. */
static void next_step(bench *b, random_stream *random) {
    for (size_t i = 0; i < VALUES; i++)
        b->q[i] += 0.1f * random_normal(random);
    write_block(b, random, BLOCK);
}

/* Each key block is in a list with this probability. */
static void choose(bench *b, random_stream *random, size_t lists, double probability) {
    cr_assert_eq(fb_selection_begin(&b->selection, BLOCK_KEYS, fb_kv_cache_length(b->kv), lists),
                 FB_OK, "%s", fb_error_message());
    for (size_t list = 0; list < lists; list++) {
        size_t blocks[256], count = 0;
        for (size_t i = 0; i < b->selection.num_blocks; i++)
            if (random_uniform(random) < probability)
                blocks[count++] = i;
        cr_assert_eq(fb_selection_set(&b->selection, list, blocks, count), FB_OK);
    }
}

static fb_block_call call_of(const bench *b, fb_reuse_action action, fb_part_cache *parts) {
    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = &b->queries;
    call.kv = b->kv;
    call.layer = 1;
    call.action = action;
    call.parts = parts;
    return call;
}

static fb_status attend(const bench *b, fb_reuse_action action, fb_part_cache *residuals,
                        outcome *o) {
    fb_part part = fb_part_rows(o->out, o->lse, HEADS, DIM);
    fb_block_call call = call_of(b, action, residuals);
    call.selection = &b->selection;
    return fb_block_attend(&call, &part);
}

static void attend_well(const bench *b, fb_reuse_action action, fb_part_cache *residuals,
                        outcome *o) {
    cr_assert_eq(attend(b, action, residuals, o), FB_OK, "%s", fb_error_message());
}

static void attend_dense(const bench *b, fb_reuse_action action, outcome *o) {
    fb_part part = fb_part_rows(o->out, o->lse, HEADS, DIM);
    fb_block_call call = call_of(b, action, b->parts);
    cr_assert_eq(fb_block_attend(&call, &part), FB_OK, "%s", fb_error_message());
}

static void expect_same(const outcome *a, const outcome *b) {
    expect_same_bits("out", a->out, b->out, VALUES);
    expect_same_bits("lse", a->lse, b->lse, ROWS);
}

static const size_t lists_of[] = {KV_HEADS, HEADS};

/* With every key block selected, the result is dense attention: by KV head or by head, with
 * residual or without, at a refresh or a reuse. docs/contract.md C8.7. */
Test(sparse, everything_selected_is_dense) {
    random_stream random = random_named(80);
    for (size_t context = 0, round = 0; context < 2600; context += 1 + context / 2, round++) {
        bench b = bench_new(&random, context, (fb_dtype)(round % 4));
        choose(&b, &random, lists_of[round % 2], 1.0);
        outcome dense, sparse;
        cr_assert_eq(fb_set_num_threads(1 + (int)round % 2), FB_OK);
        for (int step = 0; step < 3; step++) {
            attend_dense(&b, FB_REFRESH_ONLY, &dense);
            attend_well(&b, FB_REFRESH_ONLY, NULL, &sparse);
            expect_same(&dense, &sparse);
            attend_well(&b, step ? FB_REUSE : FB_REFRESH_AND_STORE, b.residuals, &sparse);
            expect_same(&dense, &sparse);
            next_step(&b, &random);
        }
        bench_free(&b);
    }
}

/* With nothing selected, the residual is FlashBlock's cached part. Without a residual only the
 * block is attended. docs/contract.md C8.7. */
Test(sparse, nothing_selected_is_flashblock) {
    random_stream random = random_named(81);
    for (size_t context = 0, round = 0; context < 2600; context += 1 + context / 2, round++) {
        bench b = bench_new(&random, context, (fb_dtype)(round % 4));
        choose(&b, &random, lists_of[round % 2], 0.0);
        outcome flashblock, sparse;
        for (int step = 0; step < 3; step++) {
            fb_reuse_action action = step == 0 ? FB_REFRESH_AND_STORE : FB_REUSE;
            attend_dense(&b, action, &flashblock);
            attend_well(&b, action, b.residuals, &sparse);
            expect_same(&flashblock, &sparse);
            next_step(&b, &random);
        }
        outcome alone;
        fb_kv kv;
        cr_assert_eq(fb_kv_cache_layer(b.kv, 1, &kv), FB_OK);
        fb_range own = {context, context + BLOCK};
        fb_view view = {&kv, &own, 1};
        fb_part part = fb_part_rows(alone.out, alone.lse, HEADS, DIM);
        cr_assert_eq(fb_attend(&b.queries, &view, NULL, 0.0f, &part), FB_OK);
        attend_well(&b, FB_REFRESH_ONLY, NULL, &sparse);
        expect_same(&alone, &sparse);
        bench_free(&b);
    }
}

/* One head's attention to some tokens of layer 1, in double precision. */
static void truth_of(const bench *b, size_t head, const fb_range *ranges, size_t count, double *out,
                     double *lse) {
    fb_kv kv;
    cr_assert_eq(fb_kv_cache_layer(b->kv, 1, &kv), FB_OK);
    kv = fb_kv_heads(&kv, head / (HEADS / KV_HEADS), 1);
    fb_queries q = b->queries;
    q.num_heads = 1;
    q.q += head * DIM;
    fb_view view = {&kv, ranges, count};
    cr_assert_eq(fb_attend_reference(&q, &view, NULL, 0.0, out, lse), FB_OK);
}

/* Lists of every kind against the double-precision truth of their keys; a refresh with residual
 * against that of all keys. */
Test(sparse, lists_against_the_truth) {
    random_stream random = random_named(82);
    for (size_t round = 0; round < 12; round++) {
        size_t context = random_between(&random, 1, 1500);
        bench b = bench_new(&random, context, FB_F32);
        choose(&b, &random, lists_of[round % 2], 0.3);
        outcome sparse, refreshed;
        attend_well(&b, FB_REFRESH_ONLY, NULL, &sparse);
        attend_well(&b, FB_REFRESH_ONLY, b.residuals, &refreshed);
        for (size_t head = 0; head < HEADS; head++) {
            fb_range ranges[64], all = {0, context + BLOCK};
            size_t list = head / (HEADS / b.selection.num_lists);
            size_t count = fb_selection_ranges(&b.selection, list, ranges);
            ranges[count] = (fb_range){context, context + BLOCK};
            double out[BLOCK * DIM], lse[BLOCK], full[BLOCK * DIM], full_lse[BLOCK];
            truth_of(&b, head, ranges, count + 1, out, lse);
            truth_of(&b, head, &all, 1, full, full_lse);
            for (size_t row = 0; row < BLOCK; row++) {
                cr_assert_float_eq(sparse.lse[row * HEADS + head], lse[row], 2e-6);
                cr_assert_float_eq(refreshed.lse[row * HEADS + head], full_lse[row], 2e-6);
                for (size_t d = 0; d < DIM; d++) {
                    size_t at = (row * HEADS + head) * DIM + d;
                    cr_assert_float_eq(sparse.out[at], out[row * DIM + d], 2e-6,
                                       "round %zu, head %zu, row %zu, d %zu: %g, expected %g",
                                       round, head, row, d, (double)sparse.out[at],
                                       out[row * DIM + d]);
                    cr_assert_float_eq(refreshed.out[at], full[row * DIM + d], 2e-6);
                }
            }
        }
        bench_free(&b);
    }
}

/* A mean key is the output of a cache whose values are the keys, for each list too. */
Test(sparse, mean_keys_of_lists) {
    random_stream random = random_named(86);
    bench b = bench_new(&random, 300, FB_F32), keys = bench_new(&random, 300, FB_F32);
    float *k = calloc(300 * KV_ROW, sizeof *k);
    cr_assert_eq(fb_kv_cache_read(b.kv, 1, 0, 300, k, NULL), FB_OK);
    cr_assert_eq(fb_kv_cache_write(keys.kv, 1, 0, 300, k, k), FB_OK);
    fb_kv kv, kv_of_keys;
    cr_assert_eq(fb_kv_cache_layer(b.kv, 1, &kv), FB_OK);
    cr_assert_eq(fb_kv_cache_layer(keys.kv, 1, &kv_of_keys), FB_OK);
    for (size_t i = 0; i < sizeof lists_of / sizeof lists_of[0]; i++) {
        choose(&b, &random, lists_of[i], 0.5);
        outcome own = {0}, of_keys = {0};
        float mean_key[VALUES] = {0};
        fb_part part = fb_part_rows(own.out, own.lse, HEADS, DIM);
        fb_part part_of_keys = fb_part_rows(of_keys.out, of_keys.lse, HEADS, DIM);
        part.mean_key = mean_key;
        cr_assert_eq(fb_selection_attend(&b.queries, &kv, &b.selection, 0.0f, &part), FB_OK, "%s",
                     fb_error_message());
        cr_assert_eq(
            fb_selection_attend(&b.queries, &kv_of_keys, &b.selection, 0.0f, &part_of_keys), FB_OK);
        expect_same_bits("mean key", mean_key, of_keys.out, VALUES);
    }
    free(k);
    bench_free(&keys);
    bench_free(&b);
}

/* A reuse directly after a refresh, with the same queries and keys, equals that refresh. */
Test(sparse, a_reuse_without_change_is_the_refresh) {
    random_stream random = random_named(83);
    bench b = bench_new(&random, 777, FB_BF16);
    choose(&b, &random, HEADS, 0.4);
    outcome refresh, reuse;
    attend_well(&b, FB_REFRESH_AND_STORE, b.residuals, &refresh);
    attend_well(&b, FB_REUSE, b.residuals, &reuse);
    expect_same(&refresh, &reuse);
    bench_free(&b);
}

static void expect_stale(const bench *b, const char *why) {
    outcome o, before;
    memset(&o, 7, sizeof o);
    before = o;
    cr_assert_eq(attend(b, FB_REUSE, b->residuals, &o), FB_ERROR_STALE, "%s", why);
    cr_assert_eq(memcmp(&o, &before, sizeof o), 0, "%s: the result was written", why);
}

/* Another selection, another state of the KV cache, the next block and more rows are errors, and
 * leave the result untouched. */
Test(sparse, a_residual_belongs_to_selection_epoch_and_block) {
    random_stream random = random_named(84);
    bench b = bench_new(&random, 500, FB_F32);
    choose(&b, &random, KV_HEADS, 0.5);
    outcome o;
    expect_stale(&b, "nothing stored");
    attend_well(&b, FB_REFRESH_ONLY, b.residuals, &o);
    expect_stale(&b, "a refresh that does not store");
    attend_well(&b, FB_REFRESH_AND_STORE, b.residuals, &o);
    cr_assert(fb_residual_is_fresh(b.residuals, 1, b.kv, &b.selection));
    cr_assert_not(fb_residual_is_fresh(b.residuals, 0, b.kv, &b.selection));
    fb_selection kept = {0};
    cr_assert_eq(fb_selection_copy(&b.selection, &kept), FB_OK);
    choose(&b, &random, KV_HEADS, 0.5);
    expect_stale(&b, "another selection");
    cr_assert_eq(fb_selection_copy(&kept, &b.selection), FB_OK);
    attend_well(&b, FB_REUSE, b.residuals, &o);
    fb_queries four = b.queries;
    b.queries.num_queries = 2;
    attend_well(&b, FB_REFRESH_AND_STORE, b.residuals, &o);
    b.queries = four;
    expect_stale(&b, "more rows");
    attend_well(&b, FB_REFRESH_AND_STORE, b.residuals, &o);
    fb_part_cache_invalidate(b.residuals);
    expect_stale(&b, "invalidated");
    attend_well(&b, FB_REFRESH_AND_STORE, b.residuals, &o);
    cr_assert_eq(fb_kv_cache_commit(b.kv, BLOCK), FB_OK);
    write_block(&b, &random, BLOCK);
    cr_assert_eq(attend(&b, FB_REUSE, b.residuals, &o), FB_ERROR_ARGUMENT, "a shorter selection");
    cr_assert_eq(fb_kv_cache_truncate(b.kv, 500), FB_OK);
    write_block(&b, &random, BLOCK);
    expect_stale(&b, "the same tokens at another epoch");
    fb_selection_release(&kept);
    bench_free(&b);
}

/* One cache can hold either; it knows which. */
Test(sparse, a_residual_is_not_an_external_part) {
    random_stream random = random_named(89);
    bench b = bench_new(&random, 300, FB_F32);
    choose(&b, &random, KV_HEADS, 0.5);
    outcome o;
    fb_part part = fb_part_rows(o.out, o.lse, HEADS, DIM);
    fb_block_call reuse = call_of(&b, FB_REUSE, b.parts);
    attend_well(&b, FB_REFRESH_AND_STORE, b.parts, &o);
    cr_assert_eq(fb_block_attend(&reuse, &part), FB_ERROR_STALE);
    cr_assert(strstr(fb_error_message(), "is a residual"), "%s", fb_error_message());
    cr_assert_not(fb_part_cache_is_fresh(b.parts, 1, b.kv));
    attend_dense(&b, FB_REFRESH_AND_STORE, &o);
    cr_assert_eq(attend(&b, FB_REUSE, b.parts, &o), FB_ERROR_STALE);
    cr_assert_not(fb_residual_is_fresh(b.parts, 1, b.kv, &b.selection));
    bench_free(&b);
}

/* --- a sequence ------------------------------------------------------------------------------- */

static fb_status run_step(const bench *b, fb_sparse *sparse, size_t step, fb_reuse_action action,
                          outcome *o) {
    fb_sparse_step now = {.denoising_step = step, .denoising_steps = 4};
    fb_sparse_begin(sparse, &now);
    fb_part part = fb_part_rows(o->out, o->lse, HEADS, DIM);
    fb_block_call call = call_of(b, action, NULL);
    call.sparse = sparse;
    return fb_block_attend(&call, &part);
}

/* The steps at which the selector is asked, and the effect of a changed selection. */
Test(sparse, a_changed_selection_refreshes) {
    random_stream random = random_named(85);
    bench b = bench_new(&random, 400, FB_F32);
    fb_sparse_options options;
    fb_sparse_options_init(&options);
    options.selector = "sink_window";
    options.choosing.block_keys = 16;
    options.density = 0.25;
    options.residual = FB_RESIDUAL_CACHED;
    fb_sparse *sparse = NULL;
    outcome o, expected;
    cr_assert_eq(fb_sparse_create(&options, LAYERS, BLOCK, HEADS, DIM, &sparse), FB_OK, "%s",
                 fb_error_message());
    cr_assert_null(fb_sparse_selection(sparse, 1));
    cr_assert_eq(run_step(&b, sparse, 0, FB_REUSE, &o), FB_ERROR_STALE);
    cr_assert_eq(run_step(&b, sparse, 0, FB_REFRESH_AND_STORE, &o), FB_OK);
    cr_assert_eq(run_step(&b, sparse, 1, FB_REUSE, &o), FB_OK, "%s", fb_error_message());
    fb_sparse_counts counts = *fb_sparse_counts_of(sparse);
    cr_assert_eq(counts.selections, 1);
    cr_assert_eq(counts.forced_refreshes, 0);
    cr_assert_eq(fb_sparse_selection(sparse, 1)->counts[0], 6);
    cr_assert_float_eq(counts.keys, 800.0, 1e-9);
    cr_assert_float_eq(counts.keys_selected, 2 * 6 * 16, 1e-9);
    cr_assert_float_eq(counts.keys_residual, 400 - 6 * 16, 1e-9);
    cr_assert_eq(fb_kv_cache_commit(b.kv, BLOCK), FB_OK);
    write_block(&b, &random, BLOCK);
    cr_assert_eq(run_step(&b, sparse, 1, FB_REUSE, &o), FB_ERROR_STALE, "the next block");
    fb_sparse_destroy(sparse);

    options.select_every_step = true; /* then it is no error, but a refresh */
    cr_assert_eq(fb_sparse_create(&options, LAYERS, BLOCK, HEADS, DIM, &sparse), FB_OK);
    cr_assert_eq(run_step(&b, sparse, 0, FB_REUSE, &o), FB_OK, "%s", fb_error_message());
    cr_assert_eq(fb_selection_copy(fb_sparse_selection(sparse, 1), &b.selection), FB_OK);
    attend_well(&b, FB_REFRESH_ONLY, b.residuals, &expected);
    expect_same(&expected, &o);
    cr_assert_eq(fb_sparse_counts_of(sparse)->forced_refreshes, 1);
    cr_assert_eq(run_step(&b, sparse, 1, FB_REUSE, &o), FB_OK);
    cr_assert_eq(fb_sparse_counts_of(sparse)->forced_refreshes, 1, "the selection is the same");
    fb_sparse_destroy(sparse);
    bench_free(&b);
}

/* If a selector wants a dense first step: with a residual, a refresh attends to everything anyway,
 * so the selection is made for the next step and the reuse after it is sparse. Without a residual
 * the step is dense. */
Test(sparse, a_refresh_selects_for_the_reuses_after_it) {
    random_stream random = random_named(87);
    bench b = bench_new(&random, 400, FB_F32);
    fb_sparse_options options;
    fb_sparse_options_init(&options);
    options.selector = "sparsed";
    options.choosing.block_keys = 16;
    outcome o, dense;
    attend_dense(&b, FB_REFRESH_ONLY, &dense);
    for (fb_residual residual = FB_RESIDUAL_NONE; residual <= FB_RESIDUAL_CACHED; residual++) {
        options.residual = residual;
        fb_sparse *sparse = NULL;
        cr_assert_eq(fb_sparse_create(&options, LAYERS, BLOCK, HEADS, DIM, &sparse), FB_OK, "%s",
                     fb_error_message());
        cr_assert_eq(run_step(&b, sparse, 0, FB_REFRESH_AND_STORE, &o), FB_OK);
        size_t first = fb_sparse_selection(sparse, 1)->counts[0];
        cr_assert_eq(first, residual == FB_RESIDUAL_CACHED ? 5 : 25, "%zu blocks", first);
        if (residual == FB_RESIDUAL_NONE)
            expect_same(&dense, &o);
        cr_assert_eq(run_step(&b, sparse, 1, FB_REUSE, &o), FB_OK, "%s", fb_error_message());
        cr_assert_eq(fb_sparse_selection(sparse, 1)->counts[0], 5);
        cr_assert_eq(fb_sparse_counts_of(sparse)->forced_refreshes, 0);
        fb_sparse_destroy(sparse);
    }
    bench_free(&b);
}

/* Quest looks at the queries of each step. Other queries give another selection, and so a
 * refresh. */
Test(sparse, selecting_at_every_step_follows_the_queries) {
    random_stream random = random_named(88);
    bench b = bench_new(&random, 600, FB_F32);
    fb_sparse_options options;
    fb_sparse_options_init(&options);
    options.selector = "quest";
    options.choosing.block_keys = 16;
    options.residual = FB_RESIDUAL_CACHED;
    options.select_every_step = true;
    fb_sparse *sparse = NULL;
    outcome o, expected;
    cr_assert_eq(fb_sparse_create(&options, LAYERS, BLOCK, HEADS, DIM, &sparse), FB_OK);
    cr_assert_eq(run_step(&b, sparse, 0, FB_REFRESH_AND_STORE, &o), FB_OK);
    cr_assert_eq(run_step(&b, sparse, 1, FB_REUSE, &o), FB_OK);
    cr_assert_eq(fb_sparse_counts_of(sparse)->forced_refreshes, 0);
    for (size_t i = 0; i < VALUES; i++)
        b.q[i] = random_normal(&random);
    cr_assert_eq(run_step(&b, sparse, 2, FB_REUSE, &o), FB_OK);
    cr_assert_eq(fb_sparse_counts_of(sparse)->forced_refreshes, 1);
    cr_assert_eq(fb_selection_copy(fb_sparse_selection(sparse, 1), &b.selection), FB_OK);
    attend_well(&b, FB_REFRESH_ONLY, b.residuals, &expected);
    expect_same(&expected, &o);
    fb_sparse_destroy(sparse);
    bench_free(&b);
}

/* Densities that round to no block or to all blocks give the two identities. */
Test(sparse, densities_that_round_to_nothing_and_to_everything) {
    random_stream random = random_named(86);
    bench b = bench_new(&random, 100, FB_F32); /* 7 blocks of 16 */
    fb_sparse_options options;
    fb_sparse_options_init(&options);
    options.selector = "sink_window";
    options.choosing.block_keys = 16;
    options.residual = FB_RESIDUAL_CACHED;
    static const double densities[] = {0.0, 0.07, 0.93, 1.0};
    for (size_t i = 0; i < 4; i++) {
        options.density = densities[i];
        fb_sparse *sparse = NULL;
        cr_assert_eq(fb_sparse_create(&options, LAYERS, BLOCK, HEADS, DIM, &sparse), FB_OK);
        for (size_t step = 0; step < 2; step++) {
            outcome o, expected;
            fb_reuse_action action = step ? FB_REUSE : FB_REFRESH_AND_STORE;
            cr_assert_eq(run_step(&b, sparse, step, action, &o), FB_OK, "%s", fb_error_message());
            attend_dense(&b, i < 2 ? action : FB_REFRESH_ONLY, &expected);
            expect_same(&expected, &o);
            if (i < 2)
                next_step(&b, &random);
        }
        fb_sparse_destroy(sparse);
    }
    bench_free(&b);
}

Test(sparse, options_out_of_range) {
    fb_sparse_options options;
    fb_sparse_options_init(&options);
    fb_sparse *sparse = NULL;
    cr_assert_eq(fb_sparse_create(&options, 1, 4, 2, 8, &sparse), FB_ERROR_ARGUMENT, "no selector");
    options.selector = "nonesuch";
    cr_assert_eq(fb_sparse_create(&options, 1, 4, 2, 8, &sparse), FB_ERROR_ARGUMENT);
    cr_assert(strstr(fb_error_message(), "nonesuch"), "%s", fb_error_message());
    options.selector = "sink_window";
    options.density = 1.5;
    cr_assert_eq(fb_sparse_create(&options, 1, 4, 2, 8, &sparse), FB_ERROR_ARGUMENT);
    cr_assert(strstr(fb_error_message(), "1.5"), "%s", fb_error_message());
    options.density = 0.5;
    options.residual = FB_RESIDUAL_CENTROIDS;
    cr_assert_eq(fb_sparse_create(&options, 1, 4, 2, 8, &sparse), FB_ERROR_ARGUMENT);
    cr_assert(strstr(fb_error_message(), "sink_window"), "%s", fb_error_message());
    options.choosing.block_keys = 24;
    options.residual = FB_RESIDUAL_NONE;
    cr_assert_eq(fb_sparse_create(&options, 1, 4, 2, 8, &sparse), FB_ERROR_ARGUMENT);
    cr_assert_null(sparse);
}

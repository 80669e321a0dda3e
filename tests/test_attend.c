/* fb_attend: the same bits on every instruction set and number of threads, errors within float32's
 * precision, and the empty part for empty sets. */
#include "base/half.h"
#include "tests/numbers.h"

#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A random problem, and memory for its result. */
typedef struct trial {
    size_t queries, heads, kv_heads, dim, tokens;
    fb_dtype dtype;
    float *q, *k, *v; /* k and v hold values of `dtype` exactly */
    void *stored_k, *stored_v;
    fb_kv kv;
    fb_range ranges[3];
    fb_view view;
    fb_mask mask;
    size_t keys;
    float *out, *lse;
    fb_part part;
} trial;

static void *stored(fb_dtype dtype, float *values, size_t count) {
    void *half = malloc(count * fb_dtype_size(dtype) + 1);
    cr_assert_eq(fb_from_f32(dtype, values, half, count), FB_OK);
    cr_assert_eq(fb_to_f32(dtype, half, values, count), FB_OK);
    return half;
}

static trial trial_new(random_stream *random, size_t queries, size_t heads, size_t kv_heads,
                       size_t dim, size_t tokens, fb_dtype dtype) {
    trial t = {.queries = queries,
               .heads = heads,
               .kv_heads = kv_heads,
               .dim = dim,
               .tokens = tokens,
               .dtype = dtype};
    size_t kv_count = tokens * kv_heads * dim, rows = queries * heads;
    t.q = random_floats(random, rows * dim, 1.5f);
    t.k = random_floats(random, kv_count, 1.0f);
    t.v = random_floats(random, kv_count, 1.0f);
    t.stored_k = stored(dtype, t.k, kv_count);
    t.stored_v = stored(dtype, t.v, kv_count);
    t.kv = fb_kv_rows(dtype, t.stored_k, t.stored_v, tokens, kv_heads, dim);
    t.ranges[0] = (fb_range){0, tokens};
    t.view.num_ranges = 1;
    t.keys = tokens;
    t.out = calloc(rows * dim + 1, sizeof *t.out);
    t.lse = calloc(rows + 1, sizeof *t.lse);
    t.part = fb_part_rows(t.out, t.lse, heads, dim);
    return t;
}

static void trial_free(trial *t) {
    void *all[] = {t->q, t->k, t->v, t->stored_k, t->stored_v, t->out, t->lse};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

static void trial_run(trial *t, const fb_kv *kv, const fb_part *part) {
    fb_queries queries = fb_queries_rows(t->q, t->queries, t->heads, t->dim);
    fb_view view = {kv, t->ranges, t->view.num_ranges};
    cr_assert_eq(fb_attend(&queries, &view, &t->mask, 0.0f, part), FB_OK, "%s", fb_error_message());
}

static trial random_trial(random_stream *random) {
    static const size_t dims[] = {8, 16, 24, 32, 64, 80, 96, 128, 136, 256, 512, 7, 20, 520};
    size_t kv_heads = random_between(random, 1, 3), group = random_between(random, 1, 5);
    size_t style = random_between(random, 0, 9);
    size_t tokens = style == 0   ? random_between(random, 1000, 2500)
                    : style == 1 ? 0
                                 : random_between(random, 1, 300);
    size_t dim = dims[random_between(random, 0, style == 0 ? 5 : 13)];
    trial t = trial_new(random, random_between(random, 1, 20), kv_heads * group, kv_heads, dim,
                        tokens, (fb_dtype)random_between(random, 0, 2));
    if (random_uniform(random) < 0.5) { /* up to three ranges, unaligned, in any order */
        t.view.num_ranges = random_between(random, 0, 3);
        t.keys = 0;
        for (size_t r = 0; r < t.view.num_ranges; r++) {
            size_t third = tokens / 3, slot = (r + tokens) % 3;
            size_t begin = slot * third + random_between(random, 0, third);
            t.ranges[r] =
                (fb_range){begin, begin + random_between(random, 0, (slot + 1) * third - begin)};
            t.keys += t.ranges[r].end - t.ranges[r].begin;
        }
    }
    if (random_uniform(random) < 0.5)
        t.mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, random_between(random, 1, 9),
                           random_between(random, 0, tokens + 5), random_between(random, 0, 20)};
    return t;
}

/* The same keys and values in a KV cache. */
static fb_kv_cache *cached(const trial *t, fb_kv *kv) {
    fb_kv_cache *cache = NULL;
    fb_kv_cache_config config = {1, t->kv_heads, t->dim, t->dtype};
    cr_assert_eq(fb_kv_cache_create(&config, &cache), FB_OK);
    cr_assert_eq(fb_kv_cache_write(cache, 0, 0, t->tokens, t->k, t->v), FB_OK, "%s",
                 fb_error_message());
    cr_assert_eq(fb_kv_cache_layer(cache, 0, kv), FB_OK);
    return cache;
}

/* Every instruction set, number of threads and storage gives the bits of the scalar path with one
 * thread over rows; lengths, pages and ranges of all kinds (flash-attention#1217, #1713 lost rows
 * where they met). docs/contract.md C7. */
Test(attend, one_answer_everywhere, .timeout = 900) {
    random_stream random = random_named(10);
    for (int round = 0; round < (test_is_sample() ? 30 : 120); round++) {
        trial t = random_trial(&random);
        size_t rows = t.queries * t.heads;
        float *out = calloc(rows * t.dim, sizeof *out), *lse = calloc(rows, sizeof *lse);
        fb_part other = fb_part_rows(out, lse, t.heads, t.dim);
        fb_kv paged;
        fb_kv_cache *cache = cached(&t, &paged);
        cr_assert_eq(fb_isa_select(FB_ISA_SCALAR), FB_OK);
        cr_assert_eq(fb_set_num_threads(1), FB_OK);
        trial_run(&t, &t.kv, &t.part);
        for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++)
            for (int threads = 1; threads <= 3; threads++) {
                if (!fb_isa_built(isa) || !fb_isa_supported(isa))
                    continue;
                cr_assert_eq(fb_isa_select(isa), FB_OK);
                cr_assert_eq(fb_set_num_threads(threads), FB_OK);
                const fb_kv *kv = (round + threads) % 2 ? &paged : &t.kv;
                trial_run(&t, kv, &other);
                expect_same_bits("out", t.out, out, rows * t.dim);
                expect_same_bits("lse", t.lse, lse, rows);
            }
        fb_kv_cache_destroy(cache);
        free(out);
        free(lse);
        trial_free(&t);
    }
}

/* Few units of work and many chunks, so the driver works in waves. docs/contract.md C7.2. */
Test(attend, threads_over_long_contexts) {
    random_stream random = random_named(11);
    trial t = trial_new(&random, 3, 2, 1, 16, 70000, FB_BF16);
    float out[3 * 2 * 16], lse[3 * 2];
    fb_part other = fb_part_rows(out, lse, 2, 16);
    cr_assert_eq(fb_set_num_threads(1), FB_OK);
    trial_run(&t, &t.kv, &t.part);
    for (int threads = 2; threads <= 8; threads++) {
        cr_assert_eq(fb_set_num_threads(threads), FB_OK);
        trial_run(&t, &t.kv, &other);
        expect_same_bits("out", t.out, out, 3 * 2 * 16);
        expect_same_bits("lse", t.lse, lse, 3 * 2);
    }
    trial_free(&t);
}

/* Few rows over many chunks. Chunks of a KV cache are processed side by side, chunks of plain rows
 * one by one. In some trials a mask, or a range that begins inside a group, prevents the former. */
Test(attend, few_rows_over_many_chunks, .timeout = 900) {
    random_stream random = random_named(12);
    for (int round = 0; round < (test_is_sample() ? 10 : 40); round++) {
        static const size_t dims[] = {16, 40, 64};
        size_t kv_heads = random_between(&random, 1, 2), group = random_between(&random, 1, 10);
        size_t queries = group < 4 ? random_between(&random, 1, 3) : 1, dim = dims[round % 3];
        size_t tokens = random_between(&random, 2048, 9000), half = tokens / 2;
        trial t = trial_new(&random, queries, kv_heads * group, kv_heads, dim, tokens,
                            (fb_dtype)random_between(&random, 0, 2));
        if (round % 4 == 1) {
            t.view.num_ranges = 2;
            t.ranges[0] = (fb_range){half - half % 16, tokens};
            t.ranges[1] = (fb_range){round % 8 == 1 ? 0 : 5, half};
        }
        if (round % 4 == 3)
            t.mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, 4, random_between(&random, 1024, tokens), 0};
        size_t rows = queries * t.heads;
        float *out = calloc(rows * dim, sizeof *out), *lse = calloc(rows, sizeof *lse);
        fb_part other = fb_part_rows(out, lse, t.heads, dim);
        fb_kv paged;
        fb_kv_cache *cache = cached(&t, &paged);
        for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++) {
            if (!fb_isa_built(isa) || !fb_isa_supported(isa))
                continue;
            cr_assert_eq(fb_isa_select(isa), FB_OK);
            cr_assert_eq(fb_set_num_threads(1), FB_OK);
            if (isa == FB_ISA_SCALAR)
                trial_run(&t, &t.kv, &t.part);
            for (int threads = 1; threads <= 3; threads++) {
                cr_assert_eq(fb_set_num_threads(threads), FB_OK);
                trial_run(&t, &paged, &other);
                expect_same_bits("out", t.out, out, rows * dim);
                expect_same_bits("lse", t.lse, lse, rows);
            }
        }
        fb_kv_cache_destroy(cache);
        free(out);
        free(lse);
        trial_free(&t);
    }
}

/* A row's result does not depend on the other rows of the call (sglang#35938: it did, from token 97
 * on). docs/contract.md C7.3. */
Test(attend, a_row_does_not_depend_on_the_other_rows) {
    random_stream random = random_named(12);
    for (int round = 0; round < 30; round++) {
        trial t = random_trial(&random);
        trial_run(&t, &t.kv, &t.part);
        for (size_t query = 0; query < t.queries; query++) {
            float *out = calloc(t.heads * t.dim, sizeof *out), *lse = calloc(t.heads, sizeof *lse);
            fb_part part = fb_part_rows(out, lse, t.heads, t.dim);
            fb_queries one = fb_queries_rows(t.q + query * t.heads * t.dim, 1, t.heads, t.dim);
            fb_view view = {&t.kv, t.ranges, t.view.num_ranges};
            fb_mask mask = t.mask;
            mask.first_query += query;
            cr_assert_eq(fb_attend(&one, &view, &mask, 0.0f, &part), FB_OK);
            expect_same_bits("out", t.out + query * t.heads * t.dim, out, t.heads * t.dim);
            expect_same_bits("lse", t.lse + query * t.heads, lse, t.heads);
            free(out);
            free(lse);
        }
        trial_free(&t);
    }
}

/* A view of several ranges is the merge, in order, of its ranges: docs/contract.md C3.9. */
Test(attend, a_view_is_the_merge_of_its_ranges) {
    enum { VALUES = 5 * 4 * 64, ROWS = 5 * 4 };
    random_stream random = random_named(13);
    trial t = trial_new(&random, 5, 4, 2, 64, 5000, FB_F32);
    const fb_range ranges[3] = {{37, 3300}, {4000, 5000}, {3300, 3303}};
    memcpy(t.ranges, ranges, sizeof ranges);
    t.view.num_ranges = 3;
    trial_run(&t, &t.kv, &t.part);
    float out[VALUES], lse[ROWS], merged[VALUES] = {0}, merged_lse[ROWS];
    fb_part one = fb_part_rows(out, lse, 4, 64), so_far = fb_part_rows(merged, merged_lse, 4, 64);
    for (size_t i = 0; i < ROWS; i++)
        merged_lse[i] = -INFINITY;
    t.view.num_ranges = 1;
    for (size_t r = 0; r < 3; r++) {
        t.ranges[0] = ranges[r];
        trial_run(&t, &t.kv, &one);
        cr_assert_eq(fb_merge(&so_far, &one, 5, 4, 64, &so_far), FB_OK);
    }
    expect_same_bits("out", t.out, merged, VALUES);
    expect_same_bits("lse", t.lse, merged_lse, ROWS);
    trial_free(&t);
}

/* A long range is the merge of its chunks, but for the rounding of LSEs in between.
 * docs/contract.md C3.8. */
Test(attend, a_range_is_the_merge_of_its_chunks) {
    enum { VALUES = 5 * 4 * 64, ROWS = 5 * 4 };
    random_stream random = random_named(26);
    trial t = trial_new(&random, 5, 4, 2, 64, 3300, FB_F32);
    t.ranges[0] = (fb_range){37, 3300};
    trial_run(&t, &t.kv, &t.part);
    float out[VALUES], lse[ROWS], merged[VALUES] = {0}, merged_lse[ROWS];
    fb_part chunk = fb_part_rows(out, lse, 4, 64), so_far = fb_part_rows(merged, merged_lse, 4, 64);
    for (size_t i = 0; i < ROWS; i++)
        merged_lse[i] = -INFINITY;
    for (size_t begin = 37; begin < 3300; begin += FB_CHUNK_KEYS) {
        size_t end = begin + FB_CHUNK_KEYS < 3300 ? begin + FB_CHUNK_KEYS : 3300;
        t.ranges[0] = (fb_range){begin, end};
        trial_run(&t, &t.kv, &chunk);
        cr_assert_eq(fb_merge(&so_far, &chunk, 5, 4, 64, &so_far), FB_OK);
    }
    for (size_t i = 0; i < VALUES; i++)
        cr_assert_float_eq(t.out[i], merged[i], 2e-7, "out[%zu] is %.9g and %.9g", i,
                           (double)t.out[i], (double)merged[i]);
    for (size_t i = 0; i < ROWS; i++)
        cr_assert_float_eq(t.lse[i], merged_lse[i], 3e-6);
    trial_free(&t);
}

/* --- gathered views --------------------------------------------------------------------------- */

enum { MAX_PIECES = 40 };

/* Some ranges of a trial's tokens in ascending order: blocks of 16 or 64, or any; the last one may
 * end anywhere. */
static size_t random_pieces(random_stream *random, size_t tokens, fb_range *pieces) {
    static const size_t steps[] = {16, 64, 1, 16};
    size_t step = steps[random_between(random, 0, 3)], count = 0, at = 0;
    while (count < MAX_PIECES && at < tokens) {
        size_t begin = at + step * random_between(random, 0, 2);
        size_t end = begin + step * random_between(random, 0, step == 1 ? 150 : 10);
        if (begin >= tokens)
            break;
        at = end < tokens ? end : tokens;
        pieces[count++] = (fb_range){begin, at};
    }
    return count;
}

/* The pieces' keys and values, side by side. */
static void copy_pieces(const trial *t, const fb_range *pieces, size_t count, trial *copy) {
    size_t row = t->kv_heads * t->dim * fb_dtype_size(t->dtype), keys = 0;
    for (size_t i = 0; i < count; i++) {
        size_t size = pieces[i].end - pieces[i].begin;
        memcpy((char *)copy->stored_k + keys * row, (char *)t->stored_k + pieces[i].begin * row,
               size * row);
        memcpy((char *)copy->stored_v + keys * row, (char *)t->stored_v + pieces[i].begin * row,
               size * row);
        keys += size;
    }
    memcpy(copy->q, t->q, t->queries * t->heads * t->dim * sizeof *t->q);
    copy->ranges[0] = (fb_range){0, keys};
}

/* For rows and for pages, with every instruction set, and with threads over units and over chunks.
 * docs/contract.md C3.5. */
Test(attend, gathered_keys_are_a_copy_of_them, .timeout = 900) {
    random_stream random = random_named(70);
    static const size_t dims[] = {16, 24, 7, 64, 128};
    for (int round = 0; round < (test_is_sample() ? 10 : 40); round++) {
        size_t kv_heads = random_between(&random, 1, 3), tokens = random_between(&random, 1, 3000);
        size_t heads = kv_heads * random_between(&random, 1, 4), dim = dims[round % 5];
        size_t queries = random_between(&random, 1, 9);
        fb_dtype dtype = (fb_dtype)(round % 3);
        trial t = trial_new(&random, queries, heads, kv_heads, dim, tokens, dtype);
        trial copy = trial_new(&random, queries, heads, kv_heads, dim, tokens, dtype);
        fb_range pieces[MAX_PIECES];
        size_t count = random_pieces(&random, tokens, pieces);
        copy_pieces(&t, pieces, count, &copy);
        fb_mask mask = {0};
        if (round % 4 == 3)
            mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, 5, random_between(&random, 0, 200), 3};
        copy.mask = mask;
        cr_assert_eq(fb_isa_select(FB_ISA_SCALAR), FB_OK);
        cr_assert_eq(fb_set_num_threads(1), FB_OK);
        trial_run(&copy, &copy.kv, &copy.part);
        fb_kv paged;
        fb_kv_cache *cache = cached(&t, &paged);
        fb_queries q = fb_queries_rows(t.q, queries, heads, dim);
        for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++)
            for (int variant = 0; variant < 4; variant++) {
                if (!fb_isa_built(isa) || !fb_isa_supported(isa))
                    continue;
                cr_assert_eq(fb_isa_select(isa), FB_OK);
                cr_assert_eq(fb_set_num_threads(1 + variant / 2), FB_OK);
                fb_view view = {variant % 2 ? &paged : &t.kv, pieces, count};
                cr_assert_eq(fb_attend_gathered(&q, &view, &mask, 0.0f, &t.part), FB_OK, "%s",
                             fb_error_message());
                expect_same_bits("out", copy.out, t.out, queries * heads * dim);
                expect_same_bits("lse", copy.lse, t.lse, queries * heads);
            }
        fb_kv_cache_destroy(cache);
        trial_free(&t);
        trial_free(&copy);
    }
}

/* All key blocks, one by one, are dense attention; none are the empty part. */
Test(attend, gathered_everything_is_dense) {
    enum { TOKENS = 64 * 40 - 13, VALUES = 4 * 6 * 32, ROWS = 4 * 6 };
    random_stream random = random_named(71);
    trial t = trial_new(&random, 4, 6, 2, 32, TOKENS, FB_BF16);
    fb_kv paged;
    fb_kv_cache *cache = cached(&t, &paged);
    trial_run(&t, &paged, &t.part);
    fb_range blocks[40];
    for (size_t i = 0; i < 40; i++)
        blocks[i] = (fb_range){64 * i, 64 * (i + 1) < TOKENS ? 64 * (i + 1) : TOKENS};
    float out[VALUES], lse[ROWS];
    fb_part part = fb_part_rows(out, lse, 6, 32);
    fb_queries q = fb_queries_rows(t.q, 4, 6, 32);
    fb_view all = {&paged, blocks, 40}, none = {&paged, NULL, 0};
    cr_assert_eq(fb_attend_gathered(&q, &all, NULL, 0.0f, &part), FB_OK, "%s", fb_error_message());
    expect_same_bits("out", t.out, out, VALUES);
    expect_same_bits("lse", t.lse, lse, ROWS);
    cr_assert_eq(fb_attend_gathered(&q, &none, NULL, 0.0f, &part), FB_OK);
    for (size_t i = 0; i < ROWS; i++)
        cr_assert_eq(lse[i], -INFINITY);
    for (size_t i = 0; i < VALUES; i++)
        cr_assert_eq(out[i], 0.0f);
    fb_kv_cache_destroy(cache);
    trial_free(&t);
}

/* KV heads of rows and of pages, one by one and two together, are those heads. */
Test(attend, single_kv_heads_are_the_same_heads) {
    enum { KV_HEADS = 3, GROUP = 2, HEADS = KV_HEADS * GROUP, DIM = 24, TOKENS = 300, QUERIES = 3 };
    random_stream random = random_named(72);
    trial t = trial_new(&random, QUERIES, HEADS, KV_HEADS, DIM, TOKENS, FB_F16);
    fb_kv paged;
    fb_kv_cache *cache = cached(&t, &paged);
    trial_run(&t, &t.kv, &t.part);
    for (size_t variant = 0; variant < 4; variant++)
        for (size_t first = 0, count = 1 + variant / 2; first + count <= KV_HEADS; first++) {
            float out[QUERIES * HEADS * DIM] = {0}, lse[QUERIES * HEADS];
            memcpy(out, t.out, sizeof out);
            memcpy(lse, t.lse, sizeof lse);
            fb_kv kv = fb_kv_heads(variant % 2 ? &paged : &t.kv, first, count);
            fb_queries q = fb_queries_rows(t.q + first * GROUP * DIM, QUERIES, HEADS, DIM);
            q.num_heads = count * GROUP;
            fb_part part = fb_part_rows(out + first * GROUP * DIM, lse + first * GROUP, HEADS, DIM);
            memset(part.out, 0, DIM * sizeof *part.out);
            part.lse[0] = 0.0f;
            fb_range all = {0, TOKENS};
            fb_view view = {&kv, &all, 1};
            cr_assert_eq(fb_attend(&q, &view, NULL, 0.0f, &part), FB_OK, "%s", fb_error_message());
            expect_same_bits("out", t.out, out, QUERIES * HEADS * DIM);
            expect_same_bits("lse", t.lse, lse, QUERIES * HEADS);
        }
    fb_kv too_many = fb_kv_heads(&paged, 2, 2);
    fb_queries q = fb_queries_rows(t.q, QUERIES, 2, DIM);
    fb_range all = {0, TOKENS};
    fb_view view = {&too_many, &all, 1};
    cr_assert_eq(fb_attend(&q, &view, NULL, 0.0f, &t.part), FB_ERROR_ARGUMENT);
    fb_kv_cache_destroy(cache);
    trial_free(&t);
}

/* A call of the test below: `queries` query rows over the cache, mean keys wanted or not. */
typedef struct int8_call {
    fb_kv kv;
    const float *q;
    size_t queries, heads, dim;
    fb_range ranges[2];
    bool gathered, mean_key;
} int8_call;

static void run_int8(const int8_call *c, float *out, float *lse, float *mean_key) {
    fb_queries queries = fb_queries_rows(c->q, c->queries, c->heads, c->dim);
    fb_view view = {&c->kv, c->ranges, 2};
    fb_part part = fb_part_rows(out, lse, c->heads, c->dim);
    part.mean_key = c->mean_key ? mean_key : NULL;
    cr_assert_eq((c->gathered ? fb_attend_gathered : fb_attend)(&queries, &view, NULL, 0.0f, &part),
                 FB_OK, "%s", fb_error_message());
}

/* Keys and values of 8 bits: instruction sets, threads, the other rows of a call (few rows take
 * chunks side by side) and mean keys change no bit; mean keys are what outputs would be if values
 * were the keys. docs/contract.md C7, C14; test_contract.py has the bits themselves. */
Test(attend, keys_of_8_bits, .timeout = 300) {
    enum { QUERIES = 20, FEW = 3, TOKENS = 4400 };
    static const size_t dims[] = {64, 20, 128, 7};
    random_stream random = random_named(301);
    for (size_t round = 0; round < (test_is_sample() ? 4 : 8); round++) {
        size_t dim = dims[round % 4], kv_heads = 1 + round % 2, heads = 2 * kv_heads;
        float *q = random_floats(&random, QUERIES * heads * dim, 1.5f);
        float *k = random_floats(&random, TOKENS * kv_heads * dim, 1.0f);
        float *v = random_floats(&random, TOKENS * kv_heads * dim, 1.0f);
        size_t values = QUERIES * heads * dim, rows = QUERIES * heads, odd = round / 2 % 2;
        float *out[3], *lse[2];
        for (size_t i = 0; i < 3; i++)
            out[i] = calloc(values, sizeof **out);
        for (size_t i = 0; i < 2; i++)
            lse[i] = calloc(rows, sizeof **lse);
        fb_kv_cache_config config = {1, kv_heads, dim, FB_INT8};
        fb_kv_cache *cache = NULL, *keys = NULL;
        int8_call c = {.q = q,
                       .queries = QUERIES,
                       .heads = heads,
                       .dim = dim,
                       .ranges = {{odd, 2100 + odd}, {2112 + odd, TOKENS}},
                       .gathered = round > 3};
        cr_assert_eq(fb_kv_cache_create(&config, &cache), FB_OK);
        cr_assert_eq(fb_kv_cache_write(cache, 0, 0, TOKENS, k, v), FB_OK);
        cr_assert_eq(fb_kv_cache_layer(cache, 0, &c.kv), FB_OK);
        cr_assert_eq(fb_isa_select(FB_ISA_SCALAR), FB_OK);
        cr_assert_eq(fb_set_num_threads(1), FB_OK);
        run_int8(&c, out[0], lse[0], NULL);
        for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++)
            for (int variant = 0; variant < 4; variant++) {
                if (!fb_isa_built(isa) || !fb_isa_supported(isa))
                    continue;
                cr_assert_eq(fb_isa_select(isa), FB_OK);
                cr_assert_eq(fb_set_num_threads(1 + variant % 3), FB_OK);
                c.queries = variant % 2 ? FEW : QUERIES;
                c.mean_key = variant == 2;
                run_int8(&c, out[1], lse[1], out[2]);
                expect_same_bits("out", out[0], out[1], c.queries * heads * dim);
                expect_same_bits("lse", lse[0], lse[1], c.queries * heads);
            }
        cr_assert_eq(fb_kv_cache_create(&config, &keys), FB_OK);
        cr_assert_eq(fb_kv_cache_write(keys, 0, 0, TOKENS, k, k), FB_OK);
        cr_assert_eq(fb_kv_cache_layer(keys, 0, &c.kv), FB_OK);
        c.queries = QUERIES;
        c.mean_key = false;
        run_int8(&c, out[1], lse[1], NULL);
        expect_same_bits("mean key", out[1], out[2], values);
        fb_kv_cache_destroy(cache), fb_kv_cache_destroy(keys);
        for (size_t i = 0; i < 3; i++)
            free(out[i]);
        free(lse[0]), free(lse[1]), free(q), free(k), free(v);
    }
}

/* The first implementation that one writes, all in float32: scores, their maximum, exponentials,
 * sums. */
static void naive_row(const trial *t, size_t row, float *out, float *lse) {
    size_t kv_head = row % t->heads / (t->heads / t->kv_heads);
    float *p = calloc(t->tokens, sizeof *p), max = -INFINITY, sum = 0.0f;
    for (size_t key = 0; key < t->tokens; key++) {
        for (size_t d = 0; d < t->dim; d++)
            p[key] += t->q[row * t->dim + d] * t->k[(key * t->kv_heads + kv_head) * t->dim + d];
        p[key] /= sqrtf((float)t->dim);
        max = p[key] > max ? p[key] : max;
    }
    for (size_t key = 0; key < t->tokens; key++)
        sum += p[key] = expf(p[key] - max);
    for (size_t key = 0; key < t->tokens; key++)
        for (size_t d = 0; d < t->dim; d++)
            out[d] += p[key] / sum * t->v[(key * t->kv_heads + kv_head) * t->dim + d];
    *lse = max + logf(sum);
    free(p);
}

typedef struct error_sum {
    double squares, worst;
} error_sum;

static void add_errors(error_sum *sum, const float *got, const double *truth, size_t count) {
    for (size_t i = 0; i < count; i++) {
        double error = fabs((double)got[i] - truth[i]);
        cr_assert(!isnan(error));
        sum->squares += error * error;
        sum->worst = error > sum->worst ? error : sum->worst;
    }
}

/* The error against the double-precision truth is at most that of a plain float32 implementation,
 * also when keys and values have half precision (llamafile#978 and llama.cpp#9166 accumulated in
 * half precision). */
Test(attend, error_against_the_truth, .timeout = 300) {
    random_stream random = random_named(14);
    error_sum ours = {0}, naive = {0}, ours_lse = {0}, naive_lse = {0};
    for (int round = 0; round < 60; round++) {
        size_t dim = 8 * random_between(&random, 1, 20), heads = random_between(&random, 1, 6);
        trial t = trial_new(&random, 4, heads, 1, dim, random_between(&random, 1, 2500),
                            (fb_dtype)(round % 3));
        size_t rows = t.queries * t.heads;
        double *out = calloc(rows * dim, sizeof *out), *lse = calloc(rows, sizeof *lse);
        float *plain = calloc(rows * dim, sizeof *plain), *plain_lse = calloc(rows, sizeof *plain);
        fb_queries queries = fb_queries_rows(t.q, t.queries, t.heads, dim);
        fb_view view = {&t.kv, t.ranges, 1};
        trial_run(&t, &t.kv, &t.part);
        cr_assert_eq(fb_attend_reference(&queries, &view, NULL, 0.0, out, lse), FB_OK);
        for (size_t row = 0; row < rows; row++)
            naive_row(&t, row, plain + row * dim, plain_lse + row);
        add_errors(&ours, t.out, out, rows * dim);
        add_errors(&naive, plain, out, rows * dim);
        add_errors(&ours_lse, t.lse, lse, rows);
        add_errors(&naive_lse, plain_lse, lse, rows);
        free(out), free(lse), free(plain), free(plain_lse);
        trial_free(&t);
    }
    cr_log_info("out: worst %.3g, plain %.3g; lse: worst %.3g, plain %.3g", ours.worst, naive.worst,
                ours_lse.worst, naive_lse.worst);
    /* the order of operations decides the mean; the worst of 1e5 elements is chance */
    cr_assert(ours.worst <= 2.0 * naive.worst && ours.squares <= naive.squares,
              "outputs: worst %g, plain float32 %g; squares %g, %g", ours.worst, naive.worst,
              ours.squares, naive.squares);
    cr_assert(ours_lse.worst <= 2.0 * naive_lse.worst && ours_lse.squares <= naive_lse.squares,
              "LSEs: worst %g, plain float32 %g; squares %g, %g", ours_lse.worst, naive_lse.worst,
              ours_lse.squares, naive_lse.squares);
}

/* The reference itself, against sums that can be done by hand. */
Test(attend, reference_by_hand) {
    float q[2] = {1.0f, 2.0f}, k[6] = {3.0f, 0.0f, 0.0f, 1.0f, 1.0f, 1.0f};
    float v[6] = {1.0f, 0.0f, 0.0f, 1.0f, 4.0f, 4.0f};
    fb_kv kv = fb_kv_rows(FB_F32, k, v, 3, 1, 2);
    fb_range all = {0, 3};
    fb_view view = {&kv, &all, 1};
    fb_queries queries = fb_queries_rows(q, 1, 1, 2);
    double out[2], lse;
    cr_assert_eq(fb_attend_reference(&queries, &view, NULL, 0.5, out, &lse), FB_OK);
    double weights[3] = {exp(1.5), exp(1.0), exp(1.5)}, sum = weights[0] + weights[1] + weights[2];
    cr_assert_float_eq(lse, log(sum), 1e-15);
    cr_assert_float_eq(out[0], (weights[0] + 4.0 * weights[2]) / sum, 1e-15);
    cr_assert_float_eq(out[1], (weights[1] + 4.0 * weights[2]) / sum, 1e-15);
    /* merging the parts of keys {0} and {1, 2} gives the same */
    fb_range first = {0, 1}, rest = {1, 3};
    fb_view first_view = {&kv, &first, 1}, rest_view = {&kv, &rest, 1};
    double a[2], b[2], lse_a, lse_b, merged[2], merged_lse;
    cr_assert_eq(fb_attend_reference(&queries, &first_view, NULL, 0.5, a, &lse_a), FB_OK);
    cr_assert_eq(fb_attend_reference(&queries, &rest_view, NULL, 0.5, b, &lse_b), FB_OK);
    fb_merge_reference(a, &lse_a, b, &lse_b, 1, 2, merged, &merged_lse);
    cr_assert_float_eq(merged_lse, lse, 1e-15);
    cr_assert_float_eq(merged[0], out[0], 1e-15);
    cr_assert_float_eq(merged[1], out[1], 1e-15);
}

/* Block-causal: each row sees what floor(q/B) >= floor(k/B) allows (flashinfer#2722), and masked
 * keys, NaN or not, leave no trace. docs/contract.md C6.2. */
Test(attend, masked_keys_leave_no_trace) {
    random_stream random = random_named(15);
    size_t tokens = 150, dim = 32, block = 7;
    trial t = trial_new(&random, 40, 2, 1, dim, tokens, FB_F32);
    t.mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, block, 90, 3};
    trial_run(&t, &t.kv, &t.part);
    for (size_t query = 0; query < t.queries; query++) {
        size_t visible = ((90 + query) / block + 1) * block - 3;
        visible = visible < tokens ? visible : tokens;
        float out[2 * 32], lse[2];
        fb_part part = fb_part_rows(out, lse, 2, dim);
        fb_queries one = fb_queries_rows(t.q + query * 2 * dim, 1, 2, dim);
        fb_range range = {0, visible};
        fb_view view = {&t.kv, &range, 1};
        cr_assert_eq(fb_attend(&one, &view, NULL, 0.0f, &part), FB_OK);
        expect_same_bits("out", t.out + query * 2 * dim, out, 2 * dim);
        expect_same_bits("lse", t.lse + query * 2, lse, 2);
    }
    /* poison a key that queries at positions below 98 do not see */
    float *clean = malloc(t.queries * 2 * dim * sizeof *clean);
    memcpy(clean, t.out, t.queries * 2 * dim * sizeof *clean);
    float *k = t.stored_k, *v = t.stored_v;
    k[96 * dim] = NAN; /* position 99 */
    v[96 * dim + 5] = INFINITY;
    trial_run(&t, &t.kv, &t.part);
    expect_same_bits("rows before", clean, t.out, 8 * 2 * dim);
    for (size_t i = 8 * 2 * dim; i < t.queries * 2 * dim; i++)
        cr_assert(fb_f32_to_bits(t.out[i]) == 0x7fc00000u, "element %zu is %g", i,
                  (double)t.out[i]);
    free(clean);
    trial_free(&t);
}

/* docs/contract.md C6.1. */
Test(attend, nothing_gives_the_empty_part) {
    random_stream random = random_named(16);
    trial t = trial_new(&random, 3, 2, 1, 16, 10, FB_F32);
    fb_view none = {&t.kv, NULL, 0};
    fb_range empty[2] = {{4, 4}, {10, 10}};
    fb_view zero = {&t.kv, empty, 2};
    fb_queries queries = fb_queries_rows(t.q, 3, 2, 16),
               no_queries = fb_queries_rows(NULL, 0, 2, 16);
    /* every key is after every query */
    fb_mask mask = {FB_MASK_BLOCK_CAUSAL, 4, 0, 100};
    fb_range all = {0, 10};
    fb_view masked = {&t.kv, &all, 1};
    const fb_view *views[] = {&none, &zero, &masked};
    for (size_t i = 0; i < 3; i++) {
        memset(t.out, 0xff, 3 * 2 * 16 * sizeof *t.out);
        cr_assert_eq(fb_attend(&queries, views[i], i == 2 ? &mask : NULL, 0.0f, &t.part), FB_OK);
        for (size_t j = 0; j < 3 * 2 * 16; j++)
            cr_assert(fb_f32_to_bits(t.out[j]) == 0);
        for (size_t j = 0; j < 3 * 2; j++)
            cr_assert_eq(t.lse[j], -INFINITY);
    }
    fb_part nowhere = {0};
    cr_assert_eq(fb_attend(&no_queries, &masked, NULL, 0.0f, &nowhere), FB_OK);
    trial_free(&t);
}

/* A key with a score of -inf has weight 0. If all scores are -inf, the part is empty. A score of
 * +inf, or a NaN, makes its own row NaN and no other row. docs/contract.md C6.3, C6.4. */
Test(attend, infinities_and_nan_stay_in_their_rows) {
    random_stream random = random_named(17);
    trial t = trial_new(&random, 4, 1, 1, 8, 100, FB_F32);
    float *k = t.stored_k;
    for (size_t token = 0; token < 100; token++)
        k[token * 8] = -1e30f; /* times q of 1e30: -inf */
    for (size_t query = 0; query < 4; query++)
        t.q[query * 8] = 0.0f;
    t.q[0] = 1e30f;
    t.q[8] = -1e30f;
    t.q[16] = NAN;
    trial_run(&t, &t.kv, &t.part);
    cr_assert_eq(t.lse[0], -INFINITY);
    cr_assert_eq(t.out[3], 0.0f);
    for (size_t row = 1; row < 3; row++)
        for (size_t d = 0; d < 8; d++)
            cr_assert(isnan(t.out[row * 8 + d]) && isnan(t.lse[row]));
    cr_assert(isfinite(t.lse[3]) && isfinite(t.out[24]));
    /* the first tile all -inf (llama.cpp#12776), then ordinary keys */
    for (size_t token = 70; token < 100; token++)
        k[token * 8] = 0.0f;
    trial_run(&t, &t.kv, &t.part);
    cr_assert(isfinite(t.lse[0]) && isfinite(t.out[0]));
    trial_free(&t);
}

/* Grouped queries, keys in several ranges, LSEs as [heads, tokens], outputs as [heads, tokens, D]:
 * strides mean what they say (vllm-flash-attention#87, flash-attention#2842, #2573, #2388,
 * FlagGems#5235 mixed them up, or wrote -inf to another row's slot). Some rows are empty. */
Test(attend, strides_with_grouped_queries_and_split_keys) {
    random_stream random = random_named(18);
    trial t = trial_new(&random, 6, 4, 2, 24, 1500, FB_F16);
    t.ranges[0] = (fb_range){5, 1100};
    t.ranges[1] = (fb_range){1200, 1500};
    t.view.num_ranges = 2;
    t.mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, 2, 2, 4}; /* queries 0 and 1 see nothing */
    trial_run(&t, &t.kv, &t.part);
    float out[4 * 6 * 24], lse[4 * 6];
    fb_part heads_first = {out, 24, 6 * 24, lse, 1, 6, NULL};
    trial_run(&t, &t.kv, &heads_first);
    for (size_t query = 0; query < 6; query++)
        for (size_t head = 0; head < 4; head++) {
            expect_same_bits("out", t.out + (query * 4 + head) * 24, out + (head * 6 + query) * 24,
                             24);
            cr_assert_eq(t.lse[query * 4 + head], lse[head * 6 + query]);
            cr_assert_eq(lse[head * 6 + query] == -INFINITY, query < 2);
        }
    trial_free(&t);
}

Test(attend, rows_backwards) {
    random_stream random = random_named(27);
    trial t = trial_new(&random, 6, 4, 2, 24, 90, FB_F16);
    trial_run(&t, &t.kv, &t.part);
    fb_queries reversed = {t.q + 5 * 4 * 24, 6, 4, 24, -4 * 24, 24};
    fb_part backwards = {t.out + 5 * 4 * 24, -4 * 24, 24, t.lse + 5 * 4, -4, 1, NULL};
    float *kept = malloc(6 * 4 * 24 * sizeof *kept);
    memcpy(kept, t.out, 6 * 4 * 24 * sizeof *kept);
    fb_view view = {&t.kv, t.ranges, 1};
    cr_assert_eq(fb_attend(&reversed, &view, NULL, 0.0f, &backwards), FB_OK);
    expect_same_bits("out", kept, t.out, 6 * 4 * 24);
    free(kept);
    trial_free(&t);
}

/* One key: its value, and its score. */
Test(attend, one_key) {
    random_stream random = random_named(28);
    trial t = trial_new(&random, 3, 4, 2, 64, 1, FB_BF16);
    trial_run(&t, &t.kv, &t.part);
    for (size_t row = 0; row < 3 * 4; row++) {
        size_t kv_head = row % 4 / 2;
        double score = 0.0;
        for (size_t d = 0; d < 64; d++)
            score += (double)t.q[row * 64 + d] * (double)t.k[kv_head * 64 + d];
        expect_same_bits("out", t.out + row * 64, t.v + kv_head * 64, 64);
        cr_assert_float_eq(t.lse[row], score / 8.0, 1e-6);
    }
    trial_free(&t);
}

/* Logits of 1e4 and more: the largest takes all, nothing overflows. */
Test(attend, logits_of_1e4) {
    random_stream random = random_named(29);
    trial t = trial_new(&random, 2, 1, 1, 8, 200, FB_F32);
    float *k = t.stored_k;
    for (size_t i = 0; i < 200 * 8; i++)
        k[i] = 0.0f;
    for (size_t query = 0; query < 2; query++)
        t.q[query * 8] = query ? 1e4f : -1e4f;
    for (size_t token = 0; token < 200; token++)
        k[token * 8] = (float)token - 100.0f; /* scores up to 1e6 / sqrt(8) */
    trial_run(&t, &t.kv, &t.part);
    expect_same_bits("lowest", t.out, t.v, 8);
    expect_same_bits("highest", t.out + 8, t.v + 199 * 8, 8);
    cr_assert_float_eq(t.lse[0], 1e6 / sqrt(8.0), 0.1);
    cr_assert_float_eq(t.lse[1], 99e4 / sqrt(8.0), 0.1);
    trial_free(&t);
}

/* Each wrong argument gives an error status and a message that names it, and leaves the outputs
 * untouched. */
Test(attend, wrong_arguments) {
    random_stream random = random_named(19);
    trial t = trial_new(&random, 2, 4, 2, 8, 20, FB_F32);
    fb_queries good = fb_queries_rows(t.q, 2, 4, 8);
    fb_range all = {0, 20}, beyond = {0, 21}, reversed = {5, 4};
    struct {
        const char *named;
        fb_queries queries;
        fb_kv kv;
        fb_range range;
        fb_mask mask;
        fb_part part;
    } cases[] = {
        {"queries.num_heads is 3", good, t.kv, all, {0}, t.part},
        {"queries.head_dim is 9", good, t.kv, all, {0}, t.part},
        {"queries.q is NULL", good, t.kv, all, {0}, t.part},
        {"view.ranges[0] is [0, 21)", good, t.kv, beyond, {0}, t.part},
        {"view.ranges[0] is [5, 4)", good, t.kv, reversed, {0}, t.part},
        {"kv.dtype is 7", good, t.kv, all, {0}, t.part},
        {"kv.k is NULL", good, t.kv, all, {0}, t.part},
        {"kv.num_kv_heads is 0", good, t.kv, all, {0}, t.part},
        {"mask.block_size is 0", good, t.kv, all, {FB_MASK_BLOCK_CAUSAL, 0, 0, 0}, t.part},
        {"mask.kind is 9", good, t.kv, all, {(fb_mask_kind)9, 1, 0, 0}, t.part},
        {"result.lse is NULL", good, t.kv, all, {0}, t.part},
        {"queries: 2 x 4 rows", good, t.kv, all, {0}, t.part},
        {"kv.dtype is 3", good, t.kv, all, {0}, t.part}, /* FB_INT8 in rows */
    };
    cases[0].queries.num_heads = 3;
    cases[1].queries.head_dim = 9;
    cases[2].queries.q = NULL;
    cases[5].kv.dtype = (fb_dtype)7;
    cases[6].kv.k = NULL;
    cases[7].kv.num_kv_heads = 0;
    cases[10].part.lse = NULL;
    cases[11].queries.token_stride = PTRDIFF_MAX;
    cases[12].kv.dtype = FB_INT8;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fb_view view = {&cases[i].kv, &cases[i].range, 1};
        fb_status status =
            fb_attend(&cases[i].queries, &view, &cases[i].mask, 0.0f, &cases[i].part);
        cr_assert_eq(status, FB_ERROR_ARGUMENT, "%s: status %d", cases[i].named, (int)status);
        cr_assert(strstr(fb_error_message(), cases[i].named), "expected '%s' in '%s'",
                  cases[i].named, fb_error_message());
        for (size_t j = 0; j < 2 * 4 * 8; j++)
            cr_assert_eq(t.out[j], 0.0f);
    }
    trial_free(&t);
}

Test(attend, instruction_sets_are_chosen_by_name) {
    fb_isa isa = FB_ISA_SCALAR;
    cr_assert_eq(fb_isa_parse("avx2", &isa), FB_OK);
    cr_assert_eq(isa, FB_ISA_AVX2);
    cr_assert_eq(fb_isa_parse("avx3", &isa), FB_ERROR_ARGUMENT);
    cr_assert(strstr(fb_error_message(), "avx3"));
    cr_assert(fb_isa_built(FB_ISA_SCALAR) && fb_isa_supported(FB_ISA_SCALAR));
    cr_assert_eq(fb_isa_select((fb_isa)99), FB_ERROR_ARGUMENT);
    setenv("FLASHBLOCK_ISA", "scalar", 1);
    cr_assert_eq(fb_isa_current(&isa), FB_OK);
    cr_assert_eq(isa, FB_ISA_SCALAR);
}

Test(attend, an_unknown_FLASHBLOCK_ISA_is_an_error) {
    fb_isa isa = FB_ISA_SCALAR;
    setenv("FLASHBLOCK_ISA", "sse9", 1);
    cr_assert_eq(fb_isa_current(&isa), FB_ERROR_ARGUMENT);
    cr_assert(strstr(fb_error_message(), "sse9"), "%s", fb_error_message());
}

/* --- mean keys -------------------------------------------------------------------------------- */

/* With the trial's keys as its values, the output is the mean key. */
static fb_kv keys_as_values(const trial *t) {
    fb_kv kv = t->kv;
    kv.v = kv.k;
    kv.v_token_stride = kv.k_token_stride;
    kv.v_head_stride = kv.k_head_stride;
    return kv;
}

/* The mean key has the same bits as the output of attention whose values are the keys, for every
 * storage, instruction set and number of threads. Asking for it changes nothing else. */
Test(mean_key, is_the_output_whose_values_are_the_keys, .timeout = 900) {
    random_stream random = random_named(60);
    for (int round = 0; round < (test_is_sample() ? 15 : 60); round++) {
        trial t = random_trial(&random);
        size_t rows = t.queries * t.heads, values = rows * t.dim;
        float *mean = calloc(values + 1, sizeof *mean), *out = calloc(values + 1, sizeof *out);
        float *expected = calloc(values + 1, sizeof *mean), *lse = calloc(rows + 1, sizeof *lse);
        fb_part with = fb_part_rows(out, lse, t.heads, t.dim);
        fb_part by_values = fb_part_rows(expected, lse, t.heads, t.dim);
        fb_kv turned = keys_as_values(&t), paged;
        fb_kv_cache *cache = cached(&t, &paged);
        with.mean_key = mean;
        cr_assert_eq(fb_isa_select(FB_ISA_SCALAR), FB_OK);
        cr_assert_eq(fb_set_num_threads(1), FB_OK);
        trial_run(&t, &t.kv, &t.part);
        trial_run(&t, &turned, &by_values);
        for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++)
            for (int threads = 1; threads <= 3; threads++) {
                if (!fb_isa_built(isa) || !fb_isa_supported(isa))
                    continue;
                cr_assert_eq(fb_isa_select(isa), FB_OK);
                cr_assert_eq(fb_set_num_threads(threads), FB_OK);
                memset(mean, 0x55, values * sizeof *mean);
                trial_run(&t, (round + threads) % 2 ? &paged : &t.kv, &with);
                expect_same_bits("out", t.out, out, values);
                expect_same_bits("lse", t.lse, lse, rows);
                expect_same_bits("mean_key", expected, mean, values);
            }
        fb_kv_cache_destroy(cache);
        free(mean), free(out), free(expected), free(lse);
        trial_free(&t);
    }
}

/* Few units of work, many chunks, several ranges: the waves of the driver merge mean keys, too. */
Test(mean_key, merges_across_chunks_ranges_and_threads) {
    enum { HEADS = 2, DIM = 16, VALUES = 3 * HEADS * DIM };
    random_stream random = random_named(61);
    trial t = trial_new(&random, 3, HEADS, 1, DIM, 9000, FB_BF16);
    t.ranges[0] = (fb_range){7, 5000};
    t.ranges[1] = (fb_range){5100, 9000};
    float out[VALUES], lse[3 * HEADS], one[VALUES], two[VALUES], merged[VALUES];
    fb_part part = fb_part_rows(out, lse, HEADS, DIM), first = t.part, second = part;
    float first_lse[3 * HEADS], second_lse[3 * HEADS], first_out[VALUES], second_out[VALUES];
    first.out = first_out, first.lse = first_lse, first.mean_key = one;
    second.out = second_out, second.lse = second_lse, second.mean_key = two;
    t.view.num_ranges = 1;
    trial_run(&t, &t.kv, &first);
    t.ranges[0] = t.ranges[1];
    trial_run(&t, &t.kv, &second);
    fb_part sum = fb_part_rows(out, lse, HEADS, DIM);
    sum.mean_key = merged;
    cr_assert_eq(fb_merge(&first, &second, 3, HEADS, DIM, &sum), FB_OK);
    t.ranges[0] = (fb_range){7, 5000};
    t.view.num_ranges = 2;
    float again[VALUES];
    t.part.mean_key = again;
    for (int threads = 1; threads <= 8; threads++) {
        cr_assert_eq(fb_set_num_threads(threads), FB_OK);
        memset(again, 0, sizeof again);
        trial_run(&t, &t.kv, &t.part);
        expect_same_bits("out", out, t.out, VALUES);
        expect_same_bits("mean_key", merged, again, VALUES);
    }
    second.mean_key = NULL;
    cr_assert_eq(fb_merge(&first, &second, 3, HEADS, DIM, &sum), FB_ERROR_ARGUMENT);
    cr_assert(strstr(fb_error_message(), "b.mean_key"), "%s", fb_error_message());
    trial_free(&t);
}

/* The error of the mean key against the double-precision truth is within the bound of an output.
 * The mean key is the gradient of the LSE: L(q + e) - L(q) = scale * e . k up to the second
 * order. */
Test(mean_key, is_the_gradient_of_the_lse) {
    enum { HEADS = 4, DIM = 32, QUERIES = 3, ROWS = QUERIES * HEADS };
    random_stream random = random_named(62);
    trial t = trial_new(&random, QUERIES, HEADS, 2, DIM, 700, FB_F32);
    float mean[ROWS * DIM];
    t.part.mean_key = mean;
    trial_run(&t, &t.kv, &t.part);
    double truth[ROWS * DIM], lse[ROWS], moved_lse[ROWS], ignored[ROWS * DIM];
    fb_kv turned = keys_as_values(&t);
    fb_view view = {&turned, t.ranges, 1};
    fb_queries queries = fb_queries_rows(t.q, QUERIES, HEADS, DIM);
    cr_assert_eq(fb_attend_reference(&queries, &view, NULL, 0.0, truth, lse), FB_OK);
    for (size_t i = 0; i < ROWS * DIM; i++)
        cr_assert_float_eq((double)mean[i], truth[i], 2e-6, "element %zu", i);
    float *moved = malloc(ROWS * DIM * sizeof *moved);
    double predicted[ROWS] = {0}, scale = 1.0 / sqrt((double)DIM);
    for (size_t i = 0; i < ROWS * DIM; i++) {
        moved[i] = t.q[i] + 1e-3f * random_normal(&random);
        predicted[i / DIM] += scale * ((double)moved[i] - (double)t.q[i]) * truth[i];
    }
    queries.q = moved;
    cr_assert_eq(fb_attend_reference(&queries, &view, NULL, 0.0, ignored, moved_lse), FB_OK);
    for (size_t row = 0; row < ROWS; row++)
        cr_assert_float_eq(moved_lse[row] - lse[row], predicted[row], 2e-6, "row %zu: %g, %g", row,
                           moved_lse[row] - lse[row], predicted[row]);
    free(moved);
    trial_free(&t);
}

/* Without a key the mean key is 0. A NaN key makes exactly those rows NaN that see it. */
Test(mean_key, of_nothing_and_of_nan) {
    random_stream random = random_named(63);
    trial t = trial_new(&random, 6, 2, 1, 24, 40, FB_F32);
    float mean[6 * 2 * 24];
    memset(mean, 0x55, sizeof mean);
    t.part.mean_key = mean;
    ((float *)t.stored_k)[39 * 24 + 3] = NAN;
    t.mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, 2, 2, 4}; /* queries 0 and 1 see nothing */
    trial_run(&t, &t.kv, &t.part);
    for (size_t i = 0; i < 2 * 2 * 24; i++)
        cr_assert_eq(mean[i], 0.0f);
    for (size_t i = 2 * 2 * 24; i < 6 * 2 * 24; i++)
        cr_assert(!isnan(mean[i]), "element %zu sees keys 0 to 3", i);
    t.mask = (fb_mask){0};
    trial_run(&t, &t.kv, &t.part);
    for (size_t i = 0; i < 6 * 2 * 24; i++)
        cr_assert(isnan(mean[i]), "element %zu", i);
    trial_free(&t);
}

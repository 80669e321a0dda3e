/* The causal video cache, head-wise reuse, and calibration. */
#include "tests/numbers.h"
#include "tests/temporary.h"

#include <flashblock/experimental/calibration.h>
#include <flashblock/experimental/head_reuse.h>
#include <flashblock/experimental/video_cache.h>
#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS = 3, DIM = 16, ROW = HEADS * DIM, FRAME = 10, MAX_FRAMES = 64 };

/* Keys and values of every frame as they were last written, and the cache. */
typedef struct clip {
    fb_video_cache *cache;
    random_stream random;
    float *k, *v; /* [MAX_FRAMES * FRAME, HEADS, DIM] */
} clip;

static fb_video_cache_config small(size_t block, size_t sink, size_t window) {
    return (fb_video_cache_config){.num_layers = 2,
                                   .num_heads = HEADS,
                                   .head_dim = DIM,
                                   .frame_tokens = FRAME,
                                   .block_frames = block,
                                   .sink_frames = sink,
                                   .window_frames = window};
}

static clip clip_new(const fb_video_cache_config *config, uint32_t name) {
    clip c = {.random = random_named(name)};
    cr_assert_eq(fb_video_cache_create(config, &c.cache), FB_OK, "%s", fb_error_message());
    c.k = calloc(MAX_FRAMES * FRAME * ROW, sizeof *c.k);
    c.v = calloc(MAX_FRAMES * FRAME * ROW, sizeof *c.v);
    return c;
}

static void clip_free(clip *c) {
    fb_video_cache_destroy(c->cache);
    free(c->k), free(c->v);
}

/* A pass over a block: new random keys and values in both layers (the second's are minus those of
 * the first). */
static void pass_over(clip *c, size_t first, size_t frames) {
    cr_assert_eq(fb_video_cache_begin(c->cache, first, frames), FB_OK, "%s", fb_error_message());
    size_t count = frames * FRAME * ROW;
    float *k = random_floats(&c->random, count, 1.0f), *v = random_floats(&c->random, count, 1.0f);
    memcpy(c->k + first * FRAME * ROW, k, count * sizeof *k);
    memcpy(c->v + first * FRAME * ROW, v, count * sizeof *v);
    for (size_t layer = 0; layer < 2; layer++) {
        cr_assert_eq(fb_video_cache_write(c->cache, layer, k, v), FB_OK, "%s", fb_error_message());
        for (size_t i = 0; i < count; i++)
            k[i] = -k[i], v[i] = -v[i];
    }
    free(k), free(v);
}

/* Attention over everything that the current block sees equals attention over these frames of the
 * clip. */
static void expect_sees(clip *c, size_t block_first, size_t frames, const size_t (*seen)[2],
                        size_t num_seen) {
    float *q = random_floats(&c->random, 2 * ROW, 1.0f);
    float out[2][2 * ROW], lse[2][2 * HEADS];
    fb_kv kvs[HEADS];
    fb_view external[HEADS], internal[HEADS];
    fb_queries queries = fb_queries_rows(q, 2, HEADS, DIM);
    fb_part got = fb_part_rows(out[0], lse[0], HEADS, DIM);
    fb_part want = fb_part_rows(out[1], lse[1], HEADS, DIM);
    fb_block_heads views = {.external = external, .internal = internal, .num_kv_heads = HEADS};
    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = &queries;
    call.action = FB_REFRESH_ONLY;
    call.heads = &views;
    cr_assert_eq(fb_video_cache_views(c->cache, 0, kvs, external, internal), FB_OK);
    cr_assert_eq(fb_block_attend(&call, &got), FB_OK, "%s", fb_error_message());
    fb_range ranges[8];
    for (size_t i = 0; i < num_seen; i++)
        ranges[i] = (fb_range){seen[i][0] * FRAME, seen[i][1] * FRAME};
    ranges[num_seen] = (fb_range){block_first * FRAME, (block_first + frames) * FRAME};
    fb_kv all = fb_kv_rows(FB_F32, c->k, c->v, MAX_FRAMES * FRAME, HEADS, DIM);
    fb_view view = {&all, ranges, num_seen + 1};
    cr_assert_eq(fb_attend(&queries, &view, NULL, 0.0f, &want), FB_OK, "%s", fb_error_message());
    expect_same_bits("out", out[1], out[0], 2 * ROW);
    expect_same_bits("lse", lse[1], lse[0], 2 * HEADS);
    free(q);
}

Test(video_cache, sink_and_window_roll) {
    fb_video_cache_config config = small(3, 3, 12);
    clip c = clip_new(&config, 80);
    for (size_t block = 0; block < 9; block++) {
        for (size_t step = 0; step < 3; step++)
            pass_over(&c, 3 * block, 3);
        const fb_video_placement *p = fb_video_cache_placement(c.cache);
        cr_expect_eq(p->recomputes, block > 0);
        cr_expect_eq(fb_video_cache_held(c.cache), (block < 4 ? block + 1 : 4) * 3 * FRAME);
        cr_expect_eq(fb_video_cache_has_history(c.cache), block > 0);
        size_t seen[3][2], count = 0;
        for (size_t b = 0; b < block; b++) /* the first block, and the two before this one */
            if (b == 0 || b + 2 >= block)
                seen[count][0] = 3 * b, seen[count++][1] = 3 * b + 3;
        cr_expect_eq(fb_video_cache_num_external(c.cache), count * 3 * FRAME);
        cr_expect_eq(fb_video_cache_num_internal(c.cache), 3u * FRAME);
        expect_sees(&c, 3 * block, 3, (const size_t(*)[2])seen, count);
    }
    clip_free(&c);
}

/* Frames leave one by one: a block may be split by the sink's end, and by the window's. */
Test(video_cache, blocks_are_split_by_sink_and_window) {
    fb_video_cache_config config = small(2, 1, 8);
    config.attended_frames = 4;
    clip c = clip_new(&config, 81);
    for (size_t block = 0; block < 12; block++) {
        pass_over(&c, 2 * block, 2);
        pass_over(&c, 2 * block, 2);
        size_t seen[2][2] = {{0, 1}, {2 * block - 1, 2 * block}}; /* 1 + 1 + 2 frames */
        if (block > 1)
            expect_sees(&c, 2 * block, 2, (const size_t(*)[2])seen, 2);
        size_t held = fb_video_cache_held(c.cache), behind = held - FRAME;
        float *k = calloc(held * ROW, sizeof *k), *v = calloc(held * ROW, sizeof *v);
        cr_assert_eq(fb_video_cache_read(c.cache, 0, k, v), FB_OK);
        expect_same_bits("sink", c.k, k, FRAME * ROW);
        expect_same_bits("window", c.v + ((2 * block + 2) * FRAME - behind) * ROW, v + FRAME * ROW,
                         behind * ROW);
        free(k), free(v);
    }
    clip_free(&c);
}

Test(video_cache, a_block_may_be_shorter_and_computed_again) {
    fb_video_cache_config config = small(3, 2, 9);
    clip c = clip_new(&config, 82);
    pass_over(&c, 0, 3);
    pass_over(&c, 3, 2);
    pass_over(&c, 5, 3);
    pass_over(&c, 3, 2); /* an earlier one */
    uint64_t context = fb_video_cache_context(c.cache);
    expect_sees(&c, 3, 2, (const size_t[][2]){{0, 2}, {2, 3}}, 2);
    pass_over(&c, 3, 2);
    cr_expect_eq(fb_video_cache_context(c.cache), context);
    pass_over(&c, 5, 3);
    cr_expect_neq(fb_video_cache_context(c.cache), context);
    pass_over(&c, 8, 3); /* evicts frames 2 and 3 */
    expect_sees(&c, 8, 3, (const size_t[][2]){{0, 2}, {4, 5}, {5, 8}}, 3);
    cr_expect_eq(fb_video_cache_begin(c.cache, 3, 2), FB_ERROR_ARGUMENT);
    cr_expect(strstr(fb_error_message(), "window begins at frame 4"), "%s", fb_error_message());
    clip_free(&c);
}

/* A sink of three blocks. The paper's code keeps the noisy keys of the first pass in it, and counts
 * the empty places as zeros. Neither is intended, and neither is done here. */
Test(video_cache, a_sink_longer_than_a_block) {
    fb_video_cache_config config = small(1, 3, 6);
    clip paper = clip_new(&config, 83);
    config.compat = FB_COMPAT_RELEASED;
    clip released = clip_new(&config, 83);
    pass_over(&paper, 0, 1), pass_over(&released, 0, 1);
    cr_expect_eq(fb_video_cache_num_external(paper.cache), 0);
    cr_expect_eq(fb_video_cache_num_external(released.cache), 2u * FRAME);
    pass_over(&paper, 1, 1), pass_over(&released, 1, 1);
    float *noisy = malloc(FRAME * ROW * sizeof *noisy);
    memcpy(noisy, released.k + FRAME * ROW, FRAME * ROW * sizeof *noisy);
    pass_over(&paper, 1, 1), pass_over(&released, 1, 1);
    float k[2 * FRAME * ROW];
    cr_assert_eq(fb_video_cache_read(paper.cache, 0, k, NULL), FB_OK);
    expect_same_bits("paper", paper.k, k, 2 * FRAME * ROW);
    cr_assert_eq(fb_video_cache_read(released.cache, 0, k, NULL), FB_OK);
    expect_same_bits("released", noisy, k + FRAME * ROW, FRAME * ROW);
    expect_sees(&paper, 1, 1, (const size_t[][2]){{0, 1}}, 1);
    free(noisy);
    clip_free(&paper), clip_free(&released);
}

Test(video_cache, says_what_is_wrong) {
    static const struct {
        size_t block, sink, window, attended;
        const char *says;
    } wrong[] = {
        {3, 0, 2, 0, "less than a block of 3"},
        {3, 13, 12, 0, "sink_frames is 13, more than the window"},
        {3, 10, 12, 0, "the 10 of the sink"},
        {3, 3, 12, 5, "attended_frames is 5"},
        {3, 3, 12, 13, "attended_frames is 13"},
        {0, 3, 12, 0, "blocks of 0 frames"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        fb_video_cache_config config = small(wrong[i].block, wrong[i].sink, wrong[i].window);
        config.attended_frames = wrong[i].attended;
        fb_video_cache *cache = NULL;
        cr_expect_eq(fb_video_cache_create(&config, &cache), FB_ERROR_ARGUMENT);
        cr_expect(strstr(fb_error_message(), wrong[i].says), "%s", fb_error_message());
        cr_expect_null(cache);
    }
    fb_video_cache_config config = small(3, 3, 12);
    clip c = clip_new(&config, 84);
    float x = 0.0f;
    cr_expect_eq(fb_video_cache_write(c.cache, 0, &x, &x), FB_ERROR_ARGUMENT, "no block yet");
    cr_expect_eq(fb_video_cache_begin(c.cache, 3, 3), FB_ERROR_ARGUMENT, "a gap");
    cr_expect_eq(fb_video_cache_begin(c.cache, 0, 4), FB_ERROR_ARGUMENT, "a long block");
    pass_over(&c, 0, 3);
    cr_expect_eq(fb_video_cache_begin(c.cache, 2, 3), FB_ERROR_ARGUMENT, "half new");
    clip_free(&c);
}

/* --- head-wise reuse -------------------------------------------------------------------------- */

enum { ROWS = 5, GROUP_HEADS = 4, GROUPS = 2, KEYS = 90, WIDE = GROUP_HEADS * GROUPS * DIM };

/* Queries, and keys of which the first ones are external, as float32 rows or in a cache. */
typedef struct problem {
    float *q, *k, *v;
    fb_kv_cache *cache;
    fb_kv kv, heads[GROUPS];
    fb_range external_range, internal_range;
    fb_view external[GROUPS], internal[GROUPS];
    fb_queries queries;
} problem;

static void write_keys(problem *p) {
    if (p->cache)
        cr_assert_eq(fb_kv_cache_write(p->cache, 0, 0, KEYS, p->k, p->v), FB_OK, "%s",
                     fb_error_message());
}

static void problem_init(problem *p, random_stream *random, fb_dtype dtype) {
    p->q = random_floats(random, ROWS * WIDE, 1.0f);
    p->k = random_floats(random, KEYS * GROUPS * DIM, 1.0f);
    p->v = random_floats(random, KEYS * GROUPS * DIM, 1.0f);
    p->cache = NULL;
    p->kv = fb_kv_rows(FB_F32, p->k, p->v, KEYS, GROUPS, DIM);
    if (dtype != FB_F32) {
        fb_kv_cache_config config = {1, GROUPS, DIM, dtype};
        cr_assert_eq(fb_kv_cache_create(&config, &p->cache), FB_OK, "%s", fb_error_message());
        write_keys(p);
        cr_assert_eq(fb_kv_cache_layer(p->cache, 0, &p->kv), FB_OK);
    }
    p->external_range = (fb_range){0, KEYS - ROWS};
    p->internal_range = (fb_range){KEYS - ROWS, KEYS};
    for (size_t g = 0; g < GROUPS; g++) {
        p->heads[g] = fb_kv_heads(&p->kv, g, 1);
        p->external[g] = (fb_view){&p->heads[g], &p->external_range, 1};
        p->internal[g] = (fb_view){&p->heads[g], &p->internal_range, 1};
    }
    p->queries = fb_queries_rows(p->q, ROWS, GROUPS * GROUP_HEADS, DIM);
}

static void problem_free(problem *p) {
    free(p->q), free(p->k), free(p->v);
    fb_kv_cache_destroy(p->cache);
}

static void dense(const problem *p, float *out, float *lse) {
    fb_range ranges[] = {p->external_range, p->internal_range};
    fb_view view = {&p->kv, ranges, 2};
    fb_part part = fb_part_rows(out, lse, GROUPS * GROUP_HEADS, DIM);
    cr_assert_eq(fb_attend(&p->queries, &view, NULL, 0.0f, &part), FB_OK);
}

static fb_status attend(fb_part_cache *parts, uint64_t context, const problem *p,
                        const bool *refresh, float *out, float *lse) {
    fb_part part = fb_part_rows(out, lse, GROUPS * GROUP_HEADS, DIM);
    fb_block_heads views = {.external = p->external,
                            .internal = p->internal,
                            .num_kv_heads = GROUPS,
                            .context = context,
                            .refresh = refresh};
    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = &p->queries;
    call.action = refresh ? FB_REFRESH_HEADS : parts ? FB_REFRESH_AND_STORE : FB_REFRESH_ONLY;
    call.parts = parts;
    call.heads = &views;
    return fb_block_attend(&call, &part);
}

/* Heads that refresh are dense, bit for bit. Heads that reuse merge the external part of the first
 * problem with the internal part of the second. The external keys of a reusing group are poisoned,
 * because nothing may read them. */
static void expect_heads_to_refresh_or_reuse(fb_dtype dtype) {
    static const bool refresh[] = {1, 0, 0, 1, 0, 0, 0, 0};
    enum { N = GROUPS * GROUP_HEADS };
    random_stream random = random_named(90);
    problem first, second;
    problem_init(&first, &random, dtype), problem_init(&second, &random, dtype);
    static float out[ROWS * WIDE], lse[ROWS * N], want[ROWS * WIDE], want_lse[ROWS * N];
    static float kept[ROWS * WIDE], kept_lse[ROWS * N], inner[ROWS * WIDE], inner_lse[ROWS * N];
    fb_part_cache *parts = NULL;
    cr_assert_eq(fb_part_cache_create(1, ROWS, N, DIM, &parts), FB_OK);
    cr_assert_eq(attend(parts, 7, &first, refresh, out, lse), FB_ERROR_STALE, "nothing is kept");
    cr_assert_eq(attend(parts, 7, &first, NULL, out, lse), FB_OK, "%s", fb_error_message());
    dense(&first, want, want_lse);
    expect_same_bits("all refresh", want, out, ROWS * WIDE);
    expect_same_bits("all refresh, lse", want_lse, lse, ROWS * N);

    fb_part a = fb_part_rows(kept, kept_lse, N, DIM), b = fb_part_rows(inner, inner_lse, N, DIM);
    fb_view external = {&first.kv, &first.external_range, 1};
    fb_view internal = {&second.kv, &second.internal_range, 1};
    fb_part merged = fb_part_rows(kept, kept_lse, N, DIM);
    cr_assert_eq(fb_attend(&first.queries, &external, NULL, 0.0f, &a), FB_OK);
    cr_assert_eq(fb_attend(&second.queries, &internal, NULL, 0.0f, &b), FB_OK);
    cr_assert_eq(fb_merge(&a, &b, ROWS, N, DIM, &merged), FB_OK);
    dense(&second, want, want_lse);
    for (size_t t = 0; t < second.external_range.end; t++) /* all of the second group reuses */
        second.k[(t * GROUPS + 1) * DIM] = NAN;
    write_keys(&second);
    cr_assert_eq(attend(parts, 7, &second, refresh, out, lse), FB_OK, "%s", fb_error_message());
    for (size_t i = 0; i < ROWS * N; i++) {
        const float *from = refresh[i % N] ? want : kept;
        expect_same_bits(refresh[i % N] ? "refresh" : "reuse", from + i * DIM, out + i * DIM, DIM);
        expect_same_bits("lse", (refresh[i % N] ? want_lse : kept_lse) + i, lse + i, 1);
    }
    cr_expect_eq(attend(parts, 8, &second, refresh, out, lse), FB_ERROR_STALE, "another context");
    fb_part_cache_invalidate(parts);
    cr_expect_eq(attend(parts, 7, &second, refresh, out, lse), FB_ERROR_STALE, "invalidated");
    fb_part_cache_destroy(parts);
    problem_free(&first), problem_free(&second);
}

Test(head_reuse, some_heads_refresh_the_others_reuse) {
    expect_heads_to_refresh_or_reuse(FB_F32);
    expect_heads_to_refresh_or_reuse(FB_INT8);
}

Test(head_reuse, says_what_is_wrong) {
    random_stream random = random_named(91);
    problem p;
    problem_init(&p, &random, FB_F32);
    float out[ROWS * WIDE], lse[ROWS * GROUPS * GROUP_HEADS];
    bool reuse[GROUPS * GROUP_HEADS] = {0};
    fb_part_cache *parts = NULL;
    cr_assert_eq(fb_part_cache_create(1, ROWS - 1, GROUPS * GROUP_HEADS, DIM, &parts), FB_OK);
    cr_expect_eq(attend(parts, 1, &p, NULL, out, lse), FB_ERROR_ARGUMENT, "too many rows");
    cr_expect_eq(attend(parts, 0, &p, NULL, out, lse), FB_ERROR_ARGUMENT, "no context");
    cr_expect_eq(attend(NULL, 1, &p, reuse, out, lse), FB_ERROR_ARGUMENT, "nothing to reuse");
    p.external[1].kv = &p.kv;
    cr_expect_eq(attend(NULL, 1, &p, NULL, out, lse), FB_ERROR_ARGUMENT, "two heads in a view");
    cr_expect_eq(fb_part_cache_create(0, 1, 1, 1, &parts), FB_ERROR_ARGUMENT);
    fb_part_cache_destroy(parts);
    problem_free(&p);
}

/* --- calibration ------------------------------------------------------------------------------ */

/* Head 0 keeps its direction, head 1 turns by a right angle at each step, head 2 keeps it while its
 * LSE moves by 0.1 a step. */
static void observe_step(fb_calibration *c, size_t layer, size_t step, fb_head_changes *changes) {
    static const float turns[4][2] = {{1, 0}, {0, 1}, {-1, 0}, {0, -1}};
    float out[2][3 * 2] = {{0}}, lse[2][3] = {{0}};
    fb_part parts[2];
    for (size_t s = 0; s < 2; s++) {
        out[s][0] = 2.0f, out[s][4] = 1.0f;
        memcpy(out[s] + 2, turns[step % 4], sizeof turns[0]);
        lse[s][2] = 0.1f * (float)step;
        parts[s] = fb_part_rows(out[s], lse[s], 3, 2);
    }
    cr_assert_eq(fb_calibration_observe(c, layer, step, parts, parts, 2, 1, 2, changes), FB_OK,
                 "%s", fb_error_message());
}

static fb_calibration *calibration_new(double lse_threshold) {
    fb_calibration_config config;
    fb_calibration_config_init(&config);
    config.num_layers = 2;
    config.num_heads = 3;
    config.num_steps = 3;
    config.lse_threshold = lse_threshold;
    fb_calibration *c = NULL;
    cr_assert_eq(fb_calibration_create(&config, &c), FB_OK, "%s", fb_error_message());
    return c;
}

/* A head that refreshes is compared with its last step, the others with the first step. */
Test(calibration, compares_with_what_reuse_would_hold) {
    fb_calibration *c = calibration_new(0.15);
    double similarity[3], change[3];
    bool refresh[3];
    fb_head_changes changes = {similarity, change, NULL, refresh};
    for (size_t step = 0; step < 3; step++)
        observe_step(c, 1, step, &changes);
    cr_expect_float_eq(similarity[0], 1.0, 1e-9);
    cr_expect_float_eq(similarity[1], 0.0, 1e-9, "it refreshed at step 1: a right angle again");
    cr_expect_float_eq(fb_calibration_internal_similarity(c, 1, 2, 1), -1.0, 1e-9,
                       "internal parts are compared with step 0's");
    cr_expect_float_eq(change[2], 0.2, 1e-6, "0.1 was below the threshold");
    const bool *decided = fb_calibration_refresh(c, 1, 2);
    cr_expect(!decided[0] && decided[1] && decided[2]);
    cr_expect(fb_calibration_refresh(c, 1, 0)[0], "step 0 refreshes");
    cr_expect(fb_calibration_refresh(c, 0, 1)[0], "a layer that was not observed refreshes");
    cr_expect_null(fb_calibration_refresh(c, 2, 1));
    cr_expect_eq(fb_calibration_save(c, "/dev/null"), FB_ERROR_ARGUMENT, "layer 0 saw nothing");
    fb_calibration_destroy(c);
}

Test(calibration, released_rounds_lses_to_bf16) {
    fb_calibration_config config;
    fb_calibration_config_init(&config);
    config.num_layers = 1;
    config.num_heads = 1;
    config.num_steps = 2;
    for (fb_compat compat = FB_COMPAT_PAPER; compat <= FB_COMPAT_RELEASED; compat++) {
        fb_calibration *c = NULL;
        config.compat = compat;
        cr_assert_eq(fb_calibration_create(&config, &c), FB_OK);
        float out = 1.0f, lses[] = {10.0f, 10.02f}; /* bf16 has 10 and 10.0625 */
        for (size_t step = 0; step < 2; step++) {
            fb_part part = fb_part_rows(&out, &lses[step], 1, 1);
            cr_assert_eq(fb_calibration_observe(c, 0, step, &part, NULL, 1, 1, 1, NULL), FB_OK);
        }
        cr_expect_float_eq(fb_calibration_lse_change(c, 0, 1, 0),
                           compat == FB_COMPAT_PAPER ? 0.02 : 0.0, 1e-6);
        fb_calibration_destroy(c);
    }
}

Test(calibration, what_is_loaded_is_what_was_saved) {
    fb_calibration *c = calibration_new(0.05), *loaded = NULL;
    const char *path = temporary_path("calibration.json");
    for (size_t step = 0; step < 3; step++)
        for (size_t layer = 0; layer < 2; layer++)
            observe_step(c, layer, step, NULL);
    cr_assert_eq(fb_calibration_save(c, path), FB_OK, "%s", fb_error_message());
    cr_assert_eq(fb_calibration_load(path, &loaded), FB_OK, "%s", fb_error_message());
    cr_expect_eq(fb_calibration_blocks(loaded), 1);
    for (size_t i = 0; i < 2 * 2 * 3; i++) {
        size_t step = 1 + i / 6, layer = i / 3 % 2, head = i % 3;
        cr_expect_eq(fb_calibration_similarity(c, layer, step, head),
                     fb_calibration_similarity(loaded, layer, step, head));
        cr_expect_eq(fb_calibration_lse_change(c, layer, step, head),
                     fb_calibration_lse_change(loaded, layer, step, head));
        cr_expect_eq(fb_calibration_refresh(c, layer, step)[head],
                     fb_calibration_refresh(loaded, layer, step)[head]);
    }
    cr_expect_eq(fb_calibration_reused_share(c), fb_calibration_reused_share(loaded));
    fb_calibration_destroy(c), fb_calibration_destroy(loaded);
}

Test(calibration, thresholds_are_checked) {
    fb_calibration *c = NULL;
    fb_calibration_config config;
    fb_calibration_config_init(&config);
    config.num_layers = 1;
    config.num_heads = 1;
    config.num_steps = 5;
    config.similarity_threshold = 1.5;
    cr_expect_eq(fb_calibration_create(&config, &c), FB_ERROR_ARGUMENT);
    fb_calibration_config_init(&config);
    config.num_layers = 1;
    config.num_heads = 1;
    config.num_steps = 5;
    config.step_thresholds[3] = -2.0;
    cr_expect_eq(fb_calibration_create(&config, &c), FB_ERROR_ARGUMENT);
    cr_expect(strstr(fb_error_message(), "step 3"), "%s", fb_error_message());
    fb_calibration_config_init(&config);
    config.num_layers = 1;
    config.num_heads = 1;
    config.num_steps = 5;
    config.lse_threshold = -0.1;
    cr_expect_eq(fb_calibration_create(&config, &c), FB_ERROR_ARGUMENT);
    fb_calibration_config_init(&config);
    config.num_layers = 1;
    config.num_heads = 1;
    config.num_steps = 1;
    cr_expect_eq(fb_calibration_create(&config, &c), FB_ERROR_ARGUMENT);
    cr_expect_null(c);
}

Test(calibration, hostile_files) {
    static const char head[] = "{\"format\": \"flashblock-calibration\", \"version\": 1, "
                               "\"num_layers\": 1, \"num_heads\": 1, \"num_steps\": 2, "
                               "\"compat\": \"paper\", \"similarity_threshold\": 0.85, "
                               "\"similarity_threshold_by_step\": [null], "
                               "\"lse_threshold\": 0.05, \"blocks\": 1, ";
    static const struct {
        const char *text, *says;
    } files[] = {
        {"{}", "format"},
        {"{\"format\": \"other\"}", "format is 'other'"},
        {"{\"format\": \"flashblock-calibration\", \"version\": 2}", "version is 2"},
        {"%s\"similarity\": [[[2.0]]]}", "similarity[0][0][0] is out of range"},
        {"%s\"similarity\": [[[0.9, 0.9]]]}", "does not have 1 heads"},
        {"%s\"similarity\": [[0.9]]}", "does not have 1 heads"},
        {"%s\"similarity\": []}", "does not have 1 steps"},
        {"%s\"similarity\": [[[0.9]]], \"lse_change\": [[[-1]]]}", "lse_change[0][0][0]"},
        {"%s\"similarity\": [[[0.9]]], \"lse_change\": [[[0.1]]], \"internal_similarity\": "
         "[[[null]]], \"refresh\": [[[0]]]}",
         "say otherwise"},
        {"%s\"similarity\": [[[0.9]]], \"simliarity_threshold\": 0.5}",
         "'simliarity_threshold' is not known; did you mean 'similarity_threshold'?"},
        {"%s\"similarity\": [[[0.9]]], \"notes\": \"x\"}", "'notes' is not known"},
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        const char *path = temporary_path("hostile.json");
        fb_calibration *c = NULL;
        FILE *file = fopen(path, "w");
        if (strncmp(files[i].text, "%s", 2) == 0)
            fprintf(file, "%s%s", head, files[i].text + 2);
        else
            fputs(files[i].text, file);
        fclose(file);
        fb_status status = fb_calibration_load(path, &c);
        cr_expect(status == FB_ERROR_FORMAT || status == FB_ERROR_UNSUPPORTED, "%zu: %d", i,
                  (int)status);
        cr_expect(strstr(fb_error_message(), files[i].says), "%zu: %s", i, fb_error_message());
        cr_expect_null(c);
    }
}

/* The model against the paper's SDARForCausalLM, and what must not change a bit of its logits. */
#include "golden_case.h"
#include "golden_list.h"
#include "numbers.h"
#include "tiny_model.h"

#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Logits have a standard deviation of 4.5; hidden states and keys are of magnitude 10. */
static const double logits_tolerance = 3e-4, hidden_tolerance = 5e-5, part_tolerance = 5e-5;

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

/* --- golden logits ---------------------------------------------------------------------------- */

typedef struct session {
    golden_case *c;
    fb_model *model;
    const fb_model_config *config;
    fb_kv_cache *kv;
    fb_part_cache *parts;
    size_t prompt, block; /* tokens */
    float *logits, *other, *hidden;
} session;

static session open_session(golden_case *c) {
    char directory[4096];
    snprintf(directory, sizeof directory, "%s/%s", golden_folder(), golden_text(c, "model"));
    session s = {.c = c, .prompt = golden_size(c, "P"), .block = golden_size(c, "L")};
    s.model = load(directory);
    s.config = fb_model_get_config(s.model);
    cr_assert_eq(s.config->block_size, s.block);
    cr_assert_eq((size_t)s.config->mask_token_id, golden_size(c, "mask_id"));
    EXPECT_OK(fb_model_new_kv_cache(s.model, FB_F32, &s.kv));
    EXPECT_OK(fb_model_new_part_cache(s.model, s.block, &s.parts));
    s.logits = floats(s.prompt * s.config->vocab_size);
    s.other = floats(s.block * s.config->vocab_size);
    s.hidden = floats((s.config->num_hidden_layers + 1) * s.prompt * s.config->hidden_size);
    return s;
}

static void close_session(session *s) {
    free(s->logits);
    free(s->other);
    free(s->hidden);
    fb_part_cache_destroy(s->parts);
    fb_kv_cache_destroy(s->kv);
    fb_model_destroy(s->model);
}

static void expect_close(const session *s, const char *what, const float *got, const float *want,
                         size_t count, double tolerance) {
    char name[300];
    snprintf(name, sizeof name, "%s: %s", golden_name(s->c), what);
    cr_log_info("%s: off by %.2e", name, golden_expect_close(name, got, want, count, tolerance));
}

static void run(session *s, const int32_t *tokens, size_t num_tokens, size_t prefill_block,
                fb_reuse_action action, float *logits) {
    fb_forward forward = {.tokens = tokens,
                          .num_tokens = num_tokens,
                          .kv = s->kv,
                          .prefill_block = prefill_block,
                          .action = action,
                          .parts = s->parts,
                          .logits = logits,
                          .hidden = prefill_block ? s->hidden : NULL};
    EXPECT_OK(fb_model_forward(s->model, &forward, 1, NULL));
}

static void check_prefill(session *s) {
    size_t hidden = s->config->hidden_size, layers = s->config->num_hidden_layers;
    run(s, golden_i32(s->c, "prompt"), s->prompt, s->block, FB_REFRESH_ONLY, s->logits);
    expect_close(s, "prefill_logits", s->logits, golden_f32(s->c, "prefill_logits"),
                 s->prompt * s->config->vocab_size, logits_tolerance);
    for (size_t i = 0; i <= layers; i++)
        expect_close(s, "prefill_hidden", s->hidden + i * s->prompt * hidden,
                     golden_f32(s->c, "prefill_hidden.%zu", i), s->prompt * hidden,
                     hidden_tolerance);
    EXPECT_OK(fb_kv_cache_commit(s->kv, s->prompt));
}

/* hist_out [layers, 1, L, heads, head_dim], hist_lse [layers, 1, L, heads, 1] */
static void check_parts(session *s) {
    size_t rows = s->block * s->config->num_attention_heads, dim = s->config->head_dim;
    for (size_t layer = 0; layer < s->config->num_hidden_layers; layer++) {
        fb_part part;
        EXPECT_OK(fb_part_cache_load(s->parts, layer, s->kv, FB_COMPAT_PAPER, &part));
        expect_close(s, "hist_out", part.out, golden_f32(s->c, "hist_out") + layer * rows * dim,
                     rows * dim, part_tolerance);
        expect_close(s, "hist_lse", part.lse, golden_f32(s->c, "hist_lse") + layer * rows, rows,
                     part_tolerance);
    }
}

/* Each step dense, then refreshed (the first) or reused. */
static void check_step(session *s, size_t step) {
    const int32_t *tokens = golden_i32(s->c, "step%zu.tokens", step);
    size_t count = s->block * s->config->vocab_size;
    run(s, tokens, s->block, 0, FB_REFRESH_ONLY, s->logits);
    expect_close(s, "logits_dense", s->logits, golden_f32(s->c, "step%zu.logits_dense", step),
                 count, logits_tolerance);
    run(s, tokens, s->block, 0, step == 0 ? FB_REFRESH_AND_STORE : FB_REUSE, s->other);
    if (step == 0) {
        expect_same_bits("a refresh is dense", s->other, s->logits, count);
        expect_close(s, "logits_refresh", s->other, golden_f32(s->c, "step0.logits_refresh"), count,
                     logits_tolerance);
        check_parts(s);
    } else {
        expect_close(s, "logits_reuse", s->other, golden_f32(s->c, "step%zu.logits_reuse", step),
                     count, logits_tolerance);
    }
}

static void check_commit(session *s) {
    run(s, golden_i32(s->c, "block_tokens"), s->block, 0, FB_REFRESH_ONLY, s->logits);
    expect_close(s, "commit_logits", s->logits, golden_f32(s->c, "commit_logits"),
                 s->block * s->config->vocab_size, logits_tolerance);
    EXPECT_OK(fb_kv_cache_commit(s->kv, s->block));
    cr_assert_not(fb_part_cache_is_fresh(s->parts, 0, s->kv));
}

/* kv.k, kv.v  [layers, kv_heads, P + L, head_dim]; ours is [P + L, kv_heads, head_dim]. */
static void check_kv(session *s) {
    size_t tokens = s->prompt + s->block, heads = s->config->num_key_value_heads;
    size_t dim = s->config->head_dim, values = tokens * heads * dim;
    const float *want[2] = {golden_f32(s->c, "kv.k"), golden_f32(s->c, "kv.v")};
    float *got[2] = {floats(values), floats(values)};
    for (size_t layer = 0; layer < s->config->num_hidden_layers; layer++) {
        EXPECT_OK(fb_kv_cache_read(s->kv, layer, 0, tokens, got[0], got[1]));
        for (size_t i = 0; i < 2 * heads * tokens; i++) {
            size_t which = i % 2, token = i / 2 % tokens, head = i / 2 / tokens;
            golden_expect_close(which ? "kv.v" : "kv.k", got[which] + (token * heads + head) * dim,
                                want[which] + ((layer * heads + head) * tokens + token) * dim, dim,
                                part_tolerance);
        }
    }
    free(got[0]);
    free(got[1]);
}

GOLDEN_TEST(model, golden_logits, "model", "") {
    session s = open_session(c);
    check_prefill(&s);
    for (size_t step = 0; golden_has(c, "step%zu.tokens", step); step++)
        check_step(&s, step);
    check_commit(&s);
    check_kv(&s);
    close_session(&s);
}

Test(model, golden_cases_are_there) {
    cr_assert_gt(golden_count("model", ""), 0, "%s/model holds none", golden_folder());
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
    batch b = {.model = model, .count = count, .vocab = fb_model_get_config(model)->vocab_size};
    b.logits = floats(count * BLOCK * b.vocab);
    int32_t tokens[4][PROMPT + 4 * BLOCK];
    fb_forward forwards[4];
    for (size_t i = 0; i < count; i++) {
        EXPECT_OK(fb_model_new_kv_cache(model, FB_F32, &b.kv[i]));
        EXPECT_OK(fb_model_new_part_cache(model, BLOCK, &b.parts[i]));
        size_t num_tokens = PROMPT + BLOCK * (first_name + i);
        for (size_t t = 0; t < num_tokens; t++)
            tokens[i][t] = token_of(&b, first_name + i, t);
        forwards[i] = (fb_forward){
            .tokens = tokens[i], .num_tokens = num_tokens, .kv = b.kv[i], .prefill_block = BLOCK};
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

/* Only the second of three sequences wants logits: they are its own. */
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
            forwards[i] = (fb_forward){.tokens = tokens, .num_tokens = BLOCK, .kv = b.kv[i]};
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

/* Positions and masks are right when a prompt comes in chunks. (OpenBLAS rounds products of other
 * heights differently, so bits may differ.) */
Test(model, prefill_in_chunks) {
    fb_model *model = load(tiny_model_write(&tiny_model_large));
    size_t vocab = fb_model_get_config(model)->vocab_size;
    int32_t tokens[PROMPT];
    for (size_t t = 0; t < PROMPT; t++)
        tokens[t] = (int32_t)((t * t + 3) % vocab);
    float *whole = floats(PROMPT * vocab), *chunks = floats(PROMPT * vocab);
    fb_kv_cache *kv = NULL;
    EXPECT_OK(fb_model_new_kv_cache(model, FB_F32, &kv));
    fb_forward all = {.tokens = tokens, .num_tokens = PROMPT, .kv = kv, .prefill_block = BLOCK};
    all.logits = whole;
    EXPECT_OK(fb_model_forward(model, &all, 1, NULL));
    for (size_t done = 0, size = BLOCK; done < PROMPT; done += size) {
        size = done % 3 ? 2 * BLOCK : BLOCK;
        size = size < PROMPT - done ? size : PROMPT - done;
        fb_forward chunk = {.tokens = tokens + done, .num_tokens = size, .kv = kv};
        chunk.prefill_block = BLOCK;
        chunk.logits = chunks + done * vocab;
        EXPECT_OK(fb_model_forward(model, &chunk, 1, NULL));
        EXPECT_OK(fb_kv_cache_commit(kv, size));
    }
    golden_expect_close("chunks", chunks, whole, PROMPT * vocab, logits_tolerance);
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
    fb_forward forward = {.tokens = tokens, .num_tokens = BLOCK, .kv = b.kv[0]};
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
    size_t vocab = fb_model_get_config(model)->vocab_size;
    batch b = run_batch(model, 0, 2, FB_REFRESH_ONLY);
    int32_t tokens[BLOCK] = {1, 2, 3, 4}, high[2] = {1, (int32_t)vocab}, low[2] = {1, -1};
    float *logits = floats(BLOCK * vocab);
    logits[0] = 42.0f;
    fb_forward good = {.tokens = tokens, .num_tokens = BLOCK, .kv = b.kv[0], .logits = logits};
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
    f = good;
    f.prefill_block = 5;
    expect_failure(model, &f, 1, FB_ERROR_ARGUMENT, "inside a block of 5");
    fb_forward twice[2] = {good, good};
    expect_failure(model, twice, 2, FB_ERROR_ARGUMENT, "share a cache");
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
    fb_forward f = {.tokens = tokens, .num_tokens = BLOCK, .kv = b.kv[0], .parts = b.parts[0]};
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

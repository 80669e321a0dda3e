/* Decoding loops of other models: what must not change a token, FlashBlock's reuse in each of them,
 * blocks that would never end, options that are wrong. (test_golden.c compares with traces of their
 * own code.) */
#include "decode/generate_options.h"
#include "decode/loop.h"
#include "io/json.h"
#include "study/trace.h"
#include "tests/golden_case.h"
#include "tests/numbers.h"
#include "tests/temporary.h"

#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPECT_OK(call) cr_assert_eq((call), FB_OK, "%s", fb_error_message())

enum { MASK = 95, MAX_PROMPT = 40 };

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

static fb_generate_options options_of(const loop_case *c, size_t tau) {
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
    return o;
}

typedef struct prompts {
    fb_prompt list[3];
    int32_t tokens[3][MAX_PROMPT];
} prompts;

static void make_prompts(prompts *p) {
    static const size_t lengths[3] = {5, 16, 27};
    for (size_t i = 0; i < 3; i++) {
        for (size_t j = 0; j < lengths[i]; j++)
            p->tokens[i][j] = (int32_t)((i + 2) * (j + 5) * 7919 % 90);
        p->list[i] = (fb_prompt){p->tokens[i], lengths[i]};
    }
}

static fb_generation *generate(fb_model *model, const fb_prompt *list, size_t count,
                               const fb_generate_options *options) {
    fb_generation *generation = NULL;
    EXPECT_OK(fb_generate(model, list, count, options, &generation));
    return generation;
}

static void expect_same(const char *what, const fb_generate_result *a,
                        const fb_generate_result *b) {
    cr_assert_eq(a->num_tokens, b->num_tokens, "%s: %zu and %zu tokens", what, a->num_tokens,
                 b->num_tokens);
    for (size_t i = 0; i < a->num_tokens; i++)
        cr_assert(a->tokens[i] == b->tokens[i] && a->unmask_step[i] == b->unmask_step[i],
                  "%s: token %zu is %d at step %d, and %d at step %d", what, i, a->tokens[i],
                  a->unmask_step[i], b->tokens[i], b->unmask_step[i]);
    cr_assert_eq(a->finish_reason, b->finish_reason, "%s", what);
}

Test(loops, batch_and_threads_change_no_token) {
    prompts p;
    make_prompts(&p);
    for (size_t i = 0; i < NUM_LOOPS; i++) {
        fb_model *model = load(loops[i].model);
        fb_generate_options o = options_of(&loops[i], 2);
        EXPECT_OK(fb_set_num_threads(3));
        fb_generation *together = generate(model, p.list, 3, &o);
        EXPECT_OK(fb_set_num_threads(1));
        for (size_t j = 0; j < 3; j++) {
            fb_generation *alone = generate(model, &p.list[j], 1, &o);
            expect_same(loops[i].model, fb_generation_result(alone, 0),
                        fb_generation_result(together, j));
            fb_generation_destroy(alone);
        }
        o.prefill_chunk = 8; /* other cuts of a prompt: other last bits, here the same tokens */
        o.max_active = 2;
        fb_generation *cut = generate(model, p.list, 3, &o);
        for (size_t j = 0; j < 3; j++)
            expect_same(loops[i].model, fb_generation_result(cut, j),
                        fb_generation_result(together, j));
        fb_generation_destroy(cut);
        fb_generation_destroy(together);
        fb_model_destroy(model);
    }
}

/* --- FlashBlock ------------------------------------------------------------------------------- */

/* With tau 1 a step that changed a token is followed by a refresh, which is dense. In the loops
 * that may change nothing, the reuse is of the same queries: dense, too. */
Test(loops, tau_one_is_dense) {
    prompts p;
    make_prompts(&p);
    for (size_t i = 0; i < NUM_LOOPS; i++) {
        fb_model *model = load(loops[i].model);
        fb_generate_options dense = options_of(&loops[i], 0), reusing = options_of(&loops[i], 1);
        fb_generation *a = generate(model, p.list, 3, &dense);
        fb_generation *b = generate(model, p.list, 3, &reusing);
        for (size_t j = 0; j < 3; j++)
            expect_same(loops[i].model, fb_generation_result(a, j), fb_generation_result(b, j));
        fb_generation_destroy(a);
        fb_generation_destroy(b);
        fb_model_destroy(model);
    }
}

/* What is dirty before a step: the tokens that changed since, and at, the last refresh. */
typedef struct dirty_watch {
    size_t expected, tau;
    bool wrong, reused;
    size_t edits;
} dirty_watch;

static bool watch_dirty(void *user, const fb_step_event *event) {
    dirty_watch *w = user;
    if (event->commit)
        return true;
    if (event->denoising_step == 0)
        w->expected = 0;
    w->wrong = w->wrong || event->dirty_before != w->expected;
    bool reuse = event->action == FB_REUSE;
    w->wrong = w->wrong || (reuse && !(w->expected < w->tau));
    w->reused = w->reused || reuse;
    w->expected = reuse ? w->expected : 0;
    for (size_t i = 0; i < event->block_size; i++)
        w->expected += event->before[i] != event->after[i];
    w->edits += event->num_edited;
    w->wrong = w->wrong || event->dirty_after != w->expected;
    return true;
}

Test(loops, a_token_that_changed_is_dirty) {
    prompts p;
    make_prompts(&p);
    for (size_t i = 1; i < NUM_LOOPS; i++) {
        fb_model *model = load(loops[i].model);
        dirty_watch watch = {.tau = 3};
        fb_generate_options o = options_of(&loops[i], 3);
        o.on_step = watch_dirty;
        o.user = &watch;
        if (loops[i].loop == FB_LOOP_LLADA2_EDITING)
            o.editing_threshold = 0.5;
        fb_generation *generation = generate(model, &p.list[2], 1, &o);
        cr_expect(!watch.wrong, "%s", loops[i].model);
        cr_expect(watch.reused, "%s: nothing was reused", loops[i].model);
        cr_expect_eq(watch.edits, fb_generation_stats(generation)->counts->edited_tokens);
        if (loops[i].loop == FB_LOOP_LLADA2_EDITING)
            cr_expect_gt(watch.edits, 0);
        fb_generation_destroy(generation);
        fb_model_destroy(model);
    }
}

/* The error of a pass's attention against dense attention, |O - dense| / |dense|, over the layers
 * and heads of the steps that refresh, and of those that reuse. */
typedef struct error_watch {
    fb_trace trace;
    double sum[2], largest[2];
    size_t count[2];
} error_watch;

static void trace_attention(void *user, const fb_generate_attention_event *event) {
    fb_trace_attention(&((error_watch *)user)->trace, event);
}

static bool trace_step(void *user, const fb_step_event *event) {
    return fb_trace_on_step(&((error_watch *)user)->trace, event);
}

static error_watch watch_errors(fb_model *model, const fb_prompt *list, fb_generate_options *o) {
    error_watch w = {0};
    EXPECT_OK(fb_trace_init(fb_model_config_of(model), o->block_size, 3, &w.trace));
    o->on_step = trace_step;
    o->on_attention = trace_attention;
    o->user = &w;
    fb_generation_destroy(generate(model, list, 3, o));
    EXPECT_OK(w.trace.status);
    for (size_t i = 0; i < w.trace.num_steps; i++) {
        int reuse = fb_trace_step_at(&w.trace, i)->action == FB_REUSE;
        for (size_t j = 0; j < w.trace.num_layers * w.trace.num_heads; j++) {
            double error = fb_trace_heads_at(&w.trace, i)[j].error;
            w.sum[reuse] += error;
            w.largest[reuse] = fmax(w.largest[reuse], error);
            w.count[reuse]++;
        }
    }
    fb_trace_free(&w.trace);
    return w;
}

/* A refresh is dense to rounding. What a reuse errs is printed: docs/results/models.md has it. */
Test(loops, a_refresh_is_dense_and_a_reuse_errs) {
    static const size_t blocks[] = {8, 32};
    prompts p;
    EXPECT_OK(fb_set_num_threads(1));
    make_prompts(&p);
    for (size_t i = 0; i < NUM_LOOPS; i++) {
        fb_model *model = load(loops[i].model);
        for (size_t b = 0; b < 2; b++)
            for (size_t tau = 2; tau <= 4; tau++) {
                fb_generate_options o = options_of(&loops[i], tau);
                o.block_size = blocks[b];
                o.max_tokens = 64;
                o.kv_dtype = FB_F32;
                error_watch w = watch_errors(model, p.list, &o);
                cr_expect_leq(w.largest[0], 1e-5, "%s: a refresh errs %g", loops[i].model,
                              w.largest[0]);
                cr_expect(w.count[1] == 0 || w.sum[1] > 0.0, "%s", loops[i].model);
                double steps = (double)(w.count[0] + w.count[1]);
                fprintf(stderr,
                        "# %-13s block %-3zu tau %zu: %4.1f %% of steps reuse, error %.3f\n",
                        fb_decoding_loop_name(loops[i].loop), blocks[b], tau,
                        100.0 * (double)w.count[1] / steps,
                        w.count[1] > 0 ? w.sum[1] / (double)w.count[1] : 0.0);
            }
        fb_model_destroy(model);
    }
}

/* --- schedules -------------------------------------------------------------------------------- */

/* golden/models/qwen3_bd3lm/transfer_counts.json: {"masks,steps": [count, ...], ...} */
Test(loops, numbers_of_tokens_to_transfer) {
    size_t size = 0, transfers[4096];
    const fb_json *root = NULL;
    char *text =
        read_whole(golden_source_path("golden/models/qwen3_bd3lm/transfer_counts.json"), &size);
    EXPECT_OK(fb_json_parse(text, size, "transfer_counts.json", &root));
    cr_assert_gt(fb_json_object_size(root), 50);
    for (size_t i = 0; i < fb_json_object_size(root); i++) {
        size_t masks = 0, steps = 0;
        const char *key = fb_json_object_key(root, i);
        const fb_json *expected = fb_json_object_at(root, i);
        cr_assert_eq(sscanf(key, "%zu,%zu", &masks, &steps), 2);
        cr_assert_leq(masks, 4096);
        size_t count = fb_loop_transfers(masks, steps, transfers);
        cr_assert_eq(count, fb_json_array_size(expected), "%s: %zu steps", key, count);
        for (size_t j = 0; j < count; j++) {
            int64_t number = 0;
            cr_assert(fb_json_is_int64(fb_json_array_get(expected, j), &number));
            cr_assert_eq((int64_t)transfers[j], number, "%s: step %zu", key, j);
        }
    }
    fb_json_free(root);
    free(text);
}

/* The mask token is proposed for ever: the published loop would never end. */
Test(loops, a_block_that_never_settles_ends) {
    static const loop_case editing = {"llada20", FB_LOOP_LLADA2_EDITING};
    prompts p;
    make_prompts(&p);
    fb_model *model = load("llada20");
    fb_generate_options o = options_of(&editing, 0);
    o.mask_token_id = 63;
    o.max_block_steps = 20;
    fb_generation *generation = generate(model, p.list, 3, &o);
    cr_assert_leq(fb_generation_stats(generation)->counts->denoising_steps, 3 * 4 * 20);
    for (size_t i = 0; i < 3; i++)
        cr_assert_eq(fb_generation_result(generation, i)->num_tokens, 24);
    fb_generation_destroy(generation);
    fb_model_destroy(model);
}

/* bd3lm: padding before a prompt is as if it were not there, and so is a whole block of it within.
 */
Test(loops, padding_of_a_prompt_is_not_seen) {
    static const loop_case bd3lm = {"qwen3_bd3lm", FB_LOOP_BD3LM};
    enum { PAD = 92 };
    prompts p;
    int32_t padded[2][MAX_PROMPT];
    make_prompts(&p);
    fb_model *model = load(bd3lm.model);
    fb_generate_options o = options_of(&bd3lm, 2);
    o.pad_token_id = PAD;
    for (size_t i = 0; i < 3; i++) {
        /* blocks are counted from the prompt's end */
        size_t length = p.list[i].num_tokens, tail = length % 8 + (length > 8 ? 8 : 0);
        fb_prompt list[3] = {p.list[i], {padded[0], length + 3}, {padded[1], length + 8}};
        for (size_t j = 0; j < length + 8; j++) {
            padded[0][j] = j < 3 ? PAD : p.tokens[i][j < length + 3 ? j - 3 : 0];
            padded[1][j] = j < tail ? p.tokens[i][j] : j < tail + 8 ? PAD : p.tokens[i][j - 8];
        }
        fb_generation *generation = generate(model, list, 3, &o);
        for (size_t j = 1; j < 3; j++)
            expect_same("padding", fb_generation_result(generation, 0),
                        fb_generation_result(generation, j));
        fb_generation_destroy(generation);
    }
    fb_model_destroy(model);
}

/* --- which loop ------------------------------------------------------------------------------- */

/* LLaDA2.0 and 2.1 have the same config.json; the file of their class tells. */
Test(loops, the_file_of_the_class_tells_llada2_from_llada21) {
    static const char config[] =
        "{\"architectures\": [\"LLaDA2MoeModelLM\"], \"model_type\": \"llada2_moe\","
        " \"auto_map\": {\"AutoModelForCausalLM\": \"modeling_x.LLaDA2MoeModelLM\"},";
    static const char *const files[] = {
        NULL, "def generate(self, threshold=0.95):", "def generate(self, editing_threshold=0.9):"};
    static const fb_decoding_loop expected[] = {FB_LOOP_LLADA2, FB_LOOP_LLADA2,
                                                FB_LOOP_LLADA2_EDITING};
    char path[4096];
    size_t size = 0;
    snprintf(path, sizeof path, "%s", golden_source_path("golden/models/llada20/config.json"));
    char *text = read_whole(path, &size), *rest = strstr(text, "\"attention_dropout\"");
    cr_assert_not_null(rest);
    temporary_make();
    snprintf(path, sizeof path, "%s%s", config, rest);
    temporary_write_text("config.json", path);
    snprintf(path, sizeof path, "%s/golden/models/llada20/model.safetensors",
             getenv("FLASHBLOCK_SOURCE_ROOT"));
    cr_assert_eq(symlink(path, temporary_path("model.safetensors")), 0);
    for (size_t i = 0; i < 3; i++) {
        fb_model *model = NULL;
        if (files[i])
            temporary_write_text("modeling_x.py", files[i]);
        EXPECT_OK(fb_model_load(temporary_path(""), &model));
        cr_expect_eq(fb_model_config_of(model)->decoding_loop, expected[i], "file %zu", i);
        bool warned = false;
        for (size_t w = 0; fb_model_warning(model, w); w++)
            warned = warned || strstr(fb_model_warning(model, w), "LLaDA2.1");
        cr_expect_eq(warned, i == 0);
        fb_model_destroy(model);
    }
    free(text);
    temporary_remove();
}

Test(loops, names) {
    for (int i = FB_LOOP_MODEL; i <= FB_LOOP_FAST_DLLM_V2; i++) {
        fb_decoding_loop loop;
        EXPECT_OK(fb_decoding_loop_parse(fb_decoding_loop_name((fb_decoding_loop)i), &loop));
        cr_assert_eq((int)loop, i);
    }
    fb_decoding_loop loop;
    cr_assert_eq(fb_decoding_loop_parse("llada", &loop), FB_ERROR_ARGUMENT);
    cr_assert_str_eq(fb_decoding_loop_name((fb_decoding_loop)99), "unknown");
}

/* --- wrong options ---------------------------------------------------------------------------- */

static void expect_bad(const char *name, const fb_generate_options *o, const char *words) {
    prompts p;
    make_prompts(&p);
    fb_model *model = load(name);
    fb_generation *generation = NULL;
    cr_expect_eq(fb_generate(model, p.list, 1, o, &generation), FB_ERROR_ARGUMENT, "%s", words);
    cr_expect(strstr(fb_error_message(), words), "'%s' does not say '%s'", fb_error_message(),
              words);
    fb_model_destroy(model);
}

Test(loops, wrong_options_are_named) {
#define EXPECT_BAD(index, field, value, words)                                                     \
    do {                                                                                           \
        fb_generate_options o_ = options_of(&loops[index], 0);                                     \
        o_.field = value;                                                                          \
        expect_bad(loops[index].model, &o_, words);                                                \
    } while (0)
    EXPECT_BAD(0, loop, (fb_decoding_loop)77, "loop is 77");
    EXPECT_BAD(0, early_stop, true, "early_stop is set, which the loop sdar does not have");
    EXPECT_BAD(0, editing_threshold, 0.5, "editing_threshold is set");
    EXPECT_BAD(0, loop, FB_LOOP_FAST_DLLM_V2, "the model's logits are about their own position");
    EXPECT_BAD(1, confidence_threshold, 1.5, "confidence_threshold is 1.5, not at most 1");
    EXPECT_BAD(1, max_post_steps, 3, "max_post_steps is set");
    EXPECT_BAD(1, minimal_topk, 25, "minimal_topk is 25, more than max_tokens 24");
    EXPECT_BAD(1, remasking, FB_SEQUENTIAL, "remasking is set");
    EXPECT_BAD(1, repeat_penalty, -1.0, "repeat_penalty is -1");
    EXPECT_BAD(2, editing_threshold, 1.5, "editing_threshold is 1.5, not at most 1");
    EXPECT_BAD(2, editing_threshold, NAN, "editing_threshold");
    EXPECT_BAD(2, num_to_transfer, 9, "num_to_transfer is 9, more than block_size 8");
    EXPECT_BAD(3, small_block, 4, "small_block is set");
    EXPECT_BAD(4, small_block, 3, "small_block is 3, which does not divide block_size 8");
    EXPECT_BAD(4, max_tokens, 7, "max_tokens is 7, less than a block of 8");
    EXPECT_BAD(4, loop, FB_LOOP_LLADA2, "the model's logits are about the next position");
    EXPECT_BAD(4, unused_bools[0], true, "options");
#undef EXPECT_BAD
    fb_generate_options o = options_of(&loops[4], 2);
    o.block_cache = true;
    expect_bad("fast_dllm_v2", &o, "block_cache is set with reuse.tau 2");
}

/* Programs resolve options to show them, and fb_generate resolves them again. */
Test(loops, options_that_are_resolved_stay_as_they_are) {
    for (size_t loop = 0; loop < NUM_LOOPS; loop++) {
        fb_model *model = load(loops[loop].model);
        const fb_model_config *config = fb_model_config_of(model);
        fb_generate_options once = options_of(&loops[loop], 2);
        EXPECT_OK(fb_generate_options_resolve(config, &once));
        fb_generate_options twice = once;
        EXPECT_OK(fb_generate_options_resolve(config, &twice));
        cr_assert_eq(memcmp(&once, &twice, sizeof once), 0, "%s", loops[loop].model);
        fb_model_destroy(model);
    }
}

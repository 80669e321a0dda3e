/* The reference path (attention/reference.c, cache/reference.c, decode/reference.c) against the
 * fast one: the same decisions, and outputs within the bounds stated here. */
#include "cache/reference_cache.h"
#include "decode/reference_decode.h"
#include "tests/numbers.h"
#include "tests/sequence_case.h"

#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Bounds of float32 against double, for inputs of size 1, in units of 2^-24 (half an ulp of 1).
 * Outputs are means of values, so their error is relative to the largest value. The error of a
 * log-sum-exp is relative to its own size. */
#define OUT_UNITS 8.0
#define LSE_UNITS 4.0
static const double unit = 0x1p-24;

/* --- the rule --------------------------------------------------------------------------------- */

/* Every state that a block of up to 5 tokens can be in. */
Test(reference, decides_as_the_rule) {
    size_t cases = 0;
    for (size_t tau = 0; tau <= 6; tau++)
        for (size_t n = 0; n < 6 * 6 * 6 * 6 * 3 * 2; n++) {
            fb_reference_cache cache = {.tau = tau, .dirty = n % 6};
            fb_reference_step step = {
                .number = n / 6 % 6,
                .limit = n / 36 % 6,
                .masked = n / 216 % 6,
                .budget = n / 1296 % 3,
                .commit = n / 3888 % 2,
            };
            fb_reuse_policy policy = {.tau = tau};
            fb_reuse_step fast = {
                .denoising_step = step.number,
                .denoising_steps = step.limit,
                .dirty_tokens = cache.dirty,
                .masked_tokens = step.masked,
                .budget = step.budget,
                .commit = step.commit,
            };
            fb_reuse_action expected = fb_reuse_decide_reference(&cache, &step);
            cr_assert_eq(fb_reuse_decide(&policy, &fast), expected,
                         "tau %zu, case %zu: %s, the reference says %s", tau, n,
                         fb_reuse_action_name(fb_reuse_decide(&policy, &fast)),
                         fb_reuse_action_name(expected));
            cases++;
        }
    cr_log_info("%zu cases", cases);
}

/* --- the loop --------------------------------------------------------------------------------- */

typedef struct shape {
    size_t heads, kv_heads, head_dim, block_size, steps, tau, prompt, blocks;
    fb_dtype dtype;
} shape;

static float largest(const float *values, size_t count) {
    float max = 0.0f;
    for (size_t i = 0; i < count; i++)
        max = fmaxf(max, fabsf(values[i]));
    return max;
}

static void expect_within(const char *what, size_t pass, const float *values, const double *truth,
                          size_t count, double bound, double *worst) {
    for (size_t i = 0; i < count; i++) {
        double error = fabs((double)values[i] - truth[i]);
        *worst = fmax(*worst, error);
        cr_assert(error <= bound, "pass %zu: %s[%zu] is %.9g, the reference says %.17g", pass, what,
                  i, (double)values[i], truth[i]);
    }
}

/* Numbers that `dtype` holds. */
static float *random_stored(random_stream *random, fb_dtype dtype, size_t count) {
    float *values = random_floats(random, count, 1.0f);
    void *stored = malloc((count ? count : 1) * sizeof(float));
    OK(fb_from_f32(dtype, values, stored, count));
    OK(fb_to_f32(dtype, stored, values, count));
    free(stored);
    return values;
}

/* Steps that accept one token or two, so that some blocks are finished early. */
static fb_reference_script random_script(random_stream *random, const shape *s) {
    size_t kv_row = s->kv_heads * s->head_dim, rows = s->block_size * s->heads;
    size_t num_passes = s->blocks * (s->steps + 1);
    fb_reference_pass *passes = calloc(num_passes, sizeof *passes);
    for (size_t i = 0; i < num_passes; i++) {
        bool commit = i % (s->steps + 1) == s->steps;
        passes[i] = (fb_reference_pass){
            .q = random_floats(random, rows * s->head_dim, 1.0f),
            .k = random_stored(random, s->dtype, s->block_size * kv_row),
            .v = random_stored(random, s->dtype, s->block_size * kv_row),
            .accepted = commit ? 0 : random_between(random, 1, 2),
            .out = malloc(rows * s->head_dim * sizeof(double)),
            .lse = malloc(rows * sizeof(double)),
        };
    }
    return (fb_reference_script){
        .num_heads = s->heads,
        .num_kv_heads = s->kv_heads,
        .head_dim = s->head_dim,
        .block_size = s->block_size,
        .denoising_steps = s->steps,
        .budget = 1,
        .tau = s->tau,
        .prompt_length = s->prompt,
        .prompt_keys = random_stored(random, s->dtype, s->prompt * kv_row),
        .prompt_values = random_stored(random, s->dtype, s->prompt * kv_row),
        .num_blocks = s->blocks,
        .passes = passes,
    };
}

static void free_script(fb_reference_script *script) {
    for (size_t i = 0; i < script->num_blocks * (script->denoising_steps + 1); i++) {
        fb_reference_pass *pass = &script->passes[i];
        free((void *)pass->q), free((void *)pass->k), free((void *)pass->v);
        free(pass->out), free(pass->lse);
    }
    free((void *)script->prompt_keys), free((void *)script->prompt_values);
    free(script->passes);
}

/* The results of a pass: those of the library, and those of the reference. */
typedef struct fast_path {
    fb_kv_cache *kv;
    fb_part_cache *parts;
    float *out, *lse;
    double worst_out, worst_lse; /* in the units of the bounds */
    size_t reuses;
} fast_path;

static void compare_pass(fast_path *fast, const fb_reference_script *s, size_t index,
                         fb_reuse_action action, double largest_value) {
    const fb_reference_pass *pass = &s->passes[index];
    size_t rows = s->block_size * s->num_heads, values = rows * s->head_dim;
    fb_queries queries = fb_queries_rows(pass->q, s->block_size, s->num_heads, s->head_dim);
    fb_part result = fb_part_rows(fast->out, fast->lse, s->num_heads, s->head_dim);
    cr_assert_eq(action, pass->action, "pass %zu is %s, the reference says %s", index,
                 fb_reuse_action_name(action), fb_reuse_action_name(pass->action));
    OK(fb_kv_cache_write(fast->kv, 0, fb_kv_cache_length(fast->kv), s->block_size, pass->k,
                         pass->v));
    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = &queries;
    call.kv = fast->kv;
    call.action = action;
    call.parts = fast->parts;
    OK(fb_block_attend(&call, &result));
    double out = 0.0, lse = 0.0;
    double lse_size = fmax(1.0, (double)largest(fast->lse, rows));
    expect_within("out", index, fast->out, pass->out, values, OUT_UNITS * unit * largest_value,
                  &out);
    expect_within("lse", index, fast->lse, pass->lse, rows, LSE_UNITS * unit * lse_size, &lse);
    fast->worst_out = fmax(fast->worst_out, out / (unit * largest_value));
    fast->worst_lse = fmax(fast->worst_lse, lse / (unit * lse_size));
    fast->reuses += action == FB_REUSE;
}

/* The loop once more, with the library's caches and its rule. */
static void decode(fast_path *fast, const fb_reference_script *s, double largest_value) {
    size_t per_block = s->denoising_steps + 1;
    const fb_reuse_policy policy = {.tau = s->tau};
    if (s->prompt_length > 0)
        OK(fb_kv_cache_write(fast->kv, 0, 0, s->prompt_length, s->prompt_keys, s->prompt_values));
    OK(fb_kv_cache_commit(fast->kv, s->prompt_length));
    for (size_t block = 0; block < s->num_blocks; block++) {
        fb_reuse_step step = {.denoising_steps = s->denoising_steps,
                              .masked_tokens = s->block_size,
                              .budget = s->budget};
        for (size_t i = 0; i < per_block; i++) {
            size_t index = block * per_block + i;
            const fb_reference_pass *pass = &s->passes[index];
            step.commit = i == s->denoising_steps;
            bool runs = step.commit || step.masked_tokens > 0;
            cr_assert_eq(pass->ran, runs, "pass %zu", index);
            if (!runs)
                continue;
            fb_reuse_action action = fb_reuse_decide(&policy, &step);
            compare_pass(fast, s, index, action, largest_value);
            step.dirty_tokens = (action == FB_REUSE ? step.dirty_tokens : 0) + pass->accepted;
            step.masked_tokens -=
                pass->accepted < step.masked_tokens ? pass->accepted : step.masked_tokens;
            step.denoising_step++;
        }
        OK(fb_kv_cache_commit(fast->kv, s->block_size));
    }
}

static double largest_value(const fb_reference_script *s) {
    size_t kv_row = s->num_kv_heads * s->head_dim;
    float max = largest(s->prompt_values, s->prompt_length * kv_row);
    for (size_t i = 0; i < s->num_blocks * (s->denoising_steps + 1); i++)
        max = fmaxf(max, largest(s->passes[i].v, s->block_size * kv_row));
    return (double)max;
}

static void compare_shape(random_stream *random, const shape *s, fast_path *total) {
    fb_reference_script script = random_script(random, s);
    const fb_kv_cache_config config = {1, s->kv_heads, s->head_dim, s->dtype};
    size_t rows = s->block_size * s->heads;
    fast_path fast = {.out = malloc(rows * s->head_dim * sizeof(float)),
                      .lse = malloc(rows * sizeof(float))};
    OK(fb_kv_cache_create(&config, &fast.kv));
    OK(fb_part_cache_create(1, s->block_size, s->heads, s->head_dim, &fast.parts));
    OK(fb_decode_reference(&script));
    decode(&fast, &script, largest_value(&script));
    total->worst_out = fmax(total->worst_out, fast.worst_out);
    total->worst_lse = fmax(total->worst_lse, fast.worst_lse);
    total->reuses += fast.reuses;
    fb_kv_cache_destroy(fast.kv);
    fb_part_cache_destroy(fast.parts);
    free(fast.out), free(fast.lse);
    free_script(&script);
}

Test(reference, decodes_as_the_fast_path) {
    static const shape shapes[] = {
        {4, 1, 32, 4, 4, 0, 40, 3, FB_F32},   {4, 1, 32, 4, 4, 1, 40, 3, FB_F32},
        {4, 1, 32, 4, 4, 2, 1100, 3, FB_F32}, {8, 2, 64, 4, 4, 3, 300, 4, FB_BF16},
        {6, 3, 80, 8, 8, 3, 0, 4, FB_F16},    {2, 2, 128, 4, 6, 9, 2500, 2, FB_F32},
        {3, 1, 17, 5, 5, 2, 3, 5, FB_F32},    {4, 4, 64, 32, 20, 8, 200, 2, FB_BF16},
    };
    random_stream random = random_named(800);
    fast_path total = {0};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        compare_shape(&random, &shapes[i], &total);
    cr_log_info("outputs are off by %.2f, log-sum-exps by %.2f units of 2^-24", total.worst_out,
                total.worst_lse);
    cr_assert_gt(total.reuses, 20, "%zu passes reused", total.reuses);
}

/* --- the scripted sequences of `flashblock golden` ---------------------------------------------
 */

static size_t count_accepted(const int32_t *accepted, size_t block_size) {
    size_t count = 0;
    for (size_t i = 0; i < block_size; i++)
        count += accepted[i] != 0;
    return count;
}

/* The truth of these files uses only exactly rounded operations, so that they have the same bytes
 * on every machine. The reference is written to be read. The two agree to some 1e-15. */
Test(reference, is_the_truth_of_golden_sequences) {
    static const size_t taus[] = {0, 2, 3, 9};
    for (size_t n = 0; n < sizeof taus / sizeof taus[0]; n++) {
        fb_script_config config;
        OK(fb_script_preset("tiny", &config));
        config.tau = taus[n];
        config.seed = test_seed() + n;
        fb_script *s = generated(&config);
        fb_reference_script script = {
            .num_heads = config.num_heads,
            .num_kv_heads = config.num_kv_heads,
            .head_dim = config.head_dim,
            .block_size = config.block_size,
            .denoising_steps = config.steps,
            .budget = 1,
            .tau = config.tau,
            .prompt_length = config.context_length,
            .prompt_keys = s->k_context,
            .prompt_values = s->v_context,
            .num_blocks = 1,
            .passes = calloc(s->num_passes, sizeof(fb_reference_pass)),
        };
        size_t values = fb_script_values(s), rows = fb_script_rows(s);
        for (size_t i = 0; i < s->num_passes; i++)
            script.passes[i] = (fb_reference_pass){
                .q = s->passes[i].q,
                .k = s->passes[i].k,
                .v = s->passes[i].v,
                .accepted = count_accepted(s->passes[i].accepted, config.block_size),
                .out = malloc(values * sizeof(double)),
                .lse = malloc(rows * sizeof(double)),
            };
        OK(fb_decode_reference(&script));
        for (size_t i = 0; i < s->num_passes; i++) {
            fb_reference_pass *pass = &script.passes[i];
            cr_assert(pass->ran);
            cr_assert_eq((int32_t)pass->action, s->passes[i].action, "tau %zu, pass %zu",
                         config.tau, i);
            for (size_t j = 0; j < values; j++)
                cr_assert_float_eq(pass->out[j], s->passes[i].true_out[j], 1e-13);
            for (size_t j = 0; j < rows; j++)
                cr_assert_float_eq(pass->lse[j], s->passes[i].true_lse[j], 1e-13);
            free(pass->out), free(pass->lse);
        }
        free(script.passes);
        fb_script_free(s);
    }
}

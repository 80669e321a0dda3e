/* flashblock eval reuse: policies of reuse in real decoding, against dense attention and the text.
 */
#include "base/error.h"
#include "base/memory.h"
#include "base/rng.h"
#include "cli/commands.h"
#include "cli/eval/known_text.h"
#include "cli/eval/policy.h"
#include "cli/options/common_options.h"
#include "cli/options/isa_choice.h"
#include "cli/options/number_list.h"
#include "cli/options/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "study/reuse_trial.h"

#include <flashblock/runtime.h>
#include <flashblock/tokenizer.h>
#include <flashblock/version.h>

#include <stdio.h>
#include <string.h>

typedef struct settings {
    const char *model, *text, *json;
    fb_number_list block_sizes, contexts;
    fb_policy_list policies; /* the dense one always comes before them */
    size_t from, to;         /* tokens of the text; to = 0: its end */
    size_t samples, tokens, steps;
    fb_remasking remasking;
    double threshold;
    fb_dtype kv_dtype;
    uint64_t seed;
    bool teacher, no_mmap, float_activations;
    size_t threads;
    int isa;
} settings;

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option options[] = {
    FB_MODEL_OPTION(settings, model,
                    "a Hugging Face directory: config.json, model.safetensors (or its shards), "
                    "tokenizer.json"),
    FB_NO_MMAP_OPTION(settings, no_mmap),
    FB_ACTIVATIONS_OPTION(settings, float_activations),
    {.kind = FB_OPTION_STRING,
     .name = "text",
     .argument = "FILE",
     TARGET(text),
     .required = true,
     .help = "the text that contexts are cut out of, and that continuations are compared with"},
    {.kind = FB_OPTION_SIZE,
     .name = "from",
     .argument = "TOKEN",
     TARGET(from),
     .otherwise = "0",
     .help = "take the text from this token on"},
    {.kind = FB_OPTION_SIZE,
     .name = "to",
     .argument = "TOKEN",
     TARGET(to),
     .help = "take it up to this token (default: its end)"},
    FB_BLOCK_SIZES_OPTION(settings, block_sizes),
    FB_LIST_OPTION(settings, contexts, "context", fb_number_list_parse, "256,512,1024,1248",
                   "tokens before the first block; multiples of the block sizes"),
    FB_LIST_OPTION(
        settings, policies, "policies", fb_policy_list_parse,
        "tau:2,tau:3,tau:4,tau:2+correction,tau:3+correction,tau:4+correction,rows,"
        "rows+correction",
        "tau:T; rows, rows:T; each with +correction; rows with +every:N, +dirty:N, +commit"),
    FB_COUNT_OPTION(settings, samples, "samples", 1 << 20, "16",
                    "contexts of each length and block size"),
    FB_TOKENS_OPTION(settings, tokens, "32", "tokens to write after each"),
    FB_DENOISING_STEPS_OPTION(settings, steps),
    FB_REMASKING_OPTION(settings, remasking,
                        "which proposed tokens a step accepts, as in flashblock generate"),
    FB_CONFIDENCE_OPTION(settings, threshold),
    {.kind = FB_OPTION_FLAG,
     .name = "teacher",
     TARGET(teacher),
     .help = "accept the text's own tokens, those of the highest dense confidence first: all "
             "policies then go through the same states"},
    FB_KV_DTYPE_OPTION(settings, kv_dtype),
    FB_SEED_OPTION(settings, seed, "1", "of the places that contexts are cut out at"),
    FB_THREADS_OPTION(settings, threads, "threads (default: OMP_NUM_THREADS, or one for each CPU)"),
    FB_ISA_OPTION(settings, isa, fb_isa_choice_parse_one,
                  "instruction set, of those that flashblock info lists (default: FLASHBLOCK_ISA, "
                  "or the fastest kernels of all)"),
    FB_JSON_OPTION(settings, json,
                   "write what was measured as JSON to FILE; without FILE, or with "
                   "\"-\", to standard output instead of the tables"),
};

static const fb_option_table table = {
    .usage = "eval reuse --model DIR --text FILE [OPTION]...",
    .summary =
        "Continues contexts cut out of a text, with dense attention and with policies of\n"
        "reuse. Beside every denoising step of a policy, a dense pass on the same state (the same\n"
        "committed keys and values, the same tokens in the block) says how far the step's\n"
        "distributions are from dense ones: their KL divergence, over the masked tokens.",
    FB_TABLE_OPTIONS(options),
};

/* --- setting up ------------------------------------------------------------------------------- */

enum { MAX_POLICIES = FB_POLICY_LIST_MAX + 1, MAX_CELLS = FB_NUMBER_LIST_MAX };

typedef struct evaluation {
    const settings *chosen;
    fb_model *model;
    fb_tokenizer *tokenizer;
    int32_t *tokens; /* [num_tokens] of the text */
    size_t num_tokens;
    fb_reuse_policy policies[MAX_POLICIES]; /* the first is dense */
    size_t num_policies;
    int32_t *written, *dense; /* [chosen->tokens] */
    fb_reuse_trial trial;     /* of the block size at hand */
    fb_reuse_trial_score scores[MAX_CELLS + 1]
                               [MAX_POLICIES]; /* by context; then over all of them */
    fb_buffer cells_text;
    fb_json_writer cells; /* a fragment: one for each cell and policy */
} evaluation;

/* Every context must end between two blocks, and the text must hold it and the tokens after it. */
static fb_status check_sizes(const evaluation *e) {
    const settings *chosen = e->chosen;
    const fb_number_list *contexts = &chosen->contexts, *blocks = &chosen->block_sizes;
    FB_TRY(fb_number_list_check(blocks, "block-size", 1, 1 << 16));
    for (size_t i = 0; i < contexts->count; i++) {
        size_t needed = contexts->values[i] + chosen->tokens;
        if (e->num_tokens < chosen->from || needed > e->num_tokens - chosen->from)
            return fb_fail(FB_ERROR_ARGUMENT,
                           "--context: %zu and %zu tokens after it are more than the text's %zu",
                           contexts->values[i], chosen->tokens,
                           e->num_tokens < chosen->from ? (size_t)0 : e->num_tokens - chosen->from);
        for (size_t j = 0; j < blocks->count; j++)
            if (contexts->values[i] % blocks->values[j] != 0)
                return fb_fail(FB_ERROR_ARGUMENT, "--context: %zu is not a multiple of %zu",
                               contexts->values[i], blocks->values[j]);
    }
    return FB_OK;
}

static fb_status prepare(evaluation *e) {
    const settings *chosen = e->chosen;
    FB_TRY(fb_isa_choice_set(chosen->threads, chosen->isa));
    fb_model_options how;
    fb_model_options_init(&how);
    how.read_weights = chosen->no_mmap;
    how.float_activations = chosen->float_activations;
    FB_TRY(fb_model_load_with(chosen->model, &how, &e->model));
    fb_print_model_warnings(e->model);
    FB_TRY(fb_tokenizer_load(chosen->model, &e->tokenizer));
    fb_print_tokenizer_warnings(e->tokenizer);
    FB_TRY(fb_known_text_read(e->tokenizer, chosen->text, &e->tokens, &e->num_tokens));
    if (chosen->to > 0 && chosen->to < e->num_tokens)
        e->num_tokens = chosen->to;
    FB_TRY(check_sizes(e));
    e->num_policies = 1;
    for (size_t i = 0; i < chosen->policies.count; i++)
        if (chosen->policies.policies[i].tau > 0)
            e->policies[e->num_policies++] = chosen->policies.policies[i];
    FB_TRY(fb_alloc(chosen->tokens, sizeof *e->written, "tokens", &e->written));
    return fb_alloc(chosen->tokens, sizeof *e->dense, "tokens", &e->dense);
}

/* --- running ---------------------------------------------------------------------------------- */

/* All policies after one context. */
static fb_status run_sample(evaluation *e, size_t cell, size_t sample) {
    const settings *chosen = e->chosen;
    size_t context = chosen->contexts.values[cell], count = chosen->tokens;
    size_t places = e->num_tokens - chosen->from - context - count + 1;
    double drawn =
        fb_random_uniform(chosen->seed, (uint32_t)context,
                          (uint32_t)e->trial.decoding.options.block_size, (uint32_t)sample, 0);
    const int32_t *tokens = e->tokens + chosen->from + (size_t)(drawn * (double)places);
    fb_reuse_trial_score score;
    FB_TRY(fb_reuse_trial_prefill(&e->trial, tokens, context));
    FB_TRY(
        fb_reuse_trial_run(&e->trial, &e->policies[0], tokens, count, e->dense, e->dense, &score));
    for (size_t i = 0; i < e->num_policies; i++) { /* caches and pages are warm now */
        int32_t *written = i == 0 ? e->dense : e->written;
        FB_TRY(fb_reuse_trial_run(&e->trial, &e->policies[i], tokens, count, e->dense, written,
                                  &score));
        fb_reuse_trial_score_add(&e->scores[cell][i], &score);
        fb_reuse_trial_score_add(&e->scores[chosen->contexts.count][i], &score);
    }
    return FB_OK;
}

/* --- results ---------------------------------------------------------------------------------- */

static void print_cell(const evaluation *e, size_t cell) {
    const fb_reuse_trial_score *scores = e->scores[cell];
    char context[32] = "all contexts";
    if (cell < e->chosen->contexts.count)
        snprintf(context, sizeof context, "%zu tokens of context",
                 e->chosen->contexts.values[cell]);
    printf("\nblocks of %zu, %s: %zu continuations of %zu tokens\n",
           e->trial.decoding.options.block_size, context, scores[0].trials, e->chosen->tokens);
    printf("%-26s%8s%8s%9s%9s%9s%9s%9s%9s%10s\n", "policy", "equal", "correct", "KL", "+-", "steps",
           "rows", "of dense", "K/V read", "attention");
    for (size_t i = 0; i < e->num_policies; i++) {
        char name[FB_POLICY_NAME];
        fb_policy_name(&e->policies[i], name);
        fb_reuse_trial_result r = fb_reuse_trial_result_of(&scores[i], &scores[0]);
        printf("%-26s%7.1f%%%7.1f%%%9.4f%9.4f%9zu%9zu%9.3f%9.3f%10.3f\n", name, 100 * r.agreement,
               100 * r.accuracy, r.kl, r.kl_error, scores[i].steps, scores[i].external_rows, r.rows,
               r.bytes, r.attention);
    }
}

static void add_cell(evaluation *e, size_t cell) {
    fb_json_writer *w = &e->cells;
    bool all = cell == e->chosen->contexts.count;
    for (size_t i = 0; i < e->num_policies; i++) {
        const fb_reuse_trial_score *score = &e->scores[cell][i];
        char name[FB_POLICY_NAME];
        fb_policy_name(&e->policies[i], name);
        fb_reuse_trial_result r = fb_reuse_trial_result_of(score, &e->scores[cell][0]);
        fb_json_open_object(w, NULL);
        fb_json_put_size(w, "block_size", e->trial.decoding.options.block_size);
        if (all)
            fb_json_put_null(w, "context");
        else
            fb_json_put_size(w, "context", e->chosen->contexts.values[cell]);
        fb_json_put_string(w, "policy", name);
        fb_json_put_size(w, "continuations", score->trials);
        fb_json_put_size(w, "tokens", score->tokens);
        fb_json_put_double(w, "agreement", r.agreement);
        fb_json_put_double(w, "accuracy", r.accuracy);
        fb_json_put_double(w, "kl", r.kl);
        fb_json_put_double(w, "kl_standard_error", r.kl_error);
        fb_json_put_size(w, "steps", score->steps);
        fb_json_put_size(w, "passes", score->passes);
        fb_json_put_size(w, "external_rows", score->external_rows);
        fb_json_put_double(w, "external_rows_by_dense", r.rows);
        fb_json_put_double(w, "kv_bytes", score->kv_bytes);
        fb_json_put_double(w, "kv_bytes_by_dense", r.bytes);
        fb_json_put_double(w, "attention_seconds", score->attention_seconds);
        fb_json_put_double(w, "attention_by_dense", r.attention);
        fb_json_close_object(w);
    }
}

static void finish_cell(evaluation *e, size_t cell) {
    if (!fb_is_stdout(e->chosen->json)) {
        print_cell(e, cell);
        fflush(stdout);
    }
    add_cell(e, cell);
}

static fb_status run_block_size(evaluation *e, size_t block_size) {
    const settings *chosen = e->chosen;
    fb_generate_options decoding;
    fb_generate_options_init(&decoding);
    decoding.block_size = block_size;
    decoding.denoising_steps = chosen->steps;
    decoding.remasking = chosen->remasking;
    decoding.confidence_threshold = chosen->threshold;
    decoding.kv_dtype = chosen->kv_dtype;
    FB_TRY(fb_reuse_trial_create(e->model, &decoding, &e->trial));
    e->trial.teacher = chosen->teacher;
    memset(e->scores, 0, sizeof e->scores);
    size_t contexts = chosen->contexts.count;
    for (size_t cell = 0; cell < contexts; cell++) {
        for (size_t sample = 0; sample < chosen->samples; sample++) {
            fb_progress("blocks of %zu, context %zu, continuation %zu of %zu", block_size,
                        chosen->contexts.values[cell], sample + 1, chosen->samples);
            FB_TRY(run_sample(e, cell, sample));
        }
        fb_progress_end();
        finish_cell(e, cell);
    }
    if (contexts > 1)
        finish_cell(e, contexts);
    fb_reuse_trial_free(&e->trial);
    return fb_json_finish(&e->cells);
}

static fb_status write_json(const evaluation *e) {
    const settings *chosen = e->chosen;
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_isa isa;
    FB_TRY(fb_isa_current(&isa));
    fb_json_open_object(&w, NULL);
    fb_json_put_string(&w, "version", fb_version());
    fb_json_put_text(&w, "model", chosen->model);
    fb_json_put_string(&w, "instruction_set", fb_isa_name(isa));
    fb_json_put_int64(&w, "threads", fb_num_threads());
    fb_json_put_text(&w, "text", chosen->text);
    fb_json_put_size(&w, "from", chosen->from);
    fb_json_put_size(&w, "to", e->num_tokens);
    fb_json_put_uint64(&w, "seed", chosen->seed);
    fb_json_put_bool(&w, "teacher", chosen->teacher);
    fb_json_put_string(&w, "remasking", fb_remasking_name(chosen->remasking));
    fb_json_put_double(&w, "confidence_threshold", chosen->threshold);
    fb_json_put_string(&w, "kv_dtype", fb_dtype_name(chosen->kv_dtype));
    fb_json_put_array_of(&w, "cells", &e->cells);
    fb_json_close_object(&w);
    return fb_write_json(&w, chosen->json);
}

static fb_status evaluate(evaluation *e) {
    FB_TRY(prepare(e));
    fb_json_writer like = fb_json_output(&e->cells_text);
    e->cells = fb_json_fragment_to(&e->cells_text, &like, 1);
    for (size_t i = 0; i < e->chosen->block_sizes.count; i++)
        FB_TRY(run_block_size(e, e->chosen->block_sizes.values[i]));
    return e->chosen->json ? write_json(e) : FB_OK;
}

static void free_evaluation(evaluation *e) {
    fb_reuse_trial_free(&e->trial);
    fb_token_ids_free(e->tokens);
    fb_tokenizer_destroy(e->tokenizer);
    fb_model_destroy(e->model);
    fb_free(e->written);
    fb_free(e->dense);
    fb_buffer_free(&e->cells_text);
    fb_free(e);
}

int fb_command_eval_reuse(int argc, char **argv) {
    settings chosen = {.isa = FB_ISA_CHOICE_CURRENT};
    int exit_status;
    if (!fb_options_parse(&table, argc, argv, &chosen, &exit_status))
        return exit_status;
    evaluation *e = NULL;
    fb_status status = fb_alloc_zeroed(1, sizeof *e, "evaluation", &e);
    if (status != FB_OK)
        return fb_report_status(status);
    e->chosen = &chosen;
    status = evaluate(e);
    exit_status = fb_report_status(status);
    free_evaluation(e);
    return exit_status;
}

/* flashblock eval tasks: how many problems a model solves with each way to attend, and what that
 * takes. */
#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "cli/commands.h"
#include "cli/eval/task_plot.h"
#include "cli/eval/task_policy.h"
#include "cli/eval/task_results.h"
#include "cli/gnuplot.h"
#include "cli/options/common_options.h"
#include "cli/options/isa_choice.h"
#include "cli/options/number_list.h"
#include "cli/options/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "io/file.h"
#include "model/model_state.h"
#include "study/task_suite.h"
#include "study/task_trial.h"

#include <flashblock/runtime.h>
#include <flashblock/tokenizer.h>
#include <flashblock/version.h>

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { MAX_SUITES = 32, SUITE_NAME = 48, MAX_THREADS = 256, TASK_ERROR = 512 };

/* Names of suites, as given. */
typedef struct suite_list {
    char names[MAX_SUITES][SUITE_NAME];
    size_t count;
} suite_list;

/* How a block is denoised. */
typedef struct ways {
    bool one_a_token, threshold;
} ways;

typedef struct settings {
    const char *model, *problems, *json, *plot;
    suite_list suites;
    fb_number_list contexts, block_sizes;
    ways steps;
    double confidence_threshold;
    fb_task_policy_list policies;
    size_t key_block, count, tokens, threads;
    fb_dtype kv_dtype;
    bool texts, no_mmap, float_activations;
    int isa;
} settings;

static fb_status parse_suites(const char *text, void *target) {
    suite_list *list = target;
    list->count = 0;
    for (const char *at = text;; at++) {
        size_t length = strcspn(at, ",");
        if (list->count == MAX_SUITES || length == 0 || length >= SUITE_NAME)
            return fb_fail(FB_ERROR_ARGUMENT, "'%s' is not a list of up to %d names of suites",
                           text, MAX_SUITES);
        snprintf(list->names[list->count++], SUITE_NAME, "%.*s", (int)length, at);
        at += length;
        if (*at == '\0')
            return FB_OK;
    }
}

static fb_status parse_steps(const char *text, void *target) {
    ways *chosen = target;
    *chosen = (ways){.one_a_token = strcmp(text, "threshold") != 0,
                     .threshold = strcmp(text, "one-a-token") != 0};
    if (strcmp(text, "one-a-token") == 0 || strcmp(text, "threshold") == 0 ||
        strcmp(text, "both") == 0)
        return FB_OK;
    return fb_fail(FB_ERROR_ARGUMENT, "'%s' is not one-a-token, threshold or both", text);
}

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option options[] = {
    {.kind = FB_OPTION_GROUP, .help = "Model and problems"},
    FB_MODEL_OPTION(settings, model, "a Hugging Face directory, as for flashblock generate"),
    FB_NO_MMAP_OPTION(settings, no_mmap),
    FB_ACTIVATIONS_OPTION(settings, float_activations),
    {.kind = FB_OPTION_STRING,
     .name = "problems",
     .argument = "FOLDER",
     TARGET(problems),
     .help = "where the suites are, NAME.jsonl each (default: the folder tasks of the model)"},
    FB_LIST_OPTION(settings, suites, "suite", parse_suites, "ledger,arithmetic",
                   "names of suites; one with contexts stands for NAME-CONTEXT.jsonl of each"),
    FB_LIST_OPTION(settings, contexts, "context", fb_number_list_parse, "1k",
                   "lengths of the problems' texts, of the suites that have them"),
    FB_COUNT_OPTION(settings, count, "count", 1 << 20, NULL,
                    "problems of a suite at most (default: all)"),

    {.kind = FB_OPTION_GROUP, .help = "What is compared"},
    FB_LIST_OPTION(
        settings, policies, "policies", fb_task_policy_list_parse,
        "tau:1,tau:2,tau:3,tau:4,tau:5,tau:block,never",
        "beside dense: tau:T, tau:block, never; rows, rows:T; each of them with +correction; "
        "SELECTOR@P (density P percent), with +first, +residual:T, +residual:block, "
        "+residual:once, and after a residual +sparse-first"),
    FB_BLOCK_SIZES_OPTION(settings, block_sizes),
    {.kind = FB_OPTION_PARSED,
     .name = "steps",
     .argument = "NAME",
     TARGET(steps),
     .parse = parse_steps,
     .otherwise = "one-a-token",
     .help = "one-a-token: a step accepts the most probable token; threshold: also all of a "
             "confidence above the threshold; both: one after the other"},
    {.kind = FB_OPTION_DOUBLE,
     .name = "confidence-threshold",
     .argument = "C",
     TARGET(confidence_threshold),
     .max = 1,
     .otherwise = "0.9",
     .help = "the threshold"},
    {.kind = FB_OPTION_SIZE,
     .name = "key-block",
     .argument = "N",
     TARGET(key_block),
     .min = 16,
     .max = 1 << 20,
     .otherwise = "16",
     .help = "tokens of a key block of selectors, a multiple of 16"},
    FB_TOKENS_OPTION(settings, tokens, "256", "tokens of a reply at most"),
    FB_KV_DTYPE_OPTION(settings, kv_dtype),

    {.kind = FB_OPTION_GROUP, .help = "Machine and output"},
    FB_THREADS_OPTION(settings, threads,
                      "problems that are solved at the same time, each on one thread (default: "
                      "OMP_NUM_THREADS, or one for each CPU)"),
    FB_ONE_ISA_OPTION(settings, isa),
    FB_PLOT_OPTION(settings, plot, "draw right answers against attention time"),
    {.kind = FB_OPTION_FLAG,
     .name = "texts",
     .needs = "json",
     TARGET(texts),
     .help = "every reply, too"},
    FB_JSON_OPTION(settings, json,
                   "write all numbers as JSON to FILE; without FILE, or with \"-\", to "
                   "standard output instead of the tables"),
};

static const fb_option_table table = {
    .usage = "eval tasks --model DIR [OPTION]...",
    .summary =
        "Counts the problems that a model solves with dense attention and with other ways to\n"
        "attend, and says what each takes: steps, those that reuse, keys read, rows computed,\n"
        "attention time on one core.",
    FB_TABLE_OPTIONS(options),
};

/* --- state ------------------------------------------------------------------------------------ */

/* One thread: a model of its own, as a model runs one pass at a time. Their weights are those of
 * the first. */
typedef struct solver {
    fb_model *model;
    fb_task_trial trial;
    int32_t *written; /* [tokens] */
} solver;

typedef struct evaluation {
    const settings *given;
    fb_task_policy_list policies; /* dense, then those given */
    fb_tokenizer *tokenizer;
    solver *solvers; /* [num_solvers] */
    size_t num_solvers;
    fb_task_suite suite; /* of the cell at hand, as all that follow */
    fb_task_cell cell;
    fb_task_record *records;
    atomic_size_t done; /* texts */
    atomic_bool failed;
    fb_status status; /* the first failure */
    char error[TASK_ERROR];
    fb_task_panel panels[MAX_SUITES * FB_NUMBER_LIST_MAX];
    size_t num_panels;
    fb_buffer cells_text, replies_text;
    fb_json_writer cells, replies; /* fragments */
} evaluation;

/* Dense attention comes first, whether it is named or not. */
static void choose_policies(evaluation *e) {
    const fb_task_policy_list *given = &e->given->policies;
    e->policies.count = 1;
    snprintf(e->policies.choices[0].name, FB_TASK_POLICY_NAME, "dense");
    for (size_t i = 0; i < given->count; i++) {
        fb_task_policy_choice choice = given->choices[i];
        choice.sparse.choosing.block_keys = e->given->key_block;
        bool dense = !choice.is_sparse && choice.policy.reuse.tau == 0 && !choice.tau_is_block;
        if (!dense && e->policies.count < FB_TASK_POLICY_LIST_MAX)
            e->policies.choices[e->policies.count++] = choice;
    }
}

static fb_status prepare(evaluation *e) {
    const settings *given = e->given;
    FB_TRY(fb_number_list_check(&given->block_sizes, "block-size", 1, 1 << 16));
    if (given->plot)
        FB_TRY(fb_gnuplot_check(given->plot, "--plot"));
    FB_TRY(fb_isa_choice_set(given->threads, given->isa));
    choose_policies(e);
    FB_TRY(fb_tokenizer_load(given->model, &e->tokenizer));
    fb_print_tokenizer_warnings(e->tokenizer);
    size_t threads = (size_t)fb_num_threads();
    e->num_solvers = threads < MAX_THREADS ? threads : MAX_THREADS;
    FB_TRY(fb_alloc_zeroed(e->num_solvers, sizeof *e->solvers, "threads", &e->solvers));
    fb_model_options how;
    fb_model_options_init(&how);
    how.read_weights = given->no_mmap;
    how.float_activations = given->float_activations;
    FB_TRY(fb_model_load_with(given->model, &how, &e->solvers[0].model));
    for (size_t i = 0; i < e->num_solvers; i++) {
        if (i > 0)
            FB_TRY(fb_model_share(e->solvers[0].model, &e->solvers[i].model));
        FB_TRY(
            fb_alloc(given->tokens, sizeof(int32_t), "tokens of a reply", &e->solvers[i].written));
    }
    fb_print_model_warnings(e->solvers[0].model);
    fb_json_writer like = fb_json_output(&e->cells_text);
    e->cells = fb_json_fragment_to(&e->cells_text, &like, 1);
    e->replies = fb_json_fragment_to(&e->replies_text, &like, 1);
    return FB_OK;
}

/* --- problems --------------------------------------------------------------------------------- */

/* Token ids of a text and a prompt after it. */
static fb_status encode(const evaluation *e, const char *text, const char *prompt, int32_t **tokens,
                        size_t *count) {
    fb_buffer joined = {0};
    fb_status status = fb_buffer_append_text(&joined, text);
    if (status == FB_OK)
        status = fb_buffer_append_text(&joined, prompt);
    if (status == FB_OK)
        status = fb_tokenizer_encode(e->tokenizer, (const char *)joined.data, joined.size,
                                     FB_ADDED_SPECIAL_AS_TEXT, tokens, count);
    fb_buffer_free(&joined);
    return status;
}

/* One policy on the problem that was read. `dense` keeps what the first of them wrote. */
static fb_status run_policy(evaluation *e, solver *s, size_t policy, const fb_task *task,
                            fb_buffer *dense, fb_task_record *record) {
    fb_task_outcome outcome = {.tokens = s->written};
    fb_task_policy how = fb_task_policy_of(&e->policies.choices[policy], e->cell.block_size);
    FB_TRY(fb_task_trial_run(&s->trial, &how, &outcome));
    char *text = NULL;
    size_t length = 0, bytes = outcome.num_tokens * sizeof *outcome.tokens;
    FB_TRY(fb_tokenizer_decode(e->tokenizer, outcome.tokens, outcome.num_tokens, false, &text,
                               &length));
    *record = (fb_task_record){.right = fb_task_is_right(task, text, length),
                               .tokens = outcome.num_tokens,
                               .steps = outcome.steps,
                               .reuses = outcome.reuses,
                               .passes = outcome.passes,
                               .external_rows = outcome.external_rows,
                               .keys = outcome.keys,
                               .seconds = outcome.seconds};
    if (e->given->texts)
        record->text = text;
    else
        fb_text_free(text);
    if (policy == 0)
        FB_TRY(fb_buffer_append(dense, outcome.tokens, bytes));
    record->equal =
        dense->size == bytes && (bytes == 0 || memcmp(dense->data, outcome.tokens, bytes) == 0);
    return FB_OK;
}

static fb_status solve(evaluation *e, solver *s, const fb_task_text *text, size_t index) {
    const fb_task *task = &text->tasks[index];
    fb_task_record *records = &e->records[(text->first + index) * e->policies.count];
    int32_t *tokens = NULL;
    size_t count = 0;
    fb_buffer dense = {0};
    FB_TRY(encode(e, text->text, task->prompt, &tokens, &count));
    fb_status status = fb_task_trial_read(&s->trial, tokens, count);
    fb_token_ids_free(tokens);
    for (size_t i = 0; status == FB_OK && i < e->policies.count; i++)
        status = run_policy(e, s, i, task, &dense, &records[i]);
    fb_buffer_free(&dense);
    return status;
}

static void keep_failure(evaluation *e, fb_status status) {
    if (atomic_exchange(&e->failed, true))
        return;
    snprintf(e->error, sizeof e->error, "%s", fb_error_message());
    e->status = status;
}

/* Texts first .. end - 1 and their problems, on one thread. */
static void solve_texts(void *context, size_t first, size_t end, size_t worker) {
    evaluation *e = context;
    solver *s = &e->solvers[worker];
    for (size_t i = first; i < end; i++) {
        const fb_task_text *text = &e->suite.texts[i];
        for (size_t j = 0; j < text->num_tasks && !atomic_load(&e->failed); j++) {
            fb_status status = solve(e, s, text, j);
            if (status != FB_OK)
                keep_failure(e, status);
        }
        size_t done = atomic_fetch_add(&e->done, 1) + 1;
        if (worker == 0)
            fb_progress_often("%s, blocks of %zu: text %zu of %zu", e->cell.suite,
                              e->cell.block_size, done, e->suite.num_texts);
    }
}

/* --- a cell ----------------------------------------------------------------------------------- */

static fb_status keep_panel(evaluation *e) {
    if (!e->given->plot || e->num_panels == sizeof e->panels / sizeof e->panels[0])
        return FB_OK;
    fb_task_panel *panel = &e->panels[e->num_panels];
    FB_TRY(fb_alloc(e->policies.count, sizeof *panel->results, "a picture", &panel->results));
    e->num_panels++;
    fb_task_cell_title(&e->cell, panel->title);
    panel->policies = &e->policies;
    for (size_t i = 0; i < e->policies.count; i++)
        panel->results[i] = fb_task_result_of(&e->cell, i);
    return FB_OK;
}

static fb_status finish_cell(evaluation *e) {
    e->cell.records = e->records;
    fb_progress_end();
    if (!fb_is_stdout(e->given->json)) {
        fb_task_cell_print(&e->cell);
        fflush(stdout);
    }
    fb_task_cell_put(&e->cells, &e->cell);
    fb_task_cell_put_replies(&e->replies, &e->cell);
    return keep_panel(e);
}

static fb_status run_cell(evaluation *e, size_t block_size, bool one_a_token) {
    const settings *given = e->given;
    fb_generate_options decoding;
    fb_generate_options_init(&decoding);
    decoding.block_size = block_size;
    decoding.max_tokens = given->tokens;
    decoding.kv_dtype = given->kv_dtype;
    decoding.confidence_threshold = one_a_token ? 1.0 : given->confidence_threshold;
    e->cell.block_size = block_size;
    e->cell.one_a_token = one_a_token;
    e->cell.num_tasks = e->suite.num_tasks;
    e->cell.policies = &e->policies;
    fb_progress("%s, blocks of %zu, %s: %zu problems in %zu ways", e->cell.suite, block_size,
                one_a_token ? "one token a step" : "threshold", e->suite.num_tasks,
                e->policies.count);
    for (size_t i = 0; i < e->num_solvers; i++)
        FB_TRY(fb_task_trial_create(e->solvers[i].model, &decoding, &e->solvers[i].trial));
    FB_TRY(fb_alloc_zeroed(e->suite.num_tasks * e->policies.count, sizeof *e->records, "results",
                           &e->records));
    atomic_store(&e->done, 0);
    fb_parallel_for(e->suite.num_texts, 1, e->num_solvers, solve_texts, e);
    if (atomic_load(&e->failed))
        return fb_fail(e->status, "%s", e->error);
    return finish_cell(e);
}

static void end_cell(evaluation *e) {
    for (size_t i = 0; e->solvers && i < e->num_solvers; i++)
        fb_task_trial_free(&e->solvers[i].trial);
    for (size_t i = 0; e->records && i < e->suite.num_tasks * e->policies.count; i++)
        fb_text_free(e->records[i].text);
    fb_free(e->records);
    e->records = NULL;
}

static fb_status run_suite(evaluation *e, const char *name, const char *path) {
    const settings *given = e->given;
    FB_TRY(fb_task_suite_load(path, given->count, &e->suite));
    e->cell.suite = name;
    fb_status status = FB_OK;
    for (size_t i = 0; status == FB_OK && i < given->block_sizes.count; i++)
        for (int one = 1; status == FB_OK && one >= 0; one--) {
            if (one ? !given->steps.one_a_token : !given->steps.threshold)
                continue;
            status = run_cell(e, given->block_sizes.values[i], one != 0);
            end_cell(e);
        }
    fb_task_suite_free(&e->suite);
    return status;
}

/* --- all of it -------------------------------------------------------------------------------- */

static fb_status path_of(const evaluation *e, const char *name, char **path) {
    char file[3 * SUITE_NAME], *folder = NULL;
    snprintf(file, sizeof file, "%s.jsonl", name);
    if (e->given->problems)
        return fb_path_join(e->given->problems, file, path);
    FB_TRY(fb_path_join(e->given->model, "tasks", &folder));
    fb_status status = fb_path_join(folder, file, path);
    fb_free(folder);
    return status;
}

/* The suite of a name as it is, or one for each context. */
static fb_status run_named(evaluation *e, const char *name) {
    const fb_number_list *contexts = &e->given->contexts;
    char *path = NULL;
    FB_TRY(path_of(e, name, &path));
    bool single = fb_file_exists(path);
    fb_status status = single ? run_suite(e, name, path) : FB_OK;
    fb_free(path);
    for (size_t i = 0; !single && status == FB_OK && i < contexts->count; i++) {
        char longer[2 * SUITE_NAME];
        size_t context = contexts->values[i];
        bool whole = context % 1024 == 0;
        snprintf(longer, sizeof longer, "%s-%zu%s", name, whole ? context / 1024 : context,
                 whole ? "k" : "");
        status = path_of(e, longer, &path);
        if (status == FB_OK)
            status = run_suite(e, longer, path);
        fb_free(path);
    }
    return status;
}

static fb_status write_json(evaluation *e) {
    const settings *given = e->given;
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_isa isa;
    FB_TRY(fb_isa_current(&isa));
    fb_json_open_object(&w, NULL);
    fb_json_put_string(&w, "version", fb_version());
    fb_json_put_text(&w, "model", given->model);
    fb_json_put_string(&w, "instruction_set", fb_isa_name(isa));
    fb_json_put_size(&w, "threads", e->num_solvers);
    fb_json_put_double(&w, "confidence_threshold", given->confidence_threshold);
    fb_json_put_size(&w, "key_block", given->key_block);
    fb_json_put_size(&w, "tokens", given->tokens);
    fb_json_put_string(&w, "kv_dtype", fb_dtype_name(given->kv_dtype));
    fb_json_put_array_of(&w, "cells", &e->cells);
    if (given->texts)
        fb_json_put_array_of(&w, "replies", &e->replies);
    fb_json_close_object(&w);
    return fb_write_json(&w, given->json);
}

static fb_status evaluate(evaluation *e) {
    FB_TRY(prepare(e));
    for (size_t i = 0; i < e->given->suites.count; i++)
        FB_TRY(run_named(e, e->given->suites.names[i]));
    if (!fb_is_stdout(e->given->json))
        puts("\nright: answers, +- their standard error; lost, won: right with dense attention "
             "only, with the policy\nonly; equal: whole texts, to dense attention's; steps: "
             "denoising steps a token; keys: external keys\nread, rows: external rows computed, by "
             "dense; attention: time on one core a problem, and by dense.");
    if (e->given->plot)
        FB_TRY(fb_task_plot(e->given->plot, e->panels, e->num_panels));
    return e->given->json ? write_json(e) : FB_OK;
}

static void free_evaluation(evaluation *e) {
    for (size_t i = e->solvers ? e->num_solvers : 0; i-- > 0;) { /* the owner of weights last */
        fb_task_trial_free(&e->solvers[i].trial);
        fb_model_destroy(e->solvers[i].model);
        fb_free(e->solvers[i].written);
    }
    fb_free(e->solvers);
    for (size_t i = 0; i < e->num_panels; i++)
        fb_free(e->panels[i].results);
    fb_tokenizer_destroy(e->tokenizer);
    fb_buffer_free(&e->cells_text);
    fb_buffer_free(&e->replies_text);
}

int fb_command_eval_tasks(int argc, char **argv) {
    static settings given; /* its list of policies is large */
    given.isa = FB_ISA_CHOICE_CURRENT;
    int exit_status;
    if (!fb_options_parse(&table, argc, argv, &given, &exit_status))
        return exit_status;
    static evaluation e;
    e.given = &given;
    fb_status status = evaluate(&e);
    fb_progress_end();
    free_evaluation(&e);
    return fb_report_status(status);
}

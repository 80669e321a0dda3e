/* flashblock eval sparse: what sparse attention, residual reuse and FlashBlock change, on held-out
 * text.
 */
#include "base/error.h"
#include "base/memory.h"
#include "cli/commands.h"
#include "cli/eval/known_text.h"
#include "cli/generate/session.h"
#include "cli/options/common_options.h"
#include "cli/options/isa_choice.h"
#include "cli/options/number_list.h"
#include "cli/options/options.h"
#include "cli/options/selector_names.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "study/eval.h"

#include <flashblock/experimental/sparse.h>

#include <stdio.h>
#include <string.h>

/* The command line. */
typedef struct settings {
    const char *model, *text, *json;
    fb_selector_list selectors; /* none: all */
    fb_number_list percents, taus;
    size_t context, blocks, windows, key_block, block_size, denoising_steps, threads;
    fb_remasking remasking;
    double confidence_threshold;
    bool select_every_step, no_sparse, no_mmap, float_activations;
    int isa;
} settings;

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option options[] = {
    {.kind = FB_OPTION_GROUP, .help = "Model and text"},
    FB_MODEL_OPTION(settings, model, "a Hugging Face directory, as for flashblock generate"),
    FB_NO_MMAP_OPTION(settings, no_mmap),
    FB_ACTIVATIONS_OPTION(settings, float_activations),
    {.kind = FB_OPTION_STRING,
     .name = "text",
     .letter = 'f',
     .argument = "FILE",
     TARGET(text),
     .required = true,
     .help = "text that the model was not trained on"},
    {.kind = FB_OPTION_SIZE,
     .name = "context",
     .argument = "N",
     TARGET(context),
     .min = 0,
     .max = 1 << 24,
     .otherwise = "1024",
     .help = "tokens of the text before a window's first block, a multiple of the block size"},
    FB_COUNT_OPTION(settings, blocks, "blocks", 1 << 20, "8",
                    "blocks of a window, each denoised after the true text before it"),
    FB_COUNT_OPTION(settings, windows, "windows", 1 << 20, "4",
                    "windows at most, spread over the text"),

    {.kind = FB_OPTION_GROUP, .help = "What is compared with dense attention"},
    {.kind = FB_OPTION_PARSED,
     .name = "selectors",
     .needs = "!no-sparse",
     .argument = "LIST",
     TARGET(selectors),
     .parse = fb_selector_list_parse,
     .help = "names as of flashblock generate --sparse, such as quest,mage (default: all)"},
    {.kind = FB_OPTION_FLAG,
     .name = "no-sparse",
     TARGET(no_sparse),
     .help = "FlashBlock only, no selector"},
    {.kind = FB_OPTION_PARSED,
     .name = "density",
     .needs = "!no-sparse",
     .argument = "LIST",
     TARGET(percents),
     .parse = fb_number_list_parse,
     .otherwise = "10,20,30,40,60",
     .help = "shares of the key blocks to select, in percent"},
    FB_LIST_OPTION(settings, taus, "tau", fb_number_list_parse, "2,3,4",
                   "of residual reuse, and of FlashBlock without a selector"),
    {.kind = FB_OPTION_SIZE,
     .name = "key-block",
     .needs = "!no-sparse",
     .argument = "N",
     TARGET(key_block),
     .min = 16,
     .max = 1 << 20,
     .otherwise = "16",
     .help = "tokens of a key block, a multiple of 16"},
    {.kind = FB_OPTION_FLAG,
     .name = "select-every-step",
     .needs = "!no-sparse",
     TARGET(select_every_step),
     .help = "with a residual: select anew at every step; another selection is a refresh"},

    {.kind = FB_OPTION_GROUP, .help = "Denoising"},
    FB_BLOCK_SIZE_OPTION(settings, block_size),
    FB_DENOISING_STEPS_OPTION(settings, denoising_steps),
    FB_REMASKING_OPTION(settings, remasking,
                        "which proposed tokens a step accepts, as for flashblock generate"),
    FB_CONFIDENCE_OPTION(settings, confidence_threshold),

    {.kind = FB_OPTION_GROUP, .help = "Machine and output"},
    FB_THREADS_OPTION(settings, threads, "threads (default: OMP_NUM_THREADS, or one for each CPU)"),
    FB_ONE_ISA_OPTION(settings, isa),
    FB_JSON_OPTION(settings, json,
                   "write all numbers as JSON to FILE; without FILE, or with \"-\", to "
                   "standard output instead of the table"),
};

static const fb_option_table table = {
    .usage = "eval sparse --model DIR --text FILE [OPTION]...",
    .summary =
        "Measures what sparse attention, residual reuse and FlashBlock change in what a model\n"
        "writes: blocks of a known text are denoised greedily, each after the true text before\n"
        "it, densely and in every other way.",
    FB_TABLE_OPTIONS(options),
};

/* --- the policies ------------------------------------------------------------------------------
 */

/* One line of the table. */
typedef struct method {
    const char *selector; /* NULL: FlashBlock without a selector */
    size_t percent, tau;  /* tau 0: no residual kept */
    fb_sparse_options sparse;
    fb_eval_policy policy;
} method;

typedef struct evaluation {
    const settings *given;
    fb_session session;
    fb_eval_options options;
    fb_selector_list selectors;
    method *methods;
    size_t num_methods;
    fb_eval_policy *policies; /* [num_methods] */
    fb_eval_result *results;  /* [num_methods]; the first is dense attention's own */
    double *layer_errors;     /* [num_methods, num_layers] */
    size_t num_layers;
} evaluation;

static void choose_selectors(evaluation *e) {
    fb_selector_list *list = &e->selectors;
    *list = e->given->selectors;
    if (list->count > 0 || e->given->no_sparse)
        return;
    while (list->count < FB_SELECTOR_LIST_MAX && fb_selector_name_at(list->count)) {
        list->names[list->count] = fb_selector_name_at(list->count);
        list->count++;
    }
}

static method *add_method(evaluation *e, const char *selector, size_t percent, size_t tau) {
    method *m = &e->methods[e->num_methods++];
    *m = (method){.selector = selector, .percent = percent, .tau = tau};
    m->policy.reuse.tau = tau;
    return m;
}

static void add_sparse(evaluation *e, const char *selector, size_t percent, size_t tau,
                       fb_residual residual) {
    method *m = add_method(e, selector, percent, tau);
    fb_sparse_options_init(&m->sparse);
    m->sparse.selector = selector;
    m->sparse.choosing.block_keys = e->given->key_block;
    m->sparse.density = (double)percent / 100.0;
    m->sparse.residual = residual;
    m->sparse.select_every_step = e->given->select_every_step;
}

static bool has_centroids(const evaluation *e, const char *selector) {
    fb_selector_options choosing;
    fb_selector_options_init(&choosing);
    choosing.num_layers = e->num_layers;
    choosing.block_keys = e->given->key_block;
    fb_selector *made = NULL;
    bool has = fb_selector_create(selector, &choosing, &made) == FB_OK &&
               fb_selector_can_approximate(made);
    fb_selector_destroy(made);
    return has;
}

/* Dense attention itself, FlashBlock, then each selector at each density. */
static void add_methods(evaluation *e) {
    const fb_number_list *taus = &e->given->taus, *percents = &e->given->percents;
    add_method(e, NULL, 100, 0);
    for (size_t t = 0; t < taus->count; t++)
        add_method(e, NULL, 0, taus->values[t]);
    for (size_t s = 0; s < e->selectors.count; s++)
        for (size_t p = 0; p < percents->count; p++) {
            const char *name = e->selectors.names[s];
            add_sparse(e, name, percents->values[p], 0, FB_RESIDUAL_NONE);
            if (has_centroids(e, name))
                add_sparse(e, name, percents->values[p], 0, FB_RESIDUAL_CENTROIDS);
            for (size_t t = 0; t < taus->count; t++)
                add_sparse(e, name, percents->values[p], taus->values[t], FB_RESIDUAL_CACHED);
        }
}

static fb_status make_methods(evaluation *e) {
    choose_selectors(e);
    size_t most = (1 + e->selectors.count * e->given->percents.count) * (2 + e->given->taus.count);
    FB_TRY(fb_alloc_zeroed(most, sizeof *e->methods, "methods", &e->methods));
    FB_TRY(fb_alloc_zeroed(most, sizeof *e->policies, "methods", &e->policies));
    FB_TRY(fb_alloc_zeroed(most, sizeof *e->results, "methods", &e->results));
    FB_TRY(fb_alloc_zeroed(most, e->num_layers * sizeof(double), "errors", &e->layer_errors));
    add_methods(e);
    for (size_t i = 0; i < e->num_methods; i++) {
        method *m = &e->methods[i];
        m->policy.sparse = m->selector ? &m->sparse : NULL;
        e->policies[i] = m->policy;
        e->results[i].layer_errors = e->layer_errors + i * e->num_layers;
    }
    return FB_OK;
}

/* --- results -----------------------------------------------------------------------------------
 */

static const char *residual_text(const method *m, char *text, size_t size) {
    if (m->selector && m->sparse.residual == FB_RESIDUAL_CENTROIDS)
        return "centroids";
    if (m->tau == 0)
        return "-";
    snprintf(text, size, "tau %zu", m->tau);
    return text;
}

static const char *name_of(const method *m) {
    if (m->selector)
        return m->selector;
    return m->tau ? "flashblock" : "dense";
}

/* The same selector and density without a residual; NULL where there is none. */
static const fb_eval_result *without_residual(const evaluation *e, size_t i) {
    const method *m = &e->methods[i];
    if (!m->selector || m->sparse.residual == FB_RESIDUAL_NONE)
        return NULL;
    while (e->methods[--i].sparse.residual != FB_RESIDUAL_NONE) {
    }
    return &e->results[i];
}

static void print_method(const evaluation *e, size_t i) {
    const method *m = &e->methods[i];
    const fb_eval_result *r = &e->results[i], *without = without_residual(e, i);
    char residual[32];
    printf("%-12s", name_of(m));
    if (m->selector)
        printf("%5zu %%", m->percent);
    else
        printf("%7s", "-");
    printf("  %-10s%8.1f %%%9.1f %%%8.1f %%%12.5f%10.4f",
           residual_text(m, residual, sizeof residual), 100 * fb_eval_keys(r),
           100 * fb_eval_agreement(r), 100 * fb_eval_accuracy(r), fb_eval_divergence(r),
           fb_eval_error(r, e->num_layers));
    if (without)
        printf("%9.0f %%%7.0f %%", 100 * fb_eval_won_agreement(r, without),
               100 * fb_eval_won_divergence(r, without));
    putchar('\n');
}

static void print_table(const evaluation *e) {
    const fb_eval_result *dense = &e->results[0];
    printf(
        "%zu blocks of %zu tokens, %zu steps; contexts of %zu to %zu tokens; key blocks of %zu\n\n",
        dense->tokens / e->options.generate.block_size, e->options.generate.block_size,
        dense->steps, e->options.context,
        e->options.context + (e->options.blocks - 1) * e->options.generate.block_size,
        e->given->key_block);
    printf("%-12s%7s  %-10s%10s%11s%10s%12s%10s%19s\n", "", "density", "residual", "keys",
           "agreement", "accuracy", "KL, nats", "error", "won back: agr., KL");
    for (size_t i = 0; i < e->num_methods; i++)
        print_method(e, i);
    puts("\nkeys: earlier keys attended, by dense attention's; agreement: tokens equal to dense "
         "attention's;\naccuracy: equal to the text's; KL: dense predictions against these; error: "
         "of attention's\noutput, mean of layers; won back: by the residual, of what the selector "
         "alone loses.");
}

static void put_method(fb_json_writer *w, const evaluation *e, size_t i) {
    const method *m = &e->methods[i];
    const fb_eval_result *r = &e->results[i], *without = without_residual(e, i);
    fb_json_open_object(w, NULL);
    fb_json_put_string(w, "method", name_of(m));
    fb_json_put_double(w, "density", (double)m->percent / 100.0);
    fb_json_put_size(w, "tau", m->tau);
    fb_json_put_string(w, "residual", m->selector ? fb_residual_name(m->sparse.residual) : "none");
    fb_json_put_size(w, "tokens", r->tokens);
    fb_json_put_size(w, "agreeing", r->agreeing);
    fb_json_put_size(w, "correct", r->correct);
    fb_json_put_size(w, "steps", r->steps);
    fb_json_put_double(w, "agreement", fb_eval_agreement(r));
    fb_json_put_double(w, "accuracy", fb_eval_accuracy(r));
    fb_json_put_double(w, "divergence", fb_eval_divergence(r));
    fb_json_put_double(w, "keys", fb_eval_keys(r));
    fb_json_put_size(w, "forced_refreshes", r->forced_refreshes);
    fb_json_open_array(w, "layer_errors");
    for (size_t layer = 0; layer < e->num_layers; layer++)
        fb_json_put_double(w, NULL, r->layer_errors[layer]);
    fb_json_close_array(w);
    if (without) {
        fb_json_put_double(w, "won_back_agreement", fb_eval_won_agreement(r, without));
        fb_json_put_double(w, "won_back_divergence", fb_eval_won_divergence(r, without));
    }
    fb_json_close_object(w);
}

static fb_status write_json(const evaluation *e) {
    const fb_generate_options *g = &e->options.generate;
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_json_open_object(&w, NULL);
    fb_json_put_text(&w, "model", e->given->model);
    fb_json_put_text(&w, "text", e->given->text);
    fb_json_put_size(&w, "context", e->options.context);
    fb_json_put_size(&w, "blocks", e->options.blocks);
    fb_json_put_size(&w, "windows", e->results[0].tokens / g->block_size / e->options.blocks);
    fb_json_put_size(&w, "block_size", g->block_size);
    fb_json_put_size(&w, "denoising_steps", g->denoising_steps);
    fb_json_put_size(&w, "key_block", e->given->key_block);
    fb_json_put_string(&w, "remasking", fb_remasking_name(g->remasking));
    fb_json_put_double(&w, "confidence_threshold", g->confidence_threshold);
    fb_json_put_bool(&w, "select_every_step", e->given->select_every_step);
    fb_json_open_array(&w, "methods");
    for (size_t i = 0; i < e->num_methods; i++)
        put_method(&w, e, i);
    fb_json_close_array(&w);
    fb_json_close_object(&w);
    return fb_write_json(&w, e->given->json);
}

/* --- the run -----------------------------------------------------------------------------------
 */

static void show_progress(void *user, size_t done, size_t blocks) {
    const evaluation *e = user;
    if (done % e->options.blocks == 0 || done == 1)
        fb_progress("block %zu of %zu, in %zu ways", done, blocks, e->num_methods);
}

static fb_status prepare(evaluation *e) {
    const settings *given = e->given;
    FB_TRY(fb_number_list_check(&given->percents, "density", 0, 100));
    FB_TRY(fb_isa_choice_set(given->threads, given->isa));
    FB_TRY(fb_session_load(&e->session, given->model, given->no_mmap, given->float_activations));
    e->num_layers = fb_model_config_of(e->session.model)->num_hidden_layers;
    fb_generate_options_init(&e->session.options);
    e->session.options.block_size = given->block_size;
    e->session.options.denoising_steps = given->denoising_steps;
    e->session.options.remasking = given->remasking;
    e->session.options.confidence_threshold = given->confidence_threshold;
    FB_TRY(fb_session_resolve(&e->session));
    FB_TRY(make_methods(e));
    e->options = (fb_eval_options){.generate = e->session.options,
                                   .context = given->context,
                                   .blocks = given->blocks,
                                   .windows = given->windows,
                                   .on_block = show_progress,
                                   .user = e};
    return FB_OK;
}

static fb_status run(evaluation *e) {
    int32_t *tokens = NULL;
    size_t count = 0;
    FB_TRY(prepare(e));
    FB_TRY(fb_known_text_read(e->session.tokenizer, e->given->text, &tokens, &count));
    fb_status status = fb_eval_run(e->session.model, tokens, count, &e->options, e->policies,
                                   e->num_methods, e->results);
    fb_token_ids_free(tokens);
    fb_progress_end();
    FB_TRY(status);
    if (!fb_is_stdout(e->given->json))
        print_table(e);
    return e->given->json ? write_json(e) : FB_OK;
}

static int evaluate(const settings *given) {
    evaluation e = {.given = given};
    fb_status status = run(&e);
    fb_free(e.methods);
    fb_free(e.policies);
    fb_free(e.results);
    fb_free(e.layer_errors);
    fb_session_free(&e.session);
    return fb_report_status(status);
}

int fb_command_eval_sparse(int argc, char **argv) {
    settings given = {.isa = FB_ISA_CHOICE_CURRENT};
    int exit_status;
    if (fb_options_parse(&table, argc, argv, &given, &exit_status))
        exit_status = evaluate(&given);
    return exit_status;
}

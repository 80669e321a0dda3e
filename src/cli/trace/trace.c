/* flashblock trace: what each head's attention does at each denoising step, as files and pictures.
 */
#include "base/error.h"
#include "base/memory.h"
#include "cli/commands.h"
#include "cli/generate/generate_settings.h"
#include "cli/options/number_list.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/trace/html_report.h"
#include "cli/trace/report_files.h"
#include "cli/trace/report_plot.h"
#include "io/file.h"
#include "study/trace_tables.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The command line. */
typedef struct settings {
    fb_generate_settings generate;
    const char *output, *html;
    fb_number_list sweep;
    bool no_pictures;
} settings;

/* "none", or a list of tau. */
static fb_status parse_sweep(const char *text, void *list) {
    if (strcmp(text, "none") != 0)
        return fb_number_list_parse(text, list);
    *(fb_number_list *)list = (fb_number_list){0};
    return FB_OK;
}

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option option_list[] = {
    {.kind = FB_OPTION_GROUP, .help = "Trace"},
    {.kind = FB_OPTION_STRING,
     .name = "output",
     .letter = 'o',
     .argument = "DIR",
     TARGET(output),
     .help = "the folder of the files below, made if it is not there; files of an earlier trace in "
             "it are replaced, others stay"},
    {.kind = FB_OPTION_OUTPUT,
     .name = "html",
     .argument = "FILE",
     TARGET(html),
     .help = "write the recorded decodings, those of --sweep too, as one page for a browser: the "
             "text as it is denoised, the steps that refreshed or reused, each head's numbers"},
    {.kind = FB_OPTION_PARSED,
     .name = "sweep",
     .needs = "sweep=none|residual|!sparse",
     .argument = "T,T...",
     TARGET(sweep),
     .parse = parse_sweep,
     .otherwise = "0,1,2,3,4,5",
     .help = "decode again with each of these tau, for the error of reuse against tau; \"none\": "
             "do not"},
    {.kind = FB_OPTION_FLAG,
     .name = "no-pictures",
     .needs = "output",
     TARGET(no_pictures),
     .help = "write CSV and JSON only"},
    {.kind = FB_OPTION_FILE,
     .name = "json",
     .argument = "FILE",
     .target = offsetof(fb_generate_settings, json),
     .in_new_folder = true, /* the one that the trace is written to */
     .help = "write the summary as JSON to FILE, or to standard output instead of "
             "the tables"},
};

static const fb_option_table table = {
    .usage = "trace --model DIR (--prompt TEXT | --prompt-file FILE)... (-o DIR | --html FILE)... "
             "[OPTION]...",
    .summary =
        "Continues prompts as flashblock generate does, and records for every layer, head, block "
        "and\n"
        "denoising step: how far the external and the internal attention output turn from one step "
        "to\n"
        "the next, how the external log-sum-exp changes, what share of the softmax is external, "
        "what\n"
        "reuse did, and how far its result is from dense attention. -o writes into DIR:\n"
        "  trace.csv, trace.json           a line or an array for each step, layer and head\n"
        "  tau.csv                         the error of reuse for each tau of --sweep\n"
        "  stability.png, stability.svg    external beside internal similarity, by denoising step\n"
        "  heads.png, heads.svg            the same for each layer and head\n"
        "  mass.png, mass.svg              external share of the softmax, by context length\n"
        "  error.png, error.svg            error of reuse against tau\n"
        "Pictures are drawn by gnuplot.",
    .shared = &fb_generate_settings_options,
    FB_TABLE_OPTIONS(option_list),
};

/* --- decoding --------------------------------------------------------------------------------- */

/* A decoding that is being recorded, and shown as it goes on. */
typedef struct recording {
    fb_trace *trace;
    size_t tau;
    fb_html_report *html; /* NULL: none */
} recording;

static void on_attention(void *user, const fb_generate_attention_event *event) {
    recording *of = user;
    fb_trace_attention(of->trace, event);
}

static bool on_step(void *user, const fb_step_event *event) {
    recording *of = user;
    fb_progress_often("tau %zu: prompt %zu, block %zu, %zu steps recorded", of->tau,
                      event->sequence + 1, event->block + 1, of->trace->num_steps);
    bool goes_on = fb_trace_on_step(of->trace, event);
    if (goes_on && of->html)
        fb_html_report_put_pass(of->html, of->trace, event);
    return goes_on;
}

/* Decodes with `tau` and records it, also for the page if `html` is not NULL. The trace is the
 * caller's to free, also on error. */
static fb_status record(const fb_session *session, size_t tau, fb_html_report *html,
                        fb_trace *trace, fb_generation **generation) {
    FB_TRY(fb_trace_init(fb_model_config_of(session->model), session->options.block_size,
                         session->num_prompts, trace));
    recording of = {trace, tau, html};
    fb_generate_options options = session->options;
    options.reuse.tau = tau;
    if (tau == 0) /* dense, whatever else is said about reuse */
        options.reuse = (fb_reuse_policy){0};
    options.on_attention = on_attention;
    options.on_step = on_step;
    options.user = &of;
    fb_generation *result = NULL;
    if (html)
        fb_html_report_begin_run(html, tau);
    fb_status status =
        fb_generate(session->model, session->prompts, session->num_prompts, &options, &result);
    if (html)
        fb_html_report_end_run(html);
    if (status == FB_OK)
        status = trace->status;
    fb_progress_end();
    if (status != FB_OK) {
        fb_generation_destroy(result);
        return status;
    }
    fprintf(stderr, "tau %zu: %zu tokens, %zu steps recorded\n", tau,
            fb_generation_stats(result)->counts->completion_tokens, trace->num_steps);
    *generation = result;
    return FB_OK;
}

/* The page has the decoding with the session's own tau already. */
static fb_status sweep(const fb_session *session, const fb_number_list *list, fb_html_report *html,
                       fb_trace_tau *taus) {
    for (size_t i = 0; i < list->count; i++) {
        fb_trace trace = {0};
        fb_generation *generation = NULL;
        bool is_recorded = list->values[i] == session->options.reuse.tau;
        fb_status status =
            record(session, list->values[i], is_recorded ? NULL : html, &trace, &generation);
        if (status == FB_OK)
            status = fb_trace_summarize_tau(&trace, list->values[i], &taus[i]);
        fb_generation_destroy(generation);
        fb_trace_free(&trace);
        FB_TRY(status);
    }
    return FB_OK;
}

/* --- files ------------------------------------------------------------------------------------ */

/* Called before anything is decoded, which may take long. */
static fb_status make_folder(const char *path) {
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return fb_fail(FB_ERROR_IO, "--output: cannot make %s: %s", path, strerror(errno));
    if (!fb_file_is_directory(path))
        return fb_fail(FB_ERROR_IO, "--output: %s is not a directory", path);
    if (access(path, W_OK | X_OK) != 0)
        return fb_fail(FB_ERROR_IO, "--output: cannot write into %s: %s", path, strerror(errno));
    return FB_OK;
}

/* What is done with each file of a trace. */
typedef fb_status path_fn(const char *path);

static fb_status for_file(const char *directory, const char *name, const char *ending,
                          path_fn *each) {
    char file[64];
    snprintf(file, sizeof file, "%s%s", name, ending);
    char *path = NULL;
    FB_TRY(fb_path_join(directory, file, &path));
    fb_status status = each(path);
    fb_free(path);
    return status;
}

static fb_status for_tables(const char *directory, path_fn *each) {
    FB_TRY(for_file(directory, FB_TRACE_CSV, "", each));
    FB_TRY(for_file(directory, FB_TRACE_JSON, "", each));
    return for_file(directory, FB_TRACE_TAU_CSV, "", each);
}

static fb_status for_pictures(const char *directory, path_fn *each) {
    for (size_t i = 0; i < FB_TRACE_REPORT_PICTURES; i++) {
        FB_TRY(for_file(directory, fb_trace_report_picture_names[i], ".png", each));
        FB_TRY(for_file(directory, fb_trace_report_picture_names[i], ".svg", each));
    }
    return FB_OK;
}

/* Called before anything is decoded. */
static fb_status check_files(const settings *given) {
    if (given->output) {
        FB_TRY(make_folder(given->output));
        FB_TRY(for_tables(given->output, fb_file_check_writable));
        if (!given->no_pictures)
            FB_TRY(for_pictures(given->output, fb_file_check_writable));
    }
    const char *json = given->generate.json;
    return json ? fb_file_check_writable(fb_output_path(json)) : FB_OK;
}

typedef fb_status write_fn(const fb_trace_report *report, const char *path);

static fb_status write_into(const char *directory, const char *name, write_fn *write,
                            const fb_trace_report *report) {
    char *path = NULL;
    FB_TRY(fb_path_join(directory, name, &path));
    fb_status status = write(report, path);
    fb_free(path);
    return status;
}

static fb_status write_files(const fb_trace_report *report, const settings *given) {
    /* Those of an earlier trace that are not written again must not stay. */
    FB_TRY(for_tables(given->output, fb_file_batch_remove));
    FB_TRY(for_pictures(given->output, fb_file_batch_remove));
    FB_TRY(write_into(given->output, FB_TRACE_CSV, fb_trace_report_write_csv, report));
    FB_TRY(write_into(given->output, FB_TRACE_JSON, fb_trace_report_write_json, report));
    if (report->num_taus > 0)
        FB_TRY(write_into(given->output, FB_TRACE_TAU_CSV, fb_trace_report_write_tau_csv, report));
    if (given->no_pictures)
        return FB_OK;
    FB_TRY(fb_file_batch_end()); /* numbers are whole without pictures */
    fb_file_batch_begin();
    fb_status status = fb_trace_report_draw(report, given->output);
    if (status == FB_ERROR_UNSUPPORTED)
        return fb_fail(status,
                       "there is no gnuplot to draw with (Debian: gnuplot-nox); CSV and "
                       "JSON are in %s",
                       given->output);
    return status;
}

/* --- tables ----------------------------------------------------------------------------------- */

static void print_number(int width, int digits, double number) {
    if (isnan(number))
        printf("%*s", width, "-");
    else
        printf("%*.*f", width, digits, number);
}

static void print_steps(const fb_trace_table *steps) {
    printf("step  similarity: external  internal  LSE change  external mass  error of reuse\n");
    for (size_t i = 0; i < fb_trace_table_count(steps); i++) {
        const double *row = fb_trace_table_row(steps, i);
        printf("%4.0f", row[0]);
        print_number(22, 3, row[1]);
        print_number(10, 3, row[2]);
        print_number(12, 3, row[3]);
        print_number(15, 3, row[4]);
        print_number(16, 4, row[5]);
        putchar('\n');
    }
}

static void print_taus(const fb_trace_report *report) {
    printf(
        "\n tau  steps  reuse  error of reuse: mean    median  90 %% below  of all steps: mean\n");
    for (size_t i = 0; i < report->num_taus; i++) {
        const fb_trace_tau *tau = &report->taus[i];
        printf("%4zu%7zu%7zu", tau->tau, tau->steps, tau->reuses);
        print_number(22, 4, tau->error.mean);
        print_number(10, 4, tau->error.median);
        print_number(12, 4, tau->error.p90);
        print_number(20, 4, tau->error_all);
        putchar('\n');
    }
}

static fb_status say(const fb_trace_report *report, const settings *given) {
    const char *json = given->generate.json;
    if (!fb_is_stdout(json) && !fb_is_stdout(given->html)) {
        fb_trace_table steps = {0};
        fb_status status = fb_trace_table_steps(report->trace, &steps);
        if (status == FB_OK)
            print_steps(&steps);
        fb_trace_table_free(&steps);
        FB_TRY(status);
        if (report->num_taus > 0)
            print_taus(report);
    }
    if (!json)
        return FB_OK;
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_json_open_object(&w, NULL);
    fb_trace_report_put_summary(&w, report);
    fb_json_close_object(&w);
    return fb_write_json(&w, json);
}

/* --- the whole -------------------------------------------------------------------------------- */

/* What a run keeps until its end. */
typedef struct kept {
    fb_session session;
    fb_trace trace;
    fb_generation *generation;
    fb_html_report html;
} kept;

static fb_status trace_session(kept *k, settings *given) {
    fb_trace_tau taus[FB_NUMBER_LIST_MAX];
    fb_session *session = &k->session;
    fb_html_report *html = given->html ? &k->html : NULL;
    FB_TRY(fb_generate_settings_prepare(session, &given->generate));
    FB_TRY(check_files(given));
    if (html)
        fb_html_report_begin(html, session);
    FB_TRY(record(session, session->options.reuse.tau, html, &k->trace, &k->generation));
    FB_TRY(sweep(session, &given->sweep, html, taus));
    fb_trace_report report = {session, k->generation, &k->trace, taus, given->sweep.count};
    FB_TRY(say(&report, given));
    if (html)
        FB_TRY(fb_html_report_write(html, fb_output_path(given->html)));
    return given->output ? write_files(&report, given) : FB_OK;
}

static const char *what_is_wrong(const settings *given) {
    if (!given->output && !given->html)
        return "--output DIR or --html FILE is missing";
    if (given->generate.json && fb_is_stdout(given->generate.json) && fb_is_stdout(given->html))
        return "--json and --html cannot both go to standard output";
    return fb_generate_settings_wrong(&given->generate);
}

static int run(settings *given) {
    const char *wrong = what_is_wrong(given);
    if (wrong) {
        fb_print_error("%s; see flashblock trace --help", wrong);
        return FB_EXIT_USAGE;
    }
    kept k = {0};
    fb_status status = trace_session(&k, given);
    fb_html_report_free(&k.html);
    fb_generation_destroy(k.generation);
    fb_trace_free(&k.trace);
    fb_session_free(&k.session);
    return fb_report_status(status);
}

int fb_command_trace(int argc, char **argv) {
    settings given = {.generate = fb_generate_settings_default()};
    int exit_status;
    if (fb_options_parse(&table, argc, argv, &given, &exit_status))
        exit_status = run(&given);
    fb_option_list_free(&given.generate.prompts);
    return exit_status;
}

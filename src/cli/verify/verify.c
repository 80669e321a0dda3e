/* flashblock verify: recomputes case files, and judges other implementations' results. */
#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "cli/commands.h"
#include "cli/options/common_options.h"
#include "cli/options/isa_choice.h"
#include "cli/options/options.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/verify/found_paths.h"
#include "io/file.h"
#include "oracle/candidate.h"
#include "oracle/kinds.h"
#include "oracle/report_json.h"
#include "oracle/report_text.h"

#include <flashblock/runtime.h>
#include <flashblock/version.h>

#include <stdio.h>
#include <string.h>

/* The command line. */
typedef struct settings {
    fb_option_list paths, kinds;
    const char *json, *candidate, *trajectory, *model, *states;
    fb_arithmetic precision;
    size_t threads;    /* 0: not given */
    int isa;           /* fb_isa_choice_parse */
    const char *cache; /* a folder; NULL: beside the case */
    bool verbose, partial, no_cache, float_activations;
} settings;

#define TRUTHS ".flashblock-truths"

static fb_status parse_precision(const char *text, void *target) {
    return fb_arithmetic_parse(text, target);
}

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option options[] = {
    {.kind = FB_OPTION_LIST,
     .name = "kind",
     .argument = "NAME",
     TARGET(kinds),
     .help = "only cases of this kind; may be given several times"},
    FB_ISA_OPTION(
        settings, isa, fb_isa_choice_parse,
        "the instruction set, or \"all\": each one that this machine has; without it, the one "
        "that `flashblock info` names"),
    FB_THREADS_OPTION(settings, threads, "threads; they change no result"),
    {.kind = FB_OPTION_FLAG,
     .name = "verbose",
     .letter = 'v',
     TARGET(verbose),
     .help = "every tensor, its worst element, and its scores, maximum and row sum; of a "
             "trajectory every difference"},
    {.kind = FB_OPTION_FILE,
     .name = "json",
     .argument = "FILE.json",
     TARGET(json),
     .ending = ".json",
     .help = "write everything as JSON to the file (of any name with --json=FILE), or to standard "
             "output instead of the text"},
    {.kind = FB_OPTION_STRING,
     .name = "candidate",
     .argument = "FILE",
     TARGET(candidate),
     .help = "judge these results of one case: .safetensors with the names of the case's results, "
             "or one .npy (out.npy, lse.npy)"},
    {.kind = FB_OPTION_STRING,
     .name = "trajectory",
     .needs = "model !candidate !kind",
     .argument = "FILE",
     TARGET(trajectory),
     .help = "judge the record of a whole decoding (docs/trajectory.md), in place of case files"},
    {.kind = FB_OPTION_STRING,
     .name = "model",
     .letter = 'm',
     .needs = "trajectory",
     .argument = "DIR",
     TARGET(model),
     .help = "the model of the trajectory, a Hugging Face directory"},
    {.kind = FB_OPTION_PARSED,
     .name = "activations",
     .needs = "trajectory",
     .argument = "TYPE",
     TARGET(float_activations),
     .parse = fb_option_parse_activations,
     .otherwise = "int8",
     .help = "what the model's quantised layers multiply: int8, or f32 and their weights in "
             "float32"},
    {.kind = FB_OPTION_OUTPUT,
     .name = "states",
     .needs = "trajectory",
     .argument = "FILE",
     TARGET(states),
     .help =
         "write to FILE (.safetensors) what this program computes on the record's tokens: hidden "
         "states, logits and parts of every pass"},
    {.kind = FB_OPTION_PARSED,
     .name = "precision",
     .needs = "candidate|trajectory",
     .argument = "NAME",
     TARGET(precision),
     .parse = parse_precision,
     .help = "what the candidate computes in: auto (found from its results; of a trajectory, as "
             "its record says), f32, tf32, tf32x3, bf16, f16, fp8"},
    {.kind = FB_OPTION_FLAG,
     .name = "partial",
     .needs = "candidate|trajectory",
     TARGET(partial),
     .help = "the candidate needs not have every required result; without it, a missing one makes "
             "it INCOMPLETE"},
    {.kind = FB_OPTION_STRING,
     .name = "cache",
     .needs = "candidate !no-cache",
     .argument = "DIR",
     TARGET(cache),
     .help = "keep truths that take long in this directory; without it, in " TRUTHS
             " beside the case, if files can be written there"},
    {.kind = FB_OPTION_FLAG,
     .name = "no-cache",
     .needs = "candidate",
     TARGET(no_cache),
     .help = "compute all truths, and keep none"},
};

static const fb_arguments arguments = {"PATH", 0, 0, offsetof(settings, paths)};

static const fb_option_table table = {
    .usage = "verify PATH... [OPTION]..., or verify --trajectory FILE --model DIR [OPTION]...",
    .summary =
        "Recomputes case files (docs/case-files.md describes them) and says how far this build\n"
        "and the file are from the truth; PATHs are files, and directories whose cases are all\n"
        "taken. With --candidate it judges another implementation's results of one case by the\n"
        "errors that a right kernel of its precision may have, and names known mistakes. With\n"
        "--trajectory it replays the record of a whole decoding, and says the first step that\n"
        "differs, and whether that is a tie or a mistake.",
    FB_TABLE_OPTIONS(options),
    .arguments = &arguments,
};

/* A run over all cases. */
typedef struct verification {
    const settings *chosen;
    fb_report_style style;
    fb_candidate *candidate; /* NULL: none */
    size_t counts[4];        /* by fb_outcome */
    fb_buffer cases_text;
    fb_json_writer cases; /* a fragment */
    bool heading;         /* shown */
    bool states_written;
    double begin;
} verification;

static void show(verification *v, const fb_report *report) {
    fb_progress_end();
    v->counts[report->outcome]++;
    fb_report_put_json(&v->cases, report);
    if (fb_is_stdout(v->chosen->json))
        return;
    if (v->chosen->trajectory) {
        fb_report_write_trajectory(stdout, report);
        return;
    }
    if (v->candidate) {
        fb_report_write_candidate(stdout, &v->style, report);
        return;
    }
    if (!v->heading)
        fb_report_write_heading(stdout, &v->style);
    v->heading = true;
    fb_report_write_case(stdout, &v->style, report);
}

static bool is_wanted(const fb_option_list *kinds, const char *kind) {
    for (size_t i = 0; i < kinds->count; i++)
        if (strcmp(kinds->values[i].text, kind) == 0)
            return true;
    return kinds->count == 0;
}

/* Whether the file is a case of a kind that is asked for. A file that cannot be read counts as one,
 * so that it fails. A file without a kind counts only where the command line names it. */
static bool is_case(const settings *chosen, const fb_found_path *path) {
    fb_case *c = NULL;
    if (fb_case_open(path->text, &c) != FB_OK)
        return true;
    const char *kind = fb_case_kind(c);
    bool taken = kind[0] ? is_wanted(&chosen->kinds, kind) : path->named;
    fb_case_close(c);
    return taken;
}

/* The folder of a case's truths; fb_free. */
static fb_status truths_of(const char *path, char **folder) {
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) + 1 : 0;
    FB_TRY(fb_alloc(length + sizeof TRUTHS, 1, "path", folder));
    memcpy(*folder, path, length);
    memcpy(*folder + length, TRUTHS, sizeof TRUTHS);
    return FB_OK;
}

/* One file under one instruction set. */
static fb_status verify_with(verification *v, const char *path, fb_outcome *outcome) {
    fb_verify_options how;
    char *truths = NULL;
    fb_report *report = NULL;
    fb_verify_options_init(&how);
    how.candidate = v->candidate;
    how.details = v->chosen->verbose;
    how.partial = v->chosen->partial;
    how.truths = v->chosen->cache;
    if (v->candidate && !v->chosen->cache && !v->chosen->no_cache) {
        FB_TRY(truths_of(path, &truths));
        how.truths = truths;
    }
    fb_status status = fb_verify_file(path, &how, &report);
    fb_free(truths);
    FB_TRY(status);
    *outcome = report->outcome;
    show(v, report);
    fb_report_destroy(report);
    return FB_OK;
}

static fb_status verify_trajectory(verification *v, fb_outcome *outcome) {
    fb_trajectory_options how;
    fb_report *report = NULL;
    fb_trajectory_options_init(&how);
    how.precision = v->chosen->precision;
    how.partial = v->chosen->partial;
    how.details = v->chosen->verbose;
    how.float_activations = v->chosen->float_activations;
    if (v->chosen->states && !v->states_written)
        how.states = fb_output_path(v->chosen->states);
    v->states_written = true; /* every instruction set gives the same bits */
    FB_TRY(fb_verify_trajectory(v->chosen->trajectory, v->chosen->model, &how, &report));
    *outcome = report->outcome;
    show(v, report);
    fb_report_destroy(report);
    return FB_OK;
}

static fb_status verify_path(verification *v, const char *path, fb_isa current) {
    fb_outcome outcome;
    for (int isa = 0; isa < FB_ISA_COUNT; isa++) {
        if (!fb_isa_choice_has(v->chosen->isa, current, (fb_isa)isa))
            continue;
        FB_TRY(fb_isa_select((fb_isa)isa));
        FB_TRY(path ? verify_with(v, path, &outcome) : verify_trajectory(v, &outcome));
        if (outcome == FB_SKIPPED)
            break; /* once is enough */
    }
    return FB_OK;
}

static fb_status verify_all(verification *v, const fb_found_paths *paths) {
    fb_isa current;
    FB_TRY(fb_isa_current(&current));
    if (v->chosen->trajectory)
        return verify_path(v, NULL, current);
    for (size_t i = 0; i < paths->count; i++) {
        if (fb_seconds() - v->begin > 1.0) /* short runs say nothing */
            fb_progress_often("%zu of %zu", i + 1, paths->count);
        if (fb_file_is_stream(paths->paths[i].text))
            return fb_fail(FB_ERROR_IO,
                           "%s: is not a file that can be read twice, as cases are; copy it into "
                           "one first",
                           paths->paths[i].text);
        if (is_case(v->chosen, &paths->paths[i]))
            FB_TRY(verify_path(v, paths->paths[i].text, current));
    }
    fb_progress_end();
    return FB_OK;
}

static void put_unused(fb_json_writer *w, const fb_candidate *candidate) {
    fb_json_open_array(w, "not_judged");
    for (size_t i = 0; i < fb_candidate_count(candidate); i++)
        if (fb_candidate_unused(candidate, i))
            fb_json_put_text(w, NULL, fb_candidate_unused(candidate, i));
    fb_json_close_array(w);
}

static fb_status write_json(const verification *v) {
    const settings *chosen = v->chosen;
    const char *isa = chosen->isa == FB_ISA_CHOICE_ALL       ? "all"
                      : chosen->isa == FB_ISA_CHOICE_CURRENT ? "default"
                                                             : fb_isa_name((fb_isa)chosen->isa);
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_json_open_object(&w, NULL);
    fb_json_put_string(&w, "version", fb_version());
    fb_json_put_string(&w, "isa", isa);
    fb_json_put_int64(&w, "threads", fb_num_threads());
    fb_json_put_array_of(&w, "cases", &v->cases);
    fb_json_open_object(&w, "totals");
    fb_json_put_size(&w, "passed", v->counts[FB_PASSED]);
    fb_json_put_size(&w, "failed", v->counts[FB_FAILED]);
    fb_json_put_size(&w, "skipped", v->counts[FB_SKIPPED]);
    fb_json_put_size(&w, "incomplete", v->counts[FB_INCOMPLETE]);
    fb_json_close_object(&w);
    if (v->candidate) {
        fb_json_put_text(&w, "candidate", chosen->candidate);
        put_unused(&w, v->candidate);
    }
    fb_json_close_object(&w);
    return fb_write_json(&w, chosen->json);
}

static int summarize(const verification *v) {
    size_t wrong = v->counts[FB_FAILED] + v->counts[FB_INCOMPLETE];
    size_t checked = v->counts[FB_PASSED] + wrong;
    if (!fb_is_stdout(v->chosen->json))
        printf("%zu passed, %zu failed, %zu skipped\n", v->counts[FB_PASSED], v->counts[FB_FAILED],
               v->counts[FB_SKIPPED]);
    if (v->chosen->json) {
        fb_status status = write_json(v);
        if (status != FB_OK)
            return fb_report_status(status);
    }
    if (checked == 0)
        fb_print_error("nothing was checked: no case%s was found",
                       v->chosen->kinds.count ? " of that kind" : "");
    return checked == 0 || wrong ? FB_EXIT_FAILED : FB_EXIT_OK;
}

/* One case file for a candidate. */
static int check_usage(const settings *chosen, const fb_found_paths *paths) {
    if (!chosen->trajectory && chosen->paths.count == 0) {
        fb_print_error("no PATH given; see flashblock verify --help");
        return FB_EXIT_USAGE;
    }
    if (chosen->trajectory && chosen->paths.count > 0) {
        fb_print_error("--trajectory: takes the place of case files, %zu are given",
                       chosen->paths.count);
        return FB_EXIT_USAGE;
    }
    if (chosen->candidate && (paths->count != 1 || !paths->paths[0].named)) {
        fb_print_error("--candidate: is judged by one case file, %zu are given", paths->count);
        return FB_EXIT_USAGE;
    }
    return FB_EXIT_OK;
}

static fb_status prepare(verification *v) {
    const settings *chosen = v->chosen;
    FB_TRY(fb_isa_choice_set(chosen->threads, FB_ISA_CHOICE_CURRENT));
    if (!chosen->candidate)
        return FB_OK;
    FB_TRY(fb_candidate_open(chosen->candidate, &v->candidate));
    fb_candidate_set_arithmetic(v->candidate, chosen->precision);
    return FB_OK;
}

static int run(const settings *chosen, const fb_found_paths *paths) {
    verification v = {
        .chosen = chosen,
        .style = {.isa = chosen->isa != FB_ISA_CHOICE_CURRENT, .verbose = chosen->verbose},
        .begin = fb_seconds(),
    };
    fb_json_writer like = fb_json_output(&v.cases_text);
    v.cases = fb_json_fragment_to(&v.cases_text, &like, 1);
    fb_status status = prepare(&v);
    if (status == FB_OK)
        status = verify_all(&v, paths);
    int result = status == FB_OK ? summarize(&v) : fb_report_status(status);
    fb_candidate_close(v.candidate);
    fb_buffer_free(&v.cases_text);
    return result;
}

static int find_and_run(const settings *chosen) {
    fb_found_paths paths = {0};
    fb_status status = fb_found_paths_find(&paths, &chosen->paths);
    int result = status == FB_OK ? check_usage(chosen, &paths) : fb_report_status(status);
    if (result == FB_EXIT_OK)
        result = run(chosen, &paths);
    fb_found_paths_free(&paths);
    return result;
}

int fb_command_verify(int argc, char **argv) {
    settings chosen = {.isa = FB_ISA_CHOICE_CURRENT};
    int exit_status;
    if (fb_options_parse(&table, argc, argv, &chosen, &exit_status))
        exit_status = find_and_run(&chosen);
    fb_option_list_free(&chosen.paths);
    fb_option_list_free(&chosen.kinds);
    return exit_status;
}

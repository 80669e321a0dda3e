/* flashblock selftest: every golden hash, recomputed. */
#include "base/clock.h"
#include "base/error.h"
#include "cli/commands.h"
#include "cli/options/common_options.h"
#include "cli/options/isa_choice.h"
#include "cli/options/options.h"
#include "cli/output.h"
#include "oracle/hashes.h"

#include <flashblock/runtime.h>

#include <stdio.h>
#include <string.h>

/* The command line. */
typedef struct settings {
    const char *json, *filter, *hashes, *write;
    size_t threads; /* 0: not given */
    int isa;        /* fb_isa_choice_parse */
} settings;

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option options[] = {
    FB_ISA_OPTION(settings, isa, fb_isa_choice_parse,
                  "the instruction set, or \"all\" that this machine has; without it, the one that "
                  "`flashblock info` names"),
    FB_THREADS_OPTION(settings, threads, "threads; they change no hash"),
    {.kind = FB_OPTION_STRING,
     .name = "filter",
     .needs = "!write",
     .argument = "TEXT",
     TARGET(filter),
     .help = "only cases with TEXT in their names"},
    {.kind = FB_OPTION_STRING,
     .name = "hashes",
     .needs = "!write",
     .argument = "FILE",
     TARGET(hashes),
     .help = "another list than the built-in one (golden/hashes.txt)"},
    {.kind = FB_OPTION_OUTPUT,
     .name = "write",
     .needs = "isa!=all !json",
     .argument = "FILE",
     TARGET(write),
     .help = "compute every case and write the list to FILE; nothing is checked"},
    FB_JSON_OPTION(settings, json, "write every hash as JSON to FILE, or to standard output"),
};

static const fb_option_table table = {
    .usage = "selftest [OPTION]...",
    .summary =
        "Recomputes the golden hashes: attention, merges, denoising sequences and linear layers,\n"
        "to the bit. A difference is shown with the case, the tensor, and the first element that\n"
        "differs from the scalar path; the exit status is then 1.",
    FB_TABLE_OPTIONS(options),
};

/* One instruction set's results. */
typedef struct tally {
    size_t cases, differences;
    double seconds;
    fb_buffer text;
    fb_json_writer results; /* a fragment: one for each case */
} tally;

static void show_difference(fb_isa isa, const char *name, const fb_hash_finding *finding) {
    printf("FAIL  %s  %s: %s: %s\n", fb_isa_name(isa), name,
           finding->out_differs && finding->lse_differs ? "out and lse"
           : finding->out_differs                       ? "out"
                                                        : "lse",
           finding->detail);
}

static void put_result(fb_json_writer *w, const char *name, const fb_hash_finding *finding) {
    bool same = !finding->out_differs && !finding->lse_differs;
    fb_json_open_object(w, NULL);
    fb_json_put_string(w, "case", name);
    fb_json_put_bool(w, "passed", same);
    fb_json_put_string(w, "out", finding->found.out);
    fb_json_put_string(w, "lse", finding->found.lse);
    fb_json_put_string(w, "expected_out", finding->expected.out);
    fb_json_put_string(w, "expected_lse", finding->expected.lse);
    fb_json_put_text(w, "detail", finding->detail);
    fb_json_close_object(w);
}

static fb_status check_isa(const settings *chosen, const fb_hash_list *list, fb_isa isa,
                           tally *counted) {
    double begin = fb_seconds();
    FB_TRY(fb_isa_select(isa));
    for (size_t i = 0; i < fb_hash_case_count(); i++) {
        const char *name = fb_hash_case_name(i);
        fb_hash_finding *finding = NULL;
        if (chosen->filter && !strstr(name, chosen->filter))
            continue;
        FB_TRY(fb_hash_case_check(i, list, &finding));
        counted->cases++;
        if (!fb_hash_finding_passed(finding)) {
            counted->differences++;
            if (!chosen->json)
                show_difference(isa, name, finding);
        }
        put_result(&counted->results, name, finding);
        fb_hash_finding_destroy(finding);
    }
    counted->seconds = fb_seconds() - begin;
    return FB_OK;
}

/* Checks one instruction set, shows its line and puts its JSON. */
static fb_status report_isa(const settings *chosen, const fb_hash_list *list, fb_isa isa,
                            fb_json_writer *w, size_t *differences) {
    tally counted = {0};
    counted.results = fb_json_fragment_to(&counted.text, w, 2);
    fb_status status = check_isa(chosen, list, isa, &counted);
    if (status == FB_OK && !chosen->json)
        printf("%s  %s, %d threads: %zu cases, %zu differences, %.1f s\n",
               counted.differences ? "FAIL" : "PASS", fb_isa_name(isa), fb_num_threads(),
               counted.cases, counted.differences, counted.seconds);
    *differences += counted.differences;
    fb_json_open_object(w, NULL);
    fb_json_put_string(w, "instruction_set", fb_isa_name(isa));
    fb_json_put_int64(w, "threads", fb_num_threads());
    fb_json_put_size(w, "cases", counted.cases);
    fb_json_put_size(w, "differences", counted.differences);
    fb_json_put_double(w, "seconds", counted.seconds);
    fb_json_put_array_of(w, "results", &counted.results);
    fb_json_close_object(w);
    fb_buffer_free(&counted.text);
    return status;
}

static fb_status check_all(const settings *chosen, const fb_hash_list *list, size_t *differences) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_isa current;
    fb_status status = fb_isa_current(&current);
    fb_json_open_array(&w, NULL);
    for (int isa = 0; isa < FB_ISA_COUNT && status == FB_OK; isa++) {
        if (fb_isa_choice_has(chosen->isa, current, (fb_isa)isa))
            status = report_isa(chosen, list, (fb_isa)isa, &w, differences);
    }
    fb_json_close_array(&w);
    if (status == FB_OK && chosen->json)
        return fb_write_json(&w, chosen->json);
    fb_buffer_free(&text);
    return status;
}

static bool matches_any(const char *filter) {
    for (size_t i = 0; i < fb_hash_case_count(); i++)
        if (strstr(fb_hash_case_name(i), filter))
            return true;
    return false;
}

static fb_status run(const settings *chosen, size_t *differences) {
    fb_hash_list *list = NULL;
    FB_TRY(fb_isa_choice_set(chosen->threads, chosen->write ? chosen->isa : FB_ISA_CHOICE_CURRENT));
    if (chosen->write)
        return fb_hash_list_write(fb_output_path(chosen->write));
    FB_TRY(fb_hash_list_open(chosen->hashes, &list));
    fb_status status = check_all(chosen, list, differences);
    fb_hash_list_close(list);
    return status;
}

int fb_command_selftest(int argc, char **argv) {
    settings chosen = {.isa = FB_ISA_CHOICE_CURRENT};
    int exit_status;
    if (!fb_options_parse(&table, argc, argv, &chosen, &exit_status))
        return exit_status;
    if (chosen.filter && !matches_any(chosen.filter)) {
        fb_print_error("--filter: no case has '%s' in its name", chosen.filter);
        return FB_EXIT_USAGE;
    }
    size_t differences = 0;
    fb_status status = run(&chosen, &differences);
    if (status != FB_OK)
        return fb_report_status(status);
    return differences ? FB_EXIT_FAILED : FB_EXIT_OK;
}

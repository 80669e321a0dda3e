/* Dense attention and FlashBlock on the same prompts, measured in turn. */
#include "cli/generate/compare.h"

#include "base/error.h"
#include "bench/samples.h"
#include "cli/generate/summary.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "study/measures.h"

#include <stdio.h>
#include <string.h>

/* One way to generate: its text, and the time of its decode passes in each run. */
typedef struct trial {
    const char *name;
    size_t tau;
    fb_generation *generation;    /* of the first run */
    fb_samples attention, decode; /* seconds */
} trial;

static void trial_free(trial *of) {
    fb_generation_destroy(of->generation);
    fb_samples_free(&of->attention);
    fb_samples_free(&of->decode);
}

/* The first run is shown and kept, the others only measured. */
static fb_status trial_run(trial *of, const fb_session *session, size_t repeat, bool quiet) {
    fb_display_kind kind = repeat == 0 && !quiet ? FB_DISPLAY_TEXT : FB_DISPLAY_NONE;
    const fb_reuse_policy *reuse = &session->options.reuse;
    if (kind == FB_DISPLAY_TEXT)
        printf("=== %s (%stau %zu%s)\n", of->name, of->tau > 0 && reuse->rows ? "rows, " : "",
               of->tau, of->tau > 0 && reuse->correction ? ", corrected" : "");
    fb_generation *generation = NULL;
    FB_TRY(fb_session_generate(session, kind, of->tau, &generation));
    fb_status status =
        fb_samples_add(&of->attention, fb_generation_stats(generation)->decode.attention);
    if (status == FB_OK)
        status = fb_samples_add(&of->decode, fb_generation_stats(generation)->decode.total);
    if (kind == FB_DISPLAY_TEXT)
        putchar('\n');
    if (repeat == 0)
        of->generation = generation;
    else
        fb_generation_destroy(generation);
    return status;
}

/* --- what came out -----------------------------------------------------------------------------
 */

typedef struct comparison {
    size_t equal_tokens, tokens; /* the same token at the same place, of the longer text's */
    bool differs;
    size_t first_difference; /* place in its text, from 0, of the first prompt that differs */
    double dense_attention, flashblock_attention; /* medians, seconds */
    double dense_decode, flashblock_decode;
} comparison;

static void compare_tokens(comparison *result, const fb_generate_result *a,
                           const fb_generate_result *b) {
    size_t common = a->num_tokens < b->num_tokens ? a->num_tokens : b->num_tokens;
    size_t longer = a->num_tokens < b->num_tokens ? b->num_tokens : a->num_tokens;
    for (size_t i = 0; i < longer; i++) {
        bool equal = i < common && a->tokens[i] == b->tokens[i];
        if (!equal && !result->differs) {
            result->differs = true;
            result->first_difference = i;
        }
        result->equal_tokens += equal;
    }
    result->tokens += longer;
}

static comparison compare_trials(const trial *dense, const trial *flashblock) {
    comparison result = {
        .dense_attention = fb_samples_median(&dense->attention, 0),
        .flashblock_attention = fb_samples_median(&flashblock->attention, 0),
        .dense_decode = fb_samples_median(&dense->decode, 0),
        .flashblock_decode = fb_samples_median(&flashblock->decode, 0),
    };
    for (size_t i = 0; i < fb_generation_num_results(dense->generation); i++)
        compare_tokens(&result, fb_generation_result(dense->generation, i),
                       fb_generation_result(flashblock->generation, i));
    return result;
}

static double equal_fraction(const comparison *result) {
    return result->tokens ? (double)result->equal_tokens / (double)result->tokens : 1;
}

static void print_row(const char *what, size_t dense, size_t flashblock) {
    printf("%-28s%12zu%12zu\n", what, dense, flashblock);
}

static void print_seconds(const char *what, double dense, double flashblock) {
    printf("%-28s%10.4f s%10.4f s%10.2f\n", what, dense, flashblock,
           fb_measure_ratio(dense, flashblock));
}

static void print_comparison(const comparison *result, const trial *dense, const trial *flashblock,
                             size_t repeats) {
    const fb_generate_counts *a = fb_generation_stats(dense->generation)->counts;
    const fb_generate_counts *b = fb_generation_stats(flashblock->generation)->counts;
    printf("%-28s%12s%12s%10s\n", "", "dense", "FlashBlock", "ratio");
    print_row("tokens written", a->completion_tokens, b->completion_tokens);
    print_row("decode passes", fb_generation_stats(dense->generation)->decode_passes,
              fb_generation_stats(flashblock->generation)->decode_passes);
    print_row("  steps with a refresh", a->refreshes, b->refreshes);
    if (b->row_refreshes > 0)
        print_row("  steps that refresh rows", a->row_refreshes, b->row_refreshes);
    print_row("  steps with a reuse", a->reuses, b->reuses);
    print_row("  commits", a->commits, b->commits);
    if (b->row_refreshes > 0)
        print_row("external rows computed", a->external_rows, b->external_rows);
    print_seconds("attention in decode passes", result->dense_attention,
                  result->flashblock_attention);
    print_seconds("decode passes altogether", result->dense_decode, result->flashblock_decode);
    printf("\nequal tokens: %zu of %zu (%.1f %%)", result->equal_tokens, result->tokens,
           100 * equal_fraction(result));
    if (result->differs)
        printf(", the first other one at place %zu", result->first_difference + 1);
    if (repeats == 1)
        printf("\nTimes are of one run of each");
    else
        printf("\nTimes are medians of %zu runs of each, in turn", repeats);
    printf(".\nThe passes of the prompt, the same in both, are not counted.\n");
}

/* What the two runs have in common, and how they differ. */
static void put_comparison(fb_json_writer *w, const comparison *result, size_t repeats) {
    fb_json_open_object(w, "comparison");
    fb_json_put_size(w, "equal_tokens", result->equal_tokens);
    fb_json_put_size(w, "tokens", result->tokens);
    fb_json_put_double(w, "equal_fraction", equal_fraction(result));
    fb_json_put_size(w, "repeats", repeats);
    fb_json_open_object(w, "attention_seconds");
    fb_json_put_double(w, "dense", result->dense_attention);
    fb_json_put_double(w, "flashblock", result->flashblock_attention);
    fb_json_close_object(w);
    fb_json_open_object(w, "decode_seconds");
    fb_json_put_double(w, "dense", result->dense_decode);
    fb_json_put_double(w, "flashblock", result->flashblock_decode);
    fb_json_close_object(w);
    fb_json_put_double(w, "attention_ratio",
                       fb_measure_ratio(result->dense_attention, result->flashblock_attention));
    fb_json_put_double(w, "decode_ratio",
                       fb_measure_ratio(result->dense_decode, result->flashblock_decode));
    fb_json_close_object(w);
}

static fb_status write_comparison(const fb_session *session, const comparison *result,
                                  const trial *dense, const trial *flashblock, size_t repeats,
                                  const char *path) {
    const trial *trials[] = {dense, flashblock};
    static const char *const names[] = {"dense", "flashblock"};
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_json_open_object(&w, NULL);
    fb_json_open_object(&w, "session");
    fb_summary_put_session(&w, session);
    fb_json_close_object(&w);
    for (size_t i = 0; i < 2; i++) {
        fb_json_open_object(&w, names[i]);
        fb_summary_put_generation(&w, session, trials[i]->generation);
        fb_json_close_object(&w);
    }
    put_comparison(&w, result, repeats);
    fb_json_close_object(&w);
    return fb_write_json(&w, path);
}

/* --- the runs ----------------------------------------------------------------------------------
 */

static fb_status run_trials(const fb_session *session, trial *dense, trial *flashblock,
                            size_t repeats, bool quiet) {
    for (size_t i = 0; i < repeats; i++) {
        if (i > 0)
            fb_progress("measuring, run %zu of %zu", i + 1, repeats);
        FB_TRY(trial_run(dense, session, i, quiet));
        FB_TRY(trial_run(flashblock, session, i, quiet));
    }
    fb_progress_end();
    return FB_OK;
}

fb_status fb_compare(const fb_session *session, size_t repeats, const char *json) {
    bool quiet = fb_is_stdout(json);
    trial dense = {.name = "dense", .tau = 0};
    trial flashblock = {.name = "FlashBlock", .tau = session->options.reuse.tau};
    fb_status status = run_trials(session, &dense, &flashblock, repeats, quiet);
    if (status == FB_OK) {
        comparison result = compare_trials(&dense, &flashblock);
        if (!quiet)
            print_comparison(&result, &dense, &flashblock, repeats);
        if (json)
            status = write_comparison(session, &result, &dense, &flashblock, repeats, json);
    }
    trial_free(&dense);
    trial_free(&flashblock);
    return status;
}

/* flashblock bench isa: the kernels of every instruction set of this CPU side by side, and whether
 * the program chooses the fastest of them. */
#include "base/error.h"
#include "base/memory.h"
#include "bench/kernel_cases.h"
#include "cli/bench/bench.h"
#include "cli/commands.h"
#include "cli/output.h"

#include <stdio.h>
#include <string.h>

typedef struct settings {
    fb_bench_settings common;
    const char *filter;
    bool brief;
} settings;

static const fb_option options[] = {
    {.kind = FB_OPTION_STRING,
     .name = "filter",
     .argument = "TEXT",
     .target = offsetof(settings, filter),
     .help = "only kernels with TEXT in their name, such as \"scores f32\""},
    {.kind = FB_OPTION_FLAG,
     .name = "short",
     .target = offsetof(settings, brief),
     .help = "a few seconds; says which set is fastest, judges nothing"},
    FB_BENCH_REPEATS_OPTION(settings, "9"),
    FB_BENCH_JSON_OPTION(settings),
};

static const fb_option_table table = {
    .usage = "bench isa [OPTION]...",
    .summary =
        "Times every kernel of every instruction set that this CPU has, in turn, on one core: as\n"
        "fractions of what its multiply-adds and its memory allow, or in elements per nanosecond.\n"
        "Says which set is fastest, and which one the program chooses by itself. If that one is\n"
        "more than 3 % slower, and still is when both are measured again, the exit status is 1.",
    FB_TABLE_OPTIONS(options),
};

/* A choice is wrong from the first factor on. Up to the second one that is measured again. */
static const double tolerance = 1.03, clearly_slower = 1.15;

/* One case, with each of the sets. A set whose kernel is that of the set below it is not timed. */
typedef struct isa_row {
    const fb_kernel_case *what;
    bool timed[FB_ISA_COUNT];
    fb_kernel_run runs[FB_ISA_COUNT];
    fb_samples seconds[FB_ISA_COUNT];
    double speed[FB_ISA_COUNT]; /* of the limit, or elements per nanosecond */
    bool from_memory;           /* reading takes longer than the multiply-adds */
    fb_isa fastest, chosen;
    double slower; /* the time of the chosen set by that of the fastest */
    bool is_wrong;
} isa_row;

typedef struct isa_bench {
    fb_bench *bench;
    const settings *chosen;
    fb_kernel_data data;
    isa_row *rows;
    size_t num_rows;
} isa_bench;

/* "scores bf16, 16 rows, 128" */
static void name_of(const fb_kernel_case *what, char *name, size_t size) {
    bool has_type = what->kernel == FB_KERNEL_DOTS || what->kernel == FB_KERNEL_INT_DOTS;
    const char *type = has_type ? fb_kernel_case_type(what) : "";
    size_t length = (size_t)snprintf(name, size, "%s%s%s", fb_kernel_name(what->kernel),
                                     *type ? " " : "", type);
    if (what->rows && length < size)
        length += (size_t)snprintf(name + length, size - length, ", %zu rows", what->rows);
    if (length < size)
        snprintf(name + length, size - length, ", %zu%s", what->columns,
                 !what->in_memory              ? ""
                 : fb_kernel_takes_turns(what) ? ", memory, and values"
                                               : ", memory");
}

static bool is_wanted(const settings *chosen, const fb_kernel_case *what) {
    char name[80];
    name_of(what, name, sizeof name);
    return !chosen->filter || strstr(name, chosen->filter);
}

static fb_status check_filter(const settings *chosen) {
    for (size_t i = 0; i < fb_num_kernel_cases; i++)
        if (is_wanted(chosen, &fb_kernel_cases[i]))
            return FB_OK;
    return fb_fail(FB_ERROR_ARGUMENT, "--filter: no kernel has '%s' in its name", chosen->filter);
}

/* ---- measuring ---- */

static bool is_usable(fb_isa isa) {
    return fb_kernels_of(isa) != NULL;
}

/* Whether a set has a kernel of its own: no set before it has the same. */
static bool has_own(fb_isa isa, fb_kernel kernel) {
    for (fb_isa other = 0; is_usable(isa) && other < isa; other++)
        if (is_usable(other) && fb_kernel_is_same(kernel, fb_kernels_of(isa), fb_kernels_of(other)))
            return false;
    return is_usable(isa);
}

static fb_status prepare_row(isa_bench *b, const fb_kernel_case *what, isa_row *row) {
    *row = (isa_row){.what = what, .chosen = fb_kernel_choice(what->kernel)};
    for (fb_isa isa = 0; isa < FB_ISA_COUNT; isa++) {
        bool is_slow = isa == FB_ISA_SCALAR && b->chosen->brief && row->chosen != FB_ISA_SCALAR;
        row->timed[isa] = has_own(isa, what->kernel) && !is_slow;
        if (row->timed[isa])
            FB_TRY(fb_kernel_run_create(what, fb_kernels_of(isa), &b->data, &row->runs[isa]));
    }
    return FB_OK;
}

static fb_status prepare(isa_bench *b) {
    FB_TRY(fb_kernel_data_create(&b->data, &b->bench->limits));
    FB_TRY(fb_alloc_zeroed(fb_num_kernel_cases, sizeof *b->rows, "cases", &b->rows));
    for (size_t i = 0; i < fb_num_kernel_cases; i++)
        if (is_wanted(b->chosen, &fb_kernel_cases[i]))
            FB_TRY(prepare_row(b, &fb_kernel_cases[i], &b->rows[b->num_rows++]));
    return FB_OK;
}

static void free_row(isa_row *row) {
    for (fb_isa isa = 0; isa < FB_ISA_COUNT; isa++) {
        fb_samples_free(&row->seconds[isa]);
        fb_kernel_run_free(&row->runs[isa]);
    }
}

/* Times some sets of a row in turn, so many rounds. */
static fb_status time_sets(isa_bench *b, isa_row *row, const bool *sets, size_t repeats) {
    fb_trial trials[FB_ISA_COUNT];
    size_t count = 0;
    for (fb_isa isa = 0; isa < FB_ISA_COUNT; isa++)
        if (sets[isa])
            trials[count++] =
                (fb_trial){.run = fb_kernel_run_once, .context = &row->runs[isa], .threads = 1};
    fb_rounds rounds = {
        .min_rounds = repeats,
        .sample = b->chosen->brief ? 1e-3 : 4e-3,
        .memory_every = repeats, /* once; it takes long where caches are large */
    };
    fb_status status = fb_rounds_run(&rounds, &b->bench->limits, trials, count);
    count = 0;
    for (fb_isa isa = 0; isa < FB_ISA_COUNT; isa++)
        if (sets[isa]) {
            fb_samples_free(&row->seconds[isa]);
            row->seconds[isa] = trials[count++].seconds;
        }
    return status;
}

/* ---- what the times say ---- */

/* The least time of a case's multiply-adds or of its reading, whichever is longer; 0: neither
 * limits it. */
static double least_time(const fb_bench *bench, const fb_kernel_case *what, bool *from_memory) {
    double computing = 1e-9 * fb_kernel_flops(what) / fb_limits_fma(&bench->limits, 1);
    double reading =
        1e-9 * fb_kernel_bytes(what) / fb_limits_read(&bench->limits, 1, FB_LEVEL_MEMORY);
    *from_memory = reading > computing;
    return what->limit == FB_KERNEL_ELEMENTS ? 0 : *from_memory ? reading : computing;
}

/* By the limits of the whole run so far: those of a few rounds say little on a busy machine. */
static void judge_sets(fb_bench *bench, isa_row *row, const bool *sets) {
    fb_limits_begin_period(&bench->limits);
    const double least = least_time(bench, row->what, &row->from_memory);
    for (fb_isa isa = 0; isa < FB_ISA_COUNT; isa++)
        if (sets[isa]) {
            double seconds = fb_samples_median(&row->seconds[isa], 0);
            row->speed[isa] =
                least > 0 ? least / seconds : 1e-9 * fb_kernel_elements(row->what) / seconds;
        }
}

/* Sets are compared by the ratios of their times within a round. */
static void compare_sets(isa_row *row, const bool *sets) {
    row->fastest = row->chosen;
    for (fb_isa isa = 0; isa < FB_ISA_COUNT; isa++)
        if (sets[isa] &&
            fb_samples_median_ratio(&row->seconds[isa], &row->seconds[row->fastest]) < 1)
            row->fastest = isa;
    row->slower = fb_samples_median_ratio(&row->seconds[row->chosen], &row->seconds[row->fastest]);
    row->is_wrong = row->slower > tolerance;
}

/* The scalar set is slow: once is enough, unless it is the one that is chosen. A set counts as
 * slightly slower only if it is so again, twice, in more rounds. */
static fb_status measure_row(isa_bench *b, isa_row *row) {
    enum { MORE = 3, ATTEMPTS = 2 };
    size_t repeats = b->chosen->brief ? 3 : b->bench->settings->repeats;
    bool fast[FB_ISA_COUNT], slow[FB_ISA_COUNT] = {false};
    memcpy(fast, row->timed, sizeof fast);
    if (fast[FB_ISA_SCALAR] && row->chosen != FB_ISA_SCALAR) {
        fast[FB_ISA_SCALAR] = false;
        slow[FB_ISA_SCALAR] = true;
        FB_TRY(time_sets(b, row, slow, 1));
        judge_sets(b->bench, row, slow);
    }
    FB_TRY(time_sets(b, row, fast, repeats));
    compare_sets(row, fast);
    for (size_t attempt = 0;
         attempt < ATTEMPTS && !b->chosen->brief && row->is_wrong && row->slower < clearly_slower;
         attempt++) {
        FB_TRY(time_sets(b, row, fast, MORE * repeats));
        compare_sets(row, fast);
    }
    judge_sets(b->bench, row, fast);
    return FB_OK;
}

static size_t count_wrong(const isa_bench *b) {
    size_t count = 0;
    for (size_t i = 0; i < b->num_rows; i++)
        count += b->rows[i].is_wrong;
    return count;
}

/* ---- results ---- */

static const char *limit_name(const isa_row *row) {
    return row->what->limit == FB_KERNEL_ELEMENTS ? "elements/ns"
           : row->from_memory                     ? "of memory"
                                                  : "of peak";
}

static void print_row(const isa_bench *b, const isa_row *row) {
    char name[80];
    name_of(row->what, name, sizeof name);
    printf("%-46s%-13s", name, limit_name(row));
    for (fb_isa isa = 0; isa < FB_ISA_COUNT; isa++)
        if (is_usable(isa) && row->timed[isa])
            printf(row->what->limit == FB_KERNEL_ELEMENTS ? "%12.2f" : "%12.3f", row->speed[isa]);
        else if (is_usable(isa))
            printf("%12s", "-");
    printf("   %-12s%-12s", fb_isa_name(row->fastest), fb_isa_name(row->chosen));
    if (row->slower > 1)
        printf("%6.3f%s", row->slower, row->is_wrong && !b->chosen->brief ? "  WRONG" : "");
    printf("\n");
}

static void print_head(const isa_bench *b) {
    fb_bench_print_limits(b->bench);
    printf("\n%-46s%-13s", "kernel", "speed");
    for (fb_isa isa = 0; isa < FB_ISA_COUNT; isa++)
        if (is_usable(isa))
            printf("%12s", fb_isa_name(isa));
    printf("   %-12s%-12s%s\n", "fastest", "dispatch", "its time by the fastest's");
}

static void print_end(const isa_bench *b) {
    if (!b->chosen->brief)
        printf("\n%zu of %zu: dispatch chooses a set that is more than %.0f %% slower\n",
               count_wrong(b), b->num_rows, 100 * (tolerance - 1));
}

static fb_status put_rows(isa_bench *b) {
    fb_json_writer *w = fb_bench_items(b->bench, FB_BENCH_KERNELS);
    for (size_t i = 0; i < b->num_rows; i++) {
        const isa_row *row = &b->rows[i];
        fb_json_open_object(w, NULL);
        fb_json_put_string(w, "kernel", fb_kernel_name(row->what->kernel));
        fb_json_put_string(w, "dtype", fb_kernel_case_type(row->what));
        fb_json_put_size(w, "rows", row->what->rows);
        fb_json_put_size(w, "columns", row->what->columns);
        fb_json_put_bool(w, "in_memory", row->what->in_memory);
        fb_json_put_string(w, "unit", limit_name(row));
        fb_json_open_object(w, "speed");
        for (fb_isa isa = 0; isa < FB_ISA_COUNT; isa++)
            if (row->timed[isa])
                fb_json_put_double(w, fb_isa_name(isa), row->speed[isa]);
        fb_json_close_object(w);
        fb_json_put_string(w, "fastest", fb_isa_name(row->fastest));
        fb_json_put_string(w, "dispatch", fb_isa_name(row->chosen));
        fb_json_put_double(w, "dispatch_by_fastest", row->slower);
        fb_json_put_bool(w, "wrong", row->is_wrong);
        fb_json_close_object(w);
    }
    return fb_json_finish(w);
}

static fb_status bench_all(isa_bench *b) {
    const bool quiet = b->bench->quiet;
    FB_TRY(prepare(b));
    if (!quiet)
        print_head(b);
    for (size_t i = 0; i < b->num_rows; i++) {
        FB_TRY(measure_row(b, &b->rows[i]));
        if (!quiet) {
            print_row(b, &b->rows[i]);
            fflush(stdout);
        }
    }
    if (!quiet)
        print_end(b);
    return put_rows(b);
}

int fb_command_bench_isa(int argc, char **argv) {
    settings chosen = {.common.isa = FB_ISA_CHOICE_CURRENT};
    int exit_status;
    if (!fb_options_parse(&table, argc, argv, &chosen, &exit_status))
        return exit_status;
    fb_bench bench = {0};
    isa_bench b = {.bench = &bench, .chosen = &chosen};
    fb_status status = check_filter(&chosen);
    if (status != FB_OK)
        return fb_report_status(status);
    status = fb_bench_begin(&bench, &chosen.common);
    if (status == FB_OK)
        status = bench_all(&b);
    bool is_wrong = status == FB_OK && !chosen.brief && count_wrong(&b) > 0;
    for (size_t i = 0; i < b.num_rows; i++)
        free_row(&b.rows[i]);
    fb_free(b.rows);
    fb_kernel_data_free(&b.data);
    exit_status = fb_report_status(fb_bench_finish(&bench, status));
    return exit_status == FB_EXIT_OK && is_wrong ? FB_EXIT_FAILED : exit_status;
}

/* What the commands of `flashblock bench` share: options, limits of the machine, cases, JSON. */
#ifndef FB_CLI_BENCH_BENCH_H
#define FB_CLI_BENCH_BENCH_H

#include "base/error.h"
#include "bench/limits.h"
#include "bench/rounds.h"
#include "cli/options/common_options.h"
#include "cli/options/isa_choice.h"
#include "cli/options/number_list.h"
#include "cli/options/options.h"
#include "io/json_write.h"

#include <stdbool.h>

/* Options that every command has. */
typedef struct fb_bench_settings {
    fb_number_list threads; /* not given: 1 */
    int isa;                /* fb_isa_choice_parse_one */
    size_t repeats;
    double min_seconds;
    bool cold;
    const char *json;
} fb_bench_settings;

/* Table entries of a `structure` whose member `common` is an fb_bench_settings: the options that
 * every command has, and those of the commands that time something. */
#define FB_BENCH_THREADS_OPTION(structure)                                                         \
    {                                                                                              \
        .kind = FB_OPTION_PARSED, .name = "threads", .argument = "LIST",                           \
        .target = offsetof(structure, common.threads), .parse = fb_number_list_parse,              \
        .otherwise = "1", .help = "numbers of threads, such as 1,2; each on a core of its own"     \
    }
#define FB_BENCH_REPEATS_OPTION(structure, number)                                                 \
    {                                                                                              \
        .kind = FB_OPTION_SIZE, .name = "repeats", .argument = "N",                                \
        .target = offsetof(structure, common.repeats), .min = 1, .max = 1000,                      \
        .otherwise = (number), .help = "at least N samples of everything, in turn"                 \
    }
#define FB_BENCH_JSON_OPTION(structure)                                                            \
    FB_JSON_OPTION(                                                                                \
        structure, common.json,                                                                    \
        "write everything as JSON to FILE, or to standard output instead of the tables")
#define FB_BENCH_TIMING_OPTIONS(structure, rounds, seconds)                                        \
    FB_BENCH_THREADS_OPTION(structure), FB_BENCH_REPEATS_OPTION(structure, rounds),                \
        {.kind = FB_OPTION_DOUBLE,                                                                 \
         .name = "min-seconds",                                                                    \
         .argument = "S",                                                                          \
         .target = offsetof(structure, common.min_seconds),                                        \
         .max = 3600,                                                                              \
         .otherwise = (seconds),                                                                   \
         .help = "go on until S seconds have passed"},                                             \
        {.kind = FB_OPTION_FLAG,                                                                   \
         .name = "cold",                                                                           \
         .target = offsetof(structure, common.cold),                                               \
         .help = "flush the caches before every sample"},                                          \
        FB_ISA_OPTION(                                                                             \
            structure, common.isa, fb_isa_choice_parse_one,                                        \
            "instruction set of the kernels (default: FLASHBLOCK_ISA, or the fastest of all); "    \
            "the machine's limits are always those of its widest")

/* Arrays of the JSON. Those without items are left out, except the cases. */
typedef enum fb_bench_array {
    FB_BENCH_CASES,
    FB_BENCH_SHAPES,
    FB_BENCH_STEPS,
    FB_BENCH_SCALING,
    FB_BENCH_DENSITY,
    FB_BENCH_PEERS,
    FB_BENCH_DECODE,
    FB_BENCH_VIDEO,
    FB_BENCH_KERNELS,
    FB_BENCH_NUM_ARRAYS
} fb_bench_array;

/* A command that is being run. */
typedef struct fb_bench {
    const fb_bench_settings *settings;
    bool quiet; /* JSON goes to standard output */
    fb_machine machine;
    fb_limits limits;
    fb_buffer texts[FB_BENCH_NUM_ARRAYS];
    fb_json_writer arrays[FB_BENCH_NUM_ARRAYS]; /* fragments */
} fb_bench;

/* Checks the settings, chooses the instruction set and measures the limits. Takes a zeroed
 * structure; fb_bench_finish must follow in any case. */
fb_status fb_bench_begin(fb_bench *bench, const fb_bench_settings *settings);

/* Writes the JSON, if it is wanted and `status` is FB_OK, and frees everything. */
fb_status fb_bench_finish(fb_bench *bench, fb_status status);

/* The machine and its limits, in words. */
void fb_bench_print_limits(const fb_bench *bench);

/* The rounds that the settings ask for, with progress on standard error. */
fb_rounds fb_bench_rounds(const fb_bench *bench, const char *what);

/* One measured case: a way (`implementation`) to do something (`name`). */
typedef struct fb_bench_case {
    const char *name, *dtype, *implementation;
    size_t threads;
    double flops, bytes; /* of one run; the bytes that it must at least read */
    double median, min;  /* seconds */
} fb_bench_case;

double fb_bench_case_gflops(const fb_bench_case *c);
double fb_bench_case_gbs(const fb_bench_case *c);

/* The case's speed as a fraction of a limit. The peak is the multiply-adds that its threads can do.
 * The roofline is the lower of that peak and the speed at which the bytes can be read: from memory
 * or, with warm caches, from the innermost cache that holds them. */
double fb_bench_case_peak_fraction(const fb_bench *bench, const fb_bench_case *c);
double fb_bench_case_roofline_fraction(const fb_bench *bench, const fb_bench_case *c);

/* Adds it to the JSON. */
fb_status fb_bench_add_case(fb_bench *bench, const fb_bench_case *c);

/* The writer of an array's items. */
fb_json_writer *fb_bench_items(fb_bench *bench, fb_bench_array array);

#endif

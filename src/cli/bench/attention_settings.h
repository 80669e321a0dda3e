/* The options of `flashblock bench attention`, and the shapes that they name. */
#ifndef FB_CLI_BENCH_ATTENTION_SETTINGS_H
#define FB_CLI_BENCH_ATTENTION_SETTINGS_H

#include "bench/shapes.h"
#include "cli/bench/bench.h"

typedef struct fb_dtype_list {
    fb_dtype values[3];
    size_t count;
} fb_dtype_list;

/* The command line. Where a number is not given, the preset's holds. */
typedef struct fb_attention_settings {
    fb_bench_settings common;
    const fb_bench_preset *preset; /* NULL: not given */
    fb_bench_family custom;        /* of --heads and its companions, where there is no preset */
    char custom_name[64];          /* "h32-kv8-d128" */
    size_t queries, steps;         /* 0: not given */
    fb_number_list contexts, taus, percents;
    bool row_refresh;
    fb_dtype_list dtypes;
    bool no_steps, all_peers;
    fb_option_list named_peers;
} fb_attention_settings;

extern const fb_option_table fb_attention_settings_table;

/* Completes the parsed settings, and checks all that can be checked before anything is measured. */
fb_status fb_attention_settings_check(fb_attention_settings *settings);

/* Family i of shapes, with the changes of the command line. False when there is none. */
bool fb_attention_settings_family(const fb_attention_settings *settings, size_t i,
                                  fb_bench_family *family);

/* Denoising steps of a block of `queries` tokens. */
size_t fb_attention_settings_steps(const fb_attention_settings *settings, size_t queries);

#endif

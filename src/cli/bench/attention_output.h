/* The results of a shape, as a table and as JSON. */
#ifndef FB_CLI_BENCH_ATTENTION_OUTPUT_H
#define FB_CLI_BENCH_ATTENTION_OUTPUT_H

#include "cli/bench/attention_bench.h"

/* Prints the table of a shape whose trials have run. */
void fb_attention_output_print(const fb_attention_bench *b);

/* Adds its results to the JSON of the command. */
fb_status fb_attention_output_add(const fb_attention_bench *b);

#endif

/* The trials of one shape: attention to the context, the steps of a block, whole blocks, a share of
 * the keys, peers; each for every number of threads. */
#ifndef FB_CLI_BENCH_ATTENTION_BENCH_H
#define FB_CLI_BENCH_ATTENTION_BENCH_H

#include "bench/attention_run.h"
#include "bench/composed.h"
#include "bench/peers.h"
#include "cli/bench/attention_settings.h"

enum {
    FB_ATTENTION_MAX_PEER_TRIALS = FB_MAX_THREAD_COUNTS * FB_NUM_PEERS,
    FB_ATTENTION_MAX_TRIALS =
        FB_MAX_THREAD_COUNTS * (2 * FB_NUMBER_LIST_MAX + 16) + FB_ATTENTION_MAX_PEER_TRIALS,
};

/* The name of a trial, and the work that it does at least. */
typedef struct fb_attention_entry {
    char implementation[48];
    double flops, bytes;
    fb_attention_block block;   /* of trials that run whole blocks by tau */
    fb_attention_block by_rows; /* the same by rows */
    fb_composed *composed;      /* of a peer's trials, else NULL */
    size_t selected_keys;       /* of trials of a share of the context, a KV head's average */
} fb_attention_entry;

typedef struct fb_attention_bench {
    fb_bench *bench;
    const fb_attention_settings *chosen;
    fb_attention_run data;
    fb_composed_matrices matrices; /* the peers' */
    fb_composed composed[FB_ATTENTION_MAX_PEER_TRIALS];
    size_t num_composed;
    fb_attention_selected selected[FB_NUMBER_LIST_MAX]; /* of chosen->percents */
    fb_attention_entry entries[FB_ATTENTION_MAX_TRIALS];
    fb_trial trials[FB_ATTENTION_MAX_TRIALS];
    size_t count;
} fb_attention_bench;

/* Prepares all trials of a shape and runs them in turn. Takes a zeroed structure;
 * fb_attention_bench_free must follow in any case. */
fb_status fb_attention_bench_run(fb_attention_bench *b, fb_bench *bench,
                                 const fb_attention_settings *settings,
                                 const fb_bench_shape *shape);
void fb_attention_bench_free(fb_attention_bench *b);

/* Trial i as a case. */
fb_bench_case fb_attention_bench_case(const fb_attention_bench *b, size_t i);

/* The time of a reuse on a number of threads: medians of ratios within a round. */
typedef struct fb_attention_reuse {
    double dense, alone; /* by that of a dense step, and by that of attention to the block only */
} fb_attention_reuse;

fb_attention_reuse fb_attention_bench_reuse(const fb_attention_bench *b, size_t threads);

/* A trial that runs whole blocks by tau. */
typedef struct fb_attention_block_result {
    size_t tau, passes, refreshes;
    double dense_steps; /* its time by that of a dense step */
} fb_attention_block_result;

/* False where trial i is not such a trial, or has another number of threads. */
bool fb_attention_bench_block(const fb_attention_bench *b, size_t i, size_t threads,
                              fb_attention_block_result *result);

/* How much faster trial i is than the same trial on the first number of threads; 0 for that one. */
double fb_attention_bench_scaling(const fb_attention_bench *b, size_t i);

/* For a trial over a share of the context: its keys per second, by those of dense attention to the
 * whole context. 0 for other trials. */
double fb_attention_bench_selected_speed(const fb_attention_bench *b, size_t i);

#endif

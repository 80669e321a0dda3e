/* Several trials, timed in turn: in every round each of them once. So a clock that drifts and other
 * programs on the machine disturb all of them alike. */
#ifndef FB_BENCH_ROUNDS_H
#define FB_BENCH_ROUNDS_H

#include "bench/limits.h"
#include "bench/samples.h"

#include <stdbool.h>

typedef struct fb_trial {
    fb_status (*run)(void *context); /* the run that is timed */
    void *context;
    size_t threads;
    fb_samples seconds; /* of one run */
    size_t runs;        /* in a sample: short ones are repeated */
    double first;       /* seconds of the first run, which is not a sample */
} fb_trial;

typedef struct fb_rounds {
    size_t min_rounds;
    double min_seconds;  /* go on until this much time has passed */
    bool cold;           /* flush the caches before every sample, which is then one run */
    double sample;       /* seconds of a warm sample; 0: 10 ms */
    size_t memory_every; /* memory's bandwidth is sampled every so many rounds; 0: in all */
    void (*on_round)(void *user, size_t round, double seconds); /* may be NULL */
    void *user;
} fb_rounds;

/* Every round takes a sample of memory's bandwidth for each number of threads that a trial has, and
 * a sample of each trial, directly after a sample of the multiply-adds that its threads can do. A
 * warm sample is 10 ms (or `sample`) of runs, at least one run, after as much that is not timed. */
fb_status fb_rounds_run(const fb_rounds *rounds, fb_limits *limits, fb_trial *trials, size_t count);

#endif

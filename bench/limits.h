/* The best that this machine can do: multiply-adds of float32, and reading from memory and from
 * each cache. Limits are measured for several numbers of threads, each on its core, in turn with
 * the runs that are compared with them: a clock that drifts then slows both. */
#ifndef FB_BENCH_LIMITS_H
#define FB_BENCH_LIMITS_H

#include "bench/limit_kernels.h"
#include "bench/machine.h"
#include "bench/samples.h"

enum {
    FB_MAX_THREAD_COUNTS = 8,
    FB_LEVEL_MEMORY = 0, /* level i > 0 is machine->caches[i - 1] */
    FB_MAX_LEVELS = FB_MAX_CACHES + 1,
};

typedef struct fb_limit {
    size_t threads;
    size_t fma_begin, memory_begin; /* the first samples of the current period */
    fb_samples fma;                 /* GFLOP/s */
    fb_samples read[FB_MAX_LEVELS]; /* GB/s */
    size_t streams[FB_MAX_LEVELS];  /* what reads fastest; 0: not known yet */
} fb_limit;

typedef struct fb_limits {
    const fb_machine *machine;
    const fb_limit_kernels *kernels;
    fb_limit limits[FB_MAX_THREAD_COUNTS + 2];
    size_t count;
    size_t num_levels;
    char *buffer; /* several times the last cache */
    size_t bytes;
} fb_limits;

/* For each of the thread counts, and for one core and all of them. The machine must outlive it.
 * Takes a zeroed structure; measures nothing yet. */
fb_status fb_limits_create(fb_limits *limits, const fb_machine *machine, const size_t *threads,
                           size_t count);
void fb_limits_free(fb_limits *limits);

/* Measures all limits for every number of threads, `rounds` times in turn. The first call finds how
 * memory is read fastest; it comes before calls of the functions below. */
fb_status fb_limits_measure(fb_limits *limits, size_t rounds);

/* One more sample of multiply-adds, some 4 ms, or of memory, some 20 ms, for one number of threads;
 * they must be on their cores: fb_machine_use_threads. */
fb_status fb_limits_sample_fma(fb_limits *limits, size_t threads);
fb_status fb_limits_sample_memory(fb_limits *limits, size_t threads);

/* Begins a period: cases that follow are compared with its samples only. */
void fb_limits_begin_period(fb_limits *limits);

/* Medians: of the current period where that has samples, of all otherwise. GFLOP/s, GB/s; `threads`
 * is one of those given, 1, or the number of cores. */
double fb_limits_fma(const fb_limits *limits, size_t threads);
double fb_limits_read(const fb_limits *limits, size_t threads, size_t level);

/* The innermost level whose caches, taken together over `threads` cores, hold this many bytes. */
size_t fb_limits_level_of(const fb_limits *limits, size_t threads, size_t bytes);

/* Reads memory until no cache holds anything else. */
void fb_limits_flush(const fb_limits *limits, size_t threads);

#endif

/* The machine that a benchmark runs on: its name, its cores, its caches; and threads on their
 * cores. Read from /proc and /sys; where these do not describe caches, none are known. */
#ifndef FB_BENCH_MACHINE_H
#define FB_BENCH_MACHINE_H

#include <flashblock/status.h>

#include <stddef.h>

enum { FB_MAX_CORES = 1024, FB_MAX_CACHES = 4 };

typedef struct fb_cache_level {
    size_t level; /* 1: the one next to the core */
    size_t bytes;
    size_t cpus; /* that share one of it */
} fb_cache_level;

typedef struct fb_machine {
    char cpu[128];
    int cores[FB_MAX_CORES]; /* a CPU number of each core that the process may use */
    size_t num_cores;
    fb_cache_level caches[FB_MAX_CACHES]; /* of data, innermost first */
    size_t num_caches;
} fb_machine;

void fb_machine_read(fb_machine *machine);

/* Bytes of the outermost cache; 0 when none is known. */
size_t fb_machine_last_cache(const fb_machine *machine);

/* Lets the library use num_threads threads, and puts OpenMP's thread i on core i. To be called
 * before everything that is timed: a thread that OpenMP starts anew runs on its parent's core. */
fb_status fb_machine_use_threads(const fb_machine *machine, size_t num_threads);

/* Memory with huge pages where the system has them. Freed by free(). */
fb_status fb_huge_alloc(size_t bytes, const char *what, void *result);

#endif

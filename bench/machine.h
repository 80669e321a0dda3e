/* The machine that a benchmark runs on: its name, its cores, its caches; and threads on their
 * cores. Read from /proc and /sys; where these do not describe caches, none are known. */
#ifndef FB_BENCH_MACHINE_H
#define FB_BENCH_MACHINE_H

#include <flashblock/status.h>

#include <stdatomic.h>
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

/* What each thread of a team runs at the same time; `member` is 0 for the calling thread. */
typedef void fb_team_body(void *context, size_t member);

/* Runs the body once on each of so many of the library's threads. */
fb_status fb_machine_run_team(size_t num_threads, fb_team_body *body, void *context);

/* Where the threads of a team wait for each other. */
typedef struct fb_meeting {
    size_t num_threads;
    atomic_size_t arrived;
} fb_meeting;

void fb_meet(fb_meeting *meeting);

/* Lets the library use num_threads threads, and puts each on a core of its own. To be called before
 * everything that is timed. */
fb_status fb_machine_use_threads(const fb_machine *machine, size_t num_threads);

/* Memory with huge pages where the system has them. Freed by free(). */
fb_status fb_huge_alloc(size_t bytes, const char *what, void *result);

#endif

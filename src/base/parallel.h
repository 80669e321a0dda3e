/* The library's threads. Loops whose turns do not depend on each other are shared among them.
 *
 * The pool grows to what calls ask for. A thread that cannot be created is done without: the loop
 * runs on those that there are, down to the calling thread, and nothing is reported. A child of
 * fork starts with an empty pool. Threads of the pool take no signals.
 *
 * Exported for the other libraries: the header is not installed. */
#ifndef FB_BASE_PARALLEL_H
#define FB_BASE_PARALLEL_H

#include <flashblock/status.h>

#include <stddef.h>

/* Turns first .. end - 1 of a loop. `worker` is below the loop's `threads`, and no two threads that
 * run at the same time have the same: it tells a thread's own scratch memory. */
typedef void fb_loop_body(void *context, size_t first, size_t end, size_t worker);

/* Runs all of `count` turns, on the calling thread and up to threads - 1 others, and returns when
 * all are done. A thread takes `grain` turns at a time; 0: one thread's even share. Which thread
 * takes which turns, and how many threads there are, must not change a result.
 *
 * Any number of threads may call it at the same time. A call from inside a body, or from a parallel
 * region of OpenMP, runs on the calling thread. */
FB_API void fb_parallel_for(size_t count, size_t grain, size_t threads, fb_loop_body *body,
                            void *context);

/* Threads for a loop that is worth all of them: fb_num_threads, or 1 where the loop would run on
 * the calling thread only. */
FB_API size_t fb_parallel_threads(void);

/* Sees to it that a loop of this thread can have `threads` threads. Returns how many it can have,
 * from 1 to `threads`. */
FB_API size_t fb_parallel_prepare(size_t threads);

/* The CPUs that the process may run on, at least 1. */
size_t fb_usable_cpus(void);

#endif

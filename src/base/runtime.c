#include "base/error.h"

#include <flashblock/runtime.h>

#include <omp.h>
#include <stdatomic.h>

enum { MAX_THREADS = 1024 };

static atomic_int chosen_threads = 0; /* 0: ask OpenMP */

const char *fb_version(void) {
    return FB_VERSION;
}

fb_status fb_set_num_threads(int num_threads) {
    if (num_threads < 1 || num_threads > MAX_THREADS)
        return fb_fail(FB_ERROR_ARGUMENT, "num_threads is %d, expected 1 to %d", num_threads,
                       MAX_THREADS);
    atomic_store(&chosen_threads, num_threads);
    return FB_OK;
}

int fb_num_threads(void) {
    int threads = atomic_load(&chosen_threads);
    if (threads == 0)
        threads = omp_get_max_threads();
    return threads > MAX_THREADS ? MAX_THREADS : threads;
}

#include "base/error.h"

#include <flashblock/runtime.h>
#include <flashblock/version.h>

#include <omp.h>
#include <stdatomic.h>

enum { MAX_THREADS = 1024 };

static atomic_int chosen_threads = 0; /* 0: ask OpenMP */

#define STRING_OF(number) #number
#define STRING(number)    STRING_OF(number)

const char *fb_version(void) {
    return STRING(FB_VERSION_MAJOR) "." STRING(FB_VERSION_MINOR) "." STRING(FB_VERSION_PATCH);
}

int fb_version_number(void) {
    return FB_VERSION_NUMBER;
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

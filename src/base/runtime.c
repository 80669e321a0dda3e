#include "base/error.h"
#include "base/parallel.h"

#include <flashblock/runtime.h>
#include <flashblock/version.h>

#include <stdatomic.h>
#include <stdlib.h>

enum { MAX_THREADS = 1024 };

static atomic_int chosen_threads = 0; /* 0: the default */

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

/* The first number of OMP_NUM_THREADS ("4", "4,2"); without one, the CPUs. */
static int default_threads(void) {
    const char *text = getenv("OMP_NUM_THREADS");
    char *end = NULL;
    long number = text ? strtol(text, &end, 10) : 0;
    if (number < 1 || (*end != '\0' && *end != ',' && *end != ' ')) {
        size_t cpus = fb_usable_cpus();
        number = cpus < MAX_THREADS ? (long)cpus : MAX_THREADS;
    }
    return number < MAX_THREADS ? (int)number : MAX_THREADS;
}

/* The environment is read once: it cannot be read while another thread changes it. */
int fb_num_threads(void) {
    int threads = atomic_load(&chosen_threads);
    if (threads == 0) {
        int expected = 0;
        threads = default_threads();
        if (!atomic_compare_exchange_strong(&chosen_threads, &expected, threads))
            threads = expected;
    }
    return threads;
}

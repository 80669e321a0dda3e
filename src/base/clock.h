/* Seconds of a monotonic clock. Only the difference of two readings has a meaning. */
#ifndef FB_BASE_CLOCK_H
#define FB_BASE_CLOCK_H

#include <time.h>

static inline double fb_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#endif

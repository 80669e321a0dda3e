/* What was measured again and again, and its median. */
#ifndef FB_BENCH_SAMPLES_H
#define FB_BENCH_SAMPLES_H

#include <flashblock/status.h>

#include <stddef.h>

/* Starts as {0}. */
typedef struct fb_samples {
    double *values;
    size_t count, capacity;
} fb_samples;

fb_status fb_samples_add(fb_samples *samples, double value);

/* The median of the samples from number `begin` on, of which there is at least one; that of an even
 * number is the mean of the middle two. */
double fb_samples_median(const fb_samples *samples, size_t begin);

double fb_samples_min(const fb_samples *samples);

void fb_samples_free(fb_samples *samples);

#endif

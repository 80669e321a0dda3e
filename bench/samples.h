/* Repeated measurements of one value, and their median. */
#ifndef FB_BENCH_SAMPLES_H
#define FB_BENCH_SAMPLES_H

#include <flashblock/status.h>

#include <stddef.h>

/* Starts as {0}. */
typedef struct fb_samples {
    double *values, *scratch;
    size_t count, capacity;
} fb_samples;

fb_status fb_samples_add(fb_samples *samples, double value);

/* The median of the samples from number `begin` on, of which there is at least one; that of an even
 * number is the mean of the middle two. */
double fb_samples_median(const fb_samples *samples, size_t begin);

/* The median of a's samples divided by b's of the same round, counted from the last one: a clock
 * that drifts changes both. */
double fb_samples_median_ratio(const fb_samples *a, const fb_samples *b);

double fb_samples_min(const fb_samples *samples);

void fb_samples_free(fb_samples *samples);

#endif

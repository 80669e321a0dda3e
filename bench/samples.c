#include "bench/samples.h"

#include "base/error.h"
#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

fb_status fb_samples_add(fb_samples *samples, double value) {
    if (samples->count == samples->capacity) {
        size_t capacity = samples->capacity ? 2 * samples->capacity : 16;
        double *values = NULL;
        FB_TRY(fb_alloc(capacity, 2 * sizeof *values, "samples", &values));
        if (samples->count)
            memcpy(values, samples->values, samples->count * sizeof *values);
        fb_free(samples->values);
        *samples = (fb_samples){values, values + capacity, samples->count, capacity};
    }
    samples->values[samples->count++] = value;
    return FB_OK;
}

static int compare(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

/* The median of scratch[0 .. count). */
static double median(double *scratch, size_t count) {
    qsort(scratch, count, sizeof *scratch, compare);
    return count % 2 ? scratch[count / 2] : 0.5 * (scratch[count / 2 - 1] + scratch[count / 2]);
}

double fb_samples_median(const fb_samples *samples, size_t begin) {
    size_t count = samples->count - begin;
    memcpy(samples->scratch, samples->values + begin, count * sizeof *samples->values);
    return median(samples->scratch, count);
}

double fb_samples_median_ratio(const fb_samples *a, const fb_samples *b) {
    size_t count = a->count < b->count ? a->count : b->count;
    for (size_t i = 0; i < count; i++)
        a->scratch[i] = a->values[a->count - count + i] / b->values[b->count - count + i];
    return median(a->scratch, count);
}

double fb_samples_min(const fb_samples *samples) {
    double min = samples->values[0];
    for (size_t i = 1; i < samples->count; i++)
        min = samples->values[i] < min ? samples->values[i] : min;
    return min;
}

void fb_samples_free(fb_samples *samples) {
    fb_free(samples->values);
    *samples = (fb_samples){0};
}

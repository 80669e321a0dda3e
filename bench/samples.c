#include "samples.h"

#include "error.h"
#include "memory.h"

#include <stdlib.h>
#include <string.h>

fb_status fb_samples_add(fb_samples *samples, double value) {
    if (samples->count == samples->capacity) {
        size_t capacity = samples->capacity ? 2 * samples->capacity : 16;
        double *values = NULL;
        FB_TRY(fb_alloc(capacity, sizeof *values, "samples", &values));
        if (samples->count)
            memcpy(values, samples->values, samples->count * sizeof *values);
        fb_free(samples->values);
        samples->values = values;
        samples->capacity = capacity;
    }
    samples->values[samples->count++] = value;
    return FB_OK;
}

static int compare(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

/* Sorts in place what it takes the median of. Samples before `begin` keep their places, those
 * behind it need not. */
double fb_samples_median(const fb_samples *samples, size_t begin) {
    double *values = samples->values + begin;
    size_t count = samples->count - begin;
    qsort(values, count, sizeof *values, compare);
    return count % 2 ? values[count / 2] : 0.5 * (values[count / 2 - 1] + values[count / 2]);
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

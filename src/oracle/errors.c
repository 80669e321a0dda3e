#include "oracle/errors.h"

#include "base/error.h"

#include <math.h>
#include <stdbool.h>

double fb_spacing_at(double value) {
    int exponent = 0;
    frexp(value, &exponent);
    double spacing = ldexp(1.0, exponent - 24), smallest = 0x1p-149;
    return value != 0.0 && spacing > smallest ? spacing : smallest;
}

/* |value - truth|: 0 for equal infinities and for NaN twice, infinite if only one is finite. */
static double distance(float value, double truth) {
    if ((double)value == truth || (isnan(value) && isnan(truth)))
        return 0.0;
    double error = fabs((double)value - truth);
    return isfinite(error) ? error : (double)INFINITY;
}

fb_errors fb_errors_measure(const float *values, const double *truth, size_t count) {
    fb_errors errors = {0};
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        double error = distance(values[i], truth[i]);
        if (error == 0.0)
            continue;
        double relative = truth[i] != 0.0 ? error / fabs(truth[i]) : (double)INFINITY;
        double ulps = isfinite(truth[i]) ? error / fb_spacing_at(truth[i]) : (double)INFINITY;
        if (error > errors.max_abs) {
            errors.max_abs = error;
            errors.worst = i;
        }
        errors.max_rel = relative > errors.max_rel ? relative : errors.max_rel;
        errors.max_ulp = ulps > errors.max_ulp ? ulps : errors.max_ulp;
        sum += ulps;
    }
    errors.mean_ulp = count ? sum / (double)count : 0.0;
    return errors;
}

double fb_largest_finite(const double *values, size_t count) {
    double largest = 0.0;
    for (size_t i = 0; i < count; i++)
        if (isfinite(values[i]) && fabs(values[i]) > largest)
            largest = fabs(values[i]);
    return largest;
}

double fb_score_effect(const double *lse, size_t num_rows, const float *v, size_t num_values) {
    double score = fb_largest_finite(lse, num_rows), v_max = 0.0;
    for (size_t i = 0; i < num_values; i++)
        if (isfinite(v[i]) && fabs((double)v[i]) > v_max)
            v_max = fabs((double)v[i]);
    return score < 16.0 ? 0.0 : 0.5 * fb_spacing_at(score) * v_max;
}

/* In float: gcc 12.2 for aarch64 crashes on a maximum of values that are widened in the loop. */
double fb_largest_magnitude(const float *values, size_t count) {
    float found = 0.0f;
    for (size_t i = 0; i < count; i++)
        found = fmaxf(found, fabsf(values[i]));
    return (double)found;
}

fb_status fb_errors_check_truth(const double *stated, const double *truth, size_t count,
                                const char *path, const char *name) {
    for (size_t i = 0; i < count; i++) {
        bool close = fabs(stated[i] - truth[i]) <= 1e-9 * (1.0 + fabs(truth[i]));
        bool same = stated[i] == truth[i] || (isnan(stated[i]) && isnan(truth[i]));
        if (!close && !same)
            return fb_fail(FB_ERROR_FORMAT,
                           "%s: %s is not the truth of the file's inputs: element %zu is %.17g, "
                           "expected %.17g",
                           path, name, i, stated[i], truth[i]);
    }
    return FB_OK;
}

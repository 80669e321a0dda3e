/* How far numbers are from the truth. */
#ifndef FB_ORACLE_ERRORS_H
#define FB_ORACLE_ERRORS_H

#include <flashblock/status.h>

#include <stddef.h>

/* The errors of a tensor. Equal infinities are right, and so is NaN where the truth is NaN. An
 * element is infinitely wrong if it is finite and the truth is not, or the other way round. */
typedef struct fb_errors {
    double max_abs, max_rel;
    double max_ulp, mean_ulp; /* in units of float32's spacing at the true value */
    size_t worst;             /* the element of max_abs */
} fb_errors;

fb_errors fb_errors_measure(const float *values, const double *truth, size_t count);

/* A truth that a file states must be the truth. FB_ERROR_FORMAT if it is off by more than 1e-9,
 * which is far from the errors of both float64 and float32. `name` is the tensor's. */
fb_status fb_errors_check_truth(const double *stated, const double *truth, size_t count,
                                const char *path, const char *name);

/* The spacing of float32 at a number of this size; at 0 the smallest spacing. */
double fb_spacing_at(double value);

/* The largest finite |value|; 0 if there is none. */
double fb_largest_finite(const double *values, size_t count);

/* The largest |value|; 0 if there is none. NaNs do not count. */
double fb_largest_magnitude(const float *values, size_t count);

/* The most that the rounding of one score moves an output. A score of 16 or more is known to one
 * ulp only, whoever computes it in float32. For smaller scores the result is 0: their rounding is
 * hidden among the other roundings. lse [num_rows] stands for the largest score of each row. */
double fb_score_effect(const double *lse, size_t num_rows, const float *v, size_t num_values);

#endif

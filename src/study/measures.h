/* Measures that several studies take. */
#ifndef FB_STUDY_MEASURES_H
#define FB_STUDY_MEASURES_H

#include <stddef.h>

/* a / b, and 0 where there is nothing to divide by. */
double fb_measure_ratio(double a, double b);

/* KL(softmax(p) || softmax(q)) in nats, of logits p, q [count] without element `left_out`
 * (SIZE_MAX: of all of them). Rounding may leave it slightly below 0 for equal distributions. */
double fb_measure_divergence(const float *p, const float *q, size_t count, size_t left_out);

/* Peak signal-to-noise ratio of a against b [count] in decibels, where the values lie in [-1, 1].
 * Infinite for equal ones. */
double fb_measure_psnr(const float *a, const float *b, size_t count);

#endif

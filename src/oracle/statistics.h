/* Quantiles of the tests of docs/judge.md. */
#ifndef FB_ORACLE_STATISTICS_H
#define FB_ORACLE_STATISTICS_H

#include <stddef.h>

/* The probability that all tests of one kind together call an honest candidate wrong, at most.
 * There are three kinds (size, bias, known mistakes). */
#define FB_FALSE_ALARM 3e-5

/* x with P(a standard normal variable > x) = probability; 0 < probability < 0.5. */
double fb_normal_quantile(double probability);

/* x with P(mean square of `freedom` standard normal variables > x) = probability. freedom need not
 * be whole; at least 1 (Wilson and Hilferty's cube root). */
double fb_mean_square_quantile(double freedom, double probability);

/* x with P(Student's t > x) = probability; freedom > 0 (Hill's expansion, Commun. ACM 13, 1970). */
double fb_student_quantile(double freedom, double probability);

/* At least the probability that `hits` or more of `count` independent events happen, of which
 * `expected` happen on average (Hoeffding's bound, J. Amer. Statist. Assoc. 58, 1963). */
double fb_tail_bound(double count, double hits, double expected);

/* The median of |values|; 0 without values. Reorders them. */
double fb_median_magnitude(double *values, size_t count);

#endif

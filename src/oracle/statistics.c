#include "oracle/statistics.h"

#include <math.h>
#include <stdlib.h>

/* Abramowitz and Stegun 26.2.23 as a start, then Newton steps on erfc. */
double fb_normal_quantile(double probability) {
    double t = sqrt(-2.0 * log(probability));
    double x = t - (2.515517 + t * (0.802853 + t * 0.010328)) /
                       (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308)));
    for (int i = 0; i < 3; i++) {
        double tail = 0.5 * erfc(x / sqrt(2.0));
        x += (tail - probability) / (exp(-0.5 * x * x) / sqrt(8.0 * atan(1.0)));
    }
    return x;
}

double fb_mean_square_quantile(double freedom, double probability) {
    double ninth = 2.0 / (9.0 * freedom);
    double root = 1.0 - ninth + fb_normal_quantile(probability) * sqrt(ninth);
    return root > 0.0 ? root * root * root : 0.0;
}

double fb_student_quantile(double freedom, double probability) {
    const double half_pi = 2.0 * atan(1.0);
    double two_sided = 2.0 * probability;
    if (freedom < 1.5) /* Cauchy's */
        return tan(half_pi * (1.0 - two_sided));
    double a = 1.0 / (freedom - 0.5), b = 48.0 / (a * a);
    double c = ((20700.0 * a / b - 98.0) * a - 16.0) * a + 96.36;
    double d = ((94.5 / (b + c) - 3.0) / b + 1.0) * sqrt(a * half_pi) * freedom;
    double y = pow(d * two_sided, 2.0 / freedom);
    if (y <= 0.05 + a) {
        y = ((1.0 /
                  (((freedom + 6.0) / (freedom * y) - 0.089 * d - 0.822) * (freedom + 2.0) * 3.0) +
              0.5 / (freedom + 4.0)) *
                 y -
             1.0) *
                (freedom + 1.0) / (freedom + 2.0) +
            1.0 / y;
        return sqrt(freedom * y);
    }
    double x = fb_normal_quantile(probability);
    y = x * x;
    if (freedom < 5.0)
        c += 0.3 * (freedom - 4.5) * (x + 0.6);
    c += (((0.05 * d * x - 5.0) * x - 7.0) * x - 2.0) * x + b;
    y = (((((0.4 * y + 6.3) * y + 36.0) * y + 94.5) / c - y - 3.0) / b + 1.0) * x;
    y = a * y * y;
    y = y > 0.002 ? exp(y) - 1.0 : 0.5 * y * y + y;
    return sqrt(freedom * y);
}

double fb_tail_bound(double count, double hits, double expected) {
    if (hits <= expected)
        return 1.0;
    double misses = count - hits, information = hits * log(hits / expected);
    if (misses > 0.0)
        information += misses * log(misses / (count - expected));
    return exp(-information);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double fb_median_magnitude(double *values, size_t count) {
    if (count == 0)
        return 0.0;
    for (size_t i = 0; i < count; i++)
        values[i] = fabs(values[i]);
    qsort(values, count, sizeof *values, ascending);
    return values[count / 2];
}

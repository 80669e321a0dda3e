#include "study/measures.h"

#include <math.h>

double fb_measure_ratio(double a, double b) {
    return b > 0 ? a / b : 0;
}

static double log_sum_exp(const float *logits, size_t count, size_t left_out) {
    double max = -INFINITY, sum = 0.0;
    for (size_t i = 0; i < count; i++)
        max = i != left_out && (double)logits[i] > max ? (double)logits[i] : max;
    for (size_t i = 0; i < count; i++)
        sum += i != left_out ? exp((double)logits[i] - max) : 0.0;
    return max + log(sum);
}

double fb_measure_divergence(const float *p, const float *q, size_t count, size_t left_out) {
    double lse_p = log_sum_exp(p, count, left_out), lse_q = log_sum_exp(q, count, left_out);
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        double log_p = (double)p[i] - lse_p, log_q = (double)q[i] - lse_q;
        sum += i != left_out ? exp(log_p) * (log_p - log_q) : 0.0;
    }
    return sum;
}

double fb_measure_psnr(const float *a, const float *b, size_t count) {
    double sum = 0.0;
    for (size_t i = 0; i < count; i++)
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
    return 10.0 * log10(4.0 / (sum / (double)count)); /* the peak is 2: from -1 to 1 */
}

#include "model/layers.h"

#include <math.h>

/* Eight running sums, so that the additions need not wait for each other. */
static double sum_of_squares(const float *x, size_t size) {
    double sums[8] = {0};
    size_t whole = size - size % 8;
    for (size_t i = 0; i < whole; i += 8)
        for (size_t lane = 0; lane < 8; lane++)
            sums[lane] += (double)x[i + lane] * (double)x[i + lane];
    for (size_t i = whole; i < size; i++)
        sums[i - whole] += (double)x[i] * (double)x[i];
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) +
           ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

void fb_rms_norm(const float *x, const float *weight, double eps, size_t size, float *y) {
    double mean = sum_of_squares(x, size) / (double)size;
    float factor = (float)(1.0 / sqrt(mean + eps));
    for (size_t i = 0; i < size; i++)
        y[i] = (x[i] * factor) * weight[i];
}

/* The kernels' exponential takes arguments up to 0, so it is e^-|g|: for g < 0 the fraction
 * 1 / (1 + e^-g) is expanded by e^g. */
void fb_swiglu(const fb_kernels *kernels, float *gate, const float *up, size_t count) {
    enum { STEP = 256 };
    float exponents[STEP], exponentials[STEP];
    for (size_t first = 0; first < count; first += STEP) {
        size_t left = count - first, step = left < STEP ? left : STEP;
        float *g = gate + first;
        for (size_t i = 0; i < step; i++)
            exponents[i] = -fabsf(g[i]);
        kernels->exp(exponents, exponentials, step);
        for (size_t i = 0; i < step; i++) {
            float e = exponentials[i];
            float sigmoid = (g[i] < 0.0f ? e : 1.0f) / (1.0f + e);
            g[i] = g[i] * sigmoid * up[first + i];
        }
    }
}

void fb_add(float *x, const float *y, size_t count) {
    for (size_t i = 0; i < count; i++)
        x[i] += y[i];
}

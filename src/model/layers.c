#include "model/layers.h"

#include "base/half.h"

#include <math.h>
#include <stdint.h>

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

/* As in fb_swiglu. */
void fb_sigmoid(const fb_kernels *kernels, const float *z, size_t count, float *s) {
    enum { STEP = 256 };
    float exponents[STEP], exponentials[STEP];
    for (size_t first = 0; first < count; first += STEP) {
        size_t left = count - first, step = left < STEP ? left : STEP;
        for (size_t i = 0; i < step; i++)
            exponents[i] = -fabsf(z[first + i]);
        kernels->exp(exponents, exponentials, step);
        for (size_t i = 0; i < step; i++) {
            float e = exponentials[i];
            s[first + i] = (z[first + i] < 0.0f ? e : 1.0f) / (1.0f + e);
        }
    }
}

void fb_softmax(const fb_kernels *kernels, const float *z, size_t count, float *p) {
    enum { STEP = 256 };
    float exponents[STEP], largest = -INFINITY;
    double total = 0.0;
    for (size_t i = 0; i < count; i++)
        largest = z[i] > largest ? z[i] : largest;
    for (size_t first = 0; first < count; first += STEP) {
        size_t left = count - first, step = left < STEP ? left : STEP;
        for (size_t i = 0; i < step; i++)
            exponents[i] = z[first + i] - largest;
        kernels->exp(exponents, p + first, step);
        for (size_t i = 0; i < step; i++)
            total += (double)p[first + i];
    }
    for (size_t i = 0; i < count; i++)
        p[i] = (float)((double)p[i] / total);
}

void fb_round_significand(int bits, float *x, size_t count) {
    if (bits == 0)
        return;
    uint32_t drop = (uint32_t)(24 - bits), half = (1u << (drop - 1)) - 1;
    for (size_t i = 0; i < count; i++) {
        uint32_t u = fb_f32_to_bits(x[i]);
        if ((u & 0x7f800000u) == 0x7f800000u)
            continue;
        u += half + ((u >> drop) & 1u);
        x[i] = fb_bits_to_f32(u & ~((1u << drop) - 1));
    }
}

void fb_add(float *x, const float *y, size_t count) {
    for (size_t i = 0; i < count; i++)
        x[i] += y[i];
}

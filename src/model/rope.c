#include "model/rope.h"

#include <math.h>

/* ln 2; POSIX does not promise M_LN2 without its XSI option. */
static const double ln2 = 0x1.62e42fefa39efp-1;

/* theta^exponent as the vectorised power of PyTorch (that of the SLEEF library) rounds it. Its
 * logarithm and range reduction are exact to far beyond float32, so double precision stands in for
 * them; what shows in the last bit is the exponential's polynomial, whose coefficients these are,
 * evaluated in float32: e^s = 1 + (s + s^2 u(s)). */
static float vector_power(float theta, float exponent) {
    double power = (double)exponent * log((double)theta);
    double whole = rint(power / ln2);
    double s = power - whole * ln2;
    float u = 0.00136324646882712841033936f;
    u = fmaf(u, (float)s, 0.00836596917361021041870117f);
    u = fmaf(u, (float)s, 0.0416710823774337768554688f);
    u = fmaf(u, (float)s, 0.166665524244308471679688f);
    u = fmaf(u, (float)s, 0.499999850988388061523438f);
    float fraction = (float)(1.0 + (s + s * s * (double)u));
    return ldexpf(fraction, (int)whole);
}

void fb_rope_frequencies(size_t head_dim, double theta, float *inv_freq) {
    size_t half = head_dim / 2;
    for (size_t i = 0; i < half; i++) {
        float exponent = (float)(2 * i) / (float)head_dim;
        /* PyTorch's loop takes 16 elements at a time and leaves the rest to libm. */
        float power = i < half - half % 16 ? vector_power((float)theta, exponent)
                                           : (float)pow((double)(float)theta, (double)exponent);
        inv_freq[i] = 1.0f / power;
    }
}

void fb_rope_angles(const float *inv_freq, size_t half, size_t position, float *cosines,
                    float *sines) {
    for (size_t i = 0; i < half; i++) {
        float angle = (float)position * inv_freq[i];
        cosines[i] = (float)cos((double)angle);
        sines[i] = (float)sin((double)angle);
    }
}

void fb_rope_rotate(const float *cosines, const float *sines, size_t half, float *x) {
    for (size_t i = 0; i < half; i++) {
        float first = x[i], second = x[half + i];
        x[i] = first * cosines[i] - second * sines[i];
        x[half + i] = second * cosines[i] + first * sines[i];
    }
}

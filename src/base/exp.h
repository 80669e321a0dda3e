/* exp in double precision, of + - * only: the same bits on every machine, where libm's need not be.
 * Within 2 ulp of the exact value (tests/test_selector.c, tests/test_sequence.c). */
#ifndef FB_BASE_EXP_H
#define FB_BASE_EXP_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* exp(x) = 2^k exp(r), where x = k ln 2 + r and |r| <= ln 2 / 2. Returns exp(r), by its Taylor
 * series to the 13th power, which leaves out less than 2^-57. *shifted is 1.5 x 2^52 + k: the
 * addition rounds to an integer, which is then in the low bits. */
static inline double fb_exp_reduced(double x, double *shifted) {
    *shifted = x * 0x1.71547652b82fep+0 + 0x1.8p52;
    double k = *shifted - 0x1.8p52;
    double r = x - k * 0x1.62e42fee00000p-1 - k * 0x1.a39ef35793c76p-33;
    double sum = 1.0 / 6227020800.0;
    sum = sum * r + 1.0 / 479001600.0;
    sum = sum * r + 1.0 / 39916800.0;
    sum = sum * r + 1.0 / 3628800.0;
    sum = sum * r + 1.0 / 362880.0;
    sum = sum * r + 1.0 / 40320.0;
    sum = sum * r + 1.0 / 5040.0;
    sum = sum * r + 1.0 / 720.0;
    sum = sum * r + 1.0 / 120.0;
    sum = sum * r + 1.0 / 24.0;
    sum = sum * r + 1.0 / 6.0;
    sum = sum * r + 1.0 / 2.0;
    sum = sum * r + 1.0;
    return sum * r + 1.0;
}

/* 2^exponent; the exponent, -1022 to 1023, is in the low bits. */
static inline double fb_power_of_two(uint64_t exponent) {
    uint64_t bits = (exponent + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* exp(x) for -708 <= x <= 709, and NaN. It has no branch, so that compilers vectorise loops of
 * it. */
static inline double fb_exp_in_range(double x) {
    double shifted, sum = fb_exp_reduced(x, &shifted);
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return sum * fb_power_of_two(bits);
}

/* exp(x) for any x. */
static inline double fb_exp_double(double x) {
    if (x != x)
        return x;
    if (x < -745.2) /* below half of the smallest subnormal */
        return 0.0;
    if (x > 709.79)
        return (double)INFINITY;
    double shifted, sum = fb_exp_reduced(x, &shifted);
    int k = (int)(shifted - 0x1.8p52), half = k / 2; /* 2^k itself need not be a normal number */
    return sum * fb_power_of_two((uint64_t)half) * fb_power_of_two((uint64_t)(k - half));
}

#endif

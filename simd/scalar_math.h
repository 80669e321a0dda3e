/* exp and log of docs/contract.md C5, one value at a time. */
#ifndef FB_SIMD_SCALAR_MATH_H
#define FB_SIMD_SCALAR_MATH_H

#include "base/half.h"
#include "simd/constants.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/* exp(x) for x <= 0; NaN stays NaN. See constants.h for the method. */
static inline float fb_exp_value(float x) {
    x = x < FB_EXP_LOWEST ? FB_EXP_LOWEST : x;
    float rounded = fmaf(x, FB_LOG2E, FB_EXP_ROUND);
    float n = rounded - FB_EXP_ROUND;
    float r = fmaf(n, -FB_LN2_HIGH, x);
    r = fmaf(n, -FB_LN2_LOW, r);
    float p = fmaf(FB_EXP_C6, r, FB_EXP_C5);
    p = fmaf(p, r, FB_EXP_C4);
    p = fmaf(p, r, FB_EXP_C3);
    p = fmaf(p, r, FB_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    float power = fb_bits_to_f32(fb_f32_to_bits(rounded) << 23); /* 2^(n + 64) */
    return p * power * FB_EXP_UNSCALE;
}

/* ln(x) for x >= 1, in double: x = 2^e m with m in [1/sqrt2, sqrt2), and with t = (m-1)/(m+1)
 * ln m = 2 atanh t = 2 (t + t^3/3 + t^5/5 + ...), |t| < 0.172. Ten terms leave 1e-17. Only
 * + - * / of doubles: the same bits everywhere. */
static inline double fb_log_value(double x) {
    if (!(x < (double)INFINITY)) /* +inf, NaN */
        return x;
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1022; /* the sign is 0 */
    bits = (bits & 0x000fffffffffffffu) | 0x3fe0000000000000u;
    double m; /* [0.5, 1) */
    memcpy(&m, &bits, sizeof m);
    if (m < 0x1.6a09e667f3bcdp-1) {
        m *= 2.0;
        e -= 1;
    }
    double t = (m - 1.0) / (m + 1.0);
    double t2 = t * t;
    double sum = 0.0;
    for (int k = 19; k >= 1; k -= 2)
        sum = sum * t2 + 1.0 / (double)k;
    return (double)e * 0x1.62e42fefa39efp-1 + 2.0 * t * sum;
}

#endif

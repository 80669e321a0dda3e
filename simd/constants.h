/* Numbers that every instruction set shares, written in hexadecimal so that each gets the same
 * bits.
 *
 * exp(x) for x <= 0 (contract C5.1):
 *   n = round(x / ln 2), r = x - n ln 2 in two steps (|r| <= 0.3466), exp(x) = 2^n P(r),
 *   P(r) = 1 + r (1 + r (C2 + r (C3 + r (C4 + r (C5 + r C6))))), all by fma.
 *   C2..C6: Remez on |r| <= ln2/2, relative error of P 3.2e-9 with the rounded coefficients.
 * Contract C5.3 states the error of the result; tests/test_exp_log.c measures it.
 */
#ifndef FB_SIMD_CONSTANTS_H
#define FB_SIMD_CONSTANTS_H

/* Below this exp rounds to 0; 2^n stays in range above it. */
#define FB_EXP_LOWEST -104.0f

#define FB_LOG2E 0x1.715476p+0f
/* ln 2 in two pieces; the first has 15 bits, so that n * LN2_HIGH is exact. */
#define FB_LN2_HIGH 0x1.62e4p-1f
#define FB_LN2_LOW  0x1.7f7d1cp-20f

#define FB_EXP_C2 0x1.fffffcp-2f
#define FB_EXP_C3 0x1.55548cp-3f
#define FB_EXP_C4 0x1.555858p-5f
#define FB_EXP_C5 0x1.123dep-7f
#define FB_EXP_C6 0x1.6ac746p-10f

/* Adding FB_EXP_ROUND rounds to an integer and leaves n + 64 + 127 in the low bits: shifted up by
 * 23 they are 2^(n+64). The product with P(r) is a normal number and exact; one multiplication by
 * 2^-64 then rounds once, where the result is subnormal. */
#define FB_EXP_ROUND   (0x1.8p+23f + 191.0f)
#define FB_EXP_UNSCALE 0x1p-64f

/* Every NaN that leaves the library. */
#define FB_NAN_BITS 0x7fc00000u

#endif

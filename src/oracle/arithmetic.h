/* What kernels of a given arithmetic round, and by how much. */
#ifndef FB_ORACLE_ARITHMETIC_H
#define FB_ORACLE_ARITHMETIC_H

#include <flashblock/experimental/oracle.h>
#include <flashblock/types.h>

#include <stdbool.h>
#include <stddef.h>

/* The root mean square error of rounding a weight exp(s - m) before the second product, relative to
 * the weight; the absolute one, of numbers too small to be normal (weights are at most 1). */
double fb_arithmetic_roundoff(fb_arithmetic arithmetic);
double fb_arithmetic_underflow(fb_arithmetic arithmetic);

/* The numbers that a weight is rounded to: `bits` of them in the fraction, the leading 1 included;
 * below `normal` they are multiples of `spacing`. bits 0: weights are not rounded. */
typedef struct fb_weight_format {
    int bits;
    double normal, spacing;
} fb_weight_format;
fb_weight_format fb_arithmetic_weights(fb_arithmetic arithmetic);

/* Operands that are cut off instead of rounded make every product smaller. By how much at most, on
 * average, relative to the product: in scores and in outputs (`products`, of the two operands of
 * tf32x3); in weights, and in the row sum if it is made of them (`weights`, tf32). */
typedef struct fb_cut {
    double products, weights;
} fb_cut;
fb_cut fb_arithmetic_cut(fb_arithmetic arithmetic);

/* How inputs of the matrix unit are rounded. */
typedef enum fb_rounding {
    FB_ROUND_NONE = 0,
    FB_ROUND_BF16,
    FB_ROUND_F16,
    FB_ROUND_TF32,     /* to nearest, ties away from zero (cvt.rna.tf32) */
    FB_ROUND_TF32_CUT, /* the low 13 bits are ignored */
    FB_ROUND_FP8,      /* e4m3, at most 448 */
    FB_NUM_ROUNDINGS
} fb_rounding;

float fb_rounded(fb_rounding rounding, float value);

/* All of them; `to` may be `from`. Whether any of them is changed. */
void fb_rounded_values(fb_rounding rounding, const float *from, float *to, size_t count);
bool fb_rounding_changes(fb_rounding rounding, const float *values, size_t count);

/* Honest kernels of one arithmetic differ in their inputs: the same results would be right for each
 * of these. */
typedef struct fb_reading {
    fb_rounding q, kv;
    /* q is multiplied by the scale, and by log2 e if `base2`, and rounded once more. */
    bool scaled, base2;
    const char *words; /* "queries rounded to bf16" */
} fb_reading;

/* The readings of an arithmetic, the most usual one first. */
const fb_reading *fb_arithmetic_readings(fb_arithmetic arithmetic, size_t *count);

/* Scores that are stored are rounded twice: as they are, and times the scale (or times the scale
 * and log2 e). The second error of a number of few bits is the same each time. What it is on
 * average, at most, relative to the score: nothing for a power of 2, 3e-4 of bf16 for 1.02 times
 * one. */
double fb_arithmetic_score_bias(fb_arithmetic arithmetic, double scale);

/* The variance of rounding to a stored type, element by element: spacing^2 / 12. The error itself,
 * if the value is stored without another error before; 0 for float32. */
double fb_storage_variance(fb_dtype stored, double value);
double fb_storage_error(fb_dtype stored, double value);

#endif

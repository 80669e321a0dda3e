/* Honest kernels, emulated. What a right kernel of an arithmetic may do differs from one to the
 * next: which operands are rounded, and when; the order of the sums; tiles, splits, exp2. A draw is
 * one of them. The noise of docs/judge.md is to be at least as large as the errors of every draw:
 * tests/oracle_rates.c judges thousands. */
#ifndef FB_ORACLE_EMULATE_H
#define FB_ORACLE_EMULATE_H

#include "oracle/arithmetic.h"
#include "oracle/attention_problem.h"

/* How products are summed. */
typedef enum fb_product {
    FB_PRODUCT_F32,    /* float32 products and sums, `lanes` partial sums */
    FB_PRODUCT_UNIT,   /* a matrix unit: `lanes` exact products at a time are added to a float32 */
    FB_PRODUCT_UNIT_X3 /* operands as sums of two tf32 numbers, three products of the four */
} fb_product;

typedef struct fb_honest {
    fb_product product;
    size_t lanes, tile, splits;
    fb_reading read;     /* of inputs */
    fb_rounding weights; /* before the second product */
    int weight_shift;    /* weights are multiplied by 2^shift before they are rounded */
    bool cut;            /* the two tf32 numbers of an operand are cut off, not rounded */
    bool sum_rounded;    /* the row sum is made of rounded weights */
    bool exp2;           /* the scale includes log2 e */
    bool fused;          /* scale and maximum are applied in one rounding */
    bool eager;          /* scores are stored in the inputs' type, before and after the scale */
    bool reciprocal;     /* the output is multiplied by 1 / sum */
    double exp_bias, exp_spread; /* the error of exp in 2^-24: of all, and of each */
    uint64_t seed;
} fb_honest;

/* A kernel of this arithmetic; its seed decides all choices. */
fb_honest fb_honest_draw(fb_arithmetic arithmetic, uint64_t seed);

/* Attention by the kernel: out [batch, queries, heads, head_dim], lse [batch, queries, heads]; not
 * rounded to what they are stored in. kv_heads: NULL, or the KV head that each head reads. */
fb_status fb_honest_attend(const fb_attention_problem *problem, const fb_honest *kernel,
                           const size_t *kv_heads, float *out, float *lse);

/* The merge of two parts, row by row, into out and lse, which may be those of a. */
void fb_honest_merge(const fb_honest *kernel, const float *out_a, const float *lse_a,
                     const float *out_b, const float *lse_b, size_t rows, size_t dim, float *out,
                     float *lse);

#endif

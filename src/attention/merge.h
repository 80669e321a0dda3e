/* One row of a merge (docs/contract.md C4): fb_merge and the chunks of fb_attend share it. */
#ifndef FB_ATTENTION_MERGE_H
#define FB_ATTENTION_MERGE_H

#include "simd/kernels.h"

/* The scalars of `rows` (<= FB_MAX_ROWS) merges of a with b: the weight of the part with the
 * smaller LSE, where the other part weighs 1, and the LSE of both. LSEs go in and come out
 * unrounded: they stay so between the chunks of a range; at the end of a range, and in fb_merge,
 * fb_round_lse rounds them. `lse` may be lse_a or lse_b. */
void fb_merge_weights(const fb_kernels *kernels, const double *lse_a, const double *lse_b,
                      size_t rows, float *weights, double *lse);

/* Merges one row of outputs (or mean keys), by its weight and the LSEs of both parts. `out` may be
 * out_a or out_b. The output of a part with an LSE of -inf is not read. */
void fb_merge_output_row(const fb_kernels *kernels, const float *out_a, double lse_a,
                         const float *out_b, double lse_b, float weight, size_t head_dim,
                         float *out);

/* Rounds to float32. Each NaN becomes the library's, FB_NAN_BITS. */
float fb_round_lse(double lse);

#endif

/* One row of a merge: the operation that fb_merge and the chunks of fb_attend share. */
#ifndef FB_ATTENTION_MERGE_H
#define FB_ATTENTION_MERGE_H

#include "kernels.h"

/* out, lse := merge of (out_a, lse_a) and (out_b, lse_b); `out` may be out_a or out_b. LSEs come
 * and go unrounded: between the chunks of a range they stay so, at the end of a range and in
 * fb_merge fb_round_lse rounds them. */
void fb_merge_rows(const fb_kernels *kernels, const float *out_a, double lse_a, const float *out_b,
                   double lse_b, size_t head_dim, float *out, double *lse);

/* To float32; NaN becomes the library's one. */
float fb_round_lse(double lse);

/* Replaces every NaN by the library's one. */
void fb_canonical_nan(float *values, size_t count);

#endif

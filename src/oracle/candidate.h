/* Another implementation's results: tensors of the names of a case's results, f32, bf16 or f16, in
 * a .safetensors file; or one array in a .npy file.
 *
 * The rule: a result may be at most twice as far from the truth as a plain implementation in the
 * candidate's own precision (FlashAttention's rule for its tests), or as far as the spacing of that
 * precision at the largest true value. */
#ifndef FB_ORACLE_CANDIDATE_H
#define FB_ORACLE_CANDIDATE_H

#include "oracle/report.h"

typedef struct fb_candidate fb_candidate;

fb_status fb_candidate_open(const char *path, fb_candidate **candidate);
void fb_candidate_close(fb_candidate *candidate); /* NULL is allowed */

/* What it computes in, where that is coarser than what it stores: kernels in bf16 that write
 * float32, say. Without it each tensor is judged in the type that it is stored in, and an LSE in
 * the coarsest type of all tensors, as LSEs are stored in float32 by kernels of any precision. */
void fb_candidate_set_precision(fb_candidate *candidate, fb_dtype precision);

/* The array of a .npy file is the tensor of the case that the file is named after ("lse.npy"), or,
 * if the case has none of that name, `out`. */
void fb_candidate_match(fb_candidate *candidate, const fb_case *c);

/* The candidate's tensor of that name, which is marked as used; or NULL. */
const fb_tensor_view *fb_candidate_find(fb_candidate *candidate, const char *tensor);

/* How many tensors it has; the name of one that was never asked for, NULL of one that was. */
size_t fb_candidate_count(const fb_candidate *candidate);
const char *fb_candidate_unused(const fb_candidate *candidate, size_t index);

/* Judges the candidate's tensor in place of claim->ours: fills precision, errors, value, bound,
 * plain_error, ratio, note, passed. claim->truth is there. A tensor with another number of elements
 * fails; another shape does not matter (a transposed LSE is to be named). */
fb_status fb_judge_candidate(const fb_claim *claim, const fb_candidate *candidate,
                             const fb_tensor_view *tensor, fb_finding *finding);

/* The same for values [shape] computed in finding->precision. */
fb_status fb_judge_values(const fb_claim *claim, const float *values, fb_finding *finding);

#endif

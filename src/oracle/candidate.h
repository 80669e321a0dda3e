/* The results of another implementation: tensors with the names of a case's results, in f32, bf16
 * or f16. They are in a .safetensors file, or a .npy file holds one of them. */
#ifndef FB_ORACLE_CANDIDATE_H
#define FB_ORACLE_CANDIDATE_H

#include "oracle/case.h"

#include <flashblock/experimental/oracle.h>

/* A candidate with one tensor, computed in `precision`: stored as such if it holds all values, as
 * f32 otherwise. Fails as fb_candidate_add. */
fb_status fb_candidate_of_values(const char *name, fb_dtype precision, const fb_dims *shape,
                                 const float *values, fb_candidate **candidate);

/* The precision that this tensor is judged in. */
fb_dtype fb_candidate_precision(const fb_candidate *candidate, const fb_tensor_view *tensor,
                                bool is_lse);

/* What was said of its arithmetic. */
fb_arithmetic fb_candidate_arithmetic(const fb_candidate *candidate);

/* Names the array of a .npy file: it is the tensor of the case that the file is named after
 * ("lse.npy"), or, if the case has none of that name, `out`. */
void fb_candidate_match(fb_candidate *candidate, const fb_case *c);

/* The candidate's tensor of that name, which is then marked as used. NULL if there is none. */
const fb_tensor_view *fb_candidate_find(fb_candidate *candidate, const char *tensor);

/* The file; NULL if there is none. */
const char *fb_candidate_path(const fb_candidate *candidate);

/* The number of tensors. One of them; that does not mark it as used. The name of a tensor that was
 * never asked for; NULL for one that was. */
size_t fb_candidate_count(const fb_candidate *candidate);
const fb_tensor_view *fb_candidate_at(const fb_candidate *candidate, size_t index);
const char *fb_candidate_unused(const fb_candidate *candidate, size_t index);

#endif

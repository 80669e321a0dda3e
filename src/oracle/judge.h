/* The judgement of somebody else's results: a candidate's, or those that a case file holds.
 *
 * The rule of the kinds that have no model of the noise (attention and sequences have one, see
 * verdict.h): a result may be at most twice as far from the truth as a plain implementation in the
 * result's own precision (FlashAttention's rule for its tests), or as far as the spacing of that
 * precision at the largest true value. */
#ifndef FB_ORACLE_JUDGE_H
#define FB_ORACLE_JUDGE_H

#include "oracle/finding.h"

/* Judges values [shape], computed in finding->precision, in place of claim->ours, and fills in
 * errors, value, bound, plain_error, ratio, note and passed. claim->truth must not be NULL. */
fb_status fb_judge_values(const fb_claim *claim, const float *values, fb_finding *finding);

/* The same for a tensor. A tensor with another number of elements fails. Another shape does not
 * matter: a transposed LSE is to be named. */
fb_status fb_judge_tensor(const fb_claim *claim, const fb_tensor_view *tensor, fb_finding *finding);

#endif

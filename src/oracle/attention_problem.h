/* One attention problem of a case, batched, and everything that is asked of it: this build's
 * answer, the truth, the results of a plain implementation, the results of known mistakes.
 *
 *   q        [batch, queries, heads, head_dim]       lse  [batch, heads, queries]
 *   k, v     [batch, keys, kv_heads, head_dim]       out  [batch, queries, heads, head_dim]
 */
#ifndef FB_ORACLE_ATTENTION_PROBLEM_H
#define FB_ORACLE_ATTENTION_PROBLEM_H

#include "oracle/claim.h"
#include "oracle/report.h"

#include <flashblock/attention.h>

typedef struct fb_attention_problem {
    size_t batch, queries, keys, heads, kv_heads, head_dim;
    double scale; /* never 0 */
    fb_mask mask; /* {0}: every query sees every key */
    const float *q, *k, *v;
    bool lse_by_token; /* lse is [batch, queries, heads] */
} fb_attention_problem;

/* Reads "B", "H", "Hk", "D" of the params; q, k and v are the caller's. */
fb_status fb_attention_problem_sizes(fb_case *c, fb_attention_problem *problem);

/* Reads "softmax_scale", 1/sqrt(head_dim) where it is missing; head_dim is known. */
fb_status fb_attention_problem_scale(fb_case *c, fb_attention_problem *problem);

size_t fb_attention_problem_rows(const fb_attention_problem *problem); /* batch x queries x heads */
size_t fb_attention_problem_values(const fb_attention_problem *problem); /* rows x head_dim */

/* This build's answer; the truth in double precision. */
fb_status fb_attention_problem_attend(const fb_attention_problem *problem, float *out, float *lse);
fb_status fb_attention_problem_truth(const fb_attention_problem *problem, double *out, double *lse);

/* The largest error of a plain float32 implementation's outputs against `truth`. */
fb_status fb_attention_problem_plain_error(const fb_attention_problem *problem, const double *truth,
                                           double *error);

/* Claims on `out` and `lse`, under these names. file_* may be NULL. truth_* are what the file
 * states as the truth, or NULL: the call fails if that is not the truth. */
typedef struct fb_attention_claims {
    const char *out_name, *lse_name;
    const char *path; /* of the file, for messages; with truth_* */
    const float *file_out, *file_lse;
    fb_dtype file_precision; /* of the file's computation: what it stores `out` in */
    const double *truth_out, *truth_lse;
} fb_attention_claims;

fb_status fb_claim_attention(fb_report *report, const fb_attention_problem *problem,
                             const fb_attention_claims *claims);

#endif

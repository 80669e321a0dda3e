/* Claims on the two results of an attention problem. */
#ifndef FB_ORACLE_ATTENTION_CLAIMS_H
#define FB_ORACLE_ATTENTION_CLAIMS_H

#include "oracle/attention_problem.h"
#include "oracle/report.h"

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

/* The merge of two parts, and everything that is asked of it: this build's answer, the truth, the
 * results of a plain implementation, the results of known mistakes. Rows are [tokens, heads].
 *
 *   a  the external part (history), fresh or cached      b  the internal part (current block)
 */
#ifndef FB_ORACLE_MERGE_PROBLEM_H
#define FB_ORACLE_MERGE_PROBLEM_H

#include "oracle/case.h"
#include "oracle/report.h"

typedef struct fb_merge_problem {
    size_t tokens, heads, head_dim;
    const float *out_a, *lse_a, *out_b, *lse_b;
    /* Per row; NULL: no row. */
    const unsigned char *passes_b;     /* the output is b's as it is */
    const unsigned char *passes_lse_b; /* the LSE is b's as it is */
    const unsigned char *stores;       /* a is fresh and is kept; otherwise it is a cached one */
    const unsigned char *dirty;        /* the row's token changed since the cached one was made */
    /* The part that a wrong port takes instead of a: the cached part for rows that store, the fresh
     * part for others. NULL: none. */
    const float *other_a, *other_lse_a;
} fb_merge_problem;

typedef struct fb_merge_claim {
    const char *tensor;
    fb_dims shape; /* in the order of the rows */
    size_t token_axis, head_axis;
    bool lse;               /* the merged LSE, not the output */
    const char *lse_tensor; /* of an output: the merged LSE beside it; NULL: none */
    const float *file;
    fb_dtype file_precision;
    const double *truth; /* NULL: computed from the parts */
    double score_effect;
} fb_merge_claim;

fb_status fb_claim_merge(fb_case *c, fb_report *report, const fb_merge_problem *problem,
                         const fb_merge_claim *claim);

/* What made NaN of a merge's result where the truth has none, in words. `lse`: the merged LSEs that
 * were given with the output, or NULL. */
void fb_merge_say_nan(const fb_merge_problem *problem, bool is_lse, const float *values,
                      const double *truth, const float *lse, char *words, size_t size);

/* The cache after the merge: a row that stores has the fresh part, any other row what it had
 * before, bit for bit. `width`: head_dim for outputs, 1 for LSEs. All [tokens, heads, width]. */
typedef struct fb_cache_problem {
    size_t rows, width;
    const float *before, *fresh;
    const unsigned char *stores, *dirty; /* per row; NULL: no row */
} fb_cache_problem;

fb_status fb_claim_cache(fb_case *c, fb_report *report, const fb_cache_problem *problem,
                         const fb_merge_claim *claim);

#endif

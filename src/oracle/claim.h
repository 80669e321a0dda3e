/* A claim says what a tensor of a case should be. A kind makes claims (kinds.h); a report turns
 * each claim into a finding (report.h). */
#ifndef FB_ORACLE_CLAIM_H
#define FB_ORACLE_CLAIM_H

#include "oracle/dims.h"

#include <flashblock/types.h>

#include <stdbool.h>

/* How far a result may be from the truth, in the largest absolute difference. */
typedef enum fb_bound_rule {
    /* The error of the file's own result plus one ulp of the largest true value. `score_effect`
     * takes the place of the ulp where it is larger. If the claim has a plain implementation, at
     * least that one's error in float32 plus two ulps is allowed. */
    FB_BOUND_FILE = 0,
    FB_BOUND_ABSOLUTE, /* `tolerance` */
    FB_BOUND_BITS,     /* the same bits */
} fb_bound_rule;

/* Something that porters get wrong, as a computation. A candidate that agrees with it, and not with
 * the truth, has made that mistake. `compute` fills [count] with the results of the mistake;
 * context is the claim's. It returns FB_ERROR_UNSUPPORTED if the mistake cannot be made here (with
 * one KV head, say): the mistake is then left out. */
typedef struct fb_mistake {
    const char *words; /* "the scale is applied twice" */
    fb_status (*compute)(const void *context, double *out, size_t count);
} fb_mistake;

struct fb_finding;

typedef struct fb_claim {
    const char *tensor;
    fb_dims shape;
    const float *ours;   /* this build's result */
    const float *file;   /* the file's own result; NULL if it has none */
    const double *truth; /* NULL: `file` is taken as the truth */
    fb_bound_rule rule;
    double tolerance;        /* of FB_BOUND_ABSOLUTE */
    double score_effect;     /* of FB_BOUND_FILE; see fb_score_effect */
    fb_dtype file_precision; /* what the file stores its result in; fb_case_precision */

    /* For judging the results of others (the file's own, a candidate's). All may be left out. */
    bool is_lse; /* natural log-sum-exps: base, layout and infinities are looked at */
    /* The axes of tokens and of heads, which are neighbours. Equal axes (0, 0): the layout is not
     * looked at. */
    size_t token_axis, head_axis;
    /* Fills [shape] with the results of a plain implementation in `precision`: inputs, the results
     * of products, and outputs are rounded to it. NULL: `ours`, rounded. */
    fb_status (*plain)(const void *context, fb_dtype precision, float *out);
    const fb_mistake *mistakes;
    size_t num_mistakes;
    /* Fills in `words` with the known mistake that explains these values [shape], if there is one;
     * otherwise they stay "". The finding has the tensor's name and shape, the precision and the
     * worst element. NULL: base, layout, infinities, `mistakes` and NaN are looked at instead. */
    fb_status (*name)(const void *context, const float *values, const struct fb_finding *finding,
                      char *words, size_t size);
    /* What made NaN of values where the truth has none, in words. NULL: they are counted. */
    void (*say_nan)(const void *context, const float *values, const double *truth, char *words,
                    size_t size);
    const void *context; /* of plain, mistakes, name, say_nan and explain */
    /* One line of detail on an element, for --verbose. NULL: there is nothing to add. */
    fb_status (*explain)(const void *context, size_t index, char *text, size_t size);
} fb_claim;

#endif

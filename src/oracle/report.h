/* What checking a case found: for each tensor, how far a result is from the truth, how far it may
 * be, and whether it is.
 *
 * A kind (kinds.h) recomputes a case and makes *claims*: "tensor T should be `truth`; this build
 * computes `ours`; the file has `file`". The report turns each into a *finding*. It fails when this
 * build is too far from the truth, and also when the file's own result is: a wrong file must not
 * widen the bound. Where a candidate's result of that tensor was given (candidate.h), it is judged
 * in place of both.
 */
#ifndef FB_ORACLE_REPORT_H
#define FB_ORACLE_REPORT_H

#include "oracle/case.h"

#include <flashblock/types.h>

/* How far a result may be from the truth, in the largest absolute difference. */
typedef enum fb_bound_rule {
    /* the error of the file's own result plus one ulp of the largest true value, or, where the
     * scores are so large that it is more, `score_effect`; or the error of a plain float32
     * implementation plus two ulps, if that is more and the claim has one */
    FB_BOUND_FILE = 0,
    FB_BOUND_ABSOLUTE, /* `tolerance` */
    FB_BOUND_BITS,     /* none: the same bits */
} fb_bound_rule;

struct fb_mistake;

typedef struct fb_claim {
    const char *tensor;
    fb_dims shape;
    const float *ours;   /* this build's */
    const float *file;   /* the file's own result; NULL when it has none */
    const double *truth; /* NULL: `file` is the truth, as far as one is known */
    fb_bound_rule rule;
    double tolerance;        /* of FB_BOUND_ABSOLUTE */
    double score_effect;     /* of FB_BOUND_FILE; see fb_score_effect */
    fb_dtype file_precision; /* what the file stores its result in; fb_case_precision */

    /* For judging other people's results (the file's own, candidates); all may be left out. */
    bool is_lse; /* natural log-sum-exps: base, layout and infinities are looked at */
    size_t
        token_axis; /* of the shape: tokens; heads are in the axis `head_axis`, beside it. Equal */
    size_t head_axis; /* axes (0, 0): no layout is looked at */
    /* What a plain implementation computes in `precision` (inputs, products' results and outputs
     * rounded to it): fills [shape]. NULL: `ours`, rounded to it. */
    fb_status (*plain)(const void *context, fb_dtype precision, float *out);
    /* What known mistakes would give (mistakes.h). */
    const struct fb_mistake *mistakes;
    size_t num_mistakes;
    const void *context; /* of plain and mistakes; outlives the report's use of the claim */
    /* One line of detail on an element, for --verbose: NULL when there is nothing to add. */
    fb_status (*explain)(const void *context, size_t index, char *text, size_t size);
} fb_claim;

/* Errors over a tensor. An element that is not finite where the truth is, or the other way round,
 * counts as infinitely wrong; equal infinities, and NaN for NaN, as right. */
typedef struct fb_errors {
    double max_abs, max_rel;
    double max_ulp, mean_ulp; /* in units of float32's spacing at the true value */
    size_t worst;             /* the element of max_abs */
} fb_errors;

typedef struct fb_finding {
    char tensor[96];
    fb_dims shape;
    bool decisions; /* whole numbers that must agree: only `differing` and `worst` count */
    size_t differing;
    fb_errors errors;
    bool has_file;
    fb_errors file_errors;
    fb_bound_rule rule;
    double bound;
    double file_bound;   /* of FB_BOUND_FILE, without the plain implementation's share */
    double value, truth; /* at errors.worst; value is this build's, or the candidate's */
    bool of_candidate;
    fb_dtype precision; /* that it is judged in: the candidate's, or the file's */
    double plain_error; /* of a plain implementation in that precision; then */
    double ratio;       /* of the judged result's error to plain_error */
    bool file_failed;   /* the file's own result is wrong, whatever this build's is */
    char note[512];     /* what explains the difference, if anything known does */
    char detail[1024];  /* of --verbose */
    bool passed;
} fb_finding;

typedef enum fb_outcome { FB_PASSED = 0, FB_FAILED, FB_SKIPPED } fb_outcome;

struct fb_candidate;

typedef struct fb_report {
    char kind[64], name[256], path[512];
    fb_outcome outcome; /* FB_FAILED as soon as one finding fails */
    char reason[512];   /* of a failure that is no finding, or of skipping */
    fb_finding *findings;
    size_t num_findings;
    bool verbose;                   /* set by the caller: fill in `detail` */
    struct fb_candidate *candidate; /* set by the caller, or NULL */
} fb_report;

void fb_report_free(fb_report *report);

/* Adds the finding of a claim. */
fb_status fb_report_claim(fb_report *report, const fb_claim *claim);

/* Adds the finding of decisions (token ids, actions, counts): equal, or failed. */
fb_status fb_report_decisions(fb_report *report, const char *tensor, fb_dims shape,
                              const int32_t *ours, const int32_t *file);

/* The case is left out, and why. */
void fb_report_skip(fb_report *report, const char *format, ...) FB_PRINTF(2, 3);

fb_errors fb_measure_errors(const float *values, const double *truth, size_t count);

/* Scores of 16 and more are known to an ulp of theirs only, whoever computes them in float32: what
 * the rounding of one score moves an output by, at most. 0 for smaller ones, where that is hidden
 * among the other roundings. lse [num_rows] stands for the largest score of each row. */
double fb_score_effect(const double *lse, size_t num_rows, const float *v, size_t num_values);

/* float32's spacing at a number of this size; the smallest there is at 0. */
double fb_spacing_at(double value);

/* The largest finite absolute value; 0 where there is none. */
double fb_largest_finite(const double *values, size_t count);

/* "12,3,0": the indices of a flat index. */
void fb_dims_index(const fb_dims *shape, size_t flat, char *text, size_t size);

#endif

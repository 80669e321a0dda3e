/* The results of a mistake: what all given tensors of a trial would be if it had been made. */
#ifndef FB_ORACLE_WRONG_H
#define FB_ORACLE_WRONG_H

#include "oracle/trial.h"

typedef struct fb_wrong {
    fb_trial *trial;
    bool everywhere;     /* the mistake is made in all rows or not at all */
    bool found_there;    /* the mistake was found in some rows, and is made there only */
    bool cheap;          /* parts that are not known yet are not computed */
    double **out, **lse; /* [parts] as the mistake has them; NULL: right */
    double **result;     /* [tensors] NULL: right */
    double *memory;
    double **part_memory, **tensor_memory;
} fb_wrong;

/* A known mistake. `compute` changes a fb_wrong; it returns FB_ERROR_UNSUPPORTED if the mistake
 * cannot be made here. `n` is a number of keys, of heads, ...; words is a printf format for it. */
typedef struct fb_known {
    const char *words;
    fb_status (*compute)(fb_wrong *wrong, size_t n);
    size_t n;
} fb_known;

fb_status fb_wrong_create(fb_trial *trial, fb_wrong **wrong);
void fb_wrong_reset(fb_wrong *wrong);

/* Whether a part can be had: it is known, or may be computed. */
fb_status fb_wrong_need(fb_wrong *wrong, size_t part);

/* A part's own copy, at first the right one, to be changed; [rows, dim], [rows]. */
fb_status fb_wrong_part(fb_wrong *wrong, size_t part, double **out, double **lse);

/* A part as it is now. */
const double *fb_wrong_out(const fb_wrong *wrong, size_t part);
const double *fb_wrong_lse(const fb_wrong *wrong, size_t part);

/* Results of all tensors whose parts were changed. */
void fb_wrong_finish(fb_wrong *wrong);

/* One tensor's own copy, at first the right one, to be changed. */
double *fb_wrong_result(fb_wrong *wrong, size_t tensor);

/* One tensor as the merge of these. */
void fb_wrong_merge(fb_wrong *wrong, size_t tensor, const double *out_a, const double *lse_a,
                    const double *out_b, const double *lse_b);

/* Whether a given tensor is a merge of two parts. */
bool fb_wrong_is_merge(const fb_wrong *wrong, size_t tensor);

#endif

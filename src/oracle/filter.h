/* The tests of a trial: size, and the matched filter for known mistakes. docs/judge.md has the
 * formulas. */
#ifndef FB_ORACLE_FILTER_H
#define FB_ORACLE_FILTER_H

#include "oracle/wrong.h"

/* --- size ------------------------------------------------------------------------------------- */

typedef struct fb_size_test {
    bool passed;
    double excess;  /* the largest root mean square (or element) over its threshold */
    size_t tensor;  /* where */
    char where[96]; /* "head 5", "channel 7", "row [0,3]", "element [0,3,7]", "the whole tensor" */
    double rms;     /* of error / sigma there */
} fb_size_test;

/* One tensor; all given ones (the worst is kept). rms is of the whole tensor. */
void fb_test_size(const fb_trial *trial, size_t tensor, double *rms, fb_size_test *worst);
fb_size_test fb_test_sizes(const fb_trial *trial);

/* --- mistakes --------------------------------------------------------------------------------- */

/* How well a mistake explains the errors. */
typedef struct fb_fit {
    bool found;
    char words[400]; /* of the mistake, with its number */
    char place[160]; /* " in head 5"; "" for everywhere */
    char same[300];  /* the words of another mistake that gives the same results here, or "" */
    double score;    /* share, and less where the place is not everywhere */
    double share;    /* of what there is to explain: 0 to 1 */
    double size;     /* its coefficient, 1 for the mistake itself, and its standard error */
    double error;
    double rest;         /* what is left, below the noise too: a sum of logarithms */
    double explained;    /* reduction of the sum of squares of error / sigma */
    unsigned char *rows; /* [tensors][rows] where it was made */
    double *wrong;       /* the tensors' results, one after the other */
    double **parts;      /* [parts] out [rows, dim], lse [rows]; of parts that it changes: */
    bool *part_changed;  /* [parts] */
    bool sized;          /* a small factor or offset, found from the errors: known_sizes.c */
} fb_fit;

typedef struct fb_filter {
    fb_trial *trial;
    size_t total;      /* elements of given tensors */
    double *x, *n, *d; /* [tensors][rows] sums of e^2, e d, d^2 over sigma^2 */
    double *scale;     /* [tensors] the noise as it is, in units of sigma */
    double *scratch;
    double *clean;         /* error / sigma without gains, while fine; else scratch */
    unsigned char *places; /* [2][tensors][rows] scratch: rows in which a mistake may be */
    size_t *alike;         /* [rows] the first row that has nearly the same results, or itself */
    size_t tested;
    bool sizes;      /* mistakes with a size are tried */
    double handicap; /* a mistake with a size has to explain so much more than the best so far */
    bool fine;       /* the size test was passed: only what is significant counts */
    fb_fit best;
} fb_filter;

fb_status fb_filter_create(fb_trial *trial, fb_filter **filter);

/* Begins anew with the trial's present errors; `fine` as above. */
void fb_filter_begin(fb_filter *filter, bool fine);

/* Tries a mistake, and keeps it if it explains more than the best so far. Returns its score; 0
 * while fine. */
double fb_filter_try(fb_filter *filter, const fb_wrong *wrong, const char *words);

/* A mistake with a size that is found: d is its result for a small size `unit`. Only while fine.
 * `words` is a printf format for the size found. Sizes below `least` are not mistakes. */
void fb_filter_try_size(fb_filter *filter, const fb_wrong *wrong, double unit, double least,
                        const char *words);

/* Below the others, in filter_fine.c. fb_filter_try while fine: a mistake that is as large as it is
 * known to be; a copy of a mistake into `best`; the errors without gains. */
void fb_filter_try_fine(fb_filter *filter, const fb_wrong *wrong, const char *words);
void fb_filter_keep(fb_filter *filter, const fb_wrong *wrong, const char *words);
void fb_filter_clean(fb_filter *filter);

/* What is significant at this many tests: |c| > threshold x standard error. */
double fb_filter_threshold(const fb_filter *filter, double freedom);

/* The best mistake in words, with its place. */
void fb_filter_say(const fb_filter *filter, char *words, size_t size);

/* Takes the best mistake away from the trial's errors: what remains is to be noise. */
void fb_filter_subtract(fb_filter *filter);

/* What it leaves, while not fine: the largest excess of the size test, and the share of the squares
 * of error / sigma. */
double fb_filter_excess_left(fb_filter *filter, double *squares);

/* Takes it away times what fits LSEs best, and outputs: another mistake may make larger what this
 * one changes, as LSEs in base 2 do. */
void fb_filter_subtract_fitted(fb_filter *filter);

#endif

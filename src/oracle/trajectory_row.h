/* One masked position: what its logits say about what the record proposes there. */
#ifndef FB_ORACLE_TRAJECTORY_ROW_H
#define FB_ORACLE_TRAJECTORY_ROW_H

#include "oracle/trajectory_measure.h"

/* A probability below this is as good as none. */
#define FB_TRAJECTORY_SMALLEST 1e-37

/* Top-k and top-p: for tokens at the edge it is decided by less than the noise whether they are
 * kept. */
typedef struct fb_trajectory_edge {
    double sure;     /* everybody keeps tokens that are kept here with a logit from this one on */
    double possible; /* others may keep tokens that are left out here with a logit from this on */
    double moved;    /* the share of the tokens in between */
    double total;    /* by how much the sum of what is kept may differ, as a share of it */
} fb_trajectory_edge;

/* A row of logits, and what is made of it. */
typedef struct fb_trajectory_row_view {
    const fb_sampler *sampler;
    size_t vocab;
    const float *logits, *rounded; /* rounded: of the second lane, or NULL */
    const float *probabilities;    /* after temperature, top-k, top-p, without the banned token */
    const float *gumbel;           /* or NULL */
    double temperature;            /* 1 where it is 0 */
    int bits;                      /* of the record's precision */
    double log_total;              /* ln of the sum before top-k and top-p, where there are such */
    fb_trajectory_edge edge;
} fb_trajectory_row_view;

bool fb_trajectory_is_filtered(const fb_sampler *sampler, size_t vocab);

/* The index of the largest value, `banned` (-1: none) left out; count where there is none. */
size_t fb_trajectory_best_of(const float *values, size_t count, int32_t banned);

/* ln sum exp(logit / temperature) over [begin, end), without the banned token. */
double fb_trajectory_log_sum(const fb_trajectory_row_view *v, size_t begin, size_t end,
                             int32_t banned, double temperature);

/* Sets own, error, noise, storage, shape, rounded and slack, and the view's edge. */
void fb_trajectory_measure_confidence(fb_trajectory_row_view *v, const fb_trajectory_pass *pass,
                                      fb_trajectory_row *row);

/* Sets gap and gap_shape of the record's token t; with gumbel, ours. `uniform`: NaN: none. */
void fb_trajectory_measure_gap(const fb_trajectory_row_view *v, size_t t, double uniform,
                               fb_trajectory_row *row);

/* The standard deviation of the row's entropy where each logit's is 1. */
double fb_trajectory_shape_of_entropy(const fb_trajectory_row_view *v, double entropy);

/* --- wrong ways, trajectory_wrong.c ----------------------------------------------------------- */

/* Sets the guesses of this row's logits, and temperature and slope. `top_p_first`: probabilities
 * after top-p at temperature 1, or NULL. */
void fb_trajectory_guess_confidence(const fb_trajectory_row_view *v, size_t t,
                                    const float *top_p_first, fb_trajectory_row *row);

/* Sets the others of this row's logits. */
void fb_trajectory_guess_tokens(const fb_trajectory_row_view *v, double uniform,
                                fb_trajectory_row *row);

#endif

/* What a replay says about a record, and how far apart two numbers of it are. docs/trajectory.md
 * has the formulas. */
#ifndef FB_ORACLE_TRAJECTORY_JUDGEMENT_H
#define FB_ORACLE_TRAJECTORY_JUDGEMENT_H

#include "oracle/trajectory_measure.h"

/* What differs, in the order in which a pass computes it. */
typedef enum fb_trajectory_subject {
    FB_SUBJECT_ACTION = 0, /* refresh or reuse */
    FB_SUBJECT_STATE,      /* hidden states, parts, logits */
    FB_SUBJECT_CONFIDENCE,
    FB_SUBJECT_PROPOSAL,
    FB_SUBJECT_DECISION,
} fb_trajectory_subject;

typedef struct fb_trajectory_difference {
    bool there, tie; /* not a tie: a mistake */
    size_t step;     /* index of fb_trajectory_judgement.steps */
    fb_trajectory_subject subject;
    fb_trajectory_state state; /* of FB_SUBJECT_STATE */
    size_t layer;
    size_t position; /* in the block */
    double size;     /* in units of the noise */
    char words[400];
} fb_trajectory_difference;

/* x of y. */
typedef struct fb_trajectory_share {
    size_t agree, of;
} fb_trajectory_share;

/* Agreement as porters count it. A decision is a token that the record unmasks. */
typedef struct fb_trajectory_agreement {
    fb_trajectory_share actions, steps, decisions, proposals;
} fb_trajectory_agreement;

enum { FB_TRAJECTORY_MAX_DIFFERENCES = 200 };

typedef struct fb_trajectory_judgement {
    const fb_trajectory *record;
    const fb_model_config *config;
    fb_trajectory_step *steps; /* [record->num_passes] */
    size_t num_steps;
    double noise;                             /* of a logit, root mean square over all rows */
    double *pooled[FB_TRAJECTORY_NUM_STATES]; /* [layers]: noise over all passes; NULL: not given */
    double allowed;                           /* the largest error / noise that passes */
    double rms, largest;                      /* of confidences: error / noise */
    double largest_rms; /* of a step's confidences, as a share of what is allowed */
    double worst_states[FB_TRAJECTORY_NUM_STATES]; /* largest error / noise */
    size_t num_confidences;
    bool exact;                                 /* every number is the same bits */
    fb_trajectory_agreement all, before, after; /* before and after the first difference's step */
    fb_trajectory_difference first, mistake;    /* the first of all; the first mistake */
    size_t ties, mistakes;
    fb_trajectory_difference
        *differences; /* the first ones, at most FB_TRAJECTORY_MAX_DIFFERENCES */
    size_t num_differences;
    char name[300]; /* what the mistake is, if it is a known one */
} fb_trajectory_judgement;

/* Frees what it holds. */
void fb_trajectory_judgement_free(fb_trajectory_judgement *judgement);

/* Sets noise, num_confidences, allowed and pooled: what all passes together say. */
fb_status fb_trajectory_pool_noise(fb_trajectory_judgement *judgement);

/* The standard deviation of a row's ln confidence. */
double fb_trajectory_sigma(const fb_trajectory_judgement *judgement, const fb_trajectory_row *row);

/* error / noise of a row's confidence; 0 where it is not known. */
double fb_trajectory_confidence_ratio(const fb_trajectory_judgement *judgement,
                                      const fb_trajectory_row *row);

/* The root mean square of error / noise that is allowed of `independent` confidences, in one of
 * `tests` tests. */
double fb_trajectory_allowed_rms(double independent, double tests);

/* error / noise of one row of a state, and what is allowed of it. */
double fb_trajectory_state_ratio(const fb_trajectory_judgement *judgement,
                                 const fb_trajectory_step *step, fb_trajectory_state state,
                                 size_t layer, size_t row);
extern const double fb_trajectory_state_allowed;

/* Whether two actions are the same to the rule: all refreshes are. */
bool fb_trajectory_same_action(fb_reuse_action a, fb_reuse_action b);

#endif

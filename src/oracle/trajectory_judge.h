/* Decides, from what all passes of a replay show, which differences are ties within the noise of
 * the record's precision and which are mistakes. docs/trajectory.md has the formulas. */
#ifndef FB_ORACLE_TRAJECTORY_JUDGE_H
#define FB_ORACLE_TRAJECTORY_JUDGE_H

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

/* Replays the record and judges it. Takes a zeroed judgement; fb_trajectory_judgement_free it,
 * after a failure, too. */
fb_status fb_trajectory_judge(const fb_trajectory *record, fb_model *model,
                              fb_trajectory_judgement *judgement);
void fb_trajectory_judgement_free(fb_trajectory_judgement *judgement);

/* The standard deviation of a row's ln confidence. */
double fb_trajectory_sigma(const fb_trajectory_judgement *judgement, const fb_trajectory_row *row);

/* error / noise of one row of a state. */
double fb_trajectory_state_ratio(const fb_trajectory_judgement *judgement,
                                 const fb_trajectory_step *step, fb_trajectory_state state,
                                 size_t layer, size_t row);
extern const double fb_trajectory_state_allowed;

/* Known mistakes, in words; "" if none explains what was found. Of decisions and actions
 * (trajectory_rules.c), of confidences (trajectory_guesses.c), and of what the model computed
 * (trajectory_known.c: replays up to the first mistake). */
void fb_trajectory_name_rule(const fb_trajectory_judgement *judgement, char *name, size_t size);
void fb_trajectory_name_guess(fb_trajectory_judgement *judgement, char *name, size_t size);
fb_status fb_trajectory_name_model(const fb_trajectory_judgement *judgement, fb_model *model,
                                   char *name, size_t size);

/* Grades the decisions of a step: where the record's differ from the rule's on its own numbers, or
 * from ours. Sets *found where they do. */
void fb_trajectory_grade_decisions(const fb_trajectory_judgement *judgement, size_t step,
                                   bool numbers_are_wrong, fb_trajectory_difference *found);

/* Whether two actions are the same to the rule: all refreshes are. */
bool fb_trajectory_same_action(fb_reuse_action a, fb_reuse_action b);

#endif

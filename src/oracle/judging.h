/* Whether the results of a trial are right, and if not, what is wrong. docs/judge.md. */
#ifndef FB_ORACLE_JUDGING_H
#define FB_ORACLE_JUDGING_H

#include "oracle/stages.h"

/* What was found. */
typedef struct fb_judging {
    fb_trial *trial;
    fb_filter *filter;
    fb_wrong *wrong;
    bool passed;
    bool not_finite;
    bool named;    /* the filter's best says what is wrong */
    bool harmless; /* passed, with a mistake that changes nothing by more than its noise */
    bool complete; /* nothing is left to explain */
    fb_size_test size;
    bool said; /* words and second are final */
    char words[720];
    char second[1000];
    fb_stages stages; /* complete, with words: the results were judged in stages */
} fb_judging;

/* Judges the given results. `judging` has the trial, and is otherwise zero. */
fb_status fb_judge_trial(fb_judging *judging, fb_arithmetic said);

#endif

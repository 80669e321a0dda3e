/* Several mistakes in one candidate: its results are judged in stages, each given what was found in
 * those before: outputs of external parts, their LSEs, merged outputs, merged LSEs. */
#ifndef FB_ORACLE_STAGES_H
#define FB_ORACLE_STAGES_H

#include "oracle/filter.h"

enum { FB_NUM_STAGES = 4 };

typedef struct fb_stages {
    bool complete; /* every stage is right or explained */
    /* of each stage: the mistake with and without its place; "": it is right, given those before */
    char words[FB_NUM_STAGES][480], names[FB_NUM_STAGES][400];
} fb_stages;

/* The stage of a tensor. */
size_t fb_stage_of(const fb_trial_tensor *tensor);

/* What is searched for in each stage: `search` tries all mistakes. */
typedef fb_status fb_search(fb_filter *filter, fb_wrong *wrong, bool *named, bool *complete);

/* Judges stage by stage, until one is not explained. The trial is as before afterwards. */
fb_status fb_judge_stages(fb_trial *trial, fb_search *search, fb_stages *stages);

#endif

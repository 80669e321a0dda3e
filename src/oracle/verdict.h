/* One verdict on a candidate: all its tensors vote. docs/judge.md says how. */
#ifndef FB_ORACLE_VERDICT_H
#define FB_ORACLE_VERDICT_H

#include "oracle/report.h"
#include "oracle/trial.h"

/* Judges the trial's candidate, and adds a finding for each given tensor. The reason of the report
 * becomes the verdict in words. Results that are required and not given are noted
 * (fb_report_missing). */
fb_status fb_report_trial(fb_report *report, fb_trial *trial);

/* What is wrong about the results of a trial that are given, in words; "" if no known mistake
 * explains them, or nothing is wrong. `said` is what was said of their arithmetic. */
fb_status fb_trial_name(fb_trial *trial, fb_arithmetic said, char *words, size_t size);

/* NaN and infinities that should not be there, in words; "" if there are none. The number of wrong
 * elements. */
size_t fb_trial_not_finite(const fb_trial *trial, size_t tensor, char *words, size_t size);

/* The first tensor that has some, and what they are; false: none. */
bool fb_find_not_finite(const fb_trial *trial, size_t *tensor, char *words, size_t size);

#endif

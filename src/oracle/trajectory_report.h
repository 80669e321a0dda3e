/* The judgement of a trajectory in words and as JSON. */
#ifndef FB_ORACLE_TRAJECTORY_REPORT_H
#define FB_ORACLE_TRAJECTORY_REPORT_H

#include "oracle/report.h"
#include "oracle/trajectory_judgement.h"

/* Fills in outcome, reason, findings, text and JSON of a report that begins empty. `model`: the
 * directory, for the text. */
fb_status fb_trajectory_report(const fb_trajectory_judgement *judgement, const char *model,
                               fb_report *report);

#endif

/* Decides, from what all passes of a replay show, which differences are ties within the noise of
 * the record's precision and which are mistakes. */
#ifndef FB_ORACLE_TRAJECTORY_JUDGE_H
#define FB_ORACLE_TRAJECTORY_JUDGE_H

#include "oracle/trajectory_judgement.h"

/* Replays the record and judges it. Takes a zeroed judgement; fb_trajectory_judgement_free it,
 * after a failure, too. What the mistake is remains to be found (trajectory_names.h). */
fb_status fb_trajectory_judge(const fb_trajectory *record, fb_model *model,
                              fb_trajectory_judgement *judgement);

#endif

/* Which masked positions keep their proposals follows by a rule from numbers that the record has,
 * so it is checked on its own numbers. */
#ifndef FB_ORACLE_TRAJECTORY_DECISIONS_H
#define FB_ORACLE_TRAJECTORY_DECISIONS_H

#include "oracle/trajectory_judgement.h"

/* Grades the decisions of a step: where the record's differ from the rule's on its own numbers, or
 * from ours. Sets *found where they do. */
void fb_trajectory_grade_decisions(const fb_trajectory_judgement *judgement, size_t step,
                                   bool numbers_are_wrong, fb_trajectory_difference *found);

#endif

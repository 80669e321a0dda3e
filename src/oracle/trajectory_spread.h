/* Whether errors look like roundings: how large they are, and how they are spread over confidences
 * and rows of states. */
#ifndef FB_ORACLE_TRAJECTORY_SPREAD_H
#define FB_ORACLE_TRAJECTORY_SPREAD_H

#include "oracle/trajectory_judgement.h"

/* Of a record that passes as one of the precision it was judged in. Roundings are about as large as
 * the noise, nearly everywhere, and of either sign. A few wrong numbers, a small mistake of the
 * model or a common factor are not. Fewer than 8 confidences say nothing: false. */
bool fb_trajectory_looks_rounded(const fb_trajectory_judgement *judgement);

#endif

/* What a denoising step says of each position. */
#ifndef FB_ORACLE_TRAJECTORY_STEP_H
#define FB_ORACLE_TRAJECTORY_STEP_H

#include "oracle/trajectory_reader.h"

/* Reads proposals, confidences, random numbers and decisions into the pass. */
fb_status fb_trajectory_read_step(const fb_trajectory_reader *r, const fb_json *line,
                                  fb_trajectory_pass *pass);

#endif

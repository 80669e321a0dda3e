/* Lines of passes, and the last line. */
#ifndef FB_ORACLE_TRAJECTORY_PASS_H
#define FB_ORACLE_TRAJECTORY_PASS_H

#include "oracle/trajectory_reader.h"

/* A denoising step or a commit: added to the record, and taken by the reader's sequence. */
fb_status fb_trajectory_read_pass(fb_trajectory_reader *r, const fb_json *line);

/* {"end": ...} */
fb_status fb_trajectory_read_end(fb_trajectory_reader *r, const fb_json *line);

#endif

/* The first line of a record: what the port is, its options, its prompt. */
#ifndef FB_ORACLE_TRAJECTORY_HEADER_H
#define FB_ORACLE_TRAJECTORY_HEADER_H

#include "oracle/trajectory_reader.h"

/* Sets the record's options, prompt and schedule, opens its file of tensors, and begins the
 * reader's sequence. */
fb_status fb_trajectory_read_header(fb_trajectory_reader *r, const fb_json *line);

#endif

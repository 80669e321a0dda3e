/* Opens a record. */
#ifndef FB_ORACLE_TRAJECTORY_OPEN_H
#define FB_ORACLE_TRAJECTORY_OPEN_H

#include "oracle/trajectory_record.h"

/* Reads the whole record. `tensors`: the path of the file of tensors; NULL: the one that the record
 * names, beside it. FB_ERROR_FORMAT, with the line, where it contradicts itself or the model. Close
 * it (fb_trajectory_close) after a failure, too. */
fb_status fb_trajectory_open(const char *path, const char *tensors, const fb_model_config *config,
                             fb_trajectory *record);

#endif

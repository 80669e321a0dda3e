/* What this library computes on a record's tokens: a file of tensors that another implementation
 * can hold its own against, layer by layer. */
#ifndef FB_ORACLE_TRAJECTORY_STATES_H
#define FB_ORACLE_TRAJECTORY_STATES_H

#include "oracle/trajectory_record.h"

/* Replays the record and writes the states of every pass to a .safetensors file, as F32. Their
 * names are "block0.step2.hidden", "block0.commit.hidden", ... (fb_trajectory_state_name); commits
 * have no logits. */
fb_status fb_trajectory_write_states(const fb_trajectory *record, fb_model *model,
                                     const char *path);

#endif

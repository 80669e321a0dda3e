/* Known mistakes. Each function gives the one that explains what was found in words, "" if none
 * does. */
#ifndef FB_ORACLE_TRAJECTORY_NAMES_H
#define FB_ORACLE_TRAJECTORY_NAMES_H

#include "oracle/trajectory_judgement.h"

/* Of refresh and reuse; of the positions that are accepted; of the tokens that are proposed. */
void fb_trajectory_name_action(const fb_trajectory_judgement *judgement, char *name, size_t size);
void fb_trajectory_name_decision(const fb_trajectory_judgement *judgement, char *name, size_t size);
void fb_trajectory_name_proposal(const fb_trajectory_judgement *judgement, char *name, size_t size);

/* Of confidences. Finds mistakes, too, that no single confidence shows: then it sets the
 * judgement's mistake. */
void fb_trajectory_name_guess(fb_trajectory_judgement *judgement, char *name, size_t size);

/* Of what the model computed: replays up to the first mistake. */
fb_status fb_trajectory_name_model(const fb_trajectory_judgement *judgement, fb_model *model,
                                   char *name, size_t size);

#endif

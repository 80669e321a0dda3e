/* Attention with a mistake made on purpose: how the external part is computed, kept or merged. */
#ifndef FB_ORACLE_TRAJECTORY_ALTER_H
#define FB_ORACLE_TRAJECTORY_ALTER_H

#include "oracle/trajectory_trial.h"

typedef enum fb_trajectory_alteration {
    FB_ALTER_TAIL = 0,   /* `amount` keys of zeros are attended behind the context */
    FB_ALTER_INNER_TAIL, /* the same behind the block's own keys */
    FB_ALTER_OWN_TWICE,  /* the block's own keys count as context, too */
    FB_ALTER_LAST_KEYS,  /* the last `amount` keys of the context are not attended */
    FB_ALTER_FIRST_KEYS, /* the first ones */
    FB_ALTER_STALE_LSE,  /* O is right, L is the one that was kept before */
    FB_ALTER_STALE_OUT,  /* L is right, O is the one that was kept before */
    FB_ALTER_COMMIT_LSE, /* the same with the part that the commit before computed */
    FB_ALTER_COMMIT_OUT,
    FB_ALTER_SWAPPED,     /* each part has the other's weight */
    FB_ALTER_MEAN,        /* both parts have the weight 1/2 */
    FB_ALTER_SUM,         /* both parts are added as they are */
    FB_ALTER_BASE_2,      /* weights are 2^L, L being natural logarithms */
    FB_ALTER_INNER_ALONE, /* the external part is not merged */
    FB_TRAJECTORY_NUM_ALTERATIONS,
} fb_trajectory_alteration;

/* What fb_forward.user is for fb_trajectory_alter. */
typedef struct fb_trajectory_alter_call {
    fb_trajectory_trial *trial;
    fb_trajectory_alteration alteration;
    size_t amount, head; /* head: SIZE_MAX: all */
} fb_trajectory_alter_call;

/* Whether it can be made at the pass. */
bool fb_trajectory_can_alter(const fb_trajectory_alter_call *call);

/* fb_forward.on_attention: overwrites the result, which the pass reads afterwards. Errors are in
 * the trial's status. */
void fb_trajectory_alter(void *call, const fb_attention_event *event);

#endif

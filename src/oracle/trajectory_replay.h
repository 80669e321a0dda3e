/* Replays a record with its own decisions forced: the tokens of every pass are those that the
 * record decided, and so are refreshes and reuses. What the model gives in each pass can then be
 * compared with what the record says, pass by pass, though the two went different ways.
 *
 * A replay runs in lanes. The first computes as this library does. The second rounds every result
 * as the record's precision does: the difference of the two is the noise of that precision, for
 * this model and these tokens. */
#ifndef FB_ORACLE_TRAJECTORY_REPLAY_H
#define FB_ORACLE_TRAJECTORY_REPLAY_H

#include "decode/sampler.h"
#include "oracle/trajectory_record.h"

/* The significant bits that a precision keeps of an activation; of f32 fewer than it has, because
 * sums are made in other orders. */
int fb_trajectory_significand_bits(fb_arithmetic precision);

typedef struct fb_trajectory_lane {
    int bits; /* fb_model_round_activations */
    fb_kv_cache *kv;
    fb_part_cache *parts;                    /* NULL where tau is 0 */
    float *states[FB_TRAJECTORY_NUM_STATES]; /* of the pass, as trajectory_record.h shapes them;
                                                logits always, others where they are wanted */
    fb_status status;                        /* of an observer */
} fb_trajectory_lane;

enum { FB_TRAJECTORY_MAX_LANES = 2 };

typedef struct fb_trajectory_replay {
    const fb_trajectory *record;
    fb_model *model;
    const fb_model_config *config;
    fb_sampler sampler;
    fb_sequence *sequence; /* before the decisions of the pass */
    size_t num_lanes;
    fb_trajectory_lane lanes[FB_TRAJECTORY_MAX_LANES];
    bool wants_hidden, wants_parts;
    const fb_trajectory_pass *pass; /* that was just run */
    fb_plan rule;                   /* what the rule says of it */
    fb_reuse_action action;         /* what was done */
} fb_trajectory_replay;

/* Empty caches, and the prompt prefilled. Takes a zeroed replay, of which
 * wants_parts may be set; fb_trajectory_replay_free it,
 * after a failure, too. */
fb_status fb_trajectory_replay_begin(const fb_trajectory *record, fb_model *model, size_t num_lanes,
                                     fb_trajectory_replay *replay);
void fb_trajectory_replay_free(fb_trajectory_replay *replay);

/* Decides what a pass is forced to. A plain refresh of a denoising step stores, unless the rule,
 * too, would not. */
fb_reuse_action fb_trajectory_forced_action(const fb_trajectory *record,
                                            const fb_trajectory_pass *pass, const fb_plan *rule);

/* Runs the model over a pass, in all lanes. */
fb_status fb_trajectory_replay_run(fb_trajectory_replay *replay, const fb_trajectory_pass *pass);

/* Takes the record's decisions of that pass. */
fb_status fb_trajectory_replay_decide(fb_trajectory_replay *replay);

/* A forward pass of the block as it is, over another KV cache, or with another action. The lane's
 * states are overwritten. */
fb_status fb_trajectory_replay_other(fb_trajectory_replay *replay, fb_forward *forward);
fb_forward fb_trajectory_replay_forward(fb_trajectory_replay *replay, size_t lane);

/* Floats of a state. */
size_t fb_trajectory_state_size(const fb_trajectory_replay *replay, fb_trajectory_state state);

#endif

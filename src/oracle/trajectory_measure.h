/* What one pass of a replay shows: how far the record's numbers are from this library's, and how
 * far the record's precision may put them. Nothing is decided here: trajectory_judge.h does that,
 * when all passes are known. */
#ifndef FB_ORACLE_TRAJECTORY_MEASURE_H
#define FB_ORACLE_TRAJECTORY_MEASURE_H

#include "oracle/trajectory_replay.h"

/* Wrong ways to a confidence. */
typedef enum fb_trajectory_guess {
    FB_GUESS_HALF = 0,  /* the softmax is over one half of the vocabulary */
    FB_GUESS_WITH_MASK, /* the mask token is not excluded */
    FB_GUESS_NO_TEMPERATURE,
    FB_GUESS_NO_FILTER, /* before top-k and top-p */
    FB_GUESS_NEXT_ROW,  /* of the position after */
    FB_GUESS_PREVIOUS_ROW,
    FB_GUESS_MARGIN,       /* best minus second best */
    FB_GUESS_TWICE,        /* a softmax of the softmax */
    FB_GUESS_UNNORMALISED, /* over the largest probability in place of the sum */
    FB_GUESS_SIGMOID,      /* of each logit alone */
    FB_GUESS_BEST,         /* of the most probable token, where another was drawn */
    FB_GUESS_TOP_P_FIRST,  /* top-p at temperature 1, then the temperature */
    FB_TRAJECTORY_NUM_GUESSES,
} fb_trajectory_guess;

/* Tokens that a mistake would propose in place of the right one. */
typedef enum fb_trajectory_other_token {
    FB_OTHER_BEST = 0, /* where it should be drawn */
    FB_OTHER_SECOND,   /* the second most probable one */
    FB_OTHER_OF_NEXT,  /* the most probable one of the position after */
    FB_OTHER_OF_PREVIOUS,
    FB_OTHER_LOW_HALF, /* the most probable one of half of the vocabulary */
    FB_OTHER_HIGH_HALF,
    FB_OTHER_BY_RANK,         /* drawn with `uniform` in the order of falling probability */
    FB_OTHER_NOISE_TOO_EARLY, /* argmax of logit + gumbel, before the temperature */
    FB_TRAJECTORY_NUM_OTHER_TOKENS,
} fb_trajectory_other_token;

/* A masked position of a denoising step. Logarithms are natural; noise is of one logit. */
typedef struct fb_trajectory_row {
    size_t position;
    int32_t ours;     /* the token that this library proposes, by the record's random numbers */
    float confidence; /* ours, of that token */
    float entropy;    /* ours */
    double own;       /* ln of our probability of the record's token; -inf: it has none */
    double error;     /* ln of the record's confidence - own; NaN: not known */
    double noise;     /* root mean square of the second lane's logits - the first's */
    double storage;   /* of ln confidence: a result that is stored in the record's type */
    double shape;     /* standard deviation of `own` where each logit's is 1 */
    double rounded;   /* error of `own` in the second lane */
    double slack;     /* of `own`: one token more or less within top-k and top-p */
    double gap;       /* how far the record's token is from being proposed; 0: it is */
    double gap_shape; /* standard deviation of the gap where each logit's is 1; 0: what was drawn is
                         not known */
    double entropy_error, entropy_shape;       /* of the entropy; NaN: not known */
    double guesses[FB_TRAJECTORY_NUM_GUESSES]; /* ln of the wrong confidence - own; NaN: none */
    double temperature; /* at which the record's confidence is right; NaN: not known */
    double slope;       /* d ln p / d ln temperature there */
    int32_t others[FB_TRAJECTORY_NUM_OTHER_TOKENS]; /* -1: none */
} fb_trajectory_row;

/* Errors of one layer's state, of one row of the block: root mean squares. */
typedef struct fb_trajectory_error {
    double error, noise, size;
    double bias;    /* mean of the record's value - ours */
    double along;   /* cosine between the errors and our values: 1 or -1 if a factor is wrong */
    uint64_t heads; /* bit h: head h is off, by the noise of this row; 0 where there are none */
} fb_trajectory_error;

/* A pass. */
typedef struct fb_trajectory_step {
    const fb_trajectory_pass *pass;
    fb_reuse_action rule, action; /* by the rule, and what the record did */
    size_t dirty, masked;
    fb_trajectory_row *rows; /* [num_rows]; none of a commit */
    size_t num_rows;
    bool *ours;  /* [block_size] what this library accepts */
    bool *ruled; /* [block_size] what the rule accepts, by the record's own numbers; NULL: they are
                    not known */
    fb_trajectory_error *states[FB_TRAJECTORY_NUM_STATES]; /* [layers, block_size]; NULL: not
                                                              given */
} fb_trajectory_step;

/* Buffers that passes share. */
typedef struct fb_trajectory_scratch {
    float *probabilities, *other; /* [vocabulary] */
    float *values;                /* [the largest state] */
    uint32_t *order;              /* [vocabulary] */
    size_t *positions;            /* [block_size], as all that follow */
    float *confidence, *entropy;
    double *best;         /* ln of the largest probability of each row */
    int32_t *best_tokens; /* [block_size], as `best` */
} fb_trajectory_scratch;

fb_status fb_trajectory_scratch_make(const fb_trajectory_replay *replay,
                                     fb_trajectory_scratch *scratch);
void fb_trajectory_scratch_free(fb_trajectory_scratch *scratch);

/* After fb_trajectory_replay_run, before fb_trajectory_replay_decide. Takes a zeroed step;
 * fb_trajectory_step_free it, after a failure, too. */
fb_status fb_trajectory_measure(const fb_trajectory_replay *replay, fb_trajectory_scratch *scratch,
                                fb_trajectory_step *step);
void fb_trajectory_step_free(fb_trajectory_step *step);

/* The layers of a state: hidden states have one more. */
size_t fb_trajectory_state_layers(const fb_model_config *config, fb_trajectory_state state);

#endif

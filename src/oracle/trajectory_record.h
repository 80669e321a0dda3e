/* A record of a whole decoding, as memory holds it (docs/trajectory.md specifies the file). A
 * record that was read (trajectory_open.h) can be replayed: its blocks and steps follow each other,
 * every decision is on a masked position, every id is in the vocabulary. */
#ifndef FB_ORACLE_TRAJECTORY_RECORD_H
#define FB_ORACLE_TRAJECTORY_RECORD_H

#include "decode/schedule.h"
#include "io/safetensors.h"

#include <flashblock/experimental/oracle.h>
#include <flashblock/generate.h>
#include <flashblock/model.h>

/* Tensors of a pass, in the file beside the record. L layers, B rows (the block), H heads. */
typedef enum fb_trajectory_state {
    FB_TRAJECTORY_LOGITS = 0, /* [B, vocabulary] */
    FB_TRAJECTORY_GUMBEL,     /* [B, vocabulary]  noise that drew the tokens */
    FB_TRAJECTORY_HIDDEN,     /* [L + 1, B, hidden]  each layer's input, the final norm's output */
    FB_TRAJECTORY_EXTERNAL_OUT, /* [L, B, H, head_dim] */
    FB_TRAJECTORY_EXTERNAL_LSE, /* [L, B, H] */
    FB_TRAJECTORY_INTERNAL_OUT,
    FB_TRAJECTORY_INTERNAL_LSE,
    FB_TRAJECTORY_OUT, /* [L, B, H, head_dim]  both parts, merged */
    FB_TRAJECTORY_LSE,
    FB_TRAJECTORY_NUM_STATES,
} fb_trajectory_state;

/* The key of a line that names it: "logits", "external_out", ... */
const char *fb_trajectory_state_name(fb_trajectory_state state);

/* A pass. Arrays are [block_size]; what is not there is NULL. */
typedef struct fb_trajectory_pass {
    size_t line; /* in the file, from 1; 0: a commit that the record leaves out */
    size_t block, step;
    bool commit, has_action;
    fb_reuse_action action;
    size_t num_accepted;
    int32_t *proposed; /* -1: not given */
    int32_t *tokens;   /* that accepted positions hold afterwards */
    float *confidence; /* NaN: not given */
    float *entropy;    /* NaN: not given; or NULL */
    double *uniform;   /* NaN: not given; or NULL */
    bool *masked;      /* before the pass */
    bool *accepted;
    const fb_tensor_view *states[FB_TRAJECTORY_NUM_STATES];
    void *memory; /* of the arrays */
} fb_trajectory_pass;

typedef struct fb_trajectory {
    char *path, *model; /* model: what the record calls it; "" */
    fb_arithmetic precision;
    fb_generate_options options; /* resolved */
    fb_schedule schedule;        /* of the options */
    int32_t *prompt_tokens, *stop_tokens;
    fb_prompt prompt; /* cut where the engine cuts it */
    fb_safetensors *tensors;
    fb_trajectory_pass *passes;
    size_t num_passes, max_passes;
    size_t num_lines;
    bool ended;            /* there is a last line that says so */
    size_t missing_line;   /* the first line that lacks something that is required; 0: none does */
    const char *missing;   /* what it lacks */
    size_t num_missing;    /* lines that lack something */
    bool commits_left_out; /* lines of commits */
} fb_trajectory;

/* Frees what a record holds. */
void fb_trajectory_close(fb_trajectory *record);

/* A new pass, with its arrays. */
fb_status fb_trajectory_add_pass(fb_trajectory *record, fb_trajectory_pass **pass);

/* A copy of a string, which the caller frees. */
fb_status fb_trajectory_copy_text(const char *text, char **copy);

#endif

/* The inside of a decoding: what each head's attention did at each denoising step.
 *
 * At every step the external and the internal part of the block are computed anew from the step's
 * own queries, keys and values, whatever the step reused, and compared with those of the block's
 * step before: how much they turn, how much the log-sum-exp changes, and how far the result that
 * the model went on with is from dense attention on the same inputs. Commit passes are not
 * recorded.
 *
 * A value that does not exist is NaN: similarities and changes at a block's first step, and
 * external values without a context. */
#ifndef FB_STUDY_TRACE_H
#define FB_STUDY_TRACE_H

#include "io/buffer.h"

#include <flashblock/generate.h>
#include <flashblock/model.h>

#include <stdbool.h>
#include <stddef.h>

/* One head of one layer at one denoising step. "Mean" is over the block's rows; "kept" rows are
 * those whose token was not accepted at the step before, so that their input stayed the same. */
typedef struct fb_trace_head {
    double external_cosine;      /* mean cosine similarity with the step before */
    double internal_cosine;      /* the same of internal outputs */
    double external_cosine_kept; /* the same two over kept rows */
    double internal_cosine_kept;
    double external_lse_change; /* mean |L - L of the step before|, external, in nats */
    double external_mass;       /* mean share of the softmax that is external */
    double error;               /* |O - dense O| / |dense O|, Euclidean norms over the rows */
    double max_error;           /* largest |O - dense O| of an element */
} fb_trace_head;

/* One denoising step of one sequence. */
typedef struct fb_trace_step {
    size_t sequence, block, context_length, denoising_step;
    fb_reuse_action action;
    size_t dirty;    /* tokens accepted since the last refresh, before the step */
    size_t masked;   /* mask tokens before the step */
    size_t accepted; /* tokens accepted by it */
    size_t edited;   /* tokens that were not masked, and that it replaced */
} fb_trace_step;

/* External and internal part of all layers at one step: [num_layers] times
 * out [block_size, num_heads, head_dim], lse [block_size, num_heads]. */
typedef struct fb_trace_parts {
    float *external_out, *external_lse, *internal_out, *internal_lse;
} fb_trace_parts;

/* The state of a sequence between two callbacks. */
typedef struct fb_trace_sequence {
    fb_trace_parts parts[2]; /* of this step and the one before, in turn */
    size_t current;          /* which is which */
    bool has_before;         /* there was a step before in this block */
    bool *changed;           /* [block_size] accepted at the step before */
    fb_trace_head *heads;    /* [num_layers, num_heads] of the step that is running */
} fb_trace_sequence;

typedef struct fb_trace {
    size_t num_layers, num_heads, head_dim, block_size, num_sequences;
    size_t num_steps;
    fb_buffer steps;              /* fb_trace_step [num_steps] */
    fb_buffer heads;              /* fb_trace_head [num_steps, num_layers, num_heads] */
    fb_trace_sequence *sequences; /* [num_sequences], filled as they appear */
    float *dense;                 /* scratch: out, then lse, of one layer */
    fb_status status;             /* the first failure; nothing is recorded after it */
} fb_trace;

/* An empty trace of generating after num_sequences prompts. Freed by fb_trace_free, also when
 * creating it failed. */
fb_status fb_trace_init(const fb_model_config *config, size_t block_size, size_t num_sequences,
                        fb_trace *trace);
void fb_trace_free(fb_trace *trace);

/* To be called from fb_generate_options.on_attention and on_step. The second returns false when
 * recording has failed; trace->status says how, fb_error_message why. */
void fb_trace_attention(fb_trace *trace, const fb_generate_attention_event *event);
bool fb_trace_on_step(fb_trace *trace, const fb_step_event *event);

/* Step i, and its heads [num_layers, num_heads]. */
const fb_trace_step *fb_trace_step_at(const fb_trace *trace, size_t i);
const fb_trace_head *fb_trace_heads_at(const fb_trace *trace, size_t i);

#endif

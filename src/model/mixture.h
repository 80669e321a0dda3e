/* A mixture of experts on a CPU.
 *
 * The router weighs the experts for every row. Rows are then sorted by expert, so that a pass reads
 * the weights of each chosen expert once, however many rows chose it, and experts that no row chose
 * not at all: of a mapped file, their pages never enter memory. Experts run in parallel. Every
 * element of a result is a sum on its own, in one order (docs/contract.md C9.7): threads and the
 * other rows change no bit of it. */
#ifndef FB_MODEL_MIXTURE_H
#define FB_MODEL_MIXTURE_H

#include "model/linear.h"
#include "model/weights.h"

#include <flashblock/model.h>

#include <stdint.h>

/* What a thread has that runs experts. */
typedef struct fb_expert_worker {
    fb_linear_scratch linear;
    bool failed;
} fb_expert_worker;

/* Buffers, kept from call to call, and counts. Starts as {0}. */
typedef struct fb_mixture {
    float *memory;  /* all of the float arrays */
    size_t *places; /* all of the size_t arrays */
    size_t num_floats, num_places, num_chosen, num_left_out;

    /* of the last call; k = num_experts_per_tok */
    float *logits;   /* [rows, num_experts] of the router */
    int32_t *chosen; /* [rows, k] experts, best first */
    float *weights;  /* [rows, k] */

    float *scores;    /* [rows, 3, num_experts] scratch: of experts, their p, of groups */
    bool *left_out;   /* [rows, 2, num_experts] scratch */
    float *inputs;    /* [rows * k, hidden_size] by expert; then their outputs */
    float *gate, *up; /* [rows * k, moe_intermediate_size] by expert */
    size_t *place;    /* [rows, k] where in `inputs` */
    size_t *first;    /* [num_experts + 1] of each expert's rows in `inputs` */
    size_t *active;   /* [num_experts] experts that have rows */
    size_t num_active;

    fb_expert_worker *workers; /* [num_workers] */
    size_t num_workers;

    double experts_read; /* over all calls: experts that had rows, and their bytes */
    double bytes_read;
} fb_mixture;

/* A call. */
typedef struct fb_mixture_call {
    const fb_model_config *config;
    const fb_layer_weights *layer;
    const fb_kernels *kernels;
    const float *x; /* [num_rows, hidden_size] */
    size_t num_rows;
    float *y;                  /* [num_rows, hidden_size], not x: without the shared experts */
    int significand_bits;      /* see fb_model_round_activations */
    fb_linear_scratch *linear; /* the caller's */
    double *linear_seconds, *routing_seconds; /* added to */
} fb_mixture_call;

fb_status fb_mixture_run(fb_mixture *mixture, const fb_mixture_call *call);

void fb_mixture_free(fb_mixture *mixture);

#endif

/* A loaded model, and the buffers of a forward pass. */
#ifndef FB_MODEL_MODEL_STATE_H
#define FB_MODEL_MODEL_STATE_H

#include "base/busy.h"
#include "io/warnings.h"
#include "model/linear.h"
#include "model/mixture.h"
#include "model/weights.h"

#include <flashblock/model.h>

/* Activations of a forward pass, dense rows: the tokens of all sequences, one sequence after the
 * other. Kept from pass to pass, and grown when a larger batch comes. q_width and kv_width as in
 * weights.h. */
typedef struct fb_activations {
    float *memory; /* all of the arrays below */
    size_t num_rows;
    float *x;               /* [num_rows, hidden_size]  the residual stream */
    float *normed;          /* [num_rows, hidden_size]  a norm's result, then a sublayer's */
    float *mixed;           /* [num_rows, hidden_size]  of a mixture; empty in dense models */
    float *q, *attended;    /* [num_rows, q_width] */
    float *k, *v;           /* [num_rows, kv_width] */
    float *lse;             /* [num_rows, num_attention_heads] */
    float *gate, *up;       /* [num_rows, intermediate_size], of dense MLPs and shared experts */
    float *cosines, *sines; /* [num_rows, rotary_dim / 2]  of each row's position */
    float *logits;          /* [num_logit_rows, vocab_size], where several sequences want some */
    size_t num_logit_rows;
} fb_activations;

/* Seconds in what is neither attention nor a linear layer, summed over forward passes: for
 * `flashblock bench decode --breakdown`. */
typedef struct fb_small_times {
    double embedding; /* rows of the embedding, sines and cosines */
    double norms;     /* of the residual stream */
    double positions; /* norms and rotation of queries and keys */
    double kv_write;  /* keys and values into the cache */
    double swiglu;    /* of dense MLPs and shared experts */
    double routing;   /* scores to experts, rows to experts and back */
    double residual;  /* additions to the residual stream */
} fb_small_times;

struct fb_model {
    fb_model_config config;
    fb_weights weights;
    float *inv_freq; /* [rotary_dim / 2] */
    fb_activations activations;
    fb_linear_scratch linear;
    fb_mixture mixture;
    fb_warnings warnings; /* of loading */
    fb_busy busy;
    fb_small_times small;
    bool used;            /* a forward pass has touched every weight */
    int significand_bits; /* fb_model_round_activations */
    bool borrows;         /* weights and inv_freq are another model's */
};

/* A model that runs passes of its own over the weights of `model`, at the same time if need be: all
 * that a pass writes is its own, and grows with its passes only. `model` is destroyed after it. The
 * caller destroys *other. */
fb_status fb_model_share(const fb_model *model, fb_model **other);

/* From now on a forward pass rounds what each operation gives to so many significant bits, to
 * nearest even: 8 is what a model in bf16 stores, 11 is f16 without its limits of range. Sums stay
 * float32. 0, as loaded: nothing is rounded. For the oracle, which wants to know how far a right
 * implementation in another type is from this one. */
void fb_model_round_activations(fb_model *model, int significand_bits);

/* Makes room for num_rows rows, num_logit_rows of them with logits in
 * `logits` (0 when they go elsewhere). What the arrays held is lost if they grow. */
fb_status fb_activations_reserve(const fb_model_config *config, size_t num_rows,
                                 size_t num_logit_rows, fb_activations *activations);
void fb_activations_free(fb_activations *activations);

#endif

/* The weights of a decoder, by their Hugging Face names. */
#ifndef FB_MODEL_WEIGHTS_H
#define FB_MODEL_WEIGHTS_H

#include "io/checkpoint.h"
#include "model/linear.h"
#include "model/weight_reader.h"

#include <flashblock/model.h>

/* An MLP: dense, of one expert, or of the shared experts together. */
typedef struct fb_mlp_weights {
    fb_matrix gate, up; /* [width, hidden_size] */
    fb_matrix down;     /* [hidden_size, width] */
} fb_mlp_weights;

/* One decoder layer. Matrices are in the mapped files as [out, in]; vectors are widened copies.
 * q_width = num_attention_heads * head_dim, kv_width = num_key_value_heads * head_dim. */
typedef struct fb_layer_weights {
    float *input_norm;          /* [hidden_size] */
    fb_matrix q;                /* [q_width, hidden_size] */
    fb_matrix k, v;             /* [kv_width, hidden_size] */
    float *qkv_bias;            /* what the biases of a fused q, k, v point into; or NULL */
    float *q_norm, *k_norm;     /* [head_dim], or NULL: not normalised */
    fb_matrix o;                /* [hidden_size, q_width] */
    float *post_attention_norm; /* [hidden_size] */
    fb_mlp_weights mlp;         /* of a dense layer, or the shared experts; gate.data NULL: none */

    /* of a mixture; NULL in a dense layer */
    fb_mlp_weights *experts; /* [num_experts] */
    fb_matrix router;        /* [num_experts, hidden_size] */
    float *router_bias;      /* [num_experts], or NULL */
} fb_layer_weights;

typedef struct fb_weights {
    fb_checkpoint *checkpoint;     /* the mapped files */
    fb_quantization *quantization; /* what they say about it; NULL: nothing */
    fb_buffer memory;              /* of matrices that are not as the files have them */
    fb_matrix embedding;           /* [vocab_size, hidden_size] */
    fb_layer_weights *layers;      /* [num_layers] */
    size_t num_layers;
    float *norm;           /* [hidden_size]      the final one */
    fb_matrix head;        /* [vocab_size, hidden_size]: lm_head, or the embedding again */
    size_t num_parameters; /* each tensor counted once */
    size_t num_bytes;      /* of them, as stored */
} fb_weights;

/* What the caller's options say, of this version's size; the defaults for NULL. */
fb_status fb_model_options_read(const fb_model_options *options, fb_model_options *own);

/* Opens the directory's checkpoint and finds every tensor of the configuration in it. A tensor
 * that is missing, or has another shape, or another type, is an error that names it.
 * Tensors that the model does not have are not used; a warning says so, and another one says when
 * a tied head differs from the embedding, and is used. *weights is {0} before; fb_weights_close it,
 * after a failure too. */
fb_status fb_weights_open(const char *directory, const fb_model_options *options,
                          const fb_model_config *config, fb_weights *weights,
                          fb_warnings *warnings);
void fb_weights_close(fb_weights *weights);

/* Asks the kernel to read a layer's matrices from the disk while something else is computed; not
 * those of experts, which a pass may not choose. */
void fb_weights_prefetch(const fb_layer_weights *layer);

#endif

/* The architectures of language models, each a row of names and switches. docs/models.md says how
 * to add one. */
#ifndef FB_MODEL_ARCHITECTURES_H
#define FB_MODEL_ARCHITECTURES_H

#include "io/fields.h"

#include <flashblock/model.h>

/* Names of tensors. Those of linear layers and of the embedding are without ".weight" and ".bias";
 * those of a layer follow "model.layers.N.". */
typedef struct fb_tensor_names {
    const char *embedding, *norm, *head;
    const char *input_norm, *post_attention_norm;
    const char *q, *k, *v; /* k and v NULL: q is one matrix with the rows of q, then k, then v */
    const char *q_norm, *k_norm;
    const char *o;
    /* A mixture of experts; expert weights are called `expert`N.gate_proj and so on. */
    const char *router, *router_bias, *expert, *shared;
} fb_tensor_names;

/* Which projections of the attention have a bias. */
typedef enum fb_bias_rule {
    FB_BIAS_ALL, /* q, k, v and o, if attention_bias says so */
    FB_BIAS_QKV, /* q, k and v always, o never */
    FB_BIAS_TWO, /* q, k and v, if use_qkv_bias says so; o, if use_bias does */
} fb_bias_rule;

/* What a class takes for a field that config.json does not have. 0: the field is required, for
 * head_dim hidden_size / num_attention_heads. */
typedef struct fb_class_defaults {
    size_t head_dim, num_key_value_heads;
    double rms_norm_eps, rope_theta;
} fb_class_defaults;

typedef struct fb_architecture {
    const char *name, *model_type; /* in config.json: of `architectures`, and model_type */
    const fb_tensor_names *tensors;
    const fb_field *fields; /* of config.json, where they differ from fb_config_fields; or NULL */
    fb_class_defaults defaults;

    /* attention */
    bool qk_norm;        /* queries and keys are normalised */
    bool qk_norm_field;  /* unless use_qk_norm says otherwise */
    bool partial_rotary; /* partial_rotary_factor of a head turns (missing: half) */
    fb_bias_rule bias;

    /* MLPs. Where there is a router, num_experts says how many experts it has, and a softmax router
     * comes with decoder_sparse_step, a sigmoid router with first_k_dense_replace, groups, a bias
     * for the selection, shared experts and a factor. */
    fb_router router;

    /* decoding */
    bool shifted_logits; /* row i of the logits is about position i + 1 */
    fb_decoding_loop loop;
    const char *block_size_field; /* besides block_size; or NULL */
    /* What the published code has in place of fields; 0 and -1: nothing. Ids count only where the
     * vocabulary has them. */
    size_t block_size;
    int32_t mask_token_id, eos_token_id;
} fb_architecture;

extern const fb_architecture fb_architectures[];
extern const size_t fb_num_architectures;

/* NULL when there is none. */
const fb_architecture *fb_architecture_named(const char *name);
const fb_architecture *fb_architecture_of_type(const char *model_type);

#endif

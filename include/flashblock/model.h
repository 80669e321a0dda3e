/* SDAR / TraDo: a Qwen3-style decoder for block diffusion, read from a Hugging Face directory.
 *
 * Per layer: x += o_proj(attention(rms_norm(x))), x += down(silu(gate(rms_norm(x))) *
 * up(rms_norm(x))); a final rms_norm; logits by the embedding's transpose or lm_head. Queries and
 * keys are normalised per head before rotary positions (rotate-half: pairs i, i + head_dim/2; the
 * angle is float32(position) * float32(inv_freq) rounded to float32, as the paper's code has it).
 *
 * Weights stay as they are stored (f32, bf16 or f16), memory-mapped; a linear layer widens them in
 * panels that fit the cache, beside the product. Activations are float32.
 */
#ifndef FLASHBLOCK_MODEL_H
#define FLASHBLOCK_MODEL_H

#include <flashblock/kv_cache.h>
#include <flashblock/reuse.h>
#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* config.json, and what generation_config.json adds. Token ids are -1 when no file names them. */
typedef struct fb_model_config {
    size_t hidden_size, intermediate_size, num_hidden_layers;
    size_t num_attention_heads, num_key_value_heads, head_dim;
    size_t vocab_size, max_position_embeddings;
    double rope_theta, rms_norm_eps;
    bool tie_word_embeddings, attention_bias;
    size_t block_size;     /* tokens of a diffusion block; 0 when config.json does not say */
    int32_t mask_token_id; /* from config.json; the tokenizer's mask token otherwise */
    int32_t pad_token_id;
    int32_t eos_token_ids[8]; /* those of generation_config.json, else of config.json */
    size_t num_eos_token_ids;
    fb_dtype dtype; /* of the embedding as stored */
} fb_model_config;

typedef struct fb_model fb_model;

/* Opens `directory`: config.json, generation_config.json (if there), tokenizer_config.json and
 * added tokens of tokenizer.json (for the mask token, if config.json has none), and
 * model.safetensors or model.safetensors.index.json with its shards. Every tensor's name, dtype
 * and shape is checked against the configuration. The caller owns *model. */
FB_API fb_status fb_model_load(const char *directory, fb_model **model);
FB_API void fb_model_destroy(fb_model *model);
FB_API const fb_model_config *fb_model_get_config(const fb_model *model);

/* Number of weights, and their bytes as stored. */
FB_API size_t fb_model_num_parameters(const fb_model *model);
FB_API size_t fb_model_num_bytes(const fb_model *model);

/* A forward pass of one sequence: `num_tokens` tokens that follow the committed ones. */
typedef struct fb_forward {
    const int32_t *tokens; /* [num_tokens] */
    size_t num_tokens;
    fb_kv_cache *kv;      /* keys and values are written at length .. length + num_tokens - 1;
                             nothing is committed */
    size_t prefill_block; /* 0: a block of a denoising or commit pass, by `action`;
                             else a prefill under the block-causal mask of that block size */
    fb_reuse_action action;
    fb_compat compat;
    fb_part_cache *parts; /* see fb_block_attend */
    float *logits;        /* [num_tokens, vocab_size], or NULL when not wanted */
    float *hidden;        /* [num_hidden_layers + 1, num_tokens, hidden_size]: the input of each
                             layer, then the final norm's output; or NULL */
} fb_forward;

/* Time spent, in seconds, summed over forward passes. */
typedef struct fb_forward_times {
    double attention; /* fb_attend, fb_merge, fb_block_attend */
    double linear;    /* matrix products, the head's included */
    double total;
} fb_forward_times;

/* Runs `count` sequences in one batch: their rows share the linear layers, attention is done for
 * each on its own. Sequences must not share caches. `times` may be NULL; it is added to.
 * On error the caches' uncommitted tokens are undefined, committed ones intact. */
FB_API fb_status fb_model_forward(fb_model *model, const fb_forward *sequences, size_t count,
                                  fb_forward_times *times);

/* Caches that fit the model. */
FB_API fb_status fb_model_new_kv_cache(const fb_model *model, fb_dtype dtype, fb_kv_cache **kv);
FB_API fb_status fb_model_new_part_cache(const fb_model *model, size_t block_size,
                                         fb_part_cache **parts);

#ifdef __cplusplus
}
#endif

#endif

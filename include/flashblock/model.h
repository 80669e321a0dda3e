/* Decoders for block diffusion, read from a Hugging Face directory: SDAR and TraDo, SDAR-MoE,
 * LLaDA2.0 and 2.1, Qwen3 (bd3lm), Fast-dLLM v2.
 *
 * Per layer: x += o_proj(attention(rms_norm(x))), x += mlp(rms_norm(x)); a final rms_norm; logits
 * by the embedding's transpose or lm_head. Queries and keys are (except in Fast-dLLM v2) normalised
 * per head before rotary positions (rotate-half: pairs i, i + rotary_dim/2 of the first rotary_dim
 * values of a head; the angle is float32(position) * float32(inv_freq) rounded to float32, as the
 * paper's code has it).
 *
 * An MLP is dense, down(silu(gate(x)) * up(x)), or a mixture of experts, each of which is such an
 * MLP: y = sum of weight_e expert_e(x) over the num_experts_per_tok experts that the router chooses
 * for this row, plus the shared experts' MLP if there is one. A pass reads the weights of the
 * chosen experts once, whatever the number of rows, and does not touch those of the others.
 *
 * Weights stay as they are stored (f32, bf16 or f16) in memory-mapped files. The files must stay as
 * they are while the model is loaded: a byte that is changed changes results, and a file that is
 * made shorter in place ends the process with SIGBUS at the next touch of what is missing (so does
 * a disk or a network that fails). Replacing a file by renaming another one over it, as package
 * managers and download tools do, is harmless. fb_model_options.read_weights avoids the map. A
 * linear layer multiplies by them where they are, and widens a 16-bit weight in a register.
 * Activations are float32. All other memory grows with the tokens of one call, not with the model.
 *
 * A sequence's results are the same bits for any number of threads, on any instruction set, and
 * whatever else is in its batch (contract C9.6): every element of a linear layer is a sum of its
 * own in one order (C9.1). Results can differ in their last bits where a prefill is cut into other
 * calls, because the order of attention's sums follows the cuts; and between C libraries, because
 * the sines and cosines of rotary positions differ (C10.1).
 *
 * Threads: one fb_model_forward at a time on a model, and so one fb_generate; a second one at the
 * same time is FB_ERROR_ARGUMENT. Different models may run concurrently. Small layers run in the
 * calling thread only.
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

struct fb_sparse; /* experimental/sparse.h */

/* How a router weighs experts; z are the router's logits of a row.
 *   softmax   p = softmax(z) over all experts. The num_experts_per_tok largest p are chosen; the
 *             weights are p, divided by their sum with norm_topk_prob
 *   sigmoid   s = sigmoid(z), b = s + the router's bias. Experts are in num_expert_groups groups of
 *             neighbours; a group's score is the sum of its two largest b; in the
 *             num_chosen_groups best groups, the num_experts_per_tok largest b are chosen. The
 *             weights are s (without the bias) by their sum plus 1e-20 (not by it where one expert
 *             is chosen), times routed_scaling_factor
 * Of equal values the lower expert or group goes first. */
typedef enum fb_router {
    FB_ROUTER_NONE = 0, /* the MLPs are dense */
    FB_ROUTER_SOFTMAX,
    FB_ROUTER_SIGMOID,
} fb_router;

/* Decoding loops, see generate.h. */
typedef enum fb_decoding_loop {
    FB_LOOP_MODEL = 0, /* as the model's files say: fb_model_config.decoding_loop */
    FB_LOOP_SDAR,
    FB_LOOP_LLADA2,
    FB_LOOP_LLADA2_EDITING,
    FB_LOOP_BD3LM,
    FB_LOOP_FAST_DLLM_V2,
} fb_decoding_loop;

/* The configuration of a model, from the files of its directory. A token id is -1 when no file
 * names it. Where several files name the same thing, generation_config.json goes before
 * config.json, and an option of the caller before both (see generate.h). All files that name a mask
 * token must name the same; only if none does, it is found by its spelling in tokenizer.json. The
 * struct can grow at its end. */
typedef struct fb_model_config {
    size_t hidden_size, intermediate_size, num_hidden_layers;
    size_t num_attention_heads, num_key_value_heads, head_dim;
    size_t vocab_size, max_position_embeddings;
    double rope_theta, rms_norm_eps;
    bool tie_word_embeddings; /* the head is the embedding; false where the file's own head differs
                               */
    bool attention_bias;      /* of q, k and v */
    size_t block_size;        /* tokens of a diffusion block, 4096 at most; 0 when no file says */
    int32_t mask_token_id;
    int32_t pad_token_id;      /* the tokenizer's, if no configuration has one; ids that are not
                                  below vocab_size are none, here and among eos_token_ids */
    int32_t eos_token_ids[64]; /* the tokenizer's, if no configuration has any */
    size_t num_eos_token_ids;
    fb_dtype dtype; /* of the embedding as stored */

    /* How generation_config.json (or config.json) asks to sample. Nothing in the library does so by
     * itself: the caller's fb_generate_options decide, whose default is greedy. temperature (1 if
     * it is missing), top_k (50) and top_p (0) are as there, and 0 without do_sample. */
    bool do_sample;
    double temperature, top_p;
    size_t top_k;

    const char *architecture;       /* its name in config.json; constant */
    bool output_bias;               /* of o_proj */
    bool qk_norm;                   /* queries and keys are normalised */
    size_t rotary_dim;              /* values of a head that positions turn, the first ones */
    bool shifted_logits;            /* row i of the logits is about position i + 1, not i */
    fb_decoding_loop decoding_loop; /* the loop that the model's own code has */

    /* A mixture of experts; all 0 and FB_ROUTER_NONE where the MLPs are dense. */
    fb_router router;
    size_t num_experts, num_experts_per_tok, moe_intermediate_size;
    size_t shared_intermediate_size; /* of the shared experts together; 0: there are none */
    size_t num_expert_groups, num_chosen_groups;
    bool norm_topk_prob;
    double routed_scaling_factor;
    size_t num_dense_layers;    /* the first ones, which are no mixtures */
    size_t decoder_sparse_step; /* of the others, those where (layer + 1) % it is 0 are mixtures */
} fb_model_config;

typedef struct fb_model fb_model;

/* Opens `directory`: config.json; generation_config.json, tokenizer_config.json and
 * special_tokens_map.json if they are there, and tokenizer.json for a mask token that they do not
 * settle; model.safetensors, or model.safetensors.index.json with its shards. Every tensor's name,
 * dtype and shape is checked against the configuration. The caller owns *model.
 *
 * No field of these files is skipped silently: it is used, or has a value that changes nothing, or
 * is an error, or is a warning (fb_model_warning). A head of its own (lm_head.weight) beside
 * tie_word_embeddings is compared with the embedding, and used if it differs, as transformers 5
 * does. That, and tensors that the model does not have, are warnings.
 *
 * FB_ERROR_IO: a file is missing or cannot be read. FB_ERROR_FORMAT: a file is malformed, a field
 * out of range, a tensor missing or of another shape, two files contradict each other.
 * FB_ERROR_UNSUPPORTED: an architecture other than those above, or a field that asks for
 * what this library does not have: scaled rotary positions, a sliding window, an adapter, ... */
FB_API fb_status fb_model_load(const char *directory, fb_model **model);

/* How a model is loaded. The struct can grow: fill it in with fb_model_options_init. */
typedef struct fb_model_options {
    size_t struct_size;
    bool read_weights; /* into memory, instead of mapping the files. It takes as much memory as the
                          files have bytes, and loading takes as long as reading them; afterwards
                          nothing that happens to the files matters. Default: false */
    bool float_activations; /* of quantised layers: what they multiply stays float32, and their
                               weights become float32. Default: it is quantised to 8 bits, and the
                               products are of integers */
    bool unused[sizeof(size_t) - 2 * sizeof(bool)]; /* false: room for later versions */
} fb_model_options;

FB_API void fb_model_options_init_sized(fb_model_options *options, size_t size);
static inline void fb_model_options_init(fb_model_options *options) {
    fb_model_options_init_sized(options, sizeof *options);
}

/* fb_model_load with options, which may be NULL. FB_ERROR_ARGUMENT: struct_size is wrong.
 * FB_ERROR_MEMORY: the weights that are to be read do not fit. */
FB_API fb_status fb_model_load_with(const char *directory, const fb_model_options *options,
                                    fb_model **model);

/* What loading has to say about files that it accepts: a field that is not known and not used, a
 * head that differs from the embedding it should be tied to, ... One line without its end; it names
 * the file. NULL for an index that is not below their number. Owned by the model. */
FB_API const char *fb_model_warning(const fb_model *model, size_t index);

/* NULL is allowed. */
FB_API void fb_model_destroy(fb_model *model);

/* What the model's files say. Owned by the model. */
FB_API const fb_model_config *fb_model_config_of(const fb_model *model);

/* Number of weights, a tied head not counted twice, and their bytes as stored. */
FB_API size_t fb_model_num_parameters(const fb_model *model);
FB_API size_t fb_model_num_bytes(const fb_model *model);

/* One layer's attention of one sequence's block, as an observer sees it, right after
 * fb_block_attend. Pointers are valid during the call; nothing may be
 * changed. */
typedef struct fb_attention_event {
    size_t sequence; /* index in the call's `sequences` */
    size_t layer;
    const fb_queries *queries; /* [num_tokens, num_attention_heads, head_dim], with positions */
    const fb_kv_cache *kv;     /* this layer's committed tokens, then the block's */
    fb_reuse_action action;
    const fb_part_cache *parts; /* after the call: a refresh has stored there; may be NULL */
    const fb_part *result;      /* the input of o_proj: rows as in queries */
} fb_attention_event;

/* What one sublayer of one layer gave, for one sequence: after its attention, and after its MLP.
 * Pointers are valid during the call. The struct can grow at its end. */
typedef struct fb_sublayer_event {
    size_t sequence; /* index in the call's `sequences` */
    size_t layer;
    bool mlp;            /* or attention */
    const float *result; /* [num_tokens, hidden_size] that is added to the residual stream */
    /* Of a mixture of experts; NULL otherwise. */
    const float *router_logits;  /* [num_tokens, num_experts] */
    const int32_t *experts;      /* [num_tokens, num_experts_per_tok] the chosen ones, best first */
    const float *expert_weights; /* [num_tokens, num_experts_per_tok] */
} fb_sublayer_event;

/* A forward pass of one sequence: `num_tokens` tokens that follow the committed ones. The struct
 * can grow: begin with fb_forward_init, which sets struct_size (types.h) and makes everything else
 * 0 and NULL. */
typedef struct fb_forward {
    size_t struct_size;
    const int32_t *tokens; /* [num_tokens], each in [0, vocab_size) */
    size_t num_tokens;     /* at least 1 */
    fb_kv_cache *kv;       /* keys and values are written at length .. length + num_tokens - 1;
                              nothing is committed */
    size_t prefill_block;  /* 0: a block of a denoising or commit pass, by `action`;
                              else a prefill under the block-causal mask of that block size, of
                              which the cache's length must be a multiple */
    fb_reuse_action action;
    fb_compat compat;
    fb_part_cache *parts; /* action, compat, parts, refresh_rows: see fb_block_call. A prefill */
    const bool *refresh_rows; /* does not look at them */
    struct fb_sparse *sparse; /* experimental: NULL: every key is attended. Else as
                                 fb_block_call.sparse, after the caller's fb_sparse_begin; `parts`
                                 is then not looked at */
    float *logits;            /* [num_tokens, vocab_size], or NULL when they are not wanted: the
                                 head is then left out */
    float *hidden;            /* [num_hidden_layers + 1, num_tokens, hidden_size]: the input of each
                                 layer, then the final norm's output; or NULL */

    /* Called after each layer's fb_block_attend, in the order of layers, from the calling thread;
     * not at a prefill, nor with block_length. NULL: no call, and no cost. Its time does not count
     * as attention, but counts in fb_forward_times.total. */
    void (*on_attention)(void *user, const fb_attention_event *event);
    void *user; /* of on_attention and on_sublayer */

    size_t prefill_shift; /* with prefill_block: token i of the sequence is in block (i +
                             prefill_shift) / prefill_block, so that the first block is shorter.
                             The cache's length plus it must be a multiple of prefill_block, or the
                             length 0 */

    /* Of a denoising pass over some rows of a block, when keys and values of its other rows are in
     * `kv` already, from an earlier pass and not committed: the block has block_length tokens, and
     * these are the ones from block_first on. They attend to all that is committed and to the whole
     * block. action is FB_REFRESH_ONLY, parts and sparse are NULL. block_length 0: these tokens are
     * the block. */
    size_t block_first, block_length;

    /* Called twice a layer, in their order, from the calling thread. NULL: no call, no cost. */
    void (*on_sublayer)(void *user, const fb_sublayer_event *event);
} fb_forward;

FB_API void fb_forward_init_sized(fb_forward *forward, size_t size);
static inline void fb_forward_init(fb_forward *forward) {
    fb_forward_init_sized(forward, sizeof *forward);
}

/* Time spent, in seconds, summed over forward passes. The struct never grows. */
typedef struct fb_forward_times {
    double attention; /* fb_attend, fb_block_attend */
    double linear;    /* matrix products, the head's included */
    double total;
} fb_forward_times;

/* Runs `count` sequences in one batch: their rows share the linear layers, attention is done for
 * each on its own. Sequences must not share caches; all have the same struct_size. `times` may be
 * NULL; it is added to.
 * max_position_embeddings is not enforced: longer sequences are the caller's decision.
 *
 * On error the caches' uncommitted tokens, part caches that a sequence stores to, and `hidden` are
 * undefined; committed tokens, `logits` and `times` are untouched. */
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

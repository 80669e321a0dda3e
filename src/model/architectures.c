#include "model/architectures.h"

#include "model/config_fields.h"

#include <string.h>

/* --- names of tensors ------------------------------------------------------------------------- */

/* Qwen2, Qwen3, SDAR, and mixtures of Qwen3 and SDAR. */
static const fb_tensor_names qwen_names = {
    .embedding = "model.embed_tokens",
    .norm = "model.norm.weight",
    .head = "lm_head",
    .input_norm = "input_layernorm.weight",
    .post_attention_norm = "post_attention_layernorm.weight",
    .q = "self_attn.q_proj",
    .k = "self_attn.k_proj",
    .v = "self_attn.v_proj",
    .q_norm = "self_attn.q_norm.weight",
    .k_norm = "self_attn.k_norm.weight",
    .o = "self_attn.o_proj",
    .router = "mlp.gate",
    .expert = "mlp.experts.",
};

static const fb_tensor_names llada2_names = {
    .embedding = "model.word_embeddings",
    .norm = "model.norm.weight",
    .head = "lm_head",
    .input_norm = "input_layernorm.weight",
    .post_attention_norm = "post_attention_layernorm.weight",
    .q = "attention.query_key_value",
    .q_norm = "attention.query_layernorm.weight",
    .k_norm = "attention.key_layernorm.weight",
    .o = "attention.dense",
    .router = "mlp.gate",
    .router_bias = "mlp.gate.expert_bias",
    .expert = "mlp.experts.",
    .shared = "mlp.shared_experts.",
};

/* --- what a missing field stands for ---------------------------------------------------------- */

#define QWEN3_DEFAULTS                                                                             \
    { .head_dim = 128, .num_key_value_heads = 32, .rms_norm_eps = 1e-6, .rope_theta = 10000.0 }
#define QWEN2_DEFAULTS                                                                             \
    { .num_key_value_heads = 32, .rms_norm_eps = 1e-6, .rope_theta = 10000.0 }
#define LLADA2_DEFAULTS                                                                            \
    { .rms_norm_eps = 1e-5, .rope_theta = 10000.0 }

/* --- architectures ---------------------------------------------------------------------------- */

const fb_architecture fb_architectures[] = {
    {
        /* SDAR, TraDo */
        .name = "SDARForCausalLM",
        .model_type = "sdar",
        .tensors = &qwen_names,
        .defaults = QWEN3_DEFAULTS,
        .qk_norm = true,
        .loop = FB_LOOP_SDAR,
        .mask_token_id = -1,
        .eos_token_id = -1,
    },
    {
        .name = "Qwen3ForCausalLM",
        .model_type = "qwen3",
        .tensors = &qwen_names,
        .defaults = QWEN3_DEFAULTS,
        .qk_norm = true,
        .loop = FB_LOOP_SDAR,
        .mask_token_id = -1,
        .eos_token_id = -1,
    },
    {
        .name = "SDARMoeForCausalLM",
        .model_type = "sdar_moe",
        .tensors = &qwen_names,
        .fields = fb_sdar_moe_fields,
        .defaults = QWEN3_DEFAULTS,
        .qk_norm = true,
        .router = FB_ROUTER_SOFTMAX,
        .loop = FB_LOOP_SDAR,
        .mask_token_id = -1,
        .eos_token_id = -1,
    },
    {
        /* LLaDA2.0, LLaDA2.1 */
        .name = "LLaDA2MoeModelLM",
        .model_type = "llada2_moe",
        .tensors = &llada2_names,
        .fields = fb_llada2_fields,
        .defaults = LLADA2_DEFAULTS,
        .qk_norm = true,
        .qk_norm_field = true,
        .partial_rotary = true,
        .bias = FB_BIAS_TWO,
        .router = FB_ROUTER_SIGMOID,
        .loop = FB_LOOP_LLADA2,
        .block_size = 32,
        .mask_token_id = 156895,
        .eos_token_id = 156892,
    },
    {
        /* Qwen3 trained for block diffusion (dllm) */
        .name = "A2DQwen3LMHeadModel",
        .model_type = "a2d-qwen3",
        .tensors = &qwen_names,
        .defaults = QWEN3_DEFAULTS,
        .qk_norm = true,
        .loop = FB_LOOP_BD3LM,
        .block_size = 32,
        .mask_token_id = -1,
        .eos_token_id = -1,
    },
    {
        /* Fast-dLLM v2, from Qwen2.5 */
        .name = "Fast_dLLM_QwenForCausalLM",
        .model_type = "Fast_dLLM_Qwen",
        .tensors = &qwen_names,
        .fields = fb_fast_dllm_fields,
        .defaults = QWEN2_DEFAULTS,
        .bias = FB_BIAS_QKV,
        .shifted_logits = true,
        .loop = FB_LOOP_FAST_DLLM_V2,
        .block_size_field = "bd_size",
        .block_size = 32,
        .mask_token_id = 151665,
        .eos_token_id = 151645,
    },
};
const size_t fb_num_architectures = sizeof fb_architectures / sizeof fb_architectures[0];

const fb_architecture *fb_architecture_named(const char *name) {
    for (size_t i = 0; i < fb_num_architectures; i++)
        if (strcmp(fb_architectures[i].name, name) == 0)
            return &fb_architectures[i];
    return NULL;
}

const fb_architecture *fb_architecture_of_type(const char *model_type) {
    for (size_t i = 0; i < fb_num_architectures; i++)
        if (strcmp(fb_architectures[i].model_type, model_type) == 0)
            return &fb_architectures[i];
    return NULL;
}

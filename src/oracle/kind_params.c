/* The names that the params of each kind may have. docs/case-files.md explains them. */
#include "oracle/kinds.h"

#define USED(name)                                                                                 \
    { name, FB_FIELD_USED, NULL, NULL }
#define UNUSED(name, note)                                                                         \
    { name, FB_FIELD_UNUSED, NULL, note }
#define REFUSED(name, neutral, note)                                                               \
    { name, FB_FIELD_REFUSED, neutral, note }
#define END                                                                                        \
    { NULL, FB_FIELD_USED, NULL, NULL }

const fb_field fb_attention_params[] = {
    USED("B"),
    USED("Sq"),
    USED("Sk"),
    USED("H"),
    USED("Hk"),
    USED("D"),
    USED("softmax_scale"),
    USED("causal"),
    USED("mask_block_size"),
    USED("first_query"),
    USED("first_key"),
    USED("key_lengths"),
    UNUSED("preset", "where the sizes are from"),
    REFUSED("head_map", "\"kv head of q head h is h // (H/Hk)\"", "the only map"),
    END,
};

const fb_field fb_current_block_params[] = {
    USED("B"), USED("L"), USED("H"), USED("Hk"), USED("D"), USED("softmax_scale"), END,
};

const fb_field fb_split_merge_params[] = {
    USED("B"), USED("H"), USED("Hk"), USED("L"), USED("P"), USED("D"), USED("softmax_scale"), END,
};

const fb_field fb_fused_merge_params[] = {
    USED("B"), USED("L"), USED("H"), USED("D"), END,
};

const fb_field fb_head_masked_merge_params[] = {
    USED("B"), USED("Lq"), USED("H"), USED("D"), USED("head_mask"), END,
};

const fb_field fb_denoising_sequence_params[] = {
    USED("num_heads"),
    USED("num_kv_heads"),
    USED("head_dim"),
    USED("block_size"),
    USED("context_length"),
    USED("tau"),
    USED("steps"),
    USED("dtype"),
    USED("softmax_scale"),
    USED("rows"),
    USED("correction"),
    UNUSED("preset", "where the sizes are from"),
    END,
};

const fb_field fb_rope_1d_params[] = {
    USED("D"),
    USED("theta"),
    END,
};

const fb_field fb_rmsnorm_params[] = {
    USED("S"),
    USED("D"),
    END,
};

const fb_field fb_sdar_attention_params[] = {
    USED("B"),
    USED("L"),
    USED("P"),
    USED("hidden"),
    USED("num_heads"),
    USED("num_kv_heads"),
    USED("head_dim"),
    USED("rope_theta"),
    USED("rms_norm_eps"),
    USED("tau"),
    USED("accepted"),
    USED("scale"),
    UNUSED("attention_bias", "the inputs file has the biases, or not"),
    UNUSED("accepted_other_rows", "tokens of other rows: they decide nothing"),
    UNUSED("sparsity", "what the class was given"),
    END,
};

const fb_field fb_model_logits_params[] = {
    USED("P"),
    USED("L"),
    UNUSED("mask_id", "the tokens are in tensors"),
    UNUSED("reveal_groups", "the tokens are in tensors"),
    END,
};

const fb_field fb_model_forward_params[] = {
    USED("context"),
    USED("block"),
    USED("left_pad"),
    USED("small_start"),
    UNUSED("mask_id", "the tokens are in tensors"),
    END,
};

const fb_field fb_generation_params[] = {
    USED("tau"),
    USED("block_length"),
    USED("denoising_steps"),
    USED("remasking"),
    USED("dynamic_threshold"),
    USED("temperature"),
    USED("top_k"),
    USED("top_p"),
    USED("max_tokens"),
    USED("max_active"),
    USED("mask_id"),
    USED("eos_id"),
    USED("stop_words"),
    USED("n_prompts"),
    UNUSED("pad_id", "padding is left out"),
    REFUSED("ignore_eos", "false", "not known to this kind"),
    END,
};

const fb_field fb_scheduler_trace_params[] = {
    USED("tau"),
    USED("block_length"),
    USED("denoising_steps"),
    USED("remasking"),
    USED("dynamic_threshold"),
    USED("eb_threshold"),
    USED("max_tokens"),
    USED("ignore_eos"),
    USED("mask_id"),
    USED("eos_id"),
    USED("stop_words"),
    USED("max_active"),
    USED("n_prompts"),
    USED("env"),
    USED("consistent_sampling_params"),
    UNUSED("temperature", "the probabilities are in a tensor"),
    UNUSED("top_k", "the probabilities are in a tensor"),
    UNUSED("top_p", "the probabilities are in a tensor"),
    END,
};

const fb_field fb_select_transfer_params[] = {
    USED("L"), USED("V"), USED("steps"), USED("remasking"), USED("threshold"), USED("B"), END,
};

const fb_field fb_sampler_filters_params[] = {
    END,
};

const fb_field fb_rope_3d_params[] = {
    USED("head_dim"),
    USED("heads"),
    USED("f"),
    USED("h"),
    USED("w"),
    USED("starts"),
    USED("pairs_frame"),
    USED("pairs_row"),
    USED("pairs_col"),
    REFUSED("theta", "10000", "the only base"),
    UNUSED("freq_denominators", "head_dim implies them"),
    END,
};

const fb_field fb_video_norm_params[] = {
    USED("S"),
    USED("D"),
    USED("eps"),
    END,
};

const fb_field fb_flow_scheduler_params[] = {
    USED("shift"),
    REFUSED("sigma_min", "0", "the only schedule"),
    REFUSED("extra_one_step", "true", "the only schedule"),
    REFUSED("num_inference_steps", "1000", "the only schedule"),
    END,
};

const fb_field fb_video_attention_params[] = {
    USED("num_heads"),
    USED("head_dim"),
    USED("dim"),
    USED("frames_per_block"),
    USED("h"),
    USED("w"),
    USED("frame_seqlen"),
    USED("block_tokens"),
    USED("kv_cache_tokens"),
    USED("max_attention_size"),
    USED("sink_size"),
    USED("sink_tokens"),
    USED("blocks"),
    USED("calib_blocks"),
    USED("calib_batch"),
    USED("denoise_steps"),
    USED("clean_pass_step_index"),
    USED("sparsity_steps"),
    USED("eps"),
    USED("head_sim_th"),
    USED("head_sim_th_by_step"),
    USED("head_lse_th"),
    USED("dtype"),
    USED("scale"),
    UNUSED("local_attn_size", "kv_cache_tokens says it in tokens"),
    UNUSED("cos_counts", "calib.block_step says it"),
    END,
};

const fb_field fb_pipeline_params[] = {
    USED("dim"),
    USED("ffn"),
    USED("heads"),
    USED("layers"),
    USED("C"),
    USED("H"),
    USED("W"),
    USED("fpb"),
    USED("frames"),
    USED("cframes"),
    USED("cB"),
    USED("local"),
    USED("sink"),
    USED("text_len"),
    USED("text_dim"),
    USED("freq"),
    USED("th"),
    USED("lth"),
    USED("steps"),
    USED("timestep_shift"),
    USED("context_noise"),
    USED("patch_size"),
    USED("eps"),
    USED("qk_norm"),
    USED("cross_attn_norm"),
    USED("sparsity_steps"),
    USED("frame_seqlen"),
    USED("head_dim"),
    UNUSED("name", "for people"),
    UNUSED("seed", "for people"),
    UNUSED("denoising_step_list", "a tensor has it"),
    UNUSED("kv_cache_tokens", "local says it in frames"),
    UNUSED("max_attention_size", "local says it in frames"),
    END,
};

const fb_field fb_sdar_loop_params[] = {
    USED("tau"),
    USED("block_length"),
    USED("denoising_steps"),
    USED("remasking"),
    USED("dynamic_threshold"),
    USED("temperature"),
    USED("top_k"),
    USED("top_p"),
    USED("max_tokens"),
    USED("mask_id"),
    USED("eos_id"),
    USED("ignore_eos"),
    END,
};

const fb_field fb_llada2_loop_params[] = {
    USED("block_length"),      USED("steps"),          USED("gen_length"),
    USED("threshold"),         USED("minimal_topk"),   USED("eos_early_stop"),
    USED("editing_threshold"), USED("max_post_steps"), USED("num_to_transfer"),
    USED("mask_id"),           USED("eos_id"),         END,
};

const fb_field fb_sglang_loop_params[] = {
    USED("algorithm"),
    USED("block_length"),
    USED("threshold"),
    USED("edit_threshold"),
    USED("max_post_edit_steps"),
    USED("penalty_lambda"),
    USED("max_new_tokens"),
    USED("mask_id"),
    USED("eos_id"),
    END,
};

const fb_field fb_bd3lm_loop_params[] = {
    USED("block_size"), USED("steps"),  USED("steps_per_block"), USED("max_new_tokens"),
    USED("mask_id"),    USED("pad_id"), USED("eos_id"),          END,
};

const fb_field fb_fast_loop_params[] = {
    USED("block_size"),     USED("small_block_size"), USED("threshold"),  USED("use_block_cache"),
    USED("max_new_tokens"), USED("mask_id"),          USED("stop_token"), END,
};

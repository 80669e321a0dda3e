#include "oracle/kinds.h"

#include <string.h>

const fb_kind fb_kinds[] = {
    {"attention", NULL, fb_recompute_attention, fb_attention_params, fb_attention_tensors},
    {"current_block", NULL, fb_recompute_current_block, fb_current_block_params,
     fb_current_block_tensors},
    {"denoising_sequence", NULL, fb_recompute_denoising_sequence, fb_denoising_sequence_params,
     fb_denoising_sequence_tensors},
    {"flow_scheduler", NULL, fb_recompute_flow_scheduler, fb_flow_scheduler_params,
     fb_flow_scheduler_tensors},
    {"fused_merge", NULL, fb_recompute_fused_merge, fb_fused_merge_params, fb_fused_merge_tensors},
    {"generation", "trace.need", fb_recompute_bd3lm_loop, fb_bd3lm_loop_params, fb_loop_tensors},
    {"generation", "trace.edit", fb_recompute_llada2_loop, fb_llada2_loop_params, fb_loop_tensors},
    {"generation", "trace.kind", fb_recompute_fast_loop, fb_fast_loop_params, fb_loop_tensors},
    {"generation", "trace.seq", fb_recompute_generation, fb_generation_params,
     fb_generation_tensors},
    {"generation", "prompt.0", fb_recompute_sdar_loop, fb_sdar_loop_params, fb_loop_tensors},
    {"generation_sglang", NULL, fb_recompute_sglang_loop, fb_sglang_loop_params, fb_loop_tensors},
    {"generation", NULL, fb_recompute_generation, fb_generation_params, fb_generation_tensors},
    {"head_masked_merge", NULL, fb_recompute_head_masked_merge, fb_head_masked_merge_params,
     fb_head_masked_merge_tensors},
    {"model_forward", NULL, fb_recompute_model_forward, fb_model_forward_params,
     fb_model_forward_tensors},
    {"model_logits", NULL, fb_recompute_model_logits, fb_model_logits_params,
     fb_model_logits_tensors},
    {"pipeline", NULL, fb_recompute_pipeline, fb_pipeline_params, fb_pipeline_tensors},
    {"pipeline_weights", NULL, NULL, NULL, NULL},
    {"rmsnorm", NULL, fb_recompute_rmsnorm, fb_rmsnorm_params, fb_rmsnorm_tensors},
    {"rope_1d", NULL, fb_recompute_rope_1d, fb_rope_1d_params, fb_rope_1d_tensors},
    {"rope_3d", NULL, fb_recompute_rope_3d, fb_rope_3d_params, fb_rope_3d_tensors},
    {"sampler_filters", NULL, fb_recompute_sampler_filters, fb_sampler_filters_params,
     fb_sampler_filters_tensors},
    {"scheduler_trace", NULL, fb_recompute_scheduler_trace, fb_scheduler_trace_params,
     fb_scheduler_trace_tensors},
    {"sdar_attention", NULL, fb_recompute_sdar_attention, fb_sdar_attention_params,
     fb_sdar_attention_tensors},
    {"sdar_attention_inputs", NULL, NULL, NULL, NULL},
    {"select_transfer", NULL, fb_recompute_select_transfer, fb_select_transfer_params,
     fb_select_transfer_tensors},
    {"split_merge", NULL, fb_recompute_split_merge, fb_split_merge_params, fb_split_merge_tensors},
    {"video_attention", NULL, fb_recompute_video_attention, fb_video_attention_params,
     fb_video_attention_tensors},
    {"video_attention_inputs", NULL, NULL, NULL, NULL},
    {"video_norm", NULL, fb_recompute_video_norm, fb_video_norm_params, fb_video_norm_tensors},
};
const size_t fb_num_kinds = sizeof fb_kinds / sizeof fb_kinds[0];

const fb_kind *fb_kind_of(const fb_case *c) {
    const char *name = fb_case_kind(c);
    const fb_kind *found = NULL;
    for (size_t i = 0; i < fb_num_kinds; i++) {
        if (strcmp(fb_kinds[i].name, name) != 0)
            continue;
        if (fb_kinds[i].mark && fb_case_has(c, "%s", fb_kinds[i].mark))
            return &fb_kinds[i];
        if (!fb_kinds[i].mark)
            found = &fb_kinds[i];
    }
    return found;
}

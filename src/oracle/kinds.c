#include "oracle/kinds.h"

#include <string.h>

const fb_kind fb_kinds[] = {
    {"attention", fb_recompute_attention, fb_attention_params},
    {"current_block", fb_recompute_current_block, fb_current_block_params},
    {"denoising_sequence", fb_recompute_denoising_sequence, fb_denoising_sequence_params},
    {"flow_scheduler", fb_recompute_flow_scheduler, fb_flow_scheduler_params},
    {"fused_merge", fb_recompute_fused_merge, fb_fused_merge_params},
    {"generation", fb_recompute_generation, fb_generation_params},
    {"head_masked_merge", fb_recompute_head_masked_merge, fb_head_masked_merge_params},
    {"model_logits", fb_recompute_model_logits, fb_model_logits_params},
    {"pipeline", fb_recompute_pipeline, fb_pipeline_params},
    {"pipeline_weights", NULL, NULL},
    {"rmsnorm", fb_recompute_rmsnorm, fb_rmsnorm_params},
    {"rope_1d", fb_recompute_rope_1d, fb_rope_1d_params},
    {"rope_3d", fb_recompute_rope_3d, fb_rope_3d_params},
    {"sampler_filters", fb_recompute_sampler_filters, fb_sampler_filters_params},
    {"scheduler_trace", fb_recompute_scheduler_trace, fb_scheduler_trace_params},
    {"sdar_attention", fb_recompute_sdar_attention, fb_sdar_attention_params},
    {"sdar_attention_inputs", NULL, NULL},
    {"select_transfer", fb_recompute_select_transfer, fb_select_transfer_params},
    {"split_merge", fb_recompute_split_merge, fb_split_merge_params},
    {"video_attention", fb_recompute_video_attention, fb_video_attention_params},
    {"video_attention_inputs", NULL, NULL},
    {"video_norm", fb_recompute_video_norm, fb_video_norm_params},
};
const size_t fb_num_kinds = sizeof fb_kinds / sizeof fb_kinds[0];

const fb_kind *fb_kind_find(const char *name) {
    for (size_t i = 0; i < fb_num_kinds; i++)
        if (strcmp(fb_kinds[i].name, name) == 0)
            return &fb_kinds[i];
    return NULL;
}

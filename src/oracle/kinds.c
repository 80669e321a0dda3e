#include "oracle/kinds.h"

#include <string.h>

const fb_kind fb_kinds[] = {
    {"attention", fb_recompute_attention},
    {"current_block", fb_recompute_current_block},
    {"denoising_sequence", fb_recompute_denoising_sequence},
    {"flow_scheduler", fb_recompute_flow_scheduler},
    {"fused_merge", fb_recompute_fused_merge},
    {"generation", fb_recompute_generation},
    {"head_masked_merge", fb_recompute_head_masked_merge},
    {"model_logits", fb_recompute_model_logits},
    {"pipeline", fb_recompute_pipeline},
    {"pipeline_weights", NULL},
    {"rmsnorm", fb_recompute_rmsnorm},
    {"rope_1d", fb_recompute_rope_1d},
    {"rope_3d", fb_recompute_rope_3d},
    {"sampler_filters", fb_recompute_sampler_filters},
    {"scheduler_trace", fb_recompute_scheduler_trace},
    {"sdar_attention", fb_recompute_sdar_attention},
    {"sdar_attention_inputs", NULL},
    {"select_transfer", fb_recompute_select_transfer},
    {"split_merge", fb_recompute_split_merge},
    {"video_attention", fb_recompute_video_attention},
    {"video_attention_inputs", NULL},
    {"video_norm", fb_recompute_video_norm},
};
const size_t fb_num_kinds = sizeof fb_kinds / sizeof fb_kinds[0];

const fb_kind *fb_kind_find(const char *name) {
    for (size_t i = 0; i < fb_num_kinds; i++)
        if (strcmp(fb_kinds[i].name, name) == 0)
            return &fb_kinds[i];
    return NULL;
}

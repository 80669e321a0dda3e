/* The kinds of cases. A kind recomputes a file and says what the file should hold. */
#ifndef FB_ORACLE_KINDS_H
#define FB_ORACLE_KINDS_H

#include "oracle/report.h"

/* Recomputes the case with the current instruction set and threads, and makes its claims. It fails
 * if the file is wrong, or if memory is short. */
typedef fb_status fb_recompute_fn(fb_case *c, fb_report *report);

typedef struct fb_kind {
    const char *name;
    const char *mark;           /* of kinds that share a name: a tensor that only this one has */
    fb_recompute_fn *recompute; /* NULL: inputs of other cases; there is nothing to check in them */
    const fb_field *params;     /* the names that params may have; recompute asks for no others */
    const fb_field *tensors;    /* the same for tensors, with N for numbers */
} fb_kind;

extern const fb_kind fb_kinds[];
extern const size_t fb_num_kinds;

/* The kind of a case; NULL if there is no such kind. */
const fb_kind *fb_kind_of(const fb_case *c);

fb_recompute_fn fb_recompute_attention, fb_recompute_current_block; /* kind_attention.c */
fb_recompute_fn fb_recompute_split_merge, fb_recompute_fused_merge; /* kind_merge.c */
fb_recompute_fn fb_recompute_head_masked_merge;
fb_recompute_fn fb_recompute_denoising_sequence;                  /* kind_sequence.c */
fb_recompute_fn fb_recompute_rope_1d, fb_recompute_rmsnorm;       /* kind_layers.c */
fb_recompute_fn fb_recompute_sdar_attention;                      /* kind_sdar_attention.c */
fb_recompute_fn fb_recompute_model_logits;                        /* kind_model.c */
fb_recompute_fn fb_recompute_model_forward;                       /* kind_forward.c */
fb_recompute_fn fb_recompute_scheduler_trace;                     /* kind_schedule.c */
fb_recompute_fn fb_recompute_generation;                          /* kind_generation.c */
fb_recompute_fn fb_recompute_sdar_loop, fb_recompute_llada2_loop; /* kind_loops.c */
fb_recompute_fn fb_recompute_sglang_loop, fb_recompute_bd3lm_loop, fb_recompute_fast_loop;
fb_recompute_fn fb_recompute_rope_3d, fb_recompute_video_norm; /* kind_video_layers.c */
fb_recompute_fn fb_recompute_flow_scheduler;
fb_recompute_fn fb_recompute_pipeline;        /* kind_pipeline.c */
fb_recompute_fn fb_recompute_video_attention; /* kind_video_attention.c */
fb_recompute_fn fb_recompute_select_transfer, fb_recompute_sampler_filters; /* kind_select.c */

/* kind_tensors.c */
extern const fb_field fb_attention_tensors[], fb_current_block_tensors[], fb_split_merge_tensors[],
    fb_fused_merge_tensors[], fb_head_masked_merge_tensors[], fb_denoising_sequence_tensors[],
    fb_rope_1d_tensors[], fb_rmsnorm_tensors[], fb_sdar_attention_tensors[],
    fb_model_logits_tensors[], fb_model_forward_tensors[], fb_generation_tensors[],
    fb_scheduler_trace_tensors[], fb_select_transfer_tensors[], fb_sampler_filters_tensors[],
    fb_rope_3d_tensors[], fb_video_norm_tensors[], fb_flow_scheduler_tensors[],
    fb_video_attention_tensors[], fb_pipeline_tensors[], fb_loop_tensors[];

/* kind_params.c */
extern const fb_field fb_attention_params[], fb_current_block_params[], fb_split_merge_params[],
    fb_fused_merge_params[], fb_head_masked_merge_params[], fb_denoising_sequence_params[],
    fb_rope_1d_params[], fb_rmsnorm_params[], fb_sdar_attention_params[], fb_model_logits_params[],
    fb_model_forward_params[], fb_generation_params[], fb_scheduler_trace_params[],
    fb_select_transfer_params[], fb_sampler_filters_params[], fb_rope_3d_params[],
    fb_video_norm_params[], fb_flow_scheduler_params[], fb_video_attention_params[],
    fb_pipeline_params[], fb_sdar_loop_params[], fb_llada2_loop_params[], fb_sglang_loop_params[],
    fb_bd3lm_loop_params[], fb_fast_loop_params[];

#endif

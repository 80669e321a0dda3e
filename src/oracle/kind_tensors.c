/* The names that the tensors of each kind may have. docs/case-files.md explains them. NN stands for
 * two digits, N for a whole number. Of two names that are as near to a misspelt one, the first is
 * named. */
#include "oracle/kinds.h"

#define USED(name)                                                                                 \
    { name, FB_FIELD_USED, NULL, NULL }
#define UNUSED(name, note)                                                                         \
    { name, FB_FIELD_UNUSED, NULL, note }
#define END                                                                                        \
    { NULL, FB_FIELD_USED, NULL, NULL }

const fb_field fb_attention_tensors[] = {
    USED("q"), USED("k"), USED("v"), USED("out64"), USED("lse64"), USED("out"), USED("lse"), END,
};

const fb_field fb_current_block_tensors[] = {
    USED("q"),
    USED("k_new"),
    USED("v_new"),
    USED("out"),
    USED("lse"),
    UNUSED("cache_lens", "the block is attended alone"),
    UNUSED("block_table", "the block is attended alone"),
    END,
};

const fb_field fb_split_merge_tensors[] = {
    USED("q"),
    USED("k"),
    USED("v"),
    USED("o_past"),
    USED("lse_past"),
    USED("o_cur"),
    USED("lse_cur"),
    USED("full64"),
    USED("full_lse64"),
    USED("full"),
    USED("full_lse"),
    USED("merged_hf"),
    USED("merged_kernel"),
    USED("merged_kernel_store"),
    UNUSED("past_unnorm", "of the paper's code"),
    UNUSED("cur_unnorm", "of the paper's code"),
    UNUSED("full_lse_kernel_store", "of the paper's code"),
    END,
};

const fb_field fb_fused_merge_tensors[] = {
    USED("out_hist"),
    USED("lse_hist"),
    USED("hist_out_in"),
    USED("hist_lse_in"),
    USED("out_cur"),
    USED("lse_cur"),
    USED("o_full_or_cur"),
    USED("need_mask"),
    USED("store_mask"),
    USED("dirty_mask"),
    USED("engine.out"),
    USED("engine.full_lse"),
    USED("engine.hist_out"),
    USED("engine.hist_lse"),
    USED("fused.out"),
    USED("fused.hist_out"),
    USED("fused.hist_lse"),
    UNUSED("fake.out", "another kernel of the paper's code"),
    UNUSED("fake.hist_out", "another kernel of the paper's code"),
    UNUSED("fake.hist_lse", "another kernel of the paper's code"),
    UNUSED("all_update.out", "another kernel of the paper's code"),
    UNUSED("all_update.lse", "another kernel of the paper's code"),
    UNUSED("all_update.hist_out", "another kernel of the paper's code"),
    UNUSED("all_update.hist_lse", "another kernel of the paper's code"),
    UNUSED("engine_bf16.o_full_or_cur", "in bf16"),
    UNUSED("engine_bf16.out", "in bf16"),
    END,
};

const fb_field fb_head_masked_merge_tensors[] = {
    USED("o"),
    USED("lse"),
    USED("out_hist"),
    USED("lse_hist"),
    USED("hist_out_in"),
    USED("hist_lse_in"),
    USED("head_mask"),
    USED("out"),
    USED("hist_out"),
    USED("hist_lse"),
    UNUSED("bf16.out", "in bf16"),
    UNUSED("bf16.hist_out", "in bf16"),
    END,
};

const fb_field fb_denoising_sequence_tensors[] = {
    USED("k_context"),
    USED("v_context"),
    USED("accepted"),
    USED("action"),
    USED("dirty"),
    USED("stepNN.q"),
    USED("stepNN.k"),
    USED("stepNN.v"),
    USED("stepNN.external_out64"),
    USED("stepNN.external_lse64"),
    USED("stepNN.external_out"),
    USED("stepNN.external_lse"),
    USED("stepNN.out64"),
    USED("stepNN.lse64"),
    USED("stepNN.out"),
    USED("stepNN.lse"),
    END,
};

const fb_field fb_rope_1d_tensors[] = {
    USED("pos"),
    USED("q"),
    USED("k"),
    USED("inv_freq"),
    USED("cos"),
    USED("sin"),
    USED("q_rot"),
    USED("k_rot"),
    UNUSED("cos64", "the engine's table"),
    UNUSED("sin64", "the engine's table"),
    UNUSED("q_rot_engine", "of the paper's engine"),
    UNUSED("k_rot_engine", "of the paper's engine"),
    END,
};

const fb_field fb_rmsnorm_tensors[] = {
    USED("x"),
    USED("weight"),
    USED("rms_hf_epsNe-N"),
    UNUSED("residual", "of a fused addition"),
    UNUSED("rms_epsNe-N", "of the paper's engine"),
    UNUSED("add_rms_epsNe-N", "of a fused addition"),
    UNUSED("add_rms_residual_epsNe-N", "of a fused addition"),
    UNUSED("bf16.x", "in bf16"),
    UNUSED("bf16.residual", "in bf16"),
    UNUSED("bf16.weight", "in bf16"),
    UNUSED("bf16.rms_epsNe-N", "in bf16"),
    UNUSED("bf16.add_rms_epsNe-N", "in bf16"),
    UNUSED("bf16.add_rms_residual_epsNe-N", "in bf16"),
    END,
};

const fb_field fb_sdar_attention_tensors[] = {
    USED("calls"),          USED("callN.out"), USED("callN.pos"), USED("callN.past_out"),
    USED("callN.past_lse"), USED("kv.k"),      USED("kv.v"),      END,
};

const fb_field fb_model_logits_tensors[] = {
    USED("prompt"),
    USED("block_tokens"),
    USED("stepN.tokens"),
    USED("prefill_logits"),
    USED("stepN.logits_dense"),
    USED("stepN.logits_reuse"),
    USED("stepN.logits_refresh"),
    USED("commit_logits"),
    USED("prefill_hidden.N"),
    USED("hist_out"),
    USED("hist_lse"),
    USED("kv.k"),
    USED("kv.v"),
    END,
};

/* What the published engine writes down of each pass, and what goes in and comes out. */
#define ENGINE_TRACE                                                                               \
    USED("trace.seq"), USED("trace.status"), USED("trace.step"), USED("trace.ctx_true"),           \
        USED("trace.ctx_kernel"), USED("trace.update"), USED("trace.reuse"), USED("trace.store"),  \
        USED("trace.dirty"), USED("trace.dmask"), USED("trace.dirty_after"),                       \
        USED("trace.dmask_after"), USED("trace.status_after"), USED("trace.ntr"),                  \
        USED("trace.ntok_after"), USED("trace.before"), USED("trace.acc"), USED("trace.after"),    \
        USED("trace.x0"), USED("trace.conf"), USED("prompt.N"), USED("output.N"),                  \
        USED("unmask_step.N")

const fb_field fb_model_forward_tensors[] = {
    USED("ids"),
    USED("block_ids"),
    USED("small_ids"),
    USED("embedding"),
    USED("attention_out.N"),
    USED("mlp_out.N"),
    USED("hidden.N"),
    USED("logits"),
    USED("prefill_mlp_out.N"),
    USED("prefill_hidden.N"),
    USED("prefill_logits"),
    USED("block_hidden.N"),
    USED("block_logits"),
    USED("cached_block_logits"),
    USED("small_logits"),
    USED("router_logits.N"),
    USED("router_index.N"),
    USED("router_weight.N"),
    USED("kv.k"),
    USED("kv.v"),
    END,
};

const fb_field fb_generation_tensors[] = {
    ENGINE_TRACE,
    USED("logits"),
    USED("hist_out"),
    USED("hist_lse"),
    UNUSED("trace.batch", "trace.seq says it"),
    UNUSED("trace.T", "of other engines"),
    UNUSED("trace.block", "of other engines"),
    UNUSED("trace.edit", "of other engines"),
    UNUSED("trace.kind", "of other engines"),
    UNUSED("trace.length", "of other engines"),
    UNUSED("trace.need", "of other engines"),
    UNUSED("trace.next", "of other engines"),
    UNUSED("trace.small", "of other engines"),
    END,
};

const fb_field fb_scheduler_trace_tensors[] = {
    ENGINE_TRACE,
    USED("probs"),
    UNUSED("trace.batch", "trace.seq says it"),
    UNUSED("logits", "the probabilities are of them"),
    UNUSED("budget", "of the paper's code"),
    END,
};

const fb_field fb_select_transfer_tensors[] = {
    USED("logits"), USED("mask"),     USED("step"), USED("budget"),
    USED("x0"),     USED("transfer"), USED("p"),    END,
};

const fb_field fb_sampler_filters_tensors[] = {
    USED("logits"),
    USED("topkN"),
    USED("toppN.N"),
    END,
};

const fb_field fb_rope_3d_tensors[] = {
    USED("x"),          USED("freqs64.re"),    USED("freqs64.im"),
    USED("rope_apply"), USED("causal.startN"), END,
};

const fb_field fb_video_norm_tensors[] = {
    USED("x"),         USED("weight"),           USED("bias"),     USED("t"), USED("rms"),
    USED("layernorm"), USED("layernorm_affine"), USED("time_emb"), END,
};

const fb_field fb_flow_scheduler_tensors[] = {
    USED("x0"),     USED("noise"), USED("flow"),           USED("sigmas"),  USED("timesteps"),
    USED("warped"), USED("noisy"), USED("raw_list_noisy"), USED("x0_pred"), END,
};

const fb_field fb_video_attention_tensors[] = {
    USED("calib.block_step"),
    USED("calib.cos"),
    USED("calib.lse_delta"),
    USED("calib.cos_in"),
    USED("calib.inst_head_mask"),
    USED("final.cos_mean"),
    USED("final.lse_mean"),
    USED("final.head_mask"),
    USED("out.bNsN"),
    USED("dense_out.bNsN"),
    USED("hist_out.bNsN"),
    USED("hist_lse.bNsN"),
    USED("kv.k.bN"),
    USED("kv.v.bN"),
    USED("steps"),
    END,
};

const fb_field fb_pipeline_tensors[] = {
    USED("noise"),
    USED("renoise"),
    USED("calib_noise"),
    USED("calib_renoise"),
    USED("denoising_step_list"),
    USED("calib_latents"),
    USED("final.cos_mean"),
    USED("final.lse_mean"),
    USED("final.head_mask"),
    USED("latents_dense"),
    USED("latents_reuse"),
    USED("dense.flow.bNsN"),
    USED("dense.in.bNsN"),
    USED("reuse.flow.bNsN"),
    USED("reuse.in.bNsN"),
    UNUSED("calib.block_step", "final.cos_mean has the averages"),
    UNUSED("calib.cos", "final.cos_mean has the averages"),
    UNUSED("calib.lse_delta", "final.lse_mean has the averages"),
    UNUSED("sigmas", "denoising_step_list implies them"),
    UNUSED("timesteps", "denoising_step_list implies them"),
    END,
};

/* Of all generations of loops other than the engine's, each of which has some. */
const fb_field fb_loop_tensors[] = {
    USED("trace.block"),
    USED("trace.step"),
    USED("trace.status"),
    USED("trace.ctx_true"),
    USED("trace.reuse"),
    USED("trace.store"),
    USED("trace.dirty"),
    USED("trace.dirty_after"),
    USED("trace.length"),
    USED("trace.need"),
    USED("trace.kind"),
    USED("trace.T"),
    USED("trace.small"),
    USED("trace.next"),
    USED("trace.before"),
    USED("trace.after"),
    USED("trace.acc"),
    USED("trace.edit"),
    USED("trace.x0"),
    USED("trace.conf"),
    USED("logits"),
    USED("prompt.0"),
    USED("output.0"),
    USED("unmask_step.0"),
    UNUSED("trace.ntok_after", "the result says it"),
    END,
};

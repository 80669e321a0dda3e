/* Causal video diffusion transformers of the Wan architecture (CausalWanModel, as in LongLive and
 * Self-Forcing), read from a directory with config.json and safetensors.
 *
 * Per layer, with shift, scale and gate made from the pass's time:
 *   x += gate * self_attention(norm(x) * (1 + scale) + shift)     over the causal cache
 *   x += cross_attention(norm3(x), text)
 *   x += gate' * ffn(norm(x) * (1 + scale') + shift')             GELU, tanh form
 * Patches of one frame are embedded and read out by linear layers. The model predicts the flow,
 * noise - clip. Text is given as vectors: the hidden states of a text encoder or, where config.json
 * lists `words`, sums of unit vectors (fb_video_prompt).
 *
 * Activations are float32, weights stay as stored. Results do not depend on threads, instruction
 * set or batch; between C libraries their last bits can differ, as sines and exponentials do.
 *
 * config.json has the fields of the published class (dim, ffn_dim, freq_dim, in_dim, out_dim,
 * num_heads, num_layers, text_len, text_dim, eps, patch_size [1, h, w], qk_norm, cross_attn_norm),
 * and those of the published pipeline's own configuration: frame_height, frame_width (of
 * latents), num_frame_per_block, local_attn_size and sink_size (frames), denoising_step_list,
 * warp_denoising_step, timestep_shift, context_noise; optionally words, and coordinate_channels
 * (0).
 *
 * Threads: one fb_video_forward at a time on a model; a second one meanwhile is FB_ERROR_ARGUMENT.
 */
#ifndef FLASHBLOCK_EXPERIMENTAL_VIDEO_MODEL_H
#define FLASHBLOCK_EXPERIMENTAL_VIDEO_MODEL_H

#include <flashblock/experimental/calibration.h>
#include <flashblock/experimental/head_reuse.h>
#include <flashblock/experimental/video_cache.h>
#include <flashblock/model.h>
#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { FB_VIDEO_MAX_STEPS = FB_CALIBRATION_MAX_STEPS - 1 };

typedef struct fb_video_config {
    size_t dim, ffn_dim, freq_dim, in_dim, out_dim, num_heads, num_layers, text_len, text_dim;
    size_t coordinate_channels; /* 0, or 2 of in_dim: where a pixel is, see video.h */
    size_t patch_height, patch_width;
    double eps;
    bool qk_norm, cross_attn_norm;
    size_t frame_height, frame_width;                /* of latents; multiples of the patch */
    size_t block_frames, window_frames, sink_frames; /* sink and block are part of the window */
    size_t num_denoising_steps;
    size_t denoising_steps[FB_VIDEO_MAX_STEPS]; /* falling, 1000 at most */
    bool warp_denoising_steps;
    double timestep_shift, context_noise;
    size_t num_words; /* 0: the model takes only vectors */
} fb_video_config;

typedef struct fb_video_model fb_video_model;

/* Opens `directory`: config.json and model.safetensors or its shards. Everything is checked as
 * fb_model_load does. The caller owns *model. */
FB_API fb_status fb_video_model_load(const char *directory, fb_video_model **model);

/* The same with options, which may be NULL; see model.h. */
FB_API fb_status fb_video_model_load_with(const char *directory, const fb_model_options *options,
                                          fb_video_model **model);
FB_API void fb_video_model_destroy(fb_video_model *model); /* NULL is allowed */

/* What the model's files say, owned by the model; the number of its weights. */
FB_API const fb_video_config *fb_video_config_of(const fb_video_model *model);
FB_API size_t fb_video_model_num_parameters(const fb_video_model *model);

/* What loading has to say about files that it accepts; as fb_model_warning. */
FB_API const char *fb_video_model_warning(const fb_video_model *model, size_t index);

/* Word `index` of config.json, below num_words; NULL above. Owned by the model. */
FB_API const char *fb_video_model_word(const fb_video_model *model, size_t index);

/* Text vectors [text_len, text_dim] of a prompt: one vector for each comma-separated phrase, 1 at
 * each of its words, 0 elsewhere. FB_ERROR_ARGUMENT, naming it, for a word that the model does not
 * know, and for more phrases than text_len. */
FB_API fb_status fb_video_prompt(const fb_video_model *model, const char *prompt, float *text);

/* Caches that fit the model; keys and values are stored as `dtype`. */
FB_API fb_status fb_video_model_new_cache(const fb_video_model *model, fb_dtype dtype,
                                          fb_compat compat, fb_video_cache **cache);
FB_API fb_status fb_video_model_new_parts(const fb_video_model *model, fb_part_cache **parts);

/* One pass over a block of one clip. */
typedef struct fb_video_forward_call {
    const float *latents; /* [num_frames, in_dim, frame_height, frame_width] */
    size_t first_frame, num_frames;
    double timestep;       /* 0 to 1000 */
    const float *text;     /* [text_len, text_dim] */
    fb_video_cache *cache; /* the block is placed and written */
    fb_part_cache *parts;  /* external parts are kept here; NULL: dense, nothing is kept */
    float *flow;           /* [num_frames, out_dim, frame_height, frame_width]; not `latents` */
} fb_video_forward_call;

/* Time spent, in seconds: added to. */
typedef struct fb_video_times {
    double attention; /* self-attention: parts and merges */
    double total;
} fb_video_times;

/* Which heads of a pass refresh, and which reuse. */
typedef struct fb_video_plan {
    fb_calibration *calibration; /* NULL: dense, parts are kept if there are any */
    size_t step;                 /* of the block's passes, the clean one is the last */
    bool observes; /* dense, and the calibration observes; all calls need parts, and the same
                      number of frames. Otherwise heads refresh and reuse as it says. */
} fb_video_plan;

/* Runs `count` clips in one batch. They must not share caches. times may be NULL.
 * A pass without history is dense whatever the plan says. On error the caches' current blocks and
 * the parts are undefined. */
FB_API fb_status fb_video_forward(fb_video_model *model, const fb_video_forward_call *calls,
                                  size_t count, const fb_video_plan *plan, fb_video_times *times);

#ifdef __cplusplus
}
#endif

#endif

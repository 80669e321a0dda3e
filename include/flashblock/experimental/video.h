/* Generating clips, block by block, each from noise in a few denoising steps; and calibrating.
 *
 * A block starts as noise. Each step predicts the clean block, x0 = x - sigma * flow, and makes the
 * next input of it with fresh noise, (1 - sigma') x0 + sigma' noise; the last step's x0 is the
 * result. One more pass over it, at time context_noise, leaves its keys and values in the cache.
 * (CausalInferencePipeline.inference.) A block's passes are steps 0 .. num_denoising_steps; the
 * pass over the clean frames is the last and may reuse as any other.
 *
 * If the model has coordinate channels, they follow the clip's own channels in each input: from -1
 * at the left to 1 at the right edge, and from -1 at the top to 1 at the bottom.
 *
 * Noise comes from a counter-based generator (Philox, Box-Muller): it depends only on seed, clip,
 * block, step and place.
 */
#ifndef FLASHBLOCK_EXPERIMENTAL_VIDEO_H
#define FLASHBLOCK_EXPERIMENTAL_VIDEO_H

#include <flashblock/experimental/calibration.h>
#include <flashblock/experimental/video_model.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One clip. A frame is [out_dim, frame_height, frame_width]. The model's in_dim is out_dim, plus
 * its coordinate channels. */
typedef struct fb_video_clip {
    const float *text;    /* [text_len, text_dim] */
    uint64_t seed;        /* of its noise */
    const float *noise;   /* [num_frames] frames to start from; NULL: drawn */
    const float *renoise; /* fresh noise: for each block, for each step but the last, the frames of
                             a whole block; NULL: drawn */
    float *frames;        /* [num_frames] frames: the result; belongs to the caller */
} fb_video_clip;

/* A pass over a block of one clip, after it was made. The struct can grow at its end. */
typedef struct fb_video_pass_event {
    size_t block, step, num_blocks, num_steps;
    size_t clip;        /* of those of the call */
    const float *input; /* frames of the block, without coordinates */
    const float *flow;  /* the model's prediction for it */
} fb_video_pass_event;

/* Begin with fb_video_options_init. */
typedef struct fb_video_options {
    size_t struct_size;
    size_t num_frames;           /* at least 1; the last block may be shorter than the others */
    fb_calibration *calibration; /* which heads reuse; NULL: dense. Of this model */
    fb_dtype kv_dtype;
    fb_compat compat; /* released: see video_cache.h; and the LSEs that a block's first pass keeps
                         are rounded to kv_dtype (not to FB_INT8), as the paper's wrapper does
                         in bf16 */
    /* Called after every pass of every clip, from the calling thread. NULL: none. */
    void (*on_pass)(void *user, const fb_video_pass_event *event);
    void *user;
} fb_video_options;

/* The defaults: 21 frames, dense, float32, FB_COMPAT_PAPER. */
FB_API void fb_video_options_init_sized(fb_video_options *options, size_t size);
static inline void fb_video_options_init(fb_video_options *options) {
    fb_video_options_init_sized(options, sizeof *options);
}

/* Sums over all clips. */
typedef struct fb_video_stats {
    fb_video_times times;
    size_t passes;
    size_t heads_refreshed, heads_reused; /* in passes after a block's first, with a history */
    double work, dense_work; /* pairs of query and key of self-attention: done, and done if dense */
} fb_video_stats;

/* Generates `count` clips in one batch. stats may be NULL. Frames are undefined on error. */
FB_API fb_status fb_video_generate(fb_video_model *model, const fb_video_clip *clips, size_t count,
                                   const fb_video_options *options, fb_video_stats *stats);

/* Generates the clips densely while `calibration` (of this model) observes all of them together:
 * the paper's calibration over a batch of prompts. options->calibration is not looked at. */
FB_API fb_status fb_video_calibrate(fb_video_model *model, const fb_video_clip *clips, size_t count,
                                    const fb_video_options *options, fb_calibration *calibration,
                                    fb_video_stats *stats);

#ifdef __cplusplus
}
#endif

#endif

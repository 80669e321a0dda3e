/* Clips made with head-wise reuse, compared with the same clips made densely and with what their
 * prompts ask for. */
#ifndef FB_STUDY_VIDEO_TRIAL_H
#define FB_STUDY_VIDEO_TRIAL_H

#include "study/scene_check.h"

#include <flashblock/experimental/video.h>

#include <stdbool.h>
#include <stddef.h>

/* Some clips that are made together. Starts as {0}. */
typedef struct fb_video_trial {
    fb_video_model *model;
    const fb_video_clip *clips; /* [count] borrowed; their frames are overwritten by each run */
    const fb_scene *scenes;     /* [count] borrowed; NULL: clips are not checked */
    size_t count, clip_values;
    fb_video_options options;   /* calibration is set by each run */
    float *dense;               /* [count, clip_values] */
    fb_scene_verdict *verdicts; /* [count] of the dense clips */
} fb_video_trial;

/* Sums over clips. */
typedef struct fb_video_trial_score {
    size_t clips;
    size_t equal;                       /* to the dense ones, to the bit */
    size_t colour, form, place, motion; /* right in that */
    size_t right;                       /* in all four */
    size_t lost, won;                   /* right only densely, and right only this way */
    double psnr, psnr_squared;          /* decibels against dense, over clips that are not equal */
    double attention_seconds, total_seconds;
    double work, dense_work; /* pairs of query and key of self-attention */
    size_t heads_refreshed, heads_reused;
} fb_video_trial_score;

/* Memory for `count` clips of options->num_frames frames. */
fb_status fb_video_trial_create(fb_video_model *model, size_t count,
                                const fb_video_options *options, fb_video_trial *trial);
void fb_video_trial_free(fb_video_trial *trial);

/* Makes the clips and adds what came of it to *score: densely (calibration NULL), which must come
 * first, or with the heads reusing that the calibration allows. */
fb_status fb_video_trial_run(fb_video_trial *trial, fb_calibration *calibration,
                             fb_video_trial_score *score);

/* What sums come to. */
typedef struct fb_video_trial_result {
    double reused;             /* share of the heads in passes after a block's first */
    double right, right_error; /* share of the clips, and its standard error */
    double psnr, psnr_error;   /* mean, NaN where all clips are equal; its standard error */
    double attention, work;    /* by dense */
} fb_video_trial_result;

fb_video_trial_result fb_video_trial_result_of(const fb_video_trial_score *score,
                                               const fb_video_trial_score *dense);

#endif

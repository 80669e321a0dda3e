/* What thresholds of calibrations cost and save, as a picture: right clips and PSNR against the
 * work of attention, which other than its time is the same everywhere. */
#ifndef FB_CLI_EVAL_VIDEO_PLOT_H
#define FB_CLI_EVAL_VIDEO_PLOT_H

#include "cli/eval/threshold_list.h"
#include "study/video_trial.h"

/* Of each pair of thresholds, in the order of the list; the first score is that of dense clips. */
typedef struct fb_video_plot {
    const fb_threshold_list *thresholds;
    const fb_video_trial_score *scores; /* [thresholds->count + 1] */
    bool checked;                       /* whether clips can be right */
} fb_video_plot;

/* `path` ends in .png or .svg. FB_ERROR_UNSUPPORTED where there is no gnuplot. */
fb_status fb_video_plot_draw(const fb_video_plot *plot, const char *path);

#endif

/* Summary of one step of a calibration, over all layers and heads. */
#ifndef FB_STUDY_CALIBRATION_STEP_H
#define FB_STUDY_CALIBRATION_STEP_H

#include <flashblock/experimental/calibration.h>

#include <stddef.h>

typedef struct fb_calibration_step {
    double external, internal, lse_change; /* means: similarities, and the change of the LSE */
    size_t refreshing, heads;              /* heads that refresh, of so many */
} fb_calibration_step;

/* `step` is from 1 to num_steps - 1. */
fb_calibration_step fb_calibration_step_of(fb_calibration *calibration, size_t step);

#endif

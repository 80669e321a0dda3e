/* Noise levels of a flow-matching sampler (FlowMatchScheduler with 1000 steps), and its steps
 * between them. A clip x0 at level sigma is (1 - sigma) x0 + sigma noise; the model predicts the
 * flow noise - x0. */
#ifndef FB_DECODE_FLOW_SCHEDULE_H
#define FB_DECODE_FLOW_SCHEDULE_H

#include <stddef.h>

enum { FB_FLOW_STEPS = 1000 };

typedef struct fb_flow_schedule {
    float sigmas[FB_FLOW_STEPS];    /* shift * s / (1 + (shift - 1) s), s = 1 - i / 1000 */
    float timesteps[FB_FLOW_STEPS]; /* 1000 sigma */
} fb_flow_schedule;

void fb_flow_schedule_make(double shift, fb_flow_schedule *schedule);

/* The timestep that a number of a denoising-step list means, warped by the shift:
 * timesteps[1000 - step], and 0 for step 0. */
double fb_flow_warp(const fb_flow_schedule *schedule, size_t step);

/* The level of the timestep that is nearest to t. */
float fb_flow_sigma(const fb_flow_schedule *schedule, double t);

/* x0 = x - sigma * flow, in double precision, rounded; x0 may be x. */
void fb_flow_clean(const float *x, const float *flow, float sigma, size_t count, float *x0);

/* x = (1 - sigma) * x0 + sigma * noise; x may be x0. */
void fb_flow_add_noise(const float *x0, const float *noise, float sigma, size_t count, float *x);

#endif

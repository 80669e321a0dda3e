#include "decode/flow_schedule.h"

#include <math.h>

void fb_flow_schedule_make(double shift, fb_flow_schedule *schedule) {
    for (size_t i = 0; i < FB_FLOW_STEPS; i++) {
        float s = (float)(1.0 - (double)i / FB_FLOW_STEPS);
        float sigma = (float)shift * s / (1.0f + (float)(shift - 1.0) * s);
        schedule->sigmas[i] = sigma;
        schedule->timesteps[i] = sigma * (float)FB_FLOW_STEPS;
    }
}

double fb_flow_warp(const fb_flow_schedule *schedule, size_t step) {
    return step == 0 ? 0.0 : (double)schedule->timesteps[FB_FLOW_STEPS - step];
}

float fb_flow_sigma(const fb_flow_schedule *schedule, double t) {
    size_t nearest = 0;
    for (size_t i = 1; i < FB_FLOW_STEPS; i++)
        if (fabs((double)schedule->timesteps[i] - t) <
            fabs((double)schedule->timesteps[nearest] - t))
            nearest = i;
    return schedule->sigmas[nearest];
}

void fb_flow_clean(const float *x, const float *flow, float sigma, size_t count, float *x0) {
    for (size_t i = 0; i < count; i++)
        x0[i] = (float)((double)x[i] - (double)sigma * (double)flow[i]);
}

void fb_flow_add_noise(const float *x0, const float *noise, float sigma, size_t count, float *x) {
    for (size_t i = 0; i < count; i++)
        x[i] = (1.0f - sigma) * x0[i] + sigma * noise[i];
}

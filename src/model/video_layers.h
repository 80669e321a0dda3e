/* The parts of a video transformer layer that are neither matrix products nor attention. Float32,
 * rows independent. Names in brackets are the paper's. */
#ifndef FB_MODEL_VIDEO_LAYERS_H
#define FB_MODEL_VIDEO_LAYERS_H

#include <stddef.h>

/* y = (x - mean) / sqrt(variance + eps) * weight + bias, for [size] each; weight and bias may both
 * be NULL; y may be x. Sums in double precision. (WanLayerNorm) */
void fb_layer_norm(const float *x, const float *weight, const float *bias, double eps, size_t size,
                   float *y);

/* x = x * (1 + scale) + shift, for [size] each. */
void fb_modulate(const float *shift, const float *scale, size_t size, float *x);

/* x += y * gate, for [size] each. */
void fb_add_gated(const float *y, const float *gate, size_t size, float *x);

/* x = x / (1 + e^-x), and the tanh form of GELU. */
void fb_silu(float *x, size_t count);
void fb_gelu_tanh(float *x, size_t count);

/* cos(t f_i), then sin(t f_i), f_i = 10000^(-i / (size/2)): [size]. (sinusoidal_embedding_1d) */
void fb_time_embedding(double t, size_t size, double *embedding);

#endif

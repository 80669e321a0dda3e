/* The parts of a decoder layer that are not matrix products. All float32, rows independent. */
#ifndef FB_MODEL_LAYERS_H
#define FB_MODEL_LAYERS_H

#include "simd/kernels.h"

#include <stddef.h>

/* y = x / sqrt(mean(x^2) + eps) * weight, for x, y, weight [size]; y may be x. As the Hugging Face
 * class: normalised in float32, then multiplied. The mean is summed in double precision
 * (docs/contract.md C9.2). */
void fb_rms_norm(const float *x, const float *weight, double eps, size_t size, float *y);

/* gate = silu(gate) * up, for [count] each; silu(g) = g / (1 + e^-g) (docs/contract.md C9.3). */
void fb_swiglu(const fb_kernels *kernels, float *gate, const float *up, size_t count);

/* s = 1 / (1 + e^-z), for [count] each; s may be z. */
void fb_sigmoid(const fb_kernels *kernels, const float *z, size_t count, float *s);

/* p = e^(z - m) / sum e^(z - m), m the largest z, for [count] each; the sum in double precision, in
 * order. p may be z. */
void fb_softmax(const fb_kernels *kernels, const float *z, size_t count, float *p);

/* Rounds to so many significant bits, to nearest even; NaN and infinities stay. 0: nothing. */
void fb_round_significand(int bits, float *x, size_t count);

/* x += y, for [count] each. */
void fb_add(float *x, const float *y, size_t count);

#endif

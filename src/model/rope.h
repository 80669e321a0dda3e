/* Rotary position embeddings as the paper's code computes them, bit for bit up to the last step
 * (SDARRotaryEmbedding, in float32 PyTorch). head_dim is even; half = head_dim / 2. */
#ifndef FB_MODEL_ROPE_H
#define FB_MODEL_ROPE_H

#include <stddef.h>

/* inv_freq [half]: 1 / theta^(2i / head_dim), theta a positive float32, with PyTorch's own power
 * function, whose last bit is not always the rounded one: at position 100,000 that bit is an angle
 * of 0.006. */
void fb_rope_frequencies(size_t head_dim, double theta, float *inv_freq);

/* cosines, sines [half] of the angles at one position. The angle is float32(position) * inv_freq
 * rounded to float32; cosine and sine of that are rounded to nearest (PyTorch's are within 1 ulp).
 */
void fb_rope_angles(const float *inv_freq, size_t half, size_t position, float *cosines,
                    float *sines);

/* Rotates the pairs (i, i + half) of one head  x [2 * half] in place. */
void fb_rope_rotate(const float *cosines, const float *sines, size_t half, float *x);

#endif

/* Inputs of generated cases: the same bits on every machine, compiler and number of threads.
 *
 * A number depends on the seed, the tensor's name and its own index alone (Philox, rng.h), so any
 * element can be made without the others. Numbers are about normal: the sum of eight uniform ones
 * of 16 bits (Irwin-Hall), centred and scaled to a variance of 1. The sum is a whole number below
 * 2^20, which float32 holds, and the only rounding is that of one product: no libm, nothing that a
 * machine could do otherwise. |x| < 4.9. */
#ifndef FB_ORACLE_INPUTS_H
#define FB_ORACLE_INPUTS_H

#include <stddef.h>
#include <stdint.h>

/* The number of a tensor's name, under which its elements are drawn (FNV-1a, 32 bits). */
uint32_t fb_input_stream(const char *name);

/* Element `index` of that stream: about normal / a whole number in [0, bound), bound at least 1. */
float fb_input_normal(uint64_t seed, uint32_t stream, uint64_t index);
uint32_t fb_input_below(uint64_t seed, uint32_t stream, uint64_t index, uint32_t bound);

/* values[i] = scale * element i, i < count; one more rounding. Uses the threads that are set. */
void fb_input_normals(uint64_t seed, const char *name, float scale, float *values, size_t count);

#endif

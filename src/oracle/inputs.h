/* Inputs of generated cases: the same bits on every machine, compiler and number of threads.
 *
 * A number depends on nothing but the seed, the tensor's name and its own index (Philox, rng.h), so
 * any element can be made without the others. The numbers are about normal, with |x| < 4.9: each is
 * the sum of eight uniform numbers of 16 bits (Irwin-Hall), centred and scaled to a variance of 1.
 * The sum is a whole number below 2^20, which float32 holds exactly. One product is rounded, and
 * libm is not used, so machines cannot differ. */
#ifndef FB_ORACLE_INPUTS_H
#define FB_ORACLE_INPUTS_H

#include <stddef.h>
#include <stdint.h>

/* The number of the stream that a tensor's elements are drawn from: a hash of its name (FNV-1a, 32
 * bits). */
uint32_t fb_input_stream(const char *name);

/* Element `index` of a stream: about normal / a whole number in [0, bound), bound at least 1. */
float fb_input_normal(uint64_t seed, uint32_t stream, uint64_t index);
uint32_t fb_input_below(uint64_t seed, uint32_t stream, uint64_t index, uint32_t bound);

/* values[i] = scale * element i, i < count; one more rounding. Uses the threads that are set. */
void fb_input_normals(uint64_t seed, const char *name, float scale, float *values, size_t count);

#endif

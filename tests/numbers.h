/* Random inputs and bitwise comparisons. A failure names the case, the first differing element and
 * both values, bits included; the seed is FLASHBLOCK_TEST_SEED, or 1. */
#ifndef FB_TESTS_NUMBERS_H
#define FB_TESTS_NUMBERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The seed of this run. The first call prints it. */
uint64_t test_seed(void);

/* Whether FLASHBLOCK_TEST_SAMPLE is set: a long test then runs a part of its cases. The complete
 * run is a test of its own (tests/meson.build). */
bool test_is_sample(void);

/* A stream of random numbers, reproducible from the seed and its own name (a number). */
typedef struct random_stream {
    uint64_t seed;
    uint32_t name, next;
} random_stream;

random_stream random_named(uint32_t name);
double random_uniform(random_stream *stream);                          /* [0, 1) */
size_t random_between(random_stream *stream, size_t low, size_t high); /* both included */
float random_normal(random_stream *stream);

/* `count` normal numbers times `scale`. The caller frees them. */
float *random_floats(random_stream *stream, size_t count, float scale);

/* Mostly ordinary numbers, mixed with zeros of both signs, subnormals, large and tiny numbers. */
float random_awkward(random_stream *stream);

/* Fails the test unless a and b have the same bits. */
void expect_same_bits(const char *what, const float *a, const float *b, size_t count);

/* A buffer of `count` floats at `offset` floats from a 64-byte boundary, with canaries before and
 * after it. guarded_check fails the test when a canary has changed. */
typedef struct guarded {
    float *data;
    size_t count;
    float *memory;
} guarded;

guarded guarded_new(size_t count, size_t offset);
void guarded_check(const char *what, const guarded *buffer);
void guarded_free(guarded *buffer);

#endif

#include "tests/numbers.h"

#include "base/half.h"
#include "base/memory.h"
#include "base/rng.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CANARIES = 32 };
static const uint32_t canary_bits = 0x7fa5a5a5u; /* a signalling NaN that no kernel produces */

uint64_t test_seed(void) {
    const char *text = getenv("FLASHBLOCK_TEST_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 10) : 1;
    static int printed;
    if (!printed++)
        cr_log_info("FLASHBLOCK_TEST_SEED=%llu", (unsigned long long)seed);
    return seed;
}

bool test_is_sample(void) {
    return getenv("FLASHBLOCK_TEST_SAMPLE") != NULL;
}

random_stream random_named(uint32_t name) {
    return (random_stream){test_seed(), name, 0};
}

double random_uniform(random_stream *stream) {
    return fb_random_uniform(stream->seed, stream->name, stream->next++, 0, 0);
}

size_t random_between(random_stream *stream, size_t low, size_t high) {
    return low + (size_t)(random_uniform(stream) * (double)(high - low + 1));
}

float random_normal(random_stream *stream) {
    double radius = sqrt(-2.0 * log(1.0 - random_uniform(stream)));
    return (float)(radius * cos(6.283185307179586 * random_uniform(stream)));
}

float *random_floats(random_stream *stream, size_t count, float scale) {
    float *values = malloc((count ? count : 1) * sizeof *values);
    cr_assert_not_null(values);
    for (size_t i = 0; i < count; i++)
        values[i] = scale * random_normal(stream);
    return values;
}

float random_awkward(random_stream *stream) {
    float sign = random_uniform(stream) < 0.5 ? -1.0f : 1.0f;
    switch (random_between(stream, 0, 19)) {
    case 0:
        return sign * 0.0f;
    case 1: /* subnormal */
        return sign * fb_bits_to_f32((uint32_t)random_between(stream, 1, 0x7fffff));
    case 2: /* any finite number */
        return sign * fb_bits_to_f32((uint32_t)random_between(stream, 0, 0x7f7fffff));
    case 3:
        return sign * 0x1.fffffep+127f;
    default:
        return random_normal(stream);
    }
}

void expect_same_bits(const char *what, const float *a, const float *b, size_t count) {
    for (size_t i = 0; i < count; i++)
        cr_assert(fb_f32_to_bits(a[i]) == fb_f32_to_bits(b[i]),
                  "%s (seed %llu): element %zu of %zu is %a (%08x) and %a (%08x)", what,
                  (unsigned long long)test_seed(), i, count, (double)a[i], fb_f32_to_bits(a[i]),
                  (double)b[i], fb_f32_to_bits(b[i]));
}

guarded guarded_new(size_t count, size_t offset) {
    size_t total = CANARIES + offset + count + CANARIES;
    guarded buffer = {NULL, count, NULL};
    cr_assert_eq(fb_alloc(total, sizeof(float), "guarded buffer", &buffer.memory), FB_OK);
    for (size_t i = 0; i < total; i++)
        memcpy(&buffer.memory[i], &canary_bits, sizeof canary_bits);
    buffer.data = buffer.memory + CANARIES + offset;
    return buffer;
}

void guarded_check(const char *what, const guarded *buffer) {
    const float *end = buffer->data + buffer->count;
    for (const float *at = buffer->memory; at < end + CANARIES; at++) {
        uint32_t bits;
        if (at >= buffer->data && at < end)
            continue;
        memcpy(&bits, at, sizeof bits);
        cr_assert(bits == canary_bits, "%s: wrote at element %td of %zu", what, at - buffer->data,
                  buffer->count);
    }
}

void guarded_free(guarded *buffer) {
    fb_free(buffer->memory);
}

#include "oracle/inputs.h"

#include "base/parallel.h"
#include "base/rng.h"

#include <string.h>

uint32_t fb_input_stream(const char *name) {
    uint32_t hash = 2166136261u;
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 16777619u;
    return hash;
}

static inline void draw(uint64_t seed, uint32_t stream, uint64_t index, uint32_t words[4]) {
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    words[0] = (uint32_t)index;
    words[1] = (uint32_t)(index >> 32);
    words[2] = stream;
    words[3] = 0;
    fb_philox(words, key);
}

/* inline: gcc makes vectors of fb_input_normals' loop when it sees all of it. */
static inline float normal(uint64_t seed, uint32_t stream, uint64_t index) {
    uint32_t words[4];
    int32_t sum = 0;
    draw(seed, stream, index, words);
    for (int i = 0; i < 4; i++)
        sum += (int32_t)(words[i] & 0xffffu) + (int32_t)(words[i] >> 16);
    /* Twice the distance from the mean, 8 * 65535 / 2; its standard deviation is
     * 2 * sqrt(8 * (65536^2 - 1) / 12) = 107019.84. */
    return (float)(2 * sum - 8 * 65535) * 0x1.3988e2p-17f;
}

float fb_input_normal(uint64_t seed, uint32_t stream, uint64_t index) {
    return normal(seed, stream, index);
}

uint32_t fb_input_below(uint64_t seed, uint32_t stream, uint64_t index, uint32_t bound) {
    uint32_t words[4];
    draw(seed, stream, index, words);
    return (uint32_t)(((uint64_t)words[0] * bound) >> 32);
}

typedef struct normals_call {
    uint64_t seed;
    uint32_t stream;
    float scale, *values;
} normals_call;

static void draw_normals(void *context, size_t first, size_t end, size_t worker) {
    const normals_call *c = context;
    (void)worker;
    for (size_t i = first; i < end; i++)
        c->values[i] = c->scale * normal(c->seed, c->stream, i);
}

void fb_input_normals(uint64_t seed, const char *name, float scale, float *values, size_t count) {
    normals_call call = {seed, fb_input_stream(name), scale, values};
    fb_parallel_for(count, 0, count > 65536 ? fb_parallel_threads() : 1, draw_normals, &call);
}

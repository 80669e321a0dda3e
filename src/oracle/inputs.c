#include "oracle/inputs.h"

#include "base/rng.h"

#include <flashblock/runtime.h>

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

void fb_input_normals(uint64_t seed, const char *name, float scale, float *values, size_t count) {
    uint32_t stream = fb_input_stream(name);
#pragma omp parallel for num_threads(fb_num_threads()) schedule(static) if (count > 65536)
    for (size_t i = 0; i < count; i++)
        values[i] = scale * normal(seed, stream, i);
}

/* Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011). A number depends only on a key and a counter. Who draws it, and in which
 * order, does not matter. Integer arithmetic only: the same on every machine. */
#ifndef FB_BASE_RNG_H
#define FB_BASE_RNG_H

#include <stdint.h>

/* Encrypts counter[4] in place under key[2], ten rounds. */
static inline void fb_philox(uint32_t counter[4], const uint32_t key[2]) {
    uint32_t key0 = key[0], key1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t product0 = (uint64_t)0xd2511f53u * counter[0];
        uint64_t product1 = (uint64_t)0xcd9e8d57u * counter[2];
        counter[0] = (uint32_t)(product1 >> 32) ^ counter[1] ^ key0;
        counter[1] = (uint32_t)product1;
        counter[2] = (uint32_t)(product0 >> 32) ^ counter[3] ^ key1;
        counter[3] = (uint32_t)product0;
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
}

/* A number in [0, 1), a multiple of 2^-53, for the counter (a, b, c, d) under `seed`. */
static inline double fb_random_uniform(uint64_t seed, uint32_t a, uint32_t b, uint32_t c,
                                       uint32_t d) {
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t counter[4] = {a, b, c, d};
    fb_philox(counter, key);
    uint64_t bits = ((uint64_t)counter[0] << 32) | counter[1];
    return (double)(bits >> 11) * 0x1p-53;
}

#endif

/* Compiled once for each instruction set, see meson.build:
 *   VECTOR_BYTES  size of a register
 *   CHAINS        accumulators; the registers of the set but two, and at least latency x
 *                 instructions a cycle (8 on most x86 cores, 16 on large Arm ones)
 *   TABLE, NAME   the table and its name
 * Vectors are gcc's and clang's vector extension, and -ffp-contract=fast makes a * x + y one
 * instruction wherever the set has it. */
#include "bench/limit_kernels.h"

#include <string.h>

typedef float floats __attribute__((vector_size(VECTOR_BYTES)));
typedef uint64_t words __attribute__((vector_size(VECTOR_BYTES)));

enum {
    LANES = VECTOR_BYTES / sizeof(float),
    STEP_BYTES = 512, /* read from one stream before the next one's turn */
    STEP_VECTORS = STEP_BYTES / VECTOR_BYTES,
    READERS = 8, /* independent accumulators of reads */
};

static float fma_loop(size_t iterations, const float x[2]) {
    floats chains[CHAINS], factor, addend;
    for (int lane = 0; lane < (int)LANES; lane++) {
        factor[lane] = x[0];
        addend[lane] = x[1];
    }
    for (int i = 0; i < CHAINS; i++)
        chains[i] = addend * (float)(i + 1);
    for (size_t n = 0; n < iterations; n++) {
#pragma GCC unroll 32
        for (int i = 0; i < CHAINS; i++)
            chains[i] = chains[i] * factor + addend;
    }
    floats sum = chains[0];
    for (int i = 1; i < CHAINS; i++)
        sum += chains[i];
    float result = 0;
    for (int lane = 0; lane < (int)LANES; lane++)
        result += sum[lane];
    return result;
}

static uint64_t read_loop(const void *memory, size_t bytes, size_t streams) {
    const char *from = memory;
    size_t part = bytes / streams;
    words seen[READERS];
    memset(seen, 0, sizeof seen);
    for (size_t at = 0; at < part; at += STEP_BYTES)
        for (size_t s = 0; s < streams; s++) {
            const words *step = (const words *)(const void *)(from + s * part + at);
#pragma GCC unroll 32
            for (int i = 0; i < (int)STEP_VECTORS; i++)
                seen[i % READERS] |= step[i];
        }
    words all = seen[0];
    for (int i = 1; i < READERS; i++)
        all |= seen[i];
    uint64_t result = 0;
    for (size_t i = 0; i < VECTOR_BYTES / sizeof result; i++)
        result |= all[i];
    return result;
}

const fb_limit_kernels TABLE = {
    .name = NAME,
    .flops = 2 * CHAINS * LANES,
    .fma = fma_loop,
    .read = read_loop,
};

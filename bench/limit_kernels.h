/* The loops that measure a machine's limits, one table for each instruction set.
 *
 * All tables come from limit_kernels.c, compiled once for each set: with vectors as wide as its
 * registers, and as many chains as hide the latency of its arithmetic. */
#ifndef FB_BENCH_LIMIT_KERNELS_H
#define FB_BENCH_LIMIT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

typedef struct fb_limit_kernels {
    const char *name;
    size_t flops; /* of one iteration of `fma`; a multiply-add counts as two */

    /* Nothing but independent multiply-adds in registers. x = {0.5, 1} keeps every number normal.
     * The result depends on all of them. */
    float (*fma)(size_t iterations, const float x[2]);

    /* Reads every byte once: `streams` parts side by side, each of a multiple of 512 bytes, as a
     * loop over several arrays would. Aligned to 64 bytes. */
    uint64_t (*read)(const void *memory, size_t bytes, size_t streams);
} fb_limit_kernels;

extern const fb_limit_kernels fb_limit_kernels_baseline;
extern const fb_limit_kernels fb_limit_kernels_avx2;
extern const fb_limit_kernels fb_limit_kernels_avx512;

/* The table for the widest registers that this CPU has. */
const fb_limit_kernels *fb_limit_kernels_widest(void);

#endif

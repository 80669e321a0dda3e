/* The softmax between a peer's two matrix products, as a user would write it for speed: one pass
 * for the maximum, one for exponentials and their sum, vectorised; the division is left to the rows
 * of the second product's result, which are shorter. */
#ifndef FB_BENCH_SOFTMAX_H
#define FB_BENCH_SOFTMAX_H

#include <stddef.h>
#include <stdint.h>

typedef struct fb_softmax_kernels {
    /* scores [rows, keys], dense, become exp(scale * (score - max)); sums [rows]. The exponential
     * is 0 below exp(-87). */
    void (*rows)(float *scores, size_t rows, size_t keys, float scale, float *sums);

    /* Rounds finite numbers to bf16. */
    void (*narrow)(const float *from, uint16_t *to, size_t count);
} fb_softmax_kernels;

/* softmax.c, compiled once for each instruction set, as limit_kernels.c is. */
extern const fb_softmax_kernels fb_softmax_kernels_baseline;
extern const fb_softmax_kernels fb_softmax_kernels_avx2;
extern const fb_softmax_kernels fb_softmax_kernels_avx512;

/* The table for the widest registers that this CPU has. */
const fb_softmax_kernels *fb_softmax_kernels_widest(void);

#endif

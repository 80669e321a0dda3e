/* Libraries of matrix products that a user would otherwise compose attention of.
 *
 * Each is one file, peer_NAME.c, which gives one fb_peer. They are modules that the program opens
 * when it has to measure them: it starts without them, their threads and memory are not there in
 * other commands, and the BLAS symbols of one do not meet those of another. */
#ifndef FB_BENCH_PEER_H
#define FB_BENCH_PEER_H

#include <flashblock/types.h>

#include <stdbool.h>
#include <stddef.h>

/* C = A B with A [m, k], B [k, n] or, transposed, [n, k], C [m, n]: dense and row-major; A and B of
 * `dtype`, C float32. */
typedef struct fb_product {
    size_t m, n, k;
    bool transposed;
    fb_dtype dtype;
} fb_product;

typedef struct fb_peer {
    const char *name;
    void (*version)(char *text, size_t size);

    /* Whether the library can do it with an optimized implementation. */
    bool (*supports)(const fb_product *product);

    /* Makes what a thread needs for many products of this kind; false when that fails. */
    bool (*plan)(const fb_product *product, void **plan);
    void (*destroy)(void *plan);

    /* On the calling thread only. False when the library reports an error. */
    bool (*multiply)(void *plan, const void *a, const void *b, float *c);
} fb_peer;

#endif

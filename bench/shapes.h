/* The shapes of attention that are measured, and the named ones. */
#ifndef FB_BENCH_SHAPES_H
#define FB_BENCH_SHAPES_H

#include <flashblock/status.h>
#include <flashblock/types.h>

#include <stddef.h>

enum { FB_MAX_CONTEXTS = 16 };

/* Queries of one block after contexts of several lengths. */
typedef struct fb_bench_family {
    const char *name;
    size_t num_heads, num_kv_heads, head_dim, num_queries;
    size_t contexts[FB_MAX_CONTEXTS];
    size_t num_contexts;
} fb_bench_family;

typedef struct fb_bench_preset {
    const char *name, *help;
    fb_bench_family families[4];
    size_t num_families;
} fb_bench_preset;

/* FB_ERROR_ARGUMENT for an unknown name; the message lists the known ones. */
fb_status fb_bench_preset_find(const char *name, const fb_bench_preset **preset);

/* A family with one context and one storage of keys and values. */
typedef struct fb_bench_shape {
    char name[64];
    size_t num_heads, num_kv_heads, head_dim, num_queries, context;
    fb_dtype dtype;
} fb_bench_shape;

/* The shape of a family with one of its contexts: "trado-8b-q4-c4096". */
fb_bench_shape fb_bench_shape_of(const fb_bench_family *family, size_t context, fb_dtype dtype);

/* Multiplications and additions of attention to `keys` keys: 2 for each of both products' terms. */
double fb_bench_shape_flops(const fb_bench_shape *shape, size_t keys);

/* Bytes of that many keys and values. */
double fb_bench_shape_kv_bytes(const fb_bench_shape *shape, size_t keys);

#endif

#include "bench/shapes.h"

#include "base/error.h"

#include <flashblock/kv_cache.h>

#include <stdio.h>
#include <string.h>

#define TRADO_8B                                                                                   \
    { "trado-8b", 32, 8, 128, 4, {1024, 4096, 16384, 32768}, 4 }
#define TRADO_8B_BLOCK_32                                                                          \
    { "trado-8b", 32, 8, 128, 32, {4096, 16384}, 2 }
#define VIDEO                                                                                      \
    { "video", 12, 12, 128, 4680, {18720}, 1 }
#define SMALL                                                                                      \
    { "small", 4, 4, 64, 32, {2048}, 1 }

static const fb_bench_preset presets[] = {
    {"trado-8b", "32 heads, 8 KV heads of 128, 4 queries", {TRADO_8B}, 1},
    {"trado-8b-q32", "the same with 32 queries", {TRADO_8B_BLOCK_32}, 1},
    {"video", "12 heads of 128, 4680 queries", {VIDEO}, 1},
    {"small", "4 heads of 64, 32 queries", {SMALL}, 1},
    {"goals", "all of these", {TRADO_8B, TRADO_8B_BLOCK_32, VIDEO, SMALL}, 4},
};

enum { NUM_PRESETS = sizeof presets / sizeof presets[0] };

fb_status fb_bench_preset_find(const char *name, const fb_bench_preset **preset) {
    char names[256] = "";
    for (int i = 0; i < NUM_PRESETS; i++) {
        if (strcmp(name, presets[i].name) == 0) {
            *preset = &presets[i];
            return FB_OK;
        }
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", presets[i].name);
    }
    return fb_fail(FB_ERROR_ARGUMENT, "'%s' is none of %s", name, names);
}

fb_bench_shape fb_bench_shape_of(const fb_bench_family *family, size_t context, fb_dtype dtype) {
    fb_bench_shape shape = {
        .num_heads = family->num_heads,
        .num_kv_heads = family->num_kv_heads,
        .head_dim = family->head_dim,
        .num_queries = family->num_queries,
        .context = context,
        .dtype = dtype,
    };
    snprintf(shape.name, sizeof shape.name, "%s-q%zu-c%zu", family->name, shape.num_queries,
             context);
    return shape;
}

double fb_bench_shape_flops(const fb_bench_shape *shape, size_t keys) {
    return 4.0 * (double)shape->num_heads * (double)shape->num_queries * (double)shape->head_dim *
           (double)keys;
}

double fb_bench_shape_kv_bytes(const fb_bench_shape *shape, size_t keys) {
    return 2.0 * (double)shape->num_kv_heads * (double)keys *
           (double)fb_kv_row_bytes(shape->dtype, shape->head_dim);
}

#include "cli/bench/attention_output.h"

#include "base/error.h"

#include <stdio.h>
#include <string.h>

static void print_case(const fb_attention_bench *b, size_t i) {
    fb_bench_case c = fb_attention_bench_case(b, i);
    printf("%7zu  %-26s%12.4f%12.4f%10.1f%9.3f%10.1f%10.3f", c.threads, c.implementation,
           1e3 * c.median, 1e3 * c.min, fb_bench_case_gflops(&c),
           fb_bench_case_peak_fraction(b->bench, &c), fb_bench_case_gbs(&c),
           fb_bench_case_roofline_fraction(b->bench, &c));
    if (b->entries[i].composed)
        printf("%10.3f", fb_composed_softmax_share(b->entries[i].composed));
    printf("\n");
}

static void print_reuse(const fb_attention_bench *b, size_t threads) {
    fb_attention_reuse ratios = fb_attention_bench_reuse(b, threads);
    printf("%7zu  a reuse takes %.3f %% of a dense step, and %.2f times the block alone\n", threads,
           100 * ratios.dense, ratios.alone);
    for (size_t i = 0; i < b->count; i++) {
        fb_attention_block_result block;
        if (!fb_attention_bench_block(b, i, threads, &block))
            continue;
        printf("%7zu  a block with tau %zu takes %.4f times its %zu refreshes of %zu passes; "
               "%.3f times faster than dense\n",
               threads, block.tau, block.dense_steps / (double)block.refreshes, block.refreshes,
               block.passes, (double)block.passes / block.dense_steps);
    }
}

static void print_selected(const fb_attention_bench *b) {
    for (size_t i = 0; i < b->count; i++)
        if (b->entries[i].selected_keys > 0)
            printf("%7zu  %s: %zu of %zu, at %.3f times the dense speed a key\n",
                   b->trials[i].threads, b->entries[i].implementation, b->entries[i].selected_keys,
                   b->data.shape.context, fb_attention_bench_selected_speed(b, i));
}

static void print_scaling(const fb_attention_bench *b) {
    for (size_t i = 0; i < b->count; i++)
        if (strcmp(b->entries[i].implementation, "flashblock") == 0 &&
            fb_attention_bench_scaling(b, i) > 0)
            printf("%7zu  flashblock is %.3f times faster than with %zu\n", b->trials[i].threads,
                   fb_attention_bench_scaling(b, i), b->chosen->common.threads.values[0]);
}

void fb_attention_output_print(const fb_attention_bench *b) {
    const fb_bench_shape *shape = &b->data.shape;
    printf("\n%s, %s: %zu heads, %zu KV heads of %zu, %zu queries, %zu keys (%.1f MB, %.1f FLOP a "
           "byte); %s, %zu rounds\n",
           shape->name, fb_dtype_name(shape->dtype), shape->num_heads, shape->num_kv_heads,
           shape->head_dim, shape->num_queries, shape->context,
           1e-6 * fb_bench_shape_kv_bytes(shape, shape->context),
           fb_bench_shape_flops(shape, 1) / fb_bench_shape_kv_bytes(shape, 1),
           b->bench->settings->cold ? "cold" : "warm", b->trials[0].seconds.count);
    printf("%7s  %-26s%12s%12s%10s%9s%10s%10s%s\n", "threads", "implementation", "median ms",
           "min ms", "GFLOP/s", "of peak", "K/V GB/s", "of roof",
           b->num_composed ? "   softmax" : "");
    for (size_t i = 0; i < b->count; i++)
        print_case(b, i);
    const fb_number_list *threads = &b->chosen->common.threads;
    for (size_t i = 0; i < threads->count && !b->chosen->no_steps; i++)
        print_reuse(b, threads->values[i]);
    print_selected(b);
    print_scaling(b);
}

/* --- JSON ------------------------------------------------------------------------------------- */

/* The numbers of the shape. */
static fb_status add_shape(const fb_attention_bench *b) {
    const fb_bench_shape *shape = &b->data.shape;
    return fb_bench_add(
        b->bench, "shapes",
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:f}", "name", shape->name, "dtype",
                  fb_dtype_name(shape->dtype), "num_heads", (json_int_t)shape->num_heads,
                  "num_kv_heads", (json_int_t)shape->num_kv_heads, "head_dim",
                  (json_int_t)shape->head_dim, "num_queries", (json_int_t)shape->num_queries,
                  "context", (json_int_t)shape->context, "flops_per_byte",
                  fb_bench_shape_flops(shape, 1) / fb_bench_shape_kv_bytes(shape, 1)));
}

/* The steps of its blocks on a number of threads. */
static fb_status add_steps(const fb_attention_bench *b, size_t threads) {
    json_t *blocks = json_array();
    for (size_t i = 0; i < b->count; i++) {
        fb_attention_block_result block;
        if (!fb_attention_bench_block(b, i, threads, &block))
            continue;
        json_array_append_new(
            blocks, json_pack("{s:I, s:I, s:I, s:f, s:f}", "tau", (json_int_t)block.tau, "passes",
                              (json_int_t)block.passes, "reuses",
                              (json_int_t)(block.passes - block.refreshes), "by_refreshes",
                              block.dense_steps / (double)block.refreshes,
                              "times_faster_than_dense", (double)block.passes / block.dense_steps));
    }
    fb_attention_reuse ratios = fb_attention_bench_reuse(b, threads);
    return fb_bench_add(b->bench, "steps",
                        json_pack("{s:s, s:s, s:I, s:f, s:f, s:o}", "name", b->data.shape.name,
                                  "dtype", fb_dtype_name(b->data.shape.dtype), "threads",
                                  (json_int_t)threads, "reuse_by_dense", ratios.dense,
                                  "reuse_by_block_alone", ratios.alone, "blocks", blocks));
}

static fb_status add_scaling(const fb_attention_bench *b, size_t i) {
    double scaling = fb_attention_bench_scaling(b, i);
    if (scaling == 0)
        return FB_OK;
    return fb_bench_add(
        b->bench, "scaling",
        json_pack("{s:s, s:s, s:I, s:s, s:I, s:f}", "name", b->data.shape.name, "dtype",
                  fb_dtype_name(b->data.shape.dtype), "threads", (json_int_t)b->trials[i].threads,
                  "implementation", b->entries[i].implementation, "first_threads",
                  (json_int_t)b->chosen->common.threads.values[0], "times_faster", scaling));
}

static fb_status add_density(const fb_attention_bench *b, size_t i) {
    if (b->entries[i].selected_keys == 0)
        return FB_OK;
    return fb_bench_add(b->bench, "density",
                        json_pack("{s:s, s:s, s:I, s:s, s:I, s:f}", "name", b->data.shape.name,
                                  "dtype", fb_dtype_name(b->data.shape.dtype), "threads",
                                  (json_int_t)b->trials[i].threads, "implementation",
                                  b->entries[i].implementation, "keys",
                                  (json_int_t)b->entries[i].selected_keys, "speed_by_dense",
                                  fb_attention_bench_selected_speed(b, i)));
}

static fb_status add_case(const fb_attention_bench *b, size_t i) {
    fb_bench_case c = fb_attention_bench_case(b, i);
    const fb_composed *composed = b->entries[i].composed;
    FB_TRY(fb_bench_add_case(b->bench, &c));
    if (!composed)
        return FB_OK;
    FB_TRY(fb_composed_check(composed));
    char version[256] = "";
    composed->peer->version(version, sizeof version);
    return fb_bench_add(b->bench, "peers",
                        json_pack("{s:s, s:s, s:I, s:s, s:s, s:s, s:f}", "name", c.name, "dtype",
                                  c.dtype, "threads", (json_int_t)c.threads, "implementation",
                                  c.implementation, "version", version, "keys",
                                  composed->keys_as_rows ? "rows" : "columns", "softmax_share",
                                  fb_composed_softmax_share(composed)));
}

fb_status fb_attention_output_add(const fb_attention_bench *b) {
    const fb_number_list *threads = &b->chosen->common.threads;
    FB_TRY(add_shape(b));
    for (size_t i = 0; i < threads->count && !b->chosen->no_steps; i++)
        FB_TRY(add_steps(b, threads->values[i]));
    for (size_t i = 0; i < b->count; i++) {
        FB_TRY(add_scaling(b, i));
        FB_TRY(add_density(b, i));
        FB_TRY(add_case(b, i));
    }
    return FB_OK;
}

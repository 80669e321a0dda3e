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
    fb_json_writer *w = fb_bench_items(b->bench, FB_BENCH_SHAPES);
    fb_json_open_object(w, NULL);
    fb_json_put_text(w, "name", shape->name);
    fb_json_put_string(w, "dtype", fb_dtype_name(shape->dtype));
    fb_json_put_size(w, "num_heads", shape->num_heads);
    fb_json_put_size(w, "num_kv_heads", shape->num_kv_heads);
    fb_json_put_size(w, "head_dim", shape->head_dim);
    fb_json_put_size(w, "num_queries", shape->num_queries);
    fb_json_put_size(w, "context", shape->context);
    fb_json_put_double(w, "flops_per_byte",
                       fb_bench_shape_flops(shape, 1) / fb_bench_shape_kv_bytes(shape, 1));
    fb_json_close_object(w);
    return fb_json_finish(w);
}

/* The steps of its blocks on a number of threads. */
static fb_status add_steps(const fb_attention_bench *b, size_t threads) {
    fb_attention_reuse ratios = fb_attention_bench_reuse(b, threads);
    fb_json_writer *w = fb_bench_items(b->bench, FB_BENCH_STEPS);
    fb_json_open_object(w, NULL);
    fb_json_put_text(w, "name", b->data.shape.name);
    fb_json_put_string(w, "dtype", fb_dtype_name(b->data.shape.dtype));
    fb_json_put_size(w, "threads", threads);
    fb_json_put_double(w, "reuse_by_dense", ratios.dense);
    fb_json_put_double(w, "reuse_by_block_alone", ratios.alone);
    fb_json_open_array(w, "blocks");
    for (size_t i = 0; i < b->count; i++) {
        fb_attention_block_result block;
        if (!fb_attention_bench_block(b, i, threads, &block))
            continue;
        fb_json_open_object(w, NULL);
        fb_json_put_size(w, "tau", block.tau);
        fb_json_put_size(w, "passes", block.passes);
        fb_json_put_size(w, "reuses", block.passes - block.refreshes);
        fb_json_put_double(w, "by_refreshes", block.dense_steps / (double)block.refreshes);
        fb_json_put_double(w, "times_faster_than_dense", (double)block.passes / block.dense_steps);
        fb_json_close_object(w);
    }
    fb_json_close_array(w);
    fb_json_close_object(w);
    return fb_json_finish(w);
}

static fb_status add_scaling(const fb_attention_bench *b, size_t i) {
    double scaling = fb_attention_bench_scaling(b, i);
    if (scaling == 0)
        return FB_OK;
    fb_json_writer *w = fb_bench_items(b->bench, FB_BENCH_SCALING);
    fb_json_open_object(w, NULL);
    fb_json_put_text(w, "name", b->data.shape.name);
    fb_json_put_string(w, "dtype", fb_dtype_name(b->data.shape.dtype));
    fb_json_put_size(w, "threads", b->trials[i].threads);
    fb_json_put_string(w, "implementation", b->entries[i].implementation);
    fb_json_put_size(w, "first_threads", b->chosen->common.threads.values[0]);
    fb_json_put_double(w, "times_faster", scaling);
    fb_json_close_object(w);
    return fb_json_finish(w);
}

static fb_status add_density(const fb_attention_bench *b, size_t i) {
    if (b->entries[i].selected_keys == 0)
        return FB_OK;
    fb_json_writer *w = fb_bench_items(b->bench, FB_BENCH_DENSITY);
    fb_json_open_object(w, NULL);
    fb_json_put_text(w, "name", b->data.shape.name);
    fb_json_put_string(w, "dtype", fb_dtype_name(b->data.shape.dtype));
    fb_json_put_size(w, "threads", b->trials[i].threads);
    fb_json_put_string(w, "implementation", b->entries[i].implementation);
    fb_json_put_size(w, "keys", b->entries[i].selected_keys);
    fb_json_put_double(w, "speed_by_dense", fb_attention_bench_selected_speed(b, i));
    fb_json_close_object(w);
    return fb_json_finish(w);
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
    fb_json_writer *w = fb_bench_items(b->bench, FB_BENCH_PEERS);
    fb_json_open_object(w, NULL);
    fb_json_put_text(w, "name", c.name);
    fb_json_put_string(w, "dtype", c.dtype);
    fb_json_put_size(w, "threads", c.threads);
    fb_json_put_string(w, "implementation", c.implementation);
    fb_json_put_string(w, "version", version);
    fb_json_put_string(w, "keys", composed->keys_as_rows ? "rows" : "columns");
    fb_json_put_double(w, "softmax_share", fb_composed_softmax_share(composed));
    fb_json_close_object(w);
    return fb_json_finish(w);
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

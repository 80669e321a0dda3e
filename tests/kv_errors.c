/* Prints how far attention is from double precision when keys and values are stored as each type
 * that a KV cache has, as a table in Markdown: docs/results/errors.md has it.
 *
 * usage: kv_errors
 *
 * The truth is the formula over the float32 keys and values, before they are stored. For integers
 * of 8 bits there is one more row: the formula in double over what is stored, so that the rounding
 * of queries and weights is left out. */
#include "oracle/inputs.h"

#include <flashblock/flashblock.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct shape {
    size_t heads, kv_heads, dim, queries, keys;
    float outlier; /* dimension 5 of every key is as many times as large as the others */
} shape;

typedef struct problem {
    shape s;
    float *q, *k, *v;
    double *out, *lse; /* the truth */
    size_t outs, rows;
} problem;

static void must(fb_status status) {
    if (status == FB_OK)
        return;
    fprintf(stderr, "%s\n", fb_error_message());
    exit(1);
}

static void *zeros(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (!memory)
        abort();
    return memory;
}

static fb_view view_of(const fb_kv *kv, fb_range *all) {
    *all = (fb_range){0, kv->num_tokens};
    return (fb_view){kv, all, 1};
}

static void reference(const problem *p, const fb_kv *kv, double *out, double *lse) {
    fb_range all;
    fb_view view = view_of(kv, &all);
    fb_queries queries = fb_queries_rows(p->q, p->s.queries, p->s.heads, p->s.dim);
    must(fb_attend_reference(&queries, &view, NULL, 0.0, out, lse));
}

static problem problem_new(shape s) {
    const size_t kv_count = s.keys * s.kv_heads * s.dim;
    problem p = {.s = s, .rows = s.queries * s.heads};
    p.outs = p.rows * s.dim;
    p.q = zeros(p.outs, sizeof *p.q);
    p.k = zeros(kv_count, sizeof *p.k);
    p.v = zeros(kv_count, sizeof *p.v);
    fb_input_normals(1, "q", 1, p.q, p.outs);
    fb_input_normals(1, "k", 1, p.k, kv_count);
    fb_input_normals(1, "v", 1, p.v, kv_count);
    for (size_t key = 0; key < s.keys * s.kv_heads; key++)
        p.k[key * s.dim + 5] *= s.outlier;
    p.out = zeros(p.outs, sizeof *p.out);
    p.lse = zeros(p.rows, sizeof *p.lse);
    fb_kv kv = fb_kv_rows(FB_F32, p.k, p.v, s.keys, s.kv_heads, s.dim);
    reference(&p, &kv, p.out, p.lse);
    return p;
}

static void problem_free(problem *p) {
    free(p->q), free(p->k), free(p->v), free(p->out), free(p->lse);
}

/* The root of the mean square of the errors by that of the truths; the largest errors. */
static void print_row(const problem *p, const char *name, const double *out, const double *lse) {
    double errors = 0, truths = 0, largest = 0, largest_lse = 0;
    for (size_t i = 0; i < p->outs; i++) {
        double error = out[i] - p->out[i];
        errors += error * error;
        truths += p->out[i] * p->out[i];
        largest = fmax(largest, fabs(error));
    }
    for (size_t i = 0; i < p->rows; i++)
        largest_lse = fmax(largest_lse, fabs(lse[i] - p->lse[i]));
    printf("| %zu / %zu, %zu, %zu, %zu, %g | %s | %.2g | %.2g | %.2g |\n", p->s.heads,
           p->s.kv_heads, p->s.dim, p->s.queries, p->s.keys, (double)p->s.outlier, name,
           sqrt(errors / truths), largest, largest_lse);
    fflush(stdout);
}

static void measure(const problem *p, fb_dtype dtype) {
    fb_kv_cache_config config = {1, p->s.kv_heads, p->s.dim, dtype};
    fb_kv_cache *cache = NULL;
    fb_kv kv;
    must(fb_kv_cache_create(&config, &cache));
    must(fb_kv_cache_write(cache, 0, 0, p->s.keys, p->k, p->v));
    must(fb_kv_cache_layer(cache, 0, &kv));
    float *out = zeros(p->outs, sizeof *out), *lse = zeros(p->rows, sizeof *lse);
    double *wide = zeros(p->outs, sizeof *wide), *wide_lse = zeros(p->rows, sizeof *wide_lse);
    fb_range all;
    fb_view view = view_of(&kv, &all);
    fb_queries queries = fb_queries_rows(p->q, p->s.queries, p->s.heads, p->s.dim);
    fb_part part = fb_part_rows(out, lse, p->s.heads, p->s.dim);
    must(fb_attend(&queries, &view, NULL, 0.0f, &part));
    for (size_t i = 0; i < p->outs; i++)
        wide[i] = (double)out[i];
    for (size_t i = 0; i < p->rows; i++)
        wide_lse[i] = (double)lse[i];
    print_row(p, fb_dtype_name(dtype), wide, wide_lse);
    if (dtype == FB_INT8) {
        reference(p, &kv, wide, wide_lse);
        print_row(p, "int8, storage alone", wide, wide_lse);
    }
    free(out), free(lse), free(wide), free(wide_lse);
    fb_kv_cache_destroy(cache);
}

int main(void) {
    static const shape shapes[] = {
        {32, 8, 128, 4, 1024, 1},
        {32, 8, 128, 4, 4096, 1},
        {4, 2, 64, 32, 2048, 1},
        {32, 8, 128, 4, 4096, 10},
    };
    printf("| heads / KV heads, D, queries, keys, outlier | stored as | out: relative | "
           "out: max abs | LSE: max abs |\n|---|---|---|---|---|\n");
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        problem p = problem_new(shapes[i]);
        for (fb_dtype dtype = FB_F32; dtype <= FB_INT8; dtype++)
            measure(&p, dtype);
        problem_free(&p);
    }
    return 0;
}

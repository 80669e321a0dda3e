/* The kernels of the instruction sets, each on the kind of work that it gets: how many rows, from
 * which memory. */
#ifndef FB_BENCH_KERNEL_CASES_H
#define FB_BENCH_KERNEL_CASES_H

#include "bench/limits.h"
#include "simd/kernels.h"

#include <stdbool.h>

/* What limits a kernel. */
typedef enum fb_kernel_limit {
    FB_KERNEL_PRODUCT, /* multiply-adds at the peak or reading, whichever takes longer */
    FB_KERNEL_READING, /* reading: the peak is that of float32, and its products are of integers */
    FB_KERNEL_ELEMENTS /* neither: its elements per nanosecond are told */
} fb_kernel_limit;

typedef struct fb_kernel_case {
    fb_kernel kernel;
    fb_dtype dtype;
    size_t rows;    /* of queries or of x; 0: it has no rows */
    size_t columns; /* head_dim, or the columns of weights; elements of a call */
    bool in_memory; /* its keys, values or weights are in no cache */
    fb_kernel_limit limit;
    int bits; /* of weights in integer products: 8 or 4; dtype is then not looked at */
} fb_kernel_case;

extern const fb_kernel_case fb_kernel_cases[];
extern const size_t fb_num_kernel_cases;

/* Of keys, values or weights: "bf16", "int4". */
const char *fb_kernel_case_type(const fb_kernel_case *what);

/* Whether it is scores and values in turn. */
bool fb_kernel_takes_turns(const fb_kernel_case *what);

/* The operands that all cases work on. */
typedef struct fb_kernel_data {
    char *memory; /* the limits' buffer: larger than all caches */
    size_t bytes;
    float *rows, *scores, *weights, *out; /* A operands, scores, weights of values, results */
} fb_kernel_data;

fb_status fb_kernel_data_create(fb_kernel_data *data, const fb_limits *limits);
void fb_kernel_data_free(fb_kernel_data *data);

/* A case that runs with the kernels of a table. */
typedef struct fb_kernel_run {
    const fb_kernel_case *what;
    const fb_kernels *kernels;
    const fb_kernel_data *data;
    fb_int_row *x; /* of integer products: [rows], as the table's own kernel makes them */
    size_t at;     /* where in memory the next run begins */
} fb_kernel_run;

/* Quantises x where the case needs it. The data must outlive the run. */
fb_status fb_kernel_run_create(const fb_kernel_case *what, const fb_kernels *kernels,
                               const fb_kernel_data *data, fb_kernel_run *run);
void fb_kernel_run_free(fb_kernel_run *run);

/* Some 10 to 500 microseconds of calls; `run` of an fb_trial, whose context is an fb_kernel_run. */
fb_status fb_kernel_run_once(void *run);

/* Of one run: operations of multiply-adds (2 each), bytes that come from memory, elements (of
 * int_scores and int_values multiply-adds). */
double fb_kernel_flops(const fb_kernel_case *what);
double fb_kernel_bytes(const fb_kernel_case *what);
double fb_kernel_elements(const fb_kernel_case *what);

#endif

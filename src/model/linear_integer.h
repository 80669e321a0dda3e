/* Integer products of linear layers (docs/contract.md C13), as the driver in linear.c needs them.
 */
#ifndef FB_MODEL_LINEAR_INTEGER_H
#define FB_MODEL_LINEAR_INTEGER_H

#include "model/linear.h"
#include "simd/kernels.h"

#include <stdbool.h>
#include <stddef.h>

/* A matrix is multiplied in integers. */
static inline bool fb_is_integer(const fb_matrix *matrix) {
    return matrix->quantized && !matrix->quantized->float_activations;
}

/* Columns of x that share a scale (C13.3). */
size_t fb_integer_group(const fb_quantized *weights);

/* `columns` columns of a row of x, already in the order of the data. */
void fb_integer_pack(const fb_kernels *kernels, const fb_quantized *weights, const float *x,
                     size_t columns, fb_int_row *to);

/* Weights that kernels cannot read where they are: copies of them and of what belongs to them. */
typedef struct fb_integer_staging {
    float scales[FB_INT_OUTPUTS][FB_INT_GROUPS];
    uint8_t zero_points[FB_INT_OUTPUTS][FB_INT_GROUPS];
    uint8_t weights[FB_INT_OUTPUTS][FB_INT_COLUMNS];
} fb_integer_staging;

/* One segment of a few features. */
typedef struct fb_integer_segment {
    const fb_matrix *matrix;
    const size_t *features; /* [outputs] */
    size_t outputs;
    size_t segment; /* its number: columns segment * FB_INT_COLUMNS and on */
    const fb_int_row *x;
    size_t rows;
    const void *const *next;     /* see fb_int_dots_call */
    fb_integer_staging *staging; /* a thread's */
    float *sums;                 /* [outputs][fb_dot_stride(rows)], added to */
} fb_integer_segment;

void fb_integer_multiply(const fb_kernels *kernels, const fb_integer_segment *part);

#endif

/* Linear layers over weights as they are stored: y = x W^T + bias.
 *
 * The weights are read where they are, in the mapped file, in their type and order: nothing is
 * packed or widened in advance, so they never exist twice in memory. With few rows of x, as in a
 * denoising step, a product takes about as long as reading them once.
 *
 * Every element of y is a sum on its own, in one order: docs/contract.md C9.1, and C13 for weights
 * of 8 and 4 bits. Threads, instruction set and the other rows change no bit of it, nor does
 * widening the weights.
 */
#ifndef FB_MODEL_LINEAR_H
#define FB_MODEL_LINEAR_H

#include "model/quantized.h"
#include "simd/kernels.h"

#include <flashblock/types.h>

#include <stddef.h>

/* A weight matrix  [rows, columns] = [out_features, in_features], row-major and dense, in a mapped
 * file: `data` may be misaligned. Borrowed. */
typedef struct fb_matrix {
    const void *data;
    fb_dtype dtype; /* not looked at where `quantized` is not NULL */
    size_t rows, columns;
    float *bias;                   /* [rows], or NULL */
    const fb_quantized *quantized; /* NULL: elements are of `dtype` */
} fb_matrix;

/* "f32", "bf16", "f16", "int8", "int4" */
const char *fb_matrix_type_name(const fb_matrix *matrix);

/* Of a matrix's elements, without scales. */
size_t fb_matrix_bytes(const fb_matrix *matrix);

/* One row of a matrix as floats  [columns]. */
void fb_matrix_row(const fb_kernels *kernels, const fb_matrix *matrix, size_t row, float *to);

/* x [num_rows, columns], dense. */
typedef struct fb_linear_input {
    const float *x;
    size_t num_rows;
} fb_linear_input;

/* Where a product goes:  y [num_rows, matrix->rows], dense. */
typedef struct fb_linear_output {
    const fb_matrix *matrix;
    float *y;
} fb_linear_output;

/* Buffers, kept from call to call. Starts as {0}. */
typedef struct fb_linear_scratch {
    void *x; /* the input in segments, see linear.c */
    size_t x_bytes;
    float *threads; /* [num_threads] work areas */
    size_t num_threads;
} fb_linear_scratch;

void fb_linear_scratch_free(fb_linear_scratch *scratch);

/* y = x W^T + bias for a few matrices that share the input. Nothing overlaps. The number of rows
 * and all sizes are below 2^31. */
fb_status fb_linear(fb_linear_scratch *scratch, const fb_linear_input *input,
                    const fb_linear_output *outputs, size_t num_outputs);

#endif

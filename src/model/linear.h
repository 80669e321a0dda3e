/* Linear layers over weights as they are stored: y = x W^T + bias.
 *
 * A product is cut into panels of the weights, small enough that a panel widened to float32 stays
 * in the L2 cache while OpenBLAS multiplies by it; a thread takes a panel, widens it, and adds its
 * share of the sums. The weights are read once, and never exist twice in memory.
 *
 * The cut depends on the shape of the weights alone, and each panel is one thread's work from
 * first to last: the number of threads changes no bit of the result.
 */
#ifndef FB_MODEL_LINEAR_H
#define FB_MODEL_LINEAR_H

#include "kernels.h"

#include <flashblock/types.h>

#include <stddef.h>

/* A weight matrix  [rows, columns] = [out_features, in_features], row-major and dense, in a mapped
 * file: `data` may be misaligned. Borrowed. */
typedef struct fb_matrix {
    const void *data;
    fb_dtype dtype;
    size_t rows, columns;
    float *bias; /* [rows], or NULL */
} fb_matrix;

/* One row of a matrix as floats  [columns]. */
void fb_matrix_row(const fb_kernels *kernels, const fb_matrix *matrix, size_t row, float *to);

/* The input  x [num_rows, columns], dense: groups of rows (the tokens of one sequence each), one
 * after the other. Each group is multiplied on its own, against the panel that all of them share:
 * OpenBLAS rounds a row differently depending on how many rows it is given, and so a sequence's
 * results depend on its own rows only, not on the batch. */
typedef struct fb_linear_input {
    const float *x;
    const size_t *group_rows; /* [num_groups], each at least 1 */
    size_t num_groups;
} fb_linear_input;

/* The sum of group_rows. */
size_t fb_linear_num_rows(const fb_linear_input *input);

/* Where a product goes:  y [num_rows, matrix->rows], dense. */
typedef struct fb_linear_output {
    const fb_matrix *matrix;
    float *y;
} fb_linear_output;

/* Buffers of the threads, kept from call to call. Starts as {0}. */
typedef struct fb_linear_scratch {
    float *panels; /* [num_threads] panels, and rows of misaligned weights */
    size_t num_threads;
} fb_linear_scratch;

void fb_linear_scratch_free(fb_linear_scratch *scratch);

/* Makes OpenBLAS do each product in the calling thread, for the whole process: the threads here
 * are OpenMP's. Call it before the first fb_linear. */
void fb_linear_setup(void);

/* y = x W^T + bias for a few matrices that share the input. Nothing overlaps. The number of rows
 * and all sizes are below 2^31. */
fb_status fb_linear(fb_linear_scratch *scratch, const fb_linear_input *input,
                    const fb_linear_output *outputs, size_t num_outputs);

#endif

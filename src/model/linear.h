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

#include <stddef.h>

#include <flashblock/types.h>

/* A weight matrix  [rows, columns] = [out_features, in_features], row-major and dense, in a mapped
 * file: `data` may be misaligned. Borrowed. */
typedef struct fb_matrix {
    const void *data;
    fb_dtype dtype;
    size_t rows, columns;
    const float *bias; /* [rows], or NULL */
} fb_matrix;

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

/* y = x W^T + bias for up to a few matrices that share the input  x [num_rows, columns].
 * Nothing overlaps. num_rows and all sizes are below 2^31. */
fb_status fb_linear(fb_linear_scratch *scratch, const float *x, size_t num_rows,
                    const fb_linear_output *outputs, size_t num_outputs);

#endif

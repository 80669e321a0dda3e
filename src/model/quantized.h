/* Weights of 8 or 4 bits: integers, with scales for groups of columns.
 *
 * The weight in row r and column c (of the data's order, see column_order) is
 *
 *     scales[r, c / group_size] * (integer[r, c] - zero)
 *
 * where zero is 0 for 8 bits; for 4 bits it is 8, or zero_points[r, c / group_size]. How products
 * with such weights are computed, to the last bit, is in docs/contract.md C13. */
#ifndef FB_MODEL_QUANTIZED_H
#define FB_MODEL_QUANTIZED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Beside the data of an fb_matrix [rows, columns]. groups = ceil(columns / group_size). Borrowed,
 * as the matrix is. */
typedef struct fb_quantized {
    /* 8: the data is int8_t [rows, columns], any value of it.
     * 4: the data is uint8_t [rows, columns / 2]; columns are even. A byte's lower half, 0 to 15,
     * is an even column, its upper half the column after it. */
    int bits;
    /* Columns that share a scale: 32, 64, 128, 256, 512, 1024, 2048, or `columns`. */
    size_t group_size;
    const float *scales;        /* [rows, groups] */
    const uint8_t *zero_points; /* [rows, groups], each 0 to 15; NULL: 8. For 4 bits only */
    /* [columns] column i of the data belongs to column column_order[i] of x; every column occurs
     * once. NULL: they are in the same order */
    const uint32_t *column_order;
    /* 8 bits: the data is uint8_t, the integer plus 128. fb_matrix_row takes it, products do not.
     */
    bool excess;
    /* The input of a product stays float32, and the weights become float32. Otherwise the input is
     * quantised to 8 bits, and the products are of integers. */
    bool float_activations;
} fb_quantized;

#endif

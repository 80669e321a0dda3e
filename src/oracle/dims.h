/* The shape of a tensor. */
#ifndef FB_ORACLE_DIMS_H
#define FB_ORACLE_DIMS_H

#include "io/tensor.h"

#include <stddef.h>

/* FB_DIMS(batch, tokens, heads) makes one. */
typedef struct fb_dims {
    size_t ndim;
    size_t sizes[FB_TENSOR_MAX_DIMS];
} fb_dims;
#define FB_DIMS(...) ((fb_dims){sizeof((size_t[]){__VA_ARGS__}) / sizeof(size_t), {__VA_ARGS__}})

/* The number of elements. The product must fit size_t: the sizes were checked against a tensor or a
 * range before. */
size_t fb_dims_count(const fb_dims *dims);

/* Writes the indices of the element at the position `flat`: "12,3,0". */
void fb_dims_index(const fb_dims *dims, size_t flat, char *text, size_t size);

#endif

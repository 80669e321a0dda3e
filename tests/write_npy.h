/* Writes .npy files as NumPy does, for the tests of what reads them. */
#ifndef FB_TESTS_WRITE_NPY_H
#define FB_TESTS_WRITE_NPY_H

#include "io/tensor.h"

#include <stdbool.h>

/* Writes dtype, ndim, shape and data of `tensor` as version 1. The header is padded so that the
 * data begins at a multiple of 64 bytes. Fails the running test for a dtype that NumPy lacks. */
void write_npy(const char *path, const fb_tensor_view *tensor);

/* false for BF16, F8 and the like. */
bool npy_has_dtype(fb_tensor_dtype dtype);

#endif

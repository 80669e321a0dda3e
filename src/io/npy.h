/* Reads NumPy's .npy files, which hold one array each. The format:
 * https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, versions 1 and 2;
 * little-endian f2, f4, f8, i1, i2, i4, i8, u1, u2, u4, u8 and bool, in C order. */
#ifndef FB_IO_NPY_H
#define FB_IO_NPY_H

#include "io/tensor.h"

/* An open file. Immutable: any number of threads may read one. */
typedef struct fb_npy fb_npy;

/* Maps `path`. FB_ERROR_FORMAT when it is malformed, or has too few or too many bytes of data;
 * FB_ERROR_UNSUPPORTED for Fortran order, big-endian or other types, other versions, more than
 * FB_TENSOR_MAX_DIMS dimensions. */
fb_status fb_npy_open(const char *path, fb_npy **file);

/* The same from memory, which must outlive the file. Messages call it `name`. */
fb_status fb_npy_parse(const void *data, size_t size, const char *name, fb_npy **file);

/* Invalidates the view. NULL is allowed. */
void fb_npy_close(fb_npy *file);

/* The array; its name is the file's. */
const fb_tensor_view *fb_npy_tensor(const fb_npy *file);

#endif

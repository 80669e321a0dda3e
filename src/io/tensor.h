/* Tensors as files hold them: a dtype, a shape, and bytes in C order, little-endian. */
#ifndef FB_IO_TENSOR_H
#define FB_IO_TENSOR_H

#include <flashblock/types.h>

#include <stddef.h>
#include <stdint.h>

#define FB_TENSOR_MAX_DIMS 8

/* Every element type of safetensors whose elements are whole bytes; FB_TENSOR_OTHER stands for any
 * other type: the bytes are available, but the elements cannot be read. */
typedef enum fb_tensor_dtype {
    FB_TENSOR_OTHER = 0,
    FB_TENSOR_F64,
    FB_TENSOR_F32,
    FB_TENSOR_F16,
    FB_TENSOR_BF16,
    FB_TENSOR_F8_E4M3,
    FB_TENSOR_F8_E5M2,
    FB_TENSOR_F8_E8M0,
    FB_TENSOR_C64,
    FB_TENSOR_I64,
    FB_TENSOR_I32,
    FB_TENSOR_I16,
    FB_TENSOR_I8,
    FB_TENSOR_U64,
    FB_TENSOR_U32,
    FB_TENSOR_U16,
    FB_TENSOR_U8,
    FB_TENSOR_BOOL, /* one byte, 0 or 1 */
    FB_TENSOR_DTYPE_COUNT,
} fb_tensor_dtype;

/* A view borrows name, dtype_name and data from the file that it came from. Files do not promise
 * that `data` is aligned to the element; the functions below read from any address. */
typedef struct fb_tensor_view {
    const char *name;
    fb_tensor_dtype dtype;
    const char *dtype_name; /* as the file writes it */
    size_t ndim;
    size_t shape[FB_TENSOR_MAX_DIMS]; /* the first ndim are set; ndim 0 is one element */
    size_t count;                     /* elements: the product of the shape */
    const void *data;
    size_t bytes;
} fb_tensor_view;

/* "F32", "BF16", ...; FB_TENSOR_OTHER for any other name. */
fb_tensor_dtype fb_tensor_dtype_parse(const char *name);
const char *fb_tensor_dtype_name(fb_tensor_dtype dtype);

/* Bytes of an element; 0 for FB_TENSOR_OTHER. */
size_t fb_tensor_dtype_size(fb_tensor_dtype dtype);

/* *count is the product of the shape, *bytes that product times the size of an element.
 * FB_ERROR_FORMAT on overflow. `bytes` is 0 for FB_TENSOR_OTHER. */
fb_status fb_tensor_sizes(fb_tensor_dtype dtype, size_t ndim, const size_t *shape, size_t *count,
                          size_t *bytes);

/* FB_ERROR_FORMAT, naming the tensor and both shapes, unless the shapes are equal. */
fb_status fb_tensor_check_shape(const fb_tensor_view *tensor, size_t ndim, const size_t *shape);

/* The dtype as an fb_dtype; FB_ERROR_UNSUPPORTED for a type that the numeric core cannot store. */
fb_status fb_tensor_storage(const fb_tensor_view *tensor, fb_dtype *dtype);

/* Elements [first, first + count) of the flattened tensor, converted.
 *   f32: from F32, BF16, F16 exactly; from F64 rounded to nearest
 *   f64: from F64, F32, BF16, F16 exactly
 *   i64, i32: from every integer type and BOOL; a value that does not fit is FB_ERROR_FORMAT
 * FB_ERROR_ARGUMENT when the range is outside the tensor, FB_ERROR_UNSUPPORTED for another dtype.
 * `out` must not overlap the tensor's data; it is untouched on failure. */
fb_status fb_tensor_read_f32(const fb_tensor_view *tensor, size_t first, size_t count, float *out);
fb_status fb_tensor_read_f64(const fb_tensor_view *tensor, size_t first, size_t count, double *out);
fb_status fb_tensor_read_i64(const fb_tensor_view *tensor, size_t first, size_t count,
                             int64_t *out);
fb_status fb_tensor_read_i32(const fb_tensor_view *tensor, size_t first, size_t count,
                             int32_t *out);

#endif

/* safetensors files, read and written. The format:
 * https://github.com/huggingface/safetensors#format. 8 bytes of header length (little- endian),
 * that many bytes of JSON, then the bytes of the tensors, without gaps. */
#ifndef FB_IO_SAFETENSORS_H
#define FB_IO_SAFETENSORS_H

#include "io/buffer.h"
#include "io/tensor.h"

/* An open file. Immutable: any number of threads may read one. */
typedef struct fb_safetensors fb_safetensors;

/* Maps `path` and checks its whole header. These are errors (FB_ERROR_FORMAT): a header length of
 * 0, above 100,000,000 or beyond the file; a header that does not begin with '{' or is not JSON; a
 * key twice; a __metadata__ that is not an object of strings; a shape whose size overflows; offsets
 * that are negative, reversed, beyond the file, or that contradict dtype and shape; tensors that
 * overlap or leave bytes unused. Legal: tensors of size 0, trailing spaces in the header, unknown
 * dtypes (FB_TENSOR_OTHER, listed but not readable). More than FB_TENSOR_MAX_DIMS dimensions:
 * FB_ERROR_UNSUPPORTED. */
fb_status fb_safetensors_open(const char *path, fb_safetensors **file);

/* The same; the file is read into memory, and not mapped. */
fb_status fb_safetensors_read(const char *path, fb_safetensors **file);

/* The same from memory, which must outlive the file. Messages call it `name`. */
fb_status fb_safetensors_parse(const void *data, size_t size, const char *name,
                               fb_safetensors **file);

/* Bytes of a tensor that are not needed soon leave this process's memory, if the file is mapped.
 * Nothing happens if they are not the file's. */
void fb_safetensors_release(const fb_safetensors *file, const void *data, size_t bytes);

/* Invalidates every view of the file. NULL is allowed. */
void fb_safetensors_close(fb_safetensors *file);

/* Tensors in the order of their names (bytewise); index < count. */
size_t fb_safetensors_count(const fb_safetensors *file);
const fb_tensor_view *fb_safetensors_at(const fb_safetensors *file, size_t index);

/* The tensor of this name, in O(log n). When there is none, `find` gives NULL and `get`
 * FB_ERROR_FORMAT with the names of the file and the tensor. */
const fb_tensor_view *fb_safetensors_find(const fb_safetensors *file, const char *name);
fb_status fb_safetensors_get(const fb_safetensors *file, const char *name,
                             const fb_tensor_view **tensor);

/* A value of __metadata__, or NULL. */
const char *fb_safetensors_metadata(const fb_safetensors *file, const char *key);

typedef struct fb_metadata_entry {
    const char *key;
    const char *value;
} fb_metadata_entry;

/* Writes tensors in the order given. Of each view name, dtype, ndim, shape and data are used. The
 * header is padded with spaces to a multiple of 8 bytes, so data that starts with the widest
 * element type is aligned. The file appears whole or not at all, and equal inputs give equal bytes.
 * FB_ERROR_ARGUMENT: FB_TENSOR_OTHER, two equal names or keys, a tensor called __metadata__, text
 * that is not UTF-8. */
fb_status fb_safetensors_write(const char *path, const fb_tensor_view *tensors, size_t num_tensors,
                               const fb_metadata_entry *metadata, size_t num_metadata);

/* What a file begins with, for who writes the tensors' bytes after it, one after the other without
 * gaps. `data` of the views is not looked at. The first tensor begins at a multiple of `alignment`,
 * which 8 divides. */
fb_status fb_safetensors_header(const fb_tensor_view *tensors, size_t num_tensors,
                                const fb_metadata_entry *metadata, size_t num_metadata,
                                size_t alignment, fb_buffer *header);

#endif

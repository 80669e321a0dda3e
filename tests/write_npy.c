#include "tests/write_npy.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

enum { PREFIX = 10, DATA_ALIGNMENT = 64, HEADER_SIZE = 448 };

static const char *const descriptions[FB_TENSOR_DTYPE_COUNT] = {
    [FB_TENSOR_F64] = "<f8", [FB_TENSOR_F32] = "<f4", [FB_TENSOR_F16] = "<f2",
    [FB_TENSOR_I64] = "<i8", [FB_TENSOR_I32] = "<i4", [FB_TENSOR_I16] = "<i2",
    [FB_TENSOR_I8] = "|i1",  [FB_TENSOR_U64] = "<u8", [FB_TENSOR_U32] = "<u4",
    [FB_TENSOR_U16] = "<u2", [FB_TENSOR_U8] = "|u1",  [FB_TENSOR_BOOL] = "|b1",
};

bool npy_has_dtype(fb_tensor_dtype dtype) {
    return descriptions[dtype] != NULL;
}

/* The whole header, prefix included; its size is a multiple of DATA_ALIGNMENT. */
static size_t build_header(const fb_tensor_view *tensor, char header[HEADER_SIZE]) {
    char shape[22 * FB_TENSOR_MAX_DIMS + 1] = "";
    size_t used = 0;
    for (size_t i = 0; i < tensor->ndim; i++) { /* Python writes a tuple of one as (n,) */
        const char *comma = i + 1 < tensor->ndim ? ", " : tensor->ndim == 1 ? "," : "";
        used +=
            (size_t)snprintf(shape + used, sizeof shape - used, "%zu%s", tensor->shape[i], comma);
    }
    int length = snprintf(header + PREFIX, HEADER_SIZE - PREFIX,
                          "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }",
                          descriptions[tensor->dtype], shape);
    size_t text = PREFIX + (size_t)length + 1; /* and the newline that ends it */
    size_t total = (text + DATA_ALIGNMENT - 1) / DATA_ALIGNMENT * DATA_ALIGNMENT;
    memset(header + PREFIX + length, ' ', total - PREFIX - (size_t)length - 1);
    header[total - 1] = '\n';
    memcpy(header, "\x93NUMPY\1\0", 8);
    header[8] = (char)((total - PREFIX) & 0xff);
    header[9] = (char)((total - PREFIX) >> 8);
    return total;
}

void write_npy(const char *path, const fb_tensor_view *tensor) {
    cr_assert(npy_has_dtype(tensor->dtype), "%s", fb_tensor_dtype_name(tensor->dtype));
    size_t count = 0, bytes = 0;
    cr_assert_eq(fb_tensor_sizes(tensor->dtype, tensor->ndim, tensor->shape, &count, &bytes),
                 FB_OK);
    char header[HEADER_SIZE];
    size_t size = build_header(tensor, header);
    FILE *file = fopen(path, "wb");
    cr_assert(file, "%s", path);
    cr_assert_eq(fwrite(header, 1, size, file), size);
    cr_assert(bytes == 0 || fwrite(tensor->data, 1, bytes, file) == bytes);
    cr_assert_eq(fclose(file), 0);
}

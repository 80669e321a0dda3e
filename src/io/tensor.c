#include "io/tensor.h"

#include "base/error.h"
#include "base/half.h"
#include "base/memory.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "files hold little-endian elements, and these readers copy them as they are"
#endif

static const struct {
    const char *name;
    size_t size;
} dtypes[FB_TENSOR_DTYPE_COUNT] = {
    [FB_TENSOR_OTHER] = {"OTHER", 0},     [FB_TENSOR_F64] = {"F64", 8},
    [FB_TENSOR_F32] = {"F32", 4},         [FB_TENSOR_F16] = {"F16", 2},
    [FB_TENSOR_BF16] = {"BF16", 2},       [FB_TENSOR_F8_E4M3] = {"F8_E4M3", 1},
    [FB_TENSOR_F8_E5M2] = {"F8_E5M2", 1}, [FB_TENSOR_F8_E8M0] = {"F8_E8M0", 1},
    [FB_TENSOR_C64] = {"C64", 8},         [FB_TENSOR_I64] = {"I64", 8},
    [FB_TENSOR_I32] = {"I32", 4},         [FB_TENSOR_I16] = {"I16", 2},
    [FB_TENSOR_I8] = {"I8", 1},           [FB_TENSOR_U64] = {"U64", 8},
    [FB_TENSOR_U32] = {"U32", 4},         [FB_TENSOR_U16] = {"U16", 2},
    [FB_TENSOR_U8] = {"U8", 1},           [FB_TENSOR_BOOL] = {"BOOL", 1},
};

fb_tensor_dtype fb_tensor_dtype_parse(const char *name) {
    for (unsigned i = FB_TENSOR_OTHER + 1; i < FB_TENSOR_DTYPE_COUNT; i++)
        if (strcmp(name, dtypes[i].name) == 0)
            return (fb_tensor_dtype)i;
    return FB_TENSOR_OTHER;
}

static unsigned known(fb_tensor_dtype dtype) {
    unsigned index = (unsigned)dtype;
    return index < FB_TENSOR_DTYPE_COUNT ? index : FB_TENSOR_OTHER;
}

const char *fb_tensor_dtype_name(fb_tensor_dtype dtype) {
    return dtypes[known(dtype)].name;
}

size_t fb_tensor_dtype_size(fb_tensor_dtype dtype) {
    return dtypes[known(dtype)].size;
}

fb_status fb_tensor_sizes(fb_tensor_dtype dtype, size_t ndim, const size_t *shape, size_t *count,
                          size_t *bytes) {
    size_t elements = 1, size = 0;
    for (size_t i = 0; i < ndim; i++)
        if (!fb_size_mul(elements, shape[i], &elements))
            return fb_fail(FB_ERROR_FORMAT, "the product of its shape does not fit size_t");
    if (!fb_size_mul(elements, fb_tensor_dtype_size(dtype), &size))
        return fb_fail(FB_ERROR_FORMAT, "%zu elements of %s do not fit size_t", elements,
                       fb_tensor_dtype_name(dtype));
    *count = elements;
    *bytes = size;
    return FB_OK;
}

enum { SHAPE_TEXT_SIZE = 21 * FB_TENSOR_MAX_DIMS + 8 };

static const char *show_shape(size_t ndim, const size_t *shape, char text[SHAPE_TEXT_SIZE]) {
    size_t used = 0;
    text[used++] = '[';
    for (size_t i = 0; i < ndim && i < FB_TENSOR_MAX_DIMS; i++) {
        int written = snprintf(text + used, SHAPE_TEXT_SIZE - used, i ? ", %zu" : "%zu", shape[i]);
        used += written > 0 ? (size_t)written : 0;
    }
    text[used++] = ']';
    text[used] = '\0';
    return text;
}

fb_status fb_tensor_check_shape(const fb_tensor_view *tensor, size_t ndim, const size_t *shape) {
    bool same = tensor->ndim == ndim;
    for (size_t i = 0; same && i < ndim; i++)
        same = tensor->shape[i] == shape[i];
    if (same)
        return FB_OK;
    char have[SHAPE_TEXT_SIZE], want[SHAPE_TEXT_SIZE];
    return fb_fail(FB_ERROR_FORMAT, "tensor %s has shape %s, expected %s", tensor->name,
                   show_shape(tensor->ndim, tensor->shape, have), show_shape(ndim, shape, want));
}

static fb_status unsupported(const fb_tensor_view *tensor, const char *wanted) {
    return fb_fail(FB_ERROR_UNSUPPORTED, "tensor %s has dtype %s, expected %s", tensor->name,
                   tensor->dtype_name, wanted);
}

fb_status fb_tensor_storage(const fb_tensor_view *tensor, fb_dtype *dtype) {
    switch (tensor->dtype) {
    case FB_TENSOR_F32:
        *dtype = FB_F32;
        return FB_OK;
    case FB_TENSOR_BF16:
        *dtype = FB_BF16;
        return FB_OK;
    case FB_TENSOR_F16:
        *dtype = FB_F16;
        return FB_OK;
    default:
        return unsupported(tensor, "F32, BF16 or F16");
    }
}

static fb_status check_range(const fb_tensor_view *tensor, size_t first, size_t count) {
    if (first > tensor->count || count > tensor->count - first)
        return fb_fail(FB_ERROR_ARGUMENT, "tensor %s: elements %zu + %zu of %zu", tensor->name,
                       first, count, tensor->count);
    return FB_OK;
}

/* Loads one element from any address. */
#define DEFINE_LOAD(type, name)                                                                    \
    static type load_##name(const unsigned char *data, size_t index) {                             \
        type value;                                                                                \
        memcpy(&value, data + index * sizeof value, sizeof value);                                 \
        return value;                                                                              \
    }

DEFINE_LOAD(double, f64)
DEFINE_LOAD(float, f32)
DEFINE_LOAD(int64_t, i64)
DEFINE_LOAD(int32_t, i32)
DEFINE_LOAD(int16_t, i16)
DEFINE_LOAD(int8_t, i8)
DEFINE_LOAD(uint64_t, u64)
DEFINE_LOAD(uint32_t, u32)
DEFINE_LOAD(uint16_t, u16)
DEFINE_LOAD(uint8_t, u8)

/* out[i] = expression of the element's index `at`, for the whole range. */
#define FOR_RANGE(expression)                                                                      \
    for (size_t i = 0; i < count; i++) {                                                           \
        size_t at = first + i;                                                                     \
        out[i] = (expression);                                                                     \
    }                                                                                              \
    return FB_OK

static const char float_types[] = "F64, F32, BF16 or F16";

fb_status fb_tensor_read_f32(const fb_tensor_view *tensor, size_t first, size_t count, float *out) {
    FB_TRY(check_range(tensor, first, count));
    const unsigned char *data = tensor->data;
    switch (tensor->dtype) {
    case FB_TENSOR_F64:
        FOR_RANGE((float)load_f64(data, at));
    case FB_TENSOR_F32:
        FOR_RANGE(load_f32(data, at));
    case FB_TENSOR_BF16:
        FOR_RANGE(fb_bf16_to_f32(load_u16(data, at)));
    case FB_TENSOR_F16:
        FOR_RANGE(fb_f16_to_f32(load_u16(data, at)));
    default:
        return unsupported(tensor, float_types);
    }
}

fb_status fb_tensor_read_f64(const fb_tensor_view *tensor, size_t first, size_t count,
                             double *out) {
    FB_TRY(check_range(tensor, first, count));
    const unsigned char *data = tensor->data;
    switch (tensor->dtype) {
    case FB_TENSOR_F64:
        FOR_RANGE(load_f64(data, at));
    case FB_TENSOR_F32:
        FOR_RANGE((double)load_f32(data, at));
    case FB_TENSOR_BF16:
        FOR_RANGE((double)fb_bf16_to_f32(load_u16(data, at)));
    case FB_TENSOR_F16:
        FOR_RANGE((double)fb_f16_to_f32(load_u16(data, at)));
    default:
        return unsupported(tensor, float_types);
    }
}

/* FB_ERROR_FORMAT when an element of the range does not fit int64_t. */
static fb_status check_u64(const fb_tensor_view *tensor, size_t first, size_t count) {
    for (size_t i = first; i < first + count; i++) {
        uint64_t value = load_u64(tensor->data, i);
        if (value > INT64_MAX)
            return fb_fail(FB_ERROR_FORMAT, "tensor %s: element %zu is %llu, above 2^63 - 1",
                           tensor->name, i, (unsigned long long)value);
    }
    return FB_OK;
}

fb_status fb_tensor_read_i64(const fb_tensor_view *tensor, size_t first, size_t count,
                             int64_t *out) {
    FB_TRY(check_range(tensor, first, count));
    const unsigned char *data = tensor->data;
    switch (tensor->dtype) {
    case FB_TENSOR_I64:
        FOR_RANGE(load_i64(data, at));
    case FB_TENSOR_I32:
        FOR_RANGE(load_i32(data, at));
    case FB_TENSOR_I16:
        FOR_RANGE(load_i16(data, at));
    case FB_TENSOR_I8:
        FOR_RANGE(load_i8(data, at));
    case FB_TENSOR_U64:
        FB_TRY(check_u64(tensor, first, count));
        FOR_RANGE((int64_t)load_u64(data, at));
    case FB_TENSOR_U32:
        FOR_RANGE(load_u32(data, at));
    case FB_TENSOR_U16:
        FOR_RANGE(load_u16(data, at));
    case FB_TENSOR_U8:
    case FB_TENSOR_BOOL:
        FOR_RANGE(load_u8(data, at));
    default:
        return unsupported(tensor, "an integer type");
    }
}

fb_status fb_tensor_read_i32(const fb_tensor_view *tensor, size_t first, size_t count,
                             int32_t *out) {
    FB_TRY(check_range(tensor, first, count));
    /* The first pass only checks: `out` stays untouched if an element does not fit. */
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < count; i++) {
            int64_t value = 0;
            FB_TRY(fb_tensor_read_i64(tensor, first + i, 1, &value));
            if (value < INT32_MIN || value > INT32_MAX)
                return fb_fail(FB_ERROR_FORMAT, "tensor %s: element %zu is %lld, not an int32",
                               tensor->name, first + i, (long long)value);
            if (pass == 1)
                out[i] = (int32_t)value;
        }
    return FB_OK;
}

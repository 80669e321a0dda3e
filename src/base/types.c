#include "base/error.h"
#include "base/half.h"

#include <flashblock/types.h>

size_t fb_dtype_size(fb_dtype dtype) {
    switch (dtype) {
    case FB_F32:
        return sizeof(float);
    case FB_BF16:
    case FB_F16:
        return sizeof(uint16_t);
    case FB_INT8:
        break;
    }
    return 0;
}

const char *fb_dtype_name(fb_dtype dtype) {
    switch (dtype) {
    case FB_F32:
        return "f32";
    case FB_BF16:
        return "bf16";
    case FB_F16:
        return "f16";
    case FB_INT8:
        return "int8";
    }
    return "unknown";
}

fb_status fb_dtype_parse(const char *name, fb_dtype *dtype) {
    for (fb_dtype candidate = FB_F32; candidate <= FB_F16; candidate++)
        if (name && strcmp(name, fb_dtype_name(candidate)) == 0) {
            *dtype = candidate;
            return FB_OK;
        }
    return fb_fail(FB_ERROR_ARGUMENT, "dtype is '%s', expected f32, bf16 or f16",
                   name ? name : "(null)");
}

fb_status fb_to_f32(fb_dtype dtype, const void *from, float *to, size_t count) {
    const uint16_t *half = from;
    switch (dtype) {
    case FB_F32:
        if (count)
            memcpy(to, from, count * sizeof *to);
        return FB_OK;
    case FB_BF16:
        for (size_t i = 0; i < count; i++)
            to[i] = fb_bf16_to_f32(half[i]);
        return FB_OK;
    case FB_F16:
        for (size_t i = 0; i < count; i++)
            to[i] = fb_f16_to_f32(half[i]);
        return FB_OK;
    case FB_INT8:
        break;
    }
    return fb_fail(FB_ERROR_ARGUMENT, "dtype is %d, expected f32, bf16 or f16", (int)dtype);
}

fb_status fb_from_f32(fb_dtype dtype, const float *from, void *to, size_t count) {
    uint16_t *half = to;
    switch (dtype) {
    case FB_F32:
        if (count)
            memcpy(to, from, count * sizeof *from);
        return FB_OK;
    case FB_BF16:
        for (size_t i = 0; i < count; i++)
            half[i] = fb_f32_to_bf16(from[i]);
        return FB_OK;
    case FB_F16:
        for (size_t i = 0; i < count; i++)
            half[i] = fb_f32_to_f16(from[i]);
        return FB_OK;
    case FB_INT8:
        break;
    }
    return fb_fail(FB_ERROR_ARGUMENT, "dtype is %d, expected f32, bf16 or f16", (int)dtype);
}

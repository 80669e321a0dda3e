/* Storage types of tensors. Arithmetic is float32 everywhere; bf16 and f16 are ways to store. */
#ifndef FLASHBLOCK_TYPES_H
#define FLASHBLOCK_TYPES_H

#include <flashblock/status.h>

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fb_dtype {
    FB_F32 = 0, /* IEEE 754 binary32 */
    FB_BF16,    /* upper half of a binary32 */
    FB_F16,     /* IEEE 754 binary16 */
} fb_dtype;

/* Bytes of one element: 4, 2, 2; 0 for a value that is none of the above. */
FB_API size_t fb_dtype_size(fb_dtype dtype);

/* "f32", "bf16", "f16"; "unknown" otherwise. Never NULL. */
FB_API const char *fb_dtype_name(fb_dtype dtype);

/* The inverse of fb_dtype_name. FB_ERROR_ARGUMENT for any other name. */
FB_API fb_status fb_dtype_parse(const char *name, fb_dtype *dtype);

/* Converts `count` elements. Widening is exact; narrowing rounds once, to nearest even, with
 * overflow to infinity and gradual underflow. NaN stays NaN (quiet, payload truncated).
 * `from` and `to` must not overlap and need no alignment beyond their element's. */
FB_API fb_status fb_to_f32(fb_dtype dtype, const void *from, float *to, size_t count);
FB_API fb_status fb_from_f32(fb_dtype dtype, const float *from, void *to, size_t count);

#ifdef __cplusplus
}
#endif

#endif

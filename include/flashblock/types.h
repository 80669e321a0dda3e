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
    /* Only of KV caches (kv_cache.h): integers of 8 bits, and a scale for each key and each value.
     * No element means anything without its scale, so arrays and files never have this type, and
     * the functions below that take elements know nothing of it. */
    FB_INT8,
} fb_dtype;

/* Bytes of one element: 4, 2, 2; 0 for FB_INT8 and for a value that is none of the above. */
FB_API size_t fb_dtype_size(fb_dtype dtype);

/* "f32", "bf16", "f16", "int8"; "unknown" otherwise. Never NULL. */
FB_API const char *fb_dtype_name(fb_dtype dtype);

/* The inverse of fb_dtype_name for the types of elements, so not for "int8": fb_kv_dtype_parse.
 * FB_ERROR_ARGUMENT for any other name. */
FB_API fb_status fb_dtype_parse(const char *name, fb_dtype *dtype);

/* Converts `count` elements. Widening is exact; narrowing rounds once, to nearest even, with
 * overflow to infinity and gradual underflow. NaN stays NaN (quiet, payload truncated).
 * `from` and `to` must not overlap and need no alignment beyond their element's. */
FB_API fb_status fb_to_f32(fb_dtype dtype, const void *from, float *to, size_t count);
FB_API fb_status fb_from_f32(fb_dtype dtype, const float *from, void *to, size_t count);

/* Structs that can grow. Their first member is `size_t struct_size`, and a later version may have
 * more members at their end. In C they are filled in by
 *
 *     fb_X_init(&options);
 *
 * which is fb_X_init_sized(&options, sizeof options). Bindings for other languages call the latter:
 *
 *     void fb_X_init_sized(fb_X *options, size_t size);
 *
 * `size` is the size of the struct that the caller has declared, with all its padding; `options` is
 * not NULL. Members that this library knows get their defaults. Bytes after them become 0 and must
 * stay 0. A shorter struct than the library's is that of an older version, and the library takes
 * defaults for the rest.
 *
 * Sizes are sizeof(size_t) to 4096. fb_X_init_sized with any other size sets struct_size to 0 and
 * writes nothing else. A function that is given a struct_size outside of these limits returns
 * FB_ERROR_ARGUMENT and reads no other member. A function of an experimental header may ask for
 * exactly the size that the library knows. */

#ifdef __cplusplus
}
#endif

#endif

/* Structs of the caller's that can grow: their first member is `size_t struct_size`, the size that
 * they had in the headers that the caller was compiled with.
 *
 * Exported for libflashblock-lm: the header is not installed. */
#ifndef FB_BASE_SIZED_H
#define FB_BASE_SIZED_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

/* A longer struct_size is a number that was never set: nothing looks so far beyond a struct.
 * (types.h has the number, too.) */
#define FB_SIZED_MAX 4096

/* For the source of a struct that can grow: no bytes follow its last member. A program's struct
 * would have anything in them, where the next version has a member. */
#define FB_SIZED_ENDS_WITH(type, member)                                                           \
    _Static_assert(offsetof(type, member) + sizeof(((type *)0)->member) == sizeof(type),           \
                   #type " has padding at its end")

/* Makes the caller's struct of `size` bytes the default one: what it has of `defaults`, a struct of
 * `known` bytes, and zeros after that. A size that no struct has (less than sizeof(size_t), more
 * than FB_SIZED_MAX): struct_size becomes 0, and nothing else is written. */
FB_API void fb_sized_init(void *given, size_t size, const void *defaults, size_t known);

/* Reads the caller's struct into `own`, which holds the defaults and has `known` bytes: a shorter
 * one leaves the rest at its defaults. FB_ERROR_ARGUMENT, naming the argument `name`, when
 * struct_size is a size that no struct has, or when a longer struct has anything but zeros where
 * this library knows no member. */
FB_API fb_status fb_sized_read(void *own, size_t known, const void *given, const char *name);

/* For members `unused` that fill a struct up: FB_ERROR_ARGUMENT if one is set. */
FB_API fb_status fb_sized_unused(const bool *unused, size_t count, const char *name);

/* For experimental structs: FB_ERROR_ARGUMENT unless struct_size is `known`, as their layout may
 * change from one release to the next. */
FB_API fb_status fb_sized_same(size_t struct_size, size_t known, const char *name);

#endif

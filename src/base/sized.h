/* Structs of the caller's that can grow: their first member is `size_t struct_size`, the size that
 * they had in the headers that the caller was compiled with.
 *
 * Exported for libflashblock-lm: the header is not installed. */
#ifndef FB_BASE_SIZED_H
#define FB_BASE_SIZED_H

#include <flashblock/status.h>

#include <stddef.h>

/* Makes the caller's struct of `size` bytes the default one: what it has of `defaults`, a struct of
 * `known` bytes, and zeros after that. */
FB_API void fb_sized_init(void *given, size_t size, const void *defaults, size_t known);

/* Reads the caller's struct into `own`, which holds the defaults and has `known` bytes: a shorter
 * one leaves the rest at its defaults. FB_ERROR_ARGUMENT, naming the argument `name`, when
 * struct_size was not set, or when a longer struct has anything but zeros where this library knows
 * no member. */
FB_API fb_status fb_sized_read(void *own, size_t known, const void *given, const char *name);

/* For experimental structs: FB_ERROR_ARGUMENT unless struct_size is `known`, as their layout may
 * change from one release to the next. */
FB_API fb_status fb_sized_same(size_t struct_size, size_t known, const char *name);

#endif

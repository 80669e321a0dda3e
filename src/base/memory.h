/* Aligned memory. Every allocation of the library is made here: a size is a product, and the
 * product is checked. */
#ifndef FB_BASE_MEMORY_H
#define FB_BASE_MEMORY_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

/* One cache line, and one zmm register: no vector access of a buffer's start splits a line. */
#define FB_ALIGNMENT 64

/* Buffers of this size or more are aligned to it, and the system is asked to use pages of this size
 * for them. */
#define FB_HUGE_PAGE ((size_t)2 << 20)

/* false when the result does not fit size_t; *product or *sum is then untouched. */
FB_API bool fb_size_mul(size_t a, size_t b, size_t *product);
FB_API bool fb_size_add(size_t a, size_t b, size_t *sum);

/* count * size bytes, aligned to FB_ALIGNMENT at least, uninitialised / zeroed. The error message
 * calls the buffer `what`. A size of zero gives a pointer that can be freed. */
FB_API fb_status fb_alloc(size_t count, size_t size, const char *what, void *result);
FB_API fb_status fb_alloc_zeroed(size_t count, size_t size, const char *what, void *result);

/* Frees memory of fb_alloc or fb_alloc_zeroed. NULL is allowed. */
FB_API void fb_free(void *memory);

/* Asks for huge pages: reading from pages of 4 KiB spends a tenth of its time on translating
 * addresses. It is a hint: if the system ignores it, only the speed changes. `memory` begins a
 * page; it may be a file's that is mapped. */
FB_API void fb_ask_for_huge_pages(void *memory, size_t bytes);

/* Pages of a file that is mapped, read-only, leave this process's memory; the system may keep the
 * file's. Reading them brings them back. Memory that is no file's would become zeros. */
FB_API void fb_release_pages(const void *memory, size_t bytes);

#endif

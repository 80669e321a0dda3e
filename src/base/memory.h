/* Aligned memory whose size is a product that may not fit: every allocation of the library. */
#ifndef FB_BASE_MEMORY_H
#define FB_BASE_MEMORY_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

/* One cache line, and one zmm register: no vector access of a buffer's start splits a line. */
#define FB_ALIGNMENT 64

/* From this size on, buffers are aligned to, and made of, pages of this size where there are any.
 */
#define FB_HUGE_PAGE ((size_t)2 << 20)

/* false when the product does not fit size_t; *product is then untouched. */
FB_API bool fb_size_mul(size_t a, size_t b, size_t *product);
FB_API bool fb_size_add(size_t a, size_t b, size_t *sum);

/* count * size bytes, aligned to FB_ALIGNMENT at least, uninitialised / zeroed. `what` names the
 * buffer in the message of a failure. A size of zero gives a pointer that can be freed. */
FB_API fb_status fb_alloc(size_t count, size_t size, const char *what, void *result);
FB_API fb_status fb_alloc_zeroed(size_t count, size_t size, const char *what, void *result);

/* Takes what fb_alloc gave, or NULL. */
FB_API void fb_free(void *memory);

#endif

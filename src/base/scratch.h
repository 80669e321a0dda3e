/* A pool of scratch memory. It keeps released blocks for later calls, so a decoding step allocates
 * nothing and returns no pages to the kernel. Thread-safe.
 *
 * These functions are exported only for libflashblock-lm. The header is not installed. */
#ifndef FB_BASE_SCRATCH_H
#define FB_BASE_SCRATCH_H

#include <flashblock/status.h>

#include <stddef.h>

/* At least `bytes` bytes, aligned to FB_ALIGNMENT, contents undefined. */
FB_API fb_status fb_scratch_acquire(size_t bytes, void **memory);

/* Returns memory of fb_scratch_acquire to the pool. NULL is allowed. */
FB_API void fb_scratch_release(void *memory);

#endif

/* Scratch memory that outlives calls: a pool of blocks, so that a decoding step allocates nothing
 * and returns no pages to the kernel. Thread-safe.
 *
 * Exported for libflashblock-lm alone: the header is not installed. */
#ifndef FB_BASE_SCRATCH_H
#define FB_BASE_SCRATCH_H

#include <flashblock/status.h>

#include <stddef.h>

/* At least `bytes` bytes, aligned to FB_ALIGNMENT, contents undefined. */
FB_API fb_status fb_scratch_acquire(size_t bytes, void **memory);

/* Gives back what fb_scratch_acquire gave; NULL is allowed. */
FB_API void fb_scratch_release(void *memory);

#endif

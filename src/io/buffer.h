/* An array of bytes that grows. A zeroed struct is an empty buffer. fb_buffer_free frees the
 * data. */
#ifndef FB_IO_BUFFER_H
#define FB_IO_BUFFER_H

#include <flashblock/status.h>

#include <stddef.h>

typedef struct fb_buffer {
    unsigned char *data; /* aligned as fb_alloc aligns; NULL until something is reserved */
    size_t size;
    size_t capacity;
} fb_buffer;

/* Makes room for `extra` more bytes after the present `size`. */
fb_status fb_buffer_reserve(fb_buffer *buffer, size_t extra);

/* `bytes` may be NULL when count is 0, and must not lie within the buffer. */
fb_status fb_buffer_append(fb_buffer *buffer, const void *bytes, size_t count);
fb_status fb_buffer_append_text(fb_buffer *buffer, const char *text);

/* Writes a NUL after the bytes. It is not counted in size. */
fb_status fb_buffer_terminate(fb_buffer *buffer);

void fb_buffer_free(fb_buffer *buffer);

#endif

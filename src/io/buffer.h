/* Bytes that grow. A zeroed structure is an empty buffer; data is fb_free'd by fb_buffer_free. */
#ifndef FB_IO_BUFFER_H
#define FB_IO_BUFFER_H

#include <flashblock/status.h>

#include <stddef.h>

typedef struct fb_buffer {
    unsigned char *data; /* aligned as fb_alloc aligns; NULL while nothing was reserved */
    size_t size;
    size_t capacity;
} fb_buffer;

/* Room for `extra` more bytes behind the `size` there are. */
fb_status fb_buffer_reserve(fb_buffer *buffer, size_t extra);

/* `bytes` may be NULL when count is 0, and must not lie within the buffer. */
fb_status fb_buffer_append(fb_buffer *buffer, const void *bytes, size_t count);
fb_status fb_buffer_append_text(fb_buffer *buffer, const char *text);

/* Writes a NUL behind the bytes, not counted in size. */
fb_status fb_buffer_terminate(fb_buffer *buffer);

void fb_buffer_free(fb_buffer *buffer);

#endif

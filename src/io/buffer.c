#include "io/buffer.h"

#include "base/error.h"
#include "base/memory.h"

#include <string.h>

fb_status fb_buffer_reserve(fb_buffer *buffer, size_t extra) {
    if (extra <= buffer->capacity - buffer->size)
        return FB_OK;
    size_t needed = 0;
    if (!fb_size_add(buffer->size, extra, &needed))
        return fb_fail(FB_ERROR_MEMORY, "buffer: %zu + %zu bytes", buffer->size, extra);
    size_t doubled = buffer->capacity + buffer->capacity / 2 + 64;
    size_t capacity = doubled > needed ? doubled : needed;
    unsigned char *data = NULL;
    FB_TRY(fb_alloc(capacity, 1, "buffer", &data));
    if (buffer->size > 0)
        memcpy(data, buffer->data, buffer->size);
    fb_free(buffer->data);
    buffer->data = data;
    buffer->capacity = capacity;
    return FB_OK;
}

fb_status fb_buffer_append(fb_buffer *buffer, const void *bytes, size_t count) {
    FB_TRY(fb_buffer_reserve(buffer, count));
    if (count > 0)
        memcpy(buffer->data + buffer->size, bytes, count);
    buffer->size += count;
    return FB_OK;
}

fb_status fb_buffer_append_text(fb_buffer *buffer, const char *text) {
    return fb_buffer_append(buffer, text, strlen(text));
}

fb_status fb_buffer_terminate(fb_buffer *buffer) {
    FB_TRY(fb_buffer_reserve(buffer, 1));
    buffer->data[buffer->size] = '\0';
    return FB_OK;
}

void fb_buffer_free(fb_buffer *buffer) {
    fb_free(buffer->data);
    *buffer = (fb_buffer){0};
}

#include "cli/page/page.h"

#include "base/error.h"
#include "io/file.h"

#include <string.h>

/* A "<" could end the element that holds the recording. In JSON it stands in texts only. */
static fb_status put_recording(fb_file_writer *writer, const fb_buffer *recording) {
    const unsigned char *at = recording->data, *end = at + recording->size;
    while (at < end) {
        const unsigned char *found = memchr(at, '<', (size_t)(end - at));
        const unsigned char *stop = found ? found : end;
        FB_TRY(fb_file_writer_put(writer, at, (size_t)(stop - at)));
        if (found)
            FB_TRY(fb_file_writer_put(writer, "\\u003c", 6));
        at = stop + (found != NULL);
    }
    return FB_OK;
}

static fb_status put_page(fb_file_writer *writer, const fb_buffer *recording) {
    size_t behind = fb_page_recording_at + strlen("null");
    FB_TRY(fb_file_writer_put(writer, fb_page_text, fb_page_recording_at));
    FB_TRY(put_recording(writer, recording));
    return fb_file_writer_put(writer, fb_page_text + behind, fb_page_size - behind);
}

fb_status fb_page_write(const fb_buffer *recording, const char *path) {
    fb_file_writer *writer = NULL;
    FB_TRY(fb_file_writer_open(path, &writer));
    fb_status status = put_page(writer, recording);
    if (status == FB_OK)
        return fb_file_writer_commit(writer);
    fb_file_writer_abandon(writer);
    return status;
}

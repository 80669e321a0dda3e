#include "io/file_outputs.h"

#include "base/error.h"
#include "io/buffer.h"

typedef struct identity {
    dev_t device;
    ino_t number;
    bool was_read; /* or would have been */
} identity;

static bool noting, expected;
static fb_buffer noted; /* of identity */

fb_status fb_file_outputs_note(const struct stat *file) {
    identity one = {.device = file->st_dev, .number = file->st_ino};
    return noting && S_ISREG(file->st_mode) ? fb_buffer_append(&noted, &one, sizeof one) : FB_OK;
}

static identity *find(const struct stat *file) {
    identity *files = (identity *)(void *)noted.data;
    for (size_t i = 0; i < noted.size / sizeof *files; i++)
        if (files[i].device == file->st_dev && files[i].number == file->st_ino)
            return &files[i];
    return NULL;
}

fb_status fb_file_outputs_check(int fd, const char *path) {
    struct stat status;
    identity *found = noted.size > 0 && fstat(fd, &status) == 0 ? find(&status) : NULL;
    if (!found)
        return FB_OK;
    found->was_read = true;
    return fb_fail(FB_ERROR_ARGUMENT,
                   "%s: is read, and an output of the same command would overwrite it", path);
}

bool fb_file_outputs_was_read(const struct stat *file) {
    const identity *found = find(file);
    return found && found->was_read;
}

void fb_file_outputs_expect(void) {
    expected = noting;
}

bool fb_file_outputs_expected(void) {
    return expected;
}

void fb_file_outputs_begin(void) {
    noting = true;
}

void fb_file_outputs_end(void) {
    noting = false;
    expected = false;
    fb_buffer_free(&noted);
}

#include "io/file.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/buffer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static fb_status fail_with_errno(const char *path, const char *what) {
    int code = errno;
    return fb_fail(FB_ERROR_IO, "%s: %s: %s", path, what, strerror(code));
}

/* Finds the first link in `path` that leads to nothing. Returns its length within `path`, or 0;
 * target[0 .. size) gets what the link says. */
static size_t find_dangling_link(const char *path, char *target, size_t size) {
    char prefix[PATH_MAX];
    struct stat status;
    for (size_t end = 1; end < sizeof prefix; end++) {
        if (path[end] == '/' || path[end] == '\0') {
            memcpy(prefix, path, end);
            prefix[end] = '\0';
            ssize_t length = stat(prefix, &status) != 0 ? readlink(prefix, target, size - 1) : -1;
            if (length > 0) {
                target[length] = '\0';
                return end;
            }
        }
        if (path[end] == '\0')
            break;
    }
    return 0;
}

static fb_status fail_to_open(const char *path) {
    char target[PATH_MAX];
    int code = errno;
    size_t length = code == ENOENT && path[0] ? find_dangling_link(path, target, sizeof target) : 0;
    errno = code;
    if (length == 0)
        return fail_with_errno(path, "cannot open");
    if (path[length] == '\0')
        return fb_fail(FB_ERROR_IO, "%s: is a link to %s, and nothing is there", path, target);
    return fb_fail(FB_ERROR_IO, "%s: cannot open: %.*s is a link to %s, and nothing is there", path,
                   (int)length, path, target);
}

/* O_NONBLOCK: opening a pipe must not wait for a writer, because a pipe is refused anyway. */
static fb_status open_regular(const char *path, int *descriptor, size_t *size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fail_to_open(path);
    struct stat status;
    if (fstat(fd, &status) != 0) {
        fb_status failure = fail_with_errno(path, "cannot stat");
        close(fd);
        return failure;
    }
    if (!S_ISREG(status.st_mode) || status.st_size < 0 || (uintmax_t)status.st_size > SIZE_MAX) {
        close(fd);
        return fb_fail(FB_ERROR_IO, "%s: not a regular file", path);
    }
    *descriptor = fd;
    *size = (size_t)status.st_size;
    return FB_OK;
}

fb_status fb_file_check_content(const char *path, const void *data, size_t size) {
    static const char first_line[] = "version https://git-lfs.github.com/spec/";
    const size_t length = sizeof first_line - 1;
    if (size < length || memcmp(data, first_line, length) != 0)
        return FB_OK;
    return fb_fail(
        FB_ERROR_FORMAT,
        "%s: is a Git LFS pointer and not the file itself: fetch that with 'git lfs pull'", path);
}

fb_status fb_file_map_open(const char *path, fb_file_map *map) {
    int fd = -1;
    size_t size = 0;
    FB_TRY(open_regular(path, &fd, &size));
    if (size == 0) { /* mmap refuses it */
        close(fd);
        *map = (fb_file_map){.data = "", .size = 0};
        return FB_OK;
    }
    void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    fb_status status = data == MAP_FAILED ? fail_with_errno(path, "cannot map") : FB_OK;
    close(fd);
    FB_TRY(status);
    fb_file_map made = {.data = data, .size = size};
    status = fb_file_check_content(path, data, size);
    if (status == FB_OK)
        *map = made;
    else
        fb_file_map_close(&made);
    return status;
}

void fb_file_map_close(fb_file_map *map) {
    if (map->size > 0)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (fb_file_map){0};
}

enum { READ_SIZE = 65536 };

/* Appends everything up to the end of `fd`, and a NUL. FB_ERROR_FORMAT above `limit` bytes. */
static fb_status read_to_end(int fd, const char *path, size_t limit, fb_buffer *buffer) {
    for (;;) {
        FB_TRY(fb_buffer_reserve(buffer, READ_SIZE));
        ssize_t got = read(fd, buffer->data + buffer->size, buffer->capacity - buffer->size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail_with_errno(path, "cannot read");
        if (got == 0)
            return fb_buffer_terminate(buffer);
        buffer->size += (size_t)got;
        if (buffer->size > limit)
            return fb_fail(FB_ERROR_FORMAT, "%s: more than %zu bytes", path, limit);
    }
}

fb_status fb_file_read(const char *path, size_t limit, char **data, size_t *size) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_to_open(path);
    fb_buffer buffer = {0};
    fb_status status = read_to_end(fd, path, limit, &buffer);
    close(fd);
    if (status != FB_OK) {
        fb_buffer_free(&buffer);
        return status;
    }
    *data = (char *)(void *)buffer.data;
    *size = buffer.size;
    return FB_OK;
}

bool fb_file_exists(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

bool fb_file_is_directory(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

fb_status fb_path_join(const char *directory, const char *name, char **path) {
    size_t directory_length = strlen(directory), name_length = strlen(name);
    char *joined = NULL;
    FB_TRY(fb_alloc(directory_length + name_length + 2, 1, "path", &joined));
    memcpy(joined, directory, directory_length);
    if (directory_length > 0 && directory[directory_length - 1] != '/')
        joined[directory_length++] = '/';
    memcpy(joined + directory_length, name, name_length + 1);
    *path = joined;
    return FB_OK;
}

struct fb_file_writer {
    FILE *stream;
    char *path;
    char *temporary; /* NULL when path is written directly */
};

static void writer_free(fb_file_writer *writer) {
    fb_free(writer->path);
    fb_free(writer->temporary);
    fb_free(writer);
}

/* The counter gives every writer of this process its own name, and O_EXCL guards against names of
 * other processes. The mode is 0666 so that the umask decides, as for a file written in place. */
static fb_status open_temporary(fb_file_writer *writer, int *descriptor) {
    static atomic_uint counter;
    size_t size = strlen(writer->path) + 64;
    FB_TRY(fb_alloc(size, 1, "path", &writer->temporary));
    snprintf(writer->temporary, size, "%s.tmp-%ld-%u", writer->path, (long)getpid(),
             atomic_fetch_add(&counter, 1));
    int fd = open(writer->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return fail_with_errno(writer->path, "cannot create a file beside it");
    *descriptor = fd;
    return FB_OK;
}

static fb_status open_target(fb_file_writer *writer, int *descriptor) {
    struct stat status;
    bool special = stat(writer->path, &status) == 0 && !S_ISREG(status.st_mode);
    if (!special)
        return open_temporary(writer, descriptor);
    int fd = open(writer->path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_with_errno(writer->path, "cannot open for writing");
    *descriptor = fd;
    return FB_OK;
}

fb_status fb_file_writer_open(const char *path, fb_file_writer **writer) {
    fb_file_writer *made = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "file writer", &made));
    int fd = -1;
    fb_status status = fb_path_join("", path, &made->path);
    if (status == FB_OK)
        status = open_target(made, &fd);
    if (status != FB_OK) {
        writer_free(made);
        return status;
    }
    made->stream = fdopen(fd, "wb");
    if (!made->stream) {
        status = fail_with_errno(path, "cannot open a stream");
        close(fd);
        if (made->temporary)
            unlink(made->temporary);
        writer_free(made);
        return status;
    }
    *writer = made;
    return FB_OK;
}

fb_status fb_file_writer_put(fb_file_writer *writer, const void *data, size_t size) {
    if (size > 0 && fwrite(data, 1, size, writer->stream) != size)
        return fail_with_errno(writer->path, "cannot write");
    return FB_OK;
}

fb_status fb_file_writer_commit(fb_file_writer *writer) {
    fb_status status = FB_OK;
    bool written = fflush(writer->stream) == 0;
    if (written && writer->temporary)
        written = fsync(fileno(writer->stream)) == 0;
    if (!written)
        status = fail_with_errno(writer->path, "cannot write");
    if (fclose(writer->stream) != 0 && status == FB_OK)
        status = fail_with_errno(writer->path, "cannot write");
    if (writer->temporary) {
        if (status == FB_OK && rename(writer->temporary, writer->path) != 0)
            status = fail_with_errno(writer->path, "cannot rename the finished file to it");
        if (status != FB_OK)
            unlink(writer->temporary);
    }
    writer_free(writer);
    return status;
}

void fb_file_writer_abandon(fb_file_writer *writer) {
    if (!writer)
        return;
    fclose(writer->stream);
    if (writer->temporary)
        unlink(writer->temporary);
    writer_free(writer);
}

fb_status fb_file_write(const char *path, const void *data, size_t size) {
    fb_file_writer *writer = NULL;
    FB_TRY(fb_file_writer_open(path, &writer));
    fb_status status = fb_file_writer_put(writer, data, size);
    if (status != FB_OK) {
        fb_file_writer_abandon(writer);
        return status;
    }
    return fb_file_writer_commit(writer);
}

#include "io/file.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/buffer.h"
#include "io/file_outputs.h"
#include "io/file_place.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
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

/* A descriptor of this process is used as it is, from its offset on. */
static fb_status open_to_read(const char *path, int *descriptor) {
    int own = fb_file_place_descriptor(path);
    int fd = own < 0 ? open(path, O_RDONLY | O_CLOEXEC) : fcntl(own, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return fail_to_open(path);
    fb_status status = fb_file_outputs_check(fd, path);
    if (status != FB_OK)
        close(fd);
    else
        *descriptor = fd;
    return status;
}

enum { READ_SIZE = 65536 };

/* Appends everything up to the end of `fd`, and a NUL. FB_ERROR_FORMAT above `limit` bytes. */
static fb_status read_to_end(int fd, const char *path, size_t limit, fb_buffer *buffer) {
    for (;;) {
        FB_TRY(fb_buffer_reserve(buffer, READ_SIZE));
        ssize_t got = read(fd, buffer->data + buffer->size, buffer->capacity - buffer->size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN) { /* somebody set O_NONBLOCK on what we were given */
            poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, -1);
            continue;
        }
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
    int fd = -1;
    FB_TRY(open_to_read(path, &fd));
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

static bool begins_with(const char *data, size_t size, const char *bytes) {
    return size >= strlen(bytes) && memcmp(data, bytes, strlen(bytes)) == 0;
}

fb_status fb_file_read_text(const char *path, size_t limit, char **data, size_t *size) {
    FB_TRY(fb_file_read(path, limit, data, size));
    if (begins_with(*data, *size, "\xff\xfe") || begins_with(*data, *size, "\xfe\xff")) {
        fb_free(*data);
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: begins with the byte order mark of UTF-16; expected UTF-8", path);
    }
    static const char mark[] = "\xef\xbb\xbf";
    if (!begins_with(*data, *size, mark))
        return FB_OK;
    *size -= strlen(mark);
    memmove(*data, *data + strlen(mark), *size + 1); /* and the NUL */
    return FB_OK;
}

/* --- maps ------------------------------------------------------------------------------------- */

/* Files from here on are weights. Smaller ones do not fill many huge pages. */
enum { LARGE_FILE = 64 << 20 };

/* Maps what follows the descriptor's offset, which stays. */
static fb_status map_regular(int fd, const char *path, const struct stat *status,
                             fb_file_map *map) {
    off_t offset = lseek(fd, 0, SEEK_CUR);
    if (status->st_size < 0 || (uintmax_t)status->st_size > SIZE_MAX)
        return fb_fail(FB_ERROR_IO, "%s: too large for the address space", path);
    *map = (fb_file_map){.data = ""};
    if (offset < 0 || offset >= status->st_size) /* mmap refuses a size of 0 */
        return FB_OK;
    size_t size = (size_t)status->st_size;
    void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED && errno == ENOMEM) /* says nothing about the file */
        return fb_fail(FB_ERROR_MEMORY, "%s: cannot map %zu bytes: %s", path, size,
                       strerror(errno));
    if (data == MAP_FAILED)
        return fail_with_errno(path, "cannot map");
    if (size >= LARGE_FILE)
        fb_ask_for_huge_pages(data, size);
    *map = (fb_file_map){.data = (const char *)data + offset,
                         .size = size - (size_t)offset,
                         .mapped = data,
                         .mapped_size = size};
    return FB_OK;
}

/* A pipe, a socket or a device has no pages to map. */
static fb_status map_by_reading(int fd, const char *path, fb_file_map *map) {
    fb_buffer buffer = {0};
    fb_status status = read_to_end(fd, path, SIZE_MAX / 2, &buffer);
    if (status != FB_OK) {
        fb_buffer_free(&buffer);
        return status;
    }
    *map = (fb_file_map){.data = buffer.data, .size = buffer.size, .read = buffer.data};
    return FB_OK;
}

/* What follows the descriptor's offset, in memory of just that size. */
static fb_status read_regular(int fd, const char *path, const struct stat *status,
                              fb_file_map *map) {
    off_t offset = lseek(fd, 0, SEEK_CUR);
    *map = (fb_file_map){.data = ""};
    if (offset < 0 || offset >= status->st_size)
        return FB_OK;
    size_t size = (size_t)(status->st_size - offset), done = 0;
    FB_TRY(fb_alloc(size, 1, path, &map->read));
    while (done < size) {
        ssize_t got = pread(fd, (char *)map->read + done, size - done, offset + (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            fb_status result = got < 0 ? fail_with_errno(path, "cannot read")
                                       : fb_fail(FB_ERROR_IO,
                                                 "%s: became shorter while it was "
                                                 "read",
                                                 path);
            fb_file_map_close(map);
            return result;
        }
        done += (size_t)got;
    }
    map->data = map->read;
    map->size = size;
    return FB_OK;
}

static fb_status map_descriptor(int fd, const char *path, bool reads, fb_file_map *map) {
    struct stat status;
    if (fstat(fd, &status) != 0)
        return fail_with_errno(path, "cannot stat");
    if (S_ISDIR(status.st_mode))
        return fb_fail(FB_ERROR_IO, "%s: is a directory", path);
    if (S_ISREG(status.st_mode))
        return (reads ? read_regular : map_regular)(fd, path, &status, map);
    return map_by_reading(fd, path, map);
}

static fb_status open_map(const char *path, bool reads, fb_file_map *map) {
    int fd = -1;
    fb_file_map made = {0};
    FB_TRY(open_to_read(path, &fd));
    fb_status status = map_descriptor(fd, path, reads, &made);
    close(fd);
    FB_TRY(status);
    *map = made;
    return FB_OK;
}

fb_status fb_file_map_open(const char *path, fb_file_map *map) {
    return open_map(path, false, map);
}

fb_status fb_file_map_by_reading(const char *path, fb_file_map *map) {
    return open_map(path, true, map);
}

void fb_file_map_release(const fb_file_map *map, const void *data, size_t bytes) {
    uintptr_t begin = (uintptr_t)map->mapped, first = (uintptr_t)data;
    if (map->mapped && first >= begin && first - begin <= map->mapped_size &&
        bytes <= map->mapped_size - (first - begin))
        fb_release_pages(data, bytes);
}

void fb_file_map_close(fb_file_map *map) {
    if (map->mapped)
        munmap(map->mapped, map->mapped_size);
    fb_free(map->read);
    *map = (fb_file_map){0};
}

/* --- paths ------------------------------------------------------------------------------------ */

bool fb_file_exists(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0 || (errno != ENOENT && errno != ENOTDIR);
}

bool fb_file_is_directory(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

bool fb_file_is_file(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

bool fb_file_is_stream(const char *path) {
    struct stat status;
    int own = fb_file_place_descriptor(path);
    if ((own < 0 ? stat(path, &status) : fstat(own, &status)) != 0)
        return false;
    return !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode);
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

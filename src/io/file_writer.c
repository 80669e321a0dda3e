#define _GNU_SOURCE /* renameat2 */
#include "io/file_writer.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file_outputs.h"
#include "io/file_temporary.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { FLUSH_SIZE = 1 << 20 };

static fb_status fail(const char *path, const char *what, int code) {
    return fb_fail(FB_ERROR_IO, "%s: %s: %s", path, what, strerror(code));
}

/* --- descriptors ------------------------------------------------------------------------------ */

static int write_all(int fd, const void *data, size_t size) {
    const char *at = data;
    while (size > 0) {
        ssize_t written = write(fd, at, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0 && errno == EAGAIN) { /* somebody set O_NONBLOCK on what we were given */
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
            continue;
        }
        if (written < 0)
            return errno;
        at += written;
        size -= (size_t)written;
    }
    return 0;
}

/* Appends `size` bytes of the file's beginning. */
static int read_all(int fd, size_t size, fb_buffer *to) {
    if (fb_buffer_reserve(to, size) != FB_OK)
        return ENOMEM;
    for (size_t done = 0; done < size;) {
        ssize_t got = pread(fd, to->data + to->size, size - done, (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? errno : EIO;
        done += (size_t)got;
        to->size += (size_t)got;
    }
    return 0;
}

/* Some file systems say what is wrong when the last descriptor is closed, or any one is. */
static int sync_and_ask(int fd) {
    if (fsync(fd) != 0 && errno != EINVAL && errno != EROFS && errno != ENOTSUP)
        return errno;
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return copy >= 0 && close(copy) != 0 ? errno : 0;
}

/* --- filling ---------------------------------------------------------------------------------- */

static void drop_temporary(fb_file_writer *writer) {
    if (writer->fd >= 0)
        close(writer->fd);
    writer->fd = -1;
    fb_file_temporary_remove(writer->temporary);
    writer->temporary = NULL;
}

/* Brings the bytes of the temporary file back, and gives the file up. False when memory does not
 * hold them; the file then stays. */
static bool pull_back(fb_file_writer *writer) {
    fb_buffer all = {0};
    if (writer->fd < 0)
        return true;
    if (read_all(writer->fd, writer->in_file, &all) != 0 ||
        fb_buffer_append(&all, writer->memory.data, writer->memory.size) != FB_OK) {
        fb_buffer_free(&all);
        return false;
    }
    fb_buffer_free(&writer->memory);
    writer->memory = all;
    writer->in_file = 0;
    drop_temporary(writer);
    return true;
}

static void flush(fb_file_writer *writer) {
    if (writer->fd < 0 || writer->code != 0)
        return;
    off_t end = (off_t)writer->in_file;
    writer->code = write_all(writer->fd, writer->memory.data, writer->memory.size);
    if (writer->code == 0) {
        writer->in_file += writer->memory.size;
        writer->memory.size = 0;
    } else if (ftruncate(writer->fd, end) == 0 && lseek(writer->fd, end, SEEK_SET) == end) {
        pull_back(writer);
    }
}

void fb_file_writer_finish(fb_file_writer *writer) {
    flush(writer);
    if (writer->fd < 0 || writer->code != 0)
        return;
    writer->code = sync_and_ask(writer->fd);
    if (writer->code != 0)
        pull_back(writer);
}

fb_status fb_file_writer_put(fb_file_writer *writer, const void *data, size_t size) {
    FB_TRY(fb_buffer_append(&writer->memory, data, size));
    if (writer->memory.size >= FLUSH_SIZE)
        flush(writer);
    return FB_OK;
}

/* --- opening ---------------------------------------------------------------------------------- */

bool fb_file_writer_is_regular(const fb_file_writer *writer) {
    return writer->place.descriptor < 0 &&
           (!writer->place.exists || S_ISREG(writer->place.status.st_mode));
}

/* Whether a descriptor or a file that is there may be written. */
static fb_status check_access(const char *path, const fb_file_place *place) {
    if (place->descriptor >= 0) {
        int flags = fcntl(place->descriptor, F_GETFL);
        if (flags >= 0 && (flags & O_ACCMODE) == O_RDONLY)
            errno = EBADF;
        else if (flags >= 0)
            return FB_OK;
    } else if (!place->exists) {
        return FB_OK;
    } else if (S_ISDIR(place->status.st_mode)) {
        errno = EISDIR;
    } else if (S_ISSOCK(place->status.st_mode)) {
        errno = ENXIO;
    } else if (faccessat(AT_FDCWD, place->path, W_OK, AT_EACCESS) == 0) {
        return FB_OK;
    }
    return fail(path, "cannot write", errno);
}

/* Gives the temporary file the owner and the permissions of the one that it is to replace. */
static bool take_over(int fd, const struct stat *old) {
    struct stat status;
    if (fstat(fd, &status) != 0)
        return false;
    bool same_owner = status.st_uid == old->st_uid && status.st_gid == old->st_gid;
    if (!same_owner && fchown(fd, old->st_uid, old->st_gid) != 0)
        return false;
    return fchmod(fd, old->st_mode & 07777) == 0;
}

/* A temporary file that can be renamed to the place, if there can be one. */
static fb_status open_temporary(fb_file_writer *writer) {
    const fb_file_place *place = &writer->place;
    if (place->exists && (place->status.st_nlink > 1 ||
                          getxattr(place->path, "system.posix_acl_access", NULL, 0) > 0))
        return FB_OK;
    writer->fd = fb_file_temporary_open(place->path, &writer->temporary);
    if (writer->fd < 0 && !place->exists)
        return fail(writer->path, "cannot make it", errno);
    if (writer->fd >= 0 && place->exists && !take_over(writer->fd, &place->status))
        drop_temporary(writer);
    return FB_OK;
}

static fb_status open_writer(fb_file_writer *writer, const char *path) {
    FB_TRY(fb_path_join("", path, &writer->path));
    FB_TRY(fb_file_place_find(path, &writer->place));
    FB_TRY(check_access(path, &writer->place));
    if (writer->place.path && writer->place.exists &&
        fb_file_outputs_was_read(&writer->place.status))
        return fb_fail(FB_ERROR_IO, "%s: is read by the same command", path);
    return fb_file_writer_is_regular(writer) ? open_temporary(writer) : FB_OK;
}

static fb_status make_writer(fb_file_writer **writer) {
    FB_TRY(fb_alloc_zeroed(1, sizeof **writer, "file writer", writer));
    (*writer)->fd = -1;
    (*writer)->place.descriptor = -1;
    return FB_OK;
}

fb_status fb_file_writer_make(const char *path, bool keeps_bytes, fb_file_writer **writer) {
    fb_file_writer *made = NULL;
    FB_TRY(make_writer(&made));
    fb_status status = open_writer(made, path);
    if (status == FB_ERROR_IO && keeps_bytes)
        status = fb_path_join("", fb_error_message(), &made->broken);
    if (status == FB_OK)
        *writer = made;
    else
        fb_file_writer_abandon(made);
    return status;
}

void fb_file_writer_abandon(fb_file_writer *writer) {
    if (!writer)
        return;
    drop_temporary(writer);
    fb_buffer_free(&writer->memory);
    fb_buffer_free(&writer->old);
    fb_file_place_free(&writer->place);
    fb_free(writer->path);
    fb_free(writer->broken);
    fb_free(writer);
}

fb_status fb_file_check_writable(const char *path) {
    fb_file_writer *writer = NULL;
    FB_TRY(make_writer(&writer));
    fb_status status = open_writer(writer, path);
    if (status == FB_OK && writer->place.path && writer->place.exists)
        status = fb_file_outputs_note(&writer->place.status);
    fb_file_writer_abandon(writer);
    return status;
}

/* --- in place --------------------------------------------------------------------------------- */

static int overwrite(int fd, const fb_buffer *bytes) {
    if (lseek(fd, 0, SEEK_SET) != 0)
        return errno;
    int code = write_all(fd, bytes->data, bytes->size);
    if (code == 0 && ftruncate(fd, (off_t)bytes->size) != 0)
        code = errno;
    return code == 0 ? sync_and_ask(fd) : code;
}

/* The room is asked for before a byte of the old ones is lost. */
static int overwrite_with_room(int fd, size_t old_size, const fb_buffer *bytes) {
    if (bytes->size > old_size) {
        int code = posix_fallocate(fd, 0, (off_t)bytes->size);
        if (code != 0 && code != EINVAL && code != EOPNOTSUPP)
            return code;
    }
    return overwrite(fd, bytes);
}

/* Keeps the bytes that are there. */
static int keep_old(fb_file_writer *writer) {
    struct stat status;
    int fd = open(writer->place.path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) /* write-only: there is no way back */
        return errno == EACCES || errno == EPERM ? 0 : errno;
    int code = fstat(fd, &status) != 0 ? errno : 0;
    if (code == 0)
        code = read_all(fd, (size_t)status.st_size, &writer->old);
    close(fd);
    writer->has_old = code == 0;
    return code;
}

static int place_in_place(fb_file_writer *writer) {
    struct stat status;
    if (!pull_back(writer))
        return ENOMEM;
    int code = writer->place.exists ? keep_old(writer) : 0;
    if (code != 0)
        return code;
    int how = O_WRONLY | O_CLOEXEC | O_NOFOLLOW | (writer->place.exists ? 0 : O_CREAT | O_EXCL);
    int fd = open(writer->place.path, how, 0666);
    if (fd < 0)
        return errno;
    code = fstat(fd, &status) != 0 ? errno : 0;
    if (code == 0)
        code = overwrite_with_room(fd, (size_t)status.st_size, &writer->memory);
    if (code != 0 && !writer->place.exists)
        unlink(writer->place.path);
    else if (code != 0 && writer->has_old)
        overwrite(fd, &writer->old);
    if (close(fd) != 0 && code == 0)
        code = errno;
    return code;
}

/* --- renaming --------------------------------------------------------------------------------- */

/* An entry of a folder is on the disk when the folder is. */
static void sync_folder(const char *path) {
    char folder[4096];
    const char *slash = strrchr(path, '/');
    int length = slash && slash > path ? (int)(slash - path) : 1;
    snprintf(folder, sizeof folder, "%.*s", length, path);
    int fd = open(folder, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    fsync(fd);
    close(fd);
}

/* The old file gets the temporary's name, so that it can come back. */
static int place_by_renaming(fb_file_writer *writer) {
    const char *from = writer->temporary, *to = writer->place.path;
    if (writer->place.exists && renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_EXCHANGE) == 0) {
        writer->exchanged = true;
        return 0;
    }
    if (writer->place.exists && (errno == EINVAL || errno == ENOSYS))
        keep_old(writer); /* this file system cannot exchange names */
    if (rename(from, to) != 0)
        return errno;
    fb_file_temporary_forget(writer->temporary);
    writer->temporary = NULL;
    return 0;
}

int fb_file_writer_copy(fb_file_writer *writer, int to) {
    char bytes[65536];
    for (size_t done = 0; done < writer->in_file;) {
        size_t left = writer->in_file - done;
        ssize_t got =
            pread(writer->fd, bytes, left < sizeof bytes ? left : sizeof bytes, (off_t)done);
        if (got <= 0)
            return got < 0 ? errno : EIO;
        int code = write_all(to, bytes, (size_t)got);
        if (code != 0)
            return code;
        done += (size_t)got;
    }
    return write_all(to, writer->memory.data, writer->memory.size);
}

/* Without the signal of a pipe whose reader has gone. */
static int copy_quietly(fb_file_writer *writer, int to) {
    sigset_t pipe, pending, before;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &pipe, &before);
    int code = fb_file_writer_copy(writer, to);
    if (code == EPIPE && !sigismember(&pending, SIGPIPE)) {
        const struct timespec now = {0};
        sigtimedwait(&pipe, NULL, &now);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

/* A pipe whose reader has gone is an error here, and not the end of the process: there may be more
 * to write. Standard output is as everywhere. */
static int place_in_stream(fb_file_writer *writer) {
    int own = writer->place.descriptor;
    if (own == STDOUT_FILENO && fflush(stdout) != 0)
        return errno;
    int fd = own >= 0 ? own : open(writer->place.path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return errno;
    int code = own == STDOUT_FILENO ? fb_file_writer_copy(writer, fd) : copy_quietly(writer, fd);
    if (own < 0 && close(fd) != 0 && code == 0)
        code = errno;
    if (own >= 0 && code == 0)
        code = sync_and_ask(own);
    return code;
}

/* --- the place -------------------------------------------------------------------------------- */

int fb_file_writer_place(fb_file_writer *writer) {
    if (writer->broken)
        return EIO;
    if (!fb_file_writer_is_regular(writer))
        return place_in_stream(writer);
    int code = writer->fd >= 0 && writer->code == 0 ? place_by_renaming(writer) : -1;
    if (code != 0) /* a mount point, a folder that takes no new name */
        code = place_in_place(writer);
    writer->placed = code == 0;
    if (code != 0)
        return writer->code != 0 ? writer->code : code;
    sync_folder(writer->place.path);
    return 0;
}

static void write_old_back(const fb_file_writer *writer) {
    int fd = open(writer->place.path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return;
    overwrite(fd, &writer->old);
    close(fd);
}

void fb_file_writer_take_back(fb_file_writer *writer) {
    if (!writer->placed)
        return;
    writer->placed = false;
    if (writer->exchanged) {
        renameat2(AT_FDCWD, writer->temporary, AT_FDCWD, writer->place.path, RENAME_EXCHANGE);
        writer->exchanged = false;
        return;
    }
    pull_back(writer); /* the bytes stay open under the name that now goes, or changes */
    if (writer->has_old)
        write_old_back(writer);
    else if (!writer->place.exists)
        unlink(writer->place.path);
}

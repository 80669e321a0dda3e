#define _GNU_SOURCE /* renameat2 */
#include "io/folder_writer.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/file_temporary.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILES = 32 }; /* that a handler of signals removes */

struct fb_folder_writer {
    char *path, *temporary;
    char *files[MAX_FILES]; /* of the temporary folder, noted */
    size_t num_files;
    const char *name; /* of the present file: one of `files`, or own_name */
    char *own_name;
    int fd; /* -1: none */
};

static fb_status fail(const char *path, const char *what) {
    return fb_fail(FB_ERROR_IO, "%s: %s: %s", path, what, strerror(errno));
}

/* --- what processes left that were killed ----------------------------------------------------- */

static void remove_folder(const char *path) {
    DIR *entries = opendir(path);
    for (struct dirent *entry; entries && (entry = readdir(entries));)
        unlinkat(dirfd(entries), entry->d_name, 0); /* "." and ".." it refuses */
    if (entries)
        closedir(entries);
    rmdir(path);
}

/* The folder's name after PATH.tmp- is a process that has ended. */
static bool is_left_over(const char *numbers) {
    char *end = NULL;
    long pid = strtol(numbers, &end, 10);
    return numbers[0] >= '1' && numbers[0] <= '9' && *end == '\0' && pid <= INT_MAX &&
           pid != (long)getpid() && kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

static void remove_left_over(const char *path) {
    char folder[PATH_MAX], found[2 * PATH_MAX];
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
    size_t length = strlen(base);
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1,
             slash ? path : ".");
    DIR *entries = opendir(folder);
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        const char *name = entry->d_name;
        if (strncmp(name, base, length) != 0 || strncmp(name + length, ".tmp-", 5) != 0 ||
            !is_left_over(name + length + 5))
            continue;
        snprintf(found, sizeof found, "%s/%s", folder, name);
        remove_folder(found);
    }
    if (entries)
        closedir(entries);
}

/* --- writing ---------------------------------------------------------------------------------- */

/* Without the slashes at its end. */
static fb_status copy_path(const char *path, char **copy) {
    FB_TRY(fb_path_join("", path, copy));
    for (size_t length = strlen(*copy); length > 1 && (*copy)[length - 1] == '/'; length--)
        (*copy)[length - 1] = '\0';
    return FB_OK;
}

static fb_status make_folder(fb_folder_writer *writer) {
    enum { SUFFIX = 32 };
    size_t size = strlen(writer->path) + SUFFIX;
    if (fb_file_exists(writer->path))
        return fb_fail(FB_ERROR_IO, "%s: exists already", writer->path);
    remove_left_over(writer->path);
    FB_TRY(fb_alloc(size, 1, "path", &writer->temporary));
    snprintf(writer->temporary, size, "%s.tmp-%ld", writer->path, (long)getpid());
    fb_file_hold_signals();
    bool made = mkdir(writer->temporary, 0777) == 0;
    int code = errno;
    if (made)
        fb_file_temporary_note_folder(writer->temporary);
    fb_file_release_signals();
    if (made)
        return FB_OK;
    fb_free(writer->temporary);
    writer->temporary = NULL;
    errno = code;
    return fail(writer->path, "cannot make it");
}

fb_status fb_folder_writer_open(const char *path, fb_folder_writer **writer) {
    fb_folder_writer *made = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "folder writer", &made));
    made->fd = -1;
    fb_status status = copy_path(path, &made->path);
    if (status == FB_OK)
        status = make_folder(made);
    if (status != FB_OK) {
        fb_folder_writer_abandon(made);
        return status;
    }
    *writer = made;
    return FB_OK;
}

static fb_status end_file(fb_folder_writer *writer) {
    if (writer->fd < 0)
        return FB_OK;
    int fd = writer->fd;
    writer->fd = -1;
    if (fsync(fd) != 0 && errno != EINVAL && errno != EROFS) {
        fb_status status = fail(writer->name, "cannot write");
        close(fd);
        return status;
    }
    return close(fd) == 0 ? FB_OK : fail(writer->name, "cannot write");
}

fb_status fb_folder_writer_begin(fb_folder_writer *writer, const char *name) {
    char *path = NULL;
    FB_TRY(end_file(writer));
    if (writer->num_files == MAX_FILES)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: more than %d files", writer->path,
                       (int)MAX_FILES);
    FB_TRY(fb_path_join(writer->temporary, name, &path));
    fb_file_hold_signals();
    writer->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    int code = errno;
    if (writer->fd >= 0)
        fb_file_temporary_note(path);
    fb_file_release_signals();
    errno = code;
    fb_status status = writer->fd >= 0 ? FB_OK : fail(path, "cannot make it");
    if (writer->fd >= 0) {
        writer->files[writer->num_files++] = path;
        writer->name = path;
    } else {
        fb_free(path);
    }
    return status;
}

fb_status fb_folder_writer_put(fb_folder_writer *writer, const void *data, size_t size) {
    const char *at = data;
    while (size > 0) {
        ssize_t written = write(writer->fd, at, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return fail(writer->name, "cannot write");
        at += written;
        size -= (size_t)written;
    }
    return FB_OK;
}

fb_status fb_folder_writer_file(fb_folder_writer *writer, const char *name, const void *data,
                                size_t size) {
    FB_TRY(fb_folder_writer_begin(writer, name));
    FB_TRY(fb_folder_writer_put(writer, data, size));
    return end_file(writer);
}

/* --- the end ---------------------------------------------------------------------------------- */

static void forget(fb_folder_writer *writer) {
    for (size_t i = 0; i < writer->num_files; i++)
        fb_file_temporary_forget(writer->files[i]);
    fb_file_temporary_forget_folder(writer->temporary);
    writer->temporary = NULL;
    writer->num_files = 0;
}

void fb_folder_writer_abandon(fb_folder_writer *writer) {
    if (!writer)
        return;
    if (writer->fd >= 0)
        close(writer->fd);
    if (writer->temporary)
        remove_folder(writer->temporary);
    forget(writer);
    fb_free(writer->own_name);
    fb_free(writer->path);
    fb_free(writer);
}

/* A name in a folder is on the disk when the folder is. */
static void sync_folder(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (fd < 0)
        return;
    fsync(fd);
    close(fd);
}

fb_status fb_folder_writer_commit(fb_folder_writer *writer) {
    fb_status status = end_file(writer);
    if (status == FB_OK) {
        sync_folder(writer->temporary);
        fb_file_hold_signals();
        bool renamed =
            renameat2(AT_FDCWD, writer->temporary, AT_FDCWD, writer->path, RENAME_NOREPLACE) == 0 ||
            ((errno == EINVAL || errno == ENOSYS) && rename(writer->temporary, writer->path) == 0);
        status = renamed ? FB_OK : fail(writer->path, "cannot make it");
        if (renamed)
            forget(writer);
        fb_file_release_signals();
    }
    fb_folder_writer_abandon(writer);
    return status;
}

#define _XOPEN_SOURCE 700 /* realpath */

#include "io/file_place.h"

#include "base/error.h"
#include "base/memory.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_LINKS = 40 };

static fb_status fail(const char *path, int code) {
    return fb_fail(FB_ERROR_IO, "%s: %s", path, strerror(code));
}

/* "0" .. "9999999"; -1 for any other text. */
static int number(const char *text) {
    size_t length = strlen(text);
    if (length == 0 || length > 7 || text[strspn(text, "0123456789")] != '\0')
        return -1;
    return atoi(text);
}

/* The descriptor that the path of a file in /proc or /dev is, whether or not these are there. */
static int named_descriptor(const char *path) {
    static const char *const folders[] = {"/dev/fd/", "/proc/self/fd/", "/proc/thread-self/fd/"};
    static const char *const streams[] = {"/dev/stdin", "/dev/stdout", "/dev/stderr"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(path, streams[i]) == 0)
            return i;
        if (strncmp(path, folders[i], strlen(folders[i])) == 0)
            return number(path + strlen(folders[i]));
    }
    return -1;
}

/* Whether the folder, which has no links in it, is that of this process's descriptors. */
static bool is_descriptor_folder(const char *folder) {
    static const char *const names[] = {"/proc/self/fd", "/proc/thread-self/fd", "/dev/fd"};
    char real[PATH_MAX];
    for (int i = 0; i < 3; i++)
        if (realpath(names[i], real) && strcmp(folder, real) == 0)
            return true;
    return false;
}

/* Takes `path` apart: the folder without links in it, and the name of the file there. */
static int take_apart(const char *path, char folder[PATH_MAX], char name[PATH_MAX]) {
    char before[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 0;
    const char *last = slash ? slash + 1 : path;
    if (strlen(path) >= PATH_MAX)
        return ENAMETOOLONG;
    if (path[0] == '\0')
        return ENOENT;
    if (last[0] == '\0' || strcmp(last, ".") == 0 || strcmp(last, "..") == 0)
        return EISDIR;
    memcpy(before, path, length);
    before[length] = '\0';
    if (!slash)
        strcpy(before, ".");
    else if (length == 0)
        strcpy(before, "/");
    strcpy(name, last);
    return realpath(before, folder) ? 0 : errno;
}

static int join(char to[PATH_MAX], const char *folder, const char *name) {
    int length =
        snprintf(to, PATH_MAX, "%s%s%s", folder, strcmp(folder, "/") == 0 ? "" : "/", name);
    return length >= PATH_MAX ? ENAMETOOLONG : 0;
}

/* One step from `path`: to what the link there says. Sets *done where there is none; `path` is then
 * the place. Returns an errno. */
static int follow(char path[PATH_MAX], fb_file_place *place, bool *done) {
    char folder[PATH_MAX], name[PATH_MAX], whole[PATH_MAX], target[PATH_MAX];
    place->descriptor = named_descriptor(path);
    *done = place->descriptor >= 0;
    if (*done)
        return 0;
    int code = take_apart(path, folder, name);
    if (code == 0)
        code = join(whole, folder, name);
    if (code != 0)
        return code;
    if (is_descriptor_folder(folder) && (place->descriptor = number(name)) >= 0) {
        *done = true;
        return 0;
    }
    place->exists = lstat(whole, &place->status) == 0;
    if (!place->exists && errno != ENOENT)
        return errno;
    *done = !place->exists || !S_ISLNK(place->status.st_mode);
    if (*done) {
        memcpy(path, whole, sizeof whole);
        return 0;
    }
    ssize_t length = readlink(whole, target, sizeof target - 1);
    if (length < 0)
        return errno;
    target[length] = '\0';
    if (target[0] != '/')
        return join(path, folder, target);
    memcpy(path, target, sizeof target);
    return 0;
}

fb_status fb_file_place_find(const char *path, fb_file_place *place) {
    char at[PATH_MAX];
    bool done = false;
    fb_file_place found = {.descriptor = -1};
    if (strlen(path) >= sizeof at)
        return fail(path, ENAMETOOLONG);
    strcpy(at, path);
    for (int links = 0; !done; links++) {
        int code = links > MAX_LINKS ? ELOOP : follow(at, &found, &done);
        if (code != 0)
            return fail(path, code);
    }
    if (found.descriptor < 0) {
        FB_TRY(fb_alloc(strlen(at) + 1, 1, "path", &found.path));
        strcpy(found.path, at);
    }
    *place = found;
    return FB_OK;
}

void fb_file_place_free(fb_file_place *place) {
    fb_free(place->path);
    *place = (fb_file_place){.descriptor = -1};
}

int fb_file_place_descriptor(const char *path) {
    char at[PATH_MAX];
    bool done = false;
    fb_file_place found = {.descriptor = -1};
    if (strlen(path) >= sizeof at)
        return -1;
    strcpy(at, path);
    for (int links = 0; links <= MAX_LINKS && !done; links++)
        if (follow(at, &found, &done) != 0)
            return -1;
    return found.descriptor;
}

#define _XOPEN_SOURCE 700 /* mkstemp */
#include "base/error.h"
#include "base/memory.h"
#include "io/file_outputs.h"
#include "io/file_temporary.h"
#include "io/file_writer.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MESSAGE = 2000 }; /* some paths of usual length */

static struct {
    bool is_open, failed;
    fb_file_writer *first, **end; /* finished, in the order of their commits */
    fb_file_place *removals;      /* [num_removals] */
    size_t num_removals, max_removals;
} batch;

/* --- bytes that have no place ----------------------------------------------------------------- */

/* Writes the bytes to a new file in the folder, whose path then is in kept[0 .. size). */
static bool keep_in(fb_file_writer *writer, const char *folder, char *kept, size_t size) {
    const char *slash = strrchr(writer->path, '/');
    if (!folder || !folder[0])
        return false;
    int length =
        snprintf(kept, size, "%s/%.200s.kept-XXXXXX", folder, slash ? slash + 1 : writer->path);
    int fd = length > 0 && (size_t)length < size ? mkstemp(kept) : -1;
    if (fd < 0)
        return false;
    int code = fb_file_writer_copy(writer, fd);
    if (fsync(fd) != 0 && code == 0)
        code = errno;
    if (close(fd) != 0 && code == 0)
        code = errno;
    if (code != 0)
        unlink(kept);
    return code == 0;
}

/* Text may go to a terminal. */
static bool is_text(const fb_file_writer *writer) {
    return writer->in_file == 0 &&
           (writer->memory.size == 0 || !memchr(writer->memory.data, 0, writer->memory.size));
}

static bool keep_on_stdout(fb_file_writer *writer) {
    if (writer->place.descriptor == STDOUT_FILENO || (isatty(STDOUT_FILENO) && !is_text(writer)))
        return false;
    return fflush(stdout) == 0 && fb_file_writer_copy(writer, STDOUT_FILENO) == 0;
}

/* Brings the bytes anywhere, and appends where: "; its content is in PLACE". */
static void keep(fb_file_writer *writer, char *text, size_t size) {
    char folder[PATH_MAX] = "", kept[PATH_MAX];
    const char *slash = writer->place.path ? strrchr(writer->place.path, '/') : NULL;
    size_t used = strlen(text);
    if (slash && fb_file_writer_is_regular(writer))
        snprintf(folder, sizeof folder, "%.*s",
                 slash > writer->place.path ? (int)(slash - writer->place.path) : 1,
                 writer->place.path);
    const char *const folders[] = {folder, getenv("TMPDIR"), "/tmp", "/var/tmp", "."};
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++)
        if (keep_in(writer, folders[i], kept, sizeof kept)) {
            snprintf(text + used, size - used, "; its content is in %s", kept);
            return;
        }
    snprintf(text + used, size - used, "; its content is %s",
             keep_on_stdout(writer) ? "on standard output" : "lost");
}

/* --- all or none ------------------------------------------------------------------------------ */

/* Places the regular files. On failure none is changed, *failed is the one that could not be, and
 * an errno is returned. */
static int place_regular(fb_file_writer *first, fb_file_writer **failed) {
    int code = 0;
    fb_file_hold_signals(); /* files are between old and new */
    for (fb_file_writer *w = first; w && code == 0; w = w->next)
        if (fb_file_writer_is_regular(w) && (code = fb_file_writer_place(w)) != 0)
            *failed = w;
    for (fb_file_writer *w = first; w && code != 0; w = w->next)
        fb_file_writer_take_back(w);
    fb_file_release_signals();
    return code;
}

fb_status fb_file_writer_open(const char *path, fb_file_writer **writer) {
    return fb_file_writer_make(path, batch.is_open, writer);
}

fb_status fb_file_writer_commit(fb_file_writer *writer) {
    fb_file_writer *failed = writer;
    fb_file_writer_finish(writer);
    if (batch.is_open) {
        *batch.end = writer;
        batch.end = &writer->next;
        return FB_OK;
    }
    int code = fb_file_writer_is_regular(writer) ? place_regular(writer, &failed)
                                                 : fb_file_writer_place(writer);
    fb_status status = FB_OK;
    if (code != 0)
        status = fb_fail(FB_ERROR_IO, "%s: cannot write: %s", writer->path, strerror(code));
    fb_file_writer_abandon(writer);
    return status;
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

void fb_file_batch_begin(void) {
    batch.is_open = true;
    fb_file_outputs_begin();
    batch.failed = false;
    batch.first = NULL;
    batch.end = &batch.first;
}

void fb_file_batch_fail(void) {
    batch.failed = true;
}

bool fb_file_batch_has_files(void) {
    return batch.is_open && batch.first;
}

fb_status fb_file_batch_remove(const char *path) {
    fb_file_place place;
    if (fb_file_place_find(path, &place) != FB_OK)
        return FB_OK; /* nothing is there */
    if (!place.exists) {
        fb_file_place_free(&place);
        return FB_OK;
    }
    if (batch.num_removals == batch.max_removals) {
        fb_file_place *more = NULL;
        size_t count = 2 * batch.max_removals + 16;
        fb_status status = fb_alloc(count, sizeof *more, "paths", &more);
        if (status != FB_OK) {
            fb_file_place_free(&place);
            return status;
        }
        if (batch.num_removals > 0)
            memcpy(more, batch.removals, batch.num_removals * sizeof *more);
        fb_free(batch.removals);
        batch.removals = more;
        batch.max_removals = count;
    }
    batch.removals[batch.num_removals++] = place;
    return FB_OK;
}

static bool is_written(const char *path) {
    for (const fb_file_writer *w = batch.first; w; w = w->next)
        if (w->place.path && strcmp(w->place.path, path) == 0)
            return true;
    return false;
}

static void remove_files(bool really) {
    for (size_t i = 0; i < batch.num_removals; i++) {
        const char *path = batch.removals[i].path;
        if (really && path && !is_written(path))
            unlink(path);
        fb_file_place_free(&batch.removals[i]);
    }
    fb_free(batch.removals);
    batch.removals = NULL;
    batch.num_removals = batch.max_removals = 0;
}

static void complain(const fb_file_writer *writer, int code, char *text, size_t size) {
    if (writer->broken)
        snprintf(text, size, "%.800s", writer->broken);
    else
        snprintf(text, size, "%.800s: cannot write: %s", writer->path, strerror(code));
}

/* "a: cannot write: REASON; the content is in X; b is in Y" */
static fb_status keep_regular(fb_file_writer *failed, int code) {
    char text[MESSAGE];
    complain(failed, code, text, sizeof text);
    keep(failed, text, sizeof text);
    for (fb_file_writer *w = batch.first; w; w = w->next)
        if (w != failed && fb_file_writer_is_regular(w)) {
            char where[PATH_MAX + 64] = "";
            size_t used = strlen(text);
            keep(w, where, sizeof where);
            snprintf(text + used, sizeof text - used, "; %.800s: not written either%s", w->path,
                     where);
        }
    return fb_fail(FB_ERROR_IO, "%s", text);
}

/* What was finished when the command failed. */
static fb_status keep_all(void) {
    char text[MESSAGE] = "";
    for (fb_file_writer *w = batch.first; w; w = w->next) {
        char where[PATH_MAX + 64] = "";
        size_t used = strlen(text);
        keep(w, where, sizeof where);
        snprintf(text + used, sizeof text - used, "%s%.800s: not written%s", used ? "; " : "",
                 w->path, where);
    }
    return fb_fail(FB_ERROR_IO, "%s", text);
}

static fb_status write_streams(void) {
    fb_status status = FB_OK;
    for (fb_file_writer *w = batch.first; w; w = w->next) {
        int code = fb_file_writer_is_regular(w) ? 0 : fb_file_writer_place(w);
        if (code == 0)
            continue;
        char text[MESSAGE];
        complain(w, code, text, sizeof text);
        if (code != EPIPE || w->place.descriptor != STDOUT_FILENO) /* who reads it wants no more */
            keep(w, text, sizeof text);
        status = fb_fail(FB_ERROR_IO, "%s", text);
    }
    return status;
}

fb_status fb_file_batch_end(void) {
    fb_status status = FB_OK;
    bool wanted = batch.is_open && !batch.failed;
    batch.is_open = false;
    fb_file_outputs_end();
    if (wanted) {
        fb_file_writer *failed = NULL;
        int code = place_regular(batch.first, &failed);
        if (code != 0)
            status = keep_regular(failed, code);
        fb_status streams = write_streams();
        status = status == FB_OK ? streams : status;
    }
    if (batch.failed && batch.first)
        status = keep_all();
    remove_files(wanted && status == FB_OK);
    while (batch.first) {
        fb_file_writer *next = batch.first->next;
        fb_file_writer_abandon(batch.first);
        batch.first = next;
    }
    return status;
}

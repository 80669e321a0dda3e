/* Writers between file_writer.c, which fills them, and file_batch.c, which brings their bytes to
 * the place that they are for. */
#ifndef FB_IO_FILE_WRITER_H
#define FB_IO_FILE_WRITER_H

#include "io/buffer.h"
#include "io/file.h"
#include "io/file_place.h"

struct fb_file_writer {
    char *path; /* as the caller names it */
    fb_file_place place;
    int fd;          /* the temporary file, or -1: all bytes are in memory */
    char *temporary; /* its name */
    size_t in_file;  /* bytes that are in it; the others, which follow, are in memory */
    fb_buffer memory;
    int code;     /* errno of what kept the temporary file from being written; 0: nothing did */
    char *broken; /* why there is no place any more; NULL: there is. Only in a batch, which keeps
                     the bytes elsewhere */

    fb_buffer old; /* bytes that the target had, where it is to be written in place */
    bool placed, exchanged, has_old;
    fb_file_writer *next; /* in the batch */
};

/* fb_file_writer_open. keeps_bytes: a place that cannot be written is not an error yet: the bytes
 * will be kept elsewhere. */
fb_status fb_file_writer_make(const char *path, bool keeps_bytes, fb_file_writer **writer);

/* All bytes are in the temporary file, on the disk, or all in memory. */
void fb_file_writer_finish(fb_file_writer *writer);

/* Whether the target is a regular file, or will be. */
bool fb_file_writer_is_regular(const fb_file_writer *writer);

/* Brings finished bytes to the place. Returns 0 or an errno; a regular file is then unchanged. */
int fb_file_writer_place(fb_file_writer *writer);

/* Undoes that, for a regular file. */
void fb_file_writer_take_back(fb_file_writer *writer);

/* Writes finished bytes to a descriptor. Returns 0 or an errno. */
int fb_file_writer_copy(fb_file_writer *writer, int to);

#endif

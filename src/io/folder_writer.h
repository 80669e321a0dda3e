/* A folder of files that appears whole or not at all.
 *
 * The files are written into a temporary folder beside it, PATH.tmp-PID, which is renamed to PATH
 * at the end. A process that is ended by a signal that it can handle removes what it has written;
 * what one leaves that was killed is removed by the next that writes the same folder. */
#ifndef FB_IO_FOLDER_WRITER_H
#define FB_IO_FOLDER_WRITER_H

#include <flashblock/status.h>

#include <stddef.h>

typedef struct fb_folder_writer fb_folder_writer;

/* FB_ERROR_IO when `path` exists, or cannot be made. */
fb_status fb_folder_writer_open(const char *path, fb_folder_writer **writer);

/* Begins a file, which ends the one before. */
fb_status fb_folder_writer_begin(fb_folder_writer *writer, const char *name);

/* Appends to the file. */
fb_status fb_folder_writer_put(fb_folder_writer *writer, const void *data, size_t size);

/* A whole file. */
fb_status fb_folder_writer_file(fb_folder_writer *writer, const char *name, const void *data,
                                size_t size);

/* Frees the writer, on success and on failure. */
fb_status fb_folder_writer_commit(fb_folder_writer *writer);

/* Frees the writer and removes what it has written. NULL is allowed. */
void fb_folder_writer_abandon(fb_folder_writer *writer);

#endif

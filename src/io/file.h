/* Whole files: read-only maps, bounded reads, atomic writes, and paths. */
#ifndef FB_IO_FILE_H
#define FB_IO_FILE_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

/* A regular file mapped read-only. Nothing is read until it is touched, so a map of 16 GB costs
 * nothing by itself. A file that another process shortens while it is mapped raises SIGBUS. */
typedef struct fb_file_map {
    const void *data; /* page-aligned; never NULL once opened, also for an empty file */
    size_t size;      /* bytes */
} fb_file_map;

/* FB_ERROR_IO when `path` is no regular file that can be read. */
fb_status fb_file_map_open(const char *path, fb_file_map *map);

/* Takes a zeroed map too; the map is zeroed. */
void fb_file_map_close(fb_file_map *map);

/* Reads `path` to its end (a regular file, a pipe, a terminal). *data: *size bytes and then a NUL
 * that is not counted; the caller's, fb_free. FB_ERROR_FORMAT when there are more than `limit`
 * bytes. */
fb_status fb_file_read(const char *path, size_t limit, char **data, size_t *size);

/* true when something is at `path`, whatever it is. */
bool fb_file_exists(const char *path);
bool fb_file_is_directory(const char *path);

/* directory/name; *path is the caller's, fb_free. */
fb_status fb_path_join(const char *directory, const char *name, char **path);

/* A file that appears whole or not at all: bytes go to a temporary file beside `path`, which is
 * renamed to `path` by fb_file_writer_commit. What is no regular file (/dev/stdout, a pipe) is
 * written directly. */
typedef struct fb_file_writer fb_file_writer;

fb_status fb_file_writer_open(const char *path, fb_file_writer **writer);
fb_status fb_file_writer_put(fb_file_writer *writer, const void *data, size_t size);

/* Frees the writer whether it succeeds or not; on failure `path` is what it was before. */
fb_status fb_file_writer_commit(fb_file_writer *writer);

/* Frees the writer and removes the temporary file. Takes NULL. */
void fb_file_writer_abandon(fb_file_writer *writer);

/* The four calls above in one. */
fb_status fb_file_write(const char *path, const void *data, size_t size);

#endif

/* Whole files: read-only maps, bounded reads, atomic writes, and paths. */
#ifndef FB_IO_FILE_H
#define FB_IO_FILE_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

/* The names of the standard streams, which are descriptors 0 and 1 whether or not such files exist.
 * Where a path leads to a descriptor of this process (/dev/stdin, /dev/fd/N, /proc/self/fd/N, a
 * link to one of them) the descriptor itself is used, from its offset on; opening the name would
 * begin at the first byte of a file, and is an error for a socket. */
#define FB_STDIN_PATH  "/dev/stdin"
#define FB_STDOUT_PATH "/dev/stdout"

/* A file's bytes, read-only. A regular file is mapped: the system reads a page when it is first
 * touched, so mapping 16 GB costs nothing by itself. If another process shortens the file while it
 * is mapped, reading beyond its new end raises SIGBUS. A pipe, a socket or a device is read to its
 * end instead; opening a named pipe waits for its writer, as opening it always does. */
typedef struct fb_file_map {
    const void *data; /* page-aligned; never NULL once opened, also for an empty file */
    size_t size;      /* bytes */
    void *mapped;     /* the pages, or NULL; for fb_file_map_close, as all that follow */
    size_t mapped_size;
    void *read; /* the memory that was read into, or NULL */
} fb_file_map;

/* FB_ERROR_IO when `path` is a directory or cannot be read; FB_ERROR_FORMAT when it is a pointer of
 * Git LFS. */
fb_status fb_file_map_open(const char *path, fb_file_map *map);

/* Unmaps or frees the bytes and zeroes the map. A zeroed map is allowed. */
void fb_file_map_close(fb_file_map *map);

/* FB_ERROR_FORMAT when data[0 .. size), the content of `path`, is a pointer that stands for a file
 * that was not fetched (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md). */
fb_status fb_file_check_content(const char *path, const void *data, size_t size);

/* Reads `path` to its end (a regular file, a pipe, a terminal). *data holds *size bytes and then a
 * NUL, which is not counted. The caller frees it with fb_free. FB_ERROR_FORMAT when there are more
 * than `limit` bytes. */
fb_status fb_file_read(const char *path, size_t limit, char **data, size_t *size);

/* false when there is nothing at `path`. A link that leads to nothing exists, and so does a file in
 * a folder that cannot be searched: opening them is an error that says so. */
bool fb_file_exists(const char *path);
bool fb_file_is_directory(const char *path);

/* Whether it can be read once only: a pipe, a socket, a device. */
bool fb_file_is_stream(const char *path);

/* *path is directory/name. The caller frees it with fb_free. */
fb_status fb_path_join(const char *directory, const char *name, char **path);

/* Writes a file that appears whole or not at all. The bytes go to a temporary file beside `path`,
 * and fb_file_writer_commit renames it to `path`. If `path` exists and is not a regular file
 * (/dev/stdout, a pipe), the bytes go directly to it. */
typedef struct fb_file_writer fb_file_writer;

fb_status fb_file_writer_open(const char *path, fb_file_writer **writer);
fb_status fb_file_writer_put(fb_file_writer *writer, const void *data, size_t size);

/* Frees the writer on success and on failure. On failure `path` is unchanged. */
fb_status fb_file_writer_commit(fb_file_writer *writer);

/* Frees the writer and removes the temporary file. NULL is allowed. */
void fb_file_writer_abandon(fb_file_writer *writer);

/* The four calls above in one. */
fb_status fb_file_write(const char *path, const void *data, size_t size);

#endif

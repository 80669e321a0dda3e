/* Whole files: read-only maps, bounded reads, paths, and writers. */
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

/* The same, but a regular file is read, too, not mapped: what happens to it later does not matter.
 * FB_ERROR_IO when it becomes shorter meanwhile. */
fb_status fb_file_map_by_reading(const char *path, fb_file_map *map);

/* Bytes of the map that are not needed soon leave this process's memory. Nothing happens if they
 * are not the map's, or if its file was read. */
void fb_file_map_release(const fb_file_map *map, const void *data, size_t bytes);

/* Unmaps or frees the bytes and zeroes the map. A zeroed map is allowed. */
void fb_file_map_close(fb_file_map *map);

/* Reads `path` to its end (a regular file, a pipe, a terminal). *data holds *size bytes and then a
 * NUL, which is not counted. The caller frees it with fb_free. FB_ERROR_FORMAT when there are more
 * than `limit` bytes. */
fb_status fb_file_read(const char *path, size_t limit, char **data, size_t *size);

/* The same for text: a UTF-8 byte order mark at its beginning, which some editors write, is left
 * out. One of UTF-16 is FB_ERROR_FORMAT. */
fb_status fb_file_read_text(const char *path, size_t limit, char **data, size_t *size);

/* false when there is nothing at `path`. A link that leads to nothing exists, and so does a file in
 * a folder that cannot be searched: opening them is an error that says so. */
bool fb_file_exists(const char *path);
bool fb_file_is_directory(const char *path);
bool fb_file_is_file(const char *path); /* a regular one, after links */

/* Whether it can be read once only: a pipe, a socket, a device. */
bool fb_file_is_stream(const char *path);

/* *path is directory/name. The caller frees it with fb_free. */
fb_status fb_path_join(const char *directory, const char *name, char **path);

/* --- writing ------------------------------------------------------------------------------------
 *
 * Every file that is written goes through a writer. The place that the path leads to decides how:
 *
 * - A regular file, or nothing yet. The bytes go to a temporary file beside it, PATH.tmp-PID-N,
 * which is renamed to it at the end: it appears whole or not at all. Links on the way stay, and so
 * do the permissions and the owner of the file.
 * - A regular file that no rename can replace so: it has several hard links, an ACL or an owner
 * that we cannot give, it is a mount point, or its folder takes no file. It is written in place. It
 * gets its old bytes back when that fails. All names of a file with hard links see the new bytes,
 * as after `>`.
 * - A pipe, a socket, a device, a descriptor (/dev/stdout). The bytes go to it at the end. A
 *   descriptor is used as it is, from its offset on.
 *
 * A file that the caller may not write is an error, also where its folder would allow a rename.
 * Errors of write, fsync and close all count. */
typedef struct fb_file_writer fb_file_writer;

/* FB_ERROR_IO when the target cannot be written; within a batch its end says so. Temporary files of
 * this target that processes which have ended left are removed. */
fb_status fb_file_writer_open(const char *path, fb_file_writer **writer);

/* Fails for want of memory only: an error of the disk waits for the commit, which says where the
 * bytes are. */
fb_status fb_file_writer_put(fb_file_writer *writer, const void *data, size_t size);

/* Frees the writer on success and on failure. On failure `path` is unchanged, if it is a regular
 * file. Within a batch: the bytes are complete, and the end of the batch brings them to `path`. */
fb_status fb_file_writer_commit(fb_file_writer *writer);

/* Frees the writer and removes the temporary file. NULL is allowed. */
void fb_file_writer_abandon(fb_file_writer *writer);

/* The four calls above in one. */
fb_status fb_file_write(const char *path, const void *data, size_t size);

/* FB_ERROR_IO when fb_file_writer_open or the commit of an empty file would fail, as far as that
 * can be known without writing. A pipe is not opened: its reader would notice. Within a batch,
 * reading a file that was checked here is FB_ERROR_ARGUMENT from then on. */
fb_status fb_file_check_writable(const char *path);

/* A batch: the files that a command writes are all written at its end, or none is (streams are
 * written last, and cannot be taken back). For the program, one at a time, one thread.
 *
 * Bytes of a batch that cannot be brought to their path are not lost. They go to a file beside it,
 * else to the folder TMPDIR, /tmp, /var/tmp or the current one (NAME.kept-XXXXXX), else to standard
 * output. The error of fb_file_batch_end says where. */
void fb_file_batch_begin(void);

/* Nothing of the batch is brought to its path at its end: the command failed. The files that were
 * finished are kept as said above. */
void fb_file_batch_fail(void);

/* Whether a file of the batch is finished. */
bool fb_file_batch_has_files(void);

/* A file that the batch removes if it succeeds, unless the batch writes it. FB_ERROR_MEMORY. */
fb_status fb_file_batch_remove(const char *path);

/* FB_OK when none was begun, and when a batch failed that had finished no file. */
fb_status fb_file_batch_end(void);

/* For a handler of signals that end the process. True: the temporary files of this process are
 * removed, and it may end. False: files are between old and new; the signal is raised again when
 * they are not. */
bool fb_file_end_by_signal(int number);

#endif

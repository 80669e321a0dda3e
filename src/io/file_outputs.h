/* The regular files that the program is about to write. Reading one of them is an error, since it
 * would be overwritten. For the program, one thread; a library that writes no batch notes none. */
#ifndef FB_IO_FILE_OUTPUTS_H
#define FB_IO_FILE_OUTPUTS_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <sys/stat.h>

/* A batch begins: files are noted from now on. */
void fb_file_outputs_begin(void);

/* Only regular files are noted, within a batch. FB_ERROR_MEMORY. */
fb_status fb_file_outputs_note(const struct stat *file);

/* FB_ERROR_ARGUMENT when the open file `fd`, called `path`, was noted. */
fb_status fb_file_outputs_check(int fd, const char *path);

/* Whether that happened to the file: a command may go on without what it could not read. */
bool fb_file_outputs_was_read(const struct stat *file);

/* The command will write a file, regular or not, besides standard output. Until the end. */
void fb_file_outputs_expect(void);
bool fb_file_outputs_expected(void);

/* Ends and forgets them. */
void fb_file_outputs_end(void);

#endif

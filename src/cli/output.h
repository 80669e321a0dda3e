/* Errors in one line, exit status, standard output, JSON. */
#ifndef FB_CLI_OUTPUT_H
#define FB_CLI_OUTPUT_H

#include "base/error.h"
#include "io/json_write.h"

#include <flashblock/experimental/video_model.h>
#include <flashblock/model.h>
#include <flashblock/status.h>
#include <flashblock/tokenizer.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Exit status of the program. */
enum { FB_EXIT_OK = 0, FB_EXIT_FAILED = 1, FB_EXIT_USAGE = 2 };

/* "flashblock: MESSAGE" on standard error, always one line. */
void fb_print_error(const char *format, ...) FB_PRINTF(1, 2);

/* "flashblock: warning: TEXT" on standard error for each warning that loading left. */
void fb_print_model_warnings(const fb_model *model);
void fb_print_tokenizer_warnings(const fb_tokenizer *tokenizer);
void fb_print_video_warnings(const fb_video_model *model);

/* The exit status that stands for `status`; unless that is FB_OK, the library's last error is
 * reported (at fb_report_files, if files were finished before). 2 when it was an argument, as all
 * of those come from the command line, else 1. */
int fb_report_status(fb_status status);

/* At the end of the batch of files (io/file.h), which came to `written`: the exit status, `status`
 * being the command's. One line says what went wrong, and where the content of files is. */
int fb_report_files(int status, fb_status written);

/* Flushes standard output. Returns FB_EXIT_FAILED and reports when not all of it was written. */
int fb_finish_stdout(void);

/* Whether a file named on the command line (NULL: none) is standard output: "-". */
bool fb_is_stdout(const char *path);

/* The path of a file to write: FB_STDOUT_PATH for "-". */
const char *fb_output_path(const char *path);

/* Where a command that writes a file says in words what it did: standard output, but standard error
 * where the file goes to standard output. */
FILE *fb_text_stream(const char *output);

/* The same for standard input, which is then read as FB_STDIN_PATH. */
bool fb_is_stdin(const char *path);

/* A writer of what the program puts into a JSON file: indented, doubles with 9 digits. */
fb_json_writer fb_json_output(fb_buffer *text);

/* Finishes such a writer, writes its text and a newline to `path` ("-": standard output), and frees
 * the text. A file appears whole or not at all. A failure of the writer is returned, and then
 * nothing is written. */
fb_status fb_write_json(fb_json_writer *w, const char *path);

#endif

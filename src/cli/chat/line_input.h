/* Lines that a person types, with editing and history, or lines of a pipe or file. */
#ifndef FB_CLI_CHAT_LINE_INPUT_H
#define FB_CLI_CHAT_LINE_INPUT_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

typedef enum fb_line_kind {
    FB_LINE_TEXT,        /* a line */
    FB_LINE_END,         /* there is no more */
    FB_LINE_INTERRUPTED, /* Ctrl-C: what was typed is dropped */
} fb_line_kind;

typedef struct fb_line_input fb_line_input;

/* From standard input: with editing where it and standard output are terminals, and the program was
 * built with libedit. The caller owns *input. */
fb_status fb_line_input_open(fb_line_input **input);

/* NULL is allowed. */
void fb_line_input_close(fb_line_input *input);

/* Whether standard input is a terminal. */
bool fb_line_input_is_terminal(const fb_line_input *input);

/* The next line without its end; *text belongs to `input` until the next call. `prompt` is shown on
 * a terminal. A line that ends with a backslash goes on in the next one: the two are one text, with
 * a line end between them. FB_ERROR_IO, FB_ERROR_MEMORY. */
fb_status fb_line_input_read(fb_line_input *input, const char *prompt, fb_line_kind *kind,
                             const char **text, size_t *length);

#endif

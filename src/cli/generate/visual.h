/* Text on a terminal: characters that are safe to print, and a block that is redrawn in place while
 * its masks fill in. */
#ifndef FB_CLI_GENERATE_VISUAL_H
#define FB_CLI_GENERATE_VISUAL_H

#include "io/buffer.h"

#include <flashblock/generate.h>
#include <flashblock/tokenizer.h>

#include <stdbool.h>
#include <stddef.h>

/* Appends valid UTF-8, control characters replaced: what a model writes must not steer a terminal.
 * Line breaks stay, or become an arrow that keeps the text on one line. */
fb_status fb_visual_printable(fb_buffer *to, const char *text, size_t size, bool one_line);

/* The current block of the one sequence that is shown. Starts as {0}. */
typedef struct fb_visual {
    bool terminal;      /* redraw in place; otherwise a line a step */
    fb_buffer row;      /* finished text on the terminal row where the block begins */
    size_t column;      /* columns of it */
    size_t rows_below;  /* rows that the last drawing took beyond that one */
    size_t prompt_tail; /* leading tokens of the block that belong to the prompt */
} fb_visual;

void fb_visual_free(fb_visual *visual);

/* Shows the block after a denoising step. */
fb_status fb_visual_step(fb_visual *visual, const fb_tokenizer *tokenizer,
                         const fb_step_event *event);

/* Shows text that has become final. */
fb_status fb_visual_commit(fb_visual *visual, const fb_step_event *event, const char *text,
                           size_t size);

#endif

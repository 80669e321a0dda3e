/* The text of a generation while it is being written.
 *
 *   text    finished blocks; of several prompts one after the other, each under a heading
 *   visual  every denoising step: in place on a terminal, masks filling in; otherwise a line a step
 *   none    nothing */
#ifndef FB_CLI_GENERATE_DISPLAY_H
#define FB_CLI_GENERATE_DISPLAY_H

#include <flashblock/generate.h>
#include <flashblock/tokenizer.h>

typedef enum fb_display_kind {
    FB_DISPLAY_NONE = 0,
    FB_DISPLAY_TEXT,
    FB_DISPLAY_VISUAL, /* one prompt only */
} fb_display_kind;

typedef struct fb_display fb_display;

/* `samples` prompts that follow each other are the same one, and headings say so. The tokenizer
 * must outlive the display. The caller owns *display. */
fb_status fb_display_create(fb_display_kind kind, const fb_tokenizer *tokenizer, size_t num_prompts,
                            size_t samples, fb_display **display);
void fb_display_destroy(fb_display *display);

/* For fb_generate_options.on_step, with the display as `user`. Cancels the generation when
 * something cannot be shown; fb_display_status then returns the error. */
bool fb_display_step(void *display, const fb_step_event *event);
fb_status fb_display_status(const fb_display *display);

#endif

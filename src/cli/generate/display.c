/* The text of a generation while it is being written. */
#include "cli/generate/display.h"

#include "base/error.h"
#include "base/memory.h"
#include "cli/generate/visual.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* One prompt's text. */
typedef struct sequence {
    fb_token_stream *stream;
    fb_buffer waiting; /* text of a prompt whose turn has not come */
    bool begun, finished;
} sequence;

struct fb_display {
    fb_display_kind kind;
    const fb_tokenizer *tokenizer;
    sequence *sequences; /* [num_sequences] */
    size_t num_sequences;
    size_t samples; /* of a prompt, one after the other */
    size_t turn;    /* the sequence whose text goes out at once */
    bool terminal;
    fb_visual visual;
    fb_status status;
};

fb_status fb_display_create(fb_display_kind kind, const fb_tokenizer *tokenizer, size_t num_prompts,
                            size_t samples, fb_display **display) {
    fb_display *new_display = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *new_display, "display", &new_display));
    new_display->kind = kind;
    new_display->samples = samples;
    new_display->tokenizer = tokenizer;
    new_display->terminal = isatty(STDOUT_FILENO);
    new_display->visual.terminal = new_display->terminal;
    fb_status status = fb_alloc_zeroed(num_prompts, sizeof *new_display->sequences, "display",
                                       &new_display->sequences);
    for (; status == FB_OK && new_display->num_sequences < num_prompts;
         new_display->num_sequences++)
        status = fb_token_stream_create(tokenizer, true,
                                        &new_display->sequences[new_display->num_sequences].stream);
    if (status != FB_OK) {
        fb_display_destroy(new_display);
        return status;
    }
    *display = new_display;
    return FB_OK;
}

void fb_display_destroy(fb_display *display) {
    if (!display)
        return;
    for (size_t i = 0; i < display->num_sequences; i++) {
        fb_token_stream_destroy(display->sequences[i].stream);
        fb_buffer_free(&display->sequences[i].waiting);
    }
    fb_free(display->sequences);
    fb_visual_free(&display->visual);
    fb_free(display);
}

fb_status fb_display_status(const fb_display *display) {
    return display->status;
}

/* --- text --------------------------------------------------------------------------------------
 */

static void print_heading(const fb_display *display) {
    size_t prompt = display->turn / display->samples, sample = display->turn % display->samples;
    printf("%s==> prompt %zu", display->turn > 0 ? "\n" : "", prompt + 1);
    if (display->samples > 1)
        printf(", sample %zu", sample + 1);
    printf(" <==\n");
}

/* Prints the waiting text of the sequence whose turn it is, and of the next ones once that is done.
 */
static void print_waiting(fb_display *display) {
    while (display->turn < display->num_sequences) {
        sequence *next = &display->sequences[display->turn];
        if (!next->begun && display->num_sequences > 1)
            print_heading(display);
        next->begun = true;
        if (next->waiting.size > 0)
            fwrite(next->waiting.data, 1, next->waiting.size, stdout);
        next->waiting.size = 0;
        if (!next->finished)
            break;
        if (display->kind == FB_DISPLAY_TEXT || display->terminal)
            putchar('\n');
        display->turn++;
    }
}

static fb_status show(fb_display *display, const fb_step_event *event, const char *text,
                      size_t size) {
    fb_buffer *waiting = &display->sequences[event->sequence].waiting;
    if (display->kind == FB_DISPLAY_VISUAL)
        return fb_visual_commit(&display->visual, event, text, size);
    if (display->terminal)
        return fb_visual_printable(waiting, text, size, false);
    return fb_buffer_append(waiting, text, size);
}

static fb_status commit(fb_display *display, const fb_step_event *event) {
    sequence *of = &display->sequences[event->sequence];
    const int32_t *tokens = event->completion + (event->num_completion - event->num_new);
    const char *text = NULL;
    size_t size = 0;
    FB_TRY(fb_token_stream_put(of->stream, tokens, event->num_new, &text, &size));
    FB_TRY(show(display, event, text, size));
    if (event->finished) {
        FB_TRY(fb_token_stream_finish(of->stream, &text, &size));
        if (size > 0)
            FB_TRY(show(display, event, text, size));
        of->finished = true;
    }
    print_waiting(display);
    return FB_OK;
}

static fb_status show_event(fb_display *display, const fb_step_event *event) {
    if (display->kind == FB_DISPLAY_NONE)
        return FB_OK;
    if (!event->commit && display->kind == FB_DISPLAY_VISUAL)
        FB_TRY(fb_visual_step(&display->visual, display->tokenizer, event));
    if (event->commit || event->finished)
        FB_TRY(commit(display, event));
    if (fflush(stdout) != 0 || ferror(stdout))
        return fb_fail(FB_ERROR_IO, "cannot write standard output: %s", strerror(errno));
    return FB_OK;
}

bool fb_display_step(void *display, const fb_step_event *event) {
    fb_display *of = display;
    of->status = show_event(of, event);
    return of->status == FB_OK;
}

#include "cli/generate/visual.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/utf8.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

static const char mask_glyph[] = "\xe2\x96\x91";  /* a light shade */
static const char arrow_glyph[] = "\xe2\x86\xb5"; /* an arrow down and to the left */
static const char colour_on[] = "\033[36m", colour_off[] = "\033[0m";

fb_status fb_visual_printable(fb_buffer *to, const char *text, size_t size, bool one_line) {
    while (size > 0) {
        fb_utf8_step step = fb_utf8_decode((const unsigned char *)text, size);
        uint32_t c = step.code_point;
        if (c == '\n' && one_line)
            FB_TRY(fb_buffer_append_text(to, arrow_glyph));
        else if (c == '\t')
            FB_TRY(fb_buffer_append_text(to, " "));
        else if (c != '\n' && (c < 0x20 || (c >= 0x7f && c < 0xa0)))
            FB_TRY(fb_utf8_append(to, FB_REPLACEMENT_CHARACTER));
        else
            FB_TRY(fb_utf8_append(to, c));
        text += step.size;
        size -= step.size;
    }
    return FB_OK;
}

/* --- where the cursor is ---------------------------------------------------------------------- */

/* Where printing leaves the cursor of a terminal. A character that does not fit starts a row; after
 * one that fills the row the cursor waits at its end. */
typedef struct cursor {
    size_t column;
    size_t rows;      /* rows begun */
    size_t row_start; /* offset of the text on the last row */
} cursor;

static void walk(cursor *at, const fb_buffer *text, size_t columns) {
    for (size_t i = 0; i < text->size;) {
        fb_utf8_step step = fb_utf8_decode(text->data + i, text->size - i);
        int width = utf8proc_charwidth((utf8proc_int32_t)step.code_point);
        bool line_break = step.code_point == '\n';
        if (line_break || at->column + (size_t)width > columns) {
            at->rows++;
            at->column = 0;
            at->row_start = i + (line_break ? step.size : 0);
        }
        if (!line_break)
            at->column += (size_t)width;
        i += step.size;
    }
}

static size_t terminal_columns(void) {
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        return 80;
    return size.ws_col;
}

static void print_buffer(const fb_buffer *text) {
    if (text->size > 0) /* else there may be no data */
        fwrite(text->data, 1, text->size, stdout);
}

/* Back to the beginning of the row where the block begins, everything from there on erased. */
static void erase(fb_visual *visual) {
    if (visual->rows_below > 0)
        printf("\033[%zuA", visual->rows_below);
    fputs("\r\033[J", stdout);
    visual->rows_below = 0;
}

/* --- the block -------------------------------------------------------------------------------- */

static fb_status append_tokens(fb_buffer *to, const fb_tokenizer *tokenizer, const int32_t *tokens,
                               size_t count) {
    char *text = NULL;
    size_t size = 0;
    FB_TRY(fb_tokenizer_decode(tokenizer, tokens, count, false, &text, &size));
    fb_status status = fb_visual_printable(to, text, size, true);
    fb_text_free(text);
    return status;
}

/* The block's text, one glyph for each mask. */
static fb_status append_block(fb_buffer *to, const fb_tokenizer *tokenizer,
                              const fb_step_event *event, size_t first) {
    size_t i = first;
    while (i < event->block_size) {
        size_t end = i;
        while (end < event->block_size && !event->masked_after[end])
            end++;
        if (end > i)
            FB_TRY(append_tokens(to, tokenizer, event->after + i, end - i));
        if (end < event->block_size)
            FB_TRY(fb_buffer_append_text(to, mask_glyph));
        i = end + 1;
    }
    return FB_OK;
}

static void draw(fb_visual *visual, const fb_buffer *block) {
    erase(visual);
    print_buffer(&visual->row);
    fputs(colour_on, stdout);
    print_buffer(block);
    fputs(colour_off, stdout);
    cursor at = {.column = visual->column};
    walk(&at, block, terminal_columns());
    visual->rows_below = at.rows;
    fflush(stdout);
}

/* A line for a pass. */
static void print_line(const fb_step_event *event, const fb_buffer *block) {
    char pass[32] = "commit";
    if (!event->commit)
        snprintf(pass, sizeof pass, "step %zu", event->denoising_step);
    printf("block %-4zu %-8s %-14s dirty %-3zu accepted %-3zu", event->block, pass,
           fb_reuse_action_name(event->action), event->dirty_before, event->num_accepted);
    if (event->num_edited > 0)
        printf(" edited %-3zu", event->num_edited);
    printf("| ");
    print_buffer(block);
    putchar('\n');
}

static size_t leading_prompt_tokens(const fb_step_event *event) {
    size_t count = 0;
    while (count < event->block_size && !event->masked_before[count])
        count++;
    return count;
}

fb_status fb_visual_step(fb_visual *visual, const fb_tokenizer *tokenizer,
                         const fb_step_event *event) {
    if (event->denoising_step == 0)
        visual->prompt_tail = leading_prompt_tokens(event);
    fb_buffer block = {0};
    fb_status status = append_block(&block, tokenizer, event, visual->prompt_tail);
    if (status == FB_OK && visual->terminal)
        draw(visual, &block);
    else if (status == FB_OK)
        print_line(event, &block);
    fb_buffer_free(&block);
    return status;
}

/* Prints the row again with the new text after it, and keeps what is then on the last row. */
static fb_status extend_row(fb_visual *visual, const char *text, size_t size) {
    FB_TRY(fb_visual_printable(&visual->row, text, size, false));
    erase(visual);
    print_buffer(&visual->row);
    fflush(stdout);
    cursor at = {0};
    walk(&at, &visual->row, terminal_columns());
    size_t kept = visual->row.size - at.row_start;
    if (kept > 0)
        memmove(visual->row.data, visual->row.data + at.row_start, kept);
    visual->row.size = kept;
    visual->column = at.column;
    return FB_OK;
}

fb_status fb_visual_commit(fb_visual *visual, const fb_step_event *event, const char *text,
                           size_t size) {
    if (visual->terminal)
        return extend_row(visual, text, size);
    fb_buffer line = {0};
    fb_status status = fb_visual_printable(&line, text, size, true);
    if (status == FB_OK)
        print_line(event, &line);
    fb_buffer_free(&line);
    return status;
}

void fb_visual_free(fb_visual *visual) {
    fb_buffer_free(&visual->row);
    *visual = (fb_visual){0};
}

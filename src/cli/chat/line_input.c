#include "cli/chat/line_input.h"

#include "base/error.h"
#include "base/memory.h"
#include "cli/interrupt.h"
#include "io/buffer.h"
#include "io/utf8.h"

#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#ifdef FB_HAVE_LIBEDIT
#include <histedit.h>
#endif

enum { HISTORY_LINES = 1000 };

struct fb_line_input {
    fb_buffer text;
    bool terminal;
    char *line; /* getline's */
    size_t capacity;
    const char *prompt;
#ifdef FB_HAVE_LIBEDIT
    EditLine *editor; /* NULL: lines are read as they are */
    History *history;
#endif
};

/* --- a terminal ------------------------------------------------------------------------------- */

#ifdef FB_HAVE_LIBEDIT
static const char *prompt_of(EditLine *editor) {
    void *input = NULL;
    el_get(editor, EL_CLIENTDATA, &input);
    return ((const fb_line_input *)input)->prompt;
}

/* Characters of more than one byte take a locale that has them. */
static void choose_locale(void) {
    setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1)
        setlocale(LC_CTYPE, "C.UTF-8");
}

static volatile sig_atomic_t resumed;

static void note_resumed(int number) {
    (void)number;
    resumed = 1;
}

/* After Ctrl-Z and `fg`: the shell has changed the terminal, and written to it. */
static void show_again(EditLine *editor) {
    resumed = 0;
    el_set(editor, EL_PREP_TERM, 0);
    el_set(editor, EL_PREP_TERM, 1);
    el_set(editor, EL_REFRESH);
}

/* A character. libedit's own function goes on after the first Ctrl-C. */
static int read_character(EditLine *editor, wchar_t *c) {
    mbstate_t state = {0};
    for (;;) {
        char byte;
        errno = EINTR;
        if (resumed)
            show_again(editor);
        ssize_t count = fb_interrupt_seen() ? -1 : read(STDIN_FILENO, &byte, 1);
        if (count < 0 && errno == EINTR && !fb_interrupt_seen())
            continue;
        if (count <= 0)
            return (int)count;
        size_t size = mbrtowc(c, &byte, 1, &state);
        if (size == (size_t)-2)
            continue; /* the next byte belongs to it */
        if (size == (size_t)-1)
            *c = FB_REPLACEMENT_CHARACTER;
        return 1;
    }
}

static void open_editor(fb_line_input *input) {
    HistEvent event;
    choose_locale();
    input->history = history_init();
    input->editor =
        el_init_fd("flashblock", stdin, stdout, stderr, STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO);
    if (!input->history || !input->editor)
        return; /* no editing, then */
    history(input->history, &event, H_SETSIZE, HISTORY_LINES);
    history(input->history, &event, H_SETUNIQUE, 1);
    el_set(input->editor, EL_CLIENTDATA, input);
    el_set(input->editor, EL_GETCFN, read_character);
    el_set(input->editor, EL_PROMPT, prompt_of);
    el_set(input->editor, EL_EDITOR, "emacs");
    el_set(input->editor, EL_HIST, history, input->history);
    /* Bytes stay as they are typed also while an answer is written. In canonical mode a Ctrl-D
     * would become a NUL, which libedit takes for "the next character is a plain one". */
    el_set(input->editor, EL_SETTY, "-x", "-icanon", NULL);
    el_set(input->editor, EL_BIND, "^@", "ed-ignore", NULL); /* of a Ctrl-D before the first line */
    el_source(input->editor, NULL);                          /* ~/.editrc */
}

static void close_editor(fb_line_input *input) {
    if (input->editor)
        el_end(input->editor);
    if (input->history)
        history_end(input->history);
}

static bool has_editor(const fb_line_input *input) {
    return input->editor && input->history;
}

/* A line with its end; NULL at the end of the input, or with errno EINTR. */
static const char *edit_line(fb_line_input *input, size_t *length) {
    int count = 0;
    HistEvent event;
    struct sigaction before, note = {.sa_handler = note_resumed};
    sigemptyset(&note.sa_mask);
    sigaction(SIGCONT, &note, &before); /* it ends a read, so only while there is one */
    errno = 0;
    const char *line = el_gets(input->editor, &count);
    int error = errno;
    sigaction(SIGCONT, &before, NULL);
    if (!line || count <= 0) {
        el_reset(input->editor); /* of a line that was interrupted */
        errno = error;
        return NULL;
    }
    if (line[0] != '\n')
        history(input->history, &event, H_ENTER, line);
    *length = (size_t)count;
    return line;
}
#else
static void open_editor(fb_line_input *input) {
    (void)input;
}

static void close_editor(fb_line_input *input) {
    (void)input;
}

static bool has_editor(const fb_line_input *input) {
    (void)input;
    return false;
}

static const char *edit_line(fb_line_input *input, size_t *length) {
    (void)input;
    *length = 0;
    return NULL;
}
#endif

/* --- any input -------------------------------------------------------------------------------- */

static const char *plain_line(fb_line_input *input, size_t *length) {
    if (input->terminal)
        printf("%s", input->prompt);
    fflush(stdout);
    errno = 0;
    ssize_t count = getline(&input->line, &input->capacity, stdin);
    if (count < 0)
        return NULL;
    *length = (size_t)count;
    return input->line;
}

/* What a read that gave no line means. */
static fb_status no_line(fb_line_input *input, fb_line_kind *kind) {
    int error = errno;
    if (fb_interrupt_seen()) {
        fb_interrupt_forget();
        clearerr(stdin);
        if (input->terminal)
            putchar('\n');
        *kind = FB_LINE_INTERRUPTED;
        return FB_OK;
    }
    *kind = FB_LINE_END;
    if (ferror(stdin))
        return fb_fail(FB_ERROR_IO, "cannot read standard input: %s", strerror(error));
    return FB_OK;
}

fb_status fb_line_input_open(fb_line_input **input) {
    fb_line_input *opened = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *opened, "input", &opened));
    opened->terminal = isatty(STDIN_FILENO);
    if (opened->terminal && isatty(STDOUT_FILENO))
        open_editor(opened);
    *input = opened;
    return FB_OK;
}

void fb_line_input_close(fb_line_input *input) {
    if (!input)
        return;
    close_editor(input);
    free(input->line);
    fb_buffer_free(&input->text);
    fb_free(input);
}

bool fb_line_input_is_terminal(const fb_line_input *input) {
    return input->terminal;
}

/* Whether the text goes on in the next line: its backslash is a line end then. */
static bool goes_on(fb_buffer *text) {
    if (text->size == 0 || text->data[text->size - 1] != '\\')
        return false;
    text->data[text->size - 1] = '\n';
    return true;
}

fb_status fb_line_input_read(fb_line_input *input, const char *prompt, fb_line_kind *kind,
                             const char **text, size_t *length) {
    input->text.size = 0;
    input->prompt = prompt;
    bool more = true, begun = false;
    while (more) {
        size_t size = 0;
        const char *line = has_editor(input) ? edit_line(input, &size) : plain_line(input, &size);
        if (!line) {
            FB_TRY(no_line(input, kind));
            if (*kind != FB_LINE_END || !begun)
                return FB_OK;
            break; /* the last line ends with a backslash */
        }
        size -= size > 0 && line[size - 1] == '\n';
        FB_TRY(fb_buffer_append(&input->text, line, size));
        more = goes_on(&input->text);
        begun = true;
        input->prompt = "  ";
    }
    FB_TRY(fb_buffer_terminate(&input->text));
    *kind = FB_LINE_TEXT;
    *text = (const char *)input->text.data;
    *length = input->text.size;
    return FB_OK;
}

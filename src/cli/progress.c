#include "cli/progress.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

static bool is_shown; /* a line on the terminal that the next one replaces */

static bool is_terminal(void) {
    return isatty(STDERR_FILENO);
}

static void print(const char *format, va_list arguments, const char *end) {
    fprintf(stderr, "%sflashblock: ", is_terminal() ? "\r\033[K" : "");
    vfprintf(stderr, format, arguments);
    fputs(end, stderr);
    fflush(stderr);
}

static void replace(const char *format, va_list arguments) {
    fflush(stdout);
    print(format, arguments, "");
    is_shown = true;
}

void fb_progress(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (is_terminal())
        replace(format, arguments);
    else
        print(format, arguments, "\n");
    va_end(arguments);
}

void fb_progress_often(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (is_terminal())
        replace(format, arguments);
    va_end(arguments);
}

void fb_progress_note(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print(format, arguments, "\n");
    va_end(arguments);
    is_shown = false;
}

void fb_progress_end(void) {
    if (is_shown)
        fputs("\r\033[K", stderr);
    is_shown = false;
}

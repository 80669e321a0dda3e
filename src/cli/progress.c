#include "cli/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

void fb_progress(const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[K%s%s", text[0] ? "flashblock: " : "", text);
    else if (text[0])
        fprintf(stderr, "flashblock: %s\n", text);
    fflush(stderr);
}

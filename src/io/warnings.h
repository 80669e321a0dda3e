/* What a loader has to say about files that it accepts. The library prints nothing: a loaded object
 * keeps its warnings, and its public header has a function that gives them. */
#ifndef FB_IO_WARNINGS_H
#define FB_IO_WARNINGS_H

#include "base/error.h"

#include <stddef.h>

/* Starts as {0}. Each text is one line without an end of line. */
typedef struct fb_warnings {
    char **texts;
    size_t count;
} fb_warnings;

/* Adds a text. FB_ERROR_MEMORY. `warnings` may be NULL: nobody wants them. */
fb_status fb_warn(fb_warnings *warnings, const char *format, ...) FB_PRINTF(2, 3);

/* Text `index`, or NULL when there are not as many. */
const char *fb_warnings_at(const fb_warnings *warnings, size_t index);

void fb_warnings_free(fb_warnings *warnings);

#endif

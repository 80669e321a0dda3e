/* Progress of long work, on standard error. */
#ifndef FB_CLI_PROGRESS_H
#define FB_CLI_PROGRESS_H

#include "base/error.h"

/* "flashblock: TEXT": one line, which the next one replaces where standard error is a terminal. An
 * empty text ends it. */
void fb_progress(const char *format, ...) FB_PRINTF(1, 2);

#endif

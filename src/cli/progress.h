/* Progress of long work, on standard error: lines that begin with "flashblock: ".
 *
 * On a terminal one line shows what is being done: the next text replaces it, and fb_progress_end
 * removes it. Elsewhere, in a log, every text is a line that stays. */
#ifndef FB_CLI_PROGRESS_H
#define FB_CLI_PROGRESS_H

#include "base/error.h"

/* A part of the work begins. */
void fb_progress(const char *format, ...) FB_PRINTF(1, 2);

/* The same for what changes so often that it would fill a log: it is shown on a terminal only. */
void fb_progress_often(const char *format, ...) FB_PRINTF(1, 2);

/* A line that stays on a terminal, too. */
void fb_progress_note(const char *format, ...) FB_PRINTF(1, 2);

/* To be called before a result is printed. */
void fb_progress_end(void);

#endif

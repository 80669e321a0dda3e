/* Ctrl-C that stops what is being written and not the program. */
#ifndef FB_CLI_INTERRUPT_H
#define FB_CLI_INTERRUPT_H

#include <stdbool.h>

/* From here on SIGINT ends nothing: it is remembered, and a read or write that waits returns with
 * EINTR. */
void fb_interrupt_catch(void);

/* Whether there was one since it was last forgotten. */
bool fb_interrupt_seen(void);
void fb_interrupt_forget(void);

#endif

/* Names of selectors on the command line. */
#ifndef FB_CLI_SELECTOR_NAMES_H
#define FB_CLI_SELECTOR_NAMES_H

#include <flashblock/status.h>

#include <stddef.h>

/* `parse` of an option whose target is a const char *: one of the selectors that need no list from
 * the caller. The error for any other name has all that there are. */
fb_status fb_selector_name_parse(const char *text, void *name);

/* The i-th of them; NULL behind the last. */
const char *fb_selector_name_at(size_t i);

#endif

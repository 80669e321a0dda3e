/* The value of an option: text that becomes a variable. */
#ifndef FB_CLI_OPTIONS_OPTION_VALUES_H
#define FB_CLI_OPTIONS_OPTION_VALUES_H

#include "cli/options/option_table.h"

#include <stdbool.h>

/* Sets *target to what `text` says; "" for a flag. False when the option cannot have
 * this value: one line has then been printed to standard error. */
bool fb_option_set(const fb_option *option, const char *text, void *target);

#endif

/* The command line of a command, read by its table.
 *
 * Accepted forms: --name VALUE, --name=VALUE, --flag, -n VALUE, -nVALUE. A value may begin with a
 * dash. Of an option given twice the last counts, except where its kind is a list. Other arguments
 * are errors, unless the table declares them; then "--" ends the options. */
#ifndef FB_CLI_OPTIONS_OPTIONS_H
#define FB_CLI_OPTIONS_OPTIONS_H

#include "cli/options/option_table.h"

/* Reads argv[1] .. argv[argc - 1] into `target`: first every default, then what is given. --help
 * (-h) is understood for every table and need not be listed. Returns whether the command goes on;
 * if not, help or one line of error has been printed and *exit_status is the program's. Lists are
 * the caller's to free in both cases. */
bool fb_options_parse(const fb_option_table *table, int argc, char **argv, void *target,
                      int *exit_status);

#endif

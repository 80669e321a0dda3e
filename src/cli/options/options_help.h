/* The --help of a command. */
#ifndef FB_CLI_OPTIONS_OPTIONS_HELP_H
#define FB_CLI_OPTIONS_OPTIONS_HELP_H

#include "cli/options/option_table.h"

/* Prints usage, summary and a paragraph for each option to standard output. */
void fb_options_print_help(const fb_option_table *table);

#endif

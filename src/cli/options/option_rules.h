/* Which options mean something only with others: fb_option.needs. It is written in conditions, all
 * of which must hold, with a space between them:
 *
 *     sparse                --sparse is given
 *     !sparse               it is not
 *     reuse=rows            --reuse is "rows", given or by default
 *     tau!=0                --tau is not 0; numbers are compared as numbers
 *     residual|!sparse      one of the two holds
 *     reuse=tau|tau!=0      (of --reuse itself) all values of it but "tau" need --tau not to be 0
 *
 * They count for options that are given: a default needs nothing. */
#ifndef FB_CLI_OPTIONS_OPTION_RULES_H
#define FB_CLI_OPTIONS_OPTION_RULES_H

#include "cli/options/option_table.h"

enum { FB_OPTIONS_MAX = 96 }; /* of a table */

/* The last value given for each option of a table, "" for a flag; NULL: not given. */
typedef struct fb_option_texts {
    const char *given[FB_OPTIONS_MAX];
} fb_option_texts;

/* Whether every option that is given has what it needs. If not, text[0 .. size) says what is
 * missing.
 */
bool fb_option_rules_hold(const fb_option_table *table, const fb_option_texts *texts, char *text,
                          size_t size);

/* Appends to text[0 .. size), for --help: "needs --sparse", "not with --tau 0; needs --reuse rows".
 */
void fb_option_rules_describe(const fb_option *option, char *text, size_t size);

#endif

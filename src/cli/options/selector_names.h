/* Names of selectors on the command line. */
#ifndef FB_CLI_OPTIONS_SELECTOR_NAMES_H
#define FB_CLI_OPTIONS_SELECTOR_NAMES_H

#include <flashblock/status.h>

#include <stddef.h>

/* `parse` of an option whose target is a const char *: one of the selectors that need no list from
 * the caller. The error for any other name lists all of them. */
fb_status fb_selector_name_parse(const char *text, void *name);

enum { FB_SELECTOR_LIST_MAX = 16 };

typedef struct fb_selector_list {
    const char *names[FB_SELECTOR_LIST_MAX];
    size_t count;
} fb_selector_list;

/* `parse` of an option whose target is such a list. */
fb_status fb_selector_list_parse(const char *text, void *list);

/* The i-th of them; NULL after the last. */
const char *fb_selector_name_at(size_t i);

#endif

/* Lists of whole numbers on the command line: "4k,16k,1m" (k is 1024, m is 1024 k). */
#ifndef FB_CLI_OPTIONS_NUMBER_LIST_H
#define FB_CLI_OPTIONS_NUMBER_LIST_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

enum { FB_NUMBER_LIST_MAX = 16 };

typedef struct fb_number_list {
    size_t values[FB_NUMBER_LIST_MAX];
    size_t count; /* 0: not given */
} fb_number_list;

/* One whole number with its unit. False when it is none, or above `max`. */
bool fb_number_parse(const char *text, size_t max, size_t *value);

/* `parse` of an option whose target is such a list. Numbers go up to 2^30. */
fb_status fb_number_list_parse(const char *text, void *list);

/* FB_ERROR_ARGUMENT when a number of `option` is outside min .. max. */
fb_status fb_number_list_check(const fb_number_list *list, const char *option, size_t min,
                               size_t max);

#endif

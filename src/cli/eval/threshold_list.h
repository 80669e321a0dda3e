/* Lists of thresholds of calibrations on the command line: "0.85:0.05,0.85:0.1,-1:inf", each a
 * similarity and a change of the LSE. */
#ifndef FB_CLI_EVAL_THRESHOLD_LIST_H
#define FB_CLI_EVAL_THRESHOLD_LIST_H

#include <flashblock/status.h>

#include <stddef.h>

enum { FB_THRESHOLD_LIST_MAX = 16 };

/* A head refreshes where its similarity is below the one or its LSE changes by more than the other.
 */
typedef struct fb_thresholds {
    double similarity, lse; /* from -1 to 1; at least 0, may be infinite */
} fb_thresholds;

typedef struct fb_threshold_list {
    fb_thresholds values[FB_THRESHOLD_LIST_MAX];
    size_t count;
} fb_threshold_list;

/* `parse` of an option whose target is such a list. */
fb_status fb_threshold_list_parse(const char *text, void *list);

#endif

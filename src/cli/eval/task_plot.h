/* The picture of flashblock eval tasks: right answers, with standard errors, against attention
 * time, a panel a cell. Policies that differ in a number only are one curve. */
#ifndef FB_CLI_EVAL_TASK_PLOT_H
#define FB_CLI_EVAL_TASK_PLOT_H

#include "cli/eval/task_results.h"

#include <flashblock/status.h>

#include <stddef.h>

/* What a panel shows, kept when the records of its cell are gone. */
typedef struct fb_task_panel {
    char title[FB_TASK_CELL_TITLE];
    const fb_task_policy_list *policies;
    fb_task_result *results; /* [policies->count] */
} fb_task_panel;

/* Draws panels [count] to a file that ends in .png or .svg. */
fb_status fb_task_plot(const char *path, const fb_task_panel *panels, size_t count);

#endif

/* Names of ways to attend, for flashblock eval tasks:
 *
 *     dense, tau:T, rows, ...            policies of reuse, as policy.h names them
 *     tau:block                          T is the block size
 *     never                              a block's first step is the only one that refreshes, also
 *                                        at the commit pass
 *     SELECTOR@P                         a selector alone, at a density of P percent
 *     SELECTOR@P+first                   a block's first step attends to every key
 *     SELECTOR@P+residual:T              residual reuse; T is a number or "block"
 *     SELECTOR@P+residual:once           the residual is computed once a block
 *     SELECTOR@P+residual:...+sparse-first
 *                                        the first step, too, predicts from selected keys alone
 */
#ifndef FB_CLI_EVAL_TASK_POLICY_H
#define FB_CLI_EVAL_TASK_POLICY_H

#include "study/task_trial.h"

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

enum { FB_TASK_POLICY_LIST_MAX = 128, FB_TASK_POLICY_NAME = 64 };

typedef struct fb_task_policy_choice {
    char name[FB_TASK_POLICY_NAME];
    bool is_sparse, tau_is_block;
    fb_sparse_options sparse; /* if it is */
    fb_task_policy policy;    /* without its pointer */
} fb_task_policy_choice;

typedef struct fb_task_policy_list {
    fb_task_policy_choice choices[FB_TASK_POLICY_LIST_MAX];
    size_t count;
} fb_task_policy_list;

/* `parse` of an option whose target is such a list: names with commas between them. */
fb_status fb_task_policy_list_parse(const char *text, void *list);

/* The policy for a block size. It points into the choice. */
fb_task_policy fb_task_policy_of(const fb_task_policy_choice *choice, size_t block_size);

#endif

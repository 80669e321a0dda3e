/* What came out of flashblock eval tasks: sums over the problems of a cell, as a table and as
 * JSON. */
#ifndef FB_CLI_EVAL_TASK_RESULTS_H
#define FB_CLI_EVAL_TASK_RESULTS_H

#include "cli/eval/task_policy.h"
#include "io/json_write.h"

#include <stdbool.h>
#include <stddef.h>

/* One problem with one policy. */
typedef struct fb_task_record {
    bool right, equal; /* the answer; the whole text, to that of dense attention */
    size_t tokens, steps, reuses, passes, external_rows;
    double keys, seconds;
    char *text; /* the reply, fb_text_free; NULL: it is not kept */
} fb_task_record;

/* A suite at a block size and a way to denoise. */
typedef struct fb_task_cell {
    const char *suite; /* "ledger-4k" */
    size_t block_size;
    bool one_a_token; /* otherwise by the confidence threshold */
    size_t num_tasks;
    const fb_task_policy_list *policies; /* the first is dense */
    const fb_task_record *records;       /* [num_tasks, policies->count] */
} fb_task_cell;

/* Sums and shares of a policy in a cell. "by dense": divided by what dense attention took. */
typedef struct fb_task_result {
    size_t tasks, right, equal;
    size_t lost, won;                /* right with dense attention only; with this policy only */
    double accuracy, accuracy_error; /* share of right answers, and its standard error */
    double steps_per_token, reused;  /* reused: share of the denoising steps */
    double keys, seconds;            /* sums: external keys a head, seconds of attention */
    size_t external_rows, tokens, steps, passes;
    double keys_by_dense, rows_by_dense, seconds_by_dense;
} fb_task_result;

fb_task_result fb_task_result_of(const fb_task_cell *cell, size_t policy);

/* "ledger-4k, blocks of 16, one token a step" */
enum { FB_TASK_CELL_TITLE = 128 };
void fb_task_cell_title(const fb_task_cell *cell, char title[FB_TASK_CELL_TITLE]);

void fb_task_cell_print(const fb_task_cell *cell);

/* An object for each policy, into an array; an object for each reply that is kept. */
void fb_task_cell_put(fb_json_writer *w, const fb_task_cell *cell);
void fb_task_cell_put_replies(fb_json_writer *w, const fb_task_cell *cell);

#endif

/* Problems with right answers, read from a file (golden/demo_suites.py writes them). A line is a
 * JSON object: a text, and questions about it,
 *
 *     {"text": ..., "questions": [{"prompt": ..., "answer": ..., "kind": ..., "steps": ...}, ...]}
 *
 * A model reads the text and a question's prompt, and writes on. Its answer is what stands between
 * "Answer: " and the end of that line. */
#ifndef FB_STUDY_TASK_SUITE_H
#define FB_STUDY_TASK_SUITE_H

#include "io/json.h"

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

typedef struct fb_task {
    const char *prompt, *answer, *kind;
    size_t steps; /* facts and calculations that the answer takes */
} fb_task;

typedef struct fb_task_text {
    const char *text; /* may be empty */
    fb_task *tasks;   /* [num_tasks] */
    size_t num_tasks;
    size_t first; /* number of its first task in the suite */
} fb_task_text;

typedef struct fb_task_suite {
    fb_task_text *texts; /* [num_texts] */
    size_t num_texts, num_tasks;
    const fb_json **lines; /* [num_texts], which own the strings */
} fb_task_suite;

/* Reads the first `most` tasks (0: all of them). FB_ERROR_FORMAT names the line. fb_task_suite_free
 * must follow, also after a failure. */
fb_status fb_task_suite_load(const char *path, size_t most, fb_task_suite *suite);
void fb_task_suite_free(fb_task_suite *suite);

/* Whether written [length] gives the task's answer. */
bool fb_task_is_right(const fb_task *task, const char *written, size_t length);

#endif

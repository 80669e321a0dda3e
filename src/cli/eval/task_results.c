#include "cli/eval/task_results.h"

#include "study/measures.h"

#include <math.h>
#include <stdio.h>

fb_task_result fb_task_result_of(const fb_task_cell *cell, size_t policy) {
    fb_task_result r = {.tasks = cell->num_tasks};
    size_t count = cell->policies->count, reuses = 0, dense_rows = 0;
    double dense_keys = 0, dense_seconds = 0;
    for (size_t task = 0; task < cell->num_tasks; task++) {
        const fb_task_record *own = &cell->records[task * count + policy];
        const fb_task_record *dense = &cell->records[task * count];
        r.right += own->right;
        r.equal += own->equal;
        r.lost += dense->right && !own->right;
        r.won += !dense->right && own->right;
        r.tokens += own->tokens;
        r.steps += own->steps;
        r.passes += own->passes;
        r.external_rows += own->external_rows;
        r.keys += own->keys;
        r.seconds += own->seconds;
        reuses += own->reuses;
        dense_rows += dense->external_rows;
        dense_keys += dense->keys;
        dense_seconds += dense->seconds;
    }
    double p = fb_measure_ratio((double)r.right, (double)r.tasks);
    r.accuracy = p;
    r.accuracy_error = sqrt(fb_measure_ratio(p * (1 - p), (double)r.tasks));
    r.steps_per_token = fb_measure_ratio((double)r.steps, (double)r.tokens);
    r.reused = fb_measure_ratio((double)reuses, (double)r.steps);
    r.keys_by_dense = fb_measure_ratio(r.keys, dense_keys);
    r.rows_by_dense = fb_measure_ratio((double)r.external_rows, (double)dense_rows);
    r.seconds_by_dense = fb_measure_ratio(r.seconds, dense_seconds);
    return r;
}

void fb_task_cell_title(const fb_task_cell *cell, char title[FB_TASK_CELL_TITLE]) {
    snprintf(title, FB_TASK_CELL_TITLE, "%s, blocks of %zu, %s", cell->suite, cell->block_size,
             cell->one_a_token ? "one token a step" : "by the confidence threshold");
}

void fb_task_cell_print(const fb_task_cell *cell) {
    char title[FB_TASK_CELL_TITLE];
    fb_task_cell_title(cell, title);
    printf("\n%s: %zu problems\n", title, cell->num_tasks);
    printf("%-38s%8s%7s%6s%6s%8s%8s%8s%8s%8s%11s%8s\n", "policy", "right", "+-", "lost", "won",
           "equal", "steps", "reused", "keys", "rows", "attention", "");
    for (size_t i = 0; i < cell->policies->count; i++) {
        fb_task_result r = fb_task_result_of(cell, i);
        printf("%-38s%7.1f%%%7.1f%6zu%6zu%7.1f%%%8.2f%7.1f%%%8.3f%8.3f%8.2f ms%8.3f\n",
               cell->policies->choices[i].name, 100 * r.accuracy, 100 * r.accuracy_error, r.lost,
               r.won, 100 * (double)r.equal / (double)r.tasks, r.steps_per_token, 100 * r.reused,
               r.keys_by_dense, r.rows_by_dense, 1e3 * r.seconds / (double)r.tasks,
               r.seconds_by_dense);
    }
}

static void open_policy(fb_json_writer *w, const fb_task_cell *cell, size_t policy) {
    fb_json_open_object(w, NULL);
    fb_json_put_text(w, "suite", cell->suite);
    fb_json_put_size(w, "block_size", cell->block_size);
    fb_json_put_string(w, "steps", cell->one_a_token ? "one-a-token" : "threshold");
    fb_json_put_string(w, "policy", cell->policies->choices[policy].name);
}

void fb_task_cell_put(fb_json_writer *w, const fb_task_cell *cell) {
    for (size_t i = 0; i < cell->policies->count; i++) {
        fb_task_result r = fb_task_result_of(cell, i);
        open_policy(w, cell, i);
        fb_json_put_size(w, "problems", r.tasks);
        fb_json_put_size(w, "right", r.right);
        fb_json_put_double(w, "accuracy", r.accuracy);
        fb_json_put_double(w, "accuracy_standard_error", r.accuracy_error);
        fb_json_put_size(w, "lost", r.lost);
        fb_json_put_size(w, "won", r.won);
        fb_json_put_size(w, "equal_texts", r.equal);
        fb_json_put_size(w, "tokens", r.tokens);
        fb_json_put_size(w, "denoising_steps", r.steps);
        fb_json_put_size(w, "passes", r.passes);
        fb_json_put_double(w, "reused", r.reused);
        fb_json_put_double(w, "keys", r.keys);
        fb_json_put_double(w, "keys_by_dense", r.keys_by_dense);
        fb_json_put_size(w, "external_rows", r.external_rows);
        fb_json_put_double(w, "external_rows_by_dense", r.rows_by_dense);
        fb_json_put_double(w, "attention_seconds", r.seconds);
        fb_json_put_double(w, "attention_by_dense", r.seconds_by_dense);
        fb_json_close_object(w);
    }
}

void fb_task_cell_put_replies(fb_json_writer *w, const fb_task_cell *cell) {
    size_t count = cell->policies->count;
    for (size_t i = 0; i < cell->num_tasks * count; i++) {
        if (!cell->records[i].text)
            continue;
        open_policy(w, cell, i % count);
        fb_json_put_size(w, "problem", i / count);
        fb_json_put_bool(w, "right", cell->records[i].right);
        fb_json_put_text(w, "text", cell->records[i].text);
        fb_json_close_object(w);
    }
}

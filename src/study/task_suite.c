#include "study/task_suite.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"

#include <stdio.h>
#include <string.h>

enum { MAX_SUITE_BYTES = 256 << 20, MAX_STEPS = 1 << 20, WHERE_SIZE = 512 };

static size_t count_lines(const char *data, size_t size) {
    size_t lines = 0;
    for (size_t i = 0; i < size; i++)
        lines += data[i] == '\n' || i + 1 == size;
    return lines;
}

static fb_status read_task(const fb_json *question, const char *where, fb_task *task) {
    FB_TRY(fb_json_get_string(question, where, "prompt", &task->prompt));
    FB_TRY(fb_json_get_string(question, where, "answer", &task->answer));
    FB_TRY(fb_json_get_string(question, where, "kind", &task->kind));
    return fb_json_get_size(question, where, "steps", 0, MAX_STEPS, &task->steps);
}

static fb_status read_line(const char *data, size_t size, const char *where, size_t most,
                           fb_task_suite *suite) {
    const fb_json *questions = NULL;
    size_t index = suite->num_texts;
    fb_task_text *text = &suite->texts[index];
    FB_TRY(fb_json_parse(data, size, where, &suite->lines[index]));
    suite->num_texts++;
    FB_TRY(fb_json_get_string(suite->lines[index], where, "text", &text->text));
    FB_TRY(fb_json_get_array(suite->lines[index], where, "questions", &questions));
    size_t count = fb_json_array_size(questions);
    if (most > 0 && count > most - suite->num_tasks)
        count = most - suite->num_tasks;
    FB_TRY(fb_alloc_zeroed(count, sizeof *text->tasks, "tasks", &text->tasks));
    text->first = suite->num_tasks;
    text->num_tasks = count;
    suite->num_tasks += count;
    for (size_t i = 0; i < count; i++)
        FB_TRY(read_task(fb_json_array_get(questions, i), where, &text->tasks[i]));
    return FB_OK;
}

static fb_status read_lines(const char *path, const char *data, size_t size, size_t most,
                            fb_task_suite *suite) {
    size_t lines = count_lines(data, size), number = 0;
    FB_TRY(fb_alloc_zeroed(lines, sizeof *suite->texts, "texts", &suite->texts));
    FB_TRY(fb_alloc_zeroed(lines, sizeof *suite->lines, "texts", &suite->lines));
    while (size > 0 && (most == 0 || suite->num_tasks < most)) {
        const char *end = memchr(data, '\n', size);
        size_t length = end ? (size_t)(end - data) : size;
        char where[WHERE_SIZE];
        snprintf(where, sizeof where, "%s: line %zu", path, ++number);
        FB_TRY(read_line(data, length, where, most, suite));
        size_t taken = end ? length + 1 : length;
        data += taken;
        size -= taken;
    }
    if (suite->num_tasks == 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: there are no questions", path);
    return FB_OK;
}

fb_status fb_task_suite_load(const char *path, size_t most, fb_task_suite *suite) {
    char *data = NULL;
    size_t size = 0;
    *suite = (fb_task_suite){0};
    FB_TRY(fb_file_read_text(path, MAX_SUITE_BYTES, &data, &size));
    fb_status status = read_lines(path, data, size, most, suite);
    fb_free(data);
    return status;
}

void fb_task_suite_free(fb_task_suite *suite) {
    for (size_t i = 0; i < suite->num_texts; i++) {
        fb_free(suite->texts[i].tasks);
        fb_json_free(suite->lines[i]);
    }
    fb_free(suite->texts);
    fb_free(suite->lines);
    *suite = (fb_task_suite){0};
}

bool fb_task_is_right(const fb_task *task, const char *written, size_t length) {
    static const char mark[] = "Answer: ";
    const size_t mark_length = sizeof mark - 1, wanted = strlen(task->answer);
    for (size_t at = 0; at + mark_length <= length; at++) {
        if (memcmp(written + at, mark, mark_length) != 0)
            continue;
        const char *answer = written + at + mark_length;
        size_t left = length - at - mark_length;
        const char *end = memchr(answer, '\n', left);
        size_t given = end ? (size_t)(end - answer) : left;
        while (given > 0 && answer[given - 1] == ' ')
            given--;
        return given == wanted && memcmp(answer, task->answer, wanted) == 0;
    }
    return false;
}

#include "cli/output.h"

#include "cli/progress.h"
#include "io/file.h"
#include "io/file_place.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void fb_print_error(const char *format, ...) {
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *c = text; *c; c++) /* arguments of the command line may hold anything */
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    fflush(stdout);
    fb_progress_end();
    fprintf(stderr, "flashblock: %s\n", text);
}

void fb_print_model_warnings(const fb_model *model) {
    for (size_t i = 0; fb_model_warning(model, i); i++)
        fb_print_error("warning: %s", fb_model_warning(model, i));
}

void fb_print_tokenizer_warnings(const fb_tokenizer *tokenizer) {
    for (size_t i = 0; fb_tokenizer_warning(tokenizer, i); i++)
        fb_print_error("warning: %s", fb_tokenizer_warning(tokenizer, i));
}

void fb_print_video_warnings(const fb_video_model *model) {
    for (size_t i = 0; fb_video_model_warning(model, i); i++)
        fb_print_error("warning: %s", fb_video_model_warning(model, i));
}

/* The error of a command that had finished files; "" for none. */
static char delayed[2048];

int fb_report_status(fb_status status) {
    if (status == FB_OK)
        return FB_EXIT_OK;
    if (fb_file_batch_has_files())
        snprintf(delayed, sizeof delayed, "%s", fb_error_message());
    else
        fb_print_error("%s", fb_error_message());
    fb_file_batch_fail();
    return status == FB_ERROR_ARGUMENT ? FB_EXIT_USAGE : FB_EXIT_FAILED;
}

int fb_report_files(int status, fb_status written) {
    if (written != FB_OK || delayed[0])
        fb_print_error("%s%s%s", delayed, delayed[0] && written != FB_OK ? "; " : "",
                       written != FB_OK ? fb_error_message() : "");
    return status == FB_EXIT_OK && written != FB_OK ? FB_EXIT_FAILED : status;
}

int fb_finish_stdout(void) {
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return FB_EXIT_OK;
    fb_print_error("cannot write standard output: %s", errno ? strerror(errno) : "write failed");
    return FB_EXIT_FAILED;
}

bool fb_is_stdout(const char *path) {
    return path && strcmp(path, "-") == 0;
}

const char *fb_output_path(const char *path) {
    return fb_is_stdout(path) ? FB_STDOUT_PATH : path;
}

FILE *fb_text_stream(const char *output) {
    return fb_file_place_descriptor(fb_output_path(output)) == STDOUT_FILENO ? stderr : stdout;
}

bool fb_is_stdin(const char *path) {
    return path && strcmp(path, "-") == 0;
}

fb_json_writer fb_json_output(fb_buffer *text) {
    fb_json_writer w = fb_json_writer_to(text, FB_JSON_INDENTED);
    w.digits = 9;
    return w;
}

fb_status fb_write_json(fb_json_writer *w, const char *path) {
    fb_status status = fb_json_finish(w);
    if (status == FB_OK)
        status = fb_buffer_append_text(w->out, "\n");
    if (status == FB_OK)
        status = fb_file_write(fb_output_path(path), w->out->data, w->out->size);
    fb_buffer_free(w->out);
    return status;
}

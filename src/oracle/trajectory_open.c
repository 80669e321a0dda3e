#include "oracle/trajectory_open.h"

#include "base/error.h"
#include "io/file.h"
#include "oracle/trajectory_header.h"
#include "oracle/trajectory_pass.h"

#include <stdio.h>
#include <string.h>

static fb_status read_line(fb_trajectory_reader *r, const char *text, size_t size) {
    const fb_json *line = NULL;
    snprintf(r->where, sizeof r->where, "%.500s: line %zu", r->record->path, r->line);
    if (r->record->ended)
        return fb_fail(FB_ERROR_FORMAT, "%s: follows the end of the record", r->where);
    FB_TRY(fb_json_parse(text, size, r->where, &line));
    fb_status status = !r->sequence               ? fb_trajectory_read_header(r, line)
                       : fb_json_has(line, "end") ? fb_trajectory_read_end(r, line)
                                                  : fb_trajectory_read_pass(r, line);
    fb_json_free(line);
    return status;
}

static bool is_blank(const char *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (!strchr(" \t\r", text[i]) || text[i] == '\0')
            return false;
    return true;
}

static fb_status read_lines(fb_trajectory_reader *r, const char *text, size_t size) {
    for (size_t at = 0; at < size;) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t length = end ? (size_t)(end - text) - at : size - at;
        r->line++;
        if (!is_blank(text + at, length))
            FB_TRY(read_line(r, text + at, length));
        at += length + 1;
    }
    if (!r->sequence)
        return fb_fail(FB_ERROR_FORMAT, "%s: is empty", r->record->path);
    r->record->num_lines = r->line;
    return FB_OK;
}

fb_status fb_trajectory_open(const char *path, const char *tensors, const fb_model_config *config,
                             fb_trajectory *record) {
    fb_trajectory_reader r = {.record = record, .config = config, .tensors = tensors};
    fb_file_map map = {0};
    *record = (fb_trajectory){0};
    FB_TRY(fb_trajectory_copy_text(path, &record->path));
    FB_TRY(fb_file_map_open(path, &map));
    fb_status status = read_lines(&r, map.data, map.size);
    fb_file_map_close(&map);
    fb_sequence_destroy(r.sequence);
    return status;
}

#include "oracle/hash_list.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "oracle/hash_compute.h"

#include <stdio.h>
#include <string.h>

static const char *const builtin_lines[] = {
#include "oracle/hash_lines.inc"
};

void fb_hash_list_close(fb_hash_list *list) {
    if (!list)
        return;
    fb_free(list->entries);
    fb_free(list);
}

/* The next word of a line: its length; *text moves to its end. */
static size_t next_word(const char **text, const char **word) {
    *word = *text + strspn(*text, " \t\r");
    size_t length = strcspn(*word, " \t\r");
    *text = *word + length;
    return length;
}

static bool take_hash(const char **text, char hash[FB_HASH_TEXT]) {
    const char *word = NULL;
    if (next_word(text, &word) != FB_HASH_TEXT - 1 ||
        strspn(word, "0123456789abcdef") < FB_HASH_TEXT - 1)
        return false;
    memcpy(hash, word, FB_HASH_TEXT - 1);
    hash[FB_HASH_TEXT - 1] = '\0';
    return true;
}

static fb_status read_line(const char *line, const char *where, size_t number, fb_hash_list *list) {
    const char *name = NULL, *rest = line, *end = NULL;
    size_t length = next_word(&rest, &name), index = 0;
    fb_hashes hashes = {{0}, {0}};
    if (length == 0 || *name == '#')
        return FB_OK;
    while (index < fb_num_hash_cases && (strlen(fb_hash_cases[index].name) != length ||
                                         strncmp(fb_hash_cases[index].name, name, length) != 0))
        index++;
    if (index == fb_num_hash_cases)
        return fb_fail(FB_ERROR_FORMAT, "%s: line %zu: '%.*s' is not a case of this build", where,
                       number, length < 80 ? (int)length : 80, name);
    if (!take_hash(&rest, hashes.out) || !take_hash(&rest, hashes.lse) ||
        next_word(&rest, &end) != 0)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: line %zu: expected a name and two hashes of 32 hexadecimal digits",
                       where, number);
    if (*list->entries[index].out)
        return fb_fail(FB_ERROR_FORMAT, "%s: line %zu: %s comes twice", where, number,
                       fb_hash_cases[index].name);
    list->entries[index] = hashes;
    return FB_OK;
}

static fb_status read_builtin(fb_hash_list *list) {
    for (size_t i = 0; i < sizeof builtin_lines / sizeof builtin_lines[0]; i++)
        FB_TRY(read_line(builtin_lines[i], "golden/hashes.txt", i + 1, list));
    return FB_OK;
}

/* Reads the lines of `text`, which are cut into strings in place. */
static fb_status read_lines(char *text, const char *where, fb_hash_list *list) {
    size_t number = 1;
    while (text) {
        char *end = strchr(text, '\n');
        if (end)
            *end = '\0';
        FB_TRY(read_line(text, where, number++, list));
        text = end ? end + 1 : NULL;
    }
    return FB_OK;
}

static fb_status read_file(const char *path, fb_hash_list *list) {
    char *text = NULL;
    size_t size = 0;
    FB_TRY(fb_file_read(path, 1 << 20, &text, &size));
    fb_status status = FB_OK;
    if (strlen(text) != size)
        status = fb_fail(FB_ERROR_FORMAT, "%s: it holds a NUL", path);
    if (status == FB_OK)
        status = read_lines(text, path, list);
    fb_free(text);
    return status;
}

fb_status fb_hash_list_open(const char *path, fb_hash_list **list) {
    fb_hash_list *opened = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *opened, "hashes", &opened));
    fb_status status =
        fb_alloc_zeroed(fb_num_hash_cases, sizeof *opened->entries, "hashes", &opened->entries);
    if (status == FB_OK)
        status = path ? read_file(path, opened) : read_builtin(opened);
    if (status != FB_OK) {
        fb_hash_list_close(opened);
        return status;
    }
    *list = opened;
    return FB_OK;
}

static const char list_header[] =
    "# Golden hashes: NAME, XXH3-128 of the outputs' bytes, XXH3-128 of the LSEs' bytes (float32,\n"
    "# little-endian). The cases are those of src/oracle/hash_cases.c; `flashblock selftest`\n"
    "# recomputes them. They are the same on every instruction set and for any number of threads.\n"
    "# A case that has been published keeps its hashes.\n";

static fb_status write_cases(fb_file_writer *writer) {
    FB_TRY(fb_file_writer_put(writer, list_header, sizeof list_header - 1));
    for (size_t i = 0; i < fb_num_hash_cases; i++) {
        fb_hash_result result;
        fb_hashes hashes;
        char line[256];
        FB_TRY(fb_hash_compute(&fb_hash_cases[i], &result));
        fb_hash_result_digest(&result, &hashes);
        fb_hash_result_free(&result);
        int length = snprintf(line, sizeof line, "%s %s %s\n", fb_hash_cases[i].name, hashes.out,
                              hashes.lse);
        FB_TRY(fb_file_writer_put(writer, line, (size_t)length));
    }
    return FB_OK;
}

fb_status fb_hash_list_write(const char *path) {
    fb_file_writer *writer = NULL;
    FB_TRY(fb_file_writer_open(path, &writer));
    fb_status status = write_cases(writer);
    if (status == FB_OK)
        return fb_file_writer_commit(writer);
    fb_file_writer_abandon(writer);
    return status;
}

#include "io/json.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/json_internal.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Parses again with numbers that jansson takes; *root stays NULL when that fails too. */
static fb_status parse_rewritten(const char *text, size_t size, json_t **root) {
    fb_buffer rewritten = {0};
    json_error_t error;
    fb_status status = fb_json_rewrite_numbers(text, size, &rewritten);
    if (status == FB_OK)
        *root = json_loadb((const char *)rewritten.data, rewritten.size, JSON_REJECT_DUPLICATES,
                           &error);
    fb_buffer_free(&rewritten);
    return status;
}

fb_status fb_json_parse(const char *text, size_t size, const char *where, json_t **object) {
    json_error_t error;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (!root && (json_error_code(&error) == json_error_numeric_overflow ||
                  json_error_code(&error) == json_error_invalid_syntax))
        FB_TRY(parse_rewritten(text, size, &root));
    if (!root)
        return fb_fail(FB_ERROR_FORMAT, "%s: not JSON: line %d: %s", where, error.line, error.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return fb_fail(FB_ERROR_FORMAT, "%s: is not a JSON object", where);
    }
    *object = root;
    return FB_OK;
}

fb_status fb_json_load(const char *path, size_t limit, json_t **object) {
    char *text = NULL;
    size_t size = 0;
    FB_TRY(fb_file_read(path, limit, &text, &size));
    fb_status status = fb_file_check_content(path, text, size);
    if (status == FB_OK)
        status = fb_json_parse(text, size, path, object);
    fb_free(text);
    return status;
}

bool fb_json_has(const json_t *object, const char *key) {
    const json_t *item = json_object_get(object, key);
    return item && !json_is_null(item);
}

/* The text of a number that no double holds; NULL for any other value. */
static const char *marked_number(const json_t *item) {
    return json_object_size(item) == 1 ? json_string_value(json_object_get(item, "")) : NULL;
}

const char *fb_json_show(const json_t *item, char text[FB_JSON_SHOW_SIZE]) {
    const char *number = marked_number(item);
    if (number) {
        snprintf(text, FB_JSON_SHOW_SIZE, "%.40s", number);
        return text;
    }
    size_t size = json_dumpb(item, text, FB_JSON_SHOW_SIZE - 1,
                             JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(17));
    if (size < FB_JSON_SHOW_SIZE) {
        text[size] = '\0';
        return text;
    }
    return json_is_object(item) ? "an object" : json_is_array(item) ? "an array" : "a long string";
}

bool fb_json_is(const json_t *item, const char *value, size_t length) {
    if (value[0] == '"')
        return json_is_string(item) && json_string_length(item) == length - 2 &&
               memcmp(json_string_value(item), value + 1, length - 2) == 0;
    switch (value[0]) {
    case 'n':
        return json_is_null(item);
    case 't':
        return json_is_true(item);
    case 'f':
        return json_is_false(item);
    case '[':
        return json_is_array(item) && json_array_size(item) == 0;
    case '{':
        return json_is_object(item) && json_object_size(item) == 0;
    default:
        return json_is_number(item) && json_number_value(item) == strtod(value, NULL);
    }
}

fb_status fb_json_each(const json_t *object, fb_json_visitor *visit, void *user) {
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) FB_TRY(visit(user, key, value));
    return FB_OK;
}

static fb_status wrong(const json_t *item, const char *where, const char *key, const char *wanted) {
    char text[FB_JSON_SHOW_SIZE];
    return fb_fail(FB_ERROR_FORMAT, "%s: %s is %s, not %s", where, key, fb_json_show(item, text),
                   wanted);
}

static fb_status find(const json_t *object, const char *where, const char *key, json_t **item) {
    json_t *found = json_object_get(object, key);
    if (!found)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is missing", where, key);
    *item = found;
    return FB_OK;
}

fb_status fb_json_size(const json_t *item, const char *where, const char *key, size_t min,
                       size_t max, size_t *value) {
    double large = json_real_value(item); /* 0 for any other type */
    if (large >= 0x1p63 || large <= -0x1p63)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is %.17g, not in [%zu, %zu]", where, key, large,
                       min, max);
    if (!json_is_integer(item))
        return wrong(item, where, key, "a whole number");
    json_int_t number = json_integer_value(item);
    if (number < 0 || (uintmax_t)number < min || (uintmax_t)number > max)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is %lld, not in [%zu, %zu]", where, key,
                       (long long)number, min, max);
    *value = (size_t)number;
    return FB_OK;
}

fb_status fb_json_get_size(const json_t *object, const char *where, const char *key, size_t min,
                           size_t max, size_t *value) {
    json_t *item = NULL;
    FB_TRY(find(object, where, key, &item));
    return fb_json_size(item, where, key, min, max, value);
}

fb_status fb_json_get_double(const json_t *object, const char *where, const char *key,
                             double *value) {
    json_t *item = NULL;
    FB_TRY(find(object, where, key, &item));
    if (!json_is_number(item))
        return wrong(item, where, key, "a number");
    *value = json_number_value(item);
    return FB_OK;
}

fb_status fb_json_get_bool(const json_t *object, const char *where, const char *key, bool *value) {
    json_t *item = NULL;
    FB_TRY(find(object, where, key, &item));
    if (!json_is_boolean(item))
        return wrong(item, where, key, "true or false");
    *value = json_is_true(item);
    return FB_OK;
}

fb_status fb_json_get_string(const json_t *object, const char *where, const char *key,
                             const char **value) {
    json_t *item = NULL;
    FB_TRY(find(object, where, key, &item));
    if (!json_is_string(item))
        return wrong(item, where, key, "a string");
    *value = json_string_value(item);
    return FB_OK;
}

fb_status fb_json_get_array(const json_t *object, const char *where, const char *key,
                            json_t **value) {
    json_t *item = NULL;
    FB_TRY(find(object, where, key, &item));
    if (!json_is_array(item))
        return wrong(item, where, key, "an array");
    *value = item;
    return FB_OK;
}

fb_status fb_json_get_object(const json_t *object, const char *where, const char *key,
                             json_t **value) {
    json_t *item = NULL;
    FB_TRY(find(object, where, key, &item));
    if (!json_is_object(item) || marked_number(item))
        return wrong(item, where, key, "an object");
    *value = item;
    return FB_OK;
}

fb_status fb_json_get_size_or(const json_t *object, const char *where, const char *key, size_t min,
                              size_t max, size_t otherwise, size_t *value) {
    if (fb_json_has(object, key))
        return fb_json_get_size(object, where, key, min, max, value);
    *value = otherwise;
    return FB_OK;
}

fb_status fb_json_get_double_or(const json_t *object, const char *where, const char *key,
                                double otherwise, double *value) {
    if (fb_json_has(object, key))
        return fb_json_get_double(object, where, key, value);
    *value = otherwise;
    return FB_OK;
}

fb_status fb_json_get_bool_or(const json_t *object, const char *where, const char *key,
                              bool otherwise, bool *value) {
    if (fb_json_has(object, key))
        return fb_json_get_bool(object, where, key, value);
    *value = otherwise;
    return FB_OK;
}

fb_status fb_json_get_string_or(const json_t *object, const char *where, const char *key,
                                const char *otherwise, const char **value) {
    if (fb_json_has(object, key))
        return fb_json_get_string(object, where, key, value);
    *value = otherwise;
    return FB_OK;
}

/* Typed access to the values of a document. */
#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/file_kind.h"
#include "io/json_internal.h"
#include "io/json_write.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

fb_status fb_json_parse(const char *text, size_t size, const char *where, const fb_json **object) {
    const fb_json *root = NULL;
    FB_TRY(fb_json_parse_value(text, size, where, &root));
    if (root->type != FB_JSON_OBJECT) {
        fb_json_free(root);
        return fb_fail(FB_ERROR_FORMAT, "%s: is not a JSON object", where);
    }
    *object = root;
    return FB_OK;
}

/* Then the place of the error tells more than what kind of file it is. */
static bool begins_as_json(const char *text, size_t size) {
    size_t first = strspn(text, " \t\r\n");
    return first < size &&
           (text[first] == '{' || text[first] == '[' || text[first] == '/' || text[first] == '#');
}

fb_status fb_json_load(const char *path, size_t limit, const fb_json **object) {
    char *text = NULL;
    size_t size = 0;
    FB_TRY(fb_file_read_text(path, limit, &text, &size));
    fb_status status = fb_json_parse(text, size, path, object);
    if (status == FB_ERROR_FORMAT && !begins_as_json(text, size) &&
        fb_file_kind_check(text, size, "JSON") != FB_OK)
        fb_fail_in(status, "%s", path);
    fb_free(text);
    return status;
}

/* --- values ----------------------------------------------------------------------------------- */

static bool is(const fb_json *value, fb_json_type type) {
    return value && value->type == type;
}

bool fb_json_is_null(const fb_json *value) {
    return is(value, FB_JSON_NULL);
}

bool fb_json_is_bool(const fb_json *value) {
    return is(value, FB_JSON_TRUE) || is(value, FB_JSON_FALSE);
}

bool fb_json_is_true(const fb_json *value) {
    return is(value, FB_JSON_TRUE);
}

bool fb_json_is_number(const fb_json *value) {
    return is(value, FB_JSON_UNSIGNED) || is(value, FB_JSON_NEGATIVE) || is(value, FB_JSON_REAL);
}

/* 1021.0 and 1e3 are whole numbers, too: JSON has one type of numbers. From 2^53 on a double does
 * not say which integer was written. Gives `value` itself, or `copy`. */
static const fb_json *as_integer(const fb_json *value, fb_json *copy) {
    double number = is(value, FB_JSON_REAL) ? value->of.real : 0.5;
    if (fabs(number) >= 0x1p53 || number < floor(number) || number > floor(number))
        return value;
    if (number < 0.0)
        *copy = (fb_json){.type = FB_JSON_NEGATIVE, .of.negative = (int64_t)number};
    else
        *copy = (fb_json){.type = FB_JSON_UNSIGNED, .of.whole = (uint64_t)number};
    return copy;
}

bool fb_json_is_int64(const fb_json *value, int64_t *number) {
    fb_json copy;
    value = as_integer(value, &copy);
    if (is(value, FB_JSON_NEGATIVE))
        *number = value->of.negative;
    else if (is(value, FB_JSON_UNSIGNED) && value->of.whole <= INT64_MAX)
        *number = (int64_t)value->of.whole;
    else
        return false;
    return true;
}

bool fb_json_is_string(const fb_json *value) {
    return is(value, FB_JSON_STRING);
}

bool fb_json_is_array(const fb_json *value) {
    return is(value, FB_JSON_ARRAY);
}

bool fb_json_is_object(const fb_json *value) {
    return is(value, FB_JSON_OBJECT);
}

const char *fb_json_string(const fb_json *value) {
    return is(value, FB_JSON_STRING) ? value->of.text : NULL;
}

size_t fb_json_array_size(const fb_json *array) {
    return is(array, FB_JSON_ARRAY) ? array->size : 0;
}

const fb_json *fb_json_array_get(const fb_json *array, size_t index) {
    return index < fb_json_array_size(array) ? &array->of.items[index] : NULL;
}

size_t fb_json_object_size(const fb_json *object) {
    return is(object, FB_JSON_OBJECT) ? object->size : 0;
}

const char *fb_json_object_key(const fb_json *object, size_t index) {
    return object->of.members[index].key;
}

const fb_json *fb_json_object_at(const fb_json *object, size_t index) {
    return &object->of.members[index].value;
}

bool fb_json_has(const fb_json *object, const char *key) {
    const fb_json *value = fb_json_object_get(object, key);
    return value && value->type != FB_JSON_NULL;
}

/* --- messages --------------------------------------------------------------------------------- */

const char *fb_json_show(const fb_json *value, char text[FB_JSON_SHOW_SIZE]) {
    fb_buffer written = {0};
    fb_json_writer w = fb_json_writer_to(&written, FB_JSON_COMPACT);
    w.limit = FB_JSON_SHOW_SIZE;
    fb_json_put_value(&w, NULL, value);
    bool fits = fb_json_finish(&w) == FB_OK && written.size < FB_JSON_SHOW_SIZE;
    if (fits)
        memcpy(text, written.data, written.size);
    text[fits ? written.size : 0] = '\0';
    fb_buffer_free(&written);
    return fits                         ? text
           : is(value, FB_JSON_OBJECT)  ? "an object"
           : is(value, FB_JSON_ARRAY)   ? "an array"
           : is(value, FB_JSON_OUTSIDE) ? "a long number"
                                        : "a long string";
}

static fb_status wrong(const fb_json *value, const char *where, const char *key,
                       const char *wanted) {
    char text[FB_JSON_SHOW_SIZE];
    if (!value)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is missing", where, key);
    return fb_fail(FB_ERROR_FORMAT, "%s: %s is %s, not %s", where, key, fb_json_show(value, text),
                   wanted);
}

/* --- typed values ----------------------------------------------------------------------------- */

/* FB_OK unless the value is a number whose size alone excludes it. */
static fb_status check_magnitude(const fb_json *value, const char *where, const char *key,
                                 const char *range) {
    if (is(value, FB_JSON_REAL) && (value->of.real >= 0x1p63 || value->of.real <= -0x1p63))
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is %.17g, not in %s", where, key, value->of.real,
                       range);
    if (!is(value, FB_JSON_UNSIGNED) && !is(value, FB_JSON_NEGATIVE))
        return wrong(value, where, key, "a whole number");
    return FB_OK;
}

fb_status fb_json_size(const fb_json *value, const char *where, const char *key, size_t min,
                       size_t max, size_t *size) {
    fb_json copy;
    return fb_json_exact_size(as_integer(value, &copy), where, key, min, max, size);
}

fb_status fb_json_exact_size(const fb_json *value, const char *where, const char *key, size_t min,
                             size_t max, size_t *size) {
    char range[64];
    snprintf(range, sizeof range, "[%zu, %zu]", min, max);
    FB_TRY(check_magnitude(value, where, key, range));
    if (value->type == FB_JSON_NEGATIVE)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is %lld, not in %s", where, key,
                       (long long)value->of.negative, range);
    if (value->of.whole < min || value->of.whole > max)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is %llu, not in %s", where, key,
                       (unsigned long long)value->of.whole, range);
    *size = (size_t)value->of.whole;
    return FB_OK;
}

fb_status fb_json_int64(const fb_json *value, const char *where, const char *key, int64_t min,
                        int64_t max, int64_t *number) {
    char range[64];
    fb_json copy;
    value = as_integer(value, &copy);
    snprintf(range, sizeof range, "[%lld, %lld]", (long long)min, (long long)max);
    FB_TRY(check_magnitude(value, where, key, range));
    int64_t read = 0;
    if (!fb_json_is_int64(value, &read))
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is %llu, not in %s", where, key,
                       (unsigned long long)value->of.whole, range);
    if (read < min || read > max)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is %lld, not in %s", where, key, (long long)read,
                       range);
    *number = read;
    return FB_OK;
}

fb_status fb_json_double(const fb_json *value, const char *where, const char *key, double *number) {
    if (!fb_json_is_number(value))
        return wrong(value, where, key, "a number");
    *number = value->type == FB_JSON_REAL       ? value->of.real
              : value->type == FB_JSON_NEGATIVE ? (double)value->of.negative
                                                : (double)value->of.whole;
    return FB_OK;
}

fb_status fb_json_text(const fb_json *value, const char *where, const char *key,
                       const char **text) {
    if (!is(value, FB_JSON_STRING))
        return wrong(value, where, key, "a string");
    *text = value->of.text;
    return FB_OK;
}

bool fb_json_is(const fb_json *value, const char *wanted, size_t length) {
    char copy[64];
    double number = 0.0;
    switch (wanted[0]) {
    case '"':
        return is(value, FB_JSON_STRING) && value->size == length - 2 &&
               memcmp(value->of.text, wanted + 1, length - 2) == 0;
    case 'n':
        return is(value, FB_JSON_NULL);
    case 't':
        return is(value, FB_JSON_TRUE);
    case 'f':
        return is(value, FB_JSON_FALSE);
    case '[':
        return is(value, FB_JSON_ARRAY) && value->size == 0;
    case '{':
        return is(value, FB_JSON_OBJECT) && value->size == 0;
    default:
        return length < sizeof copy / 2 && fb_json_is_number(value) &&
               fb_json_double(value, "", "", &number) == FB_OK &&
               number == fb_json_read_double(wanted, length, copy);
    }
}

fb_status fb_json_each(const fb_json *object, fb_json_visitor *visit, void *user) {
    for (size_t i = 0; i < fb_json_object_size(object); i++)
        FB_TRY(visit(user, fb_json_object_key(object, i), fb_json_object_at(object, i)));
    return FB_OK;
}

/* --- fields ----------------------------------------------------------------------------------- */

fb_status fb_json_get_size(const fb_json *object, const char *where, const char *key, size_t min,
                           size_t max, size_t *value) {
    return fb_json_size(fb_json_object_get(object, key), where, key, min, max, value);
}

fb_status fb_json_get_double(const fb_json *object, const char *where, const char *key,
                             double *value) {
    return fb_json_double(fb_json_object_get(object, key), where, key, value);
}

fb_status fb_json_get_bool(const fb_json *object, const char *where, const char *key, bool *value) {
    const fb_json *found = fb_json_object_get(object, key);
    if (!fb_json_is_bool(found))
        return wrong(found, where, key, "true or false");
    *value = found->type == FB_JSON_TRUE;
    return FB_OK;
}

fb_status fb_json_get_string(const fb_json *object, const char *where, const char *key,
                             const char **value) {
    return fb_json_text(fb_json_object_get(object, key), where, key, value);
}

fb_status fb_json_get_array(const fb_json *object, const char *where, const char *key,
                            const fb_json **value) {
    const fb_json *found = fb_json_object_get(object, key);
    if (!is(found, FB_JSON_ARRAY))
        return wrong(found, where, key, "an array");
    *value = found;
    return FB_OK;
}

fb_status fb_json_get_object(const fb_json *object, const char *where, const char *key,
                             const fb_json **value) {
    const fb_json *found = fb_json_object_get(object, key);
    if (!is(found, FB_JSON_OBJECT))
        return wrong(found, where, key, "an object");
    *value = found;
    return FB_OK;
}

fb_status fb_json_get_size_or(const fb_json *object, const char *where, const char *key, size_t min,
                              size_t max, size_t otherwise, size_t *value) {
    if (fb_json_has(object, key))
        return fb_json_get_size(object, where, key, min, max, value);
    *value = otherwise;
    return FB_OK;
}

fb_status fb_json_get_double_or(const fb_json *object, const char *where, const char *key,
                                double otherwise, double *value) {
    if (fb_json_has(object, key))
        return fb_json_get_double(object, where, key, value);
    *value = otherwise;
    return FB_OK;
}

fb_status fb_json_get_bool_or(const fb_json *object, const char *where, const char *key,
                              bool otherwise, bool *value) {
    if (fb_json_has(object, key))
        return fb_json_get_bool(object, where, key, value);
    *value = otherwise;
    return FB_OK;
}

fb_status fb_json_get_string_or(const fb_json *object, const char *where, const char *key,
                                const char *otherwise, const char **value) {
    if (fb_json_has(object, key))
        return fb_json_get_string(object, where, key, value);
    *value = otherwise;
    return FB_OK;
}

/* Reading JSON: files, trees of values, typed access to the fields of an object.
 *
 * A document is a tree that never changes. It is freed as a whole, by its root. Its values, keys
 * and strings are borrowed from it. Reading it from several threads is safe.
 *
 * These are errors (FB_ERROR_FORMAT), with line and column: duplicate keys, invalid UTF-8, NUL or
 * half of a surrogate pair in a string, more than 2048 levels of nesting. Integers are exact within
 * [-2^63, 2^64), and 4.0 or 4e0 is the integer 4; any other number is the nearest double. Numbers
 * beyond double, and Python's NaN and Infinity, are accepted where nobody reads them. They are an
 * error where somebody does.
 *
 * Every message begins with `where`: the path or name of the file, and the parent field if there is
 * one ("config.json", "config.json: rope_scaling"). */
#ifndef FB_IO_JSON_H
#define FB_IO_JSON_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fb_json fb_json;

/* Both give the root, an object. The caller frees it with fb_json_free. */
fb_status fb_json_parse(const char *text, size_t size, const char *where, const fb_json **object);
fb_status fb_json_load(const char *path, size_t limit, const fb_json **object);

/* The root may be any value. */
fb_status fb_json_parse_value(const char *text, size_t size, const char *where,
                              const fb_json **value);

/* Frees a document by its root. NULL is allowed. */
void fb_json_free(const fb_json *root);

/* --- values ----------------------------------------------------------------------------------- */

/* All of these take NULL, which is a value of no type. */
bool fb_json_is_null(const fb_json *value);
bool fb_json_is_bool(const fb_json *value);
bool fb_json_is_true(const fb_json *value);
bool fb_json_is_number(const fb_json *value);                 /* one that a double holds */
bool fb_json_is_int64(const fb_json *value, int64_t *number); /* *number is its value if so */
bool fb_json_is_string(const fb_json *value);
bool fb_json_is_array(const fb_json *value);
bool fb_json_is_object(const fb_json *value);

/* NULL when it is not a string. */
const char *fb_json_string(const fb_json *value);

/* Items of an array; 0 when it is not an array. NULL beyond its end. */
size_t fb_json_array_size(const fb_json *array);
const fb_json *fb_json_array_get(const fb_json *array, size_t index);

/* Members of an object, in the order of the text; 0 when it is not an object. index <
 * fb_json_object_size. */
size_t fb_json_object_size(const fb_json *object);
const char *fb_json_object_key(const fb_json *object, size_t index);
const fb_json *fb_json_object_at(const fb_json *object, size_t index);

/* NULL when there is no such key, or when it is not an object. Takes O(1). */
const fb_json *fb_json_object_get(const fb_json *object, const char *key);

/* --- typed values ----------------------------------------------------------------------------- */

/* A value that is not a field, such as an item of an array. `key` is only used in messages. NULL is
 * a missing value. FB_ERROR_FORMAT when the value is missing, or of another type. An integer lies
 * within [min, max]. A double may be written as an integer. */
fb_status fb_json_size(const fb_json *value, const char *where, const char *key, size_t min,
                       size_t max, size_t *size);
/* The same, but 4.0 is no integer. */
fb_status fb_json_exact_size(const fb_json *value, const char *where, const char *key, size_t min,
                             size_t max, size_t *size);
fb_status fb_json_int64(const fb_json *value, const char *where, const char *key, int64_t min,
                        int64_t max, int64_t *number);
fb_status fb_json_double(const fb_json *value, const char *where, const char *key, double *number);
fb_status fb_json_text(const fb_json *value, const char *where, const char *key, const char **text);

/* true when `object` has `key` with a value that is not null. */
bool fb_json_has(const fb_json *object, const char *key);

/* Required fields, as above. */
fb_status fb_json_get_size(const fb_json *object, const char *where, const char *key, size_t min,
                           size_t max, size_t *value);
fb_status fb_json_get_double(const fb_json *object, const char *where, const char *key,
                             double *value);
fb_status fb_json_get_bool(const fb_json *object, const char *where, const char *key, bool *value);
fb_status fb_json_get_string(const fb_json *object, const char *where, const char *key,
                             const char **value);
fb_status fb_json_get_array(const fb_json *object, const char *where, const char *key,
                            const fb_json **value);
fb_status fb_json_get_object(const fb_json *object, const char *where, const char *key,
                             const fb_json **value);

/* Optional fields: a missing field or null gives `otherwise`. It need not be within [min, max], so
 * a value out of range can mean "not given". */
fb_status fb_json_get_size_or(const fb_json *object, const char *where, const char *key, size_t min,
                              size_t max, size_t otherwise, size_t *value);
fb_status fb_json_get_double_or(const fb_json *object, const char *where, const char *key,
                                double otherwise, double *value);
fb_status fb_json_get_bool_or(const fb_json *object, const char *where, const char *key,
                              bool otherwise, bool *value);
fb_status fb_json_get_string_or(const fb_json *object, const char *where, const char *key,
                                const char *otherwise, const char **value);

/* The text that a message shows for a value: its JSON, or what it is when that is long. It is in
 * `text` or constant. */
enum { FB_JSON_SHOW_SIZE = 80 };
const char *fb_json_show(const fb_json *item, char text[FB_JSON_SHOW_SIZE]);

/* true when `item` has this value, written as JSON: null, true, false, a number (1 and 1.0 are the
 * same), a string without escapes, [] or {}. */
bool fb_json_is(const fb_json *item, const char *value, size_t length);

/* Calls `visit` for each field of an object, in the order of the file, until it fails. */
typedef fb_status fb_json_visitor(void *user, const char *key, const fb_json *value);
fb_status fb_json_each(const fb_json *object, fb_json_visitor *visit, void *user);

#endif

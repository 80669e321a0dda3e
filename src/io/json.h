/* JSON files and typed access to their fields, over jansson. These are errors (FB_ERROR_FORMAT):
 * duplicate keys, invalid UTF-8, NUL in strings, more than 2048 levels of nesting.
 *
 * A number of any size is accepted where nobody reads it, and so are Python's NaN and Infinity. An
 * integer beyond int64 is read as a double. A number that no finite double holds is an error where
 * it is read.
 *
 * Every message begins with `where`: the path or name of the file, and the parent field if there is
 * one ("config.json", "config.json: rope_scaling"). */
#ifndef FB_IO_JSON_H
#define FB_IO_JSON_H

#include <flashblock/status.h>

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* Both give an object. The caller releases it with json_decref. */
fb_status fb_json_parse(const char *text, size_t size, const char *where, json_t **object);
fb_status fb_json_load(const char *path, size_t limit, json_t **object);

/* true when `object` has `key` with a value that is not null. */
bool fb_json_has(const json_t *object, const char *key);

/* Required fields. A missing field, or one of another type, is FB_ERROR_FORMAT. A size is an
 * integer within [min, max]. A double may be written as an integer. Strings, arrays and objects are
 * borrowed from `object`. */
fb_status fb_json_get_size(const json_t *object, const char *where, const char *key, size_t min,
                           size_t max, size_t *value);
fb_status fb_json_get_double(const json_t *object, const char *where, const char *key,
                             double *value);
fb_status fb_json_get_bool(const json_t *object, const char *where, const char *key, bool *value);
fb_status fb_json_get_string(const json_t *object, const char *where, const char *key,
                             const char **value);
fb_status fb_json_get_array(const json_t *object, const char *where, const char *key,
                            json_t **value);
fb_status fb_json_get_object(const json_t *object, const char *where, const char *key,
                             json_t **value);

/* Optional fields: a missing field or null gives `otherwise`. It need not be within [min, max], so
 * a value out of range can mean "not given". */
fb_status fb_json_get_size_or(const json_t *object, const char *where, const char *key, size_t min,
                              size_t max, size_t otherwise, size_t *value);
fb_status fb_json_get_double_or(const json_t *object, const char *where, const char *key,
                                double otherwise, double *value);
fb_status fb_json_get_bool_or(const json_t *object, const char *where, const char *key,
                              bool otherwise, bool *value);
fb_status fb_json_get_string_or(const json_t *object, const char *where, const char *key,
                                const char *otherwise, const char **value);

/* A value that is not a field, such as an element of an array. `key` is only used in messages. */
fb_status fb_json_size(const json_t *item, const char *where, const char *key, size_t min,
                       size_t max, size_t *value);

/* The text that a message shows for a value: its JSON, or what it is when that is long. It is in
 * `text` or constant. */
enum { FB_JSON_SHOW_SIZE = 80 };
const char *fb_json_show(const json_t *item, char text[FB_JSON_SHOW_SIZE]);

/* true when `item` has this value, written as JSON: null, true, false, a number (1 and 1.0 are the
 * same), a string without escapes, [] or {}. */
bool fb_json_is(const json_t *item, const char *value, size_t length);

/* Calls `visit` for each field of an object, in the order of the file, until it fails. */
typedef fb_status fb_json_visitor(void *user, const char *key, const json_t *value);
fb_status fb_json_each(const json_t *object, fb_json_visitor *visit, void *user);

#endif

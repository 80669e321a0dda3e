/* Writing JSON into a buffer.
 *
 *     fb_buffer text = {0};
 *     fb_json_writer w = fb_json_writer_to(&text, FB_JSON_INDENTED);
 *     fb_json_open_object(&w, NULL);
 *     fb_json_put_size(&w, "layers", 28);
 *     fb_json_open_array(&w, "ids");
 *     fb_json_put_int64(&w, NULL, -1);
 *     fb_json_close_array(&w);
 *     fb_json_close_object(&w);
 *     fb_status status = fb_json_finish(&w);
 *
 * No call has a result to check: the first failure is kept in the writer, the calls after it do
 * nothing, and fb_json_finish returns it. `key` is the name of a member of an object; it is NULL
 * for an item of an array and for the root. A member is written where it is put. Nobody checks that
 * a key is used only once. */
#ifndef FB_IO_JSON_WRITE_H
#define FB_IO_JSON_WRITE_H

#include "io/buffer.h"
#include "io/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum fb_json_style {
    FB_JSON_COMPACT,  /* no spaces */
    FB_JSON_INDENTED, /* a line for each value, two spaces for each level, a space after a colon */
} fb_json_style;

typedef struct fb_json_writer {
    fb_buffer *out;
    fb_json_style style; /* may be changed after any call, for what comes next */
    int digits;          /* significant digits of a double; 17 read back as the same double */
    size_t depth;        /* arrays and objects that are open */
    bool first;          /* the next value is the first one in its array or object */
    size_t limit;        /* fb_json_put_value stops after so many bytes; 0: nowhere */
    fb_status status;
} fb_json_writer;

/* Appends to *out, which the caller frees. 17 digits. */
fb_json_writer fb_json_writer_to(fb_buffer *out, fb_json_style style);

void fb_json_open_object(fb_json_writer *w, const char *key);
void fb_json_close_object(fb_json_writer *w);
void fb_json_open_array(fb_json_writer *w, const char *key);
void fb_json_close_array(fb_json_writer *w);

void fb_json_put_null(fb_json_writer *w, const char *key);
void fb_json_put_bool(fb_json_writer *w, const char *key, bool value);
void fb_json_put_size(fb_json_writer *w, const char *key, size_t value);
void fb_json_put_uint64(fb_json_writer *w, const char *key, uint64_t value);
void fb_json_put_int64(fb_json_writer *w, const char *key, int64_t value);

/* NaN and infinities, which JSON does not have, are null. */
void fb_json_put_double(fb_json_writer *w, const char *key, double value);

/* UTF-8, as every key. Anything else fails with FB_ERROR_ARGUMENT. */
void fb_json_put_string(fb_json_writer *w, const char *key, const char *value);

/* Text of any origin, such as a path. U+FFFD stands for what is not UTF-8. */
void fb_json_put_text(fb_json_writer *w, const char *key, const char *text);
void fb_json_put_bytes(fb_json_writer *w, const char *key, const char *bytes, size_t size);

/* A value that is JSON already. */
void fb_json_put_raw(fb_json_writer *w, const char *key, const char *text, size_t size);

/* A copy of a value that was read. Numbers, too, come out as this writer writes them, except those
 * that are beyond double. */
void fb_json_put_value(fb_json_writer *w, const char *key, const fb_json *value);

/* Values that are put before their array is open: a fragment is written for the inside of an array
 * at a depth (1: a member of the root), and put there later. */
fb_json_writer fb_json_fragment_to(fb_buffer *out, const fb_json_writer *like, size_t depth);
void fb_json_put_array_of(fb_json_writer *w, const char *key, const fb_json_writer *fragment);

/* Keeps `status`, unless FB_OK, as a failure of the writer: of a value that could not be computed,
 * and has left its message. */
void fb_json_fail(fb_json_writer *w, fb_status status);

/* The first failure. Its message is the last that the library left, if the caller has not called
 * anything else that fails. */
fb_status fb_json_finish(const fb_json_writer *w);

#endif

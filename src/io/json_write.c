#include "io/json_write.h"

#include "base/error.h"
#include "io/json_internal.h"
#include "io/utf8.h"

#include <langinfo.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

fb_json_writer fb_json_writer_to(fb_buffer *out, fb_json_style style) {
    return (fb_json_writer){.out = out, .style = style, .digits = 17, .first = true};
}

void fb_json_fail(fb_json_writer *w, fb_status status) {
    if (w->status == FB_OK)
        w->status = status;
}

fb_status fb_json_finish(const fb_json_writer *w) {
    return w->status;
}

/* --- text ------------------------------------------------------------------------------------- */

static void append(fb_json_writer *w, const char *text, size_t size) {
    if (w->status == FB_OK)
        w->status = fb_buffer_append(w->out, text, size);
}

static void append_text(fb_json_writer *w, const char *text) {
    append(w, text, strlen(text));
}

static void new_line(fb_json_writer *w) {
    if (w->style != FB_JSON_INDENTED)
        return;
    append_text(w, "\n");
    for (size_t i = 0; i < w->depth; i++)
        append_text(w, "  ");
}

static void append_escaped(fb_json_writer *w, unsigned char c) {
    static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    char escape[8];
    const char *found = c ? strchr(plain, c) : NULL;
    if (found)
        snprintf(escape, sizeof escape, "\\%c", letters[found - plain]);
    else
        snprintf(escape, sizeof escape, "\\u%04X", c);
    append_text(w, escape);
}

static void append_quoted(fb_json_writer *w, const char *text, size_t size) {
    append_text(w, "\"");
    for (size_t begin = 0, i = 0; i <= size; i++) {
        bool special = i < size && ((unsigned char)text[i] < 0x20 || strchr("\"\\", text[i]));
        if (i < size && !special)
            continue;
        append(w, text + begin, i - begin);
        if (special)
            append_escaped(w, (unsigned char)text[i]);
        begin = i + 1;
    }
    append_text(w, "\"");
}

static void append_string(fb_json_writer *w, const char *key, const char *text) {
    size_t size = strlen(text);
    if (w->status == FB_OK && fb_utf8_valid_prefix((const unsigned char *)text, size) != size)
        w->status = fb_fail(FB_ERROR_ARGUMENT, "%s is not UTF-8 text", key ? key : "a string");
    append_quoted(w, text, size);
}

/* What stands before a value: a comma, the line, the key. */
static void begin(fb_json_writer *w, const char *key) {
    if (!w->first)
        append_text(w, ",");
    if (w->depth > 0)
        new_line(w);
    w->first = false;
    if (!key)
        return;
    append_string(w, "a key", key);
    append_text(w, w->style == FB_JSON_INDENTED ? ": " : ":");
}

/* --- values ----------------------------------------------------------------------------------- */

static void open_level(fb_json_writer *w, const char *key, const char *bracket) {
    begin(w, key);
    append_text(w, bracket);
    w->depth++;
    w->first = true;
}

static void close_level(fb_json_writer *w, const char *bracket) {
    w->depth--;
    if (!w->first)
        new_line(w);
    w->first = false;
    append_text(w, bracket);
}

void fb_json_open_object(fb_json_writer *w, const char *key) {
    open_level(w, key, "{");
}

void fb_json_close_object(fb_json_writer *w) {
    close_level(w, "}");
}

void fb_json_open_array(fb_json_writer *w, const char *key) {
    open_level(w, key, "[");
}

void fb_json_close_array(fb_json_writer *w) {
    close_level(w, "]");
}

void fb_json_put_raw(fb_json_writer *w, const char *key, const char *text, size_t size) {
    begin(w, key);
    append(w, text, size);
}

static void put_text(fb_json_writer *w, const char *key, const char *text) {
    fb_json_put_raw(w, key, text, strlen(text));
}

void fb_json_put_null(fb_json_writer *w, const char *key) {
    put_text(w, key, "null");
}

void fb_json_put_bool(fb_json_writer *w, const char *key, bool value) {
    put_text(w, key, value ? "true" : "false");
}

void fb_json_put_size(fb_json_writer *w, const char *key, size_t value) {
    fb_json_put_uint64(w, key, value);
}

void fb_json_put_uint64(fb_json_writer *w, const char *key, uint64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    put_text(w, key, text);
}

void fb_json_put_int64(fb_json_writer *w, const char *key, int64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    put_text(w, key, text);
}

/* A decimal point in place of what the program's locale writes. */
static void set_point(char *text) {
    const char *own = nl_langinfo(RADIXCHAR);
    char *found = strcmp(own, ".") == 0 ? NULL : strstr(text, own);
    if (found) {
        *found = '.';
        memmove(found + 1, found + strlen(own), strlen(found + strlen(own)) + 1);
    }
}

/* 1e+06 as 1e6, 1e-07 as 1e-7. A number without point and exponent gets ".0": it is not an integer.
 */
static void shorten_exponent(char *text) {
    char *e = strchr(text, 'e');
    if (!e) {
        if (!strchr(text, '.'))
            strcat(text, ".0");
        return;
    }
    char *to = e[1] == '-' ? e + 2 : e + 1, *from = e + 2;
    from += strspn(from, "0");
    memmove(to, from, strlen(from) + 1);
}

void fb_json_put_double(fb_json_writer *w, const char *key, double value) {
    char text[64];
    if (!isfinite(value)) {
        fb_json_put_null(w, key);
        return;
    }
    snprintf(text, sizeof text - sizeof ".0", "%.*g", w->digits, value);
    set_point(text);
    shorten_exponent(text);
    put_text(w, key, text);
}

void fb_json_put_string(fb_json_writer *w, const char *key, const char *value) {
    begin(w, key);
    append_string(w, key, value);
}

void fb_json_put_text(fb_json_writer *w, const char *key, const char *text) {
    fb_json_put_bytes(w, key, text, strlen(text));
}

void fb_json_put_bytes(fb_json_writer *w, const char *key, const char *bytes, size_t size) {
    fb_buffer text = {0};
    begin(w, key);
    if (w->status == FB_OK)
        w->status = fb_utf8_append_replaced(&text, (const unsigned char *)bytes, size, NULL);
    append_quoted(w, text.size > 0 ? (const char *)text.data : "", text.size);
    fb_buffer_free(&text);
}

/* --- trees ------------------------------------------------------------------------------------ */

void fb_json_put_value(fb_json_writer *w, const char *key, const fb_json *value) {
    if (w->limit > 0 && w->out->size > w->limit)
        return;
    switch (value->type) {
    case FB_JSON_NULL:
        fb_json_put_null(w, key);
        break;
    case FB_JSON_FALSE:
    case FB_JSON_TRUE:
        fb_json_put_bool(w, key, value->type == FB_JSON_TRUE);
        break;
    case FB_JSON_UNSIGNED:
        fb_json_put_uint64(w, key, value->of.whole);
        break;
    case FB_JSON_NEGATIVE:
        fb_json_put_int64(w, key, value->of.negative);
        break;
    case FB_JSON_REAL:
        fb_json_put_double(w, key, value->of.real);
        break;
    case FB_JSON_OUTSIDE:
        fb_json_put_raw(w, key, value->of.text, value->size);
        break;
    case FB_JSON_STRING:
        fb_json_put_string(w, key, value->of.text);
        break;
    case FB_JSON_ARRAY:
        fb_json_open_array(w, key);
        for (size_t i = 0; i < value->size; i++)
            fb_json_put_value(w, NULL, &value->of.items[i]);
        fb_json_close_array(w);
        break;
    case FB_JSON_OBJECT:
        fb_json_open_object(w, key);
        for (size_t i = 0; i < value->size; i++)
            fb_json_put_value(w, value->of.members[i].key, &value->of.members[i].value);
        fb_json_close_object(w);
        break;
    }
}

/* --- fragments -------------------------------------------------------------------------------- */

fb_json_writer fb_json_fragment_to(fb_buffer *out, const fb_json_writer *like, size_t depth) {
    fb_json_writer fragment = fb_json_writer_to(out, like->style);
    fragment.digits = like->digits;
    fragment.depth = depth + 1;
    return fragment;
}

void fb_json_put_array_of(fb_json_writer *w, const char *key, const fb_json_writer *fragment) {
    fb_json_open_array(w, key);
    fb_json_fail(w, fragment->status);
    if (!fragment->first) {
        append(w, (const char *)fragment->out->data, fragment->out->size);
        w->first = false;
    }
    fb_json_close_array(w);
}

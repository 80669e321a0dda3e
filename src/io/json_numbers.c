#include "base/error.h"
#include "io/json_internal.h"

#include <string.h>

/* Reads the text of a JSON document, and writes the same document with numbers that jansson can
 * hold. `at` is the next character to read. */
typedef struct rewriter {
    const char *at, *end;
    fb_buffer *out;
} rewriter;

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* Tells whether jansson reads `text`. *overflow: it does not, because a number is out of range. */
static bool parses(const char *text, size_t length, bool *overflow) {
    json_error_t error;
    json_t *value = json_loadb(text, length, JSON_DECODE_ANY, &error);
    *overflow = !value && json_error_code(&error) == json_error_numeric_overflow;
    json_decref(value);
    return value != NULL;
}

/* Appends {"": "NUMBER"}. The messages of json.c show such an object as the number. */
static fb_status put_marked(rewriter *r, const char *text, size_t length) {
    FB_TRY(fb_buffer_append_text(r->out, "{\"\":\""));
    FB_TRY(fb_buffer_append(r->out, text, length));
    return fb_buffer_append_text(r->out, "\"}");
}

/* An integer beyond int64 becomes the nearest double, a number beyond double is marked. */
static fb_status put_large(rewriter *r, const char *text, size_t length) {
    size_t start = r->out->size;
    bool overflow = false;
    FB_TRY(fb_buffer_append(r->out, text, length));
    FB_TRY(fb_buffer_append_text(r->out, ".0"));
    if (parses((const char *)r->out->data + start, length + 2, &overflow))
        return FB_OK;
    r->out->size = start;
    return put_marked(r, text, length);
}

static fb_status put_number(rewriter *r) {
    size_t length = 0;
    while (r->at + length < r->end &&
           (is_digit(r->at[length]) || (r->at[length] != '\0' && strchr("+-.eE", r->at[length]))))
        length++;
    const char *text = r->at;
    bool overflow = false;
    r->at += length;
    /* every integer of 18 digits fits int64, and without an exponent so many digits fit a double */
    bool small = length <= 18 && !memchr(text, 'e', length) && !memchr(text, 'E', length);
    if (small || parses(text, length, &overflow) || !overflow)
        return fb_buffer_append(r->out, text, length);
    return put_large(r, text, length);
}

/* Steps over NaN, Infinity and -Infinity, which Python writes. */
static fb_status put_word(rewriter *r, bool *found) {
    static const char *const words[] = {"NaN", "Infinity", "-Infinity"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t length = strlen(words[i]);
        *found = (size_t)(r->end - r->at) >= length && memcmp(r->at, words[i], length) == 0;
        if (*found) {
            r->at += length;
            return put_marked(r, words[i], length);
        }
    }
    return FB_OK;
}

/* A string with its quotes. */
static fb_status put_string(rewriter *r) {
    const char *begin = r->at++;
    while (r->at < r->end && *r->at != '"')
        r->at += *r->at == '\\' && r->at + 1 < r->end ? 2 : 1;
    if (r->at < r->end)
        r->at++;
    return fb_buffer_append(r->out, begin, (size_t)(r->at - begin));
}

/* Everything up to the next string, number or word. */
static fb_status put_rest(rewriter *r) {
    const char *begin = r->at++;
    while (r->at < r->end && !is_digit(*r->at) && (*r->at == '\0' || !strchr("\"-NI", *r->at)))
        r->at++;
    return fb_buffer_append(r->out, begin, (size_t)(r->at - begin));
}

fb_status fb_json_rewrite_numbers(const char *text, size_t size, fb_buffer *out) {
    rewriter r = {text, text + size, out};
    while (r.at < r.end) {
        bool word = false;
        FB_TRY(put_word(&r, &word));
        if (word)
            continue;
        if (*r.at == '"')
            FB_TRY(put_string(&r));
        else if (*r.at == '-' || is_digit(*r.at))
            FB_TRY(put_number(&r));
        else
            FB_TRY(put_rest(&r));
    }
    return FB_OK;
}

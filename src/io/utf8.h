/* UTF-8, decoded as the Encoding Standard (https://encoding.spec.whatwg.org/#utf-8-decoder) does:
 * an ill-formed sequence counts as one U+FFFD for each of its maximal parts. */
#ifndef FB_IO_UTF8_H
#define FB_IO_UTF8_H

#include "io/buffer.h"

#include <stdint.h>

#define FB_REPLACEMENT_CHARACTER 0xfffdu

typedef enum fb_utf8_kind {
    FB_UTF8_VALID,
    FB_UTF8_INVALID,
    FB_UTF8_INCOMPLETE, /* the text ends within a sequence that more bytes could complete */
} fb_utf8_kind;

typedef struct fb_utf8_step {
    fb_utf8_kind kind;
    uint32_t code_point; /* FB_REPLACEMENT_CHARACTER unless valid */
    size_t size;         /* bytes, at least 1 */
} fb_utf8_step;

/* Decodes the beginning of text[0 .. length); length > 0. */
fb_utf8_step fb_utf8_decode(const unsigned char *text, size_t length);

/* The number of bytes before the first ill-formed sequence; `length` when there is none. */
size_t fb_utf8_valid_prefix(const unsigned char *text, size_t length);

/* Appends the text with U+FFFD in place of ill-formed sequences. If `rest` is not NULL, an
 * incomplete sequence at the end is left out and *rest is its size; *rest is 0 if there is none. */
fb_status fb_utf8_append_replaced(fb_buffer *buffer, const unsigned char *text, size_t length,
                                  size_t *rest);

/* Appends a code point, which is at most 0x10ffff and not a surrogate. */
fb_status fb_utf8_append(fb_buffer *buffer, uint32_t code_point);

#endif

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

/* What text[0 .. length) begins with; length > 0. */
fb_utf8_step fb_utf8_decode(const unsigned char *text, size_t length);

/* Bytes before the first ill-formed sequence: `length` when there is none. */
size_t fb_utf8_valid_prefix(const unsigned char *text, size_t length);

/* Appends the text, ill-formed sequences replaced. An incomplete one at the end is left out where
 * `rest` is given: *rest is then its size, otherwise 0. */
fb_status fb_utf8_append_replaced(fb_buffer *buffer, const unsigned char *text, size_t length,
                                  size_t *rest);

/* Appends a code point: at most 0x10ffff and no surrogate. */
fb_status fb_utf8_append(fb_buffer *buffer, uint32_t code_point);

#endif

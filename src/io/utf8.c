#include "io/utf8.h"

#include "base/error.h"

#include <string.h>

/* The number of bytes that follow a lead byte, and the range of the first of them. The range
 * excludes overlong forms, surrogates and code points above U+10FFFF. The other bytes are 0x80 ..
 * 0xbf. */
typedef struct lead {
    size_t following;
    unsigned char low, high;
} lead;

static lead describe_lead(unsigned char byte) {
    if (byte >= 0xc2 && byte <= 0xdf)
        return (lead){1, 0x80, 0xbf};
    if (byte >= 0xe0 && byte <= 0xef)
        return (lead){2, byte == 0xe0 ? 0xa0 : 0x80, byte == 0xed ? 0x9f : 0xbf};
    if (byte >= 0xf0 && byte <= 0xf4)
        return (lead){3, byte == 0xf0 ? 0x90 : 0x80, byte == 0xf4 ? 0x8f : 0xbf};
    return (lead){0, 0, 0};
}

fb_utf8_step fb_utf8_decode(const unsigned char *text, size_t length) {
    if (text[0] < 0x80)
        return (fb_utf8_step){FB_UTF8_VALID, text[0], 1};
    lead first = describe_lead(text[0]);
    if (first.following == 0)
        return (fb_utf8_step){FB_UTF8_INVALID, FB_REPLACEMENT_CHARACTER, 1};
    uint32_t code_point = text[0] & (0x3fu >> first.following);
    unsigned char low = first.low, high = first.high;
    for (size_t i = 1; i <= first.following; i++) {
        if (i == length)
            return (fb_utf8_step){FB_UTF8_INCOMPLETE, FB_REPLACEMENT_CHARACTER, i};
        if (text[i] < low || text[i] > high)
            return (fb_utf8_step){FB_UTF8_INVALID, FB_REPLACEMENT_CHARACTER, i};
        code_point = code_point << 6 | (text[i] & 0x3fu);
        low = 0x80;
        high = 0xbf;
    }
    return (fb_utf8_step){FB_UTF8_VALID, code_point, first.following + 1};
}

size_t fb_utf8_valid_prefix(const unsigned char *text, size_t length) {
    size_t position = 0;
    while (position < length) {
        if (text[position] < 0x80) {
            position++;
            continue;
        }
        fb_utf8_step step = fb_utf8_decode(text + position, length - position);
        if (step.kind != FB_UTF8_VALID)
            break;
        position += step.size;
    }
    return position;
}

fb_status fb_utf8_append_replaced(fb_buffer *buffer, const unsigned char *text, size_t length,
                                  size_t *rest) {
    size_t position = 0;
    if (rest)
        *rest = 0;
    while (position < length) {
        size_t valid = fb_utf8_valid_prefix(text + position, length - position);
        FB_TRY(fb_buffer_append(buffer, text + position, valid));
        position += valid;
        if (position == length)
            break;
        fb_utf8_step step = fb_utf8_decode(text + position, length - position);
        if (step.kind == FB_UTF8_INCOMPLETE && rest) {
            *rest = step.size;
            break;
        }
        FB_TRY(fb_utf8_append(buffer, FB_REPLACEMENT_CHARACTER));
        position += step.size;
    }
    return FB_OK;
}

fb_status fb_utf8_append(fb_buffer *buffer, uint32_t code_point) {
    unsigned char bytes[4];
    size_t count = code_point < 0x80 ? 1 : code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    static const unsigned char prefix[5] = {0, 0x00, 0xc0, 0xe0, 0xf0};
    for (size_t i = count; i-- > 1; code_point >>= 6)
        bytes[i] = (unsigned char)(0x80 | (code_point & 0x3f));
    bytes[0] = (unsigned char)(prefix[count] | code_point);
    return fb_buffer_append(buffer, bytes, count);
}

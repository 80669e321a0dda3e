#include "io/byte_level.h"

#include "base/error.h"

/* Bytes that do not stand for themselves, in order: 0-32, 127-160, 173. */
enum {
    FIRST_BLOCK = 33,  /* bytes 0 .. 32 */
    SECOND_BLOCK = 34, /* bytes 127 .. 160 */
    ESCAPED = FIRST_BLOCK + SECOND_BLOCK + 1,
};

static uint32_t character_of(unsigned char byte) {
    if (byte < FIRST_BLOCK)
        return 0x100u + byte;
    if (byte >= 127 && byte <= 160)
        return 0x100u + FIRST_BLOCK + (byte - 127u);
    if (byte == 173)
        return 0x100u + ESCAPED - 1;
    return byte;
}

/* The byte of a character, or -1. */
static int byte_of(uint32_t code_point) {
    if (code_point < 0x100)
        return character_of((unsigned char)code_point) == code_point ? (int)code_point : -1;
    uint32_t escaped = code_point - 0x100;
    if (escaped < FIRST_BLOCK)
        return (int)escaped;
    if (escaped < FIRST_BLOCK + SECOND_BLOCK)
        return (int)(escaped - FIRST_BLOCK + 127);
    return escaped == ESCAPED - 1 ? 173 : -1;
}

fb_status fb_byte_level_append_spelling(fb_buffer *buffer, const unsigned char *bytes,
                                        size_t length) {
    for (size_t i = 0; i < length; i++)
        FB_TRY(fb_utf8_append(buffer, character_of(bytes[i])));
    return FB_OK;
}

fb_status fb_byte_level_append_bytes(fb_buffer *buffer, const char *spelling, size_t length) {
    const unsigned char *text = (const unsigned char *)spelling;
    size_t start = buffer->size;
    for (size_t position = 0; position < length;) {
        fb_utf8_step step = fb_utf8_decode(text + position, length - position);
        int byte = byte_of(step.code_point);
        if (byte < 0) {
            buffer->size = start;
            return fb_buffer_append(buffer, spelling, length);
        }
        unsigned char value = (unsigned char)byte;
        FB_TRY(fb_buffer_append(buffer, &value, 1));
        position += step.size;
    }
    return FB_OK;
}

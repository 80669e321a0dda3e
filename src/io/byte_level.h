/* The alphabet of byte-level BPE, that of GPT-2: 256 printable characters stand for the 256 bytes.
 * A byte that is printable Latin-1 stands for itself. The others are U+0100, U+0101, ... in
 * order. */
#ifndef FB_IO_BYTE_LEVEL_H
#define FB_IO_BYTE_LEVEL_H

#include "io/utf8.h"

#define FB_BYTE_LEVEL_SIZE 256

/* Appends the characters that stand for these bytes, as UTF-8. */
fb_status fb_byte_level_append_spelling(fb_buffer *buffer, const unsigned char *bytes,
                                        size_t length);

/* Appends the bytes that a spelling (well-formed UTF-8) stands for. A spelling with a character
 * outside the alphabet stands for its own UTF-8. */
fb_status fb_byte_level_append_bytes(fb_buffer *buffer, const char *spelling, size_t length);

#endif

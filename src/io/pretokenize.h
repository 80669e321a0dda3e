/* The pre_tokenizer of a tokenizer.json: cuts text into the pieces that BPE encodes one by one. */
#ifndef FB_IO_PRETOKENIZE_H
#define FB_IO_PRETOKENIZE_H

#include "io/regex.h"

#include <jansson.h>

/* Split steps, then one ByteLevel step. Immutable once loaded. */
typedef struct fb_pretokenizer fb_pretokenizer;

/* `config` is the field's value. FB_ERROR_UNSUPPORTED unless a ByteLevel ends it. `where` is what
 * messages name first. */
fb_status fb_pretokenizer_load(const json_t *config, const char *where,
                               fb_pretokenizer **pretokenizer);
void fb_pretokenizer_destroy(fb_pretokenizer *pretokenizer);

/* Takes one piece, as bytes (not spelled in the byte-level alphabet); never empty. */
typedef fb_status fb_piece_sink(void *context, const unsigned char *piece, size_t length);

/* Gives the pieces of text[0 .. length), well-formed UTF-8, to `sink` in order. */
fb_status fb_pretokenize(const fb_pretokenizer *pretokenizer, fb_regex_state *state,
                         const unsigned char *text, size_t length, fb_piece_sink *sink,
                         void *context);

#endif

/* The pre_tokenizer of a tokenizer.json. It cuts text into pieces, and BPE encodes each piece. */
#ifndef FB_IO_PRETOKENIZE_H
#define FB_IO_PRETOKENIZE_H

#include "io/json.h"
#include "io/regex.h"

#include <stdbool.h>

/* Split steps, then one ByteLevel step. Immutable once loaded. */
typedef struct fb_pretokenizer fb_pretokenizer;

/* `config` is the value of the field. FB_ERROR_UNSUPPORTED unless the last step is a ByteLevel.
 * Every message begins with `where`. */
fb_status fb_pretokenizer_load(const fb_json *config, const char *where,
                               fb_pretokenizer **pretokenizer);
/* Whether a space is put before a text that does not begin with one. */
bool fb_pretokenizer_adds_space(const fb_pretokenizer *pretokenizer);

void fb_pretokenizer_destroy(fb_pretokenizer *pretokenizer);

/* Receives one piece as bytes (not spelled in the byte-level alphabet). A piece is never empty. */
typedef fb_status fb_piece_sink(void *context, const unsigned char *piece, size_t length);

/* Cuts text[0 .. length), which is well-formed UTF-8, and gives the pieces to `sink` in order. */
fb_status fb_pretokenize(const fb_pretokenizer *pretokenizer, fb_regex_state *state,
                         const unsigned char *text, size_t length, fb_piece_sink *sink,
                         void *context);

#endif

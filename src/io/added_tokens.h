/* Finding the added tokens (<|im_end|>, <think>, ...) that a text spells. */
#ifndef FB_IO_ADDED_TOKENS_H
#define FB_IO_ADDED_TOKENS_H

#include "io/vocabulary.h"

#include <flashblock/tokenizer.h>

/* The longest text of an added token, in bytes. Longer ones are FB_ERROR_UNSUPPORTED, because the
 * time of a search grows with the length. */
#define FB_MAX_ADDED_TOKEN 1024

typedef struct fb_added_entry {
    size_t text; /* offset */
    size_t length;
    int32_t id;
    bool special, lstrip, rstrip, single_word;
} fb_added_entry;

typedef struct fb_added_matcher {
    fb_added_entry *entries; /* [count], in the order of their texts */
    size_t count;
    fb_buffer text;
    bool begins[256]; /* is it the first byte of an entry? */
} fb_added_matcher;

/* Takes the tokens whose `normalized` is as given. Their texts are normalised to NFC when `nfc`.
 * *matcher must be zeroed; free it on failure too. */
fb_status fb_added_matcher_load(const fb_added_token *tokens, size_t count, bool normalized,
                                bool nfc, fb_added_matcher *matcher);
void fb_added_matcher_free(fb_added_matcher *matcher);

/* A part of a text: plain text, and the added token that ends it. */
typedef struct fb_added_part {
    size_t begin, end; /* of the plain text before the token; empty unless begin < end */
    int32_t id;        /* of the token; -1: none, the plain text goes to the end */
    size_t next;       /* where the next plain text begins */
    size_t search;     /* where the next token may begin: in white space that rstrip removes, too */
} fb_added_part;

/* The part of text[0 .. length) whose plain text begins at `from`, and whose token begins at
 * `search` or later; the text is well-formed UTF-8. It ends with the leftmost token, and if several
 * begin there, with the longest. lstrip and rstrip remove white space from the neighbouring parts.
 * A single_word token does not match beside a word character. Where a token does not count, no
 * other is found within its text. All of this is as the tokenizers library does it. */
fb_added_part fb_added_find(const fb_added_matcher *matcher, fb_added_tokens mode,
                            const unsigned char *text, size_t length, size_t from, size_t search);

#endif

/* The tokens of a tokenizer: their spellings, and the bytes that they stand for. */
#ifndef FB_IO_VOCABULARY_H
#define FB_IO_VOCABULARY_H

#include "io/buffer.h"
#include "io/json.h"

#include <stdbool.h>
#include <stdint.h>

/* No id is above this. The largest vocabularies in use have a quarter of a million tokens. */
#define FB_MAX_TOKEN_ID ((1u << 22) - 1)

/* A token is one of the model's (of model.vocab), an added one, or both. */
enum { FB_TOKEN_OF_MODEL = 1, FB_TOKEN_ADDED = 2, FB_TOKEN_SPECIAL = 4 };

typedef struct fb_token {
    size_t spelling, bytes; /* offsets into the vocabulary's text */
    uint32_t spelling_length, bytes_length;
    unsigned flags; /* 0 for an id that no token has */
} fb_token;

typedef struct fb_vocabulary {
    fb_token *tokens; /* [size], by id */
    size_t size;      /* largest id + 1 */
    int32_t *sorted;  /* [count], ids in the order of their spellings */
    size_t count;
    fb_buffer text;
} fb_vocabulary;

/* An entry of added_tokens: a token beside those of the model, or more about one of them. */
typedef struct fb_added_token {
    const char *content; /* borrowed from the JSON document */
    int32_t id;
    bool special, normalized, lstrip, rstrip, single_word;
} fb_added_token;

/* Loads model.vocab ({spelling: id}) and the added tokens, whose spelling is their text.
 * FB_ERROR_FORMAT when two tokens have the same id or the same spelling; only an added token may
 * repeat a token of the model. *vocabulary must be zeroed; free it on failure too. */
fb_status fb_vocabulary_load(const fb_json *vocab, const fb_added_token *added, size_t num_added,
                             const char *where, fb_vocabulary *vocabulary);
void fb_vocabulary_free(fb_vocabulary *vocabulary);

/* NULL when no token has this id. */
const fb_token *fb_vocabulary_token(const fb_vocabulary *vocabulary, int32_t id);

/* The id of a spelling, in O(log n); -1 when there is none. */
int32_t fb_vocabulary_find(const fb_vocabulary *vocabulary, const char *spelling, size_t length);

#endif

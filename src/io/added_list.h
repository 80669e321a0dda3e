/* The added tokens of a tokenizer, collected from its files. */
#ifndef FB_IO_ADDED_LIST_H
#define FB_IO_ADDED_LIST_H

#include "io/vocabulary.h"
#include "io/warnings.h"

/* The files of a directory; NULL what is not there. `path` is tokenizer.json's, for messages. */
typedef struct fb_tokenizer_files {
    const char *path;
    const fb_json *tokenizer; /* tokenizer.json */
    const fb_json *config;    /* tokenizer_config.json */
    const fb_json *map;       /* special_tokens_map.json */
} fb_tokenizer_files;

/* Starts as {0}. The texts are borrowed from the files. */
typedef struct fb_added_list {
    fb_added_token *items;
    size_t count;
} fb_added_list;

/* Collects, as transformers does:
 *   - added_tokens of tokenizer.json;
 *   - those of added_tokens_decoder in tokenizer_config.json whose text tokenizer.json does not
 *     have; the others must be the same there;
 *   - tokens of the vocabulary that the other files name as special (eos_token, ...). One of the
 *     first two that they name is special, too.
 * Warns of names that are no token, and of ids that transformers would not take. Free the list
 * after a failure, too. */
fb_status fb_added_list_read(const fb_tokenizer_files *files, fb_added_list *list,
                             fb_warnings *warnings);
void fb_added_list_free(fb_added_list *list);

/* The text of a token that is a string, or an object with `content`; NULL when it is neither. */
const char *fb_token_content(const fb_json *token);

#endif

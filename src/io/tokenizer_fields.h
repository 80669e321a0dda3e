/* What is done with each field of a tokenizer's files and of an index of weights. These tables are
 * the list that docs/models.md shows; a test compares the two. */
#ifndef FB_IO_TOKENIZER_FIELDS_H
#define FB_IO_TOKENIZER_FIELDS_H

#include "io/fields.h"

extern const fb_field fb_tokenizer_fields[];        /* tokenizer.json, top level */
extern const fb_field fb_added_token_fields[];      /* an item of its added_tokens */
extern const fb_field fb_bpe_fields[];              /* its model */
extern const fb_field fb_before_fields[];           /* a step before it, of every type */
extern const fb_field fb_after_fields[];            /* a step after it, of every type */
extern const fb_field fb_tokenizer_config_fields[]; /* tokenizer_config.json */
extern const fb_field fb_special_map_fields[];      /* special_tokens_map.json */
extern const fb_field fb_index_fields[];            /* model.safetensors.index.json */

/* Checks every field of tokenizer.json, and the decoder's type. `path` begins messages. */
fb_status fb_tokenizer_check_fields(const fb_json *root, const char *path, fb_warnings *warnings);

#endif

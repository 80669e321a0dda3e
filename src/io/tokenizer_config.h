/* tokenizer_config.json and added_tokens.json beside a tokenizer.json that is loaded. */
#ifndef FB_IO_TOKENIZER_CONFIG_H
#define FB_IO_TOKENIZER_CONFIG_H

#include "io/json.h"
#include "io/tokenizer_internal.h"

/* Checks that what tokenizer_config.json says about ids is what the tokenizer does, and warns of
 * what is not used. `path` begins messages. FB_ERROR_UNSUPPORTED, naming both files' fields, for
 * add_bos_token, add_eos_token or add_prefix_space that tokenizer.json contradicts. */
fb_status fb_tokenizer_config_check(fb_tokenizer *tokenizer, const fb_json *config,
                                    const char *path);

/* added_tokens.json, {text: id}, must agree with the tokenizer. FB_ERROR_FORMAT for another id. */
fb_status fb_added_tokens_file_check(fb_tokenizer *tokenizer, const fb_json *file,
                                     const char *path);

#endif

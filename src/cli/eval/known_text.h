/* The text that an evaluation compares with. */
#ifndef FB_CLI_EVAL_KNOWN_TEXT_H
#define FB_CLI_EVAL_KNOWN_TEXT_H

#include <flashblock/tokenizer.h>

#include <stddef.h>
#include <stdint.h>

/* Reads a file as plain text: a spelled-out special token is text, too. *tokens [*count] are the
 * caller's, fb_token_ids_free. */
fb_status fb_known_text_read(const fb_tokenizer *tokenizer, const char *path, int32_t **tokens,
                             size_t *count);

#endif

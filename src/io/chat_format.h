/* The turns of a chat as token ids.
 *
 *   chatml  <|im_start|>ROLE\nTEXT<|im_end|>\n for each turn: Qwen, SDAR, TraDo
 *   llada2  <role>SYSTEM</role>TEXT\ndetailed thinking off<|role_end|>, then
 *           <role>HUMAN</role>TEXT<|role_end|><role>ASSISTANT</role>TEXT<|role_end|>
 *
 * A text is encoded as one piece with what stands before it in its turn, since a tokenizer may join
 * the two. Special tokens that a text spells out are plain text unless `added` says otherwise. Ids
 * are kept in a buffer, sizeof(int32_t) bytes each. */
#ifndef FB_IO_CHAT_FORMAT_H
#define FB_IO_CHAT_FORMAT_H

#include "io/buffer.h"

#include <flashblock/status.h>
#include <flashblock/tokenizer.h>

#include <stddef.h>
#include <stdint.h>

typedef enum fb_chat_format {
    FB_CHAT_CHATML = 0,
    FB_CHAT_LLADA2,
} fb_chat_format;

/* The names above; "unknown" otherwise. Never NULL. */
const char *fb_chat_format_name(fb_chat_format format);

/* The inverse; FB_ERROR_ARGUMENT for any other name. */
fb_status fb_chat_format_parse(const char *name, fb_chat_format *format);

/* FB_ERROR_ARGUMENT when the tokenizer lacks a special token of the format. */
fb_status fb_chat_format_check(fb_chat_format format, const fb_tokenizer *tokenizer);

/* The token that ends a turn, of a tokenizer that was checked. */
int32_t fb_chat_format_end(fb_chat_format format, const fb_tokenizer *tokenizer);

/* Append a text, such as an answer: nothing before it, nothing after it. */
fb_status fb_chat_append_text(fb_buffer *ids, const fb_tokenizer *tokenizer, const char *text,
                              size_t length, fb_added_tokens added);

/* Appends what a conversation begins with: the system's turn. `text` NULL: there is no such turn,
 * or the one that the format has by itself. */
fb_status fb_chat_append_system(fb_buffer *ids, fb_chat_format format,
                                const fb_tokenizer *tokenizer, const char *text);

/* Appends a user's turn, and what begins the answer. */
fb_status fb_chat_append_user(fb_buffer *ids, fb_chat_format format, const fb_tokenizer *tokenizer,
                              const char *text, size_t length, fb_added_tokens added);

/* Appends what ends an answer; the token that ends it may be there already. */
fb_status fb_chat_append_end(fb_buffer *ids, fb_chat_format format, const fb_tokenizer *tokenizer);

#endif

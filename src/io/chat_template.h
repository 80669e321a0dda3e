/* The chat format of a model, by its chat template: ChatML, or LLaDA2's.
 *
 * Templates are programs in Jinja; there is no interpreter here. A template is recognised by its
 * parts, after the names of its variables are left out:
 *   - a turn is "<|im_start|>" ROLE "\n" CONTENT "<|im_end|>\n", where CONTENT is a variable
 * without a filter or a call, and ROLE is one, or "user";
 *   - what add_generation_prompt adds is "<|im_start|>assistant\n" and nothing else; conditions on
 *     enable_thinking are not met, as when nobody sets it;
 *   - no other marker of the form <|...|> or [INST] appears, and bos_token and eos_token are not
 *     printed;
 *   - no system turn and no other text of its own is put before the user's turn.
 * The templates of Qwen3 and SDAR, with tools and thinking, are such. Any other template is
 * refused, also one that would print the same in another way.
 *
 * LLaDA2's template is recognised by its markers, <role>SYSTEM</role>, <role>HUMAN</role>,
 * <role>ASSISTANT</role> and <|role_end|>, with "detailed thinking" switched off. */
#ifndef FB_IO_CHAT_TEMPLATE_H
#define FB_IO_CHAT_TEMPLATE_H

#include "io/chat_format.h"

#include <flashblock/status.h>

#include <stddef.h>

/* FB_OK for ChatML. FB_ERROR_UNSUPPORTED with the reason in the message, which begins with `where`.
 */
fb_status fb_chat_template_check(const char *text, size_t length, const char *where);

/* The same for both formats: FB_ERROR_UNSUPPORTED says why it is not ChatML. */
fb_status fb_chat_template_recognise(const char *text, size_t length, const char *where,
                                     fb_chat_format *format);

/* The format of the template that a model's directory has: chat_template.jinja, or chat_template of
 * tokenizer_config.json (a text, or a list that has one named "default"). ChatML when there is
 * none. FB_ERROR_IO, FB_ERROR_FORMAT, FB_ERROR_MEMORY. */
fb_status fb_chat_template_of_directory(const char *directory, fb_chat_format *format);

#endif

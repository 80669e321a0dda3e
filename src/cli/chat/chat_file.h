/* A chat in a file: a JSON object with "messages" as OpenAI's interface has them, so that other
 * programs read it, too.
 *
 *   {"format": "chatml", "messages": [{"role": "system", "content": "..."},
 *    {"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}
 *
 * Texts are kept, not token ids: a chat that is loaded is encoded anew. */
#ifndef FB_CLI_CHAT_CHAT_FILE_H
#define FB_CLI_CHAT_CHAT_FILE_H

#include "cli/chat/chat_state.h"

/* Writes the file at once, whole or not at all. */
fb_status fb_chat_save(const fb_chat *chat, const char *path);

/* The chat becomes what the file has, its system prompt included; where that fails it stays as it
 * is. `format` of the file is not looked at: the model's counts. */
fb_status fb_chat_load(fb_chat *chat, const char *path);

#endif

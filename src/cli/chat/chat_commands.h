/* What a line of a chat that begins with a slash does. Its words go to standard error, so that
 * standard output has the answers only. */
#ifndef FB_CLI_CHAT_CHAT_COMMANDS_H
#define FB_CLI_CHAT_CHAT_COMMANDS_H

#include "cli/chat/chat_state.h"

#include <stdbool.h>

/* Whether the line is a command: "//" begins a text that begins with a slash. */
bool fb_chat_is_command(const char *line);

/* Runs it; *quits is set by /quit. FB_ERROR_ARGUMENT for a command that is not known. */
fb_status fb_chat_command(fb_chat *chat, const char *line, bool *quits);

#endif

/* A chat: its turns as texts and as token ids, the model, and what answers have cost. */
#ifndef FB_CLI_CHAT_CHAT_STATE_H
#define FB_CLI_CHAT_CHAT_STATE_H

#include "cli/generate/display.h"
#include "cli/generate/session.h"
#include "decode/conversation.h"
#include "io/buffer.h"
#include "io/chat_format.h"

#include <flashblock/generate.h>

#include <stdbool.h>
#include <stddef.h>

/* A turn of the user, or an answer. */
typedef struct fb_chat_turn {
    bool answer;
    fb_buffer text; /* with a NUL behind it */
} fb_chat_turn;

/* Of one answer, or sums over several. */
typedef struct fb_chat_cost {
    fb_generate_counts counts;
    size_t answers, kept_tokens; /* of prompts, which were not read again */
    double seconds, prefill_seconds, decode_seconds, attention_seconds;
} fb_chat_cost;

typedef struct fb_chat {
    fb_session session; /* model, tokenizer, resolved options */
    fb_chat_format format;
    fb_display_kind display;
    char *system;        /* owned; NULL: none */
    fb_chat_turn *turns; /* [num_turns] */
    size_t num_turns, capacity;
    fb_buffer ids; /* of all turns, int32_t each */
    fb_conversation *conversation;
    fb_chat_cost last, total;
} fb_chat;

/* `chat` has a session whose options are resolved, a format and a display. Begins the conversation;
 * `system` may be NULL. */
fb_status fb_chat_begin(fb_chat *chat, const char *system);

/* Takes a zeroed chat. The session, too. */
void fb_chat_free(fb_chat *chat);

/* Frees turns, ids and system prompt only. */
void fb_chat_free_turns(fb_chat *chat);

/* Forgets all turns, but not the system's. */
fb_status fb_chat_reset(fb_chat *chat);

/* The same, with another text of the system's turn; NULL: none. */
fb_status fb_chat_reset_to(fb_chat *chat, const char *system);

/* Adds a turn without asking the model. Turns alternate, the user's first. */
fb_status fb_chat_add(fb_chat *chat, bool answer, const char *text, size_t length);

/* Asks the model, and shows its answer. Ctrl-C ends the answer: what is written of it stays. Where
 * it fails the chat is as before. */
fb_status fb_chat_ask(fb_chat *chat, const char *text, size_t length,
                      fb_finish_reason *finish_reason);

/* Tokens of all turns. */
size_t fb_chat_num_tokens(const fb_chat *chat);

#endif

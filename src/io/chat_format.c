#include "io/chat_format.h"

#include "base/error.h"

#include <stdbool.h>
#include <string.h>

/* What stands around texts. `role` is before a text; `open` is before it, and always tokens. */
typedef struct chat_words {
    const char *name;
    const char *open;          /* begins a turn */
    const char *system, *user; /* role; a text follows */
    const char *after_system;  /* after the system's text */
    const char *system_alone;  /* the system's turn without a text; NULL: none */
    const char *end;           /* the token that ends a turn */
    const char *after_end;     /* what follows it */
    const char *answer;        /* begins an answer */
    const char *special[3];    /* tokens that the tokenizer must have */
} chat_words;

static const chat_words words[] = {
    [FB_CHAT_CHATML] = {.name = "chatml",
                        .open = "<|im_start|>",
                        .system = "system\n",
                        .user = "user\n",
                        .after_system = "",
                        .end = "<|im_end|>",
                        .after_end = "\n",
                        .answer = "<|im_start|>assistant\n",
                        .special = {"<|im_start|>", "<|im_end|>"}},
    [FB_CHAT_LLADA2] = {.name = "llada2",
                        .open = "",
                        .system = "<role>SYSTEM</role>",
                        .user = "<role>HUMAN</role>",
                        .after_system = "\ndetailed thinking off",
                        .system_alone = "detailed thinking off",
                        .end = "<|role_end|>",
                        .after_end = "",
                        .answer = "<role>ASSISTANT</role>",
                        .special = {"<|role_end|>"}},
};
enum { NUM_FORMATS = sizeof words / sizeof words[0] };

const char *fb_chat_format_name(fb_chat_format format) {
    return (unsigned)format < NUM_FORMATS ? words[format].name : "unknown";
}

fb_status fb_chat_format_parse(const char *name, fb_chat_format *format) {
    for (unsigned i = 0; i < NUM_FORMATS; i++)
        if (strcmp(name, words[i].name) == 0) {
            *format = (fb_chat_format)i;
            return FB_OK;
        }
    return fb_fail(FB_ERROR_ARGUMENT, "'%s' is no chat format; there are chatml and llada2", name);
}

fb_status fb_chat_format_check(fb_chat_format format, const fb_tokenizer *tokenizer) {
    for (const char *const *token = words[format].special; *token; token++)
        if (!fb_tokenizer_is_special(tokenizer, fb_tokenizer_token_id(tokenizer, *token)))
            return fb_fail(FB_ERROR_ARGUMENT, "the tokenizer has no special token %s", *token);
    return FB_OK;
}

int32_t fb_chat_format_end(fb_chat_format format, const fb_tokenizer *tokenizer) {
    return fb_tokenizer_token_id(tokenizer, words[format].end);
}

fb_status fb_chat_append_text(fb_buffer *ids, const fb_tokenizer *tokenizer, const char *text,
                              size_t length, fb_added_tokens added) {
    int32_t *tokens = NULL;
    size_t count = 0;
    FB_TRY(fb_tokenizer_encode_piece(tokenizer, text, length, added, &tokens, &count));
    fb_status status = fb_buffer_append(ids, tokens, count * sizeof *tokens);
    fb_token_ids_free(tokens);
    return status;
}

/* Text of the format, whose special tokens are tokens. */
static fb_status append_words(fb_buffer *ids, const fb_tokenizer *tokenizer, const char *text) {
    return *text ? fb_chat_append_text(ids, tokenizer, text, strlen(text), FB_ADDED_PARSED) : FB_OK;
}

/* Roles of LLaDA2 are plain text, or tokens that end a piece, as the tokenizer has it. */
static bool is_role_of_tokens(const fb_tokenizer *tokenizer, const char *role) {
    return *role == '<' &&
           fb_tokenizer_is_special(tokenizer, fb_tokenizer_token_id(tokenizer, "<role>"));
}

/* A turn without its end: role, text, and what follows the text in the same piece. */
static fb_status append_turn(fb_buffer *ids, const fb_tokenizer *tokenizer, const char *role,
                             const char *text, size_t length, const char *after,
                             fb_added_tokens added) {
    fb_buffer piece = {0};
    fb_status status = FB_OK;
    if (is_role_of_tokens(tokenizer, role))
        status = append_words(ids, tokenizer, role);
    else
        status = fb_buffer_append_text(&piece, role);
    if (status == FB_OK)
        status = fb_buffer_append(&piece, text, length);
    if (status == FB_OK)
        status = fb_buffer_append_text(&piece, after);
    if (status == FB_OK)
        status = fb_buffer_terminate(&piece); /* never a null pointer */
    if (status == FB_OK)
        status = fb_chat_append_text(ids, tokenizer, (const char *)piece.data, piece.size, added);
    fb_buffer_free(&piece);
    return status;
}

/* The end of a turn and what follows it, up to the next text: one piece. */
static fb_status append_end(fb_buffer *ids, const fb_tokenizer *tokenizer, const chat_words *w,
                            const char *next) {
    FB_TRY(append_words(ids, tokenizer, w->end));
    fb_buffer piece = {0};
    fb_status status = fb_buffer_append_text(&piece, w->after_end);
    if (status == FB_OK)
        status = fb_buffer_append_text(&piece, next);
    if (status == FB_OK)
        status = fb_buffer_terminate(&piece);
    if (status == FB_OK)
        status = append_words(ids, tokenizer, (const char *)piece.data);
    fb_buffer_free(&piece);
    return status;
}

fb_status fb_chat_append_system(fb_buffer *ids, fb_chat_format format,
                                const fb_tokenizer *tokenizer, const char *text) {
    const chat_words *w = &words[format];
    const char *after = text ? w->after_system : "";
    if (!text)
        text = w->system_alone;
    if (!text)
        return FB_OK;
    FB_TRY(append_words(ids, tokenizer, w->open));
    FB_TRY(append_turn(ids, tokenizer, w->system, text, strlen(text), after,
                       FB_ADDED_SPECIAL_AS_TEXT));
    return append_end(ids, tokenizer, w, "");
}

fb_status fb_chat_append_user(fb_buffer *ids, fb_chat_format format, const fb_tokenizer *tokenizer,
                              const char *text, size_t length, fb_added_tokens added) {
    const chat_words *w = &words[format];
    FB_TRY(append_words(ids, tokenizer, w->open));
    FB_TRY(append_turn(ids, tokenizer, w->user, text, length, "", added));
    return append_end(ids, tokenizer, w, w->answer);
}

fb_status fb_chat_append_end(fb_buffer *ids, fb_chat_format format, const fb_tokenizer *tokenizer) {
    const chat_words *w = &words[format];
    int32_t end = fb_chat_format_end(format, tokenizer), last;
    bool there = false;
    if (ids->size >= sizeof last) {
        memcpy(&last, ids->data + ids->size - sizeof last, sizeof last);
        there = last == end;
    }
    if (!there)
        FB_TRY(append_words(ids, tokenizer, w->end));
    return append_words(ids, tokenizer, w->after_end);
}

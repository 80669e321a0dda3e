/* One `flashblock generate`: the model, its tokenizer, the prompts as token ids, the options. */
#ifndef FB_CLI_GENERATE_SESSION_H
#define FB_CLI_GENERATE_SESSION_H

#include "cli/generate/display.h"
#include "cli/options/options.h"
#include "io/chat_format.h"
#include "oracle/trajectory_write.h"

#include <flashblock/generate.h>
#include <flashblock/model.h>
#include <flashblock/tokenizer.h>

#include <stdbool.h>
#include <stddef.h>

typedef struct fb_session {
    const char *directory; /* borrowed */
    fb_model *model;
    fb_tokenizer *tokenizer;
    fb_prompt *prompts; /* [num_prompts]; the samples of a prompt follow each other and share ids */
    uint64_t *seeds;    /* [num_prompts] */
    size_t num_prompts; /* the samples of each counted */
    size_t samples;     /* of a prompt */
    fb_generate_options options;
    fb_trajectory_writer *record; /* of the only prompt's passes; NULL: none */
    bool chat;                    /* prompts are turns of a chat */
    fb_chat_format chat_format;   /* if so */
    int32_t *stop_tokens;         /* the model's and the turn's; NULL: the model's */
    bool chose_sampling;          /* --temperature was given */
} fb_session;

/* How the text of a prompt becomes token ids. */
typedef struct fb_prompt_format {
    bool chat;          /* as a user's turn in the format of the model's chat template */
    bool parse_special; /* "<|endoftext|>" in a prompt is that token; otherwise plain text */
} fb_prompt_format;

/* Loads model and tokenizer from `directory` into a zeroed session. */
fb_status fb_session_load(fb_session *session, const char *directory, bool no_mmap,
                          bool float_activations);

/* Reads and encodes the prompts of the command line: values of --prompt are texts, values of
 * --prompt-file are files ("-": standard input; one line break, LF or CRLF, at the end of a file is
 * dropped, and so is a byte order mark at its beginning). Sample i of a prompt, of `samples`, has
 * the seed options.seed + i. */
fb_status fb_session_read_prompts(fb_session *session, const fb_option_list *list,
                                  const fb_prompt_format *format, size_t samples);

/* The model's stop tokens, and that of the turn if prompts are turns of a chat: for options that
 * are resolved later. */
fb_status fb_session_choose_stops(fb_session *session);

/* Replaces the defaults among the options by this model's values, and checks all options. */
fb_status fb_session_resolve(fb_session *session);

/* Begins the record of the passes that fb_session_generate makes. Of one prompt. */
fb_status fb_session_record(fb_session *session, const char *path);

/* Generates with the session's options and this tau, and shows the text meanwhile. */
fb_status fb_session_generate(const fb_session *session, fb_display_kind display, size_t tau,
                              fb_generation **generation);

/* The last part of the model's path, in buffer[0 .. size). */
const char *fb_session_model_name(const fb_session *session, char *buffer, size_t size);

/* Takes a zeroed session, or one whose loading failed. */
void fb_session_free(fb_session *session);

#endif

/* The body of a request for a completion, as OpenAI's interface has it, read and checked. */
#ifndef FB_CLI_SERVE_REQUEST_H
#define FB_CLI_SERVE_REQUEST_H

#include "cli/generate/session.h"
#include "io/buffer.h"
#include "io/chat_format.h"

#include <flashblock/generate.h>

#include <stdbool.h>
#include <stddef.h>

enum { FB_SERVE_MOST_STOPS = 4, FB_SERVE_MOST_CHOICES = 16 };

/* What requests are read with; nobody changes it. */
typedef struct fb_serve_model {
    const fb_session *session; /* model, tokenizer; options that requests leave out */
    const char *name;          /* in replies */
    bool has_chat;
    const char *no_chat; /* why not */
    double most_seconds; /* from a request's arrival to its end */
} fb_serve_model;

typedef struct fb_serve_request {
    bool chat, stream, include_usage;
    bool other_model; /* it names a model that is not here */
    bool steps;       /* an event for each pass, too */
    bool logprobs;
    size_t top_logprobs; /* alternatives of each token */
    size_t num_choices;
    fb_generate_options options; /* resolved; choice i has the seed options.seed + i */
    fb_buffer ids;               /* int32_t each */
    fb_buffer stops[FB_SERVE_MOST_STOPS];
    size_t num_stops;
} fb_serve_request;

/* Reads a body. FB_ERROR_FORMAT and FB_ERROR_ARGUMENT are the client's errors, and the message
 * names the field. The caller frees *request, also on failure. */
fb_status fb_serve_request_read(const fb_serve_model *model, bool chat, const char *body,
                                size_t size, fb_serve_request *request);
void fb_serve_request_free(fb_serve_request *request);

#endif

/* Log-probabilities of the tokens of a text, for clients that ask for them.
 *
 * A diffusion decoder does not write from left to right. A token's log-probability is that of the
 * denoising step that accepted it, or last replaced it: of the softmax of its row of logits at
 * temperature 1 without the mask token, given the text before its block and what was accepted in
 * its block until then, on both sides. Its alternatives are the most probable tokens of the same
 * row. Their sum over a text is not the log-probability of the text. */
#ifndef FB_CLI_SERVE_LOGPROBS_H
#define FB_CLI_SERVE_LOGPROBS_H

#include "io/buffer.h"
#include "io/json_write.h"

#include <flashblock/generate.h>
#include <flashblock/tokenizer.h>

#include <stdbool.h>
#include <stddef.h>

enum { FB_SERVE_MOST_LOGPROBS = 20 };

/* Zeroed, but for the first four. */
typedef struct fb_serve_logprobs {
    size_t num_top; /* alternatives of each token */
    size_t vocab_size;
    int32_t mask_token;
    bool chat; /* the form of chat completions */

    fb_buffer block;                 /* of the present block: 1 + num_top entries a position */
    fb_buffer tokens;                /* of the completion: 1 + num_top entries a token */
    fb_buffer offsets;               /* size_t a token: the byte of the text where it begins */
    size_t sent;                     /* tokens that were put */
    size_t characters, until_offset; /* of the text until a byte */
} fb_serve_logprobs;

/* Looks at a denoising step. */
fb_status fb_serve_logprobs_see(fb_serve_logprobs *l, const fb_step_event *event);

/* Token number `index` of the event's completion, which the event has added, begins at byte
 * `offset` of the text. num_prompt: tokens before the completion. */
fb_status fb_serve_logprobs_add(fb_serve_logprobs *l, const fb_step_event *event, size_t num_prompt,
                                size_t index, size_t offset);

/* Puts the member "logprobs": the tokens that begin before byte `end` of `text` and were not put.
 */
void fb_serve_logprobs_put(fb_serve_logprobs *l, fb_json_writer *w, const fb_tokenizer *tokenizer,
                           const char *text, size_t end);

void fb_serve_logprobs_free(fb_serve_logprobs *l);

#endif

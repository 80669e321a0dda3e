/* The page that shows how blocks are denoised: one HTML file without anything from outside.
 * `flashblock serve` answers / with it, and `flashblock trace --html` writes it with a recording
 * inside. page.html, page.css and the scripts are its parts; the build puts them together. */
#ifndef FB_CLI_PAGE_PAGE_H
#define FB_CLI_PAGE_PAGE_H

#include "io/buffer.h"
#include "io/json_write.h"

#include <flashblock/generate.h>
#include <flashblock/tokenizer.h>

#include <stddef.h>

/* UTF-8, not terminated. The recording in it, at fb_page_recording_at, is "null". */
extern const unsigned char fb_page_text[];
extern const size_t fb_page_size;
extern const size_t fb_page_recording_at;
extern const char fb_page_policy[]; /* its Content-Security-Policy, as a header */

/* Writes the page with a recording, JSON of any text, to `path`. */
fb_status fb_page_write(const fb_buffer *recording, const char *path);

/* Members of an object: one pass over a block, as docs/page.md has it. Texts of tokens come from
 * `tokenizer`; `num_prompt_tokens` are those of the event's sequence. */
void fb_page_put_pass(fb_json_writer *w, const fb_tokenizer *tokenizer, size_t num_prompt_tokens,
                      const fb_step_event *event);

#endif

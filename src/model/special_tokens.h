/* The special tokens that a tokenizer's files name. */
#ifndef FB_MODEL_SPECIAL_TOKENS_H
#define FB_MODEL_SPECIAL_TOKENS_H

#include <flashblock/status.h>

#include <stdint.h>

/* Ids, or -1 where no file names one. */
typedef struct fb_special_tokens {
    int32_t mask, pad, eos;
} fb_special_tokens;

/* Looks at tokenizer_config.json (mask_token, pad_token, eos_token; a text or an object with
 * `content`) and finds the ids of these texts in its added_tokens_decoder or, failing that, in
 * tokenizer.json. Without such a mask_token, an added token spelled "<|MASK|>" (SDAR, TraDo),
 * "<|mask|>", "[MASK]" or "<mask>" is the mask. Files that are not there name nothing. */
fb_status fb_special_tokens_read(const char *directory, fb_special_tokens *tokens);

#endif

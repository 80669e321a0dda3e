/* The special tokens that a tokenizer's files name. */
#ifndef FB_MODEL_SPECIAL_TOKENS_H
#define FB_MODEL_SPECIAL_TOKENS_H

#include "io/warnings.h"

#include <stdbool.h>
#include <stdint.h>

/* Ids, or -1 where no file names one. */
typedef struct fb_special_tokens {
    int32_t mask;
    const char *mask_file; /* the file that names it; constant */
    int32_t guessed_mask;  /* by its spelling; -1 if `mask` is known, or was not to be guessed */
    int32_t pad, eos;
} fb_special_tokens;

/* Looks at tokenizer_config.json and special_tokens_map.json (mask_token, pad_token, eos_token; a
 * text or an object with `content`) and finds the ids of these texts in added_tokens_decoder or,
 * failing that, in tokenizer.json. With `guess`, and if no file names a mask token, an added token
 * spelled "<|MASK|>" (SDAR, TraDo), "<|mask|>", "|<MASK>|" (Fast-dLLM v2), "[MASK]" or "<mask>" is
 * a guess. Files that are not there name nothing. FB_ERROR_FORMAT when two files name different
 * mask tokens. */
fb_status fb_special_tokens_read(const char *directory, bool guess, fb_special_tokens *tokens,
                                 fb_warnings *warnings);

#endif

/* The parts of a tokenizer, filled by tokenizer_load.c, used by the rest of tokenizer*.c. */
#ifndef FB_IO_TOKENIZER_INTERNAL_H
#define FB_IO_TOKENIZER_INTERNAL_H

#include "io/added_tokens.h"
#include "io/bpe.h"
#include "io/pretokenize.h"

#include <flashblock/tokenizer.h>

struct fb_tokenizer {
    fb_vocabulary vocabulary;
    bool nfc; /* normalise to NFC before splitting */
    /* Added tokens that are searched for in the text as it is, then, in what is left and has been
     * normalised, those marked `normalized`. */
    fb_added_matcher raw, normalized;
    fb_pretokenizer *pretokenizer;
    fb_bpe bpe;
};

#endif

/* The parts of a tokenizer. tokenizer_load.c fills them; tokenizer.c and tokenizer_decode.c use
 * them. */
#ifndef FB_IO_TOKENIZER_INTERNAL_H
#define FB_IO_TOKENIZER_INTERNAL_H

#include "io/added_tokens.h"
#include "io/bpe.h"
#include "io/post_processor.h"
#include "io/pretokenize.h"
#include "io/warnings.h"

#include <flashblock/tokenizer.h>

struct fb_tokenizer {
    fb_vocabulary vocabulary;
    bool nfc; /* normalise to NFC before splitting */
    /* `raw` is searched for in the text as given. Then, in what is left between its tokens and
     * normalised, `normalized` (the added tokens with that mark) is. */
    fb_added_matcher raw, normalized;
    fb_pretokenizer *pretokenizer;
    fb_bpe bpe;
    fb_post_processor post_processor;
    fb_warnings warnings; /* of loading */
};

#endif

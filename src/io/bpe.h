/* Byte-pair encoding of one piece of text: of all neighbouring pairs that a merge joins, the one
 * with the lowest rank (its place in the list; the leftmost of equals) is joined, until none is
 * left. */
#ifndef FB_IO_BPE_H
#define FB_IO_BPE_H

#include "io/byte_level.h"
#include "io/vocabulary.h"

typedef struct fb_merge {
    int32_t right; /* the left token is that of the list it is in */
    uint32_t rank;
    int32_t result;
} fb_merge;

typedef struct fb_bpe {
    int32_t byte_ids[FB_BYTE_LEVEL_SIZE]; /* the token of each byte, or -1 */
    size_t *starts;   /* [num_tokens + 1]: where the merges of a left token begin in `merges` */
    fb_merge *merges; /* in the order of (left, right) */
    size_t num_tokens;
    int32_t unknown_id; /* of a byte without a token; -1: it is left out */
    bool fuse_unknown;  /* one unknown_id for several such bytes in a row */
    bool ignore_merges; /* a piece that is a token is that token */
} fb_bpe;

/* From the model object of a tokenizer.json. A merge of tokens that do not exist, or into one that
 * does not, is FB_ERROR_FORMAT. *bpe is zeroed before; free it on failure too. */
fb_status fb_bpe_load(const json_t *model, const fb_vocabulary *vocabulary, const char *where,
                      fb_bpe *bpe);
void fb_bpe_free(fb_bpe *bpe);

/* Memory that grows to the longest piece; zeroed at first. */
typedef struct fb_bpe_scratch {
    void *symbols;
    void *heap;
    size_t capacity;
} fb_bpe_scratch;

void fb_bpe_scratch_free(fb_bpe_scratch *scratch);

/* Appends the ids (int32_t) of piece[0 .. length), bytes; length below 2^32 - 1. O(n log n). */
fb_status fb_bpe_encode(const fb_bpe *bpe, const fb_vocabulary *vocabulary, fb_bpe_scratch *scratch,
                        const unsigned char *piece, size_t length, fb_buffer *ids);

#endif

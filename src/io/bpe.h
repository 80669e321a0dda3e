/* Byte-pair encoding of one piece of text. Each step joins the neighbouring pair whose merge has
 * the lowest rank (the place of the merge in its list), the leftmost of equals. It ends when no
 * merge applies. */
#ifndef FB_IO_BPE_H
#define FB_IO_BPE_H

#include "io/byte_level.h"
#include "io/vocabulary.h"

typedef struct fb_bpe_merge {
    int32_t right; /* the left token is given by the list */
    uint32_t rank;
    int32_t result;
} fb_bpe_merge;

typedef struct fb_bpe {
    int32_t byte_ids[FB_BYTE_LEVEL_SIZE]; /* the token of each byte, or -1 */
    fb_bpe_merge *merges;                 /* sorted by (left, right) */
    size_t *starts; /* [num_tokens + 1]: where the merges of each left token begin in `merges` */
    size_t num_tokens;
    int32_t unknown_id; /* the token for a byte without a token; -1: the byte is left out */
    bool fuse_unknown;  /* one unknown_id for several such bytes in a row */
    bool ignore_merges; /* a piece that equals a token becomes that token */
} fb_bpe;

/* Loads the model object of a tokenizer.json. FB_ERROR_FORMAT when a merge names, or makes, a token
 * that does not exist. *bpe must be zeroed; free it on failure too. */
fb_status fb_bpe_load(const fb_json *model, const fb_vocabulary *vocabulary, const char *where,
                      fb_bpe *bpe);
void fb_bpe_free(fb_bpe *bpe);

/* Memory for the longest piece so far. It must be zeroed at first. */
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

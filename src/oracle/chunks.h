/* A part in chunks of its keys, for mistakes of tiles and splits: partial results, and their sums.
 */
#ifndef FB_ORACLE_CHUNKS_H
#define FB_ORACLE_CHUNKS_H

#include "oracle/trial.h"

/* Partial results of each chunk of a part: outputs (normalised), LSEs. */
typedef struct fb_chunks {
    size_t part, count, width;
    double *out, *lse, *max; /* [count][rows, dim], [count][rows], [count][rows] */
    /* [count + 1][rows, dim], [count + 1][rows]: sums of weight x output, and of weights, of the
     * chunks before; the weights of all chunks add up to 1 */
    double *before, *weight;
} fb_chunks;

/* How many keys a chunk of the external parts has: 16, and more where there is no memory for that.
 * 0: there are too few keys for chunks, or too many, or queries see different keys. */
size_t fb_chunk_width(const fb_trial *trial);

/* Computes a part's chunks; fb_free(chunks->out), which may be NULL, also after an error. */
fb_status fb_chunk_part(const fb_trial *trial, size_t part, size_t width, fb_chunks *chunks);

#endif

/* Proposals for several rows of logits, on all threads. */
#ifndef FB_DECODE_PROPOSALS_H
#define FB_DECODE_PROPOSALS_H

#include "decode/sampler.h"

/* Starts as {0}. */
typedef struct fb_proposals {
    size_t num_rows, vocab_size;
    double *uniform;   /* [num_rows] in: see fb_sampler_propose; 0 at first */
    fb_proposal *rows; /* [num_rows] out */
    size_t threads;    /* that have scratch memory */
    uint32_t *order;   /* [threads, vocab_size], as are probabilities */
    float *probabilities;
} fb_proposals;

/* fb_proposals_free must follow, also after a failure. */
fb_status fb_proposals_create(size_t num_rows, size_t vocab_size, fb_proposals *proposals);
void fb_proposals_free(fb_proposals *proposals);

/* The proposals for logits [num_rows, vocab_size]. The error is that of the first row that fails,
 * and *failed is its number. */
fb_status fb_proposals_make(fb_proposals *proposals, const fb_sampler *sampler, const float *logits,
                            size_t *failed);

#endif

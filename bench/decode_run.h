/* Decoding of one block after a context, ready to be timed: forward passes of a real model over a
 * KV cache of random keys and values. The time of a pass does not depend on the text of the
 * context, so that contexts of any length need no prefill. */
#ifndef FB_BENCH_DECODE_RUN_H
#define FB_BENCH_DECODE_RUN_H

#include "bench/like_model.h"
#include "bench/rounded_weights.h"
#include "decode/proposals.h"
#include "model/model_state.h"

#include <flashblock/model.h>

#include <stdint.h>

/* Starts as {0}. */
typedef struct fb_decode_run {
    fb_model *model;
    fb_rounded_weights weights; /* where they are not those of the file */
    fb_like_model like;         /* where there is no file */
    size_t passes;              /* so far; a mixture counts the bytes of experts that they read */
    size_t block_size, steps;
    fb_kv_cache *kv; /* the context, committed */
    fb_part_cache *parts, *corrected;
    bool *refresh_rows; /* [block_size] scratch */
    int32_t *tokens;    /* [block_size] */
    float *logits;      /* [block_size, vocab_size] */
    fb_proposals proposals;
    float *rows; /* random keys and values */
} fb_decode_run;

/* What is measured. */
typedef struct fb_decode_settings {
    const char *directory; /* of the model; NULL: `like` */
    const char *like;      /* see like_model.h */
    size_t layers;         /* of `like`; 0: as published */
    fb_weight_bits weights;
    bool float_activations; /* as in fb_model_options */
    fb_dtype kv_dtype;
    size_t block_size, steps; /* as in fb_generate_options: 0 is the model's block size, and one
                                 step for each token */
} fb_decode_settings;

fb_status fb_decode_run_prepare(fb_decode_run *data, const fb_decode_settings *settings);
void fb_decode_run_free(fb_decode_run *data);

/* Makes the context this long. */
fb_status fb_decode_run_set_context(fb_decode_run *data, size_t context);

/* A whole block with the reuse rule at `tau`, see block_script.h: forward passes, and at each step
 * the most probable token and its confidence for every position, as fb_generate does it. */
typedef struct fb_decode_block {
    fb_decode_run *data;
    size_t tau;
    bool rows, corrected;   /* refresh by rows; the first-order correction */
    fb_forward_times times; /* in forward passes, so far, as are small */
    fb_small_times small;
    double proposals; /* seconds in proposals, so far */
    double seconds;   /* in fb_decode_run_block, so far */
} fb_decode_block;

fb_status fb_decode_run_block(void *decode_run);

/* Experts of a mixture that a pass so far chose, a layer; 0 of a dense model. */
double fb_decode_run_experts(const fb_decode_run *data);

/* Bytes of matrices that the passes of a block read, of experts those that the passes so far chose:
 * a pass reads one row of the embedding for each token, which does not count, and the commit leaves
 * the head out. And the multiplications and additions with them. */
double fb_decode_run_weight_bytes(const fb_decode_run *data);
double fb_decode_run_weight_flops(const fb_decode_run *data);

#endif

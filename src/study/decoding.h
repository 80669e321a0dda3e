/* Denoising of one block at a time after the committed tokens: the KV cache and the buffers that
 * studies of decoding share. */
#ifndef FB_STUDY_DECODING_H
#define FB_STUDY_DECODING_H

#include "decode/proposals.h"

#include <flashblock/generate.h>
#include <flashblock/kv_cache.h>
#include <flashblock/model.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fb_decoding {
    fb_model *model;             /* borrowed */
    fb_generate_options options; /* resolved */
    size_t vocab_size;
    fb_sampler sampler;
    fb_kv_cache *kv;
    float *logits; /* [block_size, vocab_size] */
    fb_proposals proposals;
    int32_t *proposed; /* [block_size], as all that follow */
    float *confidence, *entropy;
    bool *accepted;
} fb_decoding;

/* `options` are resolved for the model. fb_decoding_free must follow, also after a failure. */
fb_status fb_decoding_init(fb_model *model, const fb_generate_options *options,
                           fb_decoding *decoding);
void fb_decoding_free(fb_decoding *decoding);

/* Passes tokens [num_tokens] through the model densely, under the block-causal mask, and commits
 * their keys and values. */
fb_status fb_decoding_read(fb_decoding *decoding, const int32_t *tokens, size_t num_tokens);

/* Lets the sampler propose a token for each position of the block: sets proposed, confidence and
 * entropy from logits [block_size, vocab_size]. */
fb_status fb_decoding_propose(fb_decoding *decoding, const float *logits);

#endif

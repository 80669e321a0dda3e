#include "study/decoding.h"

#include "base/error.h"
#include "base/memory.h"
#include "decode/generate_options.h"

fb_status fb_decoding_init(fb_model *model, const fb_generate_options *options, fb_decoding *d) {
    size_t size = options->block_size, vocab = fb_model_config_of(model)->vocab_size;
    *d = (fb_decoding){.model = model,
                       .options = *options,
                       .vocab_size = vocab,
                       .sampler = fb_generate_sampler(options)};
    FB_TRY(fb_model_new_kv_cache(model, options->kv_dtype, &d->kv));
    FB_TRY(fb_alloc(size, vocab * sizeof(float), "logits", &d->logits));
    FB_TRY(fb_proposals_create(size, vocab, &d->proposals));
    FB_TRY(fb_alloc(size, sizeof(int32_t), "proposals", &d->proposed));
    FB_TRY(fb_alloc(size, sizeof(float), "confidences", &d->confidence));
    FB_TRY(fb_alloc(size, sizeof(float), "entropies", &d->entropy));
    return fb_alloc_zeroed(size, sizeof(bool), "acceptances", &d->accepted);
}

void fb_decoding_free(fb_decoding *d) {
    void *arrays[] = {d->logits, d->proposed, d->confidence, d->entropy, d->accepted};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        fb_free(arrays[i]);
    fb_proposals_free(&d->proposals);
    fb_kv_cache_destroy(d->kv);
    *d = (fb_decoding){0};
}

fb_status fb_decoding_read(fb_decoding *d, const int32_t *tokens, size_t num_tokens) {
    size_t chunk = d->options.prefill_chunk;
    for (size_t done = 0; done < num_tokens;) {
        size_t left = num_tokens - done, now = left < chunk ? left : chunk;
        fb_forward forward = {
            .struct_size = sizeof(fb_forward),
            .tokens = tokens + done,
            .num_tokens = now,
            .kv = d->kv,
            .prefill_block = d->options.block_size,
            .action = FB_REFRESH_ONLY,
        };
        FB_TRY(fb_model_forward(d->model, &forward, 1, NULL));
        FB_TRY(fb_kv_cache_commit(d->kv, now));
        done += now;
    }
    return FB_OK;
}

fb_status fb_decoding_propose(fb_decoding *d, const float *logits) {
    size_t failed = 0;
    FB_TRY(fb_proposals_make(&d->proposals, &d->sampler, logits, &failed));
    for (size_t i = 0; i < d->options.block_size; i++) {
        d->proposed[i] = d->proposals.rows[i].token;
        d->confidence[i] = d->proposals.rows[i].confidence;
        d->entropy[i] = d->proposals.rows[i].entropy;
    }
    return FB_OK;
}

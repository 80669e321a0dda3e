/* From logits to a proposed token: probabilities after temperature, top-k and top-p; one token per
 * row, drawn or the most probable; its confidence; the row's entropy.
 *
 * Equal logits give equal results on every machine: exponentials are the kernels' fb_exp, sums run
 * in double precision in the order of token ids (descending probability within top-p). */
#ifndef FB_DECODE_SAMPLER_H
#define FB_DECODE_SAMPLER_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct fb_sampler {
    double temperature;   /* 0: greedy, with the probabilities of temperature 1 */
    bool greedy;          /* the most probable token; of equal ones the lowest id */
    size_t top_k;         /* 0: all; logits equal to the k-th largest stay */
    double top_p;         /* 1: all; a token stays while those above it sum to at most top_p */
    int32_t banned_token; /* has probability 0; -1: none */
    bool raw_confidence;  /* of a drawn token: its probability at temperature 1 among all */
    bool with_entropy;
} fb_sampler;

/* The proposal of a row. */
typedef struct fb_proposal {
    int32_t token;
    float confidence; /* probability of the token */
    float entropy;    /* -sum p ln p, p clamped to at least 1e-12 as in the engine; 0 unless
                         with_entropy */
} fb_proposal;

/* Whether tokens are drawn: otherwise the most probable one is proposed. */
bool fb_sampler_draws(const fb_sampler *sampler);

/* probabilities[vocab_size] of one row of logits[vocab_size]: softmax of (logits / temperature)
 * over what top-k, then top-p leave. `order` [vocab_size] is scratch. FB_ERROR_FORMAT when a logit
 * is NaN or +inf, or none is finite. No overlap of the arrays. */
fb_status fb_sampler_probabilities(const fb_sampler *sampler, const float *logits,
                                   size_t vocab_size, uint32_t *order, float *probabilities);

/* The proposal of one row. `uniform` in [0, 1) chooses the token when it is drawn: the first id at
 * which the running sum of probabilities exceeds uniform times their sum. `order` and
 * `probabilities` as above; both are scratch. */
fb_status fb_sampler_propose(const fb_sampler *sampler, const float *logits, size_t vocab_size,
                             double uniform, uint32_t *order, float *probabilities,
                             fb_proposal *proposal);

#endif

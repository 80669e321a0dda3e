#include "decode/sampler.h"

#include "base/error.h"

#include <flashblock/attention.h>

#include <float.h>
#include <math.h>

/* scaled[i] = (logit_i - largest logit) / temperature, at most 0; -inf for the banned token. */
static fb_status scale_logits(const fb_sampler *sampler, const float *logits, size_t vocab_size,
                              float *scaled) {
    float largest = -INFINITY;
    for (size_t i = 0; i < vocab_size; i++) {
        if (!(logits[i] <= FLT_MAX))
            return fb_fail(FB_ERROR_FORMAT, "logit of token %zu is %g, not a finite number", i,
                           (double)logits[i]);
        if (logits[i] > largest && (int64_t)i != sampler->banned_token)
            largest = logits[i];
    }
    if (!(largest >= -FLT_MAX))
        return fb_fail(FB_ERROR_FORMAT, "no logit of a row of %zu is finite", vocab_size);
    double temperature = sampler->temperature > 0.0 ? sampler->temperature : 1.0;
    for (size_t i = 0; i < vocab_size; i++)
        scaled[i] = (float)((double)(logits[i] - largest) / temperature);
    if (sampler->banned_token >= 0 && (size_t)sampler->banned_token < vocab_size)
        scaled[sampler->banned_token] = -INFINITY;
    return FB_OK;
}

/* A heap of token ids, the one of the largest value (of equal ones the lowest id) at the root, so
 * that the few largest of a large vocabulary need no full sort. */
static bool above(const float *value, uint32_t a, uint32_t b) {
    return value[a] > value[b] || (value[a] == value[b] && a < b);
}

static void sift_down(const float *value, uint32_t *heap, size_t size, size_t parent) {
    uint32_t moving = heap[parent];
    for (;;) {
        size_t child = 2 * parent + 1;
        if (child >= size)
            break;
        if (child + 1 < size && above(value, heap[child + 1], heap[child]))
            child++;
        if (!above(value, heap[child], moving))
            break;
        heap[parent] = heap[child];
        parent = child;
    }
    heap[parent] = moving;
}

/* A heap of the ids whose value is above `floor`. Returns their number. */
static size_t build_heap(const float *value, size_t vocab_size, float floor, uint32_t *heap) {
    size_t size = 0;
    for (size_t i = 0; i < vocab_size; i++)
        if (value[i] > floor)
            heap[size++] = (uint32_t)i;
    for (size_t parent = size / 2; parent-- > 0;)
        sift_down(value, heap, size, parent);
    return size;
}

static uint32_t pop(const float *value, uint32_t *heap, size_t *size) {
    uint32_t root = heap[0];
    heap[0] = heap[--*size];
    if (*size > 0)
        sift_down(value, heap, *size, 0);
    return root;
}

/* Every value below the k-th largest becomes -inf. */
static void keep_top_k(size_t k, size_t vocab_size, uint32_t *heap, float *scaled) {
    size_t size = build_heap(scaled, vocab_size, -INFINITY, heap);
    if (size <= k)
        return;
    float smallest = 0.0f;
    for (size_t i = 0; i < k; i++)
        smallest = scaled[pop(scaled, heap, &size)];
    for (size_t i = 0; i < vocab_size; i++)
        if (scaled[i] < smallest)
            scaled[i] = -INFINITY;
}

/* Weights that follow a sum of more than p * total, in descending order, become 0. */
static void keep_top_p(double p, double total, size_t vocab_size, uint32_t *heap, float *weight) {
    size_t size = build_heap(weight, vocab_size, 0.0f, heap);
    double sum = 0.0;
    while (size > 0 && sum <= p * total)
        sum += (double)weight[pop(weight, heap, &size)];
    for (size_t i = 0; i < size; i++)
        weight[heap[i]] = 0.0f;
}

static double sum_of(const float *value, size_t count) {
    double sum = 0.0;
    for (size_t i = 0; i < count; i++)
        sum += (double)value[i];
    return sum;
}

fb_status fb_sampler_probabilities(const fb_sampler *sampler, const float *logits,
                                   size_t vocab_size, uint32_t *order, float *probabilities) {
    FB_TRY(scale_logits(sampler, logits, vocab_size, probabilities));
    if (sampler->top_k > 0 && sampler->top_k < vocab_size)
        keep_top_k(sampler->top_k, vocab_size, order, probabilities);
    for (size_t i = 0; i < vocab_size; i++)
        probabilities[i] = fb_exp(probabilities[i]);
    double total = sum_of(probabilities, vocab_size);
    if (sampler->top_p < 1.0) {
        keep_top_p(sampler->top_p, total, vocab_size, order, probabilities);
        total = sum_of(probabilities, vocab_size);
    }
    for (size_t i = 0; i < vocab_size; i++)
        probabilities[i] = (float)((double)probabilities[i] / total);
    return FB_OK;
}

bool fb_sampler_draws(const fb_sampler *sampler) {
    return !sampler->greedy && sampler->temperature > 0.0;
}

/* By logits: unequal logits may round to equal probabilities. */
static size_t most_probable(const fb_sampler *sampler, const float *logits, size_t vocab_size) {
    size_t best = vocab_size;
    for (size_t i = 0; i < vocab_size; i++)
        if ((int64_t)i != sampler->banned_token && (best == vocab_size || logits[i] > logits[best]))
            best = i;
    return best;
}

static size_t draw(const float *probability, size_t vocab_size, double uniform) {
    double target = uniform * sum_of(probability, vocab_size), sum = 0.0;
    size_t last = 0;
    for (size_t i = 0; i < vocab_size; i++) {
        if (!(probability[i] > 0.0f))
            continue;
        sum += (double)probability[i];
        last = i;
        if (sum > target)
            break;
    }
    return last;
}

/* -ln p as ln(1/p), fb_log being for arguments from 1 on. */
static float entropy_of(const float *probability, size_t vocab_size) {
    double sum = 0.0;
    for (size_t i = 0; i < vocab_size; i++) {
        float p = probability[i] > 1e-12f ? probability[i] : 1e-12f;
        float inverse = 1.0f / p;
        sum += (double)p * (double)fb_log(inverse > 1.0f ? inverse : 1.0f);
    }
    return (float)sum;
}

fb_status fb_sampler_propose(const fb_sampler *sampler, const float *logits, size_t vocab_size,
                             double uniform, uint32_t *order, float *probabilities,
                             fb_proposal *proposal) {
    FB_TRY(fb_sampler_probabilities(sampler, logits, vocab_size, order, probabilities));
    size_t token = fb_sampler_draws(sampler) ? draw(probabilities, vocab_size, uniform)
                                             : most_probable(sampler, logits, vocab_size);
    proposal->token = (int32_t)token;
    proposal->confidence = probabilities[token];
    proposal->entropy = sampler->with_entropy ? entropy_of(probabilities, vocab_size) : 0.0f;
    return FB_OK;
}

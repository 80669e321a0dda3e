#include "decode/sampler.h"

#include "base/error.h"
#include "simd/kernels.h"

#include <flashblock/attention.h>

#include <float.h>
#include <math.h>
#include <string.h>

/* Rows are worked on in pieces that stay in the L1 cache. */
enum { PIECE = 2048, LANES = 16 };

/* The largest of `count` numbers and `largest`. The maximum of a set is the same in any order: the
 * lanes are for compilers that vectorise. */
static float largest_of(const float *x, size_t count, float largest) {
    float lanes[LANES];
    for (size_t lane = 0; lane < LANES; lane++)
        lanes[lane] = largest;
    size_t whole = count - count % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++)
            lanes[lane] = x[i + lane] > lanes[lane] ? x[i + lane] : lanes[lane];
    for (size_t i = whole; i < count; i++)
        lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    for (size_t lane = 0; lane < LANES; lane++)
        largest = lanes[lane] > largest ? lanes[lane] : largest;
    return largest;
}

static bool has_nan_or_infinity(const float *x, size_t count) {
    int found = 0;
    for (size_t i = 0; i < count; i++)
        found |= !(x[i] <= FLT_MAX);
    return found != 0;
}

static fb_status fail_at_logit(const float *logits, size_t i) {
    while (logits[i] <= FLT_MAX)
        i++;
    return fb_fail(FB_ERROR_FORMAT, "logit of token %zu is %g, not a finite number", i,
                   (double)logits[i]);
}

static bool bans(const fb_sampler *sampler, size_t first, size_t end) {
    return sampler->banned_token >= 0 && (size_t)sampler->banned_token >= first &&
           (size_t)sampler->banned_token < end;
}

/* The largest logit of a row, that of the banned token left out. */
static fb_status largest_logit(const fb_sampler *sampler, const float *logits, size_t vocab_size,
                               float *largest) {
    *largest = -INFINITY;
    for (size_t first = 0, end; first < vocab_size; first = end) {
        end = vocab_size - first < PIECE ? vocab_size : first + PIECE;
        if (has_nan_or_infinity(logits + first, end - first))
            return fail_at_logit(logits, first);
        size_t left_out = bans(sampler, first, end) ? (size_t)sampler->banned_token : end;
        *largest = largest_of(logits + first, left_out - first, *largest);
        if (left_out < end)
            *largest = largest_of(logits + left_out + 1, end - left_out - 1, *largest);
    }
    if (!(*largest >= -FLT_MAX))
        return fb_fail(FB_ERROR_FORMAT, "no logit of a row of %zu is finite", vocab_size);
    return FB_OK;
}

/* scaled[i - first] = (logit_i - largest logit) / temperature for the tokens first .. end - 1, at
 * most 0; -inf for the banned token. */
static void scale_logits(const fb_sampler *sampler, const float *logits, float largest,
                         size_t first, size_t end, float *scaled) {
    double temperature = sampler->temperature > 0.0 ? sampler->temperature : 1.0;
    logits += first;
    if (temperature == 1.0) /* a division that changes nothing */
        for (size_t i = 0; i < end - first; i++)
            scaled[i] = logits[i] - largest;
    else
        for (size_t i = 0; i < end - first; i++)
            scaled[i] = (float)((double)(logits[i] - largest) / temperature);
    if (bans(sampler, first, end))
        scaled[(size_t)sampler->banned_token - first] = -INFINITY;
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

static double add_in_order(double sum, const float *value, size_t count) {
    for (size_t i = 0; i < count; i++)
        sum += (double)value[i];
    return sum;
}

static double sum_of(const float *value, size_t count) {
    return add_in_order(0.0, value, count);
}

fb_status fb_sampler_probabilities(const fb_sampler *sampler, const float *logits,
                                   size_t vocab_size, uint32_t *order, float *probabilities) {
    const fb_kernels *kernels;
    float largest;
    FB_TRY(fb_kernels_current(&kernels));
    FB_TRY(largest_logit(sampler, logits, vocab_size, &largest));
    scale_logits(sampler, logits, largest, 0, vocab_size, probabilities);
    if (sampler->top_k > 0 && sampler->top_k < vocab_size)
        keep_top_k(sampler->top_k, vocab_size, order, probabilities);
    for (size_t first = 0; first < vocab_size; first += PIECE) {
        float scaled[PIECE];
        size_t left = vocab_size - first, count = left < PIECE ? left : PIECE;
        memcpy(scaled, probabilities + first, count * sizeof *scaled);
        kernels->exp(scaled, probabilities + first, count);
    }
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

/* By logits: unequal logits may round to equal probabilities. The lowest id of those equal to the
 * largest. */
static size_t most_probable(const fb_sampler *sampler, const float *logits, float largest) {
    size_t token = 0;
    while (logits[token] != largest || (int64_t)token == sampler->banned_token)
        token++;
    return token;
}

/* The most probable token, and its probability among all: exp(0) by the sum that
 * fb_sampler_probabilities makes, without an array of a row's probabilities. */
static fb_status propose_most_probable(const fb_sampler *sampler, const float *logits,
                                       size_t vocab_size, fb_proposal *proposal) {
    const fb_kernels *kernels;
    float largest, scaled[PIECE], weights[PIECE];
    FB_TRY(fb_kernels_current(&kernels));
    FB_TRY(largest_logit(sampler, logits, vocab_size, &largest));
    double total = 0.0;
    for (size_t first = 0, end; first < vocab_size; first = end) {
        end = vocab_size - first < PIECE ? vocab_size : first + PIECE;
        scale_logits(sampler, logits, largest, first, end, scaled);
        kernels->exp(scaled, weights, end - first);
        total = add_in_order(total, weights, end - first);
    }
    *proposal = (fb_proposal){
        .token = (int32_t)most_probable(sampler, logits, largest),
        .confidence = (float)(1.0 / total),
    };
    return FB_OK;
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

/* -ln p as ln(1/p), fb_log being for arguments from 1 on. Most tokens of a large vocabulary have
 * the smallest p. */
static float entropy_of(const float *probability, size_t vocab_size) {
    const float smallest = 1e-12f;
    const double of_smallest = (double)smallest * (double)fb_log(1.0f / smallest);
    double sum = 0.0;
    for (size_t i = 0; i < vocab_size; i++) {
        float p = probability[i];
        if (!(p > smallest)) {
            sum += of_smallest;
            continue;
        }
        float inverse = 1.0f / p;
        sum += (double)p * (double)fb_log(inverse > 1.0f ? inverse : 1.0f);
    }
    return (float)sum;
}

fb_status fb_sampler_propose(const fb_sampler *sampler, const float *logits, size_t vocab_size,
                             double uniform, uint32_t *order, float *probabilities,
                             fb_proposal *proposal) {
    bool filters = (sampler->top_k > 0 && sampler->top_k < vocab_size) || sampler->top_p < 1.0;
    if (!fb_sampler_draws(sampler) && !filters && !sampler->with_entropy)
        return propose_most_probable(sampler, logits, vocab_size, proposal);
    FB_TRY(fb_sampler_probabilities(sampler, logits, vocab_size, order, probabilities));
    size_t token;
    if (fb_sampler_draws(sampler)) {
        token = draw(probabilities, vocab_size, uniform);
    } else {
        float largest;
        FB_TRY(largest_logit(sampler, logits, vocab_size, &largest));
        token = most_probable(sampler, logits, largest);
    }
    proposal->token = (int32_t)token;
    proposal->entropy = sampler->with_entropy ? entropy_of(probabilities, vocab_size) : 0.0f;
    if (sampler->raw_confidence) {
        const fb_sampler raw = {.top_p = 1.0, .banned_token = sampler->banned_token};
        FB_TRY(fb_sampler_probabilities(&raw, logits, vocab_size, order, probabilities));
    }
    proposal->confidence = probabilities[token];
    return FB_OK;
}

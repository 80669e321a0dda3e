#include "oracle/trajectory_measure.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/arithmetic.h"
#include "oracle/trajectory_row.h"

#include <math.h>
#include <string.h>

/* --- memory ----------------------------------------------------------------------------------- */

fb_status fb_trajectory_scratch_make(const fb_trajectory_replay *replay, fb_trajectory_scratch *s) {
    size_t block = replay->record->options.block_size, vocab = replay->config->vocab_size;
    size_t largest = block * vocab;
    for (int i = 0; i < FB_TRAJECTORY_NUM_STATES; i++) {
        size_t size = fb_trajectory_state_size(replay, (fb_trajectory_state)i);
        if (replay->lanes[0].states[i] && size > largest)
            largest = size;
    }
    FB_TRY(fb_alloc(vocab, sizeof *s->probabilities, "probabilities", &s->probabilities));
    FB_TRY(fb_alloc(vocab, sizeof *s->other, "probabilities", &s->other));
    FB_TRY(fb_alloc(largest, sizeof *s->values, "states", &s->values));
    FB_TRY(fb_alloc(vocab, sizeof *s->order, "token order", &s->order));
    FB_TRY(fb_alloc(block, sizeof *s->positions, "positions", &s->positions));
    FB_TRY(fb_alloc_zeroed(block, sizeof *s->confidence, "confidences", &s->confidence));
    FB_TRY(fb_alloc_zeroed(block, sizeof *s->entropy, "entropies", &s->entropy));
    FB_TRY(fb_alloc(block, sizeof *s->best_tokens, "tokens", &s->best_tokens));
    return fb_alloc(block, sizeof *s->best, "confidences", &s->best);
}

void fb_trajectory_scratch_free(fb_trajectory_scratch *s) {
    fb_free(s->probabilities);
    fb_free(s->other);
    fb_free(s->values);
    fb_free(s->order);
    fb_free(s->positions);
    fb_free(s->confidence);
    fb_free(s->entropy);
    fb_free(s->best);
    fb_free(s->best_tokens);
    *s = (fb_trajectory_scratch){0};
}

void fb_trajectory_step_free(fb_trajectory_step *step) {
    fb_free(step->rows);
    fb_free(step->ours);
    fb_free(step->ruled);
    for (int i = 0; i < FB_TRAJECTORY_NUM_STATES; i++)
        fb_free(step->states[i]);
    *step = (fb_trajectory_step){0};
}

/* --- a step ----------------------------------------------------------------------------------- */

static fb_status probabilities_of(const fb_trajectory_replay *r, fb_trajectory_scratch *s,
                                  size_t position) {
    size_t vocab = r->config->vocab_size;
    return fb_sampler_probabilities(&r->sampler,
                                    r->lanes[0].states[FB_TRAJECTORY_LOGITS] + position * vocab,
                                    vocab, s->order, s->probabilities);
}

/* What the decoding loop would propose, by the record's random number. */
static fb_status propose(const fb_trajectory_replay *r, fb_trajectory_scratch *s,
                         fb_trajectory_row *row) {
    size_t vocab = r->config->vocab_size, i = row->position;
    double uniform = r->pass->uniform ? r->pass->uniform[i] : NAN;
    fb_proposal proposal;
    FB_TRY(fb_sampler_propose(&r->sampler, r->lanes[0].states[FB_TRAJECTORY_LOGITS] + i * vocab,
                              vocab, isnan(uniform) ? 0.0 : uniform, s->order, s->probabilities,
                              &proposal));
    row->ours = proposal.token;
    row->confidence = proposal.confidence;
    row->entropy = proposal.entropy;
    return FB_OK;
}

/* What known mistakes would give at this position. */
static fb_status guess(const fb_trajectory_replay *r, fb_trajectory_scratch *s,
                       const fb_trajectory_row_view *v, fb_trajectory_row *row) {
    size_t i = row->position;
    int32_t proposed = r->pass->proposed[i];
    if (proposed < 0)
        return FB_OK;
    bool early = v->sampler->temperature > 0.0 && v->sampler->top_p < 1.0;
    fb_sampler at_one = *v->sampler;
    at_one.temperature = 1.0;
    if (early)
        FB_TRY(fb_sampler_probabilities(&at_one, v->logits, v->vocab, s->order, s->other));
    if (v->probabilities[proposed] > 0.0f)
        fb_trajectory_guess_confidence(v, (size_t)proposed, early ? s->other : NULL, row);
    if (row->gap > 0.0)
        fb_trajectory_guess_tokens(v, r->pass->uniform ? r->pass->uniform[i] : NAN, row);
    if (i > 0) {
        row->guesses[FB_GUESS_PREVIOUS_ROW] = s->best[i - 1] - row->own;
        row->others[FB_OTHER_OF_PREVIOUS] = s->best_tokens[i - 1];
    }
    if (i + 1 < r->record->options.block_size) {
        row->guesses[FB_GUESS_NEXT_ROW] = s->best[i + 1] - row->own;
        row->others[FB_OTHER_OF_NEXT] = s->best_tokens[i + 1];
    }
    return FB_OK;
}

static fb_status measure_row(const fb_trajectory_replay *r, fb_trajectory_scratch *s,
                             const float *gumbel, fb_trajectory_row *row) {
    size_t vocab = r->config->vocab_size, i = row->position;
    double temperature = r->sampler.temperature > 0.0 ? r->sampler.temperature : 1.0;
    int32_t proposed = r->pass->proposed[i];
    bool unknown = fb_sampler_draws(&r->sampler) && !gumbel &&
                   (!r->pass->uniform || isnan(r->pass->uniform[i]));
    FB_TRY(propose(r, s, row));
    FB_TRY(probabilities_of(r, s, i));
    if (unknown && proposed >= 0)
        row->ours = proposed;
    fb_trajectory_row_view v = {
        .sampler = &r->sampler,
        .vocab = vocab,
        .logits = r->lanes[0].states[FB_TRAJECTORY_LOGITS] + i * vocab,
        .rounded = r->num_lanes > 1 ? r->lanes[1].states[FB_TRAJECTORY_LOGITS] + i * vocab : NULL,
        .probabilities = s->probabilities,
        .gumbel = gumbel ? gumbel + i * vocab : NULL,
        .temperature = temperature,
        .bits = fb_trajectory_significand_bits(r->record->precision),
    };
    for (int g = 0; g < FB_TRAJECTORY_NUM_GUESSES; g++)
        row->guesses[g] = NAN;
    for (int o = 0; o < FB_TRAJECTORY_NUM_OTHER_TOKENS; o++)
        row->others[o] = -1;
    row->temperature = NAN;
    fb_trajectory_measure_confidence(&v, r->pass, row);
    if (proposed >= 0)
        fb_trajectory_measure_gap(&v, (size_t)proposed,
                                  r->pass->uniform ? r->pass->uniform[i] : NAN, row);
    if (unknown || gumbel)
        row->confidence = s->probabilities[row->ours];
    row->entropy_error = row->entropy_shape = NAN;
    if (r->pass->entropy && r->sampler.with_entropy) {
        row->entropy_error = (double)r->pass->entropy[i] - (double)row->entropy;
        row->entropy_shape = fb_trajectory_shape_of_entropy(&v, (double)row->entropy);
    }
    return guess(r, s, &v, row);
}

static fb_status find_best(const fb_trajectory_replay *r, fb_trajectory_scratch *s) {
    for (size_t i = 0; i < r->record->options.block_size; i++) {
        FB_TRY(probabilities_of(r, s, i));
        size_t best = fb_trajectory_best_of(s->probabilities, r->config->vocab_size, -1);
        s->best_tokens[i] = (int32_t)best;
        s->best[i] = log(fmax((double)s->probabilities[best], FB_TRAJECTORY_SMALLEST));
    }
    return FB_OK;
}

static void mark(const size_t *positions, size_t count, bool *accepted) {
    for (size_t i = 0; i < count; i++)
        accepted[positions[i]] = true;
}

/* The remasking strategy's decisions by a side's numbers. */
static fb_status decide(const fb_trajectory_replay *r, fb_trajectory_scratch *s,
                        fb_trajectory_step *step) {
    size_t block = r->record->options.block_size;
    const fb_trajectory_pass *pass = r->pass;
    bool by_entropy = r->sampler.with_entropy, known = !by_entropy || pass->entropy;
    FB_TRY(fb_alloc_zeroed(block, sizeof(bool), "decisions", &step->ours));
    for (size_t i = 0; i < step->num_rows; i++) {
        const fb_trajectory_row *row = &step->rows[i];
        s->confidence[row->position] = row->confidence;
        s->entropy[row->position] = row->entropy;
        known = known && !isnan(pass->confidence[row->position]) &&
                (!by_entropy || !isnan(pass->entropy[row->position]));
    }
    mark(s->positions, fb_sequence_choose(r->sequence, s->confidence, s->entropy, s->positions),
         step->ours);
    if (!known)
        return FB_OK;
    FB_TRY(fb_alloc_zeroed(block, sizeof(bool), "decisions", &step->ruled));
    for (size_t i = 0; i < block; i++)
        if (step->pass->masked[i])
            s->confidence[i] = pass->confidence[i];
    mark(s->positions,
         fb_sequence_choose(r->sequence, s->confidence, by_entropy ? pass->entropy : NULL,
                            s->positions),
         step->ruled);
    return FB_OK;
}

static fb_status measure_step(const fb_trajectory_replay *r, fb_trajectory_scratch *s,
                              fb_trajectory_step *step) {
    size_t block = r->record->options.block_size;
    float *gumbel = NULL;
    const fb_tensor_view *noise = r->pass->states[FB_TRAJECTORY_GUMBEL];
    FB_TRY(find_best(r, s));
    FB_TRY(fb_alloc_zeroed(block, sizeof *step->rows, "rows", &step->rows));
    if (noise) {
        FB_TRY(fb_tensor_read_f32(noise, 0, noise->count, s->values));
        gumbel = s->values;
    }
    for (size_t i = 0; i < block; i++) {
        if (!r->pass->masked[i])
            continue;
        step->rows[step->num_rows].position = i;
        FB_TRY(measure_row(r, s, gumbel, &step->rows[step->num_rows]));
        step->num_rows++;
    }
    return decide(r, s, step);
}

/* --- states ----------------------------------------------------------------------------------- */

size_t fb_trajectory_state_layers(const fb_model_config *config, fb_trajectory_state state) {
    return state == FB_TRAJECTORY_LOGITS || state == FB_TRAJECTORY_GUMBEL ? 1
           : state == FB_TRAJECTORY_HIDDEN ? config->num_hidden_layers + 1
                                           : config->num_hidden_layers;
}

static double difference(double a, double b) {
    if (isfinite(a) && isfinite(b))
        return a - b;
    return (isinf(a) && isinf(b) && (a > 0.0) == (b > 0.0)) ? 0.0 : INFINITY;
}

/* One row of one layer. */
static fb_trajectory_error measure_error(const float *given, const float *ours,
                                         const float *rounded, size_t count, fb_dtype stored) {
    double error = 0.0, noise = 0.0, size = 0.0, sum = 0.0, product = 0.0;
    for (size_t i = 0; i < count; i++) {
        double value = (double)ours[i], e = difference((double)given[i], value);
        double n = rounded ? difference((double)rounded[i], value) : 0.0;
        error += e * e;
        if (!isfinite(value))
            continue;
        sum += e;
        product += e * value;
        size += value * value;
        noise += (isfinite(n) ? n * n : 0.0) +
                 (stored != FB_F32 ? fb_storage_variance(stored, value) : 0.0);
    }
    double number = (double)count, along = product / sqrt(error * size);
    return (fb_trajectory_error){.error = sqrt(error / number),
                                 .noise = sqrt(noise / number),
                                 .size = sqrt(size / number),
                                 .bias = sum / number,
                                 .along = isfinite(along) ? along : 0.0};
}

/* Which heads of a row are off by many times the noise of their values. */
static uint64_t heads_that_differ(const float *given, const float *ours, const float *rounded,
                                  size_t heads, size_t width, fb_dtype stored) {
    uint64_t found = 0;
    for (size_t h = 0; h < heads && h < 64; h++) {
        size_t at = h * width;
        fb_trajectory_error e =
            measure_error(given + at, ours + at, rounded ? rounded + at : NULL, width, stored);
        double noise = e.noise + ldexp(e.size, -20);
        found |= e.error > 20.0 * noise ? (uint64_t)1 << h : 0;
    }
    return found;
}

/* Heads of a state; 0: it has none. */
static size_t heads_of(const fb_trajectory_replay *r, fb_trajectory_state state) {
    bool none = state == FB_TRAJECTORY_LOGITS || state == FB_TRAJECTORY_GUMBEL ||
                state == FB_TRAJECTORY_HIDDEN;
    return none ? 0 : r->config->num_attention_heads;
}

static fb_status measure_state(const fb_trajectory_replay *r, fb_trajectory_scratch *s,
                               fb_trajectory_state state, fb_trajectory_step *step) {
    const fb_tensor_view *view = r->pass->states[state];
    size_t layers = fb_trajectory_state_layers(r->config, state);
    size_t rows = layers * r->record->options.block_size;
    size_t width = fb_trajectory_state_size(r, state) / rows, heads = heads_of(r, state);
    fb_dtype stored = view->dtype == FB_TENSOR_BF16  ? FB_BF16
                      : view->dtype == FB_TENSOR_F16 ? FB_F16
                                                     : FB_F32;
    FB_TRY(fb_alloc_zeroed(rows, sizeof *step->states[state], "errors", &step->states[state]));
    FB_TRY(fb_tensor_read_f32(view, 0, view->count, s->values));
    for (size_t i = 0; i < rows; i++) {
        const float *rounded = r->num_lanes > 1 ? r->lanes[1].states[state] + i * width : NULL;
        const float *ours = r->lanes[0].states[state] + i * width;
        step->states[state][i] = measure_error(s->values + i * width, ours, rounded, width, stored);
        if (heads > 0)
            step->states[state][i].heads = heads_that_differ(s->values + i * width, ours, rounded,
                                                             heads, width / heads, stored);
    }
    return FB_OK;
}

fb_status fb_trajectory_measure(const fb_trajectory_replay *r, fb_trajectory_scratch *s,
                                fb_trajectory_step *step) {
    step->pass = r->pass;
    step->rule = r->rule.action;
    step->action = r->action;
    step->dirty = r->sequence->dirty_tokens;
    step->masked = r->rule.masked_tokens;
    for (int i = 0; i < FB_TRAJECTORY_NUM_STATES; i++) {
        bool given = r->pass->states[i] && i != FB_TRAJECTORY_GUMBEL;
        if (given && !(i == FB_TRAJECTORY_LOGITS && r->pass->commit))
            FB_TRY(measure_state(r, s, (fb_trajectory_state)i, step));
    }
    return r->pass->commit ? FB_OK : measure_step(r, s, step);
}

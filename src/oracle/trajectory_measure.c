#include "oracle/trajectory_measure.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/arithmetic.h"

#include <math.h>
#include <string.h>

/* A probability below this is as good as none. */
static const double SMALLEST = 1e-37;

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
    FB_TRY(fb_alloc(largest, sizeof *s->values, "states", &s->values));
    FB_TRY(fb_alloc(vocab, sizeof *s->order, "token order", &s->order));
    FB_TRY(fb_alloc(block, sizeof *s->positions, "positions", &s->positions));
    FB_TRY(fb_alloc_zeroed(block, sizeof *s->confidence, "confidences", &s->confidence));
    FB_TRY(fb_alloc_zeroed(block, sizeof *s->entropy, "entropies", &s->entropy));
    return fb_alloc(block, sizeof *s->best, "confidences", &s->best);
}

void fb_trajectory_scratch_free(fb_trajectory_scratch *s) {
    fb_free(s->probabilities);
    fb_free(s->values);
    fb_free(s->order);
    fb_free(s->positions);
    fb_free(s->confidence);
    fb_free(s->entropy);
    fb_free(s->best);
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

/* --- one row ---------------------------------------------------------------------------------- */

/* Top-k and top-p: for tokens at the edge it is decided by less than the noise whether they are
 * kept. */
typedef struct edge {
    double sure;     /* everybody keeps tokens that are kept here with a logit from this one on */
    double possible; /* others may keep tokens that are left out here with a logit from this on */
    double moved;    /* the share of the tokens in between */
    double total;    /* by how much the sum of what is kept may differ, as a share of it */
} edge;

/* A row of logits, and what is made of it. */
typedef struct row_view {
    const fb_sampler *sampler;
    size_t vocab;
    const float *logits, *rounded; /* rounded: of the second lane, or NULL */
    const float *probabilities;    /* after temperature, top-k, top-p, without the banned token */
    const float *gumbel;           /* or NULL */
    double temperature;            /* 1 where it is 0 */
    int bits;                      /* of the record's precision */
    double log_total;              /* ln of the sum before top-k and top-p, where there are such */
    edge edge;
} row_view;

static bool is_filtered(const fb_sampler *sampler, size_t vocab) {
    return (sampler->top_k > 0 && sampler->top_k < vocab) || sampler->top_p < 1.0;
}

static size_t best_of(const float *values, size_t count, int32_t banned) {
    size_t best = count;
    for (size_t i = 0; i < count; i++)
        if ((int64_t)i != banned && (best == count || values[i] > values[best]))
            best = i;
    return best;
}

/* ln sum exp(logit / temperature) over [begin, end), without the banned token. */
static double log_sum(const row_view *v, size_t begin, size_t end, int32_t banned,
                      double temperature) {
    double largest = -INFINITY, sum = 0.0;
    for (size_t i = begin; i < end; i++)
        if ((int64_t)i != banned && (double)v->logits[i] > largest)
            largest = (double)v->logits[i];
    if (!isfinite(largest))
        return -INFINITY;
    for (size_t i = begin; i < end; i++)
        if ((int64_t)i != banned)
            sum += exp(((double)v->logits[i] - largest) / temperature);
    return largest / temperature + log(sum);
}

/* The root mean square over the vocabulary of what rounding does to a logit; what is common to all
 * is left out, because no probability knows it. */
static double noise_of(const row_view *v) {
    double mean = 0.0, square = 0.0, count = (double)v->vocab;
    if (!v->rounded)
        return 0.0;
    for (size_t i = 0; i < v->vocab; i++)
        mean += ((double)v->rounded[i] - (double)v->logits[i]) / count;
    for (size_t i = 0; i < v->vocab; i++) {
        double e = (double)v->rounded[i] - (double)v->logits[i] - mean;
        square += e * e / count;
    }
    return sqrt(square);
}

/* Half a spacing of a type of `bits` bits at a value, over root 3. */
static double storage_at(double value, int bits) {
    int exponent = 0;
    frexp(value, &exponent);
    return isfinite(value) ? ldexp(1.0, exponent - bits) / sqrt(12.0) : 0.0;
}

/* The standard deviation of ln p of token t where each logit's is 1: of z_t - ln sum exp z_j. */
static double shape_of_log(const row_view *v, size_t t) {
    double sum = 0.0, own = (double)v->probabilities[t];
    for (size_t i = 0; i < v->vocab; i++) {
        double p = (double)v->probabilities[i];
        sum += i == t ? 0.0 : p * p;
    }
    return sqrt((1.0 - own) * (1.0 - own) + sum) / v->temperature;
}

/* The share of all probability that kept tokens with logits below z have, or left out ones from z
 * on. */
static double share_beside(const row_view *v, bool kept, double z) {
    double sum = 0.0;
    for (size_t i = 0; i < v->vocab; i++) {
        double logit = (double)v->logits[i];
        bool counts = (v->probabilities[i] > 0.0f) == kept && (logit < z) == kept &&
                      (int64_t)i != v->sampler->banned_token;
        sum += counts ? exp(logit / v->temperature - v->log_total) : 0.0;
    }
    return sum;
}

/* The farthest logit, on the way from `near` to `far`, with at most `share` beside it. */
static double edge_with(const row_view *v, bool kept, double near, double far, double share) {
    for (int i = 0; i < 40; i++) {
        double middle = 0.5 * (near + far);
        *(share_beside(v, kept, middle) <= share ? &near : &far) = middle;
    }
    return near;
}

/* The smallest and the largest logit, of tokens that are kept or left out. */
static void logit_range(const row_view *v, bool kept, double *smallest, double *largest) {
    *smallest = INFINITY, *largest = -INFINITY;
    for (size_t i = 0; i < v->vocab; i++) {
        if ((v->probabilities[i] > 0.0f) != kept || (int64_t)i == v->sampler->banned_token)
            continue;
        *smallest = fmin(*smallest, (double)v->logits[i]);
        *largest = fmax(*largest, (double)v->logits[i]);
    }
}

/* Top-p: the share that may be kept or not, because the sum is as near to top_p as the noise. */
static double undecided_share(const row_view *v, double noise, double least_logit) {
    double top_p = v->sampler->top_p, least = exp(least_logit / v->temperature - v->log_total);
    double kept = share_beside(v, true, INFINITY);
    double off = 12.0 * noise / v->temperature * kept * (1.0 - kept) + 1e-6;
    if (!(top_p < 1.0) || fmin(kept - top_p, top_p - (kept - least)) > off)
        return 0.0;
    return least + off;
}

static void find_edge(row_view *v, double noise) {
    double in_least, in_most, out_least, out_most, near = 16.0 * noise;
    v->edge = (edge){.sure = -INFINITY, .possible = INFINITY};
    if (!is_filtered(v->sampler, v->vocab))
        return;
    v->log_total = log_sum(v, 0, v->vocab, v->sampler->banned_token, v->temperature);
    logit_range(v, true, &in_least, &in_most);
    logit_range(v, false, &out_least, &out_most);
    if (!(out_most >= out_least))
        return;
    double share = undecided_share(v, noise, in_least);
    double sure = share > 0.0 ? edge_with(v, true, in_least, in_most, share) : in_least;
    double possible = share > 0.0 ? edge_with(v, false, out_most, out_least, share) : out_most;
    v->edge.sure = fmax(sure, out_most) + near;
    v->edge.possible = fmin(possible, in_least) - near;
    double kept = share_beside(v, true, INFINITY);
    v->edge.moved =
        (share_beside(v, true, v->edge.sure) + share_beside(v, false, v->edge.possible)) / kept;
    v->edge.total = share / kept + v->edge.moved; /* equal logits may all be kept */
}

/* What rounding does to ln p of token t, before top-k and top-p. */
static double rounded_error(const row_view *v, size_t t) {
    row_view rounded = *v;
    rounded.logits = v->rounded;
    if (!v->rounded)
        return 0.0;
    int32_t banned = v->sampler->banned_token;
    double change = ((double)v->rounded[t] - (double)v->logits[t]) / v->temperature;
    return change - (log_sum(&rounded, 0, v->vocab, banned, v->temperature) -
                     log_sum(v, 0, v->vocab, banned, v->temperature));
}

static void guess_confidence(const row_view *v, size_t t, fb_trajectory_row *row) {
    double x = (double)v->logits[t] / v->temperature, own = row->own;
    int32_t banned = v->sampler->banned_token;
    size_t half = v->vocab / 2, second = v->vocab;
    size_t begin = t < half ? 0 : half, end = t < half ? half : v->vocab;
    row->guesses[FB_GUESS_HALF] = x - log_sum(v, begin, end, banned, v->temperature) - own;
    if (banned >= 0)
        row->guesses[FB_GUESS_WITH_MASK] = x - log_sum(v, 0, v->vocab, -1, v->temperature) - own;
    if (v->temperature < 1.0 || v->temperature > 1.0)
        row->guesses[FB_GUESS_NO_TEMPERATURE] =
            (double)v->logits[t] - log_sum(v, 0, v->vocab, banned, 1.0) - own;
    if (is_filtered(v->sampler, v->vocab))
        row->guesses[FB_GUESS_NO_FILTER] =
            x - log_sum(v, 0, v->vocab, banned, v->temperature) - own;
    for (size_t i = 0; i < v->vocab; i++)
        if (i != t && (second == v->vocab || v->probabilities[i] > v->probabilities[second]))
            second = i;
    double sum = 0.0, p = (double)v->probabilities[t];
    double margin = second < v->vocab ? p - (double)v->probabilities[second] : p;
    if (margin > 0.0)
        row->guesses[FB_GUESS_MARGIN] = log(margin) - own;
    for (size_t i = 0; i < v->vocab; i++)
        sum += exp((double)v->probabilities[i] - p);
    row->guesses[FB_GUESS_TWICE] = -log(sum) - own;
}

/* How far `uniform` is from the token's share of [0, 1), by the inverse of the distribution
 * function in the order of ids. */
static void gap_of_uniform(const row_view *v, size_t t, double uniform, fb_trajectory_row *row) {
    double below = 0.0, before = 0.0, after = 0.0, total = 0.0;
    for (size_t i = 0; i < v->vocab; i++)
        total += (double)v->probabilities[i];
    for (size_t i = 0; i < t; i++)
        below += (double)v->probabilities[i] / total;
    double above = below + (double)v->probabilities[t] / total;
    bool low = uniform < below;
    row->gap = low ? below - uniform : uniform > above ? uniform - above : 0.0;
    row->gap = fmax(row->gap - v->edge.moved, 0.0);
    double at = low ? below : above;
    for (size_t i = 0; i < v->vocab; i++) {
        double p = (double)v->probabilities[i] / total;
        bool counts = i < t || (i == t && !low);
        *(counts ? &before : &after) += p * p;
    }
    row->gap_shape =
        sqrt(before * (1.0 - at) * (1.0 - at) + after * at * at) / v->temperature + 1e-3;
}

/* Others may leave out tokens at the edge: those do not win over the record's. */
static void gap_of_gumbel(const row_view *v, size_t t, fb_trajectory_row *row) {
    double largest = -INFINITY, sure = -INFINITY;
    double own = (double)v->logits[t] / v->temperature + (double)v->gumbel[t];
    for (size_t i = 0; i < v->vocab; i++) {
        double w = (double)v->logits[i] / v->temperature + (double)v->gumbel[i];
        if (!(v->probabilities[i] > 0.0f))
            continue;
        if (w > largest) {
            largest = w;
            row->ours = (int32_t)i;
        }
        if ((double)v->logits[i] >= v->edge.sure)
            sure = fmax(sure, w);
    }
    row->gap = fmax(sure - own, 0.0);
    row->gap_shape = sqrt(2.0) / v->temperature;
}

/* A token that top-k or top-p leaves out, or the mask token. */
static void gap_of_left_out(const row_view *v, size_t t, fb_trajectory_row *row) {
    double smallest = INFINITY;
    for (size_t i = 0; i < v->vocab; i++)
        if (v->probabilities[i] > 0.0f)
            smallest = fmin(smallest, (double)v->logits[i]);
    row->gap = (int64_t)t == v->sampler->banned_token ? INFINITY : smallest - (double)v->logits[t];
    row->gap_shape = sqrt(2.0);
}

static void measure_gap(const row_view *v, size_t t, double uniform, fb_trajectory_row *row) {
    bool left_out = !(v->probabilities[t] > 0.0f) && ((double)v->logits[t] < v->edge.possible ||
                                                      (int64_t)t == v->sampler->banned_token);
    if (left_out && fb_sampler_draws(v->sampler))
        gap_of_left_out(v, t, row);
    else if (!fb_sampler_draws(v->sampler)) {
        row->gap = (int64_t)t == v->sampler->banned_token
                       ? INFINITY
                       : (double)v->logits[row->ours] - (double)v->logits[t];
        row->gap_shape = sqrt(2.0);
    } else if (v->gumbel)
        gap_of_gumbel(v, t, row);
    else if (!isnan(uniform))
        gap_of_uniform(v, t, uniform, row);
}

/* d entropy / d z_j = -p_j (ln p_j + entropy) */
static double shape_of_entropy(const row_view *v, double entropy) {
    double sum = 0.0;
    for (size_t i = 0; i < v->vocab; i++) {
        double p = fmax((double)v->probabilities[i], 1e-12);
        double slope = p * (log(p) + entropy);
        sum += slope * slope;
    }
    return sqrt(sum) / v->temperature;
}

static void measure_confidence(row_view *v, const fb_trajectory_pass *pass,
                               fb_trajectory_row *row) {
    int32_t proposed = pass->proposed[row->position];
    size_t t = proposed >= 0 ? (size_t)proposed : (size_t)row->ours;
    double p = (double)v->probabilities[t], given = (double)pass->confidence[row->position];
    double largest = (double)v->logits[best_of(v->logits, v->vocab, v->sampler->banned_token)];
    row->noise = hypot(noise_of(v), storage_at(largest, v->bits));
    find_edge(v, row->noise);
    row->storage = hypot(ldexp(1.0, -v->bits) / sqrt(3.0), 1e-8);
    row->own = p > 0.0 ? log(fmax(p, SMALLEST)) : -INFINITY;
    row->error =
        proposed >= 0 && p > 0.0 && !isnan(given) ? log(fmax(given, SMALLEST)) - row->own : NAN;
    row->shape = shape_of_log(v, t);
    row->rounded = (int64_t)t == v->sampler->banned_token ? 0.0 : rounded_error(v, t);
    row->slack = v->edge.total;
    if (proposed >= 0 && p > 0.0)
        guess_confidence(v, t, row);
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
    row_view v = {
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
    measure_confidence(&v, r->pass, row);
    if (proposed >= 0)
        measure_gap(&v, (size_t)proposed, r->pass->uniform ? r->pass->uniform[i] : NAN, row);
    if (unknown || gumbel)
        row->confidence = s->probabilities[row->ours];
    row->entropy_error = row->entropy_shape = NAN;
    if (r->pass->entropy && r->sampler.with_entropy) {
        row->entropy_error = (double)r->pass->entropy[i] - (double)row->entropy;
        row->entropy_shape = shape_of_entropy(&v, (double)row->entropy);
    }
    if (i > 0)
        row->guesses[FB_GUESS_PREVIOUS_ROW] = s->best[i - 1] - row->own;
    if (i + 1 < r->record->options.block_size)
        row->guesses[FB_GUESS_NEXT_ROW] = s->best[i + 1] - row->own;
    return FB_OK;
}

static fb_status find_best(const fb_trajectory_replay *r, fb_trajectory_scratch *s) {
    for (size_t i = 0; i < r->record->options.block_size; i++) {
        FB_TRY(probabilities_of(r, s, i));
        size_t best = best_of(s->probabilities, r->config->vocab_size, -1);
        s->best[i] = log(fmax((double)s->probabilities[best], SMALLEST));
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
    double error = 0.0, noise = 0.0, size = 0.0;
    for (size_t i = 0; i < count; i++) {
        double value = (double)ours[i], e = difference((double)given[i], value);
        double n = rounded ? difference((double)rounded[i], value) : 0.0;
        error += e * e;
        if (!isfinite(value))
            continue;
        size += value * value;
        noise += (isfinite(n) ? n * n : 0.0) +
                 (stored != FB_F32 ? fb_storage_variance(stored, value) : 0.0);
    }
    double number = (double)count;
    return (fb_trajectory_error){sqrt(error / number), sqrt(noise / number), sqrt(size / number)};
}

static fb_status measure_state(const fb_trajectory_replay *r, fb_trajectory_scratch *s,
                               fb_trajectory_state state, fb_trajectory_step *step) {
    const fb_tensor_view *view = r->pass->states[state];
    size_t layers = fb_trajectory_state_layers(r->config, state);
    size_t rows = layers * r->record->options.block_size;
    size_t width = fb_trajectory_state_size(r, state) / rows;
    fb_dtype stored = view->dtype == FB_TENSOR_BF16  ? FB_BF16
                      : view->dtype == FB_TENSOR_F16 ? FB_F16
                                                     : FB_F32;
    FB_TRY(fb_alloc_zeroed(rows, sizeof *step->states[state], "errors", &step->states[state]));
    FB_TRY(fb_tensor_read_f32(view, 0, view->count, s->values));
    for (size_t i = 0; i < rows; i++) {
        const float *rounded = r->num_lanes > 1 ? r->lanes[1].states[state] + i * width : NULL;
        step->states[state][i] = measure_error(
            s->values + i * width, r->lanes[0].states[state] + i * width, rounded, width, stored);
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

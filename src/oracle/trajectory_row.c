#include "oracle/trajectory_row.h"

#include <math.h>

bool fb_trajectory_is_filtered(const fb_sampler *sampler, size_t vocab) {
    return (sampler->top_k > 0 && sampler->top_k < vocab) || sampler->top_p < 1.0;
}

size_t fb_trajectory_best_of(const float *values, size_t count, int32_t banned) {
    size_t best = count;
    for (size_t i = 0; i < count; i++)
        if ((int64_t)i != banned && (best == count || values[i] > values[best]))
            best = i;
    return best;
}

/* ln sum exp(logit / temperature) over [begin, end), without the banned token. */
double fb_trajectory_log_sum(const fb_trajectory_row_view *v, size_t begin, size_t end,
                             int32_t banned, double temperature) {
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
static double noise_of(const fb_trajectory_row_view *v) {
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
static double shape_of_log(const fb_trajectory_row_view *v, size_t t) {
    double sum = 0.0, own = (double)v->probabilities[t];
    for (size_t i = 0; i < v->vocab; i++) {
        double p = (double)v->probabilities[i];
        sum += i == t ? 0.0 : p * p;
    }
    return sqrt((1.0 - own) * (1.0 - own) + sum) / v->temperature;
}

/* The share of all probability that kept tokens with logits below z have, or left out ones from z
 * on. */
static double share_beside(const fb_trajectory_row_view *v, bool kept, double z) {
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
static double edge_with(const fb_trajectory_row_view *v, bool kept, double near, double far,
                        double share) {
    for (int i = 0; i < 40; i++) {
        double middle = 0.5 * (near + far);
        *(share_beside(v, kept, middle) <= share ? &near : &far) = middle;
    }
    return near;
}

/* The smallest and the largest logit, of tokens that are kept or left out. */
static void logit_range(const fb_trajectory_row_view *v, bool kept, double *smallest,
                        double *largest) {
    *smallest = INFINITY, *largest = -INFINITY;
    for (size_t i = 0; i < v->vocab; i++) {
        if ((v->probabilities[i] > 0.0f) != kept || (int64_t)i == v->sampler->banned_token)
            continue;
        *smallest = fmin(*smallest, (double)v->logits[i]);
        *largest = fmax(*largest, (double)v->logits[i]);
    }
}

/* Top-p: the share that may be kept or not, because the sum is as near to top_p as the noise. */
static double undecided_share(const fb_trajectory_row_view *v, double noise, double least_logit) {
    double top_p = v->sampler->top_p, least = exp(least_logit / v->temperature - v->log_total);
    double kept = share_beside(v, true, INFINITY);
    double off = 12.0 * noise / v->temperature * kept * (1.0 - kept) + 1e-6;
    if (!(top_p < 1.0) || fmin(kept - top_p, top_p - (kept - least)) > off)
        return 0.0;
    return least + off;
}

static void find_edge(fb_trajectory_row_view *v, double noise) {
    double in_least, in_most, out_least, out_most, near = 16.0 * noise;
    v->edge = (fb_trajectory_edge){.sure = -INFINITY, .possible = INFINITY};
    if (!fb_trajectory_is_filtered(v->sampler, v->vocab))
        return;
    v->log_total = fb_trajectory_log_sum(v, 0, v->vocab, v->sampler->banned_token, v->temperature);
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
static double rounded_error(const fb_trajectory_row_view *v, size_t t) {
    fb_trajectory_row_view rounded = *v;
    rounded.logits = v->rounded;
    if (!v->rounded)
        return 0.0;
    int32_t banned = v->sampler->banned_token;
    double change = ((double)v->rounded[t] - (double)v->logits[t]) / v->temperature;
    return change - (fb_trajectory_log_sum(&rounded, 0, v->vocab, banned, v->temperature) -
                     fb_trajectory_log_sum(v, 0, v->vocab, banned, v->temperature));
}

/* How far `uniform` is from the token's share of [0, 1), by the inverse of the distribution
 * function in the order of ids. */
static void gap_of_uniform(const fb_trajectory_row_view *v, size_t t, double uniform,
                           fb_trajectory_row *row) {
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
static void gap_of_gumbel(const fb_trajectory_row_view *v, size_t t, fb_trajectory_row *row) {
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
static void gap_of_left_out(const fb_trajectory_row_view *v, size_t t, fb_trajectory_row *row) {
    double smallest = INFINITY;
    for (size_t i = 0; i < v->vocab; i++)
        if (v->probabilities[i] > 0.0f)
            smallest = fmin(smallest, (double)v->logits[i]);
    row->gap = (int64_t)t == v->sampler->banned_token ? INFINITY : smallest - (double)v->logits[t];
    row->gap_shape = sqrt(2.0);
}

void fb_trajectory_measure_gap(const fb_trajectory_row_view *v, size_t t, double uniform,
                               fb_trajectory_row *row) {
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
double fb_trajectory_shape_of_entropy(const fb_trajectory_row_view *v, double entropy) {
    double sum = 0.0;
    for (size_t i = 0; i < v->vocab; i++) {
        double p = fmax((double)v->probabilities[i], 1e-12);
        double slope = p * (log(p) + entropy);
        sum += slope * slope;
    }
    return sqrt(sum) / v->temperature;
}

void fb_trajectory_measure_confidence(fb_trajectory_row_view *v, const fb_trajectory_pass *pass,
                                      fb_trajectory_row *row) {
    int32_t proposed = pass->proposed[row->position];
    size_t t = proposed >= 0 ? (size_t)proposed : (size_t)row->ours;
    double p = (double)v->probabilities[t], given = (double)pass->confidence[row->position];
    double largest =
        (double)v->logits[fb_trajectory_best_of(v->logits, v->vocab, v->sampler->banned_token)];
    row->noise = hypot(noise_of(v), storage_at(largest, v->bits));
    find_edge(v, row->noise);
    row->storage = hypot(ldexp(1.0, -v->bits) / sqrt(3.0), 1e-8);
    row->own = p > 0.0 ? log(fmax(p, FB_TRAJECTORY_SMALLEST)) : -INFINITY;
    row->error = proposed >= 0 && p > 0.0 && !isnan(given)
                     ? log(fmax(given, FB_TRAJECTORY_SMALLEST)) - row->own
                     : NAN;
    row->shape = shape_of_log(v, t);
    row->rounded = (int64_t)t == v->sampler->banned_token ? 0.0 : rounded_error(v, t);
    row->slack = v->edge.total;
}

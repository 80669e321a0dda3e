/* What known mistakes would give at a position, in place of its confidence and of its token. */
#include "oracle/trajectory_row.h"

#include <math.h>

/* --- confidences ------------------------------------------------------------------------------ */

/* ln p of token t among the tokens whose `kept` is not 0. */
static double log_p_of_kept(const fb_trajectory_row_view *v, size_t t, const float *kept) {
    double sum = 0.0, x = (double)v->logits[t];
    for (size_t i = 0; i < v->vocab; i++)
        if (kept[i] > 0.0f)
            sum += exp(((double)v->logits[i] - x) / v->temperature);
    return -log(sum);
}

/* ln p of the most probable token t at a temperature, and its derivative by ln temperature. */
static double log_p_at(const fb_trajectory_row_view *v, size_t t, double temperature,
                       double *slope) {
    double sum = 0.0, moment = 0.0, x = (double)v->logits[t];
    for (size_t i = 0; i < v->vocab; i++) {
        double below = (x - (double)v->logits[i]) / temperature;
        double weight = (int64_t)i != v->sampler->banned_token ? exp(-below) : 0.0;
        sum += weight;
        moment += weight > 0.0 ? weight * below : 0.0;
    }
    *slope = -moment / sum;
    return -log(sum);
}

/* The temperature at which the record's confidence of its most probable token is right. It falls
 * with the temperature. */
static void fit_temperature(const fb_trajectory_row_view *v, size_t t, fb_trajectory_row *row) {
    size_t best = fb_trajectory_best_of(v->logits, v->vocab, v->sampler->banned_token);
    row->temperature = NAN;
    if (isnan(row->error) || t != best || fb_trajectory_is_filtered(v->sampler, v->vocab))
        return;
    double target = row->own + row->error, low = log(v->temperature), high = low;
    double p = log_p_at(v, t, v->temperature, &row->slope);
    if (fabs(row->error) <= 0.03 * fabs(row->slope)) {
        row->temperature = v->temperature * exp(row->error / row->slope);
        return;
    }
    *(p > target ? &high : &low) += p > target ? 4.0 : -4.0;
    for (int i = 0; i < 30; i++) {
        double middle = 0.5 * (low + high);
        *(log_p_at(v, t, exp(middle), &row->slope) > target ? &low : &high) = middle;
    }
    row->temperature = exp(0.5 * (low + high));
}

void fb_trajectory_guess_confidence(const fb_trajectory_row_view *v, size_t t,
                                    const float *top_p_first, fb_trajectory_row *row) {
    double x = (double)v->logits[t] / v->temperature, own = row->own;
    int32_t banned = v->sampler->banned_token;
    size_t half = v->vocab / 2, second = v->vocab;
    size_t begin = t < half ? 0 : half, end = t < half ? half : v->vocab;
    row->guesses[FB_GUESS_HALF] =
        x - fb_trajectory_log_sum(v, begin, end, banned, v->temperature) - own;
    if (banned >= 0)
        row->guesses[FB_GUESS_WITH_MASK] =
            x - fb_trajectory_log_sum(v, 0, v->vocab, -1, v->temperature) - own;
    if (v->temperature < 1.0 || v->temperature > 1.0)
        row->guesses[FB_GUESS_NO_TEMPERATURE] =
            (double)v->logits[t] - fb_trajectory_log_sum(v, 0, v->vocab, banned, 1.0) - own;
    if (fb_trajectory_is_filtered(v->sampler, v->vocab))
        row->guesses[FB_GUESS_NO_FILTER] =
            x - fb_trajectory_log_sum(v, 0, v->vocab, banned, v->temperature) - own;
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
    size_t best = fb_trajectory_best_of(v->logits, v->vocab, banned);
    double largest = (double)v->logits[best] / v->temperature;
    row->guesses[FB_GUESS_UNNORMALISED] = x - largest - own;
    row->guesses[FB_GUESS_SIGMOID] = -log1p(exp(-x)) - own;
    if (fb_sampler_draws(v->sampler))
        row->guesses[FB_GUESS_BEST] =
            log(fmax((double)v->probabilities[best], FB_TRAJECTORY_SMALLEST)) - own;
    if (top_p_first && top_p_first[t] > 0.0f)
        row->guesses[FB_GUESS_TOP_P_FIRST] = log_p_of_kept(v, t, top_p_first) - own;
    fit_temperature(v, t, row);
}

/* --- tokens ----------------------------------------------------------------------------------- */

/* What `uniform` draws where tokens come in the order of falling probability: the most probable one
 * such that those above it sum to at most `uniform`, of all that are so the last. */
static int32_t drawn_by_rank(const fb_trajectory_row_view *v, double uniform) {
    double low = 0.0, high = 1.0;
    for (int k = 0; k < 50; k++) {
        double middle = 0.5 * (low + high), above = 0.0;
        for (size_t i = 0; i < v->vocab; i++)
            above += (double)v->probabilities[i] > middle ? (double)v->probabilities[i] : 0.0;
        *(above > uniform ? &low : &high) = middle;
    }
    size_t found = v->vocab;
    for (size_t i = 0; i < v->vocab; i++) {
        double p = (double)v->probabilities[i];
        if (p <= high && p > 0.0 && (found == v->vocab || p > (double)v->probabilities[found]))
            found = i;
    }
    return found < v->vocab ? (int32_t)found : -1;
}

static int32_t best_with_noise(const fb_trajectory_row_view *v) {
    size_t found = v->vocab;
    double most = -INFINITY;
    for (size_t i = 0; i < v->vocab; i++) {
        double value = (double)v->logits[i] + (double)v->gumbel[i];
        if (v->probabilities[i] > 0.0f && value > most) {
            most = value;
            found = i;
        }
    }
    return found < v->vocab ? (int32_t)found : -1;
}

void fb_trajectory_guess_tokens(const fb_trajectory_row_view *v, double uniform,
                                fb_trajectory_row *row) {
    int32_t banned = v->sampler->banned_token;
    size_t best = fb_trajectory_best_of(v->logits, v->vocab, banned), half = v->vocab / 2;
    size_t second = v->vocab,
           high = fb_trajectory_best_of(v->logits + half, v->vocab - half,
                                        banned >= (int32_t)half ? banned - (int32_t)half : -1);
    if (fb_sampler_draws(v->sampler)) {
        row->others[FB_OTHER_BEST] = (int32_t)best;
        if (!isnan(uniform))
            row->others[FB_OTHER_BY_RANK] = drawn_by_rank(v, uniform);
        if (v->gumbel)
            row->others[FB_OTHER_NOISE_TOO_EARLY] = best_with_noise(v);
        return;
    }
    for (size_t i = 0; i < v->vocab; i++)
        if (i != best && (int64_t)i != banned &&
            (second == v->vocab || v->logits[i] > v->logits[second]))
            second = i;
    row->others[FB_OTHER_SECOND] = (int32_t)second;
    row->others[FB_OTHER_LOW_HALF] = (int32_t)fb_trajectory_best_of(v->logits, half, banned);
    row->others[FB_OTHER_HIGH_HALF] = (int32_t)(half + high);
}

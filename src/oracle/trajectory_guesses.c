/* Confidences that are something else. For each wrong way to a confidence it is known what it would
 * give, so errors of all steps are compared with it together (docs/judge.md, the matched filter):
 * a mistake is seen far below the noise of one confidence. */
#include "oracle/trajectory_names.h"

#include <math.h>
#include <stdio.h>

static const char *const words[FB_TRAJECTORY_NUM_GUESSES] = {
    [FB_GUESS_HALF] = "the confidences are those of a softmax over half of the vocabulary",
    [FB_GUESS_WITH_MASK] = "the mask token is not excluded: it takes a share of the softmax",
    [FB_GUESS_NO_TEMPERATURE] = "the confidences are those of temperature 1",
    [FB_GUESS_NO_FILTER] = "the confidences are those before top-k and top-p",
    [FB_GUESS_NEXT_ROW] = "the confidences are those of the position after",
    [FB_GUESS_PREVIOUS_ROW] = "the confidences are those of the position before",
    [FB_GUESS_MARGIN] =
        "the confidences are the best probability minus the second, not the probability",
    [FB_GUESS_TWICE] = "the softmax is applied twice",
    [FB_GUESS_UNNORMALISED] =
        "the confidences are not normalised: exp(logit - the largest), not over the sum",
    [FB_GUESS_SIGMOID] = "the confidences are sigmoids of the logits, not a softmax",
    [FB_GUESS_BEST] =
        "the confidences are those of the best tokens, not of the tokens that were drawn",
    [FB_GUESS_TOP_P_FIRST] = "top-p is taken at temperature 1, before the temperature",
};

/* Errors e and what the guess gives in their place, d, over their noise. */
typedef struct sums {
    double ed, dd, ee, rest; /* rest: (e - d)^2 */
    double worst_rest, spread;
    size_t count;
} sums;

/* One step adds to the sums; rows of a step may err together, steps are independent. */
static bool add_step(const fb_trajectory_judgement *j, const fb_trajectory_step *step,
                     fb_trajectory_guess guess, double coefficient, sums *s) {
    double score = 0.0;
    for (size_t r = 0; r < step->num_rows; r++) {
        const fb_trajectory_row *row = &step->rows[r];
        if (isnan(row->error))
            continue;
        bool known = !isnan(row->guesses[guess]);
        if (!known && guess != FB_GUESS_NEXT_ROW && guess != FB_GUESS_PREVIOUS_ROW)
            return false;
        if (!known)
            continue; /* at the block's edge */
        double sigma = fb_trajectory_sigma(j, row);
        double e = row->error / sigma, d = row->guesses[guess] / sigma;
        s->ed += e * d;
        s->dd += d * d;
        s->ee += e * e;
        s->rest += (e - d) * (e - d);
        s->worst_rest = fmax(s->worst_rest, fabs(e - d));
        s->count++;
        score += (e - coefficient * d) * d;
    }
    s->spread += score * score;
    return true;
}

static bool sum_all(const fb_trajectory_judgement *j, fb_trajectory_guess guess, double coefficient,
                    sums *s) {
    *s = (sums){0};
    for (size_t i = 0; i < j->num_steps; i++)
        if (!add_step(j, &j->steps[i], guess, coefficient, s))
            return false;
    return s->count > 0 && s->dd > 0.0;
}

/* The coefficient is 1, clearly not 0, and what is left is noise. */
static bool is_it(const fb_trajectory_judgement *j, fb_trajectory_guess guess, double *rest) {
    sums s;
    if (!sum_all(j, guess, 0.0, &s))
        return false;
    double c = s.ed / s.dd;
    sum_all(j, guess, c, &s);
    double least = 1.0 / sqrt(s.dd), error = fmax(sqrt(s.spread) / s.dd, least);
    *rest = s.rest / (double)s.count;
    return c > j->allowed * error && fabs(c - 1.0) <= 0.1 + 4.0 * error && error < 0.1 &&
           s.worst_rest <= j->allowed && s.rest < 0.5 * s.ee;
}

/* Where no confidence is too far off by itself, the mistake begins at the first step. */
static void place(fb_trajectory_judgement *j, fb_trajectory_guess guess) {
    if (j->mistake.there)
        return;
    size_t step = 0;
    while (step + 1 < j->num_steps && j->steps[step].num_rows == 0)
        step++;
    j->mistake = (fb_trajectory_difference){
        .there = true, .step = step, .subject = FB_SUBJECT_CONFIDENCE, .size = j->largest};
    snprintf(j->mistake.words, sizeof j->mistake.words,
             "no confidence is off by more than the noise, all together are: %s", words[guess]);
    j->mistakes = 1;
    if (!j->first.there)
        j->first = j->mistake;
}

/* --- another temperature ---------------------------------------------------------------------- */

/* What the rows say about ln temperature: the weighted mean, and the weight. */
typedef struct temperature_fit {
    double sum, weight, square, error_square, worst;
    size_t rows, unknown;
} temperature_fit;

static void add_temperatures(const fb_trajectory_judgement *j, double mean, temperature_fit *fit) {
    *fit = (temperature_fit){0};
    for (size_t i = 0; i < j->num_steps; i++)
        for (size_t r = 0; r < j->steps[i].num_rows; r++) {
            const fb_trajectory_row *row = &j->steps[i].rows[r];
            fit->unknown += isnan(row->temperature) && !isnan(row->error) ? 1 : 0;
            if (isnan(row->temperature))
                continue;
            double sigma = fb_trajectory_sigma(j, row), weight = pow(row->slope / sigma, 2.0);
            double off = (log(row->temperature) - mean) * row->slope / sigma;
            fit->sum += weight * log(row->temperature);
            fit->weight += weight;
            fit->square += off * off;
            fit->error_square += pow(row->error / sigma, 2.0);
            fit->worst = fmax(fit->worst, fabs(off));
            fit->rows++;
        }
}

/* One other temperature explains all confidences that it can. */
static bool name_temperature(const fb_trajectory_judgement *j, char *name, size_t size) {
    const fb_generate_options *o = &j->record->options;
    double said = o->temperature > 0.0 ? o->temperature : 1.0;
    temperature_fit fit;
    add_temperatures(j, 0.0, &fit);
    if (fit.rows < 2 || fit.unknown > fit.rows || !(fit.weight > 400.0))
        return false;
    double mean = fit.sum / fit.weight;
    add_temperatures(j, mean, &fit);
    if (fit.worst > j->allowed || fit.square > 0.25 * fit.error_square ||
        fabs(mean - log(said)) < 0.02)
        return false;
    snprintf(name, size, "the confidences are those of temperature %.3g, not of %.3g%s", exp(mean),
             said, o->temperature > 0.0 ? "" : " (temperature 0: the probability at 1)");
    return true;
}

void fb_trajectory_name_guess(fb_trajectory_judgement *j, char *name, size_t size) {
    double least = INFINITY;
    int found = -1;
    bool other = j->mistake.there && (j->mistake.subject == FB_SUBJECT_STATE ||
                                      j->mistake.subject == FB_SUBJECT_ACTION);
    for (int g = 0; g < FB_TRAJECTORY_NUM_GUESSES && !other; g++) {
        double rest = INFINITY;
        if (is_it(j, (fb_trajectory_guess)g, &rest) && rest < least) {
            least = rest;
            found = g;
        }
    }
    if (found < 0 && j->mistake.there && !other)
        name_temperature(j, name, size);
    if (found < 0)
        return;
    place(j, (fb_trajectory_guess)found);
    snprintf(name, size, "%s", words[found]);
}

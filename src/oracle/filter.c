#include "oracle/filter.h"

#include "oracle/statistics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

fb_status fb_filter_create(fb_trial *trial, fb_filter **made) {
    fb_filter *f = NULL;
    size_t sums = trial->num_tensors * trial->rows;
    FB_TRY(fb_trial_take(trial, 1, sizeof *f, &f));
    f->trial = trial;
    for (size_t i = 0; i < trial->num_tensors; i++)
        f->total += trial->tensors[i].value ? trial->tensors[i].count : 0;
    double **arrays[] = {&f->x, &f->n, &f->d};
    for (size_t i = 0; i < 3; i++)
        FB_TRY(fb_trial_take(trial, sums, sizeof(double), arrays[i]));
    FB_TRY(fb_trial_take(trial, trial->num_tensors, sizeof(double), &f->scale));
    FB_TRY(fb_trial_take(trial, f->total + 4 * trial->rows, sizeof(double), &f->scratch));
    FB_TRY(fb_trial_take(trial, trial->rows, sizeof *f->alike, &f->alike));
    FB_TRY(fb_trial_take(trial, f->total, sizeof(double), &f->clean));
    FB_TRY(fb_trial_take(trial, f->total, sizeof(double), &f->best.wrong));
    FB_TRY(fb_trial_take(trial, sums, 1, &f->best.rows));
    FB_TRY(fb_trial_take(trial, 2 * sums, 1, &f->places));
    FB_TRY(fb_trial_take(trial, trial->num_parts, sizeof *f->best.parts, &f->best.parts));
    FB_TRY(fb_trial_take(trial, trial->num_parts, sizeof(bool), &f->best.part_changed));
    for (size_t i = 0; i < trial->num_parts; i++)
        FB_TRY(fb_trial_take(trial, trial->rows * (trial->dim + 1), sizeof(double),
                             &f->best.parts[i]));
    *made = f;
    return FB_OK;
}

static size_t width_of(const fb_trial *trial, const fb_trial_tensor *t) {
    return t->lse ? 1 : trial->dim;
}

void fb_filter_begin(fb_filter *f, bool fine) {
    const fb_trial *trial = f->trial;
    f->fine = fine;
    f->best.found = false;
    f->best.share = f->best.score = f->best.explained = 0.0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        size_t width = width_of(trial, t), count = 0;
        double exact = 0.0, all = 0.0; /* float32 arithmetic and storage: nobody is below that */
        if (!t->value)
            continue;
        for (size_t at = 0; at < t->count; at++) {
            exact += t->noise.floats[at] + t->noise.stored[at];
            all += t->sigma[at] * t->sigma[at];
        }
        for (size_t row = 0; row < trial->rows; row++) {
            double sum = 0.0;
            for (size_t at = row * width; at < (row + 1) * width; at++) {
                double ratio = t->error[at] / t->sigma[at];
                sum += ratio * ratio;
                if (fb_trial_counts(t, at))
                    f->scratch[count++] = ratio;
            }
            f->x[i * trial->rows + row] = sum;
        }
        double typical = fb_median_magnitude(f->scratch, count) / 0.6745;
        double least = 0.5 * sqrt(exact / (all + 1e-300));
        f->scale[i] = typical < least ? least : typical > 1.0 ? 1.0 : typical;
    }
    if (fine)
        fb_filter_clean(f);
}

/* --- sums ------------------------------------------------------------------------------------- */

/* What a result that is much larger than the right one is rounded by as it is stored is no error of
 * the mistake: how much smaller the square of what is left may be, over sigma^2. */
static double coarser(const fb_trial_tensor *t, size_t at, double wrong) {
    if (!(fabs(wrong) > 2.0 * fabs(t->truth[at])) || !isfinite(wrong) || t->lse)
        return 0.0;
    double left = (t->error[at] - (wrong - t->truth[at])) / t->sigma[at];
    double rounded = 9.0 * fb_storage_variance(t->stored, wrong) / (t->sigma[at] * t->sigma[at]);
    return fmin(left * left, rounded);
}

/* n and d of all rows; returns whether the mistake changes anything. */
static bool sum_up(fb_filter *f, const fb_wrong *w) {
    const fb_trial *trial = f->trial;
    double all = 0.0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        size_t width = width_of(trial, t);
        if (!t->value)
            continue;
        for (size_t row = 0; row < trial->rows; row++) {
            double n = 0.0, d = 0.0;
            for (size_t at = row * width; w->result[i] && at < (row + 1) * width; at++) {
                if (!t->usable[at])
                    continue;
                double change = (w->result[i][at] - t->truth[at]) / t->sigma[at];
                change = isfinite(change) ? change : 1e12;
                n += change * t->error[at] / t->sigma[at];
                d += change * change;
                n += 0.5 * coarser(t, at, w->result[i][at]);
            }
            f->n[i * trial->rows + row] = n;
            f->d[i * trial->rows + row] = d;
            all += d;
        }
    }
    return all > 0.0;
}

/* --- places ----------------------------------------------------------------------------------- */

/* Where a mistake may have been made. */
typedef enum place { EVERYWHERE, PASSES, HEADS, TOKENS, ROWS, NUM_PLACES } place;

static size_t group_of(const fb_trial *trial, place p, size_t tensor, size_t row) {
    switch (p) {
    case PASSES:
        return trial->tensors[tensor].pass;
    case HEADS:
        return row % trial->heads;
    case TOKENS:
        return row / trial->heads;
    case ROWS:
        return row;
    case EVERYWHERE:
    case NUM_PLACES:
        break;
    }
    return 0;
}

static size_t num_groups(const fb_trial *trial, place p) {
    return p == PASSES   ? 100
           : p == HEADS  ? trial->heads
           : p == TOKENS ? trial->rows / trial->heads
           : p == ROWS   ? trial->rows
                         : 1;
}

/* How much a mistake that was made in some rows explains. */
typedef struct explanation {
    double share;     /* of the logarithm of each tensor's sum of squares, down to the noise */
    double explained; /* of the sum of squares itself */
    double rest;      /* the logarithms of what is left, below the noise too: it may be smaller */
} explanation;

static explanation explained_by(const fb_filter *f, const unsigned char *chosen) {
    const fb_trial *trial = f->trial;
    explanation found = {0};
    double share = 0.0, most = 0.0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        double x = 0.0, less = 0.0, count = (double)trial->tensors[i].count;
        if (!trial->tensors[i].value)
            continue;
        for (size_t row = 0; row < trial->rows; row++) {
            size_t at = i * trial->rows + row;
            x += f->x[at];
            less += chosen[at] ? 2.0 * f->n[at] - f->d[at] : 0.0;
        }
        double rest = x - less > 0.0 ? x - less : 0.0;
        found.explained += less;
        found.rest += log((rest + 1e-5 * count) / count);
        share += log((x + count) / (rest + count));
        most += x > count ? log((x + count) / (2.0 * count)) : 0.0;
    }
    found.share = most > 0.0 ? fmin(1.0, share / most) : 0.0;
    return found;
}

/* The groups in which the mistake explains more than it adds. Returns their number. */
static size_t choose(const fb_filter *f, place p, unsigned char *chosen) {
    const fb_trial *trial = f->trial;
    size_t count = num_groups(trial, p), picked = 0;
    double *gain = f->scratch; /* there is room: as many as rows */
    if (count > f->total)
        return 0;
    for (size_t g = 0; g < count; g++)
        gain[g] = 0.0;
    for (size_t i = 0; i < trial->num_tensors; i++)
        for (size_t row = 0; trial->tensors[i].value && row < trial->rows; row++) {
            size_t at = i * trial->rows + row;
            gain[group_of(trial, p, i, row)] += 2.0 * f->n[at] - f->d[at];
        }
    for (size_t g = 0; g < count; g++)
        picked += gain[g] > 0.0;
    for (size_t i = 0; i < trial->num_tensors; i++)
        for (size_t row = 0; row < trial->rows; row++)
            chosen[i * trial->rows + row] =
                trial->tensors[i].value && gain[group_of(trial, p, i, row)] > 0.0;
    return picked;
}

/* The chosen groups in words, at most eight of them. */
static void say_place(const fb_filter *f, place p, const unsigned char *chosen, char *text,
                      size_t size) {
    static const char *const names[] = {"", "step", "head", "token", "token"};
    const fb_trial *trial = f->trial;
    size_t shown = 0, used = 0, last = SIZE_MAX;
    text[0] = '\0';
    for (size_t g = 0; p != EVERYWHERE && g < num_groups(trial, p); g++) {
        bool in = false;
        for (size_t i = 0; i < trial->num_tensors; i++)
            for (size_t row = 0; row < trial->rows; row++)
                in = in || (chosen[i * trial->rows + row] && group_of(trial, p, i, row) == g &&
                            f->d[i * trial->rows + row] > 0.0);
        if (!in || last == g)
            continue;
        last = g;
        if (shown == 4) {
            snprintf(text + used, size - used, ", ...");
            return;
        }
        int wrote = p == ROWS ? snprintf(text + used, size - used, "%s token %zu of head %zu",
                                         shown ? "," : ", in", g / trial->heads, g % trial->heads)
                              : snprintf(text + used, size - used, "%s %s %zu",
                                         shown ? "," : ", in", names[p], g);
        if (wrote < 0 || (size_t)wrote >= size - used)
            return;
        used += (size_t)wrote;
        shown++;
    }
}

/* The elements that the mistake changes in the chosen rows. */
static size_t changed_elements(const fb_filter *f, const unsigned char *chosen) {
    const fb_trial *trial = f->trial;
    size_t count = 0;
    for (size_t i = 0; i < trial->num_tensors; i++)
        for (size_t row = 0; trial->tensors[i].value && row < trial->rows; row++)
            if (chosen[i * trial->rows + row] && f->d[i * trial->rows + row] > 0.0)
                count += width_of(trial, &trial->tensors[i]);
    return count;
}

/* Whether all of one tensor's rows of a group are changed, if any of them is. */
static bool is_place(const fb_filter *f, place p) {
    const fb_trial *trial = f->trial;
    for (size_t i = 0; i < trial->num_tensors; i++)
        for (size_t row = 0; row < trial->rows; row++) {
            if (!(f->d[i * trial->rows + row] > 0.0) || !trial->tensors[i].value)
                continue;
            for (size_t other = 0; other < trial->rows; other++)
                if (group_of(trial, p, i, other) == group_of(trial, p, i, row) &&
                    !(f->d[i * trial->rows + other] > 0.0))
                    return false;
        }
    return true;
}

/* Where a mistake that was found in some rows is. */
static place place_found(const fb_filter *f) {
    static const place order[] = {PASSES, HEADS, TOKENS};
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++)
        if (is_place(f, order[i]))
            return order[i] == PASSES ? EVERYWHERE : order[i];
    return ROWS;
}

/* Whether a mistake gives the results of the best one so far. */
static bool is_same(const fb_filter *f, const fb_wrong *w) {
    double apart = 0.0, all = 0.0;
    size_t from = 0;
    for (size_t i = 0; i < f->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &f->trial->tensors[i];
        for (size_t at = 0; t->value && at < t->count; at++) {
            double wrong = w->result[i] ? w->result[i][at] : t->truth[at];
            double x = (wrong - f->best.wrong[from + at]) / t->sigma[at];
            double d = (wrong - t->truth[at]) / t->sigma[at];
            if (t->usable[at] && isfinite(x) && isfinite(d)) {
                apart += x * x;
                all += d * d;
            }
        }
        from += t->value ? t->count : 0;
    }
    return apart < 1e-8 * all;
}

/* --- gross mistakes --------------------------------------------------------------------------- */

/* Two mistakes that leave about as little in terms of the noise: the one that leaves less is it. */
static bool is_better(const fb_filter *f, double score, double rest) {
    double margin = 0.02, clear = 1.4;
    if (f->best.found && fabs(score - f->best.score) < margin && fabs(rest - f->best.rest) > clear)
        return rest < f->best.rest;
    return score > f->best.score + 1e-3;
}

static double try_gross(fb_filter *f, const fb_wrong *w, const char *words) {
    size_t sums = f->trial->num_tensors * f->trial->rows;
    unsigned char *chosen = f->places, *best = chosen + sums;
    explanation found = {0};
    place best_place = EVERYWHERE;
    for (place p = EVERYWHERE; p < NUM_PLACES; p++) {
        if (p == EVERYWHERE)
            memset(chosen, 1, sums);
        else if (w->everywhere)
            break;
        else if (choose(f, p, chosen) == 0)
            continue;
        explanation e = explained_by(f, chosen);
        /* among many mistakes, one comes near a few numbers by chance */
        if (p != EVERYWHERE && changed_elements(f, chosen) < 8 && e.share < 0.97)
            continue;
        /* a place with more groups has to explain more */
        if (e.share > found.share + (p == EVERYWHERE ? 0.0 : 0.02) && e.explained > 0.0) {
            found = e;
            best_place = p;
            memcpy(best, chosen, sums);
        }
    }
    double score = found.share - (best_place == EVERYWHERE ? 0.0 : 0.02);
    if (is_better(f, score, found.rest)) {
        fb_filter_keep(f, w, words);
        f->best.score = score;
        f->best.share = found.share;
        f->best.explained = found.explained;
        f->best.rest = found.rest;
        f->best.size = 1.0;
        f->best.error = 0.0;
        memcpy(f->best.rows, best, sums);
        if (w->found_there && best_place == EVERYWHERE)
            best_place = place_found(f);
        say_place(f, best_place, best, f->best.place, sizeof f->best.place);
        f->best.same[0] = '\0';
    } else if (score > f->best.score - 1e-3 && score > 0.5 && !f->best.same[0] &&
               strcmp(words, f->best.words) != 0 && is_same(f, w)) {
        snprintf(f->best.same, sizeof f->best.same, "%s", words);
    }
    return score;
}

double fb_filter_try(fb_filter *f, const fb_wrong *w, const char *words) {
    f->tested++;
    if (!sum_up(f, w))
        return 0.0;
    if (!f->fine)
        return try_gross(f, w, words);
    fb_filter_try_fine(f, w, words);
    return 0.0;
}

/* What the best mistake changes in an element of given tensors, which is number `from` of all. */
static double best_change(const fb_filter *f, size_t tensor, size_t at, size_t from) {
    const fb_trial_tensor *t = &f->trial->tensors[tensor];
    double change = f->best.wrong[from] - t->truth[at];
    bool in = f->best.rows[tensor * f->trial->rows + at / width_of(f->trial, t)];
    return in && t->usable[at] && isfinite(change) ? change : 0.0;
}

/* Takes it away from LSEs (or from outputs), times `factor`. */
static void subtract(fb_filter *f, bool lse, double factor) {
    size_t from = 0;
    for (size_t i = 0; i < f->trial->num_tensors; i++) {
        fb_trial_tensor *t = &f->trial->tensors[i];
        for (size_t at = 0; t->value && t->lse == lse && at < t->count; at++)
            t->error[at] -= factor * best_change(f, i, at, from + at);
        from += t->value ? t->count : 0;
    }
}

/* Its coefficient in the errors of LSEs (or of outputs). */
static double coefficient_in(const fb_filter *f, bool lse) {
    double ed = 0.0, dd = 0.0;
    size_t from = 0;
    for (size_t i = 0; i < f->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &f->trial->tensors[i];
        for (size_t at = 0; t->value && t->lse == lse && at < t->count; at++) {
            double d = best_change(f, i, at, from + at) / t->sigma[at];
            ed += d * t->error[at] / t->sigma[at];
            dd += d * d;
        }
        from += t->value ? t->count : 0;
    }
    return dd > 0.0 ? ed / dd : 1.0;
}

void fb_filter_subtract(fb_filter *f) {
    subtract(f, true, 1.0);
    subtract(f, false, 1.0);
}

static double sum_of_squares(const fb_trial *trial) {
    double sum = 0.0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        for (size_t at = 0; t->value && at < t->count; at++)
            sum += t->error[at] * t->error[at] / (t->sigma[at] * t->sigma[at]);
    }
    return sum;
}

/* Copies the errors of given tensors to `kept`, or back. */
static void keep_errors(const fb_trial *trial, double *kept, bool back) {
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (!t->value)
            continue;
        memcpy(back ? t->error : kept, back ? kept : t->error, t->count * sizeof *kept);
        kept += t->count;
    }
}

double fb_filter_excess_left(fb_filter *f, double *squares) {
    double before = sum_of_squares(f->trial);
    keep_errors(f->trial, f->clean, false);
    fb_filter_subtract(f);
    double excess = fb_test_sizes(f->trial).excess;
    *squares = sum_of_squares(f->trial) / (before + 1e-300);
    keep_errors(f->trial, f->clean, true);
    return excess;
}

void fb_filter_subtract_fitted(fb_filter *f) {
    for (size_t lse = 0; lse < 2; lse++)
        subtract(f, lse == 1, fmax(0.5, fmin(2.0, coefficient_in(f, lse == 1))));
}

void fb_filter_say(const fb_filter *f, char *words, size_t size) {
    if (f->best.same[0])
        snprintf(words, size, "%.270s%.100s (or, the same here: %.200s)", f->best.words,
                 f->best.place, f->best.same);
    else if (f->fine && fabs(f->best.size - 1.0) > 1e-12)
        snprintf(words, size, "%.360s%.150s (%.5g +- %.2g of it)", f->best.words, f->best.place,
                 f->best.size, f->best.error);
    else
        snprintf(words, size, "%s%s", f->best.words, f->best.place);
}

#include "oracle/stored_scores.h"

#include "oracle/exactness.h"

#include <math.h>

void fb_allow_eager(fb_trial *trial, bool allowed) {
    trial->eager = allowed;
    fb_trial_set_sigma(trial);
}

bool fb_shows_eager(const fb_filter *f) {
    for (size_t i = 0; i < f->trial->num_tensors; i++)
        if (f->trial->tensors[i].value && f->trial->tensors[i].lse)
            return fb_typical_ratio(f, true) > 0.05;
    return true;
}

/* Whether a row has one key, and its LSE is that key's score as it is stored in the type of the
 * inputs: nothing is wrong about that if scores are stored. */
static bool is_stored_score(const fb_trial *trial, const fb_trial_tensor *t, size_t row) {
    const fb_rounding stored = trial->arithmetic == FB_ARITHMETIC_F16    ? FB_ROUND_F16
                               : trial->arithmetic == FB_ARITHMETIC_TF32 ? FB_ROUND_TF32
                                                                         : FB_ROUND_BF16;
    float value = (float)t->value[row];
    return t->lse && t->internal == FB_NO_PART && fb_rounded(stored, value) == value &&
           fb_spread_of(&trial->parts[t->external], row) < 0x1p-24;
}

/* What the best mistake changes in an element, over sigma; `from`: the elements of tensors before.
 */
static double best_change(const fb_filter *f, size_t tensor, size_t at, size_t from) {
    const fb_trial_tensor *t = &f->trial->tensors[tensor];
    size_t row = t->lse ? at : at / f->trial->dim;
    double d = (f->best.wrong[from + at] - t->truth[at]) / t->sigma[at];
    bool there = f->best.rows[tensor * f->trial->rows + row] && t->usable[at];
    return there && isfinite(d) ? d : 0.0;
}

/* Whether the best mistake explains more than half of the errors. Stored scores err at random from
 * row to row and from key to key: no single mistake explains most of that. */
static bool explains_most(const fb_filter *f) {
    double before = 0.0, after = 0.0;
    size_t from = 0;
    for (size_t i = 0; i < f->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &f->trial->tensors[i];
        for (size_t at = 0; t->value && at < t->count; at++) {
            double e = t->error[at] / t->sigma[at], rest = e - best_change(f, i, at, from);
            bool stored = t->lse && is_stored_score(f->trial, t, at);
            before += stored ? 0.0 : e * e;
            after += stored ? 0.0 : rest * rest;
        }
        from += t->value ? t->count : 0;
    }
    return after < 0.5 * before;
}

/* Whether the noise of stored scores would not look like the best mistake, where it was found: in
 * each row all errors may have one cause. */
static bool told_from_eager(const fb_filter *f) {
    const fb_trial *trial = f->trial;
    double sum = 0.0, squares = 0.0; /* of the coefficient, and of its standard error */
    size_t from = 0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        size_t width = t->lse ? 1 : trial->dim, rows = t->value ? t->count / width : 0;
        for (size_t row = 0; row < rows; row++) {
            double together = 0.0;
            bool stored = is_stored_score(trial, t, row);
            for (size_t at = row * width; !stored && at < (row + 1) * width; at++) {
                double d = best_change(f, i, at, from);
                sum += d * d;
                together += fabs(d);
            }
            squares += together * together;
        }
        from += t->value ? t->count : 0;
    }
    return sum > fb_filter_threshold(f, 1000.0) * sqrt(squares);
}

bool fb_may_be_eager(fb_filter *f) {
    bool sized = f->best.sized, shown;
    if (!sized && explains_most(f))
        return false;
    if (sized)
        fb_filter_subtract(f);
    fb_allow_eager(f->trial, true);
    shown = sized ? fb_shows_eager(f) : !told_from_eager(f);
    fb_allow_eager(f->trial, false);
    if (sized)
        fb_trial_restore_errors(f->trial);
    return shown;
}

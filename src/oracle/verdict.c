#include "oracle/verdict.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/known.h"
#include "oracle/stages.h"
#include "oracle/statistics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What was found. */
typedef struct verdict {
    fb_trial *trial;
    fb_filter *filter;
    fb_wrong *wrong;
    bool passed;
    bool not_finite;
    bool named;    /* the filter's best says what is wrong */
    bool harmless; /* passed, with a mistake that changes nothing by more than its noise */
    bool complete; /* nothing is left to explain */
    fb_size_test size;
    bool said; /* words and second are final */
    char words[720];
    char second[1000];
    fb_stages stages; /* complete, with words: the results were judged in stages */
} verdict;

/* --- arithmetic and reading ------------------------------------------------------------------- */

static bool all_are(const fb_trial *trial, fb_rounding rounding) {
    for (size_t i = 0; i < trial->num_parts; i++) {
        const fb_attention_problem *p = &trial->parts[i].right;
        size_t count = p->batch * p->keys * p->kv_heads * p->head_dim;
        for (size_t j = 0; j < count; j++)
            if (fb_rounded(rounding, p->k[j]) != p->k[j] ||
                fb_rounded(rounding, p->v[j]) != p->v[j])
                return false;
    }
    return true;
}

/* What the kernel may compute in, the finest first: said, or found from what results and keys are
 * stored in. */
static size_t find_arithmetics(const fb_trial *trial, fb_arithmetic said, fb_arithmetic *list) {
    bool bf16 = false, f16 = false;
    if (said != FB_ARITHMETIC_AUTO) {
        list[0] = said;
        return 1;
    }
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        bf16 = bf16 || (t->value && t->stored == FB_BF16);
        f16 = f16 || (t->value && t->stored == FB_F16);
    }
    if (bf16 || f16) {
        list[0] = bf16 ? FB_ARITHMETIC_BF16 : FB_ARITHMETIC_F16;
        return 1;
    }
    list[0] = FB_ARITHMETIC_F32;
    if (all_are(trial, FB_ROUND_BF16)) {
        list[1] = FB_ARITHMETIC_BF16;
        return 2;
    }
    if (all_are(trial, FB_ROUND_F16)) {
        list[1] = FB_ARITHMETIC_F16;
        return 2;
    }
    list[1] = FB_ARITHMETIC_TF32X3;
    list[2] = FB_ARITHMETIC_TF32;
    return 3;
}

/* Takes from x what y explains of it. */
static void remove_direction(double *x, const double *y, size_t count) {
    double xy = 0.0, yy = 0.0;
    for (size_t i = 0; i < count; i++) {
        xy += x[i] * y[i];
        yy += y[i] * y[i];
    }
    for (size_t i = 0; yy > 0.0 && i < count; i++)
        x[i] -= xy / yy * y[i];
}

/* Errors of LSEs without what an offset, another scale and keys of zeros would explain of them:
 * mistakes must not decide how inputs are read. more: [3][count] */
static void remove_mistakes(const fb_trial *trial, const fb_trial_tensor *t, double *x,
                            double *more) {
    size_t rows = trial->rows;
    const fb_moments *m = &trial->parts[t->external].m;
    for (size_t row = 0; row < rows; row++) {
        double there = t->usable[row] ? 1.0 : 0.0;
        more[row] = there;
        more[rows + row] = there * m->ps[row];
        more[2 * rows + row] = there > 0.0 ? exp(-t->truth[row]) : 0.0;
    }
    for (size_t i = 0; i < 3; i++) {
        for (size_t j = 0; j < i; j++)
            remove_direction(more + i * rows, more + j * rows, rows);
        remove_direction(x, more + i * rows, rows);
    }
}

/* The sum over given tensors of the logarithm of the typical error; what LSEs and outputs count in
 * it. */
static double typical_error(const fb_trial *trial, double *scratch, double *weight) {
    double sum = 0.0;
    *weight = 0.0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        size_t count = 0;
        for (size_t at = 0; t->value && at < t->count; at++)
            if (fb_trial_counts(t, at) || t->lse)
                scratch[count++] = t->error[at] / t->sigma[at];
        if (t->value && t->lse && trial->rows >= 12)
            remove_mistakes(trial, t, scratch, scratch + count);
        double part = count == 0 ? 0.0 : t->lse ? 2.0 : 1.0;
        sum += count ? log(fb_median_magnitude(scratch, count) + 1e-3) * part : 0.0;
        *weight += part;
    }
    return sum;
}

/* Whether the LSEs fit as well as those of kernels that sum whole weights: another reading of the
 * queries would change them by more than that. */
static bool fits_well(const fb_trial *trial, double *scratch) {
    size_t count = 0, given = 0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        for (size_t at = 0; t->value && t->lse && at < t->count; at++, given++)
            if (t->usable[at])
                scratch[count++] = t->error[at] / t->sigma[at];
    }
    return given > 0 && count > given / 2 && fb_median_magnitude(scratch, count) < 0.1;
}

/* The reading that fits the first tokens clearly better than those before it. If none fits, there
 * is a mistake, and the first one is taken. Prepares the trial with it. LSEs say how keys are read,
 * not values. */
static fb_status find_reading(fb_trial *trial, fb_arithmetic arithmetic, double *scratch) {
    size_t count = 0;
    const fb_reading *readings = fb_arithmetic_readings(arithmetic, &count), *best = &readings[0];
    fb_trial *sample = NULL;
    double least = INFINITY, weight = 0.0;
    bool plain_tried = false;
    FB_TRY(fb_trial_prepare(trial, arithmetic, best));
    if (count == 1 || (arithmetic != FB_ARITHMETIC_TF32 && fits_well(trial, scratch)))
        return FB_OK;
    FB_TRY(fb_trial_sample(trial, trial->heads < 16 ? 4 : 1, &sample));
    fb_status status = FB_OK;
    for (size_t i = 0; i < count && status == FB_OK; i++) {
        bool same = !fb_trial_reading_matters(sample, &readings[i]); /* as the inputs are */
        if (same && plain_tried)
            continue;
        plain_tried = plain_tried || same;
        status = fb_trial_prepare(sample, arithmetic, &readings[i]);
        double typical = status == FB_OK ? typical_error(sample, scratch, &weight) : 0.0;
        if (typical < least - 0.7) {
            least = typical;
            best = &readings[i];
        }
    }
    fb_trial_free(sample);
    FB_TRY(status);
    if (least > weight * log(2.0))
        best = &readings[0];
    return best == &readings[0] ? FB_OK : fb_trial_prepare(trial, arithmetic, best);
}

/* Another reading that makes the trial pass the size test, if there is one. Where all rows have
 * nearly the same weights, rounded values change all rows alike: that looks like a mistake, and a
 * few rows do not tell the readings apart. Prepares the trial with it, or leaves it as it is. */
static fb_status find_passing(fb_trial *trial, fb_arithmetic arithmetic, fb_size_test *size) {
    size_t count = 0;
    const fb_reading *readings = fb_arithmetic_readings(arithmetic, &count);
    const fb_reading *before = trial->reading;
    bool plain_tried = !fb_trial_reading_matters(trial, before);
    fb_trial *sample = NULL;
    if (count == 1)
        return FB_OK;
    FB_TRY(fb_trial_sample(trial, trial->heads < 16 ? 4 : 1, &sample));
    sample->eager = trial->eager;
    fb_status status = FB_OK;
    for (size_t i = 0; i < count && status == FB_OK && !size->passed; i++) {
        bool same = !fb_trial_reading_matters(trial, &readings[i]);
        if (&readings[i] == before || (same && plain_tried))
            continue;
        plain_tried = plain_tried || same;
        status = fb_trial_prepare(sample, arithmetic, &readings[i]);
        if (status != FB_OK || !fb_test_sizes(sample).passed)
            continue;
        status = fb_trial_prepare(trial, arithmetic, &readings[i]);
        fb_size_test other = fb_test_sizes(trial);
        if (status == FB_OK && other.passed)
            *size = other;
    }
    fb_trial_free(sample);
    FB_TRY(status);
    return size->passed || trial->reading == before ? FB_OK
                                                    : fb_trial_prepare(trial, arithmetic, before);
}

/* --- tests ------------------------------------------------------------------------------------ */

static fb_status try_cheap(fb_filter *filter, fb_wrong *wrong) {
    static fb_try_known_fn *const tries[] = {fb_try_results, fb_try_lanes, fb_try_lses,
                                             fb_try_merges,  fb_try_reuse, fb_try_block,
                                             fb_try_ends,    fb_try_sizes};
    wrong->cheap = true;
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++)
        FB_TRY(tries[i](filter, wrong));
    return FB_OK;
}

static void restore_errors(fb_trial *trial) {
    for (size_t i = 0; i < trial->num_tensors; i++) {
        fb_trial_tensor *t = &trial->tensors[i];
        for (size_t at = 0; t->value && at < t->count; at++)
            t->error[at] = t->usable[at] ? t->value[at] - t->truth[at] : 0.0;
    }
}

static fb_status begin(verdict *v) {
    if (v->filter)
        return FB_OK;
    FB_TRY(fb_filter_create(v->trial, &v->filter));
    return fb_wrong_create(v->trial, &v->wrong);
}

/* The best mistake explains enough to be named: most of each tensor's error. */
static bool best_is_named(const fb_filter *f) {
    return f->best.found && f->best.share > 0.6;
}

static bool is_named(const verdict *v) {
    return best_is_named(v->filter);
}

/* The noise of a wrong result is not that of the right one, so it may be three times as large. */
static const double most_noise = 3.0;

/* Whether what the best mistake leaves is about as small as honest noise. What is left of a large
 * mistake may be the noise of its own arithmetic, or another one: explain_rest. */
static bool best_leaves_noise(fb_filter *f) {
    double squares, excess = fb_filter_excess_left(f, &squares);
    return excess < most_noise || squares < 1e-4 || (excess < 10.0 && squares < 1e-3);
}

static bool leaves_noise(verdict *v) {
    return best_leaves_noise(v->filter);
}

/* What takes long, until the errors are explained. */
static fb_status try_dear(fb_filter *filter, fb_wrong *wrong) {
    static fb_try_known_fn *const tries[] = {
        fb_try_reuse, fb_try_lane_order, fb_try_scales,  fb_try_heads,  fb_try_keys,
        fb_try_pages, fb_try_half_heads, fb_try_softmax, fb_try_inputs, fb_try_noise,
    };
    wrong->cheap = false;
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++) {
        FB_TRY(tries[i](filter, wrong));
        if (best_is_named(filter) && best_leaves_noise(filter))
            break;
    }
    return FB_OK;
}

/* Everything, of one stage. */
static fb_status search(fb_filter *filter, fb_wrong *wrong, bool *named, bool *complete) {
    FB_TRY(try_cheap(filter, wrong));
    *named = best_is_named(filter);
    *complete = *named && best_leaves_noise(filter);
    if (*complete)
        return FB_OK;
    FB_TRY(try_dear(filter, wrong));
    *named = best_is_named(filter);
    *complete = *named && best_leaves_noise(filter);
    return FB_OK;
}

/* The size test with the tests that are finer than it. */
static fb_status judge_fine(verdict *v) {
    fb_filter_begin(v->filter, true);
    FB_TRY(try_cheap(v->filter, v->wrong));
    v->passed = !v->filter->best.found;
    v->named = v->complete = v->filter->best.found;
    return FB_OK;
}

/* The typical error of LSEs, or of outputs, over its noise; 0 if there are none. */
static double typical_ratio(const verdict *v, bool lse) {
    const fb_trial *trial = v->trial;
    double *ratios = v->filter->scratch;
    size_t count = 0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        for (size_t at = 0; t->value && t->lse == lse && at < t->count; at++)
            if (fb_trial_counts(t, at))
                ratios[count++] = t->error[at] / t->sigma[at];
    }
    return fb_median_magnitude(ratios, count);
}

/* The weight of all keys but the largest one in a part. */
static double spread_of(const fb_trial_part *part, size_t row) {
    return part->m.lse[row] == -(double)INFINITY ? 0.0
                                                 : 1.0 - exp(part->m.max[row] - part->m.lse[row]);
}

/* Whether rounded weights show in an output: if one key has all the weight, they do not. */
static bool shows_weights(const fb_trial *trial, const fb_trial_tensor *t, size_t at) {
    size_t row = at / trial->dim;
    double w = t->weight[row], spread = w * spread_of(&trial->parts[t->external], row);
    if (t->internal != FB_NO_PART)
        spread += (1.0 - w) * spread_of(&trial->parts[t->internal], row);
    return fb_trial_counts(t, at) && spread > 0.05;
}

/* The typical error over its noise of outputs in which rounded weights show; infinite if there are
 * none. */
static double weighed_ratio(const verdict *v) {
    const fb_trial *trial = v->trial;
    double *ratios = v->filter->scratch;
    size_t count = 0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        for (size_t at = 0; t->value && !t->lse && at < t->count; at++)
            if (shows_weights(trial, t, at))
                ratios[count++] = t->error[at] / t->sigma[at];
    }
    return count ? fb_median_magnitude(ratios, count) : (double)INFINITY;
}

static bool has_outputs(const fb_trial *trial) {
    for (size_t i = 0; i < trial->num_tensors; i++)
        if (trial->tensors[i].value && !trial->tensors[i].lse)
            return true;
    return false;
}

/* Whether the LSEs are as exact as float32 in those rows in which they would not be if queries and
 * keys were rounded to tf32: a score changes by some 2^-12 of its size then, at random from key to
 * key. Row by row, since rows of few keys and rows of many differ: in some it would show, in others
 * not. A tf32 kernel's rows come near the truth by chance, each with a known probability. */
static bool exact_as_float32(const verdict *v) {
    const fb_trial *trial = v->trial;
    const double near = 2.0, far = 8.0; /* in units of float32's noise */
    double rows = 0.0, exact = 0.0, by_chance = 0.0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        const fb_moments *m = &trial->parts[t->external].m;
        for (size_t row = 0; t->value && t->lse && row < t->count; row++) {
            double tf32 = 0x1p-12 * m->score_size[row] / sqrt((double)trial->dim) *
                          sqrt(m->p2[row]) * t->weight[row] / t->sigma[row];
            if (!t->usable[row] || tf32 <= far)
                continue;
            rows++;
            exact += fabs(t->error[row]) <= near * t->sigma[row];
            by_chance += erf(near / (sqrt(2.0) * tf32));
        }
    }
    return 2.0 * exact > rows && fb_tail_bound(rows, exact, by_chance) < FB_FALSE_ALARM;
}

/* Whether scores may be stored in a lower type. */
static void allow_eager(fb_trial *trial, bool allowed) {
    trial->eager = allowed;
    fb_trial_set_sigma(trial);
}

/* Scores that are stored in a lower type change the LSEs, too: LSEs that are far more exact are of
 * a kernel that does not store them. */
static bool shows_eager(const verdict *v) {
    for (size_t i = 0; i < v->trial->num_tensors; i++)
        if (v->trial->tensors[i].value && v->trial->tensors[i].lse)
            return typical_ratio(v, true) > 0.05;
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
           spread_of(&trial->parts[t->external], row) < 0x1p-24;
}

/* What the best mistake changes in an element, over sigma; `from`: the elements of tensors before.
 */
static double best_change(const verdict *v, size_t tensor, size_t at, size_t from) {
    const fb_trial_tensor *t = &v->trial->tensors[tensor];
    size_t row = t->lse ? at : at / v->trial->dim;
    double d = (v->filter->best.wrong[from + at] - t->truth[at]) / t->sigma[at];
    bool there = v->filter->best.rows[tensor * v->trial->rows + row] && t->usable[at];
    return there && isfinite(d) ? d : 0.0;
}

/* Whether the best mistake explains more than half of the errors. Stored scores err at random from
 * row to row and from key to key: no single mistake explains most of that. */
static bool explains_most(const verdict *v) {
    double before = 0.0, after = 0.0;
    size_t from = 0;
    for (size_t i = 0; i < v->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &v->trial->tensors[i];
        for (size_t at = 0; t->value && at < t->count; at++) {
            double e = t->error[at] / t->sigma[at], rest = e - best_change(v, i, at, from);
            bool stored = t->lse && is_stored_score(v->trial, t, at);
            before += stored ? 0.0 : e * e;
            after += stored ? 0.0 : rest * rest;
        }
        from += t->value ? t->count : 0;
    }
    return after < 0.5 * before;
}

/* Whether the noise of stored scores would not look like the best mistake, where it was found: in
 * each row all errors may have one cause. */
static bool told_from_eager(const verdict *v) {
    const fb_trial *trial = v->trial;
    double sum = 0.0, squares = 0.0; /* of the coefficient, and of its standard error */
    size_t from = 0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        size_t width = t->lse ? 1 : trial->dim, rows = t->value ? t->count / width : 0;
        for (size_t row = 0; row < rows; row++) {
            double together = 0.0;
            bool stored = is_stored_score(trial, t, row);
            for (size_t at = row * width; !stored && at < (row + 1) * width; at++) {
                double d = best_change(v, i, at, from);
                sum += d * d;
                together += fabs(d);
            }
            squares += together * together;
        }
        from += t->value ? t->count : 0;
    }
    return sum > fb_filter_threshold(v->filter, 1000.0) * sqrt(squares);
}

/* Whether scores that are stored in a lower type may be what was found. They look like a small
 * factor or offset, if the rest is as large as their noise; and like a mistake in a few rows, if
 * their noise would hide it there. */
static bool may_be_eager(verdict *v) {
    bool sized = v->filter->best.sized, shown;
    if (!sized && explains_most(v))
        return false;
    if (sized)
        fb_filter_subtract(v->filter);
    allow_eager(v->trial, true);
    shown = sized ? shows_eager(v) : !told_from_eager(v);
    allow_eager(v->trial, false);
    if (sized)
        restore_errors(v->trial);
    return shown;
}

/* A small mistake that was found may be another reading of the inputs, if that fits as well:
 * queries that are rounded after the scale look like another scale. */
static fb_status pass_otherwise(verdict *v) {
    fb_trial *trial = v->trial;
    size_t count = 0;
    const fb_reading *readings = fb_arithmetic_readings(trial->arithmetic, &count);
    const fb_reading *before = trial->reading;
    double *scratch = v->filter->scratch, weight, typical = typical_error(trial, scratch, &weight);
    for (size_t i = 0; i < count && count > 1; i++) {
        if (&readings[i] == before)
            continue;
        FB_TRY(fb_trial_prepare(trial, trial->arithmetic, &readings[i]));
        fb_size_test size = fb_test_sizes(trial);
        if (!size.passed || typical_error(trial, scratch, &weight) > typical + 0.1 * weight)
            continue;
        FB_TRY(judge_fine(v));
        if (v->passed) {
            v->size = size;
            return FB_OK;
        }
    }
    if (trial->reading != before)
        FB_TRY(fb_trial_prepare(trial, trial->arithmetic, before));
    return judge_fine(v);
}

/* Whether errors that scores in a lower type would explain are those of a key that is lost, or read
 * twice. Stored scores err at random from row to row and from key to key: no single key explains
 * most of that. */
static fb_status find_keys(verdict *v, bool *found) {
    FB_TRY(fb_keys_explain(v->trial, found));
    if (!*found)
        return FB_OK;
    v->wrong->cheap = false;
    FB_TRY(fb_try_keys(v->filter, v->wrong));
    v->named = is_named(v);
    v->complete = v->named && leaves_noise(v);
    *found = v->complete;
    return FB_OK;
}

/* A candidate that fails the size test, without what takes long: sets named and complete, and
 * passed if its errors are those of scores that are stored in a lower type. */
static fb_status judge_large(verdict *v) {
    fb_trial *trial = v->trial;
    bool keys = false;
    fb_filter_begin(v->filter, false);
    FB_TRY(try_cheap(v->filter, v->wrong));
    v->named = is_named(v);
    v->complete = v->named && leaves_noise(v);
    if ((v->complete && !may_be_eager(v)) || trial->arithmetic == FB_ARITHMETIC_F32 ||
        trial->arithmetic == FB_ARITHMETIC_TF32X3)
        return FB_OK;
    allow_eager(trial, true);
    fb_size_test eager = fb_test_sizes(trial);
    bool passed = eager.passed && shows_eager(v);
    allow_eager(trial, false);
    if (passed && !v->complete)
        FB_TRY(find_keys(v, &keys));
    if (!passed || keys)
        return FB_OK;
    v->size = eager;
    allow_eager(trial, true);
    return judge_fine(v);
}

/* The same with another reading, if one passes the size test with scores that are stored: their
 * noise hides which reading fits best as long as it is not allowed for. */
static fb_status judge_eager_otherwise(verdict *v) {
    fb_trial *trial = v->trial;
    const fb_reading *before = trial->reading;
    fb_size_test eager = v->size;
    allow_eager(trial, true);
    fb_status status = find_passing(trial, trial->arithmetic, &eager);
    allow_eager(trial, false);
    if (status != FB_OK || trial->reading == before)
        return status;
    v->size = fb_test_sizes(trial);
    return judge_large(v);
}

/* One arithmetic, without what takes long: sets passed, named and complete. */
static fb_status judge_as(verdict *v, fb_arithmetic arithmetic) {
    v->passed = v->named = v->complete = false;
    v->trial->eager = false;
    FB_TRY(begin(v));
    FB_TRY(find_reading(v->trial, arithmetic, v->filter->scratch));
    v->size = fb_test_sizes(v->trial);
    if (!v->size.passed)
        FB_TRY(find_passing(v->trial, arithmetic, &v->size));
    if (v->size.passed) {
        FB_TRY(judge_fine(v));
        return v->passed ? FB_OK : pass_otherwise(v);
    }
    FB_TRY(judge_large(v));
    return v->trial->eager || v->complete ? FB_OK : judge_eager_otherwise(v);
}

/* The first arithmetic in which the candidate is right. If a mistake explained everything in a
 * finer one, and changed a few elements only or all by little, it is that mistake: it is not the
 * noise of a coarser one. LSEs that are as exact as float32 are not those of a tf32 kernel.
 * Outputs that are, but for a few, as exact as the first arithmetic are not those of one whose
 * noise is far larger (that of tf32x3 is not: half of single values are exact in it). If the
 * candidate is wrong in all: the first in which a mistake explains everything, or the first. */
static fb_status judge_all(verdict *v, const fb_arithmetic *list, size_t count) {
    size_t best = count, last = 0, named = 0;
    double share = 0.0;
    bool exact = false, exact_outputs = false, shown = true; /* rounded weights show */
    for (size_t i = 0; i < count; i++) {
        if (list[i] == FB_ARITHMETIC_TF32 && (exact || (best < count && shown)))
            continue;
        FB_TRY(judge_as(v, list[i]));
        last = i;
        bool close = i > 0 && list[i] == FB_ARITHMETIC_TF32X3;
        if (exact_outputs && i > 0 && !close && weighed_ratio(v) < 0.02)
            v->passed = false;
        if (v->passed && (best == count || close || !shown))
            return FB_OK;
        if (i == 0) {
            shown = !has_outputs(v->trial) || isfinite(weighed_ratio(v));
            exact_outputs = weighed_ratio(v) <= 2.0;
            exact = count > 1 && exact_as_float32(v);
        }
        if (v->named && v->filter->best.share > share) {
            share = v->filter->best.share;
            named = i;
        }
        if (v->complete && !v->passed && best == count)
            best = i;
    }
    v->passed = false;
    best = best < count ? best : named;
    return best != last ? judge_as(v, list[best]) : FB_OK;
}

/* What is said of a candidate that is right in a coarser arithmetic. */
static const char *const coarser_words[] = {
    [FB_ARITHMETIC_BF16] = "the errors are the noise of a kernel that computes in bf16: inputs or "
                           "weights are rounded to it (precision bf16, if that is meant)",
    [FB_ARITHMETIC_F16] = "the errors are the noise of a kernel that computes in f16: inputs or "
                          "weights are rounded to it (precision f16, if that is meant)",
    [FB_ARITHMETIC_FP8] = "the errors are the noise of weights that are rounded to fp8 (e4m3) "
                          "before the second product (precision fp8, if that is meant)",
};

/* Errors that nothing explains may be the noise of an arithmetic that is coarser than what the
 * results are stored in. They have to fill it: smaller ones are no roundings of that type. */
static fb_status explain_as_coarser(verdict *v) {
    static const fb_arithmetic coarser[] = {FB_ARITHMETIC_F16, FB_ARITHMETIC_BF16,
                                            FB_ARITHMETIC_FP8};
    fb_arithmetic own = v->trial->arithmetic;
    fb_size_test size = v->size;
    bool narrow = own == FB_ARITHMETIC_BF16 || own == FB_ARITHMETIC_F16;
    if (!has_outputs(v->trial) || own == FB_ARITHMETIC_FP8)
        return FB_OK;
    for (size_t i = narrow ? 2 : 0; i < sizeof coarser / sizeof coarser[0] && !v->words[0]; i++) {
        FB_TRY(judge_as(v, coarser[i]));
        if (v->passed && !v->trial->eager && typical_ratio(v, false) > 0.25)
            snprintf(v->words, sizeof v->words, "%s", coarser_words[coarser[i]]);
    }
    FB_TRY(judge_as(v, own));
    v->size = size;
    v->passed = false;
    v->named = v->complete = v->said = v->words[0] != '\0';
    return FB_OK;
}

/* A wrong result that the cheap ones do not explain. */
static fb_status explain(verdict *v) {
    FB_TRY(try_dear(v->filter, v->wrong));
    v->named = is_named(v);
    v->complete = v->named && leaves_noise(v);
    return FB_OK;
}

/* Adds sign x truth to what the best mistake gives. */
static void add_truth(fb_filter *f, double sign) {
    double *wrong = f->best.wrong;
    for (size_t i = 0; i < f->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &f->trial->tensors[i];
        for (size_t at = 0; t->value && at < t->count; at++)
            *wrong++ += sign * t->truth[at];
    }
}

/* A mistake may hide how the inputs are read: what it leaves may be noise if they are read in
 * another way. What the mistake changes is nearly the same then. */
static fb_status complete_otherwise(verdict *v) {
    fb_trial *trial = v->trial;
    size_t count = 0;
    const fb_reading *readings = fb_arithmetic_readings(trial->arithmetic, &count);
    const fb_reading *before = trial->reading;
    fb_status status = FB_OK;
    if (v->passed || !v->named || v->complete || count == 1)
        return FB_OK;
    add_truth(v->filter, -1.0);
    for (size_t i = 0; i < count && !v->complete && status == FB_OK; i++) {
        if (&readings[i] == before)
            continue;
        status = fb_trial_prepare(trial, trial->arithmetic, &readings[i]);
        add_truth(v->filter, 1.0);
        v->complete = status == FB_OK && leaves_noise(v);
        add_truth(v->filter, -1.0);
    }
    if (status == FB_OK)
        status = fb_trial_prepare(trial, trial->arithmetic, before);
    add_truth(v->filter, 1.0);
    return status;
}

/* The words of all stages, the same ones once: the first ones, and the others. Returns how many. */
static size_t say_stages(verdict *v) {
    size_t count = 0, used = 0;
    char first[sizeof v->words] = "", others[sizeof v->second] = "";
    for (size_t i = 0; i < FB_NUM_STAGES; i++) {
        const char *words = v->stages.words[i];
        bool again = !words[0];
        for (size_t j = 0; j < i; j++)
            again = again || strcmp(v->stages.names[i], v->stages.names[j]) == 0;
        if (again)
            continue;
        if (count++ == 0)
            snprintf(first, sizeof first, "%s", words);
        else if (used < sizeof others)
            used += (size_t)snprintf(others + used, sizeof others - used, "; and then %s", words);
    }
    if (count == 0 || count > 3)
        return 0;
    snprintf(v->words, sizeof v->words, "%s", first);
    snprintf(v->second, sizeof v->second, "%s", others);
    return count;
}

/* Mistakes in different results, if one does not explain all of them. */
static fb_status explain_in_stages(verdict *v) {
    FB_TRY(fb_judge_stages(v->trial, search, &v->stages));
    v->stages.complete = v->stages.complete && say_stages(v) > 0;
    v->said = v->stages.complete;
    v->named = v->named || v->stages.complete;
    v->complete = v->complete || v->stages.complete;
    return FB_OK;
}

/* What is left after the first mistake may be a second one. Where the first explained nearly
 * everything, the second has to leave noise: as large as it is, or as the first one makes it. */
static fb_status explain_rest(verdict *v) {
    fb_filter *f = v->filter;
    double squares;
    if (v->said)
        return FB_OK;
    fb_filter_say(f, v->words, sizeof v->words);
    if (v->complete && f->fine)
        return FB_OK;
    bool sized = f->best.sized;
    double left = fb_filter_excess_left(f, &squares);
    if (v->complete && left <= 1.0)
        return FB_OK;
    fb_filter_subtract(f);
    fb_filter_begin(f, false);
    FB_TRY(try_cheap(f, v->wrong));
    bool second = f->best.found && f->best.share > (v->complete ? 0.6 : 0.8);
    if (second && v->complete) {
        fb_filter_subtract_fitted(f);
        /* what a size that was found leaves of itself is no second mistake */
        second = !(sized && f->best.sized) &&
                 fb_test_sizes(v->trial).excess < fmin(most_noise, 0.5 * left);
    }
    if (second) {
        char words[sizeof v->words];
        fb_filter_say(f, words, sizeof words);
        snprintf(v->second, sizeof v->second, "; and then %.480s", words);
    }
    restore_errors(v->trial);
    return FB_OK;
}

/* --- findings --------------------------------------------------------------------------------- */

/* Values and truth in the order of the file. */
static size_t file_index(const fb_trial *trial, const fb_trial_tensor *t, size_t at) {
    size_t entry = trial->tokens * trial->heads, in = at % entry;
    return t->by_head ? at / entry * entry + in % trial->heads * trial->tokens + in / trial->heads
                      : at;
}

static fb_status measure(const fb_trial *trial, const fb_trial_tensor *t, fb_finding *finding) {
    float *values = NULL;
    double *truth = NULL;
    FB_TRY(fb_alloc(t->count, sizeof *values, "finding", &values));
    fb_status status = fb_alloc(t->count, sizeof *truth, "finding", &truth);
    for (size_t at = 0; at < t->count && status == FB_OK; at++) {
        values[file_index(trial, t, at)] = (float)t->value[at];
        truth[file_index(trial, t, at)] = t->truth[at];
    }
    if (status == FB_OK)
        finding->errors = fb_errors_measure(values, truth, t->count);
    size_t worst = finding->errors.worst, square = 0;
    double sum = 0.0, z = fb_normal_quantile(FB_FALSE_ALARM / (6.0 * (double)(t->count + 1)));
    for (size_t at = 0; at < t->count && status == FB_OK; at++) {
        sum += t->sigma[at] * t->sigma[at];
        square++;
        if (file_index(trial, t, at) == worst)
            finding->bound = z * t->sigma[at];
    }
    if (worst < t->count && status == FB_OK) {
        finding->value = (double)values[worst];
        finding->truth = truth[worst];
    }
    finding->plain_error = square ? sqrt(sum / (double)square) : 0.0;
    fb_free(values);
    fb_free(truth);
    return status;
}

/* Whether the best mistake changes this tensor by more than its noise. */
static bool is_touched(const verdict *v, size_t tensor) {
    const fb_trial *trial = v->trial;
    size_t from = 0;
    for (size_t i = 0; i < tensor; i++)
        from += trial->tensors[i].value ? trial->tensors[i].count : 0;
    const fb_trial_tensor *t = &trial->tensors[tensor];
    double scale = v->filter->scale[tensor] > 0.0 ? v->filter->scale[tensor] : 1.0, sum = 0.0;
    size_t width = t->lse ? 1 : trial->dim;
    for (size_t at = 0; at < t->count; at++) {
        double d = (v->filter->best.wrong[from + at] - t->truth[at]) / (t->sigma[at] * scale);
        if (v->filter->best.rows[tensor * trial->rows + at / width] && t->usable[at])
            sum += d * d;
    }
    return sum > 25.0;
}

/* A small mistake that changes no result by more than its noise does not fail a candidate. */
static void excuse(verdict *v) {
    bool small = !v->passed && v->named && !v->said && !v->not_finite && v->filter->fine;
    for (size_t i = 0; i < v->trial->num_tensors && small; i++)
        small = !v->trial->tensors[i].value || !is_touched(v, i);
    v->harmless = small;
    v->passed = v->passed || small;
}

static void confirm_lse(const fb_trial_tensor *t, char *note, size_t size) {
    snprintf(note, size, "base e, %s", t->by_head ? "[heads, rows]" : "[rows, heads]");
}

/* One element in detail, for people. */
static void detail_of(const fb_trial *trial, const fb_trial_tensor *t, fb_finding *finding) {
    size_t worst = finding->errors.worst, at = 0;
    while (at + 1 < t->count && file_index(trial, t, at) != worst)
        at++;
    size_t row = t->lse ? at : at / trial->dim, head = row % trial->heads;
    const fb_trial_part *a = &trial->parts[t->external];
    size_t group = a->right.heads / a->right.kv_heads, token = row / trial->heads;
    int used =
        snprintf(finding->detail, sizeof finding->detail,
                 "token %zu, head %zu, KV head %zu: %zu keys, maximum %.9g, LSE %.9g; an "
                 "honest error is about %.3g",
                 token, head, head / group,
                 fb_attention_problem_seen(&a->right, token / trial->tokens, token % trial->tokens),
                 a->m.max[row], a->m.lse[row], t->sigma[at]);
    if (t->internal == FB_NO_PART || used < 0 || (size_t)used >= sizeof finding->detail)
        return;
    const fb_trial_part *b = &trial->parts[t->internal];
    snprintf(finding->detail + used, sizeof finding->detail - (size_t)used,
             "; weight of the external part %.9g; internal part: %zu keys, maximum %.9g, LSE %.9g",
             t->weight[row], b->right.keys, b->m.max[row], b->m.lse[row]);
}

/* Of the tensor's own stage, or of the last one before that says something. */
static const char *stage_words(const verdict *v, const fb_trial_tensor *t) {
    for (size_t i = fb_stage_of(t) + 1; i-- > 0;)
        if (v->stages.words[i][0])
            return v->stages.words[i];
    return v->words;
}

static fb_status add_finding(fb_report *report, const verdict *v, size_t tensor) {
    const fb_trial_tensor *t = &v->trial->tensors[tensor];
    fb_finding finding = {.shape = t->shape, .of_candidate = true, .precision = t->stored};
    snprintf(finding.tensor, sizeof finding.tensor, "%s", t->name);
    if (t->wrong_size) {
        fb_finding_other_size(&finding, t->view->count, t->count);
        return fb_report_add(report, &finding);
    }
    fb_size_test worst = {.passed = true};
    char words[400];
    FB_TRY(measure(v->trial, t, &finding));
    fb_test_size(v->trial, tensor, &finding.ratio, &worst);
    size_t bad = fb_trial_not_finite(v->trial, tensor, words, sizeof words);
    if (report->verbose && finding.errors.worst < t->count)
        detail_of(v->trial, t, &finding);
    if (bad)
        finding.ratio = INFINITY;
    bool touched = !v->passed && v->named && !v->said && is_touched(v, tensor);
    finding.passed = bad == 0 && worst.passed && !(v->filter->fine && touched);
    if (bad)
        snprintf(finding.note, sizeof finding.note, "%.400s%s", words,
                 v->named || worst.passed ? "" : "; no known mistake explains the others");
    else if (finding.passed && t->lse)
        confirm_lse(t, finding.note, sizeof finding.note);
    else if (!finding.passed && v->stages.complete)
        snprintf(finding.note, sizeof finding.note, "%.500s", stage_words(v, t));
    else if (!finding.passed && v->named)
        snprintf(finding.note, sizeof finding.note, "%.500s", v->words);
    else if (!finding.passed)
        snprintf(finding.note, sizeof finding.note, "no known mistake explains the difference");
    return fb_report_add(report, &finding);
}

/* "" if the inputs are such numbers anyway. */
static const char *said_reading(fb_trial *trial) {
    return fb_trial_reading_matters(trial, trial->reading) ? trial->reading->words : "";
}

/* The first tensor that is not finite where it should be; false: none. */
static bool find_not_finite(const fb_trial *trial, size_t *tensor, char *words, size_t size) {
    for (*tensor = 0; *tensor < trial->num_tensors; ++*tensor)
        if (fb_trial_not_finite(trial, *tensor, words, size))
            return true;
    return false;
}

/* Of a verdict that is named. */
static void say_named(const verdict *v, char *words, size_t size) {
    snprintf(words, size, "%.600s%.300s%s", v->words, v->second,
             v->complete || v->second[0] ? "" : "; not all is explained");
}

/* The verdict in one line. */
static void say(fb_report *report, const verdict *v) {
    fb_trial *trial = v->trial;
    char words[400];
    size_t tensor;
    if (v->not_finite && find_not_finite(trial, &tensor, words, sizeof words))
        snprintf(report->reason, sizeof report->reason, "%s: %.400s", trial->tensors[tensor].name,
                 words);
    else if (v->passed)
        snprintf(report->reason, sizeof report->reason, "within the noise of %s%s%.99s%s%s%.400s",
                 fb_arithmetic_name(trial->arithmetic), said_reading(trial)[0] ? ", " : "",
                 said_reading(trial), trial->eager ? ", scores stored in that type" : "",
                 v->harmless ? "; a small mistake may be there, but it changes no result by more "
                               "than its noise: "
                             : "",
                 v->harmless ? v->words : "");
    else if (v->named)
        say_named(v, report->reason, sizeof report->reason);
    else
        snprintf(
            report->reason, sizeof report->reason,
            "no known mistake explains the difference; most of it is in %s, %s: %.3g times the "
            "noise of %s",
            trial->tensors[v->size.tensor].name, v->size.where, v->size.rms,
            fb_arithmetic_name(trial->arithmetic));
}

static fb_status judge(verdict *v, fb_arithmetic said) {
    fb_arithmetic list[4];
    char words[400];
    size_t count = find_arithmetics(v->trial, said, list), tensor;
    FB_TRY(judge_all(v, list, count));
    if (!v->passed && !v->complete) {
        FB_TRY(explain(v));
        FB_TRY(complete_otherwise(v));
    }
    if (!v->passed && !v->named && v->size.excess < 1e6)
        FB_TRY(explain_as_coarser(v));
    if (!v->passed && !v->complete)
        FB_TRY(explain_in_stages(v));
    v->not_finite = find_not_finite(v->trial, &tensor, words, sizeof words);
    if (v->not_finite)
        v->passed = false;
    if (!v->passed && v->named)
        FB_TRY(explain_rest(v));
    return FB_OK;
}

fb_status fb_report_trial(fb_report *report, fb_trial *trial) {
    verdict v = {.trial = trial};
    size_t judged = 0;
    trial->truths = report->truths;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        judged += trial->tensors[i].value != NULL;
        if (!trial->tensors[i].view && trial->tensors[i].required)
            FB_TRY(fb_report_missing(report, trial->tensors[i].name));
    }
    if (judged)
        FB_TRY(judge(&v, fb_candidate_arithmetic(report->candidate)));
    if (judged)
        excuse(&v);
    for (size_t i = 0; i < trial->num_tensors; i++)
        if (trial->tensors[i].view)
            FB_TRY(add_finding(report, &v, i));
    if (judged)
        say(report, &v);
    return FB_OK;
}

fb_status fb_trial_name(fb_trial *trial, fb_arithmetic said, char *words, size_t size) {
    verdict v = {.trial = trial};
    size_t tensor;
    words[0] = '\0';
    FB_TRY(judge(&v, said));
    if (!find_not_finite(trial, &tensor, words, size) && !v.passed && v.named)
        say_named(&v, words, size);
    return FB_OK;
}

#include "oracle/judging.h"

#include "oracle/exactness.h"
#include "oracle/known.h"
#include "oracle/reading.h"
#include "oracle/search.h"
#include "oracle/stored_scores.h"
#include "oracle/verdict.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static fb_status begin(fb_judging *v) {
    if (v->filter)
        return FB_OK;
    FB_TRY(fb_filter_create(v->trial, &v->filter));
    return fb_wrong_create(v->trial, &v->wrong);
}

static bool is_named(const fb_judging *v) {
    return fb_best_is_named(v->filter);
}

static bool leaves_noise(fb_judging *v) {
    return fb_best_leaves_noise(v->filter);
}

/* The size test with the tests that are finer than it. */
static fb_status judge_fine(fb_judging *v) {
    fb_filter_begin(v->filter, true);
    FB_TRY(fb_try_cheap(v->filter, v->wrong));
    v->passed = !v->filter->best.found;
    v->named = v->complete = v->filter->best.found;
    return FB_OK;
}

/* A small mistake that was found may be another reading of the inputs, if that fits as well:
 * queries that are rounded after the scale look like another scale. */
static fb_status pass_otherwise(fb_judging *v) {
    fb_trial *trial = v->trial;
    size_t count = 0;
    const fb_reading *readings = fb_arithmetic_readings(trial->arithmetic, &count);
    const fb_reading *before = trial->reading;
    double *scratch = v->filter->scratch, weight,
           typical = fb_typical_error(trial, scratch, &weight);
    for (size_t i = 0; i < count && count > 1; i++) {
        if (&readings[i] == before)
            continue;
        FB_TRY(fb_trial_prepare(trial, trial->arithmetic, &readings[i]));
        fb_size_test size = fb_test_sizes(trial);
        if (!size.passed || fb_typical_error(trial, scratch, &weight) > typical + 0.1 * weight)
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
static fb_status find_keys(fb_judging *v, bool *found) {
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
static fb_status judge_large(fb_judging *v) {
    fb_trial *trial = v->trial;
    bool keys = false;
    fb_filter_begin(v->filter, false);
    FB_TRY(fb_try_cheap(v->filter, v->wrong));
    v->named = is_named(v);
    v->complete = v->named && leaves_noise(v);
    if ((v->complete && !fb_may_be_eager(v->filter)) || trial->arithmetic == FB_ARITHMETIC_F32 ||
        trial->arithmetic == FB_ARITHMETIC_TF32X3)
        return FB_OK;
    fb_allow_eager(trial, true);
    fb_size_test eager = fb_test_sizes(trial);
    bool passed = eager.passed && fb_shows_eager(v->filter);
    fb_allow_eager(trial, false);
    if (passed && !v->complete)
        FB_TRY(find_keys(v, &keys));
    if (!passed || keys)
        return FB_OK;
    v->size = eager;
    fb_allow_eager(trial, true);
    return judge_fine(v);
}

/* The same with another reading, if one passes the size test with scores that are stored: their
 * noise hides which reading fits best as long as it is not allowed for. */
static fb_status judge_eager_otherwise(fb_judging *v) {
    fb_trial *trial = v->trial;
    const fb_reading *before = trial->reading;
    fb_size_test eager = v->size;
    fb_allow_eager(trial, true);
    fb_status status = fb_find_passing(trial, trial->arithmetic, &eager);
    fb_allow_eager(trial, false);
    if (status != FB_OK || trial->reading == before)
        return status;
    v->size = fb_test_sizes(trial);
    return judge_large(v);
}

/* One arithmetic, without what takes long: sets passed, named and complete. */
static fb_status judge_as(fb_judging *v, fb_arithmetic arithmetic) {
    v->passed = v->named = v->complete = false;
    v->trial->eager = false;
    FB_TRY(begin(v));
    FB_TRY(fb_find_reading(v->trial, arithmetic, v->filter->scratch));
    v->size = fb_test_sizes(v->trial);
    if (!v->size.passed)
        FB_TRY(fb_find_passing(v->trial, arithmetic, &v->size));
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
static fb_status judge_all(fb_judging *v, const fb_arithmetic *list, size_t count) {
    size_t best = count, last = 0, named = 0;
    double share = 0.0;
    bool exact = false, exact_outputs = false, shown = true; /* rounded weights show */
    for (size_t i = 0; i < count; i++) {
        if (list[i] == FB_ARITHMETIC_TF32 && (exact || (best < count && shown)))
            continue;
        FB_TRY(judge_as(v, list[i]));
        last = i;
        bool close = i > 0 && list[i] == FB_ARITHMETIC_TF32X3;
        if (exact_outputs && i > 0 && !close && fb_weighed_ratio(v->filter) < 0.02)
            v->passed = false;
        if (v->passed && (best == count || close || !shown))
            return FB_OK;
        if (i == 0) {
            shown = !fb_has_outputs(v->trial) || isfinite(fb_weighed_ratio(v->filter));
            exact_outputs = fb_weighed_ratio(v->filter) <= 2.0;
            exact = count > 1 && fb_exact_as_float32(v->filter);
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
static fb_status explain_as_coarser(fb_judging *v) {
    static const fb_arithmetic coarser[] = {FB_ARITHMETIC_F16, FB_ARITHMETIC_BF16,
                                            FB_ARITHMETIC_FP8};
    fb_arithmetic own = v->trial->arithmetic;
    fb_size_test size = v->size;
    bool narrow = own == FB_ARITHMETIC_BF16 || own == FB_ARITHMETIC_F16;
    if (!fb_has_outputs(v->trial) || own == FB_ARITHMETIC_FP8)
        return FB_OK;
    for (size_t i = narrow ? 2 : 0; i < sizeof coarser / sizeof coarser[0] && !v->words[0]; i++) {
        FB_TRY(judge_as(v, coarser[i]));
        if (v->passed && !v->trial->eager && fb_typical_ratio(v->filter, false) > 0.25)
            snprintf(v->words, sizeof v->words, "%s", coarser_words[coarser[i]]);
    }
    FB_TRY(judge_as(v, own));
    v->size = size;
    v->passed = false;
    v->named = v->complete = v->said = v->words[0] != '\0';
    return FB_OK;
}

/* A wrong result that the cheap ones do not explain. */
static fb_status explain(fb_judging *v) {
    FB_TRY(fb_try_dear(v->filter, v->wrong));
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
static fb_status complete_otherwise(fb_judging *v) {
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
static size_t say_stages(fb_judging *v) {
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
static fb_status explain_in_stages(fb_judging *v) {
    FB_TRY(fb_judge_stages(v->trial, fb_search_stage, &v->stages));
    v->stages.complete = v->stages.complete && say_stages(v) > 0;
    v->said = v->stages.complete;
    v->named = v->named || v->stages.complete;
    v->complete = v->complete || v->stages.complete;
    return FB_OK;
}

/* What is left after the first mistake may be a second one. Where the first explained nearly
 * everything, the second has to leave noise: as large as it is, or as the first one makes it. */
static fb_status explain_rest(fb_judging *v) {
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
    FB_TRY(fb_try_cheap(f, v->wrong));
    bool second = f->best.found && f->best.share > (v->complete ? 0.6 : 0.8);
    if (second && v->complete) {
        fb_filter_subtract_fitted(f);
        /* what a size that was found leaves of itself is no second mistake */
        second = !(sized && f->best.sized) &&
                 fb_test_sizes(v->trial).excess < fmin(FB_MOST_NOISE, 0.5 * left);
    }
    if (second) {
        char words[sizeof v->words];
        fb_filter_say(f, words, sizeof words);
        snprintf(v->second, sizeof v->second, "; and then %.480s", words);
    }
    fb_trial_restore_errors(v->trial);
    return FB_OK;
}

fb_status fb_judge_trial(fb_judging *v, fb_arithmetic said) {
    fb_arithmetic list[4];
    char words[400];
    size_t count = fb_find_arithmetics(v->trial, said, list), tensor;
    FB_TRY(judge_all(v, list, count));
    if (!v->passed && !v->complete) {
        FB_TRY(explain(v));
        FB_TRY(complete_otherwise(v));
    }
    if (!v->passed && !v->named && v->size.excess < 1e6)
        FB_TRY(explain_as_coarser(v));
    if (!v->passed && !v->complete)
        FB_TRY(explain_in_stages(v));
    v->not_finite = fb_find_not_finite(v->trial, &tensor, words, sizeof words);
    if (v->not_finite)
        v->passed = false;
    if (!v->passed && v->named)
        FB_TRY(explain_rest(v));
    return FB_OK;
}

/* Elements that are not written, and lanes in another order: outputs that are exactly 0, and
 * channels that hold the results of others. */
#include "base/memory.h"
#include "oracle/known.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- not written ------------------------------------------------------------------------------ */

/* An output that is exactly 0 where an honest error is far from that. */
static bool is_zero(const fb_trial_tensor *t, size_t at) {
    return t->usable[at] && t->value[at] == 0.0 && fabs(t->truth[at]) > 4.0 * t->sigma[at];
}

/* The lanes in words, if they are not all: "lanes 120 to 127", "63 of 64 lanes". */
static void say_lanes(const fb_trial *trial, const size_t *by_lane, size_t most, char *words,
                      size_t size) {
    size_t lanes = 0, first = trial->dim, last = 0;
    words[0] = '\0';
    for (size_t d = 0; d < trial->dim; d++)
        if (by_lane[d] * 2 > most) {
            lanes++;
            first = d < first ? d : first;
            last = d;
        }
    if (lanes == 0 || lanes == trial->dim)
        return;
    if (last - first + 1 == lanes && lanes > 1)
        snprintf(words, size, " in lanes %zu to %zu", first, last);
    else if (lanes == 1)
        snprintf(words, size, " in lane %zu", first);
    else
        snprintf(words, size, " in %zu of %zu lanes", lanes, trial->dim);
}

/* What is 0 stays so, everything else is right. */
static fb_status try_not_written(fb_filter *f, fb_wrong *w) {
    const fb_trial *trial = w->trial;
    size_t count = 0, most = 0, *by_lane = NULL;
    char lanes[60], words[200];
    FB_TRY(fb_alloc_zeroed(trial->dim, sizeof *by_lane, "lanes", &by_lane));
    fb_wrong_reset(w);
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        double *result = NULL;
        for (size_t at = 0; t->value && !t->lse && at < t->count; at++) {
            if (!is_zero(t, at))
                continue;
            result = result ? result : fb_wrong_result(w, i);
            result[at] = 0.0;
            by_lane[at % trial->dim]++;
            count++;
        }
    }
    for (size_t d = 0; d < trial->dim; d++)
        most = by_lane[d] > most ? by_lane[d] : most;
    say_lanes(trial, by_lane, most, lanes, sizeof lanes);
    fb_free(by_lane);
    if (count < 8)
        return FB_OK;
    snprintf(words, sizeof words, "the output is not written: it is exactly 0%s", lanes);
    w->found_there = true;
    fb_filter_try(f, w, words);
    return FB_OK;
}

/* --- parts that are not written --------------------------------------------------------------- */

/* The candidate's external parts as they are given, where they are 0, go on into the merges. */
static fb_status try_part_not_written(fb_filter *f, fb_wrong *w) {
    const fb_trial *trial = w->trial;
    bool any = false;
    fb_wrong_reset(w);
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        double *out, *lse;
        if (!t->value || t->lse || t->internal != FB_NO_PART)
            continue;
        for (size_t at = 0; at < t->count; at++)
            if (is_zero(t, at)) {
                FB_TRY(fb_wrong_part(w, t->external, &out, &lse));
                out[at] = 0.0;
                any = true;
            }
    }
    fb_wrong_finish(w);
    if (any)
        fb_filter_try(f, w,
                      "the output of the external part is not written: it is 0 in some lanes");
    return FB_OK;
}

/* --- lanes in another order ------------------------------------------------------------------- */

/* The sum of squares between channel `lane` of the candidate and channel `from` of the truth. */
static double distance(const fb_trial *trial, size_t lane, size_t from) {
    double sum = 0.0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        for (size_t row = 0; t->value && !t->lse && row < trial->rows; row++) {
            double x = t->value[row * trial->dim + lane] - t->truth[row * trial->dim + from];
            sum += isfinite(x) ? x * x : 0.0;
        }
    }
    return sum;
}

static fb_status try_permuted(fb_filter *f, fb_wrong *w) {
    const fb_trial *trial = w->trial;
    size_t moved = 0, used = 0, dim = trial->dim, *from = NULL;
    char pairs[160] = "", words[260];
    FB_TRY(fb_alloc(dim, sizeof *from, "lanes", &from));
    for (size_t lane = 0; lane < dim; lane++) {
        double least = distance(trial, lane, lane);
        from[lane] = lane;
        for (size_t other = 0; other < dim; other++) {
            double x = distance(trial, lane, other);
            if (x < 0.5 * least) {
                least = x;
                from[lane] = other;
            }
        }
        if (from[lane] == lane)
            continue;
        if (moved++ < 4 && used < sizeof pairs)
            used += (size_t)snprintf(pairs + used, sizeof pairs - used, "%s%zu has that of %zu",
                                     moved > 1 ? ", " : "", lane, from[lane]);
    }
    fb_wrong_reset(w);
    for (size_t i = 0; moved && i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (!t->value || t->lse)
            continue;
        double *result = fb_wrong_result(w, i);
        for (size_t at = 0; at < t->count; at++)
            result[at] = t->truth[at / dim * dim + from[at % dim]];
    }
    fb_free(from);
    if (!moved)
        return FB_OK;
    snprintf(words, sizeof words, "lanes are in another order: lane %s%s", pairs,
             moved > 4 ? ", ..." : "");
    fb_filter_try(f, w, words);
    return FB_OK;
}

fb_status fb_try_lanes(fb_filter *f, fb_wrong *w) {
    if (f->fine)
        return FB_OK;
    FB_TRY(try_not_written(f, w));
    return w->trial->script ? try_part_not_written(f, w) : FB_OK;
}

fb_status fb_try_lane_order(fb_filter *f, fb_wrong *w) {
    double cost = (double)w->trial->rows * (double)w->trial->dim * (double)w->trial->dim;
    return f->fine || cost * (double)w->trial->num_tensors > 4e8 ? FB_OK : try_permuted(f, w);
}

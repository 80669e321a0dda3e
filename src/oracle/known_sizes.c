/* Mistakes that have a size, which is found and said: a scale, an offset, a factor. While the
 * errors are small, they are linear in it; fb_try_scales takes the large ones. */
#include "base/error.h"
#include "base/memory.h"
#include "oracle/known.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Whether a part is known, and an external (1) or internal (2) one. */
static bool is_of(const fb_trial *trial, size_t part, unsigned which) {
    return trial->parts[part].known && fb_trial_uses(trial, part, which);
}

static const char *const only[] = {"", " in the external part only",
                                   " in the block's own part only", ""};

/* d of these parts by the logarithm of the scale, times `unit`. */
static fb_status scale_by(fb_wrong *w, double unit, unsigned which) {
    const fb_trial *trial = w->trial;
    for (size_t part = 0; part < trial->num_parts; part++) {
        const fb_moments *m = &trial->parts[part].m;
        double *out, *lse;
        if (!is_of(trial, part, which))
            continue;
        FB_TRY(fb_wrong_part(w, part, &out, &lse));
        for (size_t row = 0; row < trial->rows; row++) {
            lse[row] += unit * m->ps[row];
            for (size_t i = row * trial->dim; i < (row + 1) * trial->dim; i++)
                out[i] += unit * ((double)m->psv[i] - m->out[i] * m->ps[row]);
        }
    }
    fb_wrong_finish(w);
    return FB_OK;
}

/* LSEs as they are given out: + unit, or (1 + unit) times. Of merged results, or of parts. */
static void lse_given(fb_wrong *w, double unit, bool factor, bool merged) {
    for (size_t i = 0; i < w->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &w->trial->tensors[i];
        if (!t->value || !t->lse || (t->internal != FB_NO_PART) != merged)
            continue;
        double *result = fb_wrong_result(w, i);
        for (size_t row = 0; row < t->count; row++)
            result[row] += factor ? unit * t->truth[row] : unit;
    }
}

/* The LSE of the external (or internal) part in the merge only. */
static void lse_merged(fb_wrong *w, double unit, bool external) {
    const fb_trial *trial = w->trial;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (!fb_wrong_is_merge(w, i))
            continue;
        const double *a = trial->parts[t->external].m.out, *b = trial->parts[t->internal].m.out;
        double *result = fb_wrong_result(w, i);
        for (size_t at = 0; at < t->count; at++) {
            double weight = t->weight[t->lse ? at : at / trial->dim];
            double share = external ? weight : 1.0 - weight;
            result[at] += unit * (t->lse     ? share
                                  : external ? weight * (1.0 - weight) * (a[at] - b[at])
                                             : weight * (1.0 - weight) * (b[at] - a[at]));
        }
    }
}

/* The size that explains most of what a mistake's results leave: sum e d / sum d^2, where `d` is
 * what one more `unit` changes, and e is what is left of the errors. */
static double best_size(const fb_filter *f, const fb_wrong *d, double unit, const double *left) {
    double ed = 0.0, dd = 0.0;
    size_t from = 0;
    for (size_t i = 0; i < f->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &f->trial->tensors[i];
        for (size_t at = 0; t->value && d->result[i] && at < t->count; at++) {
            double sigma = t->sigma[at] * f->scale[i];
            double change = (d->result[i][at] - t->truth[at]) / sigma;
            if (!t->usable[at] || !isfinite(change))
                continue;
            ed += change * left[from + at] / sigma;
            dd += change * change;
        }
        from += t->value ? t->count : 0;
    }
    return dd > 0.0 ? unit * ed / dd : 0.0;
}

/* The parts for another scale, exactly. */
static fb_status scale_exactly(fb_wrong *w, double factor, unsigned which) {
    const fb_variant variant = {.scale_factor = factor};
    fb_wrong_reset(w);
    for (size_t part = 0; part < w->trial->num_parts; part++) {
        double *out, *lse;
        if (!is_of(w->trial, part, which))
            continue;
        FB_TRY(fb_wrong_part(w, part, &out, &lse));
        FB_TRY(fb_variant_attend(&w->trial->parts[part].read, &variant, out, lse));
    }
    fb_wrong_finish(w);
    return FB_OK;
}

/* What is left of the errors after the mistake. */
static void leave(const fb_trial *trial, const fb_wrong *w, double *left) {
    size_t from = 0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        for (size_t at = 0; t->value && at < t->count; at++)
            left[from + at] =
                t->error[at] - (w && w->result[i] ? w->result[i][at] - t->truth[at] : 0.0);
        from += t->value ? t->count : 0;
    }
}

static double sum_of_squares(const fb_filter *f, const double *left) {
    double sum = 0.0;
    size_t from = 0;
    for (size_t i = 0; i < f->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &f->trial->tensors[i];
        for (size_t at = 0; t->value && at < t->count; at++) {
            double x = left[from + at] / (t->sigma[at] * f->scale[i]);
            sum += t->usable[at] && isfinite(x) ? x * x : 0.0;
        }
        from += t->value ? t->count : 0;
    }
    return sum;
}

/* Whether a third of what is more than noise is explained. */
static bool explains(const fb_filter *f, double before, double after) {
    return before - after > 10.0 + 0.3 * fmax(0.0, before - 1.1 * (double)f->total);
}

/* How much further along `d` (what the last step changed) the errors that are left go. */
static double further(const fb_filter *f, const double *before, const double *left) {
    double ed = 0.0, dd = 0.0;
    size_t from = 0;
    for (size_t i = 0; i < f->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &f->trial->tensors[i];
        for (size_t at = 0; t->value && at < t->count; at++) {
            double sigma = t->sigma[at] * f->scale[i], e = left[from + at] / sigma;
            double d = (before[from + at] - left[from + at]) / sigma;
            if (!t->usable[at] || !isfinite(e) || !isfinite(d))
                continue;
            ed += e * d;
            dd += d * d;
        }
        from += t->value ? t->count : 0;
    }
    return dd > 0.0 ? ed / dd : 0.0;
}

/* The logarithm of the factor that the scale is off by: the first step is that of Newton's method,
 * the others are secants. 0: no factor explains the errors. left: [2][total] */
static fb_status search_scale(fb_filter *f, fb_wrong *w, unsigned which, double *left,
                              double *found) {
    const double unit = 1e-4;
    double *before = left + f->total;
    leave(f->trial, NULL, left);
    fb_wrong_reset(w);
    FB_TRY(scale_by(w, unit, which));
    double step = fmax(-0.7, fmin(0.7, best_size(f, w, unit, left))), size = 0.0;
    double first = sum_of_squares(f, left), now = first;
    if (fabs(step) < 0.01) { /* linear: what would be explained is known without attention */
        fb_wrong_reset(w);
        FB_TRY(scale_by(w, step, which));
        leave(f->trial, w, left);
        if (!explains(f, first, sum_of_squares(f, left)))
            return FB_OK;
        leave(f->trial, NULL, left);
    }
    for (int turn = 0; turn < 9 && fabs(step) > 1e-7; turn++) {
        if (!(fabs(size + step) < 1.6))
            return FB_OK;
        size += step;
        memcpy(before, left, f->total * sizeof *left);
        FB_TRY(scale_exactly(w, exp(size), which));
        leave(f->trial, w, left);
        now = sum_of_squares(f, left);
        if (turn == 1 && !explains(f, first, now))
            return FB_OK;
        double more = further(f, before, left) * step;
        if (fabs(more) < 1e-5 * fabs(size))
            break;
        step = fmax(-0.5, fmin(0.5, more));
    }
    if (explains(f, first, now) && fabs(size) > 1e-7)
        *found = size;
    return FB_OK;
}

static fb_status find_scale(fb_filter *f, fb_wrong *w, unsigned which, double *found) {
    double *left = NULL;
    *found = 0.0;
    FB_TRY(fb_alloc(f->total, 2 * sizeof *left, "errors", &left));
    fb_status status = search_scale(f, w, which, left, found);
    fb_free(left);
    return status;
}

size_t fb_scale_names(const fb_trial *trial, fb_scale_name *names) {
    const double scale = trial->parts[0].right.scale, dim = (double)trial->dim;
    const fb_scale_name list[] = {
        {scale, "the scale is applied twice (to the queries and to the scores, say)"},
        {1.0 / scale, "the scores are not scaled"},
        {sqrt(2.0), "the scale is that of half the head_dim"},
        {sqrt(0.5), "the scale is that of twice the head_dim"},
        {1.0 / sqrt((double)trial->heads), "the scale is that of all heads together: 1 / "
                                           "sqrt(num_heads * head_dim)"},
        {1.0 / (dim * scale), "the scale is 1 / head_dim, not its root"},
        {0x1.62e42fefa39efp-1,
         "exp2 is taken without log2 e: exp2(s * 1.442695) is exp(s), exp2(s) "
         "is not"},
        {0x1.71547652b82fep+0, "log2 e is applied twice: exp of scores that are scaled for exp2"},
    };
    size_t count = 0;
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        if (fabs(list[i].factor - 1.0) > 1e-3)
            names[count++] = list[i];
    return count;
}

/* A scale that is off by so much that it is not linear any more. A factor that has a reason is
 * tried first; of the block's own keys, which are few, also where the search does not reach it. */
static fb_status try_larger_scale(fb_filter *f, fb_wrong *w, unsigned which) {
    fb_scale_name names[FB_MAX_SCALE_NAMES];
    double size;
    char words[300];
    const char *where = w->trial->script ? only[which] : "";
    bool few = w->trial->script && which == FB_INTERNAL;
    FB_TRY(find_scale(f, w, which, &size));
    for (size_t i = 0, count = fb_scale_names(w->trial, names); i < count; i++) {
        double apart = size != 0.0 ? fabs(size - log(names[i].factor)) : (double)INFINITY;
        bool near = apart < 0.003, nearest = apart < 3e-5;
        for (size_t exactly = 0; (near || few) && exactly < (nearest ? 2 : 1); exactly++) {
            FB_TRY(scale_exactly(w, exactly ? exp(size) : names[i].factor, which));
            snprintf(words, sizeof words, "%.200s%s", names[i].words, where);
            fb_filter_try(f, w, words);
        }
    }
    if (size == 0.0)
        return FB_OK;
    FB_TRY(scale_exactly(w, exp(size), which));
    snprintf(words, sizeof words, "the scale of the scores is off%s: %.4g times the right one",
             where, exp(size));
    fb_filter_try(f, w, words);
    return FB_OK;
}

/* Offsets and factors of LSEs, which are linear however large they are. */
static fb_status try_larger_lse(fb_filter *f, fb_wrong *w) {
    static const char *const words[] = {"every LSE is off by %+.4g",
                                        "every LSE is %.5g times the right one"};
    double *left = NULL;
    FB_TRY(fb_alloc(f->total, sizeof *left, "errors", &left));
    leave(f->trial, NULL, left);
    for (size_t factor = 0; factor < 2; factor++)
        for (size_t which = 0; which < 3; which++) { /* parts, merged ones, all */
            char text[200];
            double unit = 1e-4;
            for (size_t again = 0; again < 2; again++) {
                fb_wrong_reset(w);
                if (which != 1)
                    lse_given(w, unit, factor, false);
                if (which != 0)
                    lse_given(w, unit, factor, true);
                if (!again)
                    unit = best_size(f, w, unit, left);
            }
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            snprintf(text, sizeof text, words[factor], factor ? 1.0 + unit : unit);
#pragma GCC diagnostic pop
            w->everywhere = true;
            /* log2 e times the right one is an LSE in base 2: known_results.c */
            bool base_2 = factor && fabs(unit - (0x1.71547652b82fep+0 - 1.0)) < 1e-3;
            bool zero = factor && fabs(unit + 1.0) < 1e-3; /* not written: known_results.c */
            if (fabs(unit) > 1e-7 && !base_2 && !zero)
                fb_filter_try(f, w, text);
        }
    fb_free(left);
    return FB_OK;
}

/* The same for outputs: of merged results, or of parts, or of all. A factor may be honest while it
 * is small: weights that are cut off give one. */
static void output_given(fb_wrong *w, double unit, bool factor, size_t which) {
    for (size_t i = 0; i < w->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &w->trial->tensors[i];
        bool merged = t->internal != FB_NO_PART;
        if (!t->value || t->lse || (which == 0 && merged) || (which == 1 && !merged))
            continue;
        double *result = fb_wrong_result(w, i);
        for (size_t at = 0; at < t->count; at++)
            result[at] += factor ? unit * t->truth[at] : unit;
    }
}

static fb_status try_larger_output(fb_filter *f, fb_wrong *w) {
    double *left = NULL;
    FB_TRY(fb_alloc(f->total, sizeof *left, "errors", &left));
    leave(f->trial, NULL, left);
    for (size_t n = 0; n < (f->trial->script ? 6 : 2); n++) {
        bool factor = n % 2 == 1;
        size_t which = f->trial->script ? n / 2 : 2;
        char text[200];
        fb_wrong_reset(w);
        output_given(w, 1e-4, factor, which);
        double size = best_size(f, w, 1e-4, left);
        if (!(fabs(size) > 1e-7) ||
            (factor && (fabs(size + 0.5) < 1e-3 || fabs(size - 1.0) < 1e-3)))
            continue; /* half and twice: known_results.c */
        fb_wrong_reset(w);
        output_given(w, size, factor, which);
        w->everywhere = true;
        if (factor)
            snprintf(text, sizeof text, "the output is %.5g times the right one", 1.0 + size);
        else
            snprintf(text, sizeof text, "every output is off by %+.4g", size);
        fb_filter_try(f, w, text);
    }
    fb_free(left);
    return FB_OK;
}

/* The merge with the external (or internal) LSEs off by `by`, exactly. */
static void lse_merged_exactly(fb_wrong *w, double by, bool external) {
    const fb_trial *trial = w->trial;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (!fb_wrong_is_merge(w, i))
            continue;
        const fb_moments *a = &trial->parts[t->external].m, *b = &trial->parts[t->internal].m;
        double *result = fb_wrong_result(w, i);
        for (size_t at = 0; at < t->count; at++) {
            size_t row = t->lse ? at : at / trial->dim;
            double la = a->lse[row] + (t->shift ? t->shift[row] : 0.0) + (external ? by : 0.0);
            double lb = b->lse[row] + (external ? 0.0 : by), max = fmax(la, lb);
            double weight = fb_merge_weight(la, lb);
            if (isfinite(max))
                result[at] = t->lse ? max + log1p(exp(fmin(la, lb) - max))
                                    : weight * a->out[at] + (1.0 - weight) * b->out[at];
        }
    }
}

/* One part's LSE is off in the merge by so much that it is not linear any more. */
static fb_status try_larger_merge(fb_filter *f, fb_wrong *w, bool external) {
    const double unit = 1e-4;
    double size = 0.0, *left = NULL;
    char words[200];
    if (!w->trial->script)
        return FB_OK;
    FB_TRY(fb_alloc(f->total, sizeof *left, "errors", &left));
    leave(f->trial, NULL, left);
    for (int step = 0; step < 5 && fabs(size) < 3.0; step++) {
        fb_wrong_reset(w);
        lse_merged(w, unit, external);
        size += best_size(f, w, unit, left);
        fb_wrong_reset(w);
        lse_merged_exactly(w, size, external);
        leave(f->trial, w, left);
    }
    fb_free(left);
    if (fabs(size) < 1e-7 || !(fabs(size) < 3.0))
        return FB_OK;
    snprintf(words, sizeof words, "the %s part's LSE is off in the merge by %+.4g",
             external ? "external" : "internal", size);
    fb_filter_try(f, w, words);
    return FB_OK;
}

/* Whether nothing but noise is left to explain: other scales of many keys are not tried then. An
 * offset or a factor of LSEs looks much like a scale, so they compete. */
static bool is_explained(fb_filter *f) {
    double squares;
    return f->best.found && !f->best.sized && f->best.share > 0.95 &&
           fb_filter_excess_left(f, &squares) <= 1.0;
}

static fb_status try_sizes(fb_filter *f, fb_wrong *w) {
    const double unit = 1e-4;
    /* in all parts, in the internal ones, in the external ones */
    unsigned most = !w->trial->script || fb_trial_has_merges(w->trial) ? FB_ALL_PARTS : FB_EXTERNAL;
    unsigned least = w->trial->script ? FB_EXTERNAL : FB_ALL_PARTS;
    if (!f->fine) {
        FB_TRY(try_larger_lse(f, w));
        FB_TRY(try_larger_output(f, w));
        for (size_t external = 0; external < 2; external++)
            FB_TRY(try_larger_merge(f, w, external));
        for (unsigned which = most; which >= least && !is_explained(f); which--)
            FB_TRY(try_larger_scale(f, w, which));
        return FB_OK;
    }
    for (unsigned which = most; which >= least; which--) {
        char words[200];
        snprintf(words, sizeof words,
                 "the scale of the scores is off%s: 1 %%+.3g times the right one, give or take "
                 "%%.1g",
                 only[which]);
        fb_wrong_reset(w);
        FB_TRY(scale_by(w, unit, which));
        fb_filter_try_size(f, w, unit, 1e-6, words);
    }
    for (size_t external = 0; external < 2; external++) {
        fb_wrong_reset(w);
        lse_merged(w, unit, external == 1);
        fb_filter_try_size(
            f, w, unit, 0.0,
            external ? "the external part's LSE is off in the merge by %+.3g, give or take %.1g"
                     : "the internal part's LSE is off in the merge by %+.3g, give or take %.1g");
    }
    fb_wrong_reset(w);
    lse_given(w, unit, false, false);
    lse_given(w, unit, false, true);
    fb_filter_try_size(f, w, unit, 0.0, "every LSE is off by %+.3g, give or take %.1g");
    for (size_t merged = 0; merged < 2; merged++) {
        /* an LSE that is off in the merge moves nearly all merged ones by as much */
        f->handicap = merged ? 12.0 : 0.0;
        fb_wrong_reset(w);
        lse_given(w, unit, false, merged);
        fb_filter_try_size(f, w, unit, 0.0, "every LSE is off by %+.3g, give or take %.1g");
        fb_wrong_reset(w);
        lse_given(w, unit, true, merged);
        fb_filter_try_size(f, w, unit, 1e-6,
                           "every LSE is 1 %+.3g times the right one, give or take %.1g");
    }
    f->handicap = 0.0;
    fb_wrong_reset(w);
    output_given(w, unit, false, 2);
    fb_filter_try_size(f, w, unit, 0.0, "every output is off by %+.3g, give or take %.1g");
    return FB_OK;
}

fb_status fb_try_sizes(fb_filter *f, fb_wrong *w) {
    f->sizes = true;
    fb_status status = try_sizes(f, w);
    f->sizes = false;
    return status;
}

/* Mistakes that have a size, which is found and said: a scale, an offset, a factor. While the
 * errors are small, they are linear in it; fb_try_scales takes the large ones. */
#include "base/error.h"
#include "base/memory.h"
#include "oracle/known.h"

#include <math.h>
#include <stdio.h>

/* Whether a part is known, and an external (1) or internal (2) one. */
static bool is_of(const fb_trial *trial, size_t part, unsigned which) {
    bool external = false, internal = false;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        external = external || (trial->tensors[i].value && trial->tensors[i].external == part);
        internal = internal || (trial->tensors[i].value && trial->tensors[i].internal == part);
    }
    return trial->parts[part].known && ((external && (which & 1)) || (internal && (which & 2)));
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

static void output_by(fb_wrong *w, double unit) {
    for (size_t i = 0; i < w->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &w->trial->tensors[i];
        if (!t->value || t->lse)
            continue;
        double *result = fb_wrong_result(w, i);
        for (size_t at = 0; at < t->count; at++)
            result[at] += unit;
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

/* A scale that is off by so much that it is not linear any more, but by less than a third. */
static fb_status try_larger_scale(fb_filter *f, fb_wrong *w, unsigned which) {
    const double unit = 1e-4;
    double size = 0.0, *left = NULL;
    char words[200];
    FB_TRY(fb_alloc(f->total, sizeof *left, "errors", &left));
    leave(f->trial, NULL, left);
    fb_status status = FB_OK;
    for (int step = 0; step < 3 && status == FB_OK; step++) {
        fb_wrong_reset(w);
        status = scale_by(w, unit, which);
        if (status != FB_OK)
            break;
        size += best_size(f, w, unit, left);
        if (!(fabs(size) < 0.3) || fabs(size) < 1e-7)
            break;
        status = scale_exactly(w, 1.0 + size, which);
        leave(f->trial, w, left);
    }
    fb_free(left);
    FB_TRY(status);
    if (!(fabs(size) < 0.3) || fabs(size) < 1e-7)
        return FB_OK;
    snprintf(words, sizeof words, "the scale of the scores is off%s: (1 %+.4g) times the right one",
             w->trial->script ? only[which] : "", size);
    fb_filter_try(f, w, words);
    return FB_OK;
}

/* Offsets and factors of LSEs, which are linear however large they are. */
static fb_status try_larger_lse(fb_filter *f, fb_wrong *w) {
    static const char *const words[] = {"every LSE is off by %+.4g",
                                        "every LSE is (1 %+.4g) times the right one"};
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
            snprintf(text, sizeof text, words[factor], unit);
#pragma GCC diagnostic pop
            w->everywhere = true;
            /* log2 e times the right one is an LSE in base 2: known_results.c */
            bool base_2 = factor && fabs(unit - (0x1.71547652b82fep+0 - 1.0)) < 1e-3;
            if (fabs(unit) > 1e-7 && !base_2)
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

fb_status fb_try_sizes(fb_filter *f, fb_wrong *w) {
    const double unit = 1e-4;
    if (!f->fine) {
        FB_TRY(try_larger_lse(f, w));
        for (size_t external = 0; external < 2; external++)
            FB_TRY(try_larger_merge(f, w, external));
        for (unsigned which = 3; which >= (w->trial->script ? 1 : 3); which--)
            FB_TRY(try_larger_scale(f, w, which));
        return FB_OK;
    }
    for (unsigned which = 3; which >= (w->trial->script ? 1 : 3); which--) {
        char words[200];
        snprintf(words, sizeof words,
                 "the scale of the scores is off%s: (1 %%+.3g) times the right one, give or take "
                 "%%.1g",
                 only[which]);
        fb_wrong_reset(w);
        FB_TRY(scale_by(w, unit, which));
        fb_filter_try_size(f, w, unit, 1e-6, words);
    }
    for (size_t merged = 0; merged < 2; merged++) {
        fb_wrong_reset(w);
        lse_given(w, unit, false, merged);
        fb_filter_try_size(f, w, unit, 0.0, "every LSE is off by %+.3g, give or take %.1g");
        fb_wrong_reset(w);
        lse_given(w, unit, true, merged);
        fb_filter_try_size(f, w, unit, 1e-6,
                           "every LSE is (1 %+.3g) times the right one, give or take %.1g");
    }
    fb_wrong_reset(w);
    lse_given(w, unit, false, false);
    lse_given(w, unit, false, true);
    fb_filter_try_size(f, w, unit, 0.0, "every LSE is off by %+.3g, give or take %.1g");
    fb_wrong_reset(w);
    lse_merged(w, unit, true);
    fb_filter_try_size(f, w, unit, 0.0,
                       "the external part's LSE is off in the merge by %+.3g, give or take %.1g");
    fb_wrong_reset(w);
    lse_merged(w, unit, false);
    fb_filter_try_size(f, w, unit, 0.0,
                       "the internal part's LSE is off in the merge by %+.3g, give or take %.1g");
    fb_wrong_reset(w);
    output_by(w, unit);
    fb_filter_try_size(f, w, unit, 0.0, "every output is off by %+.3g, give or take %.1g");
    return FB_OK;
}

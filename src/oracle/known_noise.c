/* Outputs whose errors are noise, but not that of an honest kernel of this arithmetic: accumulators
 * of a lower type. What each error would be depends on the order of all sums, but how large they
 * are, element by element, does not. */
#include "base/memory.h"
#include "oracle/chunks.h"
#include "oracle/known.h"
#include "oracle/statistics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Accumulators that are rounded after each tile of each split. */
typedef struct accumulator {
    fb_dtype type;
    size_t tile, splits; /* in chunks; splits of about the same number of chunks */
    bool own;            /* those of the block's own keys, too */
} accumulator;

/* The variance that it adds to an element of a part: of each rounding, as it is in the result. */
static double variance_of(const fb_trial *trial, const fb_chunks *c, const accumulator *a,
                          size_t at) {
    size_t row = at / trial->dim, values = trial->rows * trial->dim;
    double sum = 0.0;
    if (trial->parts[c->part].m.lse[row] == -(double)INFINITY)
        return 0.0;
    for (size_t split = 0; split < a->splits; split++) {
        size_t first = c->count * split / a->splits, end = c->count * (split + 1) / a->splits;
        double max = -(double)INFINITY;
        for (size_t begin = first; begin < end; begin += a->tile) {
            size_t stop = begin + a->tile < end ? begin + a->tile : end;
            for (size_t i = begin; i < stop; i++)
                max = fmax(max, c->max[i * trial->rows + row]);
            /* the accumulator holds sums of exp(s - max), the result is divided by their sum */
            double scale = exp(trial->parts[c->part].m.lse[row] - max);
            double held = (c->before[stop * values + at] - c->before[first * values + at]) * scale;
            sum += fb_storage_variance(a->type, held) / (scale * scale);
        }
    }
    return sum;
}

static const fb_chunks *chunks_of(const fb_chunks *all, size_t parts, size_t part) {
    for (size_t i = 0; i < parts; i++)
        if (all[i].part == part)
            return &all[i];
    return NULL;
}

/* The variance that it adds to an element of a tensor. */
static double added_to(const fb_trial *trial, const fb_trial_tensor *t, const fb_chunks *all,
                       size_t parts, const accumulator *a, size_t at) {
    double weight = t->weight[at / trial->dim], rest = 1.0 - weight;
    const fb_chunks *own = a->own ? chunks_of(all, parts, t->internal) : NULL;
    return weight * weight * variance_of(trial, chunks_of(all, parts, t->external), a, at) +
           (own ? rest * rest * variance_of(trial, own, a, at) : 0.0);
}

/* How well a kind of noise fits: the logarithm of its likelihood, and the typical size of errors
 * over it. A few errors that are far too large do not decide. */
typedef struct noise_fit {
    double likelihood, typical;
} noise_fit;

static double likelihood_of(double error, double variance) {
    return -0.5 * (fmin(30.0, error * error / variance) + log(variance));
}

/* a NULL: the honest noise, made larger by one factor. */
static noise_fit fit(const fb_filter *f, const fb_chunks *all, size_t parts, const accumulator *a) {
    const fb_trial *trial = f->trial;
    double *ratios = f->scratch, factor = 1.0;
    noise_fit found = {0};
    for (size_t turn = a ? 1 : 0; turn < 2; turn++) {
        size_t count = 0;
        found.likelihood = 0.0;
        for (size_t i = 0; i < trial->num_tensors; i++) {
            const fb_trial_tensor *t = &trial->tensors[i];
            bool cut = chunks_of(all, parts, t->external) != NULL;
            for (size_t at = 0; t->value && !t->lse && cut && at < t->count; at++) {
                double variance = factor * t->sigma[at] * t->sigma[at];
                if (!t->usable[at])
                    continue;
                variance += a ? added_to(trial, t, all, parts, a, at) : 0.0;
                found.likelihood += likelihood_of(t->error[at], variance);
                ratios[count++] = t->error[at] / sqrt(variance);
            }
        }
        found.typical = fb_median_magnitude(ratios, count) / 0.6745;
        factor = fmax(1.0, found.typical * found.typical);
    }
    return found;
}

/* The best of all kinds of accumulators of `count` chunks; false: none fits. */
static bool find_accumulator(const fb_filter *filter, const fb_chunks *all, size_t parts,
                             size_t count, bool own, accumulator *best) {
    static const fb_dtype types[] = {FB_BF16, FB_F16};
    double most = fit(filter, all, parts, NULL).likelihood;
    bool found = false;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        for (size_t tile = 1; tile <= count && tile <= 8; tile *= 2)
            for (size_t splits = 1; splits <= 8 && splits * tile <= count; splits *= 2) {
                const accumulator a = {types[i], tile, splits, own};
                noise_fit f = fit(filter, all, parts, &a);
                if (f.likelihood > most && f.typical > 0.7 && f.typical < 1.5) {
                    most = f.likelihood;
                    *best = a;
                    found = true;
                }
            }
    return found;
}

/* LSEs are right, or there are none. */
static bool lses_are_right(const fb_trial *trial) {
    for (size_t i = 0; i < trial->num_tensors; i++) {
        fb_size_test worst = {.passed = true};
        double rms;
        if (!trial->tensors[i].value || !trial->tensors[i].lse)
            continue;
        fb_test_size(trial, i, &rms, &worst);
        if (!worst.passed)
            return false;
    }
    return true;
}

/* The outputs are as they are: that is what such a kernel gives. */
static void try_accumulator(fb_filter *f, fb_wrong *w, const accumulator *a, size_t width) {
    const fb_trial *trial = w->trial;
    char words[200];
    fb_wrong_reset(w);
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        double *result = NULL;
        for (size_t at = 0; t->value && !t->lse && at < t->count; at++) {
            result = result ? result : fb_wrong_result(w, i);
            result[at] = t->usable[at] ? t->value[at] : t->truth[at];
        }
    }
    snprintf(
        words, sizeof words,
        "the output is accumulated in %s: its errors are those of tiles of about %zu keys that "
        "are added up in that type",
        fb_dtype_name(a->type), a->tile * width);
    w->everywhere = true;
    fb_filter_try(f, w, words);
}

fb_status fb_try_noise(fb_filter *f, fb_wrong *w) {
    const fb_trial *trial = w->trial;
    size_t width = fb_chunk_width(trial), parts = 0, count = 0;
    fb_chunks *all = NULL;
    accumulator best;
    if (f->best.share > 0.6 || !width || !lses_are_right(trial))
        return FB_OK;
    FB_TRY(fb_alloc_zeroed(trial->num_parts, sizeof *all, "tiles", &all));
    fb_status status = FB_OK;
    bool merges = fb_trial_has_merges(trial), found = false;
    for (size_t i = 0; i < trial->num_parts && status == FB_OK; i++) {
        bool external = fb_trial_uses(trial, i, FB_EXTERNAL);
        if (!external && !(merges && fb_trial_uses(trial, i, FB_INTERNAL)))
            continue;
        status = fb_chunk_part(trial, i, width, &all[parts]);
        count = external && all[parts].count > count ? all[parts].count : count;
        parts++;
    }
    for (size_t own = merges ? 2 : 1; status == FB_OK && count && !found && own-- > 0;)
        found = find_accumulator(f, all, parts, count, own == 1, &best);
    if (found)
        try_accumulator(f, w, &best, width);
    for (size_t i = 0; i < parts; i++)
        fb_free(all[i].out);
    fb_free(all);
    return status;
}

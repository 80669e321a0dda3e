/* LSEs that are put together wrongly: of parts, which are merged so, and of results as they are
 * given out. */
#include "oracle/known.h"

#include <math.h>
#include <stdio.h>

static const double log2_of_e = 0x1.71547652b82fep+0;

typedef enum form {
    WITHOUT_MAX,
    MAX_IN_BASE_2,
    SUM_IN_BASE_2,
    MAX_NOT_SCALED,
    SUM_OF_ONE_MORE, /* the output is divided by that sum, too */
    NUM_FORMS
} form;

/* In which LSEs. */
typedef enum where { GIVEN, BOTH_PARTS, EXTERNAL_PART, INTERNAL_PART, NUM_WHERE } where;

static double changed(form f, double lse, double max, double scale) {
    double sum = lse - max; /* its logarithm */
    switch (f) {
    case WITHOUT_MAX:
        return sum;
    case MAX_IN_BASE_2:
        return max * log2_of_e + sum;
    case SUM_IN_BASE_2:
        return max + sum * log2_of_e;
    case MAX_NOT_SCALED:
        return max / scale + sum;
    case SUM_OF_ONE_MORE:
        return max + log1p(exp(sum));
    case NUM_FORMS:
        break;
    }
    return lse;
}

static fb_status change_part(fb_wrong *w, size_t part, form f) {
    const fb_trial *trial = w->trial;
    const double *max = trial->parts[part].m.max;
    double *out, *lse;
    FB_TRY(fb_wrong_part(w, part, &out, &lse));
    for (size_t row = 0; row < trial->rows; row++) {
        double right = lse[row];
        if (!isfinite(right))
            continue;
        lse[row] = changed(f, right, max[row], trial->parts[part].right.scale);
        if (f == SUM_OF_ONE_MORE)
            for (size_t i = row * trial->dim; i < (row + 1) * trial->dim; i++)
                out[i] *= exp(right - lse[row]);
    }
    return FB_OK;
}

static fb_status change_parts(fb_wrong *w, form f, where in) {
    unsigned which = in == EXTERNAL_PART   ? FB_EXTERNAL
                     : in == INTERNAL_PART ? FB_INTERNAL
                                           : FB_ALL_PARTS;
    for (size_t part = 0; part < w->trial->num_parts; part++)
        if (w->trial->parts[part].known && fb_trial_uses(w->trial, part, which))
            FB_TRY(change_part(w, part, f));
    fb_wrong_finish(w);
    return FB_OK;
}

/* As they are given out: merges were done with the right ones. */
static void change_given(fb_wrong *w, form f) {
    const fb_trial *trial = w->trial;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        const double *a = trial->parts[t->external].m.max;
        if (!t->value || !t->lse)
            continue;
        const double *b = t->internal == FB_NO_PART ? a : trial->parts[t->internal].m.max;
        double *result = fb_wrong_result(w, i);
        for (size_t row = 0; row < t->count; row++)
            if (isfinite(t->truth[row]))
                result[row] = changed(f, t->truth[row], fmax(a[row], b[row]),
                                      trial->parts[t->external].right.scale);
    }
}

static const char *const words[] = {
    "lacks the maximum: it is log(sum exp(s - max))",
    "mixes bases: it is max * log2 e + ln(sum exp(s - max))",
    "mixes bases: it is max + log2(sum exp(s - max))",
    "has a maximum that is not scaled: it is max(q k) + ln(sum)",
    "and the output are off, because the row sum has 1 too much",
};

fb_status fb_try_lses(fb_filter *f, fb_wrong *w) {
    static const char *const what[] = {"the LSE", "the LSE", "the external part's LSE",
                                       "the internal part's LSE"};
    for (form n = WITHOUT_MAX; n < NUM_FORMS; n++)
        for (where in = GIVEN; in < NUM_WHERE; in++) {
            char text[300];
            if ((in == GIVEN && n == SUM_OF_ONE_MORE) || (in > BOTH_PARTS && !w->trial->script) ||
                (in == BOTH_PARTS && !w->trial->script && n != SUM_OF_ONE_MORE) ||
                (in != GIVEN && in != EXTERNAL_PART && w->trial->script &&
                 !fb_trial_has_merges(w->trial)))
                continue;
            fb_wrong_reset(w);
            if (in == GIVEN)
                change_given(w, n);
            else
                FB_TRY(change_parts(w, n, in));
            snprintf(text, sizeof text, "%s %s%s", what[in], words[n],
                     in == BOTH_PARTS && w->trial->script ? " (of both parts)" : "");
            fb_filter_try(f, w, text);
        }
    return FB_OK;
}

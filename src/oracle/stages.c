#include "oracle/stages.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What is put aside while a stage is judged. */
typedef struct aside {
    fb_trial *trial;
    double **values;       /* [tensors] */
    double **outs, **lses; /* [parts] the right ones */
    /* [parts] the other hypothesis: the parts are as they were before the last mistake that was
     * found, or as it has them; NULL: they do not differ */
    double **other_outs, **other_lses;
} aside;

size_t fb_stage_of(const fb_trial_tensor *t) {
    return (t->internal == FB_NO_PART ? 0u : 2u) + (t->lse ? 1u : 0u);
}

static fb_status put_aside(fb_trial *trial, aside *a) {
    a->trial = trial;
    FB_TRY(fb_trial_take(trial, trial->num_tensors, sizeof *a->values, &a->values));
    FB_TRY(fb_trial_take(trial, trial->num_parts, sizeof *a->outs, &a->outs));
    FB_TRY(fb_trial_take(trial, trial->num_parts, sizeof *a->lses, &a->lses));
    FB_TRY(fb_trial_take(trial, trial->num_parts, sizeof *a->other_outs, &a->other_outs));
    FB_TRY(fb_trial_take(trial, trial->num_parts, sizeof *a->other_lses, &a->other_lses));
    for (size_t i = 0; i < trial->num_tensors; i++)
        a->values[i] = trial->tensors[i].value;
    for (size_t i = 0; i < trial->num_parts; i++) {
        a->outs[i] = trial->parts[i].m.out;
        a->lses[i] = trial->parts[i].m.lse;
    }
    return FB_OK;
}

/* Only the tensors of these stages are there. Returns whether any is. */
static bool show(const aside *a, size_t first, size_t last) {
    bool any = false;
    for (size_t i = 0; i < a->trial->num_tensors; i++) {
        fb_trial_tensor *t = &a->trial->tensors[i];
        size_t stage = fb_stage_of(t);
        bool shown = stage >= first && stage <= last;
        t->value = shown ? a->values[i] : NULL;
        t->aside = !shown && a->values[i];
        any = any || t->value;
    }
    return any;
}

/* How far the given tensors are from what they should be: a sum of logarithms. */
static double distance(const fb_trial *trial) {
    double sum = 0.0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        fb_size_test worst = {.passed = true};
        double rms = 0.0;
        if (!trial->tensors[i].value)
            continue;
        fb_test_size(trial, i, &rms, &worst);
        sum += log(1.0 + rms * rms);
    }
    return sum;
}

/* Whether the mistake was made in a row of any result. */
static bool is_row(const fb_trial *trial, const fb_fit *best, size_t row) {
    for (size_t i = 0; i < trial->num_tensors; i++)
        if (trial->tensors[i].value && best->rows[i * trial->rows + row])
            return true;
    return false;
}

/* The part as the mistake has it, in new memory. */
static fb_status wrong_part(fb_trial *trial, const fb_fit *best, size_t part, double **out,
                            double **lse) {
    size_t values = trial->rows * trial->dim, dim = trial->dim, from = 0;
    const fb_moments *m = &trial->parts[part].m;
    FB_TRY(fb_trial_take(trial, values + trial->rows, sizeof **out, out));
    *lse = *out + values;
    memcpy(*out, m->out, values * sizeof **out);
    memcpy(*lse, m->lse, trial->rows * sizeof **lse);
    for (size_t row = 0; best->part_changed[part] && row < trial->rows; row++)
        if (is_row(trial, best, row)) {
            memcpy(*out + row * dim, best->parts[part] + row * dim, dim * sizeof **out);
            (*lse)[row] = best->parts[part][values + row];
        }
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        size_t width = t->lse ? 1 : dim;
        bool own = t->internal == FB_NO_PART && t->external == part;
        for (size_t at = 0; t->value && own && at < t->count; at++)
            (t->lse ? *lse : *out)[at] =
                best->rows[i * trial->rows + at / width] ? best->wrong[from + at] : t->truth[at];
        from += t->value ? t->count : 0;
    }
    return FB_OK;
}

static bool is_changed(const fb_trial *trial, const fb_fit *best, size_t part) {
    for (size_t i = 0; i < trial->num_tensors; i++)
        if (trial->tensors[i].value && trial->tensors[i].internal == FB_NO_PART &&
            trial->tensors[i].external == part)
            return true;
    return best->part_changed[part];
}

/* Goes to the other hypothesis. */
static void exchange(aside *a) {
    for (size_t i = 0; i < a->trial->num_parts; i++) {
        fb_moments *m = &a->trial->parts[i].m;
        double *out = m->out, *lse = m->lse;
        if (!a->other_outs[i])
            continue;
        m->out = a->other_outs[i];
        m->lse = a->other_lses[i];
        a->other_outs[i] = out;
        a->other_lses[i] = lse;
    }
}

/* From here on the parts are those of the mistake. Were they not, that is the other hypothesis. */
static fb_status go_on_from(aside *a, const fb_fit *best) {
    fb_trial *trial = a->trial;
    for (size_t i = 0; i < trial->num_parts; i++) {
        a->other_outs[i] = a->other_lses[i] = NULL;
        if (trial->parts[i].known && is_changed(trial, best, i))
            FB_TRY(wrong_part(trial, best, i, &a->other_outs[i], &a->other_lses[i]));
    }
    exchange(a);
    return FB_OK;
}

/* What was found in a stage under one hypothesis. */
typedef struct found {
    fb_filter *filter;
    bool named, complete;
} found;

static fb_status search_stage(fb_trial *trial, fb_search *search, found *f) {
    fb_wrong *wrong = NULL;
    FB_TRY(fb_filter_create(trial, &f->filter));
    FB_TRY(fb_wrong_create(trial, &wrong));
    fb_filter_begin(f->filter, false);
    return search(f->filter, wrong, &f->named, &f->complete);
}

/* Both hypotheses are tried: whether the stage is right by one of them, and if it is not, whether a
 * mistake explains it. */
static fb_status judge_stage(aside *a, fb_search *search, size_t stage, fb_stages *stages,
                             bool *explained) {
    fb_trial *trial = a->trial;
    double distances[2];
    *explained = true;
    if (!show(a, stage, stage))
        return FB_OK;
    for (size_t turn = 0; turn < 2; turn++) {
        FB_TRY(fb_trial_refresh(trial));
        if (fb_test_sizes(trial).excess < 2.0)
            return FB_OK;
        distances[turn] = distance(trial);
        exchange(a);
    }
    if (distances[1] < distances[0] - 0.1) /* the nearer one first */
        exchange(a);
    for (size_t turn = 0; turn < 2; turn++) {
        found f = {0};
        FB_TRY(fb_trial_refresh(trial));
        FB_TRY(search_stage(trial, search, &f));
        *explained = f.named && f.complete;
        if (*explained) {
            snprintf(stages->names[stage], sizeof stages->names[stage], "%s", f.filter->best.words);
            fb_filter_say(f.filter, stages->words[stage], sizeof stages->words[stage]);
            return go_on_from(a, &f.filter->best);
        }
        exchange(a);
    }
    return FB_OK;
}

fb_status fb_judge_stages(fb_trial *trial, fb_search *search, fb_stages *stages) {
    aside a;
    *stages = (fb_stages){.complete = true};
    FB_TRY(put_aside(trial, &a));
    fb_status status = FB_OK;
    for (size_t i = 0; i < FB_NUM_STAGES && status == FB_OK && stages->complete; i++)
        status = judge_stage(&a, search, i, stages, &stages->complete);
    show(&a, 0, FB_NUM_STAGES - 1);
    for (size_t i = 0; i < trial->num_parts; i++)
        if (a.outs[i]) {
            trial->parts[i].m.out = a.outs[i];
            trial->parts[i].m.lse = a.lses[i];
        }
    return status == FB_OK ? fb_trial_refresh(trial) : status;
}

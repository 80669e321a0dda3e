#include "oracle/verdict.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/judging.h"
#include "oracle/statistics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

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
static bool is_touched(const fb_judging *v, size_t tensor) {
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
static void excuse(fb_judging *v) {
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
static const char *stage_words(const fb_judging *v, const fb_trial_tensor *t) {
    for (size_t i = fb_stage_of(t) + 1; i-- > 0;)
        if (v->stages.words[i][0])
            return v->stages.words[i];
    return v->words;
}

static fb_status add_finding(fb_report *report, const fb_judging *v, size_t tensor) {
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

/* Of a verdict that is named. */
static void say_named(const fb_judging *v, char *words, size_t size) {
    snprintf(words, size, "%.600s%.300s%s", v->words, v->second,
             v->complete || v->second[0] ? "" : "; not all is explained");
}

/* The verdict in one line. */
static void say(fb_report *report, const fb_judging *v) {
    fb_trial *trial = v->trial;
    char words[400];
    size_t tensor;
    if (v->not_finite && fb_find_not_finite(trial, &tensor, words, sizeof words))
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

fb_status fb_report_trial(fb_report *report, fb_trial *trial) {
    fb_judging v = {.trial = trial};
    size_t judged = 0;
    trial->truths = report->truths;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        judged += trial->tensors[i].value != NULL;
        if (!trial->tensors[i].view && trial->tensors[i].required)
            FB_TRY(fb_report_missing(report, trial->tensors[i].name));
    }
    if (judged)
        FB_TRY(fb_judge_trial(&v, fb_candidate_arithmetic(report->candidate)));
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
    fb_judging v = {.trial = trial};
    size_t tensor;
    words[0] = '\0';
    FB_TRY(fb_judge_trial(&v, said));
    if (!fb_find_not_finite(trial, &tensor, words, size) && !v.passed && v.named)
        say_named(&v, words, size);
    return FB_OK;
}

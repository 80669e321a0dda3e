#include "oracle/report.h"

#include "base/error.h"
#include "base/half.h"
#include "base/memory.h"
#include "oracle/judge.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fb_report_release(fb_report *report) {
    for (size_t i = 0; i < report->num_unjudged; i++)
        fb_free(report->unjudged[i]);
    fb_free(report->unjudged);
    for (size_t i = 0; i < report->num_missing; i++)
        fb_free(report->missing[i]);
    fb_free(report->missing);
    report->missing = NULL;
    report->num_missing = 0;
    fb_free(report->findings);
    free(report->text);
    free(report->words);
    fb_buffer_free(&report->members);
    fb_free(report->json);
    report->unjudged = NULL;
    report->findings = NULL;
    report->text = report->json = report->words = NULL;
    report->num_unjudged = report->num_findings = 0;
}

void fb_report_destroy(fb_report *report) {
    if (!report)
        return;
    fb_report_release(report);
    fb_free(report);
}

fb_status fb_report_add(fb_report *report, const fb_finding *finding) {
    fb_finding *grown = NULL;
    FB_TRY(fb_alloc(report->num_findings + 1, sizeof *grown, "report", &grown));
    if (report->num_findings)
        memcpy(grown, report->findings, report->num_findings * sizeof *grown);
    grown[report->num_findings] = *finding;
    fb_status status = fb_finding_say(&grown[report->num_findings]);
    if (status) {
        fb_free(grown);
        return status;
    }
    fb_free(report->findings);
    report->findings = grown;
    report->num_findings++;
    if (!finding->passed)
        report->outcome = FB_FAILED;
    return FB_OK;
}

static bool same_bits(const float *a, const float *b, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (fb_f32_to_bits(a[i]) != fb_f32_to_bits(b[i]) && !(isnan(a[i]) && isnan(b[i])))
            return false;
    return true;
}

static void judge_ours(const fb_claim *claim, const double *truth, size_t count,
                       fb_finding *finding) {
    finding->errors = fb_errors_measure(claim->ours, truth, count);
    double ulp = fb_spacing_at(fb_largest_finite(truth, count));
    switch (claim->rule) {
    case FB_BOUND_FILE:
        finding->bound = finding->file_errors.max_abs + fmax(ulp, claim->score_effect);
        finding->file_bound = finding->bound;
        finding->passed = finding->errors.max_abs <= finding->bound;
        break;
    case FB_BOUND_ABSOLUTE:
        finding->bound = claim->tolerance;
        finding->passed = finding->errors.max_abs <= finding->bound;
        break;
    case FB_BOUND_BITS:
        finding->passed = claim->file && same_bits(claim->ours, claim->file, count);
        break;
    }
    if (finding->errors.worst < count)
        finding->value = (double)claim->ours[finding->errors.worst];
}

/* If scores are large, or few, a file's result may be right by luck. Nobody has to be closer to the
 * truth than a plain implementation in float32 plus two ulps. */
static void grant_plain_error(const fb_claim *claim, size_t count, fb_finding *finding) {
    if (claim->rule != FB_BOUND_FILE || !claim->plain || finding->precision != FB_F32)
        return;
    double ulp = fb_spacing_at(fb_largest_finite(claim->truth, count));
    finding->bound = fmax(finding->bound, finding->plain_error + 2.0 * ulp);
    finding->passed = finding->errors.max_abs <= finding->bound;
}

/* The file's own result must be right, because its error widens the bound of ours. */
static fb_status judge_file(const fb_claim *claim, fb_finding *finding) {
    fb_finding judged = {.precision = claim->file_precision};
    FB_TRY(fb_judge_values(claim, claim->file, &judged));
    finding->precision = judged.precision;
    finding->plain_error = judged.plain_error;
    finding->ratio = judged.ratio;
    grant_plain_error(claim, fb_dims_count(&claim->shape), finding);
    if (judged.passed)
        return FB_OK;
    char index[128];
    fb_dims_index(&claim->shape, judged.errors.worst, index, sizeof index);
    snprintf(finding->note, sizeof finding->note,
             "the file's own result is wrong: %.9g at %s, error %.3g where %.3g is allowed; %.260s",
             judged.value, index, judged.errors.max_abs, judged.bound, judged.note);
    finding->file_failed = true;
    finding->passed = false;
    return FB_OK;
}

/* The truth of a claim: its own, or the file's result. */
static fb_status claimed_truth(const fb_claim *claim, size_t count, double **widened,
                               const double **truth) {
    *truth = claim->truth;
    if (*truth)
        return FB_OK;
    FB_TRY(fb_alloc(count, sizeof **widened, claim->tensor, widened));
    for (size_t i = 0; i < count; i++)
        (*widened)[i] = (double)claim->file[i];
    *truth = *widened;
    return FB_OK;
}

fb_status fb_report_claim(fb_report *report, const fb_claim *claim) {
    const fb_tensor_view *theirs =
        report->candidate ? fb_candidate_find(report->candidate, claim->tensor) : NULL;
    if (report->candidate && !theirs)
        return fb_report_missing(report, claim->tensor);
    size_t count = fb_dims_count(&claim->shape);
    fb_finding finding = {.shape = claim->shape, .rule = claim->rule};
    snprintf(finding.tensor, sizeof finding.tensor, "%s", claim->tensor);
    double *widened = NULL;
    const double *truth = NULL;
    FB_TRY(claimed_truth(claim, count, &widened, &truth));
    fb_claim judged = *claim;
    judged.truth = truth;
    finding.has_file = claim->file && claim->truth;
    if (finding.has_file)
        finding.file_errors = fb_errors_measure(claim->file, truth, count);
    fb_status status = FB_OK;
    if (theirs) {
        finding.of_candidate = true;
        finding.precision = fb_candidate_precision(report->candidate, theirs, claim->is_lse);
        status = fb_judge_tensor(&judged, theirs, &finding);
    } else {
        judge_ours(&judged, truth, count, &finding);
        if (finding.has_file && claim->rule != FB_BOUND_BITS)
            status = judge_file(&judged, &finding);
    }
    if (status == FB_OK && finding.errors.worst < count)
        finding.truth = truth[finding.errors.worst];
    if (status == FB_OK && report->verbose && claim->explain && finding.errors.worst < count)
        status = claim->explain(claim->context, finding.errors.worst, finding.detail,
                                sizeof finding.detail);
    fb_free(widened);
    return status == FB_OK ? fb_report_add(report, &finding) : status;
}

fb_status fb_report_decisions(fb_report *report, const char *tensor, fb_dims shape,
                              const int32_t *ours, const int32_t *file) {
    if (report->candidate) /* candidates have values, not decisions */
        return FB_OK;
    fb_finding finding = {.shape = shape, .decisions = true, .rule = FB_BOUND_BITS};
    snprintf(finding.tensor, sizeof finding.tensor, "%s", tensor);
    for (size_t i = fb_dims_count(&shape); i-- > 0;)
        if (ours[i] != file[i]) {
            finding.differing++;
            finding.errors.worst = i; /* the first one, in the end */
            finding.value = (double)ours[i];
            finding.truth = (double)file[i];
        }
    finding.passed = finding.differing == 0;
    return fb_report_add(report, &finding);
}

void fb_report_skip(fb_report *report, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(report->reason, sizeof report->reason, format, arguments);
    va_end(arguments);
    report->outcome = FB_SKIPPED;
}

static fb_status copy_text(const char *text, char **copy) {
    size_t size = strlen(text) + 1;
    FB_TRY(fb_alloc(size, 1, "report", copy));
    memcpy(*copy, text, size);
    return FB_OK;
}

fb_status fb_report_missing(fb_report *report, const char *tensor) {
    char **grown = NULL;
    FB_TRY(fb_alloc(report->num_missing + 1, sizeof *grown, "report", &grown));
    if (report->num_missing)
        memcpy(grown, report->missing, report->num_missing * sizeof *grown);
    fb_free(report->missing);
    report->missing = grown;
    FB_TRY(copy_text(tensor, &report->missing[report->num_missing]));
    report->num_missing++;
    return FB_OK;
}

fb_status fb_report_end_candidate(fb_report *report) {
    fb_candidate *candidate = report->candidate;
    if (report->outcome == FB_PASSED && report->num_missing && !report->partial)
        report->outcome = FB_INCOMPLETE;
    report->candidate = NULL;
    size_t count = fb_candidate_count(candidate);
    FB_TRY(fb_alloc(count, sizeof *report->unjudged, "report", &report->unjudged));
    for (size_t i = 0; i < count; i++) {
        const char *name = fb_candidate_unused(candidate, i);
        if (!name)
            continue;
        FB_TRY(copy_text(name, &report->unjudged[report->num_unjudged]));
        report->num_unjudged++;
    }
    return FB_OK;
}

/* --- accessors -------------------------------------------------------------------------------- */

const char *fb_outcome_name(fb_outcome outcome) {
    switch (outcome) {
    case FB_PASSED:
        return "passed";
    case FB_FAILED:
        return "failed";
    case FB_SKIPPED:
        return "skipped";
    case FB_INCOMPLETE:
        return "incomplete";
    }
    return "unknown";
}

fb_outcome fb_report_outcome(const fb_report *report) {
    return report->outcome;
}

const char *fb_report_kind(const fb_report *report) {
    return report->kind;
}

const char *fb_report_name(const fb_report *report) {
    return report->name;
}

const char *fb_report_path(const fb_report *report) {
    return report->path;
}

const char *fb_report_reason(const fb_report *report) {
    return report->reason;
}

size_t fb_report_num_findings(const fb_report *report) {
    return report->num_findings;
}

const fb_finding *fb_report_finding(const fb_report *report, size_t index) {
    return index < report->num_findings ? &report->findings[index] : NULL;
}

size_t fb_report_num_unjudged(const fb_report *report) {
    return report->num_unjudged;
}

size_t fb_report_num_missing(const fb_report *report) {
    return report->num_missing;
}

const char *fb_report_missing_result(const fb_report *report, size_t index) {
    return index < report->num_missing ? report->missing[index] : NULL;
}

const char *fb_report_unjudged(const fb_report *report, size_t index) {
    return index < report->num_unjudged ? report->unjudged[index] : NULL;
}

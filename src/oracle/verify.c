/* fb_verify_file. */
#include "base/error.h"
#include "base/memory.h"
#include "base/point.h"
#include "base/sized.h"
#include "oracle/kinds.h"
#include "oracle/truth_cache.h"

#include <flashblock/runtime.h>

#include <stdio.h>

FB_SIZED_ENDS_WITH(fb_verify_options, truths);

void fb_verify_options_init_sized(fb_verify_options *options, size_t struct_size) {
    const fb_verify_options defaults = {0};
    fb_sized_init(options, struct_size, &defaults, sizeof defaults);
}

static fb_status recompute_kind(const fb_kind *kind, fb_case *c, fb_report *report) {
    FB_TRY(fb_case_check_params(c, kind->params));
    FB_TRY(fb_case_check_tensors(c, kind->tensors));
    return kind->recompute(c, report);
}

static fb_status recompute(fb_case *c, fb_report *report) {
    const fb_kind *kind = fb_kind_of(c);
    if (!*report->kind)
        fb_report_skip(report, "no kind in the metadata: not a case");
    else if (!kind)
        fb_report_skip(report, "kind '%s' is not known to this version", report->kind);
    else if (!kind->recompute)
        fb_report_skip(report, "inputs of other cases");
    else
        return recompute_kind(kind, c, report);
    return FB_OK;
}

/* A case that was not skipped has findings. */
static fb_status check_findings(const fb_report *report) {
    if (report->num_findings > 0 || report->outcome != FB_PASSED)
        return FB_OK;
    if (report->candidate)
        return fb_fail(FB_ERROR_FORMAT,
                       "none of the candidate's %zu tensors has the name of a result of %s",
                       fb_candidate_count(report->candidate), report->path);
    return fb_fail(FB_ERROR_FORMAT, "%s: there is nothing to check in it", report->path);
}

static fb_status verify(const char *path, fb_report *report) {
    fb_case *c = NULL;
    FB_TRY(fb_case_open(path, &c));
    snprintf(report->kind, sizeof report->kind, "%s", fb_case_kind(c));
    snprintf(report->name, sizeof report->name, "%s", fb_case_name(c));
    if (report->candidate)
        fb_candidate_match(report->candidate, c);
    fb_status status = recompute(c, report);
    if (status == FB_OK)
        status = check_findings(report);
    fb_case_close(c);
    return status;
}

/* Fills in all that is known before the file is opened. */
static fb_status begin(const char *path, const fb_verify_options *options, fb_report *report) {
    fb_isa isa;
    FB_TRY(fb_isa_current(&isa));
    report->isa = fb_isa_name(isa);
    report->verbose = options->details;
    report->partial = options->partial;
    snprintf(report->path, sizeof report->path, "%s", path);
    snprintf(report->name, sizeof report->name, "%s", path);
    report->candidate = options->candidate;
    report->of_candidate = options->candidate != NULL;
    const char *file = report->candidate ? fb_candidate_path(report->candidate) : NULL;
    snprintf(report->candidate_path, sizeof report->candidate_path, "%s", file ? file : "");
    return FB_OK;
}

static fb_status fill(const char *path, const fb_verify_options *options, fb_report *report) {
    FB_TRY(begin(path, options, report));
    if (options->truths)
        FB_TRY(fb_truth_cache_open(options->truths, &report->truths));
    fb_status status = verify(path, report);
    fb_truth_cache_close(report->truths);
    report->truths = NULL;
    if (status == FB_ERROR_MEMORY) /* says nothing about the file */
        return fb_fail_in(status, "%s", path);
    if (status != FB_OK) {
        report->outcome = FB_FAILED;
        snprintf(report->reason, sizeof report->reason, "%s", fb_error_message());
    }
    return report->candidate ? fb_report_end_candidate(report) : FB_OK;
}

static fb_status verify_file(const char *path, const fb_verify_options *options,
                             fb_report **report) {
    fb_verify_options own = {0};
    fb_report *made = NULL;
    if (options)
        FB_TRY(fb_sized_read(&own, sizeof own, options, "options"));
    FB_TRY(fb_sized_unused(own.unused, sizeof own.unused, "options"));
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "report", &made));
    fb_status status = fill(path, &own, made);
    if (status != FB_OK) {
        fb_report_destroy(made);
        return status;
    }
    *report = made;
    return FB_OK;
}

fb_status fb_verify_file(const char *path, const fb_verify_options *options, fb_report **report) {
    fb_point before = fb_point_begin();
    fb_status status = verify_file(path, options, report);
    fb_point_end(before);
    return status;
}

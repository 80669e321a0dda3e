#include "oracle/report_text.h"

#include "base/error.h"
#include "base/point.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *capital_name(fb_outcome outcome) {
    return outcome == FB_PASSED       ? "PASS"
           : outcome == FB_FAILED     ? "FAIL"
           : outcome == FB_INCOMPLETE ? "INCOMPLETE"
                                      : "SKIP";
}

/* How much of its bound a finding uses. */
static double severity(const fb_finding *finding) {
    if (!finding->passed)
        return INFINITY;
    return finding->bound > 0.0 ? finding->errors.max_abs / finding->bound : 0.0;
}

static bool is_worse(const fb_finding *a, const fb_finding *b) {
    if (severity(a) != severity(b))
        return severity(a) > severity(b);
    return a->errors.max_abs > b->errors.max_abs;
}

static const fb_finding *worst_of(const fb_report *report) {
    const fb_finding *worst = NULL;
    for (size_t i = 0; i < report->num_findings; i++)
        if (!worst || is_worse(&report->findings[i], worst))
            worst = &report->findings[i];
    return worst;
}

/* --- columns ---------------------------------------------------------------------------------- */

static void format_shape(const fb_dims *shape, char *text, size_t size) {
    size_t used = 0;
    snprintf(text, size, "-");
    for (size_t i = 0; i < shape->ndim && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%zu", i ? "x" : "", shape->sizes[i]);
}

static void put_isa(FILE *file, const fb_report_style *style, const char *isa) {
    if (style->isa)
        fprintf(file, "%-7s ", isa);
}

static void put_number(FILE *file, bool there, const char *format, double value) {
    char text[32];
    if (there)
        snprintf(text, sizeof text, format[0] == 'e' ? "%.2e" : "%.3g", value);
    fprintf(file, " %9s", there ? text : "-");
}

static void put_bound(FILE *file, const fb_finding *finding) {
    if (finding->decisions)
        fprintf(file, " %9s", "exact");
    else if (finding->rule == FB_BOUND_BITS && !finding->of_candidate)
        fprintf(file, " %9s", "bits");
    else
        put_number(file, true, "e", finding->bound);
}

static void put_errors(FILE *file, const fb_errors *errors, bool there) {
    put_number(file, there, "e", errors->max_abs);
    put_number(file, there, "e", errors->max_rel);
    put_number(file, there, "g", errors->max_ulp);
    put_number(file, there, "g", errors->mean_ulp);
}

void fb_report_write_heading(FILE *file, const fb_report_style *style) {
    put_isa(file, style, "isa");
    fprintf(file, "%-22s %-28s %-20s %-14s %9s %9s %9s %9s %9s %9s\n", "kind", "name", "tensor",
            "shape", "max abs", "max rel", "max ulp", "mean ulp", "file abs", "bound");
}

/* Tensor, shape, errors, the file's error, bound. */
static void put_finding_columns(FILE *file, const fb_finding *finding) {
    static const fb_finding none = {.decisions = true};
    const fb_finding *f = finding ? finding : &none;
    char shape[128], tensor[sizeof f->tensor];
    format_shape(&f->shape, shape, sizeof shape);
    fprintf(file, " %-20s %-14s",
            finding ? fb_finding_printable(f->tensor, tensor, sizeof tensor) : "-", shape);
    put_errors(file, &f->errors, !f->decisions);
    put_number(file, f->has_file, "e", f->file_errors.max_abs);
    if (finding)
        put_bound(file, f);
    else
        fprintf(file, " %9s", "-");
}

static void put_failure(FILE *file, const fb_finding *finding) {
    fprintf(file, "    ");
    fb_finding_write_text(file, finding->tensor);
    if (finding->decisions)
        fprintf(file, ": %zu of %zu differ, the first", finding->differing,
                fb_dims_count(&finding->shape));
    if (!finding->file_failed)
        fb_finding_write_worst(file, finding);
    if (finding->note[0]) {
        fprintf(file, ": ");
        fb_finding_write_text(file, finding->note);
    }
    fputc('\n', file);
}

static void put_detail(FILE *file, const fb_finding *finding) {
    fprintf(file, "      worst");
    fb_finding_write_worst(file, finding);
    fputc('\n', file);
    if (finding->detail[0]) {
        fprintf(file, "      ");
        fb_finding_write_text(file, finding->detail);
        fputc('\n', file);
    }
}

static void put_tensor(FILE *file, const fb_report_style *style, const fb_finding *finding) {
    put_isa(file, style, "");
    fprintf(file, "%-22s %-28s", "", "");
    put_finding_columns(file, finding);
    fprintf(file, "  %s\n", finding->passed ? "pass" : "fail");
    if (finding->errors.max_abs > 0.0 || finding->differing)
        put_detail(file, finding);
}

void fb_report_write_trajectory(FILE *file, const fb_report *report) {
    if (report->words) {
        fputs(report->words, file);
        return;
    }
    fprintf(file, "trajectory ");
    fb_finding_write_text(file, report->path);
    fprintf(file, "\n%s: ", capital_name(report->outcome));
    fb_finding_write_text(file, report->reason);
    fputc('\n', file);
}

void fb_report_write_case(FILE *file, const fb_report_style *style, const fb_report *report) {
    char kind[sizeof report->kind], name[sizeof report->name], reason[sizeof report->reason];
    put_isa(file, style, report->isa);
    fprintf(file, "%-22s %-28s",
            report->kind[0] ? fb_finding_printable(report->kind, kind, sizeof kind) : "-",
            fb_finding_printable(report->name, name, sizeof name));
    put_finding_columns(file, worst_of(report));
    fprintf(file, "  %s%s%s\n", capital_name(report->outcome), report->reason[0] ? ": " : "",
            fb_finding_printable(report->reason, reason, sizeof reason));
    for (size_t i = 0; i < report->num_findings; i++) {
        if (style->verbose)
            put_tensor(file, style, &report->findings[i]);
        if (!report->findings[i].passed)
            put_failure(file, &report->findings[i]);
    }
}

/* --- candidates ------------------------------------------------------------------------------- */

static void put_judged(FILE *file, const fb_report_style *style, const fb_finding *finding) {
    char name[sizeof finding->tensor], shape[128];
    format_shape(&finding->shape, shape, sizeof shape);
    fprintf(file, "%-24s %-5s %-12s", fb_finding_printable(finding->tensor, name, sizeof name),
            fb_dtype_name(finding->precision), shape);
    put_errors(file, &finding->errors, true);
    put_number(file, true, "e", finding->plain_error);
    put_number(file, true, "g", finding->ratio);
    put_number(file, true, "e", finding->bound);
    fprintf(file, "  %s\n", finding->passed ? "PASS" : "FAIL");
    if (!finding->passed)
        put_failure(file, finding);
    else if (finding->note[0]) {
        fprintf(file, "    ");
        fb_finding_write_text(file, finding->note);
        fputc('\n', file);
    }
    if (style->verbose && finding->errors.max_abs > 0.0)
        put_detail(file, finding);
}

/* The line on the case and the candidate. */
static void put_subject(FILE *file, const fb_report *report) {
    if (report->path[0])
        fprintf(file, "case %s (", report->path);
    else
        fprintf(file, "%s (", report->name);
    fb_finding_write_text(file, report->kind);
    fprintf(file, "), candidate ");
    fb_finding_write_text(file, report->candidate_path[0] ? report->candidate_path : "in memory");
    fputc('\n', file);
}

/* The required results that are not there, at most eight by name. */
static void put_missing(FILE *file, const fb_report *report) {
    if (!report->num_missing || report->partial)
        return;
    fprintf(file, "missing:");
    for (size_t i = 0; i < report->num_missing && i < 8; i++)
        fprintf(file, " %s", report->missing[i]);
    fprintf(file, "%s\n", report->num_missing > 8 ? " ..." : "");
}

void fb_report_write_candidate(FILE *file, const fb_report_style *style, const fb_report *report) {
    put_subject(file, report);
    fprintf(file, "%-24s %-5s %-12s %9s %9s %9s %9s %9s %9s %9s\n", "tensor", "in", "shape",
            "max abs", "max rel", "max ulp", "mean ulp", "noise", "ratio", "bound");
    for (size_t i = 0; i < report->num_findings; i++)
        put_judged(file, style, &report->findings[i]);
    for (size_t i = 0; i < report->num_unjudged; i++) {
        fprintf(file, "warning: the case has no result called '");
        fb_finding_write_text(file, report->unjudged[i]);
        fprintf(file, "': not judged\n");
    }
    put_missing(file, report);
    fprintf(file, "%s", capital_name(report->outcome));
    if (report->outcome == FB_INCOMPLETE)
        fprintf(file, ", what is there is right");
    if (report->reason[0]) {
        fprintf(file, ": ");
        fb_finding_write_text(file, report->reason);
    }
    fputc('\n', file);
}

static fb_status write_text(fb_report *report, const char **text) {
    const fb_report_style style = {.verbose = report->verbose};
    size_t size = 0;
    free(report->text);
    report->text = NULL;
    FILE *file = open_memstream(&report->text, &size);
    if (file && strcmp(report->kind, "trajectory") == 0) {
        fb_report_write_trajectory(file, report);
    } else if (file && report->of_candidate) {
        fb_report_write_candidate(file, &style, report);
    } else if (file) {
        fb_report_write_heading(file, &style);
        fb_report_write_case(file, &style, report);
    }
    if (!file || fclose(file) != 0)
        return fb_fail(FB_ERROR_MEMORY, "no memory for a report's text");
    *text = report->text;
    return FB_OK;
}

fb_status fb_report_text(fb_report *report, const char **text) {
    fb_point before = fb_point_begin();
    fb_status status = write_text(report, text);
    fb_point_end(before);
    return status;
}

/* What `flashblock verify` shows: text and JSON. */
#include "cli/verify/verify_output.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Text that files hold may hold anything; here it is one line. */
static const char *printable(const char *text, char *copy, size_t size) {
    snprintf(copy, size, "%s", text);
    for (char *c = copy; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    return copy;
}

static void print_text(const char *text) {
    char copy[1200];
    fputs(printable(text, copy, sizeof copy), stdout);
}

static const char *outcome_name(fb_outcome outcome) {
    return outcome == FB_PASSED ? "PASS" : outcome == FB_FAILED ? "FAIL" : "SKIP";
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

static void print_isa(const fb_verify_style *style, const char *isa) {
    if (style->isa)
        printf("%-7s ", isa);
}

static void print_number(bool there, const char *format, double value) {
    char text[32];
    if (there)
        snprintf(text, sizeof text, format[0] == 'e' ? "%.2e" : "%.3g", value);
    printf(" %9s", there ? text : "-");
}

static void print_bound(const fb_finding *finding) {
    if (finding->decisions)
        printf(" %9s", "exact");
    else if (finding->rule == FB_BOUND_BITS && !finding->of_candidate)
        printf(" %9s", "bits");
    else
        print_number(true, "e", finding->bound);
}

static void print_errors(const fb_errors *errors, bool there) {
    print_number(there, "e", errors->max_abs);
    print_number(there, "e", errors->max_rel);
    print_number(there, "g", errors->max_ulp);
    print_number(there, "g", errors->mean_ulp);
}

void fb_verify_print_heading(const fb_verify_style *style) {
    print_isa(style, "isa");
    printf("%-22s %-28s %-20s %-14s %9s %9s %9s %9s %9s %9s\n", "kind", "name", "tensor", "shape",
           "max abs", "max rel", "max ulp", "mean ulp", "file abs", "bound");
}

/* Tensor, shape, errors, the file's error, bound. */
static void print_finding_columns(const fb_finding *finding) {
    static const fb_finding none = {.decisions = true};
    const fb_finding *f = finding ? finding : &none;
    char shape[128], tensor[sizeof f->tensor];
    format_shape(&f->shape, shape, sizeof shape);
    printf(" %-20s %-14s", finding ? printable(f->tensor, tensor, sizeof tensor) : "-", shape);
    print_errors(&f->errors, !f->decisions);
    print_number(f->has_file, "e", f->file_errors.max_abs);
    if (finding)
        print_bound(f);
    else
        printf(" %9s", "-");
}

static void print_worst_element(const fb_finding *finding) {
    char index[160];
    if (finding->errors.worst >= fb_dims_count(&finding->shape))
        return;
    fb_dims_index(&finding->shape, finding->errors.worst, index, sizeof index);
    printf(" at [%s]: %.9g, expected %.17g", index, finding->value, finding->truth);
}

static void print_failure(const fb_finding *finding) {
    printf("    ");
    print_text(finding->tensor);
    if (finding->decisions)
        printf(": %zu of %zu differ, the first", finding->differing,
               fb_dims_count(&finding->shape));
    if (!finding->file_failed)
        print_worst_element(finding);
    if (finding->note[0]) {
        printf(": ");
        print_text(finding->note);
    }
    putchar('\n');
}

static void print_detail(const fb_finding *finding) {
    printf("      worst");
    print_worst_element(finding);
    putchar('\n');
    if (finding->detail[0]) {
        printf("      ");
        print_text(finding->detail);
        putchar('\n');
    }
}

static void print_tensor(const fb_verify_style *style, const fb_finding *finding) {
    print_isa(style, "");
    printf("%-22s %-28s", "", "");
    print_finding_columns(finding);
    printf("  %s\n", finding->passed ? "pass" : "fail");
    if (finding->errors.max_abs > 0.0 || finding->differing)
        print_detail(finding);
}

void fb_verify_print_case(const fb_verify_style *style, const fb_report *report, const char *isa) {
    char kind[sizeof report->kind], name[sizeof report->name], reason[sizeof report->reason];
    print_isa(style, isa);
    printf("%-22s %-28s", report->kind[0] ? printable(report->kind, kind, sizeof kind) : "-",
           printable(report->name, name, sizeof name));
    print_finding_columns(worst_of(report));
    printf("  %s%s%s\n", outcome_name(report->outcome), report->reason[0] ? ": " : "",
           printable(report->reason, reason, sizeof reason));
    for (size_t i = 0; i < report->num_findings; i++) {
        if (style->verbose)
            print_tensor(style, &report->findings[i]);
        if (!report->findings[i].passed)
            print_failure(&report->findings[i]);
    }
}

/* --- candidates ------------------------------------------------------------------------------- */

static void print_judged(const fb_verify_style *style, const fb_finding *finding) {
    char name[sizeof finding->tensor], shape[128];
    format_shape(&finding->shape, shape, sizeof shape);
    printf("%-24s %-5s %-12s", printable(finding->tensor, name, sizeof name),
           fb_dtype_name(finding->precision), shape);
    print_errors(&finding->errors, true);
    print_number(true, "e", finding->plain_error);
    print_number(true, "g", finding->ratio);
    print_number(true, "e", finding->bound);
    printf("  %s\n", finding->passed ? "PASS" : "FAIL");
    if (!finding->passed)
        print_failure(finding);
    else if (finding->note[0]) {
        printf("    ");
        print_text(finding->note);
        putchar('\n');
    }
    if (style->verbose && finding->errors.max_abs > 0.0)
        print_detail(finding);
}

void fb_verify_print_candidate(const fb_verify_style *style, const fb_report *report,
                               const char *path) {
    printf("case %s (", report->path);
    print_text(report->kind);
    printf("), candidate ");
    print_text(path);
    printf("\n%-24s %-5s %-12s %9s %9s %9s %9s %9s %9s %9s\n", "tensor", "in", "shape", "max abs",
           "max rel", "max ulp", "mean ulp", "plain abs", "ratio", "bound");
    for (size_t i = 0; i < report->num_findings; i++)
        print_judged(style, &report->findings[i]);
    for (size_t i = 0; i < fb_candidate_count(report->candidate); i++) {
        const char *unused = fb_candidate_unused(report->candidate, i);
        if (!unused)
            continue;
        printf("warning: the case has no result called '");
        print_text(unused);
        printf("': not judged\n");
    }
    printf("%s", outcome_name(report->outcome));
    if (report->reason[0]) {
        printf(": ");
        print_text(report->reason);
    }
    putchar('\n');
}

/* --- JSON ------------------------------------------------------------------------------------- */

json_t *fb_verify_json_text(const char *text) {
    char copy[1200];
    json_t *value = json_string(text);
    if (value)
        return value;
    snprintf(copy, sizeof copy, "%s", text); /* not UTF-8 */
    for (char *c = copy; *c; c++)
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    return json_string(copy);
}

/* JSON has neither infinities nor NaN: they are strings. */
static json_t *number(double value) {
    if (isfinite(value))
        return json_real(value);
    return json_string(isnan(value) ? "nan" : value > 0.0 ? "inf" : "-inf");
}

static json_t *errors_json(const fb_errors *errors) {
    return json_pack("{s:o, s:o, s:o, s:o}", "max_abs", number(errors->max_abs), "max_rel",
                     number(errors->max_rel), "max_ulp", number(errors->max_ulp), "mean_ulp",
                     number(errors->mean_ulp));
}

static const char *rule_name(const fb_finding *finding) {
    if (finding->decisions)
        return "exact";
    if (finding->of_candidate)
        return "candidate";
    return finding->rule == FB_BOUND_FILE       ? "file"
           : finding->rule == FB_BOUND_ABSOLUTE ? "absolute"
                                                : "bits";
}

static json_t *indices_json(const fb_dims *shape, size_t flat) {
    json_t *indices = json_array();
    for (size_t i = shape->ndim; i-- > 0;) {
        json_array_insert_new(indices, 0, json_integer((json_int_t)(flat % shape->sizes[i])));
        flat /= shape->sizes[i];
    }
    return indices;
}

static json_t *shape_json(const fb_dims *shape) {
    json_t *sizes = json_array();
    for (size_t i = 0; i < shape->ndim; i++)
        json_array_append_new(sizes, json_integer((json_int_t)shape->sizes[i]));
    return sizes;
}

static json_t *finding_json(const fb_finding *f) {
    json_t *value = errors_json(&f->errors);
    json_object_set_new(value, "tensor", fb_verify_json_text(f->tensor));
    json_object_set_new(value, "shape", shape_json(&f->shape));
    json_object_set_new(value, "passed", json_boolean(f->passed));
    json_object_set_new(value, "rule", json_string(rule_name(f)));
    json_object_set_new(value, "bound", number(f->bound));
    json_object_set_new(value, "file", f->has_file ? errors_json(&f->file_errors) : json_null());
    json_object_set_new(value, "file_failed", json_boolean(f->file_failed));
    json_object_set_new(value, "decisions", json_boolean(f->decisions));
    json_object_set_new(value, "differing", json_integer((json_int_t)f->differing));
    json_object_set_new(value, "precision", json_string(fb_dtype_name(f->precision)));
    json_object_set_new(value, "plain_error", number(f->plain_error));
    json_object_set_new(value, "ratio", number(f->ratio));
    json_object_set_new(value, "note", fb_verify_json_text(f->note));
    json_object_set_new(value, "detail", fb_verify_json_text(f->detail));
    bool found = f->errors.worst < fb_dims_count(&f->shape);
    json_object_set_new(value, "worst",
                        found ? json_pack("{s:o, s:o, s:o}", "index",
                                          indices_json(&f->shape, f->errors.worst), "value",
                                          number(f->value), "truth", number(f->truth))
                              : json_null());
    return value;
}

json_t *fb_verify_case_json(const fb_report *report, const char *isa) {
    static const char *const outcomes[] = {"passed", "failed", "skipped"};
    json_t *findings = json_array();
    for (size_t i = 0; i < report->num_findings; i++)
        json_array_append_new(findings, finding_json(&report->findings[i]));
    return json_pack("{s:o, s:o, s:o, s:s, s:o, s:s, s:o}", "path",
                     fb_verify_json_text(report->path), "kind", fb_verify_json_text(report->kind),
                     "name", fb_verify_json_text(report->name), "outcome",
                     outcomes[report->outcome], "reason", fb_verify_json_text(report->reason),
                     "isa", isa, "findings", findings);
}

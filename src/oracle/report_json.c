#include "oracle/report_json.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

json_t *fb_report_json_string(const char *text) {
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
    json_object_set_new(value, "tensor", fb_report_json_string(f->tensor));
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
    json_object_set_new(value, "note", fb_report_json_string(f->note));
    json_object_set_new(value, "detail", fb_report_json_string(f->detail));
    bool found = f->errors.worst < fb_dims_count(&f->shape);
    json_object_set_new(value, "worst",
                        found ? json_pack("{s:o, s:o, s:o}", "index",
                                          indices_json(&f->shape, f->errors.worst), "value",
                                          number(f->value), "truth", number(f->truth))
                              : json_null());
    return value;
}

json_t *fb_report_json_value(const fb_report *report) {
    json_t *findings = json_array();
    for (size_t i = 0; i < report->num_findings; i++)
        json_array_append_new(findings, finding_json(&report->findings[i]));
    return json_pack(
        "{s:o, s:o, s:o, s:s, s:o, s:s, s:o}", "path", fb_report_json_string(report->path), "kind",
        fb_report_json_string(report->kind), "name", fb_report_json_string(report->name), "outcome",
        fb_outcome_name(report->outcome), "reason", fb_report_json_string(report->reason), "isa",
        report->isa, "findings", findings);
}

fb_status fb_report_json(fb_report *report, const char **text) {
    json_t *value = fb_report_json_value(report);
    char *dumped = value ? json_dumps(value, JSON_INDENT(2)) : NULL;
    json_decref(value);
    if (!dumped)
        return fb_fail(FB_ERROR_MEMORY, "no memory for a report's JSON");
    free(report->json);
    *text = report->json = dumped;
    return FB_OK;
}

#include "oracle/report_json.h"

#include "base/error.h"
#include "base/memory.h"

#include <math.h>

/* JSON has neither infinities nor NaN: they are strings. */
static void put_number(fb_json_writer *w, const char *key, double value) {
    if (isfinite(value))
        fb_json_put_double(w, key, value);
    else
        fb_json_put_string(w, key, isnan(value) ? "nan" : value > 0.0 ? "inf" : "-inf");
}

/* Members of an object. */
static void put_errors(fb_json_writer *w, const fb_errors *errors) {
    put_number(w, "max_abs", errors->max_abs);
    put_number(w, "max_rel", errors->max_rel);
    put_number(w, "max_ulp", errors->max_ulp);
    put_number(w, "mean_ulp", errors->mean_ulp);
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

static void put_indices(fb_json_writer *w, const fb_dims *shape, size_t flat) {
    size_t inner = fb_dims_count(shape);
    fb_json_open_array(w, "index");
    for (size_t i = 0; i < shape->ndim; i++) {
        inner /= shape->sizes[i];
        fb_json_put_size(w, NULL, flat / inner % shape->sizes[i]);
    }
    fb_json_close_array(w);
}

static void put_worst(fb_json_writer *w, const fb_finding *f) {
    if (f->errors.worst >= fb_dims_count(&f->shape)) {
        fb_json_put_null(w, "worst");
        return;
    }
    fb_json_open_object(w, "worst");
    put_indices(w, &f->shape, f->errors.worst);
    put_number(w, "value", f->value);
    put_number(w, "truth", f->truth);
    fb_json_close_object(w);
}

static void put_file(fb_json_writer *w, const fb_finding *f) {
    if (!f->has_file) {
        fb_json_put_null(w, "file");
        return;
    }
    fb_json_open_object(w, "file");
    put_errors(w, &f->file_errors);
    fb_json_close_object(w);
}

static void put_shape(fb_json_writer *w, const fb_dims *shape) {
    fb_json_open_array(w, "shape");
    for (size_t i = 0; i < shape->ndim; i++)
        fb_json_put_size(w, NULL, shape->sizes[i]);
    fb_json_close_array(w);
}

static void put_finding(fb_json_writer *w, const fb_finding *f) {
    fb_json_open_object(w, NULL);
    put_errors(w, &f->errors);
    fb_json_put_text(w, "tensor", f->tensor);
    put_shape(w, &f->shape);
    fb_json_put_bool(w, "passed", f->passed);
    fb_json_put_string(w, "rule", rule_name(f));
    put_number(w, "bound", f->bound);
    put_file(w, f);
    fb_json_put_bool(w, "file_failed", f->file_failed);
    fb_json_put_bool(w, "decisions", f->decisions);
    fb_json_put_size(w, "differing", f->differing);
    fb_json_put_string(w, "precision", fb_dtype_name(f->precision));
    put_number(w, "plain_error", f->plain_error);
    put_number(w, "ratio", f->ratio);
    fb_json_put_text(w, "verdict", f->verdict);
    fb_json_put_text(w, "note", f->note);
    fb_json_put_text(w, "detail", f->detail);
    put_worst(w, f);
    fb_json_close_object(w);
}

void fb_report_put_json(fb_json_writer *w, const fb_report *report) {
    fb_json_open_object(w, NULL);
    fb_json_put_text(w, "path", report->path);
    fb_json_put_text(w, "kind", report->kind);
    fb_json_put_text(w, "name", report->name);
    fb_json_put_string(w, "outcome", fb_outcome_name(report->outcome));
    fb_json_put_text(w, "reason", report->reason);
    fb_json_put_string(w, "isa", report->isa);
    fb_json_open_array(w, "findings");
    for (size_t i = 0; i < report->num_findings; i++)
        put_finding(w, &report->findings[i]);
    fb_json_close_array(w);
    if (report->members.size)
        fb_json_put_raw(w, report->kind, (const char *)report->members.data, report->members.size);
    fb_json_close_object(w);
}

fb_status fb_report_json(fb_report *report, const char **text) {
    fb_buffer written = {0};
    fb_json_writer w = fb_json_writer_to(&written, FB_JSON_INDENTED);
    fb_report_put_json(&w, report);
    fb_status status = fb_json_finish(&w);
    if (status == FB_OK)
        status = fb_buffer_terminate(&written);
    if (status != FB_OK) {
        fb_buffer_free(&written);
        return status;
    }
    fb_free(report->json);
    *text = report->json = (char *)written.data;
    return FB_OK;
}

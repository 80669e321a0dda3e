#include "cli/trace/report_files.h"

#include "base/error.h"
#include "cli/generate/summary.h"
#include "io/file.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- CSV -------------------------------------------------------------------------------------- */

static fb_status put(fb_file_writer *writer, const char *format, ...) FB_PRINTF(2, 3);

static fb_status put(fb_file_writer *writer, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return fb_file_writer_put(writer, text, (size_t)length);
}

/* ",NUMBER", or "," where there is none. */
static fb_status put_number(fb_file_writer *writer, double number) {
    return isnan(number) ? put(writer, ",") : put(writer, ",%.9g", number);
}

static fb_status put_heads(fb_file_writer *writer, const fb_trace *trace, size_t index) {
    const fb_trace_step *step = fb_trace_step_at(trace, index);
    const fb_trace_head *record = fb_trace_heads_at(trace, index);
    for (size_t layer = 0; layer < trace->num_layers; layer++)
        for (size_t head = 0; head < trace->num_heads; head++, record++) {
            FB_TRY(put(writer, "%zu,%zu,%zu,%zu,%s,%zu,%zu,%zu,%zu,%zu", step->sequence,
                       step->block, step->context_length, step->denoising_step,
                       fb_reuse_action_name(step->action), step->dirty, step->masked,
                       step->accepted, layer, head));
            for (int value = 0; value < FB_TRACE_NUM_VALUES; value++)
                FB_TRY(put_number(writer, fb_trace_get(record, (fb_trace_value)value)));
            FB_TRY(put(writer, "\n"));
        }
    return FB_OK;
}

static fb_status put_csv(fb_file_writer *writer, const fb_trace_report *report) {
    FB_TRY(put(writer, "sequence,block,context_length,denoising_step,action,dirty,masked,accepted,"
                       "layer,head"));
    for (int value = 0; value < FB_TRACE_NUM_VALUES; value++)
        FB_TRY(put(writer, ",%s", fb_trace_value_name((fb_trace_value)value)));
    FB_TRY(put(writer, "\n"));
    for (size_t i = 0; i < report->trace->num_steps; i++)
        FB_TRY(put_heads(writer, report->trace, i));
    return FB_OK;
}

static fb_status put_tau_csv(fb_file_writer *writer, const fb_trace_report *report) {
    FB_TRY(put(writer, "tau,steps,reuses,error_mean,error_p10,error_median,error_p90,error_max,"
                       "error_all_steps,max_error\n"));
    for (size_t i = 0; i < report->num_taus; i++) {
        const fb_trace_tau *tau = &report->taus[i];
        const double numbers[] = {tau->error.mean, tau->error.p10, tau->error.median,
                                  tau->error.p90,  tau->error.max, tau->error_all,
                                  tau->max_error};
        FB_TRY(put(writer, "%zu,%zu,%zu", tau->tau, tau->steps, tau->reuses));
        for (size_t j = 0; j < sizeof numbers / sizeof numbers[0]; j++)
            FB_TRY(put_number(writer, numbers[j]));
        FB_TRY(put(writer, "\n"));
    }
    return FB_OK;
}

typedef fb_status put_fn(fb_file_writer *writer, const fb_trace_report *report);

static fb_status write_file(const fb_trace_report *report, const char *path, put_fn *content) {
    fb_file_writer *writer = NULL;
    FB_TRY(fb_file_writer_open(path, &writer));
    fb_status status = content(writer, report);
    if (status == FB_OK)
        return fb_file_writer_commit(writer);
    fb_file_writer_abandon(writer);
    return status;
}

fb_status fb_trace_report_write_csv(const fb_trace_report *report, const char *path) {
    return write_file(report, path, put_csv);
}

fb_status fb_trace_report_write_tau_csv(const fb_trace_report *report, const char *path) {
    return write_file(report, path, put_tau_csv);
}

/* --- JSON ------------------------------------------------------------------------------------- */

static json_t *number_json(double number) {
    return isnan(number) ? json_null() : json_real(number);
}

static json_t *spread_json(const fb_trace_spread *spread) {
    return json_pack("{s:I, s:o, s:o, s:o, s:o, s:o}", "count", (json_int_t)spread->count, "mean",
                     number_json(spread->mean), "p10", number_json(spread->p10), "median",
                     number_json(spread->median), "p90", number_json(spread->p90), "max",
                     number_json(spread->max));
}

/* Spreads of all values over what `filter` takes; NULL when out of memory. */
static json_t *spreads_json(const fb_trace *trace, const fb_trace_filter *filter) {
    json_t *spreads = json_object();
    for (int value = 0; value < FB_TRACE_NUM_VALUES; value++) {
        fb_trace_spread spread;
        if (fb_trace_summarize(trace, (fb_trace_value)value, filter, &spread) != FB_OK) {
            json_decref(spreads);
            return NULL;
        }
        json_object_set_new(spreads, fb_trace_value_name((fb_trace_value)value),
                            spread_json(&spread));
    }
    return spreads;
}

static json_t *by_step_json(const fb_trace *trace) {
    json_t *steps = json_array();
    for (size_t i = 0; trace->num_steps > 0 && i <= fb_trace_last_step(trace); i++) {
        fb_trace_filter filter = fb_trace_all();
        filter.denoising_step = (long)i;
        json_t *spreads = spreads_json(trace, &filter);
        json_object_set_new(spreads, "denoising_step", json_integer((json_int_t)i));
        json_array_append_new(steps, spreads);
    }
    return steps;
}

static json_t *taus_json(const fb_trace_report *report) {
    json_t *taus = json_array();
    for (size_t i = 0; i < report->num_taus; i++) {
        const fb_trace_tau *tau = &report->taus[i];
        json_array_append_new(
            taus, json_pack("{s:I, s:I, s:I, s:o, s:o, s:o}", "tau", (json_int_t)tau->tau, "steps",
                            (json_int_t)tau->steps, "reuses", (json_int_t)tau->reuses, "error",
                            spread_json(&tau->error), "error_all_steps",
                            number_json(tau->error_all), "max_error", number_json(tau->max_error)));
    }
    return taus;
}

json_t *fb_trace_report_summary_json(const fb_trace_report *report) {
    const fb_trace *trace = report->trace;
    fb_trace_filter all = fb_trace_all();
    json_t *summary = json_pack(
        "{s:I, s:I, s:I, s:o, s:o, s:o}", "num_layers", (json_int_t)trace->num_layers, "num_heads",
        (json_int_t)trace->num_heads, "num_steps", (json_int_t)trace->num_steps, "overall",
        spreads_json(trace, &all), "by_step", by_step_json(trace), "tau", taus_json(report));
    json_t *session = fb_summary_session_json(report->session);
    if (json_object_update(session, summary) != 0) { /* one of them found no memory */
        json_decref(session);
        session = NULL;
    }
    json_decref(summary);
    return session;
}

/* [num_layers][num_heads] of one value. */
static json_t *value_json(const fb_trace *trace, size_t index, fb_trace_value value) {
    const fb_trace_head *record = fb_trace_heads_at(trace, index);
    json_t *layers = json_array();
    for (size_t layer = 0; layer < trace->num_layers; layer++) {
        json_t *heads = json_array();
        for (size_t head = 0; head < trace->num_heads; head++, record++)
            json_array_append_new(heads, number_json(fb_trace_get(record, value)));
        json_array_append_new(layers, heads);
    }
    return layers;
}

static json_t *step_json(const fb_trace *trace, size_t index) {
    const fb_trace_step *step = fb_trace_step_at(trace, index);
    json_t *object = json_pack(
        "{s:I, s:I, s:I, s:I, s:s, s:I, s:I, s:I}", "sequence", (json_int_t)step->sequence, "block",
        (json_int_t)step->block, "context_length", (json_int_t)step->context_length,
        "denoising_step", (json_int_t)step->denoising_step, "action",
        fb_reuse_action_name(step->action), "dirty", (json_int_t)step->dirty, "masked",
        (json_int_t)step->masked, "accepted", (json_int_t)step->accepted);
    for (int value = 0; value < FB_TRACE_NUM_VALUES; value++)
        json_object_set_new(object, fb_trace_value_name((fb_trace_value)value),
                            value_json(trace, index, (fb_trace_value)value));
    return object;
}

/* Puts `value` without its last `cut` characters, and takes over its reference. */
static fb_status put_json(fb_file_writer *writer, json_t *value, size_t flags, size_t cut) {
    char *text = json_dumps(value, flags | JSON_REAL_PRECISION(9));
    json_decref(value);
    if (!text)
        return fb_fail(FB_ERROR_MEMORY, "cannot build the JSON text");
    fb_status status = fb_file_writer_put(writer, text, strlen(text) - cut);
    free(text);
    return status;
}

static json_t *head_of_json(const fb_trace_report *report) {
    json_t *summary = fb_trace_report_summary_json(report);
    json_t *generation = fb_summary_generation_json(report->session, report->generation);
    json_object_update(summary, generation);
    json_decref(generation);
    return summary;
}

/* Writes each step as one line after the indented rest, so that the whole text is never in memory.
 */
static fb_status put_whole_json(fb_file_writer *writer, const fb_trace_report *report) {
    FB_TRY(put_json(writer, head_of_json(report), JSON_INDENT(2), sizeof "\n}" - 1));
    FB_TRY(put(writer, ",\n  \"steps\": ["));
    for (size_t i = 0; i < report->trace->num_steps; i++) {
        FB_TRY(put(writer, i == 0 ? "\n    " : ",\n    "));
        FB_TRY(put_json(writer, step_json(report->trace, i), JSON_COMPACT, 0));
    }
    return put(writer, "\n  ]\n}\n");
}

fb_status fb_trace_report_write_json(const fb_trace_report *report, const char *path) {
    return write_file(report, path, put_whole_json);
}

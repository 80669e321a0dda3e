#include "cli/trace/report_files.h"

#include "base/error.h"
#include "cli/generate/summary.h"
#include "cli/output.h"
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
            FB_TRY(put(writer, "%zu,%zu,%zu,%zu,%s,%zu,%zu,%zu,%zu,%zu,%zu", step->sequence,
                       step->block, step->context_length, step->denoising_step,
                       fb_reuse_action_name(step->action), step->dirty, step->masked,
                       step->accepted, step->edited, layer, head));
            for (int value = 0; value < FB_TRACE_NUM_VALUES; value++)
                FB_TRY(put_number(writer, fb_trace_get(record, (fb_trace_value)value)));
            FB_TRY(put(writer, "\n"));
        }
    return FB_OK;
}

static fb_status put_csv(fb_file_writer *writer, const fb_trace_report *report) {
    FB_TRY(put(writer, "sequence,block,context_length,denoising_step,action,dirty,masked,accepted,"
                       "edited,layer,head"));
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

static void put_spread(fb_json_writer *w, const char *key, const fb_trace_spread *spread) {
    fb_json_open_object(w, key);
    fb_json_put_size(w, "count", spread->count);
    fb_json_put_double(w, "mean", spread->mean);
    fb_json_put_double(w, "p10", spread->p10);
    fb_json_put_double(w, "median", spread->median);
    fb_json_put_double(w, "p90", spread->p90);
    fb_json_put_double(w, "max", spread->max);
    fb_json_close_object(w);
}

/* Members: spreads of all values over what `filter` takes. */
static void put_spreads(fb_json_writer *w, const fb_trace *trace, const fb_trace_filter *filter) {
    for (int value = 0; value < FB_TRACE_NUM_VALUES; value++) {
        fb_trace_spread spread = {0};
        fb_json_fail(w, fb_trace_summarize(trace, (fb_trace_value)value, filter, &spread));
        put_spread(w, fb_trace_value_name((fb_trace_value)value), &spread);
    }
}

static void put_by_step(fb_json_writer *w, const fb_trace *trace) {
    fb_json_open_array(w, "by_step");
    for (size_t i = 0; trace->num_steps > 0 && i <= fb_trace_last_step(trace); i++) {
        fb_trace_filter filter = fb_trace_all();
        filter.denoising_step = (long)i;
        fb_json_open_object(w, NULL);
        put_spreads(w, trace, &filter);
        fb_json_put_size(w, "denoising_step", i);
        fb_json_close_object(w);
    }
    fb_json_close_array(w);
}

static void put_taus(fb_json_writer *w, const fb_trace_report *report) {
    fb_json_open_array(w, "tau");
    for (size_t i = 0; i < report->num_taus; i++) {
        const fb_trace_tau *tau = &report->taus[i];
        fb_json_open_object(w, NULL);
        fb_json_put_size(w, "tau", tau->tau);
        fb_json_put_size(w, "steps", tau->steps);
        fb_json_put_size(w, "reuses", tau->reuses);
        put_spread(w, "error", &tau->error);
        fb_json_put_double(w, "error_all_steps", tau->error_all);
        fb_json_put_double(w, "max_error", tau->max_error);
        fb_json_close_object(w);
    }
    fb_json_close_array(w);
}

void fb_trace_report_put_summary(fb_json_writer *w, const fb_trace_report *report) {
    const fb_trace *trace = report->trace;
    fb_trace_filter all = fb_trace_all();
    fb_summary_put_session(w, report->session);
    fb_json_put_size(w, "num_layers", trace->num_layers);
    fb_json_put_size(w, "num_heads", trace->num_heads);
    fb_json_put_size(w, "num_steps", trace->num_steps);
    fb_json_open_object(w, "overall");
    put_spreads(w, trace, &all);
    fb_json_close_object(w);
    put_by_step(w, trace);
    put_taus(w, report);
}

/* [num_layers][num_heads] of one value. */
static void put_value(fb_json_writer *w, const fb_trace *trace, size_t index,
                      fb_trace_value value) {
    const fb_trace_head *record = fb_trace_heads_at(trace, index);
    fb_json_open_array(w, fb_trace_value_name(value));
    for (size_t layer = 0; layer < trace->num_layers; layer++) {
        fb_json_open_array(w, NULL);
        for (size_t head = 0; head < trace->num_heads; head++, record++)
            fb_json_put_double(w, NULL, fb_trace_get(record, value));
        fb_json_close_array(w);
    }
    fb_json_close_array(w);
}

/* One line. */
static void put_step(fb_json_writer *w, const fb_trace *trace, size_t index) {
    const fb_trace_step *step = fb_trace_step_at(trace, index);
    fb_json_open_object(w, NULL);
    w->style = FB_JSON_COMPACT;
    fb_json_put_size(w, "sequence", step->sequence);
    fb_json_put_size(w, "block", step->block);
    fb_json_put_size(w, "context_length", step->context_length);
    fb_json_put_size(w, "denoising_step", step->denoising_step);
    fb_json_put_string(w, "action", fb_reuse_action_name(step->action));
    fb_json_put_size(w, "dirty", step->dirty);
    fb_json_put_size(w, "masked", step->masked);
    fb_json_put_size(w, "accepted", step->accepted);
    fb_json_put_size(w, "edited", step->edited);
    for (int value = 0; value < FB_TRACE_NUM_VALUES; value++)
        put_value(w, trace, index, (fb_trace_value)value);
    fb_json_close_object(w);
    w->style = FB_JSON_INDENTED;
}

/* The text goes to the file piece by piece, so that the whole of it is never in memory. */
static void flush(fb_json_writer *w, fb_file_writer *writer) {
    if (fb_json_finish(w) == FB_OK)
        fb_json_fail(w, fb_file_writer_put(writer, w->out->data, w->out->size));
    w->out->size = 0;
}

static fb_status put_whole_json(fb_file_writer *writer, const fb_trace_report *report) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_json_open_object(&w, NULL);
    fb_trace_report_put_summary(&w, report);
    fb_summary_put_generation(&w, report->session, report->generation);
    fb_json_open_array(&w, "steps");
    for (size_t i = 0; i < report->trace->num_steps; i++) {
        put_step(&w, report->trace, i);
        flush(&w, writer);
    }
    fb_json_close_array(&w);
    fb_json_close_object(&w);
    flush(&w, writer);
    fb_buffer_free(&text);
    return fb_json_finish(&w) == FB_OK ? put(writer, "\n") : fb_json_finish(&w);
}

fb_status fb_trace_report_write_json(const fb_trace_report *report, const char *path) {
    return write_file(report, path, put_whole_json);
}

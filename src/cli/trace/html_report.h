/* A trace as one HTML file for people: the page of `flashblock serve` with the recorded decodings
 * inside. */
#ifndef FB_CLI_TRACE_HTML_REPORT_H
#define FB_CLI_TRACE_HTML_REPORT_H

#include "cli/generate/session.h"
#include "io/json_write.h"
#include "study/trace_stats.h"

/* A recording that is being written: decodings of the session's prompts with different tau. */
typedef struct fb_html_report {
    fb_buffer text;
    fb_json_writer json;
    const fb_session *session;
} fb_html_report;

/* *report must stay where it is, and is freed by fb_html_report_free. No function has a result to
 * check: fb_html_report_write has it. */
void fb_html_report_begin(fb_html_report *report, const fb_session *session);

/* One decoding, the recorded one first: its beginning, its passes in their order, its end. A pass
 * is put after fb_trace_on_step. */
void fb_html_report_begin_run(fb_html_report *report, size_t tau);
void fb_html_report_put_pass(fb_html_report *report, const fb_trace *trace,
                             const fb_step_event *event);
void fb_html_report_end_run(fb_html_report *report);

/* Ends the recording and writes the page with it. */
fb_status fb_html_report_write(fb_html_report *report, const char *path);

void fb_html_report_free(fb_html_report *report);

#endif

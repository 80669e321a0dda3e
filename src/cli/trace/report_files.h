/* A trace as files for programs: CSV and JSON. */
#ifndef FB_CLI_TRACE_REPORT_FILES_H
#define FB_CLI_TRACE_REPORT_FILES_H

#include "cli/generate/session.h"
#include "io/json_write.h"
#include "study/trace_stats.h"

/* All that a run of `flashblock trace` has found out. */
typedef struct fb_trace_report {
    const fb_session *session;
    const fb_generation *generation; /* of the recorded decoding */
    const fb_trace *trace;
    const fb_trace_tau *taus; /* [num_taus] of decodings with other tau; may be none */
    size_t num_taus;
} fb_trace_report;

/* Files of a report, in its directory. */
#define FB_TRACE_CSV     "trace.csv"
#define FB_TRACE_JSON    "trace.json"
#define FB_TRACE_TAU_CSV "tau.csv"

/* A line for each sequence, block, denoising step, layer and head. Columns: the members of
 * fb_trace_step, layer, head, the members of fb_trace_head. A value that does not exist is empty.
 */
fb_status fb_trace_report_write_csv(const fb_trace_report *report, const char *path);

/* A line for each tau. */
fb_status fb_trace_report_write_tau_csv(const fb_trace_report *report, const char *path);

/* Model, options, texts, the summary, and for each step an array [num_layers][num_heads] of every
 * member of fb_trace_head. A value that does not exist is null. */
fb_status fb_trace_report_write_json(const fb_trace_report *report, const char *path);

/* Members of an object: session, spreads by denoising step, and the decodings with other tau. */
void fb_trace_report_put_summary(fb_json_writer *w, const fb_trace_report *report);

#endif

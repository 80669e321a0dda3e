/* A trace as pictures, drawn by gnuplot. */
#ifndef FB_CLI_TRACE_REPORT_PLOT_H
#define FB_CLI_TRACE_REPORT_PLOT_H

#include "cli/trace/report_files.h"

/* Names of the pictures, each drawn as NAME.png and NAME.svg:
 *   stability  similarity of consecutive steps, external beside internal, by denoising step
 *   heads      the same for each layer and head, as heat maps
 *   mass       share of the softmax that is external, by context length
 *   error      error of reuse against tau; only where the report has decodings with other tau */
enum { FB_TRACE_REPORT_PICTURES = 4 };
extern const char *const fb_trace_report_picture_names[FB_TRACE_REPORT_PICTURES];

/* Draws into `directory` every picture that there are numbers for. FB_ERROR_UNSUPPORTED where there
 * is no gnuplot. */
fb_status fb_trace_report_draw(const fb_trace_report *report, const char *directory);

#endif

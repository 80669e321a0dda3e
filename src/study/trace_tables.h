/* Numbers of a trace, arranged in rows, for its pictures and for the program's tables. */
#ifndef FB_STUDY_TRACE_TABLES_H
#define FB_STUDY_TRACE_TABLES_H

#include "study/trace_stats.h"

/* Rows of `columns` numbers each; NaN is a number that does not exist. Starts as {0}, is filled by
 * one of the functions below and freed by fb_trace_table_free, also when filling it failed. */
typedef struct fb_trace_table {
    fb_buffer rows;
    size_t columns;
} fb_trace_table;

size_t fb_trace_table_count(const fb_trace_table *table);
const double *fb_trace_table_row(const fb_trace_table *table, size_t i);
void fb_trace_table_free(fb_trace_table *table);

/* For each denoising step from 0 on: the step; means of external and internal similarity, LSE
 * change and external mass; the mean error of the steps that reuse. */
fb_status fb_trace_table_steps(const fb_trace *trace, fb_trace_table *table);

/* For each denoising step from 1 on: the step; mean, 10th and 90th percentile of external
 * similarity, the same of internal similarity; both means over kept rows. */
fb_status fb_trace_table_stability(const fb_trace *trace, fb_trace_table *table);

/* For each layer and head: layer, head, mean external and mean internal similarity. */
fb_status fb_trace_table_heads(const fb_trace *trace, fb_trace_table *table);

/* For each range of context lengths that has steps, at most num_ranges of them: the middle of its
 * lengths; mean, 10th and 90th percentile of the external mass; its mean in each layer. */
fb_status fb_trace_table_mass(const fb_trace *trace, size_t num_ranges, fb_trace_table *table);

/* For each of the decodings taus [count]: tau; mean, 10th percentile, median and 90th percentile of
 * the error at steps that reuse; the mean error of all steps; the share of the steps that reuse, in
 * percent. */
fb_status fb_trace_table_taus(const fb_trace_tau *taus, size_t count, fb_trace_table *table);

#endif

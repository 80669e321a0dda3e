/* Numbers of a trace, summed up: spreads of one value over steps, layers and heads. */
#ifndef FB_STUDY_TRACE_STATS_H
#define FB_STUDY_TRACE_STATS_H

#include "study/trace.h"

/* Which value of fb_trace_head. */
typedef enum fb_trace_value {
    FB_TRACE_EXTERNAL_COSINE = 0,
    FB_TRACE_INTERNAL_COSINE,
    FB_TRACE_EXTERNAL_COSINE_KEPT,
    FB_TRACE_INTERNAL_COSINE_KEPT,
    FB_TRACE_EXTERNAL_LSE_CHANGE,
    FB_TRACE_EXTERNAL_MASS,
    FB_TRACE_ERROR,
    FB_TRACE_MAX_ERROR,
    FB_TRACE_NUM_VALUES,
} fb_trace_value;

/* The field's name, as in the files. */
const char *fb_trace_value_name(fb_trace_value value);
double fb_trace_get(const fb_trace_head *head, fb_trace_value value);

enum { FB_TRACE_ANY = -1 };

/* What to take of a trace. */
typedef struct fb_trace_filter {
    long denoising_step, layer, head; /* FB_TRACE_ANY: all */
    size_t min_context, end_context;  /* context_length in [min, end); end 0: no limit */
    bool reuses_only;                 /* steps that reuse all rows, or some */
} fb_trace_filter;

/* Everything. */
fb_trace_filter fb_trace_all(void);

/* Over the values that a filter takes, without NaN; NaN everywhere when none is left. */
typedef struct fb_trace_spread {
    size_t count;
    double mean, p10, median, p90, max; /* percentiles: nearest rank */
} fb_trace_spread;

fb_status fb_trace_summarize(const fb_trace *trace, fb_trace_value value,
                             const fb_trace_filter *filter, fb_trace_spread *spread);

/* Largest denoising_step of a trace, and context_length; 0 of an empty one. */
size_t fb_trace_last_step(const fb_trace *trace);
size_t fb_trace_longest_context(const fb_trace *trace);

/* Decoding with one tau: the errors of its reuse. */
typedef struct fb_trace_tau {
    size_t tau, steps, reuses;
    fb_trace_spread error; /* of fb_trace_head.error over the steps that reuse */
    double error_all;      /* its mean over all steps */
    double max_error;      /* the largest fb_trace_head.max_error */
} fb_trace_tau;

fb_status fb_trace_summarize_tau(const fb_trace *trace, size_t tau, fb_trace_tau *summary);

#endif

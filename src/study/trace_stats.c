#include "study/trace_stats.h"

#include "base/error.h"
#include "base/memory.h"

#include <math.h>
#include <stdlib.h>

typedef struct field {
    const char *name;
    size_t offset; /* of a double */
} field;

#define FIELD(name)                                                                                \
    { #name, offsetof(fb_trace_head, name) }

static const field fields[FB_TRACE_NUM_VALUES] = {
    [FB_TRACE_EXTERNAL_COSINE] = FIELD(external_cosine),
    [FB_TRACE_INTERNAL_COSINE] = FIELD(internal_cosine),
    [FB_TRACE_EXTERNAL_COSINE_KEPT] = FIELD(external_cosine_kept),
    [FB_TRACE_INTERNAL_COSINE_KEPT] = FIELD(internal_cosine_kept),
    [FB_TRACE_EXTERNAL_LSE_CHANGE] = FIELD(external_lse_change),
    [FB_TRACE_EXTERNAL_MASS] = FIELD(external_mass),
    [FB_TRACE_ERROR] = FIELD(error),
    [FB_TRACE_MAX_ERROR] = FIELD(max_error),
};

const char *fb_trace_value_name(fb_trace_value value) {
    return fields[value].name;
}

double fb_trace_get(const fb_trace_head *head, fb_trace_value value) {
    return *(const double *)(const void *)((const char *)head + fields[value].offset);
}

fb_trace_filter fb_trace_all(void) {
    return (fb_trace_filter){
        .denoising_step = FB_TRACE_ANY, .layer = FB_TRACE_ANY, .head = FB_TRACE_ANY};
}

static bool is_number(long wanted, size_t number) {
    return wanted == FB_TRACE_ANY || (size_t)wanted == number;
}

/* Some of the block's external rows are not those of the step's own queries. */
static bool reuses(const fb_trace_step *step) {
    return step->action == FB_REUSE || step->action == FB_REFRESH_ROWS;
}

static bool takes_step(const fb_trace_filter *filter, const fb_trace_step *step) {
    return is_number(filter->denoising_step, step->denoising_step) &&
           step->context_length >= filter->min_context &&
           (filter->end_context == 0 || step->context_length < filter->end_context) &&
           (!filter->reuses_only || reuses(step));
}

/* Appends a step's values. */
static size_t take_heads(const fb_trace *trace, size_t index, fb_trace_value value,
                         const fb_trace_filter *filter, double *values, size_t count) {
    const fb_trace_head *heads = fb_trace_heads_at(trace, index);
    for (size_t layer = 0; layer < trace->num_layers; layer++)
        for (size_t head = 0; head < trace->num_heads; head++) {
            double number = fb_trace_get(&heads[layer * trace->num_heads + head], value);
            if (is_number(filter->layer, layer) && is_number(filter->head, head) && !isnan(number))
                values[count++] = number;
        }
    return count;
}

static int compare(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

/* The smallest value that at least `percent` of all do not exceed. */
static double percentile(const double *sorted, size_t count, size_t percent) {
    size_t rank = (count * percent + 99) / 100;
    return sorted[rank > 0 ? rank - 1 : 0];
}

static fb_trace_spread spread_of(double *values, size_t count) {
    if (count == 0)
        return (fb_trace_spread){0, NAN, NAN, NAN, NAN, NAN};
    qsort(values, count, sizeof *values, compare);
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += values[i];
    return (fb_trace_spread){
        .count = count,
        .mean = sum / (double)count,
        .p10 = percentile(values, count, 10),
        .median = percentile(values, count, 50),
        .p90 = percentile(values, count, 90),
        .max = values[count - 1],
    };
}

fb_status fb_trace_summarize(const fb_trace *trace, fb_trace_value value,
                             const fb_trace_filter *filter, fb_trace_spread *spread) {
    double *values = NULL;
    size_t heads = trace->num_layers * trace->num_heads, count = 0;
    FB_TRY(fb_alloc(trace->num_steps, heads * sizeof *values, "values of a trace", &values));
    for (size_t i = 0; i < trace->num_steps; i++)
        if (takes_step(filter, fb_trace_step_at(trace, i)))
            count = take_heads(trace, i, value, filter, values, count);
    *spread = spread_of(values, count);
    fb_free(values);
    return FB_OK;
}

size_t fb_trace_last_step(const fb_trace *trace) {
    size_t last = 0;
    for (size_t i = 0; i < trace->num_steps; i++) {
        size_t step = fb_trace_step_at(trace, i)->denoising_step;
        last = step > last ? step : last;
    }
    return last;
}

size_t fb_trace_longest_context(const fb_trace *trace) {
    size_t longest = 0;
    for (size_t i = 0; i < trace->num_steps; i++) {
        size_t length = fb_trace_step_at(trace, i)->context_length;
        longest = length > longest ? length : longest;
    }
    return longest;
}

fb_status fb_trace_summarize_tau(const fb_trace *trace, size_t tau, fb_trace_tau *summary) {
    fb_trace_filter all = fb_trace_all(), reusing = all;
    reusing.reuses_only = true;
    fb_trace_spread everywhere, elements;
    fb_trace_tau result = {.tau = tau, .steps = trace->num_steps};
    for (size_t i = 0; i < trace->num_steps; i++)
        result.reuses += reuses(fb_trace_step_at(trace, i));
    FB_TRY(fb_trace_summarize(trace, FB_TRACE_ERROR, &reusing, &result.error));
    FB_TRY(fb_trace_summarize(trace, FB_TRACE_ERROR, &all, &everywhere));
    FB_TRY(fb_trace_summarize(trace, FB_TRACE_MAX_ERROR, &all, &elements));
    result.error_all = everywhere.mean;
    result.max_error = elements.max;
    *summary = result;
    return FB_OK;
}

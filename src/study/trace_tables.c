#include "study/trace_tables.h"

#include "base/error.h"
#include "base/memory.h"

static fb_status add_row(fb_trace_table *table, const double *row) {
    return fb_buffer_append(&table->rows, row, table->columns * sizeof *row);
}

size_t fb_trace_table_count(const fb_trace_table *table) {
    return table->columns ? table->rows.size / (table->columns * sizeof(double)) : 0;
}

const double *fb_trace_table_row(const fb_trace_table *table, size_t i) {
    return (const double *)(const void *)table->rows.data + i * table->columns;
}

void fb_trace_table_free(fb_trace_table *table) {
    fb_buffer_free(&table->rows);
    *table = (fb_trace_table){0};
}

static fb_status mean_of(const fb_trace *trace, fb_trace_value value, const fb_trace_filter *filter,
                         double *mean) {
    fb_trace_spread spread;
    FB_TRY(fb_trace_summarize(trace, value, filter, &spread));
    *mean = spread.mean;
    return FB_OK;
}

fb_status fb_trace_table_steps(const fb_trace *trace, fb_trace_table *table) {
    static const fb_trace_value values[] = {FB_TRACE_EXTERNAL_COSINE, FB_TRACE_INTERNAL_COSINE,
                                            FB_TRACE_EXTERNAL_LSE_CHANGE, FB_TRACE_EXTERNAL_MASS};
    enum { NUM_VALUES = sizeof values / sizeof values[0] };
    table->columns = 2 + NUM_VALUES;
    for (size_t step = 0; trace->num_steps > 0 && step <= fb_trace_last_step(trace); step++) {
        double row[2 + NUM_VALUES] = {(double)step};
        fb_trace_filter filter = fb_trace_all();
        filter.denoising_step = (long)step;
        for (size_t i = 0; i < NUM_VALUES; i++)
            FB_TRY(mean_of(trace, values[i], &filter, &row[1 + i]));
        filter.reuses_only = true;
        FB_TRY(mean_of(trace, FB_TRACE_ERROR, &filter, &row[1 + NUM_VALUES]));
        FB_TRY(add_row(table, row));
    }
    return FB_OK;
}

fb_status fb_trace_table_stability(const fb_trace *trace, fb_trace_table *table) {
    static const fb_trace_value values[] = {FB_TRACE_EXTERNAL_COSINE, FB_TRACE_INTERNAL_COSINE};
    table->columns = 9;
    for (size_t step = 1; step <= fb_trace_last_step(trace); step++) {
        fb_trace_filter filter = fb_trace_all();
        filter.denoising_step = (long)step;
        fb_trace_spread spread[2], kept[2];
        for (size_t i = 0; i < 2; i++) {
            FB_TRY(fb_trace_summarize(trace, values[i], &filter, &spread[i]));
            FB_TRY(fb_trace_summarize(trace, values[i] + FB_TRACE_EXTERNAL_COSINE_KEPT, &filter,
                                      &kept[i]));
        }
        const double row[] = {(double)step,  spread[0].mean, spread[0].p10,
                              spread[0].p90, spread[1].mean, spread[1].p10,
                              spread[1].p90, kept[0].mean,   kept[1].mean};
        FB_TRY(add_row(table, row));
    }
    return FB_OK;
}

fb_status fb_trace_table_heads(const fb_trace *trace, fb_trace_table *table) {
    table->columns = 4;
    for (size_t layer = 0; layer < trace->num_layers; layer++)
        for (size_t head = 0; head < trace->num_heads; head++) {
            double row[] = {(double)layer, (double)head, 0, 0};
            fb_trace_filter filter = fb_trace_all();
            filter.layer = (long)layer;
            filter.head = (long)head;
            FB_TRY(mean_of(trace, FB_TRACE_EXTERNAL_COSINE, &filter, &row[2]));
            FB_TRY(mean_of(trace, FB_TRACE_INTERNAL_COSINE, &filter, &row[3]));
            FB_TRY(add_row(table, row));
        }
    return FB_OK;
}

/* The contexts of begin .. begin + width - 1 tokens; row is scratch. */
static fb_status add_range(const fb_trace *trace, size_t begin, size_t width, double *row,
                           fb_trace_table *table) {
    fb_trace_filter filter = fb_trace_all();
    filter.min_context = begin;
    filter.end_context = begin + width;
    fb_trace_spread spread;
    FB_TRY(fb_trace_summarize(trace, FB_TRACE_EXTERNAL_MASS, &filter, &spread));
    if (spread.count == 0)
        return FB_OK;
    row[0] = (double)begin + 0.5 * (double)(width - trace->block_size);
    row[1] = spread.mean;
    row[2] = spread.p10;
    row[3] = spread.p90;
    for (size_t layer = 0; layer < trace->num_layers; layer++) {
        filter.layer = (long)layer;
        FB_TRY(mean_of(trace, FB_TRACE_EXTERNAL_MASS, &filter, &row[4 + layer]));
    }
    return add_row(table, row);
}

fb_status fb_trace_table_mass(const fb_trace *trace, size_t num_ranges, fb_trace_table *table) {
    size_t end = fb_trace_longest_context(trace) + 1, width = (end + num_ranges - 1) / num_ranges;
    if (width < trace->block_size)
        width = trace->block_size;
    table->columns = 4 + trace->num_layers;
    double *row = NULL;
    FB_TRY(fb_alloc(table->columns, sizeof *row, "a table", &row));
    fb_status status = FB_OK;
    for (size_t begin = 0; begin < end && status == FB_OK; begin += width)
        status = add_range(trace, begin, width, row, table);
    fb_free(row);
    return status;
}

fb_status fb_trace_table_taus(const fb_trace_tau *taus, size_t count, fb_trace_table *table) {
    table->columns = 7;
    for (size_t i = 0; i < count; i++) {
        const fb_trace_tau *tau = &taus[i];
        double share = tau->steps ? (double)tau->reuses / (double)tau->steps : 0;
        const double row[] = {(double)tau->tau, tau->error.mean, tau->error.p10, tau->error.median,
                              tau->error.p90,   tau->error_all,  100 * share};
        FB_TRY(add_row(table, row));
    }
    return FB_OK;
}

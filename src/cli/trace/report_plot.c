#include "cli/trace/report_plot.h"

#include "base/error.h"
#include "base/memory.h"
#include "cli/gnuplot.h"
#include "io/file.h"

#include <math.h>
#include <stdio.h>

/* Okabe and Ito's colours, which colour-blind people tell apart; the paler ones for bands. */
#define EXTERNAL_COLOUR "#0072b2"
#define INTERNAL_COLOUR "#d55e00"

#define BAND "with filledcurves fs transparent solid 0.18 noborder "

enum { MASS_BINS = 48 };

const char *const fb_trace_report_picture_names[FB_TRACE_REPORT_PICTURES] = {"stability", "heads",
                                                                             "mass", "error"};

/* A script's numbers are worked out before gnuplot is started: that may fail. */
typedef struct figure {
    const fb_trace_report *report;
    fb_buffer rows; /* doubles, `columns` a row */
    size_t columns;
} figure;

static fb_status add_row(figure *of, const double *row) {
    return fb_buffer_append(&of->rows, row, of->columns * sizeof *row);
}

static size_t num_rows(const figure *of) {
    return of->rows.size / (of->columns * sizeof(double));
}

static const double *row_at(const figure *of, size_t i) {
    return (const double *)(const void *)of->rows.data + i * of->columns;
}

/* --- common to all scripts -------------------------------------------------------------------- */

static void put_style(FILE *gnuplot) {
    fputs("set border 3 lw 1.2\nset tics nomirror out\n"
          "set grid back lw 0.6 lc rgb '#dddddd'\n"
          "set key Left reverse opaque box lc rgb '#dddddd' spacing 1.2 samplen 3 width 1\n"
          "set datafile missing 'NaN'\n",
          gnuplot);
}

static void put_value(FILE *gnuplot, double value) {
    if (isnan(value))
        fputs("NaN ", gnuplot);
    else
        fprintf(gnuplot, "%.9g ", value);
}

/* The rows as the data block $rows. */
static void put_rows(FILE *gnuplot, const figure *of) {
    fputs("$rows << END\n", gnuplot);
    for (size_t i = 0; i < num_rows(of); i++) {
        for (size_t j = 0; j < of->columns; j++)
            put_value(gnuplot, row_at(of, i)[j]);
        fputc('\n', gnuplot);
    }
    fputs("END\n", gnuplot);
}

/* "6 layers x 4 heads, blocks of 4": what the numbers are of. */
static void put_subject(FILE *gnuplot, const fb_trace_report *report) {
    const fb_trace *trace = report->trace;
    fprintf(gnuplot, "%zu layers × %zu heads, blocks of %zu", trace->num_layers, trace->num_heads,
            trace->block_size);
}

/* ", tau 2": how the recorded decoding reused. */
static void put_tau(FILE *gnuplot, const fb_trace_report *report) {
    size_t tau = report->session->options.reuse.tau;
    if (tau == 0)
        fputs(", decoded densely", gnuplot);
    else
        fprintf(gnuplot, ", decoded with tau %zu", tau);
}

/* Title of two lines: what is seen, and of what. */
static void put_title(FILE *gnuplot, const figure *of, const char *title, bool with_tau) {
    fprintf(gnuplot, "set title \"%s\\n{/*0.85 ", title);
    put_subject(gnuplot, of->report);
    if (with_tau)
        put_tau(gnuplot, of->report);
    fputs("}\"\n", gnuplot);
}

/* The smallest number of some columns, rounded down to a multiple of `unit`. */
static double lowest(const figure *of, size_t first, size_t last, double unit) {
    double low = 1;
    for (size_t i = 0; i < num_rows(of); i++)
        for (size_t j = first; j <= last; j++)
            low = fmin(low, row_at(of, i)[j]);
    return fmin(floor(low / unit) * unit, 1 - unit);
}

/* --- stability -------------------------------------------------------------------------------- */

/* step, and mean, p10, p90 of external and internal similarity; means over kept rows */
static fb_status fill_stability(figure *of) {
    static const fb_trace_value values[] = {FB_TRACE_EXTERNAL_COSINE, FB_TRACE_INTERNAL_COSINE};
    const fb_trace *trace = of->report->trace;
    of->columns = 9;
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
        FB_TRY(add_row(of, row));
    }
    return FB_OK;
}

/* Band, mean, and mean over kept rows; columns `mean` .. `mean` + 2, and `kept`. */
static void put_curves(FILE *gnuplot, const char *name, const char *colour, int mean, int kept,
                       const char *before) {
    fprintf(gnuplot, "%s$rows using 1:%d:%d " BAND "lc rgb '%s' title '%s, 10 to 90 %%'", before,
            mean + 1, mean + 2, colour, name);
    fprintf(gnuplot, ", $rows using 1:%d with linespoints pt 7 lw 2.5 lc rgb '%s' title '%s, mean'",
            mean, colour, name);
    fprintf(gnuplot,
            ", $rows using 1:%d with linespoints pt 6 dt 2 lw 1.8 lc rgb '%s' "
            "title '%s, rows whose token stayed'",
            kept, colour, name);
}

static void script_stability(FILE *gnuplot, const void *user) {
    const figure *of = user;
    put_style(gnuplot);
    put_rows(gnuplot, of);
    put_title(gnuplot, of, "How much attention outputs turn from one denoising step to the next",
              true);
    fprintf(gnuplot,
            "set xrange [0.8:%g]\nset yrange [%g:1.005]\nset xtics 1\n"
            "set xlabel 'denoising step of the block, compared with the step before'\n"
            "set ylabel 'cosine similarity (1: unchanged)'\nset key outside below "
            "maxrows 3\n"
            "set bmargin 8\n",
            (double)num_rows(of) + 0.2, lowest(of, 1, 8, 0.05));
    put_curves(gnuplot, "external", EXTERNAL_COLOUR, 2, 8, "plot ");
    put_curves(gnuplot, "internal", INTERNAL_COLOUR, 5, 9, ", ");
    fputc('\n', gnuplot);
}

/* --- heads ------------------------------------------------------------------------------------ */

/* layer, head, mean external and internal similarity */
static fb_status fill_heads(figure *of) {
    const fb_trace *trace = of->report->trace;
    of->columns = 4;
    for (size_t layer = 0; layer < trace->num_layers; layer++)
        for (size_t head = 0; head < trace->num_heads; head++) {
            fb_trace_filter filter = fb_trace_all();
            filter.layer = (long)layer;
            filter.head = (long)head;
            fb_trace_spread external, internal;
            FB_TRY(fb_trace_summarize(trace, FB_TRACE_EXTERNAL_COSINE, &filter, &external));
            FB_TRY(fb_trace_summarize(trace, FB_TRACE_INTERNAL_COSINE, &filter, &internal));
            const double row[] = {(double)layer, (double)head, external.mean, internal.mean};
            FB_TRY(add_row(of, row));
        }
    return FB_OK;
}

/* Numbers in the cells: white on dark ones, black on bright ones. */
static void put_labels(FILE *gnuplot, int column, double bright) {
    for (int dark = 0; dark < 2; dark++)
        fprintf(gnuplot,
                ", $rows using 2:1:($%d %s %g ? sprintf('%%.2f', $%d) : '') with labels "
                "font ',10' textcolor rgb '%s' notitle",
                column, dark ? "<" : ">=", bright, column, dark ? "#ffffff" : "#000000");
}

static void script_heads(FILE *gnuplot, const void *user) {
    const figure *of = user;
    const fb_trace *trace = of->report->trace;
    double low = lowest(of, 2, 3, 0.1);
    bool roomy = trace->num_heads <= 12 && trace->num_layers <= 16;
    put_rows(gnuplot, of);
    fputs("set multiplot layout 1,2 title \"Mean cosine similarity of consecutive denoising steps, "
          "head by head\\n{/*0.85 ",
          gnuplot);
    put_subject(gnuplot, of->report);
    put_tau(gnuplot, of->report);
    fprintf(gnuplot,
            "}\"\nset datafile missing 'NaN'\nset xlabel 'head'\nset ylabel 'layer'\n"
            "set xrange [-0.5:%g]\nset yrange [%g:-0.5]\nset cbrange [%g:1]\n"
            "set palette defined (0 '#440154', 1 '#3b528b', 2 '#21918c', 3 '#5ec962', 4 '#fde725')"
            "\nset tics out nomirror scale 0.5\n%s",
            (double)trace->num_heads - 0.5, (double)trace->num_layers - 0.5, low,
            roomy ? "set xtics 1\nset ytics 1\n" : "");
    for (int column = 3; column <= 4; column++) {
        fprintf(gnuplot, "set title '%s attention'\nplot $rows using 2:1:%d with image notitle",
                column == 3 ? "external" : "internal", column);
        if (roomy)
            put_labels(gnuplot, column, 0.5 * (low + 1));
        fputc('\n', gnuplot);
    }
    fputs("unset multiplot\n", gnuplot);
}

/* --- mass ------------------------------------------------------------------------------------- */

/* context, mean, p10, p90 of the mass, and its mean in each layer */
static fb_status fill_mass(figure *of) {
    const fb_trace *trace = of->report->trace;
    size_t end = fb_trace_longest_context(trace) + 1, width = (end + MASS_BINS - 1) / MASS_BINS;
    if (width < trace->block_size)
        width = trace->block_size;
    of->columns = 4 + trace->num_layers;
    double *row = NULL;
    FB_TRY(fb_alloc(of->columns, sizeof *row, "a figure", &row));
    fb_status status = FB_OK;
    for (size_t begin = 0; begin < end && status == FB_OK; begin += width) {
        fb_trace_filter filter = fb_trace_all();
        filter.min_context = begin;
        filter.end_context = begin + width;
        fb_trace_spread spread = {0};
        status = fb_trace_summarize(trace, FB_TRACE_EXTERNAL_MASS, &filter, &spread);
        if (spread.count == 0)
            continue;
        row[0] = (double)begin + 0.5 * (double)(width - trace->block_size);
        row[1] = spread.mean;
        row[2] = spread.p10;
        row[3] = spread.p90;
        for (size_t layer = 0; layer < trace->num_layers && status == FB_OK; layer++) {
            filter.layer = (long)layer;
            status = fb_trace_summarize(trace, FB_TRACE_EXTERNAL_MASS, &filter, &spread);
            row[4 + layer] = spread.mean;
        }
        if (status == FB_OK)
            status = add_row(of, row);
    }
    fb_free(row);
    return status;
}

static void script_mass(FILE *gnuplot, const void *user) {
    const figure *of = user;
    size_t layers = of->report->trace->num_layers;
    double low = row_at(of, 0)[0], high = row_at(of, num_rows(of) - 1)[0];
    put_style(gnuplot);
    put_rows(gnuplot, of);
    put_title(gnuplot, of, "Share of the softmax that falls on earlier blocks", true);
    fprintf(gnuplot,
            "set xrange [%g:%g]\nset yrange [0:1]\nset xlabel 'tokens of context'\n"
            "set ylabel 'external share of the softmax mass'\nset key bottom right\n"
            "set palette defined (0 '#440154', 1 '#3b528b', 2 '#21918c', 3 '#5ec962')"
            "\nset cbrange [0:%zu]\nset cblabel 'layer'\nset cbtics 1\n"
            "plot $rows using 1:3:4 " BAND "lc rgb '#888888' "
            "title '10 to 90 %%'",
            low, high > low ? high : low + 1, layers > 1 ? layers - 1 : 1);
    for (size_t layer = 0; layer < layers; layer++)
        fprintf(gnuplot, ", \\\n     $rows using 1:%zu:(%zu) with lines lw 1.2 palette notitle",
                5 + layer, layer);
    fputs(", \\\n     $rows using 1:2 with lines lw 3 lc rgb '#000000' title 'mean'\n", gnuplot);
}

/* --- error ------------------------------------------------------------------------------------ */

/* tau, mean, p10, median, p90 of the error at reuse, its mean over all steps, share of reuses */
static fb_status fill_error(figure *of) {
    of->columns = 7;
    for (size_t i = 0; i < of->report->num_taus; i++) {
        const fb_trace_tau *tau = &of->report->taus[i];
        double share = tau->steps ? (double)tau->reuses / (double)tau->steps : 0;
        const double row[] = {(double)tau->tau, tau->error.mean, tau->error.p10, tau->error.median,
                              tau->error.p90,   tau->error_all,  100 * share};
        FB_TRY(add_row(of, row));
    }
    return FB_OK;
}

static void script_error(FILE *gnuplot, const void *user) {
    const figure *of = user;
    double low = INFINITY, high = -INFINITY, top = 0;
    for (size_t i = 0; i < num_rows(of); i++) {
        low = fmin(low, row_at(of, i)[0]);
        high = fmax(high, row_at(of, i)[0]);
        top = fmax(top, fmax(row_at(of, i)[4], row_at(of, i)[1]));
    }
    put_style(gnuplot);
    put_rows(gnuplot, of);
    put_title(gnuplot, of, "Error of an attention output that reuses its external part", false);
    fprintf(gnuplot,
            "set xrange [%g:%g]\nset yrange [0:%g]\nset xlabel 'tau, and the share of the "
            "denoising steps "
            "that reuse' offset 0,-0.7\nset bmargin 5\n"
            "set ylabel 'relative error against dense attention, |ΔO| / |O|'\nset key top left\n",
            low - 0.3, high + 0.3, top > 0 ? 1.25 * top : 1);
    for (size_t i = 0; i < num_rows(of); i++)
        fprintf(gnuplot, "set xtics %s(\"%g\\n{/*0.85 %.0f %%%%}\" %g)\n", i > 0 ? "add " : "",
                row_at(of, i)[0], row_at(of, i)[6], row_at(of, i)[0]);
    fputs("plot $rows using 1:3:5 " BAND "lc rgb '" EXTERNAL_COLOUR
          "' title '10 to 90 % of heads and reuse steps', \\\n"
          "     $rows using 1:2 with linespoints pt 7 lw 2.5 lc rgb '" EXTERNAL_COLOUR
          "' title 'at steps that reuse, mean', \\\n"
          "     $rows using 1:4 with linespoints pt 6 dt 2 lw 1.8 lc rgb '" EXTERNAL_COLOUR
          "' title 'at steps that reuse, median', \\\n"
          "     $rows using 1:6 with linespoints pt 5 lw 2.5 lc rgb '#000000' "
          "title 'over all steps, mean'\n",
          gnuplot);
}

/* --- the whole -------------------------------------------------------------------------------- */

typedef struct drawing {
    fb_status (*fill)(figure *of);
    fb_gnuplot_script *script;
    size_t width, height;
} drawing;

/* In the order of fb_trace_report_picture_names. */
static const drawing drawings[FB_TRACE_REPORT_PICTURES] = {
    {fill_stability, script_stability, 900, 560},
    {fill_heads, script_heads, 900, 480},
    {fill_mass, script_mass, 900, 560},
    {fill_error, script_error, 900, 560},
};

static fb_status draw(const drawing *how, const figure *of, const char *directory, const char *name,
                      const char *ending) {
    char file[64];
    snprintf(file, sizeof file, "%s.%s", name, ending);
    char *path = NULL;
    FB_TRY(fb_path_join(directory, file, &path));
    fb_picture picture = {path, how->width, how->height, "DejaVu Sans,12"};
    fb_status status = fb_gnuplot_draw(&picture, "pictures", how->script, of);
    fb_free(path);
    return status;
}

fb_status fb_trace_report_draw(const fb_trace_report *report, const char *directory) {
    fb_status status = FB_OK;
    for (size_t i = 0; i < FB_TRACE_REPORT_PICTURES && status == FB_OK; i++) {
        figure of = {.report = report};
        status = drawings[i].fill(&of);
        const char *name = fb_trace_report_picture_names[i];
        if (status == FB_OK && of.rows.size > 0) {
            status = draw(&drawings[i], &of, directory, name, "png");
            if (status == FB_OK)
                status = draw(&drawings[i], &of, directory, name, "svg");
        }
        fb_buffer_free(&of.rows);
    }
    return status;
}

#include "cli/trace/report_plot.h"

#include "base/error.h"
#include "base/memory.h"
#include "cli/gnuplot.h"
#include "io/file.h"
#include "study/trace_tables.h"

#include <math.h>
#include <stdio.h>

/* Okabe and Ito's colours, which colour-blind people tell apart; the paler ones for bands. */
#define EXTERNAL_COLOUR "#0072b2"
#define INTERNAL_COLOUR "#d55e00"

#define BAND "with filledcurves fs transparent solid 0.18 noborder "

const char *const fb_trace_report_picture_names[FB_TRACE_REPORT_PICTURES] = {"stability", "heads",
                                                                             "mass", "error"};

/* The numbers of a picture, and the report that they come from. */
typedef struct figure {
    const fb_trace_report *report;
    fb_trace_table table;
} figure;

static size_t num_rows(const figure *of) {
    return fb_trace_table_count(&of->table);
}

static const double *row_at(const figure *of, size_t i) {
    return fb_trace_table_row(&of->table, i);
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
        for (size_t j = 0; j < of->table.columns; j++)
            put_value(gnuplot, row_at(of, i)[j]);
        fputc('\n', gnuplot);
    }
    fputs("END\n", gnuplot);
}

/* The model and the blocks: "6 layers x 4 heads, blocks of 4". */
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

/* A title of two lines; the second names the model, and how it was decoded. */
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

static fb_status fill_stability(const fb_trace_report *report, fb_trace_table *table) {
    return fb_trace_table_stability(report->trace, table);
}

static fb_status fill_heads(const fb_trace_report *report, fb_trace_table *table) {
    return fb_trace_table_heads(report->trace, table);
}

static fb_status fill_mass(const fb_trace_report *report, fb_trace_table *table) {
    enum { RANGES = 48 };
    return fb_trace_table_mass(report->trace, RANGES, table);
}

static fb_status fill_error(const fb_trace_report *report, fb_trace_table *table) {
    return fb_trace_table_taus(report->taus, report->num_taus, table);
}

typedef struct drawing {
    fb_status (*fill)(const fb_trace_report *report, fb_trace_table *table);
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
        status = drawings[i].fill(report, &of.table);
        const char *name = fb_trace_report_picture_names[i];
        if (status == FB_OK && num_rows(&of) > 0) {
            status = draw(&drawings[i], &of, directory, name, "png");
            if (status == FB_OK)
                status = draw(&drawings[i], &of, directory, name, "svg");
        }
        fb_trace_table_free(&of.table);
    }
    return status;
}

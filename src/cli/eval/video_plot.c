#include "cli/eval/video_plot.h"

#include "cli/gnuplot.h"

#include <math.h>
#include <stdio.h>

enum { WIDTH = 720, PANEL = 300, MARGIN = 60 };

static void put_number(FILE *gnuplot, double number) {
    if (isnan(number))
        fputs("NaN ", gnuplot);
    else
        fprintf(gnuplot, "%.6g ", number);
}

/* work, right, its error, PSNR, its error, label; work and shares in percent */
static void put_rows(FILE *gnuplot, const fb_video_plot *plot) {
    fputs("$rows << END\n", gnuplot);
    for (size_t i = 0; i < plot->thresholds->count; i++) {
        const fb_thresholds *t = &plot->thresholds->values[i];
        fb_video_trial_result r = fb_video_trial_result_of(&plot->scores[i + 1], &plot->scores[0]);
        put_number(gnuplot, 100.0 * r.work);
        put_number(gnuplot, 100.0 * r.right);
        put_number(gnuplot, 100.0 * r.right_error);
        put_number(gnuplot, r.psnr);
        put_number(gnuplot, r.psnr_error);
        fprintf(gnuplot, "%g:%g\n", t->similarity, t->lse);
    }
    fputs("END\n", gnuplot);
}

/* One panel: column `value` with its error in the next one. */
static void put_panel(FILE *gnuplot, const char *title, const char *unit, int value) {
    fprintf(gnuplot,
            "set title '%s'\nset ylabel '%s'\n"
            "plot $rows using 1:%d:%d with yerrorbars pt 7 lw 1.5 lc rgb '#0072b2' notitle, "
            "$rows using 1:%d:6 with labels left offset 0.8,0.6 font ',9' notitle\n",
            title, unit, value, value + 1, value);
}

static void put_script(FILE *gnuplot, const void *user) {
    const fb_video_plot *plot = user;
    put_rows(gnuplot, plot);
    fprintf(
        gnuplot,
        "set multiplot layout %d,1\nset border 3\nset tics nomirror out\n"
        "set grid back lc rgb '#dddddd'\nset datafile missing 'NaN'\nset offsets 4, 12, 0, 0\n"
        "set xlabel 'pairs of query and key, %% of dense (labels: similarity and LSE threshold)'\n",
        plot->checked ? 2 : 1);
    if (plot->checked) {
        double dense = fb_video_trial_result_of(&plot->scores[0], &plot->scores[0]).right;
        fprintf(gnuplot,
                "set arrow 1 from graph 0, first %g to graph 1, first %g nohead dt 2 lc rgb "
                "'#999999'\n"
                "set yrange [0:105]\n",
                100.0 * dense, 100.0 * dense);
        put_panel(gnuplot, "Clips that are right (dashed: dense)", "%", 2);
        fputs("unset arrow 1\n", gnuplot);
    }
    fputs("set yrange [*:*]\n", gnuplot);
    put_panel(gnuplot, "PSNR against the dense clips", "dB", 4);
    fputs("unset multiplot\n", gnuplot);
}

fb_status fb_video_plot_draw(const fb_video_plot *plot, const char *path) {
    fb_picture picture = {
        .path = path,
        .width = WIDTH,
        .height = (plot->checked ? 2 : 1) * PANEL + MARGIN,
    };
    return fb_gnuplot_draw(&picture, "--plot", put_script, plot);
}

#include "cli/video/calibration_plot.h"

#include "cli/gnuplot.h"

#include <math.h>
#include <stdio.h>

enum { PANEL = 230, MARGIN = 60 };

typedef double similarity_fn(const fb_calibration *calibration, size_t layer, size_t step,
                             size_t head);

/* A line for each layer, a number for each head. */
static void put_panel(FILE *gnuplot, const fb_calibration *c, similarity_fn *similarity,
                      size_t step, const char *what) {
    const fb_calibration_config *config = fb_calibration_config_of(c);
    fputs("$numbers << END\n", gnuplot);
    for (size_t layer = 0; layer < config->num_layers; layer++) {
        for (size_t head = 0; head < config->num_heads; head++)
            fprintf(gnuplot, "%.6f ", similarity(c, layer, step, head));
        fputc('\n', gnuplot);
    }
    fprintf(gnuplot, "END\nset title '%s, step %zu'\nplot $numbers matrix with image notitle\n",
            what, step);
}

/* The smallest similarity, rounded down to a twentieth: the colours begin there. */
static double lowest(const fb_calibration *c) {
    const fb_calibration_config *config = fb_calibration_config_of(c);
    double low = 0.95;
    for (size_t step = 1; step < config->num_steps; step++)
        for (size_t layer = 0; layer < config->num_layers; layer++)
            for (size_t head = 0; head < config->num_heads; head++) {
                low = fmin(low, fb_calibration_similarity(c, layer, step, head));
                low = fmin(low, fb_calibration_internal_similarity(c, layer, step, head));
            }
    return floor(low * 20.0) / 20.0;
}

static size_t num_columns(const fb_calibration *c) {
    return fb_calibration_config_of(c)->num_steps - 1;
}

static void put_script(FILE *gnuplot, const void *calibration) {
    const fb_calibration *c = calibration;
    const fb_calibration_config *config = fb_calibration_config_of(c);
    size_t columns = num_columns(c);
    fprintf(
        gnuplot,
        "set multiplot layout 2,%zu title 'Cosine similarity between steps, head by head'\n"
        "set xlabel 'head'\nset ylabel 'layer'\n"
        "set xrange [-0.5:%g]\nset yrange [%g:-0.5]\n"
        "set cbrange [%g:1]\nset xtics 1\nset ytics 1\n"
        "set palette defined (0 '#440154', 1 '#3b528b', 2 '#21918c', 3 '#5ec962', 4 '#fde725')\n",
        columns, (double)config->num_heads - 0.5, (double)config->num_layers - 0.5, lowest(c));
    for (size_t step = 1; step <= columns; step++)
        put_panel(gnuplot, c, fb_calibration_similarity, step, "external");
    for (size_t step = 1; step <= columns; step++)
        put_panel(gnuplot, c, fb_calibration_internal_similarity, step, "internal");
    fputs("unset multiplot\n", gnuplot);
}

fb_status fb_calibration_plot(const fb_calibration *calibration, const char *path) {
    fb_picture picture = {
        .path = path,
        .width = num_columns(calibration) * PANEL + MARGIN,
        .height = 2 * PANEL + MARGIN,
    };
    return fb_gnuplot_draw(&picture, "--plot", put_script, calibration);
}

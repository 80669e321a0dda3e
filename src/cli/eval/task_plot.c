#include "cli/eval/task_plot.h"

#include "cli/gnuplot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PANEL_WIDTH = 620, PANEL_HEIGHT = 440, COLUMNS = 2 };

typedef struct picture {
    const fb_task_panel *panels;
    size_t count, columns;
} picture;

/* A policy's curve: its name without the first number after ':' or '@'. */
static void family_of(const char *name, char family[FB_TASK_POLICY_NAME]) {
    size_t mark = strcspn(name, ":@"), behind = mark + (name[mark] != '\0');
    behind += strspn(name + behind, "0123456789");
    if (strncmp(name + behind, "block", 5) == 0)
        behind += 5;
    snprintf(family, FB_TASK_POLICY_NAME, "%.*s%s", (int)mark, name, name + behind);
    if (strcmp(name, "never") == 0)
        snprintf(family, FB_TASK_POLICY_NAME, "tau");
}

/* The first policy of the same curve. */
static size_t first_of_family(const fb_task_policy_list *policies, size_t index) {
    char family[FB_TASK_POLICY_NAME], other[FB_TASK_POLICY_NAME];
    family_of(policies->choices[index].name, family);
    for (size_t i = 0; i < index; i++) {
        family_of(policies->choices[i].name, other);
        if (strcmp(family, other) == 0)
            return i;
    }
    return index;
}

/* One data block a curve: attention by dense, right answers, standard error, in percent; name. */
static void put_data(FILE *gnuplot, const fb_task_panel *panel) {
    for (size_t first = 0; first < panel->policies->count; first++) {
        if (first_of_family(panel->policies, first) != first)
            continue;
        fprintf(gnuplot, "$curve%zu << END\n", first);
        for (size_t i = first; i < panel->policies->count; i++)
            if (first_of_family(panel->policies, i) == first)
                fprintf(gnuplot, "%.6g %.6g %.6g \"%s\"\n", panel->results[i].seconds_by_dense,
                        100 * panel->results[i].accuracy, 100 * panel->results[i].accuracy_error,
                        panel->policies->choices[i].name);
        fputs("END\n", gnuplot);
    }
}

static void put_panel(FILE *gnuplot, const fb_task_panel *panel) {
    put_data(gnuplot, panel);
    fprintf(gnuplot, "set title \"%s\" noenhanced\nplot ", panel->title);
    const char *comma = "";
    for (size_t i = 0; i < panel->policies->count; i++) {
        char family[FB_TASK_POLICY_NAME];
        if (first_of_family(panel->policies, i) != i)
            continue;
        family_of(panel->policies->choices[i].name, family);
        fprintf(gnuplot, "%s$curve%zu using 1:2:3 with yerrorlines lw 1.6 pt 7 ps 0.8 title \"%s\"",
                comma, i, family);
        comma = ", ";
    }
    fputc('\n', gnuplot);
}

static void put_script(FILE *gnuplot, const void *user) {
    const picture *p = user;
    fputs("set border 3 lw 1.2\nset tics nomirror out\nset grid back lw 0.6 lc rgb '#dddddd'\n"
          "set key outside right top Left reverse noenhanced\n"
          "set xlabel 'attention time, dense = 1'\nset ylabel 'answers right, %'\n"
          "set xrange [0:*]\nset yrange [0:103]\n",
          gnuplot);
    fprintf(gnuplot, "set multiplot layout %zu,%zu\n", (p->count + p->columns - 1) / p->columns,
            p->columns);
    for (size_t i = 0; i < p->count; i++)
        put_panel(gnuplot, &p->panels[i]);
    fputs("unset multiplot\n", gnuplot);
}

fb_status fb_task_plot(const char *path, const fb_task_panel *panels, size_t count) {
    picture p = {panels, count, count < COLUMNS ? count : COLUMNS};
    size_t rows = (count + p.columns - 1) / p.columns;
    fb_picture drawn = {.path = path,
                        .width = PANEL_WIDTH * p.columns,
                        .height = PANEL_HEIGHT * rows,
                        .font = "DejaVu Sans,10"};
    return fb_gnuplot_draw(&drawn, "--plot", put_script, &p);
}

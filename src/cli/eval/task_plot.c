#include "cli/eval/task_plot.h"

#include "cli/gnuplot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { PANEL_WIDTH = 620, PANEL_HEIGHT = 440, COLUMNS = 2 };

/* Okabe and Ito's, which colour-blind people tell apart. */
static const char *const colours[] = {"#000000", "#0072b2", "#e69f00", "#d55e00",
                                      "#56b4e9", "#009e73", "#cc79a7", "#999999"};

typedef struct picture {
    const fb_task_panel *panels;
    size_t count, columns;
} picture;

/* A policy's name is that of its curve, with a number (or "block") after the first ':' or '@'. */
typedef struct name_parts {
    size_t mark, number, behind; /* where ':' or '@', the number, and what follows it begin */
} name_parts;

static name_parts split(const char *name) {
    size_t mark = strcspn(name, ":@"), number = mark + (name[mark] != '\0');
    size_t digits = strspn(name + number, "0123456789");
    if (strncmp(name + number, "block", 5) == 0)
        digits = 5;
    return (name_parts){mark, number, number + digits};
}

static void family_of(const char *name, char family[FB_TASK_POLICY_NAME]) {
    name_parts parts = split(name);
    snprintf(family, FB_TASK_POLICY_NAME, "%.*s%s", (int)parts.mark, name, name + parts.behind);
    if (strcmp(name, "never") == 0)
        snprintf(family, FB_TASK_POLICY_NAME, "tau");
}

/* What stands beside a point: its number, with % where it is a density; else the whole name. */
static void label_of(const char *name, char label[FB_TASK_POLICY_NAME]) {
    name_parts parts = split(name);
    if (parts.behind == parts.number)
        snprintf(label, FB_TASK_POLICY_NAME, "%s", name);
    else
        snprintf(label, FB_TASK_POLICY_NAME, "%.*s%s", (int)(parts.behind - parts.number),
                 name + parts.number, name[parts.mark] == '@' ? "%" : "");
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

/* One data block a curve: attention by dense, right answers, standard error, in percent; label. */
static void put_data(FILE *gnuplot, const fb_task_panel *panel) {
    for (size_t first = 0; first < panel->policies->count; first++) {
        if (first_of_family(panel->policies, first) != first)
            continue;
        fprintf(gnuplot, "$curve%zu << END\n", first);
        for (size_t i = first; i < panel->policies->count; i++) {
            char label[FB_TASK_POLICY_NAME];
            if (first_of_family(panel->policies, i) != first)
                continue;
            label_of(panel->policies->choices[i].name, label);
            fprintf(gnuplot, "%.6g %.6g %.6g \"%s\"\n", panel->results[i].seconds_by_dense,
                    100 * panel->results[i].accuracy, 100 * panel->results[i].accuracy_error,
                    label);
        }
        fputs("END\n", gnuplot);
    }
}

static void put_panel(FILE *gnuplot, const fb_task_panel *panel) {
    put_data(gnuplot, panel);
    fprintf(gnuplot, "set title \"%s\" noenhanced\nplot ", panel->title);
    const char *comma = "";
    for (size_t i = 0, curve = 0; i < panel->policies->count; i++) {
        char family[FB_TASK_POLICY_NAME];
        if (first_of_family(panel->policies, i) != i)
            continue;
        family_of(panel->policies->choices[i].name, family);
        const char *colour = colours[curve++ % (sizeof colours / sizeof colours[0])];
        fprintf(gnuplot,
                "%s$curve%zu using 1:2:3 with yerrorlines lw 1.6 pt 7 ps 0.8 lc rgb '%s' "
                "title \"%s\", "
                "$curve%zu using 1:2:4 with labels left offset 0.4,0.5 font ',8' textcolor rgb "
                "'%s' noenhanced notitle",
                comma, i, colour, family, i, colour);
        comma = ", ";
    }
    fputc('\n', gnuplot);
}

static void put_script(FILE *gnuplot, const void *user) {
    const picture *p = user;
    fputs("set border 3 lw 1.2\nset tics nomirror out\nset grid back lw 0.6 lc rgb '#dddddd'\n"
          "set key outside right top Left reverse noenhanced\n"
          "set xlabel 'attention time, dense = 1'\nset ylabel 'answers right, %'\n"
          "set xrange [0:*]\nset yrange [-3:106]\n",
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

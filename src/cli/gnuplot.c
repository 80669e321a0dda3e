#include "cli/gnuplot.h"

#include "base/error.h"

#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>

static void put_output(FILE *gnuplot, const fb_picture *picture, bool svg) {
    fprintf(gnuplot, "set terminal %s size %zu,%zu",
            svg ? "svg background rgb 'white'" : "pngcairo", picture->width, picture->height);
    if (picture->font)
        fprintf(gnuplot, " font '%s'", picture->font);
    fputs("\nset output '", gnuplot);
    for (const char *at = picture->path; *at; at++) /* '' stands for ' between quotes */
        fprintf(gnuplot, *at == '\'' ? "''" : "%c", *at);
    fputs("'\n", gnuplot);
}

fb_status fb_gnuplot_draw(const fb_picture *picture, const char *option, fb_gnuplot_script *script,
                          const void *user) {
    const char *path = picture->path;
    size_t length = strlen(path);
    const char *ending = length > 4 ? path + length - 4 : "";
    bool svg = strcmp(ending, ".svg") == 0;
    if (!svg && strcmp(ending, ".png") != 0)
        return fb_fail(FB_ERROR_ARGUMENT, "%s: '%s' ends neither in .png nor in .svg", option,
                       path);
    if (strchr(path, '\n'))
        return fb_fail(FB_ERROR_ARGUMENT, "%s: the name has a line break in it", option);
    void (*before)(int) = signal(SIGPIPE, SIG_IGN);
    FILE *gnuplot = popen("exec gnuplot 2>/dev/null", "w");
    if (gnuplot) {
        put_output(gnuplot, picture, svg);
        script(gnuplot, user);
    }
    int result = gnuplot ? pclose(gnuplot) : -1;
    signal(SIGPIPE, before);
    if (result == -1 || !WIFEXITED(result) || WEXITSTATUS(result) == 127)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: there is no gnuplot to draw with", option);
    if (WEXITSTATUS(result) != 0)
        return fb_fail(FB_ERROR_IO, "%s: gnuplot cannot write %s", option, path);
    return FB_OK;
}

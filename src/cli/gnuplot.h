/* Pictures: a script that is piped to gnuplot, which draws it into one file. */
#ifndef FB_CLI_GNUPLOT_H
#define FB_CLI_GNUPLOT_H

#include <flashblock/status.h>

#include <stdio.h>

/* Size of a picture, in pixels. */
typedef struct fb_picture {
    const char *path; /* ends in .png or .svg */
    size_t width, height;
    const char *font; /* "DejaVu Sans,12"; NULL: gnuplot's */
} fb_picture;

/* Writes a script to gnuplot: everything after `set terminal` and `set output`. */
typedef void fb_gnuplot_script(FILE *gnuplot, const void *user);

/* Draws. `option` begins messages ("--plot"). FB_ERROR_ARGUMENT for another ending or a line break
 * in the name, FB_ERROR_UNSUPPORTED where there is no gnuplot, FB_ERROR_IO where it cannot write
 * the file. */
fb_status fb_gnuplot_draw(const fb_picture *picture, const char *option, fb_gnuplot_script *script,
                          const void *user);

#endif

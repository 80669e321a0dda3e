/* Pictures: gnuplot draws a script, and its picture is written as every file is. */
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

/* Writes a script to gnuplot: everything after `set terminal`. */
typedef void fb_gnuplot_script(FILE *gnuplot, const void *user);

/* Whether it can be drawn: FB_ERROR_ARGUMENT for a name of another ending, FB_ERROR_UNSUPPORTED
 * where there is no gnuplot. `option` begins messages ("--plot"). */
fb_status fb_gnuplot_check(const char *path, const char *option);

/* Draws. FB_ERROR_UNSUPPORTED where there is no gnuplot, FB_ERROR_IO where the file cannot be
 * written. */
fb_status fb_gnuplot_draw(const fb_picture *picture, const char *option, fb_gnuplot_script *script,
                          const void *user);

#endif

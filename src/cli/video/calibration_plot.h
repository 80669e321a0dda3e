/* A calibration as a picture, drawn by gnuplot: for each step from 1 on a heat map of layers and
 * heads, the similarity of external parts above that of internal ones. */
#ifndef FB_CLI_VIDEO_CALIBRATION_PLOT_H
#define FB_CLI_VIDEO_CALIBRATION_PLOT_H

#include <flashblock/experimental/calibration.h>

/* `path` ends in .png or .svg. FB_ERROR_UNSUPPORTED where there is no gnuplot. */
fb_status fb_calibration_plot(const fb_calibration *calibration, const char *path);

#endif

/* Clips as files for other programs: YUV4MPEG2 (4:4:4, BT.601), and contact sheets as PNG. */
#ifndef FB_CLI_VIDEO_CLIP_SET_H
#define FB_CLI_VIDEO_CLIP_SET_H

#include <flashblock/status.h>

#include <stddef.h>

/* Clips of one size: frames [num_frames, 3, height, width] each, red, green and blue from -1 to 1
 * (values outside are clamped). */
typedef struct fb_clip_set {
    const float *const *clips; /* [num_clips] */
    size_t num_clips, num_frames, height, width;
    size_t scale; /* a pixel becomes scale x scale */
} fb_clip_set;

/* Writes the clips side by side, with this number of frames per second. */
fb_status fb_clip_set_write_y4m(const fb_clip_set *set, size_t frames_per_second, const char *path);

/* Writes a row for each clip and a column for each frame, on white. */
fb_status fb_clip_set_write_sheet(const fb_clip_set *set, const char *path);

#endif

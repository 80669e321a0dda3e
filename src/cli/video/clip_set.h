/* Clips as files that other programs show: YUV4MPEG2 (4:4:4, BT.601), and contact sheets as PNG. */
#ifndef FB_CLI_VIDEO_CLIP_SET_H
#define FB_CLI_VIDEO_CLIP_SET_H

#include <flashblock/status.h>

#include <stddef.h>

/* Clips of one size: frames [num_frames, 3, height, width] each, red, green and blue from -1 to 1
 * (what is beyond is cut off). */
typedef struct fb_clip_set {
    const float *const *clips; /* [num_clips] */
    size_t num_clips, num_frames, height, width;
    size_t scale; /* a pixel becomes scale x scale */
} fb_clip_set;

/* The clips side by side, `frames_per_second` of them a second. */
fb_status fb_clip_set_write_y4m(const fb_clip_set *set, size_t frames_per_second, const char *path);

/* A row a clip, a column a frame, on white. */
fb_status fb_clip_set_write_sheet(const fb_clip_set *set, const char *path);

#endif

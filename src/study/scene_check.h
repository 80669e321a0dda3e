/* Whether a clip of golden/demo-video shows what its prompt asks for: a coloured form that starts
 * at its place and moves straight, in its heading, bouncing off the borders.
 *
 * Each frame is compared with drawn templates of the five forms. Colour and form are right if they
 * are those of nine tenths of the frames. The place is where the first frame shows the form. The
 * motion is right if one straight path with its bounces passes within 2 pixels of the form in every
 * frame, and begins in the heading. golden/video_scenes.py is the same check in Python; the scenes
 * that the model was trained on are drawn there. */
#ifndef FB_STUDY_SCENE_CHECK_H
#define FB_STUDY_SCENE_CHECK_H

#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

enum { FB_SCENE_SIZE = 32 }; /* pixels of a frame, both ways */

/* What a prompt asks for, as numbers of words. */
typedef struct fb_scene {
    size_t colour, form, place, heading;
} fb_scene;

typedef struct fb_scene_verdict {
    bool colour, form, place, motion;
} fb_scene_verdict;

/* Reads "COLOUR FORM PLACE HEADING". False for any other prompt. */
bool fb_scene_parse(const char *prompt, fb_scene *scene);

/* frames [num_frames, 3, FB_SCENE_SIZE, FB_SCENE_SIZE]: red, green and blue from -1 to 1. */
fb_status fb_scene_check(const fb_scene *scene, const float *frames, size_t num_frames,
                         fb_scene_verdict *verdict);

bool fb_scene_all_right(const fb_scene_verdict *verdict);

#endif

/* What the commands of video models share: the model, its prompts, clips to be made. */
#ifndef FB_CLI_VIDEO_VIDEO_SESSION_H
#define FB_CLI_VIDEO_VIDEO_SESSION_H

#include "cli/options.h"

#include <flashblock/experimental/video.h>

#include <stddef.h>
#include <stdint.h>

typedef struct fb_video_session {
    fb_video_model *model;
    const fb_video_config *config;
    char *prompt_lines;   /* of a file, NULs in place of line ends */
    const char **prompts; /* [num_clips] */
    size_t num_clips, num_frames, frame_values;
    float *text;          /* [num_clips, text_len, text_dim] */
    float *frames;        /* [num_clips, num_frames, frame_values] */
    fb_video_clip *clips; /* [num_clips]; clip i has the seed `seed` + i */
} fb_video_session;

/* Starts as {0}; free it after a failure, too. */
fb_status fb_video_session_load(fb_video_session *session, const char *directory);
void fb_video_session_free(fb_video_session *session);

/* The prompts: `given`, or where that is empty `count` lines of the file, from line `first` on and
 * around (NULL: prompts.txt of the model's directory). */
fb_status fb_video_session_prompts(fb_video_session *session, const char *directory,
                                   const fb_option_list *given, const char *file, size_t first,
                                   size_t count);

/* Memory and noise for clips of the prompts. */
fb_status fb_video_session_clips(fb_video_session *session, size_t num_frames, uint64_t seed);

#endif

/* The commands of video models share these: the model, its prompts, and the clips to make. */
#ifndef FB_CLI_VIDEO_VIDEO_SESSION_H
#define FB_CLI_VIDEO_VIDEO_SESSION_H

#include "cli/options/common_options.h"
#include "cli/options/options.h"

#include <flashblock/experimental/video.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Options of both commands: table entries of a `structure` with the members model, frames, compat
 * and kv_dtype. */
#define FB_VIDEO_MODEL_OPTION(structure)                                                           \
    FB_MODEL_OPTION(structure, model, "config.json and safetensors of a causal Wan model")
#define FB_VIDEO_FRAMES_OPTION(structure, text)                                                    \
    {                                                                                              \
        .kind = FB_OPTION_SIZE, .name = "frames", .letter = 'n', .argument = "N",                  \
        .target = offsetof(structure, frames), .min = 1, .max = 100000, .otherwise = "21",         \
        .help = (text)                                                                             \
    }
#define FB_VIDEO_PROMPTS_OPTION(structure)                                                         \
    {                                                                                              \
        .kind = FB_OPTION_STRING, .name = "prompts", .argument = "FILE",                           \
        .target = offsetof(structure, prompts),                                                    \
        .help = "prompts, one a line (default: prompts.txt of the model); after the last one the " \
                "first again"                                                                      \
    }
#define FB_VIDEO_COMPAT_OPTIONS(structure)                                                         \
    FB_COMPAT_OPTION(                                                                              \
        structure, compat,                                                                         \
        "\"paper\": what the paper means; \"released\": what its published code does"),            \
        FB_KV_DTYPE_OPTION(structure, kv_dtype)

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
fb_status fb_video_session_load(fb_video_session *session, const char *directory, bool no_mmap);
void fb_video_session_free(fb_video_session *session);

/* Takes the prompts from `given` or, where that is empty, `count` lines of `file` (NULL:
 * prompts.txt of the model's directory): from line `first` on, and from the top again after the
 * last line. */
fb_status fb_video_session_prompts(fb_video_session *session, const char *directory,
                                   const fb_option_list *given, const char *file, size_t first,
                                   size_t count);

/* For fb_video_options.on_pass: shows progress. fb_progress_end must follow. */
void fb_video_session_show_pass(void *user, const fb_video_pass_event *pass);

/* Memory and noise for clips of the prompts. */
fb_status fb_video_session_clips(fb_video_session *session, size_t num_frames, uint64_t seed);

#endif

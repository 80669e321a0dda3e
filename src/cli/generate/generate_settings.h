/* Options of model, prompts, FlashBlock, denoising, sampling and machine, which `flashblock
 * generate` and the commands that generate as it does share. A command whose settings begin with an
 * fb_generate_settings names these options as the shared ones of its table. */
#ifndef FB_CLI_GENERATE_GENERATE_SETTINGS_H
#define FB_CLI_GENERATE_GENERATE_SETTINGS_H

#include "cli/generate/session.h"
#include "cli/options/options.h"

#include <flashblock/experimental/sparse.h>

typedef struct fb_generate_settings {
    const char *model, *mask_token, *json; /* json: the command's own option */
    fb_option_list prompts;
    fb_prompt_format format;
    fb_generate_options options; /* without reuse.tau, which is: */
    size_t tau;
    fb_sparse_options sparse; /* if sparse.selector is not NULL */
    bool residual, centroids, no_mmap, float_activations;
    bool temperature_given;
    size_t samples; /* of each prompt */
    size_t threads; /* 0: not given */
    int isa;        /* fb_isa_choice_parse_one */
} fb_generate_settings;

extern const fb_option_table fb_generate_settings_options;

/* The settings before the command line is read. */
fb_generate_settings fb_generate_settings_default(void);

/* Says which options contradict each other, or that there is no prompt; NULL: nothing is wrong. */
const char *fb_generate_settings_wrong(const fb_generate_settings *given);

/* Sets threads and instruction set, and loads model and tokenizer into a zeroed session, which has
 * the options as they are given. `given` must outlive the session. */
fb_status fb_generate_settings_open(fb_session *session, fb_generate_settings *given);

/* Sets threads and instruction set, loads model and tokenizer into a zeroed session, encodes the
 * prompts and resolves the options. `given` must outlive the session. */
fb_status fb_generate_settings_prepare(fb_session *session, fb_generate_settings *given);

#endif

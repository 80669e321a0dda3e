#include "cli/video/video_session.h"

#include "base/error.h"
#include "base/memory.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "io/file.h"

#include <string.h>

enum { MAX_PROMPTS = 1 << 20 };

fb_status fb_video_session_load(fb_video_session *session, const char *directory, bool no_mmap) {
    fb_model_options options;
    fb_model_options_init(&options);
    options.read_weights = no_mmap;
    FB_TRY(fb_video_model_load_with(directory, &options, &session->model));
    fb_print_video_warnings(session->model);
    session->config = fb_video_config_of(session->model);
    return FB_OK;
}

void fb_video_session_free(fb_video_session *session) {
    fb_video_model_destroy(session->model);
    fb_free(session->prompt_lines);
    fb_free((void *)session->prompts);
    fb_free(session->text);
    fb_free(session->frames);
    fb_free(session->clips);
}

/* The beginning of each line that is not empty; `lines` may be NULL. Lines end in LF or CRLF. */
static size_t split_lines(char *text, char **lines) {
    size_t count = 0;
    for (char *line = text; line;) {
        char *end = strchr(line, '\n');
        if (*line && strncmp(line, "\r\n", 2) != 0 && *line != '\n' && count < MAX_PROMPTS) {
            if (lines)
                lines[count] = line;
            count++;
        }
        if (end && lines)
            end[end > line && end[-1] == '\r' ? -1 : 0] = '\0';
        line = end ? end + 1 : NULL;
    }
    return count;
}

static fb_status read_lines(fb_video_session *session, const char *path, size_t first,
                            size_t count) {
    size_t size = 0;
    char **lines = NULL;
    FB_TRY(fb_file_read_text(path, 1 << 24, &session->prompt_lines, &size));
    size_t num_lines = split_lines(session->prompt_lines, NULL);
    if (num_lines == 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: there is no prompt in it", path);
    FB_TRY(fb_alloc(num_lines, sizeof *lines, "prompts", &lines));
    split_lines(session->prompt_lines, lines);
    fb_status status = fb_alloc(count, sizeof *session->prompts, "prompts", &session->prompts);
    for (size_t i = 0; status == FB_OK && i < count; i++)
        session->prompts[i] = lines[(first % num_lines + i) % num_lines];
    fb_free(lines);
    session->num_clips = count;
    return status;
}

static fb_status read_file(fb_video_session *session, const char *directory, const char *file,
                           size_t first, size_t count) {
    char *path = NULL;
    if (file)
        return read_lines(session, file, first, count);
    FB_TRY(fb_path_join(directory, "prompts.txt", &path));
    fb_status status = read_lines(session, path, first, count);
    fb_free(path);
    return status;
}

static fb_status take_given(fb_video_session *session, const fb_option_list *given) {
    FB_TRY(fb_alloc(given->count, sizeof *session->prompts, "prompts", &session->prompts));
    for (size_t i = 0; i < given->count; i++)
        session->prompts[i] = given->values[i].text;
    session->num_clips = given->count;
    return FB_OK;
}

fb_status fb_video_session_prompts(fb_video_session *session, const char *directory,
                                   const fb_option_list *given, const char *file, size_t first,
                                   size_t count) {
    size_t text = session->config->text_len * session->config->text_dim;
    if (given && given->count > 0)
        FB_TRY(take_given(session, given));
    else
        FB_TRY(read_file(session, directory, file, first, count));
    FB_TRY(fb_alloc(session->num_clips, text * sizeof *session->text, "text", &session->text));
    for (size_t i = 0; i < session->num_clips; i++)
        FB_TRY(fb_video_prompt(session->model, session->prompts[i], session->text + i * text));
    return FB_OK;
}

fb_status fb_video_session_clips(fb_video_session *session, size_t num_frames, uint64_t seed) {
    const fb_video_config *config = session->config;
    size_t text = config->text_len * config->text_dim, values = 0;
    session->num_frames = num_frames;
    session->frame_values = config->out_dim * config->frame_height * config->frame_width;
    if (!fb_size_mul(num_frames, session->frame_values, &values))
        return fb_fail(FB_ERROR_ARGUMENT, "--frames: %zu frames overflow", num_frames);
    FB_TRY(fb_alloc(session->num_clips, sizeof *session->clips, "clips", &session->clips));
    FB_TRY(
        fb_alloc(session->num_clips, values * sizeof *session->frames, "frames", &session->frames));
    for (size_t i = 0; i < session->num_clips; i++)
        session->clips[i] = (fb_video_clip){.text = session->text + i * text,
                                            .seed = seed + i,
                                            .frames = session->frames + i * values};
    return FB_OK;
}

void fb_video_session_show_pass(void *user, const fb_video_pass_event *pass) {
    (void)user;
    if (pass->clip == 0)
        fb_progress_often("block %zu of %zu, step %zu of %zu", pass->block + 1, pass->num_blocks,
                          pass->step + 1, pass->num_steps);
}

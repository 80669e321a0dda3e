/* config.json of a video model. */
#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/json.h"
#include "model/config_fields.h"
#include "model/video_state.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Far above every published model, and low enough that sizes multiply without overflow. */
enum {
    MAX_FILE = 1 << 20,
    MAX_WIDTH = 1 << 20,
    MAX_LAYERS = 1 << 12,
    MAX_PIXELS = 1 << 14,
    MAX_FRAMES = 1 << 14,
    MAX_TEXT = 4096, /* a pass takes memory for a text of this length; published: 512 */
    MAX_WORDS = 1 << 16,
    MAX_PATH = 4096,
};

/* --- checks ----------------------------------------------------------------------------------- */

static fb_status check_steps(const fb_video_config *config, const char *where) {
    if (config->num_denoising_steps == 0 || config->num_denoising_steps > FB_VIDEO_MAX_STEPS)
        return fb_fail(FB_ERROR_FORMAT, "%s: denoising_step_list has %zu steps, expected 1 to %d",
                       where, config->num_denoising_steps, FB_VIDEO_MAX_STEPS);
    for (size_t i = 0; i < config->num_denoising_steps; i++) {
        size_t most = i ? config->denoising_steps[i - 1] - 1 : 1000;
        if (config->denoising_steps[i] == 0 || config->denoising_steps[i] > most)
            return fb_fail(FB_ERROR_FORMAT,
                           "%s: denoising_step_list[%zu] is %zu, expected 1 to %zu", where, i,
                           config->denoising_steps[i], most);
    }
    if (!(config->timestep_shift > 0.0) || !(config->timestep_shift <= 1000.0))
        return fb_fail(FB_ERROR_FORMAT, "%s: timestep_shift is %g, expected above 0, up to 1000",
                       where, config->timestep_shift);
    if (!(config->context_noise >= 0.0) || !(config->context_noise <= 1000.0))
        return fb_fail(FB_ERROR_FORMAT, "%s: context_noise is %g, expected 0 to 1000", where,
                       config->context_noise);
    return FB_OK;
}

fb_status fb_video_config_check(const fb_video_config *config, const char *where) {
    if (config->num_heads == 0 || config->dim % (2 * config->num_heads) != 0)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: dim is %zu, expected a multiple of twice the %zu heads", where,
                       config->dim, config->num_heads);
    if (config->freq_dim % 2 != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: freq_dim is %zu, expected an even number", where,
                       config->freq_dim);
    if (config->coordinate_channels == 1 || config->coordinate_channels >= config->in_dim)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: coordinate_channels is %zu, expected 0, or 2 of the %zu of in_dim",
                       where, config->coordinate_channels, config->in_dim);
    if (!(config->eps > 0.0))
        return fb_fail(FB_ERROR_FORMAT, "%s: eps is %g, expected above 0", where, config->eps);
    if (config->frame_height % config->patch_height != 0 ||
        config->frame_width % config->patch_width != 0)
        return fb_fail(
            FB_ERROR_FORMAT,
            "%s: frame_height is %zu and frame_width %zu, not multiples of the patch's %zu "
            "and %zu",
            where, config->frame_height, config->frame_width, config->patch_height,
            config->patch_width);
    if (config->window_frames < config->block_frames + config->sink_frames)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: local_attn_size is %zu, less than sink_size (%zu) and "
                       "num_frame_per_block (%zu) together",
                       where, config->window_frames, config->sink_frames, config->block_frames);
    return check_steps(config, where);
}

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct size_field {
    const char *key;
    size_t min, max;
    size_t *value;
} size_field;

static fb_status read_sizes(const fb_json *root, const char *where, fb_video_config *c) {
    const size_field fields[] = {
        {"dim", 2, MAX_WIDTH, &c->dim},
        {"ffn_dim", 1, MAX_WIDTH, &c->ffn_dim},
        {"freq_dim", 2, MAX_WIDTH, &c->freq_dim},
        {"in_dim", 1, 4096, &c->in_dim},
        {"out_dim", 1, 4096, &c->out_dim},
        {"num_heads", 1, 4096, &c->num_heads},
        {"num_layers", 1, MAX_LAYERS, &c->num_layers},
        {"text_len", 1, MAX_TEXT, &c->text_len},
        {"text_dim", 1, MAX_WIDTH, &c->text_dim},
        {"frame_height", 1, MAX_PIXELS, &c->frame_height},
        {"frame_width", 1, MAX_PIXELS, &c->frame_width},
        {"num_frame_per_block", 1, MAX_FRAMES, &c->block_frames},
        {"local_attn_size", 1, MAX_FRAMES, &c->window_frames},
        {"sink_size", 0, MAX_FRAMES, &c->sink_frames},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        FB_TRY(fb_json_get_size(root, where, fields[i].key, fields[i].min, fields[i].max,
                                fields[i].value));
    return FB_OK;
}

static fb_status read_patch(const fb_json *root, const char *where, fb_video_config *c) {
    const fb_json *patch = NULL;
    size_t frames = 0;
    FB_TRY(fb_json_get_array(root, where, "patch_size", &patch));
    if (fb_json_array_size(patch) != 3)
        return fb_fail(FB_ERROR_FORMAT, "%s: patch_size has %zu numbers, expected 3", where,
                       fb_json_array_size(patch));
    FB_TRY(fb_json_size(fb_json_array_get(patch, 0), where, "patch_size[0]", 1, 1, &frames));
    FB_TRY(fb_json_size(fb_json_array_get(patch, 1), where, "patch_size[1]", 1, 256,
                        &c->patch_height));
    return fb_json_size(fb_json_array_get(patch, 2), where, "patch_size[2]", 1, 256,
                        &c->patch_width);
}

static fb_status read_steps(const fb_json *root, const char *where, fb_video_config *c) {
    const fb_json *steps = NULL;
    FB_TRY(fb_json_get_array(root, where, "denoising_step_list", &steps));
    c->num_denoising_steps = fb_json_array_size(steps);
    for (size_t i = 0; i < c->num_denoising_steps && i < FB_VIDEO_MAX_STEPS; i++)
        FB_TRY(fb_json_size(fb_json_array_get(steps, i), where, "denoising_step_list", 1, 1000,
                            &c->denoising_steps[i]));
    FB_TRY(fb_json_get_bool(root, where, "warp_denoising_step", &c->warp_denoising_steps));
    FB_TRY(fb_json_get_double(root, where, "timestep_shift", &c->timestep_shift));
    return fb_json_get_double_or(root, where, "context_noise", 0.0, &c->context_noise);
}

/* On error the words read so far are in *words. */
static fb_status read_words(const fb_json *root, const char *where, fb_video_config *c,
                            char ***words) {
    const fb_json *list = NULL;
    if (!fb_json_has(root, "words"))
        return FB_OK;
    FB_TRY(fb_json_get_array(root, where, "words", &list));
    size_t count = fb_json_array_size(list);
    if (count == 0 || count > MAX_WORDS || count != c->text_dim)
        return fb_fail(FB_ERROR_FORMAT, "%s: there are %zu words, expected text_dim, %zu", where,
                       count, c->text_dim);
    FB_TRY(fb_alloc_zeroed(count, sizeof **words, "words", words));
    c->num_words = count;
    for (size_t i = 0; i < count; i++) {
        const char *text = fb_json_string(fb_json_array_get(list, i));
        if (!text || !*text || strpbrk(text, " ,\t\n"))
            return fb_fail(FB_ERROR_FORMAT, "%s: words[%zu] is not a word", where, i);
        size_t size = strlen(text) + 1;
        FB_TRY(fb_alloc(size, 1, "word", &(*words)[i]));
        memcpy((*words)[i], text, size);
    }
    return FB_OK;
}

/* A window of its own in each layer, [before, after], which -1 means to be none. */
static fb_status check_window(const fb_json *root, const char *where) {
    const fb_json *window = NULL;
    char text[FB_JSON_SHOW_SIZE];
    if (!fb_json_has(root, "window_size"))
        return FB_OK;
    FB_TRY(fb_json_get_array(root, where, "window_size", &window));
    bool none = fb_json_array_size(window) == 2;
    for (size_t i = 0; i < fb_json_array_size(window); i++)
        none = none && fb_json_is(fb_json_array_get(window, i), "-1", 2);
    return none ? FB_OK
                : fb_fail(FB_ERROR_UNSUPPORTED, "%s: window_size is %s, expected [-1, -1]", where,
                          fb_json_show(window, text));
}

static fb_status read_all(const fb_json *root, const char *where, fb_video_config *c, char ***words,
                          fb_warnings *warnings) {
    const char *name = NULL;
    FB_TRY(fb_json_get_string_or(root, where, "_class_name", "CausalWanModel", &name));
    if (strcmp(name, "CausalWanModel") != 0 && strcmp(name, "WanModel") != 0)
        return fb_fail(FB_ERROR_UNSUPPORTED,
                       "%s: _class_name is '%s', expected CausalWanModel or WanModel", where, name);
    FB_TRY(read_sizes(root, where, c));
    FB_TRY(
        fb_json_get_size_or(root, where, "coordinate_channels", 0, 2, 0, &c->coordinate_channels));
    FB_TRY(read_patch(root, where, c));
    FB_TRY(fb_json_get_double_or(root, where, "eps", 1e-6, &c->eps));
    FB_TRY(fb_json_get_bool_or(root, where, "qk_norm", true, &c->qk_norm));
    FB_TRY(fb_json_get_bool_or(root, where, "cross_attn_norm", true, &c->cross_attn_norm));
    FB_TRY(read_steps(root, where, c));
    FB_TRY(check_window(root, where));
    FB_TRY(fb_video_config_check(c, where));
    FB_TRY(fb_fields_check(root, where, fb_video_fields, NULL, warnings));
    return read_words(root, where, c, words);
}

fb_status fb_video_config_read(const char *directory, fb_video_config *config, char ***words,
                               fb_warnings *warnings) {
    char path[MAX_PATH];
    const fb_json *root = NULL;
    *config = (fb_video_config){0};
    *words = NULL;
    if ((size_t)snprintf(path, sizeof path, "%s/config.json", directory) >= sizeof path)
        return fb_fail(FB_ERROR_ARGUMENT, "directory: its name is too long");
    FB_TRY(fb_json_load(path, MAX_FILE, &root));
    fb_status status = read_all(root, path, config, words, warnings);
    fb_json_free(root);
    return status;
}

/* The directory of a video model: loaded, and one pass over a block. Parts: config.json,
 * model.safetensors, a prompt. */
#include "tests/fuzz/fuzz.h"

#include <flashblock/experimental/video_model.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Attention takes the square of the positions: a pass over more of them is long, and right. */
enum { PARTS = 3, MAX_VALUES = 1 << 20, MAX_POSITIONS = 1 << 13 };

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    return fuzz_mutate_parts(data, size, max_size, seed, PARTS);
}

static float *zeros(size_t a, size_t b, size_t c, size_t d) {
    size_t count = 1;
    const size_t sizes[] = {a, b, c, d};
    for (size_t i = 0; i < 4; i++) {
        if (sizes[i] > MAX_VALUES / count)
            return NULL;
        count *= sizes[i] > 0 ? sizes[i] : 1;
    }
    return calloc(count, sizeof(float));
}

/* block_frames x frame_height x frame_width is at most MAX_POSITIONS. */
static bool small(const fb_video_config *c) {
    const size_t sizes[] = {c->block_frames, c->frame_height, c->frame_width};
    size_t count = 1;
    for (size_t i = 0; i < 3; i++) {
        if (sizes[i] == 0 || sizes[i] > MAX_POSITIONS / count)
            return false;
        count *= sizes[i];
    }
    return true;
}

static void set_prompt(const fb_video_model *model, fuzz_part part, float *text) {
    char *prompt = calloc(1, part.size + 1);
    if (prompt) {
        memcpy(prompt, part.data, part.size);
        fb_video_prompt(model, prompt, text);
    }
    free(prompt);
}

static void pass(fb_video_model *model, fuzz_part prompt) {
    const fb_video_config *c = fb_video_config_of(model);
    fb_video_cache *cache = NULL;
    float *text = zeros(c->text_len, c->text_dim, 1, 1);
    float *latents = zeros(c->block_frames, c->in_dim, c->frame_height, c->frame_width);
    float *flow = zeros(c->block_frames, c->out_dim, c->frame_height, c->frame_width);
    if (text && latents && flow &&
        fb_video_model_new_cache(model, FB_F32, FB_COMPAT_PAPER, &cache) == FB_OK) {
        set_prompt(model, prompt, text);
        fb_video_forward_call call = {.latents = latents,
                                      .num_frames = c->block_frames,
                                      .timestep = 500.0,
                                      .text = text,
                                      .cache = cache,
                                      .flow = flow};
        fb_video_forward(model, &call, 1, NULL, NULL);
        fb_video_cache_destroy(cache);
    }
    free(text);
    free(latents);
    free(flow);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_part parts[PARTS];
    fb_video_model *model = NULL;
    fuzz_split(data, size, parts, PARTS);
    fuzz_write("video/config.json", parts[0]);
    fuzz_write("video/model.safetensors", parts[1]);
    if (fb_video_model_load(fuzz_path("video"), &model) != FB_OK)
        return 0;
    if (small(fb_video_config_of(model)))
        pass(model, parts[2]);
    fb_video_model_destroy(model);
    return 0;
}

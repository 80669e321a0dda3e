#include "oracle/trajectory_record.h"

#include "base//memory.h"
#include "base/error.h"

#include <string.h>

static const char *const state_names[FB_TRAJECTORY_NUM_STATES] = {
    [FB_TRAJECTORY_LOGITS] = "logits",
    [FB_TRAJECTORY_GUMBEL] = "gumbel",
    [FB_TRAJECTORY_HIDDEN] = "hidden",
    [FB_TRAJECTORY_EXTERNAL_OUT] = "external_out",
    [FB_TRAJECTORY_EXTERNAL_LSE] = "external_lse",
    [FB_TRAJECTORY_INTERNAL_OUT] = "internal_out",
    [FB_TRAJECTORY_INTERNAL_LSE] = "internal_lse",
    [FB_TRAJECTORY_OUT] = "out",
    [FB_TRAJECTORY_LSE] = "lse",
};

const char *fb_trajectory_state_name(fb_trajectory_state state) {
    return state_names[state];
}

void fb_trajectory_close(fb_trajectory *record) {
    for (size_t i = 0; i < record->num_passes; i++)
        fb_free(record->passes[i].memory);
    fb_free(record->passes);
    fb_free(record->path);
    fb_free(record->model);
    fb_free(record->prompt_tokens);
    fb_free(record->stop_tokens);
    fb_safetensors_close(record->tensors);
    *record = (fb_trajectory){0};
}

fb_status fb_trajectory_copy_text(const char *text, char **copy) {
    size_t size = strlen(text) + 1;
    FB_TRY(fb_alloc(size, 1, "text", copy));
    memcpy(*copy, text, size);
    return FB_OK;
}

/* A new pass, with its arrays. */
fb_status fb_trajectory_add_pass(fb_trajectory *record, fb_trajectory_pass **pass) {
    if (record->num_passes == record->max_passes) {
        size_t room = record->max_passes ? 2 * record->max_passes : 64;
        fb_trajectory_pass *grown = NULL;
        FB_TRY(fb_alloc(room, sizeof *grown, "passes", &grown));
        if (record->num_passes)
            memcpy(grown, record->passes, record->num_passes * sizeof *grown);
        fb_free(record->passes);
        record->passes = grown;
        record->max_passes = room;
    }
    size_t size = record->options.block_size;
    char *memory = NULL;
    FB_TRY(fb_alloc_zeroed(size, sizeof(double) + 4 * sizeof(int32_t) + 2, "a pass", &memory));
    fb_trajectory_pass *added = &record->passes[record->num_passes++];
    *added = (fb_trajectory_pass){.memory = memory};
    added->uniform = (double *)(void *)memory;
    added->confidence = (float *)(void *)(added->uniform + size);
    added->entropy = added->confidence + size;
    added->proposed = (int32_t *)(void *)(added->entropy + size);
    added->tokens = added->proposed + size;
    added->masked = (bool *)(void *)(added->tokens + size);
    added->accepted = added->masked + size;
    *pass = added;
    return FB_OK;
}

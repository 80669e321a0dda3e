#include "oracle/trajectory_states.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/safetensors.h"
#include "oracle/trajectory_replay.h"

#include <stdio.h>

enum { NAME_SIZE = 64 };

/* The tensors of all passes, without their values. */
typedef struct listing {
    fb_tensor_view *views;
    char (*names)[NAME_SIZE];
    size_t count;
} listing;

static bool has(const fb_trajectory_pass *pass, int state) {
    return state != FB_TRAJECTORY_GUMBEL && !(state == FB_TRAJECTORY_LOGITS && pass->commit);
}

static fb_tensor_view describe(const fb_trajectory *record, const fb_model_config *c,
                               fb_trajectory_state state) {
    size_t block = record->options.block_size, layers = c->num_hidden_layers;
    size_t heads = c->num_attention_heads;
    switch (state) {
    case FB_TRAJECTORY_LOGITS:
        return (fb_tensor_view){.dtype = FB_TENSOR_F32, .ndim = 2, .shape = {block, c->vocab_size}};
    case FB_TRAJECTORY_HIDDEN:
        return (fb_tensor_view){
            .dtype = FB_TENSOR_F32, .ndim = 3, .shape = {layers + 1, block, c->hidden_size}};
    case FB_TRAJECTORY_EXTERNAL_LSE:
    case FB_TRAJECTORY_INTERNAL_LSE:
    case FB_TRAJECTORY_LSE:
        return (fb_tensor_view){.dtype = FB_TENSOR_F32, .ndim = 3, .shape = {layers, block, heads}};
    default:
        return (fb_tensor_view){
            .dtype = FB_TENSOR_F32, .ndim = 4, .shape = {layers, block, heads, c->head_dim}};
    }
}

static void name_tensor(const fb_trajectory_pass *pass, fb_trajectory_state state, char *name) {
    const char *what = fb_trajectory_state_name(state);
    if (pass->commit)
        snprintf(name, NAME_SIZE, "block%zu.commit.%s", pass->block, what);
    else
        snprintf(name, NAME_SIZE, "block%zu.step%zu.%s", pass->block, pass->step, what);
}

static fb_status list_tensors(const fb_trajectory *record, const fb_model_config *config,
                              listing *all) {
    size_t most = record->num_passes * FB_TRAJECTORY_NUM_STATES;
    FB_TRY(fb_alloc(most, sizeof *all->views, "tensors", &all->views));
    FB_TRY(fb_alloc(most, sizeof *all->names, "tensor names", &all->names));
    for (size_t p = 0; p < record->num_passes; p++)
        for (int i = 0; i < FB_TRAJECTORY_NUM_STATES; i++) {
            if (!has(&record->passes[p], i))
                continue;
            fb_trajectory_state state = (fb_trajectory_state)i;
            name_tensor(&record->passes[p], state, all->names[all->count]);
            all->views[all->count] = describe(record, config, state);
            all->views[all->count].name = all->names[all->count];
            all->count++;
        }
    return FB_OK;
}

static fb_status put_states(const fb_trajectory_replay *replay, fb_file_writer *writer) {
    for (int i = 0; i < FB_TRAJECTORY_NUM_STATES; i++)
        if (has(replay->pass, i))
            FB_TRY(fb_file_writer_put(writer, replay->lanes[0].states[i],
                                      fb_trajectory_state_size(replay, (fb_trajectory_state)i) *
                                          sizeof(float)));
    return FB_OK;
}

static fb_status put_all(fb_trajectory_replay *replay, fb_file_writer *writer) {
    for (size_t p = 0; p < replay->record->num_passes; p++) {
        FB_TRY(fb_trajectory_replay_run(replay, &replay->record->passes[p]));
        FB_TRY(put_states(replay, writer));
        FB_TRY(fb_trajectory_replay_decide(replay));
    }
    return FB_OK;
}

static fb_status begin_file(const char *path, const listing *all, fb_file_writer **writer) {
    fb_buffer header = {0};
    fb_status status = fb_safetensors_header(all->views, all->count, NULL, 0, 8, &header);
    if (status == FB_OK)
        status = fb_file_writer_open(path, writer);
    if (status == FB_OK)
        status = fb_file_writer_put(*writer, header.data, header.size);
    fb_buffer_free(&header);
    return status;
}

static fb_status write(const fb_trajectory *record, fb_model *model, const char *path,
                       listing *all) {
    fb_trajectory_replay replay = {.wants_hidden = true, .wants_parts = true};
    fb_file_writer *writer = NULL;
    FB_TRY(list_tensors(record, fb_model_config_of(model), all));
    fb_status status = begin_file(path, all, &writer);
    if (status == FB_OK)
        status = fb_trajectory_replay_begin(record, model, 1, &replay);
    if (status == FB_OK)
        status = put_all(&replay, writer);
    fb_trajectory_replay_free(&replay);
    if (status == FB_OK)
        return fb_file_writer_commit(writer);
    fb_file_writer_abandon(writer);
    return status;
}

fb_status fb_trajectory_write_states(const fb_trajectory *record, fb_model *model,
                                     const char *path) {
    listing all = {0};
    fb_status status = write(record, model, path, &all);
    fb_free(all.views);
    fb_free(all.names);
    return status;
}

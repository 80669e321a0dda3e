/* The tensors of a video model, by the names of CausalWanModel's state dict. */
#include "base/error.h"
#include "base/memory.h"
#include "model/video_state.h"
#include "model/weights.h"

#include <stdio.h>
#include <string.h>

enum { MAX_NAME = 128, VECTORS_OF_LAYER = 32, OTHER_VECTORS = 16 };

typedef struct binder {
    fb_video_model *model;
    fb_video_find *find;
    const void *source;
    fb_buffer *used; /* or NULL */
    char prefix[MAX_NAME / 2];
} binder;

static fb_status find(binder *b, const char *name, size_t ndim, const size_t *shape,
                      const fb_tensor_view **tensor) {
    char full[MAX_NAME];
    snprintf(full, sizeof full, "%s%s", b->prefix, name);
    const fb_tensor_view *found = b->find(b->source, full);
    if (!found)
        return fb_fail(FB_ERROR_FORMAT, "no tensor called %s", full);
    FB_TRY(fb_tensor_check_shape(found, ndim, shape));
    b->model->num_parameters += found->count;
    *tensor = found;
    return b->used ? fb_buffer_append(b->used, &found, sizeof found) : FB_OK;
}

/* A widened copy that the model owns. */
static fb_status vector(binder *b, const char *name, size_t ndim, const size_t *shape,
                        const float **values) {
    const fb_tensor_view *tensor = NULL;
    float *copy = NULL;
    FB_TRY(find(b, name, ndim, shape, &tensor));
    FB_TRY(fb_alloc(tensor->count, sizeof *copy, name, &copy));
    b->model->vectors[b->model->num_vectors++] = copy;
    *values = copy;
    return fb_tensor_read_f32(tensor, 0, tensor->count, copy);
}

/* `name`.weight, of any shape with `rows` and `columns` elements in it, and `name`.bias. */
static fb_status bind_linear(binder *b, const char *name, size_t ndim, const size_t *shape,
                             fb_matrix *matrix) {
    char full[MAX_NAME / 2];
    const fb_tensor_view *tensor = NULL;
    const float *bias = NULL;
    snprintf(full, sizeof full, "%s.weight", name);
    FB_TRY(find(b, full, ndim, shape, &tensor));
    *matrix =
        (fb_matrix){.data = tensor->data, .rows = shape[0], .columns = tensor->count / shape[0]};
    FB_TRY(fb_tensor_storage(tensor, &matrix->dtype));
    snprintf(full, sizeof full, "%s.bias", name);
    FB_TRY(vector(b, full, 1, shape, &bias));
    matrix->bias = b->model->vectors[b->model->num_vectors - 1];
    return FB_OK;
}

static fb_status square(binder *b, const char *part, const char *name, fb_matrix *matrix) {
    char full[MAX_NAME / 2];
    size_t dim = b->model->config.dim;
    snprintf(full, sizeof full, "%s.%s", part, name);
    return bind_linear(b, full, 2, (size_t[]){dim, dim}, matrix);
}

static fb_status bind_attention(binder *b, const char *part, fb_video_attention *attention) {
    const fb_video_config *config = &b->model->config;
    char name[MAX_NAME / 2];
    attention->num_heads = config->num_heads;
    attention->head_dim = config->dim / config->num_heads;
    attention->eps = config->eps;
    FB_TRY(square(b, part, "q", &attention->q));
    FB_TRY(square(b, part, "k", &attention->k));
    FB_TRY(square(b, part, "v", &attention->v));
    FB_TRY(square(b, part, "o", &attention->o));
    if (!config->qk_norm)
        return FB_OK;
    snprintf(name, sizeof name, "%s.norm_q.weight", part);
    FB_TRY(vector(b, name, 1, &config->dim, &attention->norm_q));
    snprintf(name, sizeof name, "%s.norm_k.weight", part);
    return vector(b, name, 1, &config->dim, &attention->norm_k);
}

static fb_status bind_layer(binder *b, fb_video_layer *layer) {
    const fb_video_config *config = &b->model->config;
    size_t dim = config->dim, middle = config->ffn_dim;
    FB_TRY(vector(b, "modulation", 3, (size_t[]){1, 6, dim}, &layer->modulation));
    FB_TRY(bind_attention(b, "self_attn", &layer->self));
    FB_TRY(bind_attention(b, "cross_attn", &layer->cross));
    if (config->cross_attn_norm) {
        FB_TRY(vector(b, "norm3.weight", 1, &dim, &layer->norm3_weight));
        FB_TRY(vector(b, "norm3.bias", 1, &dim, &layer->norm3_bias));
    }
    FB_TRY(bind_linear(b, "ffn.0", 2, (size_t[]){middle, dim}, &layer->ffn_in));
    return bind_linear(b, "ffn.2", 2, (size_t[]){dim, middle}, &layer->ffn_out);
}

static fb_status bind_all(binder *b) {
    fb_video_model *m = b->model;
    const fb_video_config *c = &m->config;
    size_t dim = c->dim, values = c->out_dim * c->patch_height * c->patch_width;
    FB_TRY(bind_linear(b, "patch_embedding", 5,
                       (size_t[]){dim, c->in_dim, 1, c->patch_height, c->patch_width}, &m->patch));
    FB_TRY(bind_linear(b, "text_embedding.0", 2, (size_t[]){dim, c->text_dim}, &m->text_in));
    FB_TRY(bind_linear(b, "text_embedding.2", 2, (size_t[]){dim, dim}, &m->text_out));
    FB_TRY(bind_linear(b, "time_embedding.0", 2, (size_t[]){dim, c->freq_dim}, &m->time_in));
    FB_TRY(bind_linear(b, "time_embedding.2", 2, (size_t[]){dim, dim}, &m->time_out));
    FB_TRY(bind_linear(b, "time_projection.1", 2, (size_t[]){6 * dim, dim}, &m->time_projection));
    for (size_t i = 0; i < c->num_layers; i++) {
        snprintf(b->prefix, sizeof b->prefix, "blocks.%zu.", i);
        FB_TRY(bind_layer(b, &m->layers[i]));
    }
    b->prefix[0] = '\0';
    FB_TRY(vector(b, "head.modulation", 3, (size_t[]){1, 2, dim}, &m->head_modulation));
    return bind_linear(b, "head.head", 2, (size_t[]){values, dim}, &m->head);
}

static fb_status bind(fb_video_model *model, fb_video_find *find_tensor, const void *source,
                      fb_buffer *used) {
    size_t layers = model->config.num_layers;
    model->max_vectors = layers * VECTORS_OF_LAYER + OTHER_VECTORS;
    FB_TRY(fb_alloc_zeroed(layers, sizeof *model->layers, "layers", &model->layers));
    FB_TRY(fb_alloc_zeroed(model->max_vectors, sizeof *model->vectors, "vectors", &model->vectors));
    binder b = {.model = model, .find = find_tensor, .source = source, .used = used};
    return bind_all(&b);
}

fb_status fb_video_model_bind(const fb_video_config *config, fb_video_find *find_tensor,
                              const void *source, const char *where, fb_buffer *used,
                              fb_video_model **model) {
    fb_video_model *made = NULL;
    FB_TRY(fb_video_config_check(config, where));
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "video model", &made));
    made->config = *config;
    fb_status status = bind(made, find_tensor, source, used);
    if (status != FB_OK) {
        fb_video_model_destroy(made);
        return fb_fail_in(status, "%s", where);
    }
    *model = made;
    return FB_OK;
}

static const fb_tensor_view *find_in_checkpoint(const void *checkpoint, const char *name) {
    return fb_checkpoint_find(checkpoint, name);
}

static fb_status open_model(const char *directory, bool reads, const fb_video_config *config,
                            fb_warnings *warnings, fb_video_model **model) {
    fb_checkpoint *checkpoint = NULL;
    fb_video_model *made = NULL;
    fb_buffer used = {0};
    FB_TRY(fb_checkpoint_open(directory, reads, warnings, &checkpoint));
    fb_status status =
        fb_video_model_bind(config, find_in_checkpoint, checkpoint, directory, &used, &made);
    if (status == FB_OK)
        status = fb_checkpoint_warn_unused(checkpoint, (const fb_tensor_view **)(void *)used.data,
                                           used.size / sizeof(fb_tensor_view *), warnings);
    fb_buffer_free(&used);
    if (status != FB_OK) {
        fb_video_model_destroy(made);
        fb_checkpoint_close(checkpoint);
        return status;
    }
    made->checkpoint = checkpoint;
    *model = made;
    return FB_OK;
}

static void free_words(char **words, size_t count) {
    for (size_t i = 0; words && i < count; i++)
        fb_free(words[i]);
    fb_free(words);
}

fb_status fb_video_model_load(const char *directory, fb_video_model **model) {
    return fb_video_model_load_with(directory, NULL, model);
}

fb_status fb_video_model_load_with(const char *directory, const fb_model_options *options,
                                   fb_video_model **model) {
    fb_model_options own;
    if (!directory || !model)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", directory ? "model" : "directory");
    FB_TRY(fb_model_options_read(options, &own));
    fb_video_config config;
    char **words = NULL;
    fb_warnings warnings = {0};
    fb_status status = fb_video_config_read(directory, &config, &words, &warnings);
    if (status == FB_OK)
        status = open_model(directory, own.read_weights, &config, &warnings, model);
    if (status != FB_OK) {
        free_words(words, config.num_words);
        fb_warnings_free(&warnings);
        return status;
    }
    (*model)->words = words;
    (*model)->warnings = warnings;
    return FB_OK;
}

void fb_video_model_destroy(fb_video_model *model) {
    if (!model)
        return;
    for (size_t i = 0; i < model->num_vectors; i++)
        fb_free(model->vectors[i]);
    free_words(model->words, model->config.num_words);
    fb_free(model->vectors);
    fb_free(model->layers);
    fb_checkpoint_close(model->checkpoint);
    fb_linear_scratch_free(&model->linear);
    fb_warnings_free(&model->warnings);
    fb_free(model);
}

const fb_video_config *fb_video_config_of(const fb_video_model *model) {
    return &model->config;
}

const char *fb_video_model_warning(const fb_video_model *model, size_t index) {
    return fb_warnings_at(&model->warnings, index);
}

size_t fb_video_model_num_parameters(const fb_video_model *model) {
    return model->num_parameters;
}

const char *fb_video_model_word(const fb_video_model *model, size_t index) {
    return model->words && index < model->config.num_words ? model->words[index] : NULL;
}

static fb_status add_word(const fb_video_model *model, const char *word, size_t length,
                          float *vector) {
    for (size_t i = 0; i < model->config.num_words; i++)
        if (strlen(model->words[i]) == length && memcmp(model->words[i], word, length) == 0) {
            vector[i] = 1.0f;
            return FB_OK;
        }
    return fb_fail(FB_ERROR_ARGUMENT, "prompt: the model does not know the word '%.*s'",
                   (int)length, word);
}

/* Adds the words of the prompt; with text NULL they are only looked for. */
static fb_status read_prompt(const fb_video_model *model, const char *prompt, float *text) {
    size_t phrase = 0;
    for (const char *at = prompt; *at;) {
        if (*at == ',')
            phrase++;
        if (phrase >= model->config.text_len)
            return fb_fail(FB_ERROR_ARGUMENT, "prompt: more than %zu phrases",
                           model->config.text_len);
        size_t length = strcspn(at, ", ");
        if (length > 0)
            FB_TRY(add_word(model, at, length, text + phrase * model->config.text_dim));
        at += length ? length : 1;
    }
    return FB_OK;
}

fb_status fb_video_prompt(const fb_video_model *model, const char *prompt, float *text) {
    if (!model || !prompt || !text)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL",
                       !model   ? "model"
                       : prompt ? "text"
                                : "prompt");
    if (model->config.num_words == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "prompt: the model has no list of words");
    size_t count = model->config.text_len * model->config.text_dim;
    float *made = NULL;
    FB_TRY(fb_alloc_zeroed(count, sizeof *made, "text", &made));
    fb_status status = read_prompt(model, prompt, made);
    if (status == FB_OK)
        memcpy(text, made, count * sizeof *text);
    fb_free(made);
    return status;
}

fb_status fb_video_model_new_cache(const fb_video_model *model, fb_dtype dtype, fb_compat compat,
                                   fb_video_cache **cache) {
    if (!model)
        return fb_fail(FB_ERROR_ARGUMENT, "model is NULL");
    const fb_video_config *c = &model->config;
    fb_video_cache_config config = {
        .num_layers = c->num_layers,
        .num_heads = c->num_heads,
        .head_dim = c->dim / c->num_heads,
        .frame_tokens = c->frame_height / c->patch_height * (c->frame_width / c->patch_width),
        .block_frames = c->block_frames,
        .sink_frames = c->sink_frames,
        .window_frames = c->window_frames,
        .dtype = dtype,
        .compat = compat,
    };
    return fb_video_cache_create(&config, cache);
}

fb_status fb_video_model_new_parts(const fb_video_model *model, fb_part_cache **parts) {
    if (!model)
        return fb_fail(FB_ERROR_ARGUMENT, "model is NULL");
    const fb_video_config *c = &model->config;
    size_t frame = c->frame_height / c->patch_height * (c->frame_width / c->patch_width);
    return fb_part_cache_create(c->num_layers, c->block_frames * frame, c->num_heads,
                                c->dim / c->num_heads, parts);
}

#include "base/error.h"
#include "base/memory.h"
#include "base/sized.h"
#include "model/model_config.h"
#include "model/model_state.h"
#include "model/rope.h"
#include "model/weights.h"

#include <flashblock/experimental/sparse.h>
#include <flashblock/model.h>

#include <string.h>

/* Weights of another shape may come of a default: what was warned of is part of the message. */
static fb_status explain(const fb_model *model, fb_status status) {
    for (size_t i = 0; status == FB_ERROR_FORMAT && i < model->warnings.count; i++)
        if (strstr(model->warnings.texts[i], "head_dim is missing"))
            return fb_fail(status, "%s; %s", fb_error_message(), model->warnings.texts[i]);
    return status;
}

static fb_status load(const char *directory, const fb_model_options *options, fb_model *model) {
    fb_model_config *config = &model->config;
    FB_TRY(fb_model_config_read(directory, config, &model->warnings));
    FB_TRY(explain(model,
                   fb_weights_open(directory, options, config, &model->weights, &model->warnings)));
    config->tie_word_embeddings = model->weights.head.data == model->weights.embedding.data;
    config->dtype = model->weights.embedding.dtype;
    FB_TRY(fb_alloc(config->rotary_dim / 2, sizeof *model->inv_freq, "rotary frequencies",
                    &model->inv_freq));
    fb_rope_frequencies(config->rotary_dim, config->rope_theta, model->inv_freq);
    return FB_OK;
}

FB_SIZED_ENDS_WITH(fb_model_options, unused);

void fb_model_options_init_sized(fb_model_options *options, size_t size) {
    const fb_model_options defaults = {0};
    fb_sized_init(options, size, &defaults, sizeof defaults);
}

fb_status fb_model_options_read(const fb_model_options *options, fb_model_options *own) {
    *own = (fb_model_options){0};
    if (options)
        FB_TRY(fb_sized_read(own, sizeof *own, options, "options"));
    return fb_sized_unused(own->unused, sizeof own->unused / sizeof *own->unused, "options");
}

fb_status fb_model_load(const char *directory, fb_model **model) {
    return fb_model_load_with(directory, NULL, model);
}

fb_status fb_model_load_with(const char *directory, const fb_model_options *options,
                             fb_model **model) {
    fb_model_options own;
    if (!directory || !model)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", directory ? "model" : "directory");
    FB_TRY(fb_model_options_read(options, &own));
    fb_model *made = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "model", &made));
    fb_status status = load(directory, &own, made);
    if (status != FB_OK) {
        fb_model_destroy(made);
        return status;
    }
    *model = made;
    return FB_OK;
}

fb_status fb_model_share(const fb_model *model, fb_model **other) {
    fb_model *made = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "model", &made));
    made->config = model->config;
    made->weights = model->weights;
    made->inv_freq = model->inv_freq;
    made->significand_bits = model->significand_bits;
    made->borrows = true;
    *other = made;
    return FB_OK;
}

void fb_model_destroy(fb_model *model) {
    if (!model)
        return;
    if (!model->borrows) {
        fb_weights_close(&model->weights);
        fb_free(model->inv_freq);
    }
    fb_activations_free(&model->activations);
    fb_linear_scratch_free(&model->linear);
    fb_mixture_free(&model->mixture);
    fb_warnings_free(&model->warnings);
    fb_free(model);
}

const fb_model_config *fb_model_config_of(const fb_model *model) {
    return &model->config;
}

const char *fb_model_warning(const fb_model *model, size_t index) {
    return fb_warnings_at(&model->warnings, index);
}

size_t fb_model_num_parameters(const fb_model *model) {
    return model->weights.num_parameters;
}

size_t fb_model_num_bytes(const fb_model *model) {
    return model->weights.num_bytes;
}

fb_status fb_model_new_kv_cache(const fb_model *model, fb_dtype dtype, fb_kv_cache **kv) {
    if (!model)
        return fb_fail(FB_ERROR_ARGUMENT, "model is NULL");
    fb_kv_cache_config config = {
        .num_layers = model->config.num_hidden_layers,
        .num_kv_heads = model->config.num_key_value_heads,
        .head_dim = model->config.head_dim,
        .dtype = dtype,
    };
    return fb_kv_cache_create(&config, kv);
}

fb_status fb_model_new_part_cache(const fb_model *model, size_t block_size, fb_part_cache **parts) {
    if (!model)
        return fb_fail(FB_ERROR_ARGUMENT, "model is NULL");
    return fb_part_cache_create(model->config.num_hidden_layers, block_size,
                                model->config.num_attention_heads, model->config.head_dim, parts);
}

fb_status fb_model_new_sparse(const fb_model *model, const fb_sparse_options *options,
                              size_t block_size, fb_sparse **sparse) {
    if (!model)
        return fb_fail(FB_ERROR_ARGUMENT, "model is NULL");
    return fb_sparse_create(options, model->config.num_hidden_layers, block_size,
                            model->config.num_attention_heads, model->config.head_dim, sparse);
}

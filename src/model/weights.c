#include "model/weights.h"

#include "base/error.h"
#include "base/memory.h"
#include "model/architectures.h"
#include "model/model_config.h"
#include "model/weight_reader.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_NAME = 160 };

static const char head_name[] = "lm_head";

/* The weights that the bind_* calls fill in, and the layer's prefix of names. */
typedef struct binder {
    fb_weights *weights;
    const char *directory;
    const fb_tensor_names *names;
    char prefix[MAX_NAME / 2];
    fb_weight_reader reader;
} binder;

static fb_status bind_vector(binder *b, const char *name, size_t size, float **vector) {
    char full[MAX_NAME];
    const fb_tensor_view *tensor = NULL;
    snprintf(full, sizeof full, "%s%s", b->prefix, name);
    FB_TRY(fb_weight_find(&b->reader, full, 1, &size, &tensor));
    FB_TRY(fb_alloc(size, sizeof **vector, name, vector));
    return fb_tensor_read_f32(tensor, 0, size, *vector);
}

/* A linear layer by its name, and its bias. */
static fb_status bind_linear(binder *b, const char *name, bool bias, size_t rows, size_t columns,
                             fb_matrix *matrix) {
    char layer[MAX_NAME], tensor[MAX_NAME / 2];
    snprintf(layer, sizeof layer, "%s%s", b->prefix, name);
    FB_TRY(fb_weight_find_matrix(&b->reader, layer, "Linear", rows, columns, matrix));
    if (!bias)
        return FB_OK;
    snprintf(tensor, sizeof tensor, "%s.bias", name);
    return bind_vector(b, tensor, rows, &matrix->bias);
}

/* Queries, keys and values: three matrices, or one. */
static fb_status bind_qkv(binder *b, const fb_model_config *config, fb_layer_weights *layer) {
    const fb_tensor_names *names = b->names;
    size_t hidden = config->hidden_size, head_dim = config->head_dim;
    size_t q_width = config->num_attention_heads * head_dim;
    size_t kv_width = config->num_key_value_heads * head_dim;
    bool bias = config->attention_bias;
    if (names->k) {
        FB_TRY(bind_linear(b, names->q, bias, q_width, hidden, &layer->q));
        FB_TRY(bind_linear(b, names->k, bias, kv_width, hidden, &layer->k));
        return bind_linear(b, names->v, bias, kv_width, hidden, &layer->v);
    }
    fb_matrix all = {0};
    fb_status status = bind_linear(b, names->q, bias, q_width + 2 * kv_width, hidden, &all);
    layer->qkv_bias = all.bias;
    FB_TRY(status);
    FB_TRY(fb_weight_rows(&b->reader, &all, 0, q_width, &layer->q));
    FB_TRY(fb_weight_rows(&b->reader, &all, q_width, kv_width, &layer->k));
    return fb_weight_rows(&b->reader, &all, q_width + kv_width, kv_width, &layer->v);
}

static fb_status bind_attention(binder *b, const fb_model_config *config, fb_layer_weights *layer) {
    const fb_tensor_names *names = b->names;
    size_t hidden = config->hidden_size, head_dim = config->head_dim;
    FB_TRY(bind_vector(b, names->input_norm, hidden, &layer->input_norm));
    FB_TRY(bind_qkv(b, config, layer));
    if (config->qk_norm) {
        FB_TRY(bind_vector(b, names->q_norm, head_dim, &layer->q_norm));
        FB_TRY(bind_vector(b, names->k_norm, head_dim, &layer->k_norm));
    }
    return bind_linear(b, names->o, config->output_bias, hidden,
                       config->num_attention_heads * head_dim, &layer->o);
}

/* The rows of gate_proj and then those of up_proj, as one matrix. */
static fb_status bind_gate_up(binder *b, const char *name, size_t hidden, size_t width,
                              fb_mlp_weights *mlp) {
    fb_matrix both;
    FB_TRY(bind_linear(b, name, false, 2 * width, hidden, &both));
    FB_TRY(fb_weight_rows(&b->reader, &both, 0, width, &mlp->gate));
    return fb_weight_rows(&b->reader, &both, width, width, &mlp->up);
}

/* `prefix` comes before gate_proj, up_proj (or both as gate_up_proj) and down_proj. */
static fb_status bind_mlp(binder *b, const char *prefix, size_t hidden, size_t width,
                          fb_mlp_weights *mlp) {
    const struct {
        const char *name;
        size_t rows, columns;
        fb_matrix *matrix;
    } parts[] = {{"gate_proj", width, hidden, &mlp->gate},
                 {"up_proj", width, hidden, &mlp->up},
                 {"down_proj", hidden, width, &mlp->down}};
    char name[MAX_NAME / 4], layer[MAX_NAME];
    snprintf(name, sizeof name, "%sgate_up_proj", prefix);
    snprintf(layer, sizeof layer, "%s%s", b->prefix, name);
    bool fused = fb_weight_exists(&b->reader, layer);
    if (fused)
        FB_TRY(bind_gate_up(b, name, hidden, width, mlp));
    for (size_t i = fused ? 2 : 0; i < sizeof parts / sizeof parts[0]; i++) {
        snprintf(name, sizeof name, "%s%s", prefix, parts[i].name);
        FB_TRY(bind_linear(b, name, false, parts[i].rows, parts[i].columns, parts[i].matrix));
    }
    return FB_OK;
}

static fb_status bind_mixture(binder *b, const fb_model_config *config, fb_layer_weights *layer) {
    const fb_tensor_names *names = b->names;
    size_t hidden = config->hidden_size, experts = config->num_experts;
    FB_TRY(bind_linear(b, names->router, false, experts, hidden, &layer->router));
    if (config->router == FB_ROUTER_SIGMOID)
        FB_TRY(bind_vector(b, names->router_bias, experts, &layer->router_bias));
    FB_TRY(fb_alloc_zeroed(experts, sizeof *layer->experts, "experts", &layer->experts));
    for (size_t i = 0; i < experts; i++) {
        char prefix[MAX_NAME / 4];
        snprintf(prefix, sizeof prefix, "%s%zu.", names->expert, i);
        FB_TRY(bind_mlp(b, prefix, hidden, config->moe_intermediate_size, &layer->experts[i]));
    }
    if (config->shared_intermediate_size == 0)
        return FB_OK;
    return bind_mlp(b, names->shared, hidden, config->shared_intermediate_size, &layer->mlp);
}

static fb_status bind_layer(binder *b, const fb_model_config *config, size_t index) {
    fb_layer_weights *layer = &b->weights->layers[index];
    size_t hidden = config->hidden_size;
    snprintf(b->prefix, sizeof b->prefix, "model.layers.%zu.", index);
    FB_TRY(bind_attention(b, config, layer));
    FB_TRY(bind_vector(b, b->names->post_attention_norm, hidden, &layer->post_attention_norm));
    if (fb_model_config_is_mixture(config, index))
        return bind_mixture(b, config, layer);
    return bind_mlp(b, "mlp.", hidden, config->intermediate_size, &layer->mlp);
}

/* --- the head --------------------------------------------------------------------------------- */

/* Matrices of two types are equal when their values are. */
static fb_status compare_values(const fb_matrix *a, const fb_matrix *b, bool *equal) {
    const fb_kernels *kernels = NULL;
    float *rows = NULL;
    size_t columns = a->columns;
    FB_TRY(fb_kernels_current(&kernels));
    FB_TRY(fb_alloc(2 * columns, sizeof *rows, "rows", &rows));
    *equal = true;
    for (size_t i = 0; *equal && i < a->rows; i++) {
        fb_matrix_row(kernels, a, i, rows);
        fb_matrix_row(kernels, b, i, rows + columns);
        *equal = memcmp(rows, rows + columns, columns * sizeof *rows) == 0;
    }
    fb_free(rows);
    return FB_OK;
}

static fb_status compare_matrices(const fb_matrix *a, const fb_matrix *b, bool *equal) {
    if (a->quantized || b->quantized || a->dtype != b->dtype)
        return compare_values(a, b, equal);
    *equal = a->data == b->data || memcmp(a->data, b->data, fb_matrix_bytes(a)) == 0;
    return FB_OK;
}

/* A file may hold a head although config.json ties it to the embedding. Where the two differ, the
 * head of the file is used, as transformers 5 and vLLM do. Otherwise it is the embedding, and
 * counts once. */
static fb_status bind_tied(binder *b, const fb_model_config *config, fb_warnings *warnings) {
    fb_weights *weights = b->weights;
    fb_matrix own;
    bool equal = true;
    size_t parameters = b->reader.num_parameters, bytes = b->reader.num_bytes;
    weights->head = weights->embedding;
    if (!fb_weight_exists(&b->reader, head_name) ||
        !fb_weight_exists(&b->reader, b->names->embedding))
        return FB_OK;
    FB_TRY(bind_linear(b, head_name, false, config->vocab_size, config->hidden_size, &own));
    FB_TRY(compare_matrices(&own, &weights->embedding, &equal));
    if (!equal) {
        weights->head = own;
        return fb_warn(warnings,
                       "%s: tie_word_embeddings is true in config.json, but lm_head.weight is not "
                       "%s.weight: lm_head.weight is used",
                       b->directory, b->names->embedding);
    }
    b->reader.num_parameters = parameters;
    b->reader.num_bytes = bytes;
    return FB_OK;
}

/* Of tensors that share their memory, writers of safetensors keep one: of a tied pair, the head. */
static fb_status bind_embedding(binder *b, const fb_model_config *config) {
    const char *name = b->names->embedding;
    bool only_head = config->tie_word_embeddings && !fb_weight_exists(&b->reader, name) &&
                     fb_weight_exists(&b->reader, head_name);
    b->reader.only_rows = !config->tie_word_embeddings; /* otherwise it is the head, too */
    fb_status status = fb_weight_find_matrix(&b->reader, only_head ? head_name : name,
                                             only_head ? "Linear" : "Embedding", config->vocab_size,
                                             config->hidden_size, &b->weights->embedding);
    b->reader.only_rows = false;
    return status;
}

static fb_status bind_all(binder *b, const fb_model_config *config, fb_warnings *warnings) {
    fb_weights *weights = b->weights;
    size_t vocab = config->vocab_size, hidden = config->hidden_size;
    FB_TRY(bind_embedding(b, config));
    for (size_t i = 0; i < weights->num_layers; i++)
        FB_TRY(bind_layer(b, config, i));
    b->prefix[0] = '\0';
    FB_TRY(bind_vector(b, b->names->norm, hidden, &weights->norm));
    if (config->tie_word_embeddings)
        FB_TRY(bind_tied(b, config, warnings));
    else
        FB_TRY(bind_linear(b, b->names->head, false, vocab, hidden, &weights->head));
    FB_TRY(fb_weight_reader_warn(&b->reader, b->directory, warnings));
    return fb_checkpoint_warn_unused(weights->checkpoint,
                                     (const fb_tensor_view **)(void *)b->reader.used.data,
                                     b->reader.used.size / sizeof(fb_tensor_view *), warnings);
}

fb_status fb_weights_open(const char *directory, const fb_model_options *options,
                          const fb_model_config *config, fb_weights *weights,
                          fb_warnings *warnings) {
    FB_TRY(fb_checkpoint_open(directory, options->read_weights, warnings, &weights->checkpoint));
    FB_TRY(fb_alloc_zeroed(config->num_hidden_layers, sizeof *weights->layers, "layers",
                           &weights->layers));
    weights->num_layers = config->num_hidden_layers;
    FB_TRY(fb_quantization_read(directory, warnings, &weights->quantization));
    binder b = {.weights = weights,
                .directory = directory,
                .names = fb_architecture_named(config->architecture)->tensors,
                .reader = {.checkpoint = weights->checkpoint,
                           .quantization = weights->quantization,
                           .float_activations = options->float_activations}};
    fb_status status = bind_all(&b, config, warnings);
    fb_weight_reader_free(&b.reader);
    weights->memory = b.reader.memory;
    weights->num_parameters = b.reader.num_parameters;
    weights->num_bytes = b.reader.num_bytes;
    return status == FB_OK ? FB_OK : fb_fail_in(status, "%s", directory);
}

static void free_layer(fb_layer_weights *layer) {
    fb_free(layer->input_norm);
    fb_free(layer->post_attention_norm);
    fb_free(layer->q_norm);
    fb_free(layer->k_norm);
    if (!layer->qkv_bias) {
        fb_free(layer->q.bias);
        fb_free(layer->k.bias);
        fb_free(layer->v.bias);
    }
    fb_free(layer->qkv_bias);
    fb_free(layer->o.bias);
    fb_free(layer->experts);
    fb_free(layer->router_bias);
}

void fb_weights_close(fb_weights *weights) {
    for (size_t i = 0; i < weights->num_layers; i++)
        free_layer(&weights->layers[i]);
    fb_free(weights->layers);
    fb_free(weights->norm);
    fb_weight_memory_free(&weights->memory);
    fb_quantization_free(weights->quantization);
    fb_checkpoint_close(weights->checkpoint);
    *weights = (fb_weights){0};
}

static void prefetch_matrix(const fb_matrix *matrix) {
    long page = sysconf(_SC_PAGESIZE);
    if (page <= 0)
        return;
    uintptr_t begin = (uintptr_t)matrix->data, offset = begin % (uintptr_t)page;
    posix_madvise((void *)(begin - offset), fb_matrix_bytes(matrix) + offset, POSIX_MADV_WILLNEED);
}

void fb_weights_prefetch(const fb_layer_weights *layer) {
    const fb_matrix *matrices[] = {&layer->q,        &layer->k,        &layer->v,
                                   &layer->o,        &layer->mlp.gate, &layer->mlp.up,
                                   &layer->mlp.down, &layer->router};
    for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++)
        if (matrices[i]->data)
            prefetch_matrix(matrices[i]);
}

#include "model/weights.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/buffer.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAX_NAME = 128 };

static const char head_name[] = "lm_head.weight";
static const char embedding_name[] = "model.embed_tokens.weight";

/* The weights that the bind_* calls fill in, and the layer's prefix of names. */
typedef struct binder {
    fb_weights *weights;
    const char *directory;
    char prefix[MAX_NAME / 2];
    fb_buffer used; /* the tensors that were found, pointers to views */
} binder;

static fb_status find(binder *b, const char *name, size_t ndim, const size_t *shape,
                      const fb_tensor_view **tensor) {
    char full[MAX_NAME];
    snprintf(full, sizeof full, "%s%s", b->prefix, name);
    const fb_tensor_view *found = fb_checkpoint_find(b->weights->checkpoint, full);
    if (!found) {
        const char *other = fb_checkpoint_similar(b->weights->checkpoint, full);
        return fb_fail(FB_ERROR_FORMAT, "no tensor called %s%s%s", full,
                       other ? ", but one called " : "", other ? other : "");
    }
    FB_TRY(fb_tensor_check_shape(found, ndim, shape));
    fb_dtype dtype = FB_F32;
    FB_TRY(fb_tensor_storage(found, &dtype));
    b->weights->num_parameters += found->count;
    b->weights->num_bytes += found->bytes;
    *tensor = found;
    return fb_buffer_append(&b->used, &found, sizeof found);
}

static fb_status bind_matrix(binder *b, const char *name, size_t rows, size_t columns,
                             fb_matrix *matrix) {
    const fb_tensor_view *tensor = NULL;
    FB_TRY(find(b, name, 2, (size_t[]){rows, columns}, &tensor));
    *matrix = (fb_matrix){.data = tensor->data, .rows = rows, .columns = columns};
    return fb_tensor_storage(tensor, &matrix->dtype);
}

static fb_status bind_vector(binder *b, const char *name, size_t size, float **vector) {
    const fb_tensor_view *tensor = NULL;
    FB_TRY(find(b, name, 1, (size_t[]){size}, &tensor));
    FB_TRY(fb_alloc(size, sizeof **vector, name, vector));
    return fb_tensor_read_f32(tensor, 0, size, *vector);
}

/* A projection of the attention, which has a bias if the configuration says so. */
static fb_status bind_projection(binder *b, const char *name, bool bias, size_t rows,
                                 size_t columns, fb_matrix *matrix) {
    char tensor[MAX_NAME / 2];
    snprintf(tensor, sizeof tensor, "self_attn.%s.weight", name);
    FB_TRY(bind_matrix(b, tensor, rows, columns, matrix));
    if (!bias)
        return FB_OK;
    snprintf(tensor, sizeof tensor, "self_attn.%s.bias", name);
    return bind_vector(b, tensor, rows, &matrix->bias);
}

static fb_status bind_attention(binder *b, const fb_model_config *config, fb_layer_weights *layer) {
    size_t hidden = config->hidden_size, head_dim = config->head_dim;
    size_t q_width = config->num_attention_heads * head_dim;
    size_t kv_width = config->num_key_value_heads * head_dim;
    bool bias = config->attention_bias;
    FB_TRY(bind_vector(b, "input_layernorm.weight", hidden, &layer->input_norm));
    FB_TRY(bind_projection(b, "q_proj", bias, q_width, hidden, &layer->q));
    FB_TRY(bind_projection(b, "k_proj", bias, kv_width, hidden, &layer->k));
    FB_TRY(bind_projection(b, "v_proj", bias, kv_width, hidden, &layer->v));
    FB_TRY(bind_vector(b, "self_attn.q_norm.weight", head_dim, &layer->q_norm));
    FB_TRY(bind_vector(b, "self_attn.k_norm.weight", head_dim, &layer->k_norm));
    return bind_projection(b, "o_proj", bias, hidden, q_width, &layer->o);
}

static fb_status bind_mlp(binder *b, const fb_model_config *config, fb_layer_weights *layer) {
    size_t hidden = config->hidden_size, middle = config->intermediate_size;
    FB_TRY(bind_vector(b, "post_attention_layernorm.weight", hidden, &layer->post_attention_norm));
    FB_TRY(bind_matrix(b, "mlp.gate_proj.weight", middle, hidden, &layer->gate));
    FB_TRY(bind_matrix(b, "mlp.up_proj.weight", middle, hidden, &layer->up));
    return bind_matrix(b, "mlp.down_proj.weight", hidden, middle, &layer->down);
}

/* --- the head --------------------------------------------------------------------------------- */

static fb_status read_row(const fb_matrix *matrix, size_t row, float *values) {
    size_t bytes = matrix->columns * fb_dtype_size(matrix->dtype);
    return fb_to_f32(matrix->dtype, (const char *)matrix->data + row * bytes, values,
                     matrix->columns);
}

/* Matrices of two dtypes are equal when their values are. */
static fb_status compare_values(const fb_matrix *a, const fb_matrix *b, bool *equal) {
    float *rows = NULL;
    size_t columns = a->columns;
    FB_TRY(fb_alloc(2 * columns, sizeof *rows, "rows", &rows));
    fb_status status = FB_OK;
    *equal = true;
    for (size_t i = 0; status == FB_OK && *equal && i < a->rows; i++) {
        status = read_row(a, i, rows);
        if (status == FB_OK)
            status = read_row(b, i, rows + columns);
        *equal = memcmp(rows, rows + columns, columns * sizeof *rows) == 0;
    }
    fb_free(rows);
    return status;
}

static fb_status compare_matrices(const fb_matrix *a, const fb_matrix *b, bool *equal) {
    if (a->dtype != b->dtype)
        return compare_values(a, b, equal);
    size_t bytes = a->rows * a->columns * fb_dtype_size(a->dtype);
    *equal = a->data == b->data || memcmp(a->data, b->data, bytes) == 0;
    return FB_OK;
}

/* A file may hold a head although config.json ties it to the embedding. Where the two differ, the
 * head of the file is used, as transformers 5 and vLLM do. Otherwise it is the embedding, and
 * counts once. */
static fb_status bind_tied(binder *b, const fb_model_config *config, fb_warnings *warnings) {
    fb_weights *weights = b->weights;
    fb_matrix own;
    bool equal = true;
    size_t parameters = weights->num_parameters, bytes = weights->num_bytes;
    weights->head = weights->embedding;
    if (!fb_checkpoint_find(weights->checkpoint, head_name) ||
        !fb_checkpoint_find(weights->checkpoint, embedding_name))
        return FB_OK;
    FB_TRY(bind_matrix(b, head_name, config->vocab_size, config->hidden_size, &own));
    FB_TRY(compare_matrices(&own, &weights->embedding, &equal));
    if (!equal) {
        weights->head = own;
        return fb_warn(warnings,
                       "%s: tie_word_embeddings is true in config.json, but lm_head.weight is not "
                       "model.embed_tokens.weight: lm_head.weight is used",
                       b->directory);
    }
    weights->num_parameters = parameters;
    weights->num_bytes = bytes;
    return FB_OK;
}

/* Of tensors that share their memory, writers of safetensors keep one: of a tied pair, the head. */
static const char *name_of_embedding(const fb_weights *weights, const fb_model_config *config) {
    bool only_head = config->tie_word_embeddings &&
                     !fb_checkpoint_find(weights->checkpoint, embedding_name) &&
                     fb_checkpoint_find(weights->checkpoint, head_name);
    return only_head ? head_name : embedding_name;
}

static fb_status bind_all(binder *b, const fb_model_config *config, fb_warnings *warnings) {
    fb_weights *weights = b->weights;
    size_t vocab = config->vocab_size, hidden = config->hidden_size;
    FB_TRY(bind_matrix(b, name_of_embedding(weights, config), vocab, hidden, &weights->embedding));
    for (size_t i = 0; i < weights->num_layers; i++) {
        snprintf(b->prefix, sizeof b->prefix, "model.layers.%zu.", i);
        FB_TRY(bind_attention(b, config, &weights->layers[i]));
        FB_TRY(bind_mlp(b, config, &weights->layers[i]));
    }
    b->prefix[0] = '\0';
    FB_TRY(bind_vector(b, "model.norm.weight", hidden, &weights->norm));
    if (config->tie_word_embeddings)
        FB_TRY(bind_tied(b, config, warnings));
    else
        FB_TRY(bind_matrix(b, head_name, vocab, hidden, &weights->head));
    return fb_checkpoint_warn_unused(weights->checkpoint,
                                     (const fb_tensor_view **)(void *)b->used.data,
                                     b->used.size / sizeof(fb_tensor_view *), warnings);
}

fb_status fb_weights_open(const char *directory, bool reads, const fb_model_config *config,
                          fb_weights *weights, fb_warnings *warnings) {
    FB_TRY(fb_checkpoint_open(directory, reads, warnings, &weights->checkpoint));
    FB_TRY(fb_alloc_zeroed(config->num_hidden_layers, sizeof *weights->layers, "layers",
                           &weights->layers));
    weights->num_layers = config->num_hidden_layers;
    binder b = {.weights = weights, .directory = directory};
    fb_status status = bind_all(&b, config, warnings);
    fb_buffer_free(&b.used);
    return status == FB_OK ? FB_OK : fb_fail_in(status, "%s", directory);
}

static void free_layer(fb_layer_weights *layer) {
    fb_free(layer->input_norm);
    fb_free(layer->post_attention_norm);
    fb_free(layer->q_norm);
    fb_free(layer->k_norm);
    fb_free(layer->q.bias);
    fb_free(layer->k.bias);
    fb_free(layer->v.bias);
    fb_free(layer->o.bias);
}

void fb_weights_close(fb_weights *weights) {
    for (size_t i = 0; i < weights->num_layers; i++)
        free_layer(&weights->layers[i]);
    fb_free(weights->layers);
    fb_free(weights->norm);
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
    const fb_matrix *matrices[] = {&layer->q,    &layer->k,  &layer->v,   &layer->o,
                                   &layer->gate, &layer->up, &layer->down};
    for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++)
        prefetch_matrix(matrices[i]);
}

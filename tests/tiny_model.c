#include "tests/tiny_model.h"

#include "io/safetensors.h"
#include "tests/numbers.h"
#include "tests/temporary.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const tiny_model tiny_model_large = {.hidden = 160,
                                     .middle = 600,
                                     .layers = 2,
                                     .heads = 6,
                                     .kv_heads = 2,
                                     .head_dim = 32,
                                     .vocab = 301,
                                     .rounded = FB_BF16,
                                     .dtype = FB_BF16};

const tiny_model tiny_model_small = {.hidden = 16,
                                     .middle = 24,
                                     .layers = 2,
                                     .heads = 2,
                                     .kv_heads = 1,
                                     .head_dim = 8,
                                     .vocab = 67,
                                     .rounded = FB_F32,
                                     .dtype = FB_F32};

enum { MAX_TENSORS = 256, MAX_NAME = 64 };

typedef struct tensor_list {
    const tiny_model *model;
    fb_tensor_view tensors[MAX_TENSORS];
    char names[MAX_TENSORS][MAX_NAME];
    size_t count;
    random_stream random;
} tensor_list;

static fb_tensor_dtype file_dtype(fb_dtype dtype) {
    return dtype == FB_F32 ? FB_TENSOR_F32 : dtype == FB_BF16 ? FB_TENSOR_BF16 : FB_TENSOR_F16;
}

/* Random numbers of the model's type, times `scale`, plus `offset`. */
static void *stored_values(tensor_list *list, size_t count, float scale, float offset) {
    float *values = random_floats(&list->random, count, scale);
    for (size_t i = 0; i < count; i++)
        values[i] += offset;
    void *rounded = malloc(count * sizeof *values), *stored = malloc(count * sizeof *values);
    cr_assert(rounded && stored);
    cr_assert_eq(fb_from_f32(list->model->rounded, values, rounded, count), FB_OK);
    cr_assert_eq(fb_to_f32(list->model->rounded, rounded, values, count), FB_OK);
    cr_assert_eq(fb_from_f32(list->model->dtype, values, stored, count), FB_OK);
    free(values);
    free(rounded);
    return stored;
}

static bool is(const char *name, const char *wanted) {
    return wanted && strcmp(name, wanted) == 0;
}

/* columns = 0: a vector. Its values are drawn even if it is left out. */
static void add(tensor_list *list, const char *prefix, const char *name, size_t rows,
                size_t columns) {
    cr_assert_lt(list->count, MAX_TENSORS);
    const tiny_model *model = list->model;
    fb_tensor_view *tensor = &list->tensors[list->count];
    char *full = list->names[list->count];
    snprintf(full, MAX_NAME, "%s%s", prefix, name);
    size_t count = rows * (columns ? columns : 1);
    float scale = columns ? 1.0f / sqrtf((float)columns) : 0.1f;
    *tensor = (fb_tensor_view){.name = full,
                               .dtype = file_dtype(model->dtype),
                               .ndim = columns ? 2 : 1,
                               .shape = {rows, columns},
                               .data = stored_values(list, count, scale, columns ? 0.0f : 1.0f)};
    if (is(full, model->misshapen))
        tensor->shape[0]--;
    if (is(full, model->mistyped))
        tensor->dtype = FB_TENSOR_I32;
    if (is(full, model->missing))
        free((void *)(uintptr_t)tensor->data);
    else
        list->count++;
}

static void add_layer(tensor_list *list, size_t index) {
    const tiny_model *m = list->model;
    char prefix[48];
    snprintf(prefix, sizeof prefix, "model.layers.%zu.", index);
    size_t q_width = m->heads * m->head_dim, kv_width = m->kv_heads * m->head_dim;
    add(list, prefix, "input_layernorm.weight", m->hidden, 0);
    add(list, prefix, "self_attn.q_proj.weight", q_width, m->hidden);
    add(list, prefix, "self_attn.k_proj.weight", kv_width, m->hidden);
    add(list, prefix, "self_attn.v_proj.weight", kv_width, m->hidden);
    add(list, prefix, "self_attn.o_proj.weight", m->hidden, q_width);
    if (m->bias) {
        add(list, prefix, "self_attn.q_proj.bias", q_width, 0);
        add(list, prefix, "self_attn.k_proj.bias", kv_width, 0);
        add(list, prefix, "self_attn.v_proj.bias", kv_width, 0);
        add(list, prefix, "self_attn.o_proj.bias", m->hidden, 0);
    }
    add(list, prefix, "self_attn.q_norm.weight", m->head_dim, 0);
    add(list, prefix, "self_attn.k_norm.weight", m->head_dim, 0);
    add(list, prefix, "post_attention_layernorm.weight", m->hidden, 0);
    add(list, prefix, "mlp.gate_proj.weight", m->middle, m->hidden);
    add(list, prefix, "mlp.up_proj.weight", m->middle, m->hidden);
    add(list, prefix, "mlp.down_proj.weight", m->hidden, m->middle);
}

static void write_config(const tiny_model *m) {
    char text[2048];
    int length = snprintf(
        text, sizeof text,
        "{\"architectures\": [\"SDARForCausalLM\"], \"model_type\": \"sdar\", "
        "\"hidden_size\": %zu, \"intermediate_size\": %zu, \"num_hidden_layers\": %zu, "
        "\"num_attention_heads\": %zu, \"num_key_value_heads\": %zu, \"head_dim\": %zu, "
        "\"vocab_size\": %zu, \"rope_theta\": 10000.0, \"rms_norm_eps\": 1e-06, "
        "\"tie_word_embeddings\": %s, \"attention_bias\": %s%s}",
        m->hidden, m->middle, m->layers, m->heads, m->kv_heads, m->head_dim, m->vocab,
        m->tied ? "true" : "false", m->bias ? "true" : "false", m->config ? m->config : "");
    cr_assert(length > 0 && (size_t)length < sizeof text);
    temporary_write_text("config.json", text);
}

/* With `misaligned`, a byte goes before the tensors. */
static void write_file(const tiny_model *m, const char *name, const fb_tensor_view *tensors,
                       size_t count) {
    fb_tensor_view all[MAX_TENSORS + 1] = {
        {.name = "a", .dtype = FB_TENSOR_U8, .ndim = 1, .shape = {1}, .data = "x"}};
    memcpy(all + 1, tensors, count * sizeof *tensors);
    fb_status status = m->misaligned
                           ? fb_safetensors_write(temporary_path(name), all, count + 1, NULL, 0)
                           : fb_safetensors_write(temporary_path(name), tensors, count, NULL, 0);
    cr_assert_eq(status, FB_OK, "%s", fb_error_message());
}

/* Tensor i is in file i % shards. */
static void write_shards(const tensor_list *list) {
    size_t shards = list->model->shards;
    char *index = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&index, &size);
    cr_assert_not_null(stream);
    fprintf(stream, "{\"metadata\": {\"total_size\": 0}, \"weight_map\": {");
    for (size_t s = 0; s < shards; s++) {
        fb_tensor_view tensors[MAX_TENSORS];
        size_t count = 0;
        char name[64];
        snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", s + 1, shards);
        for (size_t i = s; i < list->count; i += shards) {
            tensors[count++] = list->tensors[i];
            fprintf(stream, "%s\"%s\": \"%s\"", i ? ", " : "", list->tensors[i].name, name);
        }
        write_file(list->model, name, tensors, count);
    }
    fprintf(stream, "}}");
    fclose(stream);
    temporary_write_text("model.safetensors.index.json", index);
    free(index);
}

const char *tiny_model_write(const tiny_model *model) {
    const char *directory = temporary_make();
    static tensor_list list;
    list.model = model;
    list.count = 0;
    list.random = random_named(100);
    add(&list, "", "model.embed_tokens.weight", model->vocab, model->hidden);
    for (size_t i = 0; i < model->layers; i++)
        add_layer(&list, i);
    add(&list, "", "model.norm.weight", model->hidden, 0);
    if (model->copied_head)
        list.random = random_named(100); /* the embedding's values again */
    if (!model->tied || model->own_head || model->copied_head)
        add(&list, "", "lm_head.weight", model->vocab, model->hidden);
    write_config(model);
    if (model->shards > 1)
        write_shards(&list);
    else
        write_file(model, "model.safetensors", list.tensors, list.count);
    for (size_t i = 0; i < list.count; i++)
        free((void *)(uintptr_t)list.tensors[i].data);
    return directory;
}

void tiny_model_remove(void) {
    temporary_remove();
}

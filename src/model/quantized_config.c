#include "model/quantized_config.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/json_write.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 16 * 1024 * 1024, AS_STORED = 16 };

static const char packed[] = "pack-quantized", bytes[] = "int-quantized";

static bool linear_is_bytes(const fb_quantized_config *c) {
    return c->bits == 8 && c->group_size == 0 && c->symmetric;
}

/* As QuantizationArgs of compressed-tensors writes itself. */
static void put_arguments(fb_json_writer *w, const char *key, size_t bits, const char *strategy,
                          size_t group_size, bool symmetric, bool dynamic) {
    fb_json_open_object(w, key);
    fb_json_put_size(w, "num_bits", bits);
    fb_json_put_string(w, "type", "int");
    fb_json_put_bool(w, "symmetric", symmetric);
    if (group_size)
        fb_json_put_size(w, "group_size", group_size);
    else
        fb_json_put_null(w, "group_size");
    fb_json_put_string(w, "strategy", strategy);
    fb_json_put_null(w, "block_structure");
    fb_json_put_bool(w, "dynamic", dynamic);
    fb_json_put_null(w, "actorder");
    fb_json_put_null(w, "observer");
    fb_json_open_object(w, "observer_kwargs");
    fb_json_close_object(w);
    fb_json_close_object(w);
}

static void put_group(fb_json_writer *w, const char *key, const char *target, const char *format,
                      size_t bits, size_t group_size, bool symmetric) {
    fb_json_open_object(w, key);
    fb_json_open_array(w, "targets");
    fb_json_put_string(w, NULL, target);
    fb_json_close_array(w);
    put_arguments(w, "weights", bits, group_size ? "group" : "channel", group_size, symmetric,
                  false);
    if (format == bytes)
        put_arguments(w, "input_activations", 8, "token", 0, true, true);
    else
        fb_json_put_null(w, "input_activations");
    fb_json_put_null(w, "output_activations");
    fb_json_put_string(w, "format", format);
    fb_json_close_object(w);
}

static void put_quantization(fb_json_writer *w, const fb_quantized_config *c) {
    const char *linear = linear_is_bytes(c) ? bytes : packed;
    bool others = c->head_bits != AS_STORED || c->embedding_bits != AS_STORED;
    fb_json_open_object(w, "quantization_config");
    fb_json_put_string(w, "quant_method", "compressed-tensors");
    fb_json_put_string(w, "format", linear == bytes && others ? "mixed-precision" : linear);
    fb_json_put_string(w, "quantization_status", "compressed");
    fb_json_open_object(w, "config_groups");
    put_group(w, "group_0", "Linear", linear, c->bits, c->group_size, c->symmetric);
    if (c->head_bits != AS_STORED)
        put_group(w, "group_1", "re:.*lm_head$", packed, c->head_bits, 0, true);
    if (c->embedding_bits != AS_STORED)
        put_group(w, "group_2", "Embedding", packed, c->embedding_bits, 0, true);
    fb_json_close_object(w);
    fb_json_open_array(w, "ignore");
    for (size_t i = 0; i < c->num_ignored; i++)
        fb_json_put_string(w, NULL, c->ignored[i]);
    fb_json_close_array(w);
    fb_json_put_null(w, "kv_cache_scheme");
    fb_json_put_null(w, "global_compression_ratio");
    fb_json_close_object(w);
}

/* 15 digits where they say the number: 1e-06 in 17 is not what it was. */
static int digits_of(const fb_json *value) {
    double number = 0.0;
    char text[64];
    if (!fb_json_is_number(value) || fb_json_double(value, "", "", &number) != FB_OK)
        return 17;
    snprintf(text, sizeof text, "%.15g", number);
    return strtod(text, NULL) == number ? 15 : 17;
}

static fb_status put_config(const fb_json *root, const fb_quantized_config *c, fb_buffer *text) {
    static const char tied[] = "tie_word_embeddings";
    fb_json_writer w = fb_json_writer_to(text, FB_JSON_INDENTED);
    fb_json_open_object(&w, NULL);
    for (size_t i = 0; i < fb_json_object_size(root); i++) {
        const char *key = fb_json_object_key(root, i);
        w.digits = digits_of(fb_json_object_at(root, i));
        if (strcmp(key, tied) == 0 && c->unties)
            fb_json_put_bool(&w, tied, false);
        else if (strcmp(key, "quantization_config") != 0 && strcmp(key, "compression_config") != 0)
            fb_json_put_value(&w, key, fb_json_object_at(root, i));
    }
    put_quantization(&w, c);
    fb_json_close_object(&w);
    FB_TRY(fb_json_finish(&w));
    return fb_buffer_append(text, "\n", 1);
}

fb_status fb_quantized_config_make(const char *directory, const fb_quantized_config *config,
                                   fb_buffer *text) {
    const fb_json *root = NULL;
    char *path = NULL;
    FB_TRY(fb_path_join(directory, "config.json", &path));
    fb_status status = fb_json_load(path, MAX_FILE, &root);
    if (status == FB_OK)
        status = put_config(root, config, text);
    fb_json_free(root);
    fb_free(path);
    return status;
}

#include "model/model_config.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/json.h"
#include "model/architectures.h"
#include "model/config_fields.h"
#include "model/loop_choice.h"
#include "model/mixture_config.h"
#include "model/quantization.h"
#include "model/special_tokens.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Limits far above every published model, and low enough that sizes multiply without overflow. */
enum {
    MAX_FILE = 16 * 1024 * 1024,
    MAX_WIDTH = 1 << 24, /* hidden_size, intermediate_size, heads times head_dim */
    MAX_LAYERS = 1 << 16,
    MAX_HEAD_DIM = 1 << 16,
    MAX_VOCAB = 1 << 30,
    MAX_POSITIONS = 1 << 30,
    MAX_BLOCK = 1 << 12, /* a pass takes memory for a block, however small the model is */
    /* Defaults of the Hugging Face class, for fields that config.json does not have. */
    DEFAULT_POSITIONS = 32768,
    DEFAULT_TOP_K = 50, /* of transformers' GenerationConfig, when it samples */
};

enum {
    MAX_EOS =
        sizeof((fb_model_config *)0)->eos_token_ids / sizeof((fb_model_config *)0)->eos_token_ids[0]
};

static const char config_name[] = "config.json";
static const char generation_name[] = "generation_config.json";

/* The configuration, and what is needed to put the files together. */
typedef struct reading {
    const fb_architecture *architecture;
    fb_model_config config;
    const char *directory, *file;     /* that is being read */
    int32_t mask, mask_of_generation; /* of config.json and generation_config.json, or -1 */
    fb_warnings *warnings;
} reading;

/* "A, B or C": the names or the types. */
static const char *list_architectures(bool types, char text[512]) {
    size_t length = 0;
    for (size_t i = 0; i < fb_num_architectures; i++) {
        const fb_architecture *a = &fb_architectures[i];
        const char *separator = i == 0 ? "" : i + 1 < fb_num_architectures ? ", " : " or ";
        int written = snprintf(text + length, 512 - length, "%s%s", separator,
                               types ? a->model_type : a->name);
        length += written > 0 && (size_t)written < 512 - length ? (size_t)written : 0;
    }
    return text;
}

/* The name in `architectures`, and model_type. Several names must all be known; the first one
 * counts. */
static fb_status read_architecture(const fb_json *root, const char *where, reading *r) {
    const char *type = "", *name = "";
    const fb_json *list = NULL;
    char known[512];
    if (fb_json_has(root, "architectures")) {
        FB_TRY(fb_json_get_array(root, where, "architectures", &list));
        bool ours = fb_json_array_size(list) > 0;
        for (size_t i = 0; ours && i < fb_json_array_size(list); i++) {
            const char *text = fb_json_string(fb_json_array_get(list, i));
            name = text ? text : "";
            ours = fb_architecture_named(name) != NULL;
            if (!r->architecture)
                r->architecture = fb_architecture_named(name);
        }
        if (!ours)
            return fb_fail(FB_ERROR_UNSUPPORTED, "%s: architectures is '%s', expected %s", where,
                           name, list_architectures(false, known));
    }
    if (list && !fb_json_has(root, "model_type"))
        return FB_OK;
    FB_TRY(fb_json_get_string(root, where, "model_type", &type));
    const fb_architecture *of_type = fb_architecture_of_type(type);
    if (!of_type)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: model_type is '%s', expected %s%s%s", where, type,
                       list_architectures(true, known), list ? ", as architectures says " : "",
                       name);
    /* The layers of sdar and qwen3 are the same, and files mix them. */
    bool same = !r->architecture || of_type == r->architecture ||
                (of_type->tensors == r->architecture->tensors &&
                 of_type->fields == r->architecture->fields);
    if (!same)
        return fb_fail(FB_ERROR_FORMAT, "%s: model_type is '%s', but architectures is %s, of '%s'",
                       where, type, r->architecture->name, r->architecture->model_type);
    if (!r->architecture)
        r->architecture = of_type;
    return FB_OK;
}

/* layer_types names a type for each layer. */
static fb_status check_layer_types(const fb_json *root, const char *where, size_t num_layers) {
    static const char full[] = "full_attention";
    const fb_json *list = NULL;
    if (!fb_json_has(root, "layer_types"))
        return FB_OK;
    FB_TRY(fb_json_get_array(root, where, "layer_types", &list));
    if (fb_json_array_size(list) != num_layers)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: layer_types names %zu layers, num_hidden_layers is %zu", where,
                       fb_json_array_size(list), num_layers);
    for (size_t i = 0; i < num_layers; i++) {
        char text[FB_JSON_SHOW_SIZE];
        const fb_json *item = fb_json_array_get(list, i);
        if (!fb_json_is_string(item) || strcmp(fb_json_string(item), full) != 0)
            return fb_fail(FB_ERROR_UNSUPPORTED, "%s: layer_types[%zu] is %s, expected \"%s\"",
                           where, i, fb_json_show(item, text), full);
    }
    return FB_OK;
}

static fb_status read_positive(const fb_json *object, const char *where, const char *key,
                               double *value) {
    double number = 0.0;
    FB_TRY(fb_json_get_double(object, where, key, &number));
    /* It is used as a float32. */
    if (!isfinite((float)number) || !((float)number > 0.0f))
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is %g, expected a positive float32", where, key,
                       number);
    *value = number;
    return FB_OK;
}

/* --- rotary positions ------------------------------------------------------------------------- */

/* The theta that was found so far, and where. */
typedef struct rope_reading {
    double theta;
    char where[1024]; /* empty: none yet */
    fb_warnings *warnings;
} rope_reading;

/* The theta of an object, which must be that of the others. */
static fb_status take_theta(const fb_json *object, const char *where, rope_reading *r) {
    double theta = 0.0;
    if (!fb_json_has(object, "rope_theta"))
        return FB_OK;
    FB_TRY(read_positive(object, where, "rope_theta", &theta));
    if (r->where[0] && theta != r->theta)
        return fb_fail(FB_ERROR_FORMAT, "%s: rope_theta is %g, but %g in %s", where, theta,
                       r->theta, r->where);
    r->theta = theta;
    snprintf(r->where, sizeof r->where, "%.*s", (int)sizeof r->where - 1, where);
    return FB_OK;
}

/* Scaling by 1, of the types that do nothing else. YaRN may compute its factor from other fields.
 */
static bool is_unscaled(const fb_json *object) {
    const fb_json *type = fb_json_object_get(object, "rope_type");
    if (fb_json_is_null(type) || !type)
        type = fb_json_object_get(object, "type");
    const char *name = fb_json_string(type);
    double factor = 0.0;
    return name && (strcmp(name, "linear") == 0 || strcmp(name, "llama3") == 0) &&
           fb_json_get_double(object, "", "factor", &factor) == FB_OK && factor == 1.0;
}

static fb_status take_rope(const fb_json *parent, const char *parent_where, const char *key,
                           rope_reading *r) {
    const fb_json *object = NULL;
    char where[1024];
    if (!fb_json_has(parent, key))
        return FB_OK;
    FB_TRY(fb_json_get_object(parent, parent_where, key, &object));
    snprintf(where, sizeof where, "%s: %s", parent_where, key);
    bool unscaled = is_unscaled(object);
    FB_TRY(fb_fields_check(object, where, unscaled ? fb_unscaled_rope_fields : fb_rope_fields, NULL,
                           r->warnings));
    return take_theta(object, where, r);
}

/* An object of its own, and those by type of layer that are in it. */
static fb_status take_ropes(const fb_json *root, const char *where, const char *key,
                            rope_reading *r) {
    char inner[1024], text[FB_JSON_SHOW_SIZE];
    const fb_json *object = fb_json_object_get(root, key);
    FB_TRY(take_rope(root, where, key, r));
    snprintf(inner, sizeof inner, "%s: %s", where, key);
    for (size_t i = 0; i < fb_json_object_size(object); i++) {
        const char *name = fb_json_object_key(object, i);
        const fb_json *item = fb_json_object_at(object, i);
        bool known = strcmp(name, "full_attention") == 0 || strcmp(name, "sliding_attention") == 0;
        if (!known && fb_json_is_object(item))
            return fb_fail(FB_ERROR_UNSUPPORTED,
                           "%s: %s is %s, of a type of layer that there is not", inner, name,
                           fb_json_show(item, text));
        if (known)
            FB_TRY(take_rope(object, inner, name, r));
    }
    return FB_OK;
}

static fb_status read_rope(const fb_json *root, const char *where, reading *r) {
    rope_reading rope = {.theta = r->architecture->defaults.rope_theta, .warnings = r->warnings};
    FB_TRY(take_theta(root, where, &rope));
    FB_TRY(take_ropes(root, where, "rope_parameters", &rope));
    FB_TRY(take_ropes(root, where, "rope_scaling", &rope));
    r->config.rope_theta = rope.theta;
    return FB_OK;
}

/* --- sizes ------------------------------------------------------------------------------------ */

/* A missing field is the class's default, null is as many as there are queries. */
static fb_status read_key_value_heads(const fb_json *root, const char *where, reading *r) {
    fb_model_config *config = &r->config;
    size_t heads = config->num_attention_heads;
    size_t otherwise = r->architecture->defaults.num_key_value_heads;
    bool missing = !fb_json_object_get(root, "num_key_value_heads");
    if (missing && otherwise == 0)
        return fb_json_get_size(root, where, "num_key_value_heads", 1, MAX_WIDTH,
                                &config->num_key_value_heads);
    FB_TRY(fb_json_get_size_or(root, where, "num_key_value_heads", 1, MAX_WIDTH,
                               missing ? otherwise : heads, &config->num_key_value_heads));
    if (heads % config->num_key_value_heads != 0)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: num_attention_heads is %zu, no multiple of num_key_value_heads %zu%s",
                       where, heads, config->num_key_value_heads,
                       missing ? ", the default for the missing field" : "");
    return FB_OK;
}

/* A missing field is the class's default, null is hidden_size / num_attention_heads. */
static fb_status read_head_dim(const fb_json *root, const char *where, reading *r) {
    fb_model_config *config = &r->config;
    size_t heads = config->num_attention_heads, hidden = config->hidden_size;
    size_t otherwise = r->architecture->defaults.head_dim;
    if (!fb_json_object_get(root, "head_dim") && otherwise > 0) {
        config->head_dim = otherwise;
        return hidden == heads * otherwise
                   ? FB_OK
                   : fb_warn(r->warnings,
                             "%s: head_dim is missing: %zu, the default of Qwen3's and SDAR's "
                             "classes, not hidden_size / num_attention_heads",
                             where, otherwise);
    }
    if (!fb_json_has(root, "head_dim") && hidden % heads != 0)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: hidden_size is %zu, no multiple of num_attention_heads %zu, and "
                       "head_dim is %s",
                       where, hidden, heads,
                       fb_json_object_get(root, "head_dim") ? "null" : "missing");
    return fb_json_get_size_or(root, where, "head_dim", 1, MAX_HEAD_DIM, hidden / heads,
                               &config->head_dim);
}

/* The part of a head that turns. */
static fb_status read_rotary_dim(const fb_json *root, const char *where, reading *r) {
    fb_model_config *config = &r->config;
    double factor = 0.5;
    size_t stated = 0;
    config->rotary_dim = config->head_dim;
    if (!r->architecture->partial_rotary)
        return FB_OK;
    if (fb_json_has(root, "partial_rotary_factor"))
        FB_TRY(read_positive(root, where, "partial_rotary_factor", &factor));
    if (factor > 1.0)
        return fb_fail(FB_ERROR_FORMAT, "%s: partial_rotary_factor is %g, expected 1 at most",
                       where, factor);
    config->rotary_dim = (size_t)((double)config->head_dim * factor);
    if (config->rotary_dim == 0 || config->rotary_dim % 2 != 0)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: partial_rotary_factor is %g: %zu of a head's %zu values turn, "
                       "expected an even number of them",
                       where, factor, config->rotary_dim, config->head_dim);
    FB_TRY(fb_json_get_size_or(root, where, "rotary_dim", 1, MAX_HEAD_DIM, config->rotary_dim,
                               &stated));
    if (stated != config->rotary_dim)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: rotary_dim is %zu, but partial_rotary_factor %g of head_dim %zu is %zu",
                       where, stated, factor, config->head_dim, config->rotary_dim);
    return FB_OK;
}

static fb_status read_heads(const fb_json *root, const char *where, reading *r) {
    fb_model_config *config = &r->config;
    FB_TRY(fb_json_get_size(root, where, "num_attention_heads", 1, MAX_WIDTH,
                            &config->num_attention_heads));
    size_t heads = config->num_attention_heads;
    FB_TRY(read_key_value_heads(root, where, r));
    FB_TRY(read_head_dim(root, where, r));
    if (config->head_dim % 2 != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: head_dim is %zu, expected an even number", where,
                       config->head_dim);
    if (config->head_dim > MAX_WIDTH / heads)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: num_attention_heads %zu times head_dim %zu is too "
                       "large",
                       where, heads, config->head_dim);
    return read_rotary_dim(root, where, r);
}

/* Whether queries and keys are normalised, and which projections have a bias. */
static fb_status read_switches(const fb_json *root, const char *where, reading *r) {
    fb_model_config *config = &r->config;
    const fb_architecture *a = r->architecture;
    config->architecture = a->name;
    config->shifted_logits = a->shifted_logits;
    config->decoding_loop = a->loop;
    config->qk_norm = a->qk_norm;
    if (a->qk_norm_field)
        FB_TRY(fb_json_get_bool_or(root, where, "use_qk_norm", a->qk_norm, &config->qk_norm));
    switch (a->bias) {
    case FB_BIAS_ALL:
        FB_TRY(fb_json_get_bool_or(root, where, "attention_bias", false, &config->attention_bias));
        config->output_bias = config->attention_bias;
        break;
    case FB_BIAS_QKV:
        config->attention_bias = true;
        break;
    case FB_BIAS_TWO:
        FB_TRY(fb_json_get_bool_or(root, where, "use_qkv_bias", false, &config->attention_bias));
        FB_TRY(fb_json_get_bool_or(root, where, "use_bias", true, &config->output_bias));
        break;
    }
    return FB_OK;
}

static fb_status read_sizes(const fb_json *root, const char *where, reading *r) {
    fb_model_config *config = &r->config;
    FB_TRY(fb_json_get_size(root, where, "hidden_size", 1, MAX_WIDTH, &config->hidden_size));
    FB_TRY(fb_json_get_size(root, where, "intermediate_size", 1, MAX_WIDTH,
                            &config->intermediate_size));
    FB_TRY(fb_json_get_size(root, where, "num_hidden_layers", 1, MAX_LAYERS,
                            &config->num_hidden_layers));
    FB_TRY(fb_json_get_size(root, where, "vocab_size", 1, MAX_VOCAB, &config->vocab_size));
    FB_TRY(fb_json_get_size_or(root, where, "max_position_embeddings", 1, MAX_POSITIONS,
                               DEFAULT_POSITIONS, &config->max_position_embeddings));
    FB_TRY(read_heads(root, where, r));
    config->rms_norm_eps = r->architecture->defaults.rms_norm_eps;
    if (fb_json_has(root, "rms_norm_eps"))
        FB_TRY(read_positive(root, where, "rms_norm_eps", &config->rms_norm_eps));
    FB_TRY(fb_json_get_bool_or(root, where, "tie_word_embeddings", false,
                               &config->tie_word_embeddings));
    FB_TRY(read_switches(root, where, r));
    return fb_mixture_config_read(root, where, r->architecture, config);
}

/* --- token ids and the block size, which several files may name ------------------------------- */

/* One id; -1 in a file means none, as in some published ones. It may be above the vocabulary. */
static fb_status read_id(const fb_json *item, const char *where, const char *key, size_t max,
                         int64_t *id) {
    size_t value = 0;
    *id = -1;
    if (fb_json_is(item, "-1", 2))
        return FB_OK;
    FB_TRY(fb_json_size(item, where, key, 0, max, &value));
    *id = (int64_t)value;
    return FB_OK;
}

/* The mask token: the model looks it up, so it must be in the vocabulary. */
static fb_status read_mask(const fb_json *root, const char *where, reading *r) {
    static const char key[] = "mask_token_id";
    int64_t id = -1;
    if (!fb_json_has(root, key))
        return FB_OK;
    FB_TRY(read_id(fb_json_object_get(root, key), where, key, PTRDIFF_MAX, &id));
    if (id >= (int64_t)r->config.vocab_size)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is %lld, not below vocab_size %zu", where, key,
                       (long long)id, r->config.vocab_size);
    if (r->file == generation_name)
        r->mask_of_generation = (int32_t)id;
    else
        r->mask = (int32_t)id;
    return FB_OK;
}

/* No prompt can hold a token above the vocabulary, and nothing is padded: such an id is none. */
static fb_status read_pad(const fb_json *root, const char *where, reading *r) {
    static const char key[] = "pad_token_id";
    int64_t id = -1;
    if (!fb_json_has(root, key))
        return FB_OK;
    FB_TRY(read_id(fb_json_object_get(root, key), where, key, PTRDIFF_MAX, &id));
    r->config.pad_token_id = id < (int64_t)r->config.vocab_size ? (int32_t)id : -1;
    return FB_OK;
}

static fb_status add_eos(int64_t id, const char *where, reading *r) {
    fb_model_config *config = &r->config;
    if (id >= (int64_t)config->vocab_size)
        return fb_warn(r->warnings,
                       "%s: eos_token_id is %lld, not below vocab_size %zu: no text ends there",
                       where, (long long)id, config->vocab_size);
    for (size_t i = 0; i < config->num_eos_token_ids; i++)
        if (config->eos_token_ids[i] == id)
            return FB_OK;
    if (id >= 0 && config->num_eos_token_ids == MAX_EOS)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: eos_token_id lists more than %d tokens", where,
                       (int)MAX_EOS);
    if (id >= 0)
        config->eos_token_ids[config->num_eos_token_ids++] = (int32_t)id;
    return FB_OK;
}

/* eos_token_id is one id or a list. */
static fb_status read_eos(const fb_json *root, const char *where, reading *r) {
    fb_model_config *config = &r->config;
    static const char key[] = "eos_token_id";
    if (!fb_json_has(root, key))
        return FB_OK;
    const fb_json *item = fb_json_object_get(root, key);
    bool list = fb_json_is_array(item);
    size_t count = list ? fb_json_array_size(item) : 1;
    config->num_eos_token_ids = 0;
    for (size_t i = 0; i < count; i++) {
        int64_t id = -1;
        FB_TRY(read_id(list ? fb_json_array_get(item, i) : item, where, key, PTRDIFF_MAX, &id));
        FB_TRY(add_eos(id, where, r));
    }
    return FB_OK;
}

static fb_status read_not_negative(const fb_json *root, const char *where, const char *key,
                                   double otherwise, double *value) {
    FB_TRY(fb_json_get_double_or(root, where, key, otherwise, value));
    return *value >= 0.0
               ? FB_OK
               : fb_fail(FB_ERROR_FORMAT, "%s: %s is %g, expected 0 or more", where, key, *value);
}

/* How to sample, if the file says whether to. */
static fb_status read_sampling(const fb_json *root, const char *where, reading *r) {
    fb_model_config *config = &r->config;
    bool sample = false;
    double temperature = 0.0, top_p = 0.0;
    size_t top_k = 0;
    if (!fb_json_has(root, "do_sample"))
        return FB_OK;
    FB_TRY(fb_json_get_bool(root, where, "do_sample", &sample));
    if (sample) {
        FB_TRY(read_not_negative(root, where, "temperature", 1.0, &temperature));
        FB_TRY(read_not_negative(root, where, "top_p", 0.0, &top_p));
        FB_TRY(fb_json_get_size_or(root, where, "top_k", 0, SIZE_MAX, DEFAULT_TOP_K, &top_k));
    }
    if (sample && temperature == 0.0) /* the most probable token after all */
        sample = false;
    config->do_sample = sample;
    config->temperature = sample ? temperature : 0.0;
    config->top_p = sample ? top_p : 0.0;
    config->top_k = sample ? top_k : 0;
    return FB_OK;
}

/* What both config.json and generation_config.json may say. */
static fb_status read_ids(const fb_json *root, const char *where, reading *r) {
    FB_TRY(fb_json_get_size_or(root, where, "block_size", 1, MAX_BLOCK, r->config.block_size,
                               &r->config.block_size));
    FB_TRY(read_mask(root, where, r));
    FB_TRY(read_pad(root, where, r));
    FB_TRY(read_sampling(root, where, r));
    return read_eos(root, where, r);
}

static fb_status read_generation(const fb_json *root, const char *where, reading *r) {
    FB_TRY(read_ids(root, where, r));
    return fb_fields_check(root, where, fb_generation_fields, NULL, r->warnings);
}

static fb_status read_config(const fb_json *root, const char *where, reading *r) {
    FB_TRY(read_architecture(root, where, r));
    FB_TRY(read_sizes(root, where, r));
    FB_TRY(read_rope(root, where, r));
    FB_TRY(check_layer_types(root, where, r->config.num_hidden_layers));
    if (r->architecture->loop == FB_LOOP_LLADA2)
        FB_TRY(fb_loop_choose_llada2(r->directory, root, &r->config.decoding_loop, r->warnings));
    const char *block = r->architecture->block_size_field;
    if (block)
        FB_TRY(fb_json_get_size_or(root, where, block, 1, MAX_BLOCK, 0, &r->config.block_size));
    FB_TRY(read_ids(root, where, r));
    return fb_fields_check_three(root, where, r->architecture->fields, fb_config_fields,
                                 fb_generation_fields, r->warnings);
}

typedef fb_status reader(const fb_json *root, const char *where, reading *r);

/* Does nothing when an optional file is not there. */
static fb_status read_file(const char *directory, const char *name, bool optional, reader *read,
                           reading *r) {
    char *path = NULL;
    const fb_json *root = NULL;
    FB_TRY(fb_path_join(directory, name, &path));
    fb_status status = FB_OK;
    r->file = name;
    if (!optional || fb_file_exists(path)) {
        status = fb_json_load(path, MAX_FILE, &root);
        if (status == FB_OK)
            status = read(root, path, r);
    }
    fb_json_free(root);
    fb_free(path);
    return status;
}

/* --- the tokenizer's tokens ------------------------------------------------------------------- */

static fb_status check_token(const char *directory, const char *key, int32_t id,
                             const fb_model_config *config) {
    if (id >= 0 && (size_t)id >= config->vocab_size)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: the tokenizer's %s has the id %ld, but vocab_size is %zu", directory,
                       key, (long)id, config->vocab_size);
    return FB_OK;
}

/* The mask token, and the file that named it first. */
typedef struct mask_choice {
    const char *directory, *file, *key;
    int32_t id; /* -1: none yet */
} mask_choice;

/* What a file says must be what the files before it say. */
static fb_status agree(mask_choice *chosen, int32_t id, const char *file, const char *key) {
    if (id < 0)
        return FB_OK;
    if (chosen->id >= 0 && id != chosen->id)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s of %s is token %ld, but %s of %s is %ld",
                       chosen->directory, key, file, (long)id, chosen->key, chosen->file,
                       (long)chosen->id);
    chosen->id = id;
    chosen->file = file;
    chosen->key = key;
    return FB_OK;
}

/* An id that the published code has: none in a smaller vocabulary. */
static int32_t in_vocabulary(int32_t id, const fb_model_config *config) {
    return id >= 0 && (size_t)id < config->vocab_size ? id : -1;
}

/* The mask token that the files name. A spelling is only looked for when none does. */
static fb_status choose_mask(const char *directory, const fb_special_tokens *tokens, reading *r) {
    mask_choice chosen = {.directory = directory, .id = -1};
    FB_TRY(agree(&chosen, r->mask, config_name, "mask_token_id"));
    FB_TRY(agree(&chosen, r->mask_of_generation, generation_name, "mask_token_id"));
    FB_TRY(check_token(directory, "mask token", tokens->mask, &r->config));
    FB_TRY(agree(&chosen, tokens->mask, tokens->mask_file, "mask_token"));
    if (chosen.id < 0)
        FB_TRY(check_token(directory, "mask token", tokens->guessed_mask, &r->config));
    r->config.mask_token_id = chosen.id >= 0 ? chosen.id : tokens->guessed_mask;
    if (r->config.mask_token_id < 0)
        r->config.mask_token_id = in_vocabulary(r->architecture->mask_token_id, &r->config);
    return FB_OK;
}

/* The other tokens of the tokenizer only fill gaps; above the vocabulary they are none. */
static fb_status read_tokenizer(const char *directory, reading *r) {
    fb_special_tokens tokens;
    fb_model_config *config = &r->config;
    bool guess = r->mask < 0 && r->mask_of_generation < 0;
    FB_TRY(fb_special_tokens_read(directory, guess, &tokens, r->warnings));
    FB_TRY(choose_mask(directory, &tokens, r));
    if (config->pad_token_id < 0 && tokens.pad < (int64_t)config->vocab_size)
        config->pad_token_id = tokens.pad;
    if (config->num_eos_token_ids == 0)
        FB_TRY(add_eos(tokens.eos, directory, r));
    if (config->num_eos_token_ids == 0)
        FB_TRY(add_eos(in_vocabulary(r->architecture->eos_token_id, config), directory, r));
    if (config->block_size == 0)
        config->block_size = r->architecture->block_size;
    for (size_t i = 0; i < config->num_eos_token_ids; i++)
        if (config->eos_token_ids[i] == config->mask_token_id)
            return fb_warn(r->warnings,
                           "%s: token %ld is the mask token and ends a text: no text ends there",
                           directory, (long)config->mask_token_id);
    return FB_OK;
}

/* An adapter beside the weights would change them. */
static fb_status check_adapter(const char *directory) {
    char *path = NULL;
    FB_TRY(fb_path_join(directory, "adapter_config.json", &path));
    fb_status status = fb_file_exists(path)
                           ? fb_fail(FB_ERROR_UNSUPPORTED, "%s: an adapter is not applied", path)
                           : FB_OK;
    fb_free(path);
    return status;
}

/* Weights are opened later, and warned of then. */
static fb_status check_quantization(const char *directory) {
    fb_quantization *quantization = NULL;
    FB_TRY(fb_quantization_read(directory, NULL, &quantization));
    fb_quantization_free(quantization);
    return FB_OK;
}

/* What people give instead of a model's directory. */
static fb_status check_directory(const char *directory) {
    char *snapshots = NULL;
    if (!fb_file_exists(directory))
        return fb_fail(FB_ERROR_IO,
                       "%s: there is no such directory (models are not downloaded; a name on the "
                       "Hugging Face Hub is none)",
                       directory);
    if (fb_file_is_file(directory))
        return fb_fail(FB_ERROR_IO, "%s: is a file; expected the directory that holds %s",
                       directory, config_name);
    FB_TRY(fb_path_join(directory, "snapshots", &snapshots));
    fb_status status = fb_file_is_directory(snapshots)
                           ? fb_fail(FB_ERROR_IO,
                                     "%s: is a folder of the Hub's cache; the model "
                                     "is in a folder of %s",
                                     directory, snapshots)
                           : FB_OK;
    fb_free(snapshots);
    return status;
}

fb_status fb_model_config_read(const char *directory, fb_model_config *config,
                               fb_warnings *warnings) {
    reading r = {.config = {.mask_token_id = -1, .pad_token_id = -1},
                 .mask = -1,
                 .mask_of_generation = -1,
                 .directory = directory,
                 .warnings = warnings};
    FB_TRY(check_directory(directory));
    FB_TRY(read_file(directory, config_name, false, read_config, &r));
    FB_TRY(read_file(directory, generation_name, true, read_generation, &r));
    FB_TRY(read_tokenizer(directory, &r));
    FB_TRY(check_adapter(directory));
    FB_TRY(check_quantization(directory));
    *config = r.config;
    return FB_OK;
}

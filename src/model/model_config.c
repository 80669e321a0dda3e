#include "model/model_config.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/json.h"
#include "model/special_tokens.h"

#include <math.h>
#include <string.h>

/* Limits far above every published model, and low enough that sizes multiply without overflow. */
enum {
    MAX_FILE = 16 * 1024 * 1024,
    MAX_WIDTH = 1 << 24, /* hidden_size, intermediate_size, heads times head_dim */
    MAX_LAYERS = 1 << 16,
    MAX_HEAD_DIM = 1 << 16,
    MAX_VOCAB = 1 << 30,
    MAX_POSITIONS = 1 << 30,
    MAX_BLOCK = 1 << 16,
    /* Defaults of the Hugging Face class, for fields that config.json does not have. */
    DEFAULT_POSITIONS = 32768,
};

static const char *const architectures[] = {"SDARForCausalLM", "Qwen3ForCausalLM"};
static const char *const model_types[] = {"sdar", "qwen3"};
enum { NUM_ARCHITECTURES = sizeof architectures / sizeof architectures[0] };

static bool is_one_of(const char *text, const char *const *list) {
    for (size_t i = 0; i < NUM_ARCHITECTURES; i++)
        if (strcmp(text, list[i]) == 0)
            return true;
    return false;
}

/* `architectures` decides; `model_type` where it is missing. */
static fb_status check_architecture(const json_t *root, const char *where) {
    const char *name = "";
    if (!fb_json_has(root, "architectures")) {
        FB_TRY(fb_json_get_string(root, where, "model_type", &name));
        if (is_one_of(name, model_types))
            return FB_OK;
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: model_type is '%s', expected sdar or qwen3",
                       where, name);
    }
    json_t *list = NULL;
    FB_TRY(fb_json_get_array(root, where, "architectures", &list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *text = json_string_value(json_array_get(list, i));
        if (text && is_one_of(text, architectures))
            return FB_OK;
        name = text ? text : name;
    }
    return fb_fail(FB_ERROR_UNSUPPORTED,
                   "%s: architectures is '%s', expected SDARForCausalLM or Qwen3ForCausalLM", where,
                   name);
}

/* Fields that would change the computation in a way that is not implemented. */
static fb_status check_features(const json_t *root, const char *where) {
    const char *activation = NULL;
    bool sliding = false;
    FB_TRY(fb_json_get_string_or(root, where, "hidden_act", "silu", &activation));
    if (strcmp(activation, "silu") != 0)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: hidden_act is '%s', expected silu", where,
                       activation);
    FB_TRY(fb_json_get_bool_or(root, where, "use_sliding_window", false, &sliding));
    if (sliding)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: use_sliding_window is true", where);
    if (fb_json_has(root, "quantization_config"))
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: quantization_config: quantised weights", where);
    return FB_OK;
}

/* rope_scaling, or rope_parameters of newer files: null, or of type "default". */
static fb_status check_rope(const json_t *root, const char *where, const char *key) {
    if (!fb_json_has(root, key))
        return FB_OK;
    json_t *scaling = NULL;
    FB_TRY(fb_json_get_object(root, where, key, &scaling));
    const char *type = NULL;
    FB_TRY(fb_json_get_string_or(scaling, where, "type", "default", &type));
    FB_TRY(fb_json_get_string_or(scaling, where, "rope_type", type, &type));
    if (strcmp(type, "default") != 0)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: %s has type '%s', expected null or default",
                       where, key, type);
    return FB_OK;
}

static fb_status read_positive(const json_t *object, const char *where, const char *key,
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

static fb_status read_rope(const json_t *root, const char *where, fb_model_config *config) {
    FB_TRY(check_rope(root, where, "rope_scaling"));
    FB_TRY(check_rope(root, where, "rope_parameters"));
    const json_t *parameters = json_object_get(root, "rope_parameters");
    const json_t *object = fb_json_has(parameters, "rope_theta") ? parameters : root;
    return read_positive(object, where, "rope_theta", &config->rope_theta);
}

static fb_status read_heads(const json_t *root, const char *where, fb_model_config *config) {
    FB_TRY(fb_json_get_size(root, where, "num_attention_heads", 1, MAX_WIDTH,
                            &config->num_attention_heads));
    size_t heads = config->num_attention_heads, hidden = config->hidden_size;
    FB_TRY(fb_json_get_size_or(root, where, "num_key_value_heads", 1, heads, heads,
                               &config->num_key_value_heads));
    if (heads % config->num_key_value_heads != 0)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: num_attention_heads is %zu, no multiple of num_key_value_heads %zu",
                       where, heads, config->num_key_value_heads);
    if (!fb_json_has(root, "head_dim") && hidden % heads != 0)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: hidden_size is %zu, no multiple of num_attention_heads %zu, and "
                       "head_dim is missing",
                       where, hidden, heads);
    FB_TRY(fb_json_get_size_or(root, where, "head_dim", 1, MAX_HEAD_DIM, hidden / heads,
                               &config->head_dim));
    if (config->head_dim % 2 != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: head_dim is %zu, expected an even number", where,
                       config->head_dim);
    if (config->head_dim > MAX_WIDTH / heads)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: num_attention_heads %zu times head_dim %zu is too "
                       "large",
                       where, heads, config->head_dim);
    return FB_OK;
}

static fb_status read_sizes(const json_t *root, const char *where, fb_model_config *config) {
    FB_TRY(fb_json_get_size(root, where, "hidden_size", 1, MAX_WIDTH, &config->hidden_size));
    FB_TRY(fb_json_get_size(root, where, "intermediate_size", 1, MAX_WIDTH,
                            &config->intermediate_size));
    FB_TRY(fb_json_get_size(root, where, "num_hidden_layers", 1, MAX_LAYERS,
                            &config->num_hidden_layers));
    FB_TRY(fb_json_get_size(root, where, "vocab_size", 1, MAX_VOCAB, &config->vocab_size));
    FB_TRY(fb_json_get_size_or(root, where, "max_position_embeddings", 1, MAX_POSITIONS,
                               DEFAULT_POSITIONS, &config->max_position_embeddings));
    FB_TRY(read_heads(root, where, config));
    FB_TRY(read_positive(root, where, "rms_norm_eps", &config->rms_norm_eps));
    FB_TRY(fb_json_get_bool_or(root, where, "tie_word_embeddings", false,
                               &config->tie_word_embeddings));
    return fb_json_get_bool_or(root, where, "attention_bias", false, &config->attention_bias);
}

/* --- token ids and the block size, which several files may name ------------------------------- */

/* One id; -1 in a file means none, as in some published ones. */
static fb_status read_id(const json_t *item, const char *where, const char *key,
                         const fb_model_config *config, int32_t *id) {
    if (json_is_integer(item) && json_integer_value(item) == -1) {
        *id = -1;
        return FB_OK;
    }
    size_t value = 0;
    FB_TRY(fb_json_size(item, where, key, 0, config->vocab_size - 1, &value));
    *id = (int32_t)value;
    return FB_OK;
}

static fb_status read_id_field(const json_t *root, const char *where, const char *key,
                               const fb_model_config *config, int32_t *id) {
    if (!fb_json_has(root, key))
        return FB_OK;
    return read_id(json_object_get(root, key), where, key, config, id);
}

/* eos_token_id is one id or a list. */
static fb_status read_eos(const json_t *root, const char *where, fb_model_config *config) {
    enum { MAX_IDS = sizeof config->eos_token_ids / sizeof config->eos_token_ids[0] };
    static const char key[] = "eos_token_id";
    if (!fb_json_has(root, key))
        return FB_OK;
    const json_t *item = json_object_get(root, key);
    bool list = json_is_array(item);
    size_t count = list ? json_array_size(item) : 1, used = 0;
    if (count > MAX_IDS)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: %s lists %zu tokens, at most %d are supported",
                       where, key, count, (int)MAX_IDS);
    for (size_t i = 0; i < count; i++) {
        int32_t id = -1;
        FB_TRY(read_id(list ? json_array_get(item, i) : item, where, key, config, &id));
        if (id >= 0)
            config->eos_token_ids[used++] = id;
    }
    config->num_eos_token_ids = used;
    return FB_OK;
}

/* Fields that both config.json and generation_config.json may have. */
static fb_status read_generation(const json_t *root, const char *where, fb_model_config *config) {
    FB_TRY(fb_json_get_size_or(root, where, "block_size", 1, MAX_BLOCK, config->block_size,
                               &config->block_size));
    FB_TRY(read_id_field(root, where, "mask_token_id", config, &config->mask_token_id));
    FB_TRY(read_id_field(root, where, "pad_token_id", config, &config->pad_token_id));
    return read_eos(root, where, config);
}

static fb_status read_config(const json_t *root, const char *where, fb_model_config *config) {
    FB_TRY(check_architecture(root, where));
    FB_TRY(check_features(root, where));
    FB_TRY(read_sizes(root, where, config));
    FB_TRY(read_rope(root, where, config));
    return read_generation(root, where, config);
}

typedef fb_status reader(const json_t *root, const char *where, fb_model_config *config);

/* Does nothing when an optional file is not there. */
static fb_status read_file(const char *directory, const char *name, bool optional, reader *read,
                           fb_model_config *config) {
    char *path = NULL;
    json_t *root = NULL;
    FB_TRY(fb_path_join(directory, name, &path));
    fb_status status = FB_OK;
    if (!optional || fb_file_exists(path)) {
        status = fb_json_load(path, MAX_FILE, &root);
        if (status == FB_OK)
            status = read(root, path, config);
    }
    json_decref(root);
    fb_free(path);
    return status;
}

static fb_status check_token(const char *directory, const char *key, int32_t id,
                             const fb_model_config *config) {
    if (id >= 0 && (size_t)id >= config->vocab_size)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: the tokenizer's %s has the id %ld, but vocab_size is %zu", directory,
                       key, (long)id, config->vocab_size);
    return FB_OK;
}

/* The tokenizer's mask token goes before the configurations'; its other tokens only fill gaps. */
static fb_status read_tokenizer(const char *directory, fb_model_config *config) {
    fb_special_tokens tokens = {-1, -1, -1};
    FB_TRY(fb_special_tokens_read(directory, &tokens));
    FB_TRY(check_token(directory, "mask token", tokens.mask, config));
    if (tokens.mask >= 0)
        config->mask_token_id = tokens.mask;
    if (config->pad_token_id < 0) {
        FB_TRY(check_token(directory, "pad token", tokens.pad, config));
        config->pad_token_id = tokens.pad;
    }
    if (config->num_eos_token_ids == 0 && tokens.eos >= 0) {
        FB_TRY(check_token(directory, "end-of-text token", tokens.eos, config));
        config->eos_token_ids[config->num_eos_token_ids++] = tokens.eos;
    }
    return FB_OK;
}

fb_status fb_model_config_read(const char *directory, fb_model_config *config) {
    fb_model_config read = {.mask_token_id = -1, .pad_token_id = -1};
    FB_TRY(read_file(directory, "config.json", false, read_config, &read));
    FB_TRY(read_file(directory, "generation_config.json", true, read_generation, &read));
    FB_TRY(read_tokenizer(directory, &read));
    *config = read;
    return FB_OK;
}

#include "model/quantization.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/json.h"
#include "io/regex.h"
#include "model/quantization_fields.h"

#include <stdio.h>
#include <string.h>

enum {
    MAX_FILE = 16 * 1024 * 1024,
    MAX_WHERE = 1200,
    MAX_GROUP_SIZE = 1 << 24,
};

/* A name of a layer or of a class, or a regular expression that a name begins with. */
typedef struct pattern {
    const char *text; /* of the JSON */
    fb_regex *regex;  /* NULL: the text itself */
} pattern;

typedef struct pattern_list {
    pattern *items;
    size_t count;
} pattern_list;

typedef struct config_group {
    pattern_list targets;
    fb_weight_scheme scheme;
} config_group;

struct fb_quantization {
    const fb_json *root; /* of the file */
    config_group *groups;
    size_t num_groups;
    pattern_list ignored;
    fb_regex_state *state;
    bool is_gptq;
    fb_weight_scheme gptq;
};

/* --- names of layers -------------------------------------------------------------------------- */

static fb_status read_patterns(const fb_json *array, const char *where, const char *key,
                               pattern_list *list) {
    size_t count = fb_json_array_size(array);
    FB_TRY(fb_alloc_zeroed(count, sizeof *list->items, "names of layers", &list->items));
    for (size_t i = 0; i < count; i++) {
        pattern *item = &list->items[list->count++];
        FB_TRY(fb_json_text(fb_json_array_get(array, i), where, key, &item->text));
        if (strncmp(item->text, "re:", 3) != 0)
            continue;
        fb_status status = fb_regex_compile(item->text + 3, false, &item->regex);
        if (status != FB_OK)
            return fb_fail_in(status, "%s: %s: '%.100s'", where, key, item->text);
    }
    return FB_OK;
}

static void free_patterns(pattern_list *list) {
    for (size_t i = 0; i < list->count; i++)
        fb_regex_destroy(list->items[i].regex);
    fb_free(list->items);
}

/* As re.match of Python: from the beginning of the name, not to its end. */
static fb_status matches(const fb_quantization *q, const pattern *item, const char *name,
                         bool *found) {
    size_t begin = 0, end = 0;
    *found = !item->regex && strcmp(item->text, name) == 0;
    if (!item->regex)
        return FB_OK;
    FB_TRY(fb_regex_find(item->regex, q->state, (const unsigned char *)name, strlen(name), 0, found,
                         &begin, &end));
    *found = *found && begin == 0;
    return FB_OK;
}

static fb_status any_matches(const fb_quantization *q, const pattern_list *list, const char *name,
                             bool *found) {
    *found = false;
    for (size_t i = 0; i < list->count && !*found; i++)
        FB_TRY(matches(q, &list->items[i], name, found));
    return FB_OK;
}

/* --- compressed-tensors ----------------------------------------------------------------------- */

static fb_status read_format(const char *where, const char *format, fb_weight_layout *layout) {
    if (strcmp(format, "pack-quantized") == 0)
        *layout = FB_WEIGHT_PACKED;
    else if (strcmp(format, "int-quantized") == 0 || strcmp(format, "naive-quantized") == 0)
        *layout = FB_WEIGHT_INT8;
    else
        return fb_fail(FB_ERROR_UNSUPPORTED,
                       "%s: format is '%s', expected pack-quantized or int-quantized", where,
                       format);
    return FB_OK;
}

/* Missing: as the size of the groups says, where it is known. */
static fb_status read_strategy(const fb_json *weights, const char *where, int64_t group_size,
                               fb_scale_span *span) {
    const char *name = group_size > 0 ? "group" : group_size < 0 ? "channel" : "tensor";
    FB_TRY(fb_json_get_string_or(weights, where, "strategy", name, &name));
    if (strcmp(name, "tensor") == 0)
        *span = FB_SCALE_OF_TENSOR;
    else if (strcmp(name, "channel") == 0)
        *span = FB_SCALE_OF_ROW;
    else if (strcmp(name, "group") == 0)
        *span = FB_SCALE_OF_GROUP;
    else
        return fb_fail(FB_ERROR_UNSUPPORTED,
                       "%s: strategy is '%s', expected tensor, channel or group", where, name);
    if (*span == FB_SCALE_OF_GROUP && group_size <= 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: strategy is group, but group_size is %lld", where,
                       (long long)group_size);
    return FB_OK;
}

/* The order of columns: true means "group". */
static fb_status read_order(const fb_json *weights, const char *where, bool *ordered) {
    const fb_json *value = fb_json_object_get(weights, "actorder");
    char shown[FB_JSON_SHOW_SIZE];
    const char *name = fb_json_string(value);
    *ordered = fb_json_is_true(value) ||
               (name && (strcmp(name, "group") == 0 || strcmp(name, "dynamic") == 0));
    bool known = !fb_json_has(weights, "actorder") || fb_json_is_bool(value) || *ordered ||
                 (name && (strcmp(name, "weight") == 0 || strcmp(name, "static") == 0));
    return known ? FB_OK
                 : fb_fail(FB_ERROR_UNSUPPORTED,
                           "%s: actorder is %s, expected group, dynamic, weight or static", where,
                           fb_json_show(value, shown));
}

static fb_status read_bits(const fb_json *object, const char *where, const char *key,
                           size_t *bits) {
    FB_TRY(fb_json_get_size(object, where, key, 1, 64, bits));
    return *bits == 4 || *bits == 8
               ? FB_OK
               : fb_fail(FB_ERROR_UNSUPPORTED, "%s: %s is %zu, expected 8 or 4", where, key, *bits);
}

/* -1 stands for a whole row, 0 for a field that is missing or null. */
static fb_status read_group_size(const fb_json *object, const char *where, int64_t *group_size) {
    static const char key[] = "group_size";
    *group_size = 0;
    if (!fb_json_has(object, key))
        return FB_OK;
    FB_TRY(
        fb_json_int64(fb_json_object_get(object, key), where, key, -1, MAX_GROUP_SIZE, group_size));
    return *group_size != 0 ? FB_OK : fb_fail(FB_ERROR_FORMAT, "%s: group_size is 0", where);
}

static fb_status read_weights(const fb_json *weights, const char *where, fb_weight_scheme *scheme,
                              fb_warnings *warnings) {
    const char *type = "int";
    int64_t group_size = 0;
    FB_TRY(fb_json_get_string_or(weights, where, "type", type, &type));
    if (strcmp(type, "int") != 0)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: type is '%s', expected int", where, type);
    scheme->bits = 8;
    if (fb_json_has(weights, "num_bits"))
        FB_TRY(read_bits(weights, where, "num_bits", &scheme->bits));
    FB_TRY(fb_json_get_bool_or(weights, where, "symmetric", true, &scheme->symmetric));
    FB_TRY(read_group_size(weights, where, &group_size));
    FB_TRY(read_strategy(weights, where, group_size, &scheme->span));
    if (scheme->span == FB_SCALE_OF_GROUP)
        scheme->group_size = (size_t)group_size;
    FB_TRY(read_order(weights, where, &scheme->ordered));
    return fb_fields_check(weights, where, fb_compressed_weight_fields, NULL, warnings);
}

static fb_status read_inputs(const fb_json *group, const char *where, fb_warnings *warnings) {
    const fb_json *inputs = NULL;
    char inner[MAX_WHERE];
    if (!fb_json_has(group, "input_activations"))
        return FB_OK;
    FB_TRY(fb_json_get_object(group, where, "input_activations", &inputs));
    snprintf(inner, sizeof inner, "%.1100s: input_activations", where);
    return fb_fields_check(inputs, inner, fb_compressed_input_fields, NULL, warnings);
}

static fb_status read_group(const fb_json *group, const char *where, const char *format,
                            config_group *own, fb_warnings *warnings) {
    const fb_json *targets = NULL, *weights = NULL;
    char inner[MAX_WHERE];
    FB_TRY(fb_json_get_array(group, where, "targets", &targets));
    FB_TRY(read_patterns(targets, where, "targets", &own->targets));
    FB_TRY(fb_fields_check(group, where, fb_compressed_group_fields, NULL, warnings));
    if (!fb_json_has(group, "weights"))
        return FB_OK;
    FB_TRY(fb_json_get_object(group, where, "weights", &weights));
    FB_TRY(fb_json_get_string_or(group, where, "format", format, &format));
    FB_TRY(read_format(where, format, &own->scheme.layout));
    snprintf(inner, sizeof inner, "%.1100s: weights", where);
    FB_TRY(read_weights(weights, inner, &own->scheme, warnings));
    return read_inputs(group, where, warnings);
}

static fb_status check_sparsity(const fb_json *object, const char *where) {
    static const char key[] = "sparsity_config";
    const fb_json *sparsity = fb_json_object_get(object, key);
    const char *format = fb_json_string(fb_json_object_get(sparsity, "format"));
    if (!fb_json_has(object, key) || fb_json_is(sparsity, "{}", 2) ||
        (format && strcmp(format, "dense") == 0))
        return FB_OK;
    return fb_fail(FB_ERROR_UNSUPPORTED, "%s: %s is '%s', expected dense", where, key,
                   format ? format : "without a format");
}

static fb_status read_compressed(const fb_json *object, const char *where, fb_quantization *q,
                                 fb_warnings *warnings) {
    const fb_json *groups = NULL;
    const char *format = "";
    char inner[MAX_WHERE];
    FB_TRY(check_sparsity(object, where));
    FB_TRY(fb_json_get_string_or(object, where, "format", format, &format));
    FB_TRY(fb_json_get_object(object, where, "config_groups", &groups));
    size_t count = fb_json_object_size(groups);
    FB_TRY(fb_alloc_zeroed(count, sizeof *q->groups, "config_groups", &q->groups));
    for (size_t i = 0; i < count; i++) {
        const char *key = fb_json_object_key(groups, i);
        const fb_json *group = NULL;
        snprintf(inner, sizeof inner, "%.1100s: config_groups", where);
        FB_TRY(fb_json_get_object(groups, inner, key, &group));
        snprintf(inner, sizeof inner, "%.1100s: config_groups: %.60s", where, key);
        FB_TRY(read_group(group, inner, format, &q->groups[q->num_groups++], warnings));
    }
    if (fb_json_has(object, "ignore")) {
        const fb_json *ignore = NULL;
        FB_TRY(fb_json_get_array(object, where, "ignore", &ignore));
        FB_TRY(read_patterns(ignore, where, "ignore", &q->ignored));
    }
    return fb_fields_check(object, where, fb_compressed_fields, NULL, warnings);
}

/* Names go before classes, and groups in the order of the file. */
static fb_status find_group(const fb_quantization *q, const char *name, const char *class_name,
                            const config_group **group) {
    const char *const asked[] = {name, class_name};
    *group = NULL;
    for (size_t by = 0; by < 2; by++)
        for (size_t i = 0; i < q->num_groups; i++) {
            bool found = false;
            FB_TRY(any_matches(q, &q->groups[i].targets, asked[by], &found));
            if (found) {
                *group = &q->groups[i];
                return FB_OK;
            }
        }
    return FB_OK;
}

/* --- GPTQ ------------------------------------------------------------------------------------- */

static fb_status read_checkpoint_format(const fb_json *object, const char *where, bool *v2) {
    static const char *const keys[] = {"checkpoint_format", "format"};
    *v2 = false;
    for (size_t i = 0; i < 2; i++) {
        const char *name = "";
        FB_TRY(fb_json_get_string_or(object, where, keys[i], "", &name));
        *v2 = *v2 || strcmp(name, "gptq_v2") == 0;
        if (name[0] && strcmp(name, "gptq") != 0 && strcmp(name, "gptq_v2") != 0)
            return fb_fail(FB_ERROR_UNSUPPORTED, "%s: %s is '%s', expected gptq or gptq_v2", where,
                           keys[i], name);
    }
    return FB_OK;
}

static fb_status read_gptq(const fb_json *object, const char *where, fb_quantization *q,
                           fb_warnings *warnings) {
    fb_weight_scheme *scheme = &q->gptq;
    int64_t group_size = 0;
    q->is_gptq = true;
    scheme->layout = FB_WEIGHT_GPTQ;
    FB_TRY(read_checkpoint_format(object, where, &scheme->whole_zeros));
    FB_TRY(read_bits(object, where, "bits", &scheme->bits));
    FB_TRY(read_group_size(object, where, &group_size));
    scheme->span = group_size > 0 ? FB_SCALE_OF_GROUP : FB_SCALE_OF_ROW;
    scheme->group_size = group_size > 0 ? (size_t)group_size : 0;
    const fb_json *dynamic = fb_json_object_get(object, "dynamic");
    if (fb_json_has(object, "dynamic") && !fb_json_is(dynamic, "{}", 2)) {
        scheme->bits = 0;
        scheme->group_size = 0;
        scheme->span = FB_SCALE_OF_GROUP;
    }
    return fb_fields_check(object, where, fb_gptq_fields, NULL, warnings);
}

/* --- the files -------------------------------------------------------------------------------- */

static bool is_method(const char *method, const char *const *names, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(method, names[i]) == 0)
            return true;
    return false;
}

static fb_status read_method(const fb_json *object, const char *where, const char *method,
                             fb_quantization *q, fb_warnings *warnings) {
    static const char *const compressed[] = {"compressed-tensors", "compressed_tensors",
                                             "sparseml"};
    if (fb_json_has(object, "config_groups"))
        method = compressed[0];
    if (!fb_json_has(object, "quant_method"))
        FB_TRY(fb_json_get_string_or(object, where, "method", method, &method));
    FB_TRY(fb_json_get_string_or(object, where, "quant_method", method, &method));
    if (is_method(method, compressed, sizeof compressed / sizeof compressed[0]))
        return read_compressed(object, where, q, warnings);
    if (strcmp(method, "gptq") == 0)
        return read_gptq(object, where, q, warnings);
    return fb_fail(FB_ERROR_UNSUPPORTED,
                   "%s: quant_method is '%s', expected compressed-tensors or gptq", where, method);
}

/* Keeps `root`, after a failure too. `method`: where the object names none. */
static fb_status read_object(const fb_json *root, const fb_json *object, const char *where,
                             const char *method, fb_warnings *warnings,
                             fb_quantization **quantization) {
    fb_quantization *made = NULL;
    fb_status status = fb_alloc_zeroed(1, sizeof *made, "quantisation", &made);
    if (status != FB_OK) {
        fb_json_free(root);
        return status;
    }
    made->root = root;
    status = fb_regex_state_create(&made->state);
    if (status == FB_OK)
        status = read_method(object, where, method, made, warnings);
    if (status != FB_OK) {
        fb_quantization_free(made);
        return status;
    }
    *quantization = made;
    return FB_OK;
}

/* quantization_config, or compression_config, which may hold it. NULL: neither is there. */
static fb_status find_object(const fb_json *root, const char *where, const char **key,
                             const fb_json **object) {
    static const char own[] = "quantization_config", older[] = "compression_config";
    *object = NULL;
    *key = fb_json_has(root, own) ? own : fb_json_has(root, older) ? older : NULL;
    if (!*key)
        return FB_OK;
    FB_TRY(fb_json_get_object(root, where, *key, object));
    if (fb_json_has(*object, own) && !fb_json_has(*object, "config_groups"))
        return fb_json_get_object(*object, where, own, object);
    return FB_OK;
}

static fb_status read_config(const char *path, fb_warnings *warnings,
                             fb_quantization **quantization) {
    const fb_json *root = NULL, *object = NULL;
    const char *key = NULL;
    char where[MAX_WHERE];
    FB_TRY(fb_json_load(path, MAX_FILE, &root));
    fb_status status = find_object(root, path, &key, &object);
    if (status != FB_OK || !object) {
        fb_json_free(root);
        return status;
    }
    snprintf(where, sizeof where, "%.1000s: %s", path, key);
    return read_object(root, object, where, "", warnings, quantization);
}

/* Of AutoGPTQ before transformers had a field for it. */
static fb_status read_separate(const char *path, fb_warnings *warnings,
                               fb_quantization **quantization) {
    const fb_json *root = NULL;
    if (!fb_file_exists(path))
        return FB_OK;
    FB_TRY(fb_json_load(path, MAX_FILE, &root));
    return read_object(root, root, path, "gptq", warnings, quantization);
}

fb_status fb_quantization_read(const char *directory, fb_warnings *warnings,
                               fb_quantization **quantization) {
    char *config = NULL, *separate = NULL;
    *quantization = NULL;
    FB_TRY(fb_path_join(directory, "config.json", &config));
    fb_status status = fb_path_join(directory, "quantize_config.json", &separate);
    if (status == FB_OK)
        status = read_config(config, warnings, quantization);
    if (status == FB_OK && !*quantization)
        status = read_separate(separate, warnings, quantization);
    fb_free(config);
    fb_free(separate);
    return status;
}

fb_status fb_quantization_scheme(const fb_quantization *q, const char *name, const char *class_name,
                                 fb_weight_scheme *scheme) {
    const config_group *group = NULL;
    bool ignored = false;
    *scheme = (fb_weight_scheme){.layout = FB_WEIGHT_PLAIN};
    if (!q)
        return FB_OK;
    if (q->is_gptq) {
        *scheme = q->gptq;
        return FB_OK;
    }
    FB_TRY(any_matches(q, &q->ignored, name, &ignored));
    if (!ignored)
        FB_TRY(any_matches(q, &q->ignored, class_name, &ignored));
    if (!ignored)
        FB_TRY(find_group(q, name, class_name, &group));
    if (group)
        *scheme = group->scheme;
    return FB_OK;
}

void fb_quantization_free(fb_quantization *q) {
    if (!q)
        return;
    for (size_t i = 0; i < q->num_groups; i++)
        free_patterns(&q->groups[i].targets);
    free_patterns(&q->ignored);
    fb_free(q->groups);
    fb_regex_state_destroy(q->state);
    fb_json_free(q->root);
    fb_free(q);
}

/* Calibration files: JSON, versioned; see calibration.h. */
#include "base/error.h"
#include "cache/calibration_state.h"
#include "io/file.h"
#include "io/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VERSION = 1, MAX_FILE = 1 << 28, MAX_LAYERS = 1 << 12, MAX_HEADS = 1 << 12 };

static const char format_name[] = "flashblock-calibration";

/* The tables of a file: one number, or decision, for each step from 1 on, layer and head. */
typedef enum table { SIMILARITY, LSE_CHANGE, INTERNAL, REFRESH, NUM_TABLES } table;
static const char *const table_names[] = {"similarity", "lse_change", "internal_similarity",
                                          "refresh"};

/* --- writing ---------------------------------------------------------------------------------- */

static json_t *number(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *table_value(fb_calibration *c, table which, size_t layer, size_t step, size_t head) {
    switch (which) {
    case SIMILARITY:
        return number(fb_calibration_similarity(c, layer, step, head));
    case LSE_CHANGE:
        return number(fb_calibration_lse_change(c, layer, step, head));
    case INTERNAL:
        return number(fb_calibration_internal_similarity(c, layer, step, head));
    default:
        return json_integer(fb_calibration_refresh(c, layer, step)[head]);
    }
}

/* [num_steps - 1][num_layers][num_heads] */
static json_t *table_json(fb_calibration *c, table which) {
    json_t *steps = json_array();
    for (size_t step = 1; step < c->config.num_steps; step++) {
        json_t *layers = json_array();
        for (size_t layer = 0; layer < c->config.num_layers; layer++) {
            json_t *heads = json_array();
            for (size_t head = 0; head < c->config.num_heads; head++)
                json_array_append_new(heads, table_value(c, which, layer, step, head));
            json_array_append_new(layers, heads);
        }
        json_array_append_new(steps, layers);
    }
    return steps;
}

static json_t *thresholds_json(const fb_calibration_config *config) {
    json_t *steps = json_array();
    for (size_t step = 1; step < config->num_steps; step++)
        json_array_append_new(steps, number(config->step_thresholds[step]));
    return steps;
}

static json_t *calibration_json(fb_calibration *c) {
    const fb_calibration_config *config = &c->config;
    json_t *root = json_pack(
        "{s:s, s:i, s:I, s:I, s:I, s:s, s:f, s:o, s:f, s:I}", "format", format_name, "version",
        VERSION, "num_layers", (json_int_t)config->num_layers, "num_heads",
        (json_int_t)config->num_heads, "num_steps", (json_int_t)config->num_steps, "compat",
        config->compat == FB_COMPAT_RELEASED ? "released" : "paper", "similarity_threshold",
        config->similarity_threshold, "similarity_threshold_by_step", thresholds_json(config),
        "lse_threshold", config->lse_threshold, "blocks", (json_int_t)fb_calibration_blocks(c));
    for (table which = SIMILARITY; which < NUM_TABLES; which++)
        json_object_set_new(root, table_names[which], table_json(c, which));
    return root;
}

static fb_status check_complete(const fb_calibration *c) {
    for (size_t i = c->config.num_layers; i < c->config.num_steps * c->config.num_layers; i++)
        if (c->counts[i] == 0)
            return fb_fail(FB_ERROR_ARGUMENT,
                           "the calibration saw no block with a history at step %zu of layer %zu",
                           i / c->config.num_layers, i % c->config.num_layers);
    return FB_OK;
}

fb_status fb_calibration_save(fb_calibration *calibration, const char *path) {
    if (!calibration || !path)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", calibration ? "path" : "calibration");
    FB_TRY(check_complete(calibration));
    json_t *root = calibration_json(calibration);
    char *text = root ? json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(root);
    if (!text)
        return fb_fail(FB_ERROR_MEMORY, "cannot build the JSON text of a calibration");
    size_t size = strlen(text);
    text[size] = '\n'; /* in place of the NUL */
    fb_status status = fb_file_write(path, text, size + 1);
    free(text);
    return status;
}

/* --- reading ---------------------------------------------------------------------------------- */

static fb_status read_thresholds(const json_t *root, const char *where,
                                 fb_calibration_config *config) {
    json_t *steps = NULL;
    FB_TRY(fb_json_get_double(root, where, "similarity_threshold", &config->similarity_threshold));
    FB_TRY(fb_json_get_double(root, where, "lse_threshold", &config->lse_threshold));
    FB_TRY(fb_json_get_array(root, where, "similarity_threshold_by_step", &steps));
    if (json_array_size(steps) != config->num_steps - 1)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: similarity_threshold_by_step has %zu entries, expected %zu", where,
                       json_array_size(steps), config->num_steps - 1);
    for (size_t step = 1; step < config->num_steps; step++) {
        const json_t *own = json_array_get(steps, step - 1);
        if (json_is_number(own))
            config->step_thresholds[step] = json_number_value(own);
        else if (!json_is_null(own))
            return fb_fail(FB_ERROR_FORMAT,
                           "%s: similarity_threshold_by_step[%zu] is neither a number nor null",
                           where, step - 1);
    }
    return FB_OK;
}

static fb_status read_config(const json_t *root, const char *where, fb_calibration_config *config) {
    const char *format = NULL, *compat = NULL;
    size_t version = 0, layers = 0, heads = 0, steps = 0;
    FB_TRY(fb_json_get_string(root, where, "format", &format));
    if (strcmp(format, format_name) != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: format is '%s', expected '%s'", where, format,
                       format_name);
    FB_TRY(fb_json_get_size(root, where, "version", 1, SIZE_MAX / 2, &version));
    if (version != VERSION)
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: version is %zu, this build reads %d", where,
                       version, VERSION);
    FB_TRY(fb_json_get_size(root, where, "num_layers", 1, MAX_LAYERS, &layers));
    FB_TRY(fb_json_get_size(root, where, "num_heads", 1, MAX_HEADS, &heads));
    FB_TRY(fb_json_get_size(root, where, "num_steps", 2, FB_CALIBRATION_MAX_STEPS, &steps));
    fb_calibration_config_init(config);
    config->num_layers = layers;
    config->num_heads = heads;
    config->num_steps = steps;
    FB_TRY(fb_json_get_string(root, where, "compat", &compat));
    if (strcmp(compat, "paper") != 0 && strcmp(compat, "released") != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: compat is '%s', expected paper or released", where,
                       compat);
    config->compat = compat[0] == 'r' ? FB_COMPAT_RELEASED : FB_COMPAT_PAPER;
    return read_thresholds(root, where, config);
}

static fb_status check_number(const char *where, table which, size_t step, size_t layer,
                              size_t head, const json_t *item, double *value) {
    *value = (double)NAN;
    if (which == INTERNAL && json_is_null(item)) /* internal parts were not observed */
        return FB_OK;
    double low = which == LSE_CHANGE || which == REFRESH ? 0.0 : -1.0 - 1e-9;
    double high = which == LSE_CHANGE ? HUGE_VAL : which == REFRESH ? 1.0 : 1.0 + 1e-9;
    if (json_is_number(item))
        *value = json_number_value(item);
    if (!(*value >= low && *value <= high) || (which == REFRESH && !json_is_integer(item)))
        return fb_fail(FB_ERROR_FORMAT, "%s: %s[%zu][%zu][%zu] is out of range", where,
                       table_names[which], step - 1, layer, head);
    return FB_OK;
}

/* Puts the number where it belongs, or checks a decision. */
static fb_status take(fb_calibration *c, const char *where, table which, size_t step, size_t layer,
                      size_t head, double value) {
    size_t row = step * c->config.num_layers + layer;
    fb_head_numbers *numbers = &c->sums[row * c->config.num_heads + head];
    if (which == SIMILARITY)
        numbers->similarity = value;
    else if (which == LSE_CHANGE)
        numbers->lse_change = value;
    else if (which == INTERNAL)
        numbers->internal_similarity = value;
    else if (fb_calibration_refresh(c, layer, step)[head] != (value != 0.0))
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: refresh[%zu][%zu][%zu] is %g, but similarity %g and LSE change %g say "
                       "otherwise",
                       where, step - 1, layer, head, value, numbers->similarity,
                       numbers->lse_change);
    return FB_OK;
}

/* An array of exactly `size` items. */
static fb_status check_array(const char *where, const char *name, const json_t *array, size_t size,
                             const char *of_what) {
    if (!json_is_array(array) || json_array_size(array) != size)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s does not have %zu %s everywhere", where, name, size,
                       of_what);
    return FB_OK;
}

/* A table holds a number for each step, layer and head that the file says there are. */
static fb_status check_table(const json_t *root, const char *where, table which,
                             const fb_calibration_config *config) {
    const char *name = table_names[which];
    json_t *steps = NULL;
    FB_TRY(fb_json_get_array(root, where, name, &steps));
    FB_TRY(check_array(where, name, steps, config->num_steps - 1, "steps"));
    for (size_t step = 1; step < config->num_steps; step++) {
        const json_t *layers = json_array_get(steps, step - 1);
        FB_TRY(check_array(where, name, layers, config->num_layers, "layers"));
        for (size_t layer = 0; layer < config->num_layers; layer++)
            FB_TRY(check_array(where, name, json_array_get(layers, layer), config->num_heads,
                               "heads"));
    }
    return FB_OK;
}

static fb_status read_table(fb_calibration *c, const json_t *root, const char *where, table which) {
    const fb_calibration_config *config = &c->config;
    const json_t *steps = json_object_get(root, table_names[which]);
    for (size_t step = 1; step < config->num_steps; step++) {
        const json_t *layers = json_array_get(steps, step - 1);
        for (size_t layer = 0; layer < config->num_layers; layer++) {
            const json_t *heads = json_array_get(layers, layer);
            for (size_t head = 0; head < config->num_heads; head++) {
                double value = 0.0;
                FB_TRY(check_number(where, which, step, layer, head, json_array_get(heads, head),
                                    &value));
                FB_TRY(take(c, where, which, step, layer, head, value));
            }
        }
    }
    return FB_OK;
}

static fb_status fill(fb_calibration *c, const json_t *root, const char *where) {
    size_t blocks = 0, rows = c->config.num_steps * c->config.num_layers;
    FB_TRY(fb_json_get_size(root, where, "blocks", 1, SIZE_MAX / 2, &blocks));
    for (size_t i = c->config.num_layers; i < rows; i++)
        c->counts[i] = blocks;
    c->means_are_given = true;
    for (table which = SIMILARITY; which < NUM_TABLES; which++) {
        FB_TRY(check_table(root, where, which, &c->config));
        FB_TRY(read_table(c, root, where, which));
    }
    return FB_OK;
}

static fb_status read_root(const json_t *root, const char *where, fb_calibration **calibration) {
    fb_calibration_config config;
    fb_calibration *made = NULL;
    FB_TRY(read_config(root, where, &config));
    FB_TRY(check_table(root, where, SIMILARITY, &config)); /* bounds what is allocated */
    fb_status status = fb_calibration_create(&config, &made);
    if (status != FB_OK)
        return fb_fail_in(status == FB_ERROR_ARGUMENT ? FB_ERROR_FORMAT : status, "%s", where);
    status = fill(made, root, where);
    if (status != FB_OK) {
        fb_calibration_destroy(made);
        return status;
    }
    *calibration = made;
    return FB_OK;
}

fb_status fb_calibration_load(const char *path, fb_calibration **calibration) {
    json_t *root = NULL;
    if (!path || !calibration)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", path ? "calibration" : "path");
    FB_TRY(fb_json_load(path, MAX_FILE, &root));
    fb_status status = read_root(root, path, calibration);
    json_decref(root);
    return status;
}

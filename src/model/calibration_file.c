/* Calibration files: JSON, versioned; see calibration.h. */
#include "base/error.h"
#include "cache/calibration_state.h"
#include "io/fields.h"
#include "io/file.h"
#include "io/json.h"
#include "io/json_write.h"

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

static void put_value(fb_json_writer *w, fb_calibration *c, table which, size_t layer, size_t step,
                      size_t head) {
    switch (which) {
    case SIMILARITY:
        fb_json_put_double(w, NULL, fb_calibration_similarity(c, layer, step, head));
        break;
    case LSE_CHANGE:
        fb_json_put_double(w, NULL, fb_calibration_lse_change(c, layer, step, head));
        break;
    case INTERNAL:
        fb_json_put_double(w, NULL, fb_calibration_internal_similarity(c, layer, step, head));
        break;
    default:
        fb_json_put_size(w, NULL, fb_calibration_refresh(c, layer, step)[head]);
    }
}

/* [num_steps - 1][num_layers][num_heads] */
static void put_table(fb_json_writer *w, fb_calibration *c, table which) {
    fb_json_open_array(w, table_names[which]);
    for (size_t step = 1; step < c->config.num_steps; step++) {
        fb_json_open_array(w, NULL);
        for (size_t layer = 0; layer < c->config.num_layers; layer++) {
            fb_json_open_array(w, NULL);
            for (size_t head = 0; head < c->config.num_heads; head++)
                put_value(w, c, which, layer, step, head);
            fb_json_close_array(w);
        }
        fb_json_close_array(w);
    }
    fb_json_close_array(w);
}

static void put_thresholds(fb_json_writer *w, const fb_calibration_config *config) {
    fb_json_open_array(w, "similarity_threshold_by_step");
    for (size_t step = 1; step < config->num_steps; step++)
        fb_json_put_double(w, NULL, config->step_thresholds[step]);
    fb_json_close_array(w);
}

static fb_status build_text(fb_calibration *c, fb_buffer *text) {
    const fb_calibration_config *config = &c->config;
    fb_json_writer w = fb_json_writer_to(text, FB_JSON_COMPACT);
    fb_json_open_object(&w, NULL);
    fb_json_put_string(&w, "format", format_name);
    fb_json_put_size(&w, "version", VERSION);
    fb_json_put_size(&w, "num_layers", config->num_layers);
    fb_json_put_size(&w, "num_heads", config->num_heads);
    fb_json_put_size(&w, "num_steps", config->num_steps);
    fb_json_put_string(&w, "compat", config->compat == FB_COMPAT_RELEASED ? "released" : "paper");
    fb_json_put_double(&w, "similarity_threshold", config->similarity_threshold);
    put_thresholds(&w, config);
    fb_json_put_double(&w, "lse_threshold", config->lse_threshold);
    fb_json_put_size(&w, "blocks", fb_calibration_blocks(c));
    for (table which = SIMILARITY; which < NUM_TABLES; which++)
        put_table(&w, c, which);
    fb_json_close_object(&w);
    FB_TRY(fb_json_finish(&w));
    return fb_buffer_append_text(text, "\n");
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
    fb_buffer text = {0};
    fb_status status = build_text(calibration, &text);
    if (status == FB_OK)
        status = fb_file_write(path, text.data, text.size);
    fb_buffer_free(&text);
    return status;
}

/* --- reading ---------------------------------------------------------------------------------- */

static fb_status read_thresholds(const fb_json *root, const char *where,
                                 fb_calibration_config *config) {
    const fb_json *steps = NULL;
    FB_TRY(fb_json_get_double(root, where, "similarity_threshold", &config->similarity_threshold));
    FB_TRY(fb_json_get_double(root, where, "lse_threshold", &config->lse_threshold));
    FB_TRY(fb_json_get_array(root, where, "similarity_threshold_by_step", &steps));
    if (fb_json_array_size(steps) != config->num_steps - 1)
        return fb_fail(FB_ERROR_FORMAT,
                       "%s: similarity_threshold_by_step has %zu entries, expected %zu", where,
                       fb_json_array_size(steps), config->num_steps - 1);
    for (size_t step = 1; step < config->num_steps; step++) {
        const fb_json *own = fb_json_array_get(steps, step - 1);
        if (!fb_json_is_null(own))
            FB_TRY(fb_json_double(own, where, "similarity_threshold_by_step",
                                  &config->step_thresholds[step]));
    }
    return FB_OK;
}

static fb_status read_config(const fb_json *root, const char *where,
                             fb_calibration_config *config) {
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
                              size_t head, const fb_json *item, double *value) {
    *value = (double)NAN;
    if (which == INTERNAL && fb_json_is_null(item)) /* internal parts were not observed */
        return FB_OK;
    double low = which == LSE_CHANGE || which == REFRESH ? 0.0 : -1.0 - 1e-9;
    double high = which == LSE_CHANGE ? HUGE_VAL : which == REFRESH ? 1.0 : 1.0 + 1e-9;
    int64_t decision = 0;
    if (fb_json_is_number(item))
        FB_TRY(fb_json_double(item, where, table_names[which], value));
    if (!(*value >= low && *value <= high) ||
        (which == REFRESH && !fb_json_is_int64(item, &decision)))
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
static fb_status check_array(const char *where, const char *name, const fb_json *array, size_t size,
                             const char *of_what) {
    if (!fb_json_is_array(array) || fb_json_array_size(array) != size)
        return fb_fail(FB_ERROR_FORMAT, "%s: %s does not have %zu %s everywhere", where, name, size,
                       of_what);
    return FB_OK;
}

/* A table holds a number for each step, layer and head that the file says there are. */
static fb_status check_table(const fb_json *root, const char *where, table which,
                             const fb_calibration_config *config) {
    const char *name = table_names[which];
    const fb_json *steps = NULL;
    FB_TRY(fb_json_get_array(root, where, name, &steps));
    FB_TRY(check_array(where, name, steps, config->num_steps - 1, "steps"));
    for (size_t step = 1; step < config->num_steps; step++) {
        const fb_json *layers = fb_json_array_get(steps, step - 1);
        FB_TRY(check_array(where, name, layers, config->num_layers, "layers"));
        for (size_t layer = 0; layer < config->num_layers; layer++)
            FB_TRY(check_array(where, name, fb_json_array_get(layers, layer), config->num_heads,
                               "heads"));
    }
    return FB_OK;
}

static fb_status read_table(fb_calibration *c, const fb_json *root, const char *where,
                            table which) {
    const fb_calibration_config *config = &c->config;
    const fb_json *steps = fb_json_object_get(root, table_names[which]);
    for (size_t step = 1; step < config->num_steps; step++) {
        const fb_json *layers = fb_json_array_get(steps, step - 1);
        for (size_t layer = 0; layer < config->num_layers; layer++) {
            const fb_json *heads = fb_json_array_get(layers, layer);
            for (size_t head = 0; head < config->num_heads; head++) {
                double value = 0.0;
                FB_TRY(check_number(where, which, step, layer, head, fb_json_array_get(heads, head),
                                    &value));
                FB_TRY(take(c, where, which, step, layer, head, value));
            }
        }
    }
    return FB_OK;
}

static fb_status fill(fb_calibration *c, const fb_json *root, const char *where) {
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

static const fb_field fields[] = {
    {"format", FB_FIELD_USED, NULL, NULL},
    {"version", FB_FIELD_USED, NULL, NULL},
    {"num_layers", FB_FIELD_USED, NULL, NULL},
    {"num_heads", FB_FIELD_USED, NULL, NULL},
    {"num_steps", FB_FIELD_USED, NULL, NULL},
    {"compat", FB_FIELD_USED, NULL, NULL},
    {"similarity_threshold", FB_FIELD_USED, NULL, NULL},
    {"similarity_threshold_by_step", FB_FIELD_USED, NULL, NULL},
    {"lse_threshold", FB_FIELD_USED, NULL, NULL},
    {"blocks", FB_FIELD_USED, NULL, NULL},
    {"similarity", FB_FIELD_USED, NULL, NULL},
    {"lse_change", FB_FIELD_USED, NULL, NULL},
    {"internal_similarity", FB_FIELD_USED, NULL, NULL},
    {"refresh", FB_FIELD_USED, NULL, NULL},
    {NULL, FB_FIELD_USED, NULL, NULL},
};

static fb_status read_root(const fb_json *root, const char *where, fb_calibration **calibration) {
    fb_calibration_config config;
    fb_calibration *made = NULL;
    FB_TRY(read_config(root, where, &config));
    FB_TRY(fb_fields_check_all(root, where, fields)); /* the version is known: so are its fields */
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
    const fb_json *root = NULL;
    if (!path || !calibration)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", path ? "calibration" : "path");
    FB_TRY(fb_json_load(path, MAX_FILE, &root));
    fb_status status = read_root(root, path, calibration);
    fb_json_free(root);
    return status;
}

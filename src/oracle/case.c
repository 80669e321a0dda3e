#include "oracle/case.h"

#include "base/memory.h"
#include "io/json.h"
#include "oracle/errors.h"

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_NAME = 256, MAX_PATH = 4096 };

/* Something that is freed with the case: memory, a JSON value, another case. */
typedef struct belonging {
    struct belonging *next;
    void *memory;
    const fb_json *json;
    fb_case *beside;
} belonging;

struct fb_case {
    fb_safetensors *file;
    char path[MAX_PATH];
    char name[MAX_NAME];
    const fb_json *params;         /* NULL until first asked for; belongs to the list */
    const fb_field *known;         /* names that params may have; NULL: any */
    const fb_field *known_tensors; /* the same for tensors */
    belonging *belongings;
};

static fb_status keep(fb_case *c, belonging item) {
    belonging *kept = NULL;
    fb_status status = fb_alloc_zeroed(1, sizeof *kept, "case", &kept);
    if (status != FB_OK) {
        fb_free(item.memory);
        fb_json_free(item.json);
        fb_case_close(item.beside);
        return status;
    }
    *kept = item;
    kept->next = c->belongings;
    c->belongings = kept;
    return FB_OK;
}

/* The name: the metadata `case`, or the file's name without folder and ending. */
static void set_name(fb_case *c) {
    const char *given = fb_safetensors_metadata(c->file, "case");
    const char *slash = strrchr(c->path, '/');
    snprintf(c->name, sizeof c->name, "%.*s", MAX_NAME - 1,
             given   ? given
             : slash ? slash + 1
                     : c->path);
    char *ending = given ? NULL : strstr(c->name, ".safetensors");
    if (ending)
        *ending = '\0';
}

fb_status fb_case_open(const char *path, fb_case **opened) {
    fb_case *c = NULL;
    if (strlen(path) >= MAX_PATH)
        return fb_fail(FB_ERROR_ARGUMENT, "a path has %zu characters, at most %d are supported",
                       strlen(path), MAX_PATH - 1);
    FB_TRY(fb_alloc_zeroed(1, sizeof *c, "case", &c));
    snprintf(c->path, sizeof c->path, "%s", path);
    fb_status status = fb_safetensors_open(path, &c->file);
    if (status != FB_OK) {
        fb_free(c);
        return status;
    }
    set_name(c);
    *opened = c;
    return FB_OK;
}

void fb_case_close(fb_case *c) {
    if (!c)
        return;
    while (c->belongings) {
        belonging *item = c->belongings;
        c->belongings = item->next;
        fb_free(item->memory);
        fb_json_free(item->json);
        fb_case_close(item->beside);
        fb_free(item);
    }
    fb_safetensors_close(c->file);
    fb_free(c);
}

const char *fb_case_path(const fb_case *c) {
    return c->path;
}

const char *fb_case_kind(const fb_case *c) {
    const char *kind = fb_safetensors_metadata(c->file, "kind");
    return kind ? kind : "";
}

const char *fb_case_name(const fb_case *c) {
    return c->name;
}

const fb_safetensors *fb_case_file(const fb_case *c) {
    return c->file;
}

const char *fb_case_text(const fb_case *c, const char *key) {
    return fb_safetensors_metadata(c->file, key);
}

fb_status fb_case_json(fb_case *c, const char *key, const fb_json **value) {
    const char *text = fb_case_text(c, key);
    if (!text)
        return fb_fail(FB_ERROR_FORMAT, "%s: the metadata have no %s", c->path, key);
    const fb_json *parsed = NULL;
    fb_status status = fb_json_parse_value(text, strlen(text), key, &parsed);
    if (status != FB_OK)
        return fb_fail_in(status, "%s: metadata", c->path);
    FB_TRY(keep(c, (belonging){.json = parsed}));
    *value = parsed;
    return FB_OK;
}

static fb_status get_params(fb_case *c) {
    if (!c->params)
        FB_TRY(fb_case_json(c, "params", &c->params));
    if (!fb_json_is_object(c->params))
        return fb_fail(FB_ERROR_FORMAT, "%s: metadata params: expected an object", c->path);
    return FB_OK;
}

/* A kind reads only what its table names; otherwise the table would call a good name unknown. */
static fb_status find_param(fb_case *c, const char *key) {
    if (c->known && !fb_fields_find(c->known, key))
        return fb_fail(FB_ERROR_ARGUMENT, "%s: %s is not in the table of the kind's params",
                       c->path, key);
    return get_params(c);
}

fb_status fb_case_check_params(fb_case *c, const fb_field *table) {
    c->known = table;
    if (!fb_case_text(c, "params"))
        return FB_OK;
    FB_TRY(get_params(c));
    char where[MAX_PATH + 16];
    snprintf(where, sizeof where, "%s: params", c->path);
    return fb_fields_check_all(c->params, where, table);
}

static bool is_digit(char x) {
    return x >= '0' && x <= '9';
}

/* Whether a tensor has a name of the table: NN is two digits, N a whole number. */
static bool has_pattern(const char *name, const char *pattern) {
    for (; *pattern; pattern++) {
        size_t digits = 0;
        if (*pattern != 'N' && *pattern != *name++)
            return false;
        if (*pattern != 'N')
            continue;
        bool two = pattern[1] == 'N';
        while (is_digit(name[digits]) && !(two && digits == 2))
            digits++;
        if (digits == 0 || (two && digits != 2))
            return false;
        name += digits;
        pattern += two;
    }
    return *name == '\0';
}

static bool is_known_tensor(const fb_field *table, const char *name) {
    for (const fb_field *field = table; field->name; field++)
        if (has_pattern(name, field->name))
            return true;
    return false;
}

fb_status fb_case_check_tensors(fb_case *c, const fb_field *table) {
    c->known_tensors = table;
    for (size_t i = 0; i < fb_safetensors_count(c->file); i++) {
        const char *name = fb_safetensors_at(c->file, i)->name;
        if (is_known_tensor(table, name))
            continue;
        const char *nearest = fb_fields_nearest(table, name);
        return fb_fail(FB_ERROR_FORMAT, "%s: tensor '%.60s' is not known%s%s%s", c->path, name,
                       nearest ? "; did you mean '" : "", nearest ? nearest : "",
                       nearest ? "'?" : "");
    }
    return FB_OK;
}

fb_status fb_case_size(fb_case *c, const char *key, size_t min, size_t max, size_t *value) {
    FB_TRY(find_param(c, key));
    return fb_json_get_size(c->params, c->path, key, min, max, value);
}

fb_status fb_case_size_or(fb_case *c, const char *key, size_t min, size_t max, size_t otherwise,
                          size_t *value) {
    FB_TRY(find_param(c, key));
    return fb_json_get_size_or(c->params, c->path, key, min, max, otherwise, value);
}

fb_status fb_case_expect_size(fb_case *c, const char *key, size_t expected) {
    size_t value = 0;
    return fb_case_size_or(c, key, expected, expected, expected, &value);
}

fb_status fb_case_real(fb_case *c, const char *key, double *value) {
    FB_TRY(find_param(c, key));
    return fb_json_get_double(c->params, c->path, key, value);
}

fb_status fb_case_positive(fb_case *c, const char *key, double *value) {
    double number = 0.0;
    FB_TRY(fb_case_real(c, key, &number));
    if (!(number <= (double)FLT_MAX && (float)number > 0.0f))
        return fb_fail(FB_ERROR_FORMAT, "%s: %s is %g, expected a positive float32", c->path, key,
                       number);
    *value = number;
    return FB_OK;
}

fb_status fb_case_real_or(fb_case *c, const char *key, double otherwise, double *value) {
    FB_TRY(find_param(c, key));
    return fb_json_get_double_or(c->params, c->path, key, otherwise, value);
}

fb_status fb_case_expect_scale(fb_case *c, const char *key, size_t head_dim) {
    double expected = 1.0 / sqrt((double)head_dim), scale = 0.0;
    FB_TRY(fb_case_real_or(c, key, expected, &scale));
    if (!(fabs(scale - expected) <= 1e-6 * expected))
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s: %s is %g, expected 1/sqrt(head_dim), %g", c->path,
                       key, scale, expected);
    return FB_OK;
}

fb_status fb_case_bool(fb_case *c, const char *key, bool *value) {
    FB_TRY(find_param(c, key));
    return fb_json_get_bool(c->params, c->path, key, value);
}

fb_status fb_case_bool_or(fb_case *c, const char *key, bool otherwise, bool *value) {
    FB_TRY(find_param(c, key));
    return fb_json_get_bool_or(c->params, c->path, key, otherwise, value);
}

fb_status fb_case_string(fb_case *c, const char *key, const char **value) {
    FB_TRY(find_param(c, key));
    return fb_json_get_string(c->params, c->path, key, value);
}

fb_status fb_case_param_or_null(fb_case *c, const char *key, const fb_json **value) {
    FB_TRY(find_param(c, key));
    *value = fb_json_object_get(c->params, key);
    return FB_OK;
}

fb_status fb_case_param(fb_case *c, const char *key, const fb_json **value) {
    FB_TRY(fb_case_param_or_null(c, key, value));
    if (!*value)
        return fb_fail(FB_ERROR_FORMAT, "%s: params have no %s", c->path, key);
    return FB_OK;
}

fb_status fb_case_array(fb_case *c, const char *key, const fb_json **value) {
    FB_TRY(find_param(c, key));
    return fb_json_get_array(c->params, c->path, key, value);
}

#define FORMAT_NAME(name, format)                                                                  \
    char name[MAX_NAME];                                                                           \
    do {                                                                                           \
        va_list arguments_;                                                                        \
        va_start(arguments_, format);                                                              \
        vsnprintf(name, sizeof name, format, arguments_);                                          \
        va_end(arguments_);                                                                        \
    } while (0)

bool fb_case_has(const fb_case *c, const char *format, ...) {
    FORMAT_NAME(name, format);
    return fb_safetensors_find(c->file, name) != NULL;
}

static fb_status find(fb_case *c, const char *name, const fb_dims *shape,
                      const fb_tensor_view **tensor) {
    if (c->known_tensors && !is_known_tensor(c->known_tensors, name))
        return fb_fail(FB_ERROR_ARGUMENT, "%s: %s is not in the table of the kind's tensors",
                       c->path, name);
    FB_TRY(fb_safetensors_get(c->file, name, tensor));
    fb_status status = fb_tensor_check_shape(*tensor, shape->ndim, shape->sizes);
    return status == FB_OK ? FB_OK : fb_fail_in(status, "%s", c->path);
}

fb_status fb_case_tensor(fb_case *c, const fb_tensor_view **tensor, fb_dims shape,
                         const char *format, ...) {
    FORMAT_NAME(name, format);
    return find(c, name, &shape, tensor);
}

fb_status fb_case_check_truth(const fb_case *c, const double *stated, const double *truth,
                              size_t count, const char *name) {
    return fb_errors_check_truth(stated, truth, count, c->path, name);
}

fb_dtype fb_tensor_precision(const fb_tensor_view *tensor) {
    return tensor && tensor->dtype == FB_TENSOR_BF16  ? FB_BF16
           : tensor && tensor->dtype == FB_TENSOR_F16 ? FB_F16
                                                      : FB_F32;
}

fb_dtype fb_case_precision(const fb_case *c, const char *name) {
    return fb_tensor_precision(fb_safetensors_find(c->file, name));
}

fb_status fb_case_alloc(fb_case *c, size_t count, size_t size, void *result) {
    void *memory = NULL;
    FB_TRY(fb_alloc_zeroed(count, size, fb_case_name(c), &memory));
    FB_TRY(keep(c, (belonging){.memory = memory}));
    memcpy(result, &memory, sizeof memory);
    return FB_OK;
}

fb_status fb_case_f32(fb_case *c, const float **values, fb_dims shape, const char *format, ...) {
    FORMAT_NAME(name, format);
    const fb_tensor_view *tensor = NULL;
    FB_TRY(find(c, name, &shape, &tensor));
    float *copy = NULL;
    FB_TRY(fb_case_alloc(c, tensor->count, sizeof *copy, &copy));
    FB_TRY(fb_tensor_read_f32(tensor, 0, tensor->count, copy));
    *values = copy;
    return FB_OK;
}

fb_status fb_case_f64(fb_case *c, const double **values, fb_dims shape, const char *format, ...) {
    FORMAT_NAME(name, format);
    const fb_tensor_view *tensor = NULL;
    FB_TRY(find(c, name, &shape, &tensor));
    double *copy = NULL;
    FB_TRY(fb_case_alloc(c, tensor->count, sizeof *copy, &copy));
    FB_TRY(fb_tensor_read_f64(tensor, 0, tensor->count, copy));
    *values = copy;
    return FB_OK;
}

fb_status fb_case_i32(fb_case *c, const int32_t **values, fb_dims shape, const char *format, ...) {
    FORMAT_NAME(name, format);
    const fb_tensor_view *tensor = NULL;
    FB_TRY(find(c, name, &shape, &tensor));
    int32_t *copy = NULL;
    FB_TRY(fb_case_alloc(c, tensor->count, sizeof *copy, &copy));
    FB_TRY(fb_tensor_read_i32(tensor, 0, tensor->count, copy));
    *values = copy;
    return FB_OK;
}

fb_status fb_case_open_beside(fb_case *c, const char *name, fb_case **opened) {
    if (strchr(name, '/') || strcmp(name, "..") == 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: '%s' is not a plain file name", c->path, name);
    const char *slash = strrchr(c->path, '/');
    int folder = slash ? (int)(slash - c->path) + 1 : 0;
    char path[MAX_PATH + MAX_NAME];
    snprintf(path, sizeof path, "%.*s%s", folder, c->path, name);
    fb_case *beside = NULL;
    FB_TRY(fb_case_open(path, &beside));
    FB_TRY(keep(c, (belonging){.beside = beside}));
    *opened = beside;
    return FB_OK;
}

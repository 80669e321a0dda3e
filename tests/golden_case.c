#include "tests/golden_case.h"

#include "base/memory.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAME = 256, MAX_PATH = 4096 };

/* Memory that was handed out and belongs to the case: arrays, or parsed JSON. */
typedef struct owned {
    struct owned *next;
    void *array;
    const fb_json *json;
} owned;

struct golden_case {
    char name[MAX_NAME];
    fb_safetensors *file;
    const fb_json *params; /* NULL until it is asked for */
    owned *first;
};

static void keep(golden_case *c, void *array, const fb_json *json) {
    owned *item = NULL;
    cr_assert_eq(fb_alloc_zeroed(1, sizeof *item, "golden case", &item), FB_OK);
    *item = (owned){c->first, array, json};
    c->first = item;
}

const char *golden_source_path(const char *name) {
    static char path[MAX_PATH];
    const char *root = getenv("FLASHBLOCK_SOURCE_ROOT");
    snprintf(path, sizeof path, "%s/%s", root ? root : ".", name);
    return path;
}

const char *golden_folder(void) {
    const char *folder = getenv("FLASHBLOCK_GOLDEN_PAPER");
    return folder ? folder : golden_source_path("golden/paper");
}

golden_case *golden_open(const char *name) {
    golden_case *c = NULL;
    cr_assert_eq(fb_alloc_zeroed(1, sizeof *c, "golden case", &c), FB_OK);
    snprintf(c->name, sizeof c->name, "%s", name);
    char path[MAX_PATH + MAX_NAME];
    snprintf(path, sizeof path, "%s/%s", golden_folder(), name);
    fb_status status = fb_safetensors_open(path, &c->file);
    cr_assert_eq(status, FB_OK, "%s", fb_error_message());
    return c;
}

void golden_close(golden_case *c) {
    while (c->first) {
        owned *item = c->first;
        c->first = item->next;
        fb_free(item->array);
        fb_json_free(item->json);
        fb_free(item);
    }
    fb_safetensors_close(c->file);
    fb_free(c);
}

const char *golden_name(const golden_case *c) {
    return c->name;
}

#define FORMAT_NAME(name, format)                                                                  \
    char name[MAX_NAME];                                                                           \
    do {                                                                                           \
        va_list arguments_;                                                                        \
        va_start(arguments_, format);                                                              \
        vsnprintf(name, sizeof name, format, arguments_);                                          \
        va_end(arguments_);                                                                        \
    } while (0)

static const fb_tensor_view *find(const golden_case *c, const char *name) {
    const fb_tensor_view *tensor = fb_safetensors_find(c->file, name);
    cr_assert_not_null(tensor, "%s: no tensor %s", c->name, name);
    return tensor;
}

bool golden_has(const golden_case *c, const char *format, ...) {
    FORMAT_NAME(name, format);
    return fb_safetensors_find(c->file, name) != NULL;
}

const fb_tensor_view *golden_tensor(const golden_case *c, const char *format, ...) {
    FORMAT_NAME(name, format);
    return find(c, name);
}

#define DEFINE_READER(function, type, read)                                                        \
    const type *function(golden_case *c, const char *format, ...) {                                \
        FORMAT_NAME(name, format);                                                                 \
        const fb_tensor_view *tensor = find(c, name);                                              \
        type *values = NULL;                                                                       \
        cr_assert_eq(fb_alloc(tensor->count, sizeof *values, name, &values), FB_OK);               \
        keep(c, values, NULL);                                                                     \
        cr_assert_eq(read(tensor, 0, tensor->count, values), FB_OK, "%s: %s", c->name,             \
                     fb_error_message());                                                          \
        return values;                                                                             \
    }

DEFINE_READER(golden_f32, float, fb_tensor_read_f32)
DEFINE_READER(golden_f64, double, fb_tensor_read_f64)
DEFINE_READER(golden_i32, int32_t, fb_tensor_read_i32)

const char *golden_text(const golden_case *c, const char *key) {
    const char *text = fb_safetensors_metadata(c->file, key);
    cr_assert_not_null(text, "%s: no metadata %s", c->name, key);
    return text;
}

const fb_json *golden_json(golden_case *c, const char *key) {
    const char *text = golden_text(c, key);
    const fb_json *value = NULL;
    cr_assert_eq(fb_json_parse_value(text, strlen(text), c->name, &value), FB_OK, "%s",
                 fb_error_message());
    keep(c, NULL, value);
    return value;
}

const fb_json *golden_param(golden_case *c, const char *key) {
    if (!c->params)
        c->params = golden_json(c, "params");
    const fb_json *value = fb_json_object_get(c->params, key);
    cr_assert_not_null(value, "%s: no parameter %s", c->name, key);
    return value;
}

size_t golden_size(golden_case *c, const char *key) {
    const fb_json *value = golden_param(c, key);
    size_t size = 0;
    cr_assert_eq(fb_json_size(value, c->name, key, 0, SIZE_MAX, &size), FB_OK, "%s",
                 fb_error_message());
    return size;
}

double golden_real(golden_case *c, const char *key) {
    const fb_json *value = golden_param(c, key);
    double number = 0.0;
    cr_assert_eq(fb_json_double(value, c->name, key, &number), FB_OK, "%s", fb_error_message());
    return number;
}

double golden_expect_close(const char *what, const float *got, const float *want, size_t count,
                           double tolerance) {
    double largest = 0.0;
    for (size_t i = 0; i < count; i++) {
        double difference = fabs((double)got[i] - (double)want[i]);
        cr_assert(difference <= tolerance,
                  "%s: element %zu of %zu is %.9g, expected %.9g within %g", what, i, count,
                  (double)got[i], (double)want[i], tolerance);
        largest = difference > largest ? difference : largest;
    }
    return largest;
}

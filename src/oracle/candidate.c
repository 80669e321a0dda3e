#include "oracle/candidate.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/npy.h"
#include "oracle/plain.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A tensor, and whether it was asked for. */
typedef struct entry {
    fb_tensor_view tensor;
    bool used;
    void *copy; /* of the tensor's data, and after it its name; NULL: a file's */
} entry;

struct fb_candidate {
    fb_safetensors *file; /* at most one of these two */
    fb_npy *array;
    char array_name[96];
    char *path; /* NULL: no file */
    entry *entries;
    size_t count, capacity;
    bool has_precision; /* it was set */
    fb_dtype precision; /* that, or the coarsest of the tensors */
    fb_arithmetic arithmetic;
};

static bool ends_with(const char *text, const char *ending) {
    size_t length = strlen(text), tail = strlen(ending);
    return length >= tail && strcmp(text + length - tail, ending) == 0;
}

static fb_dtype coarser(fb_dtype a, fb_dtype b) {
    return fb_plain_roundoff(a) > fb_plain_roundoff(b) ? a : b;
}

static fb_status reserve_one(fb_candidate *candidate) {
    if (candidate->count < candidate->capacity)
        return FB_OK;
    size_t capacity = candidate->capacity ? 2 * candidate->capacity : 8;
    entry *grown = NULL;
    FB_TRY(fb_alloc(capacity, sizeof *grown, "candidate's tensors", &grown));
    if (candidate->count)
        memcpy(grown, candidate->entries, candidate->count * sizeof *grown);
    fb_free(candidate->entries);
    candidate->entries = grown;
    candidate->capacity = capacity;
    return FB_OK;
}

/* Takes added.copy also if it fails. */
static fb_status append(fb_candidate *candidate, entry added) {
    fb_status status = reserve_one(candidate);
    if (status != FB_OK) {
        fb_free(added.copy);
        return status;
    }
    candidate->entries[candidate->count++] = added;
    if (!candidate->has_precision)
        candidate->precision = coarser(candidate->precision, fb_tensor_precision(&added.tensor));
    return FB_OK;
}

/* "results/lse.npy" is the tensor lse. */
static fb_status open_array(fb_candidate *candidate, const char *path) {
    const char *slash = strrchr(path, '/');
    const char *stem = slash ? slash + 1 : path;
    FB_TRY(fb_npy_open(path, &candidate->array));
    snprintf(candidate->array_name, sizeof candidate->array_name, "%.*s",
             (int)(strlen(stem) - strlen(".npy")), stem);
    entry only = {.tensor = *fb_npy_tensor(candidate->array)};
    only.tensor.name = candidate->array_name;
    return append(candidate, only);
}

static fb_status open_file(fb_candidate *candidate, const char *path) {
    size_t size = strlen(path) + 1;
    FB_TRY(fb_alloc(size, 1, "candidate", &candidate->path));
    memcpy(candidate->path, path, size);
    if (ends_with(path, ".npy"))
        return open_array(candidate, path);
    FB_TRY(fb_safetensors_open(path, &candidate->file));
    for (size_t i = 0; i < fb_safetensors_count(candidate->file); i++)
        FB_TRY(append(candidate, (entry){.tensor = *fb_safetensors_at(candidate->file, i)}));
    return FB_OK;
}

fb_status fb_candidate_create(fb_candidate **candidate) {
    return fb_alloc_zeroed(1, sizeof **candidate, "candidate", candidate);
}

fb_status fb_candidate_open(const char *path, fb_candidate **candidate) {
    fb_candidate *opened = NULL;
    FB_TRY(fb_candidate_create(&opened));
    fb_status status = open_file(opened, path);
    if (status != FB_OK) {
        fb_candidate_close(opened);
        return status;
    }
    *candidate = opened;
    return FB_OK;
}

void fb_candidate_close(fb_candidate *candidate) {
    if (!candidate)
        return;
    for (size_t i = 0; i < candidate->count; i++)
        fb_free(candidate->entries[i].copy);
    fb_free(candidate->entries);
    fb_safetensors_close(candidate->file);
    fb_npy_close(candidate->array);
    fb_free(candidate->path);
    fb_free(candidate);
}

static fb_tensor_dtype stored_as(fb_dtype dtype) {
    return dtype == FB_BF16  ? FB_TENSOR_BF16
           : dtype == FB_F16 ? FB_TENSOR_F16
           : dtype == FB_F32 ? FB_TENSOR_F32
                             : FB_TENSOR_OTHER;
}

fb_status fb_candidate_add(fb_candidate *candidate, const char *name, fb_dtype dtype, size_t ndim,
                           const size_t *shape, const void *data) {
    entry added = {.tensor = {.dtype = stored_as(dtype), .ndim = ndim, .data = data}};
    fb_tensor_view *tensor = &added.tensor;
    size_t name_size = strlen(name) + 1;
    if (tensor->dtype == FB_TENSOR_OTHER || ndim > FB_TENSOR_MAX_DIMS)
        return fb_fail(FB_ERROR_ARGUMENT, "tensor %s: dtype %d, %zu dimensions (at most %d)", name,
                       (int)dtype, ndim, FB_TENSOR_MAX_DIMS);
    for (size_t i = 0; i < candidate->count; i++)
        if (strcmp(candidate->entries[i].tensor.name, name) == 0)
            return fb_fail(FB_ERROR_ARGUMENT, "the candidate has a tensor %s already", name);
    if (ndim)
        memcpy(tensor->shape, shape, ndim * sizeof *shape);
    FB_TRY(fb_tensor_sizes(tensor->dtype, ndim, shape, &tensor->count, &tensor->bytes));
    size_t size = 0;
    if (!fb_size_add(tensor->bytes, name_size, &size))
        return fb_fail(FB_ERROR_MEMORY, "tensor %s is too large", name);
    FB_TRY(fb_alloc(size, 1, name, &added.copy));
    char *kept_name = (char *)added.copy + tensor->bytes;
    if (tensor->bytes)
        memcpy(added.copy, data, tensor->bytes);
    memcpy(kept_name, name, name_size);
    tensor->data = added.copy;
    tensor->name = kept_name;
    return append(candidate, added);
}

static bool all_held(fb_dtype precision, const float *values, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float value = values[i];
        fb_plain_round(precision, &value, 1);
        if (value != values[i] && !isnan(values[i]))
            return false;
    }
    return true;
}

fb_status fb_candidate_of_values(const char *name, fb_dtype precision, const fb_dims *shape,
                                 const float *values, fb_candidate **candidate) {
    size_t count = fb_dims_count(shape);
    fb_dtype stored = all_held(precision, values, count) ? precision : FB_F32;
    void *data = NULL;
    fb_candidate *made = NULL;
    FB_TRY(fb_alloc(count, fb_dtype_size(stored), name, &data));
    fb_status status = count ? fb_from_f32(stored, values, data, count) : FB_OK;
    if (status == FB_OK)
        status = fb_candidate_create(&made);
    if (status == FB_OK)
        status = fb_candidate_add(made, name, stored, shape->ndim, shape->sizes, data);
    fb_free(data);
    if (status != FB_OK) {
        fb_candidate_close(made);
        return status;
    }
    fb_candidate_set_precision(made, precision);
    *candidate = made;
    return FB_OK;
}

void fb_candidate_set_precision(fb_candidate *candidate, fb_dtype precision) {
    candidate->precision = precision;
    candidate->has_precision = true;
    candidate->arithmetic = precision == FB_BF16  ? FB_ARITHMETIC_BF16
                            : precision == FB_F16 ? FB_ARITHMETIC_F16
                                                  : FB_ARITHMETIC_F32;
}

void fb_candidate_set_arithmetic(fb_candidate *candidate, fb_arithmetic arithmetic) {
    bool half = arithmetic == FB_ARITHMETIC_BF16 || arithmetic == FB_ARITHMETIC_FP8;
    if (arithmetic != FB_ARITHMETIC_AUTO)
        fb_candidate_set_precision(candidate, half                              ? FB_BF16
                                              : arithmetic == FB_ARITHMETIC_F16 ? FB_F16
                                                                                : FB_F32);
    candidate->arithmetic = arithmetic;
}

fb_arithmetic fb_candidate_arithmetic(const fb_candidate *candidate) {
    return candidate->arithmetic;
}

void fb_candidate_match(fb_candidate *candidate, const fb_case *c) {
    if (candidate->array && !fb_case_has(c, "%s", candidate->array_name))
        snprintf(candidate->array_name, sizeof candidate->array_name, "out");
}

const fb_tensor_view *fb_candidate_find(fb_candidate *candidate, const char *tensor) {
    for (size_t i = 0; i < candidate->count; i++) {
        entry *found = &candidate->entries[i];
        if (strcmp(found->tensor.name, tensor) == 0) {
            found->used = true;
            return &found->tensor;
        }
    }
    return NULL;
}

const char *fb_candidate_path(const fb_candidate *candidate) {
    return candidate->path;
}

size_t fb_candidate_count(const fb_candidate *candidate) {
    return candidate->count;
}

const fb_tensor_view *fb_candidate_at(const fb_candidate *candidate, size_t index) {
    return &candidate->entries[index].tensor;
}

const char *fb_candidate_unused(const fb_candidate *candidate, size_t index) {
    const entry *asked = &candidate->entries[index];
    return asked->used ? NULL : asked->tensor.name;
}

fb_dtype fb_candidate_precision(const fb_candidate *candidate, const fb_tensor_view *tensor,
                                bool is_lse) {
    return candidate->has_precision || is_lse ? candidate->precision : fb_tensor_precision(tensor);
}

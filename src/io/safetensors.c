#include "io/safetensors.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/file_kind.h"
#include "io/json.h"

#include <stdlib.h>
#include <string.h>

enum { LENGTH_BYTES = 8, MAX_HEADER = 100000000 };

static const char metadata_key[] = "__metadata__";

struct fb_safetensors {
    char *name;
    fb_file_map map;         /* empty when the bytes are the caller's */
    const fb_json *header;   /* owns the names that the views borrow */
    fb_tensor_view *tensors; /* sorted by name */
    size_t count;
};

/* The bytes of the tensors. */
typedef struct data_region {
    const unsigned char *start;
    size_t size;
} data_region;

static fb_status read_length(const unsigned char *bytes, size_t size, size_t *length) {
    if (size < LENGTH_BYTES)
        return fb_fail(FB_ERROR_FORMAT, "%zu bytes are too few for a header length", size);
    uint64_t stated = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        stated = stated << 8 | bytes[i];
    if (stated == 0 || stated > MAX_HEADER)
        return fb_fail(FB_ERROR_FORMAT, "header length is %llu, not in [1, %d]",
                       (unsigned long long)stated, MAX_HEADER);
    if (stated > size - LENGTH_BYTES)
        return fb_fail(FB_ERROR_FORMAT,
                       "header length is %llu, but only %zu bytes follow: the file is cut short, "
                       "or no safetensors file",
                       (unsigned long long)stated, size - LENGTH_BYTES);
    if (bytes[LENGTH_BYTES] != '{')
        return fb_fail(FB_ERROR_FORMAT, "header begins with byte 0x%02x, not with '{'",
                       bytes[LENGTH_BYTES]);
    *length = (size_t)stated;
    return FB_OK;
}

/* Where the header is. Of a file that is something else the message says what. */
static fb_status find_header(const unsigned char *bytes, size_t size, size_t *length) {
    fb_status status = read_length(bytes, size, length);
    if (status != FB_OK)
        FB_TRY(fb_file_kind_check(bytes, size, "a safetensors file"));
    return status;
}

/* null is no metadata: the format's own reader takes it so. */
static fb_status check_metadata(const fb_json *metadata) {
    if (fb_json_is_null(metadata))
        return FB_OK;
    if (!fb_json_is_object(metadata))
        return fb_fail(FB_ERROR_FORMAT, "%s is not an object", metadata_key);
    for (size_t i = 0; i < fb_json_object_size(metadata); i++)
        if (!fb_json_is_string(fb_json_object_at(metadata, i)))
            return fb_fail(FB_ERROR_FORMAT, "%s: %s is not a string", metadata_key,
                           fb_json_object_key(metadata, i));
    return FB_OK;
}

static fb_status read_shape(const fb_json *entry, fb_tensor_view *tensor) {
    const fb_json *shape = NULL;
    FB_TRY(fb_json_get_array(entry, "header", "shape", &shape));
    tensor->ndim = fb_json_array_size(shape);
    if (tensor->ndim > FB_TENSOR_MAX_DIMS)
        return fb_fail(FB_ERROR_UNSUPPORTED, "shape has %zu dimensions, above %d", tensor->ndim,
                       FB_TENSOR_MAX_DIMS);
    for (size_t i = 0; i < tensor->ndim; i++)
        FB_TRY(fb_json_exact_size(fb_json_array_get(shape, i), "header", "shape", 0, SIZE_MAX,
                                  &tensor->shape[i]));
    return FB_OK;
}

static fb_status read_offsets(const fb_json *entry, data_region region, fb_tensor_view *tensor) {
    const fb_json *offsets = NULL;
    FB_TRY(fb_json_get_array(entry, "header", "data_offsets", &offsets));
    if (fb_json_array_size(offsets) != 2)
        return fb_fail(FB_ERROR_FORMAT, "data_offsets has %zu values, not 2",
                       fb_json_array_size(offsets));
    size_t begin = 0, end = 0;
    FB_TRY(fb_json_exact_size(fb_json_array_get(offsets, 0), "header", "data_offsets", 0, SIZE_MAX,
                              &begin));
    FB_TRY(fb_json_exact_size(fb_json_array_get(offsets, 1), "header", "data_offsets", 0, SIZE_MAX,
                              &end));
    if (begin > end)
        return fb_fail(FB_ERROR_FORMAT, "data_offsets is [%zu, %zu], which ends before it begins",
                       begin, end);
    if (end > region.size)
        return fb_fail(FB_ERROR_FORMAT,
                       "data_offsets is [%zu, %zu], but the file has %zu bytes of data: it is cut "
                       "short, or its header is wrong",
                       begin, end, region.size);
    tensor->data = region.start + begin;
    tensor->bytes = end - begin;
    return FB_OK;
}

static fb_status read_entry(const fb_json *entry, data_region region, fb_tensor_view *tensor) {
    if (!fb_json_is_object(entry))
        return fb_fail(FB_ERROR_FORMAT, "its header entry is not an object");
    FB_TRY(fb_json_get_string(entry, "header", "dtype", &tensor->dtype_name));
    tensor->dtype = fb_tensor_dtype_parse(tensor->dtype_name);
    FB_TRY(read_shape(entry, tensor));
    FB_TRY(read_offsets(entry, region, tensor));
    size_t bytes = 0;
    FB_TRY(fb_tensor_sizes(tensor->dtype, tensor->ndim, tensor->shape, &tensor->count, &bytes));
    if (tensor->dtype != FB_TENSOR_OTHER && bytes != tensor->bytes)
        return fb_fail(FB_ERROR_FORMAT, "%zu elements of %s are %zu bytes, but its offsets say %zu",
                       tensor->count, tensor->dtype_name, bytes, tensor->bytes);
    return FB_OK;
}

static int compare_places(const void *left, const void *right) {
    const fb_tensor_view *a = left, *b = right;
    const unsigned char *a_data = a->data, *b_data = b->data;
    if (a_data != b_data)
        return a_data < b_data ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

static int compare_names(const void *left, const void *right) {
    const fb_tensor_view *a = left, *b = right;
    return strcmp(a->name, b->name);
}

/* Sorts the tensors by offset and checks that each begins where the previous one ends, and that the
 * last one ends at the end of the file. No byte is hidden, and none is used twice. */
static fb_status check_places(fb_tensor_view *tensors, size_t count, data_region region) {
    size_t covered = 0;
    if (count > 0)
        qsort(tensors, count, sizeof *tensors, compare_places);
    for (size_t i = 0; i < count; i++) {
        size_t begin = (size_t)((const unsigned char *)tensors[i].data - region.start);
        if (begin != covered)
            return fb_fail(FB_ERROR_FORMAT, "tensor %s begins at byte %zu, %s byte %zu",
                           tensors[i].name, begin,
                           begin > covered ? "leaving a hole from" : "inside one that ends at",
                           covered);
        covered += tensors[i].bytes;
    }
    if (covered != region.size)
        return fb_fail(FB_ERROR_FORMAT, "%zu bytes of data, of which tensors cover %zu",
                       region.size, covered);
    return FB_OK;
}

static fb_status read_tensors(fb_safetensors *file, data_region region) {
    FB_TRY(fb_alloc_zeroed(fb_json_object_size(file->header), sizeof *file->tensors, "tensor list",
                           &file->tensors));
    for (size_t i = 0; i < fb_json_object_size(file->header); i++) {
        const char *key = fb_json_object_key(file->header, i);
        const fb_json *value = fb_json_object_at(file->header, i);
        if (strcmp(key, metadata_key) == 0) {
            FB_TRY(check_metadata(value));
            continue;
        }
        fb_tensor_view *tensor = &file->tensors[file->count++];
        tensor->name = key;
        fb_status status = read_entry(value, region, tensor);
        if (status != FB_OK)
            return fb_fail_in(status, "tensor %s", key);
    }
    FB_TRY(check_places(file->tensors, file->count, region));
    if (file->count > 0)
        qsort(file->tensors, file->count, sizeof *file->tensors, compare_names);
    return FB_OK;
}

static fb_status parse_into(fb_safetensors *file, const unsigned char *bytes, size_t size) {
    size_t length = 0;
    FB_TRY(find_header(bytes, size, &length));
    FB_TRY(fb_json_parse((const char *)bytes + LENGTH_BYTES, length, "header", &file->header));
    size_t start = LENGTH_BYTES + length;
    return read_tensors(file, (data_region){bytes + start, size - start});
}

fb_status fb_safetensors_parse(const void *data, size_t size, const char *name,
                               fb_safetensors **file) {
    fb_safetensors *made = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "safetensors file", &made));
    fb_status status = fb_path_join("", name, &made->name);
    if (status == FB_OK) {
        status = parse_into(made, data, size);
        if (status != FB_OK)
            fb_fail_in(status, "%s", name);
    }
    if (status != FB_OK) {
        fb_safetensors_close(made);
        return status;
    }
    *file = made;
    return FB_OK;
}

/* Takes the map, after a failure too. */
static fb_status parse_map(fb_file_map *map, const char *path, fb_safetensors **file) {
    fb_safetensors *made = NULL;
    fb_status status = fb_safetensors_parse(map->data, map->size, path, &made);
    if (status != FB_OK) {
        fb_file_map_close(map);
        return status;
    }
    made->map = *map;
    *file = made;
    return FB_OK;
}

fb_status fb_safetensors_open(const char *path, fb_safetensors **file) {
    fb_file_map map = {0};
    FB_TRY(fb_file_map_open(path, &map));
    return parse_map(&map, path, file);
}

fb_status fb_safetensors_read(const char *path, fb_safetensors **file) {
    fb_file_map map = {0};
    FB_TRY(fb_file_map_by_reading(path, &map));
    return parse_map(&map, path, file);
}

void fb_safetensors_release(const fb_safetensors *file, const void *data, size_t bytes) {
    fb_file_map_release(&file->map, data, bytes);
}

void fb_safetensors_close(fb_safetensors *file) {
    if (!file)
        return;
    fb_file_map_close(&file->map);
    fb_json_free(file->header);
    fb_free(file->tensors);
    fb_free(file->name);
    fb_free(file);
}

size_t fb_safetensors_count(const fb_safetensors *file) {
    return file->count;
}

const fb_tensor_view *fb_safetensors_at(const fb_safetensors *file, size_t index) {
    return &file->tensors[index];
}

const fb_tensor_view *fb_safetensors_find(const fb_safetensors *file, const char *name) {
    if (file->count == 0)
        return NULL;
    fb_tensor_view wanted = {.name = name};
    return bsearch(&wanted, file->tensors, file->count, sizeof wanted, compare_names);
}

fb_status fb_safetensors_get(const fb_safetensors *file, const char *name,
                             const fb_tensor_view **tensor) {
    const fb_tensor_view *found = fb_safetensors_find(file, name);
    if (!found)
        return fb_fail(FB_ERROR_FORMAT, "%s: no tensor called %s", file->name, name);
    *tensor = found;
    return FB_OK;
}

const char *fb_safetensors_metadata(const fb_safetensors *file, const char *key) {
    return fb_json_string(fb_json_object_get(fb_json_object_get(file->header, metadata_key), key));
}

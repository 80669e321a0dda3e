#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"

#include <stdlib.h>
#include <string.h>

static fb_status add_metadata(json_t *header, const fb_metadata_entry *entries, size_t count) {
    if (count == 0)
        return FB_OK;
    json_t *metadata = json_object();
    if (json_object_set_new(header, "__metadata__", metadata) != 0)
        return fb_fail(FB_ERROR_MEMORY, "metadata: cannot allocate");
    for (size_t i = 0; i < count; i++) {
        if (json_object_get(metadata, entries[i].key))
            return fb_fail(FB_ERROR_ARGUMENT, "metadata key %s is given twice", entries[i].key);
        if (json_object_set_new(metadata, entries[i].key, json_string(entries[i].value)) != 0)
            return fb_fail(FB_ERROR_ARGUMENT, "metadata %s: not UTF-8 text", entries[i].key);
    }
    return FB_OK;
}

/* Appends a size or an offset. JSON integers end at 2^63 - 1 here. */
static fb_status append_size(json_t *array, size_t value) {
    if (value > INT64_MAX || json_array_append_new(array, json_integer((json_int_t)value)) != 0)
        return fb_fail(FB_ERROR_ARGUMENT, "%zu does not fit the header", value);
    return FB_OK;
}

/* The tensor begins at *offset, which is advanced past its end. */
static fb_status add_tensor(json_t *header, const fb_tensor_view *tensor, size_t *offset) {
    if (tensor->dtype <= FB_TENSOR_OTHER || tensor->dtype >= FB_TENSOR_DTYPE_COUNT ||
        tensor->ndim > FB_TENSOR_MAX_DIMS)
        return fb_fail(FB_ERROR_ARGUMENT, "dtype is %d, ndim is %zu", (int)tensor->dtype,
                       tensor->ndim);
    if (strcmp(tensor->name, "__metadata__") == 0 || json_object_get(header, tensor->name))
        return fb_fail(FB_ERROR_ARGUMENT, "the name is taken");
    size_t count = 0, bytes = 0, end = 0;
    if (fb_tensor_sizes(tensor->dtype, tensor->ndim, tensor->shape, &count, &bytes) != FB_OK)
        return FB_ERROR_ARGUMENT; /* the caller gave the shape, not a file */
    if (!fb_size_add(*offset, bytes, &end))
        return fb_fail(FB_ERROR_ARGUMENT, "the file's size does not fit size_t");
    json_t *shape = json_array(), *offsets = json_array();
    json_t *entry = json_pack("{s:s, s:o, s:o}", "dtype", fb_tensor_dtype_name(tensor->dtype),
                              "shape", shape, "data_offsets", offsets);
    if (json_object_set_new(header, tensor->name, entry) != 0)
        return fb_fail(FB_ERROR_ARGUMENT, "the name is not UTF-8 text");
    for (size_t i = 0; i < tensor->ndim; i++)
        FB_TRY(append_size(shape, tensor->shape[i]));
    FB_TRY(append_size(offsets, *offset));
    FB_TRY(append_size(offsets, end));
    *offset = end;
    return FB_OK;
}

static fb_status build_header(const fb_tensor_view *tensors, size_t num_tensors,
                              const fb_metadata_entry *metadata, size_t num_metadata, char **text) {
    json_t *header = json_object();
    fb_status status = add_metadata(header, metadata, num_metadata);
    size_t offset = 0;
    for (size_t i = 0; status == FB_OK && i < num_tensors; i++) {
        status = add_tensor(header, &tensors[i], &offset);
        if (status != FB_OK)
            fb_fail_in(status, "tensor %s", tensors[i].name);
    }
    if (status == FB_OK) {
        *text = json_dumps(header, JSON_COMPACT);
        if (!*text)
            status = fb_fail(FB_ERROR_MEMORY, "header: cannot allocate");
    }
    json_decref(header);
    return status;
}

static fb_status write_header(fb_file_writer *writer, const char *text) {
    static const char spaces[] = "       ";
    size_t length = strlen(text), padding = (8 - length % 8) % 8;
    unsigned char prefix[8];
    for (size_t i = 0; i < sizeof prefix; i++)
        prefix[i] = (unsigned char)((uint64_t)(length + padding) >> (8 * i));
    FB_TRY(fb_file_writer_put(writer, prefix, sizeof prefix));
    FB_TRY(fb_file_writer_put(writer, text, length));
    return fb_file_writer_put(writer, spaces, padding);
}

static fb_status write_data(fb_file_writer *writer, const fb_tensor_view *tensors, size_t count) {
    for (size_t i = 0; i < count; i++) {
        size_t elements = 0, bytes = 0;
        FB_TRY(fb_tensor_sizes(tensors[i].dtype, tensors[i].ndim, tensors[i].shape, &elements,
                               &bytes));
        FB_TRY(fb_file_writer_put(writer, tensors[i].data, bytes));
    }
    return FB_OK;
}

fb_status fb_safetensors_write(const char *path, const fb_tensor_view *tensors, size_t num_tensors,
                               const fb_metadata_entry *metadata, size_t num_metadata) {
    char *text = NULL;
    fb_status status = build_header(tensors, num_tensors, metadata, num_metadata, &text);
    if (status != FB_OK)
        return fb_fail_in(status, "%s", path);
    fb_file_writer *writer = NULL;
    status = fb_file_writer_open(path, &writer);
    if (status == FB_OK)
        status = write_header(writer, text);
    if (status == FB_OK)
        status = write_data(writer, tensors, num_tensors);
    free(text); /* allocated by jansson */
    if (status != FB_OK) {
        fb_file_writer_abandon(writer);
        return status;
    }
    return fb_file_writer_commit(writer);
}

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/json_write.h"
#include "io/safetensors.h"

#include <stdlib.h>
#include <string.h>

static const char metadata_key[] = "__metadata__";

static fb_status check_metadata(const fb_metadata_entry *entries, size_t count) {
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < i; j++)
            if (strcmp(entries[i].key, entries[j].key) == 0)
                return fb_fail(FB_ERROR_ARGUMENT, "metadata key %s is given twice", entries[i].key);
    return FB_OK;
}

static int compare_names(const void *left, const void *right) {
    const char *const *a = left, *const *b = right;
    return strcmp(*a, *b);
}

static fb_status check_names(const fb_tensor_view *tensors, size_t count) {
    const char **names = NULL;
    fb_status status = FB_OK;
    FB_TRY(fb_alloc(count + 1, sizeof *names, "tensor names", &names));
    for (size_t i = 0; i < count; i++)
        names[i] = tensors[i].name;
    names[count] = metadata_key;
    qsort(names, count + 1, sizeof *names, compare_names);
    for (size_t i = 0; status == FB_OK && i < count; i++)
        if (strcmp(names[i], names[i + 1]) == 0)
            status = fb_fail(FB_ERROR_ARGUMENT, "tensor %s: the name is taken", names[i]);
    fb_free(names);
    return status;
}

static void put_metadata(fb_json_writer *w, const fb_metadata_entry *entries, size_t count) {
    if (count == 0)
        return;
    fb_json_open_object(w, metadata_key);
    for (size_t i = 0; i < count; i++)
        fb_json_put_string(w, entries[i].key, entries[i].value);
    fb_json_close_object(w);
}

/* The tensor begins at *offset, which is advanced past its end. */
static fb_status put_tensor(fb_json_writer *w, const fb_tensor_view *tensor, size_t *offset) {
    size_t count = 0, bytes = 0, end = 0;
    if (tensor->dtype <= FB_TENSOR_OTHER || tensor->dtype >= FB_TENSOR_DTYPE_COUNT ||
        tensor->ndim > FB_TENSOR_MAX_DIMS)
        return fb_fail(FB_ERROR_ARGUMENT, "dtype is %d, ndim is %zu", (int)tensor->dtype,
                       tensor->ndim);
    if (fb_tensor_sizes(tensor->dtype, tensor->ndim, tensor->shape, &count, &bytes) != FB_OK)
        return FB_ERROR_ARGUMENT; /* the caller gave the shape, not a file */
    if (!fb_size_add(*offset, bytes, &end))
        return fb_fail(FB_ERROR_ARGUMENT, "the file's size does not fit size_t");
    fb_json_open_object(w, tensor->name);
    fb_json_put_string(w, "dtype", fb_tensor_dtype_name(tensor->dtype));
    fb_json_open_array(w, "shape");
    for (size_t i = 0; i < tensor->ndim; i++)
        fb_json_put_size(w, NULL, tensor->shape[i]);
    fb_json_close_array(w);
    fb_json_open_array(w, "data_offsets");
    fb_json_put_size(w, NULL, *offset);
    fb_json_put_size(w, NULL, end);
    fb_json_close_array(w);
    fb_json_close_object(w);
    *offset = end;
    return fb_json_finish(w);
}

static fb_status build_header(const fb_tensor_view *tensors, size_t num_tensors,
                              const fb_metadata_entry *metadata, size_t num_metadata,
                              fb_buffer *text) {
    fb_json_writer w = fb_json_writer_to(text, FB_JSON_COMPACT);
    size_t offset = 0;
    FB_TRY(check_metadata(metadata, num_metadata));
    FB_TRY(check_names(tensors, num_tensors));
    fb_json_open_object(&w, NULL);
    put_metadata(&w, metadata, num_metadata);
    if (fb_json_finish(&w) != FB_OK)
        return fb_fail_in(fb_json_finish(&w), "metadata");
    for (size_t i = 0; i < num_tensors; i++) {
        fb_status status = put_tensor(&w, &tensors[i], &offset);
        if (status != FB_OK)
            return fb_fail_in(status, "tensor %s", tensors[i].name);
    }
    fb_json_close_object(&w);
    return fb_json_finish(&w);
}

fb_status fb_safetensors_header(const fb_tensor_view *tensors, size_t num_tensors,
                                const fb_metadata_entry *metadata, size_t num_metadata,
                                size_t alignment, fb_buffer *header) {
    fb_buffer text = {0};
    fb_status status = build_header(tensors, num_tensors, metadata, num_metadata, &text);
    unsigned char prefix[8];
    size_t length = text.size;
    length += (alignment - (sizeof prefix + length) % alignment) % alignment;
    for (size_t i = 0; i < sizeof prefix; i++)
        prefix[i] = (unsigned char)((uint64_t)length >> (8 * i));
    if (status == FB_OK)
        status = fb_buffer_append(header, prefix, sizeof prefix);
    if (status == FB_OK)
        status = fb_buffer_append(header, text.data, text.size);
    for (size_t i = text.size; status == FB_OK && i < length; i++)
        status = fb_buffer_append(header, " ", 1);
    fb_buffer_free(&text);
    return status;
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
    fb_buffer text = {0};
    fb_status status =
        fb_safetensors_header(tensors, num_tensors, metadata, num_metadata, 8, &text);
    if (status != FB_OK) {
        fb_buffer_free(&text);
        return fb_fail_in(status, "%s", path);
    }
    fb_file_writer *writer = NULL;
    status = fb_file_writer_open(path, &writer);
    if (status == FB_OK)
        status = fb_file_writer_put(writer, text.data, text.size);
    if (status == FB_OK)
        status = write_data(writer, tensors, num_tensors);
    fb_buffer_free(&text);
    if (status != FB_OK) {
        fb_file_writer_abandon(writer);
        return status;
    }
    return fb_file_writer_commit(writer);
}

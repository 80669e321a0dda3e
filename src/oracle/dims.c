#include "oracle/dims.h"

#include <stdio.h>

size_t fb_dims_count(const fb_dims *dims) {
    size_t count = 1;
    for (size_t i = 0; i < dims->ndim; i++)
        count *= dims->sizes[i];
    return count;
}

void fb_dims_index(const fb_dims *dims, size_t flat, char *text, size_t size) {
    size_t indices[FB_TENSOR_MAX_DIMS], used = 0;
    for (size_t i = dims->ndim; i-- > 0;) {
        indices[i] = flat % dims->sizes[i];
        flat /= dims->sizes[i];
    }
    if (size)
        text[0] = '\0';
    for (size_t i = 0; i < dims->ndim && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%zu", i ? "," : "", indices[i]);
}

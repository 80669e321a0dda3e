#include "io/stacked_tensors.h"

#include <stdio.h>
#include <string.h>

enum { MAX_EXPERTS = 4096, MIN_ELEMENTS = 16, MAX_DIGITS = 4 /* of an expert's number */ };

static const char experts[] = ".experts.";

/* The matrices of an expert that lie in one tensor, one after the other. */
typedef struct stack {
    const char *ending; /* of the tensor's name */
    const char *matrices[2];
    size_t count;
} stack;

static const stack stacks[] = {
    {".experts.gate_up_proj", {"gate_proj", "up_proj"}, 2},
    {".experts.gate_proj", {"gate_proj"}, 1},
    {".experts.up_proj", {"up_proj"}, 1},
    {".experts.down_proj", {"down_proj"}, 1},
};

static const stack *stack_of(const fb_tensor_view *tensor) {
    size_t length = strlen(tensor->name);
    for (size_t i = 0; i < sizeof stacks / sizeof stacks[0]; i++) {
        size_t size = strlen(stacks[i].ending);
        if (length > size && strcmp(tensor->name + length - size, stacks[i].ending) == 0)
            return &stacks[i];
    }
    return NULL;
}

size_t fb_stacked_count(const fb_tensor_view *tensor) {
    const stack *found = stack_of(tensor);
    if (!found || tensor->ndim != 3 || tensor->count == 0 || tensor->shape[0] > MAX_EXPERTS ||
        tensor->shape[1] % found->count != 0 || tensor->count / tensor->shape[0] < MIN_ELEMENTS)
        return 0;
    return tensor->shape[0] * found->count;
}

size_t fb_stacked_name_size(const fb_tensor_view *tensor) {
    return strlen(tensor->name) + MAX_DIGITS + sizeof "..weight";
}

/* PREFIX.experts.N.MATRIX.weight */
static void put_name(const fb_tensor_view *tensor, const stack *found, size_t expert,
                     const char *matrix, char *name) {
    size_t prefix = strlen(tensor->name) - strlen(found->ending);
    snprintf(name, fb_stacked_name_size(tensor), "%.*s%s%zu.%s.weight", (int)prefix, tensor->name,
             experts, expert, matrix);
}

void fb_stacked_split(const fb_tensor_view *tensor, fb_tensor_view *views, char *names) {
    const stack *found = stack_of(tensor);
    size_t count = fb_stacked_count(tensor), name_size = fb_stacked_name_size(tensor);
    for (size_t i = 0; i < count; i++) {
        fb_tensor_view *view = &views[i];
        char *name = names + i * name_size;
        put_name(tensor, found, i / found->count, found->matrices[i % found->count], name);
        *view = *tensor;
        view->name = name;
        view->ndim = 2;
        view->shape[0] = tensor->shape[1] / found->count;
        view->shape[1] = tensor->shape[2];
        view->count = tensor->count / count;
        view->bytes = tensor->bytes / count;
        view->data = (const char *)tensor->data + i * view->bytes;
    }
}

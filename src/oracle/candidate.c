#include "oracle/candidate.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/npy.h"
#include "oracle/plain.h"

#include <stdio.h>
#include <string.h>

struct fb_candidate {
    fb_safetensors *file; /* or */
    fb_npy *array;
    char array_name[96];
    size_t count;
    bool *used;         /* [count] */
    bool has_precision; /* it was set */
    fb_dtype precision; /* that, or the coarsest of the tensors */
};

static bool ends_with(const char *text, const char *ending) {
    size_t length = strlen(text), tail = strlen(ending);
    return length >= tail && strcmp(text + length - tail, ending) == 0;
}

/* "results/lse.npy" is the tensor lse. */
static void name_array(fb_candidate *candidate, const char *path) {
    const char *slash = strrchr(path, '/');
    const char *stem = slash ? slash + 1 : path;
    snprintf(candidate->array_name, sizeof candidate->array_name, "%.*s",
             (int)(strlen(stem) - strlen(".npy")), stem);
}

static const fb_tensor_view *tensor_at(const fb_candidate *candidate, size_t index) {
    return candidate->file ? fb_safetensors_at(candidate->file, index)
                           : fb_npy_tensor(candidate->array);
}

static fb_dtype coarser(fb_dtype a, fb_dtype b) {
    return fb_plain_roundoff(a) > fb_plain_roundoff(b) ? a : b;
}

static fb_status open_file(fb_candidate *candidate, const char *path) {
    if (ends_with(path, ".npy")) {
        FB_TRY(fb_npy_open(path, &candidate->array));
        name_array(candidate, path);
        candidate->count = 1;
    } else {
        FB_TRY(fb_safetensors_open(path, &candidate->file));
        candidate->count = fb_safetensors_count(candidate->file);
    }
    for (size_t i = 0; i < candidate->count; i++)
        candidate->precision =
            coarser(candidate->precision, fb_tensor_precision(tensor_at(candidate, i)));
    return fb_alloc_zeroed(candidate->count, sizeof *candidate->used, "candidate",
                           &candidate->used);
}

fb_status fb_candidate_open(const char *path, fb_candidate **candidate) {
    fb_candidate *opened = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *opened, "candidate", &opened));
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
    fb_safetensors_close(candidate->file);
    fb_npy_close(candidate->array);
    fb_free(candidate->used);
    fb_free(candidate);
}

void fb_candidate_set_precision(fb_candidate *candidate, fb_dtype precision) {
    candidate->precision = precision;
    candidate->has_precision = true;
}

void fb_candidate_match(fb_candidate *candidate, const fb_case *c) {
    if (candidate->array && !fb_case_has(c, "%s", candidate->array_name))
        snprintf(candidate->array_name, sizeof candidate->array_name, "out");
}

const fb_tensor_view *fb_candidate_find(fb_candidate *candidate, const char *tensor) {
    for (size_t i = 0; i < candidate->count; i++) {
        const fb_tensor_view *found = tensor_at(candidate, i);
        if (strcmp(candidate->file ? found->name : candidate->array_name, tensor) == 0) {
            candidate->used[i] = true;
            return found;
        }
    }
    return NULL;
}

size_t fb_candidate_count(const fb_candidate *candidate) {
    return candidate->count;
}

const char *fb_candidate_unused(const fb_candidate *candidate, size_t index) {
    if (candidate->used[index])
        return NULL;
    return candidate->file ? tensor_at(candidate, index)->name : candidate->array_name;
}

fb_dtype fb_candidate_precision(const fb_candidate *candidate, const fb_tensor_view *tensor,
                                bool is_lse) {
    return candidate->has_precision || is_lse ? candidate->precision : fb_tensor_precision(tensor);
}

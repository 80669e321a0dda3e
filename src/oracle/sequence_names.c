#include "oracle/sequence_names.h"

#include "base/error.h"
#include "base/memory.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* An input of the script: the name after "stepNN.", or the whole name. */
typedef struct input {
    const char *name;
    const float *values;
    size_t count;
} input;

/* "step12.q" is "q" of pass 12. NULL: not such a name. */
static const char *name_in_pass(const char *tensor, size_t *pass) {
    static const char prefix[] = "step";
    if (strncmp(tensor, prefix, sizeof prefix - 1) != 0)
        return NULL;
    const char *digits = tensor + sizeof prefix - 1;
    char *end = NULL;
    if (!isdigit((unsigned char)*digits))
        return NULL;
    unsigned long number = strtoul(digits, &end, 10);
    *pass = (size_t)number;
    return *end == '.' ? end + 1 : NULL;
}

/* Whether the tensor holds these values, each of them rounded to the tensor's type. */
static fb_status same_values(const fb_tensor_view *tensor, const input *in, bool *same) {
    fb_dtype dtype = fb_tensor_precision(tensor);
    float *theirs = NULL;
    void *rounded = NULL;
    *same = tensor->count == in->count;
    if (!*same || in->count == 0)
        return FB_OK;
    FB_TRY(fb_alloc(in->count, 2 * sizeof *theirs, tensor->name, &theirs));
    float *ours = theirs + in->count;
    fb_status status = fb_alloc(in->count, fb_dtype_size(dtype), tensor->name, &rounded);
    if (status == FB_OK)
        status = fb_tensor_read_f32(tensor, 0, in->count, theirs);
    if (status == FB_OK)
        status = fb_from_f32(dtype, in->values, rounded, in->count);
    if (status == FB_OK)
        status = fb_to_f32(dtype, rounded, ours, in->count);
    for (size_t i = 0; i < in->count && status == FB_OK; i++)
        *same = *same && (theirs[i] == ours[i] || (isnan(theirs[i]) && isnan(ours[i])));
    fb_free(rounded);
    fb_free(theirs);
    return status;
}

static fb_status check_input(const fb_tensor_view *tensor, const char *name, const input *inputs,
                             size_t count) {
    for (size_t i = 0; i < count; i++) {
        bool same = false;
        if (strcmp(name, inputs[i].name) != 0)
            continue;
        FB_TRY(same_values(tensor, &inputs[i], &same));
        if (!same)
            return fb_fail(
                FB_ERROR_ARGUMENT,
                "the candidate's %s is an input, no result, and it has other values than "
                "the sequence gives: were the results computed from other inputs?",
                tensor->name);
    }
    return FB_OK;
}

static fb_status check_in_pass(const fb_tensor_view *tensor, const char *name,
                               const fb_script_pass *pass, const fb_script *s) {
    const input inputs[] = {
        {"q", pass->q, fb_script_values(s)},
        {"k", pass->k, fb_script_kv_values(s)},
        {"v", pass->v, fb_script_kv_values(s)},
    };
    return check_input(tensor, name, inputs, sizeof inputs / sizeof *inputs);
}

static fb_status check_context(const fb_tensor_view *tensor, const fb_script *s) {
    const fb_script_config *c = &s->config;
    size_t count = c->context_length * c->num_kv_heads * c->head_dim;
    const input inputs[] = {
        {"k_context", s->k_context, count},
        {"v_context", s->v_context, count},
    };
    return check_input(tensor, tensor->name, inputs, sizeof inputs / sizeof *inputs);
}

fb_status fb_check_sequence_names(const fb_candidate *candidate, const fb_script *s) {
    for (size_t i = 0; i < fb_candidate_count(candidate); i++) {
        const fb_tensor_view *tensor = fb_candidate_at(candidate, i);
        size_t pass = 0;
        const char *name = name_in_pass(tensor->name, &pass);
        if (!name)
            FB_TRY(check_context(tensor, s));
        else if (pass >= s->num_passes)
            return fb_fail(FB_ERROR_ARGUMENT,
                           "the candidate has %s, but the sequence has %zu passes: step00 to "
                           "step%02zu",
                           tensor->name, s->num_passes, s->num_passes - 1);
        else
            FB_TRY(check_in_pass(tensor, name, &s->passes[pass], s));
    }
    return FB_OK;
}

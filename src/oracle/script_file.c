/* The case file of a denoising sequence; its tensors are listed in script.h. */
#include "base/error.h"
#include "base/memory.h"
#include "io/safetensors.h"
#include "oracle/script.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_NAME = 32, PER_PASS = 11, PER_FILE = 5 };

/* The tensors so far, and what was allocated for them. */
typedef struct tensor_list {
    size_t count;
    fb_tensor_view *views;
    char (*names)[MAX_NAME];
    void **converted; /* [capacity] storage of a tensor that had to be converted, or NULL */
} tensor_list;

static fb_status list_create(tensor_list *list, size_t capacity) {
    FB_TRY(fb_alloc_zeroed(capacity, sizeof *list->views, "tensors", &list->views));
    FB_TRY(fb_alloc_zeroed(capacity, sizeof *list->names, "tensors", &list->names));
    return fb_alloc_zeroed(capacity, sizeof *list->converted, "tensors", &list->converted);
}

static void list_free(tensor_list *list) {
    for (size_t i = 0; i < list->count; i++)
        fb_free(list->converted[i]);
    fb_free(list->views);
    fb_free(list->names);
    fb_free(list->converted);
}

/* pass < 0: the tensor is called `name`; otherwise stepNN.name. A size of 0 ends the shape, except
 * the first. */
static void add(tensor_list *list, int pass, const char *name, fb_tensor_dtype dtype,
                const void *data, size_t a, size_t b, size_t c) {
    fb_tensor_view *view = &list->views[list->count];
    char *text = list->names[list->count++];
    if (pass < 0)
        snprintf(text, MAX_NAME, "%s", name);
    else
        snprintf(text, MAX_NAME, "step%02d.%s", pass, name);
    *view = (fb_tensor_view){.name = text, .dtype = dtype, .shape = {a, b, c}, .data = data};
    view->ndim = b == 0 ? 1 : c == 0 ? 2 : 3;
}

/* A tensor of keys or values, narrowed to the storage type, which holds them exactly. */
static fb_status add_kv(tensor_list *list, const fb_script_config *c, int pass, const char *name,
                        const float *values, size_t tokens) {
    static const fb_tensor_dtype dtypes[] = {FB_TENSOR_F32, FB_TENSOR_BF16, FB_TENSOR_F16};
    size_t count = tokens * c->num_kv_heads * c->head_dim;
    const void *data = values;
    if (c->dtype != FB_F32) {
        void **stored = &list->converted[list->count];
        FB_TRY(fb_alloc(count, fb_dtype_size(c->dtype), name, stored));
        FB_TRY(fb_from_f32(c->dtype, values, *stored, count));
        data = *stored;
    }
    add(list, pass, name, dtypes[c->dtype], data, tokens, c->num_kv_heads, c->head_dim);
    return FB_OK;
}

static fb_status add_pass(tensor_list *list, const fb_script *s, int index) {
    const fb_script_config *c = &s->config;
    const fb_script_pass *pass = &s->passes[index];
    size_t rows = c->block_size, heads = c->num_heads, dim = c->head_dim;
    add(list, index, "q", FB_TENSOR_F32, pass->q, rows, heads, dim);
    FB_TRY(add_kv(list, c, index, "k", pass->k, rows));
    FB_TRY(add_kv(list, c, index, "v", pass->v, rows));
    add(list, index, "out", FB_TENSOR_F32, pass->out, rows, heads, dim);
    add(list, index, "lse", FB_TENSOR_F32, pass->lse, rows, heads, 0);
    add(list, index, "out64", FB_TENSOR_F64, pass->true_out, rows, heads, dim);
    add(list, index, "lse64", FB_TENSOR_F64, pass->true_lse, rows, heads, 0);
    if (!fb_script_stores(pass))
        return FB_OK;
    add(list, index, "external_out", FB_TENSOR_F32, pass->external_out, rows, heads, dim);
    add(list, index, "external_lse", FB_TENSOR_F32, pass->external_lse, rows, heads, 0);
    add(list, index, "external_out64", FB_TENSOR_F64, pass->true_external_out, rows, heads, dim);
    add(list, index, "external_lse64", FB_TENSOR_F64, pass->true_external_lse, rows, heads, 0);
    return FB_OK;
}

/* accepted, action, dirty of all passes. Their data lie in `converted`. */
static fb_status add_decisions(tensor_list *list, const fb_script *s) {
    size_t passes = s->num_passes, tokens = s->config.block_size;
    uint8_t *accepted = NULL;
    int32_t *action = NULL, *dirty = NULL;
    FB_TRY(fb_alloc(passes * tokens, 1, "accepted", &accepted));
    list->converted[list->count] = accepted;
    add(list, -1, "accepted", FB_TENSOR_BOOL, accepted, passes, tokens, 0);
    FB_TRY(fb_alloc(passes, sizeof *action, "action", &action));
    list->converted[list->count] = action;
    add(list, -1, "action", FB_TENSOR_I32, action, passes, 0, 0);
    FB_TRY(fb_alloc(passes, sizeof *dirty, "dirty", &dirty));
    list->converted[list->count] = dirty;
    add(list, -1, "dirty", FB_TENSOR_I32, dirty, passes, 0, 0);
    for (size_t i = 0; i < passes; i++) {
        action[i] = s->passes[i].action;
        dirty[i] = s->passes[i].dirty;
        for (size_t token = 0; token < tokens; token++)
            accepted[i * tokens + token] = s->passes[i].accepted[token] != 0;
    }
    return FB_OK;
}

/* Tensors of wide elements come first, so that every tensor is aligned in the file. */
static fb_status sort(tensor_list *list) {
    fb_tensor_view *sorted = NULL;
    size_t used = 0;
    FB_TRY(fb_alloc(list->count, sizeof *sorted, "tensors", &sorted));
    for (size_t size = sizeof(double); size > 0; size /= 2)
        for (size_t i = 0; i < list->count; i++)
            if (fb_tensor_dtype_size(list->views[i].dtype) == size)
                sorted[used++] = list->views[i];
    fb_free(list->views);
    list->views = sorted;
    return FB_OK;
}

static fb_status add_all(tensor_list *list, const fb_script *s) {
    const fb_script_config *c = &s->config;
    for (size_t i = 0; i < s->num_passes; i++)
        FB_TRY(add_pass(list, s, (int)i));
    FB_TRY(add_kv(list, c, -1, "k_context", s->k_context, c->context_length));
    FB_TRY(add_kv(list, c, -1, "v_context", s->v_context, c->context_length));
    FB_TRY(add_decisions(list, s));
    return sort(list);
}

/* --- metadata --------------------------------------------------------------------------------- */

static const char layout[] =
    "{\"k_context, v_context\": \"[context_length, num_kv_heads, head_dim]\","
    " \"accepted\": \"[steps + 1, block_size]\", \"action, dirty\": \"[steps + 1]\","
    " \"stepNN.q, out, external_out\": \"[block_size, num_heads, head_dim]\","
    " \"stepNN.k, v\": \"[block_size, num_kv_heads, head_dim]\","
    " \"stepNN.lse, external_lse\": \"[block_size, num_heads]\"}";

static const char notes[] =
    "One block, one layer. Query head h reads KV head h / (num_heads / num_kv_heads). LSE is the "
    "natural logarithm of the sum of exponentials of scaled scores. action: 0 refresh and store "
    "the external part, 1 refresh, 2 reuse the part stored last. The last pass is the commit. "
    "*64 are float64 truths; they are made of correctly rounded operations alone, so that they "
    "are the same on every machine.";

static const char rows_notes[] =
    "As in other denoising sequences, but: action 3 computes the external part of the rows whose "
    "token was accepted since they were computed, and takes the others' from the cache. Where "
    "params say correction, a row q whose part was computed for q0 is merged with the LSE "
    "L(q0) + scale (q - q0) . k, k being the mean key under the softmax of q0; external_lse is "
    "L(q0).";

void fb_script_put_params(const fb_script_config *c, fb_json_writer *w) {
    fb_json_put_string(w, "preset", c->preset);
    fb_json_put_size(w, "num_heads", c->num_heads);
    fb_json_put_size(w, "num_kv_heads", c->num_kv_heads);
    fb_json_put_size(w, "head_dim", c->head_dim);
    fb_json_put_size(w, "block_size", c->block_size);
    fb_json_put_size(w, "context_length", c->context_length);
    fb_json_put_size(w, "tau", c->tau);
    fb_json_put_size(w, "steps", c->steps);
    fb_json_put_string(w, "dtype", fb_dtype_name(c->dtype));
    fb_json_put_double(w, "softmax_scale", c->scale);
    if (c->rows)
        fb_json_put_bool(w, "rows", true);
    if (c->correction)
        fb_json_put_bool(w, "correction", true);
}

/* Text that ends with a NUL. */
static fb_status build_params(const fb_script_config *c, fb_buffer *text) {
    fb_json_writer w = fb_json_writer_to(text, FB_JSON_COMPACT);
    fb_json_open_object(&w, NULL);
    fb_script_put_params(c, &w);
    fb_json_close_object(&w);
    FB_TRY(fb_json_finish(&w));
    return fb_buffer_terminate(text);
}

/* params: as JSON */
static fb_status write_list(const fb_script *s, const tensor_list *list, const char *params,
                            const char *path) {
    const fb_script_config *c = &s->config;
    char name[160], seed[32];
    snprintf(name, sizeof name, "%s_c%zu_b%zu_%s%stau%zu_steps%zu_%s_seed%llu", c->preset,
             c->context_length, c->block_size, c->rows ? "rows_" : "",
             c->correction ? "corrected_" : "", c->tau, c->steps, fb_dtype_name(c->dtype),
             (unsigned long long)c->seed);
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)c->seed);
    const fb_metadata_entry metadata[] = {
        {"kind", "denoising_sequence"},
        {"case", name},
        {"seed", seed},
        {"produced_by", FB_SCRIPT_PRODUCER},
        {"params", params},
        {"layout", layout},
        {"notes", c->rows || c->correction ? rows_notes : notes},
    };
    return fb_safetensors_write(path, list->views, list->count, metadata,
                                sizeof metadata / sizeof metadata[0]);
}

fb_status fb_script_write(const fb_script *s, const char *path) {
    tensor_list list = {0};
    fb_buffer params = {0};
    fb_status status = list_create(&list, s->num_passes * PER_PASS + PER_FILE);
    if (status == FB_OK)
        status = add_all(&list, s);
    if (status == FB_OK)
        status = build_params(&s->config, &params);
    if (status == FB_OK)
        status = write_list(s, &list, (const char *)params.data, path);
    fb_buffer_free(&params);
    list_free(&list);
    return status;
}

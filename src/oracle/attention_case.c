#include "oracle/attention_case.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/safetensors.h"
#include "oracle/inputs.h"
#include "oracle/plain.h"
#include "oracle/script.h"
#include "oracle/truth.h"

#include <stdio.h>
#include <string.h>

enum { NUM_TENSORS = 7 };

/* q, k, v, out, lse and the truths, each with memory of its own. */
typedef struct contents {
    fb_attention_problem p;
    float *inputs[3];
    void *stored[3]; /* the inputs in a type of 16 bits, or NULL */
    float *out, *lse;
    double *true_out, *true_lse;
} contents;

static void contents_free(contents *c) {
    for (size_t i = 0; i < 3; i++) {
        fb_free(c->inputs[i]);
        fb_free(c->stored[i]);
    }
    fb_free(c->out);
    fb_free(c->lse);
    fb_free(c->true_out);
    fb_free(c->true_lse);
}

/* Whether the tensors' sizes can be multiplied. */
static fb_status check(const fb_attention_problem *p) {
    size_t values = 0;
    if (!fb_size_mul(p->batch, p->queries > p->keys ? p->queries : p->keys, &values) ||
        !fb_size_mul(values, p->heads * p->head_dim, &values))
        return fb_fail(FB_ERROR_ARGUMENT, "the tensors are too large");
    return FB_OK;
}

/* Numbers that `dtype` holds, also those of keys that nobody sees. */
static fb_status make_input(const fb_attention_case *made, const char *name, size_t count,
                            float **values, void **stored) {
    FB_TRY(fb_alloc(count, sizeof **values, name, values));
    fb_input_normals(made->seed, name, 1.0f, *values, count);
    fb_plain_round(made->dtype, *values, count);
    if (made->dtype == FB_F32)
        return FB_OK;
    FB_TRY(fb_alloc(count, fb_dtype_size(made->dtype), name, stored));
    return fb_from_f32(made->dtype, *values, *stored, count);
}

static fb_status make_inputs(const fb_attention_case *made, contents *c) {
    size_t kv = c->p.batch * c->p.keys * c->p.kv_heads * c->p.head_dim;
    size_t counts[] = {fb_attention_problem_values(&c->p), kv, kv};
    static const char *const names[] = {"q", "k", "v"};
    for (size_t i = 0; i < 3; i++)
        FB_TRY(make_input(made, names[i], counts[i], &c->inputs[i], &c->stored[i]));
    c->p.q = c->inputs[0];
    c->p.k = c->inputs[1];
    c->p.v = c->inputs[2];
    return FB_OK;
}

/* The truth of neighbouring queries that see the same keys. lse: [queries, heads] */
static fb_status find_rows(const fb_attention_problem *p, size_t b, size_t first, size_t end,
                           double *out, double *lse) {
    size_t width = p->heads * p->head_dim, kv = b * p->keys * p->kv_heads * p->head_dim;
    size_t at = b * p->queries + first;
    const fb_truth_problem rows = {
        .q = p->q + at * width,
        .k = p->k + kv,
        .v = p->v + kv,
        .queries = end - first,
        .keys = fb_attention_problem_seen(p, b, first),
        .heads = p->heads,
        .kv_heads = p->kv_heads,
        .head_dim = p->head_dim,
        .scale = p->scale,
    };
    return fb_truth_attend(&rows, out + at * width, lse + first * p->heads);
}

/* lse: memory for [queries, heads] */
static fb_status find_truth(contents *c, double *lse) {
    const fb_attention_problem *p = &c->p;
    for (size_t b = 0; b < p->batch; b++) {
        for (size_t first = 0, end; first < p->queries; first = end) {
            size_t seen = fb_attention_problem_seen(p, b, first);
            for (end = first + 1; end < p->queries && fb_attention_problem_seen(p, b, end) == seen;)
                end++;
            FB_TRY(find_rows(p, b, first, end, c->true_out, lse));
        }
        for (size_t i = 0; i < p->queries * p->heads; i++)
            c->true_lse[fb_attention_problem_lse(p, b, i / p->heads, i % p->heads)] = lse[i];
    }
    return FB_OK;
}

static fb_status make_results(contents *c) {
    size_t rows = fb_attention_problem_rows(&c->p), values = fb_attention_problem_values(&c->p);
    double *lse = NULL;
    FB_TRY(fb_alloc(values, sizeof *c->out, "out", &c->out));
    FB_TRY(fb_alloc(rows, sizeof *c->lse, "lse", &c->lse));
    FB_TRY(fb_alloc(values, sizeof *c->true_out, "out64", &c->true_out));
    FB_TRY(fb_alloc(rows, sizeof *c->true_lse, "lse64", &c->true_lse));
    FB_TRY(fb_attention_problem_attend(&c->p, c->out, c->lse));
    FB_TRY(fb_alloc(c->p.queries * c->p.heads, sizeof *lse, "lse64", &lse));
    fb_status status = find_truth(c, lse);
    fb_free(lse);
    return status;
}

/* --- the file --------------------------------------------------------------------------------- */

static const char layout[] = "{\"q, out\": \"[B, Sq, H, D]\", \"k, v\": \"[B, Sk, Hk, D]\","
                             " \"lse\": \"[B, H, Sq]\"}";

static const char notes[] =
    "Query head h reads KV head h / (H / Hk). LSE is the natural logarithm of the sum of "
    "exponentials of scaled scores. A row that sees no key has output 0 and LSE -inf. "
    "key_lengths: the keys that each entry of the batch has; those after them are not seen. "
    "*64 are float64 truths; they are made of correctly rounded operations alone, so that they "
    "are the same on every machine.";

void fb_attention_case_put_params(const fb_attention_case *made, fb_json_writer *w) {
    const fb_attention_problem *p = &made->problem;
    fb_json_put_string(w, "preset", made->preset);
    fb_json_put_size(w, "B", p->batch);
    fb_json_put_size(w, "Sq", p->queries);
    fb_json_put_size(w, "Sk", p->keys);
    fb_json_put_size(w, "H", p->heads);
    fb_json_put_size(w, "Hk", p->kv_heads);
    fb_json_put_size(w, "D", p->head_dim);
    fb_json_put_double(w, "softmax_scale", p->scale);
    if (p->mask.kind == FB_MASK_BLOCK_CAUSAL) {
        fb_json_put_size(w, "mask_block_size", p->mask.block_size);
        fb_json_put_size(w, "first_query", p->mask.first_query);
        fb_json_put_size(w, "first_key", p->mask.first_key);
    }
    if (!p->key_lengths)
        return;
    fb_json_open_array(w, "key_lengths");
    for (size_t b = 0; b < p->batch; b++)
        fb_json_put_size(w, NULL, p->key_lengths[b]);
    fb_json_close_array(w);
}

/* Text that ends with a NUL. */
static fb_status build_params(const fb_attention_case *made, fb_buffer *text) {
    fb_json_writer w = fb_json_writer_to(text, FB_JSON_COMPACT);
    fb_json_open_object(&w, NULL);
    fb_attention_case_put_params(made, &w);
    fb_json_close_object(&w);
    FB_TRY(fb_json_finish(&w));
    return fb_buffer_terminate(text);
}

/* Tensors of wide elements come first, so that every tensor is aligned in the file. */
static fb_status write_tensors(const fb_attention_case *made, const contents *c,
                               const fb_metadata_entry *metadata, size_t num_metadata,
                               const char *path) {
    static const fb_tensor_dtype dtypes[] = {FB_TENSOR_F32, FB_TENSOR_BF16, FB_TENSOR_F16};
    const fb_attention_problem *p = &c->p;
    const fb_tensor_view out = {.ndim = 4, .shape = {p->batch, p->queries, p->heads, p->head_dim}};
    const fb_tensor_view kv = {.ndim = 4, .shape = {p->batch, p->keys, p->kv_heads, p->head_dim}};
    const fb_tensor_view lse = {.ndim = 3, .shape = {p->batch, p->heads, p->queries}};
    static const char *const names[] = {"out64", "lse64", "out", "lse", "q", "k", "v"};
    const void *data[] = {c->true_out, c->true_lse, c->out, c->lse};
    fb_tensor_view views[NUM_TENSORS] = {out, lse, out, lse, out, kv, kv};
    for (size_t i = 0; i < NUM_TENSORS; i++) {
        fb_tensor_dtype type = i < 2 ? FB_TENSOR_F64 : i < 4 ? FB_TENSOR_F32 : dtypes[made->dtype];
        views[i].name = names[i];
        views[i].dtype = type;
        views[i].data = i < 4 ? data[i] : c->stored[i - 4] ? c->stored[i - 4] : c->inputs[i - 4];
    }
    return fb_safetensors_write(path, views, NUM_TENSORS, metadata, num_metadata);
}

static fb_status write_file(const fb_attention_case *made, const contents *c, const char *params,
                            const char *path) {
    const fb_attention_problem *p = &c->p;
    char name[200], seed[32];
    snprintf(name, sizeof name, "%s_attention_b%zu_q%zu_k%zu%s%s_%s_seed%llu", made->preset,
             p->batch, p->queries, p->keys, p->key_lengths ? "_lengths" : "",
             p->mask.kind == FB_MASK_NONE ? "" : "_masked", fb_dtype_name(made->dtype),
             (unsigned long long)made->seed);
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)made->seed);
    const fb_metadata_entry metadata[] = {
        {"kind", "attention"}, {"case", name},
        {"seed", seed},        {"produced_by", FB_SCRIPT_PRODUCER},
        {"params", params},    {"layout", layout},
        {"notes", notes},
    };
    return write_tensors(made, c, metadata, sizeof metadata / sizeof metadata[0], path);
}

fb_status fb_attention_case_write(const fb_attention_case *made, const char *path) {
    contents c = {.p = made->problem};
    fb_buffer params = {0};
    FB_TRY(check(&made->problem));
    fb_status status = make_inputs(made, &c);
    if (status == FB_OK)
        status = make_results(&c);
    if (status == FB_OK)
        status = build_params(made, &params);
    if (status == FB_OK)
        status = write_file(made, &c, (const char *)params.data, path);
    fb_buffer_free(&params);
    contents_free(&c);
    return status;
}

#include "bench/composed.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "bench/machine.h"
#include "bench/softmax.h"

#include <flashblock/runtime.h>

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* The scores of a block of rows take at most this much. Products of many rows are faster; of the
 * sizes tried on the video shape, from 2 MB to all rows at once, this one was the fastest. */
enum { SCORES_BYTES = 32 << 20 };

const fb_softmax_kernels *fb_softmax_kernels_widest(void) {
#if defined(__x86_64__)
    if (fb_isa_supported(FB_ISA_AVX512))
        return &fb_softmax_kernels_avx512;
    if (fb_isa_supported(FB_ISA_AVX2))
        return &fb_softmax_kernels_avx2;
#endif
    return &fb_softmax_kernels_baseline;
}

/* --- matrices --------------------------------------------------------------------------------- */

static char *element(void *base, fb_dtype dtype, size_t index) {
    return (char *)base + index * fb_dtype_size(dtype);
}

/* Row r of KV head h: query r / group, head h * group + r % group. */
static fb_status fold_queries(fb_composed_matrices *m) {
    const fb_bench_shape *shape = &m->data->shape;
    size_t group = shape->num_heads / shape->num_kv_heads, head_dim = shape->head_dim;
    for (size_t h = 0; h < shape->num_kv_heads; h++)
        for (size_t row = 0; row < m->rows; row++) {
            size_t from = row / group * shape->num_heads + h * group + row % group;
            FB_TRY(fb_from_f32(shape->dtype, m->data->q + from * head_dim,
                               element(m->q, shape->dtype, (h * m->rows + row) * head_dim),
                               head_dim));
        }
    return FB_OK;
}

/* Token t of KV head h: rows [h][t] of k and v. */
static fb_status copy_token(fb_composed_matrices *m, size_t token, const float *k, const float *v) {
    const fb_bench_shape *shape = &m->data->shape;
    size_t head_dim = shape->head_dim;
    for (size_t h = 0; h < shape->num_kv_heads; h++) {
        size_t to = (h * shape->context + token) * head_dim;
        FB_TRY(
            fb_from_f32(shape->dtype, k + h * head_dim, element(m->k, shape->dtype, to), head_dim));
        FB_TRY(
            fb_from_f32(shape->dtype, v + h * head_dim, element(m->v, shape->dtype, to), head_dim));
        for (size_t d = 0; d < head_dim; d++)
            FB_TRY(fb_from_f32(
                shape->dtype, k + h * head_dim + d,
                element(m->k_transposed, shape->dtype, (h * head_dim + d) * shape->context + token),
                1));
    }
    return FB_OK;
}

static fb_status copy_tokens(fb_composed_matrices *m) {
    const fb_bench_shape *shape = &m->data->shape;
    size_t width = shape->num_kv_heads * shape->head_dim;
    const float *k = NULL, *v = NULL;
    for (size_t token = 0; token < shape->context; token++) {
        size_t place = token % FB_CHUNK_KEYS;
        if (place == 0)
            fb_attention_run_kv(m->data, token, &k, &v);
        FB_TRY(copy_token(m, token, k + place * width, v + place * width));
    }
    return FB_OK;
}

fb_status fb_composed_matrices_prepare(fb_composed_matrices *m, const fb_attention_run *data) {
    const fb_bench_shape *shape = &data->shape;
    size_t values = shape->num_kv_heads * shape->head_dim * fb_dtype_size(shape->dtype);
    m->data = data;
    m->rows = shape->num_queries * (shape->num_heads / shape->num_kv_heads);
    FB_TRY(fb_alloc(m->rows, values, "folded queries", &m->q));
    FB_TRY(fb_huge_alloc(shape->context * values, "keys", &m->k));
    FB_TRY(fb_huge_alloc(shape->context * values, "values", &m->v));
    FB_TRY(fb_huge_alloc(shape->context * values, "transposed keys", &m->k_transposed));
    FB_TRY(fold_queries(m));
    return copy_tokens(m);
}

void fb_composed_matrices_free(fb_composed_matrices *m) {
    fb_free(m->q);
    free(m->k);
    free(m->v);
    free(m->k_transposed);
    *m = (fb_composed_matrices){0};
}

/* --- plans and buffers ------------------------------------------------------------------------ */

static fb_product scores_product(const fb_composed *c, size_t rows) {
    const fb_bench_shape *shape = &c->matrices->data->shape;
    return (fb_product){rows, shape->context, shape->head_dim, c->keys_as_rows, shape->dtype};
}

static fb_product output_product(const fb_composed *c, size_t rows) {
    const fb_bench_shape *shape = &c->matrices->data->shape;
    return (fb_product){rows, shape->head_dim, shape->context, false, shape->dtype};
}

/* Rows of the last block of a KV head. */
static size_t last_rows(const fb_composed *c) {
    return (c->matrices->rows - 1) % c->block_rows + 1;
}

static fb_status make_plans(const fb_composed *c, fb_composed_thread *thread) {
    const size_t rows[2] = {c->block_rows, last_rows(c)};
    for (int i = 0; i < 2; i++) {
        fb_product scores = scores_product(c, rows[i]), output = output_product(c, rows[i]);
        if (!c->peer->plan(&scores, &thread->scores_plans[i]) ||
            !c->peer->plan(&output, &thread->output_plans[i]))
            return fb_fail(FB_ERROR_UNSUPPORTED, "%s cannot multiply %zu x %zu by %zu x %zu",
                           c->peer->name, rows[i], scores.k, scores.k, scores.n);
    }
    return FB_OK;
}

static fb_status prepare_thread(const fb_composed *c, fb_composed_thread *thread) {
    const fb_bench_shape *shape = &c->matrices->data->shape;
    size_t scores = c->block_rows * shape->context;
    FB_TRY(fb_huge_alloc(scores * sizeof(float), "scores", &thread->scores));
    if (shape->dtype != FB_F32)
        FB_TRY(fb_huge_alloc(scores * fb_dtype_size(shape->dtype), "weights", &thread->p));
    return fb_alloc(c->block_rows, sizeof(float), "row sums", &thread->sums);
}

/* So few rows that every thread has some, and that the scores stay in the cache. */
static size_t choose_rows(const fb_composed_matrices *m, size_t num_threads) {
    size_t most = SCORES_BYTES / sizeof(float) / m->data->shape.context;
    size_t blocks = most ? (m->rows + most - 1) / most : m->rows;
    while (m->data->shape.num_kv_heads * blocks < num_threads && blocks < m->rows)
        blocks++;
    return (m->rows + blocks - 1) / blocks;
}

/* --- the run ---------------------------------------------------------------------------------- */

/* The softmax of a block of scores, and P in the dtype of the product that follows. */
static const void *weights_of(const fb_composed *c, fb_composed_thread *thread, size_t rows) {
    const fb_bench_shape *shape = &c->matrices->data->shape;
    const fb_softmax_kernels *kernels = fb_softmax_kernels_widest();
    double start = fb_seconds();
    kernels->rows(thread->scores, rows, shape->context, 1.0f / sqrtf((float)shape->head_dim),
                  thread->sums);
    if (shape->dtype == FB_BF16)
        kernels->narrow(thread->scores, thread->p, rows * shape->context);
    else if (shape->dtype == FB_F16)
        fb_from_f32(FB_F16, thread->scores, thread->p, rows * shape->context);
    thread->softmax_seconds += fb_seconds() - start;
    return shape->dtype == FB_F32 ? thread->scores : thread->p;
}

static bool run_block(const fb_composed *c, size_t kv_head, size_t first_row,
                      fb_composed_thread *thread) {
    const fb_composed_matrices *m = c->matrices;
    const fb_bench_shape *shape = &m->data->shape;
    size_t left = m->rows - first_row, head_dim = shape->head_dim;
    size_t rows = left < c->block_rows ? left : c->block_rows;
    int last = left <= c->block_rows;
    size_t first_token = kv_head * shape->context * head_dim;
    size_t first = (kv_head * m->rows + first_row) * head_dim;
    const void *q = element(m->q, shape->dtype, first);
    const void *k = element(c->keys_as_rows ? m->k : m->k_transposed, shape->dtype, first_token);
    const void *v = element(m->v, shape->dtype, first_token);
    if (!c->peer->multiply(thread->scores_plans[last], q, k, thread->scores))
        return false;
    const void *p = weights_of(c, thread, rows);
    float *out = c->out + first;
    if (!c->peer->multiply(thread->output_plans[last], p, v, out))
        return false;
    for (size_t row = 0; row < rows; row++)
        for (size_t d = 0; d < head_dim; d++)
            out[row * head_dim + d] /= thread->sums[row];
    return true;
}

typedef struct block_call {
    fb_composed *c;
    size_t blocks;
    atomic_bool failed;
} block_call;

static void run_blocks(void *context, size_t first, size_t end, size_t worker) {
    block_call *call = context;
    for (size_t i = first; i < end; i++)
        if (!run_block(call->c, i / call->blocks, i % call->blocks * call->c->block_rows,
                       &call->c->threads[worker]))
            atomic_store(&call->failed, true);
}

fb_status fb_composed_run(void *context) {
    fb_composed *c = context;
    double start = fb_seconds();
    size_t blocks = (c->matrices->rows + c->block_rows - 1) / c->block_rows;
    size_t tasks = blocks * c->matrices->data->shape.num_kv_heads;
    block_call call = {.c = c, .blocks = blocks};
    fb_parallel_for(tasks, 1, c->num_threads, run_blocks, &call);
    c->seconds += (double)c->num_threads * (fb_seconds() - start);
    if (atomic_load(&call.failed))
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s reports an error", c->peer->name);
    return FB_OK;
}

/* --- preparing -------------------------------------------------------------------------------- */

static void free_plans(const fb_composed *c, fb_composed_thread *thread) {
    for (int i = 0; i < 2; i++) {
        if (thread->scores_plans[i])
            c->peer->destroy(thread->scores_plans[i]);
        if (thread->output_plans[i])
            c->peer->destroy(thread->output_plans[i]);
        thread->scores_plans[i] = thread->output_plans[i] = NULL;
    }
}

/* The fastest of a few runs of the first block, with keys as rows or as columns. */
static fb_status time_layout(fb_composed *c, bool keys_as_rows, double *seconds) {
    enum { TRIES = 3 };
    fb_composed_thread *thread = &c->threads[0];
    free_plans(c, thread);
    c->keys_as_rows = keys_as_rows;
    FB_TRY(make_plans(c, thread));
    *seconds = INFINITY;
    for (int i = 0; i < TRIES; i++) {
        double start = fb_seconds();
        if (!run_block(c, 0, 0, thread))
            return fb_fail(FB_ERROR_UNSUPPORTED, "%s reports an error", c->peer->name);
        double passed = fb_seconds() - start;
        *seconds = passed < *seconds ? passed : *seconds;
    }
    return FB_OK;
}

static fb_status choose_layout(fb_composed *c) {
    double rows = 0, columns = 0;
    FB_TRY(time_layout(c, true, &rows));
    FB_TRY(time_layout(c, false, &columns));
    c->keys_as_rows = rows < columns;
    for (size_t i = 0; i < c->num_threads; i++) {
        free_plans(c, &c->threads[i]);
        FB_TRY(make_plans(c, &c->threads[i]));
        c->threads[i].softmax_seconds = 0;
    }
    return FB_OK;
}

fb_status fb_composed_prepare(fb_composed *c, const fb_peer *peer,
                              const fb_composed_matrices *matrices, size_t num_threads) {
    const fb_bench_shape *shape = &matrices->data->shape;
    c->peer = peer;
    c->matrices = matrices;
    c->num_threads = num_threads;
    c->block_rows = choose_rows(matrices, num_threads);
    fb_product scores = scores_product(c, c->block_rows);
    if (!peer->supports(&scores))
        return fb_fail(FB_ERROR_UNSUPPORTED, "%s has no fast product of %s on this CPU", peer->name,
                       fb_dtype_name(shape->dtype));
    FB_TRY(fb_alloc_zeroed(num_threads, sizeof *c->threads, "threads", &c->threads));
    FB_TRY(fb_alloc(shape->num_kv_heads * matrices->rows, shape->head_dim * sizeof(float), "output",
                    &c->out));
    for (size_t i = 0; i < num_threads; i++)
        FB_TRY(prepare_thread(c, &c->threads[i]));
    return choose_layout(c);
}

void fb_composed_free(fb_composed *c) {
    for (size_t i = 0; c->threads && i < c->num_threads; i++) {
        fb_composed_thread *thread = &c->threads[i];
        free_plans(c, thread);
        free(thread->scores);
        free(thread->p);
        fb_free(thread->sums);
    }
    fb_free(c->threads);
    fb_free(c->out);
    *c = (fb_composed){0};
}

/* --- results ---------------------------------------------------------------------------------- */

double fb_composed_softmax_share(const fb_composed *c) {
    double softmax = 0;
    for (size_t i = 0; i < c->num_threads; i++)
        softmax += c->threads[i].softmax_seconds;
    return c->seconds > 0 ? softmax / c->seconds : 0;
}

/* Attention of `count` queries from number `first` on, as the library does it:
 * out [count, num_heads, head_dim], and room for as many log-sum-exps after it. */
static fb_status attend_some(const fb_attention_run *data, size_t first, size_t count, float *out) {
    const fb_bench_shape *shape = &data->shape;
    size_t width = shape->num_heads * shape->head_dim;
    fb_range range = {0, shape->context};
    fb_view view = {&data->kv, &range, 1};
    fb_queries queries =
        fb_queries_rows(data->q + first * width, count, shape->num_heads, shape->head_dim);
    fb_part part = fb_part_rows(out, out + count * width, shape->num_heads, shape->head_dim);
    return fb_attend(&queries, &view, NULL, 0, &part);
}

static fb_status compare_some(const fb_composed *c, size_t first, size_t count,
                              const float *expected) {
    const fb_bench_shape *shape = &c->matrices->data->shape;
    size_t group = shape->num_heads / shape->num_kv_heads, head_dim = shape->head_dim;
    /* For float32 products, and for products with 11 or 8 bits, queries and P included. */
    float tolerance = shape->dtype == FB_F32 ? 1e-5f : shape->dtype == FB_F16 ? 1e-3f : 1e-2f;
    for (size_t row = 0; row < count * shape->num_heads; row++) {
        size_t query = first + row / shape->num_heads, head = row % shape->num_heads;
        size_t folded = head / group * c->matrices->rows + query * group + head % group;
        for (size_t d = 0; d < head_dim; d++) {
            float right = expected[row * head_dim + d], found = c->out[folded * head_dim + d];
            if (!(fabsf(found - right) <= tolerance))
                return fb_fail(FB_ERROR_FORMAT, "%s gives %.9g where %.9g is expected",
                               c->peer->name, (double)found, (double)right);
        }
    }
    return FB_OK;
}

fb_status fb_composed_check(const fb_composed *c) {
    enum { MAX_QUERIES = 8 };
    const fb_bench_shape *shape = &c->matrices->data->shape;
    size_t count = shape->num_queries < MAX_QUERIES ? shape->num_queries : MAX_QUERIES;
    const size_t firsts[2] = {0, shape->num_queries - count};
    float *expected = NULL;
    FB_TRY(fb_alloc(count * shape->num_heads, (shape->head_dim + 1) * sizeof *expected,
                    "expected output", &expected));
    fb_status status = FB_OK;
    for (int i = 0; i < 2 && status == FB_OK; i++) {
        status = attend_some(c->matrices->data, firsts[i], count, expected);
        if (status == FB_OK)
            status = compare_some(c, firsts[i], count, expected);
    }
    fb_free(expected);
    return status;
}

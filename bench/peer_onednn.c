/* oneDNN: its matmul primitive, version 2 of the C interface. It uses as many threads as OpenMP
 * allows, also inside a parallel region; so a call is allowed one. */
#include "bench/peer_module.h"

#include <dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct matmul {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_desc_t description;
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c;
} matmul;

static void version(char *text, size_t size) {
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, size, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
}

static void destroy(void *plan_of) {
    matmul *plan = plan_of;
    if (!plan)
        return;
    dnnl_memory_destroy(plan->a);
    dnnl_memory_destroy(plan->b);
    dnnl_memory_destroy(plan->c);
    dnnl_primitive_destroy(plan->primitive);
    dnnl_primitive_desc_destroy(plan->description);
    dnnl_stream_destroy(plan->stream);
    dnnl_engine_destroy(plan->engine);
    free(plan);
}

static bool ok(dnnl_status_t status) {
    return status == dnnl_success;
}

/* A matrix [rows, columns], row-major, or column-major. */
static bool describe(dnnl_memory_desc_t *description, size_t rows, size_t columns,
                     dnnl_data_type_t type, bool column_major) {
    const dnnl_dims_t sizes = {(dnnl_dim_t)rows, (dnnl_dim_t)columns};
    return ok(dnnl_memory_desc_init_by_tag(description, 2, sizes, type,
                                           column_major ? dnnl_ba : dnnl_ab));
}

static bool build(const fb_product *product, matmul *plan) {
    dnnl_data_type_t type = product->dtype == FB_F32    ? dnnl_f32
                            : product->dtype == FB_BF16 ? dnnl_bf16
                                                        : dnnl_f16;
    dnnl_memory_desc_t a, b, c;
    dnnl_matmul_desc_t operation;
    return describe(&a, product->m, product->k, type, false) &&
           describe(&b, product->k, product->n, type, product->transposed) &&
           describe(&c, product->m, product->n, dnnl_f32, false) &&
           ok(dnnl_engine_create(&plan->engine, dnnl_cpu, 0)) &&
           ok(dnnl_stream_create(&plan->stream, plan->engine, dnnl_stream_default_flags)) &&
           ok(dnnl_matmul_desc_init(&operation, &a, &b, NULL, &c)) &&
           ok(dnnl_primitive_desc_create(&plan->description, &operation, NULL, plan->engine,
                                         NULL)) &&
           ok(dnnl_primitive_create(&plan->primitive, plan->description)) &&
           ok(dnnl_memory_create(&plan->a, &a, plan->engine, DNNL_MEMORY_NONE)) &&
           ok(dnnl_memory_create(&plan->b, &b, plan->engine, DNNL_MEMORY_NONE)) &&
           ok(dnnl_memory_create(&plan->c, &c, plan->engine, DNNL_MEMORY_NONE));
}

static bool plan(const fb_product *product, void **result) {
    matmul *new = calloc(1, sizeof *new);
    if (!new)
        return false;
    if (!build(product, new)) {
        destroy(new);
        return false;
    }
    *result = new;
    return true;
}

/* bf16 and f16 exist on every CPU, but only as a reference implementation on those without
 * instructions for them. */
static bool supports(const fb_product *product) {
    void *plan_of = NULL;
    if (!plan(product, &plan_of))
        return false;
    const matmul *tried = plan_of;
    const char *implementation = NULL;
    bool known = ok(dnnl_primitive_desc_query(tried->description, dnnl_query_impl_info_str, 0,
                                              &implementation)) &&
                 strncmp(implementation, "ref", 3) != 0;
    destroy(plan_of);
    return known;
}

static bool multiply(void *plan_of, const void *a, const void *b, float *c) {
    matmul *plan_to_run = plan_of;
    /* The interface has no const; a and b are only read. */
    union {
        const void *given;
        void *handle;
    } from_a = {a}, from_b = {b};
    if (!ok(dnnl_memory_set_data_handle(plan_to_run->a, from_a.handle)) ||
        !ok(dnnl_memory_set_data_handle(plan_to_run->b, from_b.handle)) ||
        !ok(dnnl_memory_set_data_handle(plan_to_run->c, c)))
        return false;
    const dnnl_exec_arg_t arguments[] = {
        {DNNL_ARG_SRC, plan_to_run->a},
        {DNNL_ARG_WEIGHTS, plan_to_run->b},
        {DNNL_ARG_DST, plan_to_run->c},
    };
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    bool done =
        ok(dnnl_primitive_execute(plan_to_run->primitive, plan_to_run->stream, 3, arguments)) &&
        ok(dnnl_stream_wait(plan_to_run->stream));
    omp_set_num_threads(threads);
    return done;
}

const fb_peer fb_peer_module = {
    .name = "onednn",
    .version = version,
    .supports = supports,
    .plan = plan,
    .destroy = destroy,
    .multiply = multiply,
};

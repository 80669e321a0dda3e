/* BLIS: its typed interface, bli_sgemm. Threads are 1 unless BLIS_NUM_THREADS says otherwise; the
 * plan says 1 in any case. */
#include "bench/peer_module.h"

#include <blis.h>
#include <stdio.h>
#include <stdlib.h>

static void version(char *text, size_t size) {
    snprintf(text, size, "BLIS %s, %s", bli_info_get_version_str(),
             bli_arch_string(bli_arch_query_id()));
}

static bool supports(const fb_product *product) {
    return product->dtype == FB_F32;
}

static bool plan(const fb_product *product, void **result) {
    fb_product *copy = malloc(sizeof *copy);
    if (!copy)
        return false;
    *copy = *product;
    *result = copy;
    return true;
}

static bool multiply(void *plan_of, const void *a, const void *b, float *c) {
    const fb_product *p = plan_of;
    dim_t m = (dim_t)p->m, n = (dim_t)p->n, k = (dim_t)p->k;
    inc_t b_row = p->transposed ? 1 : n, b_column = p->transposed ? k : 1;
    float one = 1, zero = 0;
    rntm_t threads = BLIS_RNTM_INITIALIZER;
    bli_rntm_set_num_threads(1, &threads);
    /* The interface has no const; a and b are only read. */
    union {
        const void *given;
        float *floats;
    } from_a = {a}, from_b = {b};
    bli_sgemm_ex(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, m, n, k, &one, from_a.floats, k, 1,
                 from_b.floats, b_row, b_column, &zero, c, n, 1, NULL, &threads);
    return true;
}

const fb_peer fb_peer_module = {
    .name = "blis",
    .version = version,
    .supports = supports,
    .plan = plan,
    .destroy = free,
    .multiply = multiply,
};

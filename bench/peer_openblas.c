/* OpenBLAS: cblas_sgemm, told to use only the calling thread. */
#include "bench/peer_module.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>

static void version(char *text, size_t size) {
    snprintf(text, size, "%s, %s", openblas_get_config(), openblas_get_corename());
}

static bool supports(const fb_product *product) {
    return product->dtype == FB_F32;
}

static bool plan(const fb_product *product, void **result) {
    fb_product *copy = malloc(sizeof *copy);
    if (!copy)
        return false;
    openblas_set_num_threads(1);
    *copy = *product;
    *result = copy;
    return true;
}

static bool multiply(void *plan_of, const void *a, const void *b, float *c) {
    const fb_product *p = plan_of;
    blasint m = (blasint)p->m, n = (blasint)p->n, k = (blasint)p->k;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, p->transposed ? CblasTrans : CblasNoTrans, m, n, k, 1,
                a, k, b, p->transposed ? k : n, 0, c, n);
    return true;
}

const fb_peer fb_peer_module = {
    .name = "openblas",
    .version = version,
    .supports = supports,
    .plan = plan,
    .destroy = free,
    .multiply = multiply,
};

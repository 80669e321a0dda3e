#include "oracle/hash_product.h"

#include "base/error.h"
#include "base/memory.h"
#include "model/linear.h"
#include "oracle/inputs.h"

#include <flashblock/types.h>

typedef struct product {
    const fb_hash_case *c;
    uint64_t seed;
    size_t groups;   /* of a row */
    float *x;        /* [queries, columns] */
    float *bias;     /* [features] */
    float *floats;   /* [features, columns] float weights, before they have their type */
    void *data;      /* the matrix's */
    float *scales;   /* [features, groups] */
    uint8_t *zeros;  /* [features, groups] */
    uint32_t *order; /* [columns] */
    fb_linear_scratch scratch;
} product;

static void free_product(product *p) {
    fb_free(p->x);
    fb_free(p->bias);
    fb_free(p->floats);
    fb_free(p->data);
    fb_free(p->scales);
    fb_free(p->zeros);
    fb_free(p->order);
    fb_linear_scratch_free(&p->scratch);
}

/* Rows 0 to 2 are of unusual size. */
static void set_row_sizes(const fb_hash_case *c, float *x) {
    const float factors[] = {0.0f, 0x1p-120f, 0x1p100f};
    for (size_t row = 0; row < 3; row++)
        for (size_t i = 0; i < c->columns; i++)
            x[row * c->columns + i] *= factors[row];
}

/* Halves, and a largest of 127 in each group of columns: x is its own quotient. */
static void set_ties(const fb_hash_case *c, float *x) {
    enum { GROUP = 32 }; /* divides every group of x */
    for (size_t row = 0; row < c->queries; row++)
        for (size_t i = 0; i < c->columns; i++) {
            float *value = &x[row * c->columns + i];
            *value = i % GROUP == row ? 127.0f : (float)(int)(*value * 16.0f) + 0.5f;
        }
}

static fb_status make_x(product *p) {
    const fb_hash_case *c = p->c;
    FB_TRY(fb_alloc(c->queries * c->columns, sizeof *p->x, "selftest", &p->x));
    FB_TRY(fb_alloc(c->features, sizeof *p->bias, "selftest", &p->bias));
    fb_input_normals(p->seed, "x", 1.0f, p->x, c->queries * c->columns);
    fb_input_normals(p->seed, "bias", 1.0f, p->bias, c->features);
    if (c->content == FB_HASH_ROW_SIZES)
        set_row_sizes(c, p->x);
    if (c->content == FB_HASH_TIES)
        set_ties(c, p->x);
    return FB_OK;
}

static fb_status make_float_weights(product *p) {
    const fb_hash_case *c = p->c;
    size_t count = c->features * c->columns;
    FB_TRY(fb_alloc(count, sizeof *p->floats, "selftest", &p->floats));
    FB_TRY(fb_alloc(count, fb_dtype_size(c->dtype), "selftest", &p->data));
    fb_input_normals(p->seed, "weights", 1.0f, p->floats, count);
    return fb_from_f32(c->dtype, p->floats, p->data, count);
}

/* A permutation that neither a run nor a stride makes up for. */
static fb_status make_order(product *p) {
    uint32_t columns = (uint32_t)p->c->columns, stream = fb_input_stream("order");
    FB_TRY(fb_alloc(columns, sizeof *p->order, "selftest", &p->order));
    for (uint32_t i = 0; i < columns; i++) {
        p->order[i] = i;
        uint32_t j = fb_input_below(p->seed, stream, i, i + 1);
        p->order[i] = p->order[j];
        p->order[j] = i;
    }
    return FB_OK;
}

/* Any bytes are integers of 8 or of 4 bits. */
static fb_status make_integer_weights(product *p) {
    const fb_hash_case *c = p->c;
    size_t bytes = c->features * c->columns * (size_t)c->bits / 8;
    size_t num_scales = c->features * p->groups;
    uint32_t weights = fb_input_stream("weights"), zeros = fb_input_stream("zero points");
    uint8_t *data = NULL;
    FB_TRY(fb_alloc(bytes, 1, "selftest", &data));
    p->data = data;
    FB_TRY(fb_alloc(num_scales, sizeof *p->scales, "selftest", &p->scales));
    FB_TRY(fb_alloc(num_scales, 1, "selftest", &p->zeros));
    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)fb_input_below(p->seed, weights, i, 256);
    for (size_t i = 0; i < num_scales; i++)
        p->zeros[i] = (uint8_t)fb_input_below(p->seed, zeros, i, 16);
    fb_input_normals(p->seed, "scales", 0.01f, p->scales, num_scales);
    return c->ordered ? make_order(p) : FB_OK;
}

static fb_status multiply(product *p, fb_hash_result *result) {
    const fb_hash_case *c = p->c;
    FB_TRY(fb_hash_result_alloc(result, c->queries * c->features, 0));
    FB_TRY(make_x(p));
    FB_TRY(c->bits ? make_integer_weights(p) : make_float_weights(p));
    const fb_quantized quantized = {
        .bits = c->bits,
        .group_size = c->group_size,
        .scales = p->scales,
        .zero_points = c->zero_points ? p->zeros : NULL,
        .column_order = p->order,
        .float_activations = c->float_activations,
    };
    const fb_matrix matrix = {
        .data = p->data,
        .dtype = c->dtype,
        .rows = c->features,
        .columns = c->columns,
        .bias = p->bias,
        .quantized = c->bits ? &quantized : NULL,
    };
    const fb_linear_input input = {p->x, c->queries};
    const fb_linear_output output = {&matrix, result->out};
    return fb_linear(&p->scratch, &input, &output, 1);
}

fb_status fb_hash_product_compute(const fb_hash_case *c, uint64_t seed, fb_hash_result *result) {
    product p = {.c = c, .seed = seed};
    if (c->bits)
        p.groups = (c->columns + c->group_size - 1) / c->group_size;
    fb_status status = multiply(&p, result);
    free_product(&p);
    return status;
}

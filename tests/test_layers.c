/* RMSNorm, SwiGLU and linear layers against double precision. */
#include "base/half.h"
#include "base/memory.h"
#include "model/layers.h"
#include "model/linear.h"
#include "tests/numbers.h"

#include <flashblock/runtime.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const fb_kernels *kernels(void) {
    const fb_kernels *table = NULL;
    cr_assert_eq(fb_kernels_current(&table), FB_OK, "%s", fb_error_message());
    return table;
}

/* --- RMSNorm ---------------------------------------------------------------------------------- */

Test(layers, rms_norm_in_place_and_of_zeros) {
    float x[5] = {0}, weight[5] = {1, 2, 3, 4, 5}, y[5];
    fb_rms_norm(x, weight, 1e-6, 5, y);
    for (size_t i = 0; i < 5; i++)
        cr_assert_eq(y[i], 0.0f);
    random_stream stream = random_named(1);
    for (size_t i = 0; i < 5; i++)
        x[i] = random_normal(&stream);
    fb_rms_norm(x, weight, 1e-6, 5, y);
    fb_rms_norm(x, weight, 1e-6, 5, x);
    expect_same_bits("in place", x, y, 5);
}

/* --- SwiGLU ----------------------------------------------------------------------------------- */

Test(layers, swiglu) {
    enum { COUNT = 1003 }; /* not a multiple of the step */
    float gate[COUNT], up[COUNT], y[COUNT];
    random_stream stream = random_named(2);
    for (size_t i = 0; i < COUNT; i++) {
        gate[i] = 8.0f * random_normal(&stream);
        up[i] = random_normal(&stream);
    }
    gate[0] = 0.0f;
    gate[1] = -0.0f;
    gate[2] = 1e30f;
    gate[3] = -90.0f;
    gate[4] = -200.0f;
    memcpy(y, gate, sizeof y);
    fb_swiglu(kernels(), y, up, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        double g = (double)gate[i], want = g / (1.0 + exp(-g)) * (double)up[i];
        cr_assert(fabs((double)y[i] - want) <= 0x1p-21 * fabs(want) + 0x1p-126,
                  "gate %g, up %g: %.9g, expected %.9g", g, (double)up[i], (double)y[i], want);
    }
}

Test(layers, swiglu_of_nan) {
    float gate[2] = {NAN, 1.0f}, up[2] = {1.0f, NAN};
    fb_swiglu(kernels(), gate, up, 2);
    cr_assert(isnan(gate[0]) && isnan(gate[1]));
}

/* --- linear layers ---------------------------------------------------------------------------- */

/* A random matrix, stored at `offset` bytes from an aligned address. */
typedef struct stored {
    fb_matrix matrix;
    float *values; /* [rows, columns]: the stored values, widened */
    void *memory;
} stored;

static stored store(random_stream *stream, fb_dtype dtype, size_t rows, size_t columns, bool bias,
                    size_t offset) {
    stored s = {.values = random_floats(stream, rows * columns, 0.1f)};
    size_t count = rows * columns, size = fb_dtype_size(dtype);
    void *halves = malloc(count * size);
    cr_assert_eq(fb_alloc(count * size + offset, 1, "matrix", &s.memory), FB_OK);
    cr_assert_eq(fb_from_f32(dtype, s.values, halves, count), FB_OK);
    cr_assert_eq(fb_to_f32(dtype, halves, s.values, count), FB_OK);
    memcpy((char *)s.memory + offset, halves, count * size);
    free(halves);
    s.matrix = (fb_matrix){
        .data = (char *)s.memory + offset, .dtype = dtype, .rows = rows, .columns = columns};
    if (bias)
        s.matrix.bias = random_floats(stream, rows, 1.0f);
    return s;
}

static void discard(stored *s) {
    free(s->values);
    free(s->matrix.bias);
    fb_free(s->memory);
}

/* The error of a sum of n products of float32 is at most n ulps of the sum of their magnitudes. */
static void expect_product(const stored *s, const float *x, size_t num_rows, const float *y,
                           const char *what) {
    size_t rows = s->matrix.rows, columns = s->matrix.columns;
    for (size_t i = 0; i < num_rows; i++)
        for (size_t j = 0; j < rows; j++) {
            double sum = s->matrix.bias ? (double)s->matrix.bias[j] : 0.0, magnitude = fabs(sum);
            for (size_t k = 0; k < columns; k++) {
                double term = (double)x[i * columns + k] * (double)s->values[j * columns + k];
                sum += term;
                magnitude += fabs(term);
            }
            double bound = (double)(columns + 1) * 0x1p-24 * magnitude;
            cr_assert(fabs((double)y[i * rows + j] - sum) <= bound,
                      "%s: [%zu, %zu] of %zu x %zu x %zu is %.9g, expected %.9g", what, i, j,
                      num_rows, rows, columns, (double)y[i * rows + j], sum);
        }
}

static void check_product(random_stream *stream, fb_dtype dtype, size_t offset) {
    size_t rows = random_between(stream, 1, 200), columns = random_between(stream, 1, 1200);
    size_t num_rows = random_between(stream, 1, random_uniform(stream) < 0.5 ? 12 : 150);
    stored first = store(stream, dtype, rows, columns, random_uniform(stream) < 0.5, offset);
    stored second = store(stream, FB_BF16, rows / 2 + 1, columns, false, 0);
    float *x = random_floats(stream, num_rows * columns, 1.0f);
    guarded y = guarded_new(num_rows * rows, 0), z = guarded_new(num_rows * (rows / 2 + 1), 0);
    fb_linear_output outputs[] = {{&first.matrix, y.data}, {&second.matrix, z.data}};
    fb_linear_scratch scratch = {0};
    fb_linear_input input = {x, num_rows};
    cr_assert_eq(fb_linear(&scratch, &input, outputs, 2), FB_OK, "%s", fb_error_message());
    expect_product(&first, x, num_rows, y.data, fb_dtype_name(dtype));
    expect_product(&second, x, num_rows, z.data, "second matrix");
    guarded_check("y", &y);
    guarded_check("z", &z);
    fb_linear_scratch_free(&scratch);
    guarded_free(&y);
    guarded_free(&z);
    free(x);
    discard(&first);
    discard(&second);
}

Test(layers, linear_against_double_precision) {
    random_stream stream = random_named(3);
    for (int round = 0; round < 8; round++)
        for (fb_dtype dtype = FB_F32; dtype <= FB_F16; dtype++)
            for (size_t offset = 0; offset < 4; offset++)
                check_product(&stream, dtype, offset);
}

/* y of a product with `threads` threads. */
static float *multiply(const fb_matrix *matrix, const float *x, size_t num_rows, int threads) {
    fb_linear_scratch scratch = {0};
    fb_linear_input input = {x, num_rows};
    float *y = malloc(num_rows * matrix->rows * sizeof *y);
    cr_assert_not_null(y);
    fb_linear_output output = {matrix, y};
    cr_assert_eq(fb_set_num_threads(threads), FB_OK);
    cr_assert_eq(fb_linear(&scratch, &input, &output, 1), FB_OK, "%s", fb_error_message());
    fb_linear_scratch_free(&scratch);
    return y;
}

/* Sizes that are not multiples of a panel, and the sizes of a model. */
typedef struct shape {
    size_t num_rows, rows, columns;
} shape;

static const shape shapes[] = {{25, 230, 1100}, {1, 1, 1},      {4, 640, 512}, {70, 97, 33},
                               {7, 13, 545},    {64, 48, 1024}, {65, 101, 31}, {3, 50, 2047},
                               {130, 61, 96},   {32, 384, 576}, {6, 300, 1536}};

enum { NUM_SHAPES = sizeof shapes / sizeof shapes[0] };

/* With each instruction set and number of threads: bitwise `expected`. */
static void expect_everywhere(const fb_matrix *matrix, const float *x, const shape *s,
                              const float *expected) {
    fb_isa usual = FB_ISA_SCALAR;
    cr_assert_eq(fb_isa_current(&usual), FB_OK);
    for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++) {
        if (!fb_isa_supported(isa))
            continue;
        cr_assert_eq(fb_isa_select(isa), FB_OK);
        for (int threads = 1; threads <= 3; threads++) {
            char what[96];
            snprintf(what, sizeof what, "%zu x %zu x %zu, %s, %s, %d threads", s->num_rows, s->rows,
                     s->columns, fb_dtype_name(matrix->dtype), fb_isa_name(isa), threads);
            float *y = multiply(matrix, x, s->num_rows, threads);
            expect_same_bits(what, y, expected, s->num_rows * s->rows);
            free(y);
        }
    }
    cr_assert_eq(fb_isa_select(usual), FB_OK);
}

static void check_everywhere(random_stream *stream, const shape *s, fb_dtype dtype, bool bias) {
    stored m = store(stream, dtype, s->rows, s->columns, bias, 0);
    float *x = random_floats(stream, s->num_rows * s->columns, 1.0f);
    float *expected = multiply(&m.matrix, x, s->num_rows, 1);
    expect_product(&m, x, s->num_rows, expected, fb_dtype_name(dtype));
    expect_everywhere(&m.matrix, x, s, expected);
    free(expected);
    free(x);
    discard(&m);
}

/* docs/contract.md C7, C9.1. */
Test(layers, linear_has_the_same_bits_with_every_instruction_set_and_thread_count) {
    random_stream stream = random_named(4);
    for (size_t i = 0; i < NUM_SHAPES; i++)
        for (fb_dtype dtype = FB_F32; dtype <= FB_F16; dtype++)
            check_everywhere(&stream, &shapes[i], dtype, i % 2 == 0);
}

/* The bits do not depend on where the weights are stored, in which type, or on the other rows. */
static void check_variants(random_stream *stream, const shape *s) {
    stored aligned = store(stream, FB_BF16, s->rows, s->columns, true, 0);
    size_t bytes = s->rows * s->columns * 2;
    stored moved = aligned, widened = aligned;
    cr_assert_eq(fb_alloc(bytes + 1, 1, "matrix", &moved.memory), FB_OK);
    moved.matrix.data = memcpy((char *)moved.memory + 1, aligned.matrix.data, bytes);
    widened.matrix.data = widened.values;
    widened.matrix.dtype = FB_F32;
    float *x = random_floats(stream, s->num_rows * s->columns, 1.0f);
    float *expected = multiply(&aligned.matrix, x, s->num_rows, 1);
    const fb_matrix *variants[] = {&moved.matrix, &widened.matrix};
    for (int i = 0; i < 2; i++) {
        float *y = multiply(variants[i], x, s->num_rows, 2);
        expect_same_bits(i ? "widened" : "misaligned", y, expected, s->num_rows * s->rows);
        free(y);
    }
    for (size_t first = 0, rows; first < s->num_rows; first += rows) {
        size_t left = s->num_rows - first;
        rows = left < first % 5 + 1 ? left : first % 5 + 1;
        float *y = multiply(&aligned.matrix, x + first * s->columns, rows, 2);
        expect_same_bits("a few rows alone", y, expected + first * s->rows, rows * s->rows);
        free(y);
    }
    free(x);
    free(expected);
    fb_free(moved.memory);
    discard(&aligned);
}

Test(layers, linear_is_the_same_however_it_is_computed) {
    random_stream stream = random_named(6);
    for (size_t i = 0; i < NUM_SHAPES; i++)
        check_variants(&stream, &shapes[i]);
}

Test(layers, matrix_row) {
    random_stream stream = random_named(5);
    for (fb_dtype dtype = FB_F32; dtype <= FB_F16; dtype++)
        for (size_t offset = 0; offset < 2; offset++) {
            stored s = store(&stream, dtype, 3, 1301, false, offset);
            guarded row = guarded_new(1301, 0);
            fb_matrix_row(kernels(), &s.matrix, 2, row.data);
            expect_same_bits(fb_dtype_name(dtype), row.data, s.values + 2 * 1301, 1301);
            guarded_check("row", &row);
            guarded_free(&row);
            discard(&s);
        }
}

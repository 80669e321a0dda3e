/* Products of weights of 8 and 4 bits (docs/contract.md C13) against plain arithmetic. */
#include "base/memory.h"
#include "model/linear.h"
#include "tests/numbers.h"

#include <flashblock/runtime.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A random matrix. `integers` are what the stored ones mean: without their zero points, in the
 * order of the data. */
typedef struct stored {
    fb_matrix matrix;
    fb_quantized quantized;
    int *integers; /* [rows, columns] */
    uint8_t *memory;
    float *scales;
    uint8_t *zero_points;
    uint32_t *order;
    size_t groups;
} stored;

typedef struct shape {
    size_t num_rows, rows, columns;
} shape;

typedef struct scheme {
    int bits;
    size_t group_size; /* 0: a row */
    bool zero_points, order, bias;
} scheme;

static void *allocate(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    cr_assert_not_null(memory);
    return memory;
}

static uint32_t *random_order(random_stream *stream, size_t count) {
    uint32_t *order = allocate(count, sizeof *order);
    for (size_t i = 0; i < count; i++) {
        size_t other = random_between(stream, 0, i);
        order[i] = order[other];
        order[other] = (uint32_t)i;
    }
    return order;
}

/* The data begins `offset` bytes after an aligned address, and nothing follows it. */
static stored store(random_stream *stream, const scheme *how, const shape *size, size_t offset) {
    size_t rows = size->rows, columns = size->columns;
    size_t group_size = how->group_size ? how->group_size : columns;
    stored s = {.groups = (columns + group_size - 1) / group_size};
    size_t bytes = rows * columns * (size_t)how->bits / 8;
    s.memory = allocate(bytes + offset, 1);
    s.integers = allocate(rows * columns, sizeof *s.integers);
    s.scales = random_floats(stream, rows * s.groups, 0.01f);
    s.zero_points = how->zero_points ? allocate(rows * s.groups, 1) : NULL;
    for (size_t i = 0; how->zero_points && i < rows * s.groups; i++)
        s.zero_points[i] = (uint8_t)random_between(stream, 0, 15);
    s.order = how->order ? random_order(stream, columns) : NULL;
    for (size_t row = 0; row < rows; row++)
        for (size_t column = 0; column < columns; column++) {
            size_t i = row * columns + column, group = row * s.groups + column / group_size;
            if (how->bits == 8) {
                s.integers[i] = (int)random_between(stream, 0, 255) - 128;
                s.memory[offset + i] = (uint8_t)s.integers[i];
                continue;
            }
            int u = (int)random_between(stream, 0, 15);
            s.integers[i] = u - (s.zero_points ? s.zero_points[group] : 8);
            s.memory[offset + i / 2] |= (uint8_t)(u << (i % 2 * 4));
        }
    s.matrix = (fb_matrix){.data = s.memory + offset, .rows = rows, .columns = columns};
    if (how->bias)
        s.matrix.bias = random_floats(stream, rows, 1.0f);
    s.quantized = (fb_quantized){.bits = how->bits,
                                 .group_size = group_size,
                                 .scales = s.scales,
                                 .zero_points = s.zero_points,
                                 .column_order = s.order};
    return s;
}

static void discard(stored *s) {
    free(s->memory);
    free(s->integers);
    free(s->scales);
    free(s->zero_points);
    free(s->order);
    free(s->matrix.bias);
}

/* Weights as floats in the order of the data. */
static float *weights_of(const stored *s) {
    size_t rows = s->matrix.rows, columns = s->matrix.columns;
    float *values = allocate(rows * columns, sizeof *values);
    for (size_t i = 0; i < rows * columns; i++) {
        size_t group = i / columns * s->groups + i % columns / s->quantized.group_size;
        values[i] = (float)((double)s->integers[i] * (double)s->scales[group]);
    }
    return values;
}

/* x in the order of the data. */
static float *ordered(const stored *s, const float *x, size_t num_rows) {
    size_t columns = s->matrix.columns;
    float *to = allocate(num_rows * columns, sizeof *to);
    for (size_t row = 0; row < num_rows; row++)
        for (size_t i = 0; i < columns; i++)
            to[row * columns + i] = x[row * columns + (s->order ? s->order[i] : i)];
    return to;
}

static float *multiply(const fb_matrix *matrix, const float *x, size_t num_rows, int threads) {
    fb_linear_scratch scratch = {0};
    fb_linear_input input = {x, num_rows};
    float *y = allocate(num_rows * matrix->rows, sizeof *y);
    fb_linear_output output = {matrix, y};
    cr_assert_eq(fb_set_num_threads(threads), FB_OK);
    cr_assert_eq(fb_linear(&scratch, &input, &output, 1), FB_OK, "%s", fb_error_message());
    fb_linear_scratch_free(&scratch);
    return y;
}

static const scheme schemes[] = {
    {8, 0, false, false, true},    {8, 32, false, true, false},  {8, 64, false, false, false},
    {8, 128, false, false, false}, {8, 256, false, false, true}, {8, 2048, false, false, false},
    {4, 0, false, false, false},   {4, 32, true, false, true},   {4, 64, false, true, false},
    {4, 128, true, false, false},  {4, 32, false, false, false}, {4, 128, false, true, true},
    {4, 1024, true, true, false},  {4, 0, true, false, false},   {4, 64, true, false, false},
};
enum { NUM_SCHEMES = sizeof schemes / sizeof *schemes };

static const shape shapes[] = {{1, 1, 2},    {4, 40, 512},  {70, 97, 34},
                               {7, 13, 546}, {3, 50, 2048}, {65, 31, 102},
                               {2, 9, 4738}, {32, 64, 576}, {5, 300, 128}};
enum { NUM_SHAPES = sizeof shapes / sizeof *shapes };

static const char *describe(char text[128], const scheme *how, const shape *size) {
    snprintf(text, 128, "%zu x %zu x %zu, %d bits, groups of %zu%s%s", size->num_rows, size->rows,
             size->columns, how->bits, how->group_size, how->zero_points ? ", zero points" : "",
             how->order ? ", ordered" : "");
    return text;
}

/* C13.1 */
Test(quantized, rows) {
    random_stream stream = random_named(1);
    const fb_kernels *kernels = NULL;
    cr_assert_eq(fb_kernels_current(&kernels), FB_OK);
    for (size_t i = 0; i < NUM_SCHEMES; i++) {
        const shape size = {1, 3, 1302};
        stored s = store(&stream, &schemes[i], &size, i % 3);
        float *values = weights_of(&s), *expected = allocate(size.columns, sizeof *expected);
        for (size_t column = 0; column < size.columns; column++)
            expected[s.order ? s.order[column] : column] = values[2 * size.columns + column];
        guarded row = guarded_new(size.columns, 0);
        s.matrix.quantized = &s.quantized;
        fb_matrix_row(kernels, &s.matrix, 2, row.data);
        char text[128];
        expect_same_bits(describe(text, &schemes[i], &size), row.data, expected, size.columns);
        guarded_check("row", &row);
        guarded_free(&row);
        free(values);
        free(expected);
        discard(&s);
    }
}

/* C13.2 */
Test(quantized, activations_in_float32) {
    random_stream stream = random_named(2);
    for (size_t i = 0; i < NUM_SCHEMES * NUM_SHAPES; i++) {
        const scheme *how = &schemes[i % NUM_SCHEMES];
        const shape *size = &shapes[i / NUM_SCHEMES];
        stored s = store(&stream, how, size, i % 3);
        s.matrix.quantized = &s.quantized;
        s.quantized.float_activations = true;
        float *x = random_floats(&stream, size->num_rows * size->columns, 1.0f);
        float *x_ordered = ordered(&s, x, size->num_rows), *values = weights_of(&s);
        fb_matrix wide = {
            .data = values, .rows = size->rows, .columns = size->columns, .bias = s.matrix.bias};
        float *expected = multiply(&wide, x_ordered, size->num_rows, 1);
        float *y = multiply(&s.matrix, x, size->num_rows, 2);
        char text[128];
        expect_same_bits(describe(text, how, size), y, expected, size->num_rows * size->rows);
        free(x);
        free(x_ordered);
        free(values);
        free(expected);
        free(y);
        discard(&s);
    }
}

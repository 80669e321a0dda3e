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

/* --- activations in 8 bits -------------------------------------------------------------------- */

/* A group of x by C13.3: its scale; its integers into q. In double and long arithmetic, where they
 * are exact before each rounding. */
static float quantized(const float *x, size_t count, int64_t *q) {
    double largest = 0;
    memset(q, 0, count * sizeof *q);
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(x[i]))
            return NAN;
        largest = fmax(largest, fabs((double)x[i]));
    }
    if (largest < 0x1p-100)
        return 0.0f;
    float reciprocal = (float)(127.0 / largest);
    for (size_t i = 0; i < count; i++)
        q[i] = (int64_t)nearbyint((double)(float)((double)x[i] * (double)reciprocal));
    return (float)(largest / 127.0);
}

/* One group's part in the eight sums of a segment (C13.4, C13.5). */
static void add_group(const stored *s, size_t row, size_t first, size_t count, const int64_t *q,
                      float x_scale, float c[8]) {
    const fb_quantized *how = &s->quantized;
    size_t columns = s->matrix.columns, group = first / how->group_size;
    float t = (float)((double)x_scale * (double)s->scales[row * s->groups + group]);
    int64_t sums[8] = {0};
    for (size_t i = 0; i < count; i++) {
        size_t byte = (first + i) * (size_t)how->bits / 8;
        sums[byte / 4 % 8] += q[i] * s->integers[row * columns + first + i];
    }
    bool half = how->bits == 4 && how->group_size == 32;
    for (size_t l = half ? first / 32 % 2 * 4 : 0, end = half ? l + 4 : 8; l < end; l++) {
        cr_assert_lt(llabs(sums[l]), 1 << 19);
        c[l] = fmaf((float)sums[l], t, c[l]);
    }
}

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

static float product(const stored *s, const float *x, size_t row) {
    enum { SEGMENT = 2048 };
    size_t columns = s->matrix.columns, of_weights = s->quantized.group_size;
    size_t group = of_weights == 32 || of_weights == 64 ? of_weights : 128;
    float y = 0;
    for (size_t begin = 0; begin < columns; begin += SEGMENT) {
        size_t end = least(begin + SEGMENT, columns);
        float c[8] = {0};
        for (size_t first = begin; first < end; first += group) {
            size_t count = least(group, end - first);
            int64_t q[128];
            float x_scale = quantized(x + first, count, q);
            add_group(s, row, first, count, q, x_scale, c);
        }
        y += ((c[0] + c[4]) + (c[2] + c[6])) + ((c[1] + c[5]) + (c[3] + c[7]));
    }
    return y + (s->matrix.bias ? s->matrix.bias[row] : 0.0f);
}

static float *product_of(const stored *s, const float *x, size_t num_rows) {
    float *in_order = ordered(s, x, num_rows);
    float *y = allocate(num_rows * s->matrix.rows, sizeof *y);
    for (size_t i = 0; i < num_rows; i++)
        for (size_t row = 0; row < s->matrix.rows; row++)
            y[i * s->matrix.rows + row] = product(s, in_order + i * s->matrix.columns, row);
    free(in_order);
    return y;
}

/* Ordinary numbers; in some rows awkward ones, in some groups only zeros. */
static float *random_x(random_stream *stream, size_t num_rows, size_t columns) {
    float *x = random_floats(stream, num_rows * columns, 1.0f);
    for (size_t i = 0; i < num_rows; i++) {
        size_t style = random_between(stream, 0, 5);
        for (size_t j = 0; j < columns && style < 2; j++)
            x[i * columns + j] = style == 0 ? random_awkward(stream) : x[i * columns + j] * 1e-33f;
        if (style == 2)
            memset(x + i * columns, 0, least(columns, 100) * sizeof *x);
        if (style == 3) /* halves: ties */
            for (size_t j = 0; j < columns; j++)
                x[i * columns + j] = 0.5f * (float)random_between(stream, 0, 254) - 63.5f;
    }
    return x;
}

/* With each instruction set and number of threads. */
static void expect_everywhere(const stored *s, const float *x, size_t num_rows,
                              const float *expected, const char *what) {
    fb_isa usual = FB_ISA_SCALAR;
    cr_assert_eq(fb_isa_current(&usual), FB_OK);
    for (fb_isa isa = FB_ISA_SCALAR; isa < FB_ISA_COUNT; isa++) {
        if (!fb_isa_supported(isa))
            continue;
        cr_assert_eq(fb_isa_select(isa), FB_OK);
        for (int threads = 1; threads <= 3; threads++) {
            char text[192];
            snprintf(text, sizeof text, "%s, %s, %d threads", what, fb_isa_name(isa), threads);
            float *y = multiply(&s->matrix, x, num_rows, threads);
            expect_same_bits(text, y, expected, num_rows * s->matrix.rows);
            free(y);
        }
    }
    cr_assert_eq(fb_isa_select(usual), FB_OK);
}

/* C13.3 to C13.6 */
Test(quantized, products_of_integers) {
    random_stream stream = random_named(3);
    for (size_t i = 0; i < NUM_SCHEMES * NUM_SHAPES; i++) {
        const scheme *how = &schemes[i % NUM_SCHEMES];
        const shape *size = &shapes[i / NUM_SCHEMES];
        stored s = store(&stream, how, size, i % 3);
        s.matrix.quantized = &s.quantized;
        float *x = random_x(&stream, size->num_rows, size->columns);
        float *expected = product_of(&s, x, size->num_rows);
        char text[128];
        expect_everywhere(&s, x, size->num_rows, expected, describe(text, how, size));
        free(x);
        free(expected);
        discard(&s);
    }
}

/* An infinity or a NaN reaches its row, and no other one. */
Test(quantized, not_finite) {
    random_stream stream = random_named(4);
    const shape size = {5, 20, 300};
    for (size_t i = 0; i < NUM_SCHEMES; i++) {
        stored s = store(&stream, &schemes[i], &size, 0);
        s.matrix.quantized = &s.quantized;
        float *x = random_floats(&stream, size.num_rows * size.columns, 1.0f);
        float *before = multiply(&s.matrix, x, size.num_rows, 1);
        x[2 * size.columns + random_between(&stream, 0, 299)] = i % 2 ? -INFINITY : NAN;
        float *after = multiply(&s.matrix, x, size.num_rows, 1);
        for (size_t row = 0; row < size.rows; row++)
            cr_assert(isnan(after[2 * size.rows + row]));
        expect_same_bits("rows before", after, before, 2 * size.rows);
        expect_same_bits("rows after", after + 3 * size.rows, before + 3 * size.rows,
                         2 * size.rows);
        free(x);
        free(before);
        free(after);
        discard(&s);
    }
}

/* Matrices of several kinds share an input. */
Test(quantized, mixed_outputs) {
    random_stream stream = random_named(5);
    const shape size = {6, 33, 640};
    enum { COUNT = 6 };
    const scheme mixed[COUNT] = {{8, 0, false, false, false},  {8, 128, false, false, true},
                                 {4, 32, true, false, false},  {4, 64, true, false, false},
                                 {8, 128, false, true, false}, {4, 128, false, false, false}};
    stored s[COUNT];
    fb_linear_output outputs[COUNT];
    float *x = random_floats(&stream, size.num_rows * size.columns, 1.0f);
    for (size_t i = 0; i < COUNT; i++) {
        s[i] = store(&stream, &mixed[i], &size, 0);
        s[i].matrix.quantized = &s[i].quantized;
        s[i].quantized.float_activations = i == 1;
        outputs[i] =
            (fb_linear_output){&s[i].matrix, allocate(size.num_rows * size.rows, sizeof(float))};
    }
    fb_linear_scratch scratch = {0};
    fb_linear_input input = {x, size.num_rows};
    cr_assert_eq(fb_linear(&scratch, &input, outputs, COUNT), FB_OK);
    fb_linear_scratch_free(&scratch);
    for (size_t i = 0; i < COUNT; i++) {
        float *alone = multiply(&s[i].matrix, x, size.num_rows, 2);
        expect_same_bits("together", outputs[i].y, alone, size.num_rows * size.rows);
        free(alone);
        free(outputs[i].y);
        discard(&s[i]);
    }
    free(x);
}

#include "model/linear_integer.h"

#include "simd/integers.h"

#include <string.h>

size_t fb_integer_group(const fb_quantized *weights) {
    return weights->group_size == 32 || weights->group_size == 64 ? weights->group_size : 128;
}

void fb_integer_pack(const fb_kernels *kernels, const fb_quantized *weights, const float *x,
                     size_t columns, fb_int_row *to) {
    kernels->quantize(&(fb_quantize_call){
        .x = x,
        .columns = columns,
        .group = fb_integer_group(weights),
        .bits = weights->bits,
        .to = to,
    });
}

static size_t divide_up(size_t a, size_t b) {
    return (a + b - 1) / b;
}

/* The scales of a segment: how many there are, where the first one is in a matrix's row, and how
 * many groups of x share one, as a power of two. */
typedef struct scale_range {
    size_t first, count, of_row;
    unsigned shift;
} scale_range;

static scale_range scales_of(const fb_matrix *matrix, size_t segment, size_t columns) {
    const fb_quantized *q = matrix->quantized;
    size_t of_row = divide_up(matrix->columns, q->group_size);
    if (of_row == 1) /* whatever its size */
        return (scale_range){.count = 1, .of_row = 1, .shift = 31};
    unsigned shift = 0;
    while (fb_integer_group(q) << shift < q->group_size)
        shift++;
    return (scale_range){
        .first = segment * FB_INT_COLUMNS / q->group_size,
        .count = divide_up(columns, q->group_size),
        .of_row = of_row,
        .shift = shift,
    };
}

/* Copies the last segment of some features, which kernels would read beyond its end. What comes
 * after it is multiplied with zeros. */
static void stage(const fb_integer_segment *part, const scale_range *range, size_t columns,
                  fb_int_dots_call *call, const void **weights, const float **scales,
                  const uint8_t **zero_points) {
    fb_integer_staging *to = part->staging;
    size_t bytes = columns * (size_t)call->bits / 8;
    size_t whole = fb_int_whole_columns(columns) * (size_t)call->bits / 8;
    for (size_t i = 0; i < part->outputs; i++) {
        memcpy(to->weights[i], weights[i], bytes);
        memset(to->weights[i] + bytes, 0, whole - bytes);
        memset(to->scales[i], 0, sizeof to->scales[i]);
        memcpy(to->scales[i], scales[i], range->count * sizeof **scales);
        memset(to->zero_points[i], 0, sizeof to->zero_points[i]);
        if (call->zero_points)
            memcpy(to->zero_points[i], zero_points[i], range->count);
        weights[i] = to->weights[i];
        scales[i] = to->scales[i];
        zero_points[i] = to->zero_points[i];
    }
}

void fb_integer_multiply(const fb_kernels *kernels, const fb_integer_segment *part) {
    const fb_matrix *matrix = part->matrix;
    const fb_quantized *q = matrix->quantized;
    const void *weights[FB_INT_OUTPUTS];
    const float *scales[FB_INT_OUTPUTS];
    const uint8_t *zero_points[FB_INT_OUTPUTS];
    size_t first = part->segment * FB_INT_COLUMNS, left = matrix->columns - first;
    size_t columns = left < FB_INT_COLUMNS ? left : FB_INT_COLUMNS;
    scale_range range = scales_of(matrix, part->segment, columns);
    for (size_t i = 0; i < part->outputs; i++) {
        size_t row = part->features[i];
        weights[i] =
            (const char *)matrix->data + (row * matrix->columns + first) * (size_t)q->bits / 8;
        scales[i] = q->scales + row * range.of_row + range.first;
        zero_points[i] = q->zero_points ? q->zero_points + row * range.of_row + range.first : NULL;
    }
    fb_int_dots_call call = {
        .x = part->x,
        .rows = part->rows,
        .weights = weights,
        .bits = q->bits,
        .outputs = part->outputs,
        .columns = fb_int_whole_columns(columns),
        .group = fb_integer_group(q),
        .scales = scales,
        .zero_points = q->zero_points ? zero_points : NULL,
        .scale_shift = range.shift,
        .next = part->next,
        .sums = part->sums,
    };
    if (call.columns > columns)
        stage(part, &range, columns, &call, weights, scales, zero_points);
    kernels->int_dots(&call);
}

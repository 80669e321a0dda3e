#include "bench/rounded_weights.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

enum { GROUP_OF_4 = 128 };

static const char *const names[] = {"stored", "w8", "w4"};

const char *fb_weight_bits_name(fb_weight_bits bits) {
    return names[bits];
}

fb_status fb_weight_bits_parse(const char *text, void *bits) {
    for (fb_weight_bits i = FB_WEIGHTS_STORED; i <= FB_WEIGHTS_4; i++)
        if (strcmp(text, names[i]) == 0) {
            *(fb_weight_bits *)bits = i;
            return FB_OK;
        }
    return fb_fail(FB_ERROR_ARGUMENT, "weights are '%s', expected stored, w8 or w4", text);
}

/* One matrix that is being rounded. */
typedef struct rounding {
    const fb_kernels *kernels;
    const fb_matrix *from;
    int bits;
    size_t group_size, groups;
    uint8_t *integers;
    float *scales;
    float *rows; /* [threads][columns] */
} rounding;

/* To the nearest of -max .. max steps, max * scale the largest magnitude. */
static void round_group(const rounding *r, const float *x, size_t row, size_t first, size_t count) {
    float largest = 0.0f;
    for (size_t i = 0; i < count; i++)
        largest = fmaxf(largest, fabsf(x[i]));
    float scale = largest / (r->bits == 8 ? 127.0f : 7.0f);
    r->scales[row * r->groups + first / r->group_size] = scale;
    for (size_t i = 0; i < count; i++) {
        int value = scale > 0.0f ? (int)lrintf(x[i] / scale) : 0;
        size_t at = row * r->from->columns + first + i;
        if (r->bits == 8)
            r->integers[at] = (uint8_t)value;
        else if (at % 2 == 0)
            r->integers[at / 2] = (uint8_t)(value + 8);
        else
            r->integers[at / 2] |= (uint8_t)((value + 8) << 4);
    }
}

static void round_rows(void *context, size_t first, size_t end, size_t worker) {
    const rounding *r = context;
    size_t columns = r->from->columns;
    float *x = r->rows + worker * columns;
    for (size_t row = first; row < end; row++) {
        fb_matrix_row(r->kernels, r->from, row, x);
        for (size_t at = 0; at < columns; at += r->group_size)
            round_group(r, x + at, row, at,
                        columns - at < r->group_size ? columns - at : r->group_size);
    }
}

static fb_status keep(fb_rounded_weights *own, size_t count, size_t size, void *block) {
    FB_TRY(fb_alloc(count, size, "weights", block));
    fb_status status = fb_buffer_append(&own->blocks, block, sizeof(void *));
    if (status != FB_OK)
        fb_free(*(void **)block);
    return status;
}

static fb_status round_matrix(fb_rounded_weights *own, int bits, fb_matrix *matrix) {
    size_t columns = matrix->columns;
    bool is_short = bits == 4 && columns > GROUP_OF_4;
    rounding r = {.from = matrix, .bits = bits, .group_size = is_short ? GROUP_OF_4 : columns};
    fb_quantized *quantized = NULL;
    r.groups = (columns + r.group_size - 1) / r.group_size;
    if (bits == 4 && columns % 2 != 0)
        return fb_fail(FB_ERROR_UNSUPPORTED, "w4: a matrix has %zu columns, an odd number",
                       columns);
    size_t threads = fb_parallel_threads();
    FB_TRY(fb_kernels_current(&r.kernels));
    FB_TRY(keep(own, matrix->rows * columns * (size_t)bits / 8, 1, &r.integers));
    FB_TRY(keep(own, matrix->rows * r.groups, sizeof *r.scales, &r.scales));
    FB_TRY(keep(own, 1, sizeof *quantized, &quantized));
    FB_TRY(fb_alloc(threads * columns, sizeof *r.rows, "rows of weights", &r.rows));
    fb_parallel_for(matrix->rows, 64, threads, round_rows, &r);
    fb_free(r.rows);
    *quantized = (fb_quantized){.bits = bits,
                                .group_size = r.group_size,
                                .scales = r.scales,
                                .float_activations = own->float_activations};
    matrix->data = r.integers;
    matrix->quantized = quantized;
    return FB_OK;
}

static size_t bytes_of(const fb_matrix *matrix) {
    const fb_quantized *q = matrix->quantized;
    size_t groups = (matrix->columns + q->group_size - 1) / q->group_size;
    return fb_matrix_bytes(matrix) + matrix->rows * groups * sizeof(float);
}

static fb_status round_and_count(fb_rounded_weights *own, int bits, fb_matrix *matrix,
                                 size_t *bytes) {
    if (!matrix->data)
        return FB_OK;
    FB_TRY(round_matrix(own, bits, matrix));
    *bytes += bytes_of(matrix);
    return FB_OK;
}

static fb_status round_mlp(fb_rounded_weights *own, int bits, fb_mlp_weights *mlp, size_t *bytes) {
    FB_TRY(round_and_count(own, bits, &mlp->gate, bytes));
    FB_TRY(round_and_count(own, bits, &mlp->up, bytes));
    return round_and_count(own, bits, &mlp->down, bytes);
}

/* Not a router's: it is small, and chooses. */
static fb_status round_all(fb_model *model, int bits, fb_rounded_weights *own) {
    fb_weights *weights = &model->weights;
    const void *embedding = weights->embedding.data;
    size_t bytes = 0;
    for (size_t i = 0; i < weights->num_layers; i++) {
        fb_layer_weights *layer = &weights->layers[i];
        fb_matrix *matrices[] = {&layer->q, &layer->k, &layer->v, &layer->o};
        for (size_t j = 0; j < sizeof matrices / sizeof *matrices; j++)
            FB_TRY(round_and_count(own, bits, matrices[j], &bytes));
        FB_TRY(round_mlp(own, bits, &layer->mlp, &bytes));
        for (size_t j = 0; layer->experts && j < model->config.num_experts; j++)
            FB_TRY(round_mlp(own, bits, &layer->experts[j], &bytes));
    }
    bool tied = weights->head.data == embedding;
    FB_TRY(round_and_count(own, 8, &weights->embedding, &bytes));
    if (tied)
        weights->head = weights->embedding;
    else
        FB_TRY(round_and_count(own, 8, &weights->head, &bytes));
    weights->num_bytes = bytes;
    return FB_OK;
}

fb_status fb_rounded_weights_set(fb_model *model, fb_weight_bits bits, fb_rounded_weights *own) {
    if (bits == FB_WEIGHTS_STORED)
        return FB_OK;
    return round_all(model, bits == FB_WEIGHTS_8 ? 8 : 4, own);
}

void fb_rounded_weights_free(fb_rounded_weights *own) {
    void **blocks = (void **)(void *)own->blocks.data;
    for (size_t i = 0; i < own->blocks.size / sizeof *blocks; i++)
        fb_free(blocks[i]);
    fb_buffer_free(&own->blocks);
    *own = (fb_rounded_weights){0};
}

#include "oracle/chunks.h"

#include "base/memory.h"

#include <math.h>
#include <string.h>

enum { MAX_CHUNKS = 512 };

size_t fb_chunk_width(const fb_trial *trial) {
    const fb_attention_problem *p = &trial->parts[0].read;
    size_t width = 16, values = trial->rows * (trial->dim + 2);
    while (width < 1024 && (p->keys / width > MAX_CHUNKS ||
                            (double)(p->keys / width) * (double)values * 16.0 > 3e7))
        width *= 2;
    bool fits = p->keys > width && p->keys <= width * MAX_CHUNKS;
    return fits && fb_attention_problem_whole(p) ? width : 0;
}

/* The sums before each chunk. */
static void sum_chunks(const fb_trial *trial, const fb_chunks *c) {
    const double *whole = trial->parts[c->part].m.lse;
    size_t rows = trial->rows, dim = trial->dim, values = rows * dim;
    memset(c->before, 0, values * sizeof(double));
    memset(c->weight, 0, rows * sizeof(double));
    for (size_t i = 0; i < c->count; i++)
        for (size_t row = 0; row < rows; row++) {
            double weight = exp(c->lse[i * rows + row] - whole[row]);
            c->weight[(i + 1) * rows + row] = c->weight[i * rows + row] + weight;
            for (size_t d = row * dim; d < (row + 1) * dim; d++)
                c->before[(i + 1) * values + d] =
                    c->before[i * values + d] + weight * c->out[i * values + d];
        }
}

fb_status fb_chunk_part(const fb_trial *trial, size_t part, size_t width, fb_chunks *c) {
    const fb_attention_problem *p = &trial->parts[part].read;
    size_t values = trial->rows * trial->dim, *index = NULL;
    c->part = part;
    c->width = width;
    c->count = (p->keys + width - 1) / width;
    FB_TRY(
        fb_alloc(2 * c->count + 1, (values + 2 * trial->rows) * sizeof(double), "tiles", &c->out));
    FB_TRY(fb_alloc(width, sizeof *index, "tiles", &index));
    c->lse = c->out + c->count * values;
    c->max = c->lse + c->count * trial->rows;
    c->before = c->max + c->count * trial->rows;
    c->weight = c->before + (c->count + 1) * values;
    fb_status status = FB_OK;
    for (size_t i = 0; i < c->count && status == FB_OK; i++) {
        size_t n = p->keys - i * width < width ? p->keys - i * width : width;
        for (size_t j = 0; j < n; j++)
            index[j] = i * width + j;
        const fb_variant variant = {.key_index = index,
                                    .value_index = index,
                                    .key_count = n,
                                    .max = c->max + i * trial->rows};
        status = fb_variant_attend(p, &variant, c->out + i * values, c->lse + i * trial->rows);
    }
    fb_free(index);
    if (status == FB_OK)
        sum_chunks(trial, c);
    return status;
}

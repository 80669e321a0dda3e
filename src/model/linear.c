#include "linear.h"

#include "error.h"
#include "kernels.h"
#include "memory.h"

#include <flashblock/runtime.h>

#include <cblas.h>
#include <omp.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
    /* A panel: 64 x 512 floats are 128 KiB, half of the smallest L2 cache in use; OpenBLAS's own
     * packed copy needs the rest. Up to 30 rows of x, such a product also stays below the size
     * (10^6 multiply-adds) to which OpenBLAS has kernels that do not pack at all on AVX-512. */
    PANEL_ROWS = 64,
    PANEL_COLUMNS = 512,
    /* A misaligned 16-bit row is moved here before it is widened. In floats. */
    STAGING = PANEL_COLUMNS / 2,
    THREAD_FLOATS = PANEL_ROWS * PANEL_COLUMNS + STAGING,
    /* Below this many multiply-adds, waking threads takes longer than the work. */
    WORTH_THREADS = 1 << 18,
    /* OpenBLAS has a fixed table of work buffers, at least 50, and ends the process without one. */
    MAX_THREADS = 48,
};

void fb_linear_scratch_free(fb_linear_scratch *scratch) {
    fb_free(scratch->panels);
    *scratch = (fb_linear_scratch){0};
}

void fb_linear_setup(void) {
    openblas_set_num_threads(1);
}

static fb_status reserve(fb_linear_scratch *scratch, size_t num_threads) {
    if (num_threads <= scratch->num_threads)
        return FB_OK;
    float *panels = NULL;
    FB_TRY(fb_alloc(num_threads * THREAD_FLOATS, sizeof *panels, "weight panels", &panels));
    fb_free(scratch->panels);
    *scratch = (fb_linear_scratch){panels, num_threads};
    return FB_OK;
}

/* Columns first .. first + count - 1 of one row of the matrix, as float32. */
static void widen_row(const fb_kernels *kernels, const fb_matrix *matrix, size_t row, size_t first,
                      size_t count, float *to, void *staging) {
    const unsigned char *from = matrix->data;
    from += (row * matrix->columns + first) * fb_dtype_size(matrix->dtype);
    if (matrix->dtype == FB_F32) {
        memcpy(to, from, count * sizeof *to);
        return;
    }
    const void *halves = from;
    if ((uintptr_t)from % sizeof(uint16_t) != 0)
        halves = memcpy(staging, from, count * sizeof(uint16_t));
    (matrix->dtype == FB_BF16 ? kernels->widen_bf16 : kernels->widen_f16)(halves, to, count);
}

void fb_matrix_row(const fb_kernels *kernels, const fb_matrix *matrix, size_t row, float *to) {
    float staging[STAGING];
    for (size_t first = 0; first < matrix->columns; first += PANEL_COLUMNS) {
        size_t left = matrix->columns - first;
        widen_row(kernels, matrix, row, first, left < PANEL_COLUMNS ? left : PANEL_COLUMNS,
                  to + first, staging);
    }
}

/* Part of a matrix as floats: rows at a stride, in the mapped file or in the thread's panel. */
typedef struct panel {
    const float *data;
    size_t stride;
} panel;

/* Rows of 512 weights lie far apart, and a hardware prefetcher that has to find each of them anew
 * reads at a quarter of the memory's speed: while one part of a row is used, the next is fetched
 * into the L2 cache. */
static void fetch_ahead(const fb_matrix *matrix, size_t row, size_t column) {
    enum { LINE = 64 };
    size_t left = matrix->columns - column, size = fb_dtype_size(matrix->dtype);
    size_t bytes = (left < PANEL_COLUMNS ? left : PANEL_COLUMNS) * size;
    const char *from = matrix->data;
    from += (row * matrix->columns + column) * size;
    for (size_t i = 0; i < bytes; i += LINE)
        __builtin_prefetch(from + i, 0, 2);
}

static panel panel_floats(const fb_kernels *kernels, const fb_matrix *matrix, size_t first_row,
                          size_t rows, size_t first_column, size_t columns, float *buffer) {
    bool as_stored = matrix->dtype == FB_F32 && (uintptr_t)matrix->data % sizeof(float) == 0;
    for (size_t row = 0; row < rows; row++) {
        fetch_ahead(matrix, first_row + row, first_column + columns);
        if (!as_stored)
            widen_row(kernels, matrix, first_row + row, first_column, columns,
                      buffer + row * PANEL_COLUMNS, buffer + PANEL_ROWS * PANEL_COLUMNS);
    }
    if (!as_stored)
        return (panel){buffer, PANEL_COLUMNS};
    const float *data = matrix->data;
    return (panel){data + first_row * matrix->columns + first_column, matrix->columns};
}

/* One panel of one output, for all groups of rows. */
typedef struct panel_job {
    const fb_kernels *kernels;
    const fb_linear_input *input;
    const fb_linear_output *output;
    size_t first_row, rows; /* of the matrix: columns of y */
    float *buffer;
} panel_job;

/* Adds the products with columns first .. first + columns - 1 to y, group by group. */
static void multiply_chunk(const panel_job *job, size_t first, size_t columns) {
    const fb_matrix *matrix = job->output->matrix;
    panel w =
        panel_floats(job->kernels, matrix, job->first_row, job->rows, first, columns, job->buffer);
    float beta = first == 0 && !matrix->bias ? 0.0f : 1.0f;
    const float *x = job->input->x + first;
    float *y = job->output->y + job->first_row;
    for (size_t g = 0; g < job->input->num_groups; g++) {
        size_t rows = job->input->group_rows[g];
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)job->rows,
                    (blasint)columns, 1.0f, x, (blasint)matrix->columns, w.data, (blasint)w.stride,
                    beta, y, (blasint)matrix->rows);
        x += rows * matrix->columns;
        y += rows * matrix->rows;
    }
}

static void multiply_panel(const panel_job *job) {
    const fb_matrix *matrix = job->output->matrix;
    float *y = job->output->y + job->first_row;
    if (matrix->bias)
        for (size_t i = 0; i < fb_linear_num_rows(job->input); i++)
            memcpy(y + i * matrix->rows, matrix->bias + job->first_row, job->rows * sizeof *y);
    for (size_t first = 0; first < matrix->columns; first += PANEL_COLUMNS) {
        size_t left = matrix->columns - first;
        multiply_chunk(job, first, left < PANEL_COLUMNS ? left : PANEL_COLUMNS);
    }
}

static size_t num_panels(const fb_matrix *matrix) {
    return (matrix->rows + PANEL_ROWS - 1) / PANEL_ROWS;
}

/* Panel number `index`, counted over all outputs. */
static void multiply_indexed(const fb_kernels *kernels, const fb_linear_input *input,
                             const fb_linear_output *outputs, size_t index, float *buffer) {
    while (index >= num_panels(outputs->matrix)) {
        index -= num_panels(outputs->matrix);
        outputs++;
    }
    size_t first = index * PANEL_ROWS, left = outputs->matrix->rows - first;
    panel_job job = {kernels, input, outputs, first, left < PANEL_ROWS ? left : PANEL_ROWS, buffer};
    multiply_panel(&job);
}

size_t fb_linear_num_rows(const fb_linear_input *input) {
    size_t rows = 0;
    for (size_t g = 0; g < input->num_groups; g++)
        rows += input->group_rows[g];
    return rows;
}

static size_t threads_for(size_t num_rows, size_t weights, size_t panels) {
    if (weights < WORTH_THREADS / num_rows)
        return 1;
    size_t threads = (size_t)fb_num_threads();
    threads = threads < MAX_THREADS ? threads : MAX_THREADS;
    return threads < panels ? threads : panels;
}

fb_status fb_linear(fb_linear_scratch *scratch, const fb_linear_input *input,
                    const fb_linear_output *outputs, size_t num_outputs) {
    size_t num_rows = fb_linear_num_rows(input), panels = 0, weights = 0;
    for (size_t i = 0; i < num_outputs; i++) {
        panels += num_panels(outputs[i].matrix);
        weights += outputs[i].matrix->rows * outputs[i].matrix->columns;
    }
    if (panels == 0 || num_rows == 0)
        return FB_OK;
    const fb_kernels *kernels = NULL;
    FB_TRY(fb_kernels_current(&kernels));
    size_t threads = threads_for(num_rows, weights, panels);
    FB_TRY(reserve(scratch, threads));
#pragma omp parallel for schedule(dynamic) num_threads((int)threads) if (threads > 1)
    for (size_t i = 0; i < panels; i++) {
        size_t thread = (size_t)omp_get_thread_num();
        multiply_indexed(kernels, input, outputs, i, scratch->panels + thread * THREAD_FLOATS);
    }
    return FB_OK;
}

#include "linear.h"

#include <cblas.h>
#include <stdint.h>
#include <string.h>

#include <flashblock/runtime.h>

#include "error.h"
#include "kernels.h"
#include "memory.h"

enum {
    /* A panel: 64 x 1024 floats are 256 KiB, half of a small L2 cache; OpenBLAS's own packed copy
     * needs the rest. A power of two of columns also keeps the sums' order simple: chunk after
     * chunk of 1024 inputs. */
    PANEL_ROWS = 64,
    PANEL_COLUMNS = 1024,
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

/* Part of a matrix as floats: rows at a stride, in the mapped file or in the thread's panel. */
typedef struct panel {
    const float *data;
    size_t stride;
} panel;

static panel panel_floats(const fb_kernels *kernels, const fb_matrix *matrix, size_t first_row,
                          size_t rows, size_t first_column, size_t columns, float *buffer) {
    if (matrix->dtype == FB_F32 && (uintptr_t)matrix->data % sizeof(float) == 0) {
        const float *data = matrix->data;
        return (panel){data + first_row * matrix->columns + first_column, matrix->columns};
    }
    for (size_t row = 0; row < rows; row++)
        widen_row(kernels, matrix, first_row + row, first_column, columns,
                  buffer + row * PANEL_COLUMNS, buffer + PANEL_ROWS * PANEL_COLUMNS);
    return (panel){buffer, PANEL_COLUMNS};
}

/* y[:, first_row .. first_row + rows - 1], whole: all chunks of columns, in order. */
static void multiply_panel(const fb_kernels *kernels, const float *x, size_t num_rows,
                           const fb_linear_output *output, size_t first_row, float *buffer) {
    const fb_matrix *matrix = output->matrix;
    size_t left = matrix->rows - first_row;
    size_t rows = left < PANEL_ROWS ? left : PANEL_ROWS;
    float *y = output->y + first_row;
    if (matrix->bias)
        for (size_t i = 0; i < num_rows; i++)
            memcpy(y + i * matrix->rows, matrix->bias + first_row, rows * sizeof *y);
    for (size_t first = 0; first < matrix->columns; first += PANEL_COLUMNS) {
        size_t rest = matrix->columns - first;
        size_t columns = rest < PANEL_COLUMNS ? rest : PANEL_COLUMNS;
        panel w = panel_floats(kernels, matrix, first_row, rows, first, columns, buffer);
        float beta = first == 0 && !matrix->bias ? 0.0f : 1.0f;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)num_rows, (blasint)rows,
                    (blasint)columns, 1.0f, x + first, (blasint)matrix->columns, w.data,
                    (blasint)w.stride, beta, y, (blasint)matrix->rows);
    }
}

static size_t num_panels(const fb_matrix *matrix) {
    return (matrix->rows + PANEL_ROWS - 1) / PANEL_ROWS;
}

/* Panel number `index`, counted over all outputs. */
static void multiply_indexed(const fb_kernels *kernels, const float *x, size_t num_rows,
                             const fb_linear_output *outputs, size_t index, float *buffer) {
    while (index >= num_panels(outputs->matrix)) {
        index -= num_panels(outputs->matrix);
        outputs++;
    }
    multiply_panel(kernels, x, num_rows, outputs, index * PANEL_ROWS, buffer);
}

static size_t threads_for(size_t num_rows, size_t weights, size_t panels) {
    if (weights < WORTH_THREADS / (num_rows + 1))
        return 1;
    size_t threads = (size_t)fb_num_threads();
    threads = threads < MAX_THREADS ? threads : MAX_THREADS;
    return threads < panels ? threads : panels;
}

fb_status fb_linear(fb_linear_scratch *scratch, const float *x, size_t num_rows,
                    const fb_linear_output *outputs, size_t num_outputs) {
    size_t panels = 0, weights = 0;
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
    float *next_buffer = scratch->panels;
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    {
        float *buffer = NULL;
#pragma omp atomic capture
        {
            buffer = next_buffer;
            next_buffer += THREAD_FLOATS;
        }
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < panels; i++)
            multiply_indexed(kernels, x, num_rows, outputs, i, buffer);
    }
    return FB_OK;
}

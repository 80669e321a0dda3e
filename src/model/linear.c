/* Products in units: a run of features (rows of weights) for a block of rows of x.
 *
 *   unit     -> chunks of features -> segments of columns -> groups of features: a kernel call
 *
 * Segments are of 512 columns and groups of at most 6 features where products are in float32, of
 * 2048 and at most 8 where they are in integers (linear_integer.h).
 *
 * How a kernel's operands stay close: a segment of a block of x is in the L2 cache, 6 rows of
 * weights of a segment (if need be, widened) are in the L1 cache while all rows of x pass by.
 *
 * With few rows of x all of x is in the L2 cache, and chunks are single groups: the weights are
 * read from their first byte to the last, which is how memory is fast. With more rows a chunk's
 * groups share a segment of x, and the chunk's weights come as they may: computing takes longer.
 *
 * Weights in place against weights packed for the kernel of scores, where a vector holds 16
 * features: that product needs no sum over a vector in the end, but a transposition of every weight
 * in every call, or a second copy of them all. A file whose pages come into memory while it is
 * mapped has huge pages on systems that can (src/io/file.c); pages of 4 KiB cost 10 to 15 %.
 */
#include "model/linear.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "model/linear_integer.h"
#include "simd/kernels.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
    GROUP = FB_DOT_OUTPUTS, /* features, at most */
    MOST_FEATURES = FB_INT_OUTPUTS,
    SEGMENT = FB_DOT_COLUMNS,
    BLOCK_ROWS = FB_DOT_ROWS,
    CHUNK_GROUPS = 16, /* features of a chunk that are neighbours: a cache line of y */
    /* x of at most so many floats, 256 KiB, stays in the L2 cache beside the weights' stream. */
    SMALL_X = 1 << 16,
    /* A thread's work area, in floats: weights that kernels widen, weights that kernels cannot read
     * where they are, 16-bit ones among them before they are widened, and sums. */
    WIDE = GROUP * SEGMENT,
    STAGING = SEGMENT / 2,
    SUMS = CHUNK_GROUPS * MOST_FEATURES * BLOCK_ROWS,
    THREAD_FLOATS = 2 * WIDE + STAGING + SUMS,
    /* Below this many multiply-adds, some 20 us of one thread, waking others is not worth while. */
    WORTH_THREADS = 1 << 20,
    UNITS_PER_THREAD = 8, /* enough to even out threads that are not equally fast */
};

static size_t divide_up(size_t a, size_t b) {
    return (a + b - 1) / b;
}

_Static_assert((int)FB_INT_ROWS == (int)BLOCK_ROWS, "a block is a kernel call's rows");
_Static_assert(sizeof(fb_integer_staging) <= 2 * WIDE * sizeof(float), "it is in the same place");

void fb_linear_scratch_free(fb_linear_scratch *scratch) {
    fb_free(scratch->x);
    fb_free(scratch->threads);
    *scratch = (fb_linear_scratch){0};
}

static fb_status reserve(fb_linear_scratch *scratch, size_t x_rows, size_t row_bytes,
                         size_t num_threads) {
    if (x_rows * row_bytes > scratch->x_bytes) {
        fb_free(scratch->x);
        scratch->x = NULL;
        scratch->x_bytes = 0;
        FB_TRY(fb_alloc(x_rows, row_bytes, "rows of a linear layer", &scratch->x));
        scratch->x_bytes = x_rows * row_bytes;
    }
    if (num_threads > scratch->num_threads) {
        fb_free(scratch->threads);
        scratch->threads = NULL;
        scratch->num_threads = 0;
        FB_TRY(fb_alloc(num_threads, THREAD_FLOATS * sizeof *scratch->threads,
                        "work areas of linear layers", &scratch->threads));
        scratch->num_threads = num_threads;
    }
    return FB_OK;
}

/* --- weights ---------------------------------------------------------------------------------- */

const char *fb_matrix_type_name(const fb_matrix *matrix) {
    if (matrix->quantized)
        return matrix->quantized->bits == 8 ? "int8" : "int4";
    return fb_dtype_name(matrix->dtype);
}

size_t fb_matrix_bytes(const fb_matrix *matrix) {
    size_t elements = matrix->rows * matrix->columns;
    if (matrix->quantized)
        return elements * (size_t)matrix->quantized->bits / 8;
    return elements * fb_dtype_size(matrix->dtype);
}

/* Columns first .. first + count - 1 of one row, in the order of the data (contract C13.1). */
static void dequantize_row(const fb_matrix *matrix, size_t row, size_t first, size_t count,
                           float *to) {
    const fb_quantized *q = matrix->quantized;
    size_t groups = divide_up(matrix->columns, q->group_size);
    const float *scales = q->scales + row * groups;
    const int8_t *bytes = (const int8_t *)matrix->data + row * matrix->columns;
    const uint8_t *halves = (const uint8_t *)matrix->data + row * (matrix->columns / 2);
    for (size_t i = 0; i < count; i++) {
        size_t column = first + i, group = column / q->group_size;
        int value = 0;
        if (q->bits == 8)
            value = q->excess ? (int)(uint8_t)bytes[column] - 128 : bytes[column];
        else
            value = (halves[column / 2] >> (column % 2 * 4) & 15) -
                    (q->zero_points ? q->zero_points[row * groups + group] : 8);
        to[i] = (float)value * scales[group];
    }
}

/* Columns first .. first + count - 1 of one row of the matrix, as float32. `staging` has room for
 * count halves. */
static void widen_row(const fb_kernels *kernels, const fb_matrix *matrix, size_t row, size_t first,
                      size_t count, float *to, void *staging) {
    if (matrix->quantized) {
        dequantize_row(matrix, row, first, count, to);
        return;
    }
    const void *from =
        (const char *)matrix->data + (row * matrix->columns + first) * fb_dtype_size(matrix->dtype);
    if (matrix->dtype == FB_F32) {
        memcpy(to, from, count * sizeof *to);
        return;
    }
    if ((uintptr_t)from % sizeof(uint16_t) != 0)
        from = memcpy(staging, from, count * sizeof(uint16_t));
    (matrix->dtype == FB_BF16 ? kernels->widen_bf16 : kernels->widen_f16)(from, to, count);
}

static const uint32_t *column_order(const fb_matrix *matrix) {
    return matrix->quantized ? matrix->quantized->column_order : NULL;
}

void fb_matrix_row(const fb_kernels *kernels, const fb_matrix *matrix, size_t row, float *to) {
    float staging[STAGING], values[SEGMENT];
    const uint32_t *order = column_order(matrix);
    for (size_t first = 0; first < matrix->columns; first += SEGMENT) {
        size_t left = matrix->columns - first, count = left < SEGMENT ? left : SEGMENT;
        widen_row(kernels, matrix, row, first, count, order ? values : to + first, staging);
        for (size_t i = 0; order && i < count; i++)
            to[order[first + i]] = values[i];
    }
}

/* --- the input -------------------------------------------------------------------------------- */

/* One call of fb_linear. Rows are cut into blocks as even as can be. */
typedef struct linear_call {
    const fb_kernels *kernels;
    const fb_linear_input *input;
    const fb_linear_output *outputs;
    size_t num_outputs;
    size_t columns, num_segments;
    size_t num_blocks;
    size_t unit_features, group_features;
    bool row_by_row; /* a group's segments one after the other, not a segment's groups */
    const fb_quantized *quantized; /* NULL: no output's weights are */
    bool integers;
    size_t segment;   /* columns */
    size_t row_bytes; /* of a row of x in a segment: float [SEGMENT], or an fb_int_row */
    char *x;          /* [blocks][segments][rows of the block], each of row_bytes */
} linear_call;

static size_t first_row(const linear_call *call, size_t block) {
    return block * call->input->num_rows / call->num_blocks;
}

static size_t segment_columns(const linear_call *call, size_t segment) {
    size_t left = call->columns - segment * call->segment;
    return left < call->segment ? left : call->segment;
}

/* Columns of a segment, continued with zeros. */
static size_t whole_columns(size_t columns) {
    return divide_up(columns, FB_DOT_STEP) * FB_DOT_STEP;
}

static char *block_x(const linear_call *call, size_t block, size_t segment) {
    size_t begin = first_row(call, block), rows = first_row(call, block + 1) - begin;
    return call->x + (begin * call->num_segments + segment * rows) * call->row_bytes;
}

/* A segment of a row of x in the order of the data: where it is, or in `values`. */
static const float *in_order(const linear_call *call, size_t row, size_t segment, float *values) {
    const float *x = call->input->x + row * call->columns;
    size_t first = segment * call->segment, columns = segment_columns(call, segment);
    const uint32_t *order = call->quantized ? call->quantized->column_order : NULL;
    if (!order)
        return x + first;
    for (size_t i = 0; i < columns; i++)
        values[i] = x[order[first + i]];
    return values;
}

/* One segment of a block of x: rows at a stride of SEGMENT, whatever x's own is. A power of two
 * there would put a few rows into the same lines of the L1 cache. */
static void pack_segment(const linear_call *call, size_t block, size_t segment) {
    size_t columns = segment_columns(call, segment), whole = whole_columns(columns);
    char *place = block_x(call, block, segment);
    float values[FB_INT_COLUMNS];
    for (size_t row = first_row(call, block); row < first_row(call, block + 1); row++) {
        const float *from = in_order(call, row, segment, values);
        if (call->integers) {
            fb_integer_pack(call->kernels, call->quantized, from, columns, (void *)place);
        } else {
            float *to = (void *)place;
            memcpy(to, from, columns * sizeof *to);
            memset(to + columns, 0, (whole - columns) * sizeof *to);
        }
        place += call->row_bytes;
    }
}

/* --- units ------------------------------------------------------------------------------------ */

typedef struct unit {
    const linear_call *call;
    const fb_matrix *matrix;
    float *y;                  /* [rows of the block, matrix->rows] */
    const char *x;             /* of the block, see linear_call */
    size_t rows;               /* of the block */
    size_t first_feature, end; /* of the matrix */
    size_t num_groups;
    size_t segment_bytes, row_bytes; /* of the weights */
    size_t in_place;       /* columns up to which kernels can read the weights where they are */
    float *wide, *weights; /* [GROUP][SEGMENT] each */
    float *staging;        /* [STAGING] */
    float *sums;           /* [CHUNK_GROUPS][MOST_FEATURES][BLOCK_ROWS] */
    fb_integer_staging *integers;
} unit;

/* Where a unit is. */
typedef struct place {
    size_t group, segment;
} place;

/* Whether kernels can read a segment of the weights where it is. */
static bool readable(const unit *u, size_t segment) {
    size_t end = (segment + 1) * u->call->segment;
    return (end < u->call->columns ? end : u->call->columns) <= u->in_place;
}

/* A group takes its features from equal parts of the unit, and the next group their neighbours: the
 * weights are read as three or six long streams. (As streams that end with every row, f32 weights
 * take 1.3 times as long for four rows of x.) */
static size_t feature_at(const unit *u, const place *at, size_t index) {
    return u->first_feature + at->group + index * u->num_groups;
}

/* A place beyond the last feature reads the last feature's weights; its sums are not used. */
static size_t feature_or_last(const unit *u, const place *at, size_t index) {
    size_t feature = feature_at(u, at, index);
    return feature < u->end ? feature : u->end - 1;
}

/* A group's rows of weights. */
static void point_to_weights(const unit *u, const place *at, const void *weights[MOST_FEATURES]) {
    for (size_t i = 0; i < u->call->group_features; i++)
        weights[i] = (const char *)u->matrix->data + feature_or_last(u, at, i) * u->row_bytes +
                     at->segment * u->segment_bytes;
}

static void widen_weights(const unit *u, const place *at, const void *weights[GROUP]) {
    size_t columns = segment_columns(u->call, at->segment), whole = whole_columns(columns);
    for (size_t i = 0; i < u->call->group_features; i++) {
        float *to = u->weights + i * SEGMENT;
        widen_row(u->call->kernels, u->matrix, feature_or_last(u, at, i), at->segment * SEGMENT,
                  columns, to, u->staging);
        memset(to + columns, 0, (whole - columns) * sizeof *to);
        weights[i] = to;
    }
}

static void multiply_floats(const unit *u, const place *at, const void *const *next, float *sums) {
    const void *weights[MOST_FEATURES];
    bool in_place = readable(u, at->segment);
    if (in_place)
        point_to_weights(u, at, weights);
    else
        widen_weights(u, at, weights);
    size_t columns = whole_columns(segment_columns(u->call, at->segment));
    const fb_kernels *kernels = u->call->kernels;
    fb_dots_fn *const *dots = u->rows <= FB_FEW_ROWS ? kernels->few_dots : kernels->dots;
    dots[in_place ? u->matrix->dtype : FB_F32](&(fb_dots_call){
        .x = (const void *)(u->x + at->segment * u->rows * u->call->row_bytes),
        .rows = u->rows,
        .weights = weights,
        .outputs = u->call->group_features,
        .columns = columns,
        .wide = u->wide,
        .next = next,
        .sums = sums,
    });
}

static void multiply_integers(const unit *u, const place *at, const void *const *next,
                              float *sums) {
    size_t features[MOST_FEATURES];
    for (size_t i = 0; i < u->call->group_features; i++)
        features[i] = feature_or_last(u, at, i);
    fb_integer_multiply(u->call->kernels,
                        &(fb_integer_segment){
                            .matrix = u->matrix,
                            .features = features,
                            .outputs = u->call->group_features,
                            .segment = at->segment,
                            .x = (const void *)(u->x + at->segment * u->rows * u->call->row_bytes),
                            .rows = u->rows,
                            .next = next,
                            .staging = u->integers,
                            .sums = sums,
                        });
}

/* `next` is the place whose weights to fetch, or NULL. sums  [group_features][rows, see fb_dots_fn]
 */
static void multiply_group(const unit *u, const place *at, const place *next, float *sums) {
    const void *fetched[MOST_FEATURES];
    bool fetches = next && readable(u, next->segment);
    if (fetches)
        point_to_weights(u, next, fetched);
    (u->call->integers ? multiply_integers : multiply_floats)(u, at, fetches ? fetched : NULL,
                                                              sums);
}

/* The sums of groups begin .. end-1, features in runs of neighbours: y's rows may be far apart, and
 * one feature at a time would touch every cache line of y many times. */
static void give_chunk(const unit *u, size_t begin, size_t end) {
    const float *bias = u->matrix->bias;
    size_t stride = fb_dot_stride(u->rows), of_group = u->call->group_features * stride;
    for (size_t i = 0; i < u->call->group_features; i++) {
        place at = {begin, 0};
        size_t first = feature_at(u, &at, i), left = first < u->end ? u->end - first : 0;
        size_t count = left < end - begin ? left : end - begin;
        for (size_t row = 0; row < u->rows; row++) {
            const float *sums = u->sums + i * stride + row;
            float *y = u->y + row * u->matrix->rows + first;
            for (size_t group = 0; group < count; group++)
                y[group] = sums[group * of_group] + (bias ? bias[first + group] : 0.0f);
        }
    }
}

/* The place after a place in the chunk of groups begin .. end-1, or after the first place of the
 * next chunk. */
static place place_after(const unit *u, place at, size_t begin, size_t end) {
    if (u->call->row_by_row) {
        if (++at.segment < u->call->num_segments)
            return at;
        return (place){at.group + 1, 0};
    }
    if (++at.group < end)
        return at;
    if (at.group > end) /* of the next chunk */
        return at;
    if (++at.segment < u->call->num_segments)
        return (place){begin, at.segment};
    return (place){end, 0};
}

/* Groups begin .. end-1. Weights are fetched two places ahead: one place is over before memory
 * answers. */
static void multiply_chunk(const unit *u, size_t begin, size_t end) {
    size_t of_group = u->call->group_features * fb_dot_stride(u->rows);
    memset(u->sums, 0, (end - begin) * of_group * sizeof *u->sums);
    for (place at = {begin, 0}, next = place_after(u, at, begin, end), fetched; at.group < end;
         at = next, next = fetched) {
        fetched = place_after(u, next, begin, end);
        multiply_group(u, &at, fetched.group < u->num_groups ? &fetched : NULL,
                       u->sums + (at.group - begin) * of_group);
    }
    give_chunk(u, begin, end);
}

static void multiply_unit(const unit *u) {
    for (size_t begin = 0, end; begin < u->num_groups; begin = end) {
        size_t left = u->num_groups - begin;
        end = begin + (left < CHUNK_GROUPS ? left : CHUNK_GROUPS);
        multiply_chunk(u, begin, end);
    }
}

static size_t num_units(const linear_call *call, const fb_matrix *matrix) {
    return divide_up(matrix->rows, call->unit_features) * call->num_blocks;
}

/* Columns of each row of weights up to which kernels can read them where they are. */
static size_t columns_in_place(const fb_matrix *matrix) {
    if (fb_is_integer(matrix))
        return matrix->columns / FB_INT_STEP * FB_INT_STEP;
    if (matrix->quantized || (uintptr_t)matrix->data % fb_dtype_size(matrix->dtype) != 0)
        return 0;
    return matrix->columns / FB_DOT_STEP * FB_DOT_STEP;
}

/* From a segment of a row of weights to the next one. */
static size_t segment_bytes(const linear_call *call, const fb_matrix *matrix) {
    if (call->integers)
        return call->segment * (size_t)matrix->quantized->bits / 8;
    return call->segment * fb_dtype_size(matrix->dtype);
}

/* Unit number `index`, counted over all outputs; neighbours share their weights. */
static void multiply_indexed(const linear_call *call, size_t index, float *area) {
    const fb_linear_output *output = call->outputs;
    for (; index >= num_units(call, output->matrix); output++)
        index -= num_units(call, output->matrix);
    const fb_matrix *matrix = output->matrix;
    size_t block = index % call->num_blocks, row = first_row(call, block);
    size_t first = index / call->num_blocks * call->unit_features;
    size_t left = matrix->rows - first;
    size_t features = left < call->unit_features ? left : call->unit_features;
    unit u = {
        .call = call,
        .matrix = matrix,
        .y = output->y + row * matrix->rows,
        .x = block_x(call, block, 0),
        .rows = first_row(call, block + 1) - row,
        .first_feature = first,
        .end = first + features,
        .num_groups = divide_up(features, call->group_features),
        .segment_bytes = segment_bytes(call, matrix),
        .row_bytes = fb_matrix_bytes(matrix) / matrix->rows,
        .in_place = columns_in_place(matrix),
        .wide = area,
        .weights = area + WIDE,
        .integers = (void *)area,
        .sums = area + 2 * WIDE,
        .staging = area + 2 * WIDE + SUMS,
    };
    multiply_unit(&u);
}

/* --- calls ------------------------------------------------------------------------------------ */

/* Features of all outputs together. */
static size_t num_features(const linear_call *call) {
    size_t features = 0;
    for (size_t i = 0; i < call->num_outputs; i++)
        features += call->outputs[i].matrix->rows;
    return features;
}

static size_t threads_for(const linear_call *call) {
    if (call->columns * num_features(call) < WORTH_THREADS / call->input->num_rows)
        return 1;
    return fb_parallel_threads();
}

/* The cuts change no bit of the result: they may depend on the number of threads. */
static void cut(linear_call *call, size_t threads) {
    size_t num_rows = call->input->num_rows;
    call->num_segments = divide_up(call->columns, call->segment);
    call->num_blocks = divide_up(num_rows, BLOCK_ROWS);
    call->row_by_row = num_rows * call->columns <= SMALL_X;
    if (call->integers)
        call->group_features = call->row_by_row ? call->kernels->int_outputs : MOST_FEATURES;
    else
        call->group_features = call->row_by_row ? call->kernels->dot_outputs : GROUP;
    size_t units = divide_up(threads * UNITS_PER_THREAD, call->num_blocks);
    size_t step = CHUNK_GROUPS * (call->integers ? MOST_FEATURES : GROUP);
    call->unit_features = divide_up(divide_up(num_features(call), units), step) * step;
}

typedef struct shared {
    const linear_call *call;
    float *areas; /* of THREAD_FLOATS, one for each thread */
} shared;

static void pack_segments(void *context, size_t first, size_t end, size_t worker) {
    const linear_call *call = ((const shared *)context)->call;
    (void)worker;
    for (size_t i = first; i < end; i++)
        pack_segment(call, i / call->num_segments, i % call->num_segments);
}

static void multiply_units(void *context, size_t first, size_t end, size_t worker) {
    const shared *s = context;
    for (size_t i = first; i < end; i++)
        multiply_indexed(s->call, i, s->areas + worker * THREAD_FLOATS);
}

/* One parallel loop for few rows: each is a place where threads wait for each other, and on a busy
 * machine for one that has no CPU. */
static void run(const linear_call *call, size_t units, size_t threads, float *areas) {
    bool is_small = call->input->num_rows * call->columns <= SMALL_X;
    shared s = {call, areas};
    fb_parallel_for(call->num_blocks * call->num_segments, 0, is_small ? 1 : threads, pack_segments,
                    &s);
    fb_parallel_for(units, 1, threads, multiply_units, &s);
}

/* Outputs that share the packed input. */
static fb_status multiply(fb_linear_scratch *scratch, const fb_linear_input *input,
                          const fb_linear_output *outputs, size_t num_outputs) {
    const fb_matrix *first = outputs[0].matrix;
    bool integers = fb_is_integer(first);
    linear_call call = {
        .input = input,
        .outputs = outputs,
        .num_outputs = num_outputs,
        .columns = first->columns,
        .quantized = first->quantized,
        .integers = integers,
        .segment = integers ? FB_INT_COLUMNS : SEGMENT,
        .row_bytes = integers ? sizeof(fb_int_row) : SEGMENT * sizeof(float),
    };
    FB_TRY(fb_kernels_current(&call.kernels));
    size_t threads = threads_for(&call), units = 0;
    cut(&call, threads);
    for (size_t i = 0; i < num_outputs; i++)
        units += num_units(&call, outputs[i].matrix);
    threads = threads < units ? threads : units;
    FB_TRY(reserve(scratch, input->num_rows * call.num_segments, call.row_bytes, threads));
    call.x = scratch->x;
    run(&call, units, threads, scratch->threads);
    return FB_OK;
}

/* Whether two matrices take the same packed input. */
static bool share_input(const fb_matrix *a, const fb_matrix *b) {
    const fb_quantized *p = a->quantized, *q = b->quantized;
    if (column_order(a) != column_order(b) || fb_is_integer(a) != fb_is_integer(b))
        return false;
    return !fb_is_integer(a) || (p->bits == q->bits && fb_integer_group(p) == fb_integer_group(q));
}

fb_status fb_linear(fb_linear_scratch *scratch, const fb_linear_input *input,
                    const fb_linear_output *outputs, size_t num_outputs) {
    if (input->num_rows == 0)
        return FB_OK;
    for (size_t first = 0, end = 0; first < num_outputs; first = end) {
        while (end < num_outputs && share_input(outputs[first].matrix, outputs[end].matrix))
            end++;
        FB_TRY(multiply(scratch, input, outputs + first, end - first));
    }
    return FB_OK;
}

#include "bench/kernel_cases.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/inputs.h"

#include <flashblock/attention.h>

#include <math.h>

/* Sizes of a run. Attention takes one chunk of keys, or four side by side where rows are few, as
 * its driver does. */
enum {
    TILE_GROUPS = FB_TILE_KEYS / FB_GROUP_KEYS,
    CHUNK_TILES = FB_CHUNK_KEYS / FB_TILE_KEYS,
    CACHED_TILES = 4, /* 128 KiB of f32: in the L2 cache */
    DOT_CALLS = 64,
    INT_CALLS = 16,   /* of FB_INT_OUTPUTS rows of weights */
    INT_GROUP = 128,  /* columns of x that share a scale */
    SMALL_CALLS = 64, /* of the kernels that take a row or a group */
    HEAD_DIM = 128,
    ELEMENTS = 1024,                         /* that widen and exp take at once */
    DOT_WIDE = FB_DOT_OUTPUTS * FB_DOT_ROWS, /* after the sums */
};

/* In memory, scores and values take turns, as they do in attention: each fetches what the other one
 * reads. Such a case stands with the scores. */
#define IN_MEMORY(DTYPE, ROWS)                                                                     \
    { FB_KERNEL_SCORES + DTYPE, DTYPE, ROWS, HEAD_DIM, true, FB_KERNEL_PRODUCT, 0 }
#define PRODUCTS(KERNEL, DTYPE)                                                                    \
    {KERNEL + DTYPE, DTYPE, 16, HEAD_DIM, false, FB_KERNEL_PRODUCT, 0},                            \
        {KERNEL + DTYPE, DTYPE, 32, HEAD_DIM, false, FB_KERNEL_PRODUCT, 0},                        \
        {KERNEL + DTYPE, DTYPE, 48, HEAD_DIM, false, FB_KERNEL_PRODUCT, 0}, {                      \
        KERNEL + DTYPE, DTYPE, 32, HEAD_DIM / 2, false, FB_KERNEL_PRODUCT, 0                       \
    }
#define DOTS(DTYPE)                                                                                \
    {FB_KERNEL_FEW_DOTS + DTYPE, DTYPE, FB_FEW_ROWS, FB_DOT_COLUMNS, true, FB_KERNEL_PRODUCT, 0},  \
        {FB_KERNEL_DOTS, DTYPE, 8, FB_DOT_COLUMNS, true, FB_KERNEL_PRODUCT, 0},                    \
        {FB_KERNEL_DOTS, DTYPE, 16, FB_DOT_COLUMNS, true, FB_KERNEL_PRODUCT, 0}, {                 \
        FB_KERNEL_DOTS, DTYPE, 32, FB_DOT_COLUMNS, true, FB_KERNEL_PRODUCT, 0                      \
    }
#define INT_DOTS(BITS)                                                                             \
    {FB_KERNEL_INT_DOTS, FB_F32, 4, FB_INT_COLUMNS, true, FB_KERNEL_READING, BITS}, {              \
        FB_KERNEL_INT_DOTS, FB_F32, 32, FB_INT_COLUMNS, true, FB_KERNEL_READING, BITS              \
    }

#define INT_PRODUCTS(KERNEL)                                                                       \
    {KERNEL, FB_INT8, 16, HEAD_DIM, false, FB_KERNEL_ELEMENTS, 0},                                 \
        {KERNEL, FB_INT8, 32, HEAD_DIM, false, FB_KERNEL_ELEMENTS, 0}, {                           \
        KERNEL, FB_INT8, 48, HEAD_DIM, false, FB_KERNEL_ELEMENTS, 0                                \
    }

const fb_kernel_case fb_kernel_cases[] = {
    IN_MEMORY(FB_F32, 4),
    IN_MEMORY(FB_F32, 16),
    IN_MEMORY(FB_BF16, 4),
    IN_MEMORY(FB_BF16, 16),
    IN_MEMORY(FB_F16, 4),
    IN_MEMORY(FB_F16, 16),
    PRODUCTS(FB_KERNEL_SCORES, FB_F32),
    PRODUCTS(FB_KERNEL_SCORES, FB_BF16),
    PRODUCTS(FB_KERNEL_SCORES, FB_F16),
    PRODUCTS(FB_KERNEL_VALUES, FB_F32),
    PRODUCTS(FB_KERNEL_VALUES, FB_BF16),
    PRODUCTS(FB_KERNEL_VALUES, FB_F16),
    {FB_KERNEL_SOFTMAX, FB_F32, 16, FB_TILE_KEYS, false, FB_KERNEL_ELEMENTS, 0},
    {FB_KERNEL_SOFTMAX, FB_F32, 48, FB_TILE_KEYS, false, FB_KERNEL_ELEMENTS, 0},
    DOTS(FB_F32),
    DOTS(FB_BF16),
    DOTS(FB_F16),
    INT_DOTS(8),
    INT_DOTS(4),
    {FB_KERNEL_INT_SCORES, FB_INT8, 4, HEAD_DIM, true, FB_KERNEL_READING, 0},
    {FB_KERNEL_INT_SCORES, FB_INT8, 16, HEAD_DIM, true, FB_KERNEL_READING, 0},
    INT_PRODUCTS(FB_KERNEL_INT_SCORES),
    INT_PRODUCTS(FB_KERNEL_INT_VALUES),
    {FB_KERNEL_TRANSPOSE, FB_F32, 0, HEAD_DIM, false, FB_KERNEL_ELEMENTS, 0},
    {FB_KERNEL_TRANSPOSE + FB_BF16, FB_BF16, 0, HEAD_DIM, false, FB_KERNEL_ELEMENTS, 0},
    {FB_KERNEL_TRANSPOSE + FB_F16, FB_F16, 0, HEAD_DIM, false, FB_KERNEL_ELEMENTS, 0},
    {FB_KERNEL_MERGE_ROW, FB_F32, 0, HEAD_DIM, false, FB_KERNEL_ELEMENTS, 0},
    {FB_KERNEL_DIVIDE_ROW, FB_F32, 0, HEAD_DIM, false, FB_KERNEL_ELEMENTS, 0},
    {FB_KERNEL_WIDEN_BF16, FB_BF16, 0, ELEMENTS, false, FB_KERNEL_ELEMENTS, 0},
    {FB_KERNEL_WIDEN_F16, FB_F16, 0, ELEMENTS, false, FB_KERNEL_ELEMENTS, 0},
    {FB_KERNEL_EXP, FB_F32, 0, ELEMENTS, false, FB_KERNEL_ELEMENTS, 0},
};
const size_t fb_num_kernel_cases = sizeof fb_kernel_cases / sizeof fb_kernel_cases[0];

fb_status fb_kernel_data_create(fb_kernel_data *data, const fb_limits *limits) {
    const size_t row_floats = FB_DOT_ROWS * FB_DOT_COLUMNS; /* the largest of all A operands */
    const size_t score_floats = FB_STREAMS * FB_MAX_ROWS * FB_SCORE_STRIDE;
    const size_t out_floats = FB_STREAMS * FB_MAX_ROWS * HEAD_DIM;
    *data = (fb_kernel_data){.memory = limits->buffer, .bytes = limits->bytes};
    FB_TRY(fb_alloc(row_floats, sizeof(float), "rows", &data->rows));
    FB_TRY(fb_alloc(score_floats, sizeof(float), "scores", &data->scores));
    FB_TRY(fb_alloc(row_floats, sizeof(float), "weights", &data->weights));
    FB_TRY(fb_alloc_zeroed(out_floats, sizeof(float), "results", &data->out));
    fb_input_normals(1, "rows", 1, data->rows, row_floats);
    fb_input_normals(1, "scores", 1, data->scores, score_floats);
    for (size_t i = 0; i < row_floats; i++)
        data->weights[i] = fabsf(data->rows[i]);
    for (size_t i = 0; i < score_floats; i++) /* what softmax takes, and what exp takes */
        data->scores[i] = -fabsf(3 * data->scores[i]);
    return FB_OK;
}

void fb_kernel_data_free(fb_kernel_data *data) {
    fb_free(data->rows);
    fb_free(data->weights);
    fb_free(data->scores);
    fb_free(data->out);
    *data = (fb_kernel_data){0};
}

const char *fb_kernel_case_type(const fb_kernel_case *what) {
    return what->bits == 8 ? "int8" : what->bits == 4 ? "int4" : fb_dtype_name(what->dtype);
}

/* ---- the size of a run ---- */

static bool is_int_attention(const fb_kernel_case *what) {
    return what->kernel == FB_KERNEL_INT_SCORES || what->kernel == FB_KERNEL_INT_VALUES;
}

static bool is_attention(const fb_kernel_case *what) {
    return what->kernel < FB_KERNEL_TRANSPOSE || is_int_attention(what);
}

bool fb_kernel_takes_turns(const fb_kernel_case *what) {
    return is_attention(what) && what->in_memory;
}

static bool is_dots(const fb_kernel_case *what) {
    return what->kernel >= FB_KERNEL_DOTS && what->kernel < FB_KERNEL_INT_DOTS;
}

static size_t streams_of(const fb_kernel_case *what) {
    return what->rows <= FB_STREAM_ROWS ? FB_STREAMS : 1;
}

static size_t tiles_of(const fb_kernel_case *what) {
    return what->in_memory ? CHUNK_TILES : CACHED_TILES;
}

/* Of a key, or of a value; of 8 bits with its scale. */
static size_t key_bytes(const fb_kernel_case *what) {
    return is_int_attention(what) ? what->columns + sizeof(float)
                                  : what->columns * fb_dtype_size(what->dtype);
}

/* Bytes of keys, values or weights. */
static size_t operand_bytes(const fb_kernel_case *what) {
    size_t element = fb_dtype_size(what->dtype);
    if (is_dots(what))
        return (size_t)DOT_CALLS * FB_DOT_OUTPUTS * what->columns * element;
    if (what->kernel == FB_KERNEL_INT_DOTS)
        return (size_t)INT_CALLS * FB_INT_OUTPUTS * what->columns * (size_t)what->bits / 8;
    size_t operands = fb_kernel_takes_turns(what) ? 2 : 1; /* keys and values */
    return operands * streams_of(what) * tiles_of(what) * FB_TILE_KEYS * key_bytes(what);
}

double fb_kernel_flops(const fb_kernel_case *what) {
    if (what->limit != FB_KERNEL_PRODUCT)
        return 0;
    return 2.0 * (double)what->rows * (double)operand_bytes(what) /
           (double)fb_dtype_size(what->dtype);
}

double fb_kernel_bytes(const fb_kernel_case *what) {
    return what->in_memory ? (double)operand_bytes(what) : 0;
}

double fb_kernel_elements(const fb_kernel_case *what) {
    if (is_int_attention(what))
        return (double)(what->rows * tiles_of(what) * FB_TILE_KEYS * what->columns);
    size_t calls = what->kernel == FB_KERNEL_SOFTMAX ? CHUNK_TILES * what->rows : SMALL_CALLS;
    size_t lines =
        what->kernel >= FB_KERNEL_TRANSPOSE && what->kernel < FB_KERNEL_DOTS ? FB_GROUP_KEYS : 1;
    return (double)(calls * what->columns * lines);
}

/* ---- runs ---- */

fb_status fb_kernel_run_create(const fb_kernel_case *what, const fb_kernels *kernels,
                               const fb_kernel_data *data, fb_kernel_run *run) {
    *run = (fb_kernel_run){.what = what, .kernels = kernels, .data = data};
    if (what->kernel != FB_KERNEL_INT_DOTS || !kernels)
        return FB_OK;
    FB_TRY(fb_alloc(what->rows, sizeof *run->x, "rows", &run->x));
    for (size_t row = 0; row < what->rows; row++)
        kernels->quantize(&(fb_quantize_call){
            .x = data->rows + row * FB_DOT_COLUMNS / 4, /* rows may overlap */
            .columns = what->columns,
            .group = INT_GROUP,
            .bits = what->bits,
            .to = &run->x[row],
        });
    return FB_OK;
}

void fb_kernel_run_free(fb_kernel_run *run) {
    fb_free(run->x);
    *run = (fb_kernel_run){0};
}

/* Where this run's operands begin; the next run's are behind them. */
static const char *next_operands(fb_kernel_run *run) {
    size_t bytes = operand_bytes(run->what);
    if (!run->what->in_memory)
        return run->data->memory;
    if (run->at + 2 * bytes > run->data->bytes) /* what is fetched ahead is there, too */
        run->at = 0;
    const char *operands = run->data->memory + run->at;
    run->at += bytes;
    return operands;
}

/* The groups of one tile of each stream. */
static void list_groups(const fb_kernel_case *what, const char *operands, size_t tile,
                        const void **groups) {
    size_t group_bytes = FB_GROUP_KEYS * key_bytes(what);
    for (size_t stream = 0; stream < streams_of(what); stream++)
        for (size_t i = 0; i < TILE_GROUPS; i++) {
            size_t group = (stream * tiles_of(what) + tile) * TILE_GROUPS + i;
            *groups++ = operands + group * group_bytes;
        }
}

static void run_int_scores(const fb_kernel_run *run, const void *const *groups, const void *next) {
    static const int32_t sums[FB_MAX_ROWS];
    const fb_kernel_case *what = run->what;
    run->kernels->int_scores(&(fb_int_scores_call){
        .q = (const int8_t *)run->data->rows, /* any bytes */
        .factors = run->data->rows,
        .sums = sums,
        .rows = what->rows,
        .head_dim = what->columns,
        .streams = streams_of(what),
        .groups = groups,
        .num_groups = TILE_GROUPS,
        .next = next,
        .s = run->data->out,
    });
}

static void run_scores(const fb_kernel_run *run, const void *const *groups, const void *next) {
    const fb_kernel_case *what = run->what;
    if (is_int_attention(what)) {
        run_int_scores(run, groups, next);
        return;
    }
    run->kernels->scores[what->dtype](&(fb_scores_call){
        .q = run->data->rows,
        .rows = what->rows,
        .head_dim = what->columns,
        .streams = streams_of(what),
        .groups = groups,
        .num_groups = TILE_GROUPS,
        .scale = 0.125f,
        .next = next,
        .s = run->data->out,
    });
}

static void run_values(const fb_kernel_run *run, const void *const *groups, const void *next) {
    static const float alpha[FB_MAX_ROWS] = {0.5f}; /* outputs stay finite */
    const fb_kernel_case *what = run->what;
    fb_values_fn *values =
        is_int_attention(what) ? run->kernels->int_values : run->kernels->values[what->dtype];
    values(&(fb_values_call){
        .p = run->data->weights,
        .rows = what->rows,
        .num_keys = FB_TILE_KEYS,
        .streams = streams_of(what),
        .groups = groups,
        .head_dim = what->columns,
        .alpha = alpha,
        .next = next,
        .o = run->data->out,
    });
}

/* In the cache: one kernel again and again. */
static void run_product(fb_kernel_run *run) {
    const void *groups[FB_STREAMS * TILE_GROUPS];
    const char *operands = next_operands(run);
    for (size_t tile = 0; tile < tiles_of(run->what); tile++) {
        list_groups(run->what, operands, tile, groups);
        if (run->what->kernel < FB_KERNEL_VALUES || run->what->kernel == FB_KERNEL_INT_SCORES)
            run_scores(run, groups, groups[0]);
        else
            run_values(run, groups, groups[0]);
    }
}

/* In memory: the keys of a tile, then its values, which lie behind all keys. */
static void run_products(fb_kernel_run *run) {
    const fb_kernel_case *what = run->what;
    const void *keys[FB_STREAMS * TILE_GROUPS], *values[FB_STREAMS * TILE_GROUPS];
    const void *following[FB_STREAMS * TILE_GROUPS];
    const char *operands = next_operands(run);
    const char *all_values = operands + operand_bytes(what) / 2;
    for (size_t tile = 0; tile < tiles_of(what); tile++) {
        list_groups(what, operands, tile, keys);
        list_groups(what, all_values, tile, values);
        list_groups(what, operands, (tile + 1) % tiles_of(what), following);
        run_scores(run, keys, values[0]);
        run_values(run, values, following[0]);
    }
}

static void run_dots(fb_kernel_run *run) {
    const fb_kernel_case *what = run->what;
    size_t row_bytes = what->columns * fb_dtype_size(what->dtype);
    const char *operands = next_operands(run);
    const void *weights[FB_DOT_OUTPUTS], *next[FB_DOT_OUTPUTS];
    const bool is_few = what->kernel != FB_KERNEL_DOTS;
    fb_dots_fn *const *dots = is_few ? run->kernels->few_dots : run->kernels->dots;
    for (size_t call = 0; call < DOT_CALLS; call++) {
        for (size_t i = 0; i < FB_DOT_OUTPUTS; i++) {
            weights[i] = operands + (i * DOT_CALLS + call) * row_bytes;
            next[i] = (const char *)weights[i] + row_bytes;
        }
        dots[what->dtype](&(fb_dots_call){
            .x = run->data->rows,
            .rows = what->rows,
            .weights = weights,
            .outputs = FB_DOT_OUTPUTS,
            .columns = what->columns,
            .wide = run->data->out + DOT_WIDE,
            .next = next,
            .sums = run->data->out,
        });
    }
}

/* Weights of 8 bits have a scale a row, those of 4 bits one for each group. As few rows of weights
 * at once as the driver takes with few rows of x, or all. */
static void run_int_dots(fb_kernel_run *run) {
    const fb_kernel_case *what = run->what;
    size_t row_bytes = what->columns * (size_t)what->bits / 8;
    size_t outputs = what->rows <= 4 ? run->kernels->int_outputs : FB_INT_OUTPUTS;
    size_t calls = (size_t)INT_CALLS * FB_INT_OUTPUTS / outputs;
    const char *operands = next_operands(run);
    const void *weights[FB_INT_OUTPUTS], *next[FB_INT_OUTPUTS];
    const float *scales[FB_INT_OUTPUTS];
    for (size_t call = 0; call < calls; call++) {
        for (size_t i = 0; i < outputs; i++) {
            weights[i] = operands + (i * calls + call) * row_bytes;
            next[i] = (const char *)weights[i] + row_bytes;
            scales[i] = run->data->rows + i * FB_INT_GROUPS;
        }
        run->kernels->int_dots(&(fb_int_dots_call){
            .x = run->x,
            .rows = what->rows,
            .weights = weights,
            .bits = what->bits,
            .outputs = outputs,
            .columns = what->columns,
            .group = INT_GROUP,
            .scales = scales,
            .scale_shift = what->bits == 8 ? 31 : 0,
            .next = next,
            .sums = run->data->out,
        });
    }
}

static void run_softmax(const fb_kernel_run *run) {
    const fb_kernel_data *data = run->data;
    size_t counts[FB_MAX_ROWS];
    float max[FB_MAX_ROWS], sums[FB_MAX_ROWS * FB_GROUP_KEYS], alpha[FB_MAX_ROWS];
    for (size_t row = 0; row < run->what->rows; row++) {
        counts[row] = FB_TILE_KEYS;
        max[row] = -INFINITY;
    }
    for (size_t i = 0; i < sizeof sums / sizeof sums[0]; i++)
        sums[i] = 0;
    for (size_t tile = 0; tile < CHUNK_TILES; tile++)
        run->kernels->softmax(
            &(fb_softmax_call){data->scores, run->what->rows, counts, max, sums, data->out, alpha});
}

static void run_small(const fb_kernel_run *run) {
    const fb_kernels *kernels = run->kernels;
    const fb_kernel_data *data = run->data;
    size_t columns = run->what->columns;
    float *out = data->out;
    const uint16_t *halves = (const uint16_t *)(const void *)data->memory;
    switch ((int)run->what->kernel) {
    case FB_KERNEL_MERGE_ROW:
        kernels->merge_row(data->rows, data->rows + columns, 0.5f, columns, out);
        break;
    case FB_KERNEL_DIVIDE_ROW:
        kernels->divide_row(1, columns, out);
        break;
    case FB_KERNEL_WIDEN_BF16:
        kernels->widen_bf16(halves, out, columns);
        break;
    case FB_KERNEL_WIDEN_F16:
        kernels->widen_f16(halves, out, columns);
        break;
    case FB_KERNEL_EXP:
        kernels->exp(data->scores, out, columns);
        break;
    default:
        kernels->transpose[run->what->dtype](&(fb_transpose_call){data->memory, columns, out});
    }
}

fb_status fb_kernel_run_once(void *context) {
    fb_kernel_run *run = context;
    if (fb_kernel_takes_turns(run->what))
        run_products(run);
    else if (is_attention(run->what))
        run_product(run);
    else if (is_dots(run->what))
        run_dots(run);
    else if (run->what->kernel == FB_KERNEL_INT_DOTS)
        run_int_dots(run);
    else if (run->what->kernel == FB_KERNEL_SOFTMAX)
        run_softmax(run);
    else
        for (size_t call = 0; call < SMALL_CALLS; call++)
            run_small(run);
    return FB_OK;
}

/* Scores of key blocks for the selectors, in double precision and in one order.
 * The work is cut by KV head, never within one, so that threads change nothing. */
#include "attention/kv_access.h"
#include "base/error.h"
#include "base/exp.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "cache/selector_family.h"

#include <math.h>
#include <string.h>

/* For gcc, which unrolls short loops before it looks for vectors. clang needs no telling, and would
 * complain where sanitizers keep it from vectorizing. */
#if defined(__GNUC__) && !defined(__clang__)
#define VECTORIZE _Pragma("omp simd")
#else
#define VECTORIZE
#endif

/* --- numbers ---------------------------------------------------------------------------------- */

double fb_exp_weight(double x) {
    return x < -708.0 ? 0.0 : fb_exp_in_range(x);
}

/* values[i] = exp(values[i] - max), but no less than exp(-708): beside the 1 of the largest, that
 * and 0 are the same. */
static void exponentials(double *values, size_t count, double max) {
    VECTORIZE
    for (size_t i = 0; i < count; i++) {
        double x = values[i] - max;
        values[i] = fb_exp_in_range(x < -708.0 ? -708.0 : x);
    }
}

void fb_softmax_double(double *scores, size_t count) {
    double max = (double)-INFINITY, sum = 0.0;
    for (size_t i = 0; i < count; i++)
        max = scores[i] > max ? scores[i] : max;
    for (size_t i = 0; i < count; i++) {
        scores[i] = scores[i] == (double)-INFINITY ? 0.0 : fb_exp_weight(scores[i] - max);
        sum += scores[i];
    }
    for (size_t i = 0; sum > 0.0 && i < count; i++)
        scores[i] /= sum;
}

/* --- queries and keys ------------------------------------------------------------------------- */

fb_selector_shape fb_selector_shape_of(const fb_selector_input *input, size_t block_keys) {
    const fb_queries *queries = input->queries;
    size_t num_keys = input->context_length;
    return (fb_selector_shape){
        .num_keys = num_keys,
        .block_keys = block_keys,
        .num_blocks = num_keys / block_keys + (num_keys % block_keys != 0),
        .num_queries = queries->num_queries,
        .num_heads = queries->num_heads,
        .num_kv_heads = input->kv->num_kv_heads,
        .head_dim = queries->head_dim,
        .group = queries->num_heads / input->kv->num_kv_heads,
        .scale =
            input->scale != 0.0f ? (double)input->scale : 1.0 / sqrt((double)queries->head_dim),
    };
}

void fb_mean_query(const fb_selector_input *input, size_t head, double *mean) {
    const fb_queries *queries = input->queries;
    memset(mean, 0, queries->head_dim * sizeof *mean);
    for (size_t query = 0; query < queries->num_queries; query++) {
        const float *q = fb_query_of(queries, query, head);
        for (size_t d = 0; d < queries->head_dim; d++)
            mean[d] += (double)q[d];
    }
    for (size_t d = 0; d < queries->head_dim; d++)
        mean[d] /= (double)queries->num_queries;
}

/* Of keys of 8 bits: the integers times their scales, rounded. */
static void int8_tile(const fb_kv *kv, size_t head, size_t first, size_t count, double *tile) {
    const int8_t *group = fb_key_group(kv, head, first);
    const float *scales = fb_key_scales(group, kv->head_dim);
    for (size_t d = 0; d < kv->head_dim; d++)
        for (size_t lane = 0; lane < count; lane++)
            tile[d * FB_TILE_LANES + lane] =
                (double)((float)group[fb_int_key_index(d, lane)] * scales[lane]);
}

void fb_read_key_tile(const fb_kv *kv, size_t head, size_t first, size_t count, double *tile) {
    float buffer[FB_TILE_LANES];
    size_t element = fb_dtype_size(kv->dtype);
    memset(tile, 0, kv->head_dim * FB_TILE_LANES * sizeof *tile);
    if (kv->dtype == FB_INT8) {
        int8_tile(kv, head, first, count, tile);
        return;
    }
    if (kv->pages) { /* a dimension's 16 keys are neighbours */
        const char *group = fb_key_group(kv, head, first);
        for (size_t d = 0; d < kv->head_dim; d++) {
            (void)fb_to_f32(kv->dtype, group + d * FB_TILE_LANES * element, buffer, count);
            for (size_t lane = 0; lane < count; lane++)
                tile[d * FB_TILE_LANES + lane] = (double)buffer[lane];
        }
        return;
    }
    for (size_t lane = 0; lane < count; lane++) { /* a key's dimensions are */
        const char *key = fb_key(kv, head, first + lane);
        for (size_t d = 0; d < kv->head_dim; d += FB_TILE_LANES) {
            size_t dims = kv->head_dim - d < FB_TILE_LANES ? kv->head_dim - d : FB_TILE_LANES;
            (void)fb_to_f32(kv->dtype, key + d * element, buffer, dims);
            for (size_t i = 0; i < dims; i++)
                tile[(d + i) * FB_TILE_LANES + lane] = (double)buffer[i];
        }
    }
}

void fb_read_value_rows(const fb_kv *kv, size_t head, size_t first, size_t count, double *rows) {
    float buffer[FB_PANEL_DIMS];
    for (size_t row = 0; row < count; row++)
        for (size_t d = 0; d < kv->head_dim; d += FB_PANEL_DIMS) {
            size_t dims = fb_read_value_panel(kv, head, first + row, d, buffer);
            for (size_t i = 0; i < dims; i++)
                rows[row * kv->head_dim + d + i] = (double)buffer[i];
        }
}

void fb_tile_dots(const double *vector, const double *tile, size_t head_dim, double *dots) {
    double sums[FB_TILE_LANES] = {0};
    for (size_t d = 0; d < head_dim; d++)
        for (size_t lane = 0; lane < FB_TILE_LANES; lane++)
            sums[lane] += vector[d] * tile[d * FB_TILE_LANES + lane];
    memcpy(dots, sums, sizeof sums);
}

/* The same for DOT_ROWS vectors at a stride of head_dim; results at stride
 * dots_stride. A register tile of rows x lanes: a load of the tile serves all rows. */
enum { DOT_ROWS = 4, DOT_LANES = 4 };

static void tile_dots_of_rows(const double *vectors, const double *tile, size_t head_dim,
                              double *dots, size_t dots_stride) {
    for (size_t first = 0; first < FB_TILE_LANES; first += DOT_LANES) {
        double sums0[DOT_LANES] = {0}, sums1[DOT_LANES] = {0};
        double sums2[DOT_LANES] = {0}, sums3[DOT_LANES] = {0};
        for (size_t d = 0; d < head_dim; d++) {
            const double *keys = tile + d * FB_TILE_LANES + first;
            double q0 = vectors[d], q1 = vectors[head_dim + d];
            double q2 = vectors[2 * head_dim + d], q3 = vectors[3 * head_dim + d];
            VECTORIZE
            for (size_t lane = 0; lane < DOT_LANES; lane++) {
                sums0[lane] += q0 * keys[lane];
                sums1[lane] += q1 * keys[lane];
                sums2[lane] += q2 * keys[lane];
                sums3[lane] += q3 * keys[lane];
            }
        }
        memcpy(dots + first, sums0, sizeof sums0);
        memcpy(dots + dots_stride + first, sums1, sizeof sums1);
        memcpy(dots + 2 * dots_stride + first, sums2, sizeof sums2);
        memcpy(dots + 3 * dots_stride + first, sums3, sizeof sums3);
    }
}

/* --- exact attention mass --------------------------------------------------------------------- */

/* Work space of one thread, for one KV head. Rows are the queries of all heads of the group. */
typedef struct mass_scratch {
    double *queries;       /* [rows, head_dim] */
    double *tile;          /* [head_dim][16] */
    double *scores;        /* [rows, block_keys] */
    double *maxima, *sums; /* [rows, num_blocks]: of a block's exponentials, max excluded */
} mass_scratch;

static fb_status scratch_doubles(const fb_selector_shape *shape, size_t *doubles) {
    size_t rows = 0, row = 0, total = 0;
    if (!fb_size_mul(shape->group, shape->num_queries, &rows) ||
        !fb_size_mul(shape->num_blocks, 2, &row) ||
        !fb_size_add(row, shape->head_dim + shape->block_keys, &row) ||
        !fb_size_mul(rows, row, &total) ||
        !fb_size_add(total, shape->head_dim * FB_TILE_LANES, doubles))
        return fb_fail(FB_ERROR_MEMORY, "scores of %zu queries and %zu key blocks overflow",
                       shape->num_queries, shape->num_blocks);
    return FB_OK;
}

static mass_scratch scratch_at(double *memory, const fb_selector_shape *shape) {
    size_t rows = shape->group * shape->num_queries;
    mass_scratch s = {.queries = memory};
    s.tile = s.queries + rows * shape->head_dim;
    s.scores = s.tile + shape->head_dim * FB_TILE_LANES;
    s.maxima = s.scores + rows * shape->block_keys;
    s.sums = s.maxima + rows * shape->num_blocks;
    return s;
}

/* scores [rows, block_keys] of one key block; what comes after its last key is not set */
static void score_block(const fb_selector_input *input, const fb_selector_shape *shape,
                        size_t kv_head, size_t block, double scale, const mass_scratch *s) {
    size_t rows = shape->group * shape->num_queries, keys = fb_block_size_of(shape, block);
    size_t stride = shape->block_keys, head_dim = shape->head_dim;
    for (size_t first = 0; first < keys; first += FB_TILE_LANES) {
        size_t count = keys - first < FB_TILE_LANES ? keys - first : FB_TILE_LANES, row = 0;
        fb_read_key_tile(input->kv, kv_head, block * shape->block_keys + first, count, s->tile);
        for (; row + DOT_ROWS <= rows; row += DOT_ROWS)
            tile_dots_of_rows(s->queries + row * head_dim, s->tile, head_dim,
                              s->scores + row * stride + first, stride);
        for (; row < rows; row++)
            fb_tile_dots(s->queries + row * head_dim, s->tile, head_dim,
                         s->scores + row * stride + first);
    }
    for (size_t row = 0; row < rows; row++)
        for (size_t key = 0; key < keys; key++)
            s->scores[row * stride + key] *= scale;
}

/* The largest of a row's scores in a block, and the sum of exp(score - largest). */
static void sum_block(double *scores, size_t keys, double *max, double *sum) {
    *max = (double)-INFINITY;
    for (size_t key = 0; key < keys; key++)
        *max = scores[key] <= *max ? *max : scores[key];
    *sum = 0.0;
    if (*max == (double)-INFINITY)
        return;
    exponentials(scores, keys, *max);
    for (size_t key = 0; key < keys; key++)
        *sum += scores[key];
}

/* Adds one row's probabilities of blocks to masses [num_blocks]. */
static void add_row(const double *maxima, const double *sums, size_t first_block, size_t num_blocks,
                    double *masses) {
    double max = (double)-INFINITY, total = 0.0;
    for (size_t block = first_block; block < num_blocks; block++)
        max = maxima[block] > max ? maxima[block] : max;
    for (size_t block = first_block; block < num_blocks; block++)
        if (maxima[block] != (double)-INFINITY)
            total += sums[block] * fb_exp_weight(maxima[block] - max);
    for (size_t block = first_block; block < num_blocks; block++)
        if (maxima[block] != (double)-INFINITY)
            masses[block] += sums[block] * fb_exp_weight(maxima[block] - max) / total;
}

static void masses_of_kv_head(const fb_selector_input *input, const fb_selector_shape *shape,
                              size_t kv_head, size_t first_block, double scale,
                              const mass_scratch *s, double *masses) {
    size_t rows = shape->group * shape->num_queries, num_blocks = shape->num_blocks;
    for (size_t row = 0; row < rows; row++) {
        const float *q = fb_query_of(input->queries, row % shape->num_queries,
                                     kv_head * shape->group + row / shape->num_queries);
        for (size_t d = 0; d < shape->head_dim; d++)
            s->queries[row * shape->head_dim + d] = (double)q[d];
    }
    for (size_t block = first_block; block < num_blocks; block++) {
        score_block(input, shape, kv_head, block, scale, s);
        for (size_t row = 0; row < rows; row++)
            sum_block(s->scores + row * shape->block_keys, fb_block_size_of(shape, block),
                      &s->maxima[row * num_blocks + block], &s->sums[row * num_blocks + block]);
    }
    for (size_t row = 0; row < rows; row++) {
        size_t head = kv_head * shape->group + row / shape->num_queries;
        double *to = masses + head * num_blocks;
        if (row % shape->num_queries == 0)
            memset(to + first_block, 0, (num_blocks - first_block) * sizeof *to);
        add_row(s->maxima + row * num_blocks, s->sums + row * num_blocks, first_block, num_blocks,
                to);
    }
}

typedef struct mass_call {
    const fb_selector_input *input;
    const fb_selector_shape *shape;
    size_t first_block;
    double scale, *masses;
    double *memory; /* [num_kv_heads, doubles] */
    size_t doubles;
} mass_call;

static void masses_of_kv_heads(void *context, size_t first, size_t end, size_t worker) {
    const mass_call *c = context;
    (void)worker;
    for (size_t kv_head = first; kv_head < end; kv_head++) {
        mass_scratch scratch = scratch_at(c->memory + kv_head * c->doubles, c->shape);
        masses_of_kv_head(c->input, c->shape, kv_head, c->first_block, c->scale, &scratch,
                          c->masses);
    }
}

fb_status fb_block_masses(const fb_selector_input *input, const fb_selector_shape *shape,
                          size_t first_block, double scale, double *masses) {
    if (first_block >= shape->num_blocks)
        return FB_OK;
    mass_call call = {
        .input = input,
        .shape = shape,
        .first_block = first_block,
        .scale = scale,
        .masses = masses,
    };
    FB_TRY(scratch_doubles(shape, &call.doubles));
    FB_TRY(fb_alloc(call.doubles, shape->num_kv_heads * sizeof(double), "selector scores",
                    &call.memory));
    fb_parallel_for(shape->num_kv_heads, 0, fb_parallel_threads(), masses_of_kv_heads, &call);
    fb_free(call.memory);
    return FB_OK;
}

/* --- statistics of key blocks ----------------------------------------------------------------- */

/* Folds a tile's first `count` keys into the block's two vectors. `fresh`: they are the first. */
static void fold_tile(fb_stats_kind kind, const double *tile, size_t begin, size_t end, bool fresh,
                      size_t head_dim, double *first, double *second) {
    for (size_t d = 0; d < head_dim; d++) {
        const double *keys = tile + d * FB_TILE_LANES;
        double a = fresh ? (kind == FB_STATS_BOUNDS ? keys[begin] : 0.0) : first[d];
        double b = fresh ? (kind == FB_STATS_BOUNDS ? keys[begin] : 0.0) : second[d];
        for (size_t lane = begin; lane < end; lane++) {
            if (kind == FB_STATS_BOUNDS) {
                a = keys[lane] < a ? keys[lane] : a;
                b = keys[lane] > b ? keys[lane] : b;
            } else {
                a += keys[lane];
                b += keys[lane] * keys[lane];
            }
        }
        first[d] = a;
        second[d] = b;
    }
}

/* Folds in keys from stats->num_keys on, of one KV head. */
static void fold_kv_head(fb_block_stats *stats, fb_stats_kind kind, const fb_selector_input *input,
                         const fb_selector_shape *shape, size_t kv_head, double *tile) {
    size_t head_dim = shape->head_dim;
    for (size_t key = stats->num_keys; key < shape->num_keys;) {
        size_t first = key - key % FB_TILE_LANES, block = key / shape->block_keys;
        size_t end =
            first + FB_TILE_LANES < shape->num_keys ? first + FB_TILE_LANES : shape->num_keys;
        fb_read_key_tile(input->kv, kv_head, first, end - first, tile);
        double *to = stats->values + (block * stats->num_kv_heads + kv_head) * 2 * head_dim;
        fold_tile(kind, tile, key - first, end - first, key % shape->block_keys == 0, head_dim, to,
                  to + head_dim);
        key = end;
    }
}

static fb_status reserve_stats(fb_block_stats *stats, size_t num_blocks) {
    if (num_blocks <= stats->capacity)
        return FB_OK;
    size_t capacity = num_blocks > 2 * stats->capacity ? num_blocks : 2 * stats->capacity;
    size_t block = 0, doubles = 0;
    if (!fb_size_mul(stats->num_kv_heads, 2 * stats->head_dim, &block) ||
        !fb_size_mul(block, capacity, &doubles))
        return fb_fail(FB_ERROR_MEMORY, "statistics of %zu key blocks overflow", capacity);
    double *grown = NULL;
    FB_TRY(fb_alloc(doubles, sizeof *grown, "statistics of key blocks", &grown));
    if (stats->values)
        memcpy(grown, stats->values, stats->capacity * block * sizeof *grown);
    fb_free(stats->values);
    stats->values = grown;
    stats->capacity = capacity;
    return FB_OK;
}

typedef struct fold_call {
    fb_block_stats *stats;
    fb_stats_kind kind;
    const fb_selector_input *input;
    const fb_selector_shape *shape;
    double *tiles; /* [num_kv_heads, tile] */
    size_t tile;
} fold_call;

static void fold_kv_heads(void *context, size_t first, size_t end, size_t worker) {
    const fold_call *c = context;
    (void)worker;
    for (size_t kv_head = first; kv_head < end; kv_head++)
        fold_kv_head(c->stats, c->kind, c->input, c->shape, kv_head, c->tiles + kv_head * c->tile);
}

fb_status fb_block_stats_update(fb_block_stats *stats, fb_stats_kind kind,
                                const fb_selector_input *input, const fb_selector_shape *shape) {
    if (stats->num_kv_heads != shape->num_kv_heads || stats->head_dim != shape->head_dim) {
        fb_free(stats->values);
        *stats = (fb_block_stats){.num_kv_heads = shape->num_kv_heads, .head_dim = shape->head_dim};
    }
    if (input->history == 0 || stats->history != input->history ||
        stats->num_keys > shape->num_keys)
        stats->num_keys = 0;
    FB_TRY(reserve_stats(stats, shape->num_blocks));
    fold_call call = {stats, kind, input, shape, NULL, shape->head_dim * FB_TILE_LANES};
    FB_TRY(fb_alloc(shape->num_kv_heads, call.tile * sizeof(double), "key tiles", &call.tiles));
    fb_parallel_for(shape->num_kv_heads, 0, fb_parallel_threads(), fold_kv_heads, &call);
    fb_free(call.tiles);
    stats->num_keys = shape->num_keys;
    stats->history = input->history;
    return FB_OK;
}

fb_status fb_stats_selector_create(const fb_selector_options *options,
                                   fb_stats_selector **created) {
    fb_stats_selector *selector = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *selector, "selector", &selector));
    selector->options = *options;
    fb_status status = fb_alloc_zeroed(options->num_layers, sizeof *selector->layers,
                                       "statistics of layers", &selector->layers);
    if (status != FB_OK) {
        fb_free(selector);
        return status;
    }
    *created = selector;
    return FB_OK;
}

void fb_stats_selector_reset(void *state) {
    fb_stats_selector *selector = state;
    for (size_t layer = 0; layer < selector->options.num_layers; layer++)
        selector->layers[layer].num_keys = 0;
}

void fb_stats_selector_destroy(void *state) {
    fb_stats_selector *selector = state;
    for (size_t layer = 0; layer < selector->options.num_layers; layer++)
        fb_free(selector->layers[layer].values);
    fb_free(selector->layers);
    fb_free(selector);
}

/* --- a selection that is kept ----------------------------------------------------------------- */

bool fb_kept_is_of(const fb_kept_selection *kept, const fb_selector_input *input,
                   size_t num_lists) {
    return kept->selection.num_lists == num_lists && kept->history == input->history &&
           kept->block == input->block && kept->density == input->density &&
           kept->selection.num_keys == input->context_length;
}

fb_status fb_keep_selection(fb_kept_selection *kept, const fb_selector_input *input,
                            const fb_selection *selection) {
    FB_TRY(fb_selection_copy(selection, &kept->selection));
    kept->history = input->history;
    kept->block = input->block;
    kept->density = input->density;
    return FB_OK;
}

fb_status fb_keeping_selector_create(const fb_selector_options *options,
                                     fb_keeping_selector **created) {
    fb_keeping_selector *selector = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *selector, "selector", &selector));
    selector->options = *options;
    fb_status status = fb_alloc_zeroed(options->num_layers, sizeof *selector->layers,
                                       "kept selections", &selector->layers);
    if (status != FB_OK) {
        fb_free(selector);
        return status;
    }
    *created = selector;
    return FB_OK;
}

void fb_keeping_selector_reset(void *state) {
    fb_keeping_selector *selector = state;
    for (size_t layer = 0; layer < selector->options.num_layers; layer++)
        fb_selection_release(&selector->layers[layer].selection);
}

void fb_keeping_selector_destroy(void *state) {
    fb_keeping_selector *selector = state;
    fb_keeping_selector_reset(state);
    fb_free(selector->layers);
    fb_free(selector);
}

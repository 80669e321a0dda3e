/* The part of a chunk of keys (chunk.h): the work of one thread on a unit's rows and up to 1024
 * keys, tile by tile. */
#include "attention/chunk.h"

#include "attention/kv_access.h"
#include "base/memory.h"
#include "simd/integers.h"
#include "simd/scalar_math.h"

#include <math.h>
#include <string.h>

/* Floats of a buffer, rounded up so that the next one is aligned. */
static size_t padded(size_t floats) {
    size_t unit_floats = FB_ALIGNMENT / sizeof(float);
    return (floats + unit_floats - 1) / unit_floats * unit_floats;
}

size_t fb_part_floats(size_t head_dim) {
    return 2 * padded(FB_UNIT_ROWS * fb_padded_dim(head_dim)) +
           padded(FB_UNIT_ROWS * sizeof(double) / sizeof(float));
}

fb_unit_part fb_part_at(float *base, size_t head_dim) {
    size_t out_floats = padded(FB_UNIT_ROWS * fb_padded_dim(head_dim));
    return (fb_unit_part){
        .out = base,
        .mean_key = base + out_floats,
        .lse = (double *)(void *)(base + 2 * out_floats),
    };
}

/* Sizes of an fb_workspace's arrays, in floats. */
enum {
    VISIBLE_FLOATS = FB_UNIT_ROWS * sizeof(size_t) / sizeof(float),
    RUN_SCORES = FB_RUN_ROWS * FB_SCORE_STRIDE, /* of one tile in each stream */
    SCORE_FLOATS = FB_RUN_TILES * RUN_SCORES,   /* also enough for FB_UNIT_ROWS */
};

/* Of int_q, and of a tile of packed keys of any type. */
static size_t int_q_floats(size_t head_dim) {
    return FB_UNIT_ROWS * fb_padded_dim(head_dim) / sizeof(float);
}

static size_t tile_keys_floats(size_t head_dim) {
    return FB_TILE_KEYS * (head_dim + FB_INT_QUAD); /* few integers have more scales and padding */
}

/* What a thread has of each unit that it takes together with others. */
static size_t unit_floats(size_t head_dim) {
    return padded(FB_UNIT_ROWS * fb_padded_dim(head_dim)) + padded(int_q_floats(head_dim)) +
           2 * padded(FB_UNIT_ROWS) + padded(VISIBLE_FLOATS) + 2 * fb_part_floats(head_dim);
}

size_t fb_workspace_floats(size_t head_dim, size_t units) {
    return padded(tile_keys_floats(head_dim)) + 2 * padded(FB_TILE_KEYS * fb_padded_dim(head_dim)) +
           padded(FB_GROUP_KEYS * fb_padded_dim(head_dim)) + padded(fb_padded_dim(head_dim)) +
           padded(SCORE_FLOATS) + padded(FB_UNIT_ROWS * FB_TILE_KEYS) +
           padded(FB_UNIT_ROWS * FB_GROUP_KEYS) + 2 * padded(FB_UNIT_ROWS) +
           fb_part_floats(head_dim) + units * unit_floats(head_dim);
}

/* The next `floats` of the memory at *at. */
static float *take(float **at, size_t floats) {
    float *taken = *at;
    *at += padded(floats);
    return taken;
}

fb_workspace fb_workspace_at(float *base, size_t head_dim, size_t unit) {
    fb_workspace w = {0};
    w.keys = take(&base, tile_keys_floats(head_dim));
    w.values = take(&base, FB_TILE_KEYS * fb_padded_dim(head_dim));
    w.transposed = take(&base, FB_TILE_KEYS * fb_padded_dim(head_dim));
    w.beside = take(&base, FB_GROUP_KEYS * fb_padded_dim(head_dim));
    w.row = take(&base, fb_padded_dim(head_dim));
    w.scores = take(&base, SCORE_FLOATS);
    w.p = take(&base, FB_UNIT_ROWS * FB_TILE_KEYS);
    w.sums = take(&base, FB_UNIT_ROWS * FB_GROUP_KEYS);
    w.max = take(&base, FB_UNIT_ROWS);
    w.alpha = take(&base, FB_UNIT_ROWS);
    w.chunk = fb_part_at(take(&base, fb_part_floats(head_dim)), head_dim);
    base += unit * unit_floats(head_dim);
    w.q = take(&base, FB_UNIT_ROWS * fb_padded_dim(head_dim));
    w.int_q = (int8_t *)(void *)take(&base, int_q_floats(head_dim));
    w.factors = take(&base, FB_UNIT_ROWS);
    w.int_sums = (int32_t *)(void *)take(&base, FB_UNIT_ROWS);
    w.visible = (size_t *)(void *)take(&base, VISIBLE_FLOATS);
    w.range = fb_part_at(take(&base, fb_part_floats(head_dim)), head_dim);
    w.total = fb_part_at(take(&base, fb_part_floats(head_dim)), head_dim);
    return w;
}

static const float *query_of(const fb_attend_problem *problem, fb_row_unit unit, size_t row) {
    const fb_queries *queries = problem->queries;
    return queries->q + (ptrdiff_t)fb_row_query(problem, unit, row) * queries->token_stride +
           (ptrdiff_t)fb_row_head(problem, unit, row) * queries->head_stride;
}

/* The queries of a unit's rows, in blocks: [ceil(D / 16)][R][16]. */
static void gather_queries(const fb_attend_problem *problem, fb_row_unit unit, float *q) {
    for (size_t row = 0; row < unit.rows; row++) {
        const float *from = query_of(problem, unit, row);
        float *to = q + row * FB_SEGMENT;
        size_t left = problem->head_dim;
        for (; left >= FB_SEGMENT; left -= FB_SEGMENT, from += FB_SEGMENT, to += FB_ROWS_BLOCK)
            memcpy(to, from, FB_SEGMENT * sizeof *q); /* of constant size: a few moves */
        memcpy(to, from, left * sizeof *q);
    }
}

/* The same for keys of 8 bits (contract C14.3). */
static void quantize_queries(const fb_attend_problem *problem, fb_row_unit unit,
                             const fb_workspace *w) {
    size_t head_dim = problem->head_dim, stride = problem->padded_dim;
    for (size_t row = 0; row < unit.rows; row++) {
        int8_t *to = w->int_q + row * stride;
        w->factors[row] =
            problem->scale * fb_int_quantize(query_of(problem, unit, row), head_dim, to);
        memset(to + head_dim, 0, stride - head_dim);
        w->int_sums[row] = 0;
        for (size_t d = 0; d < head_dim; d++)
            w->int_sums[row] += to[d];
    }
}

/* How many of the view's keys a query sees. They are always the first keys, so a mask is a number.
 */
static size_t visible_keys(const fb_attend_problem *problem, size_t query) {
    const fb_mask *mask = problem->mask;
    if (!mask || mask->kind == FB_MASK_NONE)
        return problem->num_keys;
    size_t position = mask->first_query + query;
    size_t block_begin = position - position % mask->block_size;
    if (block_begin > SIZE_MAX - mask->block_size)
        return problem->num_keys;
    size_t end = block_begin + mask->block_size;
    if (end <= mask->first_key)
        return 0;
    size_t visible = end - mask->first_key;
    return visible < problem->num_keys ? visible : problem->num_keys;
}

void fb_begin_unit(const fb_attend_problem *problem, fb_row_unit unit, const fb_workspace *w) {
    if (problem->kv->dtype == FB_INT8)
        quantize_queries(problem, unit, w);
    else
        gather_queries(problem, unit, w->q);
    for (size_t row = 0; row < unit.rows; row++)
        w->visible[row] = visible_keys(problem, fb_row_query(problem, unit, row));
}

/* Counts how many of `tile_keys` keys each row sees, from the view's key number `ordinal` on. Rows
 * are in the order of their queries, so counts never fall from a row to the next. */
static void count_visible(const fb_workspace *w, size_t rows, size_t ordinal, size_t tile_keys,
                          size_t *counts) {
    for (size_t row = 0; row < rows; row++) {
        size_t count = w->visible[row] > ordinal ? w->visible[row] - ordinal : 0;
        counts[row] = count < tile_keys ? count : tile_keys;
    }
}

/* The token at a place; it serves the places after it, too, up to the next multiple of token_step.
 */
static size_t token_at(const fb_attend_problem *problem, size_t place) {
    return problem->tokens ? problem->tokens[place / problem->token_step] : place;
}

/* Whether groups of 16 places are groups of a KV cache. */
static bool has_groups(const fb_attend_problem *problem) {
    return problem->kv->pages && problem->token_step == FB_GROUP_KEYS;
}

static void widen(const fb_attend_problem *problem, const void *from, float *to, size_t count) {
    if (problem->kv->dtype == FB_BF16)
        problem->kernels->widen_bf16(from, to, count);
    else if (problem->kv->dtype == FB_F16)
        problem->kernels->widen_f16(from, to, count);
    else
        memcpy(to, from, count * sizeof *to);
}

/* Groups of 16 keys, or their values, of one tile, as kernels take them: packed in the KV cache, or
 * in the fb_workspace, as floats or as FB_INT8. */
typedef struct tile_groups {
    const void *at[FB_TILE_GROUPS];
    size_t count;
    fb_dtype dtype;
} tile_groups;

/* Reads a key from rows or pages, and widens it: to [D]. */
static void read_key(const fb_attend_problem *problem, size_t kv_head, size_t token, float *to) {
    const fb_kv *kv = problem->kv;
    const char *key = fb_key(kv, kv_head, token);
    if (!kv->pages) {
        widen(problem, key, to, problem->head_dim);
        return;
    }
    for (size_t d = 0; d < problem->head_dim; d++)
        widen(problem, key + fb_key_index(kv, d) * fb_dtype_size(kv->dtype), to + d, 1);
}

/* Packs up to 16 keys, from a place on: to [D][16], absent keys 0. */
static void pack_keys(const fb_attend_problem *problem, size_t kv_head, size_t place, size_t keys,
                      float *row, float *to) {
    memset(to, 0, problem->head_dim * FB_GROUP_KEYS * sizeof *to);
    for (size_t key = 0; key < keys; key++) {
        read_key(problem, kv_head, token_at(problem, place + key), row);
        for (size_t d = 0; d < problem->head_dim; d++)
            to[d * FB_GROUP_KEYS + key] = row[d];
    }
}

/* Packs up to 16 values, from a place on: to [panels][16][16]. */
static void pack_values(const fb_attend_problem *problem, size_t kv_head, size_t place, size_t keys,
                        float *to) {
    const fb_kv *kv = problem->kv;
    size_t element = fb_dtype_size(kv->dtype), block = FB_GROUP_KEYS * FB_PANEL_DIMS;
    for (size_t key = 0; key < keys; key++) {
        const char *value = fb_value(kv, kv_head, token_at(problem, place + key));
        for (size_t d = 0; d < problem->head_dim; d += FB_PANEL_DIMS) {
            float *dims = to + d / FB_PANEL_DIMS * block + key * FB_PANEL_DIMS;
            size_t left = problem->head_dim - d;
            size_t count = left < FB_PANEL_DIMS ? left : FB_PANEL_DIMS;
            widen(problem, value + fb_value_index(kv, d) * element, dims, count);
            memset(dims + count, 0, (FB_PANEL_DIMS - count) * sizeof *dims);
        }
    }
}

/* Packs up to 16 keys of 8 bits, from a place on, as a KV cache does; absent keys 0. */
static void pack_int_keys(const fb_attend_problem *problem, size_t kv_head, size_t place,
                          size_t keys, void *to) {
    const fb_kv *kv = problem->kv;
    memset(to, 0, fb_key_group_bytes(FB_INT8, kv->head_dim));
    float *scales = (float *)(uintptr_t)fb_key_scales(to, kv->head_dim);
    for (size_t key = 0; key < keys; key++) {
        size_t token = token_at(problem, place + key), lane = token % FB_GROUP_KEYS;
        const char *group = fb_key_group(kv, kv_head, token);
        scales[key] = fb_key_scales(group, kv->head_dim)[lane];
        for (size_t d = 0; d < kv->head_dim; d += FB_INT_QUAD)
            memcpy((char *)to + fb_int_key_index(d, key), group + fb_int_key_index(d, lane),
                   FB_INT_QUAD);
    }
}

/* The same for values; what is absent is not written. */
static void pack_int_values(const fb_attend_problem *problem, size_t kv_head, size_t place,
                            size_t keys, void *to) {
    const fb_kv *kv = problem->kv;
    float *scales = (float *)(uintptr_t)fb_value_scales(to, kv->head_dim);
    memset(scales, 0, FB_GROUP_KEYS * sizeof *scales);
    for (size_t key = 0; key < keys; key++) {
        size_t token = token_at(problem, place + key), lane = token % FB_GROUP_KEYS;
        const char *group = fb_value_group(kv, kv_head, token);
        scales[key] = fb_value_scales(group, kv->head_dim)[lane];
        for (size_t d = 0; d < problem->padded_dim; d++)
            ((char *)to)[fb_int_value_index(d, key)] = group[fb_int_value_index(d, lane)];
    }
}

/* The type of groups that are packed in the fb_workspace. */
static fb_dtype packed_dtype(const fb_kv *kv) {
    return kv->dtype == FB_INT8 ? FB_INT8 : FB_F32;
}

/* The keys of the places begin .. end-1 (at most 64). Packed groups are taken whole, wherever the
 * tile begins in them. Returns how many keys of the first group come before the tile. */
static size_t tile_keys(const fb_attend_problem *problem, size_t kv_head, size_t begin, size_t end,
                        const fb_workspace *w, tile_groups *keys) {
    const fb_kv *kv = problem->kv;
    bool in_place = has_groups(problem);
    size_t skipped = in_place ? begin % FB_GROUP_KEYS : 0;
    *keys = (tile_groups){.dtype = in_place ? kv->dtype : packed_dtype(kv)};
    size_t group_bytes = fb_key_group_bytes(keys->dtype, problem->head_dim);
    for (size_t place = begin - skipped; place < end; place += FB_GROUP_KEYS) {
        float *to = (float *)(void *)((char *)w->keys + keys->count * group_bytes);
        size_t left = end - place, present = left < FB_GROUP_KEYS ? left : FB_GROUP_KEYS;
        if (!in_place && kv->dtype == FB_INT8)
            pack_int_keys(problem, kv_head, place, present, to);
        else if (!in_place)
            pack_keys(problem, kv_head, place, present, w->row, to);
        keys->at[keys->count++] =
            in_place ? fb_key_group(kv, kv_head, token_at(problem, place)) : to;
    }
    return skipped;
}

/* The values of the places begin .. end-1 (at most 64), the first one at the start of a group. */
static void tile_values(const fb_attend_problem *problem, size_t kv_head, size_t begin, size_t end,
                        const fb_workspace *w, tile_groups *values) {
    const fb_kv *kv = problem->kv;
    bool in_place = has_groups(problem) && begin % FB_GROUP_KEYS == 0;
    *values = (tile_groups){.dtype = in_place ? kv->dtype : packed_dtype(kv)};
    size_t group_bytes = fb_value_group_bytes(values->dtype, problem->head_dim);
    for (size_t place = begin; place < end; place += FB_GROUP_KEYS) {
        float *to = (float *)(void *)((char *)w->values + values->count * group_bytes);
        size_t left = end - place, present = left < FB_GROUP_KEYS ? left : FB_GROUP_KEYS;
        if (!in_place && kv->dtype == FB_INT8)
            pack_int_values(problem, kv_head, place, present, to);
        else if (!in_place)
            pack_values(problem, kv_head, place, present, to);
        values->at[values->count++] =
            in_place ? fb_value_group(kv, kv_head, token_at(problem, place)) : to;
    }
}

/* The memory that is read after the values of a tile: the keys at the place where the next tile
 * begins. If that place is unknown (SIZE_MAX), or its keys have to be packed, there is nothing to
 * fetch, and it is the tile's values again. */
static const void *read_after(const fb_attend_problem *problem, size_t kv_head,
                              const tile_groups *v, size_t place) {
    if (!has_groups(problem) || place == SIZE_MAX)
        return v->at[0];
    return fb_key_group(problem->kv, kv_head, token_at(problem, place));
}

static fb_values_fn *values_kernel(const fb_attend_problem *problem, fb_dtype dtype) {
    return dtype == FB_INT8 ? problem->kernels->int_values : problem->kernels->values[dtype];
}

/* O = O * alpha + P V for one tile, in runs of rows that see the same keys. A row that sees no key
 * has alpha = 1 and does not change. */
static void add_values(const fb_attend_problem *problem, fb_row_unit unit, const size_t *counts,
                       const tile_groups *v, const void *next, const fb_workspace *w, float *out) {
    for (size_t row = 0, same = 0; row < unit.rows; row += same) {
        for (same = 1; row + same < unit.rows && counts[row + same] == counts[row];)
            same++;
        if (counts[row] > 0)
            values_kernel(problem, v->dtype)(&(fb_values_call){
                .p = w->p + row * FB_SEGMENT,
                .rows = same,
                .num_keys = counts[row],
                .streams = 1,
                .groups = v->at,
                .head_dim = problem->head_dim,
                .alpha = w->alpha + row,
                .next = next,
                .o = out + row * problem->padded_dim,
            });
    }
}

/* `count` keys of a transposed group  [panels][16][16], from number `first` on, to the rows of a
 * tile of such groups from number `row` on. */
static void move_keys(const float *group, size_t first, size_t count, size_t padded_dim, size_t row,
                      float *tile) {
    for (size_t end = first + count; first < end; first++, row++) {
        const float *from = group + first * FB_PANEL_DIMS;
        float *to = tile + row / FB_GROUP_KEYS * FB_GROUP_KEYS * padded_dim +
                    row % FB_GROUP_KEYS * FB_PANEL_DIMS;
        for (size_t d = 0; d < padded_dim; d += FB_PANEL_DIMS)
            memcpy(to + d * FB_GROUP_KEYS, from + d * FB_GROUP_KEYS, FB_PANEL_DIMS * sizeof *to);
    }
}

/* The tile's keys of 8 bits in the form of values. */
static void int_keys_as_values(const fb_attend_problem *problem, const tile_groups *k,
                               size_t skipped, size_t keys, const fb_workspace *w,
                               tile_groups *values) {
    const size_t head_dim = problem->head_dim, bytes = fb_value_group_bytes(FB_INT8, head_dim);
    *values = (tile_groups){.dtype = FB_INT8};
    memset(w->transposed, 0, FB_TILE_KEYS / FB_GROUP_KEYS * bytes);
    for (size_t key = 0; key < keys; key++) {
        size_t lane = (skipped + key) % FB_GROUP_KEYS, to_lane = key % FB_GROUP_KEYS;
        const char *from = k->at[(skipped + key) / FB_GROUP_KEYS];
        char *to = (char *)w->transposed + key / FB_GROUP_KEYS * bytes;
        float *scales = (float *)(uintptr_t)fb_value_scales(to, head_dim);
        scales[to_lane] = fb_key_scales(from, head_dim)[lane];
        for (size_t d = 0; d < head_dim; d++)
            to[fb_int_value_index(d, to_lane)] = from[fb_int_key_index(d, lane)];
        if (to_lane == 0)
            values->at[values->count++] = to;
    }
}

/* The tile's keys in the form of values: from them the values kernels make the mean key. If the
 * tile begins inside a group, its groups are transposed one by one into w->beside, and their keys
 * moved from there to the rows where values would be. */
static void keys_as_values(const fb_attend_problem *problem, const tile_groups *k, size_t skipped,
                           size_t keys, const fb_workspace *w, tile_groups *values) {
    size_t group_floats = FB_GROUP_KEYS * fb_padded_dim(problem->head_dim);
    for (size_t group = 0, done = 0; done < keys; group++) {
        size_t first = group == 0 ? skipped : 0, left = keys - done;
        size_t count = left < FB_GROUP_KEYS - first ? left : FB_GROUP_KEYS - first;
        float *to = skipped == 0 ? w->transposed + group * group_floats : w->beside;
        problem->kernels->transpose[k->dtype](
            &(fb_transpose_call){k->at[group], problem->head_dim, to});
        if (skipped > 0)
            move_keys(to, first, count, fb_padded_dim(problem->head_dim), done, w->transposed);
        done += count;
    }
    *values = (tile_groups){.dtype = FB_F32};
    for (size_t key = 0; key < keys; key += FB_GROUP_KEYS)
        values->at[values->count++] = w->transposed + key / FB_GROUP_KEYS * group_floats;
}

/* Scores of keys of any type. */
static void score(const fb_attend_problem *problem, fb_dtype dtype, const fb_scores_call *call,
                  const fb_workspace *w) {
    if (dtype == FB_INT8)
        problem->kernels->int_scores(&(fb_int_scores_call){
            .q = w->int_q,
            .factors = w->factors,
            .sums = w->int_sums,
            .rows = call->rows,
            .head_dim = call->head_dim,
            .streams = call->streams,
            .groups = call->groups,
            .num_groups = call->num_groups,
            .next = call->next,
            .s = call->s,
        });
    else
        problem->kernels->scores[dtype](call);
}

/* The online softmax of `rows` rows' scores: to p, alpha and the running maxima and sums. */
static void weigh_tile(const fb_attend_problem *problem, size_t rows, const float *scores,
                       const size_t *counts, const fb_workspace *w) {
    problem->kernels->softmax(&(fb_softmax_call){
        .s = scores,
        .rows = rows,
        .counts = counts,
        .max = w->max,
        .sums = w->sums,
        .p = w->p,
        .alpha = w->alpha,
    });
}

/* One tile: the places begin .. begin + keys - 1. `following` is the first place of the next tile;
 * SIZE_MAX: none. */
static void attend_tile(const fb_attend_problem *problem, fb_row_unit unit, size_t begin,
                        size_t keys, size_t following, const size_t *counts, const fb_workspace *w,
                        const fb_unit_part *part) {
    tile_groups k, v;
    size_t skipped = tile_keys(problem, unit.kv_head, begin, begin + keys, w, &k);
    tile_values(problem, unit.kv_head, begin, begin + keys, w, &v);
    const void *next = read_after(problem, unit.kv_head, &v, following);
    const fb_scores_call scores = {
        .q = w->q,
        .rows = unit.rows,
        .head_dim = problem->head_dim,
        .streams = 1,
        .groups = k.at,
        .num_groups = k.count,
        .scale = problem->scale,
        .next = v.at[0],
        .s = w->scores,
    };
    score(problem, k.dtype, &scores, w);
    weigh_tile(problem, unit.rows, w->scores + skipped, counts, w);
    add_values(problem, unit, counts, &v, next, w, part->out);
    if (problem->result->mean_key) {
        (k.dtype == FB_INT8 ? int_keys_as_values : keys_as_values)(problem, &k, skipped, keys, w,
                                                                   &v);
        add_values(problem, unit, counts, &v, next, w, part->mean_key);
    }
}

/* The row sum: 16 sums folded 8-4-2-1. */
static float fold_sums(const float *sums) {
    float folded[FB_GROUP_KEYS];
    memcpy(folded, sums, sizeof folded);
    for (size_t half = FB_GROUP_KEYS / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            folded[i] += folded[i + half];
    return folded[0];
}

/* O / l; 0 if the row has seen no key. The mean key is finished in the same way. */
static void finish_output(const fb_attend_problem *problem, float sum, float *out) {
    if (sum == 0.0f)
        memset(out, 0, problem->head_dim * sizeof *out);
    else
        problem->kernels->divide_row(sum, problem->head_dim, out);
}

/* Finishes a part after its last key: O / l and m + ln l. One loop makes the row sums and another
 * the logarithms; in one loop each row would wait for the row before. */
static void finish_part(const fb_attend_problem *problem, fb_row_unit unit, const fb_workspace *w,
                        const fb_unit_part *part) {
    float sums[FB_UNIT_ROWS];
    for (size_t row = 0; row < unit.rows; row++)
        sums[row] = fold_sums(w->sums + row * FB_GROUP_KEYS);
    for (size_t row = 0; row < unit.rows; row++)
        part->lse[row] = sums[row] == 0.0f ? (double)-INFINITY
                                           : (double)w->max[row] + fb_log_value((double)sums[row]);
    for (size_t row = 0; row < unit.rows; row++) {
        finish_output(problem, sums[row], part->out + row * problem->padded_dim);
        if (problem->result->mean_key)
            finish_output(problem, sums[row], part->mean_key + row * problem->padded_dim);
    }
}

void fb_empty_lses(fb_row_unit unit, const fb_unit_part *part) {
    for (size_t row = 0; row < unit.rows; row++)
        part->lse[row] = (double)-INFINITY;
}

void fb_empty_part(const fb_attend_problem *problem, fb_row_unit unit, const fb_unit_part *part) {
    memset(part->out, 0, unit.rows * problem->padded_dim * sizeof *part->out);
    if (problem->result->mean_key)
        memset(part->mean_key, 0, unit.rows * problem->padded_dim * sizeof *part->mean_key);
    fb_empty_lses(unit, part);
}

/* The state of the online softmax before a part's first key. */
static void begin_part(const fb_attend_problem *problem, fb_row_unit unit, const fb_workspace *w,
                       const fb_unit_part *part) {
    fb_empty_part(problem, unit, part);
    memset(w->sums, 0, unit.rows * FB_GROUP_KEYS * sizeof *w->sums);
    for (size_t row = 0; row < unit.rows; row++)
        w->max[row] = -INFINITY;
}

/* The part of one chunk, after fb_begin_unit. `following` is the first place of the chunk that will
 * be next; SIZE_MAX: none. */
static void chunk_part(const fb_attend_problem *problem, fb_row_unit unit,
                       const fb_key_chunk *chunk, size_t following, const fb_workspace *w,
                       const fb_unit_part *part) {
    size_t counts[FB_UNIT_ROWS], counted = 0; /* if not 0: each row sees so many keys of a tile */
    begin_part(problem, unit, w, part);
    for (size_t begin = chunk->begin; begin < chunk->end; begin += FB_TILE_KEYS) {
        size_t left = chunk->end - begin;
        size_t tile_keys = left < FB_TILE_KEYS ? left : FB_TILE_KEYS;
        size_t ordinal = chunk->ordinal + (begin - chunk->begin);
        bool all_seen = w->visible[0] >= ordinal + tile_keys;
        if (!all_seen || counted != tile_keys)
            count_visible(w, unit.rows, ordinal, tile_keys, counts);
        counted = all_seen ? tile_keys : 0;
        size_t keys = counts[unit.rows - 1];
        if (keys == 0)
            break;
        attend_tile(problem, unit, begin, keys,
                    left > FB_TILE_KEYS ? begin + FB_TILE_KEYS : following, counts, w, part);
    }
    finish_part(problem, unit, w, part);
}

size_t fb_chunks_side_by_side(const fb_attend_problem *problem, fb_row_unit unit,
                              const fb_key_chunk *chunks, size_t most) {
    size_t visible = visible_keys(problem, fb_row_query(problem, unit, 0)), count = 0;
    bool can = unit.rows <= FB_STREAM_ROWS && has_groups(problem) && !problem->result->mean_key;
    while (can && count < most && count < FB_STREAMS) {
        const fb_key_chunk *chunk = &chunks[count];
        can = chunk->end - chunk->begin == FB_CHUNK_KEYS && chunk->begin % FB_GROUP_KEYS == 0 &&
              chunk->ordinal + FB_CHUNK_KEYS <= visible;
        count += can;
    }
    return count > 0 ? count : 1;
}

/* The group that begins at a place. */
typedef const void *group_at_fn(const fb_kv *kv, size_t kv_head, size_t token);

/* The groups of one tile of each chunk, [count][4]. The tile begins `offset` keys after its chunk.
 */
static void list_groups(const fb_attend_problem *problem, fb_row_unit unit,
                        const fb_key_chunk *chunks, size_t count, size_t offset,
                        group_at_fn *group_at, const void **groups) {
    for (size_t stream = 0; stream < count; stream++)
        for (size_t key = 0; key < FB_TILE_KEYS; key += FB_GROUP_KEYS) {
            size_t token = token_at(problem, chunks[stream].begin + offset + key);
            *groups++ = group_at(problem->kv, unit.kv_head, token);
        }
}

/* FB_RUN_TILES tiles of each chunk, from `offset` keys after its start on. */
static void attend_run(const fb_attend_problem *problem, fb_row_unit unit,
                       const fb_key_chunk *chunks, size_t count, size_t offset,
                       const fb_workspace *w, const fb_unit_part *part) {
    const void *groups[FB_STREAMS * FB_TILE_GROUPS];
    size_t counts[FB_RUN_ROWS], rows = count * unit.rows;
    fb_dtype dtype = problem->kv->dtype;
    for (size_t row = 0; row < rows; row++)
        counts[row] = FB_TILE_KEYS;
    fb_scores_call scores = {
        .q = w->q,
        .rows = unit.rows,
        .head_dim = problem->head_dim,
        .streams = count,
        .groups = groups,
        .num_groups = FB_TILE_KEYS / FB_GROUP_KEYS,
        .scale = problem->scale,
    };
    for (size_t tile = 0; tile < FB_RUN_TILES; tile++) {
        list_groups(problem, unit, chunks, count, offset + tile * FB_TILE_KEYS, fb_key_group,
                    groups);
        scores.next = groups[0];
        scores.s = w->scores + tile * RUN_SCORES;
        score(problem, dtype, &scores, w);
    }
    fb_values_call values = {
        .p = w->p,
        .rows = unit.rows,
        .num_keys = FB_TILE_KEYS,
        .streams = count,
        .groups = groups,
        .head_dim = problem->head_dim,
        .alpha = w->alpha,
        .o = part->out,
    };
    for (size_t tile = 0; tile < FB_RUN_TILES; tile++) {
        list_groups(problem, unit, chunks, count, offset + tile * FB_TILE_KEYS, fb_value_group,
                    groups);
        weigh_tile(problem, rows, w->scores + tile * RUN_SCORES, counts, w);
        values.next = groups[0];
        values_kernel(problem, dtype)(&values);
    }
}

/* The parts of `count` chunks side by side. The rows of `part` are those of the first chunk, then
 * those of the second, and so on. */
static void side_by_side_part(const fb_attend_problem *problem, fb_row_unit unit,
                              const fb_key_chunk *chunks, size_t count, const fb_workspace *w,
                              const fb_unit_part *part) {
    fb_row_unit all = {.kv_head = unit.kv_head, .rows = count * unit.rows};
    begin_part(problem, all, w, part);
    for (size_t offset = 0; offset < FB_CHUNK_KEYS; offset += FB_RUN_TILES * FB_TILE_KEYS)
        attend_run(problem, unit, chunks, count, offset, w, part);
    finish_part(problem, all, w, part);
}

fb_unit_part fb_rows_of_chunk(const fb_attend_problem *problem, fb_row_unit unit,
                              const fb_unit_part *part, size_t index) {
    size_t row = index * unit.rows;
    return (fb_unit_part){
        .out = part->out + row * problem->padded_dim,
        .mean_key = part->mean_key + row * problem->padded_dim,
        .lse = part->lse + row,
    };
}

size_t fb_next_parts(const fb_attend_problem *problem, fb_row_unit unit, const fb_key_chunk *chunks,
                     size_t most, size_t following, const fb_workspace *w,
                     const fb_unit_part *part) {
    size_t count = fb_chunks_side_by_side(problem, unit, chunks, most);
    if (count > 1)
        side_by_side_part(problem, unit, chunks, count, w, part);
    else
        chunk_part(problem, unit, chunks, following, w, part);
    return count;
}

/* The tiled driver: attention of query rows over a view, in the canonical order of attention.h.
 *
 *   call    -> units: a KV head and up to 48 of its query rows (all heads of the group stacked:
 *              row = query * heads_per_kv + head in group), each on its own
 *   view    -> ranges -> chunks of up to 1024 keys, each a part; parts merge left to right
 *   chunk   -> tiles of 64 keys: scores, online softmax, values; where rows are few, those of four
 *              chunks side by side, which is another order of reading and not of adding
 *
 * Places: a key is known by its place, the token itself or, in a gathered view, its number among
 * all keys of the view; only what reads a key asks which token stands there (token_at).
 *
 * Threads take units, or where units are few, (unit, chunk) pairs in waves that are merged in
 * order afterwards. The cut into chunks is the view's alone, so no bit depends on who did what.
 */
#include "check.h"
#include "error.h"
#include "kv_access.h"
#include "memory.h"
#include "merge.h"
#include "scalar_math.h"
#include "scratch.h"

#include <flashblock/attention.h>

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

enum {
    UNIT_ROWS = FB_MAX_ROWS, /* rows, scores and outputs stay in the L2 cache */
    TASKS_PER_THREAD = 4,    /* enough to even out threads that are not equally fast */
    PARALLEL_FMAS = 1 << 18, /* below this, starting threads costs more than it saves */
    RUN_TILES = 4,           /* of a stream: its keys, then its values are read without a pause */
    STREAM_ROWS = FB_STREAMS * FB_STREAM_ROWS,
};

/* A run of at most FB_CHUNK_KEYS keys inside one range. */
typedef struct key_chunk {
    size_t begin, end; /* places */
    size_t ordinal;    /* of its first key in the view */
    bool ends_range;
} key_chunk;

/* Parts of a unit's rows: out, mean_key [R][D padded to whole panels], lse [R], not rounded yet.
 * mean_key is room that is touched only where the result wants mean keys. */
typedef struct unit_part {
    float *out, *mean_key;
    double *lse;
} unit_part;

/* What all threads share. */
typedef struct attend_problem {
    const fb_kernels *kernels;
    const fb_queries *queries;
    const fb_kv *kv;
    const fb_mask *mask; /* NULL: none */
    const fb_part *result;
    float scale;
    size_t head_dim, padded_dim; /* of an output row */
    size_t heads_per_kv;
    size_t num_rows;       /* of one KV head: num_queries * heads_per_kv */
    size_t units_per_head; /* row blocks of one KV head */
    size_t num_units;
    size_t num_keys;
    const size_t *tokens; /* of places 0, `token_step`, ... of a gathered view; NULL: any other */
    size_t token_step;    /* 16 where groups are read in place, else 1 */
    const key_chunk *chunks;
    size_t num_chunks;
} attend_problem;

typedef struct row_unit {
    size_t kv_head, first_row, rows;
} row_unit;

/* One thread's memory; R = UNIT_ROWS, D = head_dim. Outputs have rows of whole panels. */
typedef struct workspace {
    float *q;        /* [blocks of D][R][16] */
    float *keys;     /* [4 groups][D][16] one tile, where it has to be packed */
    float *values;   /* [4 groups][panels][16][16] one tile, where it has to be packed */
    float *turned;   /* the same of a tile's keys, where their mean is wanted */
    float *row;      /* [D padded] one key or value, widened */
    float *scores;   /* [RUN_TILES][STREAM_ROWS] or [R] at stride FB_SCORE_STRIDE */
    float *p;        /* [4][R][16] */
    float *max;      /* [R] */
    float *sums;     /* [R][16] */
    float *alpha;    /* [R] */
    size_t *visible; /* [R] how many of the view's keys each row sees */
    unit_part chunk; /* the part of a chunk */
    unit_part range; /* the merge of the chunks of a range so far */
    unit_part total; /* the merge of the ranges so far */
} workspace;

/* Floats of a buffer, rounded up so that the next one is aligned. */
static size_t padded(size_t floats) {
    size_t unit_floats = FB_ALIGNMENT / sizeof(float);
    return (floats + unit_floats - 1) / unit_floats * unit_floats;
}

/* Floats of a unit_part. */
static size_t part_floats(size_t head_dim) {
    return 2 * padded(UNIT_ROWS * fb_padded_dim(head_dim)) +
           padded(UNIT_ROWS * sizeof(double) / sizeof(float));
}

static unit_part part_at(float *base, size_t head_dim) {
    size_t out_floats = padded(UNIT_ROWS * fb_padded_dim(head_dim));
    return (unit_part){
        .out = base,
        .mean_key = base + out_floats,
        .lse = (double *)(void *)(base + 2 * out_floats),
    };
}

/* Of a workspace, in floats. */
enum {
    VISIBLE_FLOATS = UNIT_ROWS * sizeof(size_t) / sizeof(float),
    RUN_SCORES = STREAM_ROWS * FB_SCORE_STRIDE, /* of one tile in each stream */
    SCORE_FLOATS = RUN_TILES * RUN_SCORES,      /* also enough for UNIT_ROWS */
};

static size_t workspace_floats(size_t head_dim) {
    return padded(UNIT_ROWS * fb_padded_dim(head_dim)) + padded(FB_TILE_KEYS * head_dim) +
           2 * padded(FB_TILE_KEYS * fb_padded_dim(head_dim)) + padded(fb_padded_dim(head_dim)) +
           padded(SCORE_FLOATS) + padded(UNIT_ROWS * FB_TILE_KEYS) +
           padded(UNIT_ROWS * FB_GROUP_KEYS) + 2 * padded(UNIT_ROWS) + padded(VISIBLE_FLOATS) +
           3 * part_floats(head_dim);
}

/* The next `floats` of the memory at *at. */
static float *take(float **at, size_t floats) {
    float *taken = *at;
    *at += padded(floats);
    return taken;
}

/* Lays a workspace out in workspace_floats(head_dim) floats. */
static workspace workspace_at(float *base, size_t head_dim) {
    workspace w = {0};
    w.q = take(&base, UNIT_ROWS * fb_padded_dim(head_dim));
    w.keys = take(&base, FB_TILE_KEYS * head_dim);
    w.values = take(&base, FB_TILE_KEYS * fb_padded_dim(head_dim));
    w.turned = take(&base, FB_TILE_KEYS * fb_padded_dim(head_dim));
    w.row = take(&base, fb_padded_dim(head_dim));
    w.scores = take(&base, SCORE_FLOATS);
    w.p = take(&base, UNIT_ROWS * FB_TILE_KEYS);
    w.sums = take(&base, UNIT_ROWS * FB_GROUP_KEYS);
    w.max = take(&base, UNIT_ROWS);
    w.alpha = take(&base, UNIT_ROWS);
    w.visible = (size_t *)(void *)take(&base, VISIBLE_FLOATS);
    unit_part *parts[] = {&w.chunk, &w.range, &w.total};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        *parts[i] = part_at(take(&base, part_floats(head_dim)), head_dim);
    return w;
}

static row_unit unit_at(const attend_problem *problem, size_t index) {
    size_t first = index % problem->units_per_head * UNIT_ROWS;
    size_t left = problem->num_rows - first;
    return (row_unit){
        .kv_head = index / problem->units_per_head,
        .first_row = first,
        .rows = left < UNIT_ROWS ? left : UNIT_ROWS,
    };
}

/* Query and head of a unit's row. */
static size_t row_query(const attend_problem *problem, row_unit unit, size_t row) {
    return (unit.first_row + row) / problem->heads_per_kv;
}

static size_t row_head(const attend_problem *problem, row_unit unit, size_t row) {
    return unit.kv_head * problem->heads_per_kv + (unit.first_row + row) % problem->heads_per_kv;
}

/* The queries of a unit's rows, in blocks: [ceil(D / 16)][R][16]. */
static void gather_queries(const attend_problem *problem, row_unit unit, float *q) {
    const fb_queries *queries = problem->queries;
    for (size_t row = 0; row < unit.rows; row++) {
        const float *from = queries->q +
                            (ptrdiff_t)row_query(problem, unit, row) * queries->token_stride +
                            (ptrdiff_t)row_head(problem, unit, row) * queries->head_stride;
        float *to = q + row * FB_SEGMENT;
        size_t left = problem->head_dim;
        for (; left >= FB_SEGMENT; left -= FB_SEGMENT, from += FB_SEGMENT, to += FB_ROWS_BLOCK)
            memcpy(to, from, FB_SEGMENT * sizeof *q); /* of constant size: a few moves */
        memcpy(to, from, left * sizeof *q);
    }
}

/* How many of the view's keys a query sees: always the first ones, so a mask is a number. */
static size_t visible_keys(const attend_problem *problem, size_t query) {
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

/* What a thread has at hand while it works on a unit: queries, and how many keys each row sees. */
static void begin_unit(const attend_problem *problem, row_unit unit, const workspace *w) {
    gather_queries(problem, unit, w->q);
    for (size_t row = 0; row < unit.rows; row++)
        w->visible[row] = visible_keys(problem, row_query(problem, unit, row));
}

/* Of the `tile_keys` keys from the view's key number `ordinal` on, how many each row sees. Counts
 * never fall from a row to the next, as rows are in the order of their queries. */
static void count_visible(const workspace *w, size_t rows, size_t ordinal, size_t tile_keys,
                          size_t *counts) {
    for (size_t row = 0; row < rows; row++) {
        size_t count = w->visible[row] > ordinal ? w->visible[row] - ordinal : 0;
        counts[row] = count < tile_keys ? count : tile_keys;
    }
}

/* The token at a place; also of the places behind it up to the next multiple of token_step. */
static size_t token_at(const attend_problem *problem, size_t place) {
    return problem->tokens ? problem->tokens[place / problem->token_step] : place;
}

/* Whether groups of 16 places are groups of a KV cache. */
static bool has_groups(const attend_problem *problem) {
    return problem->kv->pages && problem->token_step == FB_GROUP_KEYS;
}

static void widen(const attend_problem *problem, const void *from, float *to, size_t count) {
    if (problem->kv->dtype == FB_BF16)
        problem->kernels->widen_bf16(from, to, count);
    else if (problem->kv->dtype == FB_F16)
        problem->kernels->widen_f16(from, to, count);
    else
        memcpy(to, from, count * sizeof *to);
}

/* Groups of 16 keys, or their values, of one tile, as kernels take them: packed in the KV cache, or
 * as floats in the workspace. */
typedef struct tile_groups {
    const void *at[FB_TILE_GROUPS];
    size_t count;
    fb_dtype dtype;
} tile_groups;

/* A key, wherever it is, widened: to [D]. */
static void read_key(const attend_problem *problem, size_t kv_head, size_t token, float *to) {
    const fb_kv *kv = problem->kv;
    const char *key = fb_key(kv, kv_head, token);
    if (!kv->pages) {
        widen(problem, key, to, problem->head_dim);
        return;
    }
    for (size_t d = 0; d < problem->head_dim; d++)
        widen(problem, key + fb_key_index(kv, d) * fb_dtype_size(kv->dtype), to + d, 1);
}

/* Up to 16 keys from a place on, packed: to [D][16], absent keys 0. */
static void pack_keys(const attend_problem *problem, size_t kv_head, size_t place, size_t keys,
                      float *row, float *to) {
    memset(to, 0, problem->head_dim * FB_GROUP_KEYS * sizeof *to);
    for (size_t key = 0; key < keys; key++) {
        read_key(problem, kv_head, token_at(problem, place + key), row);
        for (size_t d = 0; d < problem->head_dim; d++)
            to[d * FB_GROUP_KEYS + key] = row[d];
    }
}

/* Up to 16 values from a place on, packed: to [panels][16][16]. */
static void pack_values(const attend_problem *problem, size_t kv_head, size_t place, size_t keys,
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

/* The keys of the places begin .. end-1 (at most 64). Packed groups are taken whole, wherever the
 * tile begins in them: returns how many keys of the first one come before the tile. */
static size_t tile_keys(const attend_problem *problem, size_t kv_head, size_t begin, size_t end,
                        const workspace *w, tile_groups *keys) {
    const fb_kv *kv = problem->kv;
    bool in_place = has_groups(problem);
    size_t skipped = in_place ? begin % FB_GROUP_KEYS : 0;
    *keys = (tile_groups){.dtype = in_place ? kv->dtype : FB_F32};
    for (size_t place = begin - skipped; place < end; place += FB_GROUP_KEYS) {
        float *to = w->keys + keys->count * FB_GROUP_KEYS * problem->head_dim;
        size_t left = end - place, present = left < FB_GROUP_KEYS ? left : FB_GROUP_KEYS;
        if (!in_place)
            pack_keys(problem, kv_head, place, present, w->row, to);
        keys->at[keys->count++] =
            in_place ? fb_key_group(kv, kv_head, token_at(problem, place)) : to;
    }
    return skipped;
}

/* The values of the places begin .. end-1 (at most 64), the first one at the start of a group. */
static void tile_values(const attend_problem *problem, size_t kv_head, size_t begin, size_t end,
                        const workspace *w, tile_groups *values) {
    const fb_kv *kv = problem->kv;
    bool in_place = has_groups(problem) && begin % FB_GROUP_KEYS == 0;
    *values = (tile_groups){.dtype = in_place ? kv->dtype : FB_F32};
    for (size_t place = begin; place < end; place += FB_GROUP_KEYS) {
        float *to = w->values + values->count * FB_GROUP_KEYS * fb_padded_dim(problem->head_dim);
        size_t left = end - place, present = left < FB_GROUP_KEYS ? left : FB_GROUP_KEYS;
        if (!in_place)
            pack_values(problem, kv_head, place, present, to);
        values->at[values->count++] =
            in_place ? fb_value_group(kv, kv_head, token_at(problem, place)) : to;
    }
}

/* What is read after the values of a tile: the keys at the place where the next tile begins. There
 * is nothing to fetch where that is unknown (SIZE_MAX) or has to be packed: the values again. */
static const void *read_after(const attend_problem *problem, size_t kv_head, const tile_groups *v,
                              size_t place) {
    if (!has_groups(problem) || place == SIZE_MAX)
        return v->at[0];
    return fb_key_group(problem->kv, kv_head, token_at(problem, place));
}

/* O = O * alpha + P V for one tile, in runs of rows that see the same keys. A row that sees none
 * has alpha = 1 and stays. */
static void add_values(const attend_problem *problem, row_unit unit, const size_t *counts,
                       const tile_groups *v, const void *next, const workspace *w, float *out) {
    for (size_t row = 0, same = 0; row < unit.rows; row += same) {
        for (same = 1; row + same < unit.rows && counts[row + same] == counts[row];)
            same++;
        if (counts[row] > 0)
            problem->kernels->values[v->dtype](w->p + row * FB_SEGMENT, same, counts[row], 1, v->at,
                                               problem->head_dim, w->alpha + row, next,
                                               out + row * problem->padded_dim);
    }
}

/* Four floats of a vector register: shuffles for any instruction set. */
typedef float float_x4 __attribute__((vector_size(16)));

/* to[c][r] = from[r][c] for 4 x 4 floats, rows 16 floats apart in both. */
static inline void turn_4x4(const float *from, float *to) {
    float_x4 row[4];
    for (size_t r = 0; r < 4; r++)
        memcpy(&row[r], from + r * FB_GROUP_KEYS, sizeof row[r]);
    float_x4 low_01 = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
    float_x4 high_01 = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
    float_x4 low_23 = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
    float_x4 high_23 = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
    const float_x4 column[4] = {
        __builtin_shufflevector(low_01, low_23, 0, 1, 4, 5),
        __builtin_shufflevector(low_01, low_23, 2, 3, 6, 7),
        __builtin_shufflevector(high_01, high_23, 0, 1, 4, 5),
        __builtin_shufflevector(high_01, high_23, 2, 3, 6, 7),
    };
    for (size_t c = 0; c < 4; c++)
        memcpy(to + c * FB_PANEL_DIMS, &column[c], sizeof column[c]);
}

/* A whole group of packed keys  [D][16]  into panels  [panels][16][16]; D is whole panels. */
static void turn_whole_group(const float *from, size_t head_dim, float *to) {
    for (size_t d = 0; d < head_dim; d += 4)
        for (size_t key = 0; key < FB_GROUP_KEYS; key += 4)
            turn_4x4(from + d * FB_GROUP_KEYS + key,
                     to + d / FB_PANEL_DIMS * FB_GROUP_KEYS * FB_PANEL_DIMS + key * FB_PANEL_DIMS +
                         d % FB_PANEL_DIMS);
}

/* `keys` keys of a packed group, from number `first` on, into rows of panels,  [panels][.. 16][16],
 * of which the first one is row `to_row` of the tile's. */
static void turn_group(const float *from, size_t first, size_t keys, size_t head_dim, size_t to_row,
                       float *to) {
    size_t padded_dim = fb_padded_dim(head_dim), block = FB_GROUP_KEYS * FB_PANEL_DIMS;
    if (keys == FB_GROUP_KEYS && to_row % FB_GROUP_KEYS == 0 && head_dim == padded_dim) {
        turn_whole_group(from, head_dim, to + to_row * padded_dim);
        return;
    }
    for (size_t key = 0; key < keys; key++, to_row++) {
        float *row = to + to_row / FB_GROUP_KEYS * FB_GROUP_KEYS * padded_dim +
                     to_row % FB_GROUP_KEYS * FB_PANEL_DIMS;
        for (size_t d = 0; d < padded_dim; d++)
            row[d / FB_PANEL_DIMS * block + d % FB_PANEL_DIMS] =
                d < head_dim ? from[d * FB_GROUP_KEYS + first + key] : 0.0f;
    }
}

/* The tile's keys as the values kernels take values: the mean key is what they make of those. Where
 * they are not floats they were not packed: the room for that is free. */
static void turn_keys(const attend_problem *problem, const tile_groups *k, size_t skipped,
                      size_t keys, const workspace *w, tile_groups *turned) {
    size_t group_floats = problem->head_dim * FB_GROUP_KEYS;
    for (size_t group = 0, done = 0; done < keys; group++) {
        size_t first = group == 0 ? skipped : 0, left = keys - done;
        size_t count = left < FB_GROUP_KEYS - first ? left : FB_GROUP_KEYS - first;
        const float *from = k->at[group];
        if (k->dtype != FB_F32) {
            widen(problem, k->at[group], w->keys, group_floats);
            from = w->keys;
        }
        turn_group(from, first, count, problem->head_dim, done, w->turned);
        done += count;
    }
    *turned = (tile_groups){.dtype = FB_F32};
    for (size_t key = 0; key < keys; key += FB_GROUP_KEYS)
        turned->at[turned->count++] = w->turned + key * fb_padded_dim(problem->head_dim);
}

/* One tile: the places begin .. begin + keys - 1. `following` is the first place of the tile that
 * comes after it, SIZE_MAX if none does. */
static void attend_tile(const attend_problem *problem, row_unit unit, size_t begin, size_t keys,
                        size_t following, const size_t *counts, const workspace *w,
                        const unit_part *part) {
    tile_groups k, v;
    size_t skipped = tile_keys(problem, unit.kv_head, begin, begin + keys, w, &k);
    tile_values(problem, unit.kv_head, begin, begin + keys, w, &v);
    const void *next = read_after(problem, unit.kv_head, &v, following);
    problem->kernels->scores[k.dtype](w->q, unit.rows, problem->head_dim, 1, k.at, k.count,
                                      problem->scale, v.at[0], w->scores);
    problem->kernels->softmax(w->scores + skipped, unit.rows, counts, w->max, w->sums, w->p,
                              w->alpha);
    add_values(problem, unit, counts, &v, next, w, part->out);
    if (problem->result->mean_key) {
        turn_keys(problem, &k, skipped, keys, w, &v);
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

/* O / l; 0 where no key was seen. The mean key alike. */
static void finish_output(const attend_problem *problem, float sum, float *out) {
    if (sum == 0.0f)
        memset(out, 0, problem->head_dim * sizeof *out);
    else
        problem->kernels->divide_row(sum, problem->head_dim, out);
}

/* A part whose last key has been seen: O / l and m + ln l. One loop for the row sums and one for
 * the logarithms, or each row would wait for the one before. */
static void finish_part(const attend_problem *problem, row_unit unit, const workspace *w,
                        const unit_part *part) {
    float sums[UNIT_ROWS];
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

/* The part of no keys, as far as merges read it: its LSEs alone. */
static void empty_lses(row_unit unit, const unit_part *part) {
    for (size_t row = 0; row < unit.rows; row++)
        part->lse[row] = (double)-INFINITY;
}

static void empty_part(const attend_problem *problem, row_unit unit, const unit_part *part) {
    memset(part->out, 0, unit.rows * problem->padded_dim * sizeof *part->out);
    if (problem->result->mean_key)
        memset(part->mean_key, 0, unit.rows * problem->padded_dim * sizeof *part->mean_key);
    empty_lses(unit, part);
}

/* The online softmax of a part before its first key. */
static void begin_part(const attend_problem *problem, row_unit unit, const workspace *w,
                       const unit_part *part) {
    empty_part(problem, unit, part);
    memset(w->sums, 0, unit.rows * FB_GROUP_KEYS * sizeof *w->sums);
    for (size_t row = 0; row < unit.rows; row++)
        w->max[row] = -INFINITY;
}

/* The part of one chunk, behind begin_unit; `following` is the first place of the chunk
 * that will be next, SIZE_MAX if none. */
static void chunk_part(const attend_problem *problem, row_unit unit, const key_chunk *chunk,
                       size_t following, const workspace *w, const unit_part *part) {
    size_t counts[UNIT_ROWS];
    begin_part(problem, unit, w, part);
    for (size_t begin = chunk->begin; begin < chunk->end; begin += FB_TILE_KEYS) {
        size_t left = chunk->end - begin;
        size_t tile_keys = left < FB_TILE_KEYS ? left : FB_TILE_KEYS;
        count_visible(w, unit.rows, chunk->ordinal + (begin - chunk->begin), tile_keys, counts);
        size_t keys = counts[unit.rows - 1];
        if (keys == 0)
            break;
        attend_tile(problem, unit, begin, keys,
                    left > FB_TILE_KEYS ? begin + FB_TILE_KEYS : following, counts, w, part);
    }
    finish_part(problem, unit, w, part);
}

/* How many of the chunks from chunks[0] on, which are `most`, a unit may take side by side: whole
 * ones of few rows that see all of them. For mean keys the keys of a tile are turned, which is done
 * one tile after the other. */
static size_t chunks_side_by_side(const attend_problem *problem, row_unit unit,
                                  const key_chunk *chunks, size_t most) {
    size_t visible = visible_keys(problem, row_query(problem, unit, 0)), count = 0;
    bool can = unit.rows <= FB_STREAM_ROWS && has_groups(problem) && !problem->result->mean_key;
    while (can && count < most && count < FB_STREAMS) {
        const key_chunk *chunk = &chunks[count];
        can = chunk->end - chunk->begin == FB_CHUNK_KEYS && chunk->begin % FB_GROUP_KEYS == 0 &&
              chunk->ordinal + FB_CHUNK_KEYS <= visible;
        count += can;
    }
    return count > 0 ? count : 1;
}

/* The group that begins at a place. */
typedef const void *group_at_fn(const fb_kv *kv, size_t kv_head, size_t token);

/* The groups of one tile of each chunk, [count][4]; the tile is `offset` keys behind its start. */
static void list_groups(const attend_problem *problem, row_unit unit, const key_chunk *chunks,
                        size_t count, size_t offset, group_at_fn *group_at, const void **groups) {
    for (size_t stream = 0; stream < count; stream++)
        for (size_t key = 0; key < FB_TILE_KEYS; key += FB_GROUP_KEYS) {
            size_t token = token_at(problem, chunks[stream].begin + offset + key);
            *groups++ = group_at(problem->kv, unit.kv_head, token);
        }
}

/* RUN_TILES tiles of each chunk, `offset` keys behind its start. */
static void attend_run(const attend_problem *problem, row_unit unit, const key_chunk *chunks,
                       size_t count, size_t offset, const workspace *w, const unit_part *part) {
    const void *groups[FB_STREAMS * FB_TILE_GROUPS];
    size_t counts[STREAM_ROWS], rows = count * unit.rows;
    fb_dtype dtype = problem->kv->dtype;
    for (size_t row = 0; row < rows; row++)
        counts[row] = FB_TILE_KEYS;
    for (size_t tile = 0; tile < RUN_TILES; tile++) {
        list_groups(problem, unit, chunks, count, offset + tile * FB_TILE_KEYS, fb_key_group,
                    groups);
        problem->kernels->scores[dtype](w->q, unit.rows, problem->head_dim, count, groups,
                                        FB_TILE_KEYS / FB_GROUP_KEYS, problem->scale, groups[0],
                                        w->scores + tile * RUN_SCORES);
    }
    for (size_t tile = 0; tile < RUN_TILES; tile++) {
        list_groups(problem, unit, chunks, count, offset + tile * FB_TILE_KEYS, fb_value_group,
                    groups);
        problem->kernels->softmax(w->scores + tile * RUN_SCORES, rows, counts, w->max, w->sums,
                                  w->p, w->alpha);
        problem->kernels->values[dtype](w->p, unit.rows, FB_TILE_KEYS, count, groups,
                                        problem->head_dim, w->alpha, groups[0], part->out);
    }
}

/* The parts of `count` chunks side by side: part's rows are the first chunk's, then the next one's.
 */
static void side_by_side_part(const attend_problem *problem, row_unit unit, const key_chunk *chunks,
                              size_t count, const workspace *w, const unit_part *part) {
    row_unit all = {.kv_head = unit.kv_head, .rows = count * unit.rows};
    begin_part(problem, all, w, part);
    for (size_t offset = 0; offset < FB_CHUNK_KEYS; offset += RUN_TILES * FB_TILE_KEYS)
        attend_run(problem, unit, chunks, count, offset, w, part);
    finish_part(problem, all, w, part);
}

/* The rows of chunk number `index` of a part of several. */
static unit_part rows_of_chunk(const attend_problem *problem, row_unit unit, const unit_part *part,
                               size_t index) {
    size_t row = index * unit.rows;
    return (unit_part){
        .out = part->out + row * problem->padded_dim,
        .mean_key = part->mean_key + row * problem->padded_dim,
        .lse = part->lse + row,
    };
}

/* to := merge(to, part), for all rows of a unit. */
static void merge_unit(const attend_problem *problem, row_unit unit, const unit_part *part,
                       const unit_part *to) {
    float weights[UNIT_ROWS];
    double lse[UNIT_ROWS];
    fb_merge_weights(problem->kernels, to->lse, part->lse, unit.rows, weights, lse);
    for (size_t row = 0; row < unit.rows; row++) {
        size_t at = row * problem->padded_dim;
        fb_merge_row(problem->kernels, to->out + at, to->lse[row], part->out + at, part->lse[row],
                     weights[row], problem->head_dim, to->out + at);
        if (problem->result->mean_key)
            fb_merge_row(problem->kernels, to->mean_key + at, to->lse[row], part->mean_key + at,
                         part->lse[row], weights[row], problem->head_dim, to->mean_key + at);
    }
    memcpy(to->lse, lse, unit.rows * sizeof *lse);
}

static void round_lses(row_unit unit, const unit_part *part) {
    for (size_t row = 0; row < unit.rows; row++)
        part->lse[row] = (double)fb_round_lse(part->lse[row]);
}

/* Adds a chunk's part to its range, and a range that is complete to the total: LSEs are rounded
 * there and only there. Merging into the empty part changes no bit, so that the first chunk and
 * the first range need no case of their own. */
static void fold_chunk(const attend_problem *problem, row_unit unit, const key_chunk *chunk,
                       const unit_part *part, const unit_part *range, const unit_part *total) {
    merge_unit(problem, unit, part, range);
    if (!chunk->ends_range)
        return;
    round_lses(unit, range);
    merge_unit(problem, unit, range, total);
    round_lses(unit, total);
    empty_lses(unit, range);
}

/* The state of a unit before its first chunk; without any chunk, its result. */
static void begin_merges(const attend_problem *problem, row_unit unit, const unit_part *range,
                         const unit_part *total) {
    empty_lses(unit, range);
    if (problem->num_chunks > 0)
        empty_lses(unit, total);
    else
        empty_part(problem, unit, total);
}

static void write_result(const attend_problem *problem, row_unit unit, const unit_part *part) {
    const fb_part *result = problem->result;
    for (size_t row = 0; row < unit.rows; row++) {
        ptrdiff_t query = (ptrdiff_t)row_query(problem, unit, row);
        ptrdiff_t head = (ptrdiff_t)row_head(problem, unit, row);
        ptrdiff_t place = query * result->out_token_stride + head * result->out_head_stride;
        memcpy(result->out + place, part->out + row * problem->padded_dim,
               problem->head_dim * sizeof *part->out);
        if (result->mean_key)
            memcpy(result->mean_key + place, part->mean_key + row * problem->padded_dim,
                   problem->head_dim * sizeof *part->mean_key);
        result->lse[query * result->lse_token_stride + head * result->lse_head_stride] =
            fb_round_lse(part->lse[row]);
    }
}

/* The part of chunks[0], or those of as many of the `most` chunks there as go side by side; returns
 * their number. `following` is what comes behind chunks[0]. */
static size_t next_parts(const attend_problem *problem, row_unit unit, const key_chunk *chunks,
                         size_t most, size_t following, const workspace *w, const unit_part *part) {
    size_t count = chunks_side_by_side(problem, unit, chunks, most);
    if (count > 1)
        side_by_side_part(problem, unit, chunks, count, w, part);
    else
        chunk_part(problem, unit, chunks, following, w, part);
    return count;
}

/* Folds what next_parts made of `count` chunks. */
static void fold_parts(const attend_problem *problem, row_unit unit, const key_chunk *chunks,
                       size_t count, const unit_part *parts, const unit_part *range,
                       const unit_part *total) {
    for (size_t i = 0; i < count; i++) {
        unit_part part = rows_of_chunk(problem, unit, parts, i);
        fold_chunk(problem, unit, &chunks[i], &part, range, total);
    }
}

/* A whole unit by one thread. */
static void attend_unit(const attend_problem *problem, row_unit unit, const workspace *w) {
    begin_unit(problem, unit, w);
    begin_merges(problem, unit, &w->range, &w->total);
    for (size_t c = 0, count; c < problem->num_chunks; c += count) {
        const key_chunk *chunks = problem->chunks + c;
        size_t left = problem->num_chunks - c, following = left > 1 ? chunks[1].begin : SIZE_MAX;
        count = next_parts(problem, unit, chunks, left, following, w, &w->chunk);
        fold_parts(problem, unit, chunks, count, &w->chunk, &w->range, &w->total);
    }
    write_result(problem, unit, &w->total);
}

/* The workspace of the calling thread; `scratch` holds one for each. */
static workspace own_workspace(const attend_problem *problem, float *scratch) {
    size_t floats = workspace_floats(problem->head_dim);
    return workspace_at(scratch + (size_t)omp_get_thread_num() * floats, problem->head_dim);
}

static void attend_by_units(const attend_problem *problem, int threads, float *scratch) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (size_t u = 0; u < problem->num_units; u++) {
        workspace w = own_workspace(problem, scratch);
        attend_unit(problem, unit_at(problem, u), &w);
    }
}

/* Parts of attend_by_chunks, [num_units][2 + wave]: a unit's range and total, then its wave. */
enum { RANGE = 0, TOTAL, FIRST_OF_WAVE };

static unit_part wave_part(const attend_problem *problem, float *parts, size_t wave, size_t unit,
                           size_t index) {
    size_t floats = part_floats(problem->head_dim);
    return part_at(parts + (unit * (FIRST_OF_WAVE + wave) + index) * floats, problem->head_dim);
}

/* How many chunks of a wave are one thread's task. */
static size_t chunks_of_task(const attend_problem *problem) {
    return problem->num_rows <= FB_STREAM_ROWS ? FB_STREAMS : 1;
}

/* One task of a wave: the parts of chunks first .. end - 1 of it. */
static void attend_task(const attend_problem *problem, size_t u, const key_chunk *chunks,
                        size_t first, size_t end, const workspace *w, float *parts, size_t wave) {
    row_unit unit = unit_at(problem, u);
    begin_unit(problem, unit, w);
    for (size_t slot = first; slot < end;) {
        unit_part part = wave_part(problem, parts, wave, u, FIRST_OF_WAVE + slot);
        slot += next_parts(problem, unit, chunks + slot, end - slot, SIZE_MAX, w, &part);
    }
}

/* Folds them. */
static void fold_task(const attend_problem *problem, size_t u, const key_chunk *chunks,
                      size_t first, size_t end, float *parts, size_t wave) {
    row_unit unit = unit_at(problem, u);
    unit_part range = wave_part(problem, parts, wave, u, RANGE);
    unit_part total = wave_part(problem, parts, wave, u, TOTAL);
    for (size_t slot = first, count; slot < end; slot += count) {
        unit_part part = wave_part(problem, parts, wave, u, FIRST_OF_WAVE + slot);
        count = chunks_side_by_side(problem, unit, chunks + slot, end - slot);
        fold_parts(problem, unit, chunks + slot, count, &part, &range, &total);
    }
}

/* Few units: the chunks of a wave are computed by all threads, then folded in order. */
static void attend_by_chunks(const attend_problem *problem, int threads, float *scratch,
                             float *parts, size_t wave) {
    for (size_t u = 0; u < problem->num_units; u++) {
        unit_part range = wave_part(problem, parts, wave, u, RANGE);
        unit_part total = wave_part(problem, parts, wave, u, TOTAL);
        begin_merges(problem, unit_at(problem, u), &range, &total);
    }
    size_t step = chunks_of_task(problem);
    for (size_t first = 0; first < problem->num_chunks; first += wave) {
        const key_chunk *chunks = problem->chunks + first;
        size_t left = problem->num_chunks - first, count = left < wave ? left : wave;
        size_t unit_tasks = (count + step - 1) / step;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
        for (size_t task = 0; task < problem->num_units * unit_tasks; task++) {
            workspace w = own_workspace(problem, scratch);
            size_t slot = task % unit_tasks * step;
            size_t end = slot + step < count ? slot + step : count;
            attend_task(problem, task / unit_tasks, chunks, slot, end, &w, parts, wave);
        }
#pragma omp parallel for num_threads(threads) schedule(static)
        for (size_t u = 0; u < problem->num_units; u++)
            for (size_t slot = 0; slot < count; slot += step) {
                size_t end = slot + step < count ? slot + step : count;
                fold_task(problem, u, chunks, slot, end, parts, wave);
            }
    }
    for (size_t u = 0; u < problem->num_units; u++) {
        unit_part total = wave_part(problem, parts, wave, u, TOTAL);
        write_result(problem, unit_at(problem, u), &total);
    }
}

/* The runs of places that merge: the view's ranges or, of a gathered view, all its keys. Returns
 * their number. */
static size_t num_runs(const fb_view *view, bool gathered) {
    return gathered ? 1 : view->num_ranges;
}

static fb_range run_at(const fb_view *view, bool gathered, size_t num_keys, size_t index) {
    return gathered ? (fb_range){0, num_keys} : view->ranges[index];
}

/* The view cut into chunks; *chunks is to be freed with fb_scratch_release. */
static fb_status cut_into_chunks(const fb_view *view, bool gathered, size_t num_keys,
                                 key_chunk **chunks, size_t *num_chunks) {
    size_t count = 0, runs = num_runs(view, gathered);
    for (size_t r = 0; r < runs; r++) {
        fb_range run = run_at(view, gathered, num_keys, r);
        size_t keys = run.end - run.begin;
        count += keys / FB_CHUNK_KEYS + (keys % FB_CHUNK_KEYS != 0);
    }
    size_t bytes = 0;
    if (!fb_size_mul(count, sizeof **chunks, &bytes))
        return fb_fail(FB_ERROR_MEMORY, "view: %zu chunks do not fit the address space", count);
    void *memory = NULL;
    FB_TRY(fb_scratch_acquire(bytes, &memory));
    *chunks = memory;
    *num_chunks = 0;
    size_t ordinal = 0;
    for (size_t r = 0; r < runs; r++) {
        fb_range run = run_at(view, gathered, num_keys, r);
        for (size_t place = run.begin; place < run.end;) {
            size_t left = run.end - place, keys = left < FB_CHUNK_KEYS ? left : FB_CHUNK_KEYS;
            (*chunks)[(*num_chunks)++] =
                (key_chunk){place, place + keys, ordinal, place + keys == run.end};
            place += keys;
            ordinal += keys;
        }
    }
    return FB_OK;
}

/* Whether groups of 16 keys of the sequence that the ranges make are groups of a KV cache. */
static bool groups_stay_whole(const fb_view *view) {
    if (!view->kv->pages)
        return false;
    bool whole = true; /* all ranges so far hold whole groups */
    for (size_t r = 0; r < view->num_ranges; r++) {
        fb_range range = view->ranges[r];
        if (range.begin == range.end)
            continue;
        if (!whole || range.begin % FB_GROUP_KEYS != 0)
            return false;
        whole = range.end % FB_GROUP_KEYS == 0;
    }
    return true;
}

/* The tokens of a gathered view's places; *tokens is to be freed with fb_scratch_release. */
static fb_status place_tokens(const fb_view *view, size_t num_keys, attend_problem *problem,
                              size_t **tokens) {
    size_t step = groups_stay_whole(view) ? FB_GROUP_KEYS : 1, bytes = 0;
    if (!fb_size_mul(num_keys / step + 1, sizeof **tokens, &bytes))
        return fb_fail(FB_ERROR_MEMORY, "view: %zu keys do not fit the address space", num_keys);
    void *memory = NULL;
    FB_TRY(fb_scratch_acquire(bytes, &memory));
    *tokens = memory;
    size_t count = 0;
    for (size_t r = 0; r < view->num_ranges; r++)
        for (size_t token = view->ranges[r].begin; token < view->ranges[r].end; token += step)
            (*tokens)[count++] = token;
    problem->tokens = *tokens;
    problem->token_step = step;
    return FB_OK;
}

/* A call from inside a parallel region is one thread's work. */
static int useful_threads(const attend_problem *problem) {
    if (omp_in_parallel())
        return 1;
    double fmas = 2.0 * (double)problem->queries->num_queries *
                  (double)problem->queries->num_heads * (double)problem->num_keys *
                  (double)problem->head_dim;
    return fmas < (double)PARALLEL_FMAS ? 1 : fb_num_threads();
}

/* Memory, then the work: nothing can fail once threads run. */
static fb_status run_problem(const attend_problem *problem) {
    int threads = useful_threads(problem);
    size_t workspaces = (size_t)threads * workspace_floats(problem->head_dim);
    size_t tasks = (size_t)threads * TASKS_PER_THREAD;
    bool by_units = threads == 1 || problem->num_units >= tasks || problem->num_chunks < 2;
    size_t wave = (tasks + problem->num_units - 1) / problem->num_units * chunks_of_task(problem);
    wave = wave < problem->num_chunks ? wave : problem->num_chunks;
    size_t floats = workspaces;
    if (!by_units)
        floats += problem->num_units * (FIRST_OF_WAVE + wave) * part_floats(problem->head_dim);
    void *scratch = NULL;
    FB_TRY(fb_scratch_acquire(floats * sizeof(float), &scratch));
    if (by_units)
        attend_by_units(problem, threads, scratch);
    else
        attend_by_chunks(problem, threads, scratch, (float *)scratch + workspaces, wave);
    fb_scratch_release(scratch);
    return FB_OK;
}

static fb_status attend(const fb_queries *queries, const fb_view *view, bool gathered,
                        const fb_mask *mask, float scale, const fb_part *result) {
    size_t num_keys = 0;
    FB_TRY(fb_check_view(view, &num_keys));
    FB_TRY(fb_check_queries(queries, view));
    FB_TRY(fb_check_mask(mask));
    FB_TRY(fb_check_part(result, "result", queries->num_queries, queries->num_heads,
                         queries->head_dim));
    const fb_kernels *kernels = NULL;
    FB_TRY(fb_kernels_current(&kernels));
    if (queries->num_queries == 0)
        return FB_OK;
    const fb_kv *kv = view->kv;
    attend_problem problem = {
        .kernels = kernels,
        .queries = queries,
        .kv = kv,
        .mask = mask,
        .result = result,
        .scale = scale != 0.0f ? scale : (float)(1.0 / sqrt((double)kv->head_dim)),
        .head_dim = kv->head_dim,
        .padded_dim = fb_padded_dim(kv->head_dim),
        .heads_per_kv = queries->num_heads / kv->num_kv_heads,
        .num_keys = num_keys,
        .token_step = FB_GROUP_KEYS,
    };
    if (!fb_size_mul(queries->num_queries, problem.heads_per_kv, &problem.num_rows))
        return fb_fail(FB_ERROR_ARGUMENT, "queries: %zu queries x %zu heads overflow",
                       queries->num_queries, queries->num_heads);
    problem.units_per_head = (problem.num_rows + UNIT_ROWS - 1) / UNIT_ROWS;
    problem.num_units = problem.units_per_head * kv->num_kv_heads;
    key_chunk *chunks = NULL;
    size_t *tokens = NULL;
    FB_TRY(cut_into_chunks(view, gathered, num_keys, &chunks, &problem.num_chunks));
    problem.chunks = chunks;
    fb_status status = gathered ? place_tokens(view, num_keys, &problem, &tokens) : FB_OK;
    if (status == FB_OK)
        status = run_problem(&problem);
    fb_scratch_release(tokens);
    fb_scratch_release(chunks);
    return status;
}

fb_status fb_attend(const fb_queries *queries, const fb_view *view, const fb_mask *mask,
                    float scale, const fb_part *result) {
    return attend(queries, view, false, mask, scale, result);
}

fb_status fb_attend_gathered(const fb_queries *queries, const fb_view *view, const fb_mask *mask,
                             float scale, const fb_part *result) {
    return attend(queries, view, true, mask, scale, result);
}

fb_kv fb_kv_heads(const fb_kv *kv, size_t first, size_t count) {
    fb_kv heads = *kv;
    heads.num_kv_heads = count;
    if (kv->pages) {
        heads.first_kv_head += first;
        return heads;
    }
    ptrdiff_t element = (ptrdiff_t)fb_dtype_size(kv->dtype), head = (ptrdiff_t)first;
    if (kv->k)
        heads.k = (const char *)kv->k + head * kv->k_head_stride * element;
    if (kv->v)
        heads.v = (const char *)kv->v + head * kv->v_head_stride * element;
    return heads;
}

fb_kv fb_kv_rows(fb_dtype dtype, const void *k, const void *v, size_t num_tokens,
                 size_t num_kv_heads, size_t head_dim) {
    ptrdiff_t head_stride = (ptrdiff_t)head_dim;
    ptrdiff_t token_stride = (ptrdiff_t)(num_kv_heads * head_dim);
    return (fb_kv){
        .dtype = dtype,
        .num_tokens = num_tokens,
        .num_kv_heads = num_kv_heads,
        .head_dim = head_dim,
        .k = k,
        .v = v,
        .k_token_stride = token_stride,
        .k_head_stride = head_stride,
        .v_token_stride = token_stride,
        .v_head_stride = head_stride,
    };
}

fb_queries fb_queries_rows(const float *q, size_t num_queries, size_t num_heads, size_t head_dim) {
    return (fb_queries){
        .q = q,
        .num_queries = num_queries,
        .num_heads = num_heads,
        .head_dim = head_dim,
        .token_stride = (ptrdiff_t)(num_heads * head_dim),
        .head_stride = (ptrdiff_t)head_dim,
    };
}

fb_part fb_part_rows(float *out, float *lse, size_t num_heads, size_t head_dim) {
    return (fb_part){
        .out = out,
        .out_token_stride = (ptrdiff_t)(num_heads * head_dim),
        .out_head_stride = (ptrdiff_t)head_dim,
        .lse = lse,
        .lse_token_stride = (ptrdiff_t)num_heads,
        .lse_head_stride = 1,
    };
}

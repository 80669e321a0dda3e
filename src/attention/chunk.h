/* The part of a chunk of keys, for the rows of a unit: the driver (attend.c) is made of these. */
#ifndef FB_ATTENTION_CHUNK_H
#define FB_ATTENTION_CHUNK_H

#include "simd/kernels.h"

#include <flashblock/attention.h>

#include <stdbool.h>

enum {
    FB_UNIT_ROWS = FB_MAX_ROWS, /* rows, scores and outputs stay in the L2 cache */
    FB_RUN_TILES = 4, /* tiles of a stream: all their keys are read, then all their values */
    FB_RUN_ROWS = FB_STREAMS * FB_STREAM_ROWS,
};

/* A run of at most FB_CHUNK_KEYS keys inside one range. */
typedef struct fb_key_chunk {
    size_t begin, end; /* places */
    size_t ordinal;    /* of its first key in the view */
    bool ends_range;
} fb_key_chunk;

/* Parts of a unit's rows: out, mean_key [R][D padded to whole panels], lse [R], not rounded yet.
 * mean_key is used only if the result wants mean keys. */
typedef struct fb_unit_part {
    float *out, *mean_key;
    double *lse;
} fb_unit_part;

/* The description of a call, which all threads share. */
typedef struct fb_attend_problem {
    const fb_kernels *kernels;
    const fb_queries *queries;
    const fb_kv *kv;
    const fb_mask *mask; /* NULL: none */
    const fb_part *result;
    float scale;
    size_t head_dim, padded_dim; /* of an output row */
    size_t heads_per_kv;
    size_t num_rows;       /* of one KV head: num_queries * heads_per_kv */
    size_t unit_rows;      /* of a unit, at most */
    size_t units_per_head; /* row blocks of one KV head */
    size_t num_units;
    size_t num_keys;
    const size_t *tokens; /* of places 0, `token_step`, ... of a gathered view; NULL: any other */
    size_t token_step;    /* 16 where groups are read in place, else 1 */
    const fb_key_chunk *chunks;
    size_t num_chunks;
} fb_attend_problem;

typedef struct fb_row_unit {
    size_t kv_head, first_row, rows;
} fb_row_unit;

/* One thread's memory for a unit; R = FB_UNIT_ROWS, D = head_dim. Outputs have rows of whole
 * panels. A thread may take several units together, chunk by chunk: they share the first arrays. */
typedef struct fb_workspace {
    float *keys;        /* [4 groups][D][16] one tile, if it has to be packed; or ints, as packed */
    float *values;      /* [4 groups][panels][16][16] one tile, if it has to be packed */
    float *transposed;  /* the same: a tile's keys in the form of values, if mean keys are wanted */
    float *beside;      /* [panels][16][16] one group of them, before its keys are moved */
    float *row;         /* [D padded] one key or value, widened */
    float *scores;      /* [FB_RUN_TILES][FB_RUN_ROWS] or [R] at stride FB_SCORE_STRIDE */
    float *p;           /* [4][R][16] */
    float *max;         /* [R] */
    float *sums;        /* [R][16] */
    float *alpha;       /* [R] */
    fb_unit_part chunk; /* the part of a chunk */

    /* The unit's own: */
    float *q;           /* [blocks of D][R][16] */
    int8_t *int_q;      /* [R][D padded] with keys of FB_INT8: the queries' integers */
    float *factors;     /* [R] and scale * their scales */
    int32_t *int_sums;  /* [R] and the sums of the integers */
    size_t *visible;    /* [R] how many of the view's keys each row sees */
    fb_unit_part range; /* the merge of the chunks of a range so far */
    fb_unit_part total; /* the merge of the ranges so far */
} fb_workspace;

/* Query and head of a unit's row. */
static inline size_t fb_row_query(const fb_attend_problem *problem, fb_row_unit unit, size_t row) {
    return (unit.first_row + row) / problem->heads_per_kv;
}

static inline size_t fb_row_head(const fb_attend_problem *problem, fb_row_unit unit, size_t row) {
    return unit.kv_head * problem->heads_per_kv + (unit.first_row + row) % problem->heads_per_kv;
}

/* The size of an fb_unit_part in floats, and an fb_unit_part in so many floats at `base`. */
size_t fb_part_floats(size_t head_dim);
fb_unit_part fb_part_at(float *base, size_t head_dim);

/* The size in floats of a thread's memory for `units` units, and the fb_workspace of unit number
 * `unit` in so many floats at `base`. */
size_t fb_workspace_floats(size_t head_dim, size_t units);
fb_workspace fb_workspace_at(float *base, size_t head_dim, size_t unit);

/* Prepares a thread's workspace for a unit: its queries, and how many keys each row sees. */
void fb_begin_unit(const fb_attend_problem *problem, fb_row_unit unit, const fb_workspace *w);

/* Returns how many chunks a unit takes side by side, from chunks[0] on; `most` chunks are there. It
 * takes chunks side by side only if the unit has at most FB_STREAM_ROWS rows, each chunk is whole,
 * every row sees all of it, and no mean keys are wanted: for those the keys of a tile are
 * transposed, one tile after the other. Otherwise the answer is 1. */
size_t fb_chunks_side_by_side(const fb_attend_problem *problem, fb_row_unit unit,
                              const fb_key_chunk *chunks, size_t most);

/* Computes the part of chunks[0], or the parts of as many chunks as fb_chunks_side_by_side says.
 * Returns their number. fb_begin_unit comes first. `following` is the first place of the chunk that
 * the thread takes after chunks[0]; SIZE_MAX: none. */
size_t fb_next_parts(const fb_attend_problem *problem, fb_row_unit unit, const fb_key_chunk *chunks,
                     size_t most, size_t following, const fb_workspace *w,
                     const fb_unit_part *part);

/* The part of chunk number `index`, among the parts that fb_next_parts has written to `part`. */
fb_unit_part fb_rows_of_chunk(const fb_attend_problem *problem, fb_row_unit unit,
                              const fb_unit_part *part, size_t index);

/* Writes the part of no keys; fb_empty_lses writes only its LSEs, which is all that merges read. */
void fb_empty_part(const fb_attend_problem *problem, fb_row_unit unit, const fb_unit_part *part);
void fb_empty_lses(fb_row_unit unit, const fb_unit_part *part);

#endif

/* Prints how far attention is from double precision when keys and values are stored as each type
 * that a KV cache has, as two tables in Markdown: docs/results/errors.md has them.
 *
 * usage: kv_errors
 *
 * The truth is the formula over the float32 keys and values, before they are stored. The first
 * table is of one call over all keys. For integers of 8 bits it has one more row: the formula in
 * double over what is stored, so that the rounding of queries and weights is left out. The second
 * table is of each way in which a block attends to its context, with queries that have moved since
 * the step that stored what it keeps. The truth does the same, in double. */
#include "oracle/inputs.h"

#include <flashblock/experimental/head_reuse.h>
#include <flashblock/experimental/rows.h>
#include <flashblock/experimental/selector.h>
#include <flashblock/flashblock.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct shape {
    size_t heads, kv_heads, dim, queries, keys;
    float outlier; /* dimension 5 of every key is as many times as large as the others */
} shape;

typedef struct problem {
    shape s;
    float *q, *k, *v;
    double *out, *lse; /* the truth */
    size_t outs, rows;
} problem;

static void must(fb_status status) {
    if (status == FB_OK)
        return;
    fprintf(stderr, "%s\n", fb_error_message());
    exit(1);
}

static void *zeros(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (!memory)
        abort();
    return memory;
}

/* How far a result is from the truth. */
typedef struct error {
    double relative; /* the root of the mean square of the errors by that of the truths, of out */
    double largest, largest_lse;
} error;

static fb_view view_of(const fb_kv *kv, fb_range *all) {
    *all = (fb_range){0, kv->num_tokens};
    return (fb_view){kv, all, 1};
}

static void reference(const problem *p, const fb_kv *kv, double *out, double *lse) {
    fb_range all;
    fb_view view = view_of(kv, &all);
    fb_queries queries = fb_queries_rows(p->q, p->s.queries, p->s.heads, p->s.dim);
    must(fb_attend_reference(&queries, &view, NULL, 0.0, out, lse));
}

static problem problem_new(shape s) {
    const size_t kv_count = s.keys * s.kv_heads * s.dim;
    problem p = {.s = s, .rows = s.queries * s.heads};
    p.outs = p.rows * s.dim;
    p.q = zeros(p.outs, sizeof *p.q);
    p.k = zeros(kv_count, sizeof *p.k);
    p.v = zeros(kv_count, sizeof *p.v);
    fb_input_normals(1, "q", 1, p.q, p.outs);
    fb_input_normals(1, "k", 1, p.k, kv_count);
    fb_input_normals(1, "v", 1, p.v, kv_count);
    for (size_t key = 0; key < s.keys * s.kv_heads; key++)
        p.k[key * s.dim + 5] *= s.outlier;
    p.out = zeros(p.outs, sizeof *p.out);
    p.lse = zeros(p.rows, sizeof *p.lse);
    fb_kv kv = fb_kv_rows(FB_F32, p.k, p.v, s.keys, s.kv_heads, s.dim);
    reference(&p, &kv, p.out, p.lse);
    return p;
}

static void problem_free(problem *p) {
    free(p->q), free(p->k), free(p->v), free(p->out), free(p->lse);
}

static error error_of(const problem *p, const double *truth, const double *truth_lse,
                      const double *out, const double *lse) {
    error e = {0};
    double errors = 0, truths = 0;
    for (size_t i = 0; i < p->outs; i++) {
        double difference = out[i] - truth[i];
        errors += difference * difference;
        truths += truth[i] * truth[i];
        e.largest = fmax(e.largest, fabs(difference));
    }
    for (size_t i = 0; i < p->rows; i++)
        e.largest_lse = fmax(e.largest_lse, fabs(lse[i] - truth_lse[i]));
    e.relative = sqrt(errors / truths);
    return e;
}

static void print_row(const problem *p, const char *name, const double *out, const double *lse) {
    error e = error_of(p, p->out, p->lse, out, lse);
    printf("| %zu / %zu, %zu, %zu, %zu, %g | %s | %.2g | %.2g | %.2g |\n", p->s.heads,
           p->s.kv_heads, p->s.dim, p->s.queries, p->s.keys, (double)p->s.outlier, name, e.relative,
           e.largest, e.largest_lse);
    fflush(stdout);
}

static void measure(const problem *p, fb_dtype dtype) {
    fb_kv_cache_config config = {1, p->s.kv_heads, p->s.dim, dtype};
    fb_kv_cache *cache = NULL;
    fb_kv kv;
    must(fb_kv_cache_create(&config, &cache));
    must(fb_kv_cache_write(cache, 0, 0, p->s.keys, p->k, p->v));
    must(fb_kv_cache_layer(cache, 0, &kv));
    float *out = zeros(p->outs, sizeof *out), *lse = zeros(p->rows, sizeof *lse);
    double *wide = zeros(p->outs, sizeof *wide), *wide_lse = zeros(p->rows, sizeof *wide_lse);
    fb_range all;
    fb_view view = view_of(&kv, &all);
    fb_queries queries = fb_queries_rows(p->q, p->s.queries, p->s.heads, p->s.dim);
    fb_part part = fb_part_rows(out, lse, p->s.heads, p->s.dim);
    must(fb_attend(&queries, &view, NULL, 0.0f, &part));
    for (size_t i = 0; i < p->outs; i++)
        wide[i] = (double)out[i];
    for (size_t i = 0; i < p->rows; i++)
        wide_lse[i] = (double)lse[i];
    print_row(p, fb_dtype_name(dtype), wide, wide_lse);
    if (dtype == FB_INT8) {
        reference(p, &kv, wide, wide_lse);
        print_row(p, "int8, storage alone", wide, wide_lse);
    }
    free(out), free(lse), free(wide), free(wide_lse);
    fb_kv_cache_destroy(cache);
}

/* ---- each way to attend ---- */

enum { CONTEXT = 4096, BLOCK = 4, KEY_BLOCK = 32, SINK = 256, WINDOW = 1024, MAX_KV_HEADS = 8 };

typedef enum attend_way {
    REFRESH,
    MERGE,
    REUSE,
    ROWS,
    CORRECTED,
    SPARSE,
    HEADS,
    NUM_WAYS
} attend_way;

static const char *const way_names[NUM_WAYS] = {
    [REFRESH] = "a refresh",
    [MERGE] = "two halves of the keys, merged",
    [REUSE] = "a reuse",
    [ROWS] = "a refresh of two rows of four",
    [CORRECTED] = "the same, the others corrected",
    [SPARSE] = "half of the key blocks, and the residual of the step before",
    [HEADS] = "video: a sink of 256 keys, a window of 1,024, a refresh of half of the heads",
};

/* A block behind a context: a problem with CONTEXT + BLOCK keys, whose truth is that of a refresh.
 */
typedef struct block_case {
    problem p;
    float *earlier;         /* the queries of the step before */
    fb_selection selection; /* every other key block, of all heads */
    double *out[NUM_WAYS], *lse[NUM_WAYS];
} block_case;

static const fb_range external = {0, CONTEXT}, internal = {CONTEXT, CONTEXT + BLOCK};
static const fb_range sink_and_window[] = {{0, SINK}, {CONTEXT - WINDOW, CONTEXT}};
static const bool refreshed_rows[BLOCK] = {true, false, true, false};

/* Whether a row of this head refreshes, where only some do. */
static bool refreshes(attend_way way, size_t query, size_t head) {
    return way == HEADS ? head % 2 == 0 : refreshed_rows[query];
}

typedef struct exact_part {
    double *out, *lse;
} exact_part;

static exact_part exact_new(const problem *p) {
    return (exact_part){zeros(p->outs, sizeof(double)), zeros(p->rows, sizeof(double))};
}

static void exact_free(exact_part part) {
    free(part.out), free(part.lse);
}

/* Over ranges of keys, whose values are v. */
static exact_part exact_over(const problem *p, const float *q, const float *v,
                             const fb_range *ranges, size_t num_ranges) {
    exact_part part = exact_new(p);
    fb_kv kv = fb_kv_rows(FB_F32, p->k, v, p->s.keys, p->s.kv_heads, p->s.dim);
    fb_view view = {&kv, ranges, num_ranges};
    fb_queries queries = fb_queries_rows(q, p->s.queries, p->s.heads, p->s.dim);
    must(fb_attend_reference(&queries, &view, NULL, 0.0, part.out, part.lse));
    return part;
}

/* Merges two parts, and frees them. */
static exact_part exact_merge(const problem *p, exact_part a, exact_part b) {
    exact_part merged = exact_new(p);
    fb_merge_reference(a.out, a.lse, b.out, b.lse, p->rows, p->s.dim, merged.out, merged.lse);
    exact_free(a), exact_free(b);
    return merged;
}

static exact_part exact_selected(const block_case *c, const float *q,
                                 const fb_selection *selection) {
    fb_range *ranges = zeros(selection->num_blocks, sizeof *ranges);
    size_t count = fb_selection_ranges(selection, 0, ranges);
    exact_part part = exact_over(&c->p, q, c->p.v, ranges, count);
    free(ranges);
    return part;
}

/* L' = L + scale * (q - q0) . k0 (contract C8.6). */
static void correct(const block_case *c, exact_part kept) {
    const problem *p = &c->p;
    exact_part mean_key = exact_over(p, c->earlier, p->k, &external, 1);
    for (size_t row = 0; row < p->rows; row++)
        for (size_t d = 0; d < p->s.dim; d++) {
            size_t i = row * p->s.dim + d;
            kept.lse[row] += ((double)p->q[i] - (double)c->earlier[i]) * mean_key.out[i] /
                             sqrt((double)p->s.dim);
        }
    exact_free(mean_key);
}

static exact_part exact_external(const block_case *c, attend_way way, const float *q) {
    const problem *p = &c->p;
    if (way == HEADS)
        return exact_over(p, q, p->v, sink_and_window, 2);
    return exact_over(p, q, p->v, &external, 1);
}

/* The truth of a way whose external part is kept from the step before, at least in some rows. */
static exact_part exact_reuse(const block_case *c, attend_way way) {
    const problem *p = &c->p;
    exact_part kept = exact_external(c, way, c->earlier);
    if (way == CORRECTED)
        correct(c, kept);
    if (way != REUSE) {
        exact_part fresh = exact_external(c, way, p->q);
        for (size_t row = 0; row < p->rows; row++)
            if (refreshes(way, row / p->s.heads, row % p->s.heads)) {
                const size_t at = row * p->s.dim;
                memcpy(kept.out + at, fresh.out + at, p->s.dim * sizeof *kept.out);
                kept.lse[row] = fresh.lse[row];
            }
        exact_free(fresh);
    }
    return exact_merge(p, kept, exact_over(p, p->q, p->v, &internal, 1));
}

static exact_part exact_sparse(const block_case *c) {
    const problem *p = &c->p;
    fb_selection others = {0};
    must(fb_selection_complement(&c->selection, &others));
    exact_part all = exact_merge(p, exact_selected(c, p->q, &c->selection),
                                 exact_selected(c, c->earlier, &others));
    fb_selection_release(&others);
    return exact_merge(p, all, exact_over(p, p->q, p->v, &internal, 1));
}

static block_case block_case_new(void) {
    block_case c = {.p = problem_new((shape){32, MAX_KV_HEADS, 128, BLOCK, CONTEXT + BLOCK, 1})};
    const problem *p = &c.p;
    c.earlier = zeros(p->outs, sizeof *c.earlier);
    fb_input_normals(2, "q", 1, c.earlier, p->outs);
    for (size_t i = 0; i < p->outs; i++)
        c.earlier[i] = p->q[i] + 0.1f * c.earlier[i];
    must(fb_selection_begin(&c.selection, KEY_BLOCK, CONTEXT, p->s.kv_heads));
    size_t blocks[CONTEXT / KEY_BLOCK / 2];
    for (size_t i = 0; i < CONTEXT / KEY_BLOCK / 2; i++)
        blocks[i] = 2 * i;
    for (size_t list = 0; list < p->s.kv_heads; list++)
        must(fb_selection_set(&c.selection, list, blocks, CONTEXT / KEY_BLOCK / 2));
    for (attend_way way = 0; way < NUM_WAYS; way++) {
        exact_part truth = {p->out, p->lse};
        if (way >= REUSE)
            truth = way == SPARSE ? exact_sparse(&c) : exact_reuse(&c, way);
        c.out[way] = truth.out;
        c.lse[way] = truth.lse;
    }
    return c;
}

static void block_case_free(block_case *c) {
    for (attend_way way = REUSE; way < NUM_WAYS; way++)
        free(c->out[way]), free(c->lse[way]);
    fb_selection_release(&c->selection);
    free(c->earlier);
    problem_free(&c->p);
}

static void attend_merged(const problem *p, const fb_kv *kv, const fb_part *result) {
    fb_queries queries = fb_queries_rows(p->q, p->s.queries, p->s.heads, p->s.dim);
    fb_range halves[] = {{0, CONTEXT / 2}, {CONTEXT / 2, CONTEXT + BLOCK}};
    float *out = zeros(p->outs, sizeof *out), *lse = zeros(p->rows, sizeof *lse);
    fb_part second = fb_part_rows(out, lse, p->s.heads, p->s.dim);
    must(fb_attend(&queries, &(fb_view){kv, &halves[0], 1}, NULL, 0.0f, result));
    must(fb_attend(&queries, &(fb_view){kv, &halves[1], 1}, NULL, 0.0f, &second));
    must(fb_merge(result, &second, p->s.queries, p->s.heads, p->s.dim, result));
    free(out), free(lse);
}

/* The step before, and the step that is measured. */
static void attend_block(const block_case *c, attend_way way, const fb_kv_cache *cache,
                         const fb_part *result) {
    static const fb_reuse_action actions[NUM_WAYS] = {
        [REFRESH] = FB_REFRESH_AND_STORE, [REUSE] = FB_REUSE,  [ROWS] = FB_REFRESH_ROWS,
        [CORRECTED] = FB_REFRESH_ROWS,    [SPARSE] = FB_REUSE, [HEADS] = FB_REFRESH_HEADS,
    };
    const shape *s = &c->p.s;
    bool refreshed_heads[32];
    fb_kv kv, heads[MAX_KV_HEADS];
    fb_view externals[MAX_KV_HEADS], internals[MAX_KV_HEADS];
    must(fb_kv_cache_layer(cache, 0, &kv));
    for (size_t head = 0; head < s->heads; head++)
        refreshed_heads[head] = refreshes(HEADS, 0, head);
    for (size_t head = 0; head < s->kv_heads; head++) {
        heads[head] = fb_kv_heads(&kv, head, 1);
        externals[head] = (fb_view){&heads[head], sink_and_window, 2};
        internals[head] = (fb_view){&heads[head], &internal, 1};
    }
    fb_block_heads views = {
        .external = externals, .internal = internals, .num_kv_heads = s->kv_heads, .context = 1};
    fb_part_cache *parts = NULL;
    must(fb_part_cache_create(1, BLOCK, s->heads, s->dim, &parts));
    if (way == CORRECTED)
        must(fb_part_cache_enable_correction(parts));
    fb_queries earlier = fb_queries_rows(c->earlier, BLOCK, s->heads, s->dim);
    fb_queries now = fb_queries_rows(c->p.q, BLOCK, s->heads, s->dim);
    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = &earlier;
    call.kv = way == HEADS ? NULL : cache;
    call.action = FB_REFRESH_AND_STORE;
    call.parts = parts;
    call.selection = way == SPARSE ? &c->selection : NULL;
    call.heads = way == HEADS ? &views : NULL;
    must(fb_block_attend(&call, result));
    call.queries = &now;
    call.action = actions[way];
    call.refresh_rows = call.action == FB_REFRESH_ROWS ? refreshed_rows : NULL;
    views.refresh = way == HEADS ? refreshed_heads : NULL;
    must(fb_block_attend(&call, result));
    fb_part_cache_destroy(parts);
}

static error measure_way(const block_case *c, attend_way way, fb_dtype dtype) {
    const problem *p = &c->p;
    const size_t row = p->s.kv_heads * p->s.dim;
    fb_kv_cache_config config = {1, p->s.kv_heads, p->s.dim, dtype};
    fb_kv_cache *cache = NULL;
    fb_kv kv;
    must(fb_kv_cache_create(&config, &cache));
    must(fb_kv_cache_write(cache, 0, 0, CONTEXT, p->k, p->v));
    must(fb_kv_cache_commit(cache, CONTEXT));
    must(fb_kv_cache_write(cache, 0, CONTEXT, BLOCK, p->k + CONTEXT * row, p->v + CONTEXT * row));
    must(fb_kv_cache_layer(cache, 0, &kv));
    float *out = zeros(p->outs, sizeof *out), *lse = zeros(p->rows, sizeof *lse);
    fb_part part = fb_part_rows(out, lse, p->s.heads, p->s.dim);
    if (way == MERGE)
        attend_merged(p, &kv, &part);
    else
        attend_block(c, way, cache, &part);
    exact_part wide = exact_new(p);
    for (size_t i = 0; i < p->outs; i++)
        wide.out[i] = (double)out[i];
    for (size_t i = 0; i < p->rows; i++)
        wide.lse[i] = (double)lse[i];
    error e = error_of(p, c->out[way], c->lse[way], wide.out, wide.lse);
    exact_free(wide);
    free(out), free(lse);
    fb_kv_cache_destroy(cache);
    return e;
}

static void print_ways(void) {
    block_case c = block_case_new();
    printf("\n| way | out: f32 | bf16 | f16 | int8 | LSE: f32 | bf16 | f16 | int8 |\n"
           "|---|---|---|---|---|---|---|---|---|\n");
    for (attend_way way = 0; way < NUM_WAYS; way++) {
        error errors[FB_INT8 + 1];
        printf("| %s |", way_names[way]);
        for (fb_dtype dtype = FB_F32; dtype <= FB_INT8; dtype++) {
            errors[dtype] = measure_way(&c, way, dtype);
            printf(" %.2g |", errors[dtype].relative);
        }
        for (fb_dtype dtype = FB_F32; dtype <= FB_INT8; dtype++)
            printf(" %.2g |", errors[dtype].largest_lse);
        printf("\n");
        fflush(stdout);
    }
    block_case_free(&c);
}

int main(void) {
    static const shape shapes[] = {
        {32, 8, 128, 4, 1024, 1},
        {32, 8, 128, 4, 4096, 1},
        {4, 2, 64, 32, 2048, 1},
        {32, 8, 128, 4, 4096, 10},
    };
    printf("| heads / KV heads, D, queries, keys, outlier | stored as | out: relative | "
           "out: max abs | LSE: max abs |\n|---|---|---|---|---|\n");
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        problem p = problem_new(shapes[i]);
        for (fb_dtype dtype = FB_F32; dtype <= FB_INT8; dtype++)
            measure(&p, dtype);
        problem_free(&p);
    }
    print_ways();
    return 0;
}

/* Kinds about merging two parts: split_merge (attention over past and current keys, and their
 * merge), fused_merge (the engine's store / refresh / reuse rows), head_masked_merge (video). */
#include "attention_problem.h"
#include "kinds.h"
#include "memory.h"

#include <math.h>
#include <string.h>

enum { MAX_SIZE = 1 << 24 };

/* Two parts and which of their rows are merged; rows are [tokens, heads] of head_dim values.
 *   a  the external part (history), b  the internal part (current block) */
typedef struct merge_problem {
    size_t tokens, heads, head_dim;
    const float *out_a, *lse_a, *out_b, *lse_b;
    const unsigned char *passes_b;      /* [tokens, heads]: the row is b as it is; NULL: none */
    const float *other_a, *other_lse_a; /* what a mistaken port takes for a; NULL: nothing */
    const unsigned char *dirty;         /* [tokens, heads] or NULL */
} merge_problem;

static size_t merge_rows(const merge_problem *m) {
    return m->tokens * m->heads;
}

/* --- this build, and the truth ---------------------------------------------------------------- */

static fb_status merged_here(fb_case *c, const merge_problem *m, float **out, float **lse) {
    size_t rows = merge_rows(m), values = rows * m->head_dim;
    float *copies = NULL; /* fb_part is not const */
    FB_TRY(fb_case_alloc(c, values, sizeof **out, out));
    FB_TRY(fb_case_alloc(c, rows, sizeof **lse, lse));
    FB_TRY(fb_case_alloc(c, 2 * (values + rows), sizeof *copies, &copies));
    float *lses = copies + 2 * values;
    memcpy(copies, m->out_a, values * sizeof *copies);
    memcpy(copies + values, m->out_b, values * sizeof *copies);
    memcpy(lses, m->lse_a, rows * sizeof *lses);
    memcpy(lses + rows, m->lse_b, rows * sizeof *lses);
    fb_part a = fb_part_rows(copies, lses, m->heads, m->head_dim);
    fb_part b = fb_part_rows(copies + values, lses + rows, m->heads, m->head_dim);
    fb_part result = fb_part_rows(*out, *lse, m->heads, m->head_dim);
    FB_TRY(fb_merge(&a, &b, m->tokens, m->heads, m->head_dim, &result));
    for (size_t row = 0; row < rows; row++)
        if (m->passes_b && m->passes_b[row])
            memcpy(*out + row * m->head_dim, m->out_b + row * m->head_dim,
                   m->head_dim * sizeof **out);
    return FB_OK;
}

/* What is done to the inputs, and to the rule, of a merge in double precision. */
typedef struct variation {
    double lse_factor; /* of both LSEs before the merge */
    bool swapped;      /* each output takes the other one's weight */
    bool a_missing, b_missing;
    bool other_a;        /* the wrong external part */
    bool transposed;     /* LSEs read as [heads, tokens] */
    bool dirty_dropped;  /* the external output of dirty rows is zero, its weight is not */
    bool dirty_excluded; /* the external part of dirty rows is left out altogether */
    bool summed;         /* outputs added, no weights */
} variation;

static double lse_at(const merge_problem *m, const variation *v, const float *lse, size_t row) {
    if (v->transposed)
        row = row % m->heads * m->tokens + row / m->heads;
    return (double)lse[row] * v->lse_factor;
}

static void vary_row(const merge_problem *m, const variation *v, size_t row, double *out,
                     double *lse) {
    const float *out_a = v->other_a ? m->other_a : m->out_a;
    const float *lses_a = v->other_a ? m->other_lse_a : m->lse_a;
    bool dirty = m->dirty && m->dirty[row];
    double lse_a = lse_at(m, v, lses_a, row), lse_b = lse_at(m, v, m->lse_b, row);
    if (v->a_missing || (v->dirty_excluded && dirty))
        lse_a = -INFINITY;
    if (v->b_missing)
        lse_b = -INFINITY;
    double max = lse_a > lse_b ? lse_a : lse_b;
    double subtract = max == -INFINITY ? 0.0 : max;
    double weight_a = exp(lse_a - subtract), weight_b = exp(lse_b - subtract);
    double total = weight_a + weight_b;
    for (size_t d = 0; d < m->head_dim; d++) {
        double a = (double)out_a[row * m->head_dim + d],
               b = (double)m->out_b[row * m->head_dim + d];
        if (v->dirty_dropped && dirty)
            a = 0.0;
        double sum = v->swapped  ? weight_b * a + weight_a * b
                     : v->summed ? (a + b) * total
                                 : (weight_a > 0.0 ? weight_a * a : 0.0) +
                                       (weight_b > 0.0 ? weight_b * b : 0.0);
        out[d] = total == 0.0 ? 0.0 : sum / total;
    }
    *lse = total == 0.0 ? -INFINITY : max + log(total);
}

/* lse [tokens, heads] may be NULL. */
static void vary(const merge_problem *m, const variation *v, double *out, double *lse) {
    for (size_t row = 0; row < merge_rows(m); row++) {
        double row_lse = 0.0, *row_out = out + row * m->head_dim;
        vary_row(m, v, row, row_out, &row_lse);
        if (m->passes_b && m->passes_b[row])
            for (size_t d = 0; d < m->head_dim; d++)
                row_out[d] = (double)m->out_b[row * m->head_dim + d];
        if (lse)
            lse[row] = row_lse;
    }
}

static const variation right = {.lse_factor = 1.0};

#define MISTAKE(name, needed, ...)                                                                 \
    static fb_status name(const void *context, double *out, size_t count) {                        \
        const merge_problem *m = context;                                                          \
        (void)count;                                                                               \
        if (!(needed))                                                                             \
            return FB_ERROR_UNSUPPORTED;                                                           \
        variation v = {__VA_ARGS__};                                                               \
        vary(m, &v, out, NULL);                                                                    \
        return FB_OK;                                                                              \
    }

MISTAKE(base_2_lse, true, .lse_factor = 1.4426950408889634)
MISTAKE(merged_with_exp2, true, .lse_factor = 0.6931471805599453)
MISTAKE(weights_swapped, true, .lse_factor = 1.0, .swapped = true)
MISTAKE(lse_transposed, m->tokens > 1 && m->heads > 1, .lse_factor = 1.0, .transposed = true)
MISTAKE(not_refreshed, m->other_a, .lse_factor = 1.0, .other_a = true)
MISTAKE(external_missing, true, .lse_factor = 1.0, .a_missing = true)
MISTAKE(internal_missing, true, .lse_factor = 1.0, .b_missing = true)
MISTAKE(dirty_dropped, m->dirty, .lse_factor = 1.0, .dirty_dropped = true)
MISTAKE(dirty_excluded, m->dirty, .lse_factor = 1.0, .dirty_excluded = true)
MISTAKE(summed, true, .lse_factor = 1.0, .summed = true)

static const fb_mistake mistakes[] = {
    {"LSEs in base 2 are fed into a merge in base e", base_2_lse},
    {"LSEs in base e are merged with powers of 2", merged_with_exp2},
    {"the weights are swapped: each output is weighted by the other one's LSE", weights_swapped},
    {"the LSEs are read transposed, [heads, rows] for [rows, heads]", lse_transposed},
    {"the external part is not refreshed: rows that should store and use a fresh one merge the "
     "cached one (or the other way round)",
     not_refreshed},
    {"the external part is missing: the internal one is passed through", external_missing},
    {"the internal part is missing: the external one is passed through", internal_missing},
    {"the cached output of dirty rows is zeroed, its weight is not; the engine's kernels ignore "
     "dirty rows",
     dirty_dropped},
    {"the external part of dirty rows is left out; the engine's kernels ignore dirty rows",
     dirty_excluded},
    {"the outputs are added without weights", summed},
};

/* --- claims ----------------------------------------------------------------------------------- */

/* One claim on the merged outputs, [shape] in the order of the rows. */
static fb_status claim_merge(fb_case *c, fb_report *report, const merge_problem *m,
                             const char *tensor, fb_shape shape, const float *file,
                             const double *truth, double score_effect) {
    float *out = NULL, *lse = NULL;
    FB_TRY(merged_here(c, m, &out, &lse));
    double *computed = NULL;
    if (!truth) {
        FB_TRY(fb_case_alloc(c, merge_rows(m) * m->head_dim, sizeof *computed, &computed));
        vary(m, &right, computed, NULL);
    }
    fb_claim claim = {
        .tensor = tensor,
        .shape = shape,
        .ours = out,
        .file = file,
        .truth = truth ? truth : computed,
        .score_effect = score_effect,
        .mistakes = mistakes,
        .num_mistakes = sizeof mistakes / sizeof mistakes[0],
        .context = m,
    };
    return fb_report_claim(report, &claim);
}

static fb_status claim_same(fb_report *report, const char *tensor, fb_shape shape,
                            const float *ours, const float *file) {
    fb_claim claim = {
        .tensor = tensor, .shape = shape, .ours = ours, .file = file, .rule = FB_BOUND_BITS};
    return fb_report_claim(report, &claim);
}

/* --- split_merge ------------------------------------------------------------------------------ */

/* [B, heads, tokens, D] to [B, tokens, heads, D], of the tokens begin .. end-1 */
static fb_status turned(fb_case *c, const float *from, size_t batch, size_t heads, size_t tokens,
                        size_t dim, fb_range range, const float **to) {
    float *copy = NULL;
    size_t kept = range.end - range.begin;
    FB_TRY(fb_case_alloc(c, batch * heads * kept * dim, sizeof *copy, &copy));
    for (size_t b = 0; b < batch; b++)
        for (size_t h = 0; h < heads; h++)
            for (size_t t = 0; t < kept; t++)
                memcpy(copy + ((b * kept + t) * heads + h) * dim,
                       from + ((b * heads + h) * tokens + range.begin + t) * dim,
                       dim * sizeof *copy);
    *to = copy;
    return FB_OK;
}

/* lse [B, heads, tokens] to [B, tokens, heads] */
static fb_status turned_lse(fb_case *c, const float *from, const fb_attention_problem *p,
                            const float **to) {
    return turned(c, from, p->batch, p->heads, p->queries, 1, (fb_range){0, p->queries}, to);
}

/* The part over the keys of `range`, as claims under the file's names, if it has them. */
static fb_status claim_part(fb_case *c, fb_report *report, const fb_attention_problem *p,
                            const char *out_name, const char *lse_name) {
    fb_problem_claims claims = {.out_name = out_name, .lse_name = lse_name};
    FB_TRY(fb_case_f32(c, &claims.file_out, FB_SHAPE(p->batch, p->queries, p->heads, p->head_dim),
                       "%s", out_name));
    FB_TRY(
        fb_case_f32(c, &claims.file_lse, FB_SHAPE(p->batch, p->heads, p->queries), "%s", lse_name));
    return fb_claim_attention(c, report, p, &claims);
}

/* This build's parts as [B x tokens, heads] rows. */
static fb_status part_rows(fb_case *c, const fb_attention_problem *p, const float **out,
                           const float **lse) {
    float *part_out = NULL, *part_lse = NULL;
    FB_TRY(fb_case_alloc(c, fb_problem_values(p), sizeof *part_out, &part_out));
    FB_TRY(fb_case_alloc(c, fb_problem_rows(p), sizeof *part_lse, &part_lse));
    FB_TRY(fb_problem_attend(p, part_out, part_lse));
    *out = part_out;
    return turned_lse(c, part_lse, p, lse);
}

/* The three merges of the file, and their LSE. */
static fb_status claim_merges(fb_case *c, fb_report *report, const fb_attention_problem *past,
                              const fb_attention_problem *current, fb_shape shape) {
    static const char *const names[] = {"merged_hf", "merged_kernel", "merged_kernel_store"};
    merge_problem m = {past->batch * past->queries,
                       past->heads,
                       past->head_dim,
                       NULL,
                       NULL,
                       NULL,
                       NULL,
                       NULL,
                       NULL,
                       NULL,
                       NULL};
    const double *full = NULL, *full_lse = NULL;
    FB_TRY(part_rows(c, past, &m.out_a, &m.lse_a));
    FB_TRY(part_rows(c, current, &m.out_b, &m.lse_b));
    FB_TRY(fb_case_f64(c, &full, shape, "full64"));
    FB_TRY(
        fb_case_f64(c, &full_lse, FB_SHAPE(past->batch, past->heads, past->queries), "full_lse64"));
    double effect =
        fb_score_effect(full_lse, merge_rows(&m), current->v,
                        current->batch * current->keys * current->kv_heads * current->head_dim);
    merge_problem *kept = NULL; /* claims outlive this function only through the report's use */
    FB_TRY(fb_case_alloc(c, 1, sizeof *kept, &kept));
    *kept = m;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && past->keys > 0; i++) {
        const float *file = NULL;
        if (!fb_case_has(c, "%s", names[i]))
            continue;
        FB_TRY(fb_case_f32(c, &file, shape, "%s", names[i]));
        FB_TRY(claim_merge(c, report, kept, names[i], shape, file, full, effect));
    }
    return FB_OK;
}

/* params B, H, Hk, L, P, D, softmax_scale. With P = 0 the paper's past part is empty with an LSE
 * of +inf: there it is not compared (ours has -inf). */
fb_status fb_recompute_split_merge(fb_case *c, fb_report *report) {
    fb_attention_problem past = {0};
    size_t current_keys = 0;
    const float *q = NULL, *k = NULL, *v = NULL;
    FB_TRY(fb_attention_problem_sizes(c, &past));
    FB_TRY(fb_case_size(c, "L", 1, MAX_SIZE, &current_keys));
    FB_TRY(fb_case_size(c, "P", 0, MAX_SIZE, &past.keys));
    FB_TRY(fb_case_real_or(c, "softmax_scale", 1.0 / sqrt((double)past.head_dim), &past.scale));
    past.queries = current_keys;
    fb_attention_problem current = past;
    current.keys = current_keys;
    size_t tokens = past.keys + current_keys, dim = past.head_dim, kv = past.kv_heads;
    FB_TRY(fb_case_f32(c, &q, FB_SHAPE(past.batch, past.heads, current_keys, dim), "q"));
    FB_TRY(fb_case_f32(c, &k, FB_SHAPE(past.batch, kv, tokens, dim), "k"));
    FB_TRY(fb_case_f32(c, &v, FB_SHAPE(past.batch, kv, tokens, dim), "v"));
    fb_range earlier = {0, past.keys}, own = {past.keys, tokens};
    FB_TRY(turned(c, q, past.batch, past.heads, current_keys, dim, (fb_range){0, current_keys},
                  &past.q));
    current.q = past.q;
    FB_TRY(turned(c, k, past.batch, kv, tokens, dim, earlier, &past.k));
    FB_TRY(turned(c, v, past.batch, kv, tokens, dim, earlier, &past.v));
    FB_TRY(turned(c, k, past.batch, kv, tokens, dim, own, &current.k));
    FB_TRY(turned(c, v, past.batch, kv, tokens, dim, own, &current.v));
    if (past.keys > 0)
        FB_TRY(claim_part(c, report, &past, "o_past", "lse_past"));
    FB_TRY(claim_part(c, report, &current, "o_cur", "lse_cur"));
    return claim_merges(c, report, &past, &current,
                        FB_SHAPE(past.batch, current_keys, past.heads, dim));
}

/* --- fused_merge ------------------------------------------------------------------------------ */

/* The engine's table, row by row: a row that stores merges the fresh history with the current
 * block and keeps the history; one that refreshes without storing passes the full attention
 * through; one that reuses merges the cached history. Masks are [B, H, L]. */
typedef struct engine_rows {
    const float *full_or_cur, *cur, *hist, *cached; /* [B, L, H, D] */
    const float *lse_cur, *lse_hist, *lse_cached;   /* [B, L, H, 1] */
    const int32_t *need, *store, *dirty;
} engine_rows;

static fb_status read_engine_rows(fb_case *c, fb_shape out, fb_shape lse, fb_shape mask,
                                  engine_rows *e) {
    FB_TRY(fb_case_f32(c, &e->full_or_cur, out, "o_full_or_cur"));
    FB_TRY(fb_case_f32(c, &e->cur, out, "out_cur"));
    FB_TRY(fb_case_f32(c, &e->hist, out, "out_hist"));
    FB_TRY(fb_case_f32(c, &e->cached, out, "hist_out_in"));
    FB_TRY(fb_case_f32(c, &e->lse_cur, lse, "lse_cur"));
    FB_TRY(fb_case_f32(c, &e->lse_hist, lse, "lse_hist"));
    FB_TRY(fb_case_f32(c, &e->lse_cached, lse, "hist_lse_in"));
    FB_TRY(fb_case_i32(c, &e->need, mask, "need_mask"));
    FB_TRY(fb_case_i32(c, &e->store, mask, "store_mask"));
    return fb_case_i32(c, &e->dirty, mask, "dirty_mask");
}

/* The rows' inputs chosen by the masks, and the cache as it is afterwards. */
typedef struct chosen_rows {
    float *out_a, *lse_a, *out_b, *other_a, *other_lse_a;
    unsigned char *passes_b, *dirty;
    float *cache_out, *cache_lse;
} chosen_rows;

static fb_status alloc_chosen(fb_case *c, size_t rows, size_t values, chosen_rows *r) {
    float **outs[] = {&r->out_a, &r->out_b, &r->other_a, &r->cache_out};
    float **lses[] = {&r->lse_a, &r->other_lse_a, &r->cache_lse};
    for (size_t i = 0; i < sizeof outs / sizeof outs[0]; i++)
        FB_TRY(fb_case_alloc(c, values, sizeof(float), outs[i]));
    for (size_t i = 0; i < sizeof lses / sizeof lses[0]; i++)
        FB_TRY(fb_case_alloc(c, rows, sizeof(float), lses[i]));
    FB_TRY(fb_case_alloc(c, rows, 1, &r->passes_b));
    return fb_case_alloc(c, rows, 1, &r->dirty);
}

static void choose_row(const engine_rows *e, size_t row, size_t flag, size_t dim, chosen_rows *r) {
    bool store = e->store[flag] != 0;
    size_t at = row * dim, bytes = dim * sizeof(float);
    memcpy(r->out_a + at, (store ? e->hist : e->cached) + at, bytes);
    memcpy(r->other_a + at, (store ? e->cached : e->hist) + at, bytes);
    memcpy(r->out_b + at, (store ? e->cur : e->full_or_cur) + at, bytes);
    memcpy(r->cache_out + at, (store ? e->hist : e->cached) + at, bytes);
    r->lse_a[row] = store ? e->lse_hist[row] : e->lse_cached[row];
    r->other_lse_a[row] = store ? e->lse_cached[row] : e->lse_hist[row];
    r->cache_lse[row] = r->lse_a[row];
    r->passes_b[row] = !store && e->need[flag];
    r->dirty[row] = e->dirty[flag] != 0;
}

fb_status fb_recompute_fused_merge(fb_case *c, fb_report *report) {
    size_t batch = 0, block = 0, heads = 0, dim = 0;
    FB_TRY(fb_case_size(c, "B", 1, MAX_SIZE, &batch));
    FB_TRY(fb_case_size(c, "L", 1, MAX_SIZE, &block));
    FB_TRY(fb_case_size(c, "H", 1, MAX_SIZE, &heads));
    FB_TRY(fb_case_size(c, "D", 1, 65536, &dim));
    fb_shape out = FB_SHAPE(batch, block, heads, dim), lse = FB_SHAPE(batch, block, heads, 1);
    engine_rows e;
    FB_TRY(read_engine_rows(c, out, lse, FB_SHAPE(batch, heads, block, 1), &e));
    chosen_rows r;
    size_t rows = batch * block * heads;
    FB_TRY(alloc_chosen(c, rows, rows * dim, &r));
    for (size_t row = 0; row < rows; row++) {
        size_t b = row / (block * heads), token = row / heads % block, head = row % heads;
        choose_row(&e, row, (b * heads + head) * block + token, dim, &r);
    }
    merge_problem m = {batch * block, heads,      dim,       r.out_a,       r.lse_a, r.out_b,
                       e.lse_cur,     r.passes_b, r.other_a, r.other_lse_a, r.dirty};
    const float *file = NULL, *cache_out = NULL, *cache_lse = NULL;
    FB_TRY(fb_case_f32(c, &file, out, "engine.out"));
    FB_TRY(fb_case_f32(c, &cache_out, out, "engine.hist_out"));
    FB_TRY(fb_case_f32(c, &cache_lse, lse, "engine.hist_lse"));
    FB_TRY(claim_merge(c, report, &m, "engine.out", out, file, NULL, 0.0));
    FB_TRY(claim_same(report, "engine.hist_out", out, r.cache_out, cache_out));
    return claim_same(report, "engine.hist_lse", lse, r.cache_lse, cache_lse);
}

/* --- head_masked_merge ------------------------------------------------------------------------ */

/* Heads of the mask take `o` and store the fresh history; the others merge what is cached. LSEs
 * are [H, B x Lq]; no mask means no head of it. */
fb_status fb_recompute_head_masked_merge(fb_case *c, fb_report *report) {
    size_t batch = 0, length = 0, heads = 0, dim = 0;
    FB_TRY(fb_case_size(c, "B", 1, MAX_SIZE, &batch));
    FB_TRY(fb_case_size(c, "Lq", 1, MAX_SIZE, &length));
    FB_TRY(fb_case_size(c, "H", 1, MAX_SIZE, &heads));
    FB_TRY(fb_case_size(c, "D", 1, 65536, &dim));
    size_t tokens = batch * length;
    fb_shape out = FB_SHAPE(tokens, heads, dim), lse = FB_SHAPE(heads, tokens);
    merge_problem m = {.tokens = tokens, .heads = heads, .head_dim = dim};
    const float *lse_a = NULL, *lse_b = NULL, *lse_hist = NULL, *file = NULL;
    FB_TRY(fb_case_f32(c, &m.out_a, FB_SHAPE(batch, length, heads, dim), "hist_out_in"));
    FB_TRY(fb_case_f32(c, &m.out_b, out, "o"));
    FB_TRY(fb_case_f32(c, &m.other_a, out, "out_hist"));
    FB_TRY(fb_case_f32(c, &lse_a, lse, "hist_lse_in"));
    FB_TRY(fb_case_f32(c, &lse_b, lse, "lse"));
    FB_TRY(fb_case_f32(c, &lse_hist, lse, "lse_hist"));
    FB_TRY(fb_case_f32(c, &file, out, "out"));
    FB_TRY(turned(c, lse_a, 1, heads, tokens, 1, (fb_range){0, tokens}, &m.lse_a));
    FB_TRY(turned(c, lse_b, 1, heads, tokens, 1, (fb_range){0, tokens}, &m.lse_b));
    FB_TRY(turned(c, lse_hist, 1, heads, tokens, 1, (fb_range){0, tokens}, &m.other_lse_a));
    unsigned char *passes = NULL;
    FB_TRY(fb_case_alloc(c, tokens * heads, 1, &passes));
    if (fb_case_has(c, "head_mask")) {
        const int32_t *mask = NULL;
        FB_TRY(fb_case_i32(c, &mask, FB_SHAPE(heads), "head_mask"));
        for (size_t row = 0; row < tokens * heads; row++)
            passes[row] = mask[row % heads] != 0;
    }
    m.passes_b = passes;
    return claim_merge(c, report, &m, "out", out, file, NULL, 0.0);
}

#include "oracle/merge_problem.h"

#include "base/memory.h"
#include "oracle/claim.h"
#include "oracle/plain.h"

#include <flashblock/attention.h>

#include <math.h>
#include <string.h>

static size_t rows_of(const fb_merge_problem *m) {
    return m->tokens * m->heads;
}

static bool is_set(const unsigned char *flags, size_t row) {
    return flags && flags[row];
}

/* The context of a claim: which of the two results it is about. */
typedef struct merge_context {
    const fb_merge_problem *problem;
    bool lse;
    const float *given_lse; /* beside an output: of who is judged; NULL: none */
} merge_context;

/* --- this build ------------------------------------------------------------------------------- */

static fb_status merged_here(fb_case *c, const fb_merge_problem *m, float **out, float **lse) {
    size_t rows = rows_of(m), values = rows * m->head_dim;
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
    for (size_t row = 0; row < rows; row++) {
        if (is_set(m->passes_b, row))
            memcpy(*out + row * m->head_dim, m->out_b + row * m->head_dim,
                   m->head_dim * sizeof **out);
        if (is_set(m->passes_lse_b, row))
            (*lse)[row] = m->lse_b[row];
    }
    return FB_OK;
}

/* --- a plain implementation ------------------------------------------------------------------- */

static float rounded(fb_dtype precision, float value) {
    fb_plain_round(precision, &value, 1);
    return value;
}

/* Outputs are stored in `precision`, LSEs in float32. */
static fb_status plain(const void *context, fb_dtype precision, float *result) {
    const merge_context *c = context;
    const fb_merge_problem *m = c->problem;
    for (size_t row = 0; row < rows_of(m); row++) {
        float a = m->lse_a[row], b = m->lse_b[row], max = a > b ? a : b;
        bool empty = max == -INFINITY;
        float weight_a = empty ? 0.0f : expf(a - max), weight_b = empty ? 0.0f : expf(b - max);
        float total = weight_a + weight_b;
        if (c->lse) {
            result[row] = is_set(m->passes_lse_b, row) ? b : empty ? max : max + logf(total);
            continue;
        }
        for (size_t d = row * m->head_dim; d < (row + 1) * m->head_dim; d++) {
            float out_a = rounded(precision, m->out_a[d]);
            float out_b = rounded(precision, m->out_b[d]);
            float mixed = empty ? 0.0f : (weight_a * out_a + weight_b * out_b) / total;
            result[d] = is_set(m->passes_b, row) ? out_b : rounded(precision, mixed);
        }
    }
    return FB_OK;
}

/* --- the truth, and mistakes ------------------------------------------------------------------ */

/* A merge in double precision, with changed inputs or a changed rule. */
typedef struct variation {
    double lse_factor_a, lse_factor_b; /* of the LSEs before the merge; 0 stands for 1 */
    bool swapped;                      /* each output takes the other one's weight */
    bool a_missing, b_missing;
    bool cached_where_stored; /* rows that store use the cached part */
    bool fresh_where_reused;  /* rows that do not store use the fresh one */
    bool transposed;          /* LSEs read as [heads, tokens] */
    bool dirty_zeroed;        /* the external output of dirty rows is zero, its weight is not */
    bool dirty_excluded;      /* the external part of dirty rows is left out altogether */
    bool dirty_cached;        /* dirty rows that store use the cached part */
    bool dirty_fresh;         /* dirty rows that do not store use the fresh one */
    bool only_reused;         /* of dirty_zeroed, dirty_excluded: not in rows that store */
    bool summed;              /* outputs added, no weights */
    bool not_divided;         /* by the sum of the weights */
    bool merged_always;       /* rows that pass b through are merged, too */
} variation;

static bool takes_other(const fb_merge_problem *m, const variation *v, size_t row) {
    bool stores = is_set(m->stores, row), dirty = is_set(m->dirty, row);
    return stores ? v->cached_where_stored || (v->dirty_cached && dirty)
                  : v->fresh_where_reused || (v->dirty_fresh && dirty);
}

static double lse_at(const fb_merge_problem *m, const variation *v, const float *lse, size_t row,
                     double factor) {
    if (v->transposed)
        row = row % m->heads * m->tokens + row / m->heads;
    return (double)lse[row] * (factor != 0.0 ? factor : 1.0);
}

static void vary_row(const fb_merge_problem *m, const variation *v, size_t row, double *out,
                     double *lse) {
    bool other = takes_other(m, v, row);
    bool dirty = is_set(m->dirty, row) && !(v->only_reused && is_set(m->stores, row));
    const float *out_a = (other ? m->other_a : m->out_a) + row * m->head_dim;
    const float *out_b = m->out_b + row * m->head_dim;
    double lse_a = lse_at(m, v, other ? m->other_lse_a : m->lse_a, row, v->lse_factor_a);
    double lse_b = lse_at(m, v, m->lse_b, row, v->lse_factor_b);
    if (v->a_missing || (v->dirty_excluded && dirty))
        lse_a = -INFINITY;
    if (v->b_missing)
        lse_b = -INFINITY;
    double max = lse_a > lse_b ? lse_a : lse_b;
    double subtract = max == -INFINITY ? 0.0 : max;
    double weight_a = exp(lse_a - subtract), weight_b = exp(lse_b - subtract);
    double total = weight_a + weight_b, divisor = v->not_divided ? 1.0 : total;
    double take_a = v->summed ? total : v->swapped ? weight_b : weight_a;
    double take_b = v->summed ? total : v->swapped ? weight_a : weight_b;
    if (v->dirty_zeroed && dirty)
        take_a = 0.0;
    for (size_t d = 0; d < m->head_dim; d++) {
        double sum = (take_a > 0.0 ? take_a * (double)out_a[d] : 0.0) +
                     (take_b > 0.0 ? take_b * (double)out_b[d] : 0.0);
        out[d] = total == 0.0 ? 0.0 : sum / divisor;
    }
    *lse = total == 0.0 ? -INFINITY : isnan(total) ? total : max + log(total);
}

static void vary(const merge_context *context, const variation *v, double *row_out,
                 double *result) {
    const fb_merge_problem *m = context->problem;
    for (size_t row = 0; row < rows_of(m); row++) {
        double lse = 0.0;
        vary_row(m, v, row, row_out, &lse);
        if (context->lse) {
            result[row] = is_set(m->passes_lse_b, row) ? (double)m->lse_b[row] : lse;
            continue;
        }
        bool passes = is_set(m->passes_b, row) && !v->merged_always;
        for (size_t d = 0; d < m->head_dim; d++)
            result[row * m->head_dim + d] =
                passes ? (double)m->out_b[row * m->head_dim + d] : row_out[d];
    }
}

static fb_status varied(const merge_context *context, const variation *v, double *result) {
    double *row_out = NULL;
    FB_TRY(fb_alloc(context->problem->head_dim, sizeof *row_out, "merge", &row_out));
    vary(context, v, row_out, result);
    fb_free(row_out);
    return FB_OK;
}

/* One mistake: when it can be made, and which variation it is. */
#define MISTAKE(name, possible, ...)                                                               \
    static fb_status name(const void *context, double *result, size_t count) {                     \
        const merge_context *c = context;                                                          \
        const fb_merge_problem *m = c->problem;                                                    \
        (void)count;                                                                               \
        (void)m;                                                                                   \
        return (possible) ? varied(c, &(variation){__VA_ARGS__}, result) : FB_ERROR_UNSUPPORTED;   \
    }

static const double log2_of_e = 1.4426950408889634, ln_2 = 0.6931471805599453;

MISTAKE(base_2_lses, true, .lse_factor_a = log2_of_e, .lse_factor_b = log2_of_e)
MISTAKE(base_2_lse_a, true, .lse_factor_a = log2_of_e)
MISTAKE(base_2_lse_b, true, .lse_factor_b = log2_of_e)
MISTAKE(powers_of_2, true, .lse_factor_a = ln_2, .lse_factor_b = ln_2)
MISTAKE(weights_swapped, !c->lse, .swapped = true)
MISTAKE(lses_transposed, m->tokens > 1 && m->heads > 1, .transposed = true)
MISTAKE(not_refreshed, m->other_a && m->stores, .cached_where_stored = true)
MISTAKE(always_refreshed, m->other_a, .fresh_where_reused = true)
MISTAKE(refresh_inverted, m->other_a && m->stores, .cached_where_stored = true,
        .fresh_where_reused = true)
MISTAKE(external_missing, true, .a_missing = true)
MISTAKE(internal_missing, true, .b_missing = true)
MISTAKE(dirty_zeroed, m->dirty && !c->lse, .dirty_zeroed = true, .only_reused = true)
MISTAKE(dirty_zeroed_all, m->dirty && !c->lse, .dirty_zeroed = true)
MISTAKE(dirty_excluded, m->dirty, .dirty_excluded = true, .only_reused = true)
MISTAKE(dirty_excluded_all, m->dirty, .dirty_excluded = true)
MISTAKE(dirty_cached, m->dirty && m->stores && m->other_a, .dirty_cached = true)
MISTAKE(dirty_fresh, m->dirty && m->other_a, .dirty_fresh = true)
MISTAKE(summed, !c->lse, .summed = true)
MISTAKE(not_divided, !c->lse, .not_divided = true)
MISTAKE(merged_always, m->passes_b && !c->lse, .merged_always = true)

static const fb_mistake mistakes[] = {
    {"LSEs in base 2 are fed into a merge in base e", base_2_lses},
    {"the external part's LSE is in base 2, the internal one's in base e", base_2_lse_a},
    {"the internal part's LSE is in base 2, the external one's in base e", base_2_lse_b},
    {"LSEs in base e are merged with powers of 2", powers_of_2},
    {"the weights are swapped: each output is weighted by the other one's LSE", weights_swapped},
    {"the LSEs are read transposed, [heads, rows] for [rows, heads] or the other way round",
     lses_transposed},
    {"the external part is not refreshed: rows that should use and keep a fresh one merge the "
     "cached one",
     not_refreshed},
    {"the external part is always refreshed: rows that should reuse the cached one merge a fresh "
     "one",
     always_refreshed},
    {"refresh and reuse are exchanged: rows that should use a fresh external part merge the cached "
     "one, and the other way round",
     refresh_inverted},
    {"the external part is missing: the internal one is passed through", external_missing},
    {"the internal part is missing: the external one is passed through", internal_missing},
    {"dirty rows are dropped: their cached output is zeroed, its weight is not (rows that reuse); "
     "the engine's kernels ignore dirty rows",
     dirty_zeroed},
    {"dirty rows are dropped: their external output is zeroed, its weight is not (all rows); the "
     "engine's kernels ignore dirty rows",
     dirty_zeroed_all},
    {"dirty rows are dropped: their cached part is left out of the merge (rows that reuse); the "
     "engine's kernels ignore dirty rows",
     dirty_excluded},
    {"dirty rows are dropped: their external part is left out of the merge (all rows); the "
     "engine's kernels ignore dirty rows",
     dirty_excluded_all},
    {"dirty rows are kept: they merge the cached external part where a fresh one is stored; a "
     "refresh is one of all rows",
     dirty_cached},
    {"dirty rows are refreshed on their own: they merge a fresh external part where the cached one "
     "is reused",
     dirty_fresh},
    {"the outputs are added without weights", summed},
    {"the weighted sum is not divided by the sum of the weights", not_divided},
    {"rows that attend to all keys at once are merged with the cached part again", merged_always},
};

static void say_nan(const void *context, const float *values, const double *truth, char *words,
                    size_t size) {
    const merge_context *c = context;
    fb_merge_say_nan(c->problem, c->lse, values, truth, c->given_lse, words, size);
}

/* --- claims ----------------------------------------------------------------------------------- */

static fb_claim claim_of(const fb_merge_claim *from) {
    return (fb_claim){
        .tensor = from->tensor,
        .shape = from->shape,
        .token_axis = from->token_axis,
        .head_axis = from->head_axis,
        .is_lse = from->lse,
        .file = from->file,
        .file_precision = from->file_precision,
        .truth = from->truth,
        .score_effect = from->score_effect,
    };
}

/* The LSEs that the candidate, or the file, has beside an output. */
static fb_status find_lse(fb_case *c, const fb_report *report, const fb_merge_problem *m,
                          const fb_merge_claim *claim, const float **lse) {
    const char *name = claim->lse_tensor;
    const fb_tensor_view *view = NULL;
    float *values = NULL;
    if (name && report->candidate)
        view = fb_candidate_find(report->candidate, name);
    if (name && !report->candidate && fb_case_has(c, "%s", name)) {
        fb_dims shape = claim->shape;
        shape.sizes[shape.ndim - 1] = 1;
        return fb_case_f32(c, lse, shape, "%s", name);
    }
    if (!view || view->count != rows_of(m))
        return FB_OK;
    FB_TRY(fb_case_alloc(c, view->count, sizeof *values, &values));
    *lse = values;
    return fb_tensor_read_f32(view, 0, view->count, values);
}

fb_status fb_claim_merge(fb_case *c, fb_report *report, const fb_merge_problem *m,
                         const fb_merge_claim *from) {
    float *out = NULL, *lse = NULL;
    double *computed = NULL;
    merge_context context = {m, from->lse, NULL};
    fb_claim claim = claim_of(from);
    FB_TRY(merged_here(c, m, &out, &lse));
    FB_TRY(find_lse(c, report, m, from, &context.given_lse));
    if (!claim.truth) {
        FB_TRY(fb_case_alloc(c, rows_of(m) * m->head_dim, sizeof *computed, &computed));
        FB_TRY(varied(&context, &(variation){0}, computed));
        claim.truth = computed;
    }
    claim.ours = from->lse ? lse : out;
    claim.plain = plain;
    claim.mistakes = mistakes;
    claim.num_mistakes = sizeof mistakes / sizeof mistakes[0];
    claim.say_nan = say_nan;
    claim.context = &context;
    return fb_report_claim(report, &claim);
}

/* --- the cache after the merge ---------------------------------------------------------------- */

typedef enum cache_rule { RIGHT, NOT_STORED, ALWAYS_STORED, DIRTY_KEPT, DIRTY_ZEROED } cache_rule;

static const float *cache_row(const fb_cache_problem *p, cache_rule rule, size_t row) {
    bool stores = is_set(p->stores, row), dirty = is_set(p->dirty, row);
    if (rule == NOT_STORED || (rule == DIRTY_KEPT && dirty))
        stores = false;
    if (rule == ALWAYS_STORED)
        stores = true;
    if (rule == DIRTY_ZEROED && dirty && !stores)
        return NULL;
    return (stores ? p->fresh : p->before) + row * p->width;
}

static void vary_cache(const fb_cache_problem *p, cache_rule rule, double *result) {
    for (size_t row = 0; row < p->rows; row++) {
        const float *from = cache_row(p, rule, row);
        for (size_t d = 0; d < p->width; d++)
            result[row * p->width + d] = from ? (double)from[d] : 0.0;
    }
}

#define CACHE_MISTAKE(name, rule)                                                                  \
    static fb_status name(const void *context, double *result, size_t count) {                     \
        (void)count;                                                                               \
        vary_cache(context, rule, result);                                                         \
        return FB_OK;                                                                              \
    }

CACHE_MISTAKE(cache_not_stored, NOT_STORED)
CACHE_MISTAKE(cache_always_stored, ALWAYS_STORED)
CACHE_MISTAKE(cache_dirty_kept, DIRTY_KEPT)
CACHE_MISTAKE(cache_dirty_zeroed, DIRTY_ZEROED)

static const fb_mistake cache_mistakes[] = {
    {"the cache is not refreshed: rows that store keep what they had", cache_not_stored},
    {"the cache is overwritten in rows that do not store", cache_always_stored},
    {"dirty rows are kept: they are not overwritten where a fresh external part is stored; a "
     "refresh is one of all rows",
     cache_dirty_kept},
    {"dirty rows are dropped: the cache is zeroed there; the engine's kernels ignore dirty rows",
     cache_dirty_zeroed},
};

fb_status fb_claim_cache(fb_case *c, fb_report *report, const fb_cache_problem *p,
                         const fb_merge_claim *from) {
    float *ours = NULL;
    fb_claim claim = claim_of(from);
    FB_TRY(fb_case_alloc(c, p->rows * p->width, sizeof *ours, &ours));
    for (size_t row = 0; row < p->rows; row++)
        memcpy(ours + row * p->width, cache_row(p, RIGHT, row), p->width * sizeof *ours);
    claim.ours = ours;
    claim.rule = FB_BOUND_BITS;
    claim.mistakes = cache_mistakes;
    claim.num_mistakes = sizeof cache_mistakes / sizeof cache_mistakes[0];
    claim.context = p;
    return fb_report_claim(report, &claim);
}

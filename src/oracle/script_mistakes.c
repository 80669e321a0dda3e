#include "oracle/script_mistakes.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/plain.h"
#include "oracle/truth.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- what a pass may be computed from --------------------------------------------------------- */

/* One part, in double precision: out [rows, head_dim], lse [rows]. */
typedef struct part {
    double *out, *lse;
} part;

/* The parts of a pass in a wrong implementation. */
typedef struct attempt {
    const fb_script *s;
    size_t pass, rows, values;
    part external, internal, result;
    bool as_kept; /* the result is the external part: its LSEs are not corrected */
    double *memory;
} attempt;

/* How attention is computed; `right` says how it should be. */
typedef struct variation {
    double scale;
    bool wrong_heads;
} variation;

static variation right(const fb_script *s) {
    return (variation){s->config.scale, false};
}

static fb_status attempt_begin(const fb_script_result *r, attempt *a) {
    const fb_script *s = r->sequence;
    *a = (attempt){.s = s,
                   .pass = r->pass,
                   .rows = fb_script_rows(s),
                   .values = fb_script_values(s),
                   .as_kept = r->external};
    size_t one = a->rows + a->values;
    FB_TRY(fb_alloc(3 * one, sizeof *a->memory, "known mistakes", &a->memory));
    part *parts[] = {&a->external, &a->internal, &a->result};
    for (size_t i = 0; i < 3; i++)
        *parts[i] = (part){a->memory + i * one, a->memory + i * one + a->values};
    return FB_OK;
}

static fb_status attend(const fb_script *s, const float *q, const float *k, const float *v,
                        size_t keys, variation how, part *result) {
    const fb_script_config *c = &s->config;
    fb_truth_problem problem = {.q = q,
                                .k = k,
                                .v = v,
                                .queries = c->block_size,
                                .keys = keys,
                                .heads = c->num_heads,
                                .kv_heads = c->num_kv_heads,
                                .head_dim = c->head_dim,
                                .scale = how.scale,
                                .wrong_heads = how.wrong_heads};
    return fb_truth_attend(&problem, result->out, result->lse);
}

/* The external part that `pass` keeps. If it keeps none: the one of its queries. */
static fb_status external_of(attempt *a, size_t pass, variation how) {
    const fb_script *s = a->s;
    const fb_script_pass *of = &s->passes[pass];
    const float *q0 = fb_script_stores(of) ? of->external_q : of->q;
    FB_TRY(attend(s, q0, s->k_context, s->v_context, s->config.context_length, how, &a->external));
    if (!s->config.correction || a->as_kept)
        return FB_OK;
    double *change = a->result.lse; /* not in use yet */
    FB_TRY(fb_script_corrections(s, s->passes[a->pass].q, q0, change));
    for (size_t row = 0; row < a->rows; row++)
        a->external.lse[row] += change[row];
    return FB_OK;
}

/* The internal part of this pass' queries over the block's keys and values as `pass` has them. */
static fb_status internal_of(attempt *a, size_t pass, variation how) {
    const fb_script *s = a->s;
    return attend(s, s->passes[a->pass].q, s->passes[pass].k, s->passes[pass].v,
                  s->config.block_size, how, &a->internal);
}

static void merge(attempt *a) {
    fb_truth_merge(a->external.out, a->external.lse, a->internal.out, a->internal.lse, a->rows,
                   a->s->config.head_dim, a->result.out, a->result.lse);
}

/* Copies the tensor that is wanted, and frees the attempt. */
static fb_status attempt_end(attempt *a, const fb_script_result *r, fb_status status,
                             double *result, size_t count) {
    if (status == FB_OK)
        memcpy(result, r->lse ? a->result.lse : a->result.out, count * sizeof *result);
    fb_free(a->memory);
    return status;
}

/* A mistake fills in `result` of the attempt. FB_ERROR_UNSUPPORTED: it cannot be made here. */
typedef fb_status try_fn(attempt *a, const fb_script_result *r);

static fb_status compute(try_fn *try_it, const void *context, double *result, size_t count) {
    const fb_script_result *r = context;
    attempt a;
    FB_TRY(attempt_begin(r, &a));
    return attempt_end(&a, r, try_it(&a, r), result, count);
}

/* --- which external part ---------------------------------------------------------------------- */

static bool reuses(const attempt *a) {
    return a->s->passes[a->pass].action == FB_REUSE;
}

static size_t source(const attempt *a) {
    return a->s->passes[a->pass].source;
}

/* The last pass before `pass` that stored a part; false if none did. */
static bool stored_before(const fb_script *s, size_t pass, size_t *stored) {
    for (size_t i = pass; i-- > 0;)
        if (fb_script_stores(&s->passes[i])) {
            *stored = i;
            return true;
        }
    return false;
}

/* Whether a token was accepted in the passes begin .. end - 1. */
static bool accepted_in(const fb_script *s, size_t token, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++)
        if (s->passes[i].accepted[token])
            return true;
    return false;
}

/* This pass' internal part merged with the external part of the queries of `pass`. */
static fb_status merge_with(attempt *a, size_t pass) {
    FB_TRY(external_of(a, pass, right(a->s)));
    FB_TRY(internal_of(a, a->pass, right(a->s)));
    merge(a);
    return FB_OK;
}

static fb_status not_refreshed(attempt *a, const fb_script_result *r) {
    size_t older = 0;
    if (r->external || !stored_before(a->s, source(a), &older))
        return FB_ERROR_UNSUPPORTED;
    return merge_with(a, older);
}

static fb_status never_refreshed(attempt *a, const fb_script_result *r) {
    if (r->external || source(a) == 0)
        return FB_ERROR_UNSUPPORTED;
    return merge_with(a, 0);
}

static fb_status recomputed(attempt *a, const fb_script_result *r) {
    if (r->external || !reuses(a))
        return FB_ERROR_UNSUPPORTED;
    return merge_with(a, a->pass);
}

/* The external part of pass `one`; of pass `other` in rows of tokens accepted between the two. */
static fb_status merge_mixed(attempt *a, size_t one, size_t other) {
    const fb_script *s = a->s;
    size_t token_rows = s->config.num_heads, token_values = token_rows * s->config.head_dim;
    size_t begin = one < other ? one : other, end = one < other ? other : one;
    double *memory = NULL;
    FB_TRY(fb_alloc(a->rows + a->values, sizeof *memory, "known mistakes", &memory));
    part dirty = {memory, memory + a->values}, clean = a->external;
    fb_status status = external_of(a, one, right(s));
    if (status == FB_OK) {
        a->external = dirty;
        status = external_of(a, other, right(s));
        a->external = clean;
    }
    for (size_t token = 0; token < s->config.block_size && status == FB_OK; token++)
        if (accepted_in(s, token, begin, end)) {
            memcpy(clean.out + token * token_values, dirty.out + token * token_values,
                   token_values * sizeof *clean.out);
            memcpy(clean.lse + token * token_rows, dirty.lse + token * token_rows,
                   token_rows * sizeof *clean.lse);
        }
    fb_free(memory);
    FB_TRY(status);
    FB_TRY(internal_of(a, a->pass, right(s)));
    merge(a);
    return FB_OK;
}

static fb_status dirty_kept(attempt *a, const fb_script_result *r) {
    size_t older = 0;
    if (r->external || !stored_before(a->s, source(a), &older))
        return FB_ERROR_UNSUPPORTED;
    return merge_mixed(a, source(a), older);
}

static fb_status dirty_recomputed(attempt *a, const fb_script_result *r) {
    if (r->external || !reuses(a))
        return FB_ERROR_UNSUPPORTED;
    return merge_mixed(a, source(a), a->pass);
}

/* The cached output of dirty rows becomes 0. Its weight stays, or becomes 0 too. */
static fb_status drop_dirty(attempt *a, const fb_script_result *r, bool weight) {
    const fb_script *s = a->s;
    size_t heads = s->config.num_heads, dim = s->config.head_dim;
    if (r->external || !reuses(a) || (r->lse && !weight))
        return FB_ERROR_UNSUPPORTED;
    FB_TRY(external_of(a, source(a), right(s)));
    FB_TRY(internal_of(a, a->pass, right(s)));
    for (size_t row = 0; row < a->rows; row++)
        if (accepted_in(s, row / heads, source(a), a->pass)) {
            for (size_t d = 0; d < dim; d++)
                a->external.out[row * dim + d] = 0.0;
            if (weight)
                a->external.lse[row] = -(double)INFINITY;
        }
    merge(a);
    return FB_OK;
}

static fb_status dirty_zeroed(attempt *a, const fb_script_result *r) {
    return drop_dirty(a, r, false);
}

static fb_status dirty_dropped(attempt *a, const fb_script_result *r) {
    return drop_dirty(a, r, true);
}

/* --- which keys ------------------------------------------------------------------------------- */

static fb_status external_missing(attempt *a, const fb_script_result *r) {
    if (r->external)
        return FB_ERROR_UNSUPPORTED;
    FB_TRY(internal_of(a, a->pass, right(a->s)));
    a->result = a->internal;
    return FB_OK;
}

static fb_status internal_missing(attempt *a, const fb_script_result *r) {
    if (r->external)
        return FB_ERROR_UNSUPPORTED;
    FB_TRY(external_of(a, source(a), right(a->s)));
    a->result = a->external;
    return FB_OK;
}

static fb_status internal_included(attempt *a, const fb_script_result *r) {
    return r->external ? merge_with(a, a->pass) : FB_ERROR_UNSUPPORTED;
}

static fb_status internal_stale(attempt *a, const fb_script_result *r) {
    if (r->external || a->pass == 0)
        return FB_ERROR_UNSUPPORTED;
    FB_TRY(external_of(a, source(a), right(a->s)));
    FB_TRY(internal_of(a, a->pass - 1, right(a->s)));
    merge(a);
    return FB_OK;
}

static fb_status output_of_refresh(attempt *a, const fb_script_result *r) {
    if (r->external || !reuses(a))
        return FB_ERROR_UNSUPPORTED;
    a->result = (part){a->s->passes[source(a)].true_out, a->s->passes[source(a)].true_lse};
    return FB_OK;
}

/* --- how a part is computed ------------------------------------------------------------------- */

static fb_status varied(attempt *a, const fb_script_result *r, variation how) {
    FB_TRY(external_of(a, source(a), how));
    if (r->external) {
        a->result = a->external;
        return FB_OK;
    }
    FB_TRY(internal_of(a, a->pass, how));
    merge(a);
    return FB_OK;
}

static fb_status scaled_twice(attempt *a, const fb_script_result *r) {
    return varied(a, r, (variation){a->s->config.scale * a->s->config.scale, false});
}

static fb_status not_scaled(attempt *a, const fb_script_result *r) {
    return varied(a, r, (variation){1.0, false});
}

static fb_status wrong_heads(attempt *a, const fb_script_result *r) {
    const fb_script_config *c = &a->s->config;
    if (c->num_kv_heads == 1 || c->num_kv_heads == c->num_heads)
        return FB_ERROR_UNSUPPORTED;
    return varied(a, r, (variation){c->scale, true});
}

/* --- how parts are merged --------------------------------------------------------------------- */

static const double log2_of_e = 0x1.71547652b82fep+0;

/* Merges parts whose LSEs were multiplied by these factors; then multiplies the result's LSE. */
static fb_status merge_scaled(attempt *a, const fb_script_result *r, double external,
                              double internal, double result) {
    if (r->external)
        return FB_ERROR_UNSUPPORTED;
    FB_TRY(external_of(a, source(a), right(a->s)));
    FB_TRY(internal_of(a, a->pass, right(a->s)));
    for (size_t row = 0; row < a->rows; row++) {
        a->external.lse[row] *= external;
        a->internal.lse[row] *= internal;
    }
    merge(a);
    for (size_t row = 0; row < a->rows; row++)
        a->result.lse[row] *= result;
    return FB_OK;
}

static fb_status both_base2(attempt *a, const fb_script_result *r) {
    return merge_scaled(a, r, log2_of_e, log2_of_e, 1.0);
}

static fb_status external_base2(attempt *a, const fb_script_result *r) {
    return merge_scaled(a, r, log2_of_e, 1.0, 1.0);
}

static fb_status internal_base2(attempt *a, const fb_script_result *r) {
    return merge_scaled(a, r, 1.0, log2_of_e, 1.0);
}

/* Weights 2^(L - m) of natural LSEs; the LSE is m + log2 of their sum. */
static fb_status exp2_of_natural(attempt *a, const fb_script_result *r) {
    return merge_scaled(a, r, 1.0 / log2_of_e, 1.0 / log2_of_e, log2_of_e);
}

static fb_status weights_swapped(attempt *a, const fb_script_result *r) {
    if (r->external || r->lse)
        return FB_ERROR_UNSUPPORTED;
    FB_TRY(external_of(a, source(a), right(a->s)));
    FB_TRY(internal_of(a, a->pass, right(a->s)));
    double *lse = a->external.lse;
    a->external.lse = a->internal.lse;
    a->internal.lse = lse;
    merge(a);
    return FB_OK;
}

static fb_status weights_equal(attempt *a, const fb_script_result *r) {
    if (r->external || r->lse)
        return FB_ERROR_UNSUPPORTED;
    return merge_scaled(a, r, 0.0, 0.0, 1.0);
}

/* --- the list --------------------------------------------------------------------------------- */

#define MISTAKE(name)                                                                              \
    static fb_status compute_##name(const void *context, double *result, size_t count) {           \
        return compute(name, context, result, count);                                              \
    }
MISTAKE(not_refreshed)
MISTAKE(never_refreshed)
MISTAKE(recomputed)
MISTAKE(dirty_kept)
MISTAKE(dirty_recomputed)
MISTAKE(dirty_zeroed)
MISTAKE(dirty_dropped)
MISTAKE(external_missing)
MISTAKE(internal_missing)
MISTAKE(internal_included)
MISTAKE(internal_stale)
MISTAKE(output_of_refresh)
MISTAKE(scaled_twice)
MISTAKE(not_scaled)
MISTAKE(wrong_heads)
MISTAKE(both_base2)
MISTAKE(external_base2)
MISTAKE(internal_base2)
MISTAKE(exp2_of_natural)
MISTAKE(weights_swapped)
MISTAKE(weights_equal)

/* If two agree with a candidate, the first is named. */
const fb_mistake fb_script_mistakes[] = {
    {"the external part is not refreshed: it is the one that an earlier refresh stored",
     compute_not_refreshed},
    {"the external part is not refreshed: it is the first step's", compute_never_refreshed},
    {"the external part is recomputed although the step reuses: a reuse takes the part that the "
     "last refresh stored, for the queries of that step",
     compute_recomputed},
    {"dirty rows are kept: a refresh replaces the external part of every row, those of tokens "
     "accepted since the last refresh too",
     compute_dirty_kept},
    {"the external part of dirty rows is recomputed although the step reuses: they take the cached "
     "part like all others",
     compute_dirty_recomputed},
    {"the cached output of dirty rows is dropped (0, with its weight): they take the cached part "
     "like all others",
     compute_dirty_zeroed},
    {"the cached part of dirty rows is dropped (output and weight): they take it like all others",
     compute_dirty_dropped},
    {"the external part is missing: this is attention to the block alone",
     compute_external_missing},
    {"the internal part is missing: this is the external part alone", compute_internal_missing},
    {"the block's own keys are in the stored external part", compute_internal_included},
    {"the block's keys and values are those of the step before", compute_internal_stale},
    {"the result of the refresh is given out again: a reuse keeps the external part only",
     compute_output_of_refresh},
    {"the scale is applied twice (to the queries and to the scores, say)", compute_scaled_twice},
    {"the scores are not scaled", compute_not_scaled},
    {"the wrong KV head is read: query head h reads h mod num_kv_heads, not h / (num_heads / "
     "num_kv_heads)",
     compute_wrong_heads},
    {"LSEs in base 2 are merged with natural exponentials: multiply them by ln 2 = 0.693147 first",
     compute_both_base2},
    {"the external part's LSE is in base 2, merged with natural exponentials: multiply it by ln 2 "
     "= 0.693147 first",
     compute_external_base2},
    {"the internal part's LSE is in base 2, merged with natural exponentials: multiply it by ln 2 "
     "= 0.693147 first",
     compute_internal_base2},
    {"natural LSEs are merged with exp2: exp2(L * 1.442695) is meant", compute_exp2_of_natural},
    {"the weights of the merge are swapped: the external output has the internal part's",
     compute_weights_swapped},
    {"the parts are averaged: they are weighted by exp(L)", compute_weights_equal},
};
const size_t fb_num_script_mistakes = sizeof fb_script_mistakes / sizeof fb_script_mistakes[0];

/* --- the yardstick, and details --------------------------------------------------------------- */

static fb_status plain_part(const fb_script *s, const float *q, const float *k, const float *v,
                            size_t keys, fb_dtype precision, float *out, float *lse) {
    const fb_script_config *c = &s->config;
    fb_queries queries = fb_queries_rows(q, c->block_size, c->num_heads, c->head_dim);
    fb_kv kv = fb_kv_rows(FB_F32, k, v, keys, c->num_kv_heads, c->head_dim);
    fb_range all = {0, keys};
    fb_view view = {&kv, &all, 1};
    return fb_plain_attention(&queries, &view, NULL, (float)c->scale, precision, out, lse);
}

/* external and internal: out, then lse; the merge goes to `external`. */
static void plain_merge(const fb_script *s, float *external, const float *internal) {
    size_t rows = fb_script_rows(s), values = fb_script_values(s), dim = s->config.head_dim;
    float *lse = external + values;
    for (size_t row = 0; row < rows; row++) {
        float a = lse[row], b = internal[values + row], max = a > b ? a : b;
        float weight_a = expf(a - max), weight_b = expf(b - max), total = weight_a + weight_b;
        for (size_t i = row * dim; i < (row + 1) * dim; i++)
            external[i] = (weight_a * external[i] + weight_b * internal[i]) / total;
        lse[row] = max + logf(total);
    }
}

static fb_status plain_correction(const fb_script *s, const fb_script_pass *pass, float *lse) {
    double *change = NULL;
    FB_TRY(fb_alloc(fb_script_rows(s), sizeof *change, "plain result", &change));
    fb_status status = fb_script_corrections(s, pass->q, pass->external_q, change);
    for (size_t row = 0; row < fb_script_rows(s) && status == FB_OK; row++)
        lse[row] = (float)((double)lse[row] + change[row]);
    fb_free(change);
    return status;
}

fb_status fb_script_plain(const void *context, fb_dtype precision, float *result) {
    const fb_script_result *r = context;
    const fb_script *s = r->sequence;
    const fb_script_pass *pass = &s->passes[r->pass];
    size_t rows = fb_script_rows(s), values = fb_script_values(s);
    float *external = NULL;
    FB_TRY(fb_alloc(2 * (rows + values), sizeof *external, "plain result", &external));
    float *internal = external + rows + values;
    fb_status status = plain_part(s, pass->external_q, s->k_context, s->v_context,
                                  s->config.context_length, precision, external, external + values);
    if (status == FB_OK && !r->external)
        status = plain_correction(s, pass, external + values);
    if (status == FB_OK && !r->external) {
        status = plain_part(s, pass->q, pass->k, pass->v, s->config.block_size, precision, internal,
                            internal + values);
        if (status == FB_OK)
            plain_merge(s, external, internal);
    }
    if (status == FB_OK && r->lse)
        memcpy(result, external + values, rows * sizeof *result);
    if (status == FB_OK && !r->lse)
        memcpy(result, external, values * sizeof *result);
    if (status == FB_OK) /* an LSE, too, has no more places than the candidate stores */
        fb_plain_round(precision, result, r->lse ? rows : values);
    fb_free(external);
    return status;
}

/* The LSE of one token's row over keys of the sequence. */
static fb_status token_lse(const fb_script *s, const float *q, const float *k, const float *v,
                           size_t keys, size_t row, double *lse) {
    const fb_script_config *c = &s->config;
    size_t heads = c->num_heads, values = heads * c->head_dim;
    double *memory = NULL;
    FB_TRY(fb_alloc(values + heads, sizeof *memory, "explanation", &memory));
    fb_truth_problem problem = {.q = q + row / heads * values,
                                .k = k,
                                .v = v,
                                .queries = 1,
                                .keys = keys,
                                .heads = heads,
                                .kv_heads = c->num_kv_heads,
                                .head_dim = c->head_dim,
                                .scale = c->scale};
    fb_status status = fb_truth_attend(&problem, memory, memory + values);
    if (status == FB_OK)
        *lse = memory[values + row % heads];
    fb_free(memory);
    return status;
}

fb_status fb_script_explain(const void *context, size_t index, char *text, size_t size) {
    const fb_script_result *r = context;
    const fb_script *s = r->sequence;
    const fb_script_config *c = &s->config;
    const fb_script_pass *pass = &s->passes[r->pass];
    size_t row = r->lse ? index : index / c->head_dim, heads = c->num_heads, head = row % heads;
    double external = 0.0, internal = 0.0, merged = pass->true_lse[row];
    FB_TRY(token_lse(s, pass->external_q, s->k_context, s->v_context, c->context_length, row,
                     &external));
    FB_TRY(token_lse(s, pass->q, pass->k, pass->v, c->block_size, row, &internal));
    int used = snprintf(text, size,
                        "token %zu, head %zu, KV head %zu: external part of step %zu, %zu keys, "
                        "LSE %.9g",
                        row / heads, head, head / (heads / c->num_kv_heads), pass->source,
                        c->context_length, external);
    if (!r->external && used > 0 && (size_t)used < size)
        snprintf(text + used, size - (size_t)used,
                 ", weight %.9g; internal part, %zu keys, LSE %.9g, weight %.9g; LSE %.9g",
                 exp(external - merged), c->block_size, internal, exp(internal - merged), merged);
    return FB_OK;
}

/* Mistakes of what is refreshed and what is reused, in a denoising sequence. */
#include "base/error.h"
#include "base/memory.h"
#include "oracle/known.h"

#include <math.h>
#include <string.h>

/* The passes of one tensor. */
typedef struct pass_of {
    const fb_script *s;
    const fb_script_pass *pass;
    size_t index, source;
    size_t what; /* of the external part: below */
} pass_of;

/* What of another external part is taken: output and LSE, or one of them. */
enum { OUT_AND_LSE = 0, ONLY_OUT = 1, ONLY_LSE = 2 };

static pass_of pass_of_tensor(const fb_wrong *w, size_t tensor) {
    const fb_script *s = w->trial->script;
    size_t index = w->trial->tensors[tensor].pass;
    return (pass_of){s, &s->passes[index], index, s->passes[index].source, OUT_AND_LSE};
}

/* The last pass before `pass` that stored a part. */
static bool stored_before(const fb_script *s, size_t pass, size_t *stored) {
    for (size_t i = pass; i-- > 0;)
        if (fb_script_stores(&s->passes[i])) {
            *stored = i;
            return true;
        }
    return false;
}

static bool accepted_in(const fb_script *s, size_t token, size_t begin, size_t end) {
    for (size_t i = begin; i < end; i++)
        if (s->passes[i].accepted[token])
            return true;
    return false;
}

/* The external part of a tensor, or what of it, becomes that of pass `from`, where `rows` (NULL:
 * everywhere) says so. */
static fb_status replace(fb_wrong *w, size_t tensor, size_t from, size_t what, const bool *rows) {
    const fb_trial *trial = w->trial;
    const fb_trial_tensor *t = &trial->tensors[tensor];
    size_t part = trial->external_of[from];
    FB_TRY(fb_wrong_need(w, part));
    const fb_moments *right = &trial->parts[t->external].m, *m = &trial->parts[part].m;
    const double *lse = what == ONLY_OUT ? right->lse : m->lse;
    const double *out = what == ONLY_LSE ? right->out : m->out;
    double *result = fb_wrong_result(w, tensor);
    for (size_t at = 0; at < t->count; at++) {
        size_t row = t->lse ? at : at / trial->dim;
        if (rows && !rows[row / trial->heads])
            continue;
        if (t->internal == FB_NO_PART) {
            result[at] = t->lse ? lse[row] : out[at];
            continue;
        }
        const fb_moments *own = &trial->parts[t->internal].m;
        double shift = t->shift ? t->shift[row] : 0.0, a = lse[row] + shift, b = own->lse[row];
        double weight = fb_merge_weight(a, b), max = fmax(a, b);
        if (max == -(double)INFINITY)
            continue;
        result[at] = t->lse ? max + log1p(exp(fmin(a, b) - max))
                            : weight * out[at] + (1.0 - weight) * own->out[at];
    }
    return FB_OK;
}

/* Calls `one` for each given tensor; unsupported if it was for all. */
typedef fb_status one_fn(fb_wrong *w, size_t tensor, const pass_of *p);

static fb_status each(fb_wrong *w, one_fn *one, size_t what) {
    bool any = false;
    if (!w->trial->script)
        return FB_ERROR_UNSUPPORTED;
    for (size_t i = 0; i < w->trial->num_tensors; i++) {
        if (!w->trial->tensors[i].value)
            continue;
        pass_of p = pass_of_tensor(w, i);
        p.what = what;
        fb_status status = one(w, i, &p);
        if (status != FB_OK && status != FB_ERROR_UNSUPPORTED)
            return status;
        any = any || status == FB_OK;
    }
    return any ? FB_OK : FB_ERROR_UNSUPPORTED;
}

static bool is_part(const fb_wrong *w, size_t tensor) {
    return w->trial->tensors[tensor].internal == FB_NO_PART;
}

static fb_status not_refreshed(fb_wrong *w, size_t tensor, const pass_of *p) {
    size_t older = 0;
    if (is_part(w, tensor) || !stored_before(p->s, p->source, &older))
        return FB_ERROR_UNSUPPORTED;
    return replace(w, tensor, older, p->what, NULL);
}

static fb_status not_refreshed_stored(fb_wrong *w, size_t tensor, const pass_of *p) {
    size_t older = 0;
    if (!stored_before(p->s, p->source, &older))
        return FB_ERROR_UNSUPPORTED;
    return replace(w, tensor, older, p->what, NULL);
}

static fb_status never_refreshed(fb_wrong *w, size_t tensor, const pass_of *p) {
    return p->source == 0 ? FB_ERROR_UNSUPPORTED : replace(w, tensor, 0, p->what, NULL);
}

static fb_status never_merged(fb_wrong *w, size_t tensor, const pass_of *p) {
    return is_part(w, tensor) ? FB_ERROR_UNSUPPORTED : never_refreshed(w, tensor, p);
}

static fb_status recomputed(fb_wrong *w, size_t tensor, const pass_of *p) {
    if (is_part(w, tensor) || p->pass->action != FB_REUSE)
        return FB_ERROR_UNSUPPORTED;
    return replace(w, tensor, p->index, p->what, NULL);
}

/* Reuse where it refreshes, and the other way round. */
static fb_status exchanged(fb_wrong *w, size_t tensor, const pass_of *p) {
    size_t older = 0;
    if (is_part(w, tensor))
        return FB_ERROR_UNSUPPORTED;
    if (p->pass->action == FB_REUSE)
        return replace(w, tensor, p->index, p->what, NULL);
    if (!stored_before(p->s, p->index, &older))
        return FB_ERROR_UNSUPPORTED;
    return replace(w, tensor, older, p->what, NULL);
}

/* The tokens accepted from `begin` to before `end`, or the others. */
static fb_status replace_tokens(fb_wrong *w, size_t tensor, size_t from, const fb_script *s,
                                size_t begin, size_t end, bool accepted) {
    bool *rows = NULL;
    FB_TRY(fb_alloc(s->config.block_size, sizeof *rows, "known mistakes", &rows));
    for (size_t i = 0; i < s->config.block_size; i++)
        rows[i] = accepted_in(s, i, begin, end) == accepted;
    fb_status status = replace(w, tensor, from, OUT_AND_LSE, rows);
    fb_free(rows);
    return status;
}

static fb_status dirty_kept(fb_wrong *w, size_t tensor, const pass_of *p) {
    size_t older = 0;
    if (is_part(w, tensor) || !stored_before(p->s, p->source, &older))
        return FB_ERROR_UNSUPPORTED;
    return replace_tokens(w, tensor, older, p->s, older, p->source, true);
}

static fb_status clean_kept(fb_wrong *w, size_t tensor, const pass_of *p) {
    size_t older = 0;
    if (is_part(w, tensor) || !stored_before(p->s, p->source, &older))
        return FB_ERROR_UNSUPPORTED;
    return replace_tokens(w, tensor, older, p->s, older, p->source, false);
}

static fb_status dirty_recomputed(fb_wrong *w, size_t tensor, const pass_of *p) {
    if (is_part(w, tensor) || p->pass->action != FB_REUSE)
        return FB_ERROR_UNSUPPORTED;
    return replace_tokens(w, tensor, p->index, p->s, p->source, p->index, true);
}

/* The cached output of dirty rows becomes 0; its weight stays, or becomes 0 too. */
static fb_status drop_dirty(fb_wrong *w, size_t tensor, const pass_of *p, bool weight) {
    const fb_trial *trial = w->trial;
    const fb_trial_tensor *t = &trial->tensors[tensor];
    if (is_part(w, tensor) || p->pass->action != FB_REUSE || (t->lse && !weight))
        return FB_ERROR_UNSUPPORTED;
    const fb_moments *own = &trial->parts[t->internal].m;
    double *result = fb_wrong_result(w, tensor);
    for (size_t at = 0; at < t->count; at++) {
        size_t row = t->lse ? at : at / trial->dim;
        if (!accepted_in(p->s, row / trial->heads, p->source, p->index))
            continue;
        if (t->lse)
            result[at] = own->lse[row];
        else
            result[at] = (weight ? 1.0 : 1.0 - t->weight[row]) * own->out[at];
    }
    return FB_OK;
}

static fb_status dirty_zeroed(fb_wrong *w, size_t tensor, const pass_of *p) {
    return drop_dirty(w, tensor, p, false);
}

static fb_status dirty_dropped(fb_wrong *w, size_t tensor, const pass_of *p) {
    return drop_dirty(w, tensor, p, true);
}

static fb_status internal_included(fb_wrong *w, size_t tensor, const pass_of *p) {
    const fb_trial *trial = w->trial;
    if (!is_part(w, tensor))
        return FB_ERROR_UNSUPPORTED;
    size_t own = trial->internal_of[p->index], part = trial->tensors[tensor].external;
    FB_TRY(fb_wrong_need(w, own));
    fb_wrong_merge(w, tensor, trial->parts[part].m.out, trial->parts[part].m.lse,
                   trial->parts[own].m.out, trial->parts[own].m.lse);
    return FB_OK;
}

/* The block's own keys twice: in the stored part, and in the merge again. */
static fb_status internal_twice(fb_wrong *w, size_t tensor, const pass_of *p) {
    const fb_trial *trial = w->trial;
    const fb_trial_tensor *t = &trial->tensors[tensor];
    size_t own = trial->internal_of[p->source];
    double *out, *lse;
    FB_TRY(fb_wrong_need(w, own));
    FB_TRY(fb_wrong_part(w, t->external, &out, &lse));
    const fb_moments *a = &trial->parts[t->external].m, *b = &trial->parts[own].m;
    for (size_t row = 0; row < trial->rows; row++) {
        double weight = fb_merge_weight(a->lse[row], b->lse[row]);
        double max = fmax(a->lse[row], b->lse[row]);
        for (size_t i = row * trial->dim; i < (row + 1) * trial->dim; i++)
            out[i] = weight * a->out[i] + (1.0 - weight) * b->out[i];
        lse[row] = max + log1p(exp(fmin(a->lse[row], b->lse[row]) - max));
    }
    return FB_OK;
}

static fb_status output_of_refresh(fb_wrong *w, size_t tensor, const pass_of *p) {
    const fb_trial *trial = w->trial;
    const fb_trial_tensor *t = &trial->tensors[tensor];
    if (is_part(w, tensor) || p->pass->action != FB_REUSE)
        return FB_ERROR_UNSUPPORTED;
    size_t own = trial->internal_of[p->source];
    FB_TRY(fb_wrong_need(w, own));
    fb_wrong_merge(w, tensor, trial->parts[t->external].m.out, trial->parts[t->external].m.lse,
                   trial->parts[own].m.out, trial->parts[own].m.lse);
    return FB_OK;
}

/* The result of the pass before, or the sum of all until this one. */
static fb_status result_before(fb_wrong *w, size_t tensor, size_t pass) {
    const fb_trial *trial = w->trial;
    size_t external = trial->external_of[trial->script->passes[pass].source];
    size_t internal = trial->internal_of[pass];
    FB_TRY(fb_wrong_need(w, external));
    FB_TRY(fb_wrong_need(w, internal));
    const fb_moments *a = &trial->parts[external].m, *b = &trial->parts[internal].m;
    fb_wrong_merge(w, tensor, a->out, a->lse, b->out, b->lse);
    return FB_OK;
}

static fb_status given_again(fb_wrong *w, size_t tensor, const pass_of *p) {
    bool lse = w->trial->tensors[tensor].lse;
    if (is_part(w, tensor) || p->index == 0 || p->s->config.correction ||
        (p->what == ONLY_LSE && !lse) || (p->what == ONLY_OUT && lse))
        return FB_ERROR_UNSUPPORTED;
    return result_before(w, tensor, p->index - 1);
}

static fb_status added_up(fb_wrong *w, size_t tensor, const pass_of *p) {
    const fb_trial_tensor *t = &w->trial->tensors[tensor];
    double *sum = NULL;
    if (is_part(w, tensor) || t->lse || p->index == 0 || p->s->config.correction)
        return FB_ERROR_UNSUPPORTED;
    FB_TRY(fb_alloc_zeroed(t->count, sizeof *sum, "known mistakes", &sum));
    fb_status status = FB_OK;
    for (size_t pass = 0; pass <= p->index && status == FB_OK; pass++) {
        status = result_before(w, tensor, pass);
        for (size_t at = 0; at < t->count && status == FB_OK; at++)
            sum[at] += w->result[tensor][at];
    }
    if (status == FB_OK)
        memcpy(fb_wrong_result(w, tensor), sum, t->count * sizeof *sum);
    fb_free(sum);
    return status;
}

/* The merge is done in the memory of the stored part: the next reuse merges its result again. */
static fb_status merged_in_store(fb_wrong *w, size_t tensor, const pass_of *p) {
    const fb_trial *trial = w->trial;
    const fb_trial_tensor *t = &trial->tensors[tensor];
    size_t rows = trial->rows, dim = trial->dim, part = trial->external_of[p->source];
    double *out = NULL;
    if (is_part(w, tensor) || p->index == p->source || p->s->config.correction || p->s->config.rows)
        return FB_ERROR_UNSUPPORTED;
    FB_TRY(fb_wrong_need(w, part));
    for (size_t pass = p->source; pass <= p->index; pass++)
        FB_TRY(fb_wrong_need(w, trial->internal_of[pass]));
    FB_TRY(fb_alloc(rows * (dim + 1), sizeof *out, "known mistakes", &out));
    double *lse = out + rows * dim, *result = fb_wrong_result(w, tensor);
    memcpy(out, trial->parts[part].m.out, rows * dim * sizeof *out);
    memcpy(lse, trial->parts[part].m.lse, rows * sizeof *lse);
    for (size_t pass = p->source; pass <= p->index; pass++) {
        const fb_moments *own = &trial->parts[trial->internal_of[pass]].m;
        for (size_t row = 0; row < rows; row++) {
            double a = lse[row], b = own->lse[row], max = fmax(a, b);
            double weight = fb_merge_weight(a, b);
            double merged = max == -(double)INFINITY ? max : max + log1p(exp(fmin(a, b) - max));
            for (size_t i = row * dim; i < (row + 1) * dim; i++) {
                double value = weight * out[i] + (1.0 - weight) * own->out[i];
                out[i] = p->what != ONLY_LSE ? value : out[i];
                if (!t->lse && pass == p->index)
                    result[i] = value;
            }
            lse[row] = p->what != ONLY_OUT ? merged : a;
            if (t->lse && pass == p->index)
                result[row] = merged;
        }
    }
    fb_free(out);
    return FB_OK;
}

#define EACH(name)                                                                                 \
    static fb_status each_##name(fb_wrong *w, size_t n) {                                          \
        return each(w, name, n);                                                                   \
    }
EACH(not_refreshed)
EACH(not_refreshed_stored)
EACH(never_refreshed)
EACH(never_merged)
EACH(recomputed)
EACH(exchanged)
EACH(dirty_kept)
EACH(clean_kept)
EACH(dirty_recomputed)
EACH(dirty_zeroed)
EACH(dirty_dropped)
EACH(internal_included)
EACH(output_of_refresh)
EACH(given_again)
EACH(added_up)
EACH(merged_in_store)

static fb_status each_internal_twice(fb_wrong *w, size_t n) {
    (void)n;
    FB_TRY(each(w, internal_twice, OUT_AND_LSE));
    fb_wrong_finish(w);
    return FB_OK;
}

/* --- queries of another step ------------------------------------------------------------------ */

enum { IN_EXTERNAL = 1, IN_INTERNAL = 2 };

/* The block's attention to itself, with the queries of the step before. */
static fb_status lag_internal(fb_wrong *w, size_t pass) {
    const fb_trial *trial = w->trial;
    size_t part = trial->internal_of[pass];
    double *out, *lse;
    FB_TRY(fb_wrong_part(w, part, &out, &lse));
    fb_attention_problem p = trial->parts[part].read;
    p.q = trial->parts[trial->internal_of[pass - 1]].read.q;
    return p.q ? fb_variant_attend(&p, NULL, out, lse) : FB_ERROR_UNSUPPORTED;
}

/* `which` says in which part. */
static fb_status queries_before(fb_wrong *w, size_t which) {
    const fb_trial *trial = w->trial;
    if (!trial->script)
        return FB_ERROR_UNSUPPORTED;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        size_t external = t->external;
        if (!t->value)
            continue;
        pass_of p = pass_of_tensor(w, i);
        if ((which & IN_EXTERNAL) && p.source > 0)
            external = trial->external_of[p.source - 1];
        FB_TRY(fb_wrong_need(w, external));
        const fb_moments *a = &trial->parts[external].m;
        if (t->internal == FB_NO_PART) {
            memcpy(fb_wrong_result(w, i), t->lse ? a->lse : a->out, t->count * sizeof(double));
            continue;
        }
        if ((which & IN_INTERNAL) && p.index > 0)
            FB_TRY(lag_internal(w, p.index));
        fb_wrong_merge(w, i, a->out, a->lse, fb_wrong_out(w, t->internal),
                       fb_wrong_lse(w, t->internal));
    }
    return FB_OK;
}

static const fb_known list[] = {
    {"the external part is not refreshed: it is the one that an earlier refresh stored",
     each_not_refreshed, 0},
    {"the external part is not refreshed: it is the one that an earlier refresh stored, and stored "
     "again",
     each_not_refreshed_stored, 0},
    {"the external part is not refreshed: it is the first step's", each_never_refreshed, 0},
    {"the external part is not refreshed: it is the first step's", each_never_merged, 0},
    {"the external part's output is not refreshed, its LSE is", each_not_refreshed, ONLY_OUT},
    {"the external part's LSE is not refreshed, its output is", each_not_refreshed, ONLY_LSE},
    {"the external part's output is not refreshed, its LSE is: it is the one that was stored "
     "before",
     each_not_refreshed_stored, ONLY_OUT},
    {"the external part's LSE is not refreshed, its output is: it is the one that was stored "
     "before",
     each_not_refreshed_stored, ONLY_LSE},
    {"the external part's output is not refreshed, its LSE is: it is the first step's",
     each_never_merged, ONLY_OUT},
    {"the external part's LSE is not refreshed, its output is: it is the first step's",
     each_never_merged, ONLY_LSE},
    {"the external part's output is not refreshed, its LSE is: it is the first step's",
     each_never_refreshed, ONLY_OUT},
    {"the external part's LSE is not refreshed, its output is: it is the first step's",
     each_never_refreshed, ONLY_LSE},
    {"the external part's output is recomputed although the step reuses, its LSE is the stored one",
     each_recomputed, ONLY_OUT},
    {"the external part's LSE is recomputed although the step reuses, its output is the stored one",
     each_recomputed, ONLY_LSE},
    {"the merged result replaces the stored external part (output and LSE): the next reuse merges "
     "it again",
     each_merged_in_store, OUT_AND_LSE},
    {"the merged output replaces the stored one, the LSE does not: the next reuse merges it again",
     each_merged_in_store, ONLY_OUT},
    {"the merged LSE replaces the stored one, the output does not: the next reuse weighs with it",
     each_merged_in_store, ONLY_LSE},
    {"the external part is recomputed although the step reuses: a reuse takes the part that the "
     "last refresh stored, for the queries of that step",
     each_recomputed, 0},
    {"refresh and reuse are exchanged", each_exchanged, 0},
    {"dirty rows are kept: a refresh replaces the external part of every row, those of tokens "
     "accepted since the last refresh too",
     each_dirty_kept, 0},
    {"rows that are not dirty are kept: a refresh replaces the external part of every row",
     each_clean_kept, 0},
    {"the external part of dirty rows is recomputed although the step reuses: they take the cached "
     "part like all others",
     each_dirty_recomputed, 0},
    {"the cached output of dirty rows is dropped (0, with its weight): they take the cached part "
     "like all others",
     each_dirty_zeroed, 0},
    {"the cached part of dirty rows is dropped (output and weight): they take it like all others",
     each_dirty_dropped, 0},
    {"the block's own keys are in the stored external part", each_internal_included, 0},
    {"the block's own keys are in the stored external part, and count twice in the merge",
     each_internal_twice, 0},
    {"the queries are those of the step before", queries_before, IN_EXTERNAL | IN_INTERNAL},
    {"the queries of the internal part are those of the step before", queries_before, IN_INTERNAL},
    {"the queries of the external part are those of the step before", queries_before, IN_EXTERNAL},
    {"the result of the refresh is given out again: a reuse keeps the external part only",
     each_output_of_refresh, 0},
    {"the result is that of the step before", each_given_again, OUT_AND_LSE},
    {"the output is that of the step before, the LSE is not", each_given_again, ONLY_OUT},
    {"the LSE is that of the step before, the output is not", each_given_again, ONLY_LSE},
    {"the output is added to that of the step before: it is not cleared", each_added_up,
     OUT_AND_LSE},
};

fb_status fb_try_reuse(fb_filter *f, fb_wrong *w) {
    return w->trial->script ? fb_try_list(f, w, list, sizeof list / sizeof list[0]) : FB_OK;
}

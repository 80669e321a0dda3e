/* Mistakes of merging two parts, and of keeping them. */
#include "base/error.h"
#include "base/memory.h"
#include "oracle/known.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

fb_status fb_try_list(fb_filter *f, fb_wrong *w, const fb_known *list, size_t count) {
    for (size_t i = 0; i < count; i++) {
        char words[400];
        fb_wrong_reset(w);
        fb_status status = list[i].compute(w, list[i].n);
        if (status == FB_ERROR_UNSUPPORTED)
            continue;
        FB_TRY(status);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(words, sizeof words, list[i].words, list[i].n);
#pragma GCC diagnostic pop
        fb_filter_try(f, w, words);
    }
    return FB_OK;
}

static const double log2_of_e = 0x1.71547652b82fep+0;

/* A merge of one tensor and row: the parts' outputs and LSEs; the results of a mistake. */
typedef struct merging {
    double a, b;   /* LSEs; the wrong merge may use others */
    double result; /* the LSE */
    double weight_a, weight_b;
} merging;

/* Every merge is done by the weights that `change` finds. */
static fb_status remerge(fb_wrong *w, void (*change)(merging *m, size_t lane, size_t dim)) {
    const fb_trial *trial = w->trial;
    bool any = false;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (!fb_wrong_is_merge(w, i))
            continue;
        any = true;
        const fb_moments *a = &trial->parts[t->external].m, *b = &trial->parts[t->internal].m;
        double *result = fb_wrong_result(w, i);
        for (size_t at = 0; at < t->count; at++) {
            size_t row = t->lse ? at : at / trial->dim, lane = t->lse ? 0 : at % trial->dim;
            double la = a->lse[row] + (t->shift ? t->shift[row] : 0.0), lb = b->lse[row];
            double max = fmax(la, lb);
            if (max == -(double)INFINITY)
                continue;
            merging m = {la, lb, max + log1p(exp(fmin(la, lb) - max)), 0.0, 0.0};
            m.weight_a = fb_merge_weight(la, lb);
            m.weight_b = 1.0 - m.weight_a;
            change(&m, lane, trial->dim);
            result[at] = t->lse ? m.result : m.weight_a * a->out[at] + m.weight_b * b->out[at];
        }
    }
    return any ? FB_OK : FB_ERROR_UNSUPPORTED;
}

/* The merge of other LSEs. */
static void set(merging *m, double a, double b) {
    double max = fmax(a, b);
    m->weight_a = fb_merge_weight(a, b);
    m->weight_b = 1.0 - m->weight_a;
    m->result = max + log1p(exp(fmin(a, b) - max));
}

#define REMERGE(name, body)                                                                        \
    static void change_##name(merging *m, size_t lane, size_t dim) {                               \
        (void)lane;                                                                                \
        (void)dim;                                                                                 \
        body                                                                                       \
    }                                                                                              \
    static fb_status name(fb_wrong *w, size_t n) {                                                 \
        (void)n;                                                                                   \
        return remerge(w, change_##name);                                                          \
    }

REMERGE(both_base2, set(m, m->a *log2_of_e, m->b *log2_of_e);)
REMERGE(both_base2_back, set(m, m->a *log2_of_e, m->b *log2_of_e); m->result /= log2_of_e;)
REMERGE(external_base2, set(m, m->a *log2_of_e, m->b);)
REMERGE(internal_base2, set(m, m->a, m->b *log2_of_e);)
REMERGE(exp2_of_natural, set(m, m->a / log2_of_e, m->b / log2_of_e); m->result *= log2_of_e;)
REMERGE(exp2_log, double max = fmax(m->a, m->b); double a = exp2(m->a - max);
        double b = exp2(m->b - max); m->weight_a = a / (a + b); m->weight_b = b / (a + b);
        m->result = max + log(a + b);)
REMERGE(swapped, double a = m->weight_a; m->weight_a = m->weight_b; m->weight_b = a;)
REMERGE(equal, set(m, 0.0, 0.0); m->result = m->a;)
REMERGE(averaged, m->weight_a = m->weight_b = 0.5;)
REMERGE(added, m->weight_a = m->weight_b = 1.0;)
REMERGE(external_missing, m->weight_a = 0.0; m->weight_b = 1.0; m->result = m->b;)
REMERGE(internal_missing, m->weight_a = 1.0; m->weight_b = 0.0; m->result = m->a;)
REMERGE(lse_external, m->result = m->a;)
REMERGE(lse_internal, m->result = m->b;)
REMERGE(lse_largest, m->result = fmax(m->a, m->b);)
REMERGE(not_divided, double max = fmax(m->a, m->b); m->weight_a = exp(m->a - max);
        m->weight_b = exp(m->b - max);)

/* One part is added with weight 1, not exp(its LSE - the maximum). */
static void set_sum(merging *m, double a, double b) {
    double max = fmax(m->a, m->b);
    m->weight_a = a / (a + b);
    m->weight_b = b / (a + b);
    m->result = max + log(a + b);
}
REMERGE(external_unweighed, set_sum(m, 1.0, exp(m->b - fmax(m->a, m->b)));)
REMERGE(internal_unweighed, set_sum(m, exp(m->a - fmax(m->a, m->b)), 1.0);)
REMERGE(external_twice,
        set_sum(m, 2.0 * exp(m->a - fmax(m->a, m->b)), exp(m->b - fmax(m->a, m->b)));)
REMERGE(internal_twice,
        set_sum(m, exp(m->a - fmax(m->a, m->b)), 2.0 * exp(m->b - fmax(m->a, m->b)));)
REMERGE(without_max, m->result -= fmax(m->a, m->b);)
/* exp(L) of each without the maximum of the part itself: both are 1 */
REMERGE(own_maxima, m->weight_a = m->weight_b = 0.5; m->result = fmax(m->a, m->b) + log(2.0);)

/* The merge is done in place: the result's LSE is where the external (or internal) one was. Lanes
 * of the second half (of the first) read it when it is new already. */
static void alias(merging *m, bool external, bool divide) {
    double a = external ? m->result : m->a, b = external ? m->b : m->result;
    if (divide) {
        m->weight_a = fb_merge_weight(a, b);
        m->weight_b = 1.0 - m->weight_a;
    } else {
        double max = fmax(m->a, m->b), sum = exp(m->a - max) + exp(m->b - max);
        m->weight_a = exp(a - max) / sum;
        m->weight_b = exp(b - max) / sum;
    }
}
REMERGE(alias_second, if (lane >= dim / 2) alias(m, true, true);)
REMERGE(alias_first, if (lane < dim / 2) alias(m, true, true);)
REMERGE(alias_all, alias(m, true, true);)
REMERGE(alias_second_b, if (lane >= dim / 2) alias(m, false, true);)
REMERGE(alias_first_b, if (lane < dim / 2) alias(m, false, true);)
REMERGE(alias_second_sum, if (lane >= dim / 2) alias(m, true, false);)
REMERGE(alias_first_sum, if (lane < dim / 2) alias(m, true, false);)
REMERGE(alias_odd, if (lane % 2) alias(m, true, true);)

/* --- LSEs of other rows ----------------------------------------------------------------------- */

/* The parts themselves are right. */
static void forget_parts(fb_wrong *w) {
    for (size_t i = 0; i < w->trial->num_tensors; i++)
        if (w->trial->tensors[i].internal == FB_NO_PART)
            w->result[i] = NULL;
}

/* The external (or internal) LSEs of a merge are read from other rows. given_too: they are given
 * out so, too. */
static fb_status read_rows(fb_wrong *w, bool external, bool given_too,
                           size_t (*row_of)(const fb_trial *trial, size_t row)) {
    const fb_trial *trial = w->trial;
    for (size_t i = 0; i < trial->num_parts; i++) {
        bool used = false;
        for (size_t t = 0; t < trial->num_tensors; t++)
            used =
                used || (fb_wrong_is_merge(w, t) &&
                         (external ? trial->tensors[t].external : trial->tensors[t].internal) == i);
        double *out, *lse;
        if (!used)
            continue;
        FB_TRY(fb_wrong_part(w, i, &out, &lse));
        for (size_t row = 0; row < trial->rows; row++)
            lse[row] = trial->parts[i].m.lse[row_of(trial, row)];
    }
    fb_wrong_finish(w);
    if (!given_too)
        forget_parts(w);
    return FB_OK;
}

/* [tokens, heads] read as [heads, tokens] */
static size_t transposed(const fb_trial *trial, size_t row) {
    size_t tokens = trial->rows / trial->heads, token = row / trial->heads,
           head = row % trial->heads;
    return head * tokens + token;
}

/* [heads, tokens] read as [tokens, heads] */
static size_t transposed_back(const fb_trial *trial, size_t row) {
    size_t tokens = trial->rows / trial->heads;
    return row % tokens * trial->heads + row / tokens;
}

static size_t next_head(const fb_trial *trial, size_t row) {
    return row / trial->heads * trial->heads + (row + 1) % trial->heads;
}

static size_t previous_head(const fb_trial *trial, size_t row) {
    return row / trial->heads * trial->heads +
           (row % trial->heads + trial->heads - 1) % trial->heads;
}

static size_t first_token(const fb_trial *trial, size_t row) {
    return row % trial->heads;
}

static size_t reversed_head(const fb_trial *trial, size_t row) {
    return row / trial->heads * trial->heads + trial->heads - 1 - row % trial->heads;
}

static fb_status lse_of_other_rows(fb_wrong *w, size_t n) {
    static size_t (*const maps[])(const fb_trial *, size_t) = {
        transposed, next_head, previous_head, first_token, reversed_head, transposed_back};
    return read_rows(w, n != 6, n > 6, maps[n < 6 ? n : n == 6 ? 0 : n - 7]);
}
#define OTHER_ROWS(index)                                                                          \
    static fb_status other_rows_##index(fb_wrong *w, size_t n) {                                   \
        (void)n;                                                                                   \
        return lse_of_other_rows(w, index);                                                        \
    }
OTHER_ROWS(0)
OTHER_ROWS(1)
OTHER_ROWS(2)
OTHER_ROWS(3)
OTHER_ROWS(4)
OTHER_ROWS(5)
OTHER_ROWS(6)
OTHER_ROWS(7)
OTHER_ROWS(8)
OTHER_ROWS(9)
OTHER_ROWS(10)
OTHER_ROWS(11)
OTHER_ROWS(12)

/* --- kept in a lower type --------------------------------------------------------------------- */

/* To nearest, 4 significant bits, exponents from -6: e4m3 without its largest numbers. */
static double to_fp8(double value) {
    int exponent = 0;
    frexp(value, &exponent);
    double spacing = ldexp(1.0, (exponent - 1 < -6 ? -6 : exponent - 1) - 3);
    return fmin(448.0, fmax(-448.0, nearbyint(value / spacing) * spacing));
}

static double to_type(size_t type, double value) {
    return !isfinite(value) ? value
           : type == 0      ? (double)fb_rounded(FB_ROUND_BF16, (float)value)
           : type == 1      ? (double)fb_rounded(FB_ROUND_F16, (float)value)
                            : to_fp8(value);
}

/* Whether a type holds all numbers of the lower one, and others. */
static bool is_wider(fb_dtype stored, size_t type) {
    return type == 2 || stored == FB_F32 || (stored == FB_F16 && type == 0);
}

/* Whether all that is given of a part is such numbers: it was kept so, and stored as others. */
static bool is_given_in(const fb_trial *trial, size_t part, bool lse, size_t type) {
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (!t->value || t->internal != FB_NO_PART || t->external != part || t->lse != lse ||
            !is_wider(t->stored, type))
            continue;
        for (size_t at = 0; at < t->count; at++)
            if (t->usable[at] && to_type(type, t->value[at]) != t->value[at])
                return false;
        return t->count >= 4;
    }
    return false;
}

/* How far the rounding moves a part: from the candidate's own number where it is given, since that
 * is what was rounded; from the true one otherwise. */
static double rounding_of(const fb_trial *trial, size_t part, bool lse, size_t at, size_t type) {
    const fb_moments *m = &trial->parts[part].m;
    double value = lse ? m->lse[at] : m->out[at];
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (t->value && t->internal == FB_NO_PART && t->external == part && t->lse == lse &&
            t->usable[at] && fabs(t->value[at] - t->truth[at]) < 1e-2 * (1.0 + fabs(t->truth[at])))
            value = t->value[at];
    }
    if (is_given_in(trial, part, lse, type))
        return value - (lse ? m->lse[at] : m->out[at]);
    return isfinite(value) ? to_type(type, value) - value : 0.0;
}

/* A number in the middle between two of the lower type is rounded to either: to the one that the
 * candidate is nearer to. */
static void try_other_side(const fb_trial_tensor *t, size_t at, double value, size_t type,
                           double weight, double *result) {
    double low = to_type(type, value * (1.0 - 4e-6)), high = to_type(type, value * (1.0 + 4e-6));
    double first = to_type(type, value);
    double other = *result + weight * (low != first ? low - first : high - first);
    if (t->usable[at] && fabs(t->value[at] - other) < fabs(t->value[at] - *result))
        *result = other;
}

enum { EXTERNAL_LSE = 1, INTERNAL_LSE = 2, EXTERNAL_OUT = 4, REUSED_ONLY = 8 };

/* Whether it is honest to keep outputs in such a type: the arithmetic's own, or a finer one. */
static bool is_own_type(const fb_trial *trial, size_t type) {
    bool bf16 = trial->arithmetic == FB_ARITHMETIC_BF16 || trial->arithmetic == FB_ARITHMETIC_FP8;
    return (bf16 && type < 2) || (trial->arithmetic == FB_ARITHMETIC_F16 && type == 1);
}

static fb_status kept(fb_wrong *w, unsigned which, size_t type) {
    const fb_trial *trial = w->trial;
    if (!trial->script || ((which & EXTERNAL_OUT) && is_own_type(trial, type)))
        return FB_ERROR_UNSUPPORTED;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        bool here = (which & (t->lse ? EXTERNAL_LSE : EXTERNAL_OUT)) != 0;
        if (t->value && t->internal == FB_NO_PART && here &&
            is_given_in(trial, t->external, t->lse, type)) {
            double *result = fb_wrong_result(w, i);
            for (size_t at = 0; at < t->count; at++)
                result[at] += rounding_of(trial, t->external, t->lse, at, type);
        }
        if (!fb_wrong_is_merge(w, i))
            continue;
        bool reused = !trial->script || trial->script->passes[t->pass].source != t->pass;
        if ((which & REUSED_ONLY) && !reused)
            continue;
        double *result = fb_wrong_result(w, i);
        for (size_t at = 0; at < t->count; at++) {
            size_t row = t->lse ? at : at / trial->dim;
            const fb_moments *ma = &trial->parts[t->external].m, *mb = &trial->parts[t->internal].m;
            double shift = t->shift ? t->shift[row] : 0.0, a = ma->lse[row], b = mb->lse[row];
            if (which &
                EXTERNAL_LSE) /* from the very number that was kept, as far as it is known */
                a += rounding_of(trial, t->external, true, row, type);
            if (which & INTERNAL_LSE)
                b = to_type(type, b);
            a += shift;
            double max = fmax(a, b), weight = fb_merge_weight(a, b);
            if (max == -(double)INFINITY)
                continue;
            if (t->lse) {
                result[at] = max + log1p(exp(fmin(a, b) - max));
                continue;
            }
            double o = ma->out[at];
            if (which & EXTERNAL_OUT)
                o += rounding_of(trial, t->external, false, at, type);
            result[at] = weight * o + (1.0 - weight) * mb->out[at];
            if (which & EXTERNAL_OUT)
                try_other_side(t, at, ma->out[at], type, weight, &result[at]);
        }
    }
    return FB_OK;
}

static fb_status lse_kept(fb_wrong *w, size_t type) {
    return kept(w, EXTERNAL_LSE, type);
}
static fb_status reused_lse_kept(fb_wrong *w, size_t type) {
    return kept(w, EXTERNAL_LSE | REUSED_ONLY, type);
}
static fb_status lses_kept(fb_wrong *w, size_t type) {
    return kept(w, EXTERNAL_LSE | INTERNAL_LSE, type);
}
static fb_status out_kept(fb_wrong *w, size_t type) {
    return kept(w, EXTERNAL_OUT, type);
}
static fb_status reused_out_kept(fb_wrong *w, size_t type) {
    return kept(w, EXTERNAL_OUT | REUSED_ONLY, type);
}

#define KEPT(name, type)                                                                           \
    static fb_status name##_##type(fb_wrong *w, size_t n) {                                        \
        (void)n;                                                                                   \
        return name(w, type);                                                                      \
    }
KEPT(lse_kept, 0)
KEPT(lse_kept, 1)
KEPT(reused_lse_kept, 0)
KEPT(reused_lse_kept, 1)
KEPT(lses_kept, 0)
KEPT(lses_kept, 1)
KEPT(out_kept, 0)
KEPT(out_kept, 1)
KEPT(reused_out_kept, 0)
KEPT(reused_out_kept, 1)
KEPT(out_kept, 2)
KEPT(reused_out_kept, 2)

static const fb_known list[] = {
    {"the external part is missing: this is attention to the block alone", external_missing, 0},
    {"the internal part is missing: this is the external part alone", internal_missing, 0},
    {"LSEs in base 2 are merged with natural exponentials: multiply them by ln 2 = 0.693147 first",
     both_base2, 0},
    {"LSEs in base 2 are merged with natural exponentials (and the result is turned to base e): "
     "multiply them by ln 2 = 0.693147 first",
     both_base2_back, 0},
    {"the external part's LSE is in base 2, merged with natural exponentials: multiply it by ln 2 "
     "= 0.693147 first",
     external_base2, 0},
    {"the internal part's LSE is in base 2, merged with natural exponentials: multiply it by ln 2 "
     "= 0.693147 first",
     internal_base2, 0},
    {"natural LSEs are merged with exp2: exp2(L * 1.442695) is meant", exp2_of_natural, 0},
    {"natural LSEs are merged with exp2 and log: exp2(L * 1.442695) is meant", exp2_log, 0},
    {"the weights of the merge are swapped: the external output has the internal part's", swapped,
     0},
    {"the parts are averaged: they are weighted by exp(L)", averaged, 0},
    {"the parts are averaged: they are weighted by exp(L); the LSE is the external part's", equal,
     0},
    {"the parts are added without weights", added, 0},
    {"the weights of the merge are not divided by their sum", not_divided, 0},
    {"the external part is merged with weight 1: it lacks exp(its LSE - the maximum)",
     external_unweighed, 0},
    {"the internal part is merged with weight 1: it lacks exp(its LSE - the maximum)",
     internal_unweighed, 0},
    {"both parts are merged with weight 1: the maximum of each is taken away from itself",
     own_maxima, 0},
    {"the external part counts twice in the merge", external_twice, 0},
    {"the internal part counts twice in the merge", internal_twice, 0},
    {"the merged LSE lacks the maximum: it is log(sum exp(L - max))", without_max, 0},
    {"the LSE given out is the external part's, not the merged one", lse_external, 0},
    {"the LSE given out is the internal part's, not the merged one", lse_internal, 0},
    {"the LSE given out is the larger of the two, not the merged one", lse_largest, 0},
    {"the merge is done in place: the second half of the lanes read the external LSE when it is "
     "the new one already",
     alias_second, 0},
    {"the merge is done in place: the first half of the lanes read the external LSE when it is the "
     "new one already",
     alias_first, 0},
    {"the merge is done in place: all lanes read the external LSE when it is the new one already",
     alias_all, 0},
    {"the merge is done in place: every second lane reads the external LSE when it is the new one "
     "already",
     alias_odd, 0},
    {"the merge is done in place: the second half of the lanes read the internal LSE when it is "
     "the new one already",
     alias_second_b, 0},
    {"the merge is done in place: the first half of the lanes read the internal LSE when it is the "
     "new one already",
     alias_first_b, 0},
    {"the merge is done in place: the second half of the lanes weigh with the new LSE",
     alias_second_sum, 0},
    {"the merge is done in place: the first half of the lanes weigh with the new LSE",
     alias_first_sum, 0},
    {"the external part's LSE is read transposed in the merge", other_rows_0, 0},
    {"the external part's LSE is read transposed in the merge", other_rows_5, 0},
    {"the internal part's LSE is read transposed in the merge", other_rows_6, 0},
    {"the external part's LSE in the merge is that of the next head", other_rows_1, 0},
    {"the external part's LSE in the merge is that of the head before", other_rows_2, 0},
    {"the external part's LSE in the merge is that of the first token", other_rows_3, 0},
    {"the external part's LSE in the merge has its heads in reverse order", other_rows_4, 0},
    {"the external part's LSE is transposed, and merged so", other_rows_7, 0},
    {"the external part's LSE is transposed, and merged so", other_rows_12, 0},
    {"the external part's LSE is that of the next head, and merged so", other_rows_8, 0},
    {"the external part's LSE is that of the head before, and merged so", other_rows_9, 0},
    {"the external part's LSE is that of the first token, and merged so", other_rows_10, 0},
    {"the external part's LSE has its heads in reverse order, and is merged so", other_rows_11, 0},
    {"the external part's LSE is kept in bf16", lse_kept_0, 0},
    {"the external part's LSE is kept in f16", lse_kept_1, 0},
    {"the cached LSE is kept in bf16", reused_lse_kept_0, 0},
    {"the cached LSE is kept in f16", reused_lse_kept_1, 0},
    {"the LSEs of both parts are kept in bf16", lses_kept_0, 0},
    {"the LSEs of both parts are kept in f16", lses_kept_1, 0},
    {"the external part's output is kept in bf16", out_kept_0, 0},
    {"the external part's output is kept in f16", out_kept_1, 0},
    {"the cached output is kept in bf16", reused_out_kept_0, 0},
    {"the cached output is kept in f16", reused_out_kept_1, 0},
    {"the external part's output is kept in fp8 (e4m3)", out_kept_2, 0},
    {"the cached output is kept in fp8 (e4m3)", reused_out_kept_2, 0},
};

/* How far the merges of one head are from the candidate if its external LSEs are those of another
 * head. */
static double distance_with(const fb_wrong *w, size_t head, size_t other) {
    const fb_trial *trial = w->trial;
    double sum = 0.0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (!fb_wrong_is_merge(w, i))
            continue;
        const fb_moments *a = &trial->parts[t->external].m, *b = &trial->parts[t->internal].m;
        size_t width = t->lse ? 1 : trial->dim;
        for (size_t row = head; row < trial->rows; row += trial->heads) {
            double la = a->lse[row - head + other] + (t->shift ? t->shift[row] : 0.0);
            double weight = fb_merge_weight(la, b->lse[row]), max = fmax(la, b->lse[row]);
            for (size_t at = row * width; at < (row + 1) * width; at++) {
                double wrong = t->lse ? max + log1p(exp(fmin(la, b->lse[row]) - max))
                                      : weight * a->out[at] + (1.0 - weight) * b->out[at];
                double x = (t->value[at] - wrong) / t->sigma[at];
                sum += t->usable[at] && isfinite(x) ? x * x : 0.0;
            }
        }
    }
    return sum;
}

/* External LSEs of a merge that are those of other heads, whichever they are. */
static fb_status try_other_heads(fb_filter *f, fb_wrong *w) {
    const fb_trial *trial = w->trial;
    char words[300], pairs[160] = "";
    size_t moved = 0, used = 0, *from = NULL;
    FB_TRY(fb_alloc(trial->heads, sizeof *from, "heads", &from));
    for (size_t head = 0; head < trial->heads; head++) {
        double least = distance_with(w, head, head);
        from[head] = head;
        for (size_t other = 0; other < trial->heads; other++) {
            double x = distance_with(w, head, other);
            if (x < 0.5 * least) {
                least = x;
                from[head] = other;
            }
        }
        if (from[head] != head && moved++ < 4 && used < sizeof pairs)
            used += (size_t)snprintf(pairs + used, sizeof pairs - used, "%s%zu has that of %zu",
                                     moved > 1 ? ", " : "", head, from[head]);
    }
    fb_wrong_reset(w);
    fb_status status = FB_OK;
    for (size_t i = 0; i < trial->num_parts && status == FB_OK && moved; i++) {
        double *out, *lse;
        bool merged = false;
        for (size_t t = 0; t < trial->num_tensors; t++)
            merged = merged || (fb_wrong_is_merge(w, t) && trial->tensors[t].external == i);
        if (!merged)
            continue;
        status = fb_wrong_part(w, i, &out, &lse);
        for (size_t row = 0; row < trial->rows && status == FB_OK; row++)
            lse[row] =
                trial->parts[i].m.lse[row / trial->heads * trial->heads + from[row % trial->heads]];
    }
    fb_wrong_finish(w);
    fb_free(from);
    FB_TRY(status);
    snprintf(words, sizeof words,
             "the external part's LSE that is merged is that of other heads: head %s%s", pairs,
             moved > 4 ? ", ..." : "");
    for (size_t given_too = 2; moved && given_too-- > 0;) {
        if (!given_too)
            forget_parts(w);
        fb_filter_try(f, w, words);
    }
    return FB_OK;
}

fb_status fb_try_merges(fb_filter *f, fb_wrong *w) {
    FB_TRY(fb_try_list(f, w, list, sizeof list / sizeof list[0]));
    return w->trial->script && !f->fine ? try_other_heads(f, w) : FB_OK;
}

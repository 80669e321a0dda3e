/* Mistakes of results as they are given out: base, layout, rows that are not written. */
#include "base/memory.h"
#include "oracle/known.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double log2_of_e = 0x1.71547652b82fep+0;

/* Changes each LSE (or output) tensor by itself. `from` is the truth. */
typedef double change_fn(const fb_trial *trial, const fb_trial_tensor *t, const double *from,
                         size_t at);

static fb_status change_all(fb_wrong *w, bool lse, change_fn *change) {
    bool any = false;
    for (size_t i = 0; i < w->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &w->trial->tensors[i];
        if (!t->value || t->lse != lse)
            continue;
        any = true;
        double *result = fb_wrong_result(w, i);
        for (size_t at = 0; at < t->count; at++)
            result[at] = change(w->trial, t, t->truth, at);
    }
    return any ? FB_OK : FB_ERROR_UNSUPPORTED;
}

static double largest_score(const fb_trial *trial, const fb_trial_tensor *t, size_t row) {
    double max = trial->parts[t->external].m.max[row];
    return t->internal == FB_NO_PART ? max : fmax(max, trial->parts[t->internal].m.max[row]);
}

/* The row whose result is read at `row` if the candidate wrote [tokens, heads] where the file has
 * [heads, tokens], or the other way round. */
static size_t turned(const fb_trial *trial, const fb_trial_tensor *t, size_t row) {
    size_t entry = trial->tokens * trial->heads, b = row / entry, at = row % entry;
    if (t->by_head)
        return b * entry + at % trial->heads * trial->tokens + at / trial->heads;
    return b * entry + at % trial->tokens * trial->heads + at / trial->tokens;
}

#define CHANGE(name, is_lse, expression)                                                           \
    static double change_##name(const fb_trial *trial, const fb_trial_tensor *t,                   \
                                const double *from, size_t at) {                                   \
        (void)trial;                                                                               \
        (void)t;                                                                                   \
        (void)from;                                                                                \
        (void)at;                                                                                  \
        return expression;                                                                         \
    }                                                                                              \
    static fb_status name(fb_wrong *w, size_t n) {                                                 \
        (void)n;                                                                                   \
        return change_all(w, is_lse, change_##name);                                               \
    }

CHANGE(base2, true, from[at] * log2_of_e)
CHANGE(lse_turned_any, true, from[turned(trial, t, at)])
CHANGE(both_turned_any, true, log2_of_e *from[turned(trial, t, at)])
CHANGE(max_only, true, largest_score(trial, t, at))
CHANGE(not_log, true, exp(from[at]))
CHANGE(negated, true, -from[at])
CHANGE(lse_zero, true, 0.0)
CHANGE(lse_doubled, true, 2.0 * from[at])
CHANGE(out_halved, false, 0.5 * from[at])
CHANGE(out_doubled, false, 2.0 * from[at])

/* n says whether the file's layout is [heads, rows]. */
static bool is_by_head(const fb_trial *trial) {
    for (size_t i = 0; i < trial->num_tensors; i++)
        if (trial->tensors[i].by_head)
            return true;
    return false;
}
static fb_status lse_turned(fb_wrong *w, size_t n) {
    return is_by_head(w->trial) == (n == 1) ? lse_turned_any(w, 0) : FB_ERROR_UNSUPPORTED;
}
static fb_status both_turned(fb_wrong *w, size_t n) {
    return is_by_head(w->trial) == (n == 1) ? both_turned_any(w, 0) : FB_ERROR_UNSUPPORTED;
}

/* The row of an output at `row` if tokens and heads are mixed up. */
static double change_out_turned(const fb_trial *trial, const fb_trial_tensor *t, const double *from,
                                size_t at) {
    (void)t;
    size_t row = at / trial->dim, entry = trial->tokens * trial->heads, b = row / entry;
    size_t in = row % entry, other = in % trial->tokens * trial->heads + in / trial->tokens;
    return from[(b * entry + other) * trial->dim + at % trial->dim];
}
static fb_status out_turned(fb_wrong *w, size_t n) {
    (void)n;
    return w->trial->tokens == 1 ? FB_ERROR_UNSUPPORTED : change_all(w, false, change_out_turned);
}

/* O before the division by the row sum: sum exp(s - max) v, or sum exp(s) v. */
static double change_undivided(const fb_trial *trial, const fb_trial_tensor *t, const double *from,
                               size_t at) {
    (void)from;
    return from[at] * exp(trial->parts[t->external].m.lse[at / trial->dim]);
}
static double change_undivided_max(const fb_trial *trial, const fb_trial_tensor *t,
                                   const double *from, size_t at) {
    const fb_moments *m = &trial->parts[t->external].m;
    return from[at] * exp(m->lse[at / trial->dim] - m->max[at / trial->dim]);
}
static fb_status undivided(fb_wrong *w, size_t n) {
    if (w->trial->script)
        return FB_ERROR_UNSUPPORTED;
    return change_all(w, false, n ? change_undivided_max : change_undivided);
}

/* --- an LSE with padding ---------------------------------------------------------------------- */

/* The file's flat position of a row's LSE. */
static size_t flat_of(const fb_trial *trial, const fb_trial_tensor *t, size_t row) {
    size_t entry = trial->tokens * trial->heads, b = row / entry, at = row % entry;
    return t->by_head ? b * entry + at % trial->heads * trial->tokens + at / trial->heads : row;
}

/* [heads, padded tokens], or [tokens, padded heads]. */
typedef struct padding {
    bool by_head;
    size_t inner, width; /* of a row: without padding, and with it */
} padding;

/* n: 2 times what rows are padded to a multiple of, + 1 for [tokens, heads] */
static padding padding_of(const fb_trial *trial, size_t n) {
    size_t inner = n % 2 ? trial->heads : trial->tokens;
    return (padding){n % 2 == 0, inner, (inner + n / 2 - 1) / (n / 2) * (n / 2)};
}

/* The row whose LSE is read at `row` if there is padding that is not known of; SIZE_MAX: padding.
 */
static size_t padded_row(const fb_trial *trial, const fb_trial_tensor *t, const padding *p,
                         size_t row) {
    size_t flat = flat_of(trial, t, row), major = flat / p->width, minor = flat % p->width;
    size_t entry = p->by_head ? trial->heads : trial->tokens, in = major % entry;
    if (minor >= p->inner || major >= trial->rows / p->inner)
        return SIZE_MAX;
    size_t token = p->by_head ? minor : in, head = p->by_head ? in : minor;
    return (major / entry * trial->tokens + token) * trial->heads + head;
}

/* Whether all that is read of the padding is one number, as memory is that was set once. */
static bool is_padding_constant(const fb_trial *trial, const fb_trial_tensor *t, const padding *p) {
    double first = 0.0;
    bool any = false;
    for (size_t row = 0; row < trial->rows; row++) {
        if (padded_row(trial, t, p, row) != SIZE_MAX)
            continue;
        if (any && t->value[row] != first)
            return false;
        first = t->value[row];
        any = true;
    }
    return true;
}

/* An LSE with padding that is read as if there were none: the layout of the file, or the other one.
 * Padding is as the candidate has it. Where it is more than half, it has to be one number:
 * otherwise it would explain nearly everything. */
static fb_status padded(fb_wrong *w, size_t n) {
    const fb_trial *trial = w->trial;
    const padding p = padding_of(trial, n);
    bool any = false;
    if (p.width == p.inner)
        return FB_ERROR_UNSUPPORTED;
    w->everywhere = true;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (!t->value || !t->lse)
            continue;
        if (p.width > 2 * p.inner && !is_padding_constant(trial, t, &p))
            return FB_ERROR_UNSUPPORTED;
        any = true;
        double *result = fb_wrong_result(w, i);
        for (size_t row = 0; row < trial->rows; row++) {
            size_t from = padded_row(trial, t, &p, row);
            result[row] = from != SIZE_MAX ? t->truth[from]
                          : t->usable[row] ? t->value[row]
                                           : t->truth[row];
        }
    }
    return any ? FB_OK : FB_ERROR_UNSUPPORTED;
}

/* Rows that are as long as all results, or longer, leave the first of them only: whatever they are
 * padded to, and whether they are padded or not written. */
static fb_status try_padding(fb_filter *f, fb_wrong *w, size_t multiple, bool by_head, bool *last) {
    const size_t n = 2 * multiple + (by_head ? 0 : 1);
    char words[300];
    *last = padding_of(w->trial, n).width >= w->trial->rows;
    snprintf(words, sizeof words,
             "a padded LSE is read as packed: rows of [%s] are padded to a multiple of %zu%s",
             by_head ? "heads, tokens" : "tokens, heads", multiple,
             *last ? " or more (or, the same here: only the first of them is written)" : "");
    const fb_known known = {words, padded, n};
    return fb_try_list(f, w, &known, 1);
}

/* --- stored as float32, but kept in less ------------------------------------------------------ */

/* All LSEs are numbers of a lower type (n 0: bf16, 1: f16): they are as the candidate has them. */
static fb_status lse_rounded(fb_wrong *w, size_t n) {
    const fb_trial *trial = w->trial;
    size_t count = 0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (!t->value || !t->lse)
            continue;
        double *result = fb_wrong_result(w, i);
        for (size_t at = 0; at < t->count; at++) {
            double kept = (double)fb_rounded(n ? FB_ROUND_F16 : FB_ROUND_BF16, (float)t->value[at]);
            double spacing = fabs(t->truth[at]) * (n ? 0x1p-10 : 0x1p-7);
            if (!t->usable[at])
                continue;
            if (t->stored != FB_F32 || kept != t->value[at] || fabs(t->error[at]) > spacing)
                return FB_ERROR_UNSUPPORTED;
            result[at] = t->value[at];
            count++;
        }
    }
    return count < 8 ? FB_ERROR_UNSUPPORTED : FB_OK;
}

/* --- outputs of a lower type -------------------------------------------------------------------
 */

/* All outputs are numbers of a lower type than the one that they are stored in. */
static fb_status out_rounded(fb_wrong *w, size_t n) {
    static const struct {
        fb_rounding type;
        int bits;
    } types[] = {{FB_ROUND_BF16, 8}, {FB_ROUND_F16, 11}, {FB_ROUND_FP8, 4}};
    const fb_trial *trial = w->trial;
    size_t count = 0, off = 0;
    double squares = 0.0;
    bool narrow = trial->arithmetic == FB_ARITHMETIC_BF16 || trial->arithmetic == FB_ARITHMETIC_F16;
    if (trial->arithmetic == FB_ARITHMETIC_FP8 || (narrow && n < 2)) /* they compute in it */
        return FB_ERROR_UNSUPPORTED;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (!t->value || t->lse || (n < 2 && t->stored != FB_F32))
            continue;
        double *result = fb_wrong_result(w, i);
        for (size_t at = 0; at < t->count; at++) {
            float value = (float)t->value[at];
            double spacing = fmax(fabs(t->truth[at]), 0x1p-6) * ldexp(1.0, 1 - types[n].bits);
            if (!t->usable[at])
                continue;
            if (fb_rounded(types[n].type, value) != value)
                return FB_ERROR_UNSUPPORTED;
            off += fabs(t->error[at]) > spacing;
            squares += t->error[at] * t->error[at] / (t->sigma[at] * t->sigma[at]);
            result[at] = fabs(t->error[at]) > spacing ? result[at] : t->value[at];
            count++;
        }
    }
    bool few = count < 16 || squares < 4.0 * (double)count;
    return few || off * 20 > count ? FB_ERROR_UNSUPPORTED : FB_OK;
}

/* --- heads or tokens in another order --------------------------------------------------------- */

/* What is moved: the heads of each token, or the tokens of each batch entry. */
typedef struct axis {
    const char *name, *plural;
    size_t count, step, others, other_step; /* in rows; batch entries apart */
} axis;

static axis axis_of(const fb_trial *trial, bool tokens) {
    if (tokens)
        return (axis){"token", "tokens", trial->tokens, trial->heads, trial->heads, 1};
    return (axis){"head", "heads", trial->heads, 1, trial->tokens, trial->heads};
}

static double row_distance(const fb_trial *trial, const fb_trial_tensor *t, size_t a, size_t b) {
    size_t width = t->lse ? 1 : trial->dim;
    double sum = 0.0;
    for (size_t i = 0; i < width; i++) {
        double value = t->value[a * width + i] - t->truth[b * width + i];
        sum += isfinite(value) ? value * value : 1e30;
    }
    return sum;
}

/* The first row of an index of the axis, and what is beside it. */
static size_t row_at(const fb_trial *trial, const axis *x, size_t index, size_t other) {
    size_t b = other / x->others;
    return b * trial->tokens * trial->heads + index * x->step + other % x->others * x->other_step;
}

/* The index whose truth the candidate's is nearest to, over everything beside it. */
static size_t nearest(const fb_trial *trial, const fb_trial_tensor *t, const axis *x,
                      size_t index) {
    size_t best = index, all = x->others * trial->batch;
    double least = INFINITY;
    for (size_t n = 0; n < x->count; n++) {
        size_t other = (index + n) % x->count;
        double sum = 0.0;
        for (size_t i = 0; i < all && sum < least; i++)
            sum += row_distance(trial, t, row_at(trial, x, index, i), row_at(trial, x, other, i));
        if (sum < least) {
            least = sum;
            best = other;
        }
    }
    return best;
}

static void move_rows(const fb_trial *trial, const fb_trial_tensor *t, const axis *x, size_t to,
                      size_t from, double *result) {
    size_t width = t->lse ? 1 : trial->dim;
    for (size_t i = 0; i < x->others * trial->batch; i++)
        memcpy(result + row_at(trial, x, to, i) * width,
               t->truth + row_at(trial, x, from, i) * width, width * sizeof *result);
}

/* Tensors of one sort whose heads (or tokens) hold the results of others. The words name some. */
static void try_permuted(fb_filter *f, fb_wrong *w, bool lse, bool tokens) {
    const fb_trial *trial = w->trial;
    const axis x = axis_of(trial, tokens);
    char words[400] = "", pairs[200] = "";
    size_t used = 0, moved = 0;
    fb_wrong_reset(w);
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (!t->value || t->lse != lse)
            continue;
        for (size_t index = 0; index < x.count; index++) {
            size_t from = nearest(trial, t, &x, index);
            if (from == index)
                continue;
            move_rows(trial, t, &x, index, from, fb_wrong_result(w, i));
            if (moved++ < 4 && used < sizeof pairs)
                used += (size_t)snprintf(pairs + used, sizeof pairs - used, "%s%zu has that of %zu",
                                         moved > 1 ? ", " : "", index, from);
        }
    }
    if (!moved)
        return;
    snprintf(words, sizeof words, "%s are permuted in the %s: %s %s%s", x.plural,
             lse ? "LSE" : "output", x.name, pairs, moved > 4 ? ", ..." : "");
    fb_filter_try(f, w, words);
}

static const fb_known list[] = {
    {"the LSE is in base 2 (log2 of the sum of exponentials): multiply by ln 2 = 0.693147 before "
     "any merge in base e",
     base2, 0},
    {"the LSE is transposed: it is [heads, rows] where [rows, heads] is expected", lse_turned, 0},
    {"the LSE is transposed: it is [rows, heads] where [heads, rows] is expected", lse_turned, 1},
    {"the LSE is in base 2 (log2 of the sum of exponentials), and transposed: it is [heads, rows] "
     "where [rows, heads] is expected",
     both_turned, 0},
    {"the LSE is in base 2 (log2 of the sum of exponentials), and transposed: it is [rows, heads] "
     "where [heads, rows] is expected",
     both_turned, 1},
    {"the output is transposed", out_turned, 0},
    {"the LSE is the maximum only", max_only, 0},
    {"the LSE is the row sum, not its logarithm", not_log, 0},
    {"the LSE has the wrong sign", negated, 0},
    {"the LSE is rounded to bf16, though it is stored as float32", lse_rounded, 0},
    {"the LSE is rounded to f16, though it is stored as float32", lse_rounded, 1},
    {"the output is rounded to bf16, though it is stored as float32", out_rounded, 0},
    {"the output is rounded to f16, though it is stored as float32", out_rounded, 1},
    {"the output is rounded to fp8 (e4m3)", out_rounded, 2},
    {"the LSE is given out as 0: not written?", lse_zero, 0},
    {"the LSE is twice what it should be", lse_doubled, 0},
    {"the output is half of what it should be", out_halved, 0},
    {"the output is twice what it should be", out_doubled, 0},
    {"the output is not divided by the row sum", undivided, 0},
    {"the output is not divided by the row sum", undivided, 1},
};

fb_status fb_try_results(fb_filter *f, fb_wrong *w) {
    static const size_t widths[] = {8, 16, 32, 64, 128, 256};
    FB_TRY(fb_try_list(f, w, list, sizeof list / sizeof list[0]));
    for (size_t by_head = 0; by_head < 2; by_head++) {
        bool last = false;
        for (size_t i = 0; i < sizeof widths / sizeof widths[0] && !last; i++)
            FB_TRY(try_padding(f, w, widths[i], by_head == 1, &last));
    }
    for (size_t which = 0; which < 4 && !f->fine; which++) {
        bool lse = which % 2 == 0, tokens = which >= 2;
        double rows = (double)w->trial->rows * (double)(lse ? 1 : w->trial->dim);
        size_t others = tokens ? w->trial->tokens : w->trial->heads;
        if (others > 1 && rows * (double)others * (double)w->trial->num_tensors < 4e8)
            try_permuted(f, w, lse, tokens);
    }
    return FB_OK;
}

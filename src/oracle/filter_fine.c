/* Mistakes far below the largest honest error: thousands of elements average the noise away. */
#include "oracle/filter.h"
#include "oracle/statistics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

double fb_filter_threshold(const fb_filter *f, double freedom) {
    double tests = 400.0 + (double)f->tested;
    return fb_student_quantile(freedom, 0.5 * FB_FALSE_ALARM / tests);
}

/* What operands that are cut, and scores that are stored, may add to a row of a part: to the LSE,
 * to an output (beside a gain). */
static double biased_lse(const fb_trial *trial, size_t part, size_t row) {
    const fb_cut cut = fb_arithmetic_cut(trial->arithmetic);
    double scores = cut.products + (trial->eager ? trial->score_bias : 0.0);
    return cut.weights + scores * fabs(trial->parts[part].m.ps[row]);
}

/* The largest weight is 1 and loses nothing, the others do. */
static double biased_out(const fb_trial *trial, size_t part, size_t at) {
    const fb_moments *m = &trial->parts[part].m;
    const fb_cut cut = fb_arithmetic_cut(trial->arithmetic);
    size_t row = at / trial->dim;
    double scores = cut.products + (trial->eager ? trial->score_bias : 0.0);
    double o = m->out[at], change = (double)m->psv[at] - o * m->ps[row];
    double centred = (double)m->p2vv[at] - 2.0 * o * (double)m->p2v[at] + o * o * m->p2[row];
    return scores * fabs(change) + cut.weights * sqrt(fmax(0.0, centred));
}

/* How far honest kernels may be off in all elements together: rounded constants, the exponential
 * and the logarithm of the device, cut operands. */
static double systematic(const fb_filter *f, size_t tensor, size_t at) {
    const fb_trial *trial = f->trial;
    const fb_trial_tensor *t = &trial->tensors[tensor];
    size_t row = t->lse ? at : at / trial->dim;
    bool merge = t->internal != FB_NO_PART;
    double w = t->weight[row], lse = biased_lse(trial, t->external, row);
    double other = merge ? biased_lse(trial, t->internal, row) : 0.0;
    if (!t->lse) {
        double limit = 0x1p-22 * fabs(t->truth[at]) + w * biased_out(trial, t->external, at);
        if (!merge)
            return limit;
        double apart = trial->parts[t->external].m.out[at] - trial->parts[t->internal].m.out[at];
        return limit + (1.0 - w) * biased_out(trial, t->internal, at) +
               fmax(lse, other) * w * (1.0 - w) * fabs(apart);
    }
    const fb_moments *m = &trial->parts[t->external].m;
    /* scores that are rounded: exp(s + e) is exp(s) (1 + e^2 / 2) on average */
    double scores = trial->eager ? 0.5 * t->noise.scores[at] / (m->p2[row] + 1e-300) : 0.0;
    return w * lse + (1.0 - w) * other + scores +
           0x1p-24 * (4.0 + fabs(t->truth[at]) + fabs(m->max[at]) + 0.5 * m->score_size[at]);
}

/* The output of part number `which` of a merge as it is in the result, over sigma: what a gain of
 * that part would change. */
static double gain_of(const fb_trial *trial, const fb_trial_tensor *t, size_t which, size_t at) {
    size_t row = at / trial->dim, part = which ? t->internal : t->external;
    double weight = which ? 1.0 - t->weight[row] : t->weight[row];
    return t->usable[at] ? weight * trial->parts[part].m.out[at] / t->sigma[at] : 0.0;
}

/* Takes from x what gains of the outputs, part by part, explain of it. Weights that are cut off,
 * not rounded, are honest, and give such a gain. */
static void remove_gains(const fb_trial *trial, const fb_trial_tensor *t, double *x) {
    double aa = 0.0, ab = 0.0, bb = 0.0, ax = 0.0, bx = 0.0;
    bool merge = t->internal != FB_NO_PART;
    for (size_t at = 0; !t->lse && at < t->count; at++) {
        double a = gain_of(trial, t, 0, at), b = merge ? gain_of(trial, t, 1, at) : 0.0;
        aa += a * a;
        ab += a * b;
        bb += b * b;
        ax += a * x[at];
        bx += b * x[at];
    }
    double determinant = aa * bb - ab * ab;
    if (!(aa > 0.0))
        return;
    bool both = determinant > 1e-6 * aa * bb;
    double ga = both ? (ax * bb - bx * ab) / determinant : ax / aa;
    double gb = both ? (bx * aa - ax * ab) / determinant : 0.0;
    for (size_t at = 0; at < t->count; at++)
        x[at] -= ga * gain_of(trial, t, 0, at) + (merge ? gb * gain_of(trial, t, 1, at) : 0.0);
}

/* Whether two rows have results that are stored as the same numbers, or nearly: less than a spacing
 * apart in most elements. */
static bool are_alike(const fb_trial *trial, size_t a, size_t b) {
    size_t near = 0, count = 0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        size_t width = t->lse ? 1 : trial->dim;
        for (size_t d = 0; t->value && t->stored != FB_F32 && d < width; d++) {
            double x = t->truth[a * width + d], y = t->truth[b * width + d];
            near += fabs(x - y) < sqrt(12.0 * fb_storage_variance(t->stored, x));
            count++;
        }
    }
    return count > 0 && 2 * near > count;
}

/* Rows of one KV head whose weights are nearly the same have the same results in all queries and
 * heads, and these are rounded alike as they are stored: such rows count as one. */
static void find_alike(fb_filter *f) {
    const fb_trial *trial = f->trial;
    size_t group = trial->heads / trial->parts[0].read.kv_heads,
           entry = trial->tokens * trial->heads;
    for (size_t row = 0; row < trial->rows; row++) {
        size_t first = row / entry * entry + row % trial->heads / group * group;
        f->alike[row] = row != first && are_alike(trial, first, row) ? first : row;
    }
}

void fb_filter_clean(fb_filter *f) {
    find_alike(f);
    size_t from = 0;
    for (size_t i = 0; i < f->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &f->trial->tensors[i];
        if (!t->value)
            continue;
        for (size_t at = 0; at < t->count; at++)
            f->clean[from + at] = t->error[at] / t->sigma[at];
        remove_gains(f->trial, t, f->clean + from);
        from += t->count;
    }
}

/* The coefficient of a mistake in the errors, its standard error, and what honest systematic errors
 * may add to it at most. */
typedef struct coefficient {
    double size, error, systematic, freedom, squares; /* squares: sum of (d / sigma)^2 */
} coefficient;

/* Sums of one row of all heads and tokens, over all tensors: their noise may be the same. */
static void add_row(const fb_filter *f, size_t row, double size, double *n, double *d,
                    double *absolute) {
    size_t from = 0;
    *n = *d = *absolute = 0.0;
    for (size_t i = 0; i < f->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &f->trial->tensors[i];
        size_t width = t->lse ? 1 : f->trial->dim;
        if (!t->value)
            continue;
        double weight = 1.0 / (f->scale[i] * f->scale[i]);
        for (size_t at = row * width; at < (row + 1) * width; at++) {
            double change = f->scratch[from + at];
            *n += weight * change * (f->clean[from + at] - size * change);
            *d += weight * change * change;
            *absolute += weight * fabs(change);
        }
        from += t->count;
    }
}

static double systematic_sum(const fb_filter *f) {
    double sum = 0.0;
    size_t from = 0;
    for (size_t i = 0; i < f->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &f->trial->tensors[i];
        if (!t->value)
            continue;
        double weight = 1.0 / (f->scale[i] * f->scale[i]);
        for (size_t at = 0; at < t->count; at++)
            if (t->usable[at])
                sum += weight * fabs(f->scratch[from + at]) * systematic(f, i, at) / t->sigma[at];
        from += t->count;
    }
    return sum;
}

/* What a row sum of rounded weights changes in a part's LSE, in a result. */
static double lost_in(const fb_trial *trial, const fb_trial_tensor *t, size_t at) {
    size_t row = t->lse ? at : at / trial->dim;
    double w = t->weight[row], a = -trial->parts[t->external].m.lost[row];
    if (t->internal == FB_NO_PART)
        return t->lse ? a : 0.0;
    const fb_moments *ma = &trial->parts[t->external].m, *mb = &trial->parts[t->internal].m;
    double b = -mb->lost[row];
    return t->lse ? w * a + (1.0 - w) * b : w * (1.0 - w) * (ma->out[at] - mb->out[at]) * (a - b);
}

/* How much of a mistake row sums of rounded weights look like: of weights that are all nearly the
 * same, they are off by as much in every row. Other weights lose some, at random from row to row;
 * that is in the standard error. */
static double lost_sum(fb_filter *f) {
    double sum = 0.0, squares = 0.0, *rows = f->scratch + f->total;
    size_t from = 0;
    memset(rows, 0, f->trial->rows * sizeof *rows);
    for (size_t i = 0; i < f->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &f->trial->tensors[i];
        size_t width = t->lse ? 1 : f->trial->dim;
        if (!t->value)
            continue;
        double weight = 1.0 / (f->scale[i] * f->scale[i]);
        for (size_t at = 0; at < t->count; at++)
            if (t->usable[at])
                rows[at / width] +=
                    weight * f->scratch[from + at] * lost_in(f->trial, t, at) / t->sigma[at];
        from += t->count;
    }
    for (size_t row = 0; row < f->trial->rows; row++) {
        sum += rows[row];
        squares += rows[row] * rows[row];
    }
    return fmax(0.0, fabs(sum) - 3.0 * sqrt(squares));
}

/* How much of a mistake the rounding of stored results looks like: true values that are nearly the
 * same in all rows are rounded alike. */
static double stored_sum(const fb_filter *f) {
    double sum = 0.0;
    size_t from = 0;
    for (size_t i = 0; i < f->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &f->trial->tensors[i];
        if (!t->value)
            continue;
        double weight = 1.0 / (f->scale[i] * f->scale[i]);
        for (size_t at = 0; at < t->count && t->stored != FB_F32; at++)
            if (t->usable[at])
                sum += weight * f->scratch[from + at] * fb_storage_error(t->stored, t->truth[at]) /
                       t->sigma[at];
        from += t->count;
    }
    return fabs(sum);
}

/* The change by the mistake, over sigma, without gains, in `scratch`. */
static void load_change(fb_filter *f, const fb_wrong *w) {
    size_t from = 0;
    for (size_t i = 0; i < f->trial->num_tensors; i++) {
        const fb_trial_tensor *t = &f->trial->tensors[i];
        if (!t->value)
            continue;
        for (size_t at = 0; at < t->count; at++) {
            double change = w->result[i] ? (w->result[i][at] - t->truth[at]) / t->sigma[at] : 0.0;
            f->scratch[from + at] = !t->usable[at] ? 0.0 : isfinite(change) ? change : 1e12;
        }
        if (w->result[i])
            remove_gains(f->trial, t, f->scratch + from);
        from += t->count;
    }
}

static coefficient fit(fb_filter *f, const fb_wrong *w) {
    coefficient c = {0};
    double n, d, absolute, sum_n = 0.0, fourth = 0.0, scores = 0.0, coherent = 0.0;
    load_change(f, w);
    size_t all = f->trial->rows;
    double *together = f->scratch + f->total; /* [3][rows] of rows that are alike */
    memset(together, 0, 3 * all * sizeof *together);
    for (size_t row = 0; row < all; row++) {
        add_row(f, row, 0.0, &n, &d, &absolute);
        sum_n += n;
        c.squares += d;
        together[f->alike[row]] += d;
    }
    if (!(c.squares > 0.0))
        return c;
    c.size = sum_n / c.squares;
    for (size_t row = 0; row < all; row++) {
        add_row(f, row, c.size, &n, &d, &absolute);
        together[all + f->alike[row]] += n;
        together[2 * all + f->alike[row]] += absolute;
    }
    for (size_t row = 0; row < all; row++) {
        fourth += together[row] * together[row];
        scores += together[all + row] * together[all + row];
        coherent += together[2 * all + row] * together[2 * all + row];
    }
    double rows = c.squares * c.squares / fourth; /* that count */
    c.freedom = rows > 2.0 ? rows - 1.0 : 1.0;
    double spread = rows > 1.5 ? scores * rows / (rows - 1.0) : scores;
    /* in few rows all elements of a row may err together, each by the largest honest error */
    double squares = rows < 8.0 ? fmax(coherent, c.squares) : fmax(spread, c.squares);
    if (rows < 8.0)
        c.freedom = 1000.0;
    c.error = sqrt(squares) / c.squares;
    c.systematic = systematic_sum(f) / c.squares;
    if (fb_arithmetic_weights(f->trial->arithmetic).bits)
        c.systematic += 1.5 * lost_sum(f) / c.squares;
    c.systematic += stored_sum(f) / c.squares;
    return c;
}

void fb_filter_keep(fb_filter *f, const fb_wrong *w, const char *words) {
    const fb_trial *trial = f->trial;
    size_t at = 0;
    f->best.found = true;
    f->best.sized = f->sizes;
    f->best.same[0] = '\0';
    snprintf(f->best.words, sizeof f->best.words, "%s", words);
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (!t->value)
            continue;
        memcpy(f->best.wrong + at, w->result[i] ? w->result[i] : t->truth,
               t->count * sizeof(double));
        at += t->count;
    }
    for (size_t i = 0; i < trial->num_parts; i++) {
        size_t values = trial->rows * trial->dim;
        f->best.part_changed[i] = w->out[i] != NULL;
        if (!w->out[i])
            continue;
        memcpy(f->best.parts[i], w->out[i], values * sizeof(double));
        memcpy(f->best.parts[i] + values, w->lse[i], trial->rows * sizeof(double));
    }
}

void fb_filter_try_fine(fb_filter *f, const fb_wrong *w, const char *words) {
    coefficient c = fit(f, w);
    if (!(c.squares > 0.0))
        return;
    double least = fb_filter_threshold(f, c.freedom) * c.error + c.systematic;
    double explained = c.size * c.squares * (2.0 - 1.0 / fmax(c.size, 1e-9));
    if (fabs(c.size) <= least || fabs(c.size - 1.0) > 0.1 + 4.0 * c.error + c.systematic ||
        explained <= f->best.explained)
        return;
    fb_filter_keep(f, w, words);
    for (size_t i = 0; i < f->trial->num_tensors * f->trial->rows; i++)
        f->best.rows[i] = 1;
    f->best.place[0] = '\0';
    f->best.share = 1.0;
    f->best.size = c.size;
    f->best.error = c.error;
    f->best.explained = explained;
}

void fb_filter_try_size(fb_filter *f, const fb_wrong *w, double unit, double least,
                        const char *words) {
    coefficient c = fit(f, w);
    f->tested++;
    if (!(c.squares > 0.0))
        return;
    double needed = fb_filter_threshold(f, c.freedom) * c.error + c.systematic;
    double explained = c.size * c.size * c.squares;
    if (fabs(c.size) <= needed || fabs(c.size * unit) <= least ||
        explained <= f->best.explained + f->handicap)
        return;
    char text[400];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(text, sizeof text, words, c.size * unit, c.error * unit);
#pragma GCC diagnostic pop
    fb_filter_keep(f, w, text);
    for (size_t i = 0; i < f->trial->num_tensors * f->trial->rows; i++)
        f->best.rows[i] = 1;
    f->best.place[0] = '\0';
    f->best.share = 1.0;
    f->best.size = 1.0;
    f->best.error = c.error / fabs(c.size);
    f->best.explained = explained;
}

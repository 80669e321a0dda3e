/* Tiles and splits of the external keys that are added up without their weights, or not rescaled.
 * Everything is made of partial results of chunks of keys. */
#include "base/error.h"
#include "base/memory.h"
#include "oracle/chunks.h"
#include "oracle/known.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_SPLITS = 64 };

/* --- splits ----------------------------------------------------------------------------------- */

/* Splits as kernels make them: all of the same number of tiles, the last one smaller; or of about
 * the same number of keys. Borders are in chunks. */
typedef struct splitting {
    size_t count, border[MAX_SPLITS + 1];
} splitting;

static bool split(const fb_chunks *c, size_t keys, size_t count, bool even, splitting *s) {
    size_t tile = 64 % c->width == 0 ? 64 : c->width, tiles = (keys + tile - 1) / tile;
    size_t each = (tiles + count - 1) / count * (tile / c->width);
    s->count = count;
    for (size_t i = 0; i <= count; i++) {
        s->border[i] = even ? keys * i / count / c->width : i * each;
        if (i == count || s->border[i] > c->count)
            s->border[i] = c->count;
        if (i && s->border[i] <= s->border[i - 1])
            return false;
    }
    return true;
}

static double weight_of(const fb_chunks *c, size_t rows, size_t row, size_t begin, size_t end) {
    return c->weight[end * rows + row] - c->weight[begin * rows + row];
}

static double largest_of(const fb_chunks *c, size_t rows, size_t row, size_t first, size_t end) {
    double max = -(double)INFINITY;
    for (size_t i = first; i < end; i++)
        max = fmax(max, c->max[i * rows + row]);
    return max;
}

/* Adds (factor - 1) times chunks begin .. end - 1 to an output that is not divided. */
static void add_chunks(const fb_trial *trial, const fb_chunks *c, size_t row, size_t begin,
                       size_t end, double factor, double *o) {
    size_t values = trial->rows * trial->dim;
    for (size_t d = 0; d < trial->dim; d++)
        o[d] += (factor - 1.0) * (c->before[end * values + row * trial->dim + d] -
                                  c->before[begin * values + row * trial->dim + d]);
}

typedef enum split_mistake {
    LSE_OF_LAST,
    LSE_OF_FIRST,
    LSE_LARGEST,
    AVERAGED,
    LSES_IN_BF16,
    LSES_IN_F16,
    NUM_OF_ALL,
    UNWEIGHED = NUM_OF_ALL, /* of one split */
    IN_BASE_2,
    NUM_MISTAKES
} split_mistake;

static const char *const split_words[] = {
    "the LSE is that of the last of %zu splits of the keys",
    "the LSE is that of the first of %zu splits of the keys",
    "the LSE is the largest of %zu splits of the keys, not their sum",
    "%zu splits of the keys are averaged without their weights",
    "the LSEs of %zu splits of the keys are kept in bf16 before they are merged",
    "the LSEs of %zu splits of the keys are kept in f16 before they are merged",
    "split %zu of %zu of the keys is added without its weight exp(its maximum - the maximum)",
    "the LSE of split %zu of %zu of the keys is in base 2, merged with natural exponentials",
};

/* What a split is multiplied by too much. */
static double split_factor(const fb_trial *trial, const fb_chunks *c, const splitting *s,
                           size_t row, size_t i, split_mistake mistake) {
    size_t rows = trial->rows;
    double weight = weight_of(c, rows, row, s->border[i], s->border[i + 1]);
    double lse = trial->parts[c->part].m.lse[row] + log(weight > 0.0 ? weight : 1e-300);
    if (mistake == IN_BASE_2)
        return exp(lse * (0x1.71547652b82fep+0 - 1.0));
    if (mistake == UNWEIGHED)
        return exp(largest_of(c, rows, row, 0, c->count) -
                   largest_of(c, rows, row, s->border[i], s->border[i + 1]));
    return exp(
        (double)fb_rounded(mistake == LSES_IN_BF16 ? FB_ROUND_BF16 : FB_ROUND_F16, (float)lse) -
        lse);
}

/* One row of a part: out and LSE at first the right ones. */
static void change_row(const fb_trial *trial, const fb_chunks *c, const splitting *s, size_t row,
                       size_t which, split_mistake mistake, double *o, double *lse) {
    double whole = *lse, total = 1.0, found = 0.0;
    if (mistake == AVERAGED)
        memset(o, 0, trial->dim * sizeof *o);
    for (size_t i = 0; i < s->count; i++) {
        double weight = weight_of(c, trial->rows, row, s->border[i], s->border[i + 1]);
        double own = whole + log(weight > 0.0 ? weight : 1e-300);
        if (mistake == LSE_OF_LAST || (mistake == LSE_OF_FIRST && i == 0) ||
            (mistake == LSE_LARGEST && (i == 0 || own > found)))
            found = own;
        if (mistake < AVERAGED || (mistake >= NUM_OF_ALL && i != which))
            continue;
        double factor = mistake == AVERAGED ? 1.0 + 1.0 / (weight * (double)s->count)
                                            : split_factor(trial, c, s, row, i, mistake);
        add_chunks(trial, c, row, s->border[i], s->border[i + 1], factor, o);
        total += mistake == AVERAGED ? 0.0 : (factor - 1.0) * weight;
    }
    for (size_t d = 0; mistake > AVERAGED && d < trial->dim; d++)
        o[d] /= total;
    *lse = mistake < AVERAGED ? found : whole + log(total);
}

/* n: which split, of mistakes that are made in one. */
static fb_status try_split(fb_filter *f, fb_wrong *w, const fb_chunks *all, size_t parts,
                           const splitting *s, size_t which, split_mistake mistake) {
    char text[200];
    fb_wrong_reset(w);
    for (size_t i = 0; i < parts; i++) {
        double *out, *lse;
        FB_TRY(fb_wrong_part(w, all[i].part, &out, &lse));
        for (size_t row = 0; row < f->trial->rows; row++)
            change_row(f->trial, &all[i], s, row, which, mistake, out + row * f->trial->dim,
                       lse + row);
    }
    fb_wrong_finish(w);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    if (mistake < NUM_OF_ALL)
        snprintf(text, sizeof text, split_words[mistake], s->count);
    else
        snprintf(text, sizeof text, split_words[mistake], which + 1, s->count);
#pragma GCC diagnostic pop
    fb_filter_try(f, w, text);
    return FB_OK;
}

static fb_status try_splits(fb_filter *f, fb_wrong *w, const fb_chunks *all, size_t parts) {
    size_t keys = f->trial->parts[all[0].part].read.keys;
    splitting s;
    for (size_t count = 2; count <= MAX_SPLITS && count <= all[0].count; count++)
        for (size_t even = 0; even < 2; even++) {
            if (!split(&all[0], keys, count, even != 0, &s))
                continue;
            for (split_mistake m = LSE_OF_LAST; m < NUM_OF_ALL; m++)
                FB_TRY(try_split(f, w, all, parts, &s, 0, m));
            for (size_t which = 0; count <= 8 && which < count; which++)
                for (split_mistake m = NUM_OF_ALL; m < NUM_MISTAKES; m++)
                    FB_TRY(try_split(f, w, all, parts, &s, which, m));
        }
    return FB_OK;
}

/* --- rescales --------------------------------------------------------------------------------- */

/* A kernel goes through the keys of a split in tiles of `width` chunks. When the running maximum
 * grows, what was summed up before is not made smaller: at one tile, or at all of them. */
typedef struct rescale {
    size_t width, tile; /* tile SIZE_MAX: all */
    size_t which;       /* split; SIZE_MAX: all */
    bool sum_too;       /* the row sum is not made smaller, either */
} rescale;

/* Adds what one split has too much; returns the change of the row sum. */
static double forget_in_split(const fb_trial *trial, const fb_chunks *c, const rescale *r,
                              size_t row, size_t first, size_t end, double *o) {
    size_t tiles = (end - first + r->width - 1) / r->width;
    double factor = 1.0, more = 0.0;
    for (size_t tile = tiles; tile-- > 0;) { /* later growths apply to all before them */
        size_t begin = first + tile * r->width;
        size_t stop = begin + r->width < end ? begin + r->width : end;
        if (factor > 1.0) {
            add_chunks(trial, c, row, begin, stop, factor, o);
            more += (factor - 1.0) * weight_of(c, trial->rows, row, begin, stop);
        }
        if (tile && (r->tile == SIZE_MAX || r->tile == tile)) {
            double before = largest_of(c, trial->rows, row, first, begin);
            factor *= exp(fmax(before, largest_of(c, trial->rows, row, begin, stop)) - before);
        }
    }
    return more;
}

static fb_status try_rescale(fb_filter *f, fb_wrong *w, const fb_chunks *all, size_t parts,
                             const splitting *s, const rescale *r) {
    char text[300];
    const char *what = r->sum_too ? "output and row sum are" : "the output is";
    const fb_trial *trial = f->trial;
    fb_wrong_reset(w);
    for (size_t i = 0; i < parts; i++) {
        double *out, *lse;
        FB_TRY(fb_wrong_part(w, all[i].part, &out, &lse));
        for (size_t row = 0; row < trial->rows; row++) {
            double total = 1.0, *o = out + row * trial->dim;
            for (size_t n = 0; n < s->count; n++)
                if (r->which == SIZE_MAX || r->which == n)
                    total +=
                        forget_in_split(trial, &all[i], r, row, s->border[n], s->border[n + 1], o);
            for (size_t d = 0; r->sum_too && d < trial->dim; d++)
                o[d] /= total;
            lse[row] += r->sum_too ? log(total) : 0.0;
        }
    }
    fb_wrong_finish(w);
    if (r->tile == SIZE_MAX)
        snprintf(text, sizeof text,
                 "%s never rescaled when the maximum grows (%zu splits, tiles of %zu keys)", what,
                 s->count, r->width * all[0].width);
    else
        snprintf(text, sizeof text,
                 "%s not rescaled when the maximum grows at keys %zu to %zu: a rescale is missing",
                 what, (s->border[r->which] + r->tile * r->width) * all[0].width,
                 (s->border[r->which] + (r->tile + 1) * r->width) * all[0].width - 1);
    fb_filter_try(f, w, text);
    return FB_OK;
}

static fb_status try_rescales(fb_filter *f, fb_wrong *w, const fb_chunks *all, size_t parts) {
    size_t count = all[0].count, keys = f->trial->parts[all[0].part].read.keys;
    for (size_t splits = 1; splits <= 8; splits *= 2) {
        splitting s;
        if (!split(&all[0], keys, splits, true, &s))
            continue;
        for (size_t width = 1; width <= 8 && width < count; width *= 2)
            for (size_t sum_too = 0; sum_too < 2; sum_too++) {
                rescale r = {width, SIZE_MAX, SIZE_MAX, sum_too != 0};
                FB_TRY(try_rescale(f, w, all, parts, &s, &r));
                size_t tiles = (count / splits + width - 1) / width, most = splits == 1 ? 64 : 4;
                for (r.which = 0; r.which < splits; r.which++)
                    for (r.tile = 1; r.tile < tiles && r.tile < most; r.tile++)
                        FB_TRY(try_rescale(f, w, all, parts, &s, &r));
            }
    }
    return FB_OK;
}

fb_status fb_try_pages(fb_filter *f, fb_wrong *w) {
    const fb_trial *trial = f->trial;
    fb_chunks *all = NULL;
    size_t parts = 0;
    size_t width = fb_chunk_width(trial);
    if (!width)
        return FB_OK;
    FB_TRY(fb_alloc_zeroed(trial->num_parts, sizeof *all, "tiles", &all));
    fb_status status = FB_OK;
    for (size_t i = 0; i < trial->num_parts && status == FB_OK; i++)
        if (fb_trial_uses(trial, i, FB_EXTERNAL))
            status = fb_chunk_part(trial, i, width, &all[parts++]);
    if (status == FB_OK && parts)
        status = try_splits(f, w, all, parts);
    if (status == FB_OK && parts && f->best.share < 0.95)
        status = try_rescales(f, w, all, parts);
    for (size_t i = 0; i < parts; i++)
        fb_free(all[i].out);
    fb_free(all);
    return status;
}

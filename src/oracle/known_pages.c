/* Tiles, pages and splits of the external keys: lost, repeated, swapped, or added up without their
 * weights. Everything is made of partial results of chunks of keys. */
#include "base/error.h"
#include "base/memory.h"
#include "oracle/known.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CHUNK = 64, MAX_CHUNKS = 512 };

/* Partial results of each chunk of a part: outputs (normalised), LSEs. */
typedef struct chunks {
    size_t part, count;
    double *out, *lse; /* [count][rows, dim], [count][rows] */
    /* [count + 1][rows, dim], [count + 1][rows]: sums of weight x output, and of weights, of the
     * chunks before; the weights of all chunks add up to 1 */
    double *before, *weight;
} chunks;

static fb_status chunk_part(const fb_trial *trial, size_t part, chunks *c) {
    const fb_attention_problem *p = &trial->parts[part].read;
    size_t values = trial->rows * trial->dim, index[CHUNK];
    c->part = part;
    c->count = (p->keys + CHUNK - 1) / CHUNK;
    FB_TRY(fb_alloc(2 * c->count + 1, (values + trial->rows) * sizeof(double), "tiles", &c->out));
    c->lse = c->out + c->count * values;
    c->before = c->lse + c->count * trial->rows;
    c->weight = c->before + (c->count + 1) * values;
    for (size_t i = 0; i < c->count; i++) {
        size_t n = p->keys - i * CHUNK < CHUNK ? p->keys - i * CHUNK : CHUNK;
        for (size_t j = 0; j < n; j++)
            index[j] = i * CHUNK + j;
        const fb_variant variant = {.key_index = index, .value_index = index, .key_count = n};
        FB_TRY(fb_variant_attend(p, &variant, c->out + i * values, c->lse + i * trial->rows));
    }
    return FB_OK;
}

/* The sums before each chunk. */
static void sum_chunks(const fb_trial *trial, const chunks *c) {
    const double *whole = trial->parts[c->part].m.lse;
    size_t rows = trial->rows, dim = trial->dim, values = rows * dim;
    memset(c->before, 0, values * sizeof(double));
    memset(c->weight, 0, rows * sizeof(double));
    for (size_t i = 0; i < c->count; i++)
        for (size_t row = 0; row < rows; row++) {
            double weight = exp(c->lse[i * rows + row] - whole[row]);
            c->weight[(i + 1) * rows + row] = c->weight[i * rows + row] + weight;
            for (size_t d = row * dim; d < (row + 1) * dim; d++)
                c->before[(i + 1) * values + d] =
                    c->before[i * values + d] + weight * c->out[i * values + d];
        }
}

/* Chunks begin .. end - 1 of a part, and what is wrong with them. */
typedef struct piece {
    const chunks *c;
    const fb_trial *trial;
    size_t begin, end;
} piece;

typedef enum piece_mistake { LOST, TWICE, NOT_RESCALED, NOT_RESCALED_AT_ALL } piece_mistake;

/* When the maximum grew in this piece, what was there before was not made smaller. The maximum is
 * not known; LSEs stand for it, by which splits are rescaled. */
static double missing_rescale(const piece *p, size_t row) {
    double before = -(double)INFINITY, after;
    for (size_t i = 0; i < p->begin; i++)
        before = fmax(before, p->c->lse[i * p->trial->rows + row]);
    after = before;
    for (size_t i = p->begin; i < p->end; i++)
        after = fmax(after, p->c->lse[i * p->trial->rows + row]);
    return p->begin ? exp(after - before) : 1.0;
}

static fb_status change_piece(fb_wrong *w, const piece *p, piece_mistake mistake) {
    const fb_trial *trial = p->trial;
    const fb_moments *m = &trial->parts[p->c->part].m;
    size_t rows = trial->rows, dim = trial->dim, values = rows * dim;
    bool prefix = mistake == NOT_RESCALED || mistake == NOT_RESCALED_AT_ALL;
    size_t begin = prefix ? 0 : p->begin, end = prefix ? p->begin : p->end;
    double *out, *lse;
    FB_TRY(fb_wrong_part(w, p->c->part, &out, &lse));
    for (size_t row = 0; row < rows; row++) {
        double more = mistake == LOST    ? -1.0
                      : mistake == TWICE ? 1.0
                                         : missing_rescale(p, row) - 1.0;
        double weight = p->c->weight[end * rows + row] - p->c->weight[begin * rows + row];
        double total = mistake == NOT_RESCALED ? 1.0 : 1.0 + more * weight;
        for (size_t d = row * dim; d < (row + 1) * dim; d++) {
            double sum = p->c->before[end * values + d] - p->c->before[begin * values + d];
            out[d] = total > 0.0 ? (m->out[d] + more * sum) / total : 0.0;
        }
        lse[row] = total > 0.0 ? m->lse[row] + log(total) : -(double)INFINITY;
    }
    return FB_OK;
}

/* One mistake in all external parts. */
static fb_status try_piece(fb_filter *f, fb_wrong *w, const chunks *all, size_t parts,
                           const piece *where, piece_mistake mistake) {
    static const char *const words[] = {
        "keys %zu to %zu are left out: a tile or page is lost",
        "keys %zu to %zu are read twice: a tile or page is repeated",
        "the output is not rescaled when the maximum grows at keys %zu to %zu (a rescale is "
        "missing)",
        "output and row sum are not rescaled when the maximum grows at keys %zu to %zu (a rescale "
        "is "
        "missing)",
    };
    char text[300];
    size_t keys = f->trial->parts[all[0].part].read.keys, end = where->end * CHUNK;
    fb_wrong_reset(w);
    for (size_t i = 0; i < parts; i++) {
        piece p = *where;
        p.c = &all[i];
        FB_TRY(change_piece(w, &p, mistake));
    }
    fb_wrong_finish(w);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(text, sizeof text, words[mistake], where->begin * CHUNK,
             (end < keys ? end : keys) - 1);
#pragma GCC diagnostic pop
    fb_filter_try(f, w, text);
    return FB_OK;
}

static fb_status try_tiles(fb_filter *f, fb_wrong *w, const chunks *all, size_t parts) {
    size_t count = all[0].count;
    for (size_t i = 0; i < parts; i++)
        sum_chunks(f->trial, &all[i]);
    for (size_t width = 1; width <= 8 && width < count; width *= 2)
        for (size_t n = 0; n * width < count; n++)
            for (piece_mistake mistake = LOST; mistake <= NOT_RESCALED_AT_ALL; mistake++) {
                size_t end = (n + 1) * width < count ? (n + 1) * width : count;
                const piece where = {NULL, f->trial, n * width, end};
                FB_TRY(try_piece(f, w, all, parts, &where, mistake));
            }
    return FB_OK;
}

/* --- splits ----------------------------------------------------------------------------------- */

/* Splits of `width` chunks. form 0: the outputs are averaged; 1: the LSE is the last split's, the
 * outputs are right; 2: the LSE is the first's; 3: the largest. */
static fb_status merge_splits(fb_wrong *w, const chunks *c, size_t width, size_t form) {
    const fb_trial *trial = w->trial;
    size_t values = trial->rows * trial->dim, splits = (c->count + width - 1) / width;
    double *out, *lse;
    FB_TRY(fb_wrong_part(w, c->part, &out, &lse));
    for (size_t row = 0; row < trial->rows; row++) {
        double *o = out + row * trial->dim, found = 0.0;
        if (form == 0)
            memset(o, 0, trial->dim * sizeof *o);
        for (size_t s = 0; s < splits; s++) {
            size_t end = (s + 1) * width < c->count ? (s + 1) * width : c->count;
            double max = -(double)INFINITY, sum = 0.0;
            for (size_t i = s * width; i < end; i++)
                max = fmax(max, c->lse[i * trial->rows + row]);
            for (size_t i = s * width; i < end; i++)
                sum += exp(c->lse[i * trial->rows + row] - max);
            double split = max + log(sum);
            if (form == 1 || (form == 2 && s == 0) || (form == 3 && (s == 0 || split > found)))
                found = split;
            for (size_t i = s * width; form == 0 && i < end; i++) {
                double weight = exp(c->lse[i * trial->rows + row] - split) / (double)splits;
                for (size_t d = 0; d < trial->dim; d++)
                    o[d] += weight * c->out[i * values + row * trial->dim + d];
            }
        }
        if (form)
            lse[row] = found;
    }
    return FB_OK;
}

static fb_status try_splits(fb_filter *f, fb_wrong *w, const chunks *all, size_t parts) {
    static const char *const words[] = {
        "%zu splits of the keys are averaged without their weights",
        "the LSE is that of the last of %zu splits of the keys",
        "the LSE is that of the first of %zu splits of the keys",
        "the LSE is the largest of %zu splits of the keys, not their sum",
    };
    for (size_t splits = 2; splits <= 64 && splits <= all[0].count; splits++)
        for (size_t form = 0; form < 4; form++) {
            char text[200];
            size_t width = (all[0].count + splits - 1) / splits;
            if ((all[0].count + width - 1) / width != splits)
                continue;
            fb_wrong_reset(w);
            for (size_t i = 0; i < parts; i++)
                FB_TRY(merge_splits(w, &all[i], width, form));
            fb_wrong_finish(w);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            snprintf(text, sizeof text, words[form], splits);
#pragma GCC diagnostic pop
            fb_filter_try(f, w, text);
        }
    return FB_OK;
}

static bool is_external(const fb_trial *trial, size_t part) {
    for (size_t i = 0; i < trial->num_tensors; i++)
        if (trial->tensors[i].value && trial->tensors[i].external == part)
            return true;
    return false;
}

fb_status fb_try_pages(fb_filter *f, fb_wrong *w) {
    const fb_trial *trial = f->trial;
    const fb_attention_problem *p = &trial->parts[0].read;
    chunks *all = NULL;
    size_t parts = 0;
    if (p->keys <= CHUNK || p->keys > CHUNK * MAX_CHUNKS || p->mask.kind != FB_MASK_NONE)
        return FB_OK;
    FB_TRY(fb_alloc_zeroed(trial->num_parts, sizeof *all, "tiles", &all));
    fb_status status = FB_OK;
    for (size_t i = 0; i < trial->num_parts && status == FB_OK; i++)
        if (is_external(trial, i))
            status = chunk_part(trial, i, &all[parts++]);
    if (status == FB_OK && parts)
        status = try_splits(f, w, all, parts);
    if (status == FB_OK && parts && f->best.share < 0.8)
        status = try_tiles(f, w, all, parts);
    for (size_t i = 0; i < parts; i++)
        fb_free(all[i].out);
    fb_free(all);
    return status;
}

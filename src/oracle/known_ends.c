/* Keys that are left out or read too many, at either end of a part. */
#include "base/error.h"
#include "base/memory.h"
#include "oracle/known.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool is_part(const fb_trial *trial, size_t part, bool external) {
    return fb_trial_uses(trial, part, external ? FB_EXTERNAL : FB_INTERNAL);
}

/* A part plus (sign 1) or minus (-1) some keys, given as a part themselves. */
static void add_keys(const fb_trial *trial, double *out, double *lse, const double *more_out,
                     const double *more_lse, double sign) {
    for (size_t row = 0; row < trial->rows; row++) {
        double share = exp(more_lse[row] - lse[row]), total = 1.0 + sign * share;
        if (lse[row] == -(double)INFINITY || more_lse[row] == -(double)INFINITY)
            continue;
        if (total <= 0.0 || total < 1e-9) { /* nothing is left */
            for (size_t i = row * trial->dim; i < (row + 1) * trial->dim; i++)
                out[i] = 0.0;
            lse[row] = -(double)INFINITY;
            continue;
        }
        for (size_t i = row * trial->dim; i < (row + 1) * trial->dim; i++)
            out[i] = (out[i] + sign * share * more_out[i]) / total;
        lse[row] += log(total);
    }
}

/* Queries of one entry that see the same keys. */
typedef struct run_of_queries {
    size_t b, first, count, seen;
} run_of_queries;

enum { MAX_RUNS = 64 };

/* Returns how many there are; 0: more than MAX_RUNS, whose ends are not searched. */
static size_t runs_of(const fb_attention_problem *p, run_of_queries *runs) {
    size_t count = 0;
    for (size_t b = 0; b < p->batch; b++)
        for (size_t query = 0; query < p->queries; query++) {
            size_t seen = fb_attention_problem_seen(p, b, query);
            if (query > 0 && runs[count - 1].seen == seen) {
                runs[count - 1].count++;
                continue;
            }
            if (count == MAX_RUNS)
                return 0;
            runs[count++] = (run_of_queries){b, query, 1, seen};
        }
    return count;
}

/* The last `n` keys that each query sees, as a part: all of them where it sees fewer. index: [n] */
static fb_status attend_last(const fb_attention_problem *p, size_t n, size_t *index, double *out,
                             double *lse) {
    run_of_queries runs[MAX_RUNS];
    size_t count = runs_of(p, runs);
    for (size_t i = 0; i < count; i++) {
        const run_of_queries *r = &runs[i];
        size_t keys = r->seen < n ? r->seen : n;
        size_t row = (r->b * p->queries + r->first) * p->heads;
        fb_attention_problem part = fb_attention_problem_cut(p, r->b, r->first, r->count);
        part.mask = (fb_mask){0};
        part.key_lengths = NULL;
        for (size_t j = 0; j < keys; j++)
            index[j] = r->seen - keys + j;
        const fb_variant variant = {.key_index = index, .value_index = index, .key_count = keys};
        if (keys == 0)
            for (size_t at = row; at < row + r->count * p->heads; at++)
                lse[at] = -(double)INFINITY;
        else
            FB_TRY(fb_variant_attend(&part, &variant, out + row * p->head_dim, lse + row));
    }
    return FB_OK;
}

/* Whether what is at the ends of this part can be said. */
static bool has_ends(const fb_attention_problem *p, bool last) {
    run_of_queries runs[MAX_RUNS];
    return !last || fb_attention_problem_whole(p) || runs_of(p, runs) > 0;
}

/* The keys that all queries see: the first ones. */
static size_t seen_by_all(const fb_attention_problem *p) {
    size_t least = p->keys;
    for (size_t b = 0; b < p->batch && p->queries > 0; b++) {
        size_t seen = fb_attention_problem_seen(p, b, 0);
        least = seen < least ? seen : least;
    }
    return least;
}

/* What happens to some keys. */
typedef enum end_change { LOST, TWICE, NOT_IN_SUM, NOT_IN_OUTPUT } end_change;

/* A part whose row sum lacks some keys, or whose output does, while the other has them. */
static void halve_keys(const fb_trial *trial, double *out, double *lse, const double *more_out,
                       const double *more_lse, bool in_output) {
    for (size_t row = 0; row < trial->rows; row++) {
        double share = exp(more_lse[row] - lse[row]);
        if (!(share < 1.0 - 1e-9))
            continue;
        for (size_t i = row * trial->dim; i < (row + 1) * trial->dim; i++)
            out[i] = in_output ? out[i] / (1.0 - share) : out[i] - share * more_out[i];
        lse[row] += in_output ? log1p(-share) : 0.0;
    }
}

/* Adds or takes away `n` keys at one end of all external (or internal) parts. */
static fb_status change_end(fb_wrong *w, bool external, bool last, end_change change, size_t n) {
    const fb_trial *trial = w->trial;
    size_t *index = NULL;
    double *more = NULL;
    bool any = false;
    FB_TRY(fb_alloc(n, sizeof *index, "keys", &index));
    fb_status status = fb_alloc(trial->rows * (trial->dim + 1), sizeof *more, "keys", &more);
    for (size_t part = 0; part < trial->num_parts && status == FB_OK; part++) {
        const fb_attention_problem *p = &trial->parts[part].read;
        double *out, *lse;
        if (!is_part(trial, part, external) || !trial->parts[part].known || p->keys < n ||
            (change != TWICE && p->keys == n) || !has_ends(p, last))
            continue;
        bool different = last && !fb_attention_problem_whole(p);
        fb_attention_problem seen = *p;
        seen.mask = (fb_mask){0};
        seen.key_lengths = NULL;
        if (!different && seen_by_all(p) < n)
            continue;
        for (size_t j = 0; j < n; j++)
            index[j] = last ? p->keys - n + j : j;
        const fb_variant variant = {.key_index = index, .value_index = index, .key_count = n};
        double *more_lse = more + trial->rows * trial->dim;
        status = different ? attend_last(p, n, index, more, more_lse)
                           : fb_variant_attend(&seen, &variant, more, more_lse);
        if (status == FB_OK)
            status = fb_wrong_part(w, part, &out, &lse);
        if (status == FB_OK && change >= NOT_IN_SUM)
            halve_keys(trial, out, lse, more, more_lse, change == NOT_IN_SUM);
        else if (status == FB_OK)
            add_keys(trial, out, lse, more, more_lse, change == TWICE ? 1.0 : -1.0);
        any = true;
    }
    fb_free(more);
    fb_free(index);
    fb_wrong_finish(w);
    return status != FB_OK || any ? status : FB_ERROR_UNSUPPORTED;
}

/* `n` keys and values of zeros are read too many: each weighs exp(0). */
static fb_status zeros(fb_wrong *w, bool external, double n) {
    const fb_trial *trial = w->trial;
    bool any = false;
    for (size_t part = 0; part < trial->num_parts; part++) {
        double *out, *lse;
        if (!is_part(trial, part, external) || !trial->parts[part].known)
            continue;
        FB_TRY(fb_wrong_part(w, part, &out, &lse));
        for (size_t row = 0; row < trial->rows; row++) {
            double share = n * exp(-lse[row]);
            if (!isfinite(share))
                continue;
            for (size_t i = row * trial->dim; i < (row + 1) * trial->dim; i++)
                out[i] /= 1.0 + share;
            lse[row] += log1p(share);
        }
        any = true;
    }
    fb_wrong_finish(w);
    return any ? FB_OK : FB_ERROR_UNSUPPORTED;
}

/* The tile whose incomplete end the last n keys of each part are; 0: none that kernels use. */
static size_t tile_of_end(const fb_trial *trial, bool external, size_t n) {
    static const size_t tiles[] = {128, 64, 32, 16};
    for (size_t i = 0; i < sizeof tiles / sizeof tiles[0]; i++) {
        bool fits = true;
        for (size_t part = 0; part < trial->num_parts; part++)
            if (is_part(trial, part, external) && trial->parts[part].known)
                fits = fits && trial->parts[part].right.keys % tiles[i] == n;
        if (fits)
            return tiles[i];
    }
    return 0;
}

static fb_status try_end(fb_filter *f, fb_wrong *w, bool external, bool last, end_change change,
                         size_t n) {
    static const char *const done[] = {
        "left out", "read twice", "not in the row sum, but in the output",
        "in the row sum, but not in the output: their values are zeros, or not added"};
    char words[300], number[24] = "";
    const char *keys = !w->trial->script ? "key" : external ? "external key" : NULL;
    fb_wrong_reset(w);
    fb_status status = change_end(w, external, last, change, n);
    if (status == FB_ERROR_UNSUPPORTED)
        return FB_OK;
    FB_TRY(status);
    if (n > 1)
        snprintf(number, sizeof number, "%zu ", n);
    if (keys)
        snprintf(words, sizeof words, "the %s %s%s%s %s", last ? "last" : "first", number, keys,
                 n == 1 ? " is" : "s are", done[change]);
    else
        snprintf(words, sizeof words, "the %s %sof the block's own keys %s %s",
                 last ? "last" : "first", number, n == 1 ? "is" : "are", done[change]);
    const fb_attention_problem *p = &w->trial->parts[0].read;
    bool different = last && !fb_attention_problem_whole(p);
    size_t used = strlen(words), tile = 0;
    if (last && !different)
        tile = tile_of_end(w->trial, external, n);
    if (different)
        snprintf(words + used, sizeof words - used, ": the last of those that each %s",
                 p->mask.kind == FB_MASK_NONE ? "sequence has" : "query sees");
    if (tile && n > 1 && change != NOT_IN_OUTPUT)
        snprintf(words + used, sizeof words - used, ": those after the last whole tile of %zu",
                 tile);
    fb_filter_try(f, w, words);
    return FB_OK;
}

static fb_status try_zeros(fb_filter *f, fb_wrong *w, bool external, size_t n) {
    char words[300];
    fb_wrong_reset(w);
    fb_status status = zeros(w, external, (double)n);
    if (status == FB_ERROR_UNSUPPORTED)
        return FB_OK;
    FB_TRY(status);
    snprintf(words, sizeof words,
             "%zu %s of zeros %s read after the %s: a tail that is not masked?", n,
             n == 1 ? "key" : "keys", n == 1 ? "is" : "are",
             !w->trial->script ? "keys"
             : external        ? "context"
                               : "block's own keys");
    fb_filter_try(f, w, words);
    return FB_OK;
}

/* A page table that is one page off: the first page is read twice and the last one is not read
 * (back), or the first one is not read and zeros are read after the last (on). */
static fb_status try_page_table(fb_filter *f, fb_wrong *w, size_t page, bool back) {
    char words[300];
    fb_wrong_reset(w);
    fb_status status = change_end(w, true, false, back ? TWICE : LOST, page);
    if (status == FB_OK)
        status = back ? change_end(w, true, true, LOST, page) : zeros(w, true, (double)page);
    if (status == FB_ERROR_UNSUPPORTED)
        return FB_OK;
    FB_TRY(status);
    if (back)
        snprintf(words, sizeof words,
                 "the page table is off by one page: a page of %zu reads the one before it, so "
                 "that the first keys are read twice and the last are left out",
                 page);
    else
        snprintf(words, sizeof words,
                 "the page table is off by one page: a page of %zu reads the one after it, so that "
                 "the first %zu %skeys are left out, and zeros are read after the last",
                 page, page, w->trial->script ? "external " : "");
    fb_filter_try(f, w, words);
    return FB_OK;
}

/* A causal mask over the external keys: of n queries, number i does not see the last n - 1 - i
 * keys, which are taken away; or it sees the first i + 1 only (top_left). */
static fb_status mask_causally(const fb_trial *trial, const fb_attention_problem *p, bool top_left,
                               double *out, double *lse) {
    size_t n = p->queries - 1, *index = NULL;
    double *more = NULL;
    if (top_left) {
        fb_attention_problem masked = *p;
        masked.mask = (fb_mask){FB_MASK_BLOCK_CAUSAL, 1, 0, 0};
        return fb_variant_attend(&masked, NULL, out, lse);
    }
    FB_TRY(fb_alloc(n, sizeof *index, "keys", &index));
    fb_status status = fb_alloc(trial->rows * (trial->dim + 1), sizeof *more, "keys", &more);
    for (size_t i = 0; i <= n && status == FB_OK; i++) {
        fb_attention_problem one = fb_attention_problem_cut(p, 0, i, 1);
        double *more_lse = more + trial->rows * trial->dim + i * p->heads;
        for (size_t j = 0; j < n - i; j++)
            index[j] = p->keys - (n - i) + j;
        const fb_variant variant = {.key_index = index, .value_index = index, .key_count = n - i};
        for (size_t head = 0; i == n && head < p->heads; head++)
            more_lse[head] = -(double)INFINITY;
        if (i < n)
            status = fb_variant_attend(&one, &variant, more + i * p->heads * trial->dim, more_lse);
    }
    if (status == FB_OK)
        add_keys(trial, out, lse, more, more + trial->rows * trial->dim, -1.0);
    fb_free(more);
    fb_free(index);
    return status;
}

static fb_status try_causal(fb_filter *f, fb_wrong *w, bool top_left) {
    const fb_trial *trial = w->trial;
    fb_wrong_reset(w);
    for (size_t part = 0; part < trial->num_parts; part++) {
        const fb_attention_problem *p = &trial->parts[part].read;
        double *out, *lse;
        if (!is_part(trial, part, true) || !trial->parts[part].known)
            continue;
        if (!fb_attention_problem_whole(p) || p->batch > 1 || p->keys < p->queries ||
            p->queries < 2)
            return FB_OK;
        FB_TRY(fb_wrong_part(w, part, &out, &lse));
        FB_TRY(mask_causally(trial, p, top_left, out, lse));
    }
    fb_wrong_finish(w);
    fb_filter_try(f, w,
                  top_left ? "a causal mask is applied to the external keys (aligned top left): "
                             "all queries of the block see all of them"
                           : "a causal mask is applied to the external keys (aligned bottom "
                             "right): all queries of the block see all of them");
    return FB_OK;
}

/* How many zeros the LSEs tell of, or else the outputs: found by a few steps. */
static double count_zeros(const fb_filter *f, fb_wrong *w, bool external) {
    const fb_trial *trial = f->trial;
    double n = 0.0;
    bool has_lse = false;
    for (size_t i = 0; i < trial->num_tensors; i++)
        has_lse = has_lse || (trial->tensors[i].value && trial->tensors[i].lse);
    for (int step = 0; step < 12; step++) {
        double ed = 0.0, dd = 0.0, unit = 1e-4 * (n + 1.0);
        fb_wrong_reset(w);
        if (zeros(w, external, n + unit) != FB_OK)
            return 0.0;
        for (size_t i = 0; i < trial->num_tensors; i++) {
            const fb_trial_tensor *t = &trial->tensors[i];
            for (size_t at = 0; t->value && w->result[i] && at < t->count; at++)
                if (t->usable[at] && (t->lse || !has_lse)) {
                    double sigma = t->sigma[at] * f->scale[i];
                    double d = (w->result[i][at] - t->truth[at]) / sigma;
                    ed += d * t->error[at] / sigma;
                    dd += d * d;
                }
        }
        if (!(dd > 0.0))
            return 0.0;
        double next = (n + unit) * (ed / dd);
        next = next < 0.0 ? 0.0 : next > 1e6 ? 1e6 : next;
        if (fabs(next - n) < 1e-3 * (n + 1e-3))
            return next;
        n = next;
    }
    return n;
}

fb_status fb_try_ends(fb_filter *f, fb_wrong *w) {
    static const size_t counts[] = {1,   2,   3,   4,   5,   6,   7,   8,   9,   10,  11,   12,
                                    13,  14,  15,  16,  17,  20,  24,  28,  31,  32,  33,   40,
                                    48,  56,  60,  63,  64,  65,  80,  96,  100, 112, 127,  128,
                                    129, 160, 192, 224, 240, 255, 256, 257, 384, 512, 1024, 2048};
    size_t keys = w->trial->parts[0].right.keys, extra[3] = {keys % 16, keys % 64, keys % 128};
    size_t num = sizeof counts / sizeof counts[0];
    for (size_t end = 0; end < 4; end++)
        for (size_t i = 0; i < num + 3; i++) {
            size_t n = i < num ? counts[i] : extra[i - num];
            if (n && (end < 2 || n <= 16 || n == 64 || n == 128 || n == 256))
                FB_TRY(try_end(f, w, true, end % 2 == 0, end < 2 ? LOST : TWICE, n));
        }
    static const size_t tails[] = {1, 16, 32, 64, 128};
    for (size_t i = 0; i < sizeof tails / sizeof tails[0] + 3; i++) {
        size_t n = i < sizeof tails / sizeof tails[0] ? tails[i] : extra[i - 5];
        for (end_change change = NOT_IN_SUM; n && change <= NOT_IN_OUTPUT; change++)
            FB_TRY(try_end(f, w, true, true, change, n));
    }
    for (size_t page = 8; page <= 256; page *= 2)
        for (size_t back = 0; back < 2 && fb_attention_problem_whole(&w->trial->parts[0].read);
             back++)
            FB_TRY(try_page_table(f, w, page, back == 1));
    for (size_t top_left = 0; w->trial->script && top_left < 2; top_left++)
        FB_TRY(try_causal(f, w, top_left == 1));
    size_t own = w->trial->script ? w->trial->script->config.block_size : 0;
    for (size_t n = 1; n < own && n <= 8; n++)
        for (size_t end = 0; end < 4; end++)
            FB_TRY(try_end(f, w, false, end % 2 == 0, end < 2 ? LOST : TWICE, n));
    for (size_t external = 0; external < 2; external++) {
        if (!external && !w->trial->script)
            continue;
        double found = round(count_zeros(f, w, external != 0));
        for (size_t i = 0; i < 3; i++) { /* the nearest number first */
            double n = found + (i == 1 ? -1.0 : i == 2 ? 1.0 : 0.0);
            if (n >= 1.0)
                FB_TRY(try_zeros(f, w, external != 0, (size_t)n));
        }
    }
    return FB_OK;
}

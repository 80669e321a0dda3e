/* Keys and values of the external part that are lost, repeated, or read in each other's place,
 * wherever they are. No list of places is tried: the errors are correlated with what each single
 * key adds to the result. A key whose coefficient is -1 is lost, +1 is read twice. */
#include "base/error.h"
#include "base/memory.h"
#include "oracle/known.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_CHANGES = 4, MAX_ENDS = 12, LANES = 8, SOME_ROWS = 32 };

/* A change of the keys that are read. */
typedef struct change {
    bool twice; /* or lost */
    size_t begin, end;
} change;

/* What is read of one part, in order. Tokens, or SIZE_MAX for zeros. */
typedef struct reading {
    size_t count, *key, *value;
} reading;

/* The tensors of a part whose errors say most, and what each key adds to them. */
typedef struct spectrum {
    const fb_trial *trial;
    const fb_trial_part *part;
    const fb_trial_tensor *out, *lse; /* lse: NULL if it is not given */
    size_t keys, rows;                /* rows: the first ones, that are looked at */
    size_t only;                      /* the KV head whose rows count; SIZE_MAX: all */
    double *p;                        /* [rows][keys] weights in the tensor, of the right keys */
    double *h;       /* [rows][keys] sum over channels of error x value / sigma^2 */
    double *e;       /* [rows][dim] */
    double *inverse; /* [dim] 1 / sigma of a row */
    double *gain_lost, *gain_twice, *gain_value; /* [keys]; value: another key's weight takes it */
    double *memory;
} spectrum;

/* --- the spectrum ----------------------------------------------------------------------------- */

static double dot(const double *a, const float *b, size_t dim) {
    double sums[LANES] = {0}, sum = 0.0;
    size_t d = 0;
    for (; d + LANES <= dim; d += LANES)
        for (size_t i = 0; i < LANES; i++)
            sums[i] += a[d + i] * (double)b[d + i];
    for (; d < dim; d++)
        sum += a[d] * (double)b[d];
    for (size_t i = 0; i < LANES; i++)
        sum += sums[i];
    return sum;
}

static const float *token_of(const spectrum *s, const float *base, size_t row, size_t key) {
    const fb_attention_problem *p = &s->part->read;
    size_t head = row % p->heads / (p->heads / p->kv_heads), b = row / (p->heads * p->queries);
    return base + ((b * p->keys + key) * p->kv_heads + head) * p->head_dim;
}

/* The keys that a row sees: the first ones. */
static size_t seen_by(const spectrum *s, size_t row) {
    const fb_attention_problem *p = &s->part->read;
    size_t token = row / p->heads;
    return fb_attention_problem_seen(p, token / p->queries, token % p->queries);
}

/* The weights of the right keys in the tensor: 0 of keys that a row does not see. */
static fb_status find_weights(const spectrum *s) {
    const fb_attention_problem *p = &s->part->read;
    double *q = NULL;
    FB_TRY(fb_alloc(p->head_dim, sizeof *q, "known mistakes", &q));
    for (size_t row = 0; row < s->rows; row++) {
        for (size_t d = 0; d < p->head_dim; d++)
            q[d] = p->scale * (double)p->q[row * p->head_dim + d];
        size_t seen = seen_by(s, row);
        memset(s->p + row * s->keys, 0, s->keys * sizeof *s->p);
        memset(s->h + row * s->keys, 0, s->keys * sizeof *s->h);
        for (size_t j = 0; j < seen; j++)
            s->p[row * s->keys + j] =
                s->out->weight[row] *
                exp(dot(q, token_of(s, p->k, row, j), p->head_dim) - s->part->m.lse[row]);
    }
    fb_free(q);
    return FB_OK;
}

/* What is left of a row's error, of outputs that are not divided yet, if the results were `wrong`:
 * z (o' - o) = sum of what is read too much x (v - o). */
static void load_row(const spectrum *s, size_t row, const double *out, const double *lse) {
    size_t dim = s->trial->dim;
    double z = 1.0;
    if (s->lse && s->lse->usable[row])
        z = exp(s->lse->value[row] - lse[row]);
    if (!(z > 1e-3 && z < 1e3))
        z = 1.0;
    for (size_t d = 0; d < dim; d++) {
        size_t at = row * dim + d;
        double left = s->out->usable[at] ? z * (s->out->value[at] - out[at]) : 0.0;
        s->e[at] = left / (s->out->sigma[at] * s->out->sigma[at]);
    }
}

static bool counts(const spectrum *s, size_t row) {
    const fb_attention_problem *p = &s->part->read;
    return s->only == SIZE_MAX || row % p->heads / (p->heads / p->kv_heads) == s->only;
}

/* How much would be explained if a key were lost, or read twice. */
static void find_gains(const spectrum *s, const double *out, const double *lse,
                       const double *true_lse) {
    size_t dim = s->trial->dim, rows = s->rows;
    memset(s->gain_lost, 0, 3 * s->keys * sizeof *s->gain_lost);
    for (size_t row = 0; row < rows; row++) {
        if (!counts(s, row))
            continue;
        load_row(s, row, out, lse);
        const double *e = s->e + row * dim, *o = out + row * dim;
        const double *sigma = s->out->sigma + row * dim;
        double e_o = 0.0, fewer = exp(true_lse[row] - lse[row]);
        for (size_t d = 0; d < dim; d++) {
            e_o += e[d] * o[d];
            s->inverse[d] = 1.0 / sigma[d];
        }
        size_t seen = isfinite(fewer) ? seen_by(s, row) : 0;
        for (size_t j = 0; j < seen; j++) {
            const float *v = token_of(s, s->part->read.v, row, j);
            double p = s->p[row * s->keys + j] * fewer, square = 0.0;
            double h = dot(e, v, dim);
            for (size_t d = 0; d < dim; d++) {
                double x = ((double)v[d] - o[d]) * s->inverse[d];
                square += x * x;
            }
            s->h[row * s->keys + j] = h;
            double n = p * (h - e_o), dd = p * p * square;
            s->gain_lost[j] += -2.0 * n - dd;
            s->gain_twice[j] += 2.0 * n - dd;
            s->gain_value[j] += -2.0 * n - 0.4 * dd;
        }
    }
}

static fb_status begin(const fb_trial *trial, size_t part, const fb_trial_tensor *out, size_t rows,
                       spectrum *s) {
    *s = (spectrum){.trial = trial, .part = &trial->parts[part], .out = out, .only = SIZE_MAX};
    s->keys = s->part->read.keys;
    s->rows = rows;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (t->value && t->lse && t->pass == out->pass && t->internal == out->internal)
            s->lse = t;
    }
    FB_TRY(fb_alloc(2 * rows + 3, s->keys * sizeof(double), "known mistakes", &s->p));
    s->memory = s->p;
    s->h = s->p + rows * s->keys;
    s->gain_lost = s->h + rows * s->keys;
    s->gain_twice = s->gain_lost + s->keys;
    s->gain_value = s->gain_twice + s->keys;
    fb_status status = fb_alloc((rows + 1) * trial->dim, sizeof(double), "known mistakes", &s->e);
    if (status == FB_OK) {
        s->inverse = s->e + rows * trial->dim;
        status = find_weights(s);
    }
    return status;
}

static void end(spectrum *s) {
    fb_free(s->memory);
    fb_free(s->e);
}

/* The run of keys with the largest sum. */
static double best_run(const double *gain, size_t keys, size_t *begin_at, size_t *end_at) {
    double best = 0.0, sum = 0.0;
    size_t first = 0;
    *begin_at = *end_at = 0;
    for (size_t j = 0; j < keys; j++) {
        if (sum <= 0.0) {
            sum = 0.0;
            first = j;
        }
        sum += gain[j];
        if (sum > best) {
            best = sum;
            *begin_at = first;
            *end_at = j + 1;
        }
    }
    return best;
}

/* --- what is read ----------------------------------------------------------------------------- */

static fb_status reading_create(size_t keys, reading *r) {
    size_t room = keys * (MAX_CHANGES + 1) + 1;
    FB_TRY(fb_alloc(2 * room, sizeof *r->key, "keys", &r->key));
    r->value = r->key + room;
    return FB_OK;
}

static void read_changed(reading *r, size_t keys, const change *changes, size_t count) {
    r->count = 0;
    for (size_t j = 0; j < keys; j++) {
        size_t times = 1;
        for (size_t i = 0; i < count; i++)
            if (j >= changes[i].begin && j < changes[i].end)
                times = changes[i].twice ? times + 1 : times ? times - 1 : 0;
        for (size_t i = 0; i < times; i++) {
            r->key[r->count] = j;
            r->value[r->count++] = j;
        }
    }
}

/* --- words ------------------------------------------------------------------------------------ */

static const char *kind_of_keys(const fb_trial *trial) {
    return trial->script ? "external " : "";
}

/* "the last 4 external keys", "keys 64 to 127", "key 77" */
static void say_keys(const fb_trial *trial, size_t keys, size_t begin_at, size_t end_at, char *text,
                     size_t size) {
    size_t n = end_at - begin_at;
    /* where queries see different numbers of keys, the last one is not the same of all */
    bool last = end_at == keys && fb_attention_problem_whole(&trial->parts[0].read);
    bool first = begin_at == 0;
    const char *kind = kind_of_keys(trial);
    if ((first || last) && n == 1)
        snprintf(text, size, "the %s %skey", first ? "first" : "last", kind);
    else if (first || last)
        snprintf(text, size, "the %s %zu %skeys", first ? "first" : "last", n, kind);
    else if (n == 1)
        snprintf(text, size, "key %zu", begin_at);
    else
        snprintf(text, size, "keys %zu to %zu", begin_at, end_at - 1);
}

static size_t page_of(size_t n) {
    size_t page = 1;
    while (page < 256 && n % (2 * page) == 0)
        page *= 2;
    return page >= 4 ? page : 0;
}

/* "are left out"; where a whole page or the rest of a tile is lost, it is said. */
static void say_lost(const fb_trial *trial, size_t keys, const change *c, char *words,
                     size_t size) {
    char which[120];
    size_t n = c->end - c->begin, page = page_of(n);
    say_keys(trial, keys, c->begin, c->end, which, sizeof which);
    int used = snprintf(words, size, "%s %s %s", which, n == 1 ? "is" : "are",
                        c->twice ? "read twice" : "left out");
    if (used < 0 || (size_t)used >= size || n == 1)
        return;
    for (size_t tile = 16; !c->twice && c->end == keys && tile <= 256; tile *= 2)
        if (keys % tile == n) {
            snprintf(words + used, size - (size_t)used, ": those after the last whole tile of %zu",
                     tile);
            return;
        }
    if (page && c->begin % page == 0 && c->begin > 0 && c->end < keys)
        snprintf(words + used, size - (size_t)used, ": a tile or page is %s",
                 c->twice ? "repeated" : "lost");
}

/* One run is lost and another is read twice: a page is read in place of another. */
static bool say_replaced(const fb_trial *trial, size_t keys, const change *changes, size_t count,
                         char *words, size_t size) {
    char lost[120], read[120];
    if (count != 2 || changes[0].twice == changes[1].twice)
        return false;
    const change *gone = changes[0].twice ? &changes[1] : &changes[0];
    const change *more = changes[0].twice ? &changes[0] : &changes[1];
    size_t n = gone->end - gone->begin;
    bool back = more->begin == 0 && gone->end == keys, on = gone->begin == 0 && more->end == keys;
    if (back || on) {
        snprintf(words, size,
                 "the page table is off by one page: a page of %zu reads the one %s it, so that "
                 "the %s keys are read twice and the %s are left out",
                 back ? more->end : gone->end, back ? "before" : "after", back ? "first" : "last",
                 back ? "last" : "first");
        return true;
    }
    say_keys(trial, keys, gone->begin, gone->end, lost, sizeof lost);
    say_keys(trial, keys, more->begin, more->end, read, sizeof read);
    if (n == more->end - more->begin)
        snprintf(words, size, "%s are read in place of %s: a wrong entry of the page table?", read,
                 lost);
    else
        snprintf(words, size, "%s are read twice and %s are left out", read, lost);
    return true;
}

/* Runs of one kind that touch become one. Returns how many there are. */
static size_t join(const change *changes, size_t count, change *joined) {
    size_t made = 0;
    for (size_t i = 0; i < count; i++) {
        change c = changes[i];
        for (size_t j = 0; j < made;) {
            bool touch = joined[j].twice == c.twice &&
                         (joined[j].begin == c.end || joined[j].end == c.begin);
            if (!touch) {
                j++;
                continue;
            }
            c.begin = joined[j].begin < c.begin ? joined[j].begin : c.begin;
            c.end = joined[j].end > c.end ? joined[j].end : c.end;
            joined[j] = joined[--made];
            j = 0;
        }
        joined[made++] = c;
    }
    return made;
}

static void say(const fb_trial *trial, size_t keys, const change *changes, size_t count,
                char *words, size_t size) {
    if (say_replaced(trial, keys, changes, count, words, size))
        return;
    size_t used = 0;
    for (size_t i = 0; i < count && used < size; i++) {
        char one[200];
        say_lost(trial, keys, &changes[i], one, sizeof one);
        used += (size_t)snprintf(words + used, size - used, "%s%s", i ? "; " : "", one);
    }
}

/* --- trying ----------------------------------------------------------------------------------- */

/* All external parts read so. */
static fb_status attend_all(fb_wrong *w, const reading *r) {
    const fb_variant variant = {
        .key_index = r->key,
        .value_index = r->value,
        .key_count = r->count,
        .by_token = !fb_attention_problem_whole(&w->trial->parts[0].read),
    };
    fb_wrong_reset(w);
    for (size_t part = 0; part < w->trial->num_parts; part++) {
        double *out, *lse;
        if (!fb_trial_uses(w->trial, part, FB_EXTERNAL))
            continue;
        FB_TRY(fb_wrong_part(w, part, &out, &lse));
        FB_TRY(fb_variant_attend(&w->trial->parts[part].read, &variant, out, lse));
    }
    fb_wrong_finish(w);
    return FB_OK;
}

static fb_status try_changes(fb_filter *f, fb_wrong *w, const change *changes, size_t count,
                             reading *r, double *score) {
    char words[380];
    size_t keys = w->trial->parts[0].read.keys;
    read_changed(r, keys, changes, count);
    *score = 0.0;
    if (r->count == 0)
        return FB_OK;
    FB_TRY(attend_all(w, r));
    change joined[MAX_CHANGES];
    size_t number = join(changes, count, joined);
    say(w->trial, keys, joined, number, words, sizeof words);
    *score = fb_filter_try(f, w, words);
    return FB_OK;
}

/* A run's ends are not sharp where keys weigh little: rounder numbers are tried, too. */
static size_t candidates_near(size_t at, size_t keys, size_t *list) {
    size_t count = 0;
    list[count++] = at;
    for (size_t round = 256; round >= 4; round /= 2) {
        size_t low = at / round * round, high = low + round;
        if (at - low <= round / 4 + 2 && low != at && count < MAX_ENDS)
            list[count++] = low;
        if (high - at <= round / 4 + 2 && high <= keys && count < MAX_ENDS)
            list[count++] = high;
    }
    if (keys - at <= 8 && at != keys && count < MAX_ENDS)
        list[count++] = keys;
    return count;
}

/* Moves both ends of one of the changes to where all of them explain most. */
static fb_status sharpen(fb_filter *f, fb_wrong *w, change *changes, size_t count, size_t which,
                         reading *r, double *score) {
    size_t keys = w->trial->parts[0].read.keys, list[MAX_ENDS];
    change *c = &changes[which];
    for (size_t side = 0; side < 2; side++) {
        size_t *moved = side ? &c->end : &c->begin, best = *moved;
        size_t number = candidates_near(*moved, keys, list);
        for (size_t i = 0; i < number; i++) {
            double found;
            *moved = list[i];
            if (c->begin >= c->end)
                continue;
            FB_TRY(try_changes(f, w, changes, count, r, &found));
            if (found > *score + (i ? 1e-4 : -1.0)) {
                *score = found;
                best = list[i];
            }
        }
        *moved = best;
    }
    return FB_OK;
}

/* Values of some keys are those of others, `shift` further on: found from the diagonals. */
static double diagonal(const spectrum *s, size_t begin_at, size_t end_at, ptrdiff_t shift) {
    double sum = 0.0;
    for (size_t row = 0; row < s->rows; row++)
        for (size_t j = begin_at; counts(s, row) && j < end_at; j++) {
            ptrdiff_t other = (ptrdiff_t)j + shift;
            if (other >= 0 && (size_t)other < s->keys)
                sum += s->p[row * s->keys + j] * s->h[row * s->keys + (size_t)other];
        }
    return sum;
}

static fb_status try_exchanged(fb_filter *f, fb_wrong *w, const spectrum *s, const change *lost,
                               reading *r) {
    char words[300];
    ptrdiff_t best = 0;
    double most = 0.0;
    size_t n = lost->end - lost->begin;
    for (ptrdiff_t shift = -(ptrdiff_t)lost->begin;
         shift + (ptrdiff_t)lost->end <= (ptrdiff_t)s->keys; shift++) {
        double found = shift ? diagonal(s, lost->begin, lost->end, shift) : 0.0;
        if (found > most) {
            most = found;
            best = shift;
        }
    }
    if (!best)
        return FB_OK;
    size_t other = (size_t)((ptrdiff_t)lost->begin + best);
    for (size_t both = 0; both < 2; both++) {
        read_changed(r, s->keys, NULL, 0);
        for (size_t i = 0; i < n; i++) {
            r->value[lost->begin + i] = other + i;
            if (both)
                r->value[other + i] = lost->begin + i;
        }
        FB_TRY(attend_all(w, r));
        snprintf(
            words, sizeof words,
            both ? "pages are swapped in K or in V, not in both: keys %zu to %zu have the values "
                   "of %zu to %zu, and the other way round"
                 : "keys %zu to %zu have the values of %zu to %zu: a page of V is another's",
            lost->begin, lost->end - 1, other, other + n - 1);
        fb_filter_try(f, w, words);
    }
    return FB_OK;
}

/* The values of a run have lost their weights, and others have them. The ends of the run are not
 * sharp: rounder ones are tried, too. */
static fb_status try_exchanges(fb_filter *f, fb_wrong *w, const spectrum *s, reading *r) {
    change lost = {0};
    if (best_run(s->gain_value, s->keys, &lost.begin, &lost.end) <= 0.0)
        return FB_OK;
    FB_TRY(try_exchanged(f, w, s, &lost, r));
    for (size_t round = 4; round <= 256; round *= 2) {
        change rounder = {false, (lost.begin + round / 2) / round * round,
                          (lost.end + round / 2) / round * round};
        if (rounder.begin >= rounder.end || rounder.end > s->keys)
            continue;
        if (rounder.begin != lost.begin || rounder.end != lost.end)
            FB_TRY(try_exchanged(f, w, s, &rounder, r));
        /* neighbours that are exchanged are one run */
        rounder.end = rounder.begin + (rounder.end - rounder.begin) / 2;
        if (rounder.end > rounder.begin)
            FB_TRY(try_exchanged(f, w, s, &rounder, r));
    }
    /* so are pages that are not far from each other: one page at either end */
    for (size_t page = 8; page <= 256 && f->best.share < 0.9; page *= 2) {
        size_t at = (lost.begin + page / 2) / page * page;
        if (lost.end - lost.begin > page && at + page <= s->keys)
            FB_TRY(try_exchanged(f, w, s, &(change){false, at, at + page}, r));
    }
    return FB_OK;
}

/* The largest run that is lost, or read twice. */
static bool find_change(const spectrum *s, change *c) {
    size_t begins[2], ends[2];
    double lost = best_run(s->gain_lost, s->keys, &begins[0], &ends[0]);
    double twice = best_run(s->gain_twice, s->keys, &begins[1], &ends[1]);
    if (lost <= 0.0 && twice <= 0.0)
        return false;
    size_t which = twice > lost;
    *c = (change){which == 1, begins[which], ends[which]};
    return true;
}

/* As many zeros are read behind the keys as keys are lost: a page table that is one page off. */
static fb_status try_zeros(fb_filter *f, fb_wrong *w, const change *changes, size_t count,
                           reading *r) {
    char words[380], lost[200];
    size_t keys = w->trial->parts[0].read.keys;
    const change *c = &changes[0];
    if (count != 1 || c->twice || !fb_attention_problem_whole(&w->trial->parts[0].read))
        return FB_OK;
    read_changed(r, keys, changes, count);
    for (size_t i = c->begin; i < c->end; i++) {
        r->key[r->count] = SIZE_MAX;
        r->value[r->count++] = SIZE_MAX;
    }
    FB_TRY(attend_all(w, r));
    say_keys(w->trial, keys, c->begin, c->end, lost, sizeof lost);
    if (c->begin == 0)
        snprintf(words, sizeof words,
                 "the page table is off by one page: a page of %zu reads the one after it, so that "
                 "%s are left out, and zeros are read after the last",
                 c->end, lost);
    else
        snprintf(words, sizeof words,
                 "%s are zeros: not written, or a wrong entry of the page table?", lost);
    fb_filter_try(f, w, words);
    return FB_OK;
}

/* Results of the tensor under the changes that were found so far. */
static const double *result_of(const fb_wrong *w, const fb_trial_tensor *t) {
    size_t index = (size_t)(t - w->trial->tensors);
    return w->result[index] ? w->result[index] : t->truth;
}

static fb_status pursue(fb_filter *f, fb_wrong *w, spectrum *s, reading *r) {
    change changes[MAX_CHANGES];
    double before = 0.0;
    fb_wrong_reset(w);
    for (size_t count = 0; count < MAX_CHANGES;) {
        double score = 0.0;
        const double *lse = s->lse ? result_of(w, s->lse) : s->part->m.lse;
        find_gains(s, result_of(w, s->out), lse, s->lse ? s->lse->truth : s->part->m.lse);
        if (!find_change(s, &changes[count]))
            break;
        if (count == 0)
            FB_TRY(try_exchanges(f, w, s, r));
        count++;
        FB_TRY(sharpen(f, w, changes, count, count - 1, r, &score));
        if (count > 1 && score < before + 0.02)
            break;
        if (count == 2 && f->best.share < 0.98) /* the first one's ends were found without it */
            FB_TRY(sharpen(f, w, changes, count, 0, r, &score));
        before = score;
        if (f->best.share > 0.98)
            break;
        if (f->best.share < 0.9)
            FB_TRY(try_zeros(f, w, changes, count, r));
        FB_TRY(try_changes(f, w, changes, count, r, &score)); /* w is what was found */
    }
    return FB_OK;
}

/* --- shifted values --------------------------------------------------------------------------- */

static fb_status try_shift(fb_filter *f, fb_wrong *w, ptrdiff_t by, reading *r) {
    char words[200];
    size_t keys = w->trial->parts[0].read.keys, n = (size_t)(by < 0 ? -by : by);
    for (size_t turn = 0; turn < 3; turn++) { /* the end wraps, repeats, or is zeros */
        r->count = keys;
        for (size_t j = 0; j < keys; j++) {
            bool in = by > 0 ? j + n < keys : j >= n;
            size_t wrapped = by > 0 ? (j + n) % keys : (j + keys - n) % keys;
            r->key[j] = j;
            r->value[j] = in || turn == 0 ? wrapped
                          : turn == 1     ? (by > 0 ? keys - 1 : 0)
                                          : SIZE_MAX;
        }
        FB_TRY(attend_all(w, r));
        snprintf(words, sizeof words,
                 "values are shifted against keys: key j has the value of j %c "
                 "%zu",
                 by > 0 ? '+' : '-', n);
        fb_filter_try(f, w, words);
    }
    return FB_OK;
}

/* Values are shifted by a page, or stretched: the rows of V are as wide as those of Q. */
static fb_status try_shifts(fb_filter *f, fb_wrong *w, const spectrum *s, reading *r) {
    static const ptrdiff_t shifts[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};
    double most = 0.0, size = 0.0;
    ptrdiff_t best = 0;
    for (size_t i = 0; i < 2 * (sizeof shifts / sizeof shifts[0]); i++) {
        ptrdiff_t by = i % 2 ? -shifts[i / 2] : shifts[i / 2];
        double found = (size_t)shifts[i / 2] < s->keys ? diagonal(s, 0, s->keys, by) : 0.0;
        size += fabs(found);
        if (found > most) {
            most = found;
            best = by;
        }
    }
    if (best && most > 0.3 * size)
        FB_TRY(try_shift(f, w, best, r));
    size_t group = s->part->read.heads / s->part->read.kv_heads;
    for (size_t turn = 0; group > 1 && turn < 2; turn++) {
        r->count = s->keys;
        for (size_t j = 0; j < s->keys; j++) {
            size_t at = j * group;
            r->key[j] = j;
            r->value[j] = at < s->keys ? at : turn ? at % s->keys : SIZE_MAX;
        }
        FB_TRY(attend_all(w, r));
        fb_filter_try(f, w,
                      "the stride between rows of V is that of the query heads: token j's values "
                      "are read at j * num_heads, not at j * num_kv_heads");
    }
    return FB_OK;
}

/* --- which tensor ----------------------------------------------------------------------------- */

/* An output of a part: the external one itself, or a merge. The one that is furthest off. */
static const fb_trial_tensor *worst_output(const fb_trial *trial) {
    const fb_trial_tensor *worst = NULL;
    double most = 0.0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        double sum = 0.0;
        if (!t->value || t->lse)
            continue;
        for (size_t at = 0; at < t->count; at++)
            sum += t->error[at] * t->error[at] / (t->sigma[at] * t->sigma[at]);
        sum *= t->internal == FB_NO_PART ? 1.0 : 0.3; /* a part itself tells more */
        if (!worst || sum > most) {
            most = sum;
            worst = t;
        }
    }
    return worst;
}

/* The KV head whose rows are furthest off. */
static size_t worst_head(const spectrum *s) {
    const fb_attention_problem *p = &s->part->read;
    size_t worst = 0, dim = s->trial->dim;
    double most = -1.0;
    for (size_t head = 0; head < p->kv_heads; head++) {
        double sum = 0.0;
        for (size_t at = 0; at < s->out->count; at++)
            if (at / dim % p->heads / (p->heads / p->kv_heads) == head)
                sum += s->out->error[at] * s->out->error[at];
        if (sum > most) {
            most = sum;
            worst = head;
        }
    }
    return worst;
}

/* Whether keys of this output can be searched. */
static bool has_spectrum(const fb_trial *trial, const fb_trial_tensor *out) {
    if (!out)
        return false;
    size_t keys = trial->parts[out->external].read.keys;
    return keys >= 2 && (double)keys * (double)trial->rows <= 6e7;
}

/* How much of an output's errors, beside their noise, one run of keys would explain. */
static double share_of_run(const spectrum *s) {
    const fb_trial_tensor *t = s->out;
    size_t first, last;
    double lost = best_run(s->gain_lost, s->keys, &first, &last);
    double twice = best_run(s->gain_twice, s->keys, &first, &last), excess = 0.0;
    for (size_t at = 0; at < s->rows * s->trial->dim; at++)
        if (fb_trial_counts(t, at))
            excess += t->error[at] * t->error[at] / (t->sigma[at] * t->sigma[at]) - 1.0;
    return excess > 0.0 ? fmax(lost, twice) / excess : 0.0;
}

fb_status fb_keys_explain(const fb_trial *trial, bool *explain) {
    const fb_trial_tensor *out = worst_output(trial);
    *explain = false;
    if (!has_spectrum(trial, out))
        return FB_OK;
    spectrum s;
    size_t rows = trial->rows < SOME_ROWS ? trial->rows : SOME_ROWS;
    fb_status status = begin(trial, out->external, out, rows, &s);
    if (status == FB_OK) {
        find_gains(&s, out->truth, s.lse ? s.lse->truth : s.part->m.lse,
                   s.lse ? s.lse->truth : s.part->m.lse);
        *explain = share_of_run(&s) > 0.5;
    }
    end(&s);
    return status;
}

fb_status fb_try_keys(fb_filter *f, fb_wrong *w) {
    const fb_trial *trial = f->trial;
    const fb_trial_tensor *out = worst_output(trial);
    if (!has_spectrum(trial, out))
        return FB_OK;
    size_t keys = trial->parts[out->external].read.keys;
    spectrum s;
    reading r;
    fb_status status = begin(trial, out->external, out, trial->rows, &s);
    if (status != FB_OK) {
        end(&s);
        return status;
    }
    status = reading_create(keys, &r);
    if (status == FB_OK) {
        status = pursue(f, w, &s, &r);
        if (status == FB_OK && f->best.share < 0.9 && s.part->read.kv_heads > 1) {
            s.only = worst_head(&s);
            status = pursue(f, w, &s, &r);
            s.only = SIZE_MAX;
        }
        if (status == FB_OK && f->best.share < 0.9) {
            fb_wrong_reset(w);
            find_gains(&s, out->truth, s.lse ? s.lse->truth : s.part->m.lse,
                       s.lse ? s.lse->truth : s.part->m.lse);
            status = try_shifts(f, w, &s, &r);
        }
        fb_free(r.key);
    }
    end(&s);
    return status;
}

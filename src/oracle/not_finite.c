/* NaN and infinities: they say more than any error. */
#include "oracle/verdict.h"

#include <math.h>
#include <stdio.h>

/* The LSE tensor that belongs to an output, if it is given: NULL if not. */
static const fb_trial_tensor *lse_beside(const fb_trial *trial, const fb_trial_tensor *out) {
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        if (t->value && t->lse && t->pass == out->pass && t->internal == out->internal)
            return t;
    }
    return NULL;
}

/* Whether all keys or values that are there are finite; those after an entry's own are not. */
static bool keys_finite(const fb_attention_problem *p, const float *values) {
    size_t width = p->kv_heads * p->head_dim;
    for (size_t b = 0; b < p->batch; b++) {
        const float *entry = values + b * p->keys * width;
        for (size_t i = 0; i < fb_attention_problem_keys(p, b) * width; i++)
            if (!isfinite(entry[i]))
                return false;
    }
    return true;
}

/* The input of a part that is not finite, as words; NULL: all are. */
static const char *not_finite_input(const fb_trial_part *part) {
    const fb_attention_problem *p = &part->right;
    for (size_t i = 0; i < fb_attention_problem_values(p); i++)
        if (!isfinite(p->q[i]))
            return "the inputs are not all finite: a query is not, and spreads to rows of others";
    if (!keys_finite(p, p->k))
        return "the inputs are not all finite: a key is not, and spreads to rows that do not see "
               "it";
    if (!keys_finite(p, p->v))
        return "the inputs are not all finite: a value is not, and spreads to rows or channels "
               "that do not have it";
    return NULL;
}

/* Rows that are NaN in all channels, or in some; with an LSE that is NaN, -inf, or finite; that see
 * no key; whose keys do not fill a tile of 16, or another query sees more. */
typedef struct nan_rows {
    size_t rows, values, partly, lse_nan, lse_empty, lse_finite, without_keys, with_tail;
} nan_rows;

static bool sees_no_key(const fb_trial *trial, const fb_trial_tensor *t, size_t row) {
    const double empty = -(double)INFINITY;
    return trial->parts[t->external].m.lse[row] == empty &&
           (t->internal == FB_NO_PART || trial->parts[t->internal].m.lse[row] == empty);
}

static bool has_tail(const fb_trial *trial, const fb_trial_tensor *t, size_t row) {
    const fb_attention_problem *p = &trial->parts[t->external].right;
    size_t token = row / trial->heads;
    size_t seen = fb_attention_problem_seen(p, token / trial->tokens, token % trial->tokens);
    return seen % 16 != 0 || seen < p->keys;
}

static nan_rows count_nan(const fb_trial *trial, const fb_trial_tensor *t) {
    nan_rows n = {0};
    size_t width = t->lse ? 1 : trial->dim;
    const fb_trial_tensor *lse = t->lse ? t : lse_beside(trial, t);
    for (size_t row = 0; row < trial->rows; row++) {
        size_t nan = 0;
        for (size_t at = row * width; at < (row + 1) * width; at++)
            nan += isnan(t->value[at]) && !isnan(t->truth[at]);
        if (!nan)
            continue;
        n.rows++;
        n.values += nan;
        n.partly += nan < width;
        n.without_keys += sees_no_key(trial, t, row);
        n.with_tail += has_tail(trial, t, row);
        if (lse && isnan(lse->value[row]))
            n.lse_nan++;
        else if (lse && lse->value[row] == -(double)INFINITY)
            n.lse_empty++;
        else if (lse)
            n.lse_finite++;
    }
    return n;
}

/* Rows of NaN that see no key. */
static const char *empty_reason(const nan_rows *n) {
    if (n->lse_nan)
        return "-inf minus -inf: the maximum of a row without keys, or the LSE of two empty parts "
               "that are merged, is taken away from itself";
    if (n->lse_empty || n->lse_finite)
        return "0/0: a row without keys is divided by its row sum 0";
    return "0/0 of rows without keys, or -inf minus -inf of their maximum: give the LSE, too, to "
           "tell them apart";
}

/* Rows of NaN that see keys, or some of them do. */
static const char *full_reason(const nan_rows *n) {
    if (n->lse_nan && n->with_tail)
        return "-inf minus -inf: the maximum of a tile or split without keys is taken away from "
               "itself; or NaN of a tail of K that was not written is read before it is masked";
    if (n->lse_nan)
        return "-inf minus -inf: the maximum of a tile or split without keys is taken away from "
               "itself";
    if (n->partly)
        return "0 x NaN or infinity in some channels of V: memory that was not written is read, "
               "and its weight 0 does not remove it";
    if (n->lse_empty)
        return "0/0: a row is divided by a row sum of 0, as if it had no keys";
    if (n->lse_finite && n->with_tail)
        return "0 x NaN: the tail of the last tile or page was not written, and a weight of 0 does "
               "not remove it; or 0/0 of an empty split";
    if (n->lse_finite)
        return "0/0: the output of an empty split is divided by its row sum 0, and its weight 0 in "
               "the merge does not remove it";
    return "0/0 of a row or split without keys, -inf minus -inf of its maximum, or 0 x NaN of a "
           "tail that was not written: give the LSE, too, to tell them apart";
}

static const char *nan_reason(const fb_trial *trial, const fb_trial_tensor *t, const nan_rows *n) {
    const char *input = not_finite_input(&trial->parts[t->external]);
    if (!input && t->internal != FB_NO_PART)
        input = not_finite_input(&trial->parts[t->internal]);
    if (input)
        return input;
    return n->without_keys == n->rows ? empty_reason(n) : full_reason(n);
}

/* Values that are numbers where the truth is not one: NaN of the inputs got lost. */
static size_t lost_nan(const fb_trial_tensor *t) {
    size_t lost = 0;
    for (size_t i = 0; i < t->count; i++)
        lost += isnan(t->truth[i]) && !isnan(t->value[i]);
    return lost;
}

static size_t not_finite_lse(const fb_trial_tensor *t, char *words, size_t size) {
    size_t plus = 0, lost = 0, gained = 0;
    for (size_t i = 0; i < t->count; i++) {
        bool empty = t->truth[i] == -(double)INFINITY;
        plus += t->value[i] == (double)INFINITY && t->truth[i] != (double)INFINITY;
        lost += empty && isfinite(t->value[i]);
        gained += !empty && t->value[i] == -(double)INFINITY;
    }
    if (plus)
        snprintf(words, size,
                 "%zu empty rows have an LSE of +inf: the empty part is O = 0, L = -inf", plus);
    else if (lost && gained)
        snprintf(words, size,
                 "-inf is in the wrong slot: %zu rows that see no key have a finite LSE, %zu that "
                 "see keys have -inf",
                 lost, gained);
    else if (lost)
        snprintf(words, size, "%zu rows that see no key have a finite LSE: it should be -inf",
                 lost);
    else if (gained)
        snprintf(words, size,
                 "-inf is in the wrong slot: %zu rows that see keys have an LSE of -inf", gained);
    return plus + lost + gained;
}

size_t fb_trial_not_finite(const fb_trial *trial, size_t tensor, char *words, size_t size) {
    const fb_trial_tensor *t = &trial->tensors[tensor];
    size_t infinite = 0;
    words[0] = '\0';
    if (!t->value)
        return 0;
    nan_rows n = count_nan(trial, t);
    if (n.values) {
        snprintf(words, size, "%zu values are NaN: %s", n.values, nan_reason(trial, t, &n));
        return n.values;
    }
    size_t lost = lost_nan(t);
    if (lost) {
        snprintf(words, size, "%zu values should be NaN: NaN of the inputs is lost", lost);
        return lost;
    }
    if (t->lse)
        return not_finite_lse(t, words, size);
    for (size_t i = 0; i < t->count; i++)
        infinite += isfinite(t->truth[i]) && !isfinite(t->value[i]);
    if (infinite)
        snprintf(words, size, "%zu values are infinite", infinite);
    return infinite;
}

bool fb_find_not_finite(const fb_trial *trial, size_t *tensor, char *words, size_t size) {
    for (*tensor = 0; *tensor < trial->num_tensors; ++*tensor)
        if (fb_trial_not_finite(trial, *tensor, words, size))
            return true;
    return false;
}

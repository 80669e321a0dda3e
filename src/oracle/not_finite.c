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

static bool inputs_finite(const fb_trial_part *part) {
    const fb_attention_problem *p = &part->right;
    const float *inputs[] = {p->q, p->k, p->v};
    size_t kv = p->batch * p->keys * p->kv_heads * p->head_dim;
    size_t counts[] = {fb_attention_problem_values(p), kv, kv};
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < counts[i]; j++)
            if (!isfinite(inputs[i][j]))
                return false;
    return true;
}

/* Rows that are NaN in all channels, or in some; with an LSE that is NaN, -inf, or finite. */
typedef struct nan_rows {
    size_t values, whole, partly, lse_nan, lse_empty, lse_finite;
} nan_rows;

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
        n.values += nan;
        n.whole += nan == width;
        n.partly += nan < width;
        if (lse && isnan(lse->value[row]))
            n.lse_nan++;
        else if (lse && lse->value[row] == -(double)INFINITY)
            n.lse_empty++;
        else if (lse)
            n.lse_finite++;
    }
    return n;
}

static const char *nan_reason(const fb_trial *trial, const fb_trial_tensor *t, const nan_rows *n) {
    size_t keys = trial->parts[t->external].right.keys;
    bool tails = keys % 16 != 0;
    if (!inputs_finite(&trial->parts[t->external]))
        return "the inputs are not all finite";
    if (t->lse || n->lse_nan)
        return "-inf minus -inf: the maximum of a row, tile or split without keys is taken away "
               "from "
               "itself";
    if (n->partly)
        return "0 x NaN or infinity in some channels of V: memory that was not written is read, "
               "and "
               "its weight 0 does not remove it";
    if (n->lse_empty)
        return "0/0: a row without keys is divided by its row sum 0";
    if (n->lse_finite && tails)
        return "0 x NaN: the tail of the last tile or page was not written, and a weight of 0 does "
               "not remove it; or 0/0 of an empty split";
    if (n->lse_finite)
        return "0/0: the output of an empty split is divided by its row sum 0, and its weight 0 in "
               "the merge does not remove it";
    return "0/0 of a row or split without keys, -inf minus -inf of its maximum, or 0 x NaN of a "
           "tail "
           "that was not written: give the LSE, too, to tell them apart";
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
    if (t->lse)
        return not_finite_lse(t, words, size);
    for (size_t i = 0; i < t->count; i++)
        infinite += isfinite(t->truth[i]) && !isfinite(t->value[i]);
    if (infinite)
        snprintf(words, size, "%zu values are infinite", infinite);
    return infinite;
}

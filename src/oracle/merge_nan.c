/* What made NaN of a merge's result. */
#include "oracle/merge_problem.h"

#include <math.h>
#include <stdio.h>

/* Reasons, by what is known of the row and of its LSE in the result. */
typedef enum reason {
    SPREAD,         /* the row's inputs are finite, those of others are not */
    UNWRITTEN,      /* a part of weight 0 is not finite */
    PASSED,         /* the row is b's as it is, and a is not finite */
    COPIED,         /* a is finite, too */
    EMPTY_MINUS,    /* both parts are empty, the LSE is NaN */
    EMPTY_DIVIDED,  /* the LSE is not */
    EMPTY,          /* it is not known */
    ONE_EMPTY_INF,  /* one part is empty, the LSE is NaN */
    ONE_EMPTY_ZERO, /* the LSE is finite */
    ONE_EMPTY,
    TOO_LARGE,
    TOO_SMALL,
    CHANNELS,
    OTHER,
    NUM_REASONS,
} reason;

static const char *const reason_words[NUM_REASONS] = {
    [SPREAD] = "the inputs are not all finite: NaN or infinity of a row spreads to other rows",
    [UNWRITTEN] = "0 x NaN or infinity: the output of a part of weight 0 was not written, and the "
                  "weight does not remove it",
    [PASSED] = "NaN of a cached part that was not written: rows that attend to all keys at once "
               "are given out as they are, not merged",
    [COPIED] = "rows that are given out as they are, not merged, are finite: memory that was not "
               "written is read",
    [EMPTY_MINUS] =
        "-inf minus -inf: the maximum of the LSEs of two empty parts that are merged is "
        "taken away from them",
    [EMPTY_DIVIDED] = "0/0: the outputs of two empty parts that are merged are divided by the sum "
                      "of their weights 0",
    [EMPTY] = "-inf minus -inf, the LSEs of two empty parts that are merged, or 0/0 of their "
              "weights: give the LSE, too, to tell them apart",
    [ONE_EMPTY_INF] = "infinity minus infinity, as where the LSE of an empty part is +inf and not "
                      "-inf",
    [ONE_EMPTY_ZERO] = "0 x NaN: the output of an empty part was not written, and its weight 0 "
                       "does not remove it; or 0/0 made it NaN",
    [ONE_EMPTY] = "0 x NaN of the output of an empty part that was not written, or infinity minus "
                  "infinity of its LSE: give the LSE, too, to tell them apart",
    [TOO_LARGE] = "infinity over infinity: exp of an LSE above 88.7 is infinite in float32, the "
                  "maximum of the two is not taken away first",
    [TOO_SMALL] = "0/0: exp of LSEs below -103.9 is 0 in float32, the maximum of the two is not "
                  "taken away first",
    [CHANNELS] = "0 x NaN or infinity in some channels: memory that was not written is read, and "
                 "its weight 0 does not remove it",
    [OTHER] = "both parts have keys and are finite: memory that was not written is read",
};

static bool all_finite(const float *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return false;
    return true;
}

/* An LSE of -inf is that of an empty part. */
static bool good_lse(float lse) {
    return isfinite(lse) || lse == -INFINITY;
}

/* Whether the parts that the merge takes in all rows are numbers. */
static bool inputs_finite(const fb_merge_problem *m) {
    for (size_t row = 0; row < m->tokens * m->heads; row++) {
        size_t at = row * m->head_dim;
        bool passes = m->passes_b && m->passes_b[row];
        if (!passes && (!good_lse(m->lse_a[row]) || !all_finite(m->out_a + at, m->head_dim)))
            return false;
        if (!good_lse(m->lse_b[row]) || !all_finite(m->out_b + at, m->head_dim))
            return false;
    }
    return true;
}

static bool part_finite(const float *out, const float *lse, const fb_merge_problem *m, size_t row) {
    return good_lse(lse[row]) && all_finite(out + row * m->head_dim, m->head_dim);
}

/* A row whose result is NaN. `lse` is the merged one that was given, or NULL. */
static reason reason_of(const fb_merge_problem *m, bool lse_is_judged, bool partly,
                        const float *lse, size_t row) {
    float a = m->lse_a[row], b = m->lse_b[row];
    bool known = lse && !(m->passes_lse_b && m->passes_lse_b[row]);
    bool is_nan = known && isnan(lse[row]);
    bool a_finite = part_finite(m->out_a, m->lse_a, m, row);
    bool b_finite = part_finite(m->out_b, m->lse_b, m, row);
    const unsigned char *passes = lse_is_judged ? m->passes_lse_b : m->passes_b;
    if (passes && passes[row])
        return a_finite ? COPIED : PASSED;
    if (!a_finite || !b_finite)
        return UNWRITTEN;
    if (a == -INFINITY && b == -INFINITY)
        return !known ? EMPTY : is_nan ? EMPTY_MINUS : EMPTY_DIVIDED;
    if (partly)
        return CHANNELS;
    if (a == -INFINITY || b == -INFINITY)
        return !known ? ONE_EMPTY : is_nan ? ONE_EMPTY_INF : ONE_EMPTY_ZERO;
    if (fmaxf(a, b) > 88.7f)
        return TOO_LARGE;
    return fmaxf(a, b) < -103.9f ? TOO_SMALL : OTHER;
}

/* The reason of the most values that is not said yet; NUM_REASONS: all are. */
static reason next_reason(const size_t *counts) {
    reason most = NUM_REASONS;
    for (reason i = 0; i < NUM_REASONS; i++)
        if (counts[i] && (most == NUM_REASONS || counts[i] > counts[most]))
            most = i;
    return most;
}

void fb_merge_say_nan(const fb_merge_problem *m, bool is_lse, const float *values,
                      const double *truth, const float *lse, char *words, size_t size) {
    size_t width = is_lse ? 1 : m->head_dim, counts[NUM_REASONS] = {0}, used = 0;
    bool finite = inputs_finite(m);
    for (size_t row = 0; row < m->tokens * m->heads; row++) {
        size_t nan = 0;
        for (size_t at = row * width; at < (row + 1) * width; at++)
            nan += isnan(values[at]) && !isnan(truth[at]);
        if (nan == 0)
            continue;
        reason found = reason_of(m, is_lse, nan < width, is_lse ? values : lse, row);
        counts[(found == OTHER || found == COPIED) && !finite ? SPREAD : found] += nan;
    }
    for (size_t said = 0; said < 2; said++) { /* more are rarely made at once */
        reason next = next_reason(counts);
        if (next == NUM_REASONS || used >= size)
            return;
        used += (size_t)snprintf(words + used, size - used, "%s%zu values are NaN: %s",
                                 said ? "; " : "", counts[next], reason_words[next]);
        counts[next] = 0;
    }
}

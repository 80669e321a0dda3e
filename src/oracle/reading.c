#include "oracle/reading.h"

#include "oracle/statistics.h"

#include <math.h>

static bool all_are(const fb_trial *trial, fb_rounding rounding) {
    for (size_t i = 0; i < trial->num_parts; i++) {
        const fb_attention_problem *p = &trial->parts[i].right;
        size_t count = p->batch * p->keys * p->kv_heads * p->head_dim;
        for (size_t j = 0; j < count; j++)
            if (fb_rounded(rounding, p->k[j]) != p->k[j] ||
                fb_rounded(rounding, p->v[j]) != p->v[j])
                return false;
    }
    return true;
}

size_t fb_find_arithmetics(const fb_trial *trial, fb_arithmetic said, fb_arithmetic *list) {
    bool bf16 = false, f16 = false;
    if (said != FB_ARITHMETIC_AUTO) {
        list[0] = said;
        return 1;
    }
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        bf16 = bf16 || (t->value && t->stored == FB_BF16);
        f16 = f16 || (t->value && t->stored == FB_F16);
    }
    if (bf16 || f16) {
        list[0] = bf16 ? FB_ARITHMETIC_BF16 : FB_ARITHMETIC_F16;
        return 1;
    }
    list[0] = FB_ARITHMETIC_F32;
    if (all_are(trial, FB_ROUND_BF16)) {
        list[1] = FB_ARITHMETIC_BF16;
        return 2;
    }
    if (all_are(trial, FB_ROUND_F16)) {
        list[1] = FB_ARITHMETIC_F16;
        return 2;
    }
    list[1] = FB_ARITHMETIC_TF32X3;
    list[2] = FB_ARITHMETIC_TF32;
    return 3;
}

/* Takes from x what y explains of it. */
static void remove_direction(double *x, const double *y, size_t count) {
    double xy = 0.0, yy = 0.0;
    for (size_t i = 0; i < count; i++) {
        xy += x[i] * y[i];
        yy += y[i] * y[i];
    }
    for (size_t i = 0; yy > 0.0 && i < count; i++)
        x[i] -= xy / yy * y[i];
}

/* Errors of LSEs without what an offset, another scale and keys of zeros would explain of them:
 * mistakes must not decide how inputs are read. more: [3][count] */
static void remove_mistakes(const fb_trial *trial, const fb_trial_tensor *t, double *x,
                            double *more) {
    size_t rows = trial->rows;
    const fb_moments *m = &trial->parts[t->external].m;
    for (size_t row = 0; row < rows; row++) {
        double there = t->usable[row] ? 1.0 : 0.0;
        more[row] = there;
        more[rows + row] = there * m->ps[row];
        more[2 * rows + row] = there > 0.0 ? exp(-t->truth[row]) : 0.0;
    }
    for (size_t i = 0; i < 3; i++) {
        for (size_t j = 0; j < i; j++)
            remove_direction(more + i * rows, more + j * rows, rows);
        remove_direction(x, more + i * rows, rows);
    }
}

double fb_typical_error(const fb_trial *trial, double *scratch, double *weight) {
    double sum = 0.0;
    *weight = 0.0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        size_t count = 0;
        for (size_t at = 0; t->value && at < t->count; at++)
            if (fb_trial_counts(t, at) || t->lse)
                scratch[count++] = t->error[at] / t->sigma[at];
        if (t->value && t->lse && trial->rows >= 12)
            remove_mistakes(trial, t, scratch, scratch + count);
        double part = count == 0 ? 0.0 : t->lse ? 2.0 : 1.0;
        sum += count ? log(fb_median_magnitude(scratch, count) + 1e-3) * part : 0.0;
        *weight += part;
    }
    return sum;
}

/* Whether the LSEs fit as well as those of kernels that sum whole weights: another reading of the
 * queries would change them by more than that. */
static bool fits_well(const fb_trial *trial, double *scratch) {
    size_t count = 0, given = 0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        for (size_t at = 0; t->value && t->lse && at < t->count; at++, given++)
            if (t->usable[at])
                scratch[count++] = t->error[at] / t->sigma[at];
    }
    return given > 0 && count > given / 2 && fb_median_magnitude(scratch, count) < 0.1;
}

fb_status fb_find_reading(fb_trial *trial, fb_arithmetic arithmetic, double *scratch) {
    size_t count = 0;
    const fb_reading *readings = fb_arithmetic_readings(arithmetic, &count), *best = &readings[0];
    fb_trial *sample = NULL;
    double least = INFINITY, weight = 0.0;
    bool plain_tried = false;
    FB_TRY(fb_trial_prepare(trial, arithmetic, best));
    if (count == 1 || (arithmetic != FB_ARITHMETIC_TF32 && fits_well(trial, scratch)))
        return FB_OK;
    FB_TRY(fb_trial_sample(trial, trial->heads < 16 ? 4 : 1, &sample));
    fb_status status = FB_OK;
    for (size_t i = 0; i < count && status == FB_OK; i++) {
        bool same = !fb_trial_reading_matters(sample, &readings[i]); /* as the inputs are */
        if (same && plain_tried)
            continue;
        plain_tried = plain_tried || same;
        status = fb_trial_prepare(sample, arithmetic, &readings[i]);
        double typical = status == FB_OK ? fb_typical_error(sample, scratch, &weight) : 0.0;
        if (typical < least - 0.7) {
            least = typical;
            best = &readings[i];
        }
    }
    fb_trial_free(sample);
    FB_TRY(status);
    if (least > weight * log(2.0))
        best = &readings[0];
    return best == &readings[0] ? FB_OK : fb_trial_prepare(trial, arithmetic, best);
}

fb_status fb_find_passing(fb_trial *trial, fb_arithmetic arithmetic, fb_size_test *size) {
    size_t count = 0;
    const fb_reading *readings = fb_arithmetic_readings(arithmetic, &count);
    const fb_reading *before = trial->reading;
    bool plain_tried = !fb_trial_reading_matters(trial, before);
    fb_trial *sample = NULL;
    if (count == 1)
        return FB_OK;
    FB_TRY(fb_trial_sample(trial, trial->heads < 16 ? 4 : 1, &sample));
    sample->eager = trial->eager;
    fb_status status = FB_OK;
    for (size_t i = 0; i < count && status == FB_OK && !size->passed; i++) {
        bool same = !fb_trial_reading_matters(trial, &readings[i]);
        if (&readings[i] == before || (same && plain_tried))
            continue;
        plain_tried = plain_tried || same;
        status = fb_trial_prepare(sample, arithmetic, &readings[i]);
        if (status != FB_OK || !fb_test_sizes(sample).passed)
            continue;
        status = fb_trial_prepare(trial, arithmetic, &readings[i]);
        fb_size_test other = fb_test_sizes(trial);
        if (status == FB_OK && other.passed)
            *size = other;
    }
    fb_trial_free(sample);
    FB_TRY(status);
    return size->passed || trial->reading == before ? FB_OK
                                                    : fb_trial_prepare(trial, arithmetic, before);
}

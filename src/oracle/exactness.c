#include "oracle/exactness.h"

#include "oracle/statistics.h"

#include <math.h>

double fb_typical_ratio(const fb_filter *f, bool lse) {
    const fb_trial *trial = f->trial;
    double *ratios = f->scratch;
    size_t count = 0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        for (size_t at = 0; t->value && t->lse == lse && at < t->count; at++)
            if (fb_trial_counts(t, at))
                ratios[count++] = t->error[at] / t->sigma[at];
    }
    return fb_median_magnitude(ratios, count);
}

double fb_spread_of(const fb_trial_part *part, size_t row) {
    return part->m.lse[row] == -(double)INFINITY ? 0.0
                                                 : 1.0 - exp(part->m.max[row] - part->m.lse[row]);
}

/* Whether rounded weights show in an output: if one key has all the weight, they do not. */
static bool shows_weights(const fb_trial *trial, const fb_trial_tensor *t, size_t at) {
    size_t row = at / trial->dim;
    double w = t->weight[row], spread = w * fb_spread_of(&trial->parts[t->external], row);
    if (t->internal != FB_NO_PART)
        spread += (1.0 - w) * fb_spread_of(&trial->parts[t->internal], row);
    return fb_trial_counts(t, at) && spread > 0.05;
}

double fb_weighed_ratio(const fb_filter *f) {
    const fb_trial *trial = f->trial;
    double *ratios = f->scratch;
    size_t count = 0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        for (size_t at = 0; t->value && !t->lse && at < t->count; at++)
            if (shows_weights(trial, t, at))
                ratios[count++] = t->error[at] / t->sigma[at];
    }
    return count ? fb_median_magnitude(ratios, count) : (double)INFINITY;
}

bool fb_has_outputs(const fb_trial *trial) {
    for (size_t i = 0; i < trial->num_tensors; i++)
        if (trial->tensors[i].value && !trial->tensors[i].lse)
            return true;
    return false;
}

bool fb_exact_as_float32(const fb_filter *f) {
    const fb_trial *trial = f->trial;
    const double near = 2.0, far = 8.0; /* in units of float32's noise */
    double rows = 0.0, exact = 0.0, by_chance = 0.0;
    for (size_t i = 0; i < trial->num_tensors; i++) {
        const fb_trial_tensor *t = &trial->tensors[i];
        const fb_moments *m = &trial->parts[t->external].m;
        for (size_t row = 0; t->value && t->lse && row < t->count; row++) {
            double tf32 = 0x1p-12 * m->score_size[row] / sqrt((double)trial->dim) *
                          sqrt(m->p2[row]) * t->weight[row] / t->sigma[row];
            if (!t->usable[row] || tf32 <= far)
                continue;
            rows++;
            exact += fabs(t->error[row]) <= near * t->sigma[row];
            by_chance += erf(near / (sqrt(2.0) * tf32));
        }
    }
    return 2.0 * exact > rows && fb_tail_bound(rows, exact, by_chance) < FB_FALSE_ALARM;
}

/* Is the error as small as an honest one? By tensor, head, token, channel, row and element. */
#include "oracle/filter.h"
#include "oracle/statistics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The degrees of freedom of a row: roundings of few weights, or of values with a common mean, are
 * the same random number in all channels. */
static double row_freedom(const fb_trial *trial, const fb_trial_tensor *t, size_t row) {
    if (t->lse)
        return 1.0;
    double mean = 0.0, spread = 0.0, fourth = 0.0, keys = 0.0, inverse = 0.0;
    for (size_t which = 0; which < 2; which++) {
        size_t part = which ? t->internal : t->external;
        if (part == FB_NO_PART)
            continue;
        const fb_moments *m = &trial->parts[part].m;
        double p2 = m->p2[row], p4 = m->p4[row];
        if (p2 <= 0.0)
            continue;
        mean = spread = fourth = 0.0;
        for (size_t i = row * trial->dim; i < (row + 1) * trial->dim; i++) {
            double scale = t->noise.weights[i] + 1e-300;
            double average = (double)m->p2v[i] / p2, square = (double)m->p2vv[i] / p2;
            double rest = fmax(0.0, square - average * average);
            mean += average * average / scale;
            spread += rest / scale;
            fourth += rest * rest / (scale * scale);
        }
        keys = p2 * p2 / p4;
        double all = mean + spread;
        double one = all > 0.0 ? (mean * mean + fourth + 2.0 * mean * spread / (double)trial->dim) /
                                     (all * all)
                               : 1.0;
        one += 1.0 / keys;
        inverse = one > inverse ? one : inverse;
    }
    double freedom = inverse > 0.0 ? 1.0 / inverse : (double)trial->dim;
    return freedom < 1.0 ? 1.0 : freedom < (double)trial->dim ? freedom : (double)trial->dim;
}

/* A group of elements: the sum of (error / sigma)^2, their number, and the sum over rows of
 * elements^2 / freedom. */
typedef struct group {
    double sum, count, spread;
} group;

static void note(fb_size_test *worst, size_t tensor, double excess, double rms, const char *where) {
    if (!(excess > worst->excess))
        return;
    worst->excess = excess;
    worst->tensor = tensor;
    worst->rms = rms;
    snprintf(worst->where, sizeof worst->where, "%s", where);
}

static void judge_group(const group *g, double probability, size_t tensor, const char *format,
                        size_t index, fb_size_test *worst) {
    if (g->count == 0.0)
        return;
    double freedom = g->count * g->count / g->spread, mean = g->sum / g->count;
    double allowed = fb_mean_square_quantile(freedom < 1.0 ? 1.0 : freedom, probability);
    char where[96];
    snprintf(where, sizeof where, format, index);
    note(worst, tensor, sqrt(mean / allowed), sqrt(mean), where);
}

static void add_to(group *g, double sum, double count, double freedom) {
    g->sum += sum;
    g->count += count;
    g->spread += count * count / freedom;
}

enum { MAX_GROUPS = 4096 };

/* Rows, heads, tokens, the tensor. */
static void judge_rows(const fb_trial *trial, size_t tensor, double probability, double *rms,
                       fb_size_test *worst) {
    const fb_trial_tensor *t = &trial->tensors[tensor];
    static const group none = {0};
    group whole = none, heads[MAX_GROUPS], tokens[MAX_GROUPS];
    size_t width = t->lse ? 1 : trial->dim, per_entry = trial->rows / trial->heads;
    memset(heads, 0, sizeof heads);
    memset(tokens, 0, sizeof tokens);
    for (size_t row = 0; row < trial->rows; row++) {
        group g = none;
        double sum = 0.0, count = 0.0;
        for (size_t i = row * width; i < (row + 1) * width; i++) {
            double ratio = t->error[i] / t->sigma[i];
            bool counts = fb_trial_counts(t, i);
            sum += counts ? ratio * ratio : 0.0;
            count += counts;
        }
        if (count == 0.0)
            continue;
        double freedom = row_freedom(trial, t, row);
        add_to(&g, sum, count, freedom);
        add_to(&whole, sum, count, freedom);
        add_to(&heads[row % trial->heads % MAX_GROUPS], sum, count, freedom);
        add_to(&tokens[row / trial->heads % MAX_GROUPS], sum, count, freedom);
        char where[64];
        snprintf(where, sizeof where, "token %zu of head %%zu", row / trial->heads);
        judge_group(&g, probability, tensor, where, row % trial->heads, worst);
    }
    for (size_t i = 0; i < trial->heads && i < MAX_GROUPS; i++)
        judge_group(&heads[i], probability, tensor, "head %zu", i, worst);
    for (size_t i = 0; i < per_entry && i < MAX_GROUPS; i++)
        judge_group(&tokens[i], probability, tensor, "token %zu", i, worst);
    judge_group(&whole, probability, tensor, "all of it", 0, worst);
    *rms = whole.count > 0.0 ? sqrt(whole.sum / whole.count) : 0.0;
}

static void judge_channels(const fb_trial *trial, size_t tensor, double probability,
                           fb_size_test *worst) {
    const fb_trial_tensor *t = &trial->tensors[tensor];
    for (size_t d = 0; d < trial->dim; d++) {
        group g = {0};
        for (size_t i = d; i < t->count; i += trial->dim)
            if (fb_trial_counts(t, i))
                add_to(&g, t->error[i] * t->error[i] / (t->sigma[i] * t->sigma[i]), 1.0, 1.0);
        judge_group(&g, probability, tensor, "channel %zu", d, worst);
    }
}

static void judge_elements(const fb_trial *trial, size_t tensor, double probability,
                           fb_size_test *worst) {
    const fb_trial_tensor *t = &trial->tensors[tensor];
    double allowed = fb_normal_quantile(0.5 * probability), largest = 0.0;
    size_t at = 0;
    for (size_t i = 0; i < t->count; i++)
        if (t->usable[i] && fabs(t->error[i]) > largest * t->sigma[i]) {
            largest = fabs(t->error[i]) / t->sigma[i];
            at = i;
        }
    char where[96], channel[32] = "";
    size_t row = t->lse ? at : at / trial->dim;
    if (!t->lse)
        snprintf(channel, sizeof channel, ", channel %zu", at % trial->dim);
    snprintf(where, sizeof where, "the element of token %zu, head %zu%s", row / trial->heads,
             row % trial->heads, channel);
    note(worst, tensor, largest / allowed, largest, where);
}

/* The probability is shared by all groups and elements of all tensors. */
void fb_test_size(const fb_trial *trial, size_t tensor, double *rms, fb_size_test *worst) {
    const fb_trial_tensor *t = &trial->tensors[tensor];
    double tensors = (double)trial->num_tensors, third = FB_FALSE_ALARM / (3.0 * tensors);
    double groups = (double)(trial->rows + trial->heads + trial->rows / trial->heads + 1);
    *rms = 0.0;
    if (!t->value || t->count == 0)
        return;
    judge_rows(trial, tensor, third / groups, rms, worst);
    if (!t->lse)
        judge_channels(trial, tensor, third / (double)trial->dim, worst);
    judge_elements(trial, tensor, third / (double)t->count, worst);
    worst->passed = worst->excess <= 1.0;
}

fb_size_test fb_test_sizes(const fb_trial *trial) {
    fb_size_test worst = {.passed = true};
    double rms;
    for (size_t i = 0; i < trial->num_tensors; i++)
        fb_test_size(trial, i, &rms, &worst);
    return worst;
}

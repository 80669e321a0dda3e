/* Truths, errors and noise of a trial. */
#include "base/memory.h"
#include "oracle/trial.h"
#include "oracle/truth_cache.h"

#include <math.h>
#include <string.h>

/* --- readings --------------------------------------------------------------------------------- */

static size_t kv_values(const fb_attention_problem *p) {
    return p->batch * p->keys * p->kv_heads * p->head_dim;
}

/* Keys or values of a part as they are rounded. Parts of a sequence share those of the context. */
static fb_rounded_input *find_input(fb_trial *trial, const float *from, size_t count,
                                    fb_rounding rounding) {
    for (size_t i = 0; i < trial->num_inputs; i++)
        if (trial->inputs[i].from == from && trial->inputs[i].rounding == rounding)
            return &trial->inputs[i];
    fb_rounded_input *made = &trial->inputs[trial->num_inputs++];
    *made = (fb_rounded_input){from, rounding, fb_rounding_changes(rounding, from, count), NULL};
    return made;
}

static fb_status round_input(fb_trial *trial, const float **input, size_t count,
                             fb_rounding rounding) {
    fb_rounded_input *in = find_input(trial, *input, count, rounding);
    if (!in->changes)
        return FB_OK;
    if (!in->rounded) {
        FB_TRY(fb_alloc(count, sizeof *in->rounded, "rounded inputs", &in->rounded));
        fb_rounded_values(rounding, *input, in->rounded, count);
    }
    *input = in->rounded;
    return FB_OK;
}

bool fb_trial_reading_matters(fb_trial *trial, const fb_reading *reading) {
    if (reading->scaled)
        return true;
    for (size_t i = 0; i < trial->num_parts; i++) {
        const fb_attention_problem *p = &trial->parts[i].right;
        size_t kv = kv_values(p);
        if (fb_trial_uses(trial, i, FB_ALL_PARTS) &&
            (fb_rounding_changes(reading->q, p->q, fb_attention_problem_values(p)) ||
             find_input(trial, p->k, kv, reading->kv)->changes ||
             find_input(trial, p->v, kv, reading->kv)->changes))
            return true;
    }
    return false;
}

/* q as a kernel reads it, and the scale that is left. */
static void read_queries(const fb_attention_problem *p, const fb_reading *reading, float *q,
                         double *scale) {
    const double log2_of_e = 0x1.71547652b82fep+0;
    size_t count = fb_attention_problem_values(p);
    float factor = (float)(reading->base2 ? p->scale * log2_of_e : p->scale);
    for (size_t i = 0; i < count; i++) {
        q[i] = fb_rounded(reading->q, p->q[i]);
        if (reading->scaled)
            q[i] = fb_rounded(reading->q, q[i] * factor);
    }
    if (reading->scaled)
        *scale = reading->base2 ? 1.0 / log2_of_e : 1.0;
}

/* Whether two readings have the same queries, keys and values. */
static bool same_inputs(const fb_attention_problem *a, const fb_attention_problem *b) {
    return a->k == b->k && a->v == b->v && a->scale == b->scale &&
           memcmp(a->q, b->q, fb_attention_problem_values(a) * sizeof *a->q) == 0;
}

/* Moments that are known stay so if the reading changes nothing. */
static fb_status read_part(fb_trial *trial, fb_trial_part *part, const fb_reading *reading) {
    fb_attention_problem before = part->read, *p = &part->read;
    size_t queries = fb_attention_problem_values(&part->right), kv = kv_values(&part->right);
    float *q = NULL;
    *p = part->right;
    part->known = part->known && part->weight_bits == fb_arithmetic_weights(trial->arithmetic).bits;
    if (reading->q != FB_ROUND_NONE) {
        FB_TRY(fb_alloc(queries, sizeof *q, "rounded inputs", &q));
        read_queries(&part->right, reading, q, &p->scale);
        p->q = q;
    }
    fb_status status = round_input(trial, &p->k, kv, reading->kv);
    if (status == FB_OK)
        status = round_input(trial, &p->v, kv, reading->kv);
    part->known = part->known && status == FB_OK && same_inputs(p, &before);
    fb_free(part->queries);
    part->queries = q;
    return status;
}

/* Moments that are kept, or else computed. */
static fb_status find_moments(fb_truth_cache *truths, const fb_attention_problem *p,
                              fb_weight_format weights, fb_moments *m) {
    if (!truths || !fb_truth_cache_takes(p))
        return fb_moments_compute(p, weights, m);
    size_t kv = kv_values(p);
    fb_truth_cache_hold(truths, p->k, kv);
    fb_truth_cache_hold(truths, p->v, kv);
    const fb_truth_key key = fb_truth_cache_key(truths, p, weights);
    if (fb_truth_cache_load(truths, &key, p, m))
        return FB_OK;
    FB_TRY(fb_moments_compute(p, weights, m));
    fb_truth_cache_save(truths, &key, p, m);
    return FB_OK;
}

fb_status fb_trial_know(fb_trial *trial, size_t index) {
    fb_trial_part *part = &trial->parts[index];
    const fb_weight_format weights = fb_arithmetic_weights(trial->arithmetic);
    if (part->known)
        return FB_OK;
    if (!part->m.memory)
        FB_TRY(fb_moments_create(&part->read, &part->m));
    FB_TRY(find_moments(trial->truths, &part->read, weights, &part->m));
    part->known = true;
    part->weight_bits = weights.bits;
    return FB_OK;
}

/* --- noise ------------------------------------------------------------------------------------ */

/* The variances of one element, by cause. */
typedef struct causes {
    double weights, scores, floats, kept;
} causes;

static fb_dtype kept_as(fb_arithmetic arithmetic) {
    return arithmetic == FB_ARITHMETIC_BF16 || arithmetic == FB_ARITHMETIC_FP8 ? FB_BF16
           : arithmetic == FB_ARITHMETIC_F16                                   ? FB_F16
                                                                               : FB_F32;
}

static double square(double x) {
    return x * x;
}

/* The relative variance of a weight by float32 arithmetic: that of its score. */
static double float_scores(const fb_moments *m, size_t row) {
    return square(0x1p-24 * (2.0 + 0.5 * m->score_size[row] + fabs(m->max[row])));
}

/* The same by storing scores twice, before and after the scale, in the type of the inputs. */
static double stored_scores(const fb_trial *t, const fb_moments *m, size_t row) {
    double u = fb_arithmetic_roundoff(t->arithmetic);
    return 2.0 * square(u * (fabs(m->max[row]) + 1.0));
}

/* The keys of the row's batch entry. */
static double keys_of(const fb_trial *t, const fb_trial_part *part, size_t row) {
    return (double)fb_attention_problem_keys(&part->read, row / (t->tokens * t->heads));
}

static causes part_lse(const fb_trial *t, const fb_trial_part *part, size_t row) {
    const fb_moments *m = &part->m;
    double u = fb_arithmetic_roundoff(t->arithmetic), keys = keys_of(t, part, row);
    double small = fb_arithmetic_underflow(t->arithmetic) * exp(m->max[row] - m->lse[row]);
    const fb_cut cut = fb_arithmetic_cut(t->arithmetic);
    if (m->lse[row] == -(double)INFINITY)
        return (causes){0};
    return (causes){
        .weights = u * u * m->p2[row] + small * small * keys + square(m->lost[row]) +
                   square(cut.weights) + square(cut.products * m->ps[row]),
        .scores = stored_scores(t, m, row) * m->p2[row],
        .floats = float_scores(m, row) * m->p2[row] +
                  square(0x1p-24) * (keys / 9.0 + square(2.0 + 0.5 * fabs(m->lse[row]))),
    };
}

static causes part_out(const fb_trial *t, const fb_trial_part *part, size_t at) {
    const fb_moments *m = &part->m;
    const fb_attention_problem *p = &part->read;
    size_t row = at / t->dim, head = row % t->heads, b = row / (t->tokens * t->heads);
    size_t kv = b * p->kv_heads + head / (p->heads / p->kv_heads);
    double u = fb_arithmetic_roundoff(t->arithmetic), o = m->out[at], keys = keys_of(t, part, row);
    if (m->lse[row] == -(double)INFINITY)
        return (causes){0};
    double plain = (double)m->p2vv[at];
    double centred = fmax(0.0, plain - 2.0 * o * (double)m->p2v[at] + o * o * m->p2[row]);
    double small = fb_arithmetic_underflow(t->arithmetic) * exp(m->max[row] - m->lse[row]);
    const fb_cut cut = fb_arithmetic_cut(t->arithmetic);
    return (causes){
        .weights = u * u * fmax(plain, centred) + square(cut.weights) * centred +
                   small * small * keys * m->mean_square[kv * t->dim + at % t->dim] +
                   square(o) * (square(m->lost[row]) + square(cut.weights + cut.products)) +
                   square(cut.products * ((double)m->psv[at] - o * m->ps[row])),
        .scores = stored_scores(t, m, row) * centred + u * u * plain,
        .floats = float_scores(m, row) * centred +
                  square(0x1p-24) * (keys * (o * o / 9.0 + plain / 6.0) + 4.0 * (o * o + plain)),
        .kept = fb_storage_variance(kept_as(t->arithmetic), o),
    };
}

/* causes of a weighted sum */
static causes weighed(double a, causes x, double b, causes y) {
    return (causes){a * x.weights + b * y.weights, a * x.scores + b * y.scores,
                    a * x.floats + b * y.floats, a * x.kept + b * y.kept};
}

double fb_merge_weight(double a, double b) {
    if (a == -(double)INFINITY && b == -(double)INFINITY)
        return 0.5;
    return 1.0 / (1.0 + exp(b - a));
}

/* An LSE that is stored in a lower type goes into the merge as it is stored. */
static double stored_lse(const fb_trial *t, size_t part, double lse) {
    for (size_t i = 0; i < t->num_tensors; i++) {
        const fb_trial_tensor *tensor = &t->tensors[i];
        if (tensor->lse && tensor->value && tensor->internal == FB_NO_PART &&
            tensor->external == part && tensor->stored != FB_F32)
            return fb_storage_variance(tensor->stored, lse);
    }
    return 0.0;
}

static void merged_truth(const fb_trial *t, const fb_trial_tensor *tensor, size_t at,
                         causes *noise) {
    const fb_trial_part *a = &t->parts[tensor->external], *b = &t->parts[tensor->internal];
    size_t row = tensor->lse ? at : at / t->dim;
    double la = a->m.lse[row] + (tensor->shift ? tensor->shift[row] : 0.0), lb = b->m.lse[row];
    double w = fb_merge_weight(la, lb), max = fmax(la, lb), low = fmin(la, lb);
    causes lse_a = part_lse(t, a, row), lse_b = part_lse(t, b, row);
    lse_a.kept += stored_lse(t, tensor->external, la);
    if (tensor->lse) {
        tensor->truth[at] = max == -(double)INFINITY ? max : max + log1p(exp(low - max));
        *noise = weighed(w * w, lse_a, square(1.0 - w), lse_b);
        noise->floats += square(0x1p-24 * (1.0 + 0.5 * fabs(tensor->truth[at])));
        return;
    }
    double oa = a->m.out[at], ob = b->m.out[at], lever = square(w * (1.0 - w) * (oa - ob));
    bool empty = max == -(double)INFINITY;
    tensor->truth[at] = empty ? 0.0 : w * oa + (1.0 - w) * ob;
    *noise = weighed(w * w, part_out(t, a, at), square(1.0 - w), part_out(t, b, at));
    causes levered = weighed(lever, lse_a, lever, lse_b);
    *noise = weighed(1.0, *noise, 1.0, levered);
    noise->floats += square(0x1p-24 * (fabs(la) + 2.0)) * lever + square(0x1p-24) * 2.0 * oa * oa;
}

/* True values that are nearly the same are all rounded to the same number: their errors are not
 * random, and may all be as large as this one. */
static double stored_variance(fb_dtype stored, double truth) {
    return fmax(fb_storage_variance(stored, truth), square(fb_storage_error(stored, truth)));
}

static void find_element(const fb_trial *t, fb_trial_tensor *tensor, size_t at) {
    causes noise;
    const fb_trial_part *part = &t->parts[tensor->external];
    if (tensor->internal != FB_NO_PART) {
        merged_truth(t, tensor, at, &noise);
    } else if (tensor->lse) {
        tensor->truth[at] = part->m.lse[at];
        noise = part_lse(t, part, at);
    } else {
        tensor->truth[at] = part->m.out[at];
        noise = part_out(t, part, at);
    }
    tensor->noise.weights[at] = noise.weights;
    tensor->noise.scores[at] = noise.scores;
    tensor->noise.floats[at] = noise.floats;
    tensor->noise.kept[at] = noise.kept;
    double truth = tensor->truth[at], value = tensor->value[at];
    tensor->noise.stored[at] = isfinite(truth) ? stored_variance(tensor->stored, truth) : 0.0;
    tensor->usable[at] = isfinite(truth) && isfinite(value);
    tensor->error[at] = tensor->usable[at] ? value - truth : 0.0;
}

static fb_status find_tensor(fb_trial *trial, fb_trial_tensor *tensor) {
    double **arrays[] = {&tensor->truth,         &tensor->error,        &tensor->sigma,
                         &tensor->noise.weights, &tensor->noise.scores, &tensor->noise.floats,
                         &tensor->noise.stored,  &tensor->noise.kept};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        if (!*arrays[i])
            FB_TRY(fb_trial_take(trial, tensor->count, sizeof(double), arrays[i]));
    if (!tensor->weight)
        FB_TRY(fb_trial_take(trial, trial->rows, sizeof(double), &tensor->weight));
    if (!tensor->usable)
        FB_TRY(fb_trial_take(trial, tensor->count, sizeof(bool), &tensor->usable));
    FB_TRY(fb_trial_know(trial, tensor->external));
    if (tensor->internal != FB_NO_PART)
        FB_TRY(fb_trial_know(trial, tensor->internal));
    for (size_t row = 0; row < trial->rows; row++) {
        double shift = tensor->shift ? tensor->shift[row] : 0.0;
        tensor->weight[row] =
            tensor->internal == FB_NO_PART
                ? 1.0
                : fb_merge_weight(trial->parts[tensor->external].m.lse[row] + shift,
                                  trial->parts[tensor->internal].m.lse[row]);
    }
    for (size_t i = 0; i < tensor->count; i++)
        find_element(trial, tensor, i);
    return FB_OK;
}

void fb_trial_set_sigma(fb_trial *trial) {
    if (trial->eager)
        trial->score_bias =
            fb_arithmetic_score_bias(trial->arithmetic, trial->parts[0].right.scale);
    for (size_t i = 0; i < trial->num_tensors; i++) {
        fb_trial_tensor *t = &trial->tensors[i];
        for (size_t at = 0; t->value && at < t->count; at++) {
            const fb_noise *n = &t->noise;
            double sum = n->weights[at] + n->floats[at] + n->stored[at] + n->kept[at];
            double sigma = sqrt(sum + (trial->eager ? n->scores[at] : 0.0) + 1e-60);
            t->sigma[at] = isfinite(sigma) ? sigma : 1.0; /* not finite: it is not used */
        }
    }
}

fb_status fb_trial_refresh(fb_trial *trial) {
    for (size_t i = 0; i < trial->num_tensors; i++)
        if (trial->tensors[i].value)
            FB_TRY(find_tensor(trial, &trial->tensors[i]));
    fb_trial_set_sigma(trial);
    return FB_OK;
}

fb_status fb_trial_prepare(fb_trial *trial, fb_arithmetic arithmetic, const fb_reading *reading) {
    trial->arithmetic = arithmetic;
    trial->reading = reading;
    for (size_t i = 0; i < trial->num_parts; i++)
        FB_TRY(read_part(trial, &trial->parts[i], reading));
    return fb_trial_refresh(trial);
}

void fb_trial_restore_errors(fb_trial *trial) {
    for (size_t i = 0; i < trial->num_tensors; i++) {
        fb_trial_tensor *t = &trial->tensors[i];
        for (size_t at = 0; t->value && at < t->count; at++)
            t->error[at] = t->usable[at] ? t->value[at] - t->truth[at] : 0.0;
    }
}

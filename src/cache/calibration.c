/* How much each head's external part changes from step to step, and which heads refresh. */
#include "attention/check.h"
#include "base/error.h"
#include "base/half.h"
#include "base/memory.h"
#include "base/sized.h"
#include "cache/calibration_state.h"

#include <math.h>
#include <string.h>

/* --- creation --------------------------------------------------------------------------------- */

void fb_calibration_config_init_sized(fb_calibration_config *config, size_t size) {
    fb_calibration_config defaults = {.similarity_threshold = 0.85, .lse_threshold = 0.05};
    for (size_t step = 0; step < FB_CALIBRATION_MAX_STEPS; step++)
        defaults.step_thresholds[step] = (double)NAN;
    fb_sized_init(config, size, &defaults, sizeof defaults);
}

static fb_status check_config(const fb_calibration_config *config) {
    if (!config)
        return fb_fail(FB_ERROR_ARGUMENT, "config is NULL");
    FB_TRY(fb_sized_same(config->struct_size, sizeof *config, "config"));
    if (config->num_layers == 0 || config->num_heads == 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "config has %zu layers of %zu heads, expected at least 1 of each",
                       config->num_layers, config->num_heads);
    if (config->num_steps < 2 || config->num_steps > FB_CALIBRATION_MAX_STEPS)
        return fb_fail(FB_ERROR_ARGUMENT, "config.num_steps is %zu, expected 2 to %d",
                       config->num_steps, FB_CALIBRATION_MAX_STEPS);
    if (!(config->similarity_threshold >= -1.0 && config->similarity_threshold <= 1.0))
        return fb_fail(FB_ERROR_ARGUMENT, "similarity threshold is %g, expected -1 to 1",
                       config->similarity_threshold);
    for (size_t step = 1; step < config->num_steps; step++) {
        double threshold = config->step_thresholds[step];
        if (!isnan(threshold) && !(threshold >= -1.0 && threshold <= 1.0))
            return fb_fail(FB_ERROR_ARGUMENT,
                           "similarity threshold of step %zu is %g, expected -1 to 1", step,
                           threshold);
    }
    if (!(config->lse_threshold >= 0.0))
        return fb_fail(FB_ERROR_ARGUMENT, "LSE threshold is %g, expected at least 0",
                       config->lse_threshold);
    return FB_OK;
}

static fb_status allocate(fb_calibration *c) {
    const fb_calibration_config *config = &c->config;
    size_t rows = 0, heads = 0;
    if (!fb_size_mul(config->num_steps, config->num_layers, &rows) ||
        !fb_size_mul(rows, config->num_heads, &heads))
        return fb_fail(FB_ERROR_MEMORY, "calibration: %zu x %zu x %zu heads overflow",
                       config->num_steps, config->num_layers, config->num_heads);
    FB_TRY(fb_alloc_zeroed(heads, sizeof *c->sums, "calibration", &c->sums));
    FB_TRY(fb_alloc_zeroed(rows, sizeof *c->counts, "calibration", &c->counts));
    FB_TRY(fb_alloc_zeroed(heads, sizeof *c->refresh, "calibration", &c->refresh));
    return fb_alloc_zeroed(config->num_layers, sizeof *c->remembered, "calibration",
                           &c->remembered);
}

fb_status fb_calibration_create(const fb_calibration_config *config, fb_calibration **calibration) {
    FB_TRY(check_config(config));
    if (!calibration)
        return fb_fail(FB_ERROR_ARGUMENT, "calibration is NULL");
    fb_calibration *created = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *created, "calibration", &created));
    created->config = *config;
    fb_status status = allocate(created);
    if (status != FB_OK) {
        fb_calibration_destroy(created);
        return status;
    }
    *calibration = created;
    return FB_OK;
}

void fb_calibration_destroy(fb_calibration *c) {
    if (!c)
        return;
    for (size_t layer = 0; c->remembered && layer < c->config.num_layers; layer++)
        fb_free(c->remembered[layer].out);
    fb_free(c->remembered);
    fb_free(c->sums);
    fb_free(c->counts);
    fb_free(c->refresh);
    fb_free(c);
}

const fb_calibration_config *fb_calibration_config_of(const fb_calibration *calibration) {
    return &calibration->config;
}

/* --- observations ----------------------------------------------------------------------------- */

/* An observation, its arguments checked. */
typedef struct observation {
    fb_calibration *c;
    fb_remembered *kept;
    size_t layer, step;
    const fb_part *external, *internal; /* [samples] */
    size_t samples, rows, head_dim;
} observation;

static const float *row_of(const fb_part *part, size_t row, size_t head) {
    return part->out + (ptrdiff_t)row * part->out_token_stride +
           (ptrdiff_t)head * part->out_head_stride;
}

/* The LSE as it is compared and remembered. */
static float lse_of(const observation *o, size_t sample, size_t row, size_t head) {
    const fb_part *part = &o->external[sample];
    float lse = part->lse[(ptrdiff_t)row * part->lse_token_stride +
                          (ptrdiff_t)head * part->lse_head_stride];
    return o->c->config.compat == FB_COMPAT_RELEASED ? fb_bf16_to_f32(fb_f32_to_bf16(lse)) : lse;
}

/* Where a head's row is remembered: [num_heads, samples, rows] */
static size_t kept_row(const observation *o, size_t head, size_t sample, size_t row) {
    return (head * o->samples + sample) * o->rows + row;
}

static void remember_external(const observation *o, size_t head) {
    for (size_t s = 0; s < o->samples; s++)
        for (size_t row = 0; row < o->rows; row++) {
            size_t at = kept_row(o, head, s, row);
            memcpy(o->kept->out + at * o->head_dim, row_of(&o->external[s], row, head),
                   o->head_dim * sizeof *o->kept->out);
            o->kept->lse[at] = lse_of(o, s, row, head);
        }
}

static void remember_internal(const observation *o, size_t head) {
    for (size_t s = 0; s < o->samples; s++)
        for (size_t row = 0; row < o->rows; row++)
            memcpy(o->kept->internal + kept_row(o, head, s, row) * o->head_dim,
                   row_of(&o->internal[s], row, head), o->head_dim * sizeof(float));
}

/* As PyTorch's cosine_similarity: a product of lengths below 1e-8 counts as 1e-8. */
static double cosine(const float *a, const float *b, size_t size) {
    double dot = 0.0, aa = 0.0, bb = 0.0;
    for (size_t d = 0; d < size; d++) {
        dot += (double)a[d] * (double)b[d];
        aa += (double)a[d] * (double)a[d];
        bb += (double)b[d] * (double)b[d];
    }
    double lengths = sqrt(aa) * sqrt(bb);
    return dot / (lengths > 1e-8 ? lengths : 1e-8);
}

static fb_head_numbers compare_head(const observation *o, size_t head) {
    fb_head_numbers sum = {0};
    for (size_t s = 0; s < o->samples; s++)
        for (size_t row = 0; row < o->rows; row++) {
            size_t at = kept_row(o, head, s, row);
            sum.similarity += cosine(row_of(&o->external[s], row, head),
                                     o->kept->out + at * o->head_dim, o->head_dim);
            sum.lse_change += fabs((double)lse_of(o, s, row, head) - (double)o->kept->lse[at]);
            if (o->internal)
                sum.internal_similarity +=
                    cosine(row_of(&o->internal[s], row, head), o->kept->internal + at * o->head_dim,
                           o->head_dim);
        }
    double count = (double)o->samples * (double)o->rows;
    return (fb_head_numbers){sum.similarity / count, sum.lse_change / count,
                             o->internal ? sum.internal_similarity / count : (double)NAN};
}

/* The rule; NaN refreshes. */
static bool must_refresh(const fb_calibration_config *config, size_t step,
                         fb_head_numbers numbers) {
    double own = config->step_thresholds[step];
    double threshold = isnan(own) ? config->similarity_threshold : own;
    return !(numbers.similarity >= threshold) || !(numbers.lse_change <= config->lse_threshold);
}

static void observe_head(const observation *o, size_t head, const fb_head_changes *changes) {
    const fb_calibration_config *config = &o->c->config;
    if (o->step == 0) {
        remember_external(o, head);
        if (o->internal)
            remember_internal(o, head);
        return;
    }
    fb_head_numbers numbers = compare_head(o, head);
    bool refresh = must_refresh(config, o->step, numbers);
    size_t row = o->step * config->num_layers + o->layer;
    fb_head_numbers *sum = &o->c->sums[row * config->num_heads + head];
    sum->similarity += numbers.similarity;
    sum->lse_change += numbers.lse_change;
    sum->internal_similarity += numbers.internal_similarity;
    if (refresh)
        remember_external(o, head);
    if (!changes)
        return;
    if (changes->similarity)
        changes->similarity[head] = numbers.similarity;
    if (changes->lse_change)
        changes->lse_change[head] = numbers.lse_change;
    if (changes->internal_similarity)
        changes->internal_similarity[head] = numbers.internal_similarity;
    if (changes->refresh)
        changes->refresh[head] = refresh;
}

/* Memory for what step 0 shows; the same block again needs none. */
static fb_status reserve(const observation *o) {
    fb_remembered *kept = o->kept;
    if (kept->out && kept->samples == o->samples && kept->rows == o->rows &&
        kept->head_dim == o->head_dim)
        return FB_OK;
    size_t rows = 0, values = 0, floats = 0;
    if (!fb_size_mul(o->c->config.num_heads, o->samples, &rows) ||
        !fb_size_mul(rows, o->rows, &rows) || !fb_size_mul(rows, o->head_dim, &values) ||
        !fb_size_mul(values, 2, &floats) || !fb_size_add(floats, rows, &floats))
        return fb_fail(FB_ERROR_MEMORY, "calibration: %zu samples of %zu rows overflow", o->samples,
                       o->rows);
    float *memory = NULL;
    FB_TRY(fb_alloc(floats, sizeof *memory, "remembered parts", &memory));
    fb_free(kept->out);
    *kept = (fb_remembered){.out = memory,
                            .internal = memory + values,
                            .lse = memory + 2 * values,
                            .samples = o->samples,
                            .rows = o->rows,
                            .head_dim = o->head_dim};
    return FB_OK;
}

static fb_status check_observation(const fb_calibration *c, size_t layer, size_t step,
                                   const fb_part *external, size_t samples, size_t rows,
                                   size_t head_dim) {
    if (!c || !external)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", c ? "external" : "calibration");
    if (layer >= c->config.num_layers || step >= c->config.num_steps)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "layer %zu, step %zu: the calibration is of %zu layers and %zu steps", layer,
                       step, c->config.num_layers, c->config.num_steps);
    if (samples == 0 || rows == 0 || head_dim == 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "%zu samples of %zu rows of %zu values, expected at least 1", samples, rows,
                       head_dim);
    const fb_remembered *kept = &c->remembered[layer];
    if (step > 0 && (!kept->filled || kept->samples != samples || kept->rows != rows ||
                     kept->head_dim != head_dim))
        return fb_fail(FB_ERROR_STALE,
                       "layer %zu, step %zu: %zu samples of %zu rows, but step 0 had %zu of %zu",
                       layer, step, samples, rows, kept->filled ? kept->samples : 0, kept->rows);
    return FB_OK;
}

fb_status fb_calibration_observe(fb_calibration *calibration, size_t layer, size_t step,
                                 const fb_part *external, const fb_part *internal,
                                 size_t num_samples, size_t rows, size_t head_dim,
                                 const fb_head_changes *changes) {
    FB_TRY(check_observation(calibration, layer, step, external, num_samples, rows, head_dim));
    size_t heads = calibration->config.num_heads;
    for (size_t s = 0; s < num_samples; s++) {
        FB_TRY(fb_check_part(&external[s], "external", rows, heads, head_dim));
        if (internal)
            FB_TRY(fb_check_part(&internal[s], "internal", rows, heads, head_dim));
    }
    if (calibration->means_are_given)
        return fb_fail(FB_ERROR_ARGUMENT, "calibration was read from a file: it is complete");
    observation o = {calibration, &calibration->remembered[layer],
                     layer,       step,
                     external,    internal,
                     num_samples, rows,
                     head_dim};
    if (step == 0)
        FB_TRY(reserve(&o));
    for (size_t head = 0; head < heads; head++)
        observe_head(&o, head, changes);
    o.kept->filled = true;
    if (step > 0)
        calibration->counts[step * calibration->config.num_layers + layer]++;
    return FB_OK;
}

/* --- averages and decisions ------------------------------------------------------------------- */

static fb_head_numbers mean_of(const fb_calibration *c, size_t layer, size_t step, size_t head) {
    size_t row = step * c->config.num_layers + layer;
    fb_head_numbers sum = c->sums[row * c->config.num_heads + head];
    double count = (double)c->counts[row];
    if (c->means_are_given) /* sums are means already */
        return sum;
    return (fb_head_numbers){sum.similarity / count, sum.lse_change / count,
                             sum.internal_similarity / count};
}

double fb_calibration_similarity(const fb_calibration *calibration, size_t layer, size_t step,
                                 size_t head) {
    return mean_of(calibration, layer, step, head).similarity;
}

double fb_calibration_lse_change(const fb_calibration *calibration, size_t layer, size_t step,
                                 size_t head) {
    return mean_of(calibration, layer, step, head).lse_change;
}

double fb_calibration_internal_similarity(const fb_calibration *calibration, size_t layer,
                                          size_t step, size_t head) {
    return mean_of(calibration, layer, step, head).internal_similarity;
}

size_t fb_calibration_blocks(const fb_calibration *calibration) {
    return calibration->counts[calibration->config.num_layers];
}

const bool *fb_calibration_refresh(fb_calibration *calibration, size_t layer, size_t step) {
    const fb_calibration_config *config = &calibration->config;
    if (layer >= config->num_layers || step >= config->num_steps)
        return NULL;
    bool *refresh = calibration->refresh + (step * config->num_layers + layer) * config->num_heads;
    for (size_t head = 0; head < config->num_heads; head++)
        refresh[head] =
            step == 0 || must_refresh(config, step, mean_of(calibration, layer, step, head));
    return refresh;
}

double fb_calibration_reused_share(fb_calibration *calibration) {
    const fb_calibration_config *config = &calibration->config;
    size_t reused = 0, total = 0;
    for (size_t step = 1; step < config->num_steps; step++)
        for (size_t layer = 0; layer < config->num_layers; layer++) {
            const bool *refresh = fb_calibration_refresh(calibration, layer, step);
            for (size_t head = 0; head < config->num_heads; head++, total++)
                reused += !refresh[head];
        }
    return (double)reused / (double)total;
}

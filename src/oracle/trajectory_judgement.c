#include "oracle/trajectory_judgement.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/statistics.h"

#include <math.h>

/* Honest implementations of one precision round at other places than the second lane does: their
 * noise is up to this much larger. docs/trajectory.md says what was measured. */
static const double OTHER_PLACES = 1.75;

/* Of states: a row of a layer has few independent errors, and some rows have more than others. */
const double fb_trajectory_state_allowed = 12.0;

void fb_trajectory_judgement_free(fb_trajectory_judgement *j) {
    for (size_t i = 0; i < j->num_steps; i++)
        fb_trajectory_step_free(&j->steps[i]);
    fb_free(j->steps);
    fb_free(j->differences);
    for (int i = 0; i < FB_TRAJECTORY_NUM_STATES; i++)
        fb_free(j->pooled[i]);
    *j = (fb_trajectory_judgement){0};
}

static void pool_logits(fb_trajectory_judgement *j) {
    double square = 0.0;
    size_t count = 0;
    for (size_t i = 0; i < j->num_steps; i++)
        for (size_t r = 0; r < j->steps[i].num_rows; r++, count++)
            square += j->steps[i].rows[r].noise * j->steps[i].rows[r].noise;
    j->num_confidences = count;
    j->noise = count ? sqrt(square / (double)count) : 0.0;
    /* Twice: an error may have either sign. Three kinds of tests: confidences, tokens, decisions.
     */
    double tests = 6.0 * (double)(count ? count : 1);
    j->allowed = OTHER_PLACES * fb_normal_quantile(FB_FALSE_ALARM / tests);
}

/* The root mean square that is allowed of the confidences of one step, or of all. Rows of a step
 * read the same keys, and err together to some degree: two count as one, and so do four steps. */
double fb_trajectory_allowed_rms(double independent, double tests) {
    double freedom = fmax(independent, 1.0);
    return OTHER_PLACES * sqrt(fb_mean_square_quantile(freedom, FB_FALSE_ALARM / tests));
}

static fb_status pool_state(fb_trajectory_judgement *j, fb_trajectory_state state) {
    size_t layers = fb_trajectory_state_layers(j->config, state);
    size_t block = j->record->options.block_size;
    for (size_t layer = 0; layer < layers; layer++) {
        double square = 0.0;
        size_t count = 0;
        for (size_t i = 0; i < j->num_steps; i++) {
            const fb_trajectory_error *errors = j->steps[i].states[state];
            for (size_t r = 0; errors && r < block; r++, count++)
                square += errors[layer * block + r].noise * errors[layer * block + r].noise;
        }
        if (count && !j->pooled[state])
            FB_TRY(fb_alloc_zeroed(layers, sizeof(double), "noise", &j->pooled[state]));
        if (count)
            j->pooled[state][layer] = sqrt(square / (double)count);
    }
    return FB_OK;
}

fb_status fb_trajectory_pool_noise(fb_trajectory_judgement *j) {
    pool_logits(j);
    for (int i = 0; i < FB_TRAJECTORY_NUM_STATES; i++)
        FB_TRY(pool_state(j, (fb_trajectory_state)i));
    return FB_OK;
}

double fb_trajectory_sigma(const fb_trajectory_judgement *j, const fb_trajectory_row *row) {
    double noise = row->shape * fmax(row->noise, j->noise);
    return hypot(fmax(noise, fabs(row->rounded)), row->storage);
}

double fb_trajectory_state_ratio(const fb_trajectory_judgement *j, const fb_trajectory_step *step,
                                 fb_trajectory_state state, size_t layer, size_t row) {
    const fb_trajectory_error *e =
        &step->states[state][layer * j->record->options.block_size + row];
    double noise = fmax(e->noise, j->pooled[state][layer]) + ldexp(e->size, -22);
    return e->error > 0.0 ? e->error / noise : 0.0;
}

double fb_trajectory_confidence_ratio(const fb_trajectory_judgement *j,
                                      const fb_trajectory_row *row) {
    double error = fabs(row->error) - row->slack;
    return error > 0.0 ? error / fb_trajectory_sigma(j, row) : 0.0;
}

bool fb_trajectory_same_action(fb_reuse_action a, fb_reuse_action b) {
    bool a_is_full = a == FB_REFRESH_ONLY || a == FB_REFRESH_AND_STORE;
    bool b_is_full = b == FB_REFRESH_ONLY || b == FB_REFRESH_AND_STORE;
    return a == b || (a_is_full && b_is_full);
}

#include "oracle/trajectory_spread.h"

#include <math.h>

/* Errors over noise. */
typedef struct spread {
    double count, sum, square;
    double small; /* how many are below a tenth of the noise */
} spread;

/* Twelve right records of tests/trajectory_port.py in f16 and bf16 have at least 0.57, and at most
 * 0.25, 0.41 and 0.09. */
static const double SMALLEST_RMS = 0.2, LARGEST_SHARE_OF_SMALL = 0.5, LARGEST_BIAS = 0.75,
                    LARGEST_ALONG = 0.5;
enum { FEWEST = 8 };

static void add(spread *s, double ratio) {
    s->count += 1.0;
    s->sum += ratio;
    s->square += ratio * ratio;
    s->small += fabs(ratio) < 0.1 ? 1.0 : 0.0;
}

/* Large enough, and nearly everywhere. */
static bool is_large_and_wide(const spread *s) {
    return sqrt(s->square / s->count) >= SMALLEST_RMS &&
           s->small <= LARGEST_SHARE_OF_SMALL * s->count;
}

static bool confidences_are_rounded(const fb_trajectory_judgement *j) {
    spread s = {0};
    for (size_t i = 0; i < j->num_steps; i++)
        for (size_t r = 0; r < j->steps[i].num_rows; r++) {
            const fb_trajectory_row *row = &j->steps[i].rows[r];
            if (isfinite(row->error))
                add(&s, row->error / fb_trajectory_sigma(j, row));
        }
    return s.count >= FEWEST && is_large_and_wide(&s) &&
           fabs(s.sum) <= LARGEST_BIAS * sqrt(s.square * s.count);
}

/* Rows of one layer's state: no common factor. */
static bool is_no_factor(const fb_trajectory_judgement *j, fb_trajectory_state state,
                         size_t layer) {
    size_t block = j->record->options.block_size;
    double count = 0.0, along = 0.0;
    for (size_t i = 0; i < j->num_steps; i++)
        for (size_t r = 0; j->steps[i].states[state] && r < block; r++) {
            const fb_trajectory_error *e = &j->steps[i].states[state][layer * block + r];
            count += e->error > 0.0 ? 1.0 : 0.0;
            along += e->along;
        }
    return count < FEWEST || fabs(along) <= LARGEST_ALONG * count;
}

/* The embedding has no noise, and is left out. */
static bool states_are_rounded(const fb_trajectory_judgement *j) {
    spread s = {0};
    size_t block = j->record->options.block_size;
    for (int i = 0; i < FB_TRAJECTORY_NUM_STATES; i++) {
        fb_trajectory_state state = (fb_trajectory_state)i;
        size_t layers = fb_trajectory_state_layers(j->config, state);
        for (size_t layer = 0; j->pooled[i] && layer < layers; layer++) {
            if (!(j->pooled[i][layer] > 0.0))
                continue;
            for (size_t k = 0; k < j->num_steps; k++)
                for (size_t r = 0; j->steps[k].states[i] && r < block; r++)
                    add(&s, fb_trajectory_state_ratio(j, &j->steps[k], state, layer, r));
            if (!is_no_factor(j, state, layer))
                return false;
        }
    }
    return s.count == 0.0 || is_large_and_wide(&s);
}

bool fb_trajectory_looks_rounded(const fb_trajectory_judgement *j) {
    return confidences_are_rounded(j) && states_are_rounded(j);
}

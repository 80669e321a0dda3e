#include "oracle/trajectory_decisions.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* What the strategy looks at, of one masked position: a confidence's logarithm, or an entropy. */
typedef struct key {
    double value, sigma;
} key;

static const fb_trajectory_row *row_at(const fb_trajectory_step *step, size_t position) {
    for (size_t r = 0; r < step->num_rows; r++)
        if (step->rows[r].position == position)
            return &step->rows[r];
    return NULL;
}

/* By the record's own number, or by ours where it has none. */
static key key_of(const fb_trajectory_judgement *j, const fb_trajectory_step *step,
                  size_t position) {
    const fb_trajectory_row *row = row_at(step, position);
    if (!row)
        return (key){NAN, 0.0};
    if (j->record->options.remasking == FB_ENTROPY_BOUNDED) {
        double given = step->ruled ? (double)step->pass->entropy[position] : (double)row->entropy;
        double shape = isnan(row->entropy_shape) ? row->shape : row->entropy_shape;
        return (key){given, shape * fmax(row->noise, j->noise) + 1e-6};
    }
    double given = step->ruled ? (double)step->pass->confidence[position] : (double)row->confidence;
    return (key){log(fmax(given, 1e-37)), fb_trajectory_sigma(j, row)};
}

/* The distance of two positions in units of the noise; equal ones may come in any order. */
static double distance(key a, key b) {
    double gap = fabs(a.value - b.value);
    return gap > 0.0 ? gap / hypot(a.sigma, b.sigma) : 0.0;
}

/* The distance to the threshold. Equal is not above it: that is no tie. */
static double distance_to_threshold(const fb_trajectory_judgement *j,
                                    const fb_trajectory_step *step, size_t position, key own) {
    double threshold = j->record->options.confidence_threshold;
    double given = (double)step->pass->confidence[position];
    if (j->record->options.remasking != FB_LOW_CONFIDENCE_DYNAMIC || !(threshold > 0.0))
        return INFINITY;
    if (step->ruled && given >= threshold && given <= threshold)
        return INFINITY;
    return fabs(own.value - log(threshold)) / own.sigma;
}

/* The sum of entropies up to this position, and the bound. */
static double distance_to_bound(const fb_trajectory_judgement *j, const fb_trajectory_step *step,
                                key own) {
    double sum = 0.0, square = 0.0;
    if (j->record->options.remasking != FB_ENTROPY_BOUNDED)
        return INFINITY;
    for (size_t r = 0; r < step->num_rows; r++) {
        key other = key_of(j, step, step->rows[r].position);
        if (other.value > own.value)
            continue;
        sum += other.value;
        square += other.sigma * other.sigma;
    }
    return fabs(sum - j->record->options.entropy_bound) / sqrt(square);
}

/* How far `position`, on which two sets differ, is from being in the other one: the nearest
 * position that could have taken its place, or the threshold. */
static double distance_of(const fb_trajectory_judgement *j, const fb_trajectory_step *step,
                          const bool *expected, size_t position, size_t *other) {
    key own = key_of(j, step, position);
    double nearest =
        fmin(distance_to_threshold(j, step, position, own), distance_to_bound(j, step, own));
    *other = SIZE_MAX;
    if (j->record->options.remasking == FB_SEQUENTIAL)
        return INFINITY;
    for (size_t i = 0; i < j->record->options.block_size; i++) {
        bool exchanged =
            step->pass->accepted[i] != expected[i] && expected[i] != expected[position];
        double gap = exchanged ? distance(own, key_of(j, step, i)) : INFINITY;
        if (gap < nearest) {
            nearest = gap;
            *other = i;
        }
    }
    return nearest;
}

/* The largest of these distances, and where. */
static double compare_sets(const fb_trajectory_judgement *j, const fb_trajectory_step *step,
                           const bool *expected, size_t *position, size_t *other) {
    double worst = -1.0;
    for (size_t i = 0; i < j->record->options.block_size; i++) {
        size_t instead = SIZE_MAX;
        if (step->pass->accepted[i] == expected[i])
            continue;
        double gap = distance_of(j, step, expected, i, &instead);
        if (gap > worst) {
            worst = gap;
            *position = i;
            *other = instead;
        }
    }
    return worst;
}

static void say_set(const fb_trajectory_step *step, const bool *expected, size_t block, char *text,
                    size_t size) {
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < block && used + 12 < size; i++)
        if (expected ? expected[i] : step->pass->accepted[i])
            used += (size_t)snprintf(text + used, size - used, "%s%zu", used ? ", " : "", i);
    if (used == 0)
        snprintf(text, size, "none");
}

/* An accepted position holds another token than was proposed there. */
static bool find_other_token(const fb_trajectory_judgement *j, size_t index,
                             fb_trajectory_difference *found) {
    const fb_trajectory_pass *pass = j->steps[index].pass;
    for (size_t i = 0; i < j->record->options.block_size; i++) {
        if (!pass->accepted[i] || pass->proposed[i] < 0 || pass->tokens[i] == pass->proposed[i])
            continue;
        *found = (fb_trajectory_difference){.there = true,
                                            .step = index,
                                            .subject = FB_SUBJECT_DECISION,
                                            .position = i,
                                            .size = INFINITY};
        snprintf(found->words, sizeof found->words,
                 "position %zu becomes token %ld, but %ld was proposed there", i,
                 (long)pass->tokens[i], (long)pass->proposed[i]);
        return true;
    }
    return false;
}

void fb_trajectory_grade_decisions(const fb_trajectory_judgement *j, size_t index,
                                   bool numbers_are_wrong, fb_trajectory_difference *found) {
    const fb_trajectory_step *step = &j->steps[index];
    size_t block = j->record->options.block_size, position = 0, other = SIZE_MAX;
    const bool *expected = step->ruled ? step->ruled : step->ours;
    if (find_other_token(j, index, found))
        return;
    bool own = memcmp(expected, step->pass->accepted, block * sizeof(bool)) != 0;
    if (!own) /* by its own numbers the record is right: ours decide otherwise */
        expected = step->ours;
    double gap = compare_sets(j, step, expected, &position, &other);
    if (gap < 0.0)
        return;
    *found = (fb_trajectory_difference){.there = true,
                                        .tie = gap <= j->allowed || (!own && !numbers_are_wrong),
                                        .step = index,
                                        .subject = FB_SUBJECT_DECISION,
                                        .position = position,
                                        .size = gap};
    char theirs[60], ours[60], apart[80] = "";
    say_set(step, NULL, block, theirs, sizeof theirs);
    say_set(step, expected, block, ours, sizeof ours);
    if (isfinite(gap) && other != SIZE_MAX)
        snprintf(apart, sizeof apart, "; %zu and %zu are %.3g times the noise apart", position,
                 other, gap);
    else if (isfinite(gap))
        snprintf(apart, sizeof apart, "; %zu is %.3g times the noise from the threshold", position,
                 gap);
    snprintf(found->words, sizeof found->words,
             "positions %s are accepted, by %s confidences it is %s%s", theirs,
             own && step->ruled ? "the record's own" : "this library's", ours, apart);
}

/* Tokens that are not the ones that should be proposed: what would propose these? */
#include "oracle/trajectory_names.h"

#include <math.h>
#include <stdio.h>

static const char *const words[FB_TRAJECTORY_NUM_OTHER_TOKENS] = {
    [FB_OTHER_BEST] =
        "the best token is proposed, but the record says that they are drawn (temperature)",
    [FB_OTHER_SECOND] = "the second most probable token is proposed",
    [FB_OTHER_OF_NEXT] = "the proposals are those of the position after: logits are off by one",
    [FB_OTHER_OF_PREVIOUS] =
        "the proposals are those of the position before: logits are off by one",
    [FB_OTHER_LOW_HALF] = "the proposals are the best of the lower half of the vocabulary only",
    [FB_OTHER_HIGH_HALF] = "the proposals are the best of the upper half of the vocabulary only",
    [FB_OTHER_BY_RANK] = "uniform is applied in the order of falling probability, not of ids",
    [FB_OTHER_NOISE_TOO_EARLY] =
        "the gumbel noise is added before the division by the temperature, not after it",
};

/* Whether the proposal of a row is wrong by more than the noise. */
static bool is_wrong(const fb_trajectory_judgement *j, const fb_trajectory_step *step,
                     const fb_trajectory_row *row) {
    double noise = row->gap_shape * fmax(row->noise, j->noise);
    return step->pass->proposed[row->position] >= 0 && row->gap > j->allowed * noise;
}

/* Whether a mistake explains the wrong proposals: four of five of them, because its own are not
 * free of noise. At the edge of a block there may be none. */
static bool explains(const fb_trajectory_judgement *j, fb_trajectory_other_token other) {
    bool neighbour = other == FB_OTHER_OF_NEXT || other == FB_OTHER_OF_PREVIOUS;
    size_t explained = 0, wrong = 0;
    for (size_t i = 0; i < j->num_steps; i++) {
        const fb_trajectory_step *step = &j->steps[i];
        for (size_t r = 0; r < step->num_rows; r++) {
            const fb_trajectory_row *row = &step->rows[r];
            if (!is_wrong(j, step, row) || (neighbour && row->others[other] < 0))
                continue;
            wrong++;
            explained += step->pass->proposed[row->position] == row->others[other] ? 1 : 0;
        }
    }
    return explained > 0 && 5 * explained >= 4 * wrong;
}

/* Whether each wrong proposal has the probability that the record says. */
static bool is_drawn(const fb_trajectory_judgement *j) {
    for (size_t i = 0; i < j->num_steps; i++)
        for (size_t r = 0; r < j->steps[i].num_rows; r++) {
            const fb_trajectory_row *row = &j->steps[i].rows[r];
            bool right = fb_trajectory_confidence_ratio(j, row) <= j->allowed && !isnan(row->error);
            if (is_wrong(j, &j->steps[i], row) && !right)
                return false;
        }
    return true;
}

void fb_trajectory_name_proposal(const fb_trajectory_judgement *j, char *name, size_t size) {
    const fb_generate_options *o = &j->record->options;
    int32_t proposed = j->steps[j->mistake.step].pass->proposed[j->mistake.position];
    if (proposed == o->mask_token_id && o->compat == FB_COMPAT_PAPER) {
        snprintf(name, size, "the mask token %ld is proposed: its logit has to be left out",
                 (long)proposed);
        return;
    }
    for (int other = 0; other < FB_TRAJECTORY_NUM_OTHER_TOKENS; other++)
        if (explains(j, (fb_trajectory_other_token)other)) {
            snprintf(name, size, "%s", words[other]);
            return;
        }
    if (!is_drawn(j))
        return;
    bool draws = !o->greedy && o->temperature > 0.0;
    snprintf(name, size, "%s",
             draws
                 ? "the proposed tokens have the probabilities that the record says, but they are "
                   "not those that its random numbers draw"
                 : "the proposed tokens have the probabilities that the record says, but they are "
                   "not the most probable ones: are they drawn? The record says greedy");
}

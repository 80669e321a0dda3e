/* Which rule accepts the positions that the record accepts. Other rules are tried on the record's
 * own numbers; one that gives every decision of the record is the answer. */
#include "decode/remask.h"
#include "oracle/trajectory_names.h"

#include <math.h>
#include <stdio.h>

typedef enum other_rule {
    AT_LEAST = 0,
    ONLY_THRESHOLD,
    CAPPED,
    FALLBACK_OF_ONE,
    REMAINDER_LAST,
    SHARE_OF_MASKED,
    LEAST_CONFIDENT,
    LAST_POSITIONS,
    FIRST_POSITIONS,
    ONE_MORE,
    ONE_LESS,
    ALL_POSITIONS,
    NUM_OTHER_RULES
} other_rule;

static const char *const rule_words[NUM_OTHER_RULES] = {
    [AT_LEAST] = "a confidence equal to the threshold is accepted: >= in place of >",
    [ONLY_THRESHOLD] = "only what is above the threshold is accepted: the budget is not looked at",
    [CAPPED] = "no more than the budget is accepted, even if more is above the threshold",
    [FALLBACK_OF_ONE] = "where too few are above the threshold one position is accepted, not the "
                        "step's budget",
    [REMAINDER_LAST] = "the remainder of block_size / denoising_steps goes to the last steps, not "
                       "to the first",
    [SHARE_OF_MASKED] = "the budgets are shares of the masked positions, not of the block",
    [LEAST_CONFIDENT] = "the least confident positions are accepted, not the most confident ones",
    [LAST_POSITIONS] = "the highest position is taken for the highest confidence",
    [FIRST_POSITIONS] = "the first masked positions are accepted, whatever their confidence",
    [ONE_MORE] = "each step's budget is one token larger than it should be",
    [ONE_LESS] = "each step's budget is one token smaller than it should be",
    [ALL_POSITIONS] = "all masked positions are accepted at once",
};

enum { MAX_BLOCK_OF_RULES = 1024 };

/* --- the rules -------------------------------------------------------------------------------- */

static fb_remask_step remask_step(const fb_trajectory_judgement *j, const fb_trajectory_step *step,
                                  const float *confidence) {
    const fb_generate_options *o = &j->record->options;
    return (fb_remask_step){
        .strategy = o->remasking,
        .block_size = o->block_size,
        .budget = fb_remask_budget(o->block_size, o->denoising_steps, step->pass->step),
        .masked = step->pass->masked,
        .confidence = confidence,
        .entropy = step->pass->entropy,
        .confidence_threshold = o->confidence_threshold,
        .entropy_bound = o->entropy_bound,
    };
}

/* What a rule orders positions by: the record's confidences, or something else. */
static void fill_keys(const fb_trajectory_step *step, other_rule rule, size_t block, float *keys) {
    for (size_t i = 0; i < block; i++) {
        float own = step->pass->masked[i] ? step->pass->confidence[i] : 0.0f;
        keys[i] = rule == LEAST_CONFIDENT   ? -own
                  : rule == LAST_POSITIONS  ? (float)i
                  : rule == FIRST_POSITIONS ? -(float)i
                                            : own;
    }
}

/* Masked positions of the block's first step. */
static size_t masked_at_first(const fb_trajectory_judgement *j, const fb_trajectory_step *step) {
    const fb_trajectory_step *first = step - step->pass->step;
    size_t count = 0;
    for (size_t i = 0; i < j->record->options.block_size; i++)
        count += first->pass->masked[i] ? 1 : 0;
    return count;
}

static size_t other_budget(const fb_trajectory_judgement *j, const fb_trajectory_step *step,
                           other_rule rule, size_t budget) {
    size_t block = j->record->options.block_size, steps = j->record->options.denoising_steps;
    size_t at = step->pass->step;
    switch (rule) {
    case ONLY_THRESHOLD:
        return 0;
    case ONE_MORE:
        return budget < block ? budget + 1 : block;
    case ALL_POSITIONS:
        return block;
    case ONE_LESS:
        return budget - (budget > 0 ? 1 : 0);
    case REMAINDER_LAST:
        return at < steps ? block / steps + (at >= steps - block % steps ? 1 : 0) : 1;
    case SHARE_OF_MASKED:
        return fb_remask_budget(masked_at_first(j, step), steps, at);
    default:
        return budget;
    }
}

static size_t count_above(const fb_trajectory_judgement *j, const fb_trajectory_step *step) {
    size_t count = 0;
    for (size_t r = 0; r < step->num_rows; r++) {
        double given = (double)step->pass->confidence[step->rows[r].position];
        count += given > j->record->options.confidence_threshold ? 1 : 0;
    }
    return count;
}

/* The positions that another rule accepts, by the record's numbers. */
static size_t accept_by(const fb_trajectory_judgement *j, const fb_trajectory_step *step,
                        other_rule rule, size_t *positions) {
    float keys[MAX_BLOCK_OF_RULES] = {0};
    fill_keys(step, rule, j->record->options.block_size, keys);
    fb_remask_step how = remask_step(j, step, keys);
    bool ordered = rule == LEAST_CONFIDENT || rule == LAST_POSITIONS || rule == FIRST_POSITIONS;
    if (rule == AT_LEAST)
        how.confidence_threshold = nextafter(how.confidence_threshold, -INFINITY);
    if (ordered || (rule == CAPPED && count_above(j, step) > how.budget))
        how.strategy = FB_LOW_CONFIDENCE_STATIC;
    how.budget = other_budget(j, step, rule, how.budget);
    if (rule == FALLBACK_OF_ONE && count_above(j, step) < how.budget)
        how.budget = 1;
    return fb_remask(&how, positions);
}

static bool is_accepted(const fb_trajectory_step *step, const size_t *positions, size_t count) {
    bool equal = count == step->pass->num_accepted;
    for (size_t i = 0; i < count && equal; i++)
        equal = step->pass->accepted[positions[i]];
    return equal;
}

/* --- rules with a number ---------------------------------------------------------------------- */

static bool is_ruled(const fb_trajectory_step *step) {
    return !step->pass->commit && step->ruled;
}

/* Whether the record's options with these changes give every decision. */
static bool options_explain(const fb_trajectory_judgement *j, fb_remasking strategy, size_t steps) {
    size_t positions[MAX_BLOCK_OF_RULES];
    float keys[MAX_BLOCK_OF_RULES] = {0};
    for (size_t i = 0; i < j->num_steps; i++) {
        const fb_trajectory_step *step = &j->steps[i];
        if (!is_ruled(step))
            continue;
        if (strategy == FB_ENTROPY_BOUNDED && !step->pass->entropy)
            return false;
        fill_keys(step, NUM_OTHER_RULES, j->record->options.block_size, keys);
        fb_remask_step how = remask_step(j, step, keys);
        how.strategy = strategy;
        how.budget = fb_remask_budget(how.block_size, steps, step->pass->step);
        if (!is_accepted(step, positions, fb_remask(&how, positions)))
            return false;
    }
    return true;
}

static bool name_strategy(const fb_trajectory_judgement *j, char *name, size_t size) {
    const fb_generate_options *o = &j->record->options;
    for (int other = FB_LOW_CONFIDENCE_DYNAMIC; other <= FB_ENTROPY_BOUNDED; other++) {
        fb_remasking strategy = (fb_remasking)other;
        if (strategy == o->remasking || !options_explain(j, strategy, o->denoising_steps))
            continue;
        snprintf(name, size, "these are the decisions of %s, not of %s",
                 fb_remasking_name(strategy), fb_remasking_name(o->remasking));
        return true;
    }
    return false;
}

static bool name_steps(const fb_trajectory_judgement *j, char *name, size_t size) {
    const fb_generate_options *o = &j->record->options;
    for (size_t steps = 1; steps <= 2 * o->block_size; steps++) {
        if (steps == o->denoising_steps || !options_explain(j, o->remasking, steps))
            continue;
        snprintf(name, size, "these are the decisions of %zu denoising steps, not of %zu", steps,
                 o->denoising_steps);
        return true;
    }
    return false;
}

/* Values that explain every decision: low <= value < high. */
typedef struct range {
    double low, high;
} range;

/* All that is accepted is above the threshold, and nothing else; or the budget is accepted, and at
 * most that is above. */
static bool threshold_of(const fb_trajectory_judgement *j, const fb_trajectory_step *step,
                         range *found) {
    size_t budget = fb_remask_budget(j->record->options.block_size,
                                     j->record->options.denoising_steps, step->pass->step);
    double rejected = -INFINITY, accepted = INFINITY;
    for (size_t r = 0; r < step->num_rows; r++) {
        size_t at = step->rows[r].position;
        double given = (double)step->pass->confidence[at];
        if (step->pass->accepted[at])
            accepted = fmin(accepted, given);
        else
            rejected = fmax(rejected, given);
    }
    if (rejected > accepted)
        return false;
    found->low = fmax(found->low, rejected);
    if (step->pass->num_accepted < budget && step->pass->num_accepted < step->num_rows)
        return false;
    if (step->pass->num_accepted > budget)
        found->high = fmin(found->high, accepted);
    return found->low < found->high;
}

/* The lowest entropies whose sum is below the bound, at least the budget. */
static bool bound_of(const fb_trajectory_judgement *j, const fb_trajectory_step *step,
                     range *found) {
    size_t budget = fb_remask_budget(j->record->options.block_size,
                                     j->record->options.denoising_steps, step->pass->step);
    double sum = 0.0, next = INFINITY, highest = -INFINITY;
    for (size_t r = 0; r < step->num_rows; r++) {
        size_t at = step->rows[r].position;
        double given = (double)step->pass->entropy[at];
        if (step->pass->accepted[at]) {
            sum += given;
            highest = fmax(highest, given);
        } else
            next = fmin(next, given);
    }
    if (next < highest)
        return false;
    if (step->pass->num_accepted > (budget > 1 ? budget : 1))
        found->low = fmax(found->low, sum);
    found->high = fmin(found->high, sum + next);
    return found->low < found->high;
}

/* The shortest number of a range. */
static double shortest_in(const range *found, double from) {
    for (double unit = 1.0; unit > 1e-6; unit /= 10.0) {
        double least = ceil(found->low / unit), most = ceil(found->high / unit) - 1.0;
        if (least <= most)
            return fmin(fmax(rint(from / unit), least), most) * unit;
    }
    return found->low;
}

static bool name_number(const fb_trajectory_judgement *j, char *name, size_t size) {
    const fb_generate_options *o = &j->record->options;
    bool dynamic = o->remasking == FB_LOW_CONFIDENCE_DYNAMIC;
    range found = {dynamic ? -INFINITY : 0.0, INFINITY};
    double own = dynamic ? o->confidence_threshold : o->entropy_bound;
    if (!dynamic && o->remasking != FB_ENTROPY_BOUNDED)
        return false;
    for (size_t i = 0; i < j->num_steps; i++)
        if (is_ruled(&j->steps[i]) &&
            !(dynamic ? threshold_of(j, &j->steps[i], &found) : bound_of(j, &j->steps[i], &found)))
            return false;
    if (own >= found.low && own < found.high)
        return false;
    const char *what = dynamic ? "confidence threshold" : "entropy bound";
    if (isinf(found.low) || isinf(found.high))
        snprintf(name, size, "these are the decisions of another %s, not of %.6g: one %s %.6g",
                 what, own, isinf(found.low) ? "below" : "of at least",
                 isinf(found.low) ? found.high : found.low);
    else
        snprintf(name, size,
                 "these are the decisions of another %s, not of %.6g: one from %.6g to %.6g (%.6g, "
                 "say)",
                 what, own, found.low, found.high, shortest_in(&found, own));
    return true;
}

static bool name_rule(const fb_trajectory_judgement *j, char *name, size_t size, other_rule first,
                      other_rule end) {
    size_t positions[MAX_BLOCK_OF_RULES];
    for (other_rule rule = first; rule < end; rule++) {
        bool dynamic = rule <= FALLBACK_OF_ONE;
        bool all = !dynamic || j->record->options.remasking == FB_LOW_CONFIDENCE_DYNAMIC;
        for (size_t i = 0; i < j->num_steps && all; i++)
            if (is_ruled(&j->steps[i]))
                all = is_accepted(&j->steps[i], positions,
                                  accept_by(j, &j->steps[i], rule, positions));
        if (!all)
            continue;
        snprintf(name, size, "%s", rule_words[rule]);
        return true;
    }
    return false;
}

/* --- tokens ----------------------------------------------------------------------------------- */

/* Whether what is written at each accepted position was proposed `offset` positions further. */
static bool is_shifted(const fb_trajectory_judgement *j, const fb_trajectory_pass *pass,
                       long offset) {
    long block = (long)j->record->options.block_size;
    for (long i = 0; i < block; i++) {
        bool inside = i + offset >= 0 && i + offset < block;
        if (pass->accepted[i] && inside && pass->proposed[i + offset] >= 0 &&
            pass->tokens[i] != pass->proposed[i + offset])
            return false;
    }
    return true;
}

/* Whether the accepted positions hold each other's proposals. */
static bool is_permuted(const fb_trajectory_judgement *j, const fb_trajectory_pass *pass) {
    size_t block = j->record->options.block_size;
    for (size_t i = 0; i < block; i++) {
        size_t written = 0, proposed = 0;
        for (size_t k = 0; k < block && pass->accepted[i]; k++) {
            written += pass->accepted[k] && pass->tokens[k] == pass->tokens[i] ? 1 : 0;
            proposed += pass->accepted[k] && pass->proposed[k] == pass->tokens[i] ? 1 : 0;
        }
        if (written != proposed)
            return false;
    }
    return true;
}

static bool name_token(const fb_trajectory_judgement *j, char *name, size_t size) {
    const fb_trajectory_pass *pass = j->steps[j->mistake.step].pass;
    size_t at = j->mistake.position;
    if (!pass->accepted[at] || pass->proposed[at] < 0 || pass->tokens[at] == pass->proposed[at])
        return false;
    const char *what =
        is_permuted(j, pass) ? "the accepted positions hold each other's proposals: another order"
        : is_shifted(j, pass, 1)  ? "the tokens are those proposed one position after"
        : is_shifted(j, pass, -1) ? "the tokens are those proposed one position before"
                                  : "a token is written that was not proposed there";
    snprintf(name, size, "%s", what);
    return true;
}

void fb_trajectory_name_decision(const fb_trajectory_judgement *j, char *name, size_t size) {
    if (name_token(j, name, size) || j->record->options.block_size > MAX_BLOCK_OF_RULES)
        return;
    if (name_rule(j, name, size, AT_LEAST, ONLY_THRESHOLD) || name_strategy(j, name, size) ||
        name_number(j, name, size))
        return;
    if (!name_rule(j, name, size, ONLY_THRESHOLD, LEAST_CONFIDENT) && !name_steps(j, name, size))
        name_rule(j, name, size, LEAST_CONFIDENT, NUM_OTHER_RULES);
}

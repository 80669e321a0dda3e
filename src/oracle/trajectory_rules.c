/* Which rule gives the record's decisions: of refresh and reuse, of the positions that are
 * accepted. */
#include "decode/remask.h"
#include "oracle/trajectory_names.h"

#include <math.h>
#include <stdio.h>

/* --- which rule is it? ------------------------------------------------------------------------ */

typedef enum other_rule {
    AT_LEAST,
    LEAST_CONFIDENT,
    LAST_POSITIONS,
    FIRST_POSITIONS,
    NO_THRESHOLD,
    ONLY_THRESHOLD,
    ONE_MORE,
    ONE_LESS,
    ALL_POSITIONS,
    NUM_OTHER_RULES
} other_rule;

static const char *const rule_words[NUM_OTHER_RULES] = {
    [AT_LEAST] = "a confidence equal to the threshold is accepted: >= in place of >",
    [LEAST_CONFIDENT] = "the least confident positions are accepted, not the most confident ones",
    [LAST_POSITIONS] = "the highest position is taken for the highest confidence",
    [FIRST_POSITIONS] = "the first masked positions are accepted, whatever their confidence",
    [NO_THRESHOLD] = "only the budget is accepted: the threshold is not looked at",
    [ONLY_THRESHOLD] = "only what is above the threshold is accepted: the budget is not looked at",
    [ONE_MORE] = "each step's budget is one token larger than it should be",
    [ONE_LESS] = "each step's budget is one token smaller than it should be",
    [ALL_POSITIONS] = "all masked positions are accepted at once",
};

enum { MAX_BLOCK_OF_RULES = 1024 };

/* The positions that another rule accepts, by the record's numbers. */
static size_t accept_by(const fb_trajectory_judgement *j, const fb_trajectory_step *step,
                        other_rule rule, size_t *positions) {
    const fb_generate_options *o = &j->record->options;
    float confidence[MAX_BLOCK_OF_RULES] = {0};
    size_t block = o->block_size;
    fb_remask_step how = {
        .strategy = o->remasking,
        .block_size = block,
        .budget = fb_remask_budget(block, o->denoising_steps, step->pass->step),
        .masked = step->pass->masked,
        .confidence = confidence,
        .entropy = step->pass->entropy,
        .confidence_threshold = o->confidence_threshold,
        .entropy_bound = o->entropy_bound,
    };
    for (size_t i = 0; i < block; i++) {
        float own = step->pass->masked[i] ? step->pass->confidence[i] : 0.0f;
        confidence[i] = rule == LEAST_CONFIDENT   ? -own
                        : rule == LAST_POSITIONS  ? (float)i
                        : rule == FIRST_POSITIONS ? -(float)i
                                                  : own;
    }
    if (rule == AT_LEAST)
        how.confidence_threshold = nextafter(how.confidence_threshold, -INFINITY);
    if (rule == NO_THRESHOLD || rule == LEAST_CONFIDENT || rule == LAST_POSITIONS ||
        rule == FIRST_POSITIONS)
        how.strategy = FB_LOW_CONFIDENCE_STATIC;
    if (rule == ONLY_THRESHOLD)
        how.budget = 0;
    if (rule == ONE_MORE || rule == ALL_POSITIONS)
        how.budget = rule == ONE_MORE && how.budget < block ? how.budget + 1 : block;
    if (rule == ONE_LESS)
        how.budget -= how.budget > 0 ? 1 : 0;
    return fb_remask(&how, positions);
}

static bool explains(const fb_trajectory_judgement *j, const fb_trajectory_step *step,
                     other_rule rule) {
    size_t positions[MAX_BLOCK_OF_RULES], count = accept_by(j, step, rule, positions);
    bool equal = count == step->pass->num_accepted;
    for (size_t i = 0; i < count && equal; i++)
        equal = step->pass->accepted[positions[i]];
    return equal;
}

static const char *name_remasking(const fb_trajectory_judgement *j) {
    const fb_generate_options *o = &j->record->options;
    if (o->block_size > MAX_BLOCK_OF_RULES)
        return "";
    for (int rule = 0; rule < NUM_OTHER_RULES; rule++) {
        bool dynamic = rule == AT_LEAST || rule == NO_THRESHOLD || rule == ONLY_THRESHOLD;
        bool all = !dynamic || o->remasking == FB_LOW_CONFIDENCE_DYNAMIC;
        for (size_t i = 0; i < j->num_steps && all; i++)
            if (!j->steps[i].pass->commit && j->steps[i].ruled)
                all = explains(j, &j->steps[i], (other_rule)rule);
        if (all)
            return rule_words[rule];
    }
    return "";
}

/* --- refresh or reuse ------------------------------------------------------------------------- */

/* Whether the rule with another tau gives every action of the record, in its own history. */
static bool tau_explains(const fb_trajectory_judgement *j, size_t tau) {
    fb_reuse_policy policy = j->record->options.reuse;
    policy.tau = tau;
    for (size_t i = 0; i < j->num_steps; i++) {
        const fb_trajectory_step *s = &j->steps[i];
        fb_reuse_step step = {
            .denoising_step = s->pass->step,
            .denoising_steps = j->record->options.denoising_steps,
            .dirty_tokens = s->dirty,
            .masked_tokens = s->masked,
            .budget = fb_remask_budget(j->record->options.block_size,
                                       j->record->options.denoising_steps, s->pass->step),
            .commit = s->pass->commit,
        };
        if (s->pass->has_action &&
            !fb_trajectory_same_action(fb_reuse_decide(&policy, &step), s->action))
            return false;
    }
    return true;
}

static void name_actions(const fb_trajectory_judgement *j, char *name, size_t size) {
    const fb_generate_options *o = &j->record->options;
    const fb_trajectory_step *step = &j->steps[j->mistake.step];
    for (size_t tau = 0; tau <= o->block_size + 1 && !o->reuse.rows; tau++) {
        if (tau == o->reuse.tau || !tau_explains(j, tau))
            continue;
        if (tau > o->reuse.tau)
            snprintf(name, size,
                     "the refresh comes too late: these are the actions of tau %zu, not %zu", tau,
                     o->reuse.tau);
        else
            snprintf(name, size,
                     "the refresh comes too early: these are the actions of tau %zu, not %zu", tau,
                     o->reuse.tau);
        return;
    }
    if (step->action == FB_REUSE && step->pass->commit)
        snprintf(name, size, "the pass over a finished block reuses");
    else if (step->action == FB_REUSE && step->pass->step == 0)
        snprintf(name, size, "a block's first step reuses what an earlier block left");
    else if (step->action == FB_REUSE)
        snprintf(name, size, "a reuse where the rule refreshes");
    else
        snprintf(name, size, "a refresh where the rule reuses");
}

void fb_trajectory_name_rule(const fb_trajectory_judgement *j, char *name, size_t size) {
    if (j->mistake.subject == FB_SUBJECT_ACTION)
        name_actions(j, name, size);
    if (j->mistake.subject == FB_SUBJECT_DECISION)
        snprintf(name, size, "%s", name_remasking(j));
}

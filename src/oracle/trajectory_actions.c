/* Which rule of refresh and reuse gives the record's actions. */
#include "decode/remask.h"
#include "oracle/trajectory_names.h"

#include <stdio.h>

/* Wrong ways to count dirty tokens. */
typedef enum dirty_count {
    AS_IT_IS = 0,
    WITHOUT_THE_REFRESH,
    NEVER_RESET,
    OF_THE_LAST_STEP,
    OF_STEPS,
    OF_DECIDED,
    AFTER_THE_STEP,
    A_STEP_LATE,
    NUM_DIRTY_COUNTS
} dirty_count;

static const char *const count_words[NUM_DIRTY_COUNTS] = {
    [WITHOUT_THE_REFRESH] = "dirty tokens are counted without those of the refreshing step itself",
    [NEVER_RESET] = "dirty tokens are counted from the block's first step on: a refresh does not "
                    "begin anew",
    [OF_THE_LAST_STEP] = "only the dirty tokens of the step before are counted",
    [OF_STEPS] = "steps are counted, not the tokens that they accept",
    [OF_DECIDED] = "all decided positions of the block are counted as dirty",
    [AFTER_THE_STEP] = "the tokens of the step itself are counted before it: a step too early",
    [A_STEP_LATE] = "the count of dirty tokens is a step old: a step too late",
};

/* The count before step i of the block that begins at `first`, by the record's own actions. */
static size_t count_dirty(const fb_trajectory_judgement *j, size_t first, size_t i,
                          dirty_count how) {
    const fb_trajectory_step *s = j->steps;
    size_t count = 0, end = how == A_STEP_LATE && i > first ? i - 1 : i;
    if (how == AS_IT_IS)
        return s[i].dirty;
    if (how == OF_DECIDED)
        return j->record->options.block_size - s[i].masked;
    for (size_t k = first; k < end; k++) {
        bool refreshes = s[k].action != FB_REUSE;
        if (how == OF_THE_LAST_STEP || (refreshes && how != NEVER_RESET))
            count = 0;
        if (how == OF_STEPS)
            count++;
        else if (how != WITHOUT_THE_REFRESH || !refreshes)
            count += s[k].pass->num_accepted;
    }
    return how == AFTER_THE_STEP ? count + s[i].pass->num_accepted : count;
}

/* Whether the rule with another tau, or another count, gives every action of the record, in its own
 * history. */
static bool explains(const fb_trajectory_judgement *j, size_t tau, dirty_count how) {
    fb_reuse_policy policy = j->record->options.reuse;
    size_t first = 0;
    policy.tau = tau;
    for (size_t i = 0; i < j->num_steps; i++) {
        const fb_trajectory_step *s = &j->steps[i];
        if (i > 0 && s->pass->block != j->steps[i - 1].pass->block)
            first = i;
        fb_reuse_step step = {
            .denoising_step = s->pass->step,
            .denoising_steps = j->record->options.denoising_steps,
            .dirty_tokens = count_dirty(j, first, i, how),
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

static void add(char *name, size_t size, const char *words) {
    size_t used = 0;
    while (used < size && name[used])
        used++;
    snprintf(name + used, size - used, "%s%s", used ? "; or " : "", words);
}

static const char *direction(const fb_trajectory_judgement *j) {
    return j->steps[j->mistake.step].action == FB_REUSE ? "late" : "early";
}

/* Another tau, or another count. Several can explain a short record: the first two are said. */
static bool name_count(const fb_trajectory_judgement *j, char *name, size_t size) {
    const fb_generate_options *o = &j->record->options;
    char words[200];
    size_t found = 0;
    for (size_t tau = 0; tau <= o->block_size + 1 && found == 0; tau++) {
        if (tau == o->reuse.tau || !explains(j, tau, AS_IT_IS))
            continue;
        snprintf(words, sizeof words,
                 "the refresh comes too %s: these are the actions of tau %zu, not %zu",
                 direction(j), tau, o->reuse.tau);
        add(name, size, words);
        found++;
    }
    for (int how = AS_IT_IS + 1; how < NUM_DIRTY_COUNTS && found < 2; how++) {
        if (!explains(j, o->reuse.tau, (dirty_count)how))
            continue;
        if (found == 0)
            snprintf(words, sizeof words, "the refresh comes too %s: %s", direction(j),
                     count_words[how]);
        else
            snprintf(words, sizeof words, "%s", count_words[how]);
        add(name, size, words);
        found++;
    }
    return found > 0;
}

void fb_trajectory_name_action(const fb_trajectory_judgement *j, char *name, size_t size) {
    const fb_trajectory_step *step = &j->steps[j->mistake.step];
    bool reuses = step->action == FB_REUSE;
    if (!j->record->options.reuse.rows && name_count(j, name, size))
        return;
    const char *what = reuses && step->pass->commit ? "the pass over a finished block reuses"
                       : reuses && step->pass->step == 0
                           ? "a block's first step reuses what an earlier block left"
                       : reuses ? "a reuse where the rule refreshes"
                                : "a refresh where the rule reuses";
    snprintf(name, size, "%s", what);
}

/* The rule that decides between refresh and reuse (engine: Scheduler.schedule). */
#include <flashblock/reuse.h>

const char *fb_reuse_action_name(fb_reuse_action action) {
    switch (action) {
    case FB_REFRESH_AND_STORE:
        return "refresh+store";
    case FB_REFRESH_ONLY:
        return "refresh";
    case FB_REUSE:
        return "reuse";
    case FB_REFRESH_ROWS:
        return "refresh rows";
    case FB_REFRESH_HEADS:
        return "refresh heads";
    }
    return "unknown";
}

static bool may_reuse(const fb_reuse_policy *policy, const fb_reuse_step *step) {
    if (step->denoising_step == 0)
        return false;
    if (step->commit && !policy->reuse_at_commit)
        return false;
    return step->dirty_tokens < policy->tau || (policy->reuse_always && !step->commit);
}

/* A part that no later step can use is not worth keeping. */
static bool block_ends_here(const fb_reuse_step *step) {
    size_t accepted = step->budget > 1 ? step->budget : 1;
    return step->commit || step->masked_tokens <= accepted ||
           step->denoising_step + 1 >= step->denoising_steps;
}

/* Whether it is time to compute all rows. */
static bool full_refresh_due(const fb_reuse_policy *policy, const fb_reuse_step *step) {
    if (step->commit)
        return policy->refresh_commit;
    return (policy->refresh_every > 0 && step->steps_since_full >= policy->refresh_every) ||
           (policy->refresh_dirty > 0 && step->accepted_since_full >= policy->refresh_dirty);
}

/* All rows at first, kept even if the block is expected to end: the commit pass keeps rows, too. */
static fb_reuse_action decide_by_rows(const fb_reuse_policy *policy, const fb_reuse_step *step) {
    if (step->denoising_step == 0)
        return FB_REFRESH_AND_STORE;
    if (full_refresh_due(policy, step))
        return step->commit ? FB_REFRESH_ONLY : FB_REFRESH_AND_STORE;
    if (step->dirty_tokens == 0 || may_reuse(policy, step))
        return FB_REUSE;
    return FB_REFRESH_ROWS;
}

fb_reuse_action fb_reuse_decide(const fb_reuse_policy *policy, const fb_reuse_step *step) {
    if (policy->tau == 0)
        return FB_REFRESH_ONLY;
    if (policy->rows)
        return decide_by_rows(policy, step);
    if (may_reuse(policy, step))
        return FB_REUSE;
    return block_ends_here(step) ? FB_REFRESH_ONLY : FB_REFRESH_AND_STORE;
}

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

fb_reuse_action fb_reuse_decide(const fb_reuse_policy *policy, const fb_reuse_step *step) {
    if (policy->tau == 0)
        return FB_REFRESH_ONLY;
    if (may_reuse(policy, step))
        return FB_REUSE;
    return block_ends_here(step) ? FB_REFRESH_ONLY : FB_REFRESH_AND_STORE;
}

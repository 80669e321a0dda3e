#include "bench/block_script.h"

bool fb_block_script_next(fb_block_script *script, fb_reuse_action *action) {
    if (script->step > script->steps)
        return false;
    fb_reuse_policy policy = {.tau = script->tau, .rows = script->rows};
    size_t masked = script->tokens - script->accepted;
    size_t budget = script->tokens / script->steps;
    budget += script->step < script->tokens % script->steps;
    budget = budget < masked ? budget : masked;
    fb_reuse_step now = {
        .denoising_step = script->step,
        .denoising_steps = script->steps,
        .dirty_tokens = script->dirty,
        .masked_tokens = masked,
        .budget = budget,
        .commit = script->step == script->steps,
    };
    *action = fb_reuse_decide(&policy, &now);
    script->first_row = script->accepted - script->dirty;
    script->num_rows = script->dirty;
    if (*action != FB_REUSE)
        script->dirty = 0;
    script->dirty += budget;
    script->accepted += budget;
    script->step++;
    return true;
}

size_t fb_block_script_reuses(size_t tokens, size_t steps, size_t tau) {
    fb_block_script script = {.tokens = tokens, .steps = steps, .tau = tau};
    fb_reuse_action action;
    size_t reuses = 0;
    while (fb_block_script_next(&script, &action))
        reuses += action == FB_REUSE;
    return reuses;
}

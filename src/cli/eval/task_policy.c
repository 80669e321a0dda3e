#include "cli/eval/task_policy.h"

#include "base/error.h"
#include "cli/eval/policy.h"
#include "cli/options/selector_names.h"

#include <stdio.h>
#include <string.h>

/* T of tau:T or residual:T. */
static bool take_tau(const char **text, fb_task_policy_choice *choice) {
    if (fb_policy_take_word(text, "block"))
        return choice->tau_is_block = true;
    return fb_policy_take_number(text, &choice->policy.reuse.tau);
}

/* A refresh at a block's first step only; no block has so many tokens that the commit refreshes. */
static void refresh_once(fb_reuse_policy *reuse) {
    reuse->tau = (size_t)1 << 30;
    reuse->reuse_always = reuse->reuse_at_commit = true;
}

static bool take_residual(const char **text, fb_task_policy_choice *choice) {
    choice->sparse.residual = FB_RESIDUAL_CACHED;
    if (fb_policy_take_word(text, "once"))
        refresh_once(&choice->policy.reuse);
    else if (!take_tau(text, choice))
        return false;
    choice->policy.sparse_first = fb_policy_take_word(text, "+sparse-first");
    return true;
}

static bool take_sparse(const char **text, const char *selector, fb_task_policy_choice *choice) {
    size_t percent = 0;
    if (!fb_policy_take_word(text, "@") || !fb_policy_take_number(text, &percent) || percent > 100)
        return false;
    choice->is_sparse = true;
    fb_sparse_options_init(&choice->sparse);
    choice->sparse.selector = selector;
    choice->sparse.density = (double)percent / 100.0;
    if (fb_policy_take_word(text, "+first"))
        return choice->policy.exact_first = true;
    return !fb_policy_take_word(text, "+residual:") || take_residual(text, choice);
}

static bool take_choice(const char **text, fb_task_policy_choice *choice) {
    *choice = (fb_task_policy_choice){0};
    for (size_t i = 0; fb_selector_name_at(i); i++) {
        const char *name = fb_selector_name_at(i);
        size_t length = strlen(name);
        if (strncmp(*text, name, length) == 0 && (*text)[length] == '@') {
            *text += length;
            return take_sparse(text, name, choice);
        }
    }
    if (fb_policy_take_word(text, "never")) {
        refresh_once(&choice->policy.reuse);
        return true;
    }
    if (fb_policy_take_word(text, "tau:block"))
        return choice->tau_is_block = true;
    return fb_policy_take(text, &choice->policy.reuse);
}

fb_status fb_task_policy_list_parse(const char *text, void *target) {
    fb_task_policy_list *list = target;
    list->count = 0;
    for (const char *at = text;; at++) {
        const char *begin = at;
        if (list->count == FB_TASK_POLICY_LIST_MAX)
            return fb_fail(FB_ERROR_ARGUMENT, "more than %d policies", FB_TASK_POLICY_LIST_MAX);
        fb_task_policy_choice *choice = &list->choices[list->count];
        if (!take_choice(&at, choice) || (*at != ',' && *at != '\0'))
            return fb_fail(FB_ERROR_ARGUMENT,
                           "'%s' is not a list of policies such as "
                           "dense,tau:2,never,quest@20,quest@20+residual:4",
                           text);
        snprintf(choice->name, sizeof choice->name, "%.*s", (int)(at - begin), begin);
        list->count++;
        if (*at == '\0')
            return FB_OK;
    }
}

fb_task_policy fb_task_policy_of(const fb_task_policy_choice *choice, size_t block_size) {
    fb_task_policy policy = choice->policy;
    if (choice->tau_is_block)
        policy.reuse.tau = block_size;
    policy.sparse = choice->is_sparse ? &choice->sparse : NULL;
    return policy;
}

#include "cli/eval/policy.h"

#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t largest = (size_t)1 << 30;

bool fb_policy_take_word(const char **text, const char *word) {
    size_t length = strlen(word);
    if (strncmp(*text, word, length) != 0)
        return false;
    *text += length;
    return true;
}

bool fb_policy_take_number(const char **text, size_t *number) {
    if (**text < '1' || **text > '9') /* strtoull would take spaces and signs */
        return false;
    char *end = NULL;
    unsigned long long value = strtoull(*text, &end, 10);
    *text = end;
    *number = (size_t)value;
    return value <= largest;
}

/* The word after a '+'. */
static bool take_addition(const char **text, fb_reuse_policy *policy) {
    if (fb_policy_take_word(text, "correction"))
        return policy->correction = true;
    if (!policy->rows)
        return false;
    if (fb_policy_take_word(text, "every:"))
        return fb_policy_take_number(text, &policy->refresh_every);
    if (fb_policy_take_word(text, "dirty:"))
        return fb_policy_take_number(text, &policy->refresh_dirty);
    return fb_policy_take_word(text, "commit") && (policy->refresh_commit = true);
}

bool fb_policy_take(const char **text, fb_reuse_policy *policy) {
    *policy = (fb_reuse_policy){0};
    if (fb_policy_take_word(text, "dense"))
        return true;
    if (fb_policy_take_word(text, "rows")) {
        policy->rows = true;
        policy->tau = 1;
        if (fb_policy_take_word(text, ":") && !fb_policy_take_number(text, &policy->tau))
            return false;
    } else if (!fb_policy_take_word(text, "tau:") || !fb_policy_take_number(text, &policy->tau)) {
        return false;
    }
    while (fb_policy_take_word(text, "+"))
        if (!take_addition(text, policy))
            return false;
    return true;
}

fb_status fb_policy_list_parse(const char *text, void *target) {
    fb_policy_list list = {0};
    for (const char *at = text;; at++) {
        if (list.count == FB_POLICY_LIST_MAX)
            return fb_fail(FB_ERROR_ARGUMENT, "'%s' holds more than %d policies", text,
                           FB_POLICY_LIST_MAX);
        if (!fb_policy_take(&at, &list.policies[list.count++]) || (*at != ',' && *at != '\0'))
            return fb_fail(FB_ERROR_ARGUMENT,
                           "'%s' is not a list of policies such as dense,tau:2,rows+correction",
                           text);
        if (*at == '\0')
            break;
    }
    *(fb_policy_list *)target = list;
    return FB_OK;
}

void fb_policy_name(const fb_reuse_policy *policy, char name[FB_POLICY_NAME]) {
    char tau[24] = "", every[32] = "", dirty[32] = "";
    if (!policy->rows || policy->tau > 1)
        snprintf(tau, sizeof tau, ":%zu", policy->tau);
    if (policy->refresh_every > 0)
        snprintf(every, sizeof every, "+every:%zu", policy->refresh_every);
    if (policy->refresh_dirty > 0)
        snprintf(dirty, sizeof dirty, "+dirty:%zu", policy->refresh_dirty);
    if (policy->tau == 0)
        snprintf(name, FB_POLICY_NAME, "dense");
    else
        snprintf(name, FB_POLICY_NAME, "%s%s%s%s%s%s", policy->rows ? "rows" : "tau", tau,
                 policy->correction ? "+correction" : "", every, dirty,
                 policy->refresh_commit ? "+commit" : "");
}

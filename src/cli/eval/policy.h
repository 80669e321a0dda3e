/* Names of policies of reuse, for the command line and for results:
 *
 *     dense
 *     tau:T            the paper's rule
 *     rows             refresh by rows; rows:T once T rows are dirty
 *     ...+correction   the first-order correction
 *     rows...+every:N, rows...+dirty:N, rows...+commit
 *                      a full refresh every N steps, after N tokens, at the commit pass
 */
#ifndef FB_CLI_EVAL_POLICY_H
#define FB_CLI_EVAL_POLICY_H

#include <flashblock/reuse.h>
#include <flashblock/status.h>

#include <stdbool.h>
#include <stddef.h>

enum { FB_POLICY_LIST_MAX = 24, FB_POLICY_NAME = 80 };

typedef struct fb_policy_list {
    fb_reuse_policy policies[FB_POLICY_LIST_MAX];
    size_t count;
} fb_policy_list;

/* `parse` of an option whose target is such a list: names with commas between them. */
fb_status fb_policy_list_parse(const char *text, void *list);

/* Takes a name from the beginning of *text, which then points behind it. False where there is none;
 * *text and *policy are then undefined. */
bool fb_policy_take(const char **text, fb_reuse_policy *policy);

/* A number of at least 1, and at most 2^30, in the same way. */
bool fb_policy_take_number(const char **text, size_t *number);

/* A word, which is left where it is unless it stands there. */
bool fb_policy_take_word(const char **text, const char *word);

/* A policy's name, as above. */
void fb_policy_name(const fb_reuse_policy *policy, char name[FB_POLICY_NAME]);

#endif

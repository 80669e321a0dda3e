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

enum { FB_POLICY_LIST_MAX = 24, FB_POLICY_NAME = 80 };

typedef struct fb_policy_list {
    fb_reuse_policy policies[FB_POLICY_LIST_MAX];
    size_t count;
} fb_policy_list;

/* `parse` of an option whose target is such a list: names with commas between them. */
fb_status fb_policy_list_parse(const char *text, void *list);

/* A policy's name, as above. */
void fb_policy_name(const fb_reuse_policy *policy, char name[FB_POLICY_NAME]);

#endif

/* Dense attention and FlashBlock on the same prompts: what each writes, and what each costs. */
#ifndef FB_CLI_GENERATE_COMPARE_H
#define FB_CLI_GENERATE_COMPARE_H

#include "cli/generate/session.h"

#include <stddef.h>

/* Runs both `repeats` times, in turn, and prints texts and a table, or, with `json`, writes JSON
 * to that file ("-": standard output, and nothing else goes there). */
fb_status fb_compare(const fb_session *session, size_t repeats, const char *json);

#endif

/* What a generation cost, in words and as JSON. */
#ifndef FB_CLI_GENERATE_SUMMARY_H
#define FB_CLI_GENERATE_SUMMARY_H

#include "cli/generate/session.h"

#include <flashblock/generate.h>

#include <jansson.h>

/* Three lines on standard error: tokens and speed, passes, time of attention. */
void fb_summary_print(const fb_session *session, const fb_generation *generation);

/* What holds for every generation of a session: version, machine, model, options. The caller's,
 * json_decref; NULL when out of memory. */
json_t *fb_summary_session_json(const fb_session *session);

/* Everything about one generation: texts, token ids, steps, counts, seconds. As above. */
json_t *fb_summary_generation_json(const fb_session *session, const fb_generation *generation);

#endif

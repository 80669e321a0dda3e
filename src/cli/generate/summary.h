/* What a generation cost, in words and as JSON. */
#ifndef FB_CLI_GENERATE_SUMMARY_H
#define FB_CLI_GENERATE_SUMMARY_H

#include "cli/generate/session.h"
#include "io/json_write.h"

#include <flashblock/generate.h>

/* Three lines on standard error: tokens and speed, passes, time of attention. */
void fb_summary_print(const fb_session *session, const fb_generation *generation);

/* A line on standard error if the model's files ask for sampling, and the command line does not say
 * how to draw: what was written is not what they ask for. */
void fb_summary_print_sampling(const fb_session *session);

/* Members of an object. What holds for every generation of a session: version, machine, model,
 * options. */
void fb_summary_put_session(fb_json_writer *w, const fb_session *session);

/* Everything about one generation: texts, token ids, steps, counts, seconds. As above. */
void fb_summary_put_generation(fb_json_writer *w, const fb_session *session,
                               const fb_generation *generation);

#endif

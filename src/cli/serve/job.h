/* A request on its way through the server. The connection and the engine have a reference each;
 * what they share is behind the job's mutex. */
#ifndef FB_CLI_SERVE_JOB_H
#define FB_CLI_SERVE_JOB_H

#include "cli/serve/logprobs.h"
#include "cli/serve/request.h"
#include "decode/conversation.h"

#include <pthread.h>
#include <stdatomic.h>

struct MHD_Connection;
struct fb_serve_job;

/* One of the n texts of a request. Of the engine. */
typedef struct fb_serve_choice {
    struct fb_serve_job *job;
    size_t index;
    bool begun, ended;
    fb_token_stream *stream;
    fb_buffer text;  /* all of it, cut before a stop text */
    fb_buffer piece; /* what a pass adds to it */
    fb_serve_logprobs logprobs;
    size_t sent;  /* of the text, in events */
    bool stopped; /* by a stop text */
    fb_finish_reason finish_reason;
    fb_generate_counts counts;
    size_t kept;
    fb_conversation *conversation; /* while it is being written */
    fb_generate_options options;   /* with its on_step */
} fb_serve_choice;

typedef struct fb_serve_job {
    atomic_int references;
    atomic_bool cancelled; /* the client has gone */
    const fb_serve_model *model;
    fb_serve_request request;
    unsigned long number;
    double arrived, begun; /* seconds */
    fb_serve_choice choices[FB_SERVE_MOST_CHOICES];
    size_t num_begun, num_ended;
    bool failed;               /* of the engine */
    struct fb_serve_job *next; /* in the queue */

    pthread_mutex_t mutex;
    fb_buffer out;                  /* what the client gets: events, or the whole reply */
    size_t taken;                   /* of it */
    bool done;                      /* nothing comes any more */
    bool lost;                      /* of what comes something is missing: the connection ends */
    int code;                       /* of HTTP */
    struct MHD_Connection *waiting; /* suspended until there is something; NULL: none is */
} fb_serve_job;

/* The request becomes the job's. One reference. */
fb_status fb_serve_job_create(const fb_serve_model *model, fb_serve_request *request,
                              fb_serve_job **job);
void fb_serve_job_release(fb_serve_job *job);

/* --- of the engine */

/* Adds text of a choice; false when a stop text ended it, or the client is too slow. */
bool fb_serve_job_add_text(fb_serve_choice *choice, const char *text, size_t length);

/* One more pass of a choice, for a client that asked for them. */
void fb_serve_job_add_pass(fb_serve_choice *choice, const fb_step_event *event);

/* A choice is over; after the last one the client gets the end. */
void fb_serve_job_end_choice(fb_serve_choice *choice);

/* The job failed, and is over. */
void fb_serve_job_fail(fb_serve_job *job, int code, const char *type, const char *message);

/* The same, with the error of a call: 503 where memory is missing. */
void fb_serve_job_fail_with(fb_serve_job *job, fb_status status);

/* Whether the client of a suspended connection has gone, as far as the socket says. */
bool fb_serve_is_closed(struct MHD_Connection *connection);
bool fb_serve_job_is_abandoned(fb_serve_job *job);

/* --- replies of other kinds */

/* An error in OpenAI's form. code: NULL where there is none. */
fb_status fb_serve_error_text(fb_buffer *out, const char *type, const char *code,
                              const char *message);

#endif

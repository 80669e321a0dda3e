/* The thread that owns the model: it takes jobs from a bounded queue, and denoises up to `parallel`
 * texts together (decode/batch.h). Keys and values of finished texts are kept for requests that
 * begin alike. */
#ifndef FB_CLI_SERVE_ENGINE_H
#define FB_CLI_SERVE_ENGINE_H

#include "cli/serve/job.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct fb_serve_engine fb_serve_engine;

/* Starts the thread. The model must outlive it. */
fb_status fb_serve_engine_start(const fb_serve_model *model, size_t parallel, size_t queue,
                                fb_serve_engine **engine);

/* What became of a job that was put in. */
typedef enum fb_serve_put {
    FB_SERVE_QUEUED = 0, /* the engine has a reference */
    FB_SERVE_FULL,
    FB_SERVE_ENDING,
} fb_serve_put;
fb_serve_put fb_serve_engine_put(fb_serve_engine *engine, fb_serve_job *job);

/* Takes no more jobs. Those that there are go on, or end where they are. */
void fb_serve_engine_drain(fb_serve_engine *engine, bool cancel);

/* Whether all jobs are over. */
bool fb_serve_engine_is_idle(fb_serve_engine *engine);

/* Drains, and waits for the end of the thread. Jobs that are put in after it find it ending. */
void fb_serve_engine_stop(fb_serve_engine *engine);

/* Stops and frees. Nobody may know of it any more. NULL is allowed. */
void fb_serve_engine_destroy(fb_serve_engine *engine);

/* Numbers since the start, in Prometheus' text form. */
fb_status fb_serve_engine_metrics(fb_serve_engine *engine, fb_buffer *out);

#endif

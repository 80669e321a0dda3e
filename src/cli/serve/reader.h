/* Reads bodies of requests, in a thread of its own: that of a long text takes seconds, in which the
 * other connections go on. */
#ifndef FB_CLI_SERVE_READER_H
#define FB_CLI_SERVE_READER_H

#include "cli/serve/engine.h"

#include <stdbool.h>

typedef struct fb_serve_reader fb_serve_reader;

/* A body, and what became of it. */
typedef struct fb_serve_reading {
    fb_buffer body;
    bool chat;
    struct MHD_Connection *connection;
    double arrived; /* seconds */
    struct fb_serve_reading *next;

    /* When it is done: */
    fb_status status;
    char message[512]; /* where status is not FB_OK */
    bool other_model;
    fb_serve_job *job; /* a reference */
    fb_serve_put put;  /* whether the engine has it */
} fb_serve_reading;

/* Starts the thread. The model and the engine must outlive it. */
fb_status fb_serve_reader_start(const fb_serve_model *model, fb_serve_engine *engine,
                                fb_serve_reader **reader);

/* Suspends the connection until the body is read, and frees the body then. Of those that wait the
 * shortest one is the next. false: the reader has stopped. */
bool fb_serve_reader_add(fb_serve_reader *reader, fb_serve_reading *reading);

/* Those that wait are not read any more, and no connection is suspended from then on. */
void fb_serve_reader_stop(fb_serve_reader *reader);

/* Stops and frees. NULL is allowed. */
void fb_serve_reader_destroy(fb_serve_reader *reader);

#endif

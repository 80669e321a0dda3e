/* HTTP: connections, routes, keys, limits. */
#ifndef FB_CLI_SERVE_HTTP_H
#define FB_CLI_SERVE_HTTP_H

#include "cli/serve/access.h"
#include "cli/serve/engine.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct fb_serve_http fb_serve_http;

typedef struct fb_serve_http_options {
    const char *host; /* an address */
    size_t port;      /* 0: any that is free */
    fb_serve_access access;
    size_t connections;
    double client_seconds; /* for sending a request, and for reading the end of its reply */
} fb_serve_http_options;

/* An error if it is no address. */
fb_status fb_serve_http_check_host(const char *host);

/* Listens, and answers in a thread of its own. What the options point to must outlive it. */
fb_status fb_serve_http_start(const fb_serve_model *model, fb_serve_engine *engine,
                              const fb_serve_http_options *options, fb_serve_http **http);

/* The port. */
unsigned fb_serve_http_port(const fb_serve_http *http);

/* Ends connections whose time is over. To be called now and then. */
void fb_serve_http_sweep(fb_serve_http *http);

/* Takes no more connections. */
void fb_serve_http_quiesce(fb_serve_http *http);

/* Whether no request is being answered. */
bool fb_serve_http_is_idle(fb_serve_http *http);

/* NULL is allowed. The engine has stopped. */
void fb_serve_http_stop(fb_serve_http *http);

#endif

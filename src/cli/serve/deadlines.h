/* Until when connections may last. The HTTP library closes those on which nothing happens; these
 * are for clients that send or read a byte now and then. */
#ifndef FB_CLI_SERVE_DEADLINES_H
#define FB_CLI_SERVE_DEADLINES_H

#include <flashblock/status.h>

#include <pthread.h>

/* A connection. */
typedef struct fb_serve_deadline {
    int socket;
    double seconds; /* on the clock of fb_seconds */
    struct fb_serve_deadline *next, **from;
} fb_serve_deadline;

typedef struct fb_serve_deadlines {
    pthread_mutex_t mutex;
    fb_serve_deadline *first;
} fb_serve_deadlines;

void fb_serve_deadlines_begin(fb_serve_deadlines *all);

/* The connection has `seconds` from now on. */
fb_status fb_serve_deadline_add(fb_serve_deadlines *all, int socket, double seconds,
                                fb_serve_deadline **deadline);
void fb_serve_deadline_set(fb_serve_deadlines *all, fb_serve_deadline *deadline, double seconds);

/* Before the socket is closed. NULL is allowed. */
void fb_serve_deadline_remove(fb_serve_deadlines *all, fb_serve_deadline *deadline);

/* Ends the connections whose time is over: the library sees that, and closes them. */
void fb_serve_deadlines_sweep(fb_serve_deadlines *all);

/* All are removed. */
void fb_serve_deadlines_end(fb_serve_deadlines *all);

#endif

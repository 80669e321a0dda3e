#include "cli/serve/deadlines.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"

#include <sys/socket.h>

void fb_serve_deadlines_begin(fb_serve_deadlines *all) {
    *all = (fb_serve_deadlines){.first = NULL};
    pthread_mutex_init(&all->mutex, NULL);
}

fb_status fb_serve_deadline_add(fb_serve_deadlines *all, int socket, double seconds,
                                fb_serve_deadline **deadline) {
    fb_serve_deadline *added = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *added, "connection", &added));
    added->socket = socket;
    added->seconds = fb_seconds() + seconds;
    pthread_mutex_lock(&all->mutex);
    added->next = all->first;
    added->from = &all->first;
    if (added->next)
        added->next->from = &added->next;
    all->first = added;
    pthread_mutex_unlock(&all->mutex);
    *deadline = added;
    return FB_OK;
}

void fb_serve_deadline_set(fb_serve_deadlines *all, fb_serve_deadline *deadline, double seconds) {
    pthread_mutex_lock(&all->mutex);
    deadline->seconds = fb_seconds() + seconds;
    pthread_mutex_unlock(&all->mutex);
}

void fb_serve_deadline_remove(fb_serve_deadlines *all, fb_serve_deadline *deadline) {
    if (!deadline)
        return;
    pthread_mutex_lock(&all->mutex);
    *deadline->from = deadline->next;
    if (deadline->next)
        deadline->next->from = deadline->from;
    pthread_mutex_unlock(&all->mutex);
    fb_free(deadline);
}

void fb_serve_deadlines_sweep(fb_serve_deadlines *all) {
    pthread_mutex_lock(&all->mutex);
    for (const fb_serve_deadline *d = all->first; d; d = d->next)
        if (fb_seconds() > d->seconds)
            shutdown(d->socket, SHUT_RDWR);
    pthread_mutex_unlock(&all->mutex);
}

void fb_serve_deadlines_end(fb_serve_deadlines *all) {
    pthread_mutex_destroy(&all->mutex);
}

#include "cli/serve/reader.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"

#include <microhttpd.h>
#include <stdio.h>

struct fb_serve_reader {
    const fb_serve_model *model;
    fb_serve_engine *engine;
    pthread_t thread;
    bool started;

    pthread_mutex_t mutex;
    pthread_cond_t changed;
    fb_serve_reading *first;
    bool ending;
};

/* Of equal ones the one that came first, which is the last of the list. */
static fb_serve_reading *take_shortest(fb_serve_reader *r) {
    fb_serve_reading **shortest = &r->first;
    for (fb_serve_reading **at = &r->first; *at; at = &(*at)->next)
        if ((*at)->body.size <= (*shortest)->body.size)
            shortest = at;
    fb_serve_reading *taken = *shortest;
    if (taken)
        *shortest = taken->next;
    return taken;
}

static fb_status make_job(const fb_serve_reader *r, fb_serve_reading *reading) {
    fb_serve_request request = {0};
    fb_status status = fb_buffer_terminate(&reading->body);
    if (status == FB_OK)
        status = fb_serve_request_read(r->model, reading->chat, (const char *)reading->body.data,
                                       reading->body.size, &request);
    if (status == FB_OK)
        status = fb_serve_job_create(r->model, &request, &reading->job);
    reading->other_model = request.other_model;
    fb_serve_request_free(&request);
    return status;
}

static void read_body(const fb_serve_reader *r, fb_serve_reading *reading) {
    reading->status = make_job(r, reading);
    if (reading->status != FB_OK) {
        snprintf(reading->message, sizeof reading->message, "%s", fb_error_message());
        return;
    }
    reading->job->arrived = reading->arrived;
    reading->put = fb_serve_engine_put(r->engine, reading->job);
}

static void *run(void *reader) {
    fb_serve_reader *r = reader;
    for (;;) {
        pthread_mutex_lock(&r->mutex);
        while (!r->first && !r->ending)
            pthread_cond_wait(&r->changed, &r->mutex);
        fb_serve_reading *reading = take_shortest(r);
        bool ending = r->ending;
        pthread_mutex_unlock(&r->mutex);
        if (!reading)
            return NULL;
        if (ending || fb_serve_is_closed(reading->connection))
            reading->put = FB_SERVE_ENDING;
        else
            read_body(r, reading);
        fb_buffer_free(&reading->body);
        MHD_resume_connection(reading->connection);
    }
}

fb_status fb_serve_reader_start(const fb_serve_model *model, fb_serve_engine *engine,
                                fb_serve_reader **reader) {
    fb_serve_reader *r = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *r, "reader", &r));
    r->model = model;
    r->engine = engine;
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->changed, NULL);
    r->started = pthread_create(&r->thread, NULL, run, r) == 0;
    if (r->started) {
        *reader = r;
        return FB_OK;
    }
    fb_serve_reader_destroy(r);
    return fb_fail(FB_ERROR_MEMORY, "the thread that reads requests cannot be created");
}

bool fb_serve_reader_add(fb_serve_reader *r, fb_serve_reading *reading) {
    pthread_mutex_lock(&r->mutex);
    bool ending = r->ending;
    if (!ending) {
        reading->next = r->first;
        r->first = reading;
        MHD_suspend_connection(reading->connection);
        pthread_cond_signal(&r->changed);
    }
    pthread_mutex_unlock(&r->mutex);
    return !ending;
}

void fb_serve_reader_stop(fb_serve_reader *r) {
    pthread_mutex_lock(&r->mutex);
    r->ending = true;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->mutex);
    if (r->started)
        pthread_join(r->thread, NULL);
    r->started = false;
}

void fb_serve_reader_destroy(fb_serve_reader *r) {
    if (!r)
        return;
    fb_serve_reader_stop(r);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->mutex);
    fb_free(r);
}

#define _GNU_SOURCE /* memmem, POLLRDHUP */
#include "cli/serve/job.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "cli/page/page.h"
#include "io/json_write.h"

#include <microhttpd.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { MOST_UNREAD = 4 << 20 };

static atomic_ulong last_number;

static void begin_logprobs(fb_serve_choice *choice) {
    const fb_serve_job *job = choice->job;
    choice->logprobs = (fb_serve_logprobs){
        .num_top = job->request.top_logprobs,
        .vocab_size = fb_model_config_of(job->model->session->model)->vocab_size,
        .mask_token = job->request.options.mask_token_id,
        .chat = job->request.chat,
    };
}

fb_status fb_serve_job_create(const fb_serve_model *model, fb_serve_request *request,
                              fb_serve_job **job) {
    fb_serve_job *created = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *created, "request", &created));
    atomic_init(&created->references, 1);
    created->model = model;
    created->request = *request;
    *request = (fb_serve_request){0};
    created->number = atomic_fetch_add(&last_number, 1) + 1;
    created->arrived = fb_seconds();
    created->code = 200;
    pthread_mutex_init(&created->mutex, NULL);
    for (size_t i = 0; i < created->request.num_choices; i++) {
        created->choices[i].job = created;
        created->choices[i].index = i;
        begin_logprobs(&created->choices[i]);
    }
    *job = created;
    return FB_OK;
}

void fb_serve_job_release(fb_serve_job *job) {
    if (!job || atomic_fetch_sub(&job->references, 1) > 1)
        return;
    for (size_t i = 0; i < job->request.num_choices; i++) {
        fb_token_stream_destroy(job->choices[i].stream);
        fb_buffer_free(&job->choices[i].text);
        fb_buffer_free(&job->choices[i].piece);
        fb_serve_logprobs_free(&job->choices[i].logprobs);
    }
    fb_serve_request_free(&job->request);
    fb_buffer_free(&job->out);
    pthread_mutex_destroy(&job->mutex);
    fb_free(job);
}

/* --- what the client gets --------------------------------------------------------------------- */

/* With the mutex. */
static void wake(fb_serve_job *job) {
    if (job->waiting)
        MHD_resume_connection(job->waiting);
    job->waiting = NULL;
}

/* A reply that cannot be kept, or that nobody reads, is none: the connection ends. With the mutex.
 */
static void lose(fb_serve_job *job) {
    job->lost = true;
    atomic_store(&job->cancelled, true);
    wake(job);
}

/* text: NULL: there was no memory for it. */
static void put(fb_serve_job *job, const fb_buffer *text, bool event) {
    pthread_mutex_lock(&job->mutex);
    fb_status status = text ? FB_OK : FB_ERROR_MEMORY;
    if (status == FB_OK && event)
        status = fb_buffer_append_text(&job->out, "data: ");
    if (status == FB_OK)
        status = fb_buffer_append(&job->out, text->data, text->size);
    if (status == FB_OK)
        status = fb_buffer_append_text(&job->out, event ? "\n\n" : "\n");
    if (status != FB_OK || (event && job->out.size - job->taken > MOST_UNREAD))
        lose(job);
    else if (event)
        wake(job);
    pthread_mutex_unlock(&job->mutex);
}

static void finish(fb_serve_job *job) {
    pthread_mutex_lock(&job->mutex);
    job->done = true;
    wake(job);
    pthread_mutex_unlock(&job->mutex);
}

static void begin_reply(fb_json_writer *w, const fb_serve_job *job) {
    char id[48];
    const fb_serve_request *r = &job->request;
    snprintf(id, sizeof id, "%s-%lu", r->chat ? "chatcmpl" : "cmpl", job->number);
    fb_json_open_object(w, NULL);
    fb_json_put_string(w, "id", id);
    fb_json_put_string(w, "object",
                       !r->chat    ? "text_completion"
                       : r->stream ? "chat.completion.chunk"
                                   : "chat.completion");
    fb_json_put_int64(w, "created", (int64_t)time(NULL));
    fb_json_put_text(w, "model", job->model->name);
}

/* Puts the reply, and frees its text. */
static void end_reply(fb_serve_job *job, fb_json_writer *w, fb_buffer *text, bool event) {
    fb_json_close_object(w);
    put(job, fb_json_finish(w) == FB_OK ? text : NULL, event);
    fb_buffer_free(text);
}

static const char *reason_of(const fb_serve_choice *choice) {
    return choice->finish_reason == FB_FINISH_STOP || choice->stopped ? "stop" : "length";
}

/* The text from choice->sent to `end`. */
static void put_choice(fb_json_writer *w, fb_serve_choice *choice, size_t end, bool whole,
                       bool first) {
    const char *all = choice->text.data ? (const char *)choice->text.data : "";
    const char *text = all + choice->sent;
    size_t size = end - choice->sent;
    fb_json_open_object(w, NULL);
    fb_json_put_size(w, "index", choice->index);
    if (choice->job->request.chat) {
        fb_json_open_object(w, whole ? "message" : "delta");
        if (first)
            fb_json_put_string(w, "role", "assistant");
        if (size > 0 || whole || first)
            fb_json_put_bytes(w, "content", text, size);
        fb_json_close_object(w);
    } else {
        fb_json_put_bytes(w, "text", text, size);
    }
    if (choice->job->request.logprobs)
        fb_serve_logprobs_put(&choice->logprobs, w, choice->job->model->session->tokenizer, all,
                              end);
    else
        fb_json_put_null(w, "logprobs");
    if (choice->ended)
        fb_json_put_string(w, "finish_reason", reason_of(choice));
    else
        fb_json_put_null(w, "finish_reason");
    fb_json_close_object(w);
}

static void put_usage(fb_json_writer *w, const fb_serve_job *job) {
    size_t prompt = job->request.ids.size / sizeof(int32_t), completion = 0, kept = 0;
    fb_generate_counts sum = {0};
    for (size_t i = 0; i < job->request.num_choices; i++) {
        const fb_serve_choice *c = &job->choices[i];
        completion += c->counts.completion_tokens;
        kept += c->kept;
        sum.refreshes += c->counts.refreshes + c->counts.row_refreshes;
        sum.reuses += c->counts.reuses;
        sum.commits += c->counts.commits;
        sum.denoising_steps += c->counts.denoising_steps;
    }
    double now = fb_seconds(), seconds = now - job->begun;
    fb_json_open_object(w, "usage");
    fb_json_put_size(w, "prompt_tokens", prompt);
    fb_json_put_size(w, "completion_tokens", completion);
    fb_json_put_size(w, "total_tokens", prompt + completion);
    fb_json_open_object(w, "prompt_tokens_details");
    fb_json_put_size(w, "cached_tokens", kept);
    fb_json_close_object(w);
    fb_json_close_object(w);
    fb_json_open_object(w, "flashblock");
    fb_json_put_size(w, "denoising_steps", sum.denoising_steps);
    fb_json_put_size(w, "refreshes", sum.refreshes);
    fb_json_put_size(w, "reuses", sum.reuses);
    fb_json_put_size(w, "commits", sum.commits);
    fb_json_put_double(w, "queue_seconds", job->begun - job->arrived);
    fb_json_put_double(w, "seconds", seconds);
    fb_json_put_double(w, "tokens_per_second", seconds > 0 ? (double)completion / seconds : 0);
    fb_json_close_object(w);
}

/* --- events ----------------------------------------------------------------------------------- */

/* The text up to `end` that was not sent yet; and the end of the choice, if it has ended. */
static void put_event(fb_serve_choice *choice, size_t end) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_writer_to(&text, FB_JSON_COMPACT);
    begin_reply(&w, choice->job);
    fb_json_open_array(&w, "choices");
    put_choice(&w, choice, end, false, !choice->begun);
    fb_json_close_array(&w);
    choice->begun = true;
    choice->sent = end;
    end_reply(choice->job, &w, &text, true);
}

void fb_serve_job_add_pass(fb_serve_choice *choice, const fb_step_event *event) {
    fb_serve_job *job = choice->job;
    fb_buffer text = {0};
    fb_json_writer w = fb_json_writer_to(&text, FB_JSON_COMPACT);
    if (!job->request.steps)
        return;
    begin_reply(&w, job);
    fb_json_open_array(&w, "choices");
    fb_json_close_array(&w);
    fb_json_open_object(&w, "flashblock");
    fb_json_put_size(&w, "index", choice->index);
    fb_json_open_object(&w, "pass");
    fb_page_put_pass(&w, job->model->session->tokenizer, job->request.ids.size / sizeof(int32_t),
                     event);
    fb_json_close_object(&w);
    fb_json_close_object(&w);
    end_reply(job, &w, &text, true);
}

static void put_end(fb_serve_job *job) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_writer_to(&text, FB_JSON_COMPACT);
    if (job->request.include_usage) {
        begin_reply(&w, job);
        fb_json_open_array(&w, "choices");
        fb_json_close_array(&w);
        put_usage(&w, job);
        end_reply(job, &w, &text, true);
    }
    put(job, fb_buffer_append_text(&text, "[DONE]") == FB_OK ? &text : NULL, true);
    fb_buffer_free(&text);
}

static void put_whole(fb_serve_job *job) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_writer_to(&text, FB_JSON_COMPACT);
    begin_reply(&w, job);
    fb_json_open_array(&w, "choices");
    for (size_t i = 0; i < job->request.num_choices; i++) {
        put_choice(&w, &job->choices[i], job->choices[i].text.size, true, true);
    }
    fb_json_close_array(&w);
    put_usage(&w, job);
    end_reply(job, &w, &text, false);
}

/* --- texts ------------------------------------------------------------------------------------ */

/* Where a stop text begins in the choice's text, from `from` on; its size if none does. */
static size_t find_stop(const fb_serve_choice *choice, size_t from) {
    const fb_serve_request *r = &choice->job->request;
    size_t first = choice->text.size;
    for (size_t i = 0; i < r->num_stops && choice->text.size > from; i++) {
        const unsigned char *at = memmem(choice->text.data + from, choice->text.size - from,
                                         r->stops[i].data, r->stops[i].size);
        if (at && (size_t)(at - choice->text.data) < first)
            first = (size_t)(at - choice->text.data);
    }
    return first;
}

/* The end of the text that can be sent: what may begin a stop text waits. */
static size_t certain_end(const fb_serve_choice *choice) {
    const fb_serve_request *r = &choice->job->request;
    for (size_t from = choice->sent; from < choice->text.size; from++)
        for (size_t i = 0; i < r->num_stops; i++) {
            size_t left = choice->text.size - from;
            if (left < r->stops[i].size &&
                memcmp(choice->text.data + from, r->stops[i].data, left) == 0)
                return from;
        }
    return choice->text.size;
}

bool fb_serve_job_add_text(fb_serve_choice *choice, const char *text, size_t length) {
    fb_serve_job *job = choice->job;
    fb_status status = fb_buffer_append(&choice->text, text, length);
    if (status != FB_OK) {
        fb_serve_job_fail_with(job, status);
        return false;
    }
    size_t stop = find_stop(choice, choice->sent);
    if (stop < choice->text.size) {
        choice->text.size = stop;
        choice->stopped = true;
    }
    size_t end = choice->stopped ? choice->text.size : certain_end(choice);
    if (job->request.stream && end > choice->sent)
        put_event(choice, end);
    return !choice->stopped && !atomic_load(&job->cancelled);
}

void fb_serve_job_end_choice(fb_serve_choice *choice) {
    fb_serve_job *job = choice->job;
    if (choice->ended)
        return;
    choice->ended = true;
    if (job->request.stream)
        put_event(choice, choice->text.size);
    if (++job->num_ended < job->request.num_choices)
        return;
    if (job->request.stream)
        put_end(job);
    else
        put_whole(job);
    finish(job);
}

fb_status fb_serve_error_text(fb_buffer *out, const char *type, const char *code,
                              const char *message) {
    fb_json_writer w = fb_json_writer_to(out, FB_JSON_COMPACT);
    fb_json_open_object(&w, NULL);
    fb_json_open_object(&w, "error");
    fb_json_put_text(&w, "message", message);
    fb_json_put_string(&w, "type", type);
    fb_json_put_null(&w, "param");
    if (code)
        fb_json_put_string(&w, "code", code);
    else
        fb_json_put_null(&w, "code");
    fb_json_close_object(&w);
    fb_json_close_object(&w);
    return fb_json_finish(&w);
}

void fb_serve_job_fail(fb_serve_job *job, int code, const char *type, const char *message) {
    fb_buffer text = {0};
    job->num_ended = job->request.num_choices;
    for (size_t i = 0; i < job->request.num_choices; i++)
        job->choices[i].ended = true;
    job->code = code;
    job->failed = true;
    bool written = fb_serve_error_text(&text, type, NULL, message) == FB_OK;
    put(job, written ? &text : NULL, job->request.stream);
    fb_buffer_free(&text);
    finish(job);
    atomic_store(&job->cancelled, true); /* its other texts end */
}

void fb_serve_job_fail_with(fb_serve_job *job, fb_status status) {
    fb_serve_job_fail(job, status == FB_ERROR_MEMORY ? 503 : 500, "server_error",
                      fb_error_message());
}

/* A connection that waits is not looked at by the HTTP library. An end or a reset counts also where
 * bytes of a next request lie before it. */
bool fb_serve_is_closed(struct MHD_Connection *connection) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct pollfd socket = {.fd = info ? info->connect_fd : -1, .events = POLLRDHUP};
    return poll(&socket, 1, 0) > 0 &&
           (socket.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

bool fb_serve_job_is_abandoned(fb_serve_job *job) {
    pthread_mutex_lock(&job->mutex);
    if (job->waiting && !atomic_load(&job->cancelled) && fb_serve_is_closed(job->waiting))
        atomic_store(&job->cancelled, true);
    pthread_mutex_unlock(&job->mutex);
    return atomic_load(&job->cancelled);
}

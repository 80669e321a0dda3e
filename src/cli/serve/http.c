#include "cli/serve/http.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "cli/page/page.h"
#include "cli/serve/deadlines.h"
#include "cli/serve/reader.h"
#include "decode/generate_options.h"
#include "io/json_write.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MOST_BODY = 8 << 20, MEMORY_OF_CONNECTION = 64 << 10 };

struct fb_serve_http {
    const fb_serve_model *model;
    fb_serve_engine *engine;
    fb_serve_access access;
    fb_serve_reader *reader;
    struct MHD_Daemon *daemon;
    int listening; /* after fb_serve_http_quiesce; -1 */
    atomic_int exchanges;
    double client_seconds;
    fb_serve_deadlines deadlines;
};

typedef enum MHD_Result result;

/* One request and its reply. */
typedef struct exchange {
    bool has_key, too_large;
    bool begun; /* a completion, of which the rest is: */
    fb_serve_reading reading;
} exchange;

/* --- replies ---------------------------------------------------------------------------------- */

/* allow: the methods that the address takes; NULL: nobody asked for another one. */
static result reply_with(struct MHD_Connection *connection, unsigned code, const char *type,
                         const fb_buffer *text, const char *allow) {
    struct MHD_Response *response = MHD_create_response_from_buffer(
        text->size, text->data ? (void *)text->data : (void *)"", MHD_RESPMEM_MUST_COPY);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (code == MHD_HTTP_TOO_MANY_REQUESTS)
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, "1");
    if (code == MHD_HTTP_UNAUTHORIZED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer");
    if (allow)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, allow);
    result queued = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return queued;
}

static result reply(struct MHD_Connection *connection, unsigned code, const char *type,
                    const fb_buffer *text) {
    return reply_with(connection, code, type, text, NULL);
}

static result reply_error_code(struct MHD_Connection *connection, unsigned status, const char *type,
                               const char *code, const char *message) {
    fb_buffer text = {0};
    result queued = MHD_NO;
    if (fb_serve_error_text(&text, type, code, message) == FB_OK)
        queued = reply(connection, status, "application/json", &text);
    fb_buffer_free(&text);
    return queued;
}

static result reply_error(struct MHD_Connection *connection, unsigned status, const char *type,
                          const char *message) {
    return reply_error_code(connection, status, type, NULL, message);
}

static result reply_wrong_method(struct MHD_Connection *connection, const char *allow) {
    fb_buffer text = {0};
    result queued = MHD_NO;
    if (fb_serve_error_text(&text, "invalid_request_error", NULL,
                            "this address takes another method") == FB_OK)
        queued =
            reply_with(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "application/json", &text, allow);
    fb_buffer_free(&text);
    return queued;
}

static result reply_no_model(struct MHD_Connection *connection, const char *message) {
    return reply_error_code(connection, MHD_HTTP_NOT_FOUND, "invalid_request_error",
                            "model_not_found", message);
}

/* What requests have that leave it out, and the model's shape. */
static void put_model(fb_json_writer *w, const fb_serve_model *model) {
    const fb_model_config *config = fb_model_config_of(model->session->model);
    fb_generate_options options = model->session->options;
    fb_json_fail(w, fb_generate_options_resolve(config, &options));
    fb_json_open_object(w, "flashblock");
    fb_json_put_bool(w, "chat", model->has_chat);
    fb_json_put_size(w, "tau", options.reuse.tau);
    fb_json_put_size(w, "block_size", options.block_size);
    fb_json_put_size(w, "max_tokens", options.max_tokens);
    fb_json_put_size(w, "num_layers", config->num_hidden_layers);
    fb_json_put_size(w, "num_heads", config->num_attention_heads);
    fb_json_close_object(w);
}

static void put_model_entry(fb_json_writer *w, const fb_serve_model *model) {
    fb_json_open_object(w, NULL);
    fb_json_put_text(w, "id", model->name);
    fb_json_put_string(w, "object", "model");
    fb_json_put_int64(w, "created", 0);
    fb_json_put_string(w, "owned_by", "flashblock");
    put_model(w, model);
    fb_json_close_object(w);
}

/* name: of one model; NULL: the list. */
static result reply_models(const fb_serve_http *http, struct MHD_Connection *connection,
                           const char *name) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_writer_to(&text, FB_JSON_COMPACT);
    if (name && strcmp(name, http->model->name) != 0)
        return reply_no_model(connection, "there is no model of this name");
    if (!name) {
        fb_json_open_object(&w, NULL);
        fb_json_put_string(&w, "object", "list");
        fb_json_open_array(&w, "data");
    }
    put_model_entry(&w, http->model);
    if (!name) {
        fb_json_close_array(&w);
        fb_json_close_object(&w);
    }
    result queued = fb_json_finish(&w) == FB_OK
                        ? reply(connection, MHD_HTTP_OK, "application/json", &text)
                        : MHD_NO;
    fb_buffer_free(&text);
    return queued;
}

static result reply_metrics(const fb_serve_http *http, struct MHD_Connection *connection) {
    fb_buffer text = {0};
    result queued = fb_serve_engine_metrics(http->engine, &text) == FB_OK
                        ? reply(connection, MHD_HTTP_OK, "text/plain; version=0.0.4", &text)
                        : MHD_NO;
    fb_buffer_free(&text);
    return queued;
}

/* The page shows nothing that is secret: it takes no key, and asks for it. */
static result reply_page(struct MHD_Connection *connection) {
    struct MHD_Response *response = MHD_create_response_from_buffer(
        fb_page_size, (void *)(uintptr_t)fb_page_text, MHD_RESPMEM_PERSISTENT);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/html; charset=utf-8");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    MHD_add_response_header(response, "Content-Security-Policy", fb_page_policy);
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "Referrer-Policy", "no-referrer");
    result queued = MHD_queue_response(connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    return queued;
}

static result reply_health(struct MHD_Connection *connection) {
    fb_buffer text = {.data = (unsigned char *)"{\"status\":\"ok\"}", .size = 15};
    return reply(connection, MHD_HTTP_OK, "application/json", &text);
}

/* --- completions ------------------------------------------------------------------------------ */

/* Bytes of a stream; the connection is suspended where there are none yet. */
static ssize_t read_stream(void *user, uint64_t position, char *buffer, size_t most) {
    exchange *x = user;
    fb_serve_job *job = x->reading.job;
    ssize_t count = 0;
    (void)position;
    pthread_mutex_lock(&job->mutex);
    size_t left = job->out.size - job->taken;
    if (job->lost) {
        count = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (left > 0) {
        size_t size = left < most ? left : most;
        memcpy(buffer, job->out.data + job->taken, size);
        job->taken += size;
        if (job->taken == job->out.size)
            job->taken = job->out.size = 0;
        count = (ssize_t)size;
    } else if (job->done) {
        count = MHD_CONTENT_READER_END_OF_STREAM;
    }
    pthread_mutex_unlock(&job->mutex);
    return count;
}

/* The library calls it in its thread, where a connection may be suspended. */
typedef struct stream_reader {
    exchange *x;
    struct MHD_Connection *connection;
} stream_reader;

static ssize_t read_or_wait(void *user, uint64_t position, char *buffer, size_t most) {
    stream_reader *reader = user;
    ssize_t count = read_stream(reader->x, position, buffer, most);
    if (count != 0)
        return count;
    fb_serve_job *job = reader->x->reading.job;
    pthread_mutex_lock(&job->mutex);
    if (job->out.size == job->taken && !job->done && !job->lost) {
        job->waiting = reader->connection;
        MHD_suspend_connection(reader->connection);
    }
    pthread_mutex_unlock(&job->mutex);
    return 0;
}

static result begin_stream(struct MHD_Connection *connection, exchange *x) {
    stream_reader *reader = NULL;
    if (fb_alloc_zeroed(1, sizeof *reader, "stream", &reader) != FB_OK)
        return MHD_NO;
    *reader = (stream_reader){x, connection};
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, read_or_wait, reader, fb_free);
    if (!response) {
        fb_free(reader);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    result queued = MHD_queue_response(connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    return queued;
}

/* The whole reply, or the connection is suspended until there is one. */
static result reply_or_wait(struct MHD_Connection *connection, exchange *x) {
    fb_serve_job *job = x->reading.job;
    pthread_mutex_lock(&job->mutex);
    bool done = job->done, lost = job->lost;
    if (!done) {
        job->waiting = connection;
        MHD_suspend_connection(connection);
    }
    pthread_mutex_unlock(&job->mutex);
    if (!done)
        return MHD_YES;
    return lost ? MHD_NO : reply(connection, (unsigned)job->code, "application/json", &job->out);
}

/* What came of reading the body. */
static result reply_to_reading(struct MHD_Connection *connection, exchange *x) {
    const fb_serve_reading *r = &x->reading;
    bool memory = r->status == FB_ERROR_MEMORY;
    if (r->other_model)
        return reply_no_model(connection, r->message);
    if (r->status != FB_OK)
        return reply_error(connection, memory ? MHD_HTTP_SERVICE_UNAVAILABLE : MHD_HTTP_BAD_REQUEST,
                           memory ? "server_error" : "invalid_request_error", r->message);
    if (r->put == FB_SERVE_FULL)
        return reply_error(connection, MHD_HTTP_TOO_MANY_REQUESTS, "rate_limit_error",
                           "too many requests wait");
    if (r->put == FB_SERVE_ENDING)
        return reply_error(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "server_error",
                           "the server ends");
    return r->job->request.stream ? begin_stream(connection, x) : reply_or_wait(connection, x);
}

static result begin_completion(fb_serve_http *http, struct MHD_Connection *connection, exchange *x,
                               bool chat) {
    x->begun = true;
    x->reading.chat = chat;
    x->reading.connection = connection;
    x->reading.arrived = fb_seconds();
    if (fb_serve_reader_add(http->reader, &x->reading))
        return MHD_YES;
    x->reading.put = FB_SERVE_ENDING;
    return reply_to_reading(connection, x);
}

/* --- requests --------------------------------------------------------------------------------- */

typedef enum route { NOWHERE, PAGE, HEALTH, METRICS, MODELS, TEXT, CHAT } route;

static const char models[] = "/v1/models", one_model[] = "/v1/models/";

static route route_of(const char *url) {
    static const struct {
        const char *url;
        route route;
    } all[] = {{"/", PAGE},      {"/health", HEALTH},       {"/metrics", METRICS},
               {models, MODELS}, {"/v1/completions", TEXT}, {"/v1/chat/completions", CHAT}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strcmp(url, all[i].url) == 0)
            return all[i].route;
    return strncmp(url, one_model, sizeof one_model - 1) == 0 ? MODELS : NOWHERE;
}

static bool takes(route to, const char *method) {
    if (to == TEXT || to == CHAT)
        return strcmp(method, MHD_HTTP_METHOD_POST) == 0;
    return strcmp(method, MHD_HTTP_METHOD_GET) == 0 || strcmp(method, MHD_HTTP_METHOD_HEAD) == 0;
}

/* The page and the health take no key. */
static result refuse(const fb_serve_http *http, struct MHD_Connection *connection,
                     const exchange *x, route to, const char *method, bool *refused) {
    static const char wrong[] = "invalid_request_error";
    bool open = to == PAGE || to == HEALTH;
    *refused = true;
    if (!open && !x->has_key)
        return reply_error(connection, MHD_HTTP_UNAUTHORIZED, wrong, "the key is missing or wrong");
    if (!open && !fb_serve_access_is_own_site(&http->access, connection))
        return reply_error(connection, MHD_HTTP_FORBIDDEN, wrong,
                           "without a key, requests are for an address or localhost, and not of "
                           "other sites' pages (--allow-anonymous allows them)");
    if (x->too_large)
        return reply_error(connection, MHD_HTTP_CONTENT_TOO_LARGE, wrong, "the body is too large");
    if (to == NOWHERE)
        return reply_error(connection, MHD_HTTP_NOT_FOUND, wrong,
                           "there is nothing at this address");
    if (!takes(to, method))
        return reply_wrong_method(connection, to == TEXT || to == CHAT ? "POST" : "GET, HEAD");
    *refused = false;
    return MHD_YES;
}

static result answer(fb_serve_http *http, struct MHD_Connection *connection, exchange *x,
                     const char *url, const char *method) {
    if (x->begun)
        return reply_to_reading(connection, x);
    bool refused;
    route to = route_of(url);
    result queued = refuse(http, connection, x, to, method, &refused);
    if (refused)
        return queued;
    switch (to) {
    case PAGE:
        return reply_page(connection);
    case HEALTH:
        return reply_health(connection);
    case METRICS:
        return reply_metrics(http, connection);
    case MODELS:
        return reply_models(http, connection,
                            strcmp(url, models) == 0 ? NULL : url + sizeof one_model - 1);
    default:
        return begin_completion(http, connection, x, to == CHAT);
    }
}

/* From now on. */
static void give_time(fb_serve_http *http, struct MHD_Connection *connection, double seconds) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    if (info && info->socket_context)
        fb_serve_deadline_set(&http->deadlines, info->socket_context, seconds);
}

/* Called for the headers, for parts of the body, at its end, and after a wait. */
static result handle(void *user, struct MHD_Connection *connection, const char *url,
                     const char *method, const char *version, const char *data, size_t *size,
                     void **state) {
    fb_serve_http *http = user;
    exchange *x = *state;
    (void)version;
    if (!x) {
        if (fb_alloc_zeroed(1, sizeof *x, "request", &x) != FB_OK)
            return MHD_NO;
        atomic_fetch_add(&http->exchanges, 1);
        *state = x;
        give_time(http, connection, http->client_seconds);
        x->has_key = fb_serve_access_has_key(&http->access, connection);
        return fb_serve_access_has_one_length(connection)
                   ? MHD_YES
                   : reply_error(connection, MHD_HTTP_BAD_REQUEST, "invalid_request_error",
                                 "the headers give more than one length of the body");
    }
    if (*size == 0) {
        if (!x->begun)
            give_time(http, connection, http->model->most_seconds + http->client_seconds);
        return answer(http, connection, x, url, method);
    }
    fb_buffer *body = &x->reading.body;
    x->too_large = x->too_large || body->size + *size > MOST_BODY;
    if (x->too_large)
        fb_buffer_free(body);
    else if (x->has_key && fb_buffer_append(body, data, *size) != FB_OK)
        return MHD_NO;
    *size = 0;
    return MHD_YES;
}

static void completed(void *user, struct MHD_Connection *connection, void **state,
                      enum MHD_RequestTerminationCode code) {
    fb_serve_http *http = user;
    exchange *x = *state;
    (void)code;
    if (!x)
        return;
    give_time(http, connection, http->client_seconds); /* for a next request */
    fb_serve_job *job = x->reading.job;
    if (job) {
        pthread_mutex_lock(&job->mutex);
        job->waiting = NULL;
        pthread_mutex_unlock(&job->mutex);
        atomic_store(&job->cancelled, true);
        fb_serve_job_release(job);
    }
    fb_buffer_free(&x->reading.body);
    fb_free(x);
    *state = NULL;
    atomic_fetch_sub(&http->exchanges, 1);
}

/* A connection begins or ends. */
static void note_connection(void *user, struct MHD_Connection *connection, void **context,
                            enum MHD_ConnectionNotificationCode code) {
    fb_serve_http *http = user;
    fb_serve_deadline *deadline = NULL;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        fb_serve_deadline_remove(&http->deadlines, *context);
        *context = NULL;
        return;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (info && fb_serve_deadline_add(&http->deadlines, info->connect_fd, http->client_seconds,
                                      &deadline) == FB_OK)
        *context = deadline;
}

/* --- beginning and end ------------------------------------------------------------------------ */

static fb_status address_of(const char *host, size_t port, struct sockaddr_storage *address,
                            unsigned *flags) {
    struct sockaddr_in *four = (struct sockaddr_in *)(void *)address;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)(void *)address;
    memset(address, 0, sizeof *address);
    *flags = 0;
    if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons((uint16_t)port);
        return FB_OK;
    }
    if (inet_pton(AF_INET6, host, &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons((uint16_t)port);
        *flags = MHD_USE_IPv6;
        return FB_OK;
    }
    return fb_fail(FB_ERROR_ARGUMENT, "--host: '%s' is no address, such as 127.0.0.1 or ::1", host);
}

fb_status fb_serve_http_check_host(const char *host) {
    struct sockaddr_storage address;
    unsigned flags;
    return address_of(host, 0, &address, &flags);
}

static fb_status listen_at(fb_serve_http *http, const fb_serve_http_options *o) {
    struct sockaddr_storage address;
    unsigned flags;
    FB_TRY(address_of(o->host, o->port, &address, &flags));
    errno = 0;
    http->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | flags, (uint16_t)o->port, NULL,
        NULL, handle, http, MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_NOTIFY_COMPLETED, completed,
        http, MHD_OPTION_NOTIFY_CONNECTION, note_connection, http, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)o->connections, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)o->client_seconds,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)MEMORY_OF_CONNECTION,
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
    if (http->daemon)
        return FB_OK;
    return fb_fail(FB_ERROR_IO, "cannot listen at %s, port %zu: %s", o->host, o->port,
                   errno ? strerror(errno) : "the HTTP library does not say why");
}

static void release(fb_serve_http *http) {
    fb_serve_reader_destroy(http->reader);
    fb_serve_deadlines_end(&http->deadlines);
    fb_free(http);
}

fb_status fb_serve_http_start(const fb_serve_model *model, fb_serve_engine *engine,
                              const fb_serve_http_options *options, fb_serve_http **http) {
    fb_serve_http *started = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *started, "server", &started));
    started->model = model;
    started->engine = engine;
    started->access = options->access;
    started->listening = -1;
    started->client_seconds = options->client_seconds;
    fb_serve_deadlines_begin(&started->deadlines);
    fb_status status = fb_serve_reader_start(model, engine, &started->reader);
    if (status == FB_OK)
        status = listen_at(started, options);
    if (status == FB_OK)
        *http = started;
    else
        release(started);
    return status;
}

unsigned fb_serve_http_port(const fb_serve_http *http) {
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_BIND_PORT);
    return info ? info->port : 0;
}

void fb_serve_http_sweep(fb_serve_http *http) {
    fb_serve_deadlines_sweep(&http->deadlines);
}

void fb_serve_http_quiesce(fb_serve_http *http) {
    if (http->listening < 0)
        http->listening = MHD_quiesce_daemon(http->daemon);
}

bool fb_serve_http_is_idle(fb_serve_http *http) {
    return atomic_load(&http->exchanges) == 0;
}

void fb_serve_http_stop(fb_serve_http *http) {
    if (!http)
        return;
    fb_serve_reader_stop(http->reader);
    MHD_stop_daemon(http->daemon);
    if (http->listening >= 0)
        close(http->listening);
    release(http);
}

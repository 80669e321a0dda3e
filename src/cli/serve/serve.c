/* flashblock serve: OpenAI's interface for a block-diffusion language model, over HTTP. */
#include "base/error.h"
#include "base/memory.h"
#include "cli/commands.h"
#include "cli/generate/generate_settings.h"
#include "cli/options/options.h"
#include "cli/output.h"
#include "cli/serve/engine.h"
#include "cli/serve/http.h"
#include "io/chat_template.h"
#include "io/file.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { MOST_KEY = 4096, CONNECTIONS = 256, TICK_MS = 100 };

/* The command line. */
typedef struct settings {
    fb_generate_settings generate;
    const char *host, *key_file, *name;
    size_t port, parallel, queue, drain_seconds, request_seconds, client_seconds, max_tokens;
    bool anonymous;
} settings;

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option option_list[] = {
    {.kind = FB_OPTION_GROUP, .help = "Server"},
    {.kind = FB_OPTION_STRING,
     .name = "host",
     .argument = "ADDRESS",
     TARGET(host),
     .otherwise = "127.0.0.1",
     .help = "the address to listen at; another one than of this machine alone takes a key"},
    {.kind = FB_OPTION_SIZE,
     .name = "port",
     .argument = "N",
     TARGET(port),
     .max = 65535,
     .otherwise = "8080",
     .help = "the port; 0: any that is free, which the first line of output names"},
    {.kind = FB_OPTION_STRING,
     .name = "api-key-file",
     .argument = "FILE",
     TARGET(key_file),
     .help = "clients have to show the key that is FILE's first line"},
    {.kind = FB_OPTION_FLAG,
     .name = "allow-anonymous",
     TARGET(anonymous),
     .help = "any address, and pages of any site in a browser, without a key"},
    {.kind = FB_OPTION_STRING,
     .name = "name",
     .argument = "NAME",
     TARGET(name),
     .help = "what replies call the model (default: the last part of DIR)"},
    {.kind = FB_OPTION_SIZE,
     .name = "parallel",
     .argument = "N",
     TARGET(parallel),
     .min = 1,
     .max = 256,
     .otherwise = "4",
     .help = "texts that are written together"},
    {.kind = FB_OPTION_SIZE,
     .name = "queue",
     .argument = "N",
     TARGET(queue),
     .min = 1,
     .max = 1 << 16,
     .otherwise = "64",
     .help = "requests that may wait; others get status 429"},
    {.kind = FB_OPTION_SIZE,
     .name = "request-seconds",
     .argument = "N",
     TARGET(request_seconds),
     .min = 1,
     .max = 1 << 30,
     .otherwise = "600",
     .help = "a request may take so long from its arrival: then its texts end as they are"},
    {.kind = FB_OPTION_SIZE,
     .name = "client-seconds",
     .argument = "N",
     TARGET(client_seconds),
     .min = 1,
     .max = 1 << 30,
     .otherwise = "60",
     .help = "a client may take so long to send a request, and to read what is left of its reply "
             "when the request's time is over: then its connection is closed"},
    {.kind = FB_OPTION_SIZE,
     .name = "drain-seconds",
     .argument = "N",
     TARGET(drain_seconds),
     .max = 86400,
     .otherwise = "30",
     .help = "at SIGTERM or Ctrl-C, requests that there are may take so long"},
    {.kind = FB_OPTION_SIZE,
     .name = "max-tokens",
     .letter = 'n',
     .argument = "TOKENS",
     TARGET(max_tokens),
     .min = 1,
     .max = 1 << 30,
     .otherwise = "1024",
     .help = "of a text, where a request does not say"},
};

static const fb_option_table table = {
    .usage = "serve --model DIR [OPTION]...",
    .summary =
        "Answers requests in the form of OpenAI's interface: POST /v1/chat/completions and\n"
        "/v1/completions, GET /v1/models, /health and /metrics. At / it has a page that shows\n"
        "blocks being denoised. Requests are denoised together, and keys and values are kept\n"
        "for requests that begin alike. The other options are for requests that leave them\n"
        "out.",
    .shared = &fb_generate_settings_options,
    .left_out = "prompt prompt-file chat parse-special max-tokens ignore-eos samples batch-size ",
    FB_TABLE_OPTIONS(option_list),
};

/* --- beginning -------------------------------------------------------------------------------- */

static bool is_local(const char *host) {
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0;
}

static fb_status read_key(const char *path, char **key) {
    size_t size = 0;
    FB_TRY(fb_file_read_text(path, MOST_KEY, key, &size));
    size_t length = 0;
    while (length < size && (*key)[length] >= ' ' && (*key)[length] <= '~')
        length++;
    if (length < size && (*key)[length] != '\r' && (*key)[length] != '\n')
        return fb_fail(
            FB_ERROR_ARGUMENT,
            "--api-key-file: byte 0x%02X in the first line of %s, not an ASCII character",
            (unsigned)(unsigned char)(*key)[length], path);
    (*key)[length] = '\0';
    if (length > 0 && ((*key)[0] == ' ' || (*key)[length - 1] == ' '))
        return fb_fail(FB_ERROR_ARGUMENT, "--api-key-file: a space at an end of the key in %s",
                       path); /* headers lose it */
    return length > 0 ? FB_OK : fb_fail(FB_ERROR_ARGUMENT, "--api-key-file: %s has no key", path);
}

/* A model without a known chat format completes texts only. */
static void find_format(fb_serve_model *model, fb_session *session, char *reason, size_t size) {
    fb_status status = fb_chat_template_of_directory(session->directory, &session->chat_format);
    if (status == FB_OK)
        status = fb_chat_format_check(session->chat_format, session->tokenizer);
    model->has_chat = status == FB_OK;
    session->chat = model->has_chat;
    if (!model->has_chat)
        snprintf(reason, size, "this model has no chat: %s", fb_error_message());
    model->no_chat = reason;
}

/* --- the run ---------------------------------------------------------------------------------- */

static void choose_signals(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
}

static bool is_over(fb_serve_engine *engine, fb_serve_http *http) {
    return fb_serve_engine_is_idle(engine) && fb_serve_http_is_idle(http);
}

/* Until the requests that there are have their replies, the time is over, or a second signal comes.
 */
static void drain(fb_serve_engine *engine, fb_serve_http *http, const sigset_t *signals,
                  size_t seconds) {
    const struct timespec tick = {.tv_nsec = TICK_MS * 1000000L};
    fb_serve_http_quiesce(http);
    fb_serve_engine_drain(engine, false);
    for (size_t i = 0; i < seconds * 1000 / TICK_MS && !is_over(engine, http); i++)
        if (sigtimedwait(signals, NULL, &tick) > 0)
            break;
    fb_serve_engine_drain(engine, true);
    for (size_t i = 0; i < 1000 / TICK_MS && !is_over(engine, http); i++)
        sigtimedwait(signals, NULL, &tick); /* what is left is cancelled, and says so */
}

/* Meanwhile connections whose time is over end. */
static void wait_for_signal(fb_serve_http *http, const sigset_t *signals) {
    const struct timespec second = {.tv_sec = 1};
    while (sigtimedwait(signals, NULL, &second) < 0)
        fb_serve_http_sweep(http);
}

static fb_status serve(const fb_serve_model *model, const settings *given,
                       const fb_serve_access *access) {
    fb_serve_engine *engine = NULL;
    fb_serve_http *http = NULL;
    sigset_t signals;
    choose_signals(&signals);
    FB_TRY(fb_serve_engine_start(model, given->parallel, given->queue, &engine));
    const fb_serve_http_options options = {given->host, given->port, *access, CONNECTIONS,
                                           (double)given->client_seconds};
    fb_status status = fb_serve_http_start(model, engine, &options, &http);
    if (status == FB_OK) {
        char address[256];
        bool six = strchr(given->host, ':') != NULL;
        snprintf(address, sizeof address, "http://%s%s%s:%u", six ? "[" : "", given->host,
                 six ? "]" : "", fb_serve_http_port(http));
        printf("flashblock serves %s at %s/v1, and a page at %s/\n", model->name, address, address);
        fflush(stdout);
        wait_for_signal(http, &signals);
        drain(engine, http, &signals, given->drain_seconds);
    }
    fb_serve_engine_stop(
        engine); /* its jobs are over before connections end, and it stays for who asks */
    fb_serve_http_stop(http);
    fb_serve_engine_destroy(engine);
    return status;
}

static fb_status run(fb_session *session, settings *given) {
    char name[256], reason[512], *key = NULL;
    FB_TRY(fb_generate_settings_open(session, &given->generate));
    session->options.max_tokens = given->max_tokens;
    fb_serve_model model = {.session = session, .most_seconds = (double)given->request_seconds};
    model.name = given->name ? given->name : fb_session_model_name(session, name, sizeof name);
    find_format(&model, session, reason, sizeof reason);
    FB_TRY(fb_session_choose_stops(session));
    fb_status status = given->key_file ? read_key(given->key_file, &key) : FB_OK;
    if (status == FB_OK)
        status = serve(&model, given, &(fb_serve_access){key, given->anonymous});
    fb_free(key);
    return status;
}

int fb_command_serve(int argc, char **argv) {
    settings given = {.generate = fb_generate_settings_default()};
    int exit_status;
    if (!fb_options_parse(&table, argc, argv, &given, &exit_status))
        return exit_status;
    const char *wrong = NULL;
    if (given.generate.options.compat == FB_COMPAT_RELEASED)
        wrong = "--compat released takes one run at a time";
    if (fb_serve_http_check_host(given.host) != FB_OK)
        wrong = fb_error_message();
    else if (!is_local(given.host) && !given.key_file && !given.anonymous)
        wrong = "--host: an address that others reach takes --api-key-file, or --allow-anonymous";
    if (wrong) {
        fb_print_error("%s; see flashblock serve --help", wrong);
        return FB_EXIT_USAGE;
    }
    fb_session session = {0};
    sigset_t signals;
    choose_signals(&signals); /* before there are threads: none of them takes one */
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    fb_status status = run(&session, &given);
    fb_session_free(&session);
    return fb_report_status(status);
}

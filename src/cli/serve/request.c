#include "cli/serve/request.h"

#include "base/error.h"
#include "base/memory.h"
#include "cli/serve/logprobs.h"
#include "decode/generate_options.h"
#include "io/json.h"

#include <string.h>

static const char where[] = "the request";

/* --- text ------------------------------------------------------------------------------------- */

/* A message's content: a text, or parts of type "text". */
static fb_status append_content(fb_buffer *text, const fb_json *message) {
    const fb_json *content = fb_json_object_get(message, "content");
    if (fb_json_is_string(content))
        return fb_buffer_append_text(text, fb_json_string(content));
    if (!fb_json_is_array(content))
        return fb_fail(FB_ERROR_FORMAT, "messages: content is neither a text nor a list of parts");
    for (size_t i = 0; i < fb_json_array_size(content); i++) {
        const fb_json *part = fb_json_array_get(content, i);
        const char *type = NULL, *words = NULL;
        FB_TRY(fb_json_get_string(part, "messages: content", "type", &type));
        if (strcmp(type, "text") != 0)
            return fb_fail(FB_ERROR_ARGUMENT, "messages: a part of type \"%s\", not \"text\"",
                           type);
        FB_TRY(fb_json_get_string(part, "messages: content", "text", &words));
        FB_TRY(fb_buffer_append_text(text, words));
    }
    return FB_OK;
}

static fb_status append_turn(fb_serve_request *r, const fb_session *session, bool answer,
                             const fb_buffer *text) {
    const char *words = (const char *)text->data;
    if (!answer)
        return fb_chat_append_user(&r->ids, session->chat_format, session->tokenizer, words,
                                   text->size, FB_ADDED_SPECIAL_AS_TEXT);
    FB_TRY(fb_chat_append_text(&r->ids, session->tokenizer, words, text->size,
                               FB_ADDED_SPECIAL_AS_TEXT));
    return fb_chat_append_end(&r->ids, session->chat_format, session->tokenizer);
}

/* A system's message may come first; then the user's and the assistant's alternate; the last one is
 * the user's. */
static fb_status append_message(fb_serve_request *r, const fb_session *session,
                                const fb_json *message, size_t index, size_t *turns) {
    const char *role = NULL;
    fb_buffer text = {0};
    FB_TRY(fb_json_get_string(message, "messages", "role", &role));
    bool system = strcmp(role, "system") == 0 || strcmp(role, "developer") == 0;
    const char *wanted = *turns % 2 == 0 ? "user" : "assistant";
    if (system ? index > 0 : strcmp(role, wanted) != 0)
        return fb_fail(FB_ERROR_ARGUMENT, "messages[%zu] is of role \"%s\", not \"%s\"", index,
                       role, wanted);
    fb_status status = append_content(&text, message);
    if (status == FB_OK)
        status = fb_buffer_terminate(&text);
    if (status == FB_OK && system)
        status = fb_chat_append_system(&r->ids, session->chat_format, session->tokenizer,
                                       (const char *)text.data);
    if (status == FB_OK && !system && index == 0)
        status = fb_chat_append_system(&r->ids, session->chat_format, session->tokenizer, NULL);
    if (status == FB_OK && !system)
        status = append_turn(r, session, (*turns)++ % 2 != 0, &text);
    fb_buffer_free(&text);
    return status;
}

static fb_status read_messages(fb_serve_request *r, const fb_serve_model *model,
                               const fb_json *body) {
    const fb_json *list = NULL;
    size_t turns = 0;
    if (!model->has_chat)
        return fb_fail(FB_ERROR_ARGUMENT, "%s", model->no_chat);
    FB_TRY(fb_json_get_array(body, where, "messages", &list));
    size_t most = fb_model_config_of(model->session->model)->max_position_embeddings;
    for (size_t i = 0; i < fb_json_array_size(list); i++) {
        FB_TRY(append_message(r, model->session, fb_json_array_get(list, i), i, &turns));
        if (r->ids.size / sizeof(int32_t) >= most)
            return fb_fail(FB_ERROR_ARGUMENT,
                           "messages: the first %zu leave no room in the model's %zu positions",
                           i + 1, most);
    }
    return turns % 2 == 1 ? FB_OK
                          : fb_fail(FB_ERROR_ARGUMENT, "messages: the last one is not the user's");
}

static fb_status read_prompt(fb_serve_request *r, const fb_serve_model *model,
                             const fb_json *body) {
    const char *text = NULL;
    int32_t *ids = NULL;
    size_t count = 0;
    FB_TRY(fb_json_get_string(body, where, "prompt", &text));
    FB_TRY(fb_tokenizer_encode(model->session->tokenizer, text, strlen(text),
                               FB_ADDED_SPECIAL_AS_TEXT, &ids, &count));
    fb_status status = fb_buffer_append(&r->ids, ids, count * sizeof *ids);
    fb_token_ids_free(ids);
    return status;
}

/* --- numbers ---------------------------------------------------------------------------------- */

static fb_status read_number(const fb_json *body, const char *key, double min, double max,
                             double *value) {
    FB_TRY(fb_json_get_double_or(body, where, key, *value, value));
    if (fb_json_has(body, key) && !(*value >= min && *value <= max))
        return fb_fail(FB_ERROR_ARGUMENT, "%s is %g, not in [%g, %g]", key, *value, min, max);
    return FB_OK;
}

static fb_status read_sampling(fb_generate_options *o, const fb_json *body) {
    size_t seed = (size_t)o->seed;
    FB_TRY(read_number(body, "temperature", 0.0, 2.0, &o->temperature));
    FB_TRY(read_number(body, "top_p", 1e-9, 1.0, &o->top_p));
    FB_TRY(fb_json_get_size_or(body, where, "top_k", 0, 1u << 30, o->top_k, &o->top_k));
    FB_TRY(fb_json_get_size_or(body, where, "seed", 0, INT64_MAX, seed, &seed));
    o->seed = seed;
    const char *limit = fb_json_has(body, "max_tokens") ? "max_tokens" : "max_completion_tokens";
    return fb_json_get_size_or(body, where, limit, 1, 1u << 30, o->max_tokens, &o->max_tokens);
}

/* This project's own fields, an object "flashblock". */
static fb_status read_own(fb_serve_request *r, const fb_json *body) {
    static const char own[] = "flashblock";
    fb_generate_options *o = &r->options;
    const fb_json *f = NULL;
    const char *name = NULL;
    if (!fb_json_has(body, own))
        return FB_OK;
    FB_TRY(fb_json_get_object(body, where, own, &f));
    FB_TRY(fb_json_get_size_or(f, own, "tau", 0, 1u << 30, o->reuse.tau, &o->reuse.tau));
    FB_TRY(fb_json_get_size_or(f, own, "block_size", 1, 1u << 12, o->block_size, &o->block_size));
    FB_TRY(fb_json_get_size_or(f, own, "denoising_steps", 1, 1u << 16, o->denoising_steps,
                               &o->denoising_steps));
    FB_TRY(read_number(f, "threshold", 0.0, 1.0, &o->confidence_threshold));
    FB_TRY(fb_json_get_string_or(f, own, "remasking", NULL, &name));
    if (name)
        FB_TRY(fb_remasking_parse(name, &o->remasking));
    name = NULL;
    FB_TRY(fb_json_get_string_or(f, own, "reuse", NULL, &name));
    if (name && strcmp(name, "rows") != 0 && strcmp(name, "tau") != 0)
        return fb_fail(FB_ERROR_ARGUMENT, "flashblock: reuse is \"%s\", not tau or rows", name);
    if (name)
        o->reuse.rows = strcmp(name, "rows") == 0 && o->reuse.tau > 0;
    FB_TRY(fb_json_get_bool_or(f, own, "steps", false, &r->steps));
    if (r->steps && !r->stream)
        return fb_fail(FB_ERROR_ARGUMENT, "flashblock: steps takes stream");
    return FB_OK;
}

static fb_status add_stop(fb_serve_request *r, const fb_json *item) {
    const char *text = fb_json_string(item);
    if (!text)
        return fb_fail(FB_ERROR_ARGUMENT, "stop is neither a text nor a list of texts");
    if (!*text)
        return fb_fail(FB_ERROR_ARGUMENT, "stop has an empty text");
    if (r->num_stops == FB_SERVE_MOST_STOPS)
        return fb_fail(FB_ERROR_ARGUMENT, "stop has more than %d texts", FB_SERVE_MOST_STOPS);
    return fb_buffer_append_text(&r->stops[r->num_stops++], text);
}

static fb_status read_stops(fb_serve_request *r, const fb_json *body) {
    const fb_json *stop = fb_json_object_get(body, "stop");
    if (!fb_json_has(body, "stop"))
        return FB_OK;
    if (!fb_json_is_array(stop))
        return add_stop(r, stop);
    for (size_t i = 0; i < fb_json_array_size(stop); i++)
        FB_TRY(add_stop(r, fb_json_array_get(stop, i)));
    return FB_OK;
}

/* Of a chat logprobs is a flag, and top_logprobs a number; of a text logprobs is the number. */
static fb_status read_logprobs(fb_serve_request *r, const fb_json *body) {
    static const char top[] = "top_logprobs";
    if (r->chat) {
        FB_TRY(fb_json_get_bool_or(body, where, "logprobs", false, &r->logprobs));
        FB_TRY(
            fb_json_get_size_or(body, where, top, 0, FB_SERVE_MOST_LOGPROBS, 0, &r->top_logprobs));
        if (r->top_logprobs > 0 && !r->logprobs)
            return fb_fail(FB_ERROR_ARGUMENT, "top_logprobs takes logprobs");
    } else if (fb_json_has(body, "logprobs")) {
        FB_TRY(fb_json_get_size_or(body, where, "logprobs", 0, FB_SERVE_MOST_LOGPROBS, 0,
                                   &r->top_logprobs));
        r->logprobs = true;
    }
    return FB_OK;
}

static fb_status read_form(fb_serve_request *r, const fb_json *body) {
    const fb_json *options = NULL;
    FB_TRY(fb_json_get_bool_or(body, where, "stream", false, &r->stream));
    FB_TRY(fb_json_get_size_or(body, where, "n", 1, FB_SERVE_MOST_CHOICES, 1, &r->num_choices));
    if (fb_json_has(body, "stream_options")) {
        FB_TRY(fb_json_get_object(body, where, "stream_options", &options));
        FB_TRY(fb_json_get_bool_or(options, "stream_options", "include_usage", false,
                                   &r->include_usage));
    }
    return FB_OK;
}

/* --- the whole -------------------------------------------------------------------------------- */

/* A request may leave the model out; another one than this is not here. */
static fb_status read_model(fb_serve_request *r, const fb_serve_model *model, const fb_json *body) {
    const char *name = NULL;
    FB_TRY(fb_json_get_string_or(body, where, "model", NULL, &name));
    r->other_model = name && *name && strcmp(name, model->name) != 0;
    return r->other_model ? fb_fail(FB_ERROR_ARGUMENT, "model is \"%.200s\", and \"%s\" is here",
                                    name, model->name)
                          : FB_OK;
}

static fb_status read_body(fb_serve_request *r, const fb_serve_model *model, const fb_json *body) {
    FB_TRY(read_model(r, model, body));
    FB_TRY(read_form(r, body));
    FB_TRY(read_logprobs(r, body));
    FB_TRY(read_sampling(&r->options, body));
    FB_TRY(read_own(r, body));
    FB_TRY(read_stops(r, body));
    FB_TRY(r->chat ? read_messages(r, model, body) : read_prompt(r, model, body));
    const fb_model_config *config = fb_model_config_of(model->session->model);
    FB_TRY(fb_generate_options_resolve(config, &r->options));
    if (r->logprobs && r->options.loop == FB_LOOP_FAST_DLLM_V2)
        return fb_fail(FB_ERROR_ARGUMENT, "logprobs: there are none with the loop fast-dllm-v2");
    fb_prompt prompt = {(const int32_t *)(const void *)r->ids.data, r->ids.size / sizeof(int32_t)};
    fb_prompt *checked = NULL;
    FB_TRY(fb_generate_prompts(config, &r->options, &prompt, 1, &checked));
    fb_free(checked);
    return FB_OK;
}

fb_status fb_serve_request_read(const fb_serve_model *model, bool chat, const char *body,
                                size_t size, fb_serve_request *request) {
    const fb_json *object = NULL;
    *request = (fb_serve_request){.chat = chat, .options = model->session->options};
    FB_TRY(fb_json_parse(body, size, where, &object));
    fb_status status = read_body(request, model, object);
    fb_json_free(object);
    return status;
}

void fb_serve_request_free(fb_serve_request *request) {
    fb_buffer_free(&request->ids);
    for (size_t i = 0; i < request->num_stops; i++)
        fb_buffer_free(&request->stops[i]);
    *request = (fb_serve_request){0};
}

/* One `flashblock generate`: loading, prompts, options. */
#include "cli/generate/session.h"

#include "base/error.h"
#include "base/memory.h"
#include "cli/output.h"
#include "decode/generate_options.h"
#include "io/buffer.h"
#include "io/chat_template.h"
#include "io/file.h"
#include "io/utf8.h"

#include <stdio.h>
#include <string.h>

/* Longer prompts than this fit no model; the limit keeps a wrong file from filling the memory. */
enum { MAX_PROMPT_BYTES = 64 << 20 };

fb_status fb_session_load(fb_session *session, const char *directory, bool no_mmap,
                          bool float_activations) {
    fb_model_options options;
    fb_model_options_init(&options);
    options.read_weights = no_mmap;
    options.float_activations = float_activations;
    session->directory = directory;
    FB_TRY(fb_model_load_with(directory, &options, &session->model));
    fb_print_model_warnings(session->model);
    FB_TRY(fb_tokenizer_load(directory, &session->tokenizer));
    fb_print_tokenizer_warnings(session->tokenizer);
    return FB_OK;
}

/* --- text of a prompt ------------------------------------------------------------------------- */

/* The line break that editors put at the end is of the file and not of the text. */
static fb_status append_file(fb_buffer *text, const char *name) {
    const char *path = fb_is_stdin(name) ? FB_STDIN_PATH : name;
    char *content = NULL;
    size_t size = 0;
    FB_TRY(fb_file_read_text(path, MAX_PROMPT_BYTES, &content, &size));
    if (size > 0 && content[size - 1] == '\n') {
        size--;
        if (size > 0 && content[size - 1] == '\r')
            size--;
    }
    fb_status status = fb_buffer_append(text, content, size);
    fb_free(content);
    return status;
}

/* A text in another encoding is another text. */
static void warn_of_encoding(const unsigned char *text, size_t length,
                             const fb_option_value *value) {
    size_t valid = fb_utf8_valid_prefix(text, length);
    const unsigned char *nul = memchr(text, 0, length);
    if (nul)
        fb_print_error("warning: --%s: byte %zu is 0: is the text UTF-16, or no text?",
                       value->option->name, (size_t)(nul - text));
    if (valid < length)
        fb_print_error("warning: --%s: byte %zu (0x%02x) is not UTF-8; U+FFFD stands for such "
                       "bytes",
                       value->option->name, valid, text[valid]);
}

static fb_status append_prompt_text(fb_buffer *text, const fb_option_value *value) {
    size_t before = text->size;
    if (strcmp(value->option->name, "prompt-file") == 0)
        FB_TRY(append_file(text, value->text));
    else
        FB_TRY(fb_buffer_append_text(text, value->text));
    if (text->size > before)
        warn_of_encoding(text->data + before, text->size - before, value);
    return FB_OK;
}

/* --- ids of a prompt -------------------------------------------------------------------------- */

/* Ids are kept in a buffer, sizeof(int32_t) bytes each. */
static fb_status append_ids(fb_buffer *ids, const fb_tokenizer *tokenizer, const char *text,
                            size_t length, fb_added_tokens added) {
    int32_t *tokens = NULL;
    size_t count = 0;
    FB_TRY(fb_tokenizer_encode(tokenizer, text, length, added, &tokens, &count));
    fb_status status = fb_buffer_append(ids, tokens, count * sizeof *tokens);
    fb_token_ids_free(tokens);
    return status;
}

/* A template of another format would ask the model in a way that it was not trained on. */
static fb_status choose_chat_format(fb_session *session) {
    fb_status status = fb_chat_template_of_directory(session->directory, &session->chat_format);
    if (status == FB_OK)
        status = fb_chat_format_check(session->chat_format, session->tokenizer);
    return status == FB_OK ? FB_OK : fb_fail_in(status, "--chat");
}

/* A user's turn, after the system's turn that the format may have by itself. */
static fb_status encode_chat(fb_buffer *ids, const fb_session *session, const fb_buffer *text,
                             fb_added_tokens added) {
    FB_TRY(fb_chat_append_system(ids, session->chat_format, session->tokenizer, NULL));
    return fb_chat_append_user(ids, session->chat_format, session->tokenizer,
                               (const char *)text->data, text->size, added);
}

static fb_status read_prompt(fb_buffer *text, fb_buffer *ids, const fb_session *session,
                             const fb_option_value *value, const fb_prompt_format *format) {
    fb_added_tokens added = format->parse_special ? FB_ADDED_PARSED : FB_ADDED_SPECIAL_AS_TEXT;
    FB_TRY(append_prompt_text(text, value));
    FB_TRY(fb_buffer_terminate(text)); /* never a null pointer */
    return format->chat
               ? encode_chat(ids, session, text, added)
               : append_ids(ids, session->tokenizer, (const char *)text->data, text->size, added);
}

/* Standard input can be read once. */
static fb_status check_stdin(const fb_option_list *list) {
    size_t count = 0;
    for (size_t i = 0; i < list->count; i++)
        count += strcmp(list->values[i].option->name, "prompt-file") == 0 &&
                 fb_is_stdin(list->values[i].text);
    if (count > 1)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "--prompt-file: standard input can be read once, and is given %zu times",
                       count);
    return FB_OK;
}

fb_status fb_session_read_prompts(fb_session *session, const fb_option_list *list,
                                  const fb_prompt_format *format, size_t samples) {
    size_t count = 0;
    FB_TRY(check_stdin(list));
    session->chat = format->chat;
    if (format->chat)
        FB_TRY(choose_chat_format(session));
    if (!fb_size_mul(list->count, samples, &count))
        return fb_fail(FB_ERROR_ARGUMENT, "--samples: %zu of %zu prompts are too many", samples,
                       list->count);
    session->samples = samples;
    FB_TRY(fb_alloc_zeroed(count, sizeof *session->prompts, "prompts", &session->prompts));
    FB_TRY(fb_alloc_zeroed(count, sizeof *session->seeds, "seeds", &session->seeds));
    for (size_t i = 0; i < list->count; i++) {
        fb_buffer text = {0}, ids = {0};
        fb_status status = read_prompt(&text, &ids, session, &list->values[i], format);
        fb_buffer_free(&text);
        if (status != FB_OK) {
            fb_buffer_free(&ids);
            return status;
        }
        const int32_t *tokens = (const int32_t *)(const void *)ids.data;
        for (size_t sample = 0; sample < samples; sample++) {
            session->seeds[session->num_prompts] = session->options.seed + sample;
            session->prompts[session->num_prompts++] =
                (fb_prompt){tokens, ids.size / sizeof *tokens};
        }
    }
    session->options.seeds = session->seeds;
    return FB_OK;
}

/* --- generation --------------------------------------------------------------------------------
 */

/* The model's turn ends with the format's token, whatever its configuration lists. */
static fb_status stop_at_turn(fb_session *session) {
    fb_generate_options *options = &session->options;
    int32_t end = fb_chat_format_end(session->chat_format, session->tokenizer);
    for (size_t i = 0; i < options->num_stop_tokens; i++)
        if (options->stop_tokens[i] == end)
            return FB_OK;
    FB_TRY(
        fb_alloc(options->num_stop_tokens + 1, sizeof end, "stop tokens", &session->stop_tokens));
    if (options->num_stop_tokens > 0)
        memcpy(session->stop_tokens, options->stop_tokens, options->num_stop_tokens * sizeof end);
    session->stop_tokens[options->num_stop_tokens++] = end;
    options->stop_tokens = session->stop_tokens;
    return FB_OK;
}

fb_status fb_session_choose_stops(fb_session *session) {
    const fb_model_config *config = fb_model_config_of(session->model);
    fb_generate_options *options = &session->options;
    if (options->stop_tokens == NULL) {
        options->stop_tokens = config->eos_token_ids;
        options->num_stop_tokens = config->num_eos_token_ids;
    }
    return session->chat ? stop_at_turn(session) : FB_OK;
}

fb_status fb_session_resolve(fb_session *session) {
    FB_TRY(fb_generate_options_resolve(fb_model_config_of(session->model), &session->options));
    return session->chat ? stop_at_turn(session) : FB_OK;
}

fb_status fb_session_record(fb_session *session, const char *path) {
    return fb_trajectory_writer_open(fb_output_path(path), session->directory, &session->options,
                                     &session->prompts[0], &session->record);
}

/* What a generation shows and writes while it goes on. */
typedef struct observer {
    fb_display *display;
    fb_trajectory_writer *record;
    fb_status status; /* of the record */
} observer;

static bool see_step(void *user, const fb_step_event *event) {
    observer *o = user;
    if (o->record)
        o->status = fb_trajectory_writer_step(o->record, event);
    return o->status == FB_OK && fb_display_step(o->display, event);
}

fb_status fb_session_generate(const fb_session *session, fb_display_kind kind, size_t tau,
                              fb_generation **generation) {
    fb_display *display = NULL;
    FB_TRY(fb_display_create(kind, session->tokenizer, session->num_prompts, session->samples,
                             &display));
    fb_generate_options options = session->options;
    options.reuse.tau = tau;
    if (tau == 0)
        options.reuse = (fb_reuse_policy){0}; /* dense */
    observer seen = {.display = display, .record = session->record};
    options.on_step = see_step;
    options.user = &seen;
    fb_generation *result = NULL;
    fb_status status =
        fb_generate(session->model, session->prompts, session->num_prompts, &options, &result);
    if (status == FB_OK)
        status = fb_display_status(display);
    if (status == FB_OK)
        status = seen.status;
    if (status == FB_OK)
        *generation = result;
    else
        fb_generation_destroy(result);
    fb_display_destroy(display);
    return status;
}

const char *fb_session_model_name(const fb_session *session, char *buffer, size_t size) {
    const char *directory = session->directory;
    size_t end = strlen(directory);
    while (end > 1 && directory[end - 1] == '/')
        end--;
    size_t from = end;
    while (from > 0 && directory[from - 1] != '/')
        from--;
    snprintf(buffer, size, "%.*s", (int)(end - from), directory + from);
    return buffer;
}

void fb_session_free(fb_session *session) {
    fb_trajectory_writer_abandon(session->record);
    for (size_t i = 0; i < session->num_prompts; i += session->samples)
        fb_free((void *)session->prompts[i].tokens);
    fb_free(session->stop_tokens);
    fb_free(session->prompts);
    fb_free(session->seeds);
    fb_tokenizer_destroy(session->tokenizer);
    fb_model_destroy(session->model);
    *session = (fb_session){0};
}

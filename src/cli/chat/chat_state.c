#include "cli/chat/chat_state.h"

#include "base/error.h"
#include "base/memory.h"
#include "cli/interrupt.h"

#include <stdio.h>
#include <string.h>

/* --- turns ------------------------------------------------------------------------------------ */

static void drop_turns(fb_chat *chat, size_t first) {
    for (size_t i = first; i < chat->num_turns; i++)
        fb_buffer_free(&chat->turns[i].text);
    chat->num_turns = first < chat->num_turns ? first : chat->num_turns;
}

static fb_status make_room(fb_chat *chat) {
    if (chat->num_turns < chat->capacity)
        return FB_OK;
    size_t capacity = chat->capacity > 0 ? 2 * chat->capacity : 16;
    fb_chat_turn *turns;
    FB_TRY(fb_alloc(capacity, sizeof *turns, "turns", &turns));
    if (chat->num_turns > 0)
        memcpy(turns, chat->turns, chat->num_turns * sizeof *turns);
    fb_free(chat->turns);
    chat->turns = turns;
    chat->capacity = capacity;
    return FB_OK;
}

static fb_status add_text(fb_chat *chat, bool answer, const char *text, size_t length) {
    FB_TRY(make_room(chat));
    fb_chat_turn *turn = &chat->turns[chat->num_turns++];
    *turn = (fb_chat_turn){.answer = answer};
    FB_TRY(fb_buffer_append(&turn->text, text, length));
    return fb_buffer_terminate(&turn->text);
}

static fb_status add(fb_chat *chat, bool answer, const char *text, size_t length) {
    const fb_tokenizer *tokenizer = chat->session.tokenizer;
    FB_TRY(add_text(chat, answer, text, length));
    if (!answer)
        return fb_chat_append_user(&chat->ids, chat->format, tokenizer, text, length,
                                   FB_ADDED_SPECIAL_AS_TEXT);
    FB_TRY(fb_chat_append_text(&chat->ids, tokenizer, text, length, FB_ADDED_SPECIAL_AS_TEXT));
    return fb_chat_append_end(&chat->ids, chat->format, tokenizer);
}

/* The chat as it was: so many turns, so many bytes of ids. */
static fb_status undo(fb_chat *chat, size_t turns, size_t size, fb_status status) {
    if (status != FB_OK) {
        drop_turns(chat, turns);
        chat->ids.size = size;
    }
    return status;
}

fb_status fb_chat_add(fb_chat *chat, bool answer, const char *text, size_t length) {
    size_t turns = chat->num_turns, size = chat->ids.size;
    return undo(chat, turns, size, add(chat, answer, text, length));
}

size_t fb_chat_num_tokens(const fb_chat *chat) {
    return chat->ids.size / sizeof(int32_t);
}

/* --- beginning and end ------------------------------------------------------------------------ */

fb_status fb_chat_reset(fb_chat *chat) {
    drop_turns(chat, 0);
    chat->ids.size = 0;
    return fb_chat_append_system(&chat->ids, chat->format, chat->session.tokenizer, chat->system);
}

fb_status fb_chat_reset_to(fb_chat *chat, const char *system) {
    char *copy = NULL;
    if (system) {
        FB_TRY(fb_alloc(strlen(system) + 1, 1, "system prompt", &copy));
        memcpy(copy, system, strlen(system) + 1);
    }
    fb_free(chat->system);
    chat->system = copy;
    return fb_chat_reset(chat);
}

fb_status fb_chat_begin(fb_chat *chat, const char *system) {
    FB_TRY(fb_conversation_create(chat->session.model, chat->session.options.kv_dtype,
                                  &chat->conversation));
    return fb_chat_reset_to(chat, system);
}

void fb_chat_free_turns(fb_chat *chat) {
    drop_turns(chat, 0);
    fb_free(chat->turns);
    fb_free(chat->system);
    fb_buffer_free(&chat->ids);
}

void fb_chat_free(fb_chat *chat) {
    fb_chat_free_turns(chat);
    fb_conversation_destroy(chat->conversation);
    fb_session_free(&chat->session);
    *chat = (fb_chat){0};
}

/* --- answers ---------------------------------------------------------------------------------- */

static bool show_step(void *display, const fb_step_event *event) {
    return fb_display_step(display, event) && !fb_interrupt_seen();
}

static bool is_cancelled(void *display) {
    (void)display;
    return fb_interrupt_seen();
}

static void add_cost(fb_chat_cost *sum, const fb_chat_cost *of) {
    sum->counts.prefill_tokens += of->counts.prefill_tokens;
    sum->counts.denoising_steps += of->counts.denoising_steps;
    sum->counts.refreshes += of->counts.refreshes;
    sum->counts.row_refreshes += of->counts.row_refreshes;
    sum->counts.reuses += of->counts.reuses;
    sum->counts.commits += of->counts.commits;
    sum->counts.completion_tokens += of->counts.completion_tokens;
    sum->answers += of->answers;
    sum->kept_tokens += of->kept_tokens;
    sum->seconds += of->seconds;
    sum->prefill_seconds += of->prefill_seconds;
    sum->decode_seconds += of->decode_seconds;
    sum->attention_seconds += of->attention_seconds;
}

static void count(fb_chat *chat, const fb_generation *generation, size_t kept) {
    const fb_generate_stats *stats = fb_generation_stats(generation);
    chat->last = (fb_chat_cost){
        .counts = *stats->counts,
        .answers = 1,
        .kept_tokens = kept,
        .seconds = stats->seconds,
        .prefill_seconds = stats->prefill.total,
        .decode_seconds = stats->decode.total,
        .attention_seconds = stats->decode.attention,
    };
    add_cost(&chat->total, &chat->last);
}

static bool is_stop_token(const fb_generate_options *options, int32_t token) {
    for (size_t i = 0; i < options->num_stop_tokens; i++)
        if (options->stop_tokens[i] == token)
            return true;
    return false;
}

/* The answer joins the turns. A stop token that is not the format's stays out, as it is not of the
 * format. */
static fb_status take_answer(fb_chat *chat, const fb_generate_result *result) {
    const fb_tokenizer *tokenizer = chat->session.tokenizer;
    size_t num_tokens = result->num_tokens;
    if (result->finish_reason == FB_FINISH_STOP && num_tokens > 0 &&
        is_stop_token(&chat->session.options, result->tokens[num_tokens - 1]))
        num_tokens--;
    FB_TRY(fb_buffer_append(&chat->ids, result->tokens, num_tokens * sizeof *result->tokens));
    FB_TRY(fb_chat_append_end(&chat->ids, chat->format, tokenizer));
    char *text = NULL;
    size_t length = 0;
    FB_TRY(fb_tokenizer_decode(tokenizer, result->tokens, num_tokens, true, &text, &length));
    fb_status status = add_text(chat, true, text, length);
    fb_text_free(text);
    return status;
}

/* A generation that was cancelled has not shown the end of its line. */
static void end_line(const fb_chat *chat, const fb_generate_result *result) {
    if (result->finish_reason == FB_FINISH_CANCELLED && chat->display != FB_DISPLAY_NONE)
        putchar('\n');
    fflush(stdout);
}

static fb_status generate(fb_chat *chat, fb_display *display, fb_finish_reason *finish_reason) {
    fb_generate_options options = chat->session.options;
    options.seed += chat->num_turns / 2;
    options.on_step = show_step;
    options.is_cancelled = is_cancelled;
    options.user = display;
    fb_prompt prompt = {(const int32_t *)(const void *)chat->ids.data, fb_chat_num_tokens(chat)};
    size_t kept = 0;
    fb_generation *generation = NULL;
    FB_TRY(fb_conversation_generate(chat->conversation, &prompt, &options, &kept, &generation));
    const fb_generate_result *result = fb_generation_result(generation, 0);
    fb_status status = fb_display_status(display);
    *finish_reason = result->finish_reason;
    end_line(chat, result);
    count(chat, generation, kept);
    if (status == FB_OK)
        status = take_answer(chat, result);
    fb_generation_destroy(generation);
    return status;
}

static fb_status ask(fb_chat *chat, const char *text, size_t length,
                     fb_finish_reason *finish_reason) {
    fb_display *display = NULL;
    FB_TRY(add(chat, false, text, length));
    FB_TRY(fb_display_create(chat->display, chat->session.tokenizer, 1, 1, &display));
    fb_status status = generate(chat, display, finish_reason);
    fb_display_destroy(display);
    return status;
}

fb_status fb_chat_ask(fb_chat *chat, const char *text, size_t length,
                      fb_finish_reason *finish_reason) {
    size_t turns = chat->num_turns, size = chat->ids.size;
    return undo(chat, turns, size, ask(chat, text, length, finish_reason));
}

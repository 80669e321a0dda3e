#include "cli/chat/chat_file.h"

#include "base/error.h"
#include "base/memory.h"
#include "io/file.h"
#include "io/json.h"
#include "io/json_write.h"

#include <string.h>

enum { MAX_FILE = 64 << 20 };

/* --- saving ----------------------------------------------------------------------------------- */

static void put_message(fb_json_writer *w, const char *role, const char *text, size_t length) {
    fb_json_open_object(w, NULL);
    fb_json_put_string(w, "role", role);
    fb_json_put_bytes(w, "content", text, length);
    fb_json_close_object(w);
}

static void put_chat(fb_json_writer *w, const fb_chat *chat) {
    fb_json_open_object(w, NULL);
    fb_json_put_string(w, "format", fb_chat_format_name(chat->format));
    fb_json_open_array(w, "messages");
    if (chat->system)
        put_message(w, "system", chat->system, strlen(chat->system));
    for (size_t i = 0; i < chat->num_turns; i++) {
        const fb_chat_turn *turn = &chat->turns[i];
        put_message(w, turn->answer ? "assistant" : "user", (const char *)turn->text.data,
                    turn->text.size);
    }
    fb_json_close_array(w);
    fb_json_close_object(w);
}

fb_status fb_chat_save(const fb_chat *chat, const char *path) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_writer_to(&text, FB_JSON_INDENTED);
    put_chat(&w, chat);
    fb_status status = fb_json_finish(&w);
    if (status == FB_OK)
        status = fb_buffer_append_text(&text, "\n");
    if (status == FB_OK)
        status = fb_file_write(path, text.data, text.size);
    fb_buffer_free(&text);
    return status;
}

/* --- loading ---------------------------------------------------------------------------------- */

/* The messages of a file, checked. */
typedef struct messages {
    const char *path;
    const fb_json *list;
    const char *system; /* NULL: none */
    size_t first;       /* after the system's */
} messages;

static fb_status read_message(const messages *m, size_t i, const char **role,
                              const char **content) {
    const fb_json *message = fb_json_array_get(m->list, i);
    if (!fb_json_is_object(message))
        return fb_fail(FB_ERROR_FORMAT, "%s: message %zu is not an object", m->path, i);
    FB_TRY(fb_json_get_string(message, m->path, "role", role));
    return fb_json_get_string(message, m->path, "content", content);
}

/* The system's message may come first; then the user's and the assistant's alternate, and the
 * assistant's is the last. */
static fb_status check_messages(messages *m) {
    const char *role, *content;
    size_t count = fb_json_array_size(m->list);
    if (count > 0) {
        FB_TRY(read_message(m, 0, &role, &content));
        if (strcmp(role, "system") == 0) {
            m->system = content;
            m->first = 1;
        }
    }
    for (size_t i = m->first; i < count; i++) {
        const char *wanted = (i - m->first) % 2 == 0 ? "user" : "assistant";
        FB_TRY(read_message(m, i, &role, &content));
        if (strcmp(role, wanted) != 0)
            return fb_fail(FB_ERROR_FORMAT, "%s: message %zu is of role \"%s\", not \"%s\"",
                           m->path, i, role, wanted);
    }
    if ((count - m->first) % 2 != 0)
        return fb_fail(FB_ERROR_FORMAT, "%s: the last message is not the assistant's", m->path);
    return FB_OK;
}

static fb_status add_messages(fb_chat *chat, const messages *m) {
    for (size_t i = m->first; i < fb_json_array_size(m->list); i++) {
        const char *role, *content;
        FB_TRY(read_message(m, i, &role, &content));
        FB_TRY(fb_chat_add(chat, (i - m->first) % 2 != 0, content, strlen(content)));
    }
    return FB_OK;
}

/* What a chat has of its turns is put aside, and comes back where the new ones fail. */
static fb_status replace(fb_chat *chat, const messages *m) {
    fb_chat before = *chat;
    chat->system = NULL;
    chat->turns = NULL;
    chat->num_turns = chat->capacity = 0;
    chat->ids = (fb_buffer){0};
    fb_status status = fb_chat_reset_to(chat, m->system);
    if (status == FB_OK)
        status = add_messages(chat, m);
    if (status != FB_OK) {
        fb_chat_free_turns(chat);
        *chat = before;
        return status;
    }
    fb_chat_free_turns(&before);
    return FB_OK;
}

fb_status fb_chat_load(fb_chat *chat, const char *path) {
    messages m = {.path = path};
    const fb_json *file = NULL;
    FB_TRY(fb_json_load(path, MAX_FILE, &file));
    fb_status status = fb_json_get_array(file, path, "messages", &m.list);
    if (status == FB_OK)
        status = check_messages(&m);
    if (status == FB_OK)
        status = replace(chat, &m);
    fb_json_free(file);
    return status;
}

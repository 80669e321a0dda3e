#include "cli/chat/chat_commands.h"

#include "base/error.h"
#include "cli/chat/chat_file.h"
#include "study/measures.h"

#include <stdio.h>
#include <string.h>

typedef fb_status command_run(fb_chat *chat, const char *argument);

typedef struct command {
    const char *name, *argument; /* NULL: it takes none */
    const char *help;
    command_run *run; /* NULL: it ends the chat */
} command;

/* --- what they do ----------------------------------------------------------------------------- */

static fb_status reset(fb_chat *chat, const char *argument) {
    (void)argument;
    FB_TRY(fb_chat_reset(chat));
    fprintf(stderr, "The conversation begins anew.\n");
    return FB_OK;
}

static fb_status save(fb_chat *chat, const char *path) {
    FB_TRY(fb_chat_save(chat, path));
    fprintf(stderr, "%zu messages are saved.\n", chat->num_turns);
    return FB_OK;
}

static fb_status load(fb_chat *chat, const char *path) {
    FB_TRY(fb_chat_load(chat, path));
    fprintf(stderr, "%zu messages are loaded, %zu tokens.\n", chat->num_turns,
            fb_chat_num_tokens(chat));
    return FB_OK;
}

static void print_cost(const char *heading, const fb_chat_cost *cost) {
    const fb_generate_counts *counts = &cost->counts;
    char rows[48] = "";
    if (counts->row_refreshes > 0)
        snprintf(rows, sizeof rows, "%zu refresh rows, ", counts->row_refreshes);
    fprintf(
        stderr,
        "%s\n"
        "  tokens     %zu written, %.1f/s; of the prompt %zu read in %.3f s, %zu kept\n"
        "  passes     %zu steps: %zu refresh, %s%zu reuse; %zu commit\n"
        "  attention  %.3f s of %.3f s in decode passes (%.1f %%)\n",
        heading, counts->completion_tokens,
        fb_measure_ratio((double)counts->completion_tokens, cost->seconds - cost->prefill_seconds),
        counts->prefill_tokens, cost->prefill_seconds, cost->kept_tokens, counts->denoising_steps,
        counts->refreshes, rows, counts->reuses, counts->commits, cost->attention_seconds,
        cost->decode_seconds,
        100 * fb_measure_ratio(cost->attention_seconds, cost->decode_seconds));
}

static fb_status stats(fb_chat *chat, const char *argument) {
    (void)argument;
    const fb_model_config *config = fb_model_config_of(chat->session.model);
    if (chat->total.answers > 0)
        print_cost("the last answer", &chat->last);
    if (chat->total.answers > 1) {
        char heading[48];
        snprintf(heading, sizeof heading, "all %zu answers", chat->total.answers);
        print_cost(heading, &chat->total);
    }
    fprintf(stderr, "context: %zu of %zu tokens, %.1f MB of keys and values\n",
            fb_chat_num_tokens(chat), config->max_position_embeddings,
            (double)fb_conversation_bytes(chat->conversation) / 1e6);
    return FB_OK;
}

static fb_status help(fb_chat *chat, const char *argument);

/* --- the table -------------------------------------------------------------------------------- */

static const command commands[] = {
    {"help", NULL, "show this list", help},
    {"load", "FILE", "go on with the conversation that FILE has", load},
    {"quit", NULL, "end the chat, as Ctrl-D does", NULL},
    {"reset", NULL, "begin anew, with the same system prompt", reset},
    {"save", "FILE", "write the conversation to FILE, as JSON", save},
    {"stats", NULL, "what answers have cost: tokens/s, refreshes, reuses, attention", stats},
};
enum { NUM_COMMANDS = sizeof commands / sizeof commands[0] };

static fb_status help(fb_chat *chat, const char *argument) {
    (void)chat;
    (void)argument;
    for (size_t i = 0; i < NUM_COMMANDS; i++)
        fprintf(stderr, "  /%-6s %-5s %s\n", commands[i].name,
                commands[i].argument ? commands[i].argument : "", commands[i].help);
    fprintf(stderr,
            "Ctrl-C stops an answer. A line that begins with // is a text that begins with /."
            "\nA line that ends with \\ goes on in the next one.\n");
    return FB_OK;
}

bool fb_chat_is_command(const char *line) {
    return line[0] == '/' && line[1] != '/';
}

fb_status fb_chat_command(fb_chat *chat, const char *line, bool *quits) {
    size_t length = strcspn(line + 1, " ");
    const char *argument = line + 1 + length;
    argument += strspn(argument, " ");
    for (size_t i = 0; i < NUM_COMMANDS; i++) {
        const command *c = &commands[i];
        if (strlen(c->name) != length || strncmp(c->name, line + 1, length) != 0)
            continue;
        if (c->argument && !*argument)
            return fb_fail(FB_ERROR_ARGUMENT, "/%s needs a value: %s", c->name, c->argument);
        if (!c->argument && *argument)
            return fb_fail(FB_ERROR_ARGUMENT, "/%s takes no value", c->name);
        *quits = c->run == NULL;
        return c->run ? c->run(chat, argument) : FB_OK;
    }
    return fb_fail(FB_ERROR_ARGUMENT, "there is no command '/%.*s'; /help lists them", (int)length,
                   line + 1);
}

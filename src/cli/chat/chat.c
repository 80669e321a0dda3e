/* flashblock chat: a conversation with a block-diffusion language model. */
#include "base/error.h"
#include "cli/chat/chat_commands.h"
#include "cli/chat/chat_file.h"
#include "cli/chat/chat_state.h"
#include "cli/chat/line_input.h"
#include "cli/commands.h"
#include "cli/generate/generate_settings.h"
#include "cli/generate/summary.h"
#include "cli/interrupt.h"
#include "cli/options/options.h"
#include "cli/output.h"
#include "decode/generate_options.h"
#include "io/chat_template.h"
#include "io/file.h"

#include <stdio.h>
#include <string.h>

/* The command line. */
typedef struct settings {
    fb_generate_settings generate;
    const char *system, *format, *load;
    size_t max_tokens;
    bool visual;
} settings;

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option option_list[] = {
    {.kind = FB_OPTION_GROUP, .help = "Conversation"},
    {.kind = FB_OPTION_STRING,
     .name = "system",
     .argument = "TEXT",
     TARGET(system),
     .help = "the system prompt, which comes before all turns"},
    {.kind = FB_OPTION_STRING,
     .name = "template",
     .argument = "NAME",
     TARGET(format),
     .help = "the chat format: chatml or llada2 (default: the one of the model's chat template)"},
    {.kind = FB_OPTION_STRING,
     .name = "load",
     .needs = "!system",
     .argument = "FILE",
     TARGET(load),
     .help = "go on with a conversation that /save wrote"},
    {.kind = FB_OPTION_SIZE,
     .name = "max-tokens",
     .letter = 'n',
     .argument = "TOKENS",
     TARGET(max_tokens),
     .min = 1,
     .max = 1 << 30,
     .otherwise = "1024",
     .help = "an answer has at most this many tokens"},
    {.kind = FB_OPTION_FLAG,
     .name = "visual",
     TARGET(visual),
     .help = "show every denoising step: in place on a terminal, else a line for each"},
};

static const fb_option_table table = {
    .usage = "chat --model DIR [OPTION]...",
    .summary =
        "Answers what is typed, line by line, and keeps the conversation's keys and values from "
        "one\n"
        "turn to the next: only what is new is read. Answers go to standard output as blocks "
        "finish.\n"
        "Ctrl-C stops an answer, Ctrl-D or /quit ends the chat. Lines that begin with a slash "
        "are\n"
        "commands:\n"
        "  /reset        begin anew, with the same system prompt\n"
        "  /save FILE    write the conversation to FILE, as JSON\n"
        "  /load FILE    go on with the conversation that FILE has\n"
        "  /stats        what answers have cost: tokens/s, refreshes, reuses, attention\n"
        "  /help         all commands\n"
        "Without a terminal each line of standard input is a turn or a command.",
    .shared = &fb_generate_settings_options,
    .left_out = "prompt prompt-file chat parse-special max-tokens ignore-eos samples batch-size ",
    FB_TABLE_OPTIONS(option_list),
};

/* --- beginning -------------------------------------------------------------------------------- */

static fb_status choose_format(fb_chat *chat, const settings *given) {
    if (given->format) {
        fb_status status = fb_chat_format_parse(given->format, &chat->format);
        if (status != FB_OK)
            return fb_fail_in(status, "--template");
    } else {
        fb_status status = fb_chat_template_of_directory(chat->session.directory, &chat->format);
        if (status == FB_ERROR_UNSUPPORTED)
            return fb_fail_in(status, "the model's chat template is not known (--template NAME "
                                      "chooses a format all the same)");
        FB_TRY(status);
    }
    fb_status status = fb_chat_format_check(chat->format, chat->session.tokenizer);
    return status == FB_OK
               ? FB_OK
               : fb_fail_in(status, "the chat format %s", fb_chat_format_name(chat->format));
}

static fb_status prepare(fb_chat *chat, settings *given) {
    fb_session *session = &chat->session;
    FB_TRY(fb_generate_settings_open(session, &given->generate));
    FB_TRY(choose_format(chat, given));
    session->chat = true;
    session->chat_format = chat->format;
    session->options.max_tokens = given->max_tokens;
    FB_TRY(fb_session_resolve(session));
    chat->display = given->visual ? FB_DISPLAY_VISUAL : FB_DISPLAY_TEXT;
    FB_TRY(fb_chat_begin(chat, given->system));
    return given->load ? fb_chat_load(chat, given->load) : FB_OK;
}

/* --- the conversation ------------------------------------------------------------------------- */

/* What ended an answer, where that is neither the model nor the user. */
static void print_reason(const fb_chat *chat, fb_finish_reason reason) {
    if (reason == FB_FINISH_LENGTH)
        fprintf(stderr, "(The answer has %zu tokens, as many as --max-tokens allows.)\n",
                chat->session.options.max_tokens);
    if (reason == FB_FINISH_CONTEXT)
        fprintf(stderr, "(The model's context is full. /reset begins anew.)\n");
}

static fb_status take_line(fb_chat *chat, const char *line, size_t length, bool *quits) {
    if (fb_chat_is_command(line))
        return fb_chat_command(chat, line, quits);
    if (line[0] == '/') {
        line++;
        length--;
    }
    if (length == 0)
        return FB_OK;
    fb_finish_reason reason = FB_FINISH_STOP;
    fb_interrupt_forget();
    FB_TRY(fb_chat_ask(chat, line, length, &reason));
    fb_interrupt_forget();
    print_reason(chat, reason);
    return FB_OK;
}

/* One line of error, after which the chat goes on; the exit status of a chat without a person. */
static int report(fb_status status, const fb_line_input *input) {
    int exit_status = fb_report_status(status);
    return fb_line_input_is_terminal(input) ? FB_EXIT_OK : exit_status;
}

static int converse(fb_chat *chat, fb_line_input *input) {
    int exit_status = FB_EXIT_OK;
    for (bool quits = false; !quits;) {
        fb_line_kind kind;
        const char *line = NULL;
        size_t length = 0;
        fb_status status = fb_line_input_read(input, "> ", &kind, &line, &length);
        if (status != FB_OK)
            return fb_report_status(status);
        if (kind == FB_LINE_END) {
            if (fb_line_input_is_terminal(input))
                putchar('\n');
            break;
        }
        if (kind == FB_LINE_INTERRUPTED && !fb_line_input_is_terminal(input))
            break;
        if (kind == FB_LINE_TEXT)
            status = take_line(chat, line, length, &quits);
        if (status != FB_OK)
            exit_status = report(status, input);
        if (ferror(stdout))
            break; /* nobody reads; the end of the program says so */
    }
    return exit_status;
}

static int chat(settings *given) {
    if (given->generate.options.compat == FB_COMPAT_RELEASED) {
        fb_print_error("--compat released has no conversation; see flashblock chat --help");
        return FB_EXIT_USAGE;
    }
    fb_chat state = {0};
    fb_line_input *input = NULL;
    fb_status status = fb_file_batch_end(); /* /save writes at once */
    if (status == FB_OK)
        status = prepare(&state, given);
    if (status == FB_OK)
        status = fb_line_input_open(&input);
    int exit_status = fb_report_status(status);
    if (status == FB_OK) {
        fb_summary_print_sampling(&state.session);
        if (fb_line_input_is_terminal(input))
            fprintf(stderr,
                    "Ctrl-C stops an answer, Ctrl-D ends the chat; /help lists commands.\n");
        fb_interrupt_catch();
        exit_status = converse(&state, input);
    }
    fb_line_input_close(input);
    fb_chat_free(&state);
    return exit_status;
}

int fb_command_chat(int argc, char **argv) {
    settings given = {.generate = fb_generate_settings_default()};
    int exit_status;
    if (fb_options_parse(&table, argc, argv, &given, &exit_status))
        exit_status = chat(&given);
    return exit_status;
}

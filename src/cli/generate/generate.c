/* flashblock generate: text from a block-diffusion language model, dense or with FlashBlock. */
#include "base/error.h"
#include "cli/commands.h"
#include "cli/generate/compare.h"
#include "cli/generate/display.h"
#include "cli/generate/generate_settings.h"
#include "cli/generate/session.h"
#include "cli/generate/summary.h"
#include "cli/options/common_options.h"
#include "cli/options/options.h"
#include "cli/output.h"

#include <stdio.h>

/* The command line. */
typedef struct settings {
    fb_generate_settings generate;
    size_t repeats;
    bool visual, compare;
    const char *record;
} settings;

#define TARGET(field) .target = offsetof(settings, field)

static const fb_option option_list[] = {
    {.kind = FB_OPTION_GROUP, .help = "Output"},
    {.kind = FB_OPTION_FLAG,
     .name = "visual",
     .needs = "!compare json!=- samples=1",
     TARGET(visual),
     .help = "show every denoising step: in place on a terminal, else a line for each"},
    {.kind = FB_OPTION_FLAG,
     .name = "compare",
     .needs = "!visual !sparse tau!=0",
     TARGET(compare),
     .help = "write the text with dense attention and with FlashBlock, and compare"},
    {.kind = FB_OPTION_SIZE,
     .name = "repeats",
     .needs = "compare",
     .argument = "N",
     TARGET(repeats),
     .min = 1,
     .max = 1000,
     .otherwise = "3",
     .help = "run both N times, in turn, and report medians"},
    {.kind = FB_OPTION_OUTPUT,
     .name = "record",
     .argument = "FILE",
     .needs = "!compare !sparse samples=1",
     TARGET(record),
     .help = "write every pass of the only prompt to FILE, as JSON lines: proposals, confidences, "
             "decisions; flashblock verify --trajectory judges such records"},
    FB_JSON_OPTION(
        fb_generate_settings, json,
        "write texts, token ids, counts and times as JSON to FILE; without FILE, or with "
        "\"-\", to standard output instead of the text"),
};

static const fb_option_table table = {
    .usage = "generate --model DIR (--prompt TEXT | --prompt-file FILE)... [OPTION]...",
    .summary =
        "Continues prompts with a block-diffusion language model (SDAR, TraDo, LLaDA2, Fast-dLLM\n"
        "v2, Qwen3 bd3lm). Text goes to standard output as blocks finish, a summary to standard\n"
        "error.",
    .shared = &fb_generate_settings_options,
    FB_TABLE_OPTIONS(option_list),
};

/* --- the run -----------------------------------------------------------------------------------
 */

static const char *contradiction(const settings *given) {
    const fb_generate_settings *shared = &given->generate;
    const char *wrong = fb_generate_settings_wrong(shared);
    if (wrong)
        return wrong;
    if (given->visual && shared->prompts.count > 1)
        return "--visual shows one prompt only";
    if (given->record && shared->prompts.count > 1)
        return "--record takes one prompt only";
    return NULL;
}

static fb_status write_generation(const fb_session *session, const fb_generation *generation,
                                  const char *path) {
    fb_buffer text = {0};
    fb_json_writer w = fb_json_output(&text);
    fb_json_open_object(&w, NULL);
    fb_summary_put_session(&w, session);
    fb_summary_put_generation(&w, session, generation);
    fb_json_close_object(&w);
    return fb_write_json(&w, path);
}

static fb_status run(fb_session *session, const settings *given) {
    const char *json = given->generate.json;
    fb_display_kind kind = given->visual ? FB_DISPLAY_VISUAL : FB_DISPLAY_TEXT;
    if (fb_is_stdout(json))
        kind = FB_DISPLAY_NONE;
    fb_generation *generation = NULL;
    if (given->record)
        FB_TRY(fb_session_record(session, given->record));
    FB_TRY(fb_session_generate(session, kind, session->options.reuse.tau, &generation));
    fb_summary_print(session, generation);
    fb_status status = json ? write_generation(session, generation, json) : FB_OK;
    if (status == FB_OK && session->record) {
        status = fb_trajectory_writer_commit(session->record);
        session->record = NULL;
    }
    fb_generation_destroy(generation);
    return status;
}

static int generate(settings *given) {
    const char *wrong = contradiction(given);
    if (wrong) {
        fb_print_error("%s; see flashblock generate --help", wrong);
        return FB_EXIT_USAGE;
    }
    fb_session session = {0};
    fb_status status = fb_generate_settings_prepare(&session, &given->generate);
    if (status == FB_OK)
        status = given->compare ? fb_compare(&session, given->repeats, given->generate.json)
                                : run(&session, given);
    if (status == FB_OK)
        fb_summary_print_sampling(&session);
    fb_session_free(&session);
    return fb_report_status(status);
}

int fb_command_generate(int argc, char **argv) {
    settings given = {.generate = fb_generate_settings_default()};
    int exit_status;
    if (fb_options_parse(&table, argc, argv, &given, &exit_status))
        exit_status = generate(&given);
    fb_option_list_free(&given.generate.prompts);
    return exit_status;
}

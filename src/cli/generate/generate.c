/* flashblock generate: text from a block-diffusion language model, dense or with FlashBlock. */
#include "base/error.h"
#include "cli/commands.h"
#include "cli/common_options.h"
#include "cli/generate/compare.h"
#include "cli/generate/display.h"
#include "cli/generate/generate_settings.h"
#include "cli/generate/session.h"
#include "cli/generate/summary.h"
#include "cli/isa_choice.h"
#include "cli/options.h"
#include "cli/output.h"
#include "cli/selector_names.h"

#include <flashblock/experimental/sparse.h>
#include <flashblock/runtime.h>

#include <stdio.h>
#include <string.h>

enum { PAPER_TAU = 2, ROWS_TAU = 1 };
#define NO_TAU SIZE_MAX /* not given */

/* What the command line says. */
typedef struct settings {
    fb_generate_settings generate;
    size_t repeats;
    bool visual, compare;
} settings;

#define TARGET(field) .target = offsetof(fb_generate_settings, field)

static const fb_option shared_list[] = {
    {.kind = FB_OPTION_GROUP, .help = "Model and prompt"},
    FB_MODEL_OPTION(fb_generate_settings, model,
                    "a Hugging Face directory: config.json, model.safetensors (or its shards), "
                    "tokenizer.json"),
    {.kind = FB_OPTION_LIST,
     .name = "prompt",
     .letter = 'p',
     .argument = "TEXT",
     TARGET(prompts),
     .help = "the text to continue; given several times, all are continued in one batch"},
    {.kind = FB_OPTION_LIST,
     .name = "prompt-file",
     .letter = 'f',
     .argument = "FILE",
     TARGET(prompts),
     .help = "the same from a file, \"-\" for standard input; one newline at its end is dropped"},
    {.kind = FB_OPTION_FLAG,
     .name = "chat",
     TARGET(format.chat),
     .help = "each prompt is a user's turn in ChatML (Qwen, SDAR-Chat, TraDo), not plain text"},
    {.kind = FB_OPTION_FLAG,
     .name = "parse-special",
     TARGET(format.parse_special),
     .help = "special tokens that prompts spell out, such as <|endoftext|>, are those tokens; "
             "plain text otherwise"},
    {.kind = FB_OPTION_SIZE,
     .name = "max-tokens",
     .letter = 'n',
     .argument = "TOKENS",
     TARGET(options.max_tokens),
     .min = 1,
     .max = 1 << 30,
     .otherwise = "128",
     .help = "write at most this many tokens after each prompt"},
    {.kind = FB_OPTION_FLAG,
     .name = "ignore-eos",
     TARGET(options.ignore_stop),
     .help = "go on after the model's end-of-text token"},

    {.kind = FB_OPTION_GROUP, .help = "FlashBlock"},
    {.kind = FB_OPTION_SIZE,
     .name = "tau",
     .letter = 't',
     .argument = "T",
     TARGET(tau),
     .max = 1 << 30,
     .help = "a denoising step reuses the attention to earlier blocks while fewer than T tokens "
             "were accepted since it was computed; 0: dense attention throughout (default: 2, with "
             "--reuse rows 1)"},
    {.kind = FB_OPTION_PARSED,
     .name = "reuse",
     .argument = "NAME",
     TARGET(options.reuse.rows),
     .parse = fb_option_parse_reuse,
     .otherwise = "tau",
     .help = "what is computed when it is time to: \"tau\": all rows, as in the paper; \"rows\": "
             "those whose token was accepted since they were computed"},
    {.kind = FB_OPTION_SIZE,
     .name = "refresh-every",
     .argument = "N",
     TARGET(options.reuse.refresh_every),
     .min = 1,
     .max = 1 << 30,
     .help = "--reuse rows: all rows every N steps (default: never)"},
    {.kind = FB_OPTION_SIZE,
     .name = "refresh-dirty",
     .argument = "N",
     TARGET(options.reuse.refresh_dirty),
     .min = 1,
     .max = 1 << 30,
     .help = "--reuse rows: all rows after N accepted tokens (default: never)"},
    {.kind = FB_OPTION_FLAG,
     .name = "refresh-commit",
     TARGET(options.reuse.refresh_commit),
     .help = "--reuse rows: all rows in the pass over a finished block"},
    {.kind = FB_OPTION_FLAG,
     .name = "correction",
     TARGET(options.reuse.correction),
     .help = "correct the weight of kept attention to first order in the change of the query"},
    {.kind = FB_OPTION_FLAG,
     .name = "reuse-always",
     TARGET(options.reuse.reuse_always),
     .help = "reuse at every step of a block after its first"},
    {.kind = FB_OPTION_FLAG,
     .name = "reuse-at-commit",
     TARGET(options.reuse.reuse_at_commit),
     .help = "the pass over a finished block may reuse, too"},
    FB_COMPAT_OPTION(
        fb_generate_settings, options.compat,
        "\"paper\": what the paper means; \"released\": what its published engine does"),
    FB_KV_DTYPE_OPTION(fb_generate_settings, options.kv_dtype),

    {.kind = FB_OPTION_GROUP, .help = "Sparse attention"},
    {.kind = FB_OPTION_PARSED,
     .name = "sparse",
     .argument = "NAME",
     TARGET(sparse.selector),
     .parse = fb_selector_name_parse,
     .help = "attend to selected blocks of earlier tokens only: sink_window, quest, moba, "
             "multipole, sparsed, mage, bfla or ba_att"},
    {.kind = FB_OPTION_DOUBLE,
     .name = "density",
     .argument = "R",
     TARGET(sparse.density),
     .max = 1,
     .otherwise = "0.2",
     .help = "share of those blocks to select"},
    {.kind = FB_OPTION_FLAG,
     .name = "residual",
     TARGET(residual),
     .help = "keep what the other blocks contribute, and reuse it by --tau; without it they "
             "contribute nothing, and --tau has no meaning"},
    {.kind = FB_OPTION_FLAG,
     .name = "centroids",
     TARGET(centroids),
     .help = "let centroids stand for the other blocks (multipole)"},
    {.kind = FB_OPTION_FLAG,
     .name = "select-every-step",
     TARGET(sparse.select_every_step),
     .help = "with --residual: select anew at every step; another selection is a refresh"},
    {.kind = FB_OPTION_SIZE,
     .name = "key-block",
     .argument = "N",
     TARGET(sparse.choosing.block_keys),
     .min = 16,
     .max = 1 << 20,
     .otherwise = "64",
     .help = "tokens of a block that is selected or not, a multiple of 16"},

    {.kind = FB_OPTION_GROUP, .help = "Denoising"},
    FB_BLOCK_SIZE_OPTION(fb_generate_settings, options.block_size),
    FB_DENOISING_STEPS_OPTION(fb_generate_settings, options.denoising_steps),
    FB_REMASKING_OPTION(
        fb_generate_settings, options.remasking,
        "which proposed tokens a step accepts: low_confidence_dynamic, low_confidence_static, "
        "sequential or entropy_bounded"),
    FB_CONFIDENCE_OPTION(fb_generate_settings, options.confidence_threshold),
    {.kind = FB_OPTION_DOUBLE,
     .name = "entropy-bound",
     .argument = "E",
     TARGET(options.entropy_bound),
     .otherwise = "0.35",
     .help = "entropy_bounded accepts tokens while their entropies add up to less than E nats"},
    {.kind = FB_OPTION_STRING,
     .name = "mask-token",
     .argument = "TOKEN",
     TARGET(mask_token),
     .help = "id or text of the mask token (default: the one that the model's files name)"},

    {.kind = FB_OPTION_GROUP, .help = "Sampling"},
    {.kind = FB_OPTION_DOUBLE,
     .name = "temperature",
     .argument = "X",
     TARGET(options.temperature),
     .otherwise = "0",
     .help = "0 takes the most probable token; otherwise tokens are drawn"},
    {.kind = FB_OPTION_SIZE,
     .name = "top-k",
     .argument = "K",
     TARGET(options.top_k),
     .otherwise = "0",
     .help = "draw from the K most probable tokens; 0: from all"},
    {.kind = FB_OPTION_DOUBLE,
     .name = "top-p",
     .argument = "P",
     TARGET(options.top_p),
     .max = 1,
     .otherwise = "1",
     .help = "draw from the most probable tokens that together exceed probability P"},
    FB_SEED_OPTION(fb_generate_settings, options.seed, "0",
                   "the same seed draws the same text again"),

    {.kind = FB_OPTION_GROUP, .help = "Machine (changes no token)"},
    FB_THREADS_OPTION(fb_generate_settings, threads,
                      "threads (default: OMP_NUM_THREADS, or one for each CPU)"),
    FB_ISA_OPTION(
        fb_generate_settings, isa, fb_isa_choice_parse_one,
        "instruction set, of those that flashblock info lists (default: FLASHBLOCK_ISA, or "
        "the widest)"),
    {.kind = FB_OPTION_SIZE,
     .name = "batch-size",
     .argument = "N",
     TARGET(options.max_active),
     .min = 1,
     .max = 1 << 16,
     .otherwise = "8",
     .help = "prompts that are denoised together"},
};

const fb_option *const fb_generate_shared_options = shared_list;
const size_t fb_generate_num_shared_options = sizeof shared_list / sizeof shared_list[0];

#undef TARGET
#define TARGET(field) .target = offsetof(settings, field)

static const fb_option option_list[] = {
    {.kind = FB_OPTION_GROUP, .help = "Output"},
    {.kind = FB_OPTION_FLAG,
     .name = "visual",
     TARGET(visual),
     .help = "show every denoising step: in place on a terminal, else a line for each"},
    {.kind = FB_OPTION_FLAG,
     .name = "compare",
     TARGET(compare),
     .help = "write the text with dense attention and with FlashBlock, and compare"},
    {.kind = FB_OPTION_SIZE,
     .name = "repeats",
     .argument = "N",
     TARGET(repeats),
     .min = 1,
     .max = 1000,
     .otherwise = "3",
     .help = "--compare runs both N times, in turn, and reports medians"},
    FB_JSON_OPTION(
        fb_generate_settings, json,
        "write texts, token ids, counts and times as JSON to FILE; without FILE, or with "
        "\"-\", to standard output instead of the text"),
};

static const fb_option_table table = {
    .usage = "generate --model DIR (--prompt TEXT | --prompt-file FILE)... [OPTION]...",
    .summary =
        "Continues prompts with a block-diffusion language model (SDAR, TraDo). Text goes to\n"
        "standard output as blocks finish, a summary to standard error.",
    .shared = shared_list,
    .num_shared = sizeof shared_list / sizeof shared_list[0],
    FB_TABLE_OPTIONS(option_list),
};

/* --- the run -----------------------------------------------------------------------------------
 */

static const char *wrong_reuse(const fb_generate_settings *given) {
    const fb_reuse_policy *reuse = &given->options.reuse;
    bool beyond = reuse->rows || reuse->correction;
    if (!reuse->rows &&
        (reuse->refresh_every > 0 || reuse->refresh_dirty > 0 || reuse->refresh_commit))
        return "--refresh-every, --refresh-dirty and --refresh-commit need --reuse rows";
    if (beyond && given->tau == 0)
        return "--reuse rows and --correction need --tau of at least 1: 0 is dense";
    if (beyond && given->options.compat == FB_COMPAT_RELEASED)
        return "the published engine has neither --reuse rows nor --correction";
    if (beyond && given->sparse.selector)
        return "--sparse excludes --reuse rows and --correction";
    return NULL;
}

const char *fb_generate_wrong(const fb_generate_settings *given) {
    if (given->prompts.count == 0)
        return "--prompt TEXT or --prompt-file FILE is missing";
    if (!given->sparse.selector && (given->residual || given->centroids))
        return "--residual and --centroids need --sparse NAME";
    if (given->sparse.select_every_step && !given->residual)
        return "--select-every-step needs --residual";
    if (given->residual && given->centroids)
        return "--residual and --centroids exclude each other";
    return wrong_reuse(given);
}

static const char *contradiction(const settings *given) {
    const fb_generate_settings *shared = &given->generate;
    const char *wrong = fb_generate_wrong(shared);
    if (wrong)
        return wrong;
    if (given->visual && given->compare)
        return "--visual and --compare exclude each other";
    if (given->visual && shared->prompts.count > 1)
        return "--visual shows one prompt only";
    if (given->visual && fb_is_stdout(shared->json))
        return "--visual and --json would both write to standard output";
    if (given->compare && shared->tau == 0)
        return "--compare needs --tau of at least 1: 0 is the dense run";
    if (shared->sparse.selector && given->compare)
        return "--sparse and --compare exclude each other; see flashblock eval sparse";
    return NULL;
}

fb_generate_settings fb_generate_settings_default(void) {
    return (fb_generate_settings){.options = fb_generate_options_default(),
                                  .tau = NO_TAU,
                                  .sparse = fb_sparse_options_default(),
                                  .isa = FB_ISA_CHOICE_CURRENT};
}

/* What --sparse and its companions come to. */
static void set_sparse(fb_generate_settings *given) {
    if (!given->sparse.selector)
        return;
    given->sparse.residual = given->residual    ? FB_RESIDUAL_CACHED
                             : given->centroids ? FB_RESIDUAL_CENTROIDS
                                                : FB_RESIDUAL_NONE;
    given->options.sparse = &given->sparse;
}

/* --mask-token: digits are an id, all else is the text of a token. */
static fb_status set_mask_token(const fb_tokenizer *tokenizer, const char *token,
                                fb_generate_options *options) {
    if (!token)
        return FB_OK;
    if (token[strspn(token, "0123456789")] == '\0') {
        if (strlen(token) > 9)
            return fb_fail(FB_ERROR_ARGUMENT, "--mask-token: %s is no token id", token);
        int32_t id = 0;
        for (const char *digit = token; *digit; digit++)
            id = id * 10 + (*digit - '0');
        options->mask_token_id = id;
        return FB_OK;
    }
    options->mask_token_id = fb_tokenizer_token_id(tokenizer, token);
    if (options->mask_token_id < 0)
        return fb_fail(FB_ERROR_ARGUMENT, "--mask-token: the tokenizer has no token '%s'", token);
    return FB_OK;
}

fb_status fb_generate_prepare(fb_session *session, fb_generate_settings *given) {
    set_sparse(given);
    FB_TRY(fb_isa_choice_set(given->threads, given->isa));
    FB_TRY(fb_session_load(session, given->model));
    session->options = given->options;
    session->options.reuse.tau = given->tau != NO_TAU        ? given->tau
                                 : given->options.reuse.rows ? (size_t)ROWS_TAU
                                                             : (size_t)PAPER_TAU;
    FB_TRY(set_mask_token(session->tokenizer, given->mask_token, &session->options));
    FB_TRY(fb_session_read_prompts(session, &given->prompts, &given->format));
    return fb_session_resolve(session);
}

static fb_status write_generation(const fb_session *session, const fb_generation *generation,
                                  const char *path) {
    json_t *value = fb_summary_session_json(session);
    json_t *of_generation = fb_summary_generation_json(session, generation);
    if (json_object_update(value, of_generation) != 0) { /* one of them found no memory */
        json_decref(value);
        value = NULL;
    }
    json_decref(of_generation);
    return fb_write_json(value, path);
}

static fb_status run(fb_session *session, const settings *given) {
    const char *json = given->generate.json;
    fb_display_kind kind = given->visual ? FB_DISPLAY_VISUAL : FB_DISPLAY_TEXT;
    if (fb_is_stdout(json))
        kind = FB_DISPLAY_NONE;
    fb_generation *generation = NULL;
    FB_TRY(fb_session_generate(session, kind, session->options.reuse.tau, &generation));
    fb_summary_print(session, generation);
    fb_status status = json ? write_generation(session, generation, json) : FB_OK;
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
    fb_status status = fb_generate_prepare(&session, &given->generate);
    if (status == FB_OK)
        status = given->compare ? fb_compare(&session, given->repeats, given->generate.json)
                                : run(&session, given);
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

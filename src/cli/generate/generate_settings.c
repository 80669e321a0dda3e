#include "cli/generate/generate_settings.h"

#include "base/error.h"
#include "cli/options/common_options.h"
#include "cli/options/isa_choice.h"
#include "cli/options/selector_names.h"

#include <string.h>

enum { PAPER_TAU = 2, ROWS_TAU = 1 };
#define NO_TAU SIZE_MAX /* not given */

#define TARGET(field) .target = offsetof(fb_generate_settings, field)

static const fb_option option_list[] = {
    {.kind = FB_OPTION_GROUP, .help = "Model and prompt"},
    FB_MODEL_OPTION(fb_generate_settings, model,
                    "a Hugging Face directory: config.json, model.safetensors (or its shards), "
                    "tokenizer.json"),
    FB_NO_MMAP_OPTION(fb_generate_settings, no_mmap),
    FB_ACTIVATIONS_OPTION(fb_generate_settings, float_activations),
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
     .help =
         "the same from a file, \"-\" for standard input; one line break at its end is dropped"},
    {.kind = FB_OPTION_FLAG,
     .name = "chat",
     TARGET(format.chat),
     .help = "each prompt is a user's turn in the model's chat format (ChatML, LLaDA2), not plain "
             "text"},
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
     .needs = "residual|!sparse",
     .letter = 't',
     .argument = "T",
     TARGET(tau),
     .max = 1 << 30,
     .help = "a denoising step reuses the attention to earlier blocks while fewer than T tokens "
             "were accepted since it was computed; 0: dense attention throughout (default: 2, with "
             "--reuse rows 1)"},
    {.kind = FB_OPTION_PARSED,
     .name = "reuse",
     .needs = "reuse=tau|tau!=0 reuse=tau|!sparse reuse=tau|compat!=released",
     .argument = "NAME",
     TARGET(options.reuse.rows),
     .parse = fb_option_parse_reuse,
     .otherwise = "tau",
     .help = "what is computed when it is time to: \"tau\": all rows, as in the paper; \"rows\": "
             "those whose token was accepted since they were computed"},
    {.kind = FB_OPTION_SIZE,
     .name = "refresh-every",
     .needs = "reuse=rows",
     .argument = "N",
     TARGET(options.reuse.refresh_every),
     .min = 1,
     .max = 1 << 30,
     .help = "all rows every N steps (default: never)"},
    {.kind = FB_OPTION_SIZE,
     .name = "refresh-dirty",
     .needs = "reuse=rows",
     .argument = "N",
     TARGET(options.reuse.refresh_dirty),
     .min = 1,
     .max = 1 << 30,
     .help = "all rows after N accepted tokens (default: never)"},
    {.kind = FB_OPTION_FLAG,
     .name = "refresh-commit",
     .needs = "reuse=rows",
     TARGET(options.reuse.refresh_commit),
     .help = "all rows in the pass over a finished block"},
    {.kind = FB_OPTION_FLAG,
     .name = "correction",
     .needs = "tau!=0 !sparse compat!=released",
     TARGET(options.reuse.correction),
     .help = "correct the weight of kept attention to first order in the change of the query"},
    {.kind = FB_OPTION_FLAG,
     .name = "reuse-always",
     .needs = "tau!=0 residual|!sparse",
     TARGET(options.reuse.reuse_always),
     .help = "reuse at every step of a block after its first"},
    {.kind = FB_OPTION_FLAG,
     .name = "reuse-at-commit",
     .needs = "tau!=0 residual|!sparse",
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
     .needs = "sparse",
     .argument = "R",
     TARGET(sparse.density),
     .max = 1,
     .otherwise = "0.2",
     .help = "share of those blocks to select"},
    {.kind = FB_OPTION_FLAG,
     .name = "residual",
     .needs = "sparse !centroids",
     TARGET(residual),
     .help = "keep what the other blocks contribute, and reuse it by --tau; without it they "
             "contribute nothing"},
    {.kind = FB_OPTION_FLAG,
     .name = "centroids",
     .needs = "sparse !residual",
     TARGET(centroids),
     .help = "let centroids stand for the other blocks (multipole)"},
    {.kind = FB_OPTION_FLAG,
     .name = "select-every-step",
     .needs = "residual",
     TARGET(sparse.select_every_step),
     .help = "select anew at every step; another selection is a refresh"},
    {.kind = FB_OPTION_SIZE,
     .name = "key-block",
     .needs = "sparse",
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
    {.kind = FB_OPTION_DOUBLE,
     .name = "confidence-threshold",
     .argument = "C",
     TARGET(options.confidence_threshold),
     .max = 1,
     .needs = "remasking=low_confidence_dynamic",
     .help = "a step accepts every token of a higher probability than C (default: 0.9; --loop "
             "llada2, llada2.1: 0.95; fast-dllm-v2: 1)"},
    {.kind = FB_OPTION_DOUBLE,
     .name = "entropy-bound",
     .needs = "remasking=entropy_bounded",
     .argument = "E",
     TARGET(options.entropy_bound),
     .otherwise = "0.35",
     .help = "entropy_bounded accepts tokens while their entropies add up to less than E nats"},
    {.kind = FB_OPTION_STRING,
     .name = "mask-token",
     .argument = "TOKEN",
     TARGET(mask_token),
     .help = "id or text of the mask token (default: the one that the model's files name)"},

    {.kind = FB_OPTION_GROUP, .help = "Loops of other models"},
    {.kind = FB_OPTION_PARSED,
     .name = "loop",
     .argument = "NAME",
     TARGET(options.loop),
     .parse = fb_option_parse_loop,
     .otherwise = "model",
     .help = "how blocks are denoised and when a text ends: sdar (as above), llada2 (32 steps a "
             "block by default), llada2.1 (edits tokens), bd3lm (128 steps for all blocks by "
             "default), fast-dllm-v2; model: as the model's own code does"},
    {.kind = FB_OPTION_FLAG,
     .name = "early-stop",
     TARGET(options.early_stop),
     .help = "llada2: stop at an end-of-text token as soon as no mask is before it; llada2.1: "
             "stop after the block that holds one"},
    {.kind = FB_OPTION_DOUBLE,
     .name = "editing-threshold",
     .argument = "E",
     TARGET(options.editing_threshold),
     .max = 1,
     .help = "llada2.1 replaces a token by another one of a higher probability than E (default: "
             "0.9)"},
    {.kind = FB_OPTION_SIZE,
     .name = "max-post-steps",
     .argument = "N",
     TARGET(options.max_post_steps),
     .max = 1 << 16,
     .help = "llada2.1 goes on editing for N steps after a block's last mask (default: 16)"},
    {.kind = FB_OPTION_SIZE,
     .name = "max-block-steps",
     .argument = "N",
     TARGET(options.max_block_steps),
     .min = 1,
     .max = 1 << 24,
     .help = "llada2.1, fast-dllm-v2: steps of a block whose edits never settle (default: 16 for "
             "each of its tokens, and 16)"},
    {.kind = FB_OPTION_SIZE,
     .name = "num-to-transfer",
     .argument = "N",
     TARGET(options.num_to_transfer),
     .min = 1,
     .max = 1 << 12,
     .help = "llada2.1: a step accepts at least N tokens (default: 1)"},
    {.kind = FB_OPTION_SIZE,
     .name = "minimal-topk",
     .argument = "N",
     TARGET(options.minimal_topk),
     .min = 1,
     .max = 1 << 30,
     .help = "llada2: at most --max-tokens / N denoising steps of a block (default: 1)"},
    {.kind = FB_OPTION_DOUBLE,
     .name = "repeat-penalty",
     .argument = "X",
     TARGET(options.repeat_penalty),
     .otherwise = "0",
     .help = "llada2, llada2.1: subtract X from the logit of the token to the left"},
    {.kind = FB_OPTION_SIZE,
     .name = "small-block",
     .argument = "N",
     TARGET(options.small_block),
     .min = 1,
     .max = 1 << 12,
     .help = "fast-dllm-v2: tokens of a sub-block (default: 8)"},
    {.kind = FB_OPTION_FLAG,
     .name = "block-cache",
     TARGET(options.block_cache),
     .help = "fast-dllm-v2: compute a sub-block only, over kept keys of the others; with --tau 0"},

    {.kind = FB_OPTION_GROUP, .help = "Sampling"},
    {.kind = FB_OPTION_DOUBLE,
     .name = "temperature",
     .argument = "X",
     TARGET(options.temperature),
     .given = offsetof(fb_generate_settings, temperature_given),
     .otherwise = "0",
     .help = "0 takes the most probable token; otherwise tokens are drawn"},
    {.kind = FB_OPTION_SIZE,
     .name = "top-k",
     .argument = "K",
     TARGET(options.top_k),
     .otherwise = "0",
     .help =
         "draw from the K most probable tokens, among which confidences count (at temperature 0, "
         "too); 0: from all"},
    {.kind = FB_OPTION_DOUBLE,
     .name = "top-p",
     .argument = "P",
     TARGET(options.top_p),
     .max = 1,
     .otherwise = "1",
     .help = "the same from the most probable tokens that together exceed probability P"},
    {.kind = FB_OPTION_UINT64,
     .name = "seed",
     .argument = "N",
     TARGET(options.seed),
     .otherwise = "0",
     .needs = "temperature!=0",
     .help = "the same seed draws the same text again"},
    {.kind = FB_OPTION_SIZE,
     .name = "samples",
     .needs = "temperature!=0",
     .argument = "N",
     TARGET(samples),
     .min = 1,
     .max = 1 << 16,
     .otherwise = "1",
     .help = "continue each prompt N times; sample i, from 0, is that of seed SEED + i"},

    {.kind = FB_OPTION_GROUP, .help = "Machine (changes no token)"},
    FB_THREADS_OPTION(fb_generate_settings, threads,
                      "threads (default: OMP_NUM_THREADS, or one for each CPU)"),
    FB_ISA_OPTION(
        fb_generate_settings, isa, fb_isa_choice_parse_one,
        "instruction set, of those that flashblock info lists (default: FLASHBLOCK_ISA, or "
        "the fastest kernels of all)"),
    {.kind = FB_OPTION_SIZE,
     .name = "batch-size",
     .argument = "N",
     TARGET(options.max_active),
     .min = 1,
     .max = 1 << 16,
     .otherwise = "8",
     .help = "prompts that are denoised together"},
};

const fb_option_table fb_generate_settings_options = {FB_TABLE_OPTIONS(option_list)};

/* --- checks ----------------------------------------------------------------------------------- */

const char *fb_generate_settings_wrong(const fb_generate_settings *given) {
    if (given->prompts.count == 0)
        return "--prompt TEXT or --prompt-file FILE is missing";
    return NULL;
}

/* --- use -------------------------------------------------------------------------------------- */

fb_generate_settings fb_generate_settings_default(void) {
    fb_generate_settings settings = {.tau = NO_TAU, .isa = FB_ISA_CHOICE_CURRENT};
    fb_generate_options_init(&settings.options);
    fb_sparse_options_init(&settings.sparse);
    return settings;
}

/* --sparse and the options that belong to it. */
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
            return fb_fail(FB_ERROR_ARGUMENT, "--mask-token: %s is not a token id", token);
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

fb_status fb_generate_settings_open(fb_session *session, fb_generate_settings *given) {
    set_sparse(given);
    FB_TRY(fb_isa_choice_set(given->threads, given->isa));
    FB_TRY(fb_session_load(session, given->model, given->no_mmap, given->float_activations));
    session->options = given->options;
    session->chose_sampling = given->temperature_given;
    session->options.reuse.tau = given->tau != NO_TAU        ? given->tau
                                 : given->options.reuse.rows ? (size_t)ROWS_TAU
                                                             : (size_t)PAPER_TAU;
    return set_mask_token(session->tokenizer, given->mask_token, &session->options);
}

fb_status fb_generate_settings_prepare(fb_session *session, fb_generate_settings *given) {
    FB_TRY(fb_generate_settings_open(session, given));
    FB_TRY(fb_session_read_prompts(session, &given->prompts, &given->format, given->samples));
    return fb_session_resolve(session);
}

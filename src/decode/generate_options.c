#include "decode/generate_options.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/sized.h"

#include <flashblock/experimental/sparse.h>

#include <math.h>
#include <stdint.h>
#include <string.h>

static const char *const remasking_names[] = {
    [FB_LOW_CONFIDENCE_DYNAMIC] = "low_confidence_dynamic",
    [FB_LOW_CONFIDENCE_STATIC] = "low_confidence_static",
    [FB_SEQUENTIAL] = "sequential",
    [FB_ENTROPY_BOUNDED] = "entropy_bounded",
};

enum { NUM_REMASKINGS = sizeof remasking_names / sizeof *remasking_names };

/* The paper's evaluation; a model's config.json that names no block size is older than the field.
 */
enum { PAPER_BLOCK_SIZE = 4, DEFAULT_PREFILL_CHUNK = 512, DEFAULT_MAX_ACTIVE = 8 };

/* The defaults of other models' own generate. */
enum {
    LLADA2_STEPS = 32,
    LLADA2_POST_STEPS = 16,
    BD3LM_STEPS = 128, /* of all blocks together */
    FAST_DLLM_SMALL_BLOCK = 8,
    /* Far above what any trace shows: blocks whose edits never settle end here. */
    STEPS_PER_TOKEN = 16,
};

const char *fb_remasking_name(fb_remasking remasking) {
    return (unsigned)remasking < NUM_REMASKINGS ? remasking_names[remasking] : "unknown";
}

fb_status fb_remasking_parse(const char *name, fb_remasking *remasking) {
    for (unsigned i = 0; name != NULL && i < NUM_REMASKINGS; i++) {
        if (strcmp(name, remasking_names[i]) == 0) {
            *remasking = (fb_remasking)i;
            return FB_OK;
        }
    }
    return fb_fail(FB_ERROR_ARGUMENT,
                   "remasking strategy is \"%s\", not low_confidence_dynamic, "
                   "low_confidence_static, sequential or entropy_bounded",
                   name != NULL ? name : "(null)");
}

const char *fb_finish_reason_name(fb_finish_reason reason) {
    switch (reason) {
    case FB_FINISH_STOP:
        return "stop";
    case FB_FINISH_LENGTH:
        return "length";
    case FB_FINISH_CONTEXT:
        return "context";
    case FB_FINISH_CANCELLED:
        return "cancelled";
    }
    return "unknown";
}

FB_SIZED_ENDS_WITH(fb_generate_options, is_cancelled);

void fb_generate_options_init_sized(fb_generate_options *options, size_t size) {
    const fb_generate_options defaults = {
        .max_tokens = 128,
        .reuse = {.tau = 2},
        .compat = FB_COMPAT_PAPER,
        .remasking = FB_LOW_CONFIDENCE_DYNAMIC,
        .confidence_threshold = -1.0,
        .editing_threshold = -1.0,
        .max_post_steps = SIZE_MAX,
        .entropy_bound = 0.35,
        .top_p = 1.0,
        .mask_token_id = -1,
        .pad_token_id = -1,
        .kv_dtype = FB_F32,
    };
    fb_sized_init(options, size, &defaults, sizeof defaults);
}

static fb_status check_enums(const fb_generate_options *options) {
    if (options->compat != FB_COMPAT_PAPER && options->compat != FB_COMPAT_RELEASED)
        return fb_fail(FB_ERROR_ARGUMENT, "compat is %d, neither paper nor released",
                       (int)options->compat);
    if ((unsigned)options->remasking >= NUM_REMASKINGS)
        return fb_fail(FB_ERROR_ARGUMENT, "remasking is %d, no strategy", (int)options->remasking);
    if (fb_kv_row_bytes(options->kv_dtype, 1) == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "kv_dtype is %d, no dtype", (int)options->kv_dtype);
    if (options->overwrite_decided && options->compat != FB_COMPAT_RELEASED)
        return fb_fail(FB_ERROR_ARGUMENT, "overwrite_decided is set without compat released");
    if (options->sparse != NULL && options->compat != FB_COMPAT_PAPER)
        return fb_fail(FB_ERROR_ARGUMENT, "sparse attention is there for compat paper only");
    return FB_OK;
}

/* Refresh by rows and the correction are not the engine's. */
static fb_status check_reuse(const fb_generate_options *options) {
    const fb_reuse_policy *reuse = &options->reuse;
    bool beyond = reuse->rows || reuse->correction;
    if (beyond && options->compat == FB_COMPAT_RELEASED)
        return fb_fail(FB_ERROR_ARGUMENT, "reuse.%s is set with compat released",
                       reuse->rows ? "rows" : "correction");
    if (beyond && reuse->tau == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "reuse.%s is set with tau 0, which is dense attention",
                       reuse->rows ? "rows" : "correction");
    if (beyond && options->sparse != NULL)
        return fb_fail(FB_ERROR_ARGUMENT, "reuse.%s excludes sparse attention",
                       reuse->rows ? "rows" : "correction");
    if (!reuse->rows && (reuse->refresh_every > 0 || reuse->refresh_dirty > 0))
        return fb_fail(FB_ERROR_ARGUMENT, "reuse.refresh_%s is set without reuse.rows",
                       reuse->refresh_every > 0 ? "every" : "dirty");
    if (!reuse->rows && reuse->refresh_commit)
        return fb_fail(FB_ERROR_ARGUMENT, "reuse.refresh_commit is set without reuse.rows");
    return FB_OK;
}

static fb_status check_numbers(const fb_generate_options *options) {
    if (options->max_tokens == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "max_tokens is 0, not at least 1");
    if (!(options->temperature >= 0.0) || !isfinite(options->temperature))
        return fb_fail(FB_ERROR_ARGUMENT, "temperature is %g, not at least 0",
                       options->temperature);
    if (!(options->top_p > 0.0 && options->top_p <= 1.0))
        return fb_fail(FB_ERROR_ARGUMENT, "top_p is %g, not in (0, 1]", options->top_p);
    if (!isfinite(options->editing_threshold))
        return fb_fail(FB_ERROR_ARGUMENT, "editing_threshold is %g, not finite",
                       options->editing_threshold);
    if (!(options->repeat_penalty >= 0.0) || !isfinite((float)options->repeat_penalty))
        return fb_fail(FB_ERROR_ARGUMENT, "repeat_penalty is %g, not at least 0",
                       options->repeat_penalty);
    if (!isfinite(options->confidence_threshold))
        return fb_fail(FB_ERROR_ARGUMENT, "confidence_threshold is %g, not finite",
                       options->confidence_threshold);
    if (!(options->entropy_bound >= 0.0))
        return fb_fail(FB_ERROR_ARGUMENT, "entropy_bound is %g, not at least 0",
                       options->entropy_bound);
    if (options->num_stop_tokens > 0 && options->stop_tokens == NULL)
        return fb_fail(FB_ERROR_ARGUMENT, "stop_tokens is NULL, num_stop_tokens %zu",
                       options->num_stop_tokens);
    return FB_OK;
}

/* What a loop does not have is refused where it is set. */
static fb_status check_loop_options(const fb_generate_options *o) {
    bool llada2 = o->loop == FB_LOOP_LLADA2, editing = o->loop == FB_LOOP_LLADA2_EDITING;
    bool fast = o->loop == FB_LOOP_FAST_DLLM_V2;
    const struct {
        const char *name;
        bool set, has;
    } options[] = {
        {"minimal_topk", o->minimal_topk > 0, llada2},
        {"num_to_transfer", o->num_to_transfer > 0, editing},
        {"editing_threshold", o->editing_threshold >= 0.0, editing},
        {"max_post_steps", o->max_post_steps != SIZE_MAX, editing},
        {"max_block_steps", o->max_block_steps > 0, editing || fast},
        {"repeat_penalty", o->repeat_penalty != 0.0, llada2 || editing},
        {"small_block", o->small_block > 0, fast},
        {"pad_token_id", o->pad_token_id != -1, o->loop == FB_LOOP_BD3LM},
        {"block_cache", o->block_cache, fast},
        {"early_stop", o->early_stop, llada2 || editing},
        {"remasking", o->remasking != FB_LOW_CONFIDENCE_DYNAMIC, o->loop == FB_LOOP_SDAR},
        {"overwrite_decided", o->overwrite_decided, o->loop == FB_LOOP_SDAR},
        {"sparse", o->sparse != NULL, o->loop == FB_LOOP_SDAR || llada2 || editing},
    };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (options[i].set && !options[i].has)
            return fb_fail(FB_ERROR_ARGUMENT, "%s is set, which the loop %s does not have",
                           options[i].name, fb_decoding_loop_name(o->loop));
    return FB_OK;
}

/* Thresholds are compared with probabilities in float32, as in the published code. */
static fb_status resolve_threshold(const char *name, double otherwise, double *threshold) {
    if (*threshold < 0.0)
        *threshold = otherwise;
    if (!(*threshold <= 1.0))
        return fb_fail(FB_ERROR_ARGUMENT, "%s is %g, not at most 1", name, *threshold);
    *threshold = (double)(float)*threshold;
    return FB_OK;
}

static fb_status resolve_editing(fb_generate_options *o) {
    FB_TRY(resolve_threshold("editing_threshold", 0.9, &o->editing_threshold));
    if (o->max_post_steps == SIZE_MAX)
        o->max_post_steps = LLADA2_POST_STEPS;
    if (o->num_to_transfer == 0)
        o->num_to_transfer = 1;
    if (o->num_to_transfer > o->block_size)
        return fb_fail(FB_ERROR_ARGUMENT, "num_to_transfer is %zu, more than block_size %zu",
                       o->num_to_transfer, o->block_size);
    return FB_OK;
}

static fb_status resolve_small_block(fb_generate_options *o) {
    if (o->small_block == 0)
        o->small_block = o->block_size % FAST_DLLM_SMALL_BLOCK == 0 ? (size_t)FAST_DLLM_SMALL_BLOCK
                                                                    : o->block_size;
    if (o->block_size % o->small_block != 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "small_block is %zu, which does not divide block_size %zu", o->small_block,
                       o->block_size);
    if (o->max_tokens < o->block_size)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "max_tokens is %zu, less than a block of %zu: the loop %s writes whole "
                       "blocks",
                       o->max_tokens, o->block_size, fb_decoding_loop_name(o->loop));
    if (o->block_cache && o->reuse.tau > 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "block_cache is set with reuse.tau %zu; sub-blocks attend to all keys",
                       o->reuse.tau);
    return FB_OK;
}

/* LLaDA2: no more steps than tokens to write, by minimal_topk a step. */
static fb_status resolve_llada2_steps(fb_generate_options *o) {
    size_t least = o->minimal_topk == 0 ? 1 : o->minimal_topk;
    if (o->denoising_steps == 0)
        o->denoising_steps = LLADA2_STEPS;
    if (least == SIZE_MAX)
        return FB_OK;
    if (least > o->max_tokens)
        return fb_fail(FB_ERROR_ARGUMENT, "minimal_topk is %zu, more than max_tokens %zu", least,
                       o->max_tokens);
    if (o->denoising_steps > o->max_tokens / least)
        o->denoising_steps = o->max_tokens / least;
    return FB_OK;
}

static fb_status resolve_loop(fb_generate_options *o) {
    size_t blocks = (o->max_tokens + o->block_size - 1) / o->block_size;
    double threshold = 0.9;
    FB_TRY(check_loop_options(o));
    switch (o->loop) {
    case FB_LOOP_LLADA2:
        threshold = 0.95;
        FB_TRY(resolve_llada2_steps(o));
        break;
    case FB_LOOP_LLADA2_EDITING:
        threshold = 0.95;
        FB_TRY(resolve_editing(o));
        break;
    case FB_LOOP_BD3LM:
        if (o->denoising_steps == 0)
            o->denoising_steps = (BD3LM_STEPS + blocks - 1) / blocks;
        break;
    case FB_LOOP_FAST_DLLM_V2:
        threshold = 1.0;
        FB_TRY(resolve_small_block(o));
        break;
    default:
        if (o->confidence_threshold < 0.0)
            o->confidence_threshold = threshold;
        if (o->denoising_steps == 0)
            o->denoising_steps = o->block_size;
        return FB_OK;
    }
    if (o->denoising_steps == 0)
        o->denoising_steps = o->block_size;
    bool ends = o->loop == FB_LOOP_LLADA2_EDITING || o->loop == FB_LOOP_FAST_DLLM_V2;
    if (ends && o->max_block_steps == 0)
        o->max_block_steps = STEPS_PER_TOKEN * o->block_size + LLADA2_POST_STEPS;
    return resolve_threshold("confidence_threshold", threshold, &o->confidence_threshold);
}

static fb_status resolve_mask_token(const fb_model_config *config, fb_generate_options *options) {
    if (options->mask_token_id == -1)
        options->mask_token_id = config->mask_token_id;
    if (options->mask_token_id == -1)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "mask_token_id is not given, and no file of the model names a mask token");
    if (options->mask_token_id < 0 || (size_t)options->mask_token_id >= config->vocab_size)
        return fb_fail(FB_ERROR_ARGUMENT, "mask_token_id is %ld, not in [0, %zu)",
                       (long)options->mask_token_id, config->vocab_size);
    return FB_OK;
}

static fb_status resolve_sizes(const fb_model_config *config, fb_generate_options *options) {
    if (options->block_size == 0)
        options->block_size = config->block_size > 0 ? config->block_size : PAPER_BLOCK_SIZE;
    if (options->block_size > config->max_position_embeddings)
        return fb_fail(FB_ERROR_ARGUMENT, "block_size is %zu, more than the model's %zu positions",
                       options->block_size, config->max_position_embeddings);
    if (options->loop == FB_LOOP_MODEL)
        options->loop = config->decoding_loop;
    if ((unsigned)options->loop > FB_LOOP_FAST_DLLM_V2)
        return fb_fail(FB_ERROR_ARGUMENT, "loop is %d, no loop", (int)options->loop);
    if (config->shifted_logits != (options->loop == FB_LOOP_FAST_DLLM_V2))
        return fb_fail(FB_ERROR_ARGUMENT,
                       "the loop is %s, but the model's logits are about %s position",
                       fb_decoding_loop_name(options->loop),
                       config->shifted_logits ? "the next" : "their own");
    FB_TRY(resolve_loop(options));
    if (options->prefill_chunk == 0)
        options->prefill_chunk = DEFAULT_PREFILL_CHUNK;
    options->prefill_chunk -= options->prefill_chunk % options->block_size;
    if (options->prefill_chunk == 0)
        options->prefill_chunk = options->block_size;
    if (options->max_active == 0)
        options->max_active = DEFAULT_MAX_ACTIVE;
    return FB_OK;
}

fb_status fb_generate_options_resolve(const fb_model_config *config, fb_generate_options *options) {
    FB_TRY(check_enums(options));
    FB_TRY(check_reuse(options));
    FB_TRY(check_numbers(options));
    FB_TRY(fb_sized_unused(options->unused_bools,
                           sizeof options->unused_bools / sizeof *options->unused_bools,
                           "options"));
    FB_TRY(resolve_mask_token(config, options));
    FB_TRY(resolve_sizes(config, options));
    if (options->loop == FB_LOOP_BD3LM && options->pad_token_id == -1)
        options->pad_token_id = config->pad_token_id;
    if (options->sparse != NULL && options->sparse->residual != FB_RESIDUAL_CACHED)
        options->reuse = (fb_reuse_policy){0};
    if (options->stop_tokens == NULL) {
        options->stop_tokens = config->eos_token_ids;
        options->num_stop_tokens = config->num_eos_token_ids;
    }
    return FB_OK;
}

static fb_status check_prompt(const fb_model_config *config, const fb_prompt *prompt,
                              size_t index) {
    if (prompt->tokens == NULL && prompt->num_tokens > 0)
        return fb_fail(FB_ERROR_ARGUMENT, "prompt %zu: tokens is NULL, num_tokens %zu", index,
                       prompt->num_tokens);
    for (size_t i = 0; i < prompt->num_tokens; i++)
        if (prompt->tokens[i] < 0 || (size_t)prompt->tokens[i] >= config->vocab_size)
            return fb_fail(FB_ERROR_ARGUMENT, "prompt %zu: token %zu is %ld, not in [0, %zu)",
                           index, i, (long)prompt->tokens[i], config->vocab_size);
    return FB_OK;
}

/* The engine takes a prompt for left-padded, if it holds a pad token at all. */
static void cut_padding(const fb_model_config *config, fb_prompt *prompt) {
    for (size_t i = 0; i < prompt->num_tokens; i++) {
        if (prompt->tokens[i] == config->pad_token_id) {
            prompt->tokens += i + 1;
            prompt->num_tokens -= i + 1;
            return;
        }
    }
}

static fb_status check_room(const fb_model_config *config, const fb_generate_options *options,
                            const fb_prompt *prompt, size_t index) {
    size_t whole = prompt->num_tokens - prompt->num_tokens % options->block_size;
    if (options->loop == FB_LOOP_BD3LM) /* blocks begin behind the prompt */
        whole = prompt->num_tokens;
    if (whole > config->max_position_embeddings - options->block_size)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "prompt %zu: %zu tokens leave no room for a block of %zu in the model's "
                       "%zu positions",
                       index, prompt->num_tokens, options->block_size,
                       config->max_position_embeddings);
    return FB_OK;
}

fb_status fb_generate_prompts(const fb_model_config *config, const fb_generate_options *options,
                              const fb_prompt *prompts, size_t num_prompts, fb_prompt **checked) {
    if (prompts == NULL && num_prompts > 0)
        return fb_fail(FB_ERROR_ARGUMENT, "prompts is NULL, num_prompts %zu", num_prompts);
    fb_prompt *copy;
    FB_TRY(fb_alloc(num_prompts, sizeof *copy, "prompts", &copy));
    fb_status status = FB_OK;
    for (size_t i = 0; i < num_prompts && status == FB_OK; i++) {
        copy[i] = prompts[i];
        status = check_prompt(config, &copy[i], i);
        if (status == FB_OK && options->compat == FB_COMPAT_RELEASED &&
            options->loop == FB_LOOP_SDAR)
            cut_padding(config, &copy[i]);
        if (status == FB_OK)
            status = check_room(config, options, &copy[i], i);
    }
    if (status != FB_OK) {
        fb_free(copy);
        return status;
    }
    *checked = copy;
    return FB_OK;
}

/* Prompt tokens that a cache may hold already. */
static size_t most_kept(const fb_generate_options *options, const fb_prompt *prompt) {
    size_t whole = prompt->num_tokens - prompt->num_tokens % options->block_size;
    bool last = options->loop == FB_LOOP_FAST_DLLM_V2 && whole == prompt->num_tokens && whole > 0;
    return last ? whole - options->block_size : whole;
}

static fb_status check_kv_cache(const fb_model_config *config, const fb_generate_options *options,
                                const fb_prompt *prompts, size_t index) {
    const fb_kv_cache *cache = options->kv_caches[index];
    const fb_kv_cache_config *of = fb_kv_cache_config_of(cache);
    size_t length = fb_kv_cache_length(cache), most = most_kept(options, &prompts[index]);
    for (size_t i = 0; i < index; i++)
        if (options->kv_caches[i] == cache)
            return fb_fail(FB_ERROR_ARGUMENT, "kv_caches %zu and %zu are the same cache", i, index);
    if (of->num_layers != config->num_hidden_layers ||
        of->num_kv_heads != config->num_key_value_heads || of->head_dim != config->head_dim ||
        of->dtype != options->kv_dtype)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "kv_caches %zu is of another model or of another type than kv_dtype %s",
                       index, fb_dtype_name(options->kv_dtype));
    if (length > most || length % options->block_size != 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "kv_caches %zu has %zu tokens, not whole blocks of %zu within the %zu that "
                       "its prompt can take from it",
                       index, length, options->block_size, most);
    return FB_OK;
}

fb_status fb_generate_kv_caches(const fb_model_config *config, const fb_generate_options *options,
                                const fb_prompt *prompts, size_t num_prompts) {
    if (options->kv_caches == NULL)
        return FB_OK;
    if (options->compat == FB_COMPAT_RELEASED || options->loop == FB_LOOP_BD3LM)
        return fb_fail(FB_ERROR_ARGUMENT, "kv_caches is set with %s",
                       options->compat == FB_COMPAT_RELEASED ? "compat released"
                                                             : "the loop bd3lm");
    for (size_t i = 0; i < num_prompts; i++)
        if (options->kv_caches[i] != NULL)
            FB_TRY(check_kv_cache(config, options, prompts, i));
    return FB_OK;
}

fb_schedule fb_generate_schedule(const fb_model_config *config,
                                 const fb_generate_options *options) {
    return (fb_schedule){
        .compat = options->compat,
        .reuse = options->reuse,
        .block_size = options->block_size,
        .denoising_steps = options->denoising_steps,
        .max_tokens = options->max_tokens,
        .max_positions = config->max_position_embeddings,
        .remasking = options->remasking,
        .overwrite_decided = options->overwrite_decided,
        .confidence_threshold = options->confidence_threshold,
        .entropy_bound = options->entropy_bound,
        .mask_token = options->mask_token_id,
        .stop_tokens = options->stop_tokens,
        .num_stop_tokens = options->num_stop_tokens,
        .ignore_stop = options->ignore_stop,
        .loop = options->loop,
        .num_to_transfer = options->num_to_transfer,
        .max_post_steps = options->max_post_steps,
        .max_block_steps = options->max_block_steps,
        .small_block = options->small_block,
        .editing_threshold = options->editing_threshold,
        .early_stop = options->early_stop,
        .block_cache = options->block_cache,
        .draws = !options->greedy && options->temperature > 0.0,
        .pad_token = options->pad_token_id,
    };
}

/* Other loops may propose the mask token, and have no filters at temperature 0. */
fb_sampler fb_generate_sampler(const fb_generate_options *options) {
    bool sdar = options->loop == FB_LOOP_SDAR;
    bool filters = sdar || options->temperature > 0.0;
    return (fb_sampler){
        .temperature = options->temperature,
        .greedy = options->greedy,
        .top_k = filters ? options->top_k : 0,
        .top_p = filters ? options->top_p : 1.0,
        .banned_token = sdar && options->compat == FB_COMPAT_PAPER ? options->mask_token_id : -1,
        .raw_confidence = options->loop == FB_LOOP_BD3LM,
        .with_entropy = options->remasking == FB_ENTROPY_BOUNDED,
    };
}

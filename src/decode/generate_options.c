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

FB_SIZED_ENDS_WITH(fb_generate_options, seeds);

void fb_generate_options_init_sized(fb_generate_options *options, size_t size) {
    const fb_generate_options defaults = {
        .max_tokens = 128,
        .reuse = {.tau = 2},
        .compat = FB_COMPAT_PAPER,
        .remasking = FB_LOW_CONFIDENCE_DYNAMIC,
        .confidence_threshold = 0.9,
        .entropy_bound = 0.35,
        .top_p = 1.0,
        .mask_token_id = -1,
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
    if (fb_dtype_size(options->kv_dtype) == 0)
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
    if (options->denoising_steps == 0)
        options->denoising_steps = options->block_size;
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
    FB_TRY(resolve_mask_token(config, options));
    FB_TRY(resolve_sizes(config, options));
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
        if (status == FB_OK && options->compat == FB_COMPAT_RELEASED)
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
    };
}

fb_sampler fb_generate_sampler(const fb_generate_options *options) {
    return (fb_sampler){
        .temperature = options->temperature,
        .greedy = options->greedy,
        .top_k = options->top_k,
        .top_p = options->top_p,
        .banned_token = options->compat == FB_COMPAT_PAPER ? options->mask_token_id : -1,
        .with_entropy = options->remasking == FB_ENTROPY_BOUNDED,
    };
}

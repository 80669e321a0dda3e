/* One call of fb_generate: all its prompts, through one batch. */
#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/sized.h"
#include "decode/batch.h"
#include "decode/generate_options.h"
#include "decode/generation.h"

typedef struct generator {
    fb_generate_options options; /* zeros replaced by what they stand for */
    const fb_prompt *prompts;    /* [num_prompts], checked */
    size_t num_prompts, next_prompt;
    fb_batch *batch;
    fb_generation *generation;
    bool cancelled;
} generator;

/* Waiting prompts take the free places. */
static fb_status admit(generator *g) {
    const fb_generate_options *options = &g->options;
    while (fb_batch_num_free(g->batch) > 0 && g->next_prompt < g->num_prompts) {
        size_t i = g->next_prompt++;
        fb_batch_request request = {
            .prompt = g->prompts[i],
            .options = options,
            .seed = options->seeds != NULL ? options->seeds[i] : options->seed,
            .kv = options->kv_caches != NULL ? options->kv_caches[i] : NULL,
            .number = i,
        };
        FB_TRY(fb_batch_join(g->batch, &request));
    }
    return FB_OK;
}

/* The first sequence that failed fails the call. */
static fb_status check_failures(const generator *g) {
    for (size_t i = 0; i < fb_batch_num_active(g->batch); i++) {
        const fb_slot *slot = fb_batch_slot(g->batch, i);
        if (slot->failure != FB_OK)
            return fb_fail(slot->failure, "%s", slot->message);
    }
    return FB_OK;
}

/* The results of finished sequences. */
static fb_status collect(generator *g) {
    for (size_t i = 0; i < fb_batch_num_active(g->batch); i++) {
        const fb_slot *slot = fb_batch_slot(g->batch, i);
        const fb_sequence *sequence = slot->sequence;
        if (sequence->status != FB_SEQUENCE_FINISHED)
            continue;
        FB_TRY(fb_generation_take(g->generation, slot->prompt,
                                  sequence->tokens + sequence->num_prompt_tokens,
                                  sequence->unmask_step, fb_sequence_num_completion(sequence),
                                  sequence->finish_reason, &sequence->counts));
    }
    return FB_OK;
}

/* Sequences that are running end where they are; the rest keeps its empty result. */
static void cancel(generator *g) {
    for (size_t i = 0; i < fb_batch_num_active(g->batch); i++)
        fb_batch_cancel(g->batch, i);
}

static bool goes_on(generator *g) {
    g->cancelled = g->cancelled || fb_batch_is_cancelled(g->batch);
    if (!g->cancelled && g->options.is_cancelled != NULL)
        g->cancelled = g->options.is_cancelled(g->options.user);
    return !g->cancelled;
}

/* Prefill goes before denoising, as in the engine. */
static fb_status run_passes(generator *g) {
    for (bool done = false; !done && goes_on(g);) {
        FB_TRY(fb_batch_prefill(g->batch, g->options.prefill_chunk, &done));
        FB_TRY(check_failures(g));
    }
    if (goes_on(g)) {
        FB_TRY(fb_batch_decode(g->batch));
        FB_TRY(check_failures(g));
    }
    g->cancelled = g->cancelled || fb_batch_is_cancelled(g->batch);
    return FB_OK;
}

static fb_status run(generator *g) {
    for (;;) {
        FB_TRY(admit(g));
        if (fb_batch_num_active(g->batch) == 0)
            return FB_OK;
        FB_TRY(run_passes(g));
        if (g->cancelled)
            cancel(g);
        FB_TRY(collect(g));
        if (g->cancelled)
            return FB_OK;
        fb_batch_retire(g->batch);
    }
}

/* What the passes have cost goes into the results. */
static void take_times(generator *g) {
    const fb_batch_times *times = fb_batch_times_of(g->batch);
    fb_generate_stats *stats = &g->generation->stats;
    stats->prefill_passes = times->prefill_passes;
    stats->decode_passes = times->decode_passes;
    stats->prefill = times->prefill;
    stats->decode = times->decode;
    fb_batch_add_sparse(g->batch, &g->generation->sparse);
}

static fb_status generate(generator *g, fb_model *model) {
    size_t most = g->options.max_active;
    FB_TRY(
        fb_generate_kv_caches(fb_model_config_of(model), &g->options, g->prompts, g->num_prompts));
    FB_TRY(fb_generation_create(g->num_prompts, &g->generation));
    FB_TRY(fb_batch_create(model, most < g->num_prompts ? most : g->num_prompts, true, &g->batch));
    FB_TRY(run(g));
    take_times(g);
    return FB_OK;
}

fb_status fb_generate(fb_model *model, const fb_prompt *prompts, size_t num_prompts,
                      const fb_generate_options *options, fb_generation **generation) {
    if (model == NULL || options == NULL || generation == NULL)
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL",
                       model == NULL     ? "model"
                       : options == NULL ? "options"
                                         : "generation");
    double start = fb_seconds();
    const fb_model_config *config = fb_model_config_of(model);
    generator g = {.num_prompts = num_prompts};
    fb_generate_options_init(&g.options);
    FB_TRY(fb_sized_read(&g.options, sizeof g.options, options, "options"));
    FB_TRY(fb_generate_options_resolve(config, &g.options));
    fb_prompt *checked;
    FB_TRY(fb_generate_prompts(config, &g.options, prompts, num_prompts, &checked));
    g.prompts = checked;
    fb_status status = generate(&g, model);
    fb_batch_destroy(g.batch);
    fb_free(checked);
    if (status != FB_OK) {
        fb_generation_destroy(g.generation);
        return status;
    }
    g.generation->stats.seconds = fb_seconds() - start;
    *generation = g.generation;
    return FB_OK;
}

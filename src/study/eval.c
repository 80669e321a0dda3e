#include "study/eval.h"

#include "base/error.h"
#include "base/memory.h"
#include "decode/generate_options.h"
#include "decode/schedule.h"
#include "study/decoding.h"
#include "study/measures.h"

#include <flashblock/experimental/sparse.h>

#include <math.h>
#include <string.h>

/* A policy with its caches. */
typedef struct runner {
    const fb_eval_policy *policy;
    fb_eval_result *result;
    fb_schedule schedule;
    fb_part_cache *parts; /* NULL: not needed */
    fb_sparse *sparse;    /* NULL: every key */
} runner;

typedef struct evaluator {
    fb_decoding decoding; /* of whichever policy runs */
    const fb_eval_options *options;
    const int32_t *tokens;
    size_t num_layers, block_size, vocab_size;
    runner *runners; /* [1 + num_policies], the first is dense */
    size_t num_runners;
    /* Dense predictions for contents of the current block, as far as there is room: many policies
     * reach the same contents. */
    int32_t *seen_blocks; /* [SEEN_BLOCKS, block_size] */
    float *seen_logits;   /* [SEEN_BLOCKS + 1, block_size, vocab_size] */
    size_t num_seen;
    int32_t *dense_block; /* [block_size] */
    float *out, *lse;     /* a layer's dense attention */
    size_t prompt_length, block;
} evaluator;

enum { SEEN_BLOCKS = 64 };

/* --- windows ---------------------------------------------------------------------------------- */

static size_t window_tokens(const fb_eval_options *options) {
    return options->context + options->blocks * options->generate.block_size;
}

/* The smallest distance of windows: no block is denoised twice. */
static size_t window_step(const fb_eval_options *options) {
    return options->blocks * options->generate.block_size;
}

static size_t num_windows(const fb_eval_options *options, size_t num_tokens) {
    size_t whole = window_tokens(options);
    if (num_tokens < whole)
        return 0;
    size_t fitting = 1 + (num_tokens - whole) / window_step(options);
    return options->windows && options->windows < fitting ? options->windows : fitting;
}

/* Where window `index` begins: they are spread over the whole text. */
static size_t window_begin(const fb_eval_options *options, size_t num_tokens, size_t index) {
    size_t count = num_windows(options, num_tokens);
    size_t room = num_tokens - window_tokens(options);
    size_t step = count > 1 ? room / (count - 1) : 0;
    return index * step;
}

/* --- creation --------------------------------------------------------------------------------- */

static fb_status check(const evaluator *e, const fb_model_config *config, size_t num_tokens) {
    const fb_eval_options *options = e->options;
    if (options->blocks == 0 || options->context % e->block_size != 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "context is %zu and blocks %zu, expected a multiple of the block size, %zu, "
                       "and at least 1",
                       options->context, options->blocks, e->block_size);
    if (window_tokens(options) > config->max_position_embeddings)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "%zu tokens of context and %zu blocks of %zu are more than the model's %zu "
                       "positions",
                       options->context, options->blocks, e->block_size,
                       config->max_position_embeddings);
    if (num_windows(options, num_tokens) == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "the text has %zu tokens, one window takes %zu",
                       num_tokens, window_tokens(options));
    return FB_OK;
}

static fb_status set_up_runner(evaluator *e, runner *r, const fb_eval_policy *policy) {
    r->policy = policy;
    fb_generate_options options = e->options->generate;
    options.max_tokens = window_tokens(e->options);
    options.ignore_stop = true;
    r->schedule = fb_generate_schedule(fb_model_config_of(e->decoding.model), &options);
    r->schedule.reuse = policy->reuse;
    if (policy->sparse && policy->sparse->residual != FB_RESIDUAL_CACHED)
        r->schedule.reuse = (fb_reuse_policy){0};
    if (policy->sparse)
        return fb_model_new_sparse(e->decoding.model, policy->sparse, e->block_size, &r->sparse);
    if (policy->reuse.tau > 0)
        return fb_model_new_part_cache(e->decoding.model, e->block_size, &r->parts);
    return FB_OK;
}

static fb_status set_up(evaluator *e, fb_model *model, const fb_eval_policy *policies) {
    const fb_model_config *config = fb_model_config_of(model);
    static const fb_eval_policy dense = {0};
    size_t size = e->block_size, heads = config->num_attention_heads;
    FB_TRY(fb_decoding_init(model, &e->options->generate, &e->decoding));
    FB_TRY(fb_alloc_zeroed(e->num_runners, sizeof *e->runners, "policies", &e->runners));
    for (size_t i = 0; i < e->num_runners; i++)
        FB_TRY(set_up_runner(e, &e->runners[i], i ? &policies[i - 1] : &dense));
    FB_TRY(fb_alloc(SEEN_BLOCKS * size, sizeof(int32_t), "blocks", &e->seen_blocks));
    FB_TRY(fb_alloc((SEEN_BLOCKS + 1) * size, e->vocab_size * sizeof(float), "logits",
                    &e->seen_logits));
    FB_TRY(fb_alloc(size, sizeof(int32_t), "block", &e->dense_block));
    FB_TRY(fb_alloc(size * heads, config->head_dim * sizeof(float), "attention", &e->out));
    return fb_alloc(size * heads, sizeof(float), "attention", &e->lse);
}

static void clean_up(evaluator *e) {
    for (size_t i = 0; e->runners && i < e->num_runners; i++) {
        fb_part_cache_destroy(e->runners[i].parts);
        fb_sparse_destroy(e->runners[i].sparse);
    }
    void *arrays[] = {e->runners, e->seen_blocks, e->seen_logits, e->dense_block, e->out, e->lse};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        fb_free(arrays[i]);
    fb_decoding_free(&e->decoding);
}

/* --- comparison with dense -------------------------------------------------------------------- */

/* The data of on_attention; the first error stays. */
typedef struct observation {
    evaluator *e;
    fb_eval_result *result;
    fb_status status;
} observation;

/* |a - b| / |b| over rows x head_dim values of all heads. */
static double relative_error(const fb_part *a, const float *b, const fb_queries *queries) {
    double difference = 0.0, norm = 0.0;
    for (size_t row = 0; row < queries->num_queries; row++)
        for (size_t head = 0; head < queries->num_heads; head++) {
            const float *x = a->out + (ptrdiff_t)row * a->out_token_stride +
                             (ptrdiff_t)head * a->out_head_stride;
            const float *y = b + (row * queries->num_heads + head) * queries->head_dim;
            for (size_t d = 0; d < queries->head_dim; d++) {
                double delta = (double)x[d] - (double)y[d];
                difference += delta * delta;
                norm += (double)y[d] * (double)y[d];
            }
        }
    return norm > 0.0 ? sqrt(difference / norm) : 0.0;
}

/* Computes dense attention with the same queries and keys, and compares the policy's with it. */
static void compare_layer(void *user, const fb_attention_event *event) {
    observation *o = user;
    const fb_queries *queries = event->queries;
    fb_part dense = fb_part_rows(o->e->out, o->e->lse, queries->num_heads, queries->head_dim);
    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = queries;
    call.kv = event->kv;
    call.layer = event->layer;
    call.action = FB_REFRESH_ONLY;
    if (o->status == FB_OK)
        o->status = fb_block_attend(&call, &dense);
    if (o->status == FB_OK)
        o->result->layer_errors[event->layer] += relative_error(event->result, dense.out, queries);
}

/* *logits [block_size, vocab_size]: the dense predictions for the current block with this content,
 * valid until the next call. */
static fb_status predict_densely(evaluator *e, const int32_t *block, const float **logits) {
    size_t size = e->block_size, index = 0;
    while (index < e->num_seen &&
           memcmp(e->seen_blocks + index * size, block, size * sizeof *block) != 0)
        index++;
    float *to = e->seen_logits + index * size * e->vocab_size;
    *logits = to;
    if (index < e->num_seen)
        return FB_OK;
    fb_forward forward = {.struct_size = sizeof(fb_forward),
                          .tokens = block,
                          .num_tokens = size,
                          .kv = e->decoding.kv,
                          .action = FB_REFRESH_ONLY,
                          .logits = to};
    FB_TRY(fb_model_forward(e->decoding.model, &forward, 1, NULL));
    if (index < SEEN_BLOCKS)
        memcpy(e->seen_blocks + e->num_seen++ * size, block, size * sizeof *block);
    return FB_OK;
}

/* Predicts the same tokens densely, and compares the predictions of masked positions. */
static fb_status compare_predictions(evaluator *e, const fb_sequence *sequence,
                                     fb_eval_result *result) {
    const float *dense = NULL;
    FB_TRY(predict_densely(e, sequence->block, &dense));
    for (size_t i = 0; i < e->block_size; i++) {
        if (!sequence->masked[i])
            continue;
        double divergence =
            fb_measure_divergence(dense + i * e->vocab_size, e->decoding.logits + i * e->vocab_size,
                                  e->vocab_size, SIZE_MAX);
        result->divergence += divergence > 0.0 ? divergence : 0.0;
        result->predictions++;
    }
    return FB_OK;
}

/* --- a block ---------------------------------------------------------------------------------- */

static void begin_sparse(const evaluator *e, const runner *r, const fb_sequence *sequence) {
    fb_sparse_step step = {.prompt_length = e->prompt_length,
                           .block = e->block,
                           .denoising_step = sequence->denoising_step,
                           .denoising_steps = r->schedule.denoising_steps};
    if (r->sparse)
        fb_sparse_begin(r->sparse, &step);
}

static fb_status denoising_step(evaluator *e, runner *r, fb_sequence *sequence) {
    fb_plan plan = fb_sequence_plan(sequence);
    observation seen = {.e = e, .result = r->result};
    fb_forward forward = {.struct_size = sizeof(fb_forward),
                          .tokens = sequence->block,
                          .num_tokens = e->block_size,
                          .kv = e->decoding.kv,
                          .action = plan.action,
                          .parts = r->parts,
                          .sparse = r->sparse,
                          .logits = e->decoding.logits};
    if (r->result) {
        forward.on_attention = compare_layer;
        forward.user = &seen;
    }
    begin_sparse(e, r, sequence);
    FB_TRY(fb_model_forward(e->decoding.model, &forward, 1, NULL));
    FB_TRY(seen.status);
    if (r->result) {
        FB_TRY(compare_predictions(e, sequence, r->result));
        r->result->steps++;
        double keys = (double)fb_kv_cache_length(e->decoding.kv);
        r->result->dense_keys += keys;
        r->result->keys += plan.action != FB_REUSE && !r->sparse ? keys : 0.0;
    }
    fb_decoding *d = &e->decoding;
    FB_TRY(fb_decoding_propose(d, d->logits));
    (void)fb_sequence_accept(sequence, d->proposed, d->confidence, d->entropy, d->accepted);
    return FB_OK;
}

static void count_tokens(const evaluator *e, const int32_t *block, const int32_t *truth,
                         fb_eval_result *result) {
    for (size_t i = 0; i < e->block_size; i++) {
        result->tokens++;
        result->agreeing += block[i] == e->dense_block[i];
        result->correct += block[i] == truth[i];
    }
}

/* Denoises the block after the committed tokens. The sequence itself knows only the block. */
static fb_status denoise(evaluator *e, runner *r, const int32_t *truth) {
    fb_sequence *sequence = NULL;
    fb_prompt nothing = {0};
    FB_TRY(fb_sequence_create(&r->schedule, &nothing, &sequence));
    fb_status status = FB_OK;
    while (status == FB_OK && sequence->status == FB_SEQUENCE_DENOISING)
        status = denoising_step(e, r, sequence);
    if (status == FB_OK && !r->result)
        memcpy(e->dense_block, sequence->block, e->block_size * sizeof *e->dense_block);
    if (status == FB_OK && r->result)
        count_tokens(e, sequence->block, truth, r->result);
    fb_sequence_destroy(sequence);
    return status;
}

static fb_status run_window(evaluator *e, const int32_t *tokens, size_t window, size_t windows) {
    const fb_eval_options *options = e->options;
    FB_TRY(fb_kv_cache_truncate(e->decoding.kv, 0));
    for (size_t i = 0; i < e->num_runners; i++) {
        if (e->runners[i].parts)
            fb_part_cache_invalidate(e->runners[i].parts);
        if (e->runners[i].sparse)
            fb_sparse_reset(e->runners[i].sparse);
    }
    FB_TRY(fb_decoding_read(&e->decoding, tokens, options->context));
    e->prompt_length = options->context;
    const int32_t *truth = tokens + options->context;
    for (e->block = 0; e->block < options->blocks; e->block++, truth += e->block_size) {
        e->num_seen = 0;
        for (size_t i = 0; i < e->num_runners; i++)
            FB_TRY(denoise(e, &e->runners[i], truth));
        FB_TRY(fb_decoding_read(&e->decoding, truth, e->block_size));
        if (options->on_block)
            options->on_block(options->user, window * options->blocks + e->block + 1,
                              windows * options->blocks);
    }
    return FB_OK;
}

/* --- all of it -------------------------------------------------------------------------------- */

/* Means of layers; keys that sparse policies attended to. */
static void finish(evaluator *e) {
    for (size_t i = 1; i < e->num_runners; i++) {
        fb_eval_result *result = e->runners[i].result;
        for (size_t layer = 0; layer < e->num_layers; layer++)
            result->layer_errors[layer] /= (double)result->steps;
        if (!e->runners[i].sparse)
            continue;
        fb_sparse_counts counts = *fb_sparse_counts_of(e->runners[i].sparse);
        result->keys = (counts.keys_selected + counts.keys_residual) / (double)e->num_layers;
        result->forced_refreshes = counts.forced_refreshes;
    }
}

static fb_status run(evaluator *e, fb_model *model, size_t num_tokens,
                     const fb_eval_policy *policies, fb_eval_result *results) {
    FB_TRY(check(e, fb_model_config_of(model), num_tokens));
    FB_TRY(set_up(e, model, policies));
    for (size_t i = 1; i < e->num_runners; i++) {
        fb_eval_result *result = &results[i - 1];
        memset(result->layer_errors, 0, e->num_layers * sizeof *result->layer_errors);
        *result = (fb_eval_result){.layer_errors = result->layer_errors};
        e->runners[i].result = result;
    }
    size_t windows = num_windows(e->options, num_tokens);
    for (size_t w = 0; w < windows; w++)
        FB_TRY(run_window(e, e->tokens + window_begin(e->options, num_tokens, w), w, windows));
    finish(e);
    return FB_OK;
}

fb_status fb_eval_run(fb_model *model, const int32_t *tokens, size_t num_tokens,
                      const fb_eval_options *options, const fb_eval_policy *policies,
                      size_t num_policies, fb_eval_result *results) {
    const fb_model_config *config = fb_model_config_of(model);
    evaluator e = {.options = options,
                   .tokens = tokens,
                   .num_layers = config->num_hidden_layers,
                   .block_size = options->generate.block_size,
                   .vocab_size = config->vocab_size,
                   .num_runners = num_policies + 1};
    fb_status status = run(&e, model, num_tokens, policies, results);
    clean_up(&e);
    return status;
}

/* --- means and shares ------------------------------------------------------------------------- */

double fb_eval_agreement(const fb_eval_result *result) {
    return fb_measure_ratio((double)result->agreeing, (double)result->tokens);
}

double fb_eval_accuracy(const fb_eval_result *result) {
    return fb_measure_ratio((double)result->correct, (double)result->tokens);
}

double fb_eval_divergence(const fb_eval_result *result) {
    return fb_measure_ratio(result->divergence, (double)result->predictions);
}

double fb_eval_keys(const fb_eval_result *result) {
    return fb_measure_ratio(result->keys, result->dense_keys);
}

double fb_eval_error(const fb_eval_result *result, size_t num_layers) {
    double sum = 0.0;
    for (size_t layer = 0; layer < num_layers; layer++)
        sum += result->layer_errors[layer];
    return sum / (double)num_layers;
}

double fb_eval_won_agreement(const fb_eval_result *with, const fb_eval_result *without) {
    return fb_measure_ratio(fb_eval_agreement(with) - fb_eval_agreement(without),
                            1.0 - fb_eval_agreement(without));
}

double fb_eval_won_divergence(const fb_eval_result *with, const fb_eval_result *without) {
    return fb_measure_ratio(fb_eval_divergence(without) - fb_eval_divergence(with),
                            fb_eval_divergence(without));
}

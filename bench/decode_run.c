#include "bench/decode_run.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "bench/block_script.h"
#include "model/model_config.h"
#include "oracle/inputs.h"

#include <flashblock/experimental/rows.h>

enum { CHUNK_TOKENS = 1024, SEED = 1 };

static fb_status allocate(fb_decode_run *data) {
    const fb_model_config *config = fb_model_config_of(data->model);
    size_t vocab = config->vocab_size, width = config->num_key_value_heads * config->head_dim;
    FB_TRY(fb_alloc(data->block_size, sizeof *data->tokens, "tokens", &data->tokens));
    FB_TRY(fb_alloc(data->block_size, vocab * sizeof(float), "logits", &data->logits));
    FB_TRY(fb_proposals_create(data->block_size, vocab, &data->proposals));
    FB_TRY(fb_alloc(2 * CHUNK_TOKENS, width * sizeof(float), "keys", &data->rows));
    fb_input_normals(SEED, "keys", 1, data->rows, 2 * CHUNK_TOKENS * width);
    for (size_t i = 0; i < data->block_size; i++)
        data->tokens[i] = (int32_t)(i * 7919 % vocab);
    return FB_OK;
}

/* The model of a directory, or one like a published one. */
static fb_status make_model(fb_decode_run *data, const fb_decode_settings *settings) {
    fb_model_options options;
    fb_model_options_init(&options);
    options.float_activations = settings->float_activations;
    data->like.float_activations = data->weights.float_activations = settings->float_activations;
    if (!settings->directory)
        return fb_like_model_create(settings->like, settings->layers, settings->weights,
                                    &data->like, &data->model);
    FB_TRY(fb_model_load_with(settings->directory, &options, &data->model));
    return fb_rounded_weights_set(data->model, settings->weights, &data->weights);
}

/* A pass after a short context: how many experts it chooses is then known. */
static fb_status choose_experts(fb_decode_run *data) {
    enum { SHORT = 1024 };
    FB_TRY(fb_decode_run_set_context(data, SHORT));
    fb_forward forward = {
        .struct_size = sizeof(fb_forward),
        .tokens = data->tokens,
        .num_tokens = data->block_size,
        .kv = data->kv,
        .action = FB_REFRESH_ONLY,
    };
    data->passes++;
    return fb_model_forward(data->model, &forward, 1, NULL);
}

fb_status fb_decode_run_prepare(fb_decode_run *data, const fb_decode_settings *settings) {
    enum { DEFAULT_BLOCK = 4 };
    FB_TRY(make_model(data, settings));
    const fb_model_config *config = fb_model_config_of(data->model);
    size_t of_model = config->block_size ? config->block_size : DEFAULT_BLOCK;
    data->block_size = settings->block_size ? settings->block_size : of_model;
    data->steps = settings->steps ? settings->steps : data->block_size;
    if (data->steps > data->block_size)
        return fb_fail(FB_ERROR_ARGUMENT, "--steps: %zu are more than the block's %zu tokens",
                       data->steps, data->block_size);
    FB_TRY(allocate(data));
    FB_TRY(fb_model_new_kv_cache(data->model, settings->kv_dtype, &data->kv));
    FB_TRY(fb_alloc_zeroed(data->block_size, sizeof(bool), "rows", &data->refresh_rows));
    FB_TRY(fb_model_new_part_cache(data->model, data->block_size, &data->parts));
    FB_TRY(fb_model_new_part_cache(data->model, data->block_size, &data->corrected));
    FB_TRY(fb_part_cache_enable_correction(data->corrected));
    return config->num_experts > 0 ? choose_experts(data) : FB_OK;
}

void fb_decode_run_free(fb_decode_run *data) {
    fb_part_cache_destroy(data->parts);
    fb_part_cache_destroy(data->corrected);
    fb_free(data->refresh_rows);
    fb_kv_cache_destroy(data->kv);
    fb_model_destroy(data->model);
    fb_rounded_weights_free(&data->weights);
    fb_like_model_free(&data->like);
    fb_free(data->tokens);
    fb_free(data->logits);
    fb_proposals_free(&data->proposals);
    fb_free(data->rows);
    *data = (fb_decode_run){0};
}

/* Random keys and values up to `end` tokens. */
static fb_status fill_cache(fb_decode_run *data, size_t end) {
    const fb_model_config *config = fb_model_config_of(data->model);
    size_t width = config->num_key_value_heads * config->head_dim;
    size_t length = fb_kv_cache_length(data->kv);
    while (length < end) {
        size_t count = end - length < CHUNK_TOKENS ? end - length : CHUNK_TOKENS;
        for (size_t layer = 0; layer < config->num_hidden_layers; layer++)
            FB_TRY(fb_kv_cache_write(data->kv, layer, length, count, data->rows,
                                     data->rows + CHUNK_TOKENS * width));
        FB_TRY(fb_kv_cache_commit(data->kv, count));
        length += count;
    }
    return FB_OK;
}

/* The block's memory is taken, too: else the first block that is timed would pay for it. */
fb_status fb_decode_run_set_context(fb_decode_run *data, size_t context) {
    FB_TRY(fill_cache(data, context + data->block_size));
    return fb_kv_cache_truncate(data->kv, context);
}

/* The work after a denoising step: a proposal for each position. */
static fb_status propose(fb_decode_run *data) {
    const fb_model_config *config = fb_model_config_of(data->model);
    const fb_sampler greedy = {.top_p = 1, .banned_token = config->mask_token_id};
    size_t failed = 0;
    return fb_proposals_make(&data->proposals, &greedy, data->logits, &failed);
}

static fb_status run_block(fb_decode_block *run) {
    fb_decode_run *data = run->data;
    fb_block_script script = {
        .tokens = data->block_size, .steps = data->steps, .tau = run->tau, .rows = run->rows};
    fb_reuse_action action;
    while (fb_block_script_next(&script, &action)) {
        bool commit = script.step > data->steps;
        for (size_t row = 0; row < data->block_size; row++)
            data->refresh_rows[row] =
                row >= script.first_row && row < script.first_row + script.num_rows;
        fb_forward forward = {
            .struct_size = sizeof(fb_forward),
            .tokens = data->tokens,
            .num_tokens = data->block_size,
            .kv = data->kv,
            .action = action,
            .compat = FB_COMPAT_PAPER,
            .refresh_rows = action == FB_REFRESH_ROWS ? data->refresh_rows : NULL,
            .parts = run->corrected ? data->corrected : data->parts,
            .logits = commit ? NULL : data->logits,
        };
        FB_TRY(fb_model_forward(data->model, &forward, 1, &run->times));
        data->passes++;
        double start = fb_seconds();
        if (!commit)
            FB_TRY(propose(data));
        run->proposals += fb_seconds() - start;
    }
    return FB_OK;
}

fb_status fb_decode_run_block(void *context) {
    fb_decode_block *run = context;
    fb_decode_run *data = run->data;
    double start = fb_seconds();
    data->model->small = run->small;
    FB_TRY(run_block(run));
    run->small = data->model->small;
    run->seconds += fb_seconds() - start;
    return FB_OK;
}

/* Of a matrix in memory, with its scales. */
static double bytes_of(const fb_matrix *matrix) {
    const fb_quantized *q = matrix->quantized;
    if (!matrix->data)
        return 0;
    double bytes = (double)fb_matrix_bytes(matrix);
    if (!q)
        return bytes;
    size_t scales = matrix->rows * ((matrix->columns + q->group_size - 1) / q->group_size);
    return bytes + (double)scales * (double)(sizeof *q->scales + (q->zero_points ? 1 : 0));
}

/* Without experts. */
static double layer_bytes(const fb_layer_weights *layer) {
    const fb_matrix *matrices[] = {&layer->q,      &layer->k,       &layer->v,
                                   &layer->o,      &layer->router,  &layer->mlp.gate,
                                   &layer->mlp.up, &layer->mlp.down};
    double bytes = 0;
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++)
        bytes += bytes_of(matrices[i]);
    return bytes;
}

/* Whether the head is the embedding. Files may have two in spite of tie_word_embeddings. */
static bool is_tied(const fb_weights *weights) {
    return weights->head.data == weights->embedding.data;
}

/* Number of all experts' weights; bytes that a pass reads of them; number that a row uses. */
typedef struct expert_weights {
    double count, read, of_row;
} expert_weights;

static expert_weights count_experts(const fb_decode_run *data) {
    const fb_model_config *config = fb_model_config_of(data->model);
    expert_weights sum = {0};
    for (size_t i = 0; i < config->num_hidden_layers; i++) {
        const fb_mlp_weights *experts = data->model->weights.layers[i].experts;
        for (size_t j = 0; experts && j < config->num_experts; j++) {
            const fb_matrix *matrices[] = {&experts[j].gate, &experts[j].up, &experts[j].down};
            for (size_t k = 0; k < 3; k++) {
                sum.count += (double)matrices[k]->rows * (double)matrices[k]->columns;
            }
        }
    }
    if (sum.count > 0 && data->passes > 0)
        sum.read = data->model->mixture.bytes_read / (double)data->passes;
    if (sum.count > 0)
        sum.of_row = sum.count * (double)config->num_experts_per_tok / (double)config->num_experts;
    return sum;
}

double fb_decode_run_experts(const fb_decode_run *data) {
    const fb_model_config *config = fb_model_config_of(data->model);
    size_t layers = 0;
    for (size_t i = 0; i < config->num_hidden_layers; i++)
        layers += fb_model_config_is_mixture(config, i) ? 1 : 0;
    double passes = (double)layers * (double)data->passes;
    return passes > 0 ? data->model->mixture.experts_read / passes : 0.0;
}

double fb_decode_run_weight_bytes(const fb_decode_run *data) {
    const fb_weights *weights = &data->model->weights;
    double head = bytes_of(&weights->head), layers = count_experts(data).read;
    for (size_t i = 0; i < weights->num_layers; i++)
        layers += layer_bytes(&weights->layers[i]);
    return layers * (double)(data->steps + 1) + head * (double)data->steps;
}

double fb_decode_run_weight_flops(const fb_decode_run *data) {
    const fb_model_config *config = fb_model_config_of(data->model);
    double head = (double)config->vocab_size * (double)config->hidden_size;
    double all = (double)fb_model_num_parameters(data->model);
    expert_weights experts = count_experts(data);
    double layers = all - head - (is_tied(&data->model->weights) ? 0 : head);
    layers += experts.of_row - experts.count;
    return 2 * (double)data->block_size *
           (layers * (double)(data->steps + 1) + head * (double)data->steps);
}

#include "bench/like_model.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "model/model_config.h"
#include "model/rope.h"

#include <stdint.h>
#include <string.h>

enum { GROUP_OF_4 = 128, LINE = 64, PIECE = 1 << 20 };
static const size_t least_memory = (size_t)1 << 30;

/* The makers' configurations (docs/models.md names the architectures); fields that a pass does not
 * look at are left out. */
#define COMMON                                                                                     \
    .max_position_embeddings = 32768, .rms_norm_eps = 1e-6, .mask_token_id = -1,                   \
    .pad_token_id = -1, .dtype = FB_BF16, .head_dim = 128, .decoder_sparse_step = 1
#define LLADA2                                                                                     \
    COMMON, .architecture = "LLaDA2MoeModelLM", .decoding_loop = FB_LOOP_LLADA2,                   \
            .vocab_size = 157184, .rope_theta = 600000, .rotary_dim = 64, .qk_norm = true,         \
            .block_size = 32, .router = FB_ROUTER_SIGMOID, .num_experts = 256,                     \
            .num_experts_per_tok = 8, .num_expert_groups = 8, .num_chosen_groups = 4,              \
            .norm_topk_prob = true, .routed_scaling_factor = 2.5, .num_dense_layers = 1
#define FAST_DLLM                                                                                  \
    COMMON, .architecture = "Fast_dLLM_QwenForCausalLM", .decoding_loop = FB_LOOP_FAST_DLLM_V2,    \
            .rope_theta = 1e6, .rotary_dim = 128, .attention_bias = true, .shifted_logits = true,  \
            .block_size = 32, .num_hidden_layers = 28

static const struct {
    const char *name;
    fb_model_config config;
} shapes[] = {
    {"llada2-mini",
     {LLADA2, .hidden_size = 2048, .intermediate_size = 5120, .num_hidden_layers = 20,
      .num_attention_heads = 16, .num_key_value_heads = 4, .moe_intermediate_size = 512,
      .shared_intermediate_size = 512}},
    {"llada2-flash",
     {LLADA2, .hidden_size = 4096, .intermediate_size = 9216, .num_hidden_layers = 32,
      .num_attention_heads = 32, .num_key_value_heads = 4, .moe_intermediate_size = 1024,
      .shared_intermediate_size = 1024}},
    {"sdar-30b-a3b",
     {COMMON,
      .architecture = "SDARMoeForCausalLM",
      .decoding_loop = FB_LOOP_SDAR,
      .vocab_size = 151936,
      .hidden_size = 2048,
      .intermediate_size = 6144,
      .num_hidden_layers = 48,
      .num_attention_heads = 32,
      .num_key_value_heads = 4,
      .rope_theta = 1e6,
      .rotary_dim = 128,
      .qk_norm = true,
      .block_size = 4,
      .router = FB_ROUTER_SOFTMAX,
      .num_experts = 128,
      .num_experts_per_tok = 8,
      .moe_intermediate_size = 768,
      .num_expert_groups = 1,
      .num_chosen_groups = 1,
      .norm_topk_prob = true,
      .routed_scaling_factor = 1.0}},
    {"fast-dllm-v2-7b",
     {FAST_DLLM, .vocab_size = 152064, .hidden_size = 3584, .intermediate_size = 18944,
      .num_attention_heads = 28, .num_key_value_heads = 4}},
    {"fast-dllm-v2-1.5b",
     {FAST_DLLM, .vocab_size = 151936, .hidden_size = 1536, .intermediate_size = 8960,
      .num_attention_heads = 12, .num_key_value_heads = 2, .tie_word_embeddings = true}},
};
enum { NUM_SHAPES = sizeof shapes / sizeof shapes[0] };

const char *fb_like_model_names(void) {
    return "llada2-mini, llada2-flash, sdar-30b-a3b, fast-dllm-v2-7b or fast-dllm-v2-1.5b";
}

/* --- memory ----------------------------------------------------------------------------------- */

/* Random bytes; of every two the upper one a sign and an exponent that make a bf16 of about 2^-6.
 */
static void fill_pieces(void *context, size_t first, size_t end, size_t worker) {
    const fb_like_model *like = context;
    (void)worker;
    for (size_t piece = first; piece < end; piece++) {
        uint8_t *to = (uint8_t *)like->memory + piece * PIECE;
        uint64_t state = 0x9e3779b97f4a7c15u * (piece + 1);
        for (size_t i = 0; i < PIECE; i += sizeof state) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            uint64_t bits = (state & 0x80ff80ff80ff80ffu) | 0x3c003c003c003c00u;
            memcpy(to + i, &bits, sizeof bits);
        }
    }
}

static size_t largest_matrix(const fb_model_config *config) {
    return (config->vocab_size * config->hidden_size * 2 + PIECE - 1) / PIECE * PIECE;
}

static fb_status make_memory(const fb_model_config *config, fb_like_model *like) {
    size_t largest = largest_matrix(config);
    like->size = largest > least_memory ? largest : least_memory;
    FB_TRY(fb_alloc(like->size, 1, "weights", &like->memory));
    fb_parallel_for(like->size / PIECE, 0, fb_parallel_threads(), fill_pieces, like);
    return FB_OK;
}

/* One value for every scale: as many as the largest matrix has. */
static fb_status make_scales(const fb_model_config *config, fb_like_model *like) {
    size_t rows = config->vocab_size, groups = config->intermediate_size / GROUP_OF_4 + 1;
    size_t count = rows > config->hidden_size * groups ? rows : config->hidden_size * groups;
    count = count > config->intermediate_size * groups ? count : config->intermediate_size * groups;
    FB_TRY(fb_alloc(count, sizeof *like->scales, "scales", &like->scales));
    for (size_t i = 0; i < count; i++)
        like->scales[i] = 0x1p-10f;
    return FB_OK;
}

/* --- matrices --------------------------------------------------------------------------------- */

/* A model that is being made. */
typedef struct maker {
    fb_like_model *like;
    fb_weights *weights;
    int bits; /* 16, 8, 4 */
} maker;

static fb_status make_quantized(maker *m, int bits, fb_matrix *matrix) {
    bool is_short = bits == 4 && matrix->columns > GROUP_OF_4;
    size_t group = is_short ? (size_t)GROUP_OF_4 : matrix->columns;
    fb_quantized *quantized = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *quantized, "weights", &quantized));
    fb_status status = fb_buffer_append(&m->like->blocks, &quantized, sizeof quantized);
    if (status != FB_OK) {
        fb_free(quantized);
        return status;
    }
    *quantized = (fb_quantized){.bits = bits,
                                .group_size = group,
                                .scales = m->like->scales,
                                .float_activations = m->like->float_activations};
    matrix->quantized = quantized;
    m->weights->num_bytes += matrix->rows * (matrix->columns / group) * sizeof(float);
    return FB_OK;
}

static fb_status make_matrix(maker *m, int bits, size_t rows, size_t columns, fb_matrix *matrix) {
    fb_like_model *like = m->like;
    *matrix = (fb_matrix){.dtype = FB_BF16, .rows = rows, .columns = columns};
    if (bits < 16)
        FB_TRY(make_quantized(m, bits, matrix));
    size_t bytes = (fb_matrix_bytes(matrix) + LINE - 1) / LINE * LINE;
    if (bytes > like->size - like->next)
        like->next = 0;
    matrix->data = (char *)like->memory + like->next;
    like->next += bytes;
    m->weights->num_parameters += rows * columns;
    m->weights->num_bytes += fb_matrix_bytes(matrix);
    return FB_OK;
}

static fb_status make_vector(maker *m, size_t size, float value, float **vector) {
    FB_TRY(fb_alloc(size, sizeof **vector, "weights", vector));
    for (size_t i = 0; i < size; i++)
        (*vector)[i] = value;
    m->weights->num_parameters += size;
    m->weights->num_bytes += size * sizeof **vector;
    return FB_OK;
}

static fb_status make_mlp(maker *m, size_t hidden, size_t width, fb_mlp_weights *mlp) {
    FB_TRY(make_matrix(m, m->bits, width, hidden, &mlp->gate));
    FB_TRY(make_matrix(m, m->bits, width, hidden, &mlp->up));
    return make_matrix(m, m->bits, hidden, width, &mlp->down);
}

static fb_status make_attention(maker *m, const fb_model_config *config, fb_layer_weights *layer) {
    size_t hidden = config->hidden_size, dim = config->head_dim;
    size_t q_width = config->num_attention_heads * dim;
    size_t kv_width = config->num_key_value_heads * dim;
    FB_TRY(make_vector(m, hidden, 1.0f, &layer->input_norm));
    FB_TRY(make_matrix(m, m->bits, q_width, hidden, &layer->q));
    FB_TRY(make_matrix(m, m->bits, kv_width, hidden, &layer->k));
    FB_TRY(make_matrix(m, m->bits, kv_width, hidden, &layer->v));
    if (config->attention_bias) {
        FB_TRY(make_vector(m, q_width, 0.0f, &layer->q.bias));
        FB_TRY(make_vector(m, kv_width, 0.0f, &layer->k.bias));
        FB_TRY(make_vector(m, kv_width, 0.0f, &layer->v.bias));
    }
    if (config->qk_norm) {
        FB_TRY(make_vector(m, dim, 1.0f, &layer->q_norm));
        FB_TRY(make_vector(m, dim, 1.0f, &layer->k_norm));
    }
    FB_TRY(make_matrix(m, m->bits, hidden, q_width, &layer->o));
    return make_vector(m, hidden, 1.0f, &layer->post_attention_norm);
}

static fb_status make_layer(maker *m, const fb_model_config *config, size_t index) {
    fb_layer_weights *layer = &m->weights->layers[index];
    size_t hidden = config->hidden_size, experts = config->num_experts;
    FB_TRY(make_attention(m, config, layer));
    if (!fb_model_config_is_mixture(config, index))
        return make_mlp(m, hidden, config->intermediate_size, &layer->mlp);
    FB_TRY(make_matrix(m, 16, experts, hidden, &layer->router));
    if (config->router == FB_ROUTER_SIGMOID)
        FB_TRY(make_vector(m, experts, 0.0f, &layer->router_bias));
    FB_TRY(fb_alloc_zeroed(experts, sizeof *layer->experts, "experts", &layer->experts));
    for (size_t i = 0; i < experts; i++)
        FB_TRY(make_mlp(m, hidden, config->moe_intermediate_size, &layer->experts[i]));
    if (config->shared_intermediate_size == 0)
        return FB_OK;
    return make_mlp(m, hidden, config->shared_intermediate_size, &layer->mlp);
}

static fb_status make_weights(maker *m, const fb_model_config *config) {
    fb_weights *weights = m->weights;
    size_t vocab = config->vocab_size, hidden = config->hidden_size;
    int bits = m->bits == 16 ? 16 : 8; /* of embedding and head */
    FB_TRY(fb_alloc_zeroed(config->num_hidden_layers, sizeof *weights->layers, "layers",
                           &weights->layers));
    weights->num_layers = config->num_hidden_layers;
    FB_TRY(make_matrix(m, bits, vocab, hidden, &weights->embedding));
    for (size_t i = 0; i < weights->num_layers; i++)
        FB_TRY(make_layer(m, config, i));
    FB_TRY(make_vector(m, hidden, 1.0f, &weights->norm));
    weights->head = weights->embedding;
    return config->tie_word_embeddings ? FB_OK
                                       : make_matrix(m, bits, vocab, hidden, &weights->head);
}

static fb_status make_model(const fb_model_config *config, fb_weight_bits bits, fb_like_model *like,
                            fb_model *model) {
    maker m = {.like = like,
               .weights = &model->weights,
               .bits = bits == FB_WEIGHTS_STORED ? 16
                       : bits == FB_WEIGHTS_8    ? 8
                                                 : 4};
    model->config = *config;
    model->used = true; /* nothing is on a disk */
    FB_TRY(make_memory(config, like));
    if (m.bits < 16)
        FB_TRY(make_scales(config, like));
    FB_TRY(make_weights(&m, config));
    FB_TRY(fb_alloc(config->rotary_dim / 2, sizeof *model->inv_freq, "rotary frequencies",
                    &model->inv_freq));
    fb_rope_frequencies(config->rotary_dim, config->rope_theta, model->inv_freq);
    return FB_OK;
}

fb_status fb_like_model_create(const char *name, size_t layers, fb_weight_bits bits,
                               fb_like_model *like, fb_model **model) {
    size_t index = 0;
    while (index < NUM_SHAPES && strcmp(shapes[index].name, name) != 0)
        index++;
    if (index == NUM_SHAPES)
        return fb_fail(FB_ERROR_ARGUMENT, "--like: there is no '%.60s', only %s", name,
                       fb_like_model_names());
    fb_model_config config = shapes[index].config;
    config.num_hidden_layers = layers > 0 ? layers : config.num_hidden_layers;
    fb_model *made = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *made, "model", &made));
    fb_status status = make_model(&config, bits, like, made);
    if (status != FB_OK) {
        fb_model_destroy(made);
        return status;
    }
    *model = made;
    return FB_OK;
}

void fb_like_model_free(fb_like_model *like) {
    void **blocks = (void **)(void *)like->blocks.data;
    for (size_t i = 0; i < like->blocks.size / sizeof *blocks; i++)
        fb_free(blocks[i]);
    fb_buffer_free(&like->blocks);
    fb_free(like->scales);
    fb_free(like->memory);
    *like = (fb_like_model){0};
}

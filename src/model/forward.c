/* The forward pass, in the order in which it happens. */
#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "base/sized.h"
#include "model/layers.h"
#include "model/model_state.h"
#include "model/rope.h"
#include "simd/kernels.h"

#include <flashblock/attention.h>
#include <flashblock/experimental/sparse.h>
#include <flashblock/model.h>

#include <limits.h>
#include <string.h>

/* One call of fb_model_forward. Rows are the tokens of all sequences, one after the other. */
typedef struct pass {
    fb_model *model;
    const fb_model_config *config;
    const fb_forward *sequences; /* [count] */
    size_t count;
    size_t num_rows;
    size_t num_logit_rows; /* rows of the sequences that want logits */
    size_t num_wanting;    /* those sequences */
    size_t q_width, kv_width;
    const fb_kernels *kernels;
    fb_activations *a;
    fb_forward_times times;
} pass;

/* Threads for work on `values` floats, row by row: for few of them, waking others costs more. */
static size_t threads_for(size_t values) {
    return values < 1 << 15 ? 1 : fb_parallel_threads();
}

static fb_status linear(pass *p, const float *x, size_t num_rows, const fb_linear_output *outputs,
                        size_t num_outputs) {
    double start = fb_seconds();
    fb_linear_input input = {x, num_rows};
    fb_status status = fb_linear(&p->model->linear, &input, outputs, num_outputs);
    p->times.linear += fb_seconds() - start;
    return status;
}

/* fb_model_round_activations: what an operation gave. */
static void round_rows(const pass *p, float *x, size_t width) {
    fb_round_significand(p->model->significand_bits, x, p->num_rows * width);
}

void fb_model_round_activations(fb_model *model, int significand_bits) {
    model->significand_bits = significand_bits;
}

/* The position of a sequence's first token. */
static size_t first_position(const fb_forward *sequence) {
    return fb_kv_cache_length(sequence->kv) + sequence->block_first;
}

/* --- arguments -------------------------------------------------------------------------------- */

static fb_status check_tokens(const pass *p, size_t index) {
    const fb_forward *sequence = &p->sequences[index];
    if (sequence->num_tokens == 0)
        return fb_fail(FB_ERROR_ARGUMENT, "sequence %zu: num_tokens is 0", index);
    if (!sequence->tokens)
        return fb_fail(FB_ERROR_ARGUMENT, "sequence %zu: tokens is NULL", index);
    for (size_t i = 0; i < sequence->num_tokens; i++)
        if (sequence->tokens[i] < 0 || (size_t)sequence->tokens[i] >= p->config->vocab_size)
            return fb_fail(FB_ERROR_ARGUMENT, "sequence %zu: tokens[%zu] is %ld, expected 0 to %zu",
                           index, i, (long)sequence->tokens[i], p->config->vocab_size - 1);
    return FB_OK;
}

static fb_status check_cache(const pass *p, size_t index) {
    const fb_forward *sequence = &p->sequences[index];
    if (!sequence->kv)
        return fb_fail(FB_ERROR_ARGUMENT, "sequence %zu: kv is NULL", index);
    const fb_kv_cache_config *kv = fb_kv_cache_config_of(sequence->kv);
    if (kv->num_layers != p->config->num_hidden_layers ||
        kv->num_kv_heads != p->config->num_key_value_heads || kv->head_dim != p->config->head_dim)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "sequence %zu: kv has %zu layers of %zu x %zu, the model %zu of %zu x %zu",
                       index, kv->num_layers, kv->num_kv_heads, kv->head_dim,
                       p->config->num_hidden_layers, p->config->num_key_value_heads,
                       p->config->head_dim);
    for (size_t i = 0; i < index; i++)
        if (p->sequences[i].kv == sequence->kv ||
            (sequence->parts && p->sequences[i].parts == sequence->parts) ||
            (sequence->sparse && p->sequences[i].sparse == sequence->sparse))
            return fb_fail(FB_ERROR_ARGUMENT, "sequences %zu and %zu share a cache", i, index);
    return FB_OK;
}

/* Some rows of a block whose other rows are in the cache. */
static fb_status check_rows(const fb_forward *sequence, size_t index) {
    size_t first = sequence->block_first, length = sequence->block_length, kept = 0;
    if (length == 0)
        return first == 0
                   ? FB_OK
                   : fb_fail(FB_ERROR_ARGUMENT, "sequence %zu: block_first is %zu, block_length 0",
                             index, first);
    if (first > length || sequence->num_tokens > length - first)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "sequence %zu: %zu tokens from block_first %zu on are beyond block_length "
                       "%zu",
                       index, sequence->num_tokens, first, length);
    if (sequence->prefill_block > 0 || sequence->parts || sequence->sparse ||
        sequence->action != FB_REFRESH_ONLY)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "sequence %zu: block_length is set with a prefill, parts, sparse, or "
                       "another action than %s",
                       index, fb_reuse_action_name(FB_REFRESH_ONLY));
    fb_kv kv;
    size_t layers = fb_kv_cache_config_of(sequence->kv)->num_layers;
    for (size_t layer = 0; layer < layers; layer++) {
        FB_TRY(fb_kv_cache_layer(sequence->kv, layer, &kv));
        kept = kv.num_tokens - fb_kv_cache_length(sequence->kv);
        if (kept < length)
            return fb_fail(FB_ERROR_ARGUMENT,
                           "sequence %zu: block_length is %zu, but layer %zu holds %zu tokens "
                           "after the committed ones",
                           index, length, layer, kept);
    }
    return FB_OK;
}

static fb_status check_sequence(const pass *p, size_t index) {
    FB_TRY(check_tokens(p, index));
    FB_TRY(check_cache(p, index));
    FB_TRY(check_rows(&p->sequences[index], index));
    const fb_forward *sequence = &p->sequences[index];
    size_t length = fb_kv_cache_length(sequence->kv), block = sequence->prefill_block;
    size_t shift = sequence->prefill_shift;
    if (block > 0 && shift >= block)
        return fb_fail(FB_ERROR_ARGUMENT, "sequence %zu: prefill_shift is %zu in blocks of %zu",
                       index, shift, block);
    if (block > 0 && length > 0 && (length + shift) % block != 0)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "sequence %zu: prefill starts at %zu, inside a block of %zu", index, length,
                       block);
    if (block == 0 && !sequence->parts && !sequence->sparse && sequence->action != FB_REFRESH_ONLY)
        return fb_fail(FB_ERROR_ARGUMENT, "sequence %zu: parts is NULL, but the action is %s",
                       index, fb_reuse_action_name(sequence->action));
    if (block == 0 && sequence->action == FB_REFRESH_ROWS && !sequence->refresh_rows)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "sequence %zu: refresh_rows is NULL, but the action is %s", index,
                       fb_reuse_action_name(sequence->action));
    return FB_OK;
}

/* Counts rows, too. */
static fb_status check_sequences(pass *p) {
    for (size_t i = 0; i < p->count; i++) {
        FB_TRY(check_sequence(p, i));
        size_t num_tokens = p->sequences[i].num_tokens;
        if (num_tokens > INT_MAX - p->num_rows)
            return fb_fail(FB_ERROR_ARGUMENT, "more than %d tokens in one forward pass", INT_MAX);
        p->num_rows += num_tokens;
        if (p->sequences[i].logits) {
            p->num_logit_rows += num_tokens;
            p->num_wanting++;
        }
    }
    return FB_OK;
}

static fb_status prepare(pass *p) {
    FB_TRY(check_sequences(p));
    FB_TRY(fb_kernels_current(&p->kernels));
    size_t kept_logits = p->num_wanting > 1 ? p->num_logit_rows : 0;
    return fb_activations_reserve(p->config, p->num_rows, kept_logits, p->a);
}

/* --- embedding and positions ------------------------------------------------------------------ */

/* x = rows of the embedding; cosines and sines of the rows' positions. */
static void embed(pass *p) {
    const fb_matrix *embedding = &p->model->weights.embedding;
    size_t hidden = p->config->hidden_size, half = p->config->rotary_dim / 2, row = 0;
    double start = fb_seconds();
    for (size_t s = 0; s < p->count; s++) {
        const fb_forward *sequence = &p->sequences[s];
        size_t first = first_position(sequence);
        for (size_t i = 0; i < sequence->num_tokens; i++, row++) {
            fb_matrix_row(p->kernels, embedding, (size_t)sequence->tokens[i],
                          p->a->x + row * hidden);
            fb_rope_angles(p->model->inv_freq, half, first + i, p->a->cosines + row * half,
                           p->a->sines + row * half);
        }
    }
    p->model->small.embedding += fb_seconds() - start;
    round_rows(p, p->a->x, hidden);
    round_rows(p, p->a->cosines, half);
    round_rows(p, p->a->sines, half);
}

/* --- attention -------------------------------------------------------------------------------- */

/* Work on rows of a pass, with some weights. */
typedef struct row_call {
    pass *p;
    const float *norm;
    const fb_layer_weights *layer;
} row_call;

static void norm_some_rows(void *context, size_t first, size_t end, size_t worker) {
    const row_call *c = context;
    const pass *p = c->p;
    size_t hidden = p->config->hidden_size;
    (void)worker;
    for (size_t row = first; row < end; row++)
        fb_rms_norm(p->a->x + row * hidden, c->norm, p->config->rms_norm_eps, hidden,
                    p->a->normed + row * hidden);
}

/* normed = rms_norm(x), row by row. */
static void norm_rows(pass *p, const float *weight) {
    row_call call = {.p = p, .norm = weight};
    double start = fb_seconds();
    fb_parallel_for(p->num_rows, 0, threads_for(p->num_rows * p->config->hidden_size),
                    norm_some_rows, &call);
    p->model->small.norms += fb_seconds() - start;
    round_rows(p, p->a->normed, p->config->hidden_size);
}

/* x += normed, which holds what a sublayer gave. */
static void add_rows(pass *p) {
    size_t hidden = p->config->hidden_size;
    round_rows(p, p->a->normed, hidden);
    double start = fb_seconds();
    fb_add(p->a->x, p->a->normed, p->num_rows * hidden);
    p->model->small.residual += fb_seconds() - start;
    round_rows(p, p->a->x, hidden);
}

/* Heads of one row: each normalised, unless `weight` is NULL, then rotated to the row's position.
 */
static void place_heads(const pass *p, size_t row, float *heads, size_t num_heads,
                        const float *weight) {
    size_t head_dim = p->config->head_dim, half = p->config->rotary_dim / 2;
    for (size_t h = 0; h < num_heads; h++) {
        float *head = heads + h * head_dim;
        if (weight)
            fb_rms_norm(head, weight, p->config->rms_norm_eps, head_dim, head);
        fb_rope_rotate(p->a->cosines + row * half, p->a->sines + row * half, half, head);
    }
}

static void place_some_rows(void *context, size_t first, size_t end, size_t worker) {
    const row_call *c = context;
    const pass *p = c->p;
    (void)worker;
    for (size_t row = first; row < end; row++) {
        place_heads(p, row, p->a->q + row * p->q_width, p->config->num_attention_heads,
                    c->layer->q_norm);
        place_heads(p, row, p->a->k + row * p->kv_width, p->config->num_key_value_heads,
                    c->layer->k_norm);
    }
}

static void place_rows(pass *p, const fb_layer_weights *layer) {
    row_call call = {.p = p, .layer = layer};
    double start = fb_seconds();
    fb_parallel_for(p->num_rows, 0, threads_for(p->num_rows * p->q_width), place_some_rows, &call);
    p->model->small.positions += fb_seconds() - start;
    round_rows(p, p->a->q, p->q_width);
    round_rows(p, p->a->k, p->kv_width);
}

/* Attention of a prefill: to everything committed, and to the new tokens of blocks up to one's
 * own. */
static fb_status attend_prefill(const fb_forward *sequence, size_t layer, const fb_queries *queries,
                                const fb_part *result) {
    fb_kv kv;
    FB_TRY(fb_kv_cache_layer(sequence->kv, layer, &kv));
    size_t length = fb_kv_cache_length(sequence->kv);
    fb_range range = {0, length + sequence->num_tokens};
    fb_view view = {&kv, &range, 1};
    size_t shift = sequence->prefill_shift;
    fb_mask mask = {FB_MASK_BLOCK_CAUSAL, sequence->prefill_block, length + shift, shift};
    return fb_attend(queries, &view, &mask, 0.0f, result);
}

/* Attention of some rows of a block, to everything committed and to the whole block. */
static fb_status attend_rows(const fb_forward *sequence, size_t layer, const fb_queries *queries,
                             const fb_part *result) {
    fb_kv kv;
    FB_TRY(fb_kv_cache_layer(sequence->kv, layer, &kv));
    fb_range range = {0, fb_kv_cache_length(sequence->kv) + sequence->block_length};
    fb_view view = {&kv, &range, 1};
    return fb_attend(queries, &view, NULL, 0.0f, result);
}

/* Attention of a block, to all keys or to those that a selector chose. */
static fb_status attend_block(const fb_forward *sequence, size_t layer, const fb_queries *queries,
                              const fb_part *result) {
    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = queries;
    call.kv = sequence->kv;
    call.layer = layer;
    call.action = sequence->action;
    call.compat = sequence->compat;
    call.parts = sequence->sparse ? NULL : sequence->parts;
    call.refresh_rows = sequence->refresh_rows;
    call.sparse = sequence->sparse;
    return fb_block_attend(&call, result);
}

/* Shows an observer what attention did to one block. `result` is read afterwards: the oracle, which
 * makes mistakes on purpose (oracle/trajectory_alter.h), overwrites it. */
static void observe(const pass *p, size_t layer, const fb_forward *sequence,
                    const fb_queries *queries, const fb_part *result) {
    fb_attention_event event = {
        .sequence = (size_t)(sequence - p->sequences),
        .layer = layer,
        .queries = queries,
        .kv = sequence->kv,
        .action = sequence->action,
        .parts = sequence->parts,
        .result = result,
    };
    sequence->on_attention(sequence->user, &event);
}

static fb_status attend_sequence(pass *p, size_t layer, const fb_forward *sequence,
                                 size_t first_row) {
    size_t heads = p->config->num_attention_heads, head_dim = p->config->head_dim;
    double start = fb_seconds();
    FB_TRY(fb_kv_cache_write(sequence->kv, layer, first_position(sequence), sequence->num_tokens,
                             p->a->k + first_row * p->kv_width, p->a->v + first_row * p->kv_width));
    double written = fb_seconds();
    p->model->small.kv_write += written - start;
    fb_queries queries =
        fb_queries_rows(p->a->q + first_row * p->q_width, sequence->num_tokens, heads, head_dim);
    fb_part result = fb_part_rows(p->a->attended + first_row * p->q_width,
                                  p->a->lse + first_row * heads, heads, head_dim);
    fb_status status;
    if (sequence->prefill_block > 0)
        status = attend_prefill(sequence, layer, &queries, &result);
    else if (sequence->block_length > 0)
        status = attend_rows(sequence, layer, &queries, &result);
    else
        status = attend_block(sequence, layer, &queries, &result);
    p->times.attention += fb_seconds() - written;
    if (status == FB_OK && sequence->on_attention && sequence->prefill_block == 0 &&
        sequence->block_length == 0)
        observe(p, layer, sequence, &queries, &result);
    return status;
}

/* Shows observers what a sublayer gave, which is in `normed`; a mixture also its router's choice.
 */
static void show_sublayer(const pass *p, size_t layer, bool mlp) {
    const fb_model_config *config = p->config;
    const fb_mixture *m = &p->model->mixture;
    bool mixture = mlp && p->model->weights.layers[layer].experts;
    size_t row = 0, chosen = config->num_experts_per_tok;
    for (size_t s = 0; s < p->count; row += p->sequences[s++].num_tokens) {
        fb_sublayer_event event = {
            .sequence = s,
            .layer = layer,
            .mlp = mlp,
            .result = p->a->normed + row * config->hidden_size,
            .router_logits = mixture ? m->logits + row * config->num_experts : NULL,
            .experts = mixture ? m->chosen + row * chosen : NULL,
            .expert_weights = mixture ? m->weights + row * chosen : NULL,
        };
        if (p->sequences[s].on_sublayer)
            p->sequences[s].on_sublayer(p->sequences[s].user, &event);
    }
}

/* x += o_proj(attention(rms_norm(x))) */
static fb_status attention_sublayer(pass *p, size_t index) {
    const fb_layer_weights *layer = &p->model->weights.layers[index];
    norm_rows(p, layer->input_norm);
    fb_linear_output qkv[] = {{&layer->q, p->a->q}, {&layer->k, p->a->k}, {&layer->v, p->a->v}};
    FB_TRY(linear(p, p->a->normed, p->num_rows, qkv, 3));
    round_rows(p, p->a->q, p->q_width);
    round_rows(p, p->a->k, p->kv_width);
    round_rows(p, p->a->v, p->kv_width);
    place_rows(p, layer);
    size_t row = 0;
    for (size_t s = 0; s < p->count; s++) {
        FB_TRY(attend_sequence(p, index, &p->sequences[s], row));
        row += p->sequences[s].num_tokens;
    }
    round_rows(p, p->a->attended, p->q_width);
    fb_linear_output o = {&layer->o, p->a->normed};
    FB_TRY(linear(p, p->a->attended, p->num_rows, &o, 1));
    show_sublayer(p, index, false);
    add_rows(p);
    return FB_OK;
}

/* --- the feed-forward network ----------------------------------------------------------------- */

/* Rows of `width` values. */
typedef struct swiglu_call {
    const pass *p;
    size_t width;
} swiglu_call;

static void swiglu_some_rows(void *context, size_t first, size_t end, size_t worker) {
    const swiglu_call *c = context;
    (void)worker;
    for (size_t row = first; row < end; row++)
        fb_swiglu(c->p->kernels, c->p->a->gate + row * c->width, c->p->a->up + row * c->width,
                  c->width);
}

static void swiglu_rows(pass *p, size_t width) {
    swiglu_call call = {p, width};
    double start = fb_seconds();
    fb_parallel_for(p->num_rows, 0, threads_for(p->num_rows * width), swiglu_some_rows, &call);
    p->model->small.swiglu += fb_seconds() - start;
}

/* y = down(silu(gate(normed)) * up(normed)); y may be normed. */
static fb_status dense_mlp(pass *p, const fb_mlp_weights *mlp, float *y) {
    size_t width = mlp->gate.rows;
    fb_linear_output gate_up[] = {{&mlp->gate, p->a->gate}, {&mlp->up, p->a->up}};
    FB_TRY(linear(p, p->a->normed, p->num_rows, gate_up, 2));
    round_rows(p, p->a->gate, width);
    round_rows(p, p->a->up, width);
    swiglu_rows(p, width);
    round_rows(p, p->a->gate, width);
    fb_linear_output down = {&mlp->down, y};
    return linear(p, p->a->gate, p->num_rows, &down, 1);
}

/* normed = the mixture of normed, plus the shared experts' MLP. */
static fb_status mixture(pass *p, const fb_layer_weights *layer) {
    size_t values = p->num_rows * p->config->hidden_size;
    fb_mixture_call call = {
        .config = p->config,
        .layer = layer,
        .kernels = p->kernels,
        .x = p->a->normed,
        .num_rows = p->num_rows,
        .y = p->a->mixed,
        .significand_bits = p->model->significand_bits,
        .linear = &p->model->linear,
        .linear_seconds = &p->times.linear,
        .routing_seconds = &p->model->small.routing,
    };
    FB_TRY(fb_mixture_run(&p->model->mixture, &call));
    if (!layer->mlp.gate.data) {
        memcpy(p->a->normed, p->a->mixed, values * sizeof *p->a->normed);
        return FB_OK;
    }
    FB_TRY(dense_mlp(p, &layer->mlp, p->a->normed));
    round_rows(p, p->a->normed, p->config->hidden_size);
    double start = fb_seconds();
    for (size_t i = 0; i < values; i++)
        p->a->normed[i] = p->a->mixed[i] + p->a->normed[i];
    p->model->small.routing += fb_seconds() - start;
    return FB_OK;
}

/* x += mlp(rms_norm(x)), dense or a mixture */
static fb_status mlp_sublayer(pass *p, size_t index) {
    const fb_layer_weights *layer = &p->model->weights.layers[index];
    norm_rows(p, layer->post_attention_norm);
    if (layer->experts)
        FB_TRY(mixture(p, layer));
    else
        FB_TRY(dense_mlp(p, &layer->mlp, p->a->normed));
    show_sublayer(p, index, true);
    add_rows(p);
    return FB_OK;
}

/* --- results ---------------------------------------------------------------------------------- */

/* Copies rows of `from` to slice `index` of the sequences' `hidden`. */
static void give_hidden(const pass *p, size_t index, const float *from) {
    size_t hidden = p->config->hidden_size;
    for (size_t s = 0; s < p->count; s++) {
        size_t values = p->sequences[s].num_tokens * hidden;
        if (p->sequences[s].hidden)
            memcpy(p->sequences[s].hidden + index * values, from, values * sizeof *from);
        from += values;
    }
}

/* Moves the rows that want logits to the front of `normed`. */
static void gather_wanting(pass *p) {
    size_t hidden = p->config->hidden_size;
    float *from = p->a->normed, *to = p->a->normed;
    for (size_t s = 0; s < p->count; s++) {
        size_t values = p->sequences[s].num_tokens * hidden;
        if (p->sequences[s].logits) {
            memmove(to, from, values * sizeof *to);
            to += values;
        }
        from += values;
    }
}

/* The head reads its weights once, for all sequences together: with several, logits are computed
 * into one array and copied from there. */
static fb_status give_logits(pass *p) {
    const fb_forward *sequences = p->sequences;
    if (p->num_wanting == 0)
        return FB_OK;
    float *logits = p->a->logits;
    for (size_t s = 0; s < p->count && p->num_wanting == 1; s++)
        logits = sequences[s].logits ? sequences[s].logits : logits;
    gather_wanting(p);
    fb_linear_output head = {&p->model->weights.head, logits};
    FB_TRY(linear(p, p->a->normed, p->num_logit_rows, &head, 1));
    fb_round_significand(p->model->significand_bits, logits,
                         p->num_logit_rows * p->config->vocab_size);
    for (size_t s = 0; s < p->count && p->num_wanting > 1; s++)
        if (sequences[s].logits) {
            size_t values = sequences[s].num_tokens * p->config->vocab_size;
            memcpy(sequences[s].logits, logits, values * sizeof *logits);
            logits += values;
        }
    return FB_OK;
}

/* --- the whole -------------------------------------------------------------------------------- */

/* The first pass reads the weights from the disk: each layer asks for the next one's. Later passes
 * find them in memory, or the model is larger than that and reading ahead would not help. */
static void prefetch(const pass *p, size_t layer) {
    const fb_weights *weights = &p->model->weights;
    if (!p->model->used && layer < weights->num_layers)
        fb_weights_prefetch(&weights->layers[layer]);
}

static fb_status run(pass *p) {
    FB_TRY(prepare(p));
    prefetch(p, 0);
    embed(p);
    size_t num_layers = p->config->num_hidden_layers;
    for (size_t layer = 0; layer < num_layers; layer++) {
        prefetch(p, layer + 1);
        give_hidden(p, layer, p->a->x);
        FB_TRY(attention_sublayer(p, layer));
        FB_TRY(mlp_sublayer(p, layer));
    }
    norm_rows(p, p->model->weights.norm);
    give_hidden(p, num_layers, p->a->normed);
    FB_TRY(give_logits(p));
    p->model->used = true;
    return FB_OK;
}

FB_SIZED_ENDS_WITH(fb_forward, on_sublayer);

void fb_forward_init_sized(fb_forward *forward, size_t size) {
    fb_sized_init(forward, size, &(fb_forward){0}, sizeof *forward);
}

/* The caller's array has the caller's struct_size between its elements. */
static fb_status read_sequences(const fb_forward *given, size_t count, fb_forward *own) {
    size_t size = given->struct_size;
    for (size_t i = 0; i < count; i++) {
        const void *from = (const char *)given + i * size;
        own[i] = (fb_forward){0};
        FB_TRY(fb_sized_read(&own[i], sizeof *own, from, "sequence"));
        size_t its_size = 0;
        memcpy(&its_size, from, sizeof its_size);
        if (its_size != size)
            return fb_fail(FB_ERROR_ARGUMENT, "sequence %zu has struct_size %zu, the first %zu", i,
                           its_size, size);
    }
    return FB_OK;
}

static fb_status forward(fb_model *model, const fb_forward *sequences, size_t count,
                         fb_forward_times *times) {
    const fb_model_config *config = &model->config;
    pass p = {
        .model = model,
        .config = config,
        .sequences = sequences,
        .count = count,
        .q_width = config->num_attention_heads * config->head_dim,
        .kv_width = config->num_key_value_heads * config->head_dim,
        .a = &model->activations,
    };
    double start = fb_seconds();
    FB_TRY(run(&p));
    if (times) {
        times->attention += p.times.attention;
        times->linear += p.times.linear;
        times->total += fb_seconds() - start;
    }
    return FB_OK;
}

fb_status fb_model_forward(fb_model *model, const fb_forward *sequences, size_t count,
                           fb_forward_times *times) {
    if (!model || (!sequences && count > 0))
        return fb_fail(FB_ERROR_ARGUMENT, "%s is NULL", model ? "sequences" : "model");
    if (count == 0)
        return FB_OK;
    size_t bytes = 0;
    if (!fb_size_mul(count, sizeof *sequences, &bytes))
        return fb_fail(FB_ERROR_ARGUMENT, "count is %zu, more than fits memory", count);
    void *memory = NULL;
    FB_TRY(fb_scratch_acquire(bytes, &memory));
    fb_status status = read_sequences(sequences, count, memory);
    if (status == FB_OK)
        status = fb_busy_begin(&model->busy, "the model");
    if (status == FB_OK) {
        status = forward(model, memory, count, times);
        fb_busy_end(&model->busy);
    }
    fb_scratch_release(memory);
    return status;
}

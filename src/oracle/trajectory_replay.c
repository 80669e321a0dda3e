#include "oracle/trajectory_replay.h"

#include "base/error.h"
#include "base/memory.h"
#include "decode/generate_options.h"
#include "model/model_state.h"

#include <flashblock/experimental/rows.h>

#include <string.h>

int fb_trajectory_significand_bits(fb_arithmetic precision) {
    switch (precision) {
    case FB_ARITHMETIC_F16:
    case FB_ARITHMETIC_TF32:
        return 11;
    case FB_ARITHMETIC_BF16:
        return 8;
    case FB_ARITHMETIC_FP8:
        return 6; /* bf16, with weights of attention in three bits */
    default:
        return 21;
    }
}

/* --- memory ----------------------------------------------------------------------------------- */

size_t fb_trajectory_state_size(const fb_trajectory_replay *replay, fb_trajectory_state state) {
    const fb_model_config *c = replay->config;
    size_t block = replay->record->options.block_size, layers = c->num_hidden_layers;
    switch (state) {
    case FB_TRAJECTORY_LOGITS:
    case FB_TRAJECTORY_GUMBEL:
        return block * c->vocab_size;
    case FB_TRAJECTORY_HIDDEN:
        return (layers + 1) * block * c->hidden_size;
    case FB_TRAJECTORY_EXTERNAL_LSE:
    case FB_TRAJECTORY_INTERNAL_LSE:
    case FB_TRAJECTORY_LSE:
        return layers * block * c->num_attention_heads;
    default:
        return layers * block * c->num_attention_heads * c->head_dim;
    }
}

static bool is_wanted(const fb_trajectory_replay *replay, int state) {
    if (state == FB_TRAJECTORY_LOGITS)
        return true;
    if (state == FB_TRAJECTORY_GUMBEL)
        return false;
    return state == FB_TRAJECTORY_HIDDEN ? replay->wants_hidden : replay->wants_parts;
}

static fb_status make_lane(const fb_trajectory_replay *replay, fb_trajectory_lane *lane) {
    const fb_generate_options *o = &replay->record->options;
    FB_TRY(fb_model_new_kv_cache(replay->model, o->kv_dtype, &lane->kv));
    if (o->reuse.tau > 0)
        FB_TRY(fb_model_new_part_cache(replay->model, o->block_size, &lane->parts));
    if (o->reuse.correction)
        FB_TRY(fb_part_cache_enable_correction(lane->parts));
    for (int i = 0; i < FB_TRAJECTORY_NUM_STATES; i++)
        if (is_wanted(replay, i))
            FB_TRY(fb_alloc_zeroed(fb_trajectory_state_size(replay, (fb_trajectory_state)i),
                                   sizeof(float), "states of a pass", &lane->states[i]));
    return FB_OK;
}

void fb_trajectory_replay_free(fb_trajectory_replay *replay) {
    for (size_t l = 0; l < FB_TRAJECTORY_MAX_LANES; l++) {
        fb_trajectory_lane *lane = &replay->lanes[l];
        fb_part_cache_destroy(lane->parts);
        fb_kv_cache_destroy(lane->kv);
        for (int i = 0; i < FB_TRAJECTORY_NUM_STATES; i++)
            fb_free(lane->states[i]);
    }
    fb_sequence_destroy(replay->sequence);
    *replay = (fb_trajectory_replay){0};
}

static void find_wanted(fb_trajectory_replay *replay) {
    const fb_trajectory *record = replay->record;
    for (size_t p = 0; p < record->num_passes; p++)
        for (int i = FB_TRAJECTORY_HIDDEN; i < FB_TRAJECTORY_NUM_STATES; i++) {
            bool given = record->passes[p].states[i] != NULL;
            replay->wants_hidden = replay->wants_hidden || (given && i == FB_TRAJECTORY_HIDDEN);
            replay->wants_parts = replay->wants_parts || (given && i != FB_TRAJECTORY_HIDDEN);
        }
}

/* --- forward passes --------------------------------------------------------------------------- */

/* Layer `layer` of two states. */
static fb_part part_of(const fb_trajectory_replay *replay, const fb_trajectory_lane *lane,
                       size_t layer, fb_trajectory_state out, fb_trajectory_state lse) {
    const fb_model_config *c = replay->config;
    size_t rows = layer * replay->record->options.block_size * c->num_attention_heads;
    return fb_part_rows(lane->states[out] + rows * c->head_dim, lane->states[lse] + rows,
                        c->num_attention_heads, c->head_dim);
}

static void copy_part(const fb_attention_event *event, const fb_part *from, const fb_part *to) {
    size_t rows = event->queries->num_queries * event->queries->num_heads;
    memcpy(to->out, from->out, rows * event->queries->head_dim * sizeof *to->out);
    memcpy(to->lse, from->lse, rows * sizeof *to->lse);
}

/* The external part that the pass used: kept, or over the context. */
static fb_status take_external(const fb_attention_event *event, fb_compat compat,
                               const fb_part *part) {
    if (event->action == FB_REUSE || event->action == FB_REFRESH_ROWS) {
        fb_part kept;
        FB_TRY(fb_part_cache_load(event->parts, event->layer, event->kv, compat, &kept));
        copy_part(event, &kept, part);
        return FB_OK;
    }
    fb_kv kv;
    FB_TRY(fb_kv_cache_layer(event->kv, event->layer, &kv));
    fb_range external = {0, fb_kv_cache_length(event->kv)};
    fb_view outside = {&kv, &external, 1};
    return fb_attend(event->queries, &outside, NULL, 0.0f, part);
}

static fb_status take_internal(const fb_attention_event *event, const fb_part *part) {
    fb_kv kv;
    FB_TRY(fb_kv_cache_layer(event->kv, event->layer, &kv));
    size_t length = fb_kv_cache_length(event->kv);
    fb_range internal = {length, length + event->queries->num_queries};
    fb_view inside = {&kv, &internal, 1};
    return fb_attend(event->queries, &inside, NULL, 0.0f, part);
}

static fb_status take_parts(const fb_trajectory_replay *replay, const fb_trajectory_lane *lane,
                            const fb_attention_event *event) {
    fb_part external =
        part_of(replay, lane, event->layer, FB_TRAJECTORY_EXTERNAL_OUT, FB_TRAJECTORY_EXTERNAL_LSE);
    fb_part internal =
        part_of(replay, lane, event->layer, FB_TRAJECTORY_INTERNAL_OUT, FB_TRAJECTORY_INTERNAL_LSE);
    fb_part merged = part_of(replay, lane, event->layer, FB_TRAJECTORY_OUT, FB_TRAJECTORY_LSE);
    FB_TRY(take_external(event, FB_COMPAT_RELEASED, &external));
    FB_TRY(take_internal(event, &internal));
    copy_part(event, event->result, &merged);
    return FB_OK;
}

/* What on_attention is given. */
typedef struct observer {
    const fb_trajectory_replay *replay;
    fb_trajectory_lane *lane;
} observer;

static void see_attention(void *user, const fb_attention_event *event) {
    observer *o = user;
    if (o->lane->status == FB_OK)
        o->lane->status = take_parts(o->replay, o->lane, event);
}

static bool is_fresh(const fb_trajectory_replay *replay, const fb_trajectory_lane *lane) {
    bool fresh = lane->parts != NULL;
    for (size_t i = 0; i < replay->config->num_hidden_layers && fresh; i++)
        fresh = fb_part_cache_is_fresh(lane->parts, i, lane->kv);
    return fresh;
}

fb_forward fb_trajectory_replay_forward(fb_trajectory_replay *replay, size_t index) {
    fb_trajectory_lane *lane = &replay->lanes[index];
    fb_forward forward;
    fb_forward_init(&forward);
    forward.tokens = replay->sequence->block;
    forward.num_tokens = replay->record->options.block_size;
    forward.kv = lane->kv;
    forward.parts = lane->parts;
    forward.action = replay->action;
    forward.compat = replay->record->options.compat;
    forward.refresh_rows = replay->action == FB_REFRESH_ROWS ? replay->sequence->dirty : NULL;
    forward.logits = lane->states[FB_TRAJECTORY_LOGITS];
    forward.hidden = lane->states[FB_TRAJECTORY_HIDDEN];
    return forward;
}

fb_status fb_trajectory_replay_other(fb_trajectory_replay *replay, fb_forward *forward) {
    fb_model_round_activations(replay->model, 0);
    return fb_model_forward(replay->model, forward, 1, NULL);
}

/* A reuse of what was never stored for this block takes what there is, as the engine does; rows of
 * it cannot be refreshed. */
static fb_status run_lane(fb_trajectory_replay *replay, size_t index) {
    fb_trajectory_lane *lane = &replay->lanes[index];
    fb_forward forward = fb_trajectory_replay_forward(replay, index);
    observer o = {replay, lane};
    if (!is_fresh(replay, lane) && forward.action == FB_REUSE)
        forward.compat = FB_COMPAT_RELEASED;
    if (!is_fresh(replay, lane) && forward.action == FB_REFRESH_ROWS) {
        forward.action = FB_REFRESH_AND_STORE;
        forward.refresh_rows = NULL;
    }
    if (replay->wants_parts) {
        forward.on_attention = see_attention;
        forward.user = &o;
    }
    fb_model_round_activations(replay->model, lane->bits);
    fb_status status = fb_model_forward(replay->model, &forward, 1, NULL);
    fb_model_round_activations(replay->model, 0);
    return status == FB_OK ? lane->status : status;
}

fb_reuse_action fb_trajectory_forced_action(const fb_trajectory *record,
                                            const fb_trajectory_pass *pass, const fb_plan *rule) {
    if (!pass->has_action)
        return rule->action;
    bool refresh = pass->action == FB_REFRESH_ONLY || pass->action == FB_REFRESH_AND_STORE;
    if (!refresh)
        return pass->action;
    bool keeps = pass->action == FB_REFRESH_AND_STORE || rule->action != FB_REFRESH_ONLY;
    return pass->commit || record->options.reuse.tau == 0 || !keeps ? FB_REFRESH_ONLY
                                                                    : FB_REFRESH_AND_STORE;
}

fb_status fb_trajectory_replay_run(fb_trajectory_replay *replay, const fb_trajectory_pass *pass) {
    replay->pass = pass;
    replay->rule = fb_sequence_rule(replay->sequence);
    replay->action = fb_trajectory_forced_action(replay->record, pass, &replay->rule);
    fb_sequence_plan_as(replay->sequence, replay->action);
    for (size_t i = 0; i < replay->num_lanes; i++)
        FB_TRY(run_lane(replay, i));
    return FB_OK;
}

fb_status fb_trajectory_replay_decide(fb_trajectory_replay *replay) {
    if (!replay->pass->commit) {
        fb_sequence_accept_as(replay->sequence, replay->pass->tokens, replay->pass->accepted);
        return FB_OK;
    }
    for (size_t i = 0; i < replay->num_lanes; i++)
        FB_TRY(fb_kv_cache_commit(replay->lanes[i].kv, replay->record->options.block_size));
    fb_sequence_commit(replay->sequence);
    return FB_OK;
}

/* --- the beginning ---------------------------------------------------------------------------- */

/* In the pieces that the decoding loop takes: other pieces would change last bits. */
static fb_status prefill(fb_trajectory_replay *replay, fb_trajectory_lane *lane) {
    const fb_generate_options *o = &replay->record->options;
    size_t left = fb_sequence_prefill_left(replay->sequence), done = 0;
    fb_model_round_activations(replay->model, lane->bits);
    fb_status status = FB_OK;
    while (done < left && status == FB_OK) {
        fb_forward forward;
        fb_forward_init(&forward);
        forward.tokens = replay->record->prompt.tokens + done;
        forward.num_tokens = left - done < o->prefill_chunk ? left - done : o->prefill_chunk;
        forward.kv = lane->kv;
        forward.prefill_block = o->block_size;
        forward.action = FB_REFRESH_ONLY;
        status = fb_model_forward(replay->model, &forward, 1, NULL);
        if (status == FB_OK)
            status = fb_kv_cache_commit(lane->kv, forward.num_tokens);
        done += forward.num_tokens;
    }
    fb_model_round_activations(replay->model, 0);
    return status;
}

fb_status fb_trajectory_replay_begin(const fb_trajectory *record, fb_model *model, size_t num_lanes,
                                     fb_trajectory_replay *replay) {
    replay->record = record;
    replay->model = model;
    replay->config = fb_model_config_of(model);
    replay->sampler = fb_generate_sampler(&record->options);
    replay->num_lanes = num_lanes;
    find_wanted(replay);
    FB_TRY(fb_sequence_create(&record->schedule, &record->prompt, &replay->sequence));
    for (size_t i = 0; i < num_lanes; i++) {
        if (i > 0)
            replay->lanes[i].bits = fb_trajectory_significand_bits(record->precision);
        FB_TRY(make_lane(replay, &replay->lanes[i]));
        FB_TRY(prefill(replay, &replay->lanes[i]));
    }
    fb_sequence_prefilled(replay->sequence, fb_sequence_prefill_left(replay->sequence));
    return FB_OK;
}

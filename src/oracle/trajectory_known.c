/* Mistakes in what the model computes: the passes up to the first one that is wrong are replayed,
 * and that pass is repeated with each mistake made on purpose. The one whose results are the
 * record's is named. */
#include "base/error.h"
#include "base/memory.h"
#include "model/model_state.h"
#include "model/rope.h"
#include "oracle/trajectory_names.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A replay that stands before the pass in question. */
typedef struct trial {
    const fb_trajectory_judgement *j;
    fb_model *model;
    fb_trajectory_replay replay;
    fb_trajectory_scratch scratch;
    const fb_trajectory_step *wrong; /* what the judgement measured of the pass */
    float *k, *v;                    /* of the block before, of its last denoising step: [layers,
                                        block, KV heads, head_dim] */
    bool has_block, has_part;
    fb_part_cache *of_commit; /* the external part of the commit before; NULL: tau is 0 */
    fb_kv_cache *other;       /* a KV cache with a mistake in it */
    float *row;               /* [tokens, KV heads, head_dim], and the same for values */
    float *row_v;
} trial;

static size_t kv_width(const trial *t) {
    return t->replay.config->num_key_value_heads * t->replay.config->head_dim;
}

/* --- how near is it? -------------------------------------------------------------------------- */

/* Root mean square of error / noise: of logits, of hidden states, or of confidences. */
static double misfit_of_state(const trial *t, fb_trajectory_state state) {
    const fb_tensor_view *view = t->wrong->pass->states[state];
    size_t layers = fb_trajectory_state_layers(t->replay.config, state);
    size_t block = t->replay.record->options.block_size, rows = layers * block;
    size_t width = fb_trajectory_state_size(&t->replay, state) / rows;
    double square = 0.0;
    if (fb_tensor_read_f32(view, 0, view->count, t->scratch.values) != FB_OK)
        return INFINITY;
    for (size_t i = 0; i < rows; i++) {
        const float *ours = t->replay.lanes[0].states[state] + i * width;
        double error = 0.0, size = 0.0;
        for (size_t n = 0; n < width; n++) {
            double e = (double)t->scratch.values[i * width + n] - (double)ours[n];
            error += e * e;
            size += (double)ours[n] * (double)ours[n];
        }
        double noise = fmax(t->wrong->states[state][i].noise, t->j->pooled[state][i / block]);
        error = sqrt(error / (double)width);
        square += pow(error / (noise + ldexp(sqrt(size / (double)width), -22)), 2.0);
    }
    return sqrt(square / (double)rows);
}

static double misfit_of_confidences(trial *t) {
    double square = 0.0;
    size_t vocab = t->replay.config->vocab_size, count = 0;
    for (size_t r = 0; r < t->wrong->num_rows; r++) {
        const fb_trajectory_row *row = &t->wrong->rows[r];
        int32_t token = t->wrong->pass->proposed[row->position];
        const float *logits =
            t->replay.lanes[0].states[FB_TRAJECTORY_LOGITS] + row->position * vocab;
        if (token < 0 || isnan(row->error) ||
            fb_sampler_probabilities(&t->replay.sampler, logits, vocab, t->scratch.order,
                                     t->scratch.probabilities) != FB_OK)
            continue;
        double p = fmax((double)t->scratch.probabilities[token], 1e-37);
        double given = fmax((double)t->wrong->pass->confidence[row->position], 1e-37);
        square += pow((log(given) - log(p)) / fb_trajectory_sigma(t->j, row), 2.0);
        count++;
    }
    return count ? sqrt(square / (double)count) : INFINITY;
}

static double misfit(trial *t) {
    const fb_trajectory_step *w = t->wrong;
    if (w->states[FB_TRAJECTORY_HIDDEN])
        return misfit_of_state(t, FB_TRAJECTORY_HIDDEN);
    if (w->states[FB_TRAJECTORY_LOGITS])
        return misfit_of_state(t, FB_TRAJECTORY_LOGITS);
    return misfit_of_confidences(t);
}

/* --- caches with a mistake in them ------------------------------------------------------------ */

/* Turns each key by a number of positions: a block that stands so much further from its context. */
static void turn_keys(const trial *t, size_t tokens, long positions, float *k) {
    size_t half = t->replay.config->head_dim / 2, heads = t->replay.config->num_key_value_heads;
    float cosines[1024], sines[1024];
    if (half > 1024)
        return;
    fb_rope_angles(t->model->inv_freq, half, (size_t)labs(positions), cosines, sines);
    for (size_t i = 0; i < half && positions > 0; i++)
        sines[i] = -sines[i];
    for (size_t i = 0; i < tokens * heads; i++)
        fb_rope_rotate(cosines, sines, half, k + i * 2 * half);
}

/* A copy of the first `tokens` tokens of the context, its keys turned; and the last block as its
 * last denoising step left it, if `late`. */
static fb_status copy_context(trial *t, size_t tokens, long positions, bool late) {
    const fb_kv_cache *from = t->replay.lanes[0].kv;
    size_t block = t->replay.record->options.block_size, width = kv_width(t);
    FB_TRY(fb_kv_cache_truncate(t->other, 0));
    for (size_t layer = 0; layer < t->replay.config->num_hidden_layers && tokens > 0; layer++) {
        FB_TRY(fb_kv_cache_read(from, layer, 0, tokens, t->row, t->row_v));
        if (late) {
            size_t at = (tokens - block) * width, values = block * width;
            memcpy(t->row + at, t->k + layer * values, values * sizeof *t->row);
            memcpy(t->row_v + at, t->v + layer * values, values * sizeof *t->row_v);
        }
        if (positions != 0)
            turn_keys(t, tokens, positions, t->row);
        FB_TRY(fb_kv_cache_write(t->other, layer, 0, tokens, t->row, t->row_v));
    }
    return tokens > 0 ? fb_kv_cache_commit(t->other, tokens) : FB_OK;
}

/* --- mistakes --------------------------------------------------------------------------------- */

typedef enum known {
    STALE = 0,
    STALE_SINCE_COMMIT,
    FRESH,
    NOT_COMMITTED,
    BLOCK_MISSING,
    ONE_FURTHER,
    ONE_NEARER,
    BLOCK_FURTHER,
    BLOCK_NEARER,
    CAUSAL,
    NO_CONTEXT,
    NUM_KNOWN
} known;

static void say(const trial *t, known mistake, char *text, size_t size) {
    size_t block = t->wrong->pass->block, step = t->wrong->pass->step;
    static const char *const words[NUM_KNOWN] = {
        [FRESH] = "the record says reuse, but the external part is computed anew",
        [BLOCK_MISSING] = "the block before is missing in the cache of keys and values",
        [ONE_FURTHER] = "rotary positions of the block are one too high",
        [ONE_NEARER] = "rotary positions of the block are one too low",
        [BLOCK_FURTHER] = "rotary positions of the block are a block too high",
        [BLOCK_NEARER] = "rotary positions of the block are a block too low",
        [CAUSAL] = "a causal mask within the block",
        [NO_CONTEXT] = "the context is not attended: the external part is missing",
    };
    if (mistake == STALE_SINCE_COMMIT || (mistake == STALE && step == 0))
        snprintf(text, size,
                 "the external part is stale: it is an earlier block's, kept over the commit of "
                 "block %zu",
                 block - 1);
    else if (mistake == STALE)
        snprintf(text, size,
                 "the external part is stale: the record says refresh, but it is the "
                 "part of an earlier step");
    else if (mistake == NOT_COMMITTED)
        snprintf(text, size,
                 "the cache is stale after the commit: keys and values of block %zu are those of "
                 "its last denoising step",
                 block - 1);
    else
        snprintf(text, size, "%s", words[mistake]);
}

/* Prepares the pass with the mistake; false: it cannot be made here. */
static fb_status prepare(trial *t, known mistake, fb_forward *forward, bool *possible) {
    size_t length = fb_kv_cache_length(forward->kv);
    size_t block = t->replay.record->options.block_size;
    bool reuses = t->replay.action == FB_REUSE || t->replay.action == FB_REFRESH_ROWS;
    bool later = t->wrong->pass->block > 0 || t->wrong->pass->step > 0;
    long turns[NUM_KNOWN] = {0};
    turns[ONE_FURTHER] = 1, turns[ONE_NEARER] = -1;
    turns[BLOCK_FURTHER] = (long)block, turns[BLOCK_NEARER] = -(long)block;
    *possible = false;
    if (mistake == STALE || mistake == STALE_SINCE_COMMIT || mistake == FRESH) {
        *possible = forward->parts && later && reuses == (mistake == FRESH);
        if (mistake == STALE_SINCE_COMMIT) {
            *possible = *possible && t->has_part && t->wrong->pass->step == 0;
            forward->parts = t->of_commit;
        }
        forward->action = mistake == FRESH ? FB_REFRESH_ONLY : FB_REUSE;
        forward->compat = FB_COMPAT_RELEASED;
        forward->refresh_rows = NULL;
        return FB_OK;
    }
    if (reuses)
        return FB_OK;
    *possible = true;
    forward->action = FB_REFRESH_ONLY;
    forward->kv = t->other;
    switch (mistake) {
    case NOT_COMMITTED:
        *possible = t->has_block;
        return t->has_block ? copy_context(t, length, 0, true) : FB_OK;
    case BLOCK_MISSING:
        *possible = length >= block;
        return length >= block ? copy_context(t, length - block, -(long)block, false) : FB_OK;
    case CAUSAL:
        forward->prefill_block = 1;
        return copy_context(t, length, 0, false);
    case NO_CONTEXT:
        *possible = length > 0;
        return copy_context(t, 0, 0, false);
    default:
        *possible = length > 0;
        return copy_context(t, length, turns[mistake], false);
    }
}

static fb_status try_mistake(trial *t, known mistake, double *result) {
    fb_forward forward = fb_trajectory_replay_forward(&t->replay, 0);
    bool possible = false;
    *result = INFINITY;
    FB_TRY(prepare(t, mistake, &forward, &possible));
    if (!possible)
        return FB_OK;
    FB_TRY(fb_trajectory_replay_other(&t->replay, &forward));
    *result = misfit(t);
    return FB_OK;
}

/* --- the replay ------------------------------------------------------------------------------- */

/* Keys and values of the block, as the pass that was just run left them. */
static fb_status keep_block(trial *t) {
    size_t block = t->replay.record->options.block_size, values = block * kv_width(t);
    const fb_kv_cache *kv = t->replay.lanes[0].kv;
    for (size_t layer = 0; layer < t->replay.config->num_hidden_layers; layer++)
        FB_TRY(fb_kv_cache_read(kv, layer, fb_kv_cache_length(kv), block, t->k + layer * values,
                                t->v + layer * values));
    t->has_block = true;
    return FB_OK;
}

/* The pass over the finished block again: some ports keep its external part. */
static fb_status keep_part(trial *t) {
    fb_forward forward = fb_trajectory_replay_forward(&t->replay, 0);
    if (!t->of_commit)
        return FB_OK;
    forward.action = FB_REFRESH_AND_STORE;
    forward.refresh_rows = NULL;
    forward.parts = t->of_commit;
    t->has_part = true;
    return fb_trajectory_replay_other(&t->replay, &forward);
}

static fb_status allocate(trial *t) {
    size_t block = t->replay.record->options.block_size, width = kv_width(t);
    size_t layers = t->replay.config->num_hidden_layers, tokens = t->replay.record->num_passes;
    tokens = t->replay.record->prompt.num_tokens + (tokens + 1) * block;
    if (tokens > t->replay.config->max_position_embeddings)
        tokens = t->replay.config->max_position_embeddings;
    FB_TRY(fb_trajectory_scratch_make(&t->replay, &t->scratch));
    FB_TRY(fb_model_new_kv_cache(t->model, t->replay.record->options.kv_dtype, &t->other));
    if (t->replay.record->options.reuse.tau > 0)
        FB_TRY(fb_model_new_part_cache(t->model, block, &t->of_commit));
    FB_TRY(fb_alloc(layers * block, width * sizeof *t->k, "keys", &t->k));
    FB_TRY(fb_alloc(layers * block, width * sizeof *t->v, "values", &t->v));
    FB_TRY(fb_alloc(tokens, width * sizeof *t->row, "keys", &t->row));
    return fb_alloc(tokens, width * sizeof *t->row_v, "values", &t->row_v);
}

/* Runs the passes before the wrong one. */
static fb_status run_to(trial *t, size_t index) {
    const fb_trajectory *record = t->replay.record;
    FB_TRY(allocate(t));
    for (size_t i = 0; i < index; i++) {
        FB_TRY(fb_trajectory_replay_run(&t->replay, &record->passes[i]));
        if (!record->passes[i].commit)
            FB_TRY(keep_block(t));
        else if (i + 1 == index)
            FB_TRY(keep_part(t));
        FB_TRY(fb_trajectory_replay_decide(&t->replay));
    }
    /* Which action the pass has is known only when it is planned. */
    fb_plan rule = fb_sequence_rule(t->replay.sequence);
    t->replay.pass = &record->passes[index];
    t->replay.action = fb_trajectory_forced_action(record, t->replay.pass, &rule);
    return FB_OK;
}

static fb_status find(trial *t, char *name, size_t size) {
    fb_forward right = fb_trajectory_replay_forward(&t->replay, 0);
    double least = INFINITY;
    int found = -1;
    for (int mistake = 0; mistake < NUM_KNOWN; mistake++) {
        double result = INFINITY;
        FB_TRY(try_mistake(t, (known)mistake, &result));
        if (result < least) {
            least = result;
            found = mistake;
        }
    }
    if (right.action == FB_REUSE)
        right.compat = FB_COMPAT_RELEASED;
    if (right.action == FB_REFRESH_AND_STORE)
        right.action = FB_REFRESH_ONLY;
    FB_TRY(fb_trajectory_replay_other(&t->replay, &right));
    if (found >= 0 && least <= 0.4 * t->j->allowed && least < 0.4 * misfit(t))
        say(t, (known)found, name, size);
    return FB_OK;
}

fb_status fb_trajectory_name_model(const fb_trajectory_judgement *j, fb_model *model, char *name,
                                   size_t size) {
    trial t = {.j = j, .model = model, .wrong = &j->steps[j->mistake.step]};
    fb_status status = fb_trajectory_replay_begin(j->record, model, 1, &t.replay);
    if (status == FB_OK)
        status = run_to(&t, j->mistake.step);
    if (status == FB_OK)
        status = find(&t, name, size);
    fb_trajectory_replay_free(&t.replay);
    fb_trajectory_scratch_free(&t.scratch);
    fb_kv_cache_destroy(t.other);
    fb_part_cache_destroy(t.of_commit);
    fb_free(t.k);
    fb_free(t.v);
    fb_free(t.row);
    fb_free(t.row_v);
    return status;
}

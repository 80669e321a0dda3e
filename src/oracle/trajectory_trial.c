#include "oracle/trajectory_trial.h"

#include "base/error.h"
#include "base/memory.h"
#include "model/model_state.h"
#include "model/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t kv_width(const fb_trajectory_trial *t) {
    return t->replay.config->num_key_value_heads * t->replay.config->head_dim;
}

/* --- how near is it? -------------------------------------------------------------------------- */

/* Of hidden states those up to the first wrong layer: behind it the mistakes of earlier passes,
 * too, come in by the cache. */
static size_t layers_that_count(const fb_trajectory_trial *t, fb_trajectory_state state) {
    const fb_trajectory_difference *m = &t->j->mistake;
    size_t all = fb_trajectory_state_layers(t->replay.config, state);
    bool first = m->subject == FB_SUBJECT_STATE && t->wrong == &t->j->steps[m->step];
    if (!first || state != FB_TRAJECTORY_HIDDEN || m->state == FB_TRAJECTORY_LOGITS)
        return all;
    return m->state == FB_TRAJECTORY_HIDDEN ? m->layer + 1 : m->layer + 2; /* hidden[i + 1] is
                                                                             layer i's */
}

/* Root mean square of error / noise: of logits, of hidden states, or of confidences. */
static double misfit_of_state(const fb_trajectory_trial *t, fb_trajectory_state state) {
    const fb_tensor_view *view = t->wrong->pass->states[state];
    size_t layers = fb_trajectory_state_layers(t->replay.config, state);
    size_t block = t->replay.record->options.block_size, rows = layers * block;
    size_t width = fb_trajectory_state_size(&t->replay, state) / rows;
    rows = layers_that_count(t, state) * block;
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

static float best_logit(const fb_trajectory_trial *t, const float *logits) {
    float best = -INFINITY;
    for (size_t i = 0; i < t->replay.config->vocab_size; i++)
        if ((int64_t)i != t->replay.sampler.banned_token && logits[i] > best)
            best = logits[i];
    return best;
}

static double misfit_of_confidences(fb_trajectory_trial *t) {
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
        if (!fb_sampler_draws(&t->replay.sampler)) {
            double gap = (double)best_logit(t, logits) - (double)logits[token];
            square += pow(gap / (sqrt(2.0) * fmax(row->noise, t->j->noise)), 2.0);
        }
        square += pow((log(given) - log(p)) / fb_trajectory_sigma(t->j, row), 2.0);
        count++;
    }
    return count ? sqrt(square / (double)count) : INFINITY;
}

static double misfit(fb_trajectory_trial *t) {
    const fb_trajectory_step *w = t->wrong;
    if (w->states[FB_TRAJECTORY_HIDDEN])
        return misfit_of_state(t, FB_TRAJECTORY_HIDDEN);
    if (w->states[FB_TRAJECTORY_LOGITS])
        return misfit_of_state(t, FB_TRAJECTORY_LOGITS);
    return misfit_of_confidences(t);
}

/* --- caches with a mistake in them ------------------------------------------------------------ */

/* Turns each key by a number of positions: a block that stands so much further from its context. */
static void turn_keys(const fb_trajectory_trial *t, size_t tokens, long positions, float *k) {
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

/* The last block's keys and values in place of those of the cache. */
static void replace_block(const fb_trajectory_trial *t, size_t layer, size_t tokens,
                          fb_trajectory_block_copy last) {
    size_t block = t->replay.record->options.block_size, width = kv_width(t);
    size_t first = last == FB_COPY_ALL_ZEROS ? 0 : tokens - block, at = first * width;
    size_t values = (tokens - first) * width;
    const float *k = last == FB_COPY_OF_REUSE ? t->reused_k : t->k;
    const float *v = last == FB_COPY_OF_REUSE ? t->reused_v : t->v;
    if (last == FB_COPY_AS_IT_IS)
        return;
    if (last == FB_COPY_ZEROS || last == FB_COPY_ALL_ZEROS) {
        memset(t->row + at, 0, values * sizeof *t->row);
        memset(t->row_v + at, 0, values * sizeof *t->row_v);
        return;
    }
    memcpy(t->row + at, k + layer * values, values * sizeof *t->row);
    memcpy(t->row_v + at, v + layer * values, values * sizeof *t->row_v);
}

fb_status fb_trajectory_trial_copy(fb_trajectory_trial *t, size_t tokens, long positions,
                                   fb_trajectory_block_copy last) {
    const fb_kv_cache *from = t->replay.lanes[0].kv;
    FB_TRY(fb_kv_cache_truncate(t->other, 0));
    for (size_t layer = 0; layer < t->replay.config->num_hidden_layers && tokens > 0; layer++) {
        FB_TRY(fb_kv_cache_read(from, layer, 0, tokens, t->row, t->row_v));
        replace_block(t, layer, tokens, last);
        if (positions != 0)
            turn_keys(t, tokens, positions, t->row);
        FB_TRY(fb_kv_cache_write(t->other, layer, 0, tokens, t->row, t->row_v));
    }
    return tokens > 0 ? fb_kv_cache_commit(t->other, tokens) : FB_OK;
}

/* Tokens that see each other, and all before them; or, with `causal`, those before them alone. */
static fb_status append(fb_trajectory_trial *t, const int32_t *tokens, size_t count, bool causal) {
    fb_forward forward;
    fb_forward_init(&forward);
    forward.tokens = tokens;
    forward.num_tokens = count;
    forward.kv = t->other;
    forward.action = FB_REFRESH_ONLY;
    forward.prefill_block = causal ? 1 : 0;
    FB_TRY(fb_model_forward(t->model, &forward, 1, NULL));
    return fb_kv_cache_commit(t->other, count);
}

fb_status fb_trajectory_trial_prefill(fb_trajectory_trial *t, fb_trajectory_prefill how) {
    const fb_sequence *s = t->replay.sequence;
    size_t block = t->replay.record->options.block_size, done = 0;
    size_t whole = s->num_prompt_tokens - s->num_prompt_tokens % block;
    FB_TRY(fb_kv_cache_truncate(t->other, 0));
    while (done < s->num_tokens) {
        size_t count = block;
        if (done == 0 && how == FB_PREFILL_FROM_THE_END)
            count = s->num_prompt_tokens % block;
        if (done == 0 && how != FB_PREFILL_FROM_THE_END)
            count = whole;
        if (done < whole && count > whole - done)
            count = whole - done;
        FB_TRY(append(t, s->tokens + done, count, done < whole && how == FB_PREFILL_CAUSAL));
        done += count;
    }
    return FB_OK;
}

/* --- the replay ------------------------------------------------------------------------------- */

/* Keys and values of the block, as the pass that was just run left them. */
static fb_status keep_keys(const fb_trajectory_trial *t, float *k, float *v) {
    size_t block = t->replay.record->options.block_size, values = block * kv_width(t);
    const fb_kv_cache *kv = t->replay.lanes[0].kv;
    for (size_t layer = 0; layer < t->replay.config->num_hidden_layers; layer++)
        FB_TRY(fb_kv_cache_read(kv, layer, fb_kv_cache_length(kv), block, k + layer * values,
                                v + layer * values));
    return FB_OK;
}

/* The external part that the pass computed. */
static void keep_external(fb_trajectory_trial *t) {
    const fb_trajectory_lane *lane = &t->replay.lanes[0];
    if (t->replay.action != FB_REFRESH_AND_STORE)
        return;
    fb_trajectory_parts swapped = t->older;
    t->older = t->last;
    t->last = swapped;
    memcpy(t->last.out, lane->states[FB_TRAJECTORY_EXTERNAL_OUT],
           fb_trajectory_state_size(&t->replay, FB_TRAJECTORY_EXTERNAL_OUT) * sizeof(float));
    memcpy(t->last.lse, lane->states[FB_TRAJECTORY_EXTERNAL_LSE],
           fb_trajectory_state_size(&t->replay, FB_TRAJECTORY_EXTERNAL_LSE) * sizeof(float));
    t->last.there = true;
}

/* The pass over the finished block, twice more: reusing, and keeping its external part. Its own
 * keys and values are put back, because they are committed. */
static fb_status keep_commit(fb_trajectory_trial *t) {
    fb_forward forward = fb_trajectory_replay_forward(&t->replay, 0);
    size_t block = t->replay.record->options.block_size, values = block * kv_width(t);
    fb_kv_cache *kv = t->replay.lanes[0].kv;
    if (!t->of_commit)
        return FB_OK;
    FB_TRY(keep_keys(t, t->own_k, t->own_v));
    forward.refresh_rows = NULL;
    forward.action = FB_REUSE;
    forward.compat = FB_COMPAT_RELEASED;
    FB_TRY(fb_trajectory_replay_other(&t->replay, &forward));
    FB_TRY(keep_keys(t, t->reused_k, t->reused_v));
    forward.action = FB_REFRESH_AND_STORE;
    forward.parts = t->of_commit;
    FB_TRY(fb_trajectory_replay_other(&t->replay, &forward));
    t->has_reused = t->has_part = true;
    for (size_t layer = 0; layer < t->replay.config->num_hidden_layers; layer++)
        FB_TRY(fb_kv_cache_write(kv, layer, fb_kv_cache_length(kv), block,
                                 t->own_k + layer * values, t->own_v + layer * values));
    return FB_OK;
}

static fb_status allocate_parts(const fb_trajectory_trial *t, fb_trajectory_parts *parts) {
    size_t out = fb_trajectory_state_size(&t->replay, FB_TRAJECTORY_EXTERNAL_OUT);
    size_t lse = fb_trajectory_state_size(&t->replay, FB_TRAJECTORY_EXTERNAL_LSE);
    FB_TRY(fb_alloc_zeroed(out, sizeof *parts->out, "a part", &parts->out));
    return fb_alloc_zeroed(lse, sizeof *parts->lse, "a part", &parts->lse);
}

static fb_status allocate(fb_trajectory_trial *t) {
    const fb_model_config *c = t->replay.config;
    size_t block = t->replay.record->options.block_size, width = kv_width(t);
    size_t layers = c->num_hidden_layers, tokens = t->replay.record->num_passes;
    size_t rows = block * c->num_attention_heads;
    tokens = t->replay.record->prompt.num_tokens + (tokens + 1) * block;
    if (tokens > c->max_position_embeddings)
        tokens = c->max_position_embeddings;
    FB_TRY(fb_trajectory_scratch_make(&t->replay, &t->scratch));
    FB_TRY(fb_model_new_kv_cache(t->model, t->replay.record->options.kv_dtype, &t->other));
    if (t->replay.record->options.reuse.tau > 0)
        FB_TRY(fb_model_new_part_cache(t->model, block, &t->of_commit));
    float **blocks[] = {&t->k, &t->v, &t->reused_k, &t->reused_v, &t->own_k, &t->own_v};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        FB_TRY(fb_alloc(layers * block, width * sizeof(float), "keys of a block", blocks[i]));
    FB_TRY(allocate_parts(t, &t->last));
    FB_TRY(allocate_parts(t, &t->older));
    FB_TRY(fb_alloc(rows, c->head_dim * sizeof(float), "a part", &t->part_out));
    FB_TRY(fb_alloc(rows, sizeof(float), "a part", &t->part_lse));
    FB_TRY(fb_alloc(rows, c->head_dim * sizeof(float), "a part", &t->inner_out));
    FB_TRY(fb_alloc(rows, sizeof(float), "a part", &t->inner_lse));
    FB_TRY(fb_alloc(tokens, width * sizeof *t->row, "keys", &t->row));
    return fb_alloc(tokens, width * sizeof *t->row_v, "values", &t->row_v);
}

static fb_status run_to(fb_trajectory_trial *t, size_t index) {
    const fb_trajectory *record = t->replay.record;
    FB_TRY(allocate(t));
    for (size_t i = 0; i < index; i++) {
        FB_TRY(fb_trajectory_replay_run(&t->replay, &record->passes[i]));
        keep_external(t);
        if (!record->passes[i].commit) {
            FB_TRY(keep_keys(t, t->k, t->v));
            t->has_block = true;
        } else if (i + 1 == index)
            FB_TRY(keep_commit(t));
        FB_TRY(fb_trajectory_replay_decide(&t->replay));
    }
    /* Which action the pass has is known only when it is planned. */
    fb_plan rule = fb_sequence_rule(t->replay.sequence);
    t->replay.pass = &record->passes[index];
    t->replay.action = fb_trajectory_forced_action(record, t->replay.pass, &rule);
    return FB_OK;
}

fb_status fb_trajectory_trial_begin(fb_trajectory_trial *t, size_t index) {
    t->wrong = &t->j->steps[index];
    t->replay.wants_parts = true;
    FB_TRY(fb_trajectory_replay_begin(t->j->record, t->model, 1, &t->replay));
    return run_to(t, index);
}

void fb_trajectory_trial_end(fb_trajectory_trial *t) {
    fb_trajectory_replay_free(&t->replay);
    fb_trajectory_scratch_free(&t->scratch);
    fb_kv_cache_destroy(t->other);
    fb_part_cache_destroy(t->of_commit);
    float *arrays[] = {t->k,        t->v,        t->reused_k,  t->reused_v,
                       t->last.out, t->last.lse, t->older.out, t->older.lse,
                       t->row,      t->row_v,    t->own_k,     t->own_v,
                       t->part_out, t->part_lse, t->inner_out, t->inner_lse};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        fb_free(arrays[i]);
}

/* --- the pass --------------------------------------------------------------------------------- */

size_t fb_trajectory_trial_evidence(const fb_trajectory_trial *t) {
    const fb_trajectory_step *w = t->wrong;
    if (w->states[FB_TRAJECTORY_HIDDEN] || w->states[FB_TRAJECTORY_LOGITS])
        return SIZE_MAX;
    size_t count = 0;
    for (size_t r = 0; r < w->num_rows; r++)
        count += isnan(w->rows[r].error) ? 0 : 1;
    return count;
}

fb_status fb_trajectory_trial_run(fb_trajectory_trial *t, fb_forward *forward, double *result) {
    *result = INFINITY;
    t->status = FB_OK;
    FB_TRY(fb_trajectory_replay_other(&t->replay, forward));
    FB_TRY(t->status);
    *result = misfit(t);
    return FB_OK;
}

#include "oracle/script.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "oracle/inputs.h"
#include "oracle/plain.h"
#include "oracle/truth.h"

#include <flashblock/experimental/rows.h>
#include <flashblock/kv_cache.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

/* trado-8b, sdar-8b: Qwen3-8B's attention; sdar-1.7b: Qwen3-1.7B's; longlive-1.3b: Wan2.1-1.3B's,
 * a block of 3 latent frames of 1560 tokens after 9 such frames. */
const fb_script_config fb_script_presets[] = {
    {"trado-8b", 32, 8, 128, 4, 4096, 2, 4, FB_F32, 0.0, 1, false, false},
    {"sdar-8b", 32, 8, 128, 4, 4096, 2, 4, FB_F32, 0.0, 1, false, false},
    {"sdar-1.7b", 16, 8, 128, 4, 4096, 2, 4, FB_F32, 0.0, 1, false, false},
    {"longlive-1.3b", 12, 12, 128, 4680, 14040, 2340, 4, FB_F32, 0.0, 1, false, false},
    {"tiny", 6, 2, 32, 4, 100, 2, 4, FB_F32, 0.0, 1, false, false},
};
const size_t fb_num_script_presets = sizeof fb_script_presets / sizeof fb_script_presets[0];

fb_status fb_script_preset(const char *name, fb_script_config *config) {
    for (size_t i = 0; i < fb_num_script_presets; i++)
        if (strcmp(fb_script_presets[i].preset, name) == 0) {
            *config = fb_script_presets[i];
            return FB_OK;
        }
    return fb_fail(FB_ERROR_ARGUMENT,
                   "'%s' is none of the presets trado-8b, sdar-8b, sdar-1.7b, longlive-1.3b, tiny",
                   name);
}

/* --- memory ----------------------------------------------------------------------------------- */

struct fb_script_memory {
    struct fb_script_memory *next;
    void *block;
};

/* Zeroed memory that is freed with the sequence. */
static fb_status take(fb_script *s, size_t count, size_t size, void *result) {
    struct fb_script_memory *item = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *item, "denoising sequence", &item));
    fb_status status = fb_alloc_zeroed(count, size, "denoising sequence", &item->block);
    if (status != FB_OK) {
        fb_free(item);
        return status;
    }
    item->next = s->memory;
    s->memory = item;
    memcpy(result, &item->block, sizeof item->block);
    return FB_OK;
}

void fb_script_free(fb_script *s) {
    if (!s)
        return;
    while (s->memory) {
        struct fb_script_memory *item = s->memory;
        s->memory = item->next;
        fb_free(item->block);
        fb_free(item);
    }
    fb_free(s);
}

size_t fb_script_rows(const fb_script *s) {
    return s->config.block_size * s->config.num_heads;
}

size_t fb_script_values(const fb_script *s) {
    return fb_script_rows(s) * s->config.head_dim;
}

size_t fb_script_kv_values(const fb_script *s) {
    return s->config.block_size * s->config.num_kv_heads * s->config.head_dim;
}

static fb_status check_config(const fb_script_config *c) {
    size_t product = 0;
    if (c->num_kv_heads == 0 || c->num_heads == 0 || c->num_heads % c->num_kv_heads != 0)
        return fb_fail(FB_ERROR_ARGUMENT, "%zu heads are not a multiple of %zu KV heads",
                       c->num_heads, c->num_kv_heads);
    if (c->steps == 0 || c->steps > FB_SCRIPT_MAX_STEPS || c->steps > c->block_size)
        return fb_fail(FB_ERROR_ARGUMENT,
                       "steps is %zu: a block of %zu tokens, each step accepting at least one, "
                       "takes 1 to %zu",
                       c->steps, c->block_size,
                       c->block_size < FB_SCRIPT_MAX_STEPS ? c->block_size : FB_SCRIPT_MAX_STEPS);
    if (!isfinite(c->scale))
        return fb_fail(FB_ERROR_ARGUMENT, "the scale is %g, expected a finite number", c->scale);
    if (c->block_size > INT32_MAX || !fb_size_mul(c->block_size, c->num_heads, &product) ||
        !fb_size_mul(product, c->head_dim, &product) ||
        !fb_size_mul(c->context_length, c->num_kv_heads, &product) ||
        !fb_size_mul(product, c->head_dim, &product))
        return fb_fail(FB_ERROR_ARGUMENT,
                       "%zu tokens after %zu of %zu heads of %zu values overflow", c->block_size,
                       c->context_length, c->num_heads, c->head_dim);
    return FB_OK;
}

static fb_status take_results(fb_script *s, fb_script_pass *pass) {
    size_t values = fb_script_values(s), rows = fb_script_rows(s);
    FB_TRY(take(s, values, sizeof *pass->out, &pass->out));
    FB_TRY(take(s, rows, sizeof *pass->lse, &pass->lse));
    FB_TRY(take(s, values, sizeof *pass->true_out, &pass->true_out));
    return take(s, rows, sizeof *pass->true_lse, &pass->true_lse);
}

fb_status fb_script_create(const fb_script_config *config, fb_script **sequence) {
    FB_TRY(check_config(config));
    fb_script *s = NULL;
    FB_TRY(fb_alloc_zeroed(1, sizeof *s, "denoising sequence", &s));
    s->config = *config;
    if (config->scale == 0.0)
        s->config.scale = 1.0 / sqrt((double)config->head_dim);
    s->num_passes = config->steps + 1;
    fb_status status = take(s, s->num_passes, sizeof *s->passes, &s->passes);
    for (size_t i = 0; i < s->num_passes && status == FB_OK; i++)
        status = take_results(s, &s->passes[i]);
    if (status != FB_OK) {
        fb_script_free(s);
        return status;
    }
    *sequence = s;
    return FB_OK;
}

/* --- the script ------------------------------------------------------------------------------- */

/* The number of the `masked` positions that step `step` accepts: at least one, about an even share
 * on average. Enough are left for the steps that follow. The last step takes all. */
static size_t accepted_count(const fb_script_config *c, size_t step, size_t masked) {
    size_t left = c->steps - step, spare = masked - (left - 1), share = 2 * masked / left;
    if (left == 1)
        return masked;
    size_t most = share < spare ? share : spare;
    if (most <= 1)
        return 1;
    return 1 + fb_input_below(c->seed, fb_input_stream("accepted count"), step, (uint32_t)most);
}

/* Accepts `count` of the positions that are still masked, drawn one after the other. */
static void accept(const fb_script_config *c, size_t step, size_t count, size_t masked,
                   bool *is_masked, int32_t *accepted) {
    uint32_t stream = fb_input_stream("accepted positions");
    for (size_t drawn = 0; drawn < count; drawn++) {
        uint64_t index = (uint64_t)step * c->block_size + drawn;
        size_t nth = fb_input_below(c->seed, stream, index, (uint32_t)(masked - drawn));
        for (size_t i = 0; i < c->block_size; i++)
            if (is_masked[i] && nth-- == 0) {
                is_masked[i] = false;
                accepted[i] = 1;
                break;
            }
    }
}

static fb_status generate_script(fb_script *s) {
    const fb_script_config *c = &s->config;
    bool *is_masked = NULL;
    FB_TRY(take(s, c->block_size, sizeof *is_masked, &is_masked));
    for (size_t i = 0; i < c->block_size; i++)
        is_masked[i] = true;
    size_t masked = c->block_size;
    for (size_t step = 0; step < s->num_passes; step++) {
        int32_t *accepted = NULL;
        FB_TRY(take(s, c->block_size, sizeof *accepted, &accepted));
        s->passes[step].accepted = accepted;
        if (step == c->steps) /* the commit */
            break;
        size_t count = accepted_count(c, step, masked);
        accept(c, step, count, masked, is_masked, accepted);
        masked -= count;
    }
    return FB_OK;
}

/* --- queries, keys, values -------------------------------------------------------------------- */

/* How far a tensor drifts in one pass, in units of its own size. */
#define DRIFT 0.05f

/* The row of one token in one tensor at one pass: scale * (start + pass * DRIFT * direction). Once
 * the token is accepted it has another start. `name` is q, k or v. */
static void generate_row(const fb_script_config *c, const char *name, size_t pass, size_t token,
                         bool accepted, float scale, float *row, size_t size) {
    char text[32];
    snprintf(text, sizeof text, "%s %s", name, accepted ? "accepted" : "masked");
    uint32_t start = fb_input_stream(text);
    snprintf(text, sizeof text, "%s drift", name);
    uint32_t direction = fb_input_stream(text);
    float passed = (float)pass * DRIFT;
    for (size_t i = 0; i < size; i++) {
        uint64_t index = (uint64_t)token * size + i;
        float value = fb_input_normal(c->seed, start, index);
        float drift = passed * fb_input_normal(c->seed, direction, index);
        row[i] = scale * (value + drift);
    }
}

/* Rounds to numbers that `dtype` holds. */
static fb_status round_to(fb_script *s, float *values, size_t count) {
    uint16_t *stored = NULL;
    if (s->config.dtype == FB_F32 || count == 0)
        return FB_OK;
    FB_TRY(fb_alloc(count, sizeof *stored, "denoising sequence", &stored));
    fb_status status = fb_from_f32(s->config.dtype, values, stored, count);
    if (status == FB_OK)
        status = fb_to_f32(s->config.dtype, stored, values, count);
    fb_free(stored);
    return status;
}

typedef struct rows_call {
    const fb_script_config *config;
    const char *name;
    size_t pass, size;
    const bool *was_accepted;
    float scale, *values;
} rows_call;

static void generate_rows(void *context, size_t first, size_t end, size_t worker) {
    const rows_call *c = context;
    (void)worker;
    for (size_t token = first; token < end; token++)
        generate_row(c->config, c->name, c->pass, token, c->was_accepted[token], c->scale,
                     c->values + token * c->size, c->size);
}

/* The tensor `name` of a pass, `size` values a token. was_accepted [B] */
static fb_status generate_tensor(fb_script *s, const char *name, size_t pass,
                                 const bool *was_accepted, float scale, size_t size,
                                 const float **result) {
    float *values = NULL;
    size_t tokens = s->config.block_size;
    FB_TRY(take(s, tokens * size, sizeof *values, &values));
    rows_call call = {&s->config, name, pass, size, was_accepted, scale, values};
    fb_parallel_for(tokens, 0, tokens * size > 65536 ? fb_parallel_threads() : 1, generate_rows,
                    &call);
    *result = values;
    return name[0] == 'q' ? FB_OK : round_to(s, values, tokens * size);
}

static fb_status generate_context(fb_script *s, const char *name, const float **result) {
    const fb_script_config *c = &s->config;
    size_t count = c->context_length * c->num_kv_heads * c->head_dim;
    float *values = NULL;
    FB_TRY(take(s, count, sizeof *values, &values));
    fb_input_normals(c->seed, name, 1.0f, values, count);
    *result = values;
    return round_to(s, values, count);
}

/* Queries and the block's keys are larger than the context's keys. A block thus attends to itself
 * more than to any other four tokens, and neither part is lost in the other. */
#define QUERY_SCALE     1.5f
#define BLOCK_KEY_SCALE 2.0f

fb_status fb_script_generate(fb_script *s) {
    const fb_script_config *c = &s->config;
    bool *was_accepted = NULL;
    FB_TRY(generate_context(s, "k_context", &s->k_context));
    FB_TRY(generate_context(s, "v_context", &s->v_context));
    FB_TRY(generate_script(s));
    FB_TRY(take(s, c->block_size, sizeof *was_accepted, &was_accepted));
    size_t q_size = c->num_heads * c->head_dim, kv_size = c->num_kv_heads * c->head_dim;
    for (size_t i = 0; i < s->num_passes; i++) {
        fb_script_pass *pass = &s->passes[i];
        FB_TRY(generate_tensor(s, "q", i, was_accepted, QUERY_SCALE, q_size, &pass->q));
        FB_TRY(generate_tensor(s, "k", i, was_accepted, BLOCK_KEY_SCALE, kv_size, &pass->k));
        FB_TRY(generate_tensor(s, "v", i, was_accepted, 1.0f, kv_size, &pass->v));
        for (size_t token = 0; token < c->block_size; token++)
            was_accepted[token] = was_accepted[token] || pass->accepted[token];
    }
    return FB_OK;
}

/* --- this build's results --------------------------------------------------------------------- */

fb_status fb_script_round_queries(fb_script *s) {
    size_t count = fb_script_values(s);
    for (size_t i = 0; i < s->num_passes; i++) {
        float *rounded = NULL;
        FB_TRY(take(s, count, sizeof *rounded, &rounded));
        memcpy(rounded, s->passes[i].q, count * sizeof *rounded);
        fb_plain_round(s->config.dtype, rounded, count);
        s->passes[i].q = rounded;
    }
    return FB_OK;
}

/* The state of the reuse rule, from pass to pass. */
typedef struct rule_state {
    size_t dirty, masked, stored; /* stored: the pass that last kept a part, or rows of it */
    bool *dirty_rows;             /* [B] accepted since they were computed */
    const float *cached_q;        /* [B, H, D] what the cached part is of */
} rule_state;

/* The queries of the pass's external part: its own, those of the cached part, or some of each. */
static fb_status find_external_q(fb_script *s, fb_script_pass *pass, rule_state *now) {
    size_t tokens = s->config.block_size, size = s->config.num_heads * s->config.head_dim;
    pass->external_q = pass->action == FB_REUSE ? now->cached_q : pass->q;
    if (pass->action == FB_REFRESH_ROWS) {
        if (!pass->composed_q) {
            FB_TRY(take(s, tokens * size, sizeof *pass->composed_q, &pass->composed_q));
            FB_TRY(take(s, tokens, sizeof *pass->refresh_rows, &pass->refresh_rows));
        }
        for (size_t token = 0; token < tokens; token++)
            memcpy(pass->composed_q + token * size,
                   (now->dirty_rows[token] ? pass->q : now->cached_q) + token * size,
                   size * sizeof *pass->q);
        memcpy(pass->refresh_rows, now->dirty_rows, tokens * sizeof(bool));
        pass->external_q = pass->composed_q;
    }
    if (fb_script_stores(pass))
        now->cached_q = pass->external_q;
    return FB_OK;
}

/* From this pass on, the tokens that it accepts are dirty. */
static size_t mark_dirty(const fb_script *s, const fb_script_pass *pass, rule_state *now) {
    size_t count = 0;
    for (size_t i = 0; i < s->config.block_size; i++) {
        bool accepted = pass->accepted[i] != 0;
        now->dirty_rows[i] = accepted || (now->dirty_rows[i] && pass->action == FB_REUSE);
        count += accepted;
    }
    return count;
}

static fb_status decide(fb_script *s, size_t index, rule_state *now) {
    const fb_script_config *c = &s->config;
    fb_script_pass *pass = &s->passes[index];
    const fb_reuse_policy policy = {.tau = c->tau, .rows = c->rows, .correction = c->correction};
    const fb_reuse_step step = {
        .denoising_step = index,
        .denoising_steps = c->steps,
        .dirty_tokens = now->dirty,
        .masked_tokens = now->masked,
        .budget = 1,
        .commit = index == c->steps,
    };
    fb_reuse_action action = fb_reuse_decide(&policy, &step);
    pass->dirty = (int32_t)now->dirty;
    pass->action = (int32_t)action;
    FB_TRY(find_external_q(s, pass, now));
    size_t count = mark_dirty(s, pass, now);
    if (fb_script_stores(pass))
        now->stored = index;
    pass->source = action == FB_REUSE ? now->stored : index;
    now->dirty = (action == FB_REUSE ? now->dirty : 0) + count;
    now->masked -= count < now->masked ? count : now->masked;
    return FB_OK;
}

/* Copies the stored part from the cache. */
static fb_status keep_external(fb_script *s, fb_script_pass *pass, const fb_part_cache *parts,
                               const fb_kv_cache *kv) {
    fb_part part;
    size_t values = fb_script_values(s), rows = fb_script_rows(s);
    FB_TRY(fb_part_cache_load(parts, 0, kv, FB_COMPAT_PAPER, &part));
    if (!pass->external_out) {
        FB_TRY(take(s, values, sizeof *pass->external_out, &pass->external_out));
        FB_TRY(take(s, rows, sizeof *pass->external_lse, &pass->external_lse));
    }
    memcpy(pass->external_out, part.out, values * sizeof *part.out);
    memcpy(pass->external_lse, part.lse, rows * sizeof *part.lse);
    return FB_OK;
}

static fb_status run_pass(fb_script *s, fb_script_pass *pass, fb_kv_cache *kv,
                          fb_part_cache *parts) {
    const fb_script_config *c = &s->config;
    fb_queries queries = fb_queries_rows(pass->q, c->block_size, c->num_heads, c->head_dim);
    fb_part result = fb_part_rows(pass->out, pass->lse, c->num_heads, c->head_dim);
    fb_block_call call;
    fb_block_call_init(&call);
    call.queries = &queries;
    call.kv = kv;
    call.action = (fb_reuse_action)pass->action;
    call.parts = parts;
    call.refresh_rows = call.action == FB_REFRESH_ROWS ? pass->refresh_rows : NULL;
    call.scale = (float)c->scale;
    FB_TRY(fb_kv_cache_write(kv, 0, c->context_length, c->block_size, pass->k, pass->v));
    FB_TRY(fb_block_attend(&call, &result));
    return fb_script_stores(pass) ? keep_external(s, pass, parts, kv) : FB_OK;
}

static fb_status run_passes(fb_script *s, fb_kv_cache *kv, fb_part_cache *parts) {
    const fb_script_config *c = &s->config;
    rule_state now = {.masked = c->block_size};
    FB_TRY(take(s, c->block_size, sizeof *now.dirty_rows, &now.dirty_rows));
    FB_TRY(fb_kv_cache_write(kv, 0, 0, c->context_length, s->k_context, s->v_context));
    FB_TRY(fb_kv_cache_commit(kv, c->context_length));
    for (size_t i = 0; i < s->num_passes; i++) {
        FB_TRY(decide(s, i, &now));
        FB_TRY(run_pass(s, &s->passes[i], kv, parts));
    }
    return FB_OK;
}

fb_status fb_script_run(fb_script *s) {
    const fb_script_config *c = &s->config;
    const fb_kv_cache_config layout = {1, c->num_kv_heads, c->head_dim, c->dtype};
    fb_kv_cache *kv = NULL;
    fb_part_cache *parts = NULL;
    FB_TRY(fb_kv_cache_create(&layout, &kv));
    fb_status status = fb_part_cache_create(1, c->block_size, c->num_heads, c->head_dim, &parts);
    if (status == FB_OK && c->correction)
        status = fb_part_cache_enable_correction(parts);
    if (status == FB_OK)
        status = run_passes(s, kv, parts);
    fb_part_cache_destroy(parts);
    fb_kv_cache_destroy(kv);
    return status;
}

/* --- truth ------------------------------------------------------------------------------------ */

/* The attention of a pass to its own block. */
static fb_truth_problem truth_problem(const fb_script_config *c, const fb_script_pass *pass) {
    return (fb_truth_problem){.q = pass->q,
                              .k = pass->k,
                              .v = pass->v,
                              .queries = c->block_size,
                              .keys = c->block_size,
                              .heads = c->num_heads,
                              .kv_heads = c->num_kv_heads,
                              .head_dim = c->head_dim,
                              .scale = c->scale};
}

static fb_status take_true_external(fb_script *s, fb_script_pass *pass) {
    if (pass->true_external_lse)
        return FB_OK;
    FB_TRY(take(s, fb_script_values(s), sizeof(double), &pass->true_external_out));
    return take(s, fb_script_rows(s), sizeof(double), &pass->true_external_lse);
}

static fb_status true_external(fb_script *s, fb_script_pass *pass) {
    const fb_script_config *c = &s->config;
    FB_TRY(take_true_external(s, pass));
    fb_truth_problem problem = truth_problem(c, pass);
    problem.q = pass->external_q;
    problem.k = s->k_context;
    problem.v = s->v_context;
    problem.keys = c->context_length;
    return fb_truth_attend(&problem, pass->true_external_out, pass->true_external_lse);
}

/* The mean keys are the output of attention whose values are the keys. */
fb_status fb_script_corrections(const fb_script *s, const float *q, const float *q0,
                                double *change) {
    const fb_script_config *c = &s->config;
    size_t rows = fb_script_rows(s), values = fb_script_values(s);
    memset(change, 0, rows * sizeof *change);
    if (!c->correction || q == q0)
        return FB_OK;
    double *memory = NULL;
    FB_TRY(fb_alloc(values + rows, sizeof *memory, "mean keys", &memory));
    fb_truth_problem problem = {.q = q0,
                                .k = s->k_context,
                                .v = s->k_context,
                                .queries = c->block_size,
                                .keys = c->context_length,
                                .heads = c->num_heads,
                                .kv_heads = c->num_kv_heads,
                                .head_dim = c->head_dim,
                                .scale = c->scale};
    fb_status status = fb_truth_attend(&problem, memory, memory + values);
    for (size_t i = 0; i < values && status == FB_OK; i++)
        change[i / c->head_dim] += c->scale * (((double)q[i] - (double)q0[i]) * memory[i]);
    fb_free(memory);
    return status;
}

/* The external LSEs of a pass, corrected as for the merge. */
static fb_status true_merged_lse(const fb_script *s, const fb_script_pass *pass,
                                 const fb_script_pass *source, double *lse) {
    FB_TRY(fb_script_corrections(s, pass->q, source->external_q, lse));
    for (size_t row = 0; row < fb_script_rows(s); row++)
        lse[row] += source->true_external_lse[row];
    return FB_OK;
}

static fb_status true_pass(fb_script *s, size_t index) {
    const fb_script_config *c = &s->config;
    fb_script_pass *pass = &s->passes[index];
    const fb_script_pass *source = &s->passes[pass->source];
    if (pass->source == index)
        FB_TRY(true_external(s, pass));
    fb_truth_problem internal = truth_problem(c, pass);
    FB_TRY(fb_truth_attend(&internal, pass->true_out, pass->true_lse));
    double *lse = NULL;
    FB_TRY(fb_alloc(fb_script_rows(s), sizeof *lse, "external LSEs", &lse));
    fb_status status = true_merged_lse(s, pass, source, lse);
    if (status == FB_OK)
        fb_truth_merge(source->true_external_out, lse, pass->true_out, pass->true_lse,
                       fb_script_rows(s), c->head_dim, pass->true_out, pass->true_lse);
    fb_free(lse);
    return status;
}

fb_status fb_script_find_truth(fb_script *s, fb_script_progress *progress, void *context) {
    for (size_t i = 0; i < s->num_passes; i++) {
        FB_TRY(true_pass(s, i));
        if (progress)
            progress(context, i + 1, s->num_passes);
    }
    return FB_OK;
}

fb_status fb_script_set_truth(fb_script *s, size_t index, const double *out, const double *lse,
                              const double *external_out, const double *external_lse) {
    fb_script_pass *pass = &s->passes[index];
    size_t values = fb_script_values(s), rows = fb_script_rows(s);
    memcpy(pass->true_out, out, values * sizeof *out);
    memcpy(pass->true_lse, lse, rows * sizeof *lse);
    if (!external_out || !external_lse)
        return FB_OK;
    FB_TRY(take_true_external(s, pass));
    memcpy(pass->true_external_out, external_out, values * sizeof *external_out);
    memcpy(pass->true_external_lse, external_lse, rows * sizeof *external_lse);
    return FB_OK;
}

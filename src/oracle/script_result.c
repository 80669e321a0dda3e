#include "oracle/script_result.h"

#include "base/error.h"
#include "base/memory.h"
#include "oracle/plain.h"
#include "oracle/truth.h"
#include "oracle/verdict.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* --- the yardstick ---------------------------------------------------------------------------- */

static fb_status plain_part(const fb_script *s, const float *q, const float *k, const float *v,
                            size_t keys, fb_dtype precision, float *out, float *lse) {
    const fb_script_config *c = &s->config;
    fb_queries queries = fb_queries_rows(q, c->block_size, c->num_heads, c->head_dim);
    fb_kv kv = fb_kv_rows(FB_F32, k, v, keys, c->num_kv_heads, c->head_dim);
    fb_range all = {0, keys};
    fb_view view = {&kv, &all, 1};
    return fb_plain_attention(&queries, &view, NULL, (float)c->scale, precision, out, lse);
}

/* external and internal: out, then lse; the merge goes to `external`. */
static void plain_merge(const fb_script *s, float *external, const float *internal) {
    size_t rows = fb_script_rows(s), values = fb_script_values(s), dim = s->config.head_dim;
    float *lse = external + values;
    for (size_t row = 0; row < rows; row++) {
        float a = lse[row], b = internal[values + row], max = a > b ? a : b;
        float weight_a = expf(a - max), weight_b = expf(b - max), total = weight_a + weight_b;
        for (size_t i = row * dim; i < (row + 1) * dim; i++)
            external[i] = (weight_a * external[i] + weight_b * internal[i]) / total;
        lse[row] = max + logf(total);
    }
}

static fb_status plain_correction(const fb_script *s, const fb_script_pass *pass, float *lse) {
    double *change = NULL;
    FB_TRY(fb_alloc(fb_script_rows(s), sizeof *change, "plain result", &change));
    fb_status status = fb_script_corrections(s, pass->q, pass->external_q, change);
    for (size_t row = 0; row < fb_script_rows(s) && status == FB_OK; row++)
        lse[row] = (float)((double)lse[row] + change[row]);
    fb_free(change);
    return status;
}

fb_status fb_script_plain(const void *context, fb_dtype precision, float *result) {
    const fb_script_result *r = context;
    const fb_script *s = r->sequence;
    const fb_script_pass *pass = &s->passes[r->pass];
    size_t rows = fb_script_rows(s), values = fb_script_values(s);
    float *external = NULL;
    FB_TRY(fb_alloc(2 * (rows + values), sizeof *external, "plain result", &external));
    float *internal = external + rows + values;
    fb_status status = plain_part(s, pass->external_q, s->k_context, s->v_context,
                                  s->config.context_length, precision, external, external + values);
    if (status == FB_OK && !r->external)
        status = plain_correction(s, pass, external + values);
    if (status == FB_OK && !r->external) {
        status = plain_part(s, pass->q, pass->k, pass->v, s->config.block_size, precision, internal,
                            internal + values);
        if (status == FB_OK)
            plain_merge(s, external, internal);
    }
    if (status == FB_OK && r->lse)
        memcpy(result, external + values, rows * sizeof *result);
    if (status == FB_OK && !r->lse)
        memcpy(result, external, values * sizeof *result);
    if (status == FB_OK) /* an LSE, too, has no more places than the candidate stores */
        fb_plain_round(precision, result, r->lse ? rows : values);
    fb_free(external);
    return status;
}

/* --- names ------------------------------------------------------------------------------------ */

/* The trial of the first tokens of a large result: as many as are searched in seconds. */
static fb_status name_sample(const fb_script *s, const fb_trial *trial, fb_arithmetic arithmetic,
                             char *words, size_t size) {
    const fb_script_config *c = &s->config;
    size_t keys = c->context_length > c->block_size ? c->context_length : c->block_size;
    fb_trial *sample = NULL;
    FB_TRY(fb_trial_sample(trial, fb_trial_tokens(keys, c->num_heads * c->head_dim), &sample));
    fb_status status = fb_trial_name(sample, arithmetic, words, size);
    fb_trial_free(sample);
    return status;
}

fb_status fb_script_name(const void *context, const float *values, const fb_finding *finding,
                         char *words, size_t size) {
    const fb_script_result *r = context;
    const fb_script *s = r->sequence;
    fb_candidate *candidate = NULL;
    fb_trial *trial = NULL;
    FB_TRY(fb_candidate_of_values(finding->tensor, finding->precision, &finding->shape, values,
                                  &candidate));
    fb_arithmetic arithmetic = fb_candidate_arithmetic(candidate);
    fb_status status = fb_trial_of_script(s, candidate, &trial);
    if (status == FB_OK && fb_script_values(s) < FB_TRIAL_MAX_VALUES)
        status = fb_trial_name(trial, arithmetic, words, size);
    else if (status == FB_OK)
        status = name_sample(s, trial, arithmetic, words, size);
    fb_trial_free(trial);
    fb_candidate_close(candidate);
    return status;
}

/* --- details ---------------------------------------------------------------------------------- */

/* The LSE of one token's row over keys of the sequence. */
static fb_status token_lse(const fb_script *s, const float *q, const float *k, const float *v,
                           size_t keys, size_t row, double *lse) {
    const fb_script_config *c = &s->config;
    size_t heads = c->num_heads, values = heads * c->head_dim;
    double *memory = NULL;
    FB_TRY(fb_alloc(values + heads, sizeof *memory, "explanation", &memory));
    fb_truth_problem problem = {.q = q + row / heads * values,
                                .k = k,
                                .v = v,
                                .queries = 1,
                                .keys = keys,
                                .heads = heads,
                                .kv_heads = c->num_kv_heads,
                                .head_dim = c->head_dim,
                                .scale = c->scale};
    fb_status status = fb_truth_attend(&problem, memory, memory + values);
    if (status == FB_OK)
        *lse = memory[values + row % heads];
    fb_free(memory);
    return status;
}

fb_status fb_script_explain(const void *context, size_t index, char *text, size_t size) {
    const fb_script_result *r = context;
    const fb_script *s = r->sequence;
    const fb_script_config *c = &s->config;
    const fb_script_pass *pass = &s->passes[r->pass];
    size_t row = r->lse ? index : index / c->head_dim, heads = c->num_heads, head = row % heads;
    double external = 0.0, internal = 0.0, merged = pass->true_lse[row];
    FB_TRY(token_lse(s, pass->external_q, s->k_context, s->v_context, c->context_length, row,
                     &external));
    FB_TRY(token_lse(s, pass->q, pass->k, pass->v, c->block_size, row, &internal));
    int used = snprintf(text, size,
                        "token %zu, head %zu, KV head %zu: external part of step %zu, %zu keys, "
                        "LSE %.9g",
                        row / heads, head, head / (heads / c->num_kv_heads), pass->source,
                        c->context_length, external);
    if (!r->external && used > 0 && (size_t)used < size)
        snprintf(text + used, size - (size_t)used,
                 ", weight %.9g; internal part, %zu keys, LSE %.9g, weight %.9g; LSE %.9g",
                 exp(external - merged), c->block_size, internal, exp(internal - merged), merged);
    return FB_OK;
}

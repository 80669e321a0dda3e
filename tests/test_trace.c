/* The record of a decoding (src/study/trace.h). Every number is compared with a separate
 * computation in double precision, from the queries and from the result of fb_kv_cache_read. */
#include "study/trace.h"
#include "study/trace_stats.h"
#include "tests/golden_list.h"
#include "tests/numbers.h"

#include <flashblock/generate.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NUM_PROMPTS = 2, BLOCK = 4 };

/* Outputs and LSEs of the last two steps of a sequence, as the observer keeps them. */
typedef struct own_parts {
    double *out[2][2]; /* [external, internal][this step, the one before] of all layers */
    double *lse[2];    /* external only, [this step, the one before] */
    bool *changed;     /* accepted at the step before */
    bool has_before;
} own_parts;

typedef struct checker {
    const fb_model_config *config;
    fb_trace trace;
    own_parts own[NUM_PROMPTS];
    fb_trace_head *expected[NUM_PROMPTS]; /* [layers, heads] of the step that is running */
    size_t compared, reuses, firsts;
} checker;

/* --- attention, as slowly as can be ------------------------------------------------------------
 */

/* One row and head over keys begin .. end - 1; returns the LSE. */
static double attend_row(const fb_queries *q, size_t row, size_t head, const float *k,
                         const float *v, size_t kv_heads, size_t begin, size_t end, double *out) {
    size_t dim = q->head_dim, kv_head = head / (q->num_heads / kv_heads);
    const float *query = q->q + (ptrdiff_t)row * q->token_stride + (ptrdiff_t)head * q->head_stride;
    double sum = 0;
    memset(out, 0, dim * sizeof *out);
    for (size_t j = begin; j < end; j++) {
        const float *key = k + (j * kv_heads + kv_head) * dim;
        const float *value = v + (j * kv_heads + kv_head) * dim;
        double score = 0;
        for (size_t d = 0; d < dim; d++)
            score += (double)query[d] * (double)key[d];
        double weight = exp(score / sqrt((double)dim)); /* scores of these models are small */
        sum += weight;
        for (size_t d = 0; d < dim; d++)
            out[d] += weight * (double)value[d];
    }
    for (size_t d = 0; d < dim && sum > 0; d++)
        out[d] /= sum;
    return log(sum);
}

static double norm(const double *a, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += a[i] * a[i];
    return sqrt(sum);
}

/* 1 - |a/|a| - b/|b||^2 / 2 */
static double similarity(const double *a, const double *b, size_t count) {
    double distance = 0, norm_a = norm(a, count), norm_b = norm(b, count);
    for (size_t i = 0; i < count; i++) {
        double delta = a[i] / norm_a - b[i] / norm_b;
        distance += delta * delta;
    }
    return 1 - distance / 2;
}

/* --- one layer ---------------------------------------------------------------------------------
 */

static size_t row_index(const checker *c, size_t layer, size_t row, size_t head) {
    return (layer * BLOCK + row) * c->config->num_attention_heads + head;
}

/* The expected record of one head. */
static fb_trace_head expect_head(checker *c, const fb_generate_attention_event *event,
                                 const float *k, const float *v, size_t head) {
    const fb_attention_event *attention = event->attention;
    const fb_queries *q = attention->queries;
    own_parts *own = &c->own[event->sequence];
    size_t dim = q->head_dim, length = event->context_length, kept = 0;
    double dense[256], errors = 0, norms = 0;
    fb_trace_head sums = {0};
    for (size_t row = 0; row < BLOCK; row++) {
        size_t at = row_index(c, attention->layer, row, head);
        double *external = own->out[0][0] + at * dim, *internal = own->out[1][0] + at * dim;
        size_t kv_heads = c->config->num_key_value_heads, end = length + BLOCK;
        double outside = attend_row(q, row, head, k, v, kv_heads, 0, length, external);
        double inside = attend_row(q, row, head, k, v, kv_heads, length, end, internal);
        attend_row(q, row, head, k, v, kv_heads, 0, end, dense);
        own->lse[0][at] = outside;
        sums.external_mass += exp(outside) / (exp(outside) + exp(inside)) / BLOCK;
        const float *result = attention->result->out +
                              (ptrdiff_t)row * attention->result->out_token_stride +
                              (ptrdiff_t)head * attention->result->out_head_stride;
        for (size_t d = 0; d < dim; d++) {
            double delta = (double)result[d] - dense[d];
            errors += delta * delta;
            norms += dense[d] * dense[d];
            sums.max_error = fmax(sums.max_error, fabs(delta));
        }
        double a = similarity(external, own->out[0][1] + at * dim, dim);
        double b = similarity(internal, own->out[1][1] + at * dim, dim);
        sums.external_cosine += a / BLOCK;
        sums.internal_cosine += b / BLOCK;
        sums.external_lse_change += fabs(outside - own->lse[1][at]) / BLOCK;
        if (own->changed[row])
            continue;
        kept++;
        sums.external_cosine_kept += a;
        sums.internal_cosine_kept += b;
    }
    sums.external_cosine_kept /= (double)kept;
    sums.internal_cosine_kept /= (double)kept;
    sums.error = sqrt(errors / norms);
    return sums;
}

static void on_attention(void *user, const fb_generate_attention_event *event) {
    checker *c = user;
    fb_trace_attention(&c->trace, event);
    if (event->commit)
        return;
    if (event->denoising_step == 0)
        c->own[event->sequence].has_before = false;
    size_t tokens = event->context_length + BLOCK, heads = c->config->num_attention_heads;
    size_t values = tokens * c->config->num_key_value_heads * c->config->head_dim;
    float *k = calloc(values, sizeof *k), *v = calloc(values, sizeof *v);
    cr_assert_eq(fb_kv_cache_read(event->attention->kv, event->attention->layer, 0, tokens, k, v),
                 FB_OK);
    for (size_t head = 0; head < heads; head++)
        c->expected[event->sequence][event->attention->layer * heads + head] =
            expect_head(c, event, k, v, head);
    free(k);
    free(v);
}

/* --- comparing ---------------------------------------------------------------------------------
 */

/* Outputs and LSEs of the library are float32, so an error of 1e-6 of their size is allowed. */
static void expect_near(fb_trace_value value, double got, double expected, bool exists,
                        const fb_trace_step *step) {
    const char *name = fb_trace_value_name(value);
    if (!exists)
        cr_assert(isnan(got), "%s exists (%g), context %zu, step %zu", name, got,
                  step->context_length, step->denoising_step);
    else
        cr_assert(fabs(got - expected) <= 5e-6, "%s is %.9g, expected %.9g; context %zu, step %zu",
                  name, got, expected, step->context_length, step->denoising_step);
}

static void expect_step(checker *c, const fb_step_event *event, bool has_before) {
    size_t index = c->trace.num_steps - 1;
    size_t heads = c->config->num_hidden_layers * c->config->num_attention_heads;
    const fb_trace_step *step = fb_trace_step_at(&c->trace, index);
    const fb_trace_head *got = fb_trace_heads_at(&c->trace, index);
    cr_assert(step->sequence == event->sequence && step->block == event->block &&
              step->context_length == event->context_length &&
              step->denoising_step == event->denoising_step && step->action == event->action &&
              step->dirty == event->dirty_before && step->accepted == event->num_accepted);
    bool context = step->context_length > 0, kept = has_before;
    for (size_t i = 0; i < heads; i++) {
        const fb_trace_head *expected = &c->expected[event->sequence][i];
        for (int value = 0; value < FB_TRACE_NUM_VALUES; value++) {
            bool external = value == FB_TRACE_EXTERNAL_COSINE ||
                            value == FB_TRACE_EXTERNAL_COSINE_KEPT ||
                            value == FB_TRACE_EXTERNAL_LSE_CHANGE;
            bool always = value >= FB_TRACE_EXTERNAL_MASS;
            bool number = !isnan(fb_trace_get(expected, (fb_trace_value)value));
            expect_near((fb_trace_value)value, fb_trace_get(&got[i], (fb_trace_value)value),
                        fb_trace_get(expected, (fb_trace_value)value),
                        always || (kept && number && (!external || context)), step);
        }
        if (step->action != FB_REUSE) /* a refresh is dense, bit for bit */
            cr_assert(got[i].error == 0 && got[i].max_error == 0);
    }
    c->compared += heads;
    c->reuses += step->action == FB_REUSE;
    c->firsts += !has_before;
}

static bool on_step(void *user, const fb_step_event *event) {
    checker *c = user;
    own_parts *own = &c->own[event->sequence];
    cr_assert(fb_trace_on_step(&c->trace, event), "%s", fb_error_message());
    if (event->commit)
        return true;
    expect_step(c, event, own->has_before);
    own->has_before = true;
    memcpy(own->changed, event->accepted, BLOCK * sizeof *own->changed);
    for (int i = 0; i < 2; i++) {
        double *now = own->out[i][0];
        own->out[i][0] = own->out[i][1];
        own->out[i][1] = now;
    }
    double *now = own->lse[0];
    own->lse[0] = own->lse[1];
    own->lse[1] = now;
    return true;
}

/* --- the tests ---------------------------------------------------------------------------------
 */

static void checker_make(checker *c, const fb_model *model) {
    c->config = fb_model_config_of(model);
    size_t heads = c->config->num_hidden_layers * c->config->num_attention_heads;
    for (size_t i = 0; i < NUM_PROMPTS; i++) {
        c->expected[i] = calloc(heads, sizeof *c->expected[i]);
        c->own[i].changed = calloc(BLOCK, sizeof(bool));
        for (size_t j = 0; j < 2; j++) {
            c->own[i].lse[j] = calloc(heads * BLOCK, sizeof(double));
            c->own[i].out[j][0] = calloc(heads * BLOCK * c->config->head_dim, sizeof(double));
            c->own[i].out[j][1] = calloc(heads * BLOCK * c->config->head_dim, sizeof(double));
        }
    }
    cr_assert_eq(fb_trace_init(c->config, BLOCK, NUM_PROMPTS, &c->trace), FB_OK);
}

static void checker_free(checker *c) {
    for (size_t i = 0; i < NUM_PROMPTS; i++) {
        free(c->expected[i]);
        free(c->own[i].changed);
        for (size_t j = 0; j < 2; j++) {
            free(c->own[i].lse[j]);
            free(c->own[i].out[j][0]);
            free(c->own[i].out[j][1]);
        }
    }
    fb_trace_free(&c->trace);
}

static fb_generation *decode(checker *c, fb_model *model, size_t tau) {
    static int32_t tokens[NUM_PROMPTS][32];
    static const size_t lengths[NUM_PROMPTS] = {21, 3}; /* the second starts without a context */
    fb_prompt prompts[NUM_PROMPTS];
    random_stream random = random_named(41);
    for (size_t i = 0; i < NUM_PROMPTS; i++) {
        for (size_t j = 0; j < lengths[i]; j++)
            tokens[i][j] = (int32_t)random_between(&random, 0, 299);
        prompts[i] = (fb_prompt){tokens[i], lengths[i]};
    }
    fb_generate_options options;
    fb_generate_options_init(&options);
    options.block_size = BLOCK;
    options.reuse.tau = tau;
    options.max_tokens = 16;
    options.confidence_threshold = 0.5;
    options.ignore_stop = true;
    options.on_attention = on_attention;
    options.on_step = on_step;
    options.user = c;
    fb_generation *generation = NULL;
    cr_assert_eq(fb_generate(model, prompts, NUM_PROMPTS, &options, &generation), FB_OK, "%s",
                 fb_error_message());
    return generation;
}

Test(trace, every_number_against_double_precision) {
    fb_model *model = golden_model("model/m1");
    for (size_t tau = 0; tau <= 5; tau += tau == 0 ? 2 : 3) { /* 0, 2, 5 */
        checker c = {0};
        checker_make(&c, model);
        fb_generation *generation = decode(&c, model, tau);
        cr_assert_eq(c.trace.num_steps, fb_generation_stats(generation)->counts->denoising_steps);
        cr_assert_eq(c.reuses, fb_generation_stats(generation)->counts->reuses);
        cr_assert((c.reuses > 0) == (tau > 1), "tau %zu: %zu reuses", tau, c.reuses);
        cr_assert_gt(c.compared, 0);
        cr_assert(c.firsts > 0 && c.firsts < c.trace.num_steps);
        fb_generation_destroy(generation);
        checker_free(&c);
    }
    fb_model_destroy(model);
}

/* A trace of two layers of one head, four steps, filled by hand. */
static void make_small_trace(fb_trace *trace) {
    static const fb_model_config config = {
        .num_hidden_layers = 2, .num_attention_heads = 1, .head_dim = 1};
    cr_assert_eq(fb_trace_init(&config, BLOCK, 1, trace), FB_OK);
    for (size_t i = 0; i < 4; i++) {
        fb_trace_step step = {.context_length = 8 * i, .denoising_step = i % 2};
        step.action = i % 2 == 1 ? FB_REUSE : FB_REFRESH_AND_STORE;
        fb_trace_head heads[2] = {{.external_cosine = i == 0 ? NAN : (double)i, .error = 0.5},
                                  {.external_cosine = 10.0 + (double)i, .error = (double)i}};
        cr_assert_eq(fb_buffer_append(&trace->steps, &step, sizeof step), FB_OK);
        cr_assert_eq(fb_buffer_append(&trace->heads, heads, sizeof heads), FB_OK);
        trace->num_steps++;
    }
}

Test(trace, spreads_of_chosen_steps) {
    fb_trace trace;
    make_small_trace(&trace);
    fb_trace_filter filter = fb_trace_all();
    fb_trace_spread spread;
    cr_assert_eq(fb_trace_summarize(&trace, FB_TRACE_EXTERNAL_COSINE, &filter, &spread), FB_OK);
    /* 1 2 3 10 11 12 13; the NaN is left out */
    cr_assert_eq(spread.count, 7);
    cr_assert(fabs(spread.mean - 52.0 / 7) < 1e-12 && spread.p10 == 1 && spread.median == 10 &&
              spread.p90 == 13 && spread.max == 13);
    filter.layer = 1;
    filter.reuses_only = true;
    cr_assert_eq(fb_trace_summarize(&trace, FB_TRACE_EXTERNAL_COSINE, &filter, &spread), FB_OK);
    cr_assert(spread.count == 2 && spread.mean == 12);
    filter.min_context = 8;
    filter.end_context = 24;
    cr_assert_eq(fb_trace_summarize(&trace, FB_TRACE_EXTERNAL_COSINE, &filter, &spread), FB_OK);
    cr_assert(spread.count == 1 && spread.mean == 11);
    filter.denoising_step = 0;
    cr_assert_eq(fb_trace_summarize(&trace, FB_TRACE_EXTERNAL_COSINE, &filter, &spread), FB_OK);
    cr_assert(spread.count == 0 && isnan(spread.mean) && isnan(spread.max));
    fb_trace_tau tau;
    cr_assert_eq(fb_trace_summarize_tau(&trace, 3, &tau), FB_OK);
    cr_assert(tau.tau == 3 && tau.steps == 4 && tau.reuses == 2 && tau.error.count == 4);
    cr_assert(fabs(tau.error.mean - 1.25) < 1e-12 && fabs(tau.error_all - 1.0) < 1e-12);
    fb_trace_free(&trace);
}

/* Every recorded run of the paper's engine (golden/paper/gen), repeated with compat = released,
 * pass by pass: decisions and tokens exactly, logits and cached parts within their tolerances. */
#include "golden_case.h"
#include "golden_list.h"

#include <flashblock/generate.h>

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>

enum { MAX_PROMPTS = 8, MAX_STOPS = 8 };

/* Of tiny-model logits (their standard deviation is 4.5), of attention, of probabilities. */
static const double logits_tolerance = 3e-4, history_tolerance = 5e-5, confidence_tolerance = 1e-4;

typedef struct replay {
    golden_case *c;
    const fb_model_config *config;
    fb_generate_options options;
    int32_t stops[MAX_STOPS];
    fb_prompt prompts[MAX_PROMPTS];
    size_t num_prompts, num_rows, num_steps;
    size_t steps_seen, t, row; /* t: of the event at hand */
    double worst_logits, worst_history;
} replay;

static void read_case(replay *r) {
    golden_case *c = r->c;
    json_t *stop_words = golden_param(c, "stop_words");
    size_t num_stops = json_array_size(stop_words);
    cr_assert_lt(num_stops, MAX_STOPS);
    r->stops[0] = (int32_t)json_integer_value(golden_param(c, "eos_id"));
    for (size_t i = 0; i < num_stops; i++)
        r->stops[i + 1] = (int32_t)json_integer_value(json_array_get(stop_words, i));
    fb_generate_options *o = &r->options;
    *o = fb_generate_options_default();
    o->compat = FB_COMPAT_RELEASED;
    o->greedy = true; /* the engine's multinomial was replaced by argmax */
    o->reuse.tau = golden_size(c, "tau");
    o->block_size = golden_size(c, "block_length");
    o->denoising_steps = golden_size(c, "denoising_steps");
    o->max_tokens = golden_size(c, "max_tokens");
    o->max_active = golden_size(c, "max_active");
    o->confidence_threshold = golden_real(c, "dynamic_threshold");
    o->temperature = golden_real(c, "temperature");
    o->top_k = golden_size(c, "top_k");
    o->top_p = golden_real(c, "top_p");
    o->mask_token_id = (int32_t)golden_size(c, "mask_id");
    o->stop_tokens = r->stops;
    o->num_stop_tokens = 1 + num_stops;
    const char *name = json_string_value(golden_param(c, "remasking"));
    cr_assert_eq(fb_remasking_parse(name, &o->remasking), FB_OK, "%s", fb_error_message());
    r->num_prompts = golden_size(c, "n_prompts");
    cr_assert_leq(r->num_prompts, MAX_PROMPTS);
    for (size_t i = 0; i < r->num_prompts; i++)
        r->prompts[i] =
            (fb_prompt){golden_i32(c, "prompt.%zu", i), golden_tensor(c, "prompt.%zu", i)->count};
    r->num_steps = golden_tensor(c, "trace.seq")->shape[0];
    r->num_rows = golden_tensor(c, "trace.seq")->shape[1];
}

static int32_t trace(replay *r, const char *field, size_t row) {
    return golden_i32(r->c, "trace.%s", field)[r->t * r->num_rows + row];
}

static void expect(replay *r, const char *field, size_t value) {
    int32_t recorded = trace(r, field, r->row);
    cr_assert_eq(recorded, (int32_t)value, "%s: step %zu, row %zu: %s is %zu, recorded %d",
                 golden_name(r->c), r->t, r->row, field, value, recorded);
}

static const int32_t *trace_block(replay *r, const char *field) {
    const int32_t *values = golden_i32(r->c, "trace.%s", field);
    return values + (r->t * r->num_rows + r->row) * r->options.block_size;
}

static void expect_tokens(replay *r, const char *field, const int32_t *tokens) {
    const int32_t *recorded = trace_block(r, field);
    for (size_t i = 0; i < r->options.block_size; i++)
        cr_assert_eq(tokens[i], recorded[i], "%s: step %zu, row %zu: %s[%zu] is %d, recorded %d",
                     golden_name(r->c), r->t, r->row, field, i, tokens[i], recorded[i]);
}

/* Of positions that were not accepted, the most probable token has no guaranteed margin. */
static void check_accepted(replay *r, const fb_generate_event *event) {
    const int32_t *acc = trace_block(r, "acc"), *x0 = trace_block(r, "x0");
    const float *conf =
        golden_f32(r->c, "trace.conf") + (r->t * r->num_rows + r->row) * r->options.block_size;
    for (size_t i = 0; i < r->options.block_size; i++) {
        cr_assert_eq(acc[i] != 0, event->accepted[i], "%s: step %zu, row %zu: accepted %zu",
                     golden_name(r->c), r->t, r->row, i);
        if (!acc[i])
            continue;
        cr_assert_eq(event->proposed[i], x0[i], "%s: step %zu, row %zu: proposal %zu is %d, not %d",
                     golden_name(r->c), r->t, r->row, i, event->proposed[i], x0[i]);
        cr_assert_float_eq(event->confidence[i], conf[i], confidence_tolerance,
                           "%s: step %zu, row %zu: confidence %zu is %.9g, not %.9g",
                           golden_name(r->c), r->t, r->row, i, (double)event->confidence[i],
                           (double)conf[i]);
    }
}

/* |difference|, infinity where either is NaN. */
static double difference(float a, float b) {
    double d = fabs((double)a - (double)b);
    return isnan(d) ? INFINITY : d;
}

static void check_logits(replay *r, const fb_generate_event *event) {
    if (!golden_has(r->c, "logits") || event->commit)
        return;
    size_t count = r->options.block_size * r->config->vocab_size;
    const float *recorded = golden_f32(r->c, "logits") + (r->t * r->num_rows + r->row) * count;
    for (size_t i = 0; i < count; i++) {
        double d = difference(event->logits[i], recorded[i]);
        r->worst_logits = fmax(r->worst_logits, d);
        cr_assert_leq(d, logits_tolerance, "%s: step %zu: logit %zu is %.9g, recorded %.9g",
                      golden_name(r->c), r->t, i, (double)event->logits[i], (double)recorded[i]);
    }
}

/* One layer's slot of the block-external cache: out [block_size, heads, head_dim] and lse. */
static void check_layer_history(replay *r, const fb_part *part, size_t layer) {
    size_t heads = r->config->num_attention_heads, dim = r->config->head_dim;
    size_t rows = r->options.block_size * heads;
    size_t index = (r->t * r->config->num_hidden_layers + layer) * r->num_rows + r->row;
    const float *out = golden_f32(r->c, "hist_out") + index * rows * dim;
    const float *lse = golden_f32(r->c, "hist_lse") + index * rows;
    for (size_t i = 0; i < rows; i++) {
        ptrdiff_t token = (ptrdiff_t)(i / heads), head = (ptrdiff_t)(i % heads);
        const float *found =
            part->out + token * part->out_token_stride + head * part->out_head_stride;
        double d = difference(
            part->lse[token * part->lse_token_stride + head * part->lse_head_stride], lse[i]);
        for (size_t k = 0; k < dim; k++)
            d = fmax(d, difference(found[k], out[i * dim + k]));
        r->worst_history = fmax(r->worst_history, d);
        cr_assert_leq(d, history_tolerance, "%s: step %zu, layer %zu, row %zu: history off by %g",
                      golden_name(r->c), r->t, layer, i, d);
    }
}

static void check_history(replay *r, const fb_generate_event *event) {
    if (!golden_has(r->c, "hist_out"))
        return;
    for (size_t layer = 0; layer < r->config->num_hidden_layers; layer++) {
        fb_part part;
        cr_assert_eq(fb_part_cache_load(event->parts, layer, event->kv, FB_COMPAT_RELEASED, &part),
                     FB_OK, "%s", fb_error_message());
        check_layer_history(r, &part, layer);
    }
}

static void check_status_after(replay *r, const fb_generate_event *event) {
    bool masks = false;
    for (size_t i = 0; i < r->options.block_size; i++)
        masks = masks || event->masked_after[i];
    size_t next = masks && event->denoising_step + 1 < r->options.denoising_steps ? 2 : 3;
    expect(r, "status_after", event->finished ? 4 : event->commit ? 2 : next);
    size_t prompt = r->prompts[event->sequence].num_tokens;
    if (!event->commit)
        expect(r, "ntok_after", event->context_length);
    else if (event->num_completion > 0)
        expect(r, "ntok_after", prompt + event->num_completion);
}

static bool check_event(void *user, const fb_generate_event *event) {
    replay *r = user;
    r->row = event->slot;
    r->t = event->slot == 0 ? r->steps_seen++ : r->t;
    cr_assert_lt(r->t, r->num_steps, "%s: more passes than recorded", golden_name(r->c));
    cr_assert_eq(event->block_size, r->options.block_size);
    expect(r, "seq", event->sequence);
    expect(r, "status", event->commit ? 3 : 2);
    expect(r, "step", event->denoising_step);
    expect(r, "ctx_true", event->context_length);
    expect(r, "update", event->action != FB_REUSE);
    expect(r, "reuse", event->action == FB_REUSE);
    expect(r, "store", event->action == FB_REFRESH_AND_STORE);
    expect(r, "dirty", event->dirty_before);
    expect(r, "dirty_after", event->dirty_after);
    expect_tokens(r, "before", event->before);
    if (!event->commit) {
        check_accepted(r, event);
        expect_tokens(r, "after", event->after);
    }
    check_status_after(r, event);
    check_logits(r, event);
    check_history(r, event);
    bool last_row = r->row + 1 == r->num_rows || trace(r, "seq", r->row + 1) < 0;
    cr_assert(!last_row || r->row + 1 == (size_t)golden_i32(r->c, "trace.batch")[r->t],
              "%s: step %zu: batch", golden_name(r->c), r->t);
    return true;
}

static void check_result(const replay *r, size_t prompt, const fb_generate_result *result) {
    golden_case *c = r->c;
    const int32_t *output = golden_i32(c, "output.%zu", prompt);
    const int32_t *unmask = golden_i32(c, "unmask_step.%zu", prompt);
    cr_assert_eq(result->num_tokens, golden_tensor(c, "output.%zu", prompt)->count,
                 "%s: prompt %zu: %zu tokens", golden_name(c), prompt, result->num_tokens);
    for (size_t i = 0; i < result->num_tokens; i++) {
        cr_assert_eq(result->tokens[i], output[i], "%s: prompt %zu: token %zu", golden_name(c),
                     prompt, i);
        cr_assert_eq(result->unmask_step[i], unmask[i], "%s: prompt %zu: unmask step %zu",
                     golden_name(c), prompt, i);
    }
}

GOLDEN_TEST(golden_generate, run, "gen", "") {
    replay r = {.c = c};
    fb_model *model = golden_model(golden_text(c, "model"));
    r.config = fb_model_get_config(model);
    read_case(&r);
    r.options.on_step = check_event;
    r.options.user = &r;
    fb_generation *generation = NULL;
    cr_assert_eq(fb_generate(model, r.prompts, r.num_prompts, &r.options, &generation), FB_OK, "%s",
                 fb_error_message());
    cr_assert_eq(r.steps_seen, r.num_steps, "%s: %zu passes of %zu", golden_name(c), r.steps_seen,
                 r.num_steps);
    cr_assert_eq(generation->decode_passes, r.num_steps);
    for (size_t i = 0; i < r.num_prompts; i++)
        check_result(&r, i, &generation->results[i]);
    if (golden_has(c, "logits"))
        cr_log_info("%s: logits within %.2g, history within %.2g", golden_name(c), r.worst_logits,
                    r.worst_history);
    fb_generation_destroy(generation);
    fb_model_destroy(model);
}

Test(golden_generate, there_are_cases) {
    cr_assert_geq(golden_count("gen", ""), 25);
}

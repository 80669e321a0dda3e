/* Whole generations. Every recorded run of the paper's engine (golden/paper/gen) is repeated with
 * compat = released, pass by pass: decisions and tokens exactly, logits and cached parts within
 * their tolerances. Then what the default promises. */
#include "golden_case.h"
#include "golden_list.h"
#include "half.h"
#include "numbers.h"

#include <flashblock/generate.h>

#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_PROMPTS = 8, MAX_STOPS = 8 };

/* spec of the golden data: tiny-model logits, attention outputs, confidences */
static const double logits_tolerance = 3e-4, history_tolerance = 5e-5, confidence_tolerance = 1e-4;

static fb_model *load(const char *name) {
    char below[256];
    fb_model *model = NULL;
    snprintf(below, sizeof below, "golden/paper/%s", name);
    cr_assert_eq(fb_model_load(golden_source_path(below), &model), FB_OK, "%s", fb_error_message());
    return model;
}

static fb_generation *generate(fb_model *model, const fb_prompt *prompts, size_t num_prompts,
                               const fb_generate_options *options) {
    fb_generation *generation = NULL;
    cr_assert_eq(fb_generate(model, prompts, num_prompts, options, &generation), FB_OK, "%s",
                 fb_error_message());
    return generation;
}

/* ---- golden runs
 * ---------------------------------------------------------------------------------*/

ParameterizedTestParameters(generate, golden) {
    golden_file *files;
    size_t count = golden_list("gen", "", &files);
    return cr_make_param_array(golden_file, files, count);
}

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

ParameterizedTest(golden_file *file, generate, golden) {
    replay r = {.c = golden_open(file->name)};
    fb_model *model = load(golden_text(r.c, "model"));
    r.config = fb_model_get_config(model);
    read_case(&r);
    r.options.on_step = check_event;
    r.options.user = &r;
    fb_generation *generation = generate(model, r.prompts, r.num_prompts, &r.options);
    cr_assert_eq(r.steps_seen, r.num_steps, "%s: %zu passes of %zu", golden_name(r.c), r.steps_seen,
                 r.num_steps);
    cr_assert_eq(generation->decode_passes, r.num_steps);
    for (size_t i = 0; i < r.num_prompts; i++)
        check_result(&r, i, &generation->results[i]);
    cr_log_info("%s: logits within %.2g, history within %.2g", golden_name(r.c), r.worst_logits,
                r.worst_history);
    fb_generation_destroy(generation);
    fb_model_destroy(model);
    golden_close(r.c);
}

Test(generate, there_are_golden_cases) {
    cr_assert_geq(golden_count("gen", ""), 25);
}

/* ---- the default
 * -----------------------------------------------------------------------------------*/

/* Prompts of ordinary tokens of m1 (vocabulary 512, special tokens from 508 on) and m2 (320, 317).
 */
typedef struct prompts {
    fb_prompt list[MAX_PROMPTS];
    int32_t tokens[MAX_PROMPTS][64];
} prompts;

static void random_prompts(prompts *p, const size_t *lengths, size_t count, uint32_t name) {
    random_stream random = random_named(name);
    for (size_t i = 0; i < count; i++) {
        for (size_t j = 0; j < lengths[i]; j++)
            p->tokens[i][j] = (int32_t)random_between(&random, 0, 299);
        p->list[i] = (fb_prompt){p->tokens[i], lengths[i]};
    }
}

static fb_generate_options small_options(size_t tau) {
    fb_generate_options options = fb_generate_options_default();
    options.reuse.tau = tau;
    options.max_tokens = 24;
    options.confidence_threshold = 0.5;
    options.ignore_stop = true;
    return options;
}

static void expect_same_results(const char *what, const fb_generate_result *a,
                                const fb_generate_result *b) {
    cr_assert_eq(a->num_tokens, b->num_tokens, "%s: %zu tokens, %zu", what, a->num_tokens,
                 b->num_tokens);
    for (size_t i = 0; i < a->num_tokens; i++)
        cr_assert(a->tokens[i] == b->tokens[i] && a->unmask_step[i] == b->unmask_step[i],
                  "%s: token %zu is %d at step %d, %d at step %d", what, i, a->tokens[i],
                  a->unmask_step[i], b->tokens[i], b->unmask_step[i]);
    cr_assert_eq(a->finish_reason, b->finish_reason, "%s", what);
}

/* All logits of a run, FNV-1a over their bits. */
typedef struct logits_hash {
    uint64_t hash;
    size_t vocab_size;
} logits_hash;

static bool hash_logits(void *user, const fb_generate_event *event) {
    logits_hash *h = user;
    for (size_t i = 0; event->logits && i < event->block_size * h->vocab_size; i++)
        h->hash = (h->hash ^ fb_f32_to_bits(event->logits[i])) * 1099511628211u;
    return true;
}

static void expect_dense(const char *name, fb_remasking remasking, double temperature) {
    static const size_t lengths[3] = {21, 8, 3};
    prompts p;
    random_prompts(&p, lengths, 3, 1);
    fb_model *model = load(name);
    size_t vocab_size = fb_model_get_config(model)->vocab_size;
    logits_hash hashes[2] = {{0, vocab_size}, {0, vocab_size}};
    fb_generation *runs[2];
    for (size_t tau = 0; tau < 2; tau++) {
        fb_generate_options options = small_options(tau);
        options.remasking = remasking;
        options.temperature = temperature;
        options.on_step = hash_logits;
        options.user = &hashes[tau];
        runs[tau] = generate(model, p.list, 3, &options);
    }
    cr_assert_eq(runs[1]->counts.reuses, 0);
    cr_assert_gt(runs[1]->counts.stores, 0);
    cr_assert_eq(runs[0]->counts.stores, 0);
    for (size_t i = 0; i < 3; i++)
        expect_same_results(name, &runs[0]->results[i], &runs[1]->results[i]);
    cr_assert_eq(hashes[0].hash, hashes[1].hash, "%s, %s: logits of tau 0 and tau 1 differ", name,
                 fb_remasking_name(remasking));
    fb_generation_destroy(runs[0]);
    fb_generation_destroy(runs[1]);
    fb_model_destroy(model);
}

Test(generate, tau_one_is_dense_bit_for_bit) {
    for (int remasking = 0; remasking <= (int)FB_ENTROPY_BOUNDED; remasking++) {
        expect_dense("model/m1", (fb_remasking)remasking, 0.0);
        expect_dense("model/m2", (fb_remasking)remasking, 0.8);
    }
}

Test(generate, batch_does_not_change_decisions) {
    static const size_t lengths[3] = {21, 8, 3};
    prompts p;
    random_prompts(&p, lengths, 3, 2);
    fb_model *model = load("model/m1");
    fb_generate_options options = small_options(3);
    fb_generation *together = generate(model, p.list, 3, &options);
    cr_assert_gt(together->counts.reuses, 0);
    for (size_t i = 0; i < 3; i++) {
        fb_generation *alone = generate(model, &p.list[i], 1, &options);
        expect_same_results("alone", &together->results[i], &alone->results[0]);
        cr_assert_eq(memcmp(&together->results[i].counts, &alone->results[0].counts,
                            sizeof(fb_generate_counts)),
                     0, "prompt %zu: counts", i);
        fb_generation_destroy(alone);
    }
    fb_generation_destroy(together);
    fb_model_destroy(model);
}

/* Sampled, with one, two and all prompts active, and with prompts prefilled in small chunks. */
Test(generate, draws_depend_on_the_seed_alone) {
    static const size_t lengths[5] = {21, 8, 3, 30, 14};
    prompts p;
    random_prompts(&p, lengths, 5, 3);
    fb_model *model = load("model/m1");
    fb_generate_options options = small_options(2);
    options.temperature = 1.0;
    options.seed = 12345678901234u;
    fb_generation *first = generate(model, p.list, 5, &options);
    for (size_t active = 1; active <= 2; active++) {
        options.max_active = active;
        options.prefill_chunk = 5 * active;
        fb_generation *other = generate(model, p.list, 5, &options);
        for (size_t i = 0; i < 5; i++)
            expect_same_results("other batch", &first->results[i], &other->results[i]);
        fb_generation_destroy(other);
    }
    options.seed++;
    fb_generation *other = generate(model, p.list, 5, &options);
    cr_assert_neq(memcmp(first->results[0].tokens, other->results[0].tokens, 24 * sizeof(int32_t)),
                  0);
    fb_generation_destroy(other);
    fb_generation_destroy(first);
    fb_model_destroy(model);
}

/* What must hold of any pass. */
typedef struct observer {
    size_t events, stop_after; /* 0: never */
    size_t reuses, commits, new_tokens;
    int32_t mask_token;
    const prompts *prompts;
} observer;

static bool observe(void *user, const fb_generate_event *event) {
    observer *o = user;
    for (size_t i = 0; i < event->block_size; i++) {
        cr_assert(!event->accepted[i] || event->masked_before[i]);
        cr_assert_eq(event->masked_after[i], event->masked_before[i] && !event->accepted[i]);
        cr_assert(event->masked_before[i] || event->before[i] == event->after[i]);
        if (event->proposed)
            cr_assert_neq(event->proposed[i], o->mask_token);
        size_t position = event->context_length + i;
        const fb_prompt *prompt = &o->prompts->list[event->sequence];
        if (position < prompt->num_tokens)
            cr_assert_eq(event->after[i], prompt->tokens[position]);
    }
    if (event->commit && event->finished)
        cr_assert_lt(event->finish_reason, FB_FINISH_CANCELLED);
    o->reuses += event->action == FB_REUSE;
    o->commits += event->commit;
    o->new_tokens += event->num_new;
    return ++o->events != o->stop_after;
}

Test(generate, prompts_of_every_length) {
    fb_model *model = load("model/m1");
    for (size_t length = 0; length <= 9; length++) {
        prompts p;
        random_prompts(&p, &length, 1, 4);
        for (size_t max_tokens = 1; max_tokens <= 9; max_tokens += 2) {
            observer o = {.mask_token = 511, .prompts = &p};
            fb_generate_options options = small_options(2);
            options.max_tokens = max_tokens;
            options.on_step = observe;
            options.user = &o;
            fb_generation *generation = generate(model, p.list, 1, &options);
            const fb_generate_result *result = &generation->results[0];
            cr_assert_eq(result->num_tokens, max_tokens, "prompt of %zu: %zu tokens, not %zu",
                         length, result->num_tokens, max_tokens);
            cr_assert_eq(result->finish_reason, FB_FINISH_LENGTH);
            cr_assert_eq(o.new_tokens, max_tokens);
            cr_assert_eq(result->counts.prefill_tokens, length - length % 4);
            cr_assert_eq(o.reuses, result->counts.reuses);
            cr_assert_eq(o.commits, (length % 4 + max_tokens + 3) / 4);
            fb_generation_destroy(generation);
        }
    }
    fb_model_destroy(model);
}

/* The literal mask token in the prompt, in prefilled blocks and in the incomplete one. */
Test(generate, mask_token_in_the_prompt_is_not_denoised) {
    static const size_t length = 11;
    prompts p;
    random_prompts(&p, &length, 1, 5);
    p.tokens[0][2] = p.tokens[0][9] = p.tokens[0][10] = 511;
    fb_model *model = load("model/m1");
    observer o = {.mask_token = 511, .prompts = &p};
    fb_generate_options options = small_options(2);
    options.on_step = observe;
    options.user = &o;
    fb_generation *generation = generate(model, p.list, 1, &options);
    cr_assert_eq(generation->counts.accepted_tokens, 25); /* 24, and one to fill the block */
    fb_generation_destroy(generation);
    fb_model_destroy(model);
}

Test(generate, stops_at_a_stop_token) {
    static const size_t length = 10;
    prompts p;
    random_prompts(&p, &length, 1, 6);
    fb_model *model = load("model/m1");
    fb_generate_options options = small_options(2);
    fb_generation *whole = generate(model, p.list, 1, &options);
    int32_t stop = whole->results[0].tokens[9];
    size_t first = 0;
    while (whole->results[0].tokens[first] != stop)
        first++;
    options.stop_tokens = &stop;
    options.num_stop_tokens = 1;
    options.ignore_stop = false;
    fb_generation *stopped = generate(model, p.list, 1, &options);
    cr_assert_eq(stopped->results[0].finish_reason, FB_FINISH_STOP);
    cr_assert_eq(stopped->results[0].num_tokens, first + 1);
    cr_assert_eq(stopped->results[0].tokens[first], stop);
    fb_generation_destroy(stopped);
    fb_generation_destroy(whole);
    fb_model_destroy(model);
}

Test(generate, cancelling_keeps_what_is_committed) {
    static const size_t lengths[4] = {10, 5, 9, 7};
    prompts p;
    random_prompts(&p, lengths, 4, 7);
    fb_model *model = load("model/m1");
    for (size_t stop_after = 1; stop_after < 40; stop_after += 3) {
        observer o = {.mask_token = 511, .prompts = &p, .stop_after = stop_after};
        fb_generate_options options = small_options(2);
        options.max_tokens = 200;
        options.max_active = 2;
        options.on_step = observe;
        options.user = &o;
        fb_generation *generation = generate(model, p.list, 4, &options);
        cr_assert_eq(o.events, stop_after);
        size_t tokens = 0;
        for (size_t i = 0; i < 4; i++) {
            cr_assert_eq(generation->results[i].finish_reason, FB_FINISH_CANCELLED);
            tokens += generation->results[i].num_tokens;
        }
        cr_assert_eq(tokens, o.new_tokens);
        cr_assert_eq(generation->results[3].num_tokens, 0);
        fb_generation_destroy(generation);
    }
    fb_model_destroy(model);
}

static void copy_file(const char *from, const char *to) {
    FILE *source = fopen(from, "rb"), *target = fopen(to, "wb");
    cr_assert(source && target, "%s, %s", from, to);
    char buffer[1 << 16];
    for (size_t count; (count = fread(buffer, 1, sizeof buffer, source)) > 0;)
        cr_assert_eq(fwrite(buffer, 1, count, target), count);
    fclose(source);
    cr_assert_eq(fclose(target), 0);
}

/* m2 with fewer positions, from a folder of its own. */
static fb_model *load_short(size_t positions) {
    char folder[] = "/tmp/flashblock-test-XXXXXX", from[4096 + 256], config[64], weights[64];
    cr_assert_not_null(mkdtemp(folder));
    snprintf(config, sizeof config, "%s/config.json", folder);
    snprintf(weights, sizeof weights, "%s/model.safetensors", folder);
    snprintf(from, sizeof from, "%s/model/m2/config.json", golden_folder());
    json_t *fields = json_load_file(from, 0, NULL);
    cr_assert_not_null(fields, "%s", from);
    json_object_set_new(fields, "max_position_embeddings", json_integer((json_int_t)positions));
    cr_assert_eq(json_dump_file(fields, config, 0), 0, "%s", config);
    json_decref(fields);
    snprintf(from, sizeof from, "%s/model/m2/model.safetensors", golden_folder());
    copy_file(from, weights);
    fb_model *model = NULL;
    cr_assert_eq(fb_model_load(folder, &model), FB_OK, "%s", fb_error_message());
    unlink(config);
    unlink(weights);
    rmdir(folder);
    return model;
}

Test(generate, ends_with_the_positions_of_the_model) {
    static const size_t length = 53;
    prompts p;
    random_prompts(&p, &length, 1, 9);
    fb_model *model = load_short(64); /* 6 blocks of 8 prefilled, one of 5 + 3, one more */
    fb_generate_options options = small_options(2);
    options.kv_dtype = FB_BF16;
    fb_generation *generation = generate(model, p.list, 1, &options);
    cr_assert_eq(generation->results[0].finish_reason, FB_FINISH_CONTEXT);
    cr_assert_eq(generation->results[0].num_tokens, 11);
    fb_generation_destroy(generation);
    options.max_tokens = 11;
    generation = generate(model, p.list, 1, &options);
    cr_assert_eq(generation->results[0].finish_reason, FB_FINISH_LENGTH);
    fb_generation_destroy(generation);
    fb_model_destroy(model);

    model = load_short(55);
    cr_assert_eq(fb_generate(model, p.list, 1, &options, &generation), FB_ERROR_ARGUMENT);
    cr_assert_not_null(strstr(fb_error_message(), "no room"), "%s", fb_error_message());
    fb_model_destroy(model);
}

Test(generate, counts_add_up) {
    static const size_t lengths[3] = {21, 8, 3};
    prompts p;
    random_prompts(&p, lengths, 3, 8);
    fb_model *model = load("model/m1");
    fb_generate_options options = small_options(4);
    fb_generation *generation = generate(model, p.list, 3, &options);
    const fb_generate_counts *sum = &generation->counts;
    fb_generate_counts parts = {0};
    for (size_t i = 0; i < 3; i++) {
        const fb_generate_counts *counts = &generation->results[i].counts;
        cr_assert_eq(counts->denoising_steps, counts->refreshes + counts->reuses);
        cr_assert_leq(counts->stores, counts->refreshes);
        cr_assert_eq(counts->completion_tokens, generation->results[i].num_tokens);
        parts.denoising_steps += counts->denoising_steps;
        parts.commits += counts->commits;
        parts.prefill_tokens += counts->prefill_tokens;
        parts.completion_tokens += counts->completion_tokens;
    }
    cr_assert_eq(sum->denoising_steps, parts.denoising_steps);
    cr_assert_eq(sum->commits, parts.commits);
    cr_assert_eq(sum->prefill_tokens, parts.prefill_tokens);
    cr_assert_eq(sum->completion_tokens, 72);
    cr_assert_gt(sum->reuses, 0);
    cr_assert_eq(generation->prefill_passes, 1);
    cr_assert_geq(sum->denoising_steps + sum->commits, generation->decode_passes);
    cr_assert_gt(generation->decode.attention, 0.0);
    cr_assert_geq(generation->decode.total,
                  generation->decode.attention + generation->decode.linear);
    cr_assert_geq(generation->seconds, generation->prefill.total + generation->decode.total);
    fb_generation_destroy(generation);
    fb_model_destroy(model);
}

Test(generate, no_prompts_no_results) {
    fb_model *model = load("model/m1");
    fb_generate_options options = small_options(2);
    fb_generation *generation = generate(model, NULL, 0, &options);
    cr_assert_eq(generation->num_results, 0);
    fb_generation_destroy(generation);
    fb_generation_destroy(NULL);
    fb_model_destroy(model);
}

/* ---- bad input
 * -------------------------------------------------------------------------------------*/

static void expect_error(fb_model *model, const fb_prompt *prompts_, size_t num_prompts,
                         const fb_generate_options *options, const char *named) {
    fb_generation *generation = NULL;
    cr_assert_eq(fb_generate(model, prompts_, num_prompts, options, &generation), FB_ERROR_ARGUMENT,
                 "%s is accepted", named);
    cr_assert_null(generation);
    cr_assert_not_null(strstr(fb_error_message(), named), "\"%s\" does not name %s",
                       fb_error_message(), named);
    cr_assert_null(strchr(fb_error_message(), '\n'));
}

Test(generate, bad_options_are_named) {
    fb_model *model = load("model/m1");
    const int32_t tokens[2] = {1, 2};
    const fb_prompt prompt = {tokens, 2};
#define EXPECT_BAD(field, value, named)                                                            \
    do {                                                                                           \
        fb_generate_options options_ = small_options(2);                                           \
        options_.field = value;                                                                    \
        expect_error(model, &prompt, 1, &options_, named);                                         \
    } while (0)
    EXPECT_BAD(max_tokens, 0, "max_tokens");
    EXPECT_BAD(block_size, 5000, "block_size");
    EXPECT_BAD(compat, (fb_compat)7, "compat");
    EXPECT_BAD(overwrite_decided, true, "overwrite_decided");
    EXPECT_BAD(remasking, (fb_remasking)9, "remasking");
    EXPECT_BAD(confidence_threshold, NAN, "confidence_threshold");
    EXPECT_BAD(entropy_bound, -0.5, "entropy_bound");
    EXPECT_BAD(temperature, -1.0, "temperature");
    EXPECT_BAD(temperature, (double)INFINITY, "temperature");
    EXPECT_BAD(top_p, 0.0, "top_p");
    EXPECT_BAD(top_p, 1.5, "top_p");
    EXPECT_BAD(num_stop_tokens, 1, "stop_tokens");
    EXPECT_BAD(mask_token_id, 512, "mask_token_id");
    EXPECT_BAD(mask_token_id, -2, "mask_token_id");
    EXPECT_BAD(kv_dtype, (fb_dtype)9, "kv_dtype");
#undef EXPECT_BAD
    fb_model_destroy(model);
}

Test(generate, bad_prompts_are_named) {
    fb_model *model = load("model/m1");
    const int32_t bad[2][3] = {{1, 512, 2}, {1, 2, -1}};
    fb_generate_options options = small_options(2);
    fb_prompt list[2] = {{bad[0], 1}, {bad[0], 3}};
    expect_error(model, list, 2, &options, "prompt 1: token 1 is 512");
    list[1] = (fb_prompt){bad[1], 3};
    expect_error(model, list, 2, &options, "prompt 1: token 2 is -1");
    list[1] = (fb_prompt){NULL, 3};
    expect_error(model, list, 2, &options, "prompt 1: tokens is NULL");
    expect_error(model, NULL, 2, &options, "prompts is NULL");
    expect_error(NULL, list, 1, &options, "model is NULL");
    expect_error(model, list, 1, NULL, "options is NULL");
    fb_model_destroy(model);
}

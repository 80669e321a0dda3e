/* The paper's SDARAttention over scripted blocks: projections, norms, rotary positions, KV cache,
 * FlashBlock's refreshes and reuses, output projection. Every file CASE_tauN of the folder
 * sdar_attn, with its weights and hidden states in CASE_inputs.
 *
 * The class decides for the whole batch by its first row, keeps a history part at every refresh,
 * and forgets it after one reuse; the files were made by putting it back, as the engine does. */
#include "golden_case.h"
#include "golden_list.h"
#include "layers.h"
#include "linear.h"
#include "memory.h"
#include "rope.h"

#include <flashblock/flashblock.h>

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What two float32 implementations of this layer may differ by: 5e-6 to 5e-5 for values of
 * magnitude 3; the lower end does. */
static const double tolerance = 5e-6;

enum { MAX_BATCH = 4, MAX_BLOCK = 64, MAX_HEAD_DIM = 512 };

typedef struct attention {
    golden_case *c, *inputs;
    size_t batch, block, prefix, hidden, heads, kv_heads, head_dim, tau;
    double eps;
    fb_matrix q, k, v, o;
    const float *q_norm, *k_norm;
    float inv_freq[MAX_HEAD_DIM / 2];
    fb_linear_scratch scratch;
    fb_kv_cache *kv[MAX_BATCH];
    fb_part_cache *parts[MAX_BATCH];
    size_t dirty, reuses;
} attention;

static float *floats(size_t count) {
    float *values = calloc(count, sizeof *values);
    cr_assert_not_null(values);
    return values;
}

#define EXPECT_OK(call) cr_assert_eq((call), FB_OK, "%s", fb_error_message())

/* --- setting up ------------------------------------------------------------------------------- */

static fb_matrix projection(attention *a, const char *name) {
    const fb_tensor_view *weight = golden_tensor(a->inputs, "w.self_attn.%s.weight", name);
    fb_matrix matrix = {
        .data = weight->data, .rows = weight->shape[0], .columns = weight->shape[1]};
    EXPECT_OK(fb_tensor_storage(weight, &matrix.dtype));
    if (json_is_true(golden_param(a->c, "attention_bias")))
        matrix.bias = (float *)(uintptr_t)golden_f32(a->inputs, "w.self_attn.%s.bias", name);
    return matrix;
}

static void open_inputs(attention *a) {
    char name[256];
    snprintf(name, sizeof name, "sdar_attn/%s", golden_text(a->c, "inputs_file"));
    a->inputs = golden_open(name);
    a->q = projection(a, "q_proj");
    a->k = projection(a, "k_proj");
    a->v = projection(a, "v_proj");
    a->o = projection(a, "o_proj");
    a->q_norm = golden_f32(a->inputs, "w.self_attn.q_norm.weight");
    a->k_norm = golden_f32(a->inputs, "w.self_attn.k_norm.weight");
}

static attention set_up(golden_case *c) {
    attention a = {.c = c};
    a.batch = golden_size(c, "B");
    a.block = golden_size(c, "L");
    a.prefix = golden_size(c, "P");
    a.hidden = golden_size(c, "hidden");
    a.heads = golden_size(c, "num_heads");
    a.kv_heads = golden_size(c, "num_kv_heads");
    a.head_dim = golden_size(c, "head_dim");
    a.tau = golden_size(c, "tau");
    a.eps = golden_real(c, "rms_norm_eps");
    cr_assert(a.batch <= MAX_BATCH && a.block <= MAX_BLOCK && a.head_dim <= MAX_HEAD_DIM);
    fb_linear_setup();
    open_inputs(&a);
    fb_rope_frequencies(a.head_dim, golden_real(c, "rope_theta"), a.inv_freq);
    fb_kv_cache_config config = {1, a.kv_heads, a.head_dim, FB_F32};
    for (size_t b = 0; b < a.batch; b++) {
        EXPECT_OK(fb_kv_cache_create(&config, &a.kv[b]));
        EXPECT_OK(fb_part_cache_create(1, a.block, a.heads, a.head_dim, &a.parts[b]));
    }
    return a;
}

static void tear_down(attention *a) {
    for (size_t b = 0; b < a->batch; b++) {
        fb_kv_cache_destroy(a->kv[b]);
        fb_part_cache_destroy(a->parts[b]);
    }
    fb_linear_scratch_free(&a->scratch);
    golden_close(a->inputs);
}

/* --- one call --------------------------------------------------------------------------------- */

/* A call of the class on one batch row. */
typedef struct class_call {
    size_t index, row, num_tokens, first; /* first: position of the first token */
    bool prefill;
    fb_reuse_action action;
    const float *hidden; /* [num_tokens, hidden] */
} class_call;

static void project(attention *a, const fb_matrix *matrix, const float *x, size_t num_tokens,
                    float *y) {
    fb_linear_input input = {x, &num_tokens, 1};
    fb_linear_output output = {matrix, y};
    EXPECT_OK(fb_linear(&a->scratch, &input, &output, 1));
}

static void place(const attention *a, const class_call *call, float *x, size_t heads,
                  const float *weight) {
    size_t dim = a->head_dim, half = dim / 2;
    float cosines[MAX_HEAD_DIM / 2], sines[MAX_HEAD_DIM / 2];
    for (size_t i = 0; i < call->num_tokens; i++) {
        fb_rope_angles(a->inv_freq, half, call->first + i, cosines, sines);
        for (size_t h = 0; h < heads; h++) {
            float *head = x + (i * heads + h) * dim;
            fb_rms_norm(head, weight, a->eps, dim, head);
            fb_rope_rotate(cosines, sines, half, head);
        }
    }
}

/* q  [num_tokens, heads, head_dim], already placed; keys and values are in the cache. */
static void attend(attention *a, const class_call *call, const float *q, float *out, float *lse) {
    fb_queries queries = fb_queries_rows(q, call->num_tokens, a->heads, a->head_dim);
    fb_part result = fb_part_rows(out, lse, a->heads, a->head_dim);
    fb_kv_cache *cache = a->kv[call->row];
    if (!call->prefill) {
        EXPECT_OK(fb_block_attend(&queries, cache, 0, call->action, FB_COMPAT_PAPER,
                                  a->parts[call->row], 0.0f, &result));
        return;
    }
    fb_kv kv;
    EXPECT_OK(fb_kv_cache_layer(cache, 0, &kv));
    fb_range range = {0, call->num_tokens};
    fb_view view = {&kv, &range, 1};
    fb_mask mask = {FB_MASK_BLOCK_CAUSAL, a->block, 0, 0};
    EXPECT_OK(fb_attend(&queries, &view, &mask, 0.0f, &result));
}

static void run_call(attention *a, const class_call *call) {
    size_t n = call->num_tokens, q_width = a->heads * a->head_dim;
    size_t kv_width = a->kv_heads * a->head_dim;
    float *q = floats(n * q_width), *k = floats(n * kv_width), *v = floats(n * kv_width);
    float *attended = floats(n * q_width), *lse = floats(n * a->heads),
          *out = floats(n * a->hidden);
    project(a, &a->q, call->hidden, n, q);
    project(a, &a->k, call->hidden, n, k);
    project(a, &a->v, call->hidden, n, v);
    place(a, call, q, a->heads, a->q_norm);
    place(a, call, k, a->kv_heads, a->k_norm);
    EXPECT_OK(fb_kv_cache_write(a->kv[call->row], 0, call->first, n, k, v));
    attend(a, call, q, attended, lse);
    project(a, &a->o, attended, n, out);
    char what[300];
    snprintf(what, sizeof what, "%s: call %zu, batch row %zu", golden_name(a->c), call->index,
             call->row);
    const float *want = golden_f32(a->c, "call%02zu.out", call->index);
    double difference =
        golden_expect_close(what, out, want + call->row * n * a->hidden, n * a->hidden, tolerance);
    cr_log_info("%s: off by %.2e", what, difference);
    float *all[] = {q, k, v, attended, lse, out};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

/* --- what a refresh keeps, and what is committed ---------------------------------------------- */

/* The class gives a history of no tokens the log-sum-exp +inf; here it is -inf. */
static void expect_lse(const attention *a, const class_call *call, const float *got,
                       const float *want) {
    for (size_t i = 0; i < call->num_tokens * a->heads; i++) {
        if (call->first == 0)
            cr_assert(isinf(want[i]) && got[i] == -INFINITY, "call %zu: lse[%zu] is %g, not -inf",
                      call->index, i, (double)got[i]);
        else
            golden_expect_close(golden_name(a->c), &got[i], &want[i], 1, tolerance);
    }
}

static void expect_part(attention *a, const class_call *call) {
    if (!golden_has(a->c, "call%02zu.past_out", call->index)) {
        cr_assert(a->tau == 0 || call->action != FB_REFRESH_AND_STORE);
        return;
    }
    cr_assert_eq(call->action, FB_REFRESH_AND_STORE);
    fb_part part;
    EXPECT_OK(fb_part_cache_load(a->parts[call->row], 0, a->kv[call->row], FB_COMPAT_PAPER, &part));
    size_t rows = call->num_tokens * a->heads, values = rows * a->head_dim;
    const float *out = golden_f32(a->c, "call%02zu.past_out", call->index) + call->row * values;
    const float *lse = golden_f32(a->c, "call%02zu.past_lse", call->index) + call->row * rows;
    golden_expect_close(golden_name(a->c), part.out, out, values, tolerance);
    expect_lse(a, call, part.lse, lse);
}

/* kv.k, kv.v  [B, kv_heads, S, head_dim]; ours is [S, kv_heads, head_dim]. */
static void expect_kv(attention *a) {
    size_t tokens = golden_tensor(a->c, "kv.k")->shape[2], dim = a->head_dim;
    const float *want[2] = {golden_f32(a->c, "kv.k"), golden_f32(a->c, "kv.v")};
    float *got[2] = {floats(tokens * a->kv_heads * dim), floats(tokens * a->kv_heads * dim)};
    for (size_t b = 0; b < a->batch; b++) {
        cr_assert_eq(fb_kv_cache_length(a->kv[b]), tokens);
        EXPECT_OK(fb_kv_cache_read(a->kv[b], 0, 0, tokens, got[0], got[1]));
        for (size_t i = 0; i < 2 * a->kv_heads * tokens; i++) {
            size_t which = i % 2, token = i / 2 % tokens, head = i / 2 / tokens;
            golden_expect_close(
                which ? "kv.v" : "kv.k", got[which] + (token * a->kv_heads + head) * dim,
                want[which] + ((b * a->kv_heads + head) * tokens + token) * dim, dim, tolerance);
        }
    }
    free(got[0]);
    free(got[1]);
}

/* --- the script ------------------------------------------------------------------------------- */

enum { PREFILL = 0, DENOISE, COMMIT };

/* A row of `calls`: what the class was asked, and what it decided. */
typedef struct script_line {
    int32_t kind, block, step, need_update, dirty;
} script_line;

static const float *hidden_of(attention *a, const script_line *line) {
    if (line->kind == PREFILL)
        return golden_f32(a->inputs, "hidden.prefill");
    if (line->kind == COMMIT)
        return golden_f32(a->inputs, "hidden.b%dcommit", (int)line->block);
    return golden_f32(a->inputs, "hidden.b%ds%d", (int)line->block, (int)line->step);
}

/* Decides as the rule says, expects that the class decided so, and counts dirty tokens. */
static fb_reuse_action decide(attention *a, const script_line *line) {
    if (line->kind != DENOISE)
        return FB_REFRESH_ONLY;
    if (line->step == 0)
        a->dirty = 0;
    fb_reuse_policy policy = {.tau = a->tau};
    fb_reuse_step step = {.denoising_step = (size_t)line->step,
                          .denoising_steps = SIZE_MAX,
                          .dirty_tokens = a->dirty,
                          .masked_tokens = SIZE_MAX,
                          .budget = 1};
    fb_reuse_action action = fb_reuse_decide(&policy, &step);
    cr_assert_eq((size_t)line->dirty, a->dirty, "block %d, step %d: %zu dirty tokens, expected %d",
                 (int)line->block, (int)line->step, a->dirty, (int)line->dirty);
    cr_assert_eq(action == FB_REUSE, line->need_update == 0, "block %d, step %d: action is %s",
                 (int)line->block, (int)line->step, fb_reuse_action_name(action));
    if (action == FB_REUSE)
        a->reuses++;
    else
        a->dirty = 0;
    const json_t *block = json_array_get(golden_param(a->c, "accepted"), (size_t)line->block);
    a->dirty += json_array_size(json_array_get(block, (size_t)line->step));
    return action;
}

static void run_line(attention *a, size_t index, const script_line *line) {
    class_call call = {.index = index, .prefill = line->kind == PREFILL, .action = decide(a, line)};
    call.num_tokens = call.prefill ? a->prefix : a->block;
    call.first = fb_kv_cache_length(a->kv[0]);
    const float *hidden = hidden_of(a, line);
    for (call.row = 0; call.row < a->batch; call.row++) {
        call.hidden = hidden + call.row * call.num_tokens * a->hidden;
        run_call(a, &call);
        expect_part(a, &call);
        if (line->kind != DENOISE)
            EXPECT_OK(fb_kv_cache_commit(a->kv[call.row], call.num_tokens));
    }
}

GOLDEN_TEST(sdar_attention, scripted_blocks, "sdar_attn", "") {
    if (!golden_has(c, "calls")) /* an inputs file */
        return;
    attention a = set_up(c);
    const int32_t *calls = golden_i32(c, "calls");
    size_t num_calls = golden_tensor(c, "calls")->shape[0];
    for (size_t i = 0; i < num_calls; i++) {
        const int32_t *line = calls + 5 * i;
        run_line(&a, i, &(script_line){line[0], line[1], line[2], line[3], line[4]});
    }
    expect_kv(&a);
    cr_assert_eq((json_int_t)a.reuses, json_integer_value(golden_json(c, "n_reuse_steps")));
    tear_down(&a);
}

Test(sdar_attention, golden_cases_are_there) {
    cr_assert_gt(golden_count("sdar_attn", ""), 1, "%s/sdar_attn holds none", golden_folder());
}

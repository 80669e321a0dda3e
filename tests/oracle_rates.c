/* How often the oracle is wrong: emulated kernels (oracle/emulate.h), honest ones and ones with a
 * planted mistake, are judged over seeds, shapes, inputs and arithmetics. docs/results/oracle.md
 * has the tables that it prints.
 *
 *     oracle_rates [DRAWS [SEED [honest | mistakes | sensitivity] [ARITHMETIC]]] [WORD...]
 *     oracle_rates short
 *     oracle_rates DRAWS SEED sigma [ARITHMETIC]
 *
 * DRAWS honest kernels of each arithmetic (of ARITHMETIC only), numbered from SEED; two thirds play
 * a sequence of passes, the others compute one attention of inputs that are hard in some way. Then
 * as many of each mistake, at most 8; then small mistakes in bf16 at full size. `short`, for
 * ./check: the honest draws that were false alarms once; each mistake once in each arithmetic, in
 * small shapes; the small mistakes. `sigma`: errors of single attentions in units of what the judge
 * expects, DRAWS of each kind of inputs. WORDs: `say` shows each verdict that is not right, `list`
 * every one, tab-separated; `whole`: without key lengths; `few`: only single attentions, in each of
 * which a sequence of the batch has at most 4 keys. The draws are shared among the threads
 * that are set. The exit status is 1 if more than 1 in 1,000 honest kernels fail, or if a mistake
 * passes that has to be seen. */
#include "base/half.h"
#include "base/parallel.h"
#include "base/rng.h"
#include "oracle/emulate.h"
#include "oracle/trial.h"

#include <flashblock/experimental/oracle.h>
#include <flashblock/runtime.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- mistakes --------------------------------------------------------------------------------- */

typedef enum planted {
    HONEST,
    LAST_KEY_DROPPED,
    FIRST_KEY_DROPPED,
    LAST_4_DROPPED,
    ZERO_KEYS,
    SCALE_OFF,
    LSE_OFF,
    LSE_BASE_2,
    WRONG_KV_HEAD,
    STALE,
    STALE_ROW,
    WEIGHTS_SWAPPED,
    CACHED_LSE_BF16,
    CAUSAL_BLOCK,
    NUM_PLANTED
} planted;

static const struct {
    const char *name, *word; /* of the verdict that names it */
} mistakes[] = {
    {"honest", ""},
    {"last key dropped", "the last external key is left out"},
    {"first key dropped", "the first external key is left out"},
    {"last 4 keys dropped", "the last 4 external keys are left out"},
    {"16 keys of zeros too many", "16 keys of zeros are read after the context"},
    {"scale off by 1e-5", "the scale of the scores is off"},
    {"every LSE off by 1e-5", "every LSE is off"},
    {"LSE in base 2", "in base 2"},
    {"head h reads h mod Hk", "the wrong KV head is read"},
    {"stale external part", "not refreshed"},
    {"one stale row", "in token 0 of head 1"},
    {"weights swapped", "the weights of the merge are swapped"},
    {"cached LSE kept in bf16", "LSE is kept in bf16"},
    {"causal in the block", "causal mask is applied in the block"},
};

typedef struct shape {
    size_t heads, kv_heads, dim, block, context;
} shape;

/* An emulated kernel, and what is wrong about it. */
typedef struct kernel {
    fb_arithmetic arithmetic;
    fb_honest how;
    fb_dtype inputs, stored, lse_stored;
    planted mistake;
} kernel;

/* One part: out [block, heads, dim], lse [block, heads]. */
typedef struct part {
    float *out, *lse;
} part;

static void *take(size_t count, size_t size) {
    void *block = calloc(count + 1, size);
    if (!block)
        abort();
    return block;
}

static void ok(fb_status status) {
    if (status != FB_OK) {
        fprintf(stderr, "%s\n", fb_error_message());
        abort();
    }
}

static fb_attention_problem problem_of(const fb_scripted *sequence, const shape *s, const float *q,
                                       const float *k, const float *v, size_t keys) {
    return (fb_attention_problem){.batch = 1,
                                  .queries = s->block,
                                  .keys = keys,
                                  .heads = s->heads,
                                  .kv_heads = s->kv_heads,
                                  .head_dim = s->dim,
                                  .scale = fb_scripted_options_of(sequence)->scale,
                                  .q = q,
                                  .k = k,
                                  .v = v,
                                  .lse_by_token = true};
}

/* Attention by the kernel, with its mistake. */
static void attend(const kernel *k, fb_attention_problem p, bool external, const part *to) {
    size_t kv = p.kv_heads * p.head_dim, *kv_heads = NULL;
    float *longer = NULL;
    if (external && k->mistake == LAST_KEY_DROPPED)
        p.keys -= 1;
    if (external && k->mistake == LAST_4_DROPPED)
        p.keys -= 4;
    if (external && k->mistake == FIRST_KEY_DROPPED)
        p.keys -= 1, p.k += kv, p.v += kv;
    if (external && k->mistake == ZERO_KEYS) {
        longer = take(2 * (p.keys + 16) * kv, sizeof *longer);
        memcpy(longer, p.k, p.keys * kv * sizeof *longer);
        memcpy(longer + (p.keys + 16) * kv, p.v, p.keys * kv * sizeof *longer);
        p.keys += 16;
        p.k = longer, p.v = longer + p.keys * kv;
    }
    if (!external && k->mistake == CAUSAL_BLOCK)
        p.mask = (fb_mask){.kind = FB_MASK_BLOCK_CAUSAL, .block_size = 1};
    if (k->mistake == SCALE_OFF)
        p.scale *= 1.0 + 1e-5;
    if (k->mistake == WRONG_KV_HEAD) {
        kv_heads = take(p.heads, sizeof *kv_heads);
        for (size_t head = 0; head < p.heads; head++)
            kv_heads[head] = head % p.kv_heads;
    }
    ok(fb_honest_attend(&p, &k->how, kv_heads, to->out, to->lse));
    free(longer);
    free(kv_heads);
}

static void merge(const kernel *k, const shape *s, const part *a, const part *b, bool reused,
                  const part *to) {
    size_t rows = s->block * s->heads;
    float *la = take(rows, sizeof *la), *lb = take(rows, sizeof *lb);
    memcpy(la, a->lse, rows * sizeof *la);
    memcpy(lb, b->lse, rows * sizeof *lb);
    for (size_t row = 0; row < rows; row++)
        if (k->mistake == CACHED_LSE_BF16 && reused)
            la[row] = fb_rounded(FB_ROUND_BF16, la[row]);
    fb_honest_merge(&k->how, a->out, la, b->out, lb, rows, s->dim, to->out, to->lse);
    if (k->mistake == WEIGHTS_SWAPPED) {
        float *lse = take(rows, sizeof *lse);
        fb_honest_merge(&k->how, a->out, lb, b->out, la, rows, s->dim, to->out, lse);
        free(lse);
    }
    free(la);
    free(lb);
}

/* --- one sequence ----------------------------------------------------------------------------- */

static float *widened(fb_dtype dtype, const void *stored, size_t count) {
    float *values = take(count, sizeof *values);
    ok(fb_to_f32(dtype, stored, values, count));
    return values;
}

static part part_of(const shape *s) {
    part p = {take(s->block * s->heads * s->dim, sizeof(float)),
              take(s->block * s->heads, sizeof(float))};
    return p;
}

static void release(part *p) {
    free(p->out);
    free(p->lse);
}

/* Rounds values in place to what they are stored in, and gives them to the candidate. */
static void give_tensor(fb_candidate *candidate, const char *name, fb_dtype stored, size_t ndim,
                        const size_t *sizes, float *values) {
    size_t count = 1;
    for (size_t i = 0; i < ndim; i++)
        count *= sizes[i];
    void *narrow = take(count, sizeof(float));
    ok(fb_from_f32(stored, values, narrow, count));
    ok(fb_to_f32(stored, narrow, values, count));
    ok(fb_candidate_add(candidate, name, stored, ndim, sizes, narrow));
    free(narrow);
}

/* A part: what is stored of its output is what goes into a merge. */
static void give(fb_candidate *candidate, const kernel *k, const shape *s, size_t pass,
                 const char *prefix, part *p) {
    const size_t sizes[3] = {s->block, s->heads, s->dim};
    float *lse = take(s->block * s->heads, sizeof *lse);
    char name[40];
    for (size_t i = 0; i < s->block * s->heads; i++) {
        lse[i] = p->lse[i];
        if (k->mistake == LSE_OFF)
            lse[i] += 1e-5f;
        if (k->mistake == LSE_BASE_2)
            lse[i] *= 1.44269504f;
    }
    snprintf(name, sizeof name, "step%02zu.%sout", pass, prefix);
    give_tensor(candidate, name, k->stored, 3, sizes, p->out);
    snprintf(name, sizeof name, "step%02zu.%slse", pass, prefix);
    give_tensor(candidate, name, FB_F32, 2, sizes, lse);
    free(lse);
}

static void copy_row(const shape *s, part *to, const part *from, size_t row) {
    memcpy(to->out + row * s->dim, from->out + row * s->dim, s->dim * sizeof(float));
    to->lse[row] = from->lse[row];
}

/* All passes of the sequence by this kernel. */
static void play(const fb_scripted *sequence, const kernel *k, const shape *s,
                 fb_candidate *candidate) {
    fb_dtype dtype = fb_scripted_options_of(sequence)->dtype;
    size_t values = s->block * s->heads * s->dim, own = s->block * s->kv_heads * s->dim;
    size_t context = s->context * s->kv_heads * s->dim;
    float *ck = widened(dtype, fb_scripted_context_k(sequence), context);
    float *cv = widened(dtype, fb_scripted_context_v(sequence), context);
    part external = part_of(s), before = part_of(s), internal = part_of(s), result = part_of(s);
    for (size_t pass = 0; pass < fb_scripted_num_passes(sequence); pass++) {
        float *q = widened(dtype, fb_scripted_q(sequence, pass), values);
        float *bk = widened(dtype, fb_scripted_k(sequence, pass), own);
        float *bv = widened(dtype, fb_scripted_v(sequence, pass), own);
        fb_reuse_action action = fb_scripted_action(sequence, pass);
        bool refresh = action != FB_REUSE, stale = k->mistake == STALE && pass > 0;
        if (refresh && !stale) {
            memcpy(before.out, external.out, values * sizeof(float));
            memcpy(before.lse, external.lse, s->block * s->heads * sizeof(float));
            attend(k, problem_of(sequence, s, q, ck, cv, s->context), true, &external);
            if (k->mistake == STALE_ROW && pass > 0)
                copy_row(s, &external, &before, 1);
        }
        if (action == FB_REFRESH_AND_STORE)
            give(candidate, k, s, pass, "external_", &external);
        attend(k, problem_of(sequence, s, q, bk, bv, s->block), false, &internal);
        merge(k, s, &external, &internal, !refresh, &result);
        give(candidate, k, s, pass, "", &result);
        free(q);
        free(bk);
        free(bv);
    }
    part *parts[] = {&external, &before, &internal, &result};
    for (size_t i = 0; i < 4; i++)
        release(parts[i]);
    free(ck);
    free(cv);
}

/* --- draws ------------------------------------------------------------------------------------ */

static size_t choice(uint64_t seed, uint32_t question, size_t answers) {
    return (size_t)(fb_random_uniform(seed, question, 0x72617465u, 0, 0) * (double)answers);
}

static kernel draw_kernel(uint64_t seed, fb_arithmetic arithmetic, planted mistake) {
    kernel k = {.arithmetic = arithmetic, .mistake = mistake, .inputs = FB_F32};
    k.how = fb_honest_draw(arithmetic, seed);
    if (arithmetic == FB_ARITHMETIC_BF16 || arithmetic == FB_ARITHMETIC_FP8)
        k.inputs = FB_BF16;
    if (arithmetic == FB_ARITHMETIC_F16)
        k.inputs = FB_F16;
    k.stored = choice(seed, 10, 5) == 0 ? FB_F32 : k.inputs; /* all results in float32 */
    k.lse_stored = choice(seed, 11, 16) == 0 ? k.stored : FB_F32;
    return k;
}

static shape draw_shape(uint64_t seed, planted mistake) {
    static const size_t dims[] = {16, 32, 64, 80, 128}, groups[] = {1, 2, 3, 4};
    shape s = {.kv_heads = 2 + choice(seed, 1, 3), .dim = dims[choice(seed, 2, 5)]};
    s.heads = s.kv_heads * groups[choice(seed, 3, 4)];
    s.block = 4 + 2 * choice(seed, 4, 3);
    s.context = 40 + choice(seed, 5, choice(seed, 6, 2) ? 600 : 100);
    if (choice(seed, 7, 100) == 0)
        s.context = 4096;
    if (mistake == WRONG_KV_HEAD && s.heads == s.kv_heads)
        s.heads *= 2;
    return s;
}

/* One that is judged in a tenth of the time. */
static shape draw_small_shape(uint64_t seed, planted mistake) {
    static const size_t dims[] = {16, 32, 64};
    shape s = draw_shape(seed, mistake);
    s.heads = s.heads / s.kv_heads * 2;
    s.kv_heads = 2;
    s.dim = dims[choice(seed, 2, 3)];
    s.context = 40 + choice(seed, 5, 100);
    return s;
}

static fb_report *judge_sequence(uint64_t seed, const kernel *k, const shape *given, char *what,
                                 size_t size) {
    shape s = given ? *given : draw_shape(seed, k->mistake);
    fb_scripted_options options;
    fb_scripted *sequence = NULL;
    fb_candidate *candidate = NULL;
    fb_report *report = NULL;
    fb_verify_options judging;
    fb_scripted_options_init(&options);
    options.num_heads = s.heads, options.num_kv_heads = s.kv_heads, options.head_dim = s.dim;
    options.block_size = s.block, options.context_length = s.context;
    options.tau = s.block / 2; /* of 4 steps, the second and the fourth reuse */
    options.steps = 4, options.seed = seed;
    options.dtype = k->inputs;
    fb_verify_options_init(&judging);
    ok(fb_scripted_create(&options, &sequence));
    ok(fb_candidate_create(&candidate));
    play(sequence, k, &s, candidate);
    if (k->arithmetic == FB_ARITHMETIC_FP8)
        fb_candidate_set_arithmetic(candidate, k->arithmetic);
    judging.candidate = candidate;
    ok(fb_scripted_judge(sequence, &judging, &report));
    snprintf(what, size, "sequence, %zu/%zu heads of %zu, block %zu, context %zu", s.heads,
             s.kv_heads, s.dim, s.block, s.context);
    fb_candidate_close(candidate);
    fb_scripted_destroy(sequence);
    return report;
}

/* --- one attention ---------------------------------------------------------------------------- */

typedef enum inputs {
    NORMAL,
    LARGE_SCORES,
    HUGE_SCORES,
    SINK,          /* one key takes most of the weight */
    LARGE_CHANNEL, /* of the values, 100 times the others */
    MEAN_VALUES,   /* values have a common mean */
    MEAN_KEYS,
    MASK,
    FEW_KEYS,
    EQUAL_KEYS, /* all weights are nearly the same */
    NUM_INPUTS
} inputs;

static const char *const input_names[] = {"normal",        "scores x 6", "scores x 40", "sink",
                                          "channel x 100", "values + 4", "keys + 1",    "mask",
                                          "few keys",      "equal keys"};

static float normal(uint64_t seed, uint32_t tensor, uint32_t index) {
    double u = fb_random_uniform(seed, index, tensor, 1, 0);
    double v = fb_random_uniform(seed, index, tensor, 2, 0);
    return (float)(sqrt(-2.0 * log(1.0 - u)) * cos(6.283185307179586 * v));
}

static float *draw_tensor(uint64_t seed, uint32_t tensor, size_t count) {
    float *values = take(count, sizeof *values);
    for (size_t i = 0; i < count; i++)
        values[i] = normal(seed, tensor, (uint32_t)i);
    return values;
}

static void make_hard(uint64_t seed, inputs kind, const fb_attention_problem *p, float *q, float *k,
                      float *v) {
    size_t kv = p->batch * p->keys * p->kv_heads * p->head_dim;
    size_t channel = choice(seed, 37, p->head_dim);
    for (size_t i = 0; i < fb_attention_problem_values(p); i++)
        q[i] *= kind == LARGE_SCORES ? 6.0f : kind == HUGE_SCORES ? 40.0f : 1.0f;
    for (size_t i = 0; i < kv; i++) {
        size_t token = i / (p->kv_heads * p->head_dim) % p->keys;
        if (kind == SINK && token == 0)
            k[i] = q[i % fb_attention_problem_values(p)] * 2.0f;
        k[i] = kind == MEAN_KEYS ? k[i] + 1.0f : kind == EQUAL_KEYS ? k[i] * 0.01f : k[i];
        if (kind == LARGE_CHANNEL && i % p->head_dim == channel)
            v[i] *= 100.0f;
        v[i] += kind == MEAN_VALUES ? 4.0f : 0.0f;
    }
}

/* Values in the inputs' type. */
static void *narrowed(fb_dtype dtype, const float *values, size_t count) {
    void *stored = take(count, sizeof(float));
    ok(fb_from_f32(dtype, values, stored, count));
    return stored;
}

static void *rounded_to(fb_dtype dtype, float *values, size_t count) {
    void *stored = narrowed(dtype, values, count);
    ok(fb_to_f32(dtype, stored, values, count));
    return stored;
}

/* One attention, and the kernel's results as they are stored. */
typedef struct attention {
    inputs kind;
    fb_attention_problem p;
    fb_dtype given; /* what the inputs are stored in */
    float *q, *k, *v, *out, *lse;
    void *q_given, *k_given, *v_given, *out_stored, *lse_stored;
    size_t *lengths; /* of the batch' entries, or NULL */
} attention;

static inputs kind_of(uint64_t seed) {
    return (inputs)choice(seed, 30, NUM_INPUTS);
}

/* How many keys the entries of a batch see. */
typedef enum seen { WHOLE, LENGTHS, SHORT } seen;

/* In every second draw (in each one with SHORT) the entries have keys of their own: some have
 * none, or a few. */
static size_t *draw_lengths(uint64_t seed, seen which, const fb_attention_problem *p) {
    bool own = which == SHORT || (which == LENGTHS && choice(seed, 40, 2));
    size_t *lengths = own ? take(p->batch, sizeof *lengths) : NULL;
    for (size_t b = 0; b < p->batch && lengths; b++) {
        bool first = which == SHORT && b == 0;
        size_t few =
            (first || choice(seed, 41 + 2 * (uint32_t)b, 4) == 0) && p->keys > 4 ? 4 : p->keys;
        lengths[b] = choice(seed, 42 + 2 * (uint32_t)b, few + 1);
    }
    return lengths;
}

static attention draw_attention(uint64_t seed, const kernel *k, inputs kind, seen which) {
    static const size_t dims[] = {16, 32, 64, 80, 128};
    attention a = {.kind = kind};
    a.p = (fb_attention_problem){.batch = 1 + choice(seed, 31, 2),
                                 .queries = 1 + choice(seed, 32, 40),
                                 .kv_heads = 1 + choice(seed, 33, 3),
                                 .head_dim = dims[choice(seed, 34, 5)],
                                 .keys = kind == FEW_KEYS
                                             ? 1 + choice(seed, 35, 8)
                                             : 20 + choice(seed, 35, which == SHORT ? 100 : 500),
                                 .lse_by_token = true};
    fb_attention_problem *p = &a.p;
    p->heads = p->kv_heads * (1 + choice(seed, 36, 4));
    p->scale = 1.0 / sqrt((double)p->head_dim);
    if (kind == MASK)
        p->mask = (fb_mask){.kind = FB_MASK_BLOCK_CAUSAL, .block_size = 1 + choice(seed, 38, 8)};
    p->key_lengths = a.lengths = draw_lengths(seed, which, p);
    size_t values = fb_attention_problem_values(p), rows = fb_attention_problem_rows(p);
    size_t kv = p->batch * p->keys * p->kv_heads * p->head_dim;
    p->q = a.q = draw_tensor(seed, 1, values);
    p->k = a.k = draw_tensor(seed, 2, kv);
    p->v = a.v = draw_tensor(seed, 3, kv);
    a.out = take(values, sizeof *a.out);
    a.lse = take(rows, sizeof *a.lse);
    make_hard(seed, kind, p, a.q, a.k, a.v);
    /* a kernel may also be given float32, and round by itself */
    a.given = choice(seed, 39, 4) == 0 ? FB_F32 : k->inputs;
    a.q_given = rounded_to(a.given, a.q, values);
    a.k_given = rounded_to(a.given, a.k, kv);
    a.v_given = rounded_to(a.given, a.v, kv);
    ok(fb_honest_attend(p, &k->how, NULL, a.out, a.lse));
    a.out_stored = narrowed(k->stored, a.out, values);
    a.lse_stored = narrowed(k->lse_stored, a.lse, rows);
    return a;
}

static void release_attention(attention *a) {
    void *all[] = {a->q,       a->k,       a->v,          a->out,        a->lse,    a->q_given,
                   a->k_given, a->v_given, a->out_stored, a->lse_stored, a->lengths};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

static fb_report *judge_attention(uint64_t seed, const kernel *k, seen which, char *what,
                                  size_t size) {
    attention a = draw_attention(seed, k, kind_of(seed), which);
    const fb_attention_problem *p = &a.p;
    fb_attention_check check;
    fb_report *report = NULL;
    fb_attention_check_init(&check);
    check.batch = p->batch, check.num_queries = p->queries, check.num_keys = p->keys;
    check.num_heads = p->heads, check.num_kv_heads = p->kv_heads, check.head_dim = p->head_dim;
    check.mask = p->mask, check.key_lengths = p->key_lengths, check.lse_by_token = true;
    check.q = (fb_check_tensor){.data = a.q_given, .dtype = a.given};
    check.k = (fb_check_tensor){.data = a.k_given, .dtype = a.given};
    check.v = (fb_check_tensor){.data = a.v_given, .dtype = a.given};
    check.out = (fb_check_tensor){.data = a.out_stored, .dtype = k->stored};
    check.lse = (fb_check_tensor){.data = a.lse_stored, .dtype = k->lse_stored};
    if (k->arithmetic == FB_ARITHMETIC_FP8 || (k->inputs != FB_F32 && k->stored == FB_F32))
        check.arithmetic = k->arithmetic;
    ok(fb_check_attention(&check, &report));
    int used = snprintf(what, size, "%s%s, batch %zu, %zu queries, %zu keys", input_names[a.kind],
                        a.lengths ? " with key lengths" : "", p->batch, p->queries, p->keys);
    for (size_t b = 0; b < p->batch && a.lengths; b++)
        used += snprintf(what + used, size - (size_t)used, "%s%zu", b ? " and " : " of which ",
                         a.lengths[b]);
    snprintf(what + used, size - (size_t)used, ", %zu/%zu heads of %zu, given %s", p->heads,
             p->kv_heads, p->head_dim, fb_dtype_name(a.given));
    release_attention(&a);
    return report;
}

/* --- errors over sigma ------------------------------------------------------------------------ */

/* Sums of (error / sigma)^2. */
typedef struct sums {
    double squares, count;
} sums;

static void add(sums *to, double ratio) {
    to->squares += ratio * ratio;
    to->count++;
}

static double rms(const sums *of) {
    return of->count > 0.0 ? sqrt(of->squares / of->count) : 0.0;
}

/* Of all draws of one kind: outputs, LSEs. `head` and `channel`: of the worst of all draws, with
 * at least 100 elements, or 30 LSEs. */
typedef struct ratios {
    sums all[2];
    double head[2], channel;
} ratios;

/* The reading of this kernel: the judge has to find it, here it is known. */
static const fb_reading *reading_of(const kernel *k) {
    size_t count = 0;
    const fb_reading *readings = fb_arithmetic_readings(k->arithmetic, &count);
    const fb_reading *read = &k->how.read;
    for (size_t i = 0; i < count; i++)
        if (readings[i].q == read->q && readings[i].kv == read->kv &&
            readings[i].scaled == read->scaled && readings[i].base2 == read->base2)
            return &readings[i];
    return &readings[0];
}

static void measure_groups(const fb_trial *trial, size_t tensor, ratios *to) {
    const fb_trial_tensor *t = &trial->tensors[tensor];
    sums *heads = take(trial->heads, sizeof *heads), *channels = take(trial->dim, sizeof *channels);
    size_t width = t->lse ? 1 : trial->dim;
    for (size_t at = 0; at < t->count; at++) {
        double ratio = t->error[at] / t->sigma[at];
        if (!t->usable[at])
            continue;
        add(&to->all[t->lse], ratio);
        add(&heads[at / width % trial->heads], ratio);
        add(&channels[at % width], ratio);
    }
    for (size_t i = 0; i < trial->heads; i++)
        if (heads[i].count >= (t->lse ? 30.0 : 100.0))
            to->head[t->lse] = fmax(to->head[t->lse], rms(&heads[i]));
    for (size_t i = 0; i < trial->dim && !t->lse; i++)
        if (channels[i].count >= 100.0)
            to->channel = fmax(to->channel, rms(&channels[i]));
    free(heads);
    free(channels);
}

static void measure_draw(uint64_t seed, fb_arithmetic arithmetic, inputs kind, ratios *to) {
    const kernel k = draw_kernel(seed, arithmetic, HONEST);
    attention a = draw_attention(seed, &k, kind, WHOLE);
    const size_t sizes[] = {a.p.batch, a.p.queries, a.p.heads, a.p.head_dim};
    fb_candidate *candidate = NULL;
    fb_trial *trial = NULL;
    ok(fb_candidate_create(&candidate));
    ok(fb_candidate_add(candidate, "out", k.stored, 4, sizes, a.out_stored));
    ok(fb_candidate_add(candidate, "lse", k.lse_stored, 3, sizes, a.lse_stored));
    ok(fb_trial_of_attention(&a.p, "out", "lse", candidate, &trial));
    trial->eager = k.how.eager;
    ok(fb_trial_prepare(trial, arithmetic, reading_of(&k)));
    for (size_t i = 0; i < trial->num_tensors; i++)
        measure_groups(trial, i, to);
    fb_trial_free(trial);
    fb_candidate_close(candidate);
    release_attention(&a);
}

/* How large errors are, in units of what the judge expects, by arithmetic and inputs. */
static void measure_sigma(uint64_t seed, size_t draws, fb_arithmetic arithmetic) {
    printf("%-6s %-14s %6s %8s %8s %8s %8s\n", "", "inputs", "out", "head", "channel", "LSE",
           "head");
    for (size_t kind = 0; kind < NUM_INPUTS; kind++) {
        ratios r = {0};
        for (size_t i = 0; i < draws; i++)
            measure_draw(seed + i, arithmetic, (inputs)kind, &r);
        printf("%-6s %-14s %6.2f %8.2f %8.2f %8.2f %8.2f\n", fb_arithmetic_name(arithmetic),
               input_names[kind], rms(&r.all[0]), r.head[0], r.channel, rms(&r.all[1]), r.head[1]);
        fflush(stdout);
    }
}

/* --- rates ------------------------------------------------------------------------------------ */

static const char *const products[] = {"f32", "unit", "unit x3"};
static const char *const roundings[] = {"", ", bf16", ", f16", ", tf32", ", tf32 cut", ", fp8"};

static void say(uint64_t seed, const kernel *k, const char *what, const char *verdict) {
    const fb_honest *h = &k->how;
    printf("  seed %llu, %s, %s: %s; %s of %zu%s%s, tile %zu, splits %zu%s%s%s%s%s%s, exp %+.1f "
           "+- %.1f, stored %s: %s\n",
           (unsigned long long)seed, fb_arithmetic_name(k->arithmetic), mistakes[k->mistake].name,
           what, products[h->product], h->lanes, roundings[h->weights], h->cut ? ", cut" : "",
           h->tile, h->splits, h->sum_rounded ? ", rounded sum" : "", h->exp2 ? ", exp2" : "",
           h->fused ? ", fused" : "", h->eager ? ", eager" : "",
           h->read.scaled ? ", scaled queries" : "", h->reciprocal ? ", reciprocal" : "",
           h->exp_bias, h->exp_spread, fb_dtype_name(k->stored), verdict);
}

/* A line of the table. */
typedef struct rates {
    uint64_t seed;
    fb_arithmetic arithmetic;
    planted mistake;
    bool say, list, small;
    seen keys; /* SHORT: of single attentions only */
    unsigned char *verdicts;
} rates;

/* The verdict on one drawn kernel. Returns 0: passed, 1: failed, 2: failed and named right. */
static int judge(const rates *r, uint64_t seed) {
    planted mistake = r->mistake;
    kernel k = draw_kernel(seed, r->arithmetic, mistake);
    const shape small = draw_small_shape(seed, mistake);
    char what[200];
    bool single = mistake == HONEST && (r->keys == SHORT || choice(seed, 20, 3) == 0);
    fb_report *report = single
                            ? judge_attention(seed, &k, r->keys, what, sizeof what)
                            : judge_sequence(seed, &k, r->small ? &small : NULL, what, sizeof what);
    int verdict = fb_report_outcome(report) == FB_PASSED                     ? 0
                  : strstr(fb_report_reason(report), mistakes[mistake].word) ? 2
                                                                             : 1;
    if (r->say && verdict != (mistake == HONEST ? 0 : 2))
        say(seed, &k, what, fb_report_reason(report));
    if (r->list)
        printf("draw\t%llu\t%s\t%s\t%s\t%s\n", (unsigned long long)seed,
               fb_arithmetic_name(k.arithmetic), mistakes[mistake].name, what,
               fb_report_reason(report));
    fb_report_destroy(report);
    return verdict;
}

static void judge_draws(void *context, size_t first, size_t end, size_t worker) {
    const rates *r = context;
    (void)worker;
    for (size_t i = first; i < end; i++)
        r->verdicts[i] = (unsigned char)judge(r, r->seed + i);
}

/* A line of the table. Returns how many failed. */
static size_t judge_all(rates r, size_t draws) {
    size_t failed = 0, named = 0;
    r.verdicts = take(draws, 1);
    fb_parallel_for(draws, 1, (size_t)fb_num_threads(), judge_draws, &r);
    for (size_t i = 0; i < draws; i++) {
        failed += r.verdicts[i] > 0;
        named += r.verdicts[i] == 2;
    }
    free(r.verdicts);
    printf("%-28s %-6s %8zu %8zu", mistakes[r.mistake].name, fb_arithmetic_name(r.arithmetic),
           draws, failed);
    if (r.mistake != HONEST)
        printf(" %8zu", named);
    printf("\n");
    fflush(stdout);
    return failed;
}

static const fb_arithmetic arithmetics[] = {FB_ARITHMETIC_F32,  FB_ARITHMETIC_TF32X3,
                                            FB_ARITHMETIC_TF32, FB_ARITHMETIC_F16,
                                            FB_ARITHMETIC_BF16, FB_ARITHMETIC_FP8};
enum { NUM_ARITHMETICS = sizeof arithmetics / sizeof arithmetics[0] };

/* Whether such a mistake is seen in every draw. One of 1e-5 is less than what tf32 cuts off, and
 * than the row sums of rounded weights. */
static bool has_to_be_seen(const rates *r) {
    bool small = r->mistake == SCALE_OFF || r->mistake == LSE_OFF;
    return !small || r->arithmetic == FB_ARITHMETIC_F32 || r->arithmetic == FB_ARITHMETIC_TF32X3;
}

/* Mistakes far below the noise of an output, by bf16 kernels that sum whole weights. Returns how
 * many are not named right. */
static size_t judge_small(uint64_t seed) {
    static const struct {
        planted mistake;
        shape shape;
    } small[] = {
        {LAST_KEY_DROPPED, {8, 2, 128, 4, 16384}},
        {STALE_ROW, {32, 8, 128, 4, 512}},
        {LSE_OFF, {8, 2, 128, 4, 4096}},
        {SCALE_OFF, {8, 2, 128, 4, 4096}},
    };
    size_t wrong = 0;
    for (size_t i = 0; i < sizeof small / sizeof small[0]; i++) {
        kernel k = draw_kernel(seed, FB_ARITHMETIC_BF16, small[i].mistake);
        k.how.eager = k.how.sum_rounded = false;
        k.stored = FB_BF16;
        char what[200];
        fb_report *report = judge_sequence(seed, &k, &small[i].shape, what, sizeof what);
        const char *reason = fb_report_reason(report);
        printf("bf16, seed %llu, %s, %s: %s\n", (unsigned long long)seed,
               mistakes[small[i].mistake].name, what, reason);
        wrong += fb_report_outcome(report) != FB_FAILED ||
                 !strstr(reason, mistakes[small[i].mistake].word);
        fb_report_destroy(report);
    }
    return wrong;
}

/* Honest draws that the oracle has called wrong. Returns how many it calls wrong now. */
static size_t judge_old_alarms(rates r) {
    static const struct {
        uint64_t seed;
        fb_arithmetic arithmetic;
        seen keys;
    } old[] = {
        {70100032, FB_ARITHMETIC_TF32, LENGTHS}, /* rows of 1 key show tf32, rows of 52 do not */
        {70500040, FB_ARITHMETIC_TF32, LENGTHS}, /* the same */
        {70600071, FB_ARITHMETIC_BF16, LENGTHS}, /* stored scores: another reading */
        {91000028, FB_ARITHMETIC_BF16, SHORT},   /* stored scores: a mistake in 4 rows of 240 */
        {91000187, FB_ARITHMETIC_BF16, SHORT},   /* a stored score is the LSE of one key */
        {91000187, FB_ARITHMETIC_F16, SHORT},    /* the same */
        {91000067, FB_ARITHMETIC_FP8, SHORT},    /* row sums: one key loses nothing */
        {41300035, FB_ARITHMETIC_TF32, LENGTHS}, /* one key: in tf32 as if rounded to f16 */
        {42200040, FB_ARITHMETIC_BF16, LENGTHS}, /* scaled queries: another scale */
        {40400016, FB_ARITHMETIC_FP8, LENGTHS},  /* the same outputs in all rows, rounded alike */
        {40900007, FB_ARITHMETIC_BF16, LENGTHS}, /* stored scores: every LSE times 1.0001 */
        {5305, FB_ARITHMETIC_F32, WHOLE},        /* exp(0) */
        {5032, FB_ARITHMETIC_BF16, WHOLE},       /* exp of stored scores */
        {5055, FB_ARITHMETIC_FP8, WHOLE},        /* row sums of weights that are all the same */
        {5318, FB_ARITHMETIC_FP8, WHOLE},        /* the same */
        {20146, FB_ARITHMETIC_TF32, WHOLE},      /* values that are cut to tf32, equal weights */
        {20779, FB_ARITHMETIC_TF32, WHOLE},      /* the same */
        {21512, FB_ARITHMETIC_TF32, WHOLE},      /* the same */
        {1600013, FB_ARITHMETIC_BF16, WHOLE},    /* stored scores, a scale of 1.02 */
        {2200050, FB_ARITHMETIC_BF16, WHOLE},    /* the same */
        {21100011, FB_ARITHMETIC_TF32X3, WHOLE}, /* one key: half of all outputs are exact */
        {2100002, FB_ARITHMETIC_F16, WHOLE},     /* an LSE stored in f16, the same in all rows */
        {2100002, FB_ARITHMETIC_BF16, WHOLE},    /* in bf16 */
    };
    size_t failed = 0;
    for (size_t i = 0; i < sizeof old / sizeof old[0]; i++) {
        r.seed = old[i].seed;
        r.keys = old[i].keys;
        r.arithmetic = old[i].arithmetic;
        failed += judge_all(r, 1);
    }
    return failed;
}

static bool has_word(int argc, char **argv, const char *word) {
    for (int i = 3; i < argc; i++)
        if (strcmp(argv[i], word) == 0)
            return true;
    return false;
}

/* The arithmetic that is asked for; auto: all. */
static fb_arithmetic asked_for(int argc, char **argv) {
    fb_arithmetic arithmetic;
    for (int i = 3; i < argc; i++)
        if (fb_arithmetic_parse(argv[i], &arithmetic) == FB_OK)
            return arithmetic;
    return FB_ARITHMETIC_AUTO;
}

int main(int argc, char **argv) {
    size_t draws = argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 20, alarms = 0, honest = 0;
    size_t missed = 0;
    bool brief = argc > 1 && strcmp(argv[1], "short") == 0,
         only_honest = has_word(argc, argv, "honest"), small = has_word(argc, argv, "sensitivity");
    bool only_mistakes = has_word(argc, argv, "mistakes");
    size_t each = brief ? 1 : draws < 8 ? draws : 8;
    fb_arithmetic only = asked_for(argc, argv);
    rates r = {.seed = argc > 2 && !brief ? strtoull(argv[2], NULL, 10) : 1,
               .say = has_word(argc, argv, "say"),
               .list = has_word(argc, argv, "list"),
               .keys = has_word(argc, argv, "whole") ? WHOLE
                       : has_word(argc, argv, "few") ? SHORT
                                                     : LENGTHS,
               .small = brief};
    for (size_t a = 0; a < NUM_ARITHMETICS && has_word(argc, argv, "sigma"); a++)
        if (only == FB_ARITHMETIC_AUTO || only == arithmetics[a])
            measure_sigma(r.seed, draws, arithmetics[a]);
    if (has_word(argc, argv, "sigma"))
        return 0;
    printf("%-28s %-6s %8s %8s %8s\n", "kernel", "", "draws", "failed", "named");
    if (brief)
        alarms = judge_old_alarms(r);
    for (size_t a = 0; a < NUM_ARITHMETICS && !brief && !only_mistakes && !small; a++) {
        r.arithmetic = arithmetics[a];
        if (only != FB_ARITHMETIC_AUTO && only != r.arithmetic)
            continue;
        alarms += judge_all(r, draws);
        honest += draws;
    }
    for (size_t m = LAST_KEY_DROPPED; m < NUM_PLANTED && !only_honest && !small; m++)
        for (size_t a = 0; a < NUM_ARITHMETICS - 1; a++) {
            r.arithmetic = arithmetics[a];
            r.mistake = (planted)m;
            if (only != FB_ARITHMETIC_AUTO && only != r.arithmetic)
                continue;
            size_t failed = judge_all(r, each);
            missed += has_to_be_seen(&r) ? each - failed : 0;
        }
    if (!only_honest && !only_mistakes)
        missed += judge_small(r.seed);
    printf("false alarms: %zu of %zu honest draws; %zu mistakes missed\n", alarms, honest, missed);
    return brief ? alarms + missed > 0 : alarms * 1000 > honest || missed > 0;
}

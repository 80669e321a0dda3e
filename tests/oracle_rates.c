/* How often the oracle is wrong: emulated kernels, honest ones and ones with a planted mistake, are
 * judged over seeds, shapes and arithmetics. docs/results/oracle.md has the table that it prints.
 *
 *     oracle_rates DRAWS [SEED [say | honest]]
 *
 * DRAWS honest kernels of each arithmetic; of each mistake a tenth as many, at least 10. `say`
 * shows every verdict that is not right; `honest` leaves the mistakes out. The exit status is 1 if
 * more than 1 in 1,000 honest kernels fail. */
#include "base/half.h"
#include "base/rng.h"
#include "oracle/arithmetic.h"

#include <flashblock/experimental/oracle.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- kernels ---------------------------------------------------------------------------------- */

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

/* An emulated kernel. */
typedef struct kernel {
    fb_arithmetic arithmetic;
    fb_dtype stored;
    fb_rounding inputs, weights;
    bool scaled, sum_rounded, base2;
    size_t tile, splits;
    planted mistake;
} kernel;

typedef struct shape {
    size_t heads, kv_heads, dim, block, context;
} shape;

/* One part: out [block, heads, dim], lse [block, heads]. */
typedef struct part {
    float *out, *lse;
} part;

static float fp8(float value) {
    int exponent = 0;
    frexpf(value, &exponent);
    float spacing = ldexpf(1.0f, (exponent - 1 < -6 ? -6 : exponent - 1) - 3);
    return nearbyintf(value / spacing) * spacing;
}

static float weight_as(const kernel *k, float p) {
    return k->arithmetic == FB_ARITHMETIC_FP8 ? fp8(p) : fb_rounded(k->weights, p);
}

static float read_as(const kernel *k, const float *base, size_t at) {
    return base ? fb_rounded(k->inputs, base[at]) : 0.0f;
}

/* Keys first .. end - 1; keys from `real` on are zeros. */
typedef struct keys {
    const float *k, *v;
    size_t first, end, real;
    bool external;
} keys;

static float score(const kernel *how, const shape *s, const float *q, const keys *in, size_t key,
                   size_t kv_head, float scale) {
    float sum = 0.0f;
    const float *k = key < in->real ? in->k + (key * s->kv_heads + kv_head) * s->dim : NULL;
    for (size_t d = 0; d < s->dim; d++)
        sum += q[d] * read_as(how, k, d);
    return sum * scale;
}

/* One row over keys first .. end - 1, tile by tile. *max, *sum and acc are not normalised. */
static void row_part(const kernel *how, const shape *s, const float *q, const keys *in,
                     size_t first, size_t end, size_t kv_head, float scale, float *max, float *sum,
                     float *acc) {
    *max = -INFINITY;
    *sum = 0.0f;
    memset(acc, 0, s->dim * sizeof *acc);
    for (size_t tile = first; tile < end; tile += how->tile) {
        size_t stop = end < tile + how->tile ? end : tile + how->tile;
        float p[256], largest = *max;
        for (size_t j = tile; j < stop; j++) {
            p[j - tile] = score(how, s, q, in, j, kv_head, scale);
            largest = fmaxf(largest, p[j - tile]);
        }
        float again = how->base2 ? exp2f(*max - largest) : expf(*max - largest);
        *sum *= again;
        for (size_t d = 0; d < s->dim; d++)
            acc[d] *= again;
        for (size_t j = tile; j < stop; j++) {
            float x = p[j - tile] - largest, w = how->base2 ? exp2f(x) : expf(x);
            float r = weight_as(how, w);
            *sum += how->sum_rounded ? r : w;
            const float *v = j < in->real ? in->v + (j * s->kv_heads + kv_head) * s->dim : NULL;
            for (size_t d = 0; d < s->dim; d++)
                acc[d] += r * read_as(how, v, d);
        }
        *max = largest;
    }
}

static void attend_row(const kernel *how, const shape *s, const float *q_in, const keys *in,
                       size_t kv_head, float *out, float *lse) {
    const float log2_of_e = 1.44269504f;
    float scale = (float)(1.0 / sqrt((double)s->dim)), q[256], total = 0.0f, best = -INFINITY;
    float maxima[8], sums[8], accs[8][256];
    if (how->mistake == SCALE_OFF)
        scale = (float)((1.0 + 1e-5) / sqrt((double)s->dim));
    if (how->base2)
        scale *= log2_of_e;
    for (size_t d = 0; d < s->dim; d++) {
        q[d] = fb_rounded(how->inputs, q_in[d]);
        if (how->scaled)
            q[d] = fb_rounded(how->inputs, q[d] * scale);
    }
    size_t count = in->end - in->first, splits = count >= 64 ? how->splits : 1;
    for (size_t i = 0; i < splits; i++) {
        row_part(how, s, q, in, in->first + count * i / splits,
                 in->first + count * (i + 1) / splits, kv_head, how->scaled ? 1.0f : scale,
                 &maxima[i], &sums[i], accs[i]);
        best = fmaxf(best, maxima[i]);
    }
    memset(out, 0, s->dim * sizeof *out);
    for (size_t i = 0; i < splits; i++) {
        float again = how->base2 ? exp2f(maxima[i] - best) : expf(maxima[i] - best);
        total += sums[i] * again;
        for (size_t d = 0; d < s->dim; d++)
            out[d] += accs[i][d] * again;
    }
    for (size_t d = 0; d < s->dim; d++)
        out[d] /= total;
    *lse = how->base2 ? (best + log2f(total)) / log2_of_e : best + logf(total);
}

static void attend(const kernel *how, const shape *s, const float *q, keys in, const part *to) {
    size_t group = s->heads / s->kv_heads;
    if (in.external && how->mistake == LAST_KEY_DROPPED)
        in.end -= 1;
    if (in.external && how->mistake == LAST_4_DROPPED)
        in.end -= 4;
    if (in.external && how->mistake == FIRST_KEY_DROPPED)
        in.first += 1;
    if (in.external && how->mistake == ZERO_KEYS)
        in.end += 16;
    for (size_t row = 0; row < s->block * s->heads; row++) {
        size_t head = row % s->heads;
        keys own = in;
        if (!in.external && how->mistake == CAUSAL_BLOCK)
            own.end = row / s->heads + 1;
        size_t kv_head = how->mistake == WRONG_KV_HEAD ? head % s->kv_heads : head / group;
        attend_row(how, s, q + row * s->dim, &own, kv_head, to->out + row * s->dim, to->lse + row);
    }
}

static void merge(const kernel *how, const shape *s, const part *a, const part *b, bool reused,
                  const part *to) {
    for (size_t row = 0; row < s->block * s->heads; row++) {
        float la = a->lse[row], lb = b->lse[row];
        if (how->mistake == CACHED_LSE_BF16 && reused)
            la = fb_rounded(FB_ROUND_BF16, la);
        float max = fmaxf(la, lb), wa = expf(la - max), wb = expf(lb - max), sum = wa + wb;
        to->lse[row] = max + logf(sum);
        if (how->mistake == WEIGHTS_SWAPPED) {
            float w = wa;
            wa = wb;
            wb = w;
        }
        for (size_t d = row * s->dim; d < (row + 1) * s->dim; d++)
            to->out[d] = (wa * a->out[d] + wb * b->out[d]) / sum;
    }
}

/* --- one sequence ----------------------------------------------------------------------------- */

static float *widened(fb_dtype dtype, const void *stored, size_t count) {
    float *values = malloc((count + 1) * sizeof *values);
    if (!values || fb_to_f32(dtype, stored, values, count) != FB_OK)
        abort();
    return values;
}

static part part_of(const shape *s) {
    part p = {calloc(s->block * s->heads * s->dim, sizeof(float)),
              calloc(s->block * s->heads, sizeof(float))};
    return p;
}

static void release(part *p) {
    free(p->out);
    free(p->lse);
}

/* Rounds a part's output to the type it is stored in, and gives it to the candidate. */
static void give(fb_candidate *candidate, const kernel *k, const shape *s, size_t pass,
                 const char *prefix, part *p) {
    size_t count = s->block * s->heads * s->dim, shape3[3] = {s->block, s->heads, s->dim};
    void *stored = malloc(count * sizeof(float));
    float *lse = malloc(s->block * s->heads * sizeof *lse);
    char name[40];
    for (size_t i = 0; i < s->block * s->heads; i++) {
        lse[i] = p->lse[i];
        if (k->mistake == LSE_OFF)
            lse[i] += 1e-5f;
        if (k->mistake == LSE_BASE_2)
            lse[i] *= 1.44269504f;
    }
    if (fb_from_f32(k->stored, p->out, stored, count) != FB_OK ||
        fb_to_f32(k->stored, stored, p->out, count) != FB_OK)
        abort();
    snprintf(name, sizeof name, "step%02zu.%sout", pass, prefix);
    if (fb_candidate_add(candidate, name, k->stored, 3, shape3, stored) != FB_OK)
        abort();
    snprintf(name, sizeof name, "step%02zu.%slse", pass, prefix);
    if (fb_candidate_add(candidate, name, FB_F32, 2, shape3, lse) != FB_OK)
        abort();
    free(stored);
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
            attend(k, s, q, (keys){ck, cv, 0, s->context, s->context, true}, &external);
            if (k->mistake == STALE_ROW && pass > 0)
                copy_row(s, &external, &before, 1);
        }
        if (action == FB_REFRESH_AND_STORE)
            give(candidate, k, s, pass, "external_", &external);
        attend(k, s, q, (keys){bk, bv, 0, s->block, s->block, false}, &internal);
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

static uint32_t draw(uint64_t *state, uint32_t below) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % below;
}

static kernel draw_kernel(uint64_t *state, fb_arithmetic arithmetic, planted mistake) {
    static const size_t tiles[] = {16, 32, 64, 128};
    kernel k = {.arithmetic = arithmetic, .mistake = mistake, .stored = FB_F32};
    k.tile = tiles[draw(state, 4)];
    k.splits = 1 + draw(state, 4);
    k.base2 = draw(state, 2);
    k.sum_rounded = draw(state, 4) == 0;
    if (arithmetic == FB_ARITHMETIC_BF16 || arithmetic == FB_ARITHMETIC_FP8) {
        k.inputs = k.weights = FB_ROUND_BF16;
        k.stored = FB_BF16;
    }
    if (arithmetic == FB_ARITHMETIC_F16) {
        k.inputs = k.weights = FB_ROUND_F16;
        k.stored = FB_F16;
    }
    if (arithmetic == FB_ARITHMETIC_TF32)
        k.inputs = k.weights = draw(state, 2) ? FB_ROUND_TF32 : FB_ROUND_TF32_CUT;
    if (k.weights == FB_ROUND_TF32_CUT) /* by the matrix unit: the row sum has whole weights */
        k.sum_rounded = false;
    k.scaled = k.stored != FB_F32 && draw(state, 4) == 0;
    if (k.stored != FB_F32 && draw(state, 5) == 0)
        k.stored = FB_F32; /* keeps all results in float32 */
    return k;
}

static shape draw_shape(uint64_t *state) {
    static const size_t dims[] = {16, 32, 64, 80, 128}, groups[] = {1, 2, 3, 4};
    shape s = {.kv_heads = 2 + draw(state, 3), .dim = dims[draw(state, 5)]};
    s.heads = s.kv_heads * groups[draw(state, 4)];
    s.block = 4 + 2 * draw(state, 3);
    s.context = 40 + draw(state, 600);
    return s;
}

/* The verdict on one drawn kernel. Returns 0: passed, 1: failed, 2: failed and named right. */
static int judge(uint64_t seed, fb_arithmetic arithmetic, planted mistake, bool say) {
    uint64_t state = seed * 2862933555777941757u + 3037000493u;
    for (int i = 0; i < 8; i++)
        draw(&state, 2);
    fb_scripted_options options;
    fb_scripted *sequence = NULL;
    fb_candidate *candidate = NULL;
    fb_report *report = NULL;
    fb_verify_options judging;
    shape s = draw_shape(&state);
    kernel k = draw_kernel(&state, arithmetic, mistake);
    if (mistake == WRONG_KV_HEAD && s.heads == s.kv_heads)
        s.heads *= 2;
    fb_scripted_options_init(&options);
    options.num_heads = s.heads, options.num_kv_heads = s.kv_heads, options.head_dim = s.dim;
    options.block_size = s.block, options.context_length = s.context;
    options.tau = 2, options.steps = 4, options.seed = seed;
    options.dtype = k.inputs == FB_ROUND_BF16  ? FB_BF16
                    : k.inputs == FB_ROUND_F16 ? FB_F16
                                               : FB_F32;
    fb_verify_options_init(&judging);
    if (fb_scripted_create(&options, &sequence) != FB_OK ||
        fb_candidate_create(&candidate) != FB_OK)
        abort();
    play(sequence, &k, &s, candidate);
    if (arithmetic == FB_ARITHMETIC_FP8 || (k.stored == FB_F32 && k.inputs != FB_ROUND_NONE))
        fb_candidate_set_arithmetic(candidate, arithmetic);
    judging.candidate = candidate;
    if (fb_scripted_judge(sequence, &judging, &report) != FB_OK)
        abort();
    int verdict = fb_report_outcome(report) == FB_PASSED                     ? 0
                  : strstr(fb_report_reason(report), mistakes[mistake].word) ? 2
                                                                             : 1;
    if (say)
        printf(
            "  seed %llu, %s, %s: %zu/%zu heads of %zu, block %zu, context %zu, tile %zu, splits "
            "%zu%s%s%s: %s\n",
            (unsigned long long)seed, fb_arithmetic_name(arithmetic), mistakes[mistake].name,
            s.heads, s.kv_heads, s.dim, s.block, s.context, k.tile, k.splits,
            k.base2 ? ", exp2" : "", k.sum_rounded ? ", rounded sum" : "",
            k.scaled ? ", scaled queries" : "", fb_report_reason(report));
    fb_report_destroy(report);
    fb_candidate_close(candidate);
    fb_scripted_destroy(sequence);
    return verdict;
}

static const fb_arithmetic arithmetics[] = {FB_ARITHMETIC_F32, FB_ARITHMETIC_TF32,
                                            FB_ARITHMETIC_F16, FB_ARITHMETIC_BF16,
                                            FB_ARITHMETIC_FP8};
enum { NUM_ARITHMETICS = sizeof arithmetics / sizeof arithmetics[0] };

int main(int argc, char **argv) {
    size_t draws = argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 20, alarms = 0, honest = 0;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    bool say = argc > 3 && strcmp(argv[3], "say") == 0;
    bool honest_only = argc > 3 && strcmp(argv[3], "honest") == 0;
    printf("%-28s %-6s %8s %8s %8s\n", "kernel", "", "draws", "failed", "named");
    for (size_t a = 0; a < NUM_ARITHMETICS; a++) {
        size_t failed = 0;
        for (size_t i = 0; i < draws; i++) {
            bool fails = judge(seed + i, arithmetics[a], HONEST, false) != 0;
            if (fails && argc > 3)
                judge(seed + i, arithmetics[a], HONEST, true);
            failed += fails;
        }
        printf("%-28s %-6s %8zu %8zu\n", "honest", fb_arithmetic_name(arithmetics[a]), draws,
               failed);
        fflush(stdout);
        alarms += failed;
        honest += draws;
    }
    size_t each = draws < 10 ? draws : draws / 10 < 10 ? 10 : draws / 10;
    for (planted m = LAST_KEY_DROPPED; m < NUM_PLANTED && !honest_only; m++)
        for (size_t a = 0; a < NUM_ARITHMETICS - 1; a++) {
            size_t failed = 0, named = 0;
            for (size_t i = 0; i < each; i++) {
                int verdict = judge(seed + i, arithmetics[a], m, false);
                if (say && verdict != 2)
                    judge(seed + i, arithmetics[a], m, true);
                failed += verdict > 0;
                named += verdict == 2;
            }
            printf("%-28s %-6s %8zu %8zu %8zu\n", mistakes[m].name,
                   fb_arithmetic_name(arithmetics[a]), each, failed, named);
            fflush(stdout);
        }
    printf("false alarms: %zu of %zu honest draws\n", alarms, honest);
    return alarms * 1000 > honest;
}

#include "oracle/emulate.h"

#include "base/error.h"
#include "base/half.h"
#include "base/memory.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

static const float log2_of_e = 1.44269504f, ln_2 = 0.693147182f;

/* --- draws ------------------------------------------------------------------------------------ */

static size_t choice(uint64_t seed, uint32_t question, size_t answers) {
    return (size_t)(fb_random_uniform(seed, question, 0x686f6e65u, 0, 0) * (double)answers);
}

/* Once in `n`. */
static bool once_in(uint64_t seed, uint32_t question, size_t n) {
    return choice(seed, question, n) == 0;
}

static void draw_half(fb_honest *k, fb_rounding rounding) {
    k->product = FB_PRODUCT_UNIT;
    k->read.q = k->read.kv = k->weights = rounding;
    k->read.scaled = once_in(k->seed, 20, 4);
    k->read.base2 = k->read.scaled && k->exp2;
    k->sum_rounded = once_in(k->seed, 21, 4);
    k->eager = !k->read.scaled && once_in(k->seed, 22, 8);
}

fb_honest fb_honest_draw(fb_arithmetic arithmetic, uint64_t seed) {
    static const size_t tiles[] = {16, 32, 64, 128}, lanes[] = {4, 8, 16, 1};
    fb_honest k = {
        .lanes = lanes[choice(seed, 1, arithmetic == FB_ARITHMETIC_F32 ? 4 : 3)],
        .tile = tiles[choice(seed, 2, 4)],
        .splits = 1 + choice(seed, 3, 8) * choice(seed, 4, 2),
        .exp2 = once_in(seed, 5, 2),
        .fused = once_in(seed, 6, 2),
        .reciprocal = once_in(seed, 7, 2),
        .seed = seed,
    };
    if (once_in(seed, 8, 2)) { /* the device's fast exponential: two units in the last place */
        k.exp_spread = 2.0 * fb_random_uniform(seed, 9, 0, 0, 0);
        k.exp_bias = 2.0 * fb_random_uniform(seed, 10, 0, 0, 0) - 1.0;
    }
    switch (arithmetic) {
    case FB_ARITHMETIC_BF16:
    case FB_ARITHMETIC_FP8:
        draw_half(&k, FB_ROUND_BF16);
        break;
    case FB_ARITHMETIC_F16:
        draw_half(&k, FB_ROUND_F16);
        break;
    case FB_ARITHMETIC_TF32:
        k.product = FB_PRODUCT_UNIT;
        k.weights = once_in(seed, 11, 2) ? FB_ROUND_TF32 : FB_ROUND_TF32_CUT;
        k.read.q = k.read.kv = k.weights;
        k.sum_rounded = once_in(seed, 21, 2);
        break;
    case FB_ARITHMETIC_TF32X3:
        k.product = FB_PRODUCT_UNIT_X3;
        k.cut = once_in(seed, 11, 2);
        break;
    case FB_ARITHMETIC_AUTO:
    case FB_ARITHMETIC_F32:
        break;
    }
    if (arithmetic == FB_ARITHMETIC_FP8) {
        k.weights = FB_ROUND_FP8;
        k.weight_shift = once_in(seed, 12, 2) ? 8 : 0;
        k.eager = false;
    }
    return k;
}

/* --- sums ------------------------------------------------------------------------------------- */

enum { MAX_LANES = 16 };

/* start + sum of a[i] b[i], as a kernel with float32 arithmetic has it. */
static float sum_f32(size_t lanes, float start, const float *a, const float *b, size_t count) {
    float partial[MAX_LANES] = {0};
    if (lanes == 1) {
        for (size_t i = 0; i < count; i++)
            start += a[i] * b[i];
        return start;
    }
    size_t whole = count / lanes * lanes;
    for (size_t i = 0; i < whole; i += lanes)
        for (size_t lane = 0; lane < lanes; lane++)
            partial[lane] += a[i + lane] * b[i + lane];
    for (size_t i = whole; i < count; i++)
        partial[i - whole] += a[i] * b[i];
    for (size_t half = lanes / 2; half > 0; half /= 2)
        for (size_t lane = 0; lane < half; lane++)
            partial[lane] += partial[lane + half];
    return start + partial[0];
}

/* The same by a matrix unit. */
static float sum_unit(size_t lanes, float start, const float *a, const float *b, size_t count) {
    for (size_t i = 0; i < count; i += lanes) {
        size_t end = i + lanes < count ? i + lanes : count;
        double exact = (double)start;
        for (size_t j = i; j < end; j++)
            exact += (double)a[j] * (double)b[j];
        start = (float)exact;
    }
    return start;
}

/* a, b: the larger tf32 numbers; a_rest, b_rest: the smaller ones. */
static float sum_x3(size_t lanes, float start, const float *a, const float *a_rest, const float *b,
                    const float *b_rest, size_t count) {
    for (size_t i = 0; i < count; i += lanes) {
        size_t now = count - i < lanes ? count - i : lanes;
        start = sum_unit(lanes, start, a_rest + i, b + i, now);
        start = sum_unit(lanes, start, a + i, b_rest + i, now);
        start = sum_unit(lanes, start, a + i, b + i, now);
    }
    return start;
}

/* --- one KV head ------------------------------------------------------------------------------ */

/* The keys and values of one KV head as the kernel reads them. */
typedef struct head {
    float *k, *k_rest; /* [keys, dim] */
    float *v, *v_rest; /* [dim, keys] */
    float *q, *q_rest; /* [dim] */
    float *p, *p_rest; /* [tile] */
    float *acc, *sum;  /* [splits, dim], [splits] */
    float *max;        /* [splits] */
    float *memory;
} head;

static void divide(const fb_honest *h, float *value, float *rest) {
    if (h->product != FB_PRODUCT_UNIT_X3)
        return;
    fb_rounding rounding = h->cut ? FB_ROUND_TF32_CUT : FB_ROUND_TF32;
    float large = fb_rounded(rounding, *value);
    *rest = fb_rounded(rounding, *value - large);
    *value = large;
}

static void load_head(const fb_attention_problem *p, const fb_honest *h, size_t b, size_t kv_head,
                      const head *to) {
    for (size_t j = 0; j < p->keys; j++)
        for (size_t d = 0; d < p->head_dim; d++) {
            size_t from = ((b * p->keys + j) * p->kv_heads + kv_head) * p->head_dim + d;
            size_t k = j * p->head_dim + d, v = d * p->keys + j;
            to->k[k] = fb_rounded(h->read.kv, p->k[from]);
            to->v[v] = fb_rounded(h->read.kv, p->v[from]);
            divide(h, &to->k[k], &to->k_rest[k]);
            divide(h, &to->v[v], &to->v_rest[v]);
        }
}

static float product(const fb_honest *h, float start, const float *a, const float *a_rest,
                     const float *b, const float *b_rest, size_t count) {
    if (h->product == FB_PRODUCT_F32)
        return sum_f32(h->lanes, start, a, b, count);
    if (h->product == FB_PRODUCT_UNIT)
        return sum_unit(h->lanes, start, a, b, count);
    return sum_x3(h->lanes, start, a, a_rest, b, b_rest, count);
}

/* The query as it is read, and the factor that is left for the scores. */
static float load_query(const fb_attention_problem *p, const fb_honest *h, const float *q,
                        const head *to) {
    float scale = (float)(p->scale * (h->exp2 ? 0x1.71547652b82fep+0 : 1.0));
    for (size_t d = 0; d < p->head_dim; d++) {
        to->q[d] = fb_rounded(h->read.q, q[d]);
        if (h->read.scaled)
            to->q[d] = fb_rounded(h->read.q, to->q[d] * scale);
        divide(h, &to->q[d], &to->q_rest[d]);
    }
    return h->read.scaled ? 1.0f : scale;
}

/* exp as this kernel's device has it. */
static float power(const fb_honest *h, float x, uint32_t which) {
    float value = h->exp2 ? exp2f(x) : expf(x);
    if (h->exp_spread == 0.0 || x == 0.0f) /* exp(0) is 1 everywhere */
        return value;
    uint32_t mixed = (which + (uint32_t)h->seed) * 2654435761u;
    double uniform = (double)(mixed ^ mixed >> 15) * 0x1p-31 - 1.0;
    return (float)((double)value * (1.0 + 0x1p-24 * (h->exp_bias + h->exp_spread * uniform)));
}

static float weight_as(const fb_honest *h, float p) {
    if (h->weight_shift == 0)
        return fb_rounded(h->weights, p);
    return ldexpf(fb_rounded(h->weights, ldexpf(p, h->weight_shift)), -h->weight_shift);
}

/* Keys first .. end - 1 of one split. max is in the units of the scores times `scale`. */
static void run_tile(const fb_attention_problem *p, const fb_honest *h, const head *in, float scale,
                     size_t first, size_t end, size_t split, uint32_t row) {
    size_t dim = p->head_dim;
    float largest = in->max[split], *acc = in->acc + split * dim, sum = 0.0f;
    for (size_t j = first; j < end; j++) {
        float s = product(h, 0.0f, in->q, in->q_rest, in->k + j * dim, in->k_rest + j * dim, dim);
        if (h->eager)
            s = fb_rounded(h->read.q, s);
        in->p[j - first] = h->fused ? s : s * scale;
        if (h->eager)
            in->p[j - first] = fb_rounded(h->read.q, s * scale);
        largest = fmaxf(largest, h->eager || !h->fused ? in->p[j - first] : s * scale);
    }
    float again = in->max[split] == -INFINITY ? 0.0f : power(h, in->max[split] - largest, row);
    for (size_t j = first; j < end; j++) {
        float s = in->p[j - first];
        float x = h->fused && !h->eager ? (float)((double)s * (double)scale - (double)largest)
                                        : s - largest;
        float w = power(h, x, row * 2654435789u + (uint32_t)j), rounded = weight_as(h, w);
        in->p[j - first] = rounded;
        sum += h->sum_rounded ? rounded : w;
        divide(h, &in->p[j - first], &in->p_rest[j - first]);
    }
    in->sum[split] = in->sum[split] * again + sum;
    in->max[split] = largest;
    for (size_t d = 0; d < dim; d++)
        acc[d] = product(h, acc[d] * again, in->p, in->p_rest, in->v + d * p->keys + first,
                         in->v_rest + d * p->keys + first, end - first);
}

/* All splits together: out and lse of the row. */
static void finish_row(const fb_honest *h, const head *in, size_t splits, size_t dim, float *out,
                       float *lse) {
    float largest = -INFINITY, total = 0.0f;
    memset(out, 0, dim * sizeof *out);
    for (size_t i = 0; i < splits; i++)
        largest = fmaxf(largest, in->max[i]);
    if (largest == -INFINITY) {
        *lse = -INFINITY;
        return;
    }
    for (size_t i = 0; i < splits; i++) {
        float factor = h->exp2 ? exp2f(in->max[i] - largest) : expf(in->max[i] - largest);
        total += in->sum[i] * factor;
        for (size_t d = 0; d < dim; d++)
            out[d] += in->acc[i * dim + d] * factor;
    }
    float inverse = 1.0f / total;
    for (size_t d = 0; d < dim; d++)
        out[d] = h->reciprocal ? out[d] * inverse : out[d] / total;
    *lse = !h->exp2   ? largest + logf(total)
           : h->fused ? largest * ln_2 + logf(total)
                      : (largest + log2f(total)) * ln_2;
}

static void run_row(const fb_attention_problem *p, const fb_honest *h, const head *in, size_t row,
                    float *out, float *lse) {
    size_t dim = p->head_dim, query = row / p->heads;
    size_t keys = fb_attention_problem_seen(p, query / p->queries, query % p->queries);
    size_t splits = keys >= 64 ? h->splits : 1;
    float scale = load_query(p, h, p->q + row * dim, in);
    memset(in->acc, 0, splits * dim * sizeof *in->acc);
    for (size_t i = 0; i < splits; i++) {
        size_t end = keys * (i + 1) / splits;
        in->max[i] = -INFINITY;
        in->sum[i] = 0.0f;
        for (size_t first = keys * i / splits; first < end; first += h->tile)
            run_tile(p, h, in, scale, first, end < first + h->tile ? end : first + h->tile, i,
                     (uint32_t)row);
    }
    finish_row(h, in, splits, dim, out + row * dim, lse + row);
}

static fb_status make_head(const fb_attention_problem *p, const fb_honest *h, head *to) {
    size_t kv = p->keys * p->head_dim, dim = p->head_dim;
    size_t floats = 4 * kv + 2 * dim + 2 * h->tile + h->splits * (dim + 2);
    FB_TRY(fb_alloc_zeroed(floats, sizeof *to->memory, "emulated kernel", &to->memory));
    to->k = to->memory, to->k_rest = to->k + kv;
    to->v = to->k_rest + kv, to->v_rest = to->v + kv;
    to->q = to->v_rest + kv, to->q_rest = to->q + dim;
    to->p = to->q_rest + dim, to->p_rest = to->p + h->tile;
    to->acc = to->p_rest + h->tile, to->sum = to->acc + h->splits * dim;
    to->max = to->sum + h->splits;
    return FB_OK;
}

fb_status fb_honest_attend(const fb_attention_problem *p, const fb_honest *h,
                           const size_t *kv_heads, float *out, float *lse) {
    head in;
    FB_TRY(make_head(p, h, &in));
    size_t group = p->heads / p->kv_heads;
    for (size_t b = 0; b < p->batch; b++)
        for (size_t kv_head = 0; kv_head < p->kv_heads; kv_head++) {
            load_head(p, h, b, kv_head, &in);
            for (size_t row = b * p->queries * p->heads; row < (b + 1) * p->queries * p->heads;
                 row++) {
                size_t which = row % p->heads;
                if ((kv_heads ? kv_heads[which] : which / group) == kv_head)
                    run_row(p, h, &in, row, out, lse);
            }
        }
    fb_free(in.memory);
    return FB_OK;
}

void fb_honest_merge(const fb_honest *h, const float *out_a, const float *lse_a, const float *out_b,
                     const float *lse_b, size_t rows, size_t dim, float *out, float *lse) {
    for (size_t row = 0; row < rows; row++) {
        float a = lse_a[row], b = lse_b[row], max = fmaxf(a, b);
        bool empty = max == -INFINITY;
        float wa = empty ? 0.0f : expf(a - max), wb = empty ? 0.0f : expf(b - max), sum = wa + wb;
        if (!empty && h->exp2) { /* in base 2 */
            wa = exp2f((a - max) * log2_of_e), wb = exp2f((b - max) * log2_of_e);
            sum = wa + wb;
        }
        if (!empty && h->fused) /* weights first: one is a sigmoid */
            wa = 1.0f / (1.0f + expf(b - a)), wb = 1.0f - wa;
        float by = h->fused ? 1.0f : sum, inverse = 1.0f / by;
        for (size_t d = row * dim; d < (row + 1) * dim; d++) {
            float value = wa * out_a[d] + wb * out_b[d];
            out[d] = empty ? 0.0f : h->reciprocal ? value * inverse : value / by;
        }
        lse[row] = empty ? max : max + logf(sum);
    }
}

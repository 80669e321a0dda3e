#include "tests/planted_kernel.h"

#include "base/half.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *need(void *memory) {
    if (!memory)
        abort();
    return memory;
}

size_t rows_of(const scene *s) {
    return s->batch * s->tokens * s->heads;
}

part make_part(const scene *s) {
    part p = {need(calloc(rows_of(s) * s->dim, sizeof(float))),
              need(calloc(rows_of(s), sizeof(float)))};
    return p;
}

void release_part(part *p) {
    free(p->out);
    free(p->lse);
}

float *widened(fb_dtype dtype, const void *stored, size_t count) {
    float *values = need(malloc((count + 1) * sizeof *values));
    if (count && fb_to_f32(dtype, stored, values, count) != FB_OK)
        abort();
    return values;
}

void *store_planted(const scene *s, float *values, size_t count) {
    void *stored = need(malloc(count * sizeof(float)));
    if (fb_from_f32(s->stored_as, values, stored, count) != FB_OK ||
        fb_to_f32(s->stored_as, stored, values, count) != FB_OK)
        abort();
    return stored;
}

/* --- one row ---------------------------------------------------------------------------------- */

static bool makes(const scene *s, bool external, unsigned mistake) {
    unsigned inside = s->mistake->inside;
    return (inside & mistake) && !(inside & (external ? INTERNAL_ONLY : EXTERNAL_ONLY));
}

static float fp8(float value) {
    int exponent = 0;
    frexpf(value, &exponent);
    float spacing = ldexpf(1.0f, (exponent - 1 < -6 ? -6 : exponent - 1) - 3);
    return nearbyintf(value / spacing) * spacing;
}

/* What is left of a split when it is done. */
typedef struct split {
    float max, sum, acc[MAX_PLANTED_DIM];
} split;

static float dot(const scene *s, const float *q, const float *k) {
    float sum = 0.0f;
    for (size_t d = 0; k && d < s->dim; d++)
        sum += q[d] * k[d];
    return sum;
}

static const float *row_of(const row_plan *p, const float *base, ptrdiff_t token, size_t head) {
    if (token < 0)
        return NULL;
    return base + ((p->kv_batch * p->keys + (size_t)token) * p->s->kv_heads + head) * p->s->dim;
}

static void rescale(const scene *s, bool external, split *to, float again, bool forgotten) {
    if (!(forgotten && makes(s, external, RESCALE_OUT | RESCALE_BOTH)))
        for (size_t d = 0; d < s->dim; d++)
            to->acc[d] *= again;
    if (!(forgotten && makes(s, external, RESCALE_BOTH)))
        to->sum *= again;
}

static float power(const scene *s, float x) {
    return s->base2 ? exp2f(x) : expf(x);
}

static float soft_cap(const scene *s, float x) {
    float natural = s->base2 ? x * 0.693147181f : x, capped = 30.0f * tanhf(natural / 30.0f);
    return s->base2 ? capped * 1.442695041f : capped;
}

static void run_split(const row_plan *p, const float *q, const float *k, const float *v,
                      float scale, size_t first, size_t end, split *to) {
    const scene *s = p->s;
    *to = (split){.max = -INFINITY};
    for (size_t tile = first, n = 0; tile < end; tile += s->tile, n++) {
        size_t stop = end < tile + s->tile ? end : tile + s->tile;
        float x[256], largest = to->max;
        for (size_t j = tile; j < stop; j++) {
            x[j - tile] = dot(s, q, row_of(p, k, p->key[j], p->k_head)) * scale;
            if (makes(s, p->external, SCORES_BF16))
                x[j - tile] = fb_rounded(FB_ROUND_BF16, x[j - tile]);
            if (makes(s, p->external, SOFT_CAP))
                x[j - tile] = soft_cap(s, x[j - tile]);
            largest = fmaxf(largest, x[j - tile]);
        }
        rescale(s, p->external, to, power(s, to->max - largest), first == 0 && n == 1);
        for (size_t j = tile; j < stop; j++) {
            float w = power(s, x[j - tile] - largest), r = fb_rounded(s->rounding, w);
            const float *value = row_of(p, v, p->value[j], p->v_head);
            if (makes(s, p->external, P_FP8))
                r = fp8(w);
            if (!(makes(s, p->external, SUM_LACKS_TILE) && stop == p->count))
                to->sum += w;
            for (size_t d = 0; value && d < s->dim; d++)
                to->acc[d] += r * value[d];
        }
        if (makes(s, p->external, ONLY_SUM_ROUNDED))
            to->sum = fb_rounded(FB_ROUND_BF16, to->sum);
        for (size_t d = 0; makes(s, p->external, ACC_BF16 | ACC_F16) && d < s->dim; d++)
            to->acc[d] = fb_rounded(makes(s, p->external, ACC_F16) ? FB_ROUND_F16 : FB_ROUND_BF16,
                                    to->acc[d]);
        to->max = largest;
    }
}

static float log_of(const scene *s, float max, float sum) {
    return s->base2 ? (max + log2f(sum)) * 0.693147181f : max + logf(sum);
}

static void join_splits(const row_plan *p, const split *splits, size_t count, float *out,
                        float *lse) {
    const scene *s = p->s;
    float best = -INFINITY, total = 0.0f;
    for (size_t i = 0; i < count; i++)
        best = fmaxf(best, splits[i].max);
    memset(out, 0, s->dim * sizeof *out);
    for (size_t i = 0; i < count; i++) {
        float again = power(s, splits[i].max - best);
        if (i == 1 && makes(s, p->external, SPLIT_UNWEIGHED))
            again = 1.0f;
        if (i == 1 && makes(s, p->external, SPLIT_BASE_2)) {
            float l = log_of(s, splits[i].max, splits[i].sum);
            again *= expf(l * 1.442695041f - l);
        }
        if (makes(s, p->external, SPLITS_AVERAGED))
            again = splits[i].sum > 0.0f ? 1.0f / splits[i].sum : 0.0f;
        total += splits[i].sum * again;
        for (size_t d = 0; d < s->dim; d++)
            out[d] += splits[i].acc[d] * again;
    }
    if (makes(s, p->external, ONE_MORE))
        total += 1.0f;
    for (size_t d = 0; d < s->dim; d++)
        out[d] = total > 0.0f ? out[d] / total : 0.0f;
    float sum = 0.0f;
    for (size_t i = 0; i < count; i++)
        sum += splits[i].sum * power(s, splits[i].max - best);
    *lse = log_of(s, best, makes(s, p->external, SPLITS_AVERAGED) ? sum : total);
    if (makes(s, p->external, LSE_OF_LAST))
        *lse = log_of(s, splits[count - 1].max, splits[count - 1].sum);
    float max = s->base2 ? best * 0.693147181f : best;
    if (makes(s, p->external, LSE_MAX_BASE_2))
        *lse = max * 1.442695041f + logf(total);
    if (makes(s, p->external, LSE_SUM_BASE_2))
        *lse = max + log2f(total);
    if (makes(s, p->external, LSE_MAX_RAW))
        *lse = max / (float)p->scale + logf(total);
}

/* Softmax, plainly, of what is not quite attention. */
static void run_odd_row(const row_plan *p, const float *q, const float *k, const float *v,
                        float *out) {
    const scene *s = p->s;
    float *w = need(malloc(p->count * sizeof *w));
    memset(out, 0, s->dim * sizeof *out);
    for (size_t j = 0; j < p->count; j++)
        w[j] = dot(s, q, row_of(p, k, p->key[j], p->k_head)) * (float)p->scale;
    for (int again = makes(s, p->external, SOFTMAX_TWICE) ? 2 : 0; again > 0; again--) {
        float max = -INFINITY, sum = 0.0f;
        for (size_t j = 0; j < p->count; j++)
            max = fmaxf(max, w[j]);
        for (size_t j = 0; j < p->count; j++)
            sum += w[j] = expf(w[j] - max);
        for (size_t j = 0; j < p->count; j++)
            w[j] /= sum;
    }
    for (size_t j = 0; j < p->count; j++)
        for (size_t d = 0; d < s->dim; d++)
            out[d] += w[j] * row_of(p, v, p->value[j], p->v_head)[d];
    free(w);
}

/* The logarithm of the sum of exp of scores that are not scaled. */
static float raw_lse(const row_plan *p, const float *q, const float *k) {
    double max = -INFINITY, sum = 0.0;
    for (size_t j = 0; j < p->count; j++)
        max = fmax(max, (double)dot(p->s, q, row_of(p, k, p->key[j], p->k_head)));
    for (size_t j = 0; j < p->count; j++)
        sum += exp((double)dot(p->s, q, row_of(p, k, p->key[j], p->k_head)) - max);
    return (float)(max + log(sum));
}

static void run_row(const row_plan *p, const float *q_in, const float *k_in, const float *v,
                    float *out, float *lse) {
    const scene *s = p->s;
    const float *k = k_in;
    static _Thread_local split splits[MAX_PLANTED_SPLITS];
    float q[MAX_PLANTED_DIM], scale = (float)p->scale;
    size_t count = p->external && p->count >= 64 ? s->splits : 1;
    if (p->count == 0) {
        memset(out, 0, s->dim * sizeof *out);
        *lse = -INFINITY;
        return;
    }
    for (size_t d = 0; d < s->dim; d++)
        q[d] = fb_rounded(s->rounding, q_in[d]);
    if (s->base2 && !makes(s, p->external, NO_LOG2_E))
        scale *= 1.442695041f;
    if (makes(s, p->external, V_AS_K))
        k = v;
    if (makes(s, p->external, K_AS_V))
        v = k_in;
    for (size_t i = 0; i < count; i++)
        run_split(p, q, k, v, scale, p->count * i / count, p->count * (i + 1) / count, &splits[i]);
    join_splits(p, splits, count, out, lse);
    if (makes(s, p->external, SOFTMAX_TWICE | NO_SOFTMAX))
        run_odd_row(p, q, k, v, out);
    if (makes(s, p->external, LSE_RAW))
        *lse = raw_lse(p, q, k);
}

/* --- a part ----------------------------------------------------------------------------------- */

void remove_keys(row_plan *p, size_t first, size_t count) {
    for (size_t j = first; j + count < p->count; j++) {
        p->key[j] = p->key[j + count];
        p->value[j] = p->value[j + count];
    }
    p->count -= count;
}

void add_key(row_plan *p, ptrdiff_t token) {
    p->key[p->count] = token;
    p->value[p->count++] = token;
}

static void list_keys(row_plan *p) {
    const scene *s = p->s;
    size_t seen = p->keys;
    if (s->mask_block) {
        seen = ((s->mask_from + p->token) / s->mask_block + 1) * s->mask_block;
        seen = seen < p->keys ? seen : p->keys;
    }
    p->count = seen;
    for (size_t j = 0; j < seen; j++)
        p->key[j] = p->value[j] = (ptrdiff_t)j;
}

/* The inputs as a kernel with a mistake reads them; free. */
static float *read_input(const scene *s, unsigned which, const float *values, size_t count) {
    bool changes = (s->mistake->inputs & which) != 0;
    float *read = need(malloc((count + 1) * sizeof *read));
    fb_rounded_values(changes ? s->mistake->input_rounding : FB_ROUND_NONE, values, read, count);
    return read;
}

static void attend_rows(const scene *s, bool external, const float *q, const float *k,
                        const float *v, size_t keys, part *to) {
    size_t room = 2 * keys + 4096;
    ptrdiff_t *lists = need(malloc(2 * room * sizeof *lists));
    for (size_t row = 0; row < rows_of(s); row++) {
        row_plan p = {.s = s, .external = external, .key = lists, .value = lists + room};
        p.head = row % s->heads;
        p.token = row / s->heads % s->tokens;
        p.b = p.kv_batch = row / s->heads / s->tokens;
        p.keys = keys;
        p.k_head = p.v_head = p.head / (s->heads / s->kv_heads);
        p.scale = 1.0 / sqrt((double)s->dim);
        p.q_row = row;
        list_keys(&p);
        if (s->mistake->plan)
            s->mistake->plan(&p);
        run_row(&p, q + p.q_row * s->dim, k, v, to->out + row * s->dim, to->lse + row);
    }
    free(lists);
}

void attend_planted(const scene *s, bool external, const float *q, const float *k, const float *v,
                    size_t keys, part *to) {
    size_t kv = s->batch * keys * s->kv_heads * s->dim;
    float *rq = read_input(s, ROUND_Q, q, rows_of(s) * s->dim);
    float *rk = read_input(s, ROUND_K, k, kv), *rv = read_input(s, ROUND_V, v, kv);
    attend_rows(s, external, rq, rk, rv, keys, to);
    free(rq);
    free(rk);
    free(rv);
    if (makes(s, external, OUTPUT_BF16))
        for (size_t i = 0; i < rows_of(s) * s->dim; i++)
            to->out[i] = fb_rounded(FB_ROUND_BF16, to->out[i]);
    if (s->mistake->part)
        s->mistake->part(s, external, to);
}

/* --- a sequence ------------------------------------------------------------------------------- */

static void merge_parts(const scene *s, const part *a, const part *b, part *to) {
    for (size_t row = 0; row < rows_of(s); row++)
        for (size_t d = 0; d < s->dim; d++) {
            merging m = {.s = s, .row = row, .lane = d, .a = a->lse[row], .b = b->lse[row]};
            float max = fmaxf(m.a, m.b);
            m.weight_a = expf(m.a - max);
            m.weight_b = expf(m.b - max);
            m.sum = m.weight_a + m.weight_b;
            m.lse = max + logf(m.sum);
            if (s->mistake->merge)
                s->mistake->merge(&m);
            size_t at = row * s->dim + d;
            to->out[at] = (m.weight_a * a->out[at] + m.weight_b * b->out[at]) / m.sum;
            to->lse[row] = m.lse;
        }
}

static void copy_part(const scene *s, part *to, const part *from) {
    memcpy(to->out, from->out, rows_of(s) * s->dim * sizeof(float));
    memcpy(to->lse, from->lse, rows_of(s) * sizeof(float));
}

static void give(const scene *s, fb_candidate *candidate, bool external, const part *from) {
    size_t shape[3] = {s->tokens, s->heads, s->dim}, count = rows_of(s) * s->dim;
    part p = make_part(s);
    char name[40];
    copy_part(s, &p, from);
    if (s->mistake->give)
        s->mistake->give(s, external, &p);
    void *stored = store_planted(s, p.out, count);
    snprintf(name, sizeof name, "step%02zu.%sout", s->pass, external ? "external_" : "");
    if (fb_candidate_add(candidate, name, s->stored_as, 3, shape, stored) != FB_OK)
        abort();
    snprintf(name, sizeof name, "step%02zu.%slse", s->pass, external ? "external_" : "");
    if (fb_candidate_add(candidate, name, FB_F32, 2, shape, p.lse) != FB_OK)
        abort();
    free(stored);
    release_part(&p);
}

/* The parts that a pass may take as its external one. */
typedef struct externals {
    part kept, before, own, first, used;
    part result; /* of the pass before */
} externals;

static void pick_rows(const scene *s, externals *e) {
    copy_part(s, &e->used, &e->kept);
    for (size_t row = 0; s->mistake->pick && row < rows_of(s); row++) {
        const part *from[] = {&e->kept, &e->before, &e->own, &e->first};
        const part *chosen = from[s->mistake->pick(s, row)];
        if (s->mistake->pick_only != PICK_LSE)
            memcpy(e->used.out + row * s->dim, chosen->out + row * s->dim, s->dim * sizeof(float));
        if (s->mistake->pick_only != PICK_OUT)
            e->used.lse[row] = chosen->lse[row];
    }
}

static float *inputs_of(const scene *s, char which, size_t pass) {
    const void *stored = which == 'q'   ? fb_scripted_q(s->sequence, pass)
                         : which == 'k' ? fb_scripted_k(s->sequence, pass)
                                        : fb_scripted_v(s->sequence, pass);
    size_t heads = which == 'q' ? s->heads : s->kv_heads;
    return widened(s->dtype, stored, s->tokens * heads * s->dim);
}

static size_t lagged(const scene *s, size_t lag) {
    return s->pass > lag ? s->pass - lag : 0;
}

static void play_pass(scene *s, const float *ck, const float *cv, externals *e,
                      fb_candidate *candidate) {
    fb_reuse_action action = fb_scripted_action(s->sequence, s->pass);
    float *q = inputs_of(s, 'q', lagged(s, s->mistake->q_lag));
    float *k = inputs_of(s, 'k', lagged(s, s->mistake->kv_lag));
    float *v = inputs_of(s, 'v', lagged(s, s->mistake->kv_lag));
    part internal = make_part(s), result = make_part(s);
    if (action != FB_REUSE || s->mistake->pick) {
        attend_planted(s, true, q, ck, cv, s->keys, &e->own);
        free(store_planted(s, e->own.out, rows_of(s) * s->dim));
    }
    if (action != FB_REUSE) {
        if (s->pass == 0) {
            copy_part(s, &e->first, &e->own);
            copy_part(s, &e->kept, &e->own);
        }
        s->stored_before = s->stored;
        s->stored = s->pass;
        copy_part(s, &e->before, &e->kept);
        copy_part(s, &e->kept, &e->own);
    }
    pick_rows(s, e);
    if (action == FB_REFRESH_AND_STORE)
        give(s, candidate, true, &e->kept);
    attend_planted(s, false, q, k, v, s->tokens, &internal);
    free(store_planted(s, internal.out, rows_of(s) * s->dim));
    merge_parts(s, &e->used, &internal, &result);
    part given = make_part(s);
    copy_part(s, &given, s->mistake->results & RESULT_OF_BEFORE && s->pass ? &e->result : &result);
    for (size_t i = 0; s->mistake->results & RESULT_ADDED && i < rows_of(s) * s->dim; i++)
        given.out[i] += e->result.out[i];
    give(s, candidate, false, &given);
    copy_part(s, &e->result, s->mistake->results & RESULT_ADDED ? &given : &result);
    release_part(&given);
    if (s->mistake->results & RESULT_OVERWRITES_OUT)
        memcpy(e->kept.out, result.out, rows_of(s) * s->dim * sizeof(float));
    if (s->mistake->results & RESULT_OVERWRITES_LSE)
        memcpy(e->kept.lse, result.lse, rows_of(s) * sizeof(float));
    free(q);
    free(k);
    free(v);
    release_part(&internal);
    release_part(&result);
}

void play_planted(scene *s, fb_candidate *candidate) {
    size_t context = s->keys * s->kv_heads * s->dim;
    float *ck = widened(s->dtype, fb_scripted_context_k(s->sequence), context);
    float *cv = widened(s->dtype, fb_scripted_context_v(s->sequence), context);
    externals e = {make_part(s), make_part(s), make_part(s),
                   make_part(s), make_part(s), make_part(s)};
    for (s->pass = 0; s->pass < fb_scripted_num_passes(s->sequence); s->pass++)
        play_pass(s, ck, cv, &e, candidate);
    part *parts[] = {&e.kept, &e.before, &e.own, &e.first, &e.used, &e.result};
    for (size_t i = 0; i < 6; i++)
        release_part(parts[i]);
    free(ck);
    free(cv);
}

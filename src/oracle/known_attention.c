/* Attention of other inputs, or with something else in the place of the softmax. */
#include "base/error.h"
#include "base/memory.h"
#include "oracle/known.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const only[] = {"", " in the external part only",
                                   " in the block's own part only", ""};

/* Computes a part wrongly: out and lse are the right ones at first. */
typedef fb_status wrong_part(const fb_trial *trial, const fb_attention_problem *p, size_t n,
                             double *out, double *lse);

static bool is_explained(const fb_filter *f) {
    return f->best.share > 0.95;
}

/* Tries a mistake in all parts, and in one sort of them. */
static fb_status try_parts(fb_filter *f, fb_wrong *w, wrong_part *compute, size_t n,
                           const char *words) {
    static const unsigned sorts[] = {FB_ALL_PARTS, FB_EXTERNAL, FB_INTERNAL};
    const fb_trial *trial = w->trial;
    size_t count = !trial->script ? 1 : fb_trial_has_merges(trial) ? 3 : 2;
    for (size_t i = count == 2 ? 1 : 0; i < count; i++) {
        char text[380];
        fb_wrong_reset(w);
        for (size_t part = 0; part < trial->num_parts; part++) {
            double *out, *lse;
            if (!fb_trial_uses(trial, part, sorts[i]))
                continue;
            FB_TRY(fb_wrong_part(w, part, &out, &lse));
            fb_status status = compute(trial, &trial->parts[part].read, n, out, lse);
            if (status == FB_ERROR_UNSUPPORTED)
                return FB_OK;
            FB_TRY(status);
        }
        fb_wrong_finish(w);
        snprintf(text, sizeof text, "%.340s%s", words, trial->script ? only[sorts[i]] : "");
        fb_filter_try(f, w, text);
    }
    return FB_OK;
}

/* --- inputs ----------------------------------------------------------------------------------- */

enum { SCORES_OF_VALUES = 1, SUM_OF_KEYS = 2 };

static fb_status exchange_inputs(const fb_trial *trial, const fb_attention_problem *p, size_t n,
                                 double *out, double *lse) {
    fb_attention_problem other = *p;
    (void)trial;
    other.k = n & SCORES_OF_VALUES ? p->v : p->k;
    other.v = n & SUM_OF_KEYS ? p->k : p->v;
    return fb_variant_attend(&other, NULL, out, lse);
}

/* Where the queries of a row are read. */
typedef enum query_map {
    NEXT_HEAD,
    HEAD_BEFORE,
    FIRST_HEAD,
    HEADS_REVERSED,
    NEXT_TOKEN,
    TOKEN_BEFORE,
    FIRST_TOKEN,
    TOKENS_REVERSED,
    TRANSPOSED,
    FIRST_ENTRY,
    NUM_QUERY_MAPS
} query_map;

static const char *const query_words[] = {
    "the queries are those of other heads: head h has those of h + 1",
    "the queries are those of other heads: head h has those of h - 1",
    "the queries are those of other heads: all have those of head 0",
    "the queries are those of other heads: their order is reversed",
    "the queries are those of other tokens: token i has those of i + 1",
    "the queries are those of other tokens: token i has those of i - 1",
    "the queries are those of other tokens: all have those of token 0",
    "the queries are those of other tokens: their order is reversed",
    "the queries are read transposed: [heads, tokens] where [tokens, heads] is expected",
    "all sequences of the batch have the queries of batch entry 0",
};

static size_t query_row(const fb_attention_problem *p, size_t row, size_t map) {
    size_t heads = p->heads, tokens = p->queries, head = row % heads;
    size_t token = row / heads % tokens, b = row / heads / tokens, in = token * heads + head;
    switch ((query_map)map) {
    case NEXT_HEAD:
        head = (head + 1) % heads;
        break;
    case HEAD_BEFORE:
        head = (head + heads - 1) % heads;
        break;
    case FIRST_HEAD:
        head = 0;
        break;
    case HEADS_REVERSED:
        head = heads - 1 - head;
        break;
    case NEXT_TOKEN:
        token = (token + 1) % tokens;
        break;
    case TOKEN_BEFORE:
        token = (token + tokens - 1) % tokens;
        break;
    case FIRST_TOKEN:
        token = 0;
        break;
    case TOKENS_REVERSED:
        token = tokens - 1 - token;
        break;
    case TRANSPOSED:
        return b * tokens * heads + in % heads * tokens + in / heads;
    case FIRST_ENTRY:
        b = 0;
        break;
    case NUM_QUERY_MAPS:
        break;
    }
    return (b * tokens + token) * heads + head;
}

static fb_status move_queries(const fb_trial *trial, const fb_attention_problem *p, size_t map,
                              double *out, double *lse) {
    size_t dim = p->head_dim;
    float *q = NULL;
    bool changes = false;
    FB_TRY(fb_alloc(trial->rows, dim * sizeof *q, "queries", &q));
    for (size_t row = 0; row < trial->rows; row++) {
        size_t from = query_row(p, row, map);
        changes = changes || from != row;
        memcpy(q + row * dim, p->q + from * dim, dim * sizeof *q);
    }
    fb_attention_problem other = *p;
    other.q = q;
    fb_status status = changes ? fb_variant_attend(&other, NULL, out, lse) : FB_ERROR_UNSUPPORTED;
    fb_free(q);
    return status;
}

/* Inputs that are rounded to a lower type than they are given in. */
enum { ROUND_KEYS = 1, ROUND_VALUES = 2, ROUND_QUERIES = 4 };

static const struct {
    unsigned which;
    const char *words;
} rounded_inputs[] = {
    {ROUND_KEYS | ROUND_VALUES | ROUND_QUERIES, "the inputs are rounded to"},
    {ROUND_KEYS | ROUND_VALUES, "keys and values are rounded to"},
    {ROUND_KEYS | ROUND_QUERIES, "queries and keys are rounded to"},
    {ROUND_KEYS, "the keys are rounded to"},
    {ROUND_VALUES, "the values are rounded to"},
    {ROUND_QUERIES, "the queries are rounded to"},
};

static const struct {
    fb_rounding type;
    const char *name;
} lower_types[] = {{FB_ROUND_BF16, "bf16"}, {FB_ROUND_F16, "f16"}, {FB_ROUND_FP8, "fp8 (e4m3)"}};

static fb_status round_one(fb_rounding type, const float **values, size_t count, float **memory) {
    FB_TRY(fb_alloc(count, sizeof **memory, "rounded inputs", memory));
    fb_rounded_values(type, *values, *memory, count);
    *values = *memory;
    return FB_OK;
}

/* n: 8 times the number of the type, + which inputs */
static fb_status round_inputs(const fb_trial *trial, const fb_attention_problem *p, size_t n,
                              double *out, double *lse) {
    size_t kv = p->batch * p->keys * p->kv_heads * p->head_dim;
    size_t queries = fb_attention_problem_values(p);
    fb_rounding type = lower_types[n / 8].type;
    float *k = NULL, *v = NULL, *q = NULL;
    fb_attention_problem other = *p;
    fb_status status = FB_OK;
    (void)trial;
    if (n & ROUND_KEYS)
        status = round_one(type, &other.k, kv, &k);
    if (status == FB_OK && n & ROUND_VALUES)
        status = round_one(type, &other.v, kv, &v);
    if (status == FB_OK && n & ROUND_QUERIES)
        status = round_one(type, &other.q, queries, &q);
    if (status == FB_OK)
        status = fb_variant_attend(&other, NULL, out, lse);
    fb_free(k);
    fb_free(v);
    fb_free(q);
    return status;
}

/* Whether all inputs that would be rounded are changed: otherwise another name says the same. */
static bool inputs_change(const fb_trial *trial, fb_rounding type, unsigned which) {
    unsigned changed = 0;
    for (size_t i = 0; i < trial->num_parts; i++) {
        const fb_attention_problem *p = &trial->parts[i].read;
        size_t kv = p->batch * p->keys * p->kv_heads * p->head_dim;
        if (!fb_trial_uses(trial, i, FB_ALL_PARTS))
            continue;
        changed |= fb_rounding_changes(type, p->k, kv) ? ROUND_KEYS : 0;
        changed |= fb_rounding_changes(type, p->v, kv) ? ROUND_VALUES : 0;
        changed |=
            fb_rounding_changes(type, p->q, fb_attention_problem_values(p)) ? ROUND_QUERIES : 0;
    }
    return (changed & which) == which;
}

fb_status fb_try_inputs(fb_filter *f, fb_wrong *w) {
    static const char *const exchanged[] = {
        "", "the values are read as keys: scores are q v",
        "the keys are read as values: weights are those of q k, and the keys are added up",
        "keys and values are exchanged"};
    if (is_explained(f))
        return FB_OK;
    for (size_t n = 1; n < 4; n++)
        FB_TRY(try_parts(f, w, exchange_inputs, n, exchanged[n]));
    for (size_t map = 0; map < NUM_QUERY_MAPS && !is_explained(f); map++)
        FB_TRY(try_parts(f, w, move_queries, map, query_words[map]));
    size_t types = sizeof lower_types / sizeof lower_types[0];
    for (size_t type = 0; type < types && !is_explained(f); type++)
        for (size_t i = 0; i < sizeof rounded_inputs / sizeof rounded_inputs[0]; i++) {
            char words[120];
            if (!inputs_change(w->trial, lower_types[type].type, rounded_inputs[i].which))
                continue;
            snprintf(words, sizeof words, "%s %s", rounded_inputs[i].words, lower_types[type].name);
            FB_TRY(try_parts(f, w, round_inputs, 8 * type + rounded_inputs[i].which, words));
        }
    return FB_OK;
}

/* --- instead of the softmax ------------------------------------------------------------------- */

typedef enum odd { TWICE, TWICE_AND_ITS_LSE, NONE, ROWS_OF_QUERIES, CAPPED } odd;

static double dot(const float *a, const float *b, size_t dim) {
    double sums[8] = {0}, sum = 0.0;
    size_t d = 0;
    for (; d + 8 <= dim; d += 8)
        for (size_t i = 0; i < 8; i++)
            sums[i] += (double)a[d + i] * (double)b[d + i];
    for (; d < dim; d++)
        sum += (double)a[d] * (double)b[d];
    for (size_t i = 0; i < 8; i++)
        sum += sums[i];
    return sum;
}

/* Keys and values of a row. */
typedef struct row_of {
    const float *k, *v;
    size_t count, stride;
} row_of;

static row_of find_row(const fb_attention_problem *p, size_t row) {
    size_t head = row % p->heads / (p->heads / p->kv_heads), b = row / (p->heads * p->queries);
    size_t at = (b * p->keys * p->kv_heads + head) * p->head_dim;
    return (row_of){p->k + at, p->v + at,
                    fb_attention_problem_seen(p, b, row / p->heads % p->queries),
                    p->kv_heads * p->head_dim};
}

/* x becomes softmax(x); returns the logarithm of the sum. */
static double soften(double *x, size_t count) {
    double max = -(double)INFINITY, sum = 0.0;
    for (size_t j = 0; j < count; j++)
        max = fmax(max, x[j]);
    for (size_t j = 0; j < count; j++)
        sum += x[j] = exp(x[j] - max);
    for (size_t j = 0; j < count; j++)
        x[j] /= sum;
    return max + log(sum);
}

/* Weights in place of scores; lse changes with them. */
static void weigh(odd kind, double cap, double *x, size_t count, double *lse) {
    for (size_t j = 0; kind == CAPPED && j < count; j++)
        x[j] = cap * tanh(x[j] / cap);
    if (kind == NONE)
        return;
    double first = soften(x, count);
    *lse = kind == CAPPED ? first : *lse;
    if (kind == CAPPED)
        return;
    double second = soften(x, count);
    *lse = kind == TWICE_AND_ITS_LSE ? second : *lse;
}

/* n: the kind; of CAPPED, + the cap */
static fb_status odd_part(const fb_trial *trial, const fb_attention_problem *p, size_t n,
                          double *out, double *lse) {
    size_t dim = p->head_dim;
    odd kind = n < CAPPED ? (odd)n : CAPPED;
    double *x = NULL;
    if ((double)trial->rows * (double)p->keys * (double)dim > 3e8)
        return FB_ERROR_UNSUPPORTED;
    FB_TRY(fb_alloc(p->keys + 1, sizeof *x, "weights", &x));
    for (size_t row = 0; row < trial->rows; row++) {
        const row_of r = find_row(p, row);
        for (size_t j = 0; j < r.count; j++)
            x[j] = p->scale * dot(p->q + row * dim, r.k + j * r.stride, dim);
        if (r.count == 0)
            continue;
        weigh(kind, (double)(n - CAPPED), x, r.count, &lse[row]);
        memset(out + row * dim, 0, dim * sizeof *out);
        for (size_t j = 0; j < r.count; j++)
            for (size_t d = 0; d < dim; d++)
                out[row * dim + d] += x[j] * (double)r.v[j * r.stride + d];
    }
    fb_free(x);
    return FB_OK;
}

/* The softmax is taken over the queries of a head, for each key. The LSEs are right. */
static fb_status softmax_of_queries(const fb_trial *trial, const fb_attention_problem *p, size_t n,
                                    double *out, double *lse) {
    size_t dim = p->head_dim, heads = p->heads;
    double *sum = NULL;
    (void)n;
    (void)lse;
    if (!fb_attention_problem_whole(p) || p->queries < 2 ||
        (double)trial->rows * (double)p->keys * (double)dim > 3e8)
        return FB_ERROR_UNSUPPORTED;
    FB_TRY(fb_alloc_zeroed(p->batch * heads * p->keys, sizeof *sum, "weights", &sum));
    for (size_t turn = 0; turn < 2; turn++)
        for (size_t row = 0; row < trial->rows; row++) {
            const row_of r = find_row(p, row);
            double *sums = sum + (row / (heads * p->queries) * heads + row % heads) * p->keys;
            if (turn)
                memset(out + row * dim, 0, dim * sizeof *out);
            for (size_t j = 0; j < r.count; j++) {
                double e = exp(p->scale * dot(p->q + row * dim, r.k + j * r.stride, dim));
                if (!turn)
                    sums[j] += e;
                for (size_t d = 0; turn && d < dim; d++)
                    out[row * dim + d] += e / sums[j] * (double)r.v[j * r.stride + d];
            }
        }
    fb_free(sum);
    return FB_OK;
}

/* LSEs of scores that are not scaled. Outputs are right. */
static fb_status raw_lse(const fb_trial *trial, const fb_attention_problem *p, size_t n,
                         double *out, double *lse) {
    double *other = NULL;
    const fb_variant variant = {.scale_factor = 1.0 / p->scale};
    (void)n;
    (void)out;
    FB_TRY(fb_alloc(trial->rows, p->head_dim * sizeof *other, "outputs", &other));
    fb_status status = fb_variant_attend(p, &variant, other, lse);
    fb_free(other);
    return status;
}

fb_status fb_try_softmax(fb_filter *f, fb_wrong *w) {
    static const struct {
        wrong_part *compute;
        size_t n;
        const char *words;
    } list[] = {
        {raw_lse, 0, "the LSE is that of scores that are not scaled"},
        {odd_part, TWICE, "softmax is taken twice: of the weights once more"},
        {odd_part, TWICE_AND_ITS_LSE, "softmax is taken twice: of the weights once more"},
        {odd_part, NONE, "there is no softmax: the scores are the weights"},
        {softmax_of_queries, 0, "softmax is taken over the queries, not over the keys"},
        {odd_part, CAPPED + 20, "the scores are capped: 20 tanh(s / 20)"},
        {odd_part, CAPPED + 30, "the scores are capped: 30 tanh(s / 30)"},
        {odd_part, CAPPED + 50, "the scores are capped: 50 tanh(s / 50)"},
    };
    for (size_t i = 0; i < sizeof list / sizeof list[0] && !is_explained(f); i++)
        FB_TRY(try_parts(f, w, list[i].compute, list[i].n, list[i].words));
    return FB_OK;
}

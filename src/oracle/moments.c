#include "oracle/moments.h"

#include "base/error.h"
#include "base/exp.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "oracle/plain.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/* The inner loops for what the machine has, where the compiler can choose at run time. The results
 * need not be the same to the bit everywhere. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

/* Rows of one KV head share widened tiles. Lanes: what one loop keeps in registers. Keys lie STRIDE
 * apart: with a power of 2 they would share few lines of the cache. */
enum { ROWS = 16, TILE = 64, LANES = 32, STRIDE = TILE + 8 };

typedef struct call {
    const fb_attention_problem *p;
    const fb_variant *variant;
    fb_moments *m;
    bool moments; /* more than out and lse */
    fb_weight_format weights;
    size_t keys, width; /* width: head_dim rounded up to whole lanes */
    double scale;
} call;

/* Rows of a KV head of one batch entry. */
typedef struct task {
    size_t batch, kv_head, value_head, count;
    size_t rows[ROWS];    /* their indices */
    size_t visible[ROWS]; /* the keys that each sees: the first ones */
    size_t most;
} task;

typedef struct workspace {
    double *p;     /* [ROWS][keys] scores, then weights */
    float *ps;     /* [ROWS][keys] p s */
    double *tile;  /* [width][STRIDE] keys, or [TILE][width] values */
    float *narrow; /* [2][TILE][width] v, v^2 */
    double *sums;  /* [ROWS][width] */
    float *more;   /* [ROWS][3][width] */
    float *none;   /* [width] zeros */
} workspace;

static size_t kv_head_of(const call *c, size_t head) {
    if (c->variant && c->variant->kv_heads)
        return c->variant->kv_heads[head];
    return head / (c->p->heads / c->p->kv_heads);
}

/* What is read before the first token that a query does not see. */
static size_t read_before(const call *c, size_t seen) {
    size_t count = 0;
    while (count < c->keys && c->variant->key_index[count] < seen)
        count++;
    return count;
}

static size_t visible_keys(const call *c, size_t b, size_t query) {
    const fb_mask *mask = &c->p->mask;
    if (c->variant && c->variant->by_token)
        return read_before(c, fb_attention_problem_seen(c->p, b, query));
    bool chosen = c->variant && c->variant->key_count;
    size_t keys = chosen ? c->keys : fb_attention_problem_keys(c->p, b);
    if (mask->kind == FB_MASK_NONE)
        return keys;
    size_t block = (mask->first_query + query) / mask->block_size;
    size_t end = (c->variant && c->variant->strict ? block : block + 1) * mask->block_size;
    end = end > mask->first_key ? end - mask->first_key : 0;
    if (c->variant && c->variant->more < 0)
        end = end > (size_t)-c->variant->more ? end - (size_t)-c->variant->more : 0;
    else if (c->variant)
        end += (size_t)c->variant->more;
    return end < keys ? end : keys;
}

static const float *row_of(const call *c, const float *base, const size_t *index, const task *t,
                           size_t kv_head, size_t key) {
    const fb_attention_problem *p = c->p;
    size_t token = index ? index[key] : key;
    size_t batch = c->variant && c->variant->batches ? c->variant->batches[t->batch] : t->batch;
    if (token == SIZE_MAX)
        return NULL;
    if (c->variant && c->variant->by_token &&
        token >= fb_attention_problem_seen(p, batch, p->queries - 1))
        return NULL;
    return base + ((batch * p->keys + token) * p->kv_heads + kv_head) * p->head_dim;
}

/* Keys are turned in groups: each line of the tile is then written once. */
enum { GROUP = 8 };

CLONES static void turn_keys(const float *const *keys, size_t dim, double *tile) {
    for (size_t d = 0; d < dim; d++)
        for (size_t j = 0; j < GROUP; j++)
            tile[d * STRIDE + j] = (double)keys[j][d];
}

static void load_keys(const call *c, const task *t, const workspace *w, size_t first,
                      size_t count) {
    const size_t *index = c->variant ? c->variant->key_index : NULL;
    const float *keys[GROUP];
    for (size_t at = 0; at < TILE; at += GROUP) {
        for (size_t j = 0; j < GROUP; j++) {
            const float *k =
                at + j < count ? row_of(c, c->p->k, index, t, t->kv_head, first + at + j) : NULL;
            keys[j] = k ? k : w->none;
        }
        turn_keys(keys, c->p->head_dim, w->tile + at);
    }
}

CLONES static void tile_scores(const call *c, const float *q, const double *keys, double *scores) {
    for (size_t at = 0; at < TILE; at += LANES) {
        double sums[LANES] = {0};
        for (size_t d = 0; d < c->p->head_dim; d++) {
            double factor = (double)q[d];
            for (size_t j = 0; j < LANES; j++)
                sums[j] += factor * keys[d * STRIDE + at + j];
        }
        for (size_t j = 0; j < LANES; j++)
            scores[at + j] = c->scale * sums[j];
    }
}

static void all_scores(const call *c, const task *t, const workspace *w) {
    double scores[TILE];
    for (size_t first = 0; first < t->most; first += TILE) {
        size_t count = t->most - first < TILE ? t->most - first : TILE;
        load_keys(c, t, w, first, count);
        for (size_t r = 0; r < t->count; r++) {
            tile_scores(c, c->p->q + t->rows[r] * c->p->head_dim, w->tile, scores);
            memcpy(w->p + r * c->keys + first, scores, count * sizeof *scores);
        }
    }
}

/* exp of a difference that is at most 0; branchless, so that it can be done in parallel. */
static inline double small_exp(double x) {
    double shifted, clamped = x > -700.0 ? x : -700.0;
    double value = fb_exp_reduced(clamped, &shifted);
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return x > -700.0 ? value * fb_power_of_two(bits) : 0.0;
}

/* The sum of weights without that of the rounded ones, relative to `sum`. Weights are `factor`
 * times as large where the maximum so far is smaller, but never above 1: that of the largest key so
 * far is 1, and loses nothing. Adding and taking away a number that is so much larger rounds to
 * nearest. */
CLONES static double lost_at(fb_weight_format format, const double *weights, size_t count,
                             double factor) {
    double split = ldexp(1.0, 53 - format.bits) + 1.0, sum = 0.0;
    double large = 0x1.8p52 * format.spacing;
    for (size_t j = 0; j < count; j++) {
        double larger = weights[j] * factor, w = larger < 1.0 ? larger : 1.0;
        double scaled = w * split, normal = scaled - (scaled - w);
        double small = (w + large) - large;
        sum += w - (w < format.normal ? small : normal);
    }
    return sum / factor;
}

/* With few bits, weights that are nearly the same lose the more or less by where the maximum is. */
static double lost_by(fb_weight_format format, const double *weights, size_t count) {
    double most = lost_at(format, weights, count, 1.0);
    for (int i = 1; i < 4 && format.bits < 8; i++) {
        double lost = lost_at(format, weights, count, 1.0 + 0.01 * (double)i);
        most = fabs(lost) > fabs(most) ? lost : most;
    }
    return most;
}

/* Scores become weights. */
CLONES static void softmax(const call *c, const task *t, const workspace *w, size_t r) {
    double *p = w->p + r * c->keys, max = -(double)INFINITY, sum = 0.0;
    float *ps = w->ps + r * c->keys;
    double none = 0.0; /* NaN if a score is, or is +inf */
    size_t row = t->rows[r], seen = t->visible[r];
    for (size_t j = 0; j < seen; j++) {
        max = p[j] > max ? p[j] : max;
        none += p[j] < (double)INFINITY ? 0.0 : p[j] - p[j];
    }
    for (size_t j = 0; j < seen; j++) {
        double s = p[j];
        p[j] = small_exp(s - max) + none;
        ps[j] = (float)(p[j] * s);
        sum += p[j];
    }
    c->m->lse[row] = seen ? max + log(sum) : -(double)INFINITY;
    if (c->moments)
        c->m->lost[row] = seen && c->weights.bits ? lost_by(c->weights, p, seen) / sum : 0.0;
    double inverse = seen ? 1.0 / sum : 0.0, p2 = 0.0, p4 = 0.0, mean = 0.0;
    for (size_t j = 0; j < seen; j++) {
        p[j] *= inverse;
        ps[j] *= (float)inverse;
        double square = p[j] * p[j];
        p2 += square;
        p4 += square * square;
        mean += (double)ps[j];
    }
    for (size_t j = seen; j < t->most; j++) {
        p[j] = 0.0;
        ps[j] = 0.0f;
    }
    if (c->m->max)
        c->m->max[row] = max;
    if (c->moments) {
        c->m->p2[row] = p2;
        c->m->p4[row] = p4;
        c->m->ps[row] = mean;
    }
}

/* v as it is, and in the precision of the moments: v and v^2. */
CLONES static void widen_value(const float *v, size_t dim, double *wide, float *narrow,
                               float *square) {
    for (size_t d = 0; d < dim; d++)
        wide[d] = (double)v[d];
    for (size_t d = 0; narrow && d < dim; d++) {
        narrow[d] = v[d];
        square[d] = v[d] * v[d];
    }
}

static void load_values(const call *c, const task *t, const workspace *w, size_t first,
                        size_t count) {
    const size_t *index = c->variant ? c->variant->value_index : NULL;
    float *square = w->narrow + TILE * c->width;
    for (size_t j = 0; j < count; j++) {
        const float *v = row_of(c, c->p->v, index, t, t->value_head, first + j);
        widen_value(v ? v : w->none, c->p->head_dim, w->tile + j * c->width,
                    c->moments ? w->narrow + j * c->width : NULL, square + j * c->width);
    }
}

CLONES static void add_outputs(const call *c, const workspace *w, const double *p, size_t count,
                               double *sums) {
    for (size_t at = 0; at < c->width; at += LANES) {
        double sum[LANES];
        memcpy(sum, sums + at, sizeof sum);
        for (size_t j = 0; j < count; j++) {
            const double *v = w->tile + j * c->width + at;
            for (size_t d = 0; d < LANES; d++)
                sum[d] += p[j] * v[d];
        }
        memcpy(sums + at, sum, sizeof sum);
    }
}

/* sum[d] += weight[j] v[j][d] */
CLONES static void add_narrow(const call *c, const float *v, const float *weight, size_t count,
                              float *sums) {
    for (size_t at = 0; at < c->width; at += LANES) {
        float sum[LANES];
        memcpy(sum, sums + at, sizeof sum);
        for (size_t j = 0; j < count; j++)
            for (size_t d = 0; d < LANES; d++)
                sum[d] += weight[j] * v[j * c->width + at + d];
        memcpy(sums + at, sum, sizeof sum);
    }
}

static void add_values(const call *c, const task *t, const workspace *w) {
    memset(w->sums, 0, ROWS * c->width * sizeof *w->sums);
    memset(w->more, 0, ROWS * 3 * c->width * sizeof *w->more);
    for (size_t first = 0; first < t->most; first += TILE) {
        size_t count = t->most - first < TILE ? t->most - first : TILE;
        load_values(c, t, w, first, count);
        for (size_t r = 0; r < t->count; r++) {
            const double *p = w->p + r * c->keys + first;
            float p2[TILE], *more = w->more + r * 3 * c->width;
            if (t->visible[r] <= first)
                continue;
            /* values that the row does not see may be NaN */
            size_t seen = t->visible[r] - first < count ? t->visible[r] - first : count;
            add_outputs(c, w, p, seen, w->sums + r * c->width);
            if (!c->moments)
                continue;
            for (size_t j = 0; j < seen; j++)
                p2[j] = (float)(p[j] * p[j]);
            add_narrow(c, w->narrow, p2, seen, more);
            add_narrow(c, w->narrow + TILE * c->width, p2, seen, more + c->width);
            add_narrow(c, w->narrow, w->ps + r * c->keys + first, seen, more + 2 * c->width);
        }
    }
}

static void run_task(const call *c, const task *t, const workspace *w) {
    size_t dim = c->p->head_dim;
    all_scores(c, t, w);
    for (size_t r = 0; r < t->count; r++)
        softmax(c, t, w, r);
    add_values(c, t, w);
    for (size_t r = 0; r < t->count; r++) {
        memcpy(c->m->out + t->rows[r] * dim, w->sums + r * c->width, dim * sizeof(double));
        if (!c->moments)
            continue;
        float *more = w->more + r * 3 * c->width;
        memcpy(c->m->p2v + t->rows[r] * dim, more, dim * sizeof *more);
        memcpy(c->m->p2vv + t->rows[r] * dim, more + c->width, dim * sizeof *more);
        memcpy(c->m->psv + t->rows[r] * dim, more + 2 * c->width, dim * sizeof *more);
    }
}

/* --- tasks ------------------------------------------------------------------------------------ */

/* Adds a row to the last task, or to a new one. */
static void add_row(const call *c, task *tasks, size_t *count, size_t first, size_t b,
                    size_t kv_head, size_t query, size_t head) {
    size_t value_head =
        c->variant && c->variant->value_heads ? c->variant->value_heads[head] : kv_head;
    if (*count == first || tasks[*count - 1].count == ROWS ||
        tasks[*count - 1].value_head != value_head) {
        tasks[*count] = (task){.batch = b, .kv_head = kv_head, .value_head = value_head};
        (*count)++;
    }
    task *t = &tasks[*count - 1];
    t->rows[t->count] = (b * c->p->queries + query) * c->p->heads + head;
    t->visible[t->count] = visible_keys(c, b, query);
    t->most = t->visible[t->count] > t->most ? t->visible[t->count] : t->most;
    t->count++;
}

static size_t make_tasks(const call *c, task *tasks) {
    const fb_attention_problem *p = c->p;
    size_t count = 0;
    for (size_t b = 0; b < p->batch; b++)
        for (size_t kv_head = 0; kv_head < p->kv_heads; kv_head++) {
            size_t first = count;
            for (size_t query = 0; query < p->queries; query++)
                for (size_t head = 0; head < p->heads; head++)
                    if (kv_head_of(c, head) == kv_head)
                        add_row(c, tasks, &count, first, b, kv_head, query, head);
        }
    return count;
}

static workspace carve(const call *c, double *memory) {
    size_t narrow = 2 * TILE * c->width;
    workspace w = {.tile = memory};
    w.sums = w.tile + STRIDE * c->width;
    w.narrow = (float *)(w.sums + ROWS * c->width);
    w.more = w.narrow + narrow;
    w.none = w.more + ROWS * 3 * c->width;
    w.p = memory + c->width * (STRIDE + TILE + ROWS * 3);
    w.ps = (float *)(w.p + ROWS * c->keys);
    return w;
}

/* All tasks, and each worker's memory. */
typedef struct tasks_call {
    const call *c;
    const task *tasks;
    double *memory;
    size_t doubles;
} tasks_call;

static void run_tasks(void *context, size_t first, size_t end, size_t worker) {
    const tasks_call *t = context;
    workspace w = carve(t->c, t->memory + worker * t->doubles);
    memset(w.tile, 0, (size_t)(w.p - w.tile) * sizeof *w.tile); /* lanes beyond head_dim */
    for (size_t i = first; i < end; i++)
        run_task(t->c, &t->tasks[i], &w);
}

static fb_status run(const call *c) {
    const fb_attention_problem *p = c->p;
    size_t most = fb_attention_problem_rows(p) + 1;
    if (!c->variant || !c->variant->value_heads)
        most = p->batch * p->kv_heads + most / ROWS + 1;
    size_t tiles = c->width * (STRIDE + TILE + ROWS * 3);
    size_t doubles = tiles + ROWS * c->keys + ROWS / 2 * c->keys + TILE;
    double products = (double)c->keys * (double)fb_attention_problem_values(p);
    size_t threads = products < 4e6 ? 1 : fb_parallel_threads();
    task *tasks = NULL;
    double *memory = NULL;
    FB_TRY(fb_alloc(most, sizeof *tasks, "attention truth", &tasks));
    size_t count = make_tasks(c, tasks);
    fb_status status = fb_alloc(doubles, threads * sizeof *memory, "attention truth", &memory);
    if (status == FB_OK) {
        tasks_call all = {c, tasks, memory, doubles};
        fb_parallel_for(count, 1, threads, run_tasks, &all);
    }
    fb_free(memory);
    fb_free(tasks);
    return status;
}

static call begin(const fb_attention_problem *p, const fb_variant *variant, fb_moments *m) {
    call c = {.p = p, .variant = variant, .m = m, .keys = p->keys, .scale = p->scale};
    c.width = (p->head_dim + LANES - 1) / LANES * LANES;
    if (variant && variant->key_count)
        c.keys = variant->key_count;
    if (variant && variant->scale_factor != 0.0)
        c.scale *= variant->scale_factor;
    return c;
}

/* --- sizes of scores and values --------------------------------------------------------------- */

static double square_norm(const float *x, size_t dim) {
    double sum = 0.0;
    for (size_t d = 0; d < dim; d++)
        sum += (double)x[d] * (double)x[d];
    return sum;
}

/* Rows that do not see a key which is not finite have noise as others do. */
static double finite_or_0(double x) {
    return isfinite(x) ? x : 0.0;
}

static void sizes_of(const fb_attention_problem *p, size_t b, size_t kv_head, fb_moments *m) {
    size_t dim = p->head_dim, group = p->heads / p->kv_heads;
    size_t all = fb_attention_problem_keys(p, b), taken = 0;
    size_t step = all / 1024 + 1; /* of many keys, some are enough */
    double keys = 0.0, *square = m->mean_square + (b * p->kv_heads + kv_head) * dim;
    for (size_t j = 0; j < all; j += step, taken++) {
        size_t at = ((b * p->keys + j) * p->kv_heads + kv_head) * dim;
        keys += finite_or_0(square_norm(p->k + at, dim));
        for (size_t d = 0; d < dim; d++)
            square[d] += finite_or_0((double)p->v[at + d] * (double)p->v[at + d]);
    }
    double count = taken ? (double)taken : 1.0;
    for (size_t d = 0; d < dim; d++)
        square[d] /= count;
    for (size_t query = 0; query < p->queries; query++)
        for (size_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
            size_t row = (b * p->queries + query) * p->heads + head;
            m->score_size[row] =
                fabs(p->scale) * sqrt(square_norm(p->q + row * dim, dim) * keys / count);
        }
}

size_t fb_moments_count(const fb_attention_problem *p) {
    size_t rows = fb_attention_problem_rows(p), values = fb_attention_problem_values(p);
    return 3 * values + 7 * rows + p->batch * p->kv_heads * p->head_dim + 1;
}

fb_status fb_moments_create(const fb_attention_problem *p, fb_moments *m) {
    size_t rows = fb_attention_problem_rows(p), values = fb_attention_problem_values(p);
    size_t squares = p->batch * p->kv_heads * p->head_dim;
    FB_TRY(fb_alloc_zeroed(fb_moments_count(p), sizeof *m->memory, "attention truth", &m->memory));
    double *at = m->memory;
    m->out = at;
    m->lse = m->out + values;
    m->max = m->lse + rows;
    m->p2 = m->max + rows;
    m->p4 = m->p2 + rows;
    m->ps = m->p4 + rows;
    m->lost = m->ps + rows;
    m->score_size = m->lost + rows;
    m->mean_square = m->score_size + rows;
    m->p2v = (float *)(m->mean_square + squares);
    m->p2vv = m->p2v + values;
    m->psv = m->p2vv + values;
    return FB_OK;
}

void fb_moments_free(fb_moments *m) {
    fb_free(m->memory);
    *m = (fb_moments){0};
}

fb_status fb_moments_compute(const fb_attention_problem *p, fb_weight_format weights,
                             fb_moments *m) {
    call c = begin(p, NULL, m);
    c.moments = true;
    c.weights = weights;
    memset(m->mean_square, 0, p->batch * p->kv_heads * p->head_dim * sizeof *m->mean_square);
    FB_TRY(run(&c));
    for (size_t b = 0; b < p->batch; b++)
        for (size_t kv_head = 0; kv_head < p->kv_heads; kv_head++)
            sizes_of(p, b, kv_head, m);
    return FB_OK;
}

fb_status fb_variant_attend(const fb_attention_problem *p, const fb_variant *variant, double *out,
                            double *lse) {
    fb_moments results = {.out = out, .lse = lse, .max = variant ? variant->max : NULL};
    call c = begin(p, variant, &results);
    return run(&c);
}
